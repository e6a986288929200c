"""Tests of `mapping/map.py` and `mapping/info.py`."""

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from mapping import Map, build_map
from mapping.info import check_files
from matching import InputError
from tests.mapping.conftest import Place
from tests.mapping.fakes import FakeDenseMatcher, FakeMatcher

FILES = [
    "database.db", "features.h5", "observations.h5", "retrieval.faiss", "sparse/images.bin",
    "map.json",
]  # fmt: skip


@pytest.fixture
def copied(posed_map: Map, tmp_path: Path) -> Path:
    return Path(shutil.copytree(posed_map.path, tmp_path / "map"))


def test_layout(posed_map: Map) -> None:
    top = {p.name for p in posed_map.path.iterdir()}
    files = {"database.db", "features.h5", "observations.h5", "retrieval.faiss"}
    assert top == {"map.json", "sparse", *files}
    pycolmap.Reconstruction(posed_map.path / "sparse")
    assert posed_map.check() == []


def test_points_of_keypoints(place: Place, posed_map: Map) -> None:
    name = "0004.png"
    view, ids = posed_map.load_view(name), posed_map.point3D_ids(name)
    assert ids.shape == (len(view.keypoints),)
    seen = ids >= 0
    assert 200 < seen.sum() < len(ids)
    camera_points = posed_map.cam_from_world(name) * posed_map.points3D(ids[seen])
    pixels = posed_map.camera(name).img_from_cam(camera_points)
    assert np.linalg.norm(pixels - view.keypoints[seen], axis=1).max() < 4
    assert posed_map.points3D([]).shape == (0, 3)
    with pytest.raises(KeyError):
        posed_map.points3D([10**9])
    with pytest.raises(KeyError):
        posed_map.points3D([-1])


def test_points_have_colours(posed_map: Map) -> None:
    for point in posed_map.reconstruction.points3D.values():
        assert tuple(point.color[1:]) == (100, 100)  # photos are (number, 100, 100)
        assert 1 <= point.color[0] <= 8


def test_covisible(posed_map: Map) -> None:
    name = "0001.png"
    shared = posed_map.covisible(name)
    own = set(posed_map.point3D_ids(name).tolist()) - {-1}
    for other in posed_map.image_names:  # the slow way
        theirs = set(posed_map.point3D_ids(other).tolist()) - {-1}
        assert shared.get(other, 0) == (len(own & theirs) if other != name else 0)
    assert list(shared.values()) == sorted(shared.values(), reverse=True)


def test_retrieve(place: Place, posed_map: Map) -> None:
    matcher = FakeMatcher(place.world)
    for name in posed_map.image_names:
        found = posed_map.retrieve(matcher.encode(place.photos / name), matcher, 3)
        assert found[0].name == name
        assert found[0].score == pytest.approx(1, abs=1e-4)
        assert [f.score for f in found] == sorted((f.score for f in found), reverse=True)
    view = matcher.encode(place.photos / "0001.png")
    assert len(posed_map.retrieve(view, matcher, 100)) == 8
    assert posed_map.retrieve(view, matcher, 2)[1].name == "0002.png"
    black = matcher.encode_image(np.zeros((480, 640, 3), np.uint8))
    assert posed_map.retrieve(black, matcher, 5) == []


def test_names_without_pose(posed_map: Map) -> None:
    for ask in (posed_map.camera, posed_map.load_view, posed_map.point3D_ids):
        with pytest.raises(InputError, match=r"'x\.png' is no photo"):
            ask("x.png")


@pytest.mark.parametrize("name", FILES)
def test_missing_file_is_named(copied: Path, name: str) -> None:
    (copied / name).unlink()
    with pytest.raises(InputError, match=Path(name).name):
        Map.open(copied)


@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("where", [0.02, 0.5, 0.97])
def test_flipped_byte_is_named(copied: Path, name: str, where: float) -> None:
    data = bytearray((copied / name).read_bytes())
    data[int(len(data) * where)] ^= 1
    (copied / name).write_bytes(data)
    with pytest.raises(InputError, match=Path(name).name):
        # photos in features.h5 are checked one by one, as they are read
        problems = Map.open(copied).check()
        assert name == "features.h5" and problems
        raise InputError(problems[0])


def test_damaged_photos_are_named_and_the_others_read(copied: Path) -> None:
    intact = Map.open(copied)
    data = bytearray((copied / "features.h5").read_bytes())
    for name in ("0002.png", "0005.png"):
        data[bytes(data).index(intact.load_view(name).keypoints.tobytes()) + 3] ^= 8
    (copied / "features.h5").write_bytes(data)
    scene = Map.open(copied)
    readable = []
    for name in scene.image_names:
        try:
            readable.append(scene.load_view(name).image_size)
        except InputError as error:
            assert name in {"0002.png", "0005.png"} and f"'{name}'" in str(error)
    assert readable == [(640, 480)] * 6
    whole, *photos = scene.check()
    assert "features.h5" in whole
    assert ["0002.png" in photos[0], "0005.png" in photos[1], len(photos)] == [True, True, 2]


