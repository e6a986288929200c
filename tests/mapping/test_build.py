"""Tests of `mapping/build.py`: whole maps of a world with known truth."""

import contextlib
import copy
import json
import os
import shutil
import sqlite3
import threading
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray

from mapping import Map, MapOptions, PairOptions, ReconstructionOptions, build_map, stage_clock
from mapping.build import OtherMapError
from mapping.info import info_to_json
from mapping.inputs import given_cameras
from mapping.reconstruct import structure_from_motion, take_out_doubtful
from matching import InputError
from matching.sift import SiftOptions
from matching.types import View
from tests.mapping.conftest import Place
from tests.mapping.fakes import FakeDenseMatcher, FakeMatcher, FakeWorld

T = TypeVar("T")


def test_known_poses_stay_exactly_as_they_are(place: Place, posed_map: Map) -> None:
    assert posed_map.image_names == sorted(place.names.values())
    assert posed_map.info.known_poses
    for number, name in place.names.items():
        found = posed_map.cam_from_world(name).matrix()
        # only the way through the quaternion on disk rounds
        np.testing.assert_allclose(found, place.world.poses[number].matrix(), atol=1e-14)
    ids = np.array(sorted(posed_map.reconstruction.points3D))
    assert len(ids) > 300
    # 0.2 px noise at 6 m and 600 px focal length are 2 mm per view
    distances = np.linalg.norm(
        posed_map.points3D(ids)[:, None] - place.world.points[None], axis=2
    ).min(1)
    assert np.median(distances) < 0.004
    assert posed_map.info.mean_reprojection_error_px < 0.4


@pytest.mark.parametrize("method", ["incremental", "global"])
def test_unknown_poses(place: Place, tmp_path, method) -> None:
    options = MapOptions(reconstruction=ReconstructionOptions(method=method))
    cameras = dict.fromkeys(place.names.values(), place.world.camera)
    scene = build_map(
        place.photos, tmp_path / "map", FakeMatcher(place.world), options=options, cameras=cameras
    )
    assert scene.image_names == sorted(place.names.values())
    assert not scene.info.known_poses
    assert place.world.centre_error(scene.reconstruction, place.names) < 0.01
    camera = scene.camera(scene.image_names[0])
    np.testing.assert_array_equal(camera.params, place.world.camera.params)


@pytest.mark.parametrize("method", ["incremental", "global"])
def test_unknown_intrinsics(place: Place, tmp_path, method) -> None:
    options = MapOptions(reconstruction=ReconstructionOptions(method=method))
    scene = build_map(place.photos, tmp_path / "map", FakeMatcher(place.world), options=options)
    assert scene.image_names == sorted(place.names.values())
    assert scene.reconstruction.num_cameras() == 1  # photos of one size share a camera
    # the guess is 1.2 x 640 = 768 px, the truth 600 px
    assert abs(scene.camera(scene.image_names[0]).mean_focal_length() - 600) < 30
    assert place.world.centre_error(scene.reconstruction, place.names) < 0.1


