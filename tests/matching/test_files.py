"""`matching.files`: nothing is ever half-written."""

import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from matching.errors import InputError
from matching.files import (
    atomic_file,
    atomic_folder,
    check_writable,
    existing_file,
    existing_folder,
    reserve_space,
    sha256_of_file,
    text_lines,
    write_text_atomic,
)


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_atomic_file_keeps_the_old_file_on_failure(tmp_path: Path) -> None:
    target = tmp_path / "sub" / "a.txt"
    write_text_atomic(target, "old")
    with pytest.raises(RuntimeError), atomic_file(target) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stop")
    assert target.read_text() == "old"
    assert names(target.parent) == ["a.txt"]
    write_text_atomic(target, "new")
    assert target.read_text() == "new"
    umask = os.umask(0)
    os.umask(umask)
    assert target.stat().st_mode & 0o777 == 0o666 & ~umask


def test_threads_that_write_at_once_leave_the_umask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_umask = os.umask

    def slow(mask: int) -> int:
        before = set_umask(mask)
        time.sleep(0.005)  # other threads run in between
        return before

    outside = set_umask(0o027)
    try:
        monkeypatch.setattr(os, "umask", slow)
        with ThreadPoolExecutor(4) as pool:
            list(pool.map(lambda n: write_text_atomic(tmp_path / str(n), "text"), range(8)))
        left = set_umask(0o027)
    finally:
        set_umask(outside)
    assert left == 0o027
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o640}


def test_errors_name_the_target_not_the_temporary_file(tmp_path: Path) -> None:
    (tmp_path / "taken").mkdir()
    with pytest.raises(OSError) as error:
        write_text_atomic(tmp_path / "taken", "text")
    assert error.value.filename == str(tmp_path / "taken")
    with pytest.raises(OSError) as error:
        write_text_atomic(tmp_path / ("long" * 80), "text")
    assert error.value.filename == str(tmp_path / ("long" * 80))
    assert names(tmp_path) == ["taken"]


def test_atomic_folder_replaces_all_or_nothing(tmp_path: Path) -> None:
    target = tmp_path / "out"
    with atomic_folder(target) as temporary:
        (temporary / "a").write_text("1")
    with pytest.raises(RuntimeError), atomic_folder(target) as temporary:
        (temporary / "b").write_text("2")
        raise RuntimeError("stop")
    assert names(target) == ["a"]
    with atomic_folder(target) as temporary:
        (temporary / "b").write_text("2")
    assert names(target) == ["b"]
    assert names(tmp_path) == ["out"]


def test_existing(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "list.txt").write_text("abc")
    assert existing_folder(tmp_path / "photos") == tmp_path / "photos"
    (tmp_path / "gone.jpg").symlink_to(tmp_path / "moved.jpg")
    with pytest.raises(InputError, match=r"gone.jpg' is a link to '.*moved.jpg', which is not"):
        existing_file(tmp_path / "gone.jpg", "image")
    with pytest.raises(InputError, match=r"no folder '.*photoz'; did you mean '.*photos'"):
        existing_folder(tmp_path / "photoz")
    with pytest.raises(InputError, match="is a file where the folder is expected"):
        existing_folder(tmp_path / "list.txt")
    with pytest.raises(InputError, match="is a folder where the query list is expected"):
        existing_file(tmp_path / "photos", "query list")
    assert sha256_of_file(tmp_path / "list.txt") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )


def test_text_lines(tmp_path: Path) -> None:
    file = tmp_path / "a.txt"
    file.write_bytes("\ufeffä b \r\n\n c".encode())
    assert list(text_lines(file)) == [(1, "ä b"), (2, ""), (3, "c")]
    file.write_bytes(b"\x80\xff\n")
    with pytest.raises(InputError, match=r"a\.txt' is no UTF-8 text"):
        list(text_lines(file))


def test_room_on_the_disk_is_asked_for_before_it_is_needed(tmp_path: Path) -> None:
    reserve_space(tmp_path / "a", 1000)
    with pytest.raises(OSError):
        reserve_space(tmp_path / "a", 2**60)
    assert names(tmp_path) == []


def test_what_cannot_be_written_is_told_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    check_writable(tmp_path / "new" / "a.txt")
    for path, words in (
        (tmp_path / "new", r"new' is a folder: give the name"),
        (tmp_path / "file" / "a.txt", r"cannot write into '.*file': it is a file"),
        (tmp_path / "file" / "b" / "a.txt", r"cannot write into '.*b': Not a directory"),
        (Path("/proc/a.txt"), r"cannot write into '/proc': "),  # root may not either
    ):
        with pytest.raises(InputError, match=words):
            check_writable(path)
    assert not list((tmp_path / "new").iterdir())
