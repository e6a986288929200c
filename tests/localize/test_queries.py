import os
from pathlib import Path

import pytest

from localize.queries import read_queries
from matching.errors import InputError
from tests.localize.synthetic import make_camera

CAMERA = "PINHOLE 800 600 700 700 400 300"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name in ("b.jpg", "sub dir/a b.png", "日本.jpg"):
        (tmp_path / "images" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "images" / name).write_bytes(b"x")
    return tmp_path


def test_a_folder_gives_relative_names(folder: Path) -> None:
    queries = read_queries(folder / "images")
    assert [q.name for q in queries] == ["b.jpg", "sub dir/a b.png", "日本.jpg"]
    assert all(q.path.is_file() and q.camera is None for q in queries)


def test_one_photo(folder: Path) -> None:
    (query,) = read_queries(folder / "images" / "b.jpg")
    assert query.name == "b.jpg"
    (query,) = read_queries(str(folder / "images" / "b.jpg"), {"b.jpg": make_camera()})
    assert query.camera is not None


def test_paths_keep_the_names_given(folder: Path) -> None:
    paths = [folder / "images" / "b.jpg", str(folder / "images" / "日本.jpg")]
    assert [q.name for q in read_queries(paths)] == [str(p) for p in paths]


def test_names_that_no_text_can_hold_are_escaped(folder: Path) -> None:
    file = Path(os.fsdecode(os.fsencode(folder / "images" / "c") + b"\xff.jpg"))
    file.write_bytes(b"x")
    last = read_queries(folder / "images")[1]
    assert (last.name, last.path) == ("c\\udcff.jpg", file)
    assert [query.name for query in read_queries(file)] == ["c\\udcff.jpg"]


@pytest.mark.parametrize("place", [".", "images"])
def test_a_list_beside_or_above_the_photos(folder: Path, place: str) -> None:
    file = folder / place / "query.txt"
    file.write_text("# queries\n日本.jpg\r\n\nsub dir/a b.png\nmissing.jpg\n", encoding="utf-8")
    queries = read_queries(file)
    # the missing one stays: it fails alone, later
    assert [q.name for q in queries] == ["日本.jpg", "sub dir/a b.png", "missing.jpg"]
    assert [q.path.is_file() for q in queries] == [True, True, False]


def test_a_list_with_cameras(folder: Path) -> None:
    file = folder / "query.txt"
    file.write_text(f"b.jpg {CAMERA}\nsub dir/a b.png {CAMERA}\n")
    queries = read_queries(file)
    assert [q.name for q in queries] == ["b.jpg", "sub dir/a b.png"]
    assert all(q.camera is not None and q.camera.mean_focal_length() == 700 for q in queries)
    # cameras given beside the list win
    (_, second) = read_queries(file, {"b.jpg": make_camera(focal=500.0)})
    assert second.camera is None


def test_cameras_from_a_file(folder: Path) -> None:
    (folder / "cameras.txt").write_text(f"b.jpg {CAMERA}\nother.jpg {CAMERA}\n")
    queries = read_queries(folder / "images", folder / "cameras.txt")
    assert [q.camera is not None for q in queries] == [True, False, False]


def test_names_twice_are_refused(folder: Path) -> None:
    file = folder / "query.txt"
    file.write_text("b.jpg\n日本.jpg\nb.jpg\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"query\.txt' line 3: 'b\.jpg'"):
        read_queries(file)
    file.write_text(f"b.jpg {CAMERA}\nb.jpg {CAMERA}\n")
    with pytest.raises(InputError, match=r"query\.txt' line 2: 'b\.jpg'"):
        read_queries(file)
    with pytest.raises(InputError, match=r"b\.jpg' is in the list of photos twice"):
        read_queries([folder / "images" / "b.jpg", str(folder / "images" / "b.jpg")])


def test_zero_queries_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match="no queries"):
        read_queries([])
    (folder / "empty").mkdir()
    with pytest.raises(InputError, match=r"no photos in .*empty"):
        read_queries(folder / "empty")
    (folder / "empty.txt").write_text("\n# nothing\n")
    with pytest.raises(InputError, match=r"no queries: the list .*empty\.txt"):
        read_queries(folder / "empty.txt")


def test_wrong_lists_are_refused(folder: Path) -> None:
    file = folder / "query.txt"
    file.write_text("x.jpg\ny.jpg\n")
    with pytest.raises(InputError, match=r"none of the photos in the list .*query\.txt.*x\.jpg"):
        read_queries(file)
    file.write_text(f"b.jpg {CAMERA}\n日本.jpg\n", encoding="utf-8")
    with pytest.raises(InputError, match=r"query\.txt' line 2"):
        read_queries(file)
    file.write_bytes(b"\xff\xd8\xff\xe0")
    with pytest.raises(InputError, match="neither a photo"):
        read_queries(file)
    with pytest.raises(InputError, match=r"queri\.txt.*did you mean"):
        read_queries(folder / "queri.txt")


def test_cameras_of_other_photos_are_refused(folder: Path) -> None:
    with pytest.raises(InputError, match=r"none of the 1 cameras.*'images/b\.jpg'.*'b\.jpg'"):
        read_queries(folder / "images", {"images/b.jpg": make_camera()})
