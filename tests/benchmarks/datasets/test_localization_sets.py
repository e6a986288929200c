"""Every published localization data set, in miniature, through its whole benchmark."""

import io
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from benchmarks.datasets import inloc_poses, photo_check
from benchmarks.datasets.task import LocalizationTask
from benchmarks.evaluate import true_poses
from benchmarks.interchange import kapture
from benchmarks.registry import BENCHMARKS
from benchmarks.run import check_benchmark, run_benchmark
from benchmarks.scores import scene_folder
from benchmarks.submissions import (
    bare_name,
    camera_and_name,
    check_submission,
    read_submission_poses,
)
from localize.results import read_poses
from matching.errors import InputError
from tests.benchmarks.miniature_sets import SIFT, WRITERS, Miniature, WholeRun

Miniatures = Callable[[str], Miniature]

SUBMISSIONS = {
    "aachen": ("Aachen_eval_sift.txt", bare_name),
    "inloc": ("InLoc_eval_sift.txt", bare_name),
    "cmu": ("CMU_eval_sift.txt", bare_name),
    "robotcar": ("RobotCar_eval_sift.txt", camera_and_name),
}


def read_scene(name: str, root: Path, **options: Any) -> LocalizationTask:
    kind = BENCHMARKS[name]
    dataset = kind.open(root, kind.options(**options))
    assert len(dataset.scenes) == 1
    task = dataset.read(dataset.scenes[0])
    return replace(task, reference=task.known_poses())


def gap(a: pycolmap.Rigid3d, b: pycolmap.Rigid3d) -> tuple[float, float]:
    """Metres between the centres, degrees between the rotations."""
    metres = np.linalg.norm(a.inverse().translation - b.inverse().translation)
    return float(metres), float(np.degrees((a * b.inverse()).rotation.angle()))


@pytest.mark.parametrize("name", WRITERS)
def test_whole_benchmark(
    name: str, miniature: Miniatures, whole_run: Callable[[str], WholeRun]
) -> None:
    """Map, localization, scores, submission: errors as small as SIFT's on these renderings."""
    mini, run = miniature(name), whole_run(name)
    report, out = run.report, run.out
    dataset = BENCHMARKS[name].open(mini.root, BENCHMARKS[name].options())
    poses = read_poses(scene_folder(out, dataset, dataset.scenes[0]) / "poses.txt")
    assert poses.keys() == mini.queries.keys()
    for query, pose in poses.items():
        metres, degrees = gap(pose, mini.queries[query])
        # a pixel at the 11 m that the photos are taken from is 4 cm wide and 0.2 degrees
        assert metres < 0.035 and degrees < 0.18, (query, metres, degrees)
    given = read_scene(name, mini.root).truth
    truth = {} if given is None else true_poses(given)
    if not truth:
        assert report.median_translation_error_m is None
        assert report.num_queries == len(mini.queries)
    else:  # CMU and RobotCar tell the poses of some queries
        assert report.median_translation_error_m < 0.025
        assert report.num_queries == len(set(mini.queries) & set(truth))
        assert report.unscored == dict.fromkeys(set(mini.queries) - set(truth), True)
    if name in SUBMISSIONS:
        file, line_name = SUBMISSIONS[name]
        names = [line_name(query) for query in mini.queries]
        assert check_submission(out / file, names) == []
        submitted = read_submission_poses(out / file)
        for query, pose in poses.items():
            assert max(gap(submitted[line_name(query)], pose)) < 1e-5


@pytest.mark.parametrize("name", WRITERS)
def test_reader_finds_the_exact_poses(name: str, miniature: Miniatures) -> None:
    mini = miniature(name)
    task = read_scene(name, mini.root)
    assert set(task.map_names) == set(mini.map_photos)
    assert set(task.query_cameras) == set(mini.queries)
    assert task.reference is not None
    true = {**mini.map_photos, **mini.queries}  # a folder's model holds those of the queries too
    if name != "colmap":
        assert {i.name for i in task.reference.images.values()} == set(mini.map_photos)
    for image in task.reference.images.values():
        assert max(gap(image.cam_from_world(), true[image.name])) < 1e-5
        # what an inverted pose would look like: nothing in these worlds is symmetric
        assert gap(image.cam_from_world().inverse(), true[image.name])[0] > 1.0
    if task.truth is not None:
        truth = true_poses(task.truth)
        known = [query for query in mini.queries if query in truth]
        assert known
        for query in known:
            assert max(gap(truth[query], mini.queries[query])) < 1e-5


def _center_as_translation(quat_wxyz: Any, where: str, **given: Any) -> pycolmap.Rigid3d:
    rotation = pycolmap.Rotation3d(np.roll(quat_wxyz, -1))
    if "center" in given:
        return pycolmap.Rigid3d(rotation, given["center"])
    return pycolmap.Rigid3d(rotation, -(rotation.matrix() @ given["translation"]))