@pytest.mark.parametrize("name", FILES)
def test_truncated_file_is_named(copied: Path, name: str) -> None:
    data = (copied / name).read_bytes()
    (copied / name).write_bytes(data[:-1] if name != "map.json" else data[:-5])
    with pytest.raises(InputError, match=Path(name).name):
        Map.open(copied)


def test_large_files_are_checked_where_they_are_read(
    copied: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mapping.info._MAX_CHEAP_BYTES", 0)
    name = "features.h5"
    intact = Map.open(copied)
    keypoints = intact.load_view("0002.png").keypoints.tobytes()
    data = (copied / name).read_bytes()
    at = data.index(keypoints) + 11  # a byte of the keypoints of one photo
    (copied / name).write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    scene = Map.open(copied)  # too large to hash at opening
    whole, photo = scene.check()
    assert name in whole and "the encoding of '0002.png'" in photo
    scene.load_view("0001.png")
    with pytest.raises(InputError, match=r"features\.h5.*damaged"):
        scene.load_view("0002.png")


def test_a_damaged_file_is_told_with_the_fix(copied: Path, place: Place) -> None:
    (copied / "retrieval.faiss").write_bytes(b"")
    with pytest.raises(InputError, match=r"faiss' is damaged.*make the map again"):
        Map.open(copied)
    with pytest.raises(InputError) as refused:  # who makes it again is told the way once
        build_map(place.photos, copied, FakeMatcher(place.world))
    assert "make the map again" not in str(refused.value) and "--overwrite" in str(refused.value)


def test_other_version_is_refused(copied: Path) -> None:
    values = json.loads((copied / "map.json").read_text())
    values["format_version"] = 99
    (copied / "map.json").write_text(json.dumps(values))
    with pytest.raises(InputError, match=r"map\.json.*format_version 99"):
        Map.open(copied)


def test_no_map(tmp_path: Path, place: Place) -> None:
    with pytest.raises(InputError, match="no map"):
        Map.open(tmp_path / "nothing")
    with pytest.raises(InputError, match="no finished map"):
        Map.open(place.photos)


def test_other_matcher_is_refused(place: Place, posed_map: Map) -> None:
    posed_map.check_matcher(FakeMatcher(place.world))
    with pytest.raises(InputError, match="'name' differs"):
        posed_map.check_matcher(FakeDenseMatcher(place.world))
    with pytest.raises(InputError, match="'fingerprint' differs"):
        posed_map.check_matcher(FakeMatcher(place.world, noise_px=9))


def test_summary_and_dict(posed_map: Map) -> None:
    values = json.loads(json.dumps(posed_map.to_dict()))
    assert values["num_images"] == values["num_registered"] == 8
    assert values["num_pairs"] == 28
    assert values["mean_track_length"] > 5
    assert values["not_registered"] == {}
    assert "8 with a pose, 0 without, 28 pairs" in posed_map.summary()


def test_export(posed_map: Map, tmp_path: Path) -> None:
    posed_map.export(tmp_path / "text")
    again = pycolmap.Reconstruction(tmp_path / "text")
    assert again.num_points3D() == posed_map.info.num_points3D
    posed_map.export(tmp_path / "text")  # replaces an earlier one


def test_export_deletes_nothing_of_others(posed_map: Map, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.tex"):
        posed_map.export(tmp_path)
    with pytest.raises(InputError, match="is a file"):
        posed_map.export(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "precious"


def test_map_replaced_while_it_is_read(
    place: Place, copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new map comes into place after ``map.json`` of the old one was read and checked."""
    new = build_map(
        place.photos,
        tmp_path / "new",
        FakeMatcher(place.world),
        image_names=["0001.png", "0002.png", "0003.png"],
        known_poses=place.world.model(place.names),
    )

    def check_then_replace(*args: Any, **options: Any) -> list[str]:
        problems = check_files(*args, **options)
        shutil.copytree(new.path, copied, dirs_exist_ok=True)
        return problems

    monkeypatch.setattr("mapping.map.check_files", check_then_replace)
    scene = Map.open(copied)
    assert scene.info == new.info
    assert scene.image_names == new.image_names


def test_map_half_in_place_while_it_is_read(copied: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another process moves the last file, then unlocks, while the reader waits."""
    whole = (copied / "retrieval.faiss").read_bytes()
    (copied / "retrieval.faiss").write_bytes(whole + b"x")
    states = iter([False, True])
    monkeypatch.setattr("mapping.map.is_half_published", lambda _: next(states, False))
    monkeypatch.setattr(
        "mapping.map.time.sleep", lambda _: (copied / "retrieval.faiss").write_bytes(whole)
    )
    assert Map.open(copied).check() == []


def test_map_reads_names_of_all_kinds(place: Place, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    odd = {1: "a b.png", 2: "ünï çödé/日本.png", 3: "sub/deep er/x.png", 4: "x.y..z.png",
           5: "keypoints/arrays.png"}  # fmt: skip
    place.world.write_photos(photos, odd)
    scene = build_map(photos, tmp_path / "map", FakeMatcher(place.world))
    assert scene.image_names == sorted(odd.values())
    for name in scene.image_names:
        assert len(scene.load_view(name).keypoints) == len(scene.point3D_ids(name))
    assert Map.open(scene.path).image_names == scene.image_names
