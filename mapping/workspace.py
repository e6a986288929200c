"""The folder of a map while something is written into it: lock, working area, publication.

All work happens in ``map/.build``. When everything is complete there, ``.build/map.json`` is
written last: from that moment the new map counts, and its files are moved into place one by one.
A process killed before that moment leaves an old map untouched; killed after it, the next one
finishes the moves. Encodings and matches in the working area are named by what they were made
from, so that a later run finds them again or never.
"""

import fcntl
import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matching.errors import InputError
from matching.files import PathLike, reserve_space, write_text_atomic

MAP_FILE = "map.json"
BUILD_FOLDER = ".build"
_LOCK_FILE = ".lock"
_STATE_FILE = "state.json"
_STAGES = "stages"  # results that depend on all photos and options together
_CACHES = ("views", "matches")  # results named by their own inputs


class Workspace:
    """The working area of one map; made by `locked_workspace` only."""

    def __init__(self, map_path: Path) -> None:
        self.map_path = map_path
        self.build = map_path / BUILD_FOLDER
        self.stages = self.build / _STAGES
        self.views, self.matches = (self.build / name for name in _CACHES)
        self.begun = False

    @property
    def has_map(self) -> bool:
        """Whether a finished map is in the folder."""
        return (self.map_path / MAP_FILE).exists()

    @property
    def has_results(self) -> bool:
        """Whether anything is in the working area that a later run could go on with."""
        folders = (self.stages, self.views, self.matches)
        return any(path.is_file() for folder in folders for path in folder.rglob("*"))

    @property
    def unfinished(self) -> dict[str, Any] | None:
        """The identity of an interrupted run that left something to go on with."""
        state = self.build / _STATE_FILE
        if not state.exists() or not self.has_results:
            return None
        identity: dict[str, Any] = json.loads(state.read_text(encoding="utf-8"))
        return identity

    def begin(self, identity: dict[str, Any]) -> None:
        """Make the working area ready; stages of a run with other inputs are thrown away.

        Args:
            identity: Everything that the result depends on, as plain JSON values.
        """
        self.begun = True
        state = self.build / _STATE_FILE
        wanted = json.dumps(identity, sort_keys=True)
        goes_on = state.exists() and state.read_text(encoding="utf-8") == wanted
        if not goes_on:
            # first: a process killed while it deletes stages must not leave them with this name
            state.unlink(missing_ok=True)
            shutil.rmtree(self.stages, ignore_errors=True)
        for folder in (self.stages, self.views, self.matches):
            folder.mkdir(parents=True, exist_ok=True)
        for leftover in self.stages.glob("*tmp*"):
            shutil.rmtree(leftover) if leftover.is_dir() else leftover.unlink()
        if not goes_on:
            write_text_atomic(state, wanted)

    def reserve(self, num_bytes: int) -> None:
        """Raise `OSError` now if the disk has no room for that much."""
        reserve_space(self.build / "reserve.tmp", num_bytes)

    def discard(self) -> None:
        """Throw the working area away."""
        (self.build / _STATE_FILE).unlink(missing_ok=True)
        shutil.rmtree(self.build, ignore_errors=True)

    def publish(self, map_json: str) -> None:
        """Make the files in `stages` the map.

        Args:
            map_json: Content of ``map.json``, whose key ``files`` lists them.
        """
        _sync_tree(self.stages)
        write_text_atomic(self.build / MAP_FILE, map_json)
        self.finish_publication()

    def finish_publication(self) -> None:
        """Move the files of a complete new map into place; nothing to do if there is none."""
        done = self.build / MAP_FILE
        if not done.exists():
            return
        (self.build / _STATE_FILE).unlink(missing_ok=True)  # no run may continue moved stages
        files = json.loads(done.read_text(encoding="utf-8"))["files"]
        for name in files:
            source, target = self.stages / name, self.map_path / name
            if source.exists():  # else it was moved before the process died
                target.parent.mkdir(parents=True, exist_ok=True)
                source.replace(target)
        done.replace(self.map_path / MAP_FILE)
        for part in self.map_path.glob("features.*.h5"):  # of a map that was replaced
            if part.name not in files:
                part.unlink()
        shutil.rmtree(self.build)


def is_half_published(map_path: Path) -> bool:
    """Whether a process died while it moved the files of a new map into place."""
    return (map_path / BUILD_FOLDER / MAP_FILE).exists()


@contextmanager
def locked_workspace(map_path: PathLike) -> Iterator[Workspace]:
    """The working area of a map, which no other process can have at the same time.

    Args:
        map_path: Folder of the map, made if missing.

    Raises:
        InputError: Another process works on the map, the folder holds something else, or it
            cannot be written.
    """
    path = Path(map_path)
    _check_is_ours(path)
    created = not path.exists()
    with locked_folder(path, f"the map '{path}'", keep_empty=not created):
        workspace = Workspace(path)
        try:
            workspace.finish_publication()
            yield workspace
        except InputError:
            if workspace.begun and workspace.has_map and not workspace.has_results:
                workspace.discard()  # the map stays as it is: nothing is to be continued
            raise
        except OSError as error:
            raise InputError(
                f"the map '{map_path}' could not be written: {_one_line(error)}"
            ) from error


@contextmanager
def locked_folder(folder: Path, what: str, *, keep_empty: bool) -> Iterator[None]:
    """Keep other processes from a folder, which is made if missing.

    Args:
        folder: The folder.
        what: What is worked on in it, for messages.
        keep_empty: Whether it stays if there is nothing in it in the end.

    Raises:
        InputError: Another process has it, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        lock = _take_lock(folder, what)
    except OSError as error:
        raise InputError(f"cannot write into '{folder}': {_one_line(error)}") from error
    try:
        yield
    finally:
        (folder / _LOCK_FILE).unlink(missing_ok=True)
        os.close(lock)
        if not keep_empty and not any(folder.iterdir()):
            folder.rmdir()  # nothing came of it


def _check_is_ours(path: Path) -> None:
    """Refuse a file, and a folder that holds something but no map."""
    if path.exists() and not path.is_dir():
        raise InputError(f"'{path}' is a file; a map is a folder")
    if not path.is_dir() or any((path / n).exists() for n in (MAP_FILE, BUILD_FOLDER, _LOCK_FILE)):
        return
    other = next(path.iterdir(), None)
    if other is not None:
        raise InputError(
            f"'{path}' holds '{other.name}' but no map: give a new or an empty folder for the map"
        )


def _take_lock(path: Path, what: str) -> int:
    """Lock the folder for this process; a killed process frees its lock. Returns the open file."""
    file = path / _LOCK_FILE
    while True:
        handle = os.open(file, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(handle, 20).decode().strip()
            os.close(handle)
            by = f" ({owner})" if owner else ""
            raise InputError(f"another process{by} is working on {what}") from None
        except OSError:
            os.close(handle)
            raise
        # the owner before may have removed the file between our open and our lock
        if file.exists() and os.path.samestat(os.fstat(handle), file.stat()):
            os.truncate(handle, 0)
            os.write(handle, str(os.getpid()).encode())
            return handle
        os.close(handle)


def _sync_tree(folder: Path) -> None:
    """Force the files of a folder to the disk, so that a power cut finds them whole."""
    for file in folder.rglob("*"):
        if file.is_file():
            handle = os.open(file, os.O_RDONLY)
            try:
                os.fsync(handle)
            finally:
                os.close(handle)


def _one_line(error: OSError) -> str:
    where = f" ('{error.filename}')" if error.filename else ""
    return f"{error.strerror or ' '.join(str(error).split())}{where}"
