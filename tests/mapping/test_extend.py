"""Tests of `mapping/extend.py`."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pycolmap
import pytest

from mapping import Map, MapOptions, PairOptions, VerificationOptions, build_map
from mapping.database import write_database
from mapping.store import FeatureFile
from matching import InputError, Matches, View
from tests.mapping.conftest import Place
from tests.mapping.fakes import FakeDenseMatcher, FakeMatcher

FIRST = [f"{i:04d}.png" for i in (1, 2, 4, 6, 7)]
NEW = ["0003.png", "0005.png", "0008.png"]


def make(place: Place, path: Path, matcher: FakeMatcher, *, posed: bool) -> Map:
    model = place.world.model({n: name for n, name in place.names.items() if name in FIRST})
    cameras = dict.fromkeys(FIRST, place.world.camera)
    return build_map(
        place.photos,
        path,
        matcher,
        image_names=FIRST,
        known_poses=model if posed else None,
        cameras=None if posed else cameras,
    )


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("posed", [False, True])
def test_extend_keeps_what_is_there(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture, posed, dense
) -> None:
    caplog.set_level("INFO", "mapping.extend")
    matcher = (FakeDenseMatcher if dense else FakeMatcher)(place.world)
    old = make(place, tmp_path / "map", matcher, posed=posed)
    matcher.num_encoded = matcher.num_matched = 0
    new = old.extend(place.photos, matcher)  # the whole folder: photos of the map are skipped
    assert matcher.num_encoded == 3
    assert matcher.num_matched == 3 * 5 + 3  # not one old pair again
    assert new.image_names == sorted([*FIRST, *NEW])
    assert new.info.not_registered == {}
    for name in FIRST:
        np.testing.assert_array_equal(
            new.cam_from_world(name).matrix(), old.cam_from_world(name).matrix()
        )
        assert len(new.load_view(name).keypoints) == len(new.point3D_ids(name))
        kept = len(old.load_view(name).keypoints)
        np.testing.assert_array_equal(
            new.load_view(name).keypoints[:kept], old.load_view(name).keypoints
        )
    assert place.world.centre_error(new.reconstruction, place.names) < 0.02
    assert new.info.num_observations > old.info.num_observations
    assert all((new.point3D_ids(name) >= 0).sum() > 100 for name in NEW)
    # photos of the same folder and size were taken by the map's camera
    assert new.camera("0003.png").params.tolist() == place.world.camera.params.tolist()
    assert new.check() == []
    view = matcher.encode(place.photos / "0005.png")
    assert new.retrieve(view, matcher, 1)[0].name == "0005.png"
    assert caplog.messages == []
    assert new.extend(place.photos, matcher).fingerprint == new.fingerprint
    nothing = f"nothing to add: the map '{new.path}' knows all photos of '{place.photos}'"
    assert caplog.messages == [nothing]


@pytest.mark.parametrize("links", [True, False])
def test_features_are_kept_without_a_copy(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, links: bool
) -> None:
    if not links:  # as on disks of other systems

        def refused(self: Path, target: Path) -> None:
            raise OSError("no links here")

        monkeypatch.setattr(Path, "hardlink_to", refused)
    matcher, folder = FakeMatcher(place.world), tmp_path / "map"
    scene = make(place, folder, matcher, posed=True)
    views = {name: scene.load_view(name).keypoints for name in FIRST}
    before = (folder / "features.h5").stat()
    (made,) = (file for file in scene.info.files if file.name == "features.h5")
    for number, name in enumerate(NEW, 1):
        (tmp_path / name).mkdir()
        (tmp_path / name / name).write_bytes((place.photos / name).read_bytes())
        scene = scene.extend(tmp_path / name, matcher)
        parts = sorted(path.name for path in folder.glob("features.*.h5"))
        assert parts == [f"features.{part}.h5" for part in range(number + 1)]
        files = {file.name: file for file in scene.info.files}
        assert files["features.0.h5"].sha256 == made.sha256
        first = (folder / "features.0.h5").stat()
        assert first.st_size == before.st_size and (first.st_ino == before.st_ino) == links
        assert scene.check() == []
    assert scene.info.focal_sources == {"given": len(FIRST), "map": len(NEW)}
    for name in FIRST:
        np.testing.assert_array_equal(scene.load_view(name).keypoints, views[name])
    with h5py.File(folder / "features.h5", locking=False) as file:  # readers follow the links
        assert set(file["images"]) == {*FIRST, *NEW}
        assert all(len(file[f"images/{name}/keypoints"]) > 100 for name in NEW)
    for limit in range(len(NEW) + 1):  # a system may let a process open few files
        with monkeypatch.context() as patch:
            patch.setattr("mapping.store._MAX_OPEN_PARTS", limit)
            assert Map.open(folder).check() == []
            assert all(len(Map.open(folder).load_view(name).keypoints) > 100 for name in NEW)
    damaged = bytearray((folder / "features.2.h5").read_bytes())
    damaged[len(damaged) // 2] ^= 255
    (folder / "features.2.h5").write_bytes(damaged)
    (problem, *_) = Map.open(folder).check()
    assert "features.2.h5" in problem
    (folder / "features.2.h5").unlink()
    (folder / "features.2.h5").write_bytes(bytes(len(damaged)))
    whole = Map.open(folder)
    build_map(place.photos, folder, matcher, overwrite=True)
    assert not list(folder.glob("features.*.h5"))
    assert Map.open(folder).check() == []
    # who has the old map open goes on with it, also where another extension takes its names
    (folder / "features.1.h5").write_bytes(b"of another map")
    for name in FIRST:
        np.testing.assert_array_equal(whole.load_view(name).keypoints, views[name])
    assert len(whole.load_view(NEW[0]).keypoints) > 100
    with pytest.raises(InputError, match=rf"encoding of '{NEW[1]}' .*'features\.2\.h5' cannot be"):
        whole.load_view(NEW[1])  # was damaged when it was opened
    assert whole.check() == [f"the map '{folder}' was replaced since it was opened: open it again"]


def test_more_keypoints_do_not_copy_an_encoding(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Adding(FakeDenseMatcher):
        """Matches pixels of its own where a photo of the map has keypoints."""

        def match_views(self, view0: View, view1: View) -> Matches:
            bare = (replace(v, keypoints=np.zeros((0, 2), np.float32)) for v in (view0, view1))
            return super().match_views(*bare)

    matcher, folder = Adding(place.world), tmp_path / "map"
    options = MapOptions(verification=VerificationOptions(merge_radius_px=0.3))
    model = place.world.model({n: name for n, name in place.names.items() if name in FIRST})
    scene = build_map(
        place.photos, folder, matcher, options=options, image_names=FIRST, known_poses=model
    )
    for name in NEW[:2]:
        old = {n: scene.load_view(n) for n in scene.image_names}
        scene = scene.extend(place.photos, matcher, names=[name])
        for photo, view in old.items():
            new = scene.load_view(photo)
            assert len(new.keypoints) > len(view.keypoints)
            assert new.arrays.keys() == view.arrays.keys() != set()
            for key, values in view.arrays.items():
                np.testing.assert_array_equal(new.arrays[key], values)
    home = dict.fromkeys(FIRST, "features.0.h5") | {NEW[0]: "features.1.h5"}
    with h5py.File(folder / "features.2.h5", locking=False) as part:
        for photo, file in home.items():  # where it was encoded, not where it had keypoints last
            for key in ("arrays", "global_descriptor"):
                link = part[f"images/{photo}"].get(key, getlink=True)
                assert (link.filename, link.path) == (file, f"/images/{photo}/{key}")
    with h5py.File(folder / "features.h5", locking=False) as file:  # readers follow the links
        assert all(len(file[f"images/{name}/global_descriptor"]) for name in scene.image_names)
        assert all(len(file[f"images/{name}/arrays"]) for name in scene.image_names)
    for limit in range(4):
        with monkeypatch.context() as patch:
            patch.setattr("mapping.store._MAX_OPEN_PARTS", limit)
            opened = Map.open(folder)
            assert opened.check() == []
            assert opened.load_view(FIRST[0]).arrays.keys() == new.arrays.keys()
    (folder / "features.0.h5").unlink()
    with pytest.raises(InputError, match=rf"encoding of '{FIRST[0]}' .*'features\.0\.h5' cannot"):
        FeatureFile(folder / "features.h5").view(FIRST[0])


def test_extend_with_known_poses(place: Place, tmp_path: Path) -> None:
    matcher = FakeMatcher(place.world)
    scene = make(place, tmp_path / "map", matcher, posed=True)
    scene = scene.extend(
        place.photos, matcher, names=NEW, known_poses=place.world.model(place.names)
    )
    assert scene.image_names == sorted([*FIRST, *NEW])
    for number, name in place.names.items():
        np.testing.assert_allclose(
            scene.cam_from_world(name).matrix(), place.world.poses[number].matrix(), atol=1e-14
        )
        assert (scene.point3D_ids(name) >= 0).sum() > 200


def test_given_intrinsics_of_new_photos_stay(place: Place, tmp_path: Path) -> None:
    matcher = FakeMatcher(place.world)
    scene = make(place, tmp_path / "map", matcher, posed=False)
    given = pycolmap.Camera(place.world.camera.todict())
    given.params = [605, 603, 321, 239]
    scene = scene.extend(place.photos, matcher, names=NEW[:2], cameras=dict.fromkeys(NEW, given))
    for name in NEW[:2]:
        assert scene.camera(name).params.tolist() == [605, 603, 321, 239]
    assert scene.camera(FIRST[0]).params.tolist() == place.world.camera.params.tolist()


def test_extend_by_retrieval(place: Place, tmp_path: Path) -> None:
    matcher = FakeMatcher(place.world)
    options = MapOptions(pairs=PairOptions(max_exhaustive=4, top_k=2))
    scene = build_map(
        place.photos, tmp_path / "map", matcher, image_names=FIRST, options=options,
        known_poses=place.world.model(place.names),
    )  # fmt: skip
    matcher.num_matched = 0
    scene = scene.extend(place.photos, matcher, names=["0003.png"])
    assert matcher.num_matched == 2
    assert "0003.png" in scene.image_names


def test_bad_and_unconnected_new_photos_are_listed(
    place: Place, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    matcher = FakeMatcher(place.world)
    scene = make(place, tmp_path / "map", matcher, posed=True)
    more = tmp_path / "more"
    place.world.write_photos(more, {3: "good.png", 0: "nothing.png"})
    (more / "broken.jpg").write_bytes(b"no image")
    extended = scene.extend(more, matcher)
    assert extended.image_names == sorted([*FIRST, "good.png"])
    assert sorted(extended.info.not_registered) == ["broken.jpg", "nothing.png"]
    assert "no readable image" in extended.info.not_registered["broken.jpg"]
    assert "no verified matches" in extended.info.not_registered["nothing.png"]
    assert sum(extended.info.focal_sources.values()) == len(extended.image_names)
    caplog.set_level("INFO", "mapping.extend")
    same = extended.extend(more, matcher)  # nothing new
    assert len(caplog.messages) == 1 and "nothing to add" in caplog.text
    assert same.info == extended.info
    assert not (same.path / ".build").exists()
    again = extended.extend(place.photos, matcher, names=["0008.png"])
    assert sorted(again.info.not_registered) == ["broken.jpg", "nothing.png"]


def test_a_killed_extension_with_other_matching_starts_anew(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    class KilledError(Exception):
        pass

    class Choosy(FakeMatcher):
        """Has an option that changes matches, not encodings."""

        ratio = 0.8

        def describe(self) -> dict[str, Any]:
            return {**super().describe(), "options": {"ratio": self.ratio}}

    def kill(*_: Any, **__: Any) -> None:
        raise KilledError

    written = []

    def counted(path: Path, *arguments: Any) -> None:
        written.append(path)
        write_database(path, *arguments)

    matcher = Choosy(place.world)
    scene = make(place, tmp_path / "map", matcher, posed=True)
    monkeypatch.setattr("mapping.extend.write_database", counted)
    with monkeypatch.context() as patch:
        patch.setattr("mapping.extend.structure_from_motion", kill)
        for ratio in (0.8, 0.8, 0.9):
            matcher.ratio = ratio
            with pytest.raises(KilledError):
                scene.extend(place.photos, matcher)
    assert len(written) == 2  # the second run went on, the third had other matches


def test_refusals(place: Place, tmp_path: Path) -> None:
    matcher = FakeMatcher(place.world)
    scene = make(place, tmp_path / "map", matcher, posed=True)
    with pytest.raises(InputError, match="name"):
        scene.extend(place.photos, FakeDenseMatcher(place.world))
    with pytest.raises(InputError, match="fingerprint"):
        scene.extend(place.photos, FakeMatcher(place.world, noise_px=0.3))
    more = tmp_path / "more"
    more.mkdir()
    (more / "0001.png").write_bytes((place.photos / "0003.png").read_bytes() + b"x")
    with pytest.raises(InputError, match=r"0001\.png.*rename"):
        scene.extend(more, matcher)
    (more / "0001.png").rename(more / "broken.png")
    (more / "broken.png").write_bytes(b"no")
    with pytest.raises(InputError, match=r"no new photo.*broken\.png"):
        scene.extend(more, matcher)
    assert Map.open(scene.path).fingerprint == scene.fingerprint
    assert not (scene.path / ".build").exists()
