"""The whole Map-free benchmark on its miniature; wrong conventions must show as large errors."""

import json
import shutil
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray

from benchmarks.datasets.mapfree import parse_pose, read_scene
from benchmarks.datasets.mapfree_scene import (
    REFERENCE,
    read_depth,
    read_device_poses,
    read_mapfree_scene,
)
from benchmarks.mapfree_report import MapfreeReport, score_zip
from benchmarks.mapfree_submission import zip_problems
from benchmarks.mapfree_track import query_from_frame
from benchmarks.miniatures.mapfree import DEPTH_KIND, write_mapfree
from benchmarks.miniatures.studio import Studio
from benchmarks.protocols import evaluate_protocol
from benchmarks.run import check_benchmark, plan_benchmark, run_benchmark
from matching import Matcher
from matching.errors import InputError
from matching.sift import SiftOptions
from tests.benchmarks.fakes import RememberingSift

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Run:
    root: Path
    out: Path
    truth: dict[str, dict[str, FloatArray]]
    report: MapfreeReport
    matcher: Matcher


@pytest.fixture(scope="module")
def run(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Run:
    root, out = tmp_path_factory.mktemp("mapfree"), tmp_path_factory.mktemp("out")
    truth = write_mapfree(root, studio)
    matcher = RememberingSift(SiftOptions(max_image_size_px=400))
    options = {"depth": DEPTH_KIND, "num_bootstrap": 20}
    report = run_benchmark("mapfree", root, out, matcher=matcher, options=options)
    return Run(root=root, out=out, truth=truth, report=report, matcher=matcher)


def test_the_single_frame_track_reaches_the_renderings_accuracy(run: Run) -> None:
    assert run.report.scores is not None
    values = run.report.scores.official
    # The photos are resampled from renderings of half their resolution.
    assert values["Average Median Translation Error"] < 0.2
    assert values["Average Median Rotation Error"] < 1.0
    assert values["Average Median Reprojection Error"] < 30
    assert values["Estimates for % of frames"] == 1.0
    assert values["Precision @ VCRE < 90px"] == 1.0
    stored = json.loads((run.out / "report.json").read_text())
    assert stored["AUC @ VCRE < 90px"] == values["AUC @ VCRE < 90px"]
    assert set(stored["scenes"]) == {"s00460", "s00461"} and stored["num_left_out"] == 0
    low, high = stored["intervals"]["Average Median Reprojection Error"]
    assert low <= values["Average Median Reprojection Error"] <= high
    text = (run.out / "report.md").read_text()
    assert "| **groundloc, sift** |" in text and "MASt3R, features, own depth" in text


def test_a_submission_passes_the_checker_and_scores_as_the_run_did(run: Run) -> None:
    submission = run.out / "submission.zip"
    assert zip_problems(submission, ["s00460", "s00461"]) == []
    scores = evaluate_protocol("mapfree", submission, run.root)
    assert run.report.scores is not None
    assert scores.to_dict() == run.report.scores.to_dict()
    with zipfile.ZipFile(submission) as archive:
        lines = archive.read("pose_s00461.txt").decode().splitlines()
    # gaps in the numbers: entries 0 and 5 of poses.txt are frames 0 and 10
    assert [line.split(" ")[0] for line in lines] == [
        "seq1/frame_00000.jpg",
        "seq1/frame_00010.jpg",
    ]
    with pytest.raises(InputError, match="on its server"):
        evaluate_protocol("mapfree", submission, run.root, options={"split": "test"})


def inverted(pose: FloatArray) -> FloatArray:
    return np.linalg.inv(pose)


def mirrored(pose: FloatArray) -> FloatArray:
    """Axes of graphics: y up, looking along -z."""
    flip = np.diag([1.0, -1.0, -1.0, 1.0])
    return flip @ pose


def shifted(pose: FloatArray) -> FloatArray:
    """The translation taken for the camera's centre."""
    moved = pose.copy()
    moved[:3, 3] = -pose[:3, :3] @ pose[:3, 3]
    return moved


@pytest.mark.parametrize("wrong", [inverted, mirrored, shifted])
def test_a_wrong_convention_shows(
    wrong: Callable[[FloatArray], FloatArray], run: Run, tmp_path: Path
) -> None:
    (tmp_path / "val").mkdir()
    for scene in ("s00460", "s00461"):
        source, target = run.root / "val" / scene, tmp_path / "val" / scene
        target.mkdir()
        (target / "intrinsics.txt").write_bytes((source / "intrinsics.txt").read_bytes())
        lines = []
        for line in (source / "poses.txt").read_text().splitlines():
            name, *numbers = line.split()
            pose = parse_pose([float(n) for n in numbers])
            assert pose is not None
            if name != REFERENCE:
                pose = wrong(pose)
            rigid = pycolmap.Rigid3d(pose[:3])
            values = [*np.roll(rigid.rotation.quat, 1), *rigid.translation]
            lines.append(f"{name} {' '.join(map(repr, map(float, values)))}\n")
        (target / "poses.txt").write_text("".join(lines))
    values = score_zip(run.out / "submission.zip", tmp_path).official
    assert values["Average Median Reprojection Error"] > 100
    assert values["Precision @ Pose Error < (25.0cm, 5deg)"] == 0


def test_the_multi_frame_track_uses_the_tracking(run: Run, tmp_path: Path) -> None:
    options = {"depth": DEPTH_KIND, "track": "multi"}
    report = run_benchmark("mapfree", run.root, tmp_path, matcher=run.matcher, options=options)
    assert report.num_estimates == 1  # only s00460 has ten queries
    assert report.scores.official["Estimates for % of frames"] == 1.0
    single = run.report.scores
    assert single is not None
    error = report.scores.official["Average Median Reprojection Error"]
    assert error < 20


def test_the_tracking_leads_from_each_frame_to_the_query(run: Run) -> None:
    scene = read_mapfree_scene(run.root / "val" / "s00460")
    device = read_device_poses(scene)
    [(query, window)] = scene.windows().items()
    assert query == scene.names[9] and window == scene.names[1:10]
    assert scene.names[0] not in device
    truth = run.truth["s00460"]
    for name in window:
        pose = query_from_frame(truth[name], device[name])
        np.testing.assert_allclose(pose, truth[query], atol=1e-9)


def test_the_reader_gives_what_was_rendered(run: Run) -> None:
    folder = run.root / "val" / "s00460"
    scene, truth = read_mapfree_scene(folder), read_scene(folder)
    for name, pose in run.truth["s00460"].items():
        np.testing.assert_allclose(truth.cam_from_world[int(name[-9:-4])], pose, atol=1e-9)
    np.testing.assert_array_equal(truth.cam_from_world[0][:3, 3] == 0, False)  # query 0, not seq0
    camera = scene.cameras["seq1/frame_00002.jpg"]
    # the file counts pixels from the first one's centre
    np.testing.assert_allclose(camera.params, [606, 607, 269.5, 361])
    assert (camera.width, camera.height) == (540, 720)
    depth = read_depth(scene, REFERENCE, DEPTH_KIND)
    assert depth.shape == (720, 540) and 0.5 < np.median(depth[depth > 0]) < 20
    with pytest.raises(InputError, match=r"of kind 'dpt' \(there are rendered\)"):
        read_depth(scene, REFERENCE, "dpt")


def test_the_test_split_has_a_submission_but_no_scores(run: Run, tmp_path: Path) -> None:
    options = {"depth": DEPTH_KIND, "split": "test"}
    report = run_benchmark("mapfree", run.root, tmp_path, matcher=run.matcher, options=options)
    assert report.scores is None and report.num_estimates == 1
    assert zip_problems(tmp_path / "submission.zip", ["s00525"]) == []
    with pytest.raises(InputError, match=r"poses\.txt:2: no valid pose .* submit to its server"):
        score_zip(tmp_path / "submission.zip", run.root, split="test")


def test_without_depth_a_pose_has_no_length_and_is_left_out(run: Run, tmp_path: Path) -> None:
    report = run_benchmark("mapfree", run.root, tmp_path, matcher=run.matcher, limit=1)
    assert report.num_estimates == 0 and len(report.left_out) == 2
    assert all("no metric scale" in reason for reason in report.left_out.values())
    # both scenes are in the zip all the same: absent ones would be charged five times
    assert zip_problems(tmp_path / "submission.zip", ["s00460", "s00461"]) == []
    assert report.scores.official["Estimates for % of frames"] == 0
    again = evaluate_protocol("mapfree", tmp_path, run.root)
    assert isinstance(again, MapfreeReport) and again.left_out == report.left_out
    (tmp_path / "predictions" / "s00461.jsonl").unlink()
    with pytest.raises(InputError, match="no finished run: scene s00461 has no prediction yet"):
        evaluate_protocol("mapfree", tmp_path, run.root)


def test_checks_and_plans_count_the_frames(run: Run) -> None:
    check = check_benchmark("mapfree", run.root, options={"depth": DEPTH_KIND})
    assert [(c.what, c.found) for c in check.counts][:2] == [("scenes", 2), ("photos", 18)]
    assert check.counts[0].published == 65 and not check.complete
    plan = plan_benchmark("mapfree", run.root, matcher=run.matcher, options={"frames": "all"})
    assert (plan.num_scenes, plan.num_queries, plan.num_query_pairs) == (2, 16, 16)
    photo = run.root / "val" / "s00461" / "seq1" / "frame_00004.jpg"
    hidden = photo.rename(photo.with_suffix(".hidden"))
    with pytest.raises(InputError, match=r"no photo '.*frame_00004\.jpg'"):
        check_benchmark("mapfree", run.root)
    hidden.rename(photo)


def test_odd_files_are_named(run: Run, tmp_path: Path) -> None:
    scene = tmp_path / "s00461"
    shutil.copytree(run.root / "val" / "s00461", scene)
    depth = (scene / REFERENCE).with_suffix(f".{DEPTH_KIND}.png")
    depth.write_bytes(depth.read_bytes()[:3000])
    with pytest.raises(InputError, match=r"frame_00000\.rendered\.png' is no readable depth"):
        read_depth(read_mapfree_scene(scene), REFERENCE, DEPTH_KIND)
    intrinsics = (scene / "intrinsics.txt").read_text()
    (scene / "intrinsics.txt").write_text(intrinsics.replace(" 720", " inf", 1))
    for read in (read_scene, read_mapfree_scene):
        with pytest.raises(InputError, match=r"intrinsics\.txt:1"):
            read(scene)
    (scene / "intrinsics.txt").write_bytes(b"\xff\xfe")
    for read in (read_scene, read_mapfree_scene):
        with pytest.raises(InputError, match=r"intrinsics\.txt' is no UTF-8 text"):
            read(scene)


def test_the_training_scenes_have_the_official_layout(run: Run) -> None:
    folder = run.root / "train" / "s00000"
    with np.load(folder / "overlaps.npz") as overlaps:
        assert overlaps["idxs"].shape == (3, 4) and (overlaps["overlaps"] > 0).all()
    names = [line.split()[0] for line in (folder / "poses.txt").read_text().splitlines()]
    assert all((folder / name).is_file() for name in names) and len(names) == 5