def test_registering_photos_ends_with_all_of_them(place: Place, tmp_path: Path) -> None:
    seen: list[int] = []

    def counted(items: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
        for number, item in enumerate(items, 1):
            yield item
            if description == "registering photos":
                assert total == len(place.names)
                seen.append(number)

    build_map(place.photos, tmp_path / "map", FakeMatcher(place.world), progress=counted)
    assert seen == list(range(1, len(place.names) + 1))


def test_global_sfm_leaves_the_database_as_it_is(place: Place, tmp_path: Path) -> None:
    """A run that is killed afterwards continues on the same one."""
    database = build_map(place.photos, tmp_path / "map", FakeMatcher(place.world)).path
    database = Path(shutil.copy(database / "database.db", tmp_path))

    def rows() -> list[list[tuple[object, ...]]]:
        with contextlib.closing(sqlite3.connect(database)) as opened:
            tables = ("cameras", "two_view_geometries")
            return [opened.execute(f"SELECT * FROM {table}").fetchall() for table in tables]

    before = rows()
    options = ReconstructionOptions(method="global")
    assert structure_from_motion(database, options).model.num_reg_images() == 8
    assert rows() == before


def test_principal_point_is_found(tmp_path: Path) -> None:
    world = FakeWorld()
    world.camera.params = [600, 600, 334, 231]  # 14 and 9 px off the middle
    names = world.write_photos(tmp_path / "photos")
    for refine, tolerance in ((True, 2.0), (False, 20.0)):
        options = MapOptions(reconstruction=ReconstructionOptions(refine_principal_point=refine))
        path = tmp_path / f"map{refine}"
        matcher = FakeMatcher(world, noise_px=0.05)
        scene = build_map(tmp_path / "photos", path, matcher, options=options)
        camera = scene.camera(names[1])
        found = np.array([camera.principal_point_x, camera.principal_point_y])
        assert np.abs(found - [334, 231]).max() < tolerance
    assert found.tolist() == [320, 240]


def test_a_photo_with_too_few_points_is_taken_out(posed_map: Map) -> None:
    model = pycolmap.Reconstruction(posed_map.path / "sparse")
    name, other = posed_map.image_names[3], posed_map.image_names[4]
    image = next(i for i in model.images.values() if i.name == name)
    observations = pycolmap.ObservationManager(model)
    seen = [row for row, point in enumerate(image.points2D) if point.has_point3D()]
    for row in seen[:-30]:
        observations.delete_observation(image.image_id, row)
    assert take_out_doubtful(model, set()) == {}
    observations.delete_observation(image.image_id, seen[-30])
    assert take_out_doubtful(model, {name}) == {}
    num_images = model.num_reg_images()
    reasons = take_out_doubtful(model, {other})
    assert list(reasons) == [name] and "sees 29 points of the map" in reasons[name]
    assert model.num_reg_images() == num_images - 1
    tracks = [element.image_id for p in model.points3D.values() for element in p.track.elements]
    assert image.image_id not in tracks


def test_a_photo_with_few_points_is_named(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    cameras = dict.fromkeys(place.names.values(), place.world.camera)
    build_map(place.photos, tmp_path / "map", FakeMatcher(place.world), cameras=cameras)
    assert "rests on" not in caplog.text
    monkeypatch.setattr("mapping.reconstruct._WEAK_SHARE", 1.001)
    build_map(place.photos, tmp_path / "again", FakeMatcher(place.world), cameras=cameras)
    told = [record.getMessage() for record in caplog.records if "rests on" in record.getMessage()]
    assert 4 <= len(told) <= 8, "all up to the median"


def test_some_intrinsics_given(place: Place, tmp_path: Path) -> None:
    some = dict.fromkeys(["0001.png", "0002.png", "0003.png"], place.world.camera)
    matcher = FakeMatcher(place.world)
    scene = build_map(place.photos, tmp_path / "map", matcher, cameras=some)
    assert scene.camera("0002.png").params.tolist() == place.world.camera.params.tolist()
    free = scene.camera("0007.png")
    assert free.model.name == "SIMPLE_RADIAL"
    assert 5 < abs(free.mean_focal_length() - 768) > abs(free.mean_focal_length() - 600)
    options = MapOptions(reconstruction=ReconstructionOptions(method="global"))
    with pytest.raises(InputError, match="all photos or of none"):
        build_map(place.photos, tmp_path / "map2", matcher, cameras=some, options=options)


def test_typos_in_a_camera_list_are_told(place: Place, caplog: pytest.LogCaptureFixture) -> None:
    names = sorted(place.names.values())
    all_given = dict.fromkeys(names, place.world.camera)
    assert given_cameras(all_given, names, "photos") == all_given
    assert given_cameras(None, names, "photos") == {}
    assert caplog.messages == []
    given = given_cameras(
        {**dict.fromkeys(names[1:], place.world.camera), "1.png": place.world.camera},
        names,
        "photos",
    )
    assert sorted(given) == names[1:]
    assert caplog.messages == [
        "1 names of the camera list are no photos in 'photos', e.g. 1.png",
        "1 photos without a given camera, e.g. 0001.png",
    ]
    with pytest.raises(InputError, match=r"none of the photos in 'photos'.*'1\.png'"):
        given_cameras({"1.png": place.world.camera}, names, "photos")


def test_edited_pair_file_is_another_input(place: Place, tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text("0001.png 0002.png\n0002.png 0003.png\n0001.png 0003.png\n")
    options = MapOptions(pairs=PairOptions(method="file", file=str(file)))
    matcher = FakeMatcher(place.world)
    known_poses = place.world.model(place.names)

    def build(overwrite: bool = False) -> Map:
        return build_map(
            place.photos, tmp_path / "map", matcher, options=options, known_poses=known_poses,
            overwrite=overwrite,
        )  # fmt: skip

    assert build().info.num_pairs == 3
    file.write_text("# order does not matter\n" + file.read_text())
    assert build().info.num_pairs == 3
    file.write_text(file.read_text() + "0003.png 0004.png\n")
    with pytest.raises(InputError, match=r"inputs\.pairs"):
        build()
    assert build(overwrite=True).info.num_pairs == 4
    file.write_text("0001.png typo.png\n")
    matcher.num_encoded = 0
    with pytest.raises(InputError, match=r"line 1: 'typo\.png' is no photo"):
        build_map(place.photos, tmp_path / "other", matcher, options=options)
    assert matcher.num_encoded == 0


def test_pair_file_may_name_photos_that_cannot_be_read(place: Place, tmp_path: Path) -> None:
    place.world.write_photos(tmp_path / "photos")
    (tmp_path / "photos" / "broken.png").write_bytes(b"no image")
    (tmp_path / "pairs.txt").write_text(
        "0001.png 0002.png\n0002.png 0003.png\n0001.png 0003.png\n0001.png broken.png\n"
    )
    options = MapOptions(pairs=PairOptions(method="file", file=str(tmp_path / "pairs.txt")))
    scene = build_map(
        tmp_path / "photos", tmp_path / "map", FakeMatcher(place.world), options=options,
        known_poses=place.world.model(place.names),
    )  # fmt: skip
    assert scene.info.num_pairs == 3


@pytest.mark.parametrize("posed", [True, False])
def test_matcher_without_keypoints(place: Place, tmp_path, posed) -> None:
    matcher = FakeDenseMatcher(place.world)
    cameras = dict.fromkeys(place.names.values(), place.world.camera)
    scene = build_map(
        place.photos,
        tmp_path / "map",
        matcher,
        known_poses=place.world.model(place.names) if posed else None,
        cameras=None if posed else cameras,
    )
    assert scene.image_names == sorted(place.names.values())
    assert place.world.centre_error(scene.reconstruction, place.names) < 0.02
    assert scene.reconstruction.compute_mean_track_length() > 5  # pairs share keypoints
    name = scene.image_names[3]
    assert len(scene.load_view(name).keypoints) == len(scene.point3D_ids(name))


def test_same_map_from_two_runs(place: Place, tmp_path) -> None:
    maps = [
        build_map(place.photos, tmp_path / name, FakeMatcher(place.world)) for name in ("a", "b")
    ]
    for name in maps[0].image_names:
        np.testing.assert_array_equal(
            maps[0].cam_from_world(name).matrix(), maps[1].cam_from_world(name).matrix()
        )
    assert maps[0].fingerprint == maps[1].fingerprint


def test_matches_beside_the_encoding_make_the_same_map(place: Place, tmp_path: Path) -> None:
    class Aside(FakeMatcher):
        encodes_aside = True

    class Steps:
        """How many pairs were matched when a step began."""

        def __init__(self, matcher: FakeMatcher) -> None:
            self.matcher = matcher
            self.matched_before: dict[str, int] = {}

        def __call__(
            self, items: Iterable[T], description: str, total: int | None = None
        ) -> Iterable[T]:
            self.matched_before[description] = self.matcher.num_matched
            return items

    photos = tmp_path / "photos"
    shutil.copytree(place.photos, photos)
    (photos / "0002b.png").write_text("no photo")  # pairs are not those that were expected
    maps, matched_early = [], []
    for matcher in (FakeMatcher(place.world), Aside(place.world)):
        steps = Steps(matcher)
        maps.append(build_map(photos, tmp_path / type(matcher).__name__, matcher, progress=steps))
        matched_early.append(steps.matched_before["matching photos"])
        assert list(maps[-1].info.not_registered) == ["0002b.png"]
        assert matcher.num_matched == len(place.names) * (len(place.names) - 1) // 2
    assert matched_early[0] == 0 < matched_early[1]
    assert maps[0].fingerprint == maps[1].fingerprint
    for name in maps[0].image_names:
        poses = [scene.cam_from_world(name).matrix() for scene in maps]
        np.testing.assert_array_equal(poses[0], poses[1])


def test_failed_reconstruction_stops_what_runs_beside_it(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described: list[Any] = []
    failed = threading.Event()

    class Slow(FakeMatcher):
        def local_descriptors(self, view: View) -> NDArray[np.float32]:
            assert failed.wait(20)
            described.append(view)
            return super().local_descriptors(view)

    def fails(*arguments: Any, **options: Any) -> None:
        threading.Timer(0.2, failed.set).start()
        raise InputError("no model")

    monkeypatch.setattr("mapping.build.structure_from_motion", fails)
    with pytest.raises(InputError, match="no model"):
        build_map(place.photos, tmp_path / "map", Slow(place.world))
    assert len(described) <= 1, "only the view it was at"


def test_up_to_date_map_is_opened_and_other_options_are_refused(place: Place, tmp_path) -> None:
    matcher = FakeMatcher(place.world)
    first = build_map(place.photos, tmp_path / "map", matcher)
    again = FakeMatcher(place.world)
    assert build_map(place.photos, tmp_path / "map", again).fingerprint == first.fingerprint
    assert again.num_encoded == again.num_matched == 0
    other = MapOptions(reconstruction=ReconstructionOptions(min_triangulation_angle_deg=3))
    with pytest.raises(InputError, match="min_triangulation_angle_deg"):
        build_map(place.photos, tmp_path / "map", matcher, options=other)
    with pytest.raises(InputError, match=r"'0003\.png' is no longer there"):
        build_map(place.photos, tmp_path / "map", matcher, image_names=["0001.png", "0002.png"])
    replaced = build_map(place.photos, tmp_path / "map", matcher, options=other, overwrite=True)
    assert replaced.info.options["reconstruction"]["min_triangulation_angle_deg"] == 3
    assert replaced.check() == []


def copied(source: Path, target: Path) -> Path:
    """The folder as another computer gets it: the same files with other times."""
    shutil.copytree(source, target)
    for number, file in enumerate(sorted(target.iterdir())):
        os.utime(file, ns=(10**18 + number, 10**18 + number))
    return target


def test_copied_photos_are_the_same_photos(place: Place, tmp_path: Path) -> None:
    matcher = FakeMatcher(place.world)
    photos = copied(place.photos, tmp_path / "copy")
    scene = build_map(place.photos, tmp_path / "map", matcher)
    done = matcher.num_encoded, matcher.num_matched
    assert build_map(photos, tmp_path / "map", matcher).fingerprint == scene.fingerprint
    assert (matcher.num_encoded, matcher.num_matched) == done
    assert scene.extend(photos, matcher).fingerprint == scene.fingerprint
    # the same size and other content is another photo
    file = photos / "0003.png"
    content = bytearray(file.read_bytes())
    content[-20] ^= 1
    file.write_bytes(content)
    with pytest.raises(InputError, match=r"'0003\.png' has changed\): overwrite"):
        build_map(photos, tmp_path / "map", matcher)
    shutil.copy(file, photos / "0000.png")
    with pytest.raises(InputError, match=r"'0000\.png' is new\): extend"):
        build_map(photos, tmp_path / "map", matcher)
    (photos / "0000.png").unlink()
    with pytest.raises(InputError, match=r"0003\.png' has another content"):
        scene.extend(photos, matcher)
    assert not (tmp_path / "map" / ".build").exists()


class DescribedMatcher(FakeMatcher):
    """Describes options as SIFT does."""

    max_ratio = SiftOptions().max_ratio

    def describe(self) -> dict[str, Any]:
        options = {"max_ratio": self.max_ratio, "peak_threshold": 0.1}
        return {**super().describe(), "name": "sift", "options": options}


def test_options_younger_than_the_map_count_as_their_defaults(place: Place, tmp_path: Path) -> None:
    matcher = DescribedMatcher(place.world)
    scene = build_map(place.photos, tmp_path / "map", matcher)
    options, described = copy.deepcopy((scene.info.options, scene.info.matcher))
    del options["reconstruction"]["pointmap_focal"]
    del options["pairs"]["top_k"]
    del described["options"]["max_ratio"]
    earlier = replace(scene.info, options=options, matcher=described)
    (tmp_path / "map" / "map.json").write_text(info_to_json(earlier))
    matcher.num_encoded = 0
    again = build_map(place.photos, tmp_path / "map", matcher)
    assert (again.info, matcher.num_encoded) == (earlier, 0)
    for settings, field in (
        (MapOptions(pairs=PairOptions(top_k=7)), r"pairs\.top_k"),
        (MapOptions(pairs=PairOptions(method="sequential")), r"pairs\.method"),
    ):
        with pytest.raises(OtherMapError, match=f"made with another 'options.{field}'"):
            build_map(place.photos, tmp_path / "map", matcher, options=settings)
    matcher.max_ratio = 0.5
    with pytest.raises(OtherMapError, match=r"made with another 'matcher\.options\.max_ratio'"):
        build_map(place.photos, tmp_path / "map", matcher)
    matcher.fingerprint = "of other encodings"  # what made them other is told all the same
    with pytest.raises(OtherMapError, match=r"made with another 'matcher\.options\.max_ratio'"):
        build_map(place.photos, tmp_path / "map", matcher)
    other = FakeMatcher(place.world)
    other.name, other.fingerprint = "other", "of the other"
    message = r"made with the matcher 'sift', not with 'other': take that \(--matcher sift\), over"
    with pytest.raises(OtherMapError, match=message):
        build_map(place.photos, tmp_path / "map", other)


def test_seconds_are_those_of_all_runs(
    place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seconds = iter(float(n) for n in range(0, 10**6, 10))  # each look at the clock is 10 s later
    monkeypatch.setattr(stage_clock.time, "perf_counter", lambda: next(seconds))

    def killed(items: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
        for number, item in enumerate(items):
            if description == "matching photos" and number == 3:
                raise KeyboardInterrupt
            yield item

    matcher = FakeMatcher(place.world)
    with pytest.raises(KeyboardInterrupt):
        build_map(place.photos, tmp_path / "map", matcher, progress=killed)
    noted = json.loads((tmp_path / "map/.build/stages/seconds.json").read_text())
    assert noted["encode"] >= 8 * 10 and noted["match"] >= 3 * 10
    scene = build_map(place.photos, tmp_path / "map", matcher)
    assert scene.info.seconds["encode"] > noted["encode"]
    assert scene.info.seconds["match"] > noted["match"]
    extended = scene.extend(copied_as_new(place, tmp_path / "more"), matcher)
    assert extended.info.seconds["encode"] == scene.info.seconds["encode"]
    assert extended.info.seconds["extend"] > 0
    assert not (tmp_path / "map" / ".build").exists()


def copied_as_new(place: Place, target: Path) -> Path:
    target.mkdir()
    shutil.copy(place.photos / "0002.png", target / "again.png")
    return target


def test_unfinished_map_of_another_matcher_is_kept(place: Place, tmp_path: Path) -> None:
    def interrupted(items: Iterable[Any], description: str, total: int | None = None) -> Any:
        if description == "matching photos":
            raise KeyboardInterrupt
        return items

    first, other = FakeMatcher(place.world), FakeMatcher(place.world, noise_px=0.1)
    call = (place.photos, tmp_path / "map")
    with pytest.raises(KeyboardInterrupt):
        build_map(*call, first, progress=interrupted)
    with pytest.raises(OtherMapError, match=r"an unfinished map by other weights .* 'fake': go on"):
        build_map(*call, other)
    other.name = "other"
    with pytest.raises(OtherMapError, match="an unfinished map by the matcher 'fake': go on"):
        build_map(*call, other)
    first.num_encoded = 0
    assert build_map(*call, first).info.matcher["name"] == "fake"
    assert first.num_encoded == 0, "nothing is lost"
    with pytest.raises(KeyboardInterrupt):
        build_map(place.photos, tmp_path / "again", first, progress=interrupted)
    scene = build_map(place.photos, tmp_path / "again", other, overwrite=True)
    assert scene.info.matcher["name"] == "other"


def test_what_headers_tell_is_told_before_the_work(place: Place, tmp_path: Path) -> None:
    matcher = FakeMatcher(place.world)
    misfit = pycolmap.Camera(place.world.camera.todict())
    misfit.rescale(2 * misfit.width, 2 * misfit.height)
    cameras = dict.fromkeys(place.names.values(), misfit)
    with pytest.raises(InputError, match=r"only 0 of 8 photos can be used.* its camera is for"):
        build_map(place.photos, tmp_path / "map", matcher, cameras=cameras)
    model = ReconstructionOptions(camera_model="PINHOL")
    with pytest.raises(InputError, match="unknown camera model 'PINHOL'"):
        build_map(place.photos, tmp_path / "map", matcher, options=MapOptions(reconstruction=model))
    assert matcher.num_encoded == 0 and not (tmp_path / "map").exists()
    some = dict(list(place.names.items())[:5])
    scene = build_map(place.photos, tmp_path / "map", matcher, known_poses=place.world.model(some))
    assert matcher.num_encoded == 5, "photos without a pose are of no use"
    assert set(scene.info.not_registered.values()) == {"the known poses do not hold it"}


def test_refusals_leave_nothing_behind(place: Place, tmp_path: Path) -> None:
    matcher = FakeMatcher(place.world)
    scene = build_map(place.photos, tmp_path / "map", matcher, image_names=["0001.png", "0002.png"])
    before = sorted((tmp_path / "map").iterdir())
    bad = tmp_path / "bad"
    bad.mkdir()
    (bad / "x.png").write_text("no photo")
    with pytest.raises(InputError, match="no new photo can be used"):
        scene.extend(bad, matcher)
    with pytest.raises(InputError, match="only 0 of 1 photos can be used"):
        build_map(bad, tmp_path / "map", matcher, overwrite=True)
    assert sorted((tmp_path / "map").iterdir()) == before and scene.check() == []
    with pytest.raises(InputError, match="only 0 of 1 photos can be used"):
        build_map(bad, tmp_path / "new", matcher)
    assert not (tmp_path / "new").exists()