def _w_last(quat_wxyz: Any, where: str, **given: Any) -> pycolmap.Rigid3d:
    rotation = pycolmap.Rotation3d(quat_wxyz)
    if "center" in given:
        return pycolmap.Rigid3d(rotation, -(rotation.matrix() @ given["center"]))
    return pycolmap.Rigid3d(rotation, given["translation"])


def _rotation_inverted(quat_wxyz: Any, where: str, **given: Any) -> pycolmap.Rigid3d:
    return _w_last(np.roll(quat_wxyz * [1, -1, -1, -1], -1), where, **given)


def _camera_to_world_as_its_inverse(matrix: Any, where: str) -> pycolmap.Rigid3d:
    return pycolmap.Rigid3d(matrix[:3])


_KAPTURE_POSE = kapture._pose


def _inverted_pose(row: list[str], where: str) -> pycolmap.Rigid3d | None:
    pose = _KAPTURE_POSE(row, where)
    return None if pose is None else pose.inverse()


QUATERNIONS = (_center_as_translation, _w_last, _rotation_inverted)
WRONG = [
    *(("cambridge", "benchmarks.datasets.cambridge.pose_from_quaternion", w) for w in QUATERNIONS),
    *(("cmu", "benchmarks.datasets.cmu.pose_from_quaternion", wrong) for wrong in QUATERNIONS),
    *(("aachen", "benchmarks.datasets.nvm.pose_from_quaternion", wrong) for wrong in QUATERNIONS),
    *(
        (name, f"benchmarks.datasets.{module}.pose_from_world_from_cam", wrong)
        for name, module in (("7scenes", "seven_scenes"), ("12scenes", "twelve_scenes"))
        for wrong in (_camera_to_world_as_its_inverse,)
    ),
    (
        "robotcar",
        "benchmarks.datasets.robotcar.pose_from_world_from_cam",
        _camera_to_world_as_its_inverse,
    ),
    ("inloc", "benchmarks.datasets.inloc_poses._AFTER", "before general icp:"),
    ("kapture", "benchmarks.interchange.kapture._pose", _inverted_pose),
]


