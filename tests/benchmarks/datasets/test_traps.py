"""What is easily misread in the published data sets, fact by fact."""

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from benchmarks.commands import BenchmarkCall
from benchmarks.datasets import inloc, inloc_poses, seven_scenes
from benchmarks.datasets.cambridge import CambridgeOptions, read_cambridge
from benchmarks.datasets.depth import read_depth_mm, surface_of_depth
from benchmarks.datasets.inloc import InlocOptions, open_inloc, read_inloc
from benchmarks.datasets.nvm import read_nvm
from benchmarks.datasets.posed_photos import pose_from_quaternion, published_retrieval
from benchmarks.datasets.robotcar import RobotcarOptions, open_robotcar, read_robotcar
from benchmarks.datasets.seven_scenes import (
    COLOR_FROM_DEPTH,
    COUNTS,
    SevenScenesOptions,
    read_seven_scenes,
)
from benchmarks.datasets.task import LocalizationTask
from benchmarks.datasets.twelve_scenes import TwelveScenesOptions, read_twelve_scenes
from benchmarks.jobs import Job
from benchmarks.kinds import LocalizationBenchmark
from benchmarks.miniatures import aachen as mini_aachen
from benchmarks.miniatures import cambridge as mini_cambridge
from benchmarks.miniatures import inloc as mini_inloc
from benchmarks.miniatures import robotcar as mini_robotcar
from benchmarks.miniatures import seven_scenes as mini_seven
from benchmarks.miniatures import twelve_scenes as mini_twelve
from benchmarks.miniatures.studio import Studio, camera_center, pinhole
from benchmarks.plan import Check
from benchmarks.published import PUBLISHED
from benchmarks.registry import BENCHMARKS
from benchmarks.rendered_place import RenderedPlace
from benchmarks.run import check_benchmark
from matching.errors import InputError
from matching.images import image_size
from tests.benchmarks.miniature_sets import Miniature

Miniatures = Callable[[str], Miniature]


def reference_camera(task: LocalizationTask, name: str) -> pycolmap.Camera:
    model = task.known_poses()
    assert model is not None
    return pycolmap.Camera(model.camera(model.find_image_with_name(name).camera_id).todict())


def on_surface(task: LocalizationTask, name: str, step: int = 7) -> tuple[np.ndarray, float]:
    """Pixel errors of surface points projected into their own photo; share of known pixels."""
    model = task.known_poses()
    assert task.surfaces is not None and model is not None
    surface = task.surfaces(name)
    height, width = surface.shape[:2]
    rows, columns = np.mgrid[0:height:step, 0:width:step]
    points = surface[rows, columns].reshape(-1, 3).astype(float)
    known = np.isfinite(points).all(1)
    image = model.find_image_with_name(name)
    in_cam = image.cam_from_world() * points[known]
    pixels = np.asarray(reference_camera(task, name).img_from_cam(in_cam))
    expected = np.stack([columns.ravel(), rows.ravel()], axis=1)[known] + 0.5
    return np.linalg.norm(pixels - expected, axis=1), float(known.mean())


# -------------------------------------------------------------------------------------- Aachen


def test_aachen_ignores_exif_and_swaps_nothing(miniature: Miniatures) -> None:
    root = miniature("aachen").root
    task = BENCHMARKS["aachen"].open(root, BENCHMARKS["aachen"].options()).read("aachen")
    turned, portrait = mini_aachen.DAY
    path = task.images / turned
    assert image_size(path) == (240, 320)  # as its EXIF says
    camera = task.query_cameras[turned]
    assert camera is not None and (camera.width, camera.height) == (320, 240)
    camera = task.query_cameras[portrait]
    assert camera is not None and (camera.width, camera.height) == (240, 320)
    # the lists' principal points are COLMAP's: half the width is the middle
    assert camera.principal_point_x == 120 and camera.params[3] == -0.06


def test_aachen_lists_of_day_and_night(miniature: Miniatures) -> None:
    root = miniature("aachen").root
    kind = BENCHMARKS["aachen"]
    for version, num_night, num_map in (("v1.0", 98, 4328), ("v1.1", 191, 6697)):
        dataset = kind.open(root, kind.options(version=version))
        assert dataset.counts["aachen"].queries == 824 + num_night
        assert dataset.counts["aachen"].map == num_map
        assert version in dataset.title and dataset.published == f"aachen-{version}"
        task = dataset.read("aachen")
        night = [name for name, label in task.conditions.items() if label == "night"]
        assert tuple(night) == mini_aachen.NIGHT_V1_0
        has_sequences = any(name.startswith("sequences/") for name in task.map_names)
        assert has_sequences == (version == "v1.1")


