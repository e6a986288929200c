"""Paths and files: clear errors, atomic writes, hashes."""

import difflib
import hashlib
import os
import secrets
import shutil
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from matching.errors import InputError

PathLike = str | os.PathLike[str]

_READING_UMASK = threading.Lock()


def existing_folder(path: PathLike, what: str = "folder") -> Path:
    """The folder as a Path.

    Raises:
        InputError: There is no such folder; a similarly named one beside it is suggested.
    """
    folder = Path(path)
    if folder.is_dir():
        return folder
    if folder.exists():
        raise InputError(f"'{path}' is a file where the {what} is expected")
    raise InputError(f"no {what} '{path}'{_suggestion(folder)}")


def existing_file(path: PathLike, what: str = "file") -> Path:
    """The file as a Path.

    Raises:
        InputError: There is no such file; a similarly named one beside it is suggested.
    """
    file = Path(path)
    if file.is_file():
        return file
    if file.is_dir():
        raise InputError(f"'{path}' is a folder where the {what} is expected")
    if file.is_symlink():
        raise InputError(f"'{path}' is a link to '{file.readlink()}', which is not there")
    raise InputError(f"no {what} '{path}'{_suggestion(file)}")


def text_lines(path: Path) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 text with their numbers from 1, spaces at both ends stripped.

    Raises:
        InputError: The file is no UTF-8 text.
    """
    try:
        text = path.read_text(encoding="utf-8-sig")  # Windows editors put a mark before the text
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no UTF-8 text: {error}") from error
    for number, line in enumerate(text.split("\n"), 1):
        yield number, line.strip()


def _suggestion(path: Path) -> str:
    if not path.parent.is_dir():
        return ""
    close = difflib.get_close_matches(path.name, [p.name for p in path.parent.iterdir()], n=1)
    return f"; did you mean '{path.parent / close[0]}'?" if close else ""


@contextmanager
def atomic_file(path: PathLike) -> Iterator[Path]:
    """A temporary name beside ``path`` that is renamed to it when the block succeeds.

    A reader never sees a half-written file, and a failure leaves an old file untouched.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with _named_after(target, temporary):
        os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600))
        try:
            yield temporary
            sync_file(temporary)
            # private while it is written; a finished file follows the umask
            temporary.chmod(0o666 & ~_umask())
            temporary.replace(target)
        finally:
            temporary.unlink(missing_ok=True)


def sync_file(path: Path) -> None:
    """Wait until a file is on the disk; a full or broken one is often told only here."""
    with path.open("rb") as file:
        os.fsync(file.fileno())


def check_writable(path: PathLike) -> None:
    """Fail before the work, not after it, where a result cannot be written.

    Raises:
        InputError: The name is that of a folder, or its folder cannot be made or written.
    """
    if Path(path).is_dir():
        raise InputError(f"'{path}' is a folder: give the name of the file to write")
    folder = Path(path).parent
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        # the system's words where a file is in the way are "File exists"
        why = "it is a file" if folder.is_file() else error.strerror
        raise InputError(f"cannot write into '{folder}': {why}") from error


def _umask() -> int:
    """The umask of the process. Reading sets it, so that two threads at once would leave it 0."""
    with _READING_UMASK:
        umask = os.umask(0)
        os.umask(umask)
    return umask


@contextmanager
def _named_after(target: Path, temporary: Path) -> Iterator[None]:
    """Errors of the system name the target: the caller knows nothing of a temporary file."""
    try:
        yield
    except OSError as error:
        if error.filename is not None and Path(error.filename) == temporary:
            error.filename, error.filename2 = os.fspath(target), None
        raise


@contextmanager
def atomic_folder(path: PathLike) -> Iterator[Path]:
    """A temporary folder beside ``path`` that replaces it when the block succeeds."""
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
    temporary.chmod(0o777 & ~_umask())
    old = temporary.with_suffix(".old")
    try:
        yield temporary
        if target.exists():
            target.rename(old)
        temporary.rename(target)
    finally:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(temporary, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def write_text_atomic(path: PathLike, text: str) -> None:
    """Write UTF-8 text through a temporary name."""
    with atomic_file(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def reserve_space(file: Path, num_bytes: int) -> None:
    """Raise `OSError` now if the disk has no room for that much.

    When a disk is full, COLMAP ends the process or leaves half a file without a word.

    Args:
        file: A name on that disk which is free; nothing is left there.
        num_bytes: What will be written.
    """
    try:
        with file.open("wb") as opened:
            os.posix_fallocate(opened.fileno(), 0, num_bytes)
    finally:
        file.unlink(missing_ok=True)


def sha256_of_file(path: PathLike) -> str:
    """The SHA-256 of a file's bytes as 64 hexadecimal digits."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