@pytest.mark.parametrize(
    ("name", "target", "wrong"), WRONG, ids=lambda value: getattr(value, "__name__", str(value))
)
def test_a_wrong_convention_is_a_large_error(
    name: str,
    target: str,
    wrong: Any,
    miniature: Miniatures,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Were the reader's convention another, its poses would be far off: the test above sees it."""
    mini = miniature(name)
    monkeypatch.setattr(target, wrong)
    inloc_poses._read_transformation.cache_clear()
    task = read_scene(name, mini.root, **({"version": "v1.0"} if name == "aachen" else {}))
    inloc_poses._read_transformation.cache_clear()
    assert task.reference is not None
    gaps = [
        gap(image.cam_from_world(), mini.map_photos[image.name])
        for image in task.reference.images.values()
    ]
    gaps += [gap(task.truth[q], p) for q, p in mini.queries.items() if q in (task.truth or {})]
    metres, degrees = np.array(gaps).T
    assert metres.max() > 0.2 or degrees.max() > 20


def test_a_wrong_convention_fails_the_whole_benchmark(
    miniature: Miniatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not one query comes near its true pose when centres are taken for translations."""
    monkeypatch.setattr(
        "benchmarks.datasets.cambridge.pose_from_quaternion", _center_as_translation
    )
    mini = miniature("cambridge")
    try:
        run_benchmark("cambridge", mini.root, tmp_path, matcher=SIFT, limit=1)
    except InputError as error:
        assert "known poses do not fit the photos" in str(error)
        return
    for query, pose in read_poses(tmp_path / "ShopFacade" / "poses.txt").items():
        assert gap(pose, mini.queries[query])[0] > 5.0


NEEDED = [
    ("aachen", "3D-models/aachen_v_1_1/images.bin", "no COLMAP model"),
    ("aachen", "queries/night_time_queries_with_intrinsics.txt", "night_time_queries"),
    ("aachen", "images_upright/db/1045.jpg", "no photo"),
    ("cambridge", "ShopFacade/dataset_test.txt", "dataset_test.txt"),
    ("cambridge", "ShopFacade/reconstruction.nvm", "reconstruction.nvm"),
    ("7scenes", "chess/TestSplit.txt", "TestSplit.txt"),
    ("7scenes", "chess/seq-01/frame-000000.pose.txt", "frame-000000.pose.txt"),
    ("12scenes", "apt1/kitchen/info.txt", "info.txt"),
    ("12scenes", "apt1/kitchen/split.txt", "split.txt"),
    ("inloc", "database/alignments/DUC1/transformations/DUC_trans_019.txt", "DUC_trans_019.txt"),
    ("inloc", "database/cutouts/DUC2/102/DUC_cutout_102_60_0.jpg.mat", "DUC_cutout_102_60_0"),
    ("cmu", "intrinsics.txt", "intrinsics.txt"),
    ("cmu", "slice7/test-images-slice7.txt", "test-images-slice7.txt"),
    ("robotcar", "intrinsics/left_intrinsics.txt", "left_intrinsics.txt"),
    ("robotcar", "queries_per_location/queries_location_013.txt", "queries_location_013.txt"),
    ("kapture", "mapping/sensors/sensors.txt", "sensors.txt"),
    ("kapture", "query/sensors/records_camera.txt", "records_camera.txt"),
]


# photos are decoded when they are used, not when they are listed
DAMAGED = [
    (*needed, damage)
    for needed in NEEDED
    for damage in ("missing", "odd")
    if damage == "missing" or not needed[1].endswith(".jpg")
]


@pytest.mark.parametrize(
    ("name", "file", "message", "damage"), DAMAGED, ids=[f"{d[3]} {d[1]}" for d in DAMAGED]
)
def test_a_missing_or_odd_file_is_named(
    name: str,
    file: str,
    message: str,
    damage: str,
    miniature: Miniatures,
    tmp_path: Path,
) -> None:
    inloc_poses._read_transformation.cache_clear()
    root = tmp_path / "data"
    shutil.copytree(miniature(name).root, root)
    if damage == "missing":
        (root / file).unlink()
    else:
        (root / file).write_bytes(b"odd, odd\n")
    with pytest.raises(InputError) as caught:
        read_scene(name, root)
    expected = Path(file).name if damage == "odd" else message
    assert expected in str(caught.value)


@pytest.mark.parametrize("name", WRITERS)
def test_check_counts_against_the_published_numbers(name: str, miniature: Miniatures) -> None:
    mini = miniature(name)
    check = check_benchmark(name, mini.root)
    found = [count.found for count in check.counts]
    assert len(mini.map_photos) in found and len(mini.queries) in found
    # a miniature is no complete download, and where the publishers say so it shows
    published = {"aachen", "cambridge", "7scenes", "12scenes", "inloc", "robotcar"}
    assert check.complete == (name not in published)


def test_the_end_of_a_thumbnail_is_not_that_of_the_photo(tmp_path: Path) -> None:
    file, pixels = io.BytesIO(), np.random.default_rng(0).integers(0, 256, (64, 64, 3), np.uint8)
    Image.fromarray(pixels).save(file, "JPEG")
    photo = file.getvalue()
    block = b"Exif\0\0" + photo
    whole = photo[:2] + b"\xff\xe1" + (len(block) + 2).to_bytes(2, "big") + block + photo[2:]
    (tmp_path / "a.jpg").write_bytes(whole)
    assert photo_check.damage(tmp_path / "a.jpg") == ""
    (tmp_path / "a.jpg").write_bytes(whole[:-1000])
    assert "a.jpg" in photo_check.damage(tmp_path / "a.jpg")


@pytest.mark.parametrize("name", WRITERS)
def test_the_folder_beside_is_offered(name: str, miniature: Miniatures, tmp_path: Path) -> None:
    """One folder too deep or too high is what is most often typed."""
    root = miniature(name).root
    (tmp_path / "data").symlink_to(root)
    if name == "colmap":  # any folder may be one: what it lacks is told when it is read
        return
    if name != "kapture":  # a folder of kapture folders is a data set of several scenes
        with pytest.raises(InputError, match=rf"; did you mean '{tmp_path}/data'\?"):
            check_benchmark(name, tmp_path)
    below = sorted(p for p in root.iterdir() if p.is_dir())[-1]
    with pytest.raises(InputError, match=rf"; did you mean '{root}'\?"):
        check_benchmark(name, below)


def test_photos_that_broke_off_are_found(miniature: Miniatures, tmp_path: Path) -> None:
    assert "no photo" in photo_check.damage(tmp_path / "missing.jpg")
    root = tmp_path / "data"
    for name, photos in (
        ("aachen", ("images_upright/db/1045.jpg", "images_upright/query/day/nexus4/*.jpg")),
        ("7scenes", ("chess/seq-01/frame-000000.color.png",)),
    ):
        shutil.copytree(miniature(name).root, root, dirs_exist_ok=True)
        assert check_benchmark(name, root).damaged == []
        for pattern in photos:
            photo = next(root.glob(pattern))
            photo.write_bytes(photo.read_bytes()[:-4000])
        check = check_benchmark(name, root)
        assert len(check.damaged) == len(photos) and not check.complete
        assert f"{len(photos)} damaged photos, such as: '" in check.failure
        # what a camera writes after the end of a photo is no damage
        whole = next(root.glob(photos[0]))
        whole.write_bytes((miniature(name).root / photos[0]).read_bytes() + bytes(100_000))
        assert len(check_benchmark(name, root).damaged) == len(photos) - 1