def test_aachen_intrinsics_are_not_the_nvms(miniature: Miniatures) -> None:
    root = miniature("aachen").root
    kind = BENCHMARKS["aachen"]
    task = kind.open(root, kind.options(version="v1.0")).read("aachen")
    name = mini_aachen.DATABASE[0]
    in_nvm = read_nvm(root / "3D-models" / "aachen_cvpr2018_db.nvm")[name].focal_px
    focal = reference_camera(task, name).focal_length
    assert in_nvm == pytest.approx(1.07 * focal) and focal == 270.0


# --------------------------------------------------------------------------------------- InLoc


def test_inloc_focal_length_is_of_the_long_side(miniature: Miniatures) -> None:
    task = read_inloc(miniature("inloc").root, InlocOptions())
    for name, size in zip(mini_inloc.QUERIES, ((320, 240), (240, 320)), strict=False):
        camera = task.query_cameras[name]
        assert camera is not None and (camera.width, camera.height) == size
        assert camera.focal_length == pytest.approx(320 * 28 / 36)
        assert camera.principal_point_x == size[0] / 2
    # of the published sizes: 3136 px at 4032, 1385.64 px at 1600
    assert pytest.approx(3136) == inloc.QUERY_FOCAL_PER_LONG_SIDE * 4032
    cutout = reference_camera(task, mini_inloc.CUTOUTS[0])
    assert cutout.focal_length * 1600 / 320 == pytest.approx(1385.6406, abs=1e-3)


def test_inloc_scan_points_lie_in_their_pixels(miniature: Miniatures) -> None:
    task = read_inloc(miniature("inloc").root, InlocOptions())
    for name in mini_inloc.CUTOUTS:
        errors, known = on_surface(task, name)
        assert np.median(errors) < 0.05
        assert 0.5 < known < 1.0  # the sky is NaN


def test_inloc_poses_are_computed_once_and_kept_one_by_one(
    miniature: Miniatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cutouts.jsonl"
    options = InlocOptions(cutout_poses=str(cache))
    root = miniature("inloc").root
    computed = inloc_poses.cutout_pose

    def killed(root: Path, name: str, camera: pycolmap.Camera) -> pycolmap.Rigid3d | None:
        if name == mini_inloc.CUTOUTS[4]:
            raise KeyboardInterrupt
        return computed(root, name, camera)

    monkeypatch.setattr(inloc_poses, "cutout_pose", killed)
    task = read_inloc(root, options)  # lists, scores and plans need no pose
    assert not cache.exists() and set(task.map_names) == set(mini_inloc.CUTOUTS)
    with pytest.raises(KeyboardInterrupt):
        task.known_poses()
    with cache.open("a") as file:
        file.write('\n{"name": "database')  # killed while it wrote
    asked: list[str] = []

    def counted(root: Path, name: str, camera: pycolmap.Camera) -> pycolmap.Rigid3d | None:
        asked.append(name)
        return computed(root, name, camera)

    monkeypatch.setattr(inloc_poses, "cutout_pose", counted)
    first = read_inloc(root, options).known_poses()
    assert asked == list(mini_inloc.CUTOUTS[4:])
    second = read_inloc(root, options).known_poses()  # another process: nothing is read again
    assert asked == list(mini_inloc.CUTOUTS[4:])
    assert first is not None and second is not None and second.num_images() == 6
    for image in first.images.values():
        again = second.find_image_with_name(image.name).cam_from_world()
        np.testing.assert_array_equal(again.matrix(), image.cam_from_world().matrix())
    # a file of another size is another scan
    cache.write_text(cache.read_text().replace('"num_bytes": ', '"num_bytes": 1'))
    read_inloc(root, options).known_poses()
    assert len(asked) == 2 + 6
    cache.write_text("poses.txt of something else\n")
    with pytest.raises(InputError, match="keeps no poses of cutouts"):
        read_inloc(root, options).known_poses()
    dataset = open_inloc(root, options)
    assert dataset.counts["inloc"].map == 9972 and dataset.counts["inloc"].queries == 356


def test_shards_share_the_poses_of_inloc_through_the_runs_folder(
    miniature: Miniatures, tmp_path: Path
) -> None:
    kind = BENCHMARKS["inloc"]
    assert isinstance(kind, LocalizationBenchmark)
    job = Job(name="inloc", root=miniature("inloc").root, out=tmp_path, options=InlocOptions())
    for _ in range(2):
        task = kind._dataset(job).read("inloc")
        assert task.known_poses() is not None
    lines = (tmp_path / "cutout_poses.jsonl").read_text().split()
    assert sum('"name":' in line for line in lines) == len(mini_inloc.CUTOUTS)
    # where nothing may be written nothing is kept
    check_benchmark("inloc", job.root)


def test_a_check_keeps_the_poses_of_inloc_for_the_run(
    miniature: Miniatures, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, out = miniature("inloc").root, tmp_path / "run"
    call = BenchmarkCall.of("inloc", {}, check=True, out=str(out))
    assert isinstance(call.run(root), Check)
    assert [file.name for file in out.iterdir()] == ["cutout_poses.jsonl"]
    monkeypatch.setattr(inloc_poses, "cutout_pose", None)  # none is computed again
    kind = BENCHMARKS["inloc"]
    assert isinstance(kind, LocalizationBenchmark)
    job = Job(name="inloc", root=root, out=out, options=InlocOptions())
    assert kind._dataset(job).read("inloc").known_poses() is not None
    call.run(root)


def test_inloc_leaves_out_cutouts_without_points(
    miniature: Miniatures, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    scanned = inloc_poses.scan_points
    empty = mini_inloc.CUTOUTS[2]

    def fewer(root: Path, name: str) -> np.ndarray:
        return scanned(root, name) * (np.nan if name == empty else 1.0)

    root = miniature("inloc").root
    monkeypatch.setattr(inloc_poses, "scan_points", fewer)
    with pytest.raises(InputError, match=r"1 of 6 cutouts .*DUC_cutout_019_0_30\.jpg\.mat"):
        read_inloc(root, InlocOptions()).known_poses()
    monkeypatch.setattr(inloc_poses, "_MAX_UNPOSED", 0.5)
    with caplog.at_level(logging.WARNING):
        model = read_inloc(root, InlocOptions()).known_poses()
    assert "1 cutouts have too few scan points" in caplog.text
    assert model is not None and model.num_images() == 5
    assert model.find_image_with_name(empty) is None
    # the download is whole all the same
    pairs = str(root / "pairs-query-netvlad40-temporal.txt")
    for options in ({}, {"retrieval_pairs": pairs}):
        assert check_benchmark("inloc", root, options=options).counts[0].found == 6


def test_a_damaged_scan_is_named(miniature: Miniatures, tmp_path: Path) -> None:
    name = mini_inloc.CUTOUTS[0]
    data = bytearray((miniature("inloc").root / f"{name}.mat").read_bytes())
    data[len(data) // 4] ^= 0xFF  # inside the compressed numbers
    (tmp_path / name).parent.mkdir(parents=True)
    (tmp_path / f"{name}.mat").write_bytes(data)
    with pytest.raises(InputError, match="is no readable MATLAB file"):
        inloc_poses.scan_points(tmp_path, name)


def test_inloc_maps_only_what_the_list_names(miniature: Miniatures, tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.txt"
    pairs.write_text("\n".join(f"{mini_inloc.QUERIES[0]} {n}" for n in mini_inloc.CUTOUTS[1:4]))
    task = read_inloc(miniature("inloc").root, InlocOptions(retrieval_pairs=str(pairs)))
    assert set(task.map_names) == set(mini_inloc.CUTOUTS[1:4])
    assert task.retrieval == {mini_inloc.QUERIES[0]: list(mini_inloc.CUTOUTS[1:4])}
    assert set(task.query_cameras) == set(mini_inloc.QUERIES)  # the others are still queries


# ------------------------------------------------------------------------- 7-Scenes, 12-Scenes


def test_invalid_depth(tmp_path: Path) -> None:
    values = np.array([[0, 65535, 1500], [1, 65534, 2000]], np.uint16)
    Image.fromarray(values).save(tmp_path / "d.png")
    expected = [[np.nan, np.nan, 1.5], [0.001, 65.534, 2.0]]
    np.testing.assert_allclose(read_depth_mm(tmp_path / "d.png"), expected)
    Image.fromarray((values % 256).astype(np.uint8)).save(tmp_path / "byte.png")
    with pytest.raises(InputError, match="no 16-bit depth image"):
        read_depth_mm(tmp_path / "byte.png")


@pytest.mark.parametrize("registration", ["kinect", "none"])
def test_registration_of_depth(registration: Any, miniature: Miniatures) -> None:
    """The pose files are the depth camera's; the colour camera stands 2.6 cm beside it."""
    mini = miniature("7scenes")
    options = SevenScenesOptions(registration=registration)
    task = read_seven_scenes(mini.root, mini_seven.SCENE, options)
    assert isinstance(task.truth, dict)
    for name, pose in mini.queries.items():
        centers = [p.inverse().translation for p in (pose, task.truth[name])]
        gap = np.linalg.norm(centers[0] - centers[1])
        expected = 0.0 if registration == "kinect" else np.linalg.norm(COLOR_FROM_DEPTH[:3, 3])
        assert gap == pytest.approx(expected, abs=1e-6)


def test_numbers_of_the_kinect_are_the_published_ones() -> None:
    """Typed again: the miniature is made with the reader's own."""
    rotation = [
        [0.99996518, 0.00267651, -0.00790410],
        [-0.00274093, 0.99996303, -0.00815045],
        [0.00788199, 0.00817183, 0.99993554],
    ]
    np.testing.assert_array_equal(COLOR_FROM_DEPTH[:3, :3], rotation)
    translation = [-0.02555894, 0.00010110, 0.00203183]
    np.testing.assert_array_equal(COLOR_FROM_DEPTH[:3, 3], translation)
    assert (seven_scenes.COLOR_FOCAL_PX, seven_scenes.DEPTH_FOCAL_PX) == (525, 585)


def test_depth_of_both_sets_lies_in_the_colour_pixels(miniature: Miniatures) -> None:
    tasks = (
        read_seven_scenes(miniature("7scenes").root, mini_seven.SCENE, SevenScenesOptions()),
        read_twelve_scenes(miniature("12scenes").root, mini_twelve.SCENE, TwelveScenesOptions()),
    )
    for task in tasks:
        errors, known = on_surface(task, task.map_names[0])
        # exact by construction: points are made on the rays of their pixels
        assert errors.max() < 1e-2 and known > 0.5


def test_depth_agrees_with_the_rendered_one(studio: Studio, miniature: Miniatures) -> None:
    """Points of the depth image, taken through both cameras, are where the colour camera's are."""
    task = read_seven_scenes(miniature("7scenes").root, mini_seven.SCENE, SevenScenesOptions())
    assert task.surfaces is not None
    shot = studio.shot("map", 0, pinhole(320, 240, 262.5), mini_seven.WORLD)
    world_from_cam = np.linalg.inv(shot.cam_from_world)
    expected = shot.points_in_cam() @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]
    gap = np.linalg.norm(task.surfaces(mini_seven.TRAIN[0]) - expected, axis=-1)
    known = np.isfinite(gap)
    depth = np.linalg.norm(expected - camera_center(shot.cam_from_world), axis=-1)
    assert known.mean() > 0.5
    # a depth pixel is 0.34 % of the depth wide, and its value counts anywhere in it
    assert np.median((gap / depth)[known]) < 0.002
    assert ((gap / depth)[known] < 0.02).mean() > 0.95


def test_depth_behind_an_edge_is_not_taken() -> None:
    """Where the depth camera sees a near thing that the colour camera sees beside."""
    depth = np.full((30, 40), 4.0)
    depth[:, 10:20] = 1.0
    K = np.array([[40.0, 0, 20], [0, 40, 15], [0, 0, 1]])
    aside = np.eye(4)
    aside[0, 3] = -0.2
    surface = surface_of_depth(depth, K, K, (40, 30), aside, np.eye(4))
    z = surface[15, :, 2]
    assert set(np.round(z[np.isfinite(z)]).astype(int)) == {1, 4}
    # the near strip moves by 8 pixels, the far wall by 2; between them nothing is known
    assert z[5] == pytest.approx(1.0) and z[30] == pytest.approx(4.0)
    assert np.isnan(z).sum() > 3
    nothing = surface_of_depth(np.full((3, 4), np.nan), K, K, (4, 3), aside, np.eye(4))
    assert np.isnan(nothing).all()


def test_depth_that_is_asked_for_must_be_there(miniature: Miniatures, tmp_path: Path) -> None:
    shutil.copytree(miniature("7scenes").root, tmp_path / "data")
    (tmp_path / "data" / mini_seven.SCENE / "seq-01/frame-000020.depth.png").unlink()
    read_seven_scenes(tmp_path / "data", mini_seven.SCENE, SevenScenesOptions())
    with pytest.raises(InputError, match=r"frame-000020\.depth\.png"):
        read_seven_scenes(
            tmp_path / "data", mini_seven.SCENE, SevenScenesOptions(map_points="depth")
        )


def test_both_truths_of_seven_scenes(studio: Studio, tmp_path: Path) -> None:
    queries = mini_seven.write_seven_scenes(tmp_path, studio, sfm=True)
    task = read_seven_scenes(tmp_path, mini_seven.SCENE, SevenScenesOptions(truth="sfm"))
    assert isinstance(task.truth, dict)
    for name, pose in queries.items():
        np.testing.assert_allclose(task.truth[name].matrix(), pose.matrix(), atol=1e-9)
        camera = task.query_cameras[name]
        assert camera is not None
        assert camera.focal_length == pytest.approx(mini_seven.SFM_FOCAL_PX / 2)
    kinect = read_seven_scenes(tmp_path, mini_seven.SCENE, SevenScenesOptions())
    camera = kinect.query_cameras[next(iter(queries))]
    assert camera is not None and camera.focal_length == 525 / 2
    assert set(COUNTS) >= {"redkitchen"} and sum(c.queries or 0 for c in COUNTS.values()) == 17000
    shutil.rmtree(tmp_path / "pgt")
    with pytest.raises(InputError, match="visloc_pseudo_gt_limitations"):
        read_seven_scenes(tmp_path, mini_seven.SCENE, SevenScenesOptions(truth="sfm"))


def test_lost_frames_of_twelve_scenes_take_no_part(miniature: Miniatures) -> None:
    root = miniature("12scenes").root
    task = read_twelve_scenes(root, mini_twelve.SCENE, TwelveScenesOptions())
    assert mini_twelve.LOST not in task.query_cameras and len(task.query_cameras) == 2
    # the pseudo truth has a pose of it: 5,782 queries in place of 5,702
    sfm = read_twelve_scenes(root, mini_twelve.SCENE, TwelveScenesOptions(truth="sfm"))
    assert mini_twelve.LOST in sfm.query_cameras and len(sfm.query_cameras) == 3


# ------------------------------------------------------------------ Cambridge, CMU and RobotCar


def test_cambridge_names_and_intrinsics(miniature: Miniatures) -> None:
    root = miniature("cambridge").root
    nvm = read_nvm(root / mini_cambridge.SCENE / "reconstruction.nvm")
    assert all(name.endswith(".jpg") for name in nvm)
    task = read_cambridge(root, mini_cambridge.SCENE, CambridgeOptions())
    assert all(name.endswith(".png") for name in (*task.map_names, *task.query_cameras))
    models = CambridgeOptions(retriangulated=str(root / mini_cambridge.RETRIANGULATED))
    other = read_cambridge(root, mini_cambridge.SCENE, models)
    for name in (*task.map_names[:3], mini_cambridge.TRAIN[2]):
        camera, full = reference_camera(task, name), reference_camera(other, name)
        assert full.model == pycolmap.CameraModelId.SIMPLE_RADIAL
        # f, cx and cy of the half-sized model are doubled, its distortion is not
        np.testing.assert_allclose(full.params, [*camera.params, 0.0], rtol=1e-9)
        assert (camera.width, camera.height) == (full.width, full.height)


def test_robotcar_lists(miniature: Miniatures) -> None:
    root = miniature("robotcar").root
    place = mini_robotcar.PLACE
    everything = read_robotcar(root, place, RobotcarOptions())
    assert tuple(everything.query_cameras) == mini_robotcar.QUERIES
    assert set(everything.conditions.values()) == {"dusk", "night", "sun"}
    assert all(name.endswith(".jpg") for name in everything.map_names)  # .png in the models
    train = read_robotcar(root, place, RobotcarOptions(queries="v2_train"))
    assert tuple(train.query_cameras) == mini_robotcar.TRAIN
    test = read_robotcar(root, place, RobotcarOptions(queries="v2_test"))
    assert set(train.query_cameras) | set(test.query_cameras) == set(mini_robotcar.QUERIES)
    assert test.truth is None  # the train list has none of their poses


def test_places_without_queries_of_v2_get_no_map(miniature: Miniatures, tmp_path: Path) -> None:
    """The lists of v2 leave places without any query."""
    root, place = tmp_path / "data", mini_robotcar.PLACE
    shutil.copytree(miniature("robotcar").root, root)
    models = root / "3D-models/individual/colmap_reconstructions"
    (models / "012_aligned").mkdir()
    others = "".join(f"{name}\n" for name in mini_robotcar.QUERIES[1:])
    (root / "queries_per_location" / "queries_location_012.txt").write_text(others)
    train = open_robotcar(root, RobotcarOptions(queries="v2_train"))
    assert train.scenes == (place,) and train.num_scenes is None
    assert train.notes == ("queries: v2_train, which 1 of 2 places have",)
    test = open_robotcar(root, RobotcarOptions(queries="v2_test"))
    assert test.scenes == ("012", place) and test.published in PUBLISHED
    # every place has queries of v1, and all 49 are expected
    everything = open_robotcar(root, RobotcarOptions())
    assert everything.scenes == ("012", place) and everything.num_scenes == 49
    (root / "robotcar_v2_test.txt").write_text("sun/left/1.jpg\n")
    with pytest.raises(InputError, match="has a query of v2_test"):
        open_robotcar(root, RobotcarOptions(queries="v2_test"))


# ------------------------------------------------------------------------------ shared readers


def test_published_lists_cover_more_than_is_scored(
    miniature: Miniatures, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = miniature("aachen").root
    kind = BENCHMARKS["aachen"]
    listed = kind.options(retrieval_pairs=str(root / "pairs-query-netvlad50.txt"))
    task = kind.open(root, listed).read("aachen")
    assert task.retrieval is not None and task.retrieval.keys() == task.query_cameras.keys()
    file = tmp_path / "pairs.txt"
    file.write_text("q1 m1\nq1 gone\nq2 m2")
    with caplog.at_level(logging.WARNING):
        found = published_retrieval(file, ["q1", "q3"], ["m1", "m2"])
    assert found == {"q1": ["m1"]} and "1 of its map photos" in caplog.text
    with pytest.raises(InputError, match="pairs 'q1' with 'm1', but queries are named like 'x'"):
        published_retrieval(file, ["x"], ["m1"])


def test_every_scene_has_its_own_list(miniature: Miniatures, tmp_path: Path) -> None:
    root, scene = miniature("cambridge").root, mini_cambridge.SCENE
    pair = f"{mini_cambridge.TEST[0]} {mini_cambridge.TRAIN[4]}"
    (tmp_path / f"{scene}_top10.txt").write_text(pair)
    options = CambridgeOptions(retrieval_pairs=str(tmp_path / "{scene}_top10.txt"))
    task = read_cambridge(root, scene, options)
    assert task.retrieval == {mini_cambridge.TEST[0]: [mini_cambridge.TRAIN[4]]}


def test_own_folders_take_lists_too(rendered_place: RenderedPlace, tmp_path: Path) -> None:
    query, photo = next(iter(rendered_place.query_cameras)), rendered_place.map_names[3]
    (tmp_path / "pairs.txt").write_text(f"{query} {photo}")
    kind = BENCHMARKS["colmap"]
    options = kind.options(retrieval_pairs=str(tmp_path / "pairs.txt"))
    dataset = kind.open(rendered_place.folder, options)
    assert dataset.read(dataset.scenes[0]).retrieval == {query: [photo]}


def test_nvm_files_that_are_none(tmp_path: Path) -> None:
    head = "NVM_V3 \n\n2\na.jpg\t500 1 0 0 0 1 2 3 0 0\n"
    cases = {
        "PLY\n": "no NVM_V3 file",
        head: "one of 2 lines",
        head + "b.jpg 500 0 0 0 0 1 2 3 0 0\n": "no rotation",
        head + "a.jpg 500 1 0 0 0 1 2 3 0 0\n": "twice",
    }
    for text, message in cases.items():
        (tmp_path / "m.nvm").write_text(text)
        with pytest.raises(InputError, match=message):
            read_nvm(tmp_path / "m.nvm")
    (tmp_path / "m.nvm").write_text(head + "./b c.jpg 500 1 0 0 0 1 2 3 -0.1 0\n\n9\n")
    found = read_nvm(tmp_path / "m.nvm")
    assert found["b c.jpg"].radial == -0.1
    np.testing.assert_allclose(found["a.jpg"].cam_from_world.translation, [-1, -2, -3])


def test_a_pose_is_given_in_one_way() -> None:
    quat, where = np.array([1.0, 0, 0, 0]), "'list.txt' line 3"
    for given in ({}, {"translation": np.zeros(3), "center": np.zeros(3)}):
        with pytest.raises(InputError, match=r"'list\.txt' line 3: a pose needs"):
            pose_from_quaternion(quat, where, **given)
