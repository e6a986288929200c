import json
import math
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from benchmarks.align import AlignmentError
from benchmarks.evaluate import EvaluationOptions, evaluate, report_without_truth
from benchmarks.report import PairScore, PairsReport, Report
from localize.results import Localization, write_poses, write_results
from matching.errors import InputError
from matching.options import build_options

CAMERA = pycolmap.Camera(
    model="PINHOLE", width=540, height=720, params=[600.0, 600.0, 270.0, 360.0]
)
Poses = dict[str, pycolmap.Rigid3d]


def at(x: float, y: float = 0.0, z: float = 0.0, turn_deg: float = 0.0) -> pycolmap.Rigid3d:
    """A camera at a place, turned about its y axis."""
    rotation = pycolmap.Rotation3d(np.array([0, np.radians(turn_deg), 0]))
    return pycolmap.Rigid3d(rotation, -(rotation.matrix() @ np.array([x, y, z])))


def localized(name: str, pose: pycolmap.Rigid3d, confidence: float) -> Localization:
    return Localization(
        name=name,
        success=True,
        cam_from_world=pose,
        camera=CAMERA,
        confidence=confidence,
        num_inliers=50,
        num_matches=80,
        timings_s={"total": 0.5},
    )


def failed(name: str) -> Localization:
    return Localization(
        name=name, success=False, reason="too few inliers: 3 < 12", timings_s={"total": 1.5}
    )


TRUTH: Poses = {f"q{i}.jpg": at(float(i)) for i in range(4)} | {"map.jpg": at(9.0)}
RESULTS = {
    r.name: r
    for r in (
        localized("q0.jpg", at(0.03), 0.9),
        localized("q1.jpg", at(1.2, turn_deg=1.0), 0.8),
        localized("q2.jpg", at(7.0, turn_deg=90.0), 0.7),
        failed("q3.jpg"),
    )
}


def model_of(truth: Poses, folder: Path) -> Path:
    """A COLMAP text model with CAMERA for all images."""
    folder.mkdir(parents=True)
    size = f"{CAMERA.width} {CAMERA.height}"
    params = " ".join(map(str, CAMERA.params))
    (folder / "cameras.txt").write_text(f"1 PINHOLE {size} {params}\n")
    lines = []
    for i, (name, pose) in enumerate(truth.items(), 1):
        numbers = [*np.roll(pose.rotation.quat, 1), *pose.translation]
        lines.append(f"{i} {' '.join(map(repr, map(float, numbers)))} 1 {name}\n\n")
    (folder / "images.txt").write_text("".join(lines))
    (folder / "points3D.txt").write_text("")
    return folder


def test_failures_stay_in_every_denominator() -> None:
    report = evaluate(RESULTS, TRUTH)
    assert (report.num_queries, report.num_localized) == (4, 3)
    assert report.recall == {
        "0.05m_0.5deg": 0.25,
        "0.25m_2deg": 0.5,
        "0.5m_5deg": 0.5,
        "5m_10deg": 0.5,
    }
    assert report.median_translation_error_m == pytest.approx((0.2 + 5.0) / 2)
    assert report.mean_translation_error_m == pytest.approx((0.03 + 0.2 + 5.0) / 3)
    assert report.pose_precision == 0.5
    # Ranked right, right, wrong, then a failure: (1 + 1 + 2/3) / 4.
    assert report.pose_auc == pytest.approx((1 + 1 + 2 / 3) / 4)
    assert report.vcre_precision == 0.5
    assert report.seconds_per_query == pytest.approx(0.75)
    assert [score.reason for score in report.per_query][3] == "too few inliers: 3 < 12"


def test_a_median_is_infinite_if_half_of_the_queries_failed() -> None:
    results = {"q0.jpg": RESULTS["q0.jpg"], "q3.jpg": RESULTS["q3.jpg"]}
    report = evaluate(results, TRUTH)
    assert report.median_translation_error_m == math.inf
    assert report.median_vcre_px == math.inf
    assert report.to_dict()["median_vcre_px"] is None
    assert "median error       failed" in report.to_text()
    everything_failed = evaluate({"q3.jpg": RESULTS["q3.jpg"]}, TRUTH)
    assert everything_failed.mean_translation_error_m is None
    assert everything_failed.vcre_auc == 0.0
    assert everything_failed.recall["5m_10deg"] == 0.0


def test_files_and_objects_give_the_same_report(tmp_path: Path) -> None:
    write_results(tmp_path / "results.jsonl", RESULTS)
    write_poses(tmp_path / "poses.txt", RESULTS)
    model = model_of(TRUTH, tmp_path / "sparse_gt")
    expected = evaluate(RESULTS, TRUTH).to_dict()
    for results in (tmp_path / "results.jsonl", tmp_path / "poses.txt"):
        for truth in (model, pycolmap.Reconstruction(model)):
            report = evaluate(results, truth).to_dict()
            assert report["num_queries"] == 4
            assert report["median_translation_error_m"] == pytest.approx(
                expected["median_translation_error_m"]
            )
            assert report["vcre_auc"] == expected["vcre_auc"]


def test_a_poses_file_alone_is_scored_over_all_images_of_the_truth(tmp_path: Path) -> None:
    write_poses(tmp_path / "poses.txt", RESULTS)
    report = evaluate(tmp_path / "poses.txt", TRUTH)
    assert (report.num_queries, report.num_localized) == (5, 3)
    assert "does not tell of failed queries" in report.notes[0]
    assert report.vcre_auc is None  # no intrinsics anywhere
    (tmp_path / "query.txt").write_text(
        "".join(f"q{i}.jpg PINHOLE 540 720 600 600 270 360\n" for i in range(4))
    )
    report = evaluate(
        tmp_path / "poses.txt",
        TRUTH,
        queries=tmp_path / "query.txt",
        cameras=tmp_path / "query.txt",
    )
    assert (report.num_queries, report.num_localized) == (4, 3)
    # Without confidences the AUC is the precision over the answered share: 2/3 * 3/4.
    assert report.vcre_auc == pytest.approx(0.5)
    assert report.per_query[3].reason == "no pose given"


def test_poses_come_from_the_poses_file_whatever_lies_beside_it(tmp_path: Path) -> None:
    """Two runs into one folder: each poses file is scored with its own poses."""
    names = [name for name in RESULTS if RESULTS[name].success]
    runs = {
        "a.txt": {name: localized(name, TRUTH[name], 0.9) for name in names},
        "b.txt": {name: localized(name, at(50.0), 0.9) for name in names},
    }
    for file, results in runs.items():  # the results.jsonl that stays is that of b.txt
        write_poses(tmp_path / file, results)
        write_results(tmp_path / "results.jsonl", results)
    report = evaluate(tmp_path / "a.txt", TRUTH, queries=names)
    assert report.median_translation_error_m == 0.0
    assert report.per_query[0].confidence is None and report.vcre_auc is None
    assert any("belongs to other poses and was ignored" in note for note in report.notes)
    report = evaluate(tmp_path / "b.txt", TRUTH, queries=names)
    assert report.recall["5m_10deg"] == 0.0
    assert report.per_query[0].confidence == 0.9
    (hint,) = report.notes  # poses that far off may be of another frame
    assert "--align-map" in hint


def test_results_of_other_queries_or_damaged_ones_beside_the_poses_are_ignored(
    tmp_path: Path,
) -> None:
    write_results(tmp_path / "results.jsonl", RESULTS)
    write_poses(tmp_path / "poses.txt", {"q0.jpg": RESULTS["q0.jpg"]})
    report = evaluate(tmp_path / "poses.txt", TRUTH, queries=["q0.jpg", "q1.jpg"])
    assert (report.num_queries, report.num_localized) == (2, 1)
    assert any("they differ in 'q1.jpg'" in note for note in report.notes)
    (tmp_path / "results.jsonl").write_text("{")
    report = evaluate(tmp_path / "poses.txt", TRUTH, queries=["q0.jpg", "q1.jpg"])
    assert report.num_localized == 1
    assert any("cannot be read and was ignored" in note for note in report.notes)


def test_what_is_no_file_of_poses_or_no_model_is_told_what_to_give_instead(tmp_path: Path) -> None:
    run, place = tmp_path / "run", tmp_path / "place"
    write_results(run / "results.jsonl", RESULTS)
    write_poses(run / "poses.txt", RESULTS)
    model = model_of(TRUTH, place / "sparse")
    for results, truth, message in (
        (run, model, f"'{run}' is a folder where .*; did you mean '{run / 'poses.txt'}'"),
        (place, model, f"'{place}' is a folder where the results or poses file is expected$"),
        (model, run / "poses.txt", f"'{model}' is a COLMAP model where .*: the poses come first"),
        (model / "images.txt", model, "is a COLMAP model where .*: the poses come first"),
        (run / "poses.txt", place, f"no COLMAP model: .*; did you mean '{model}'"),
        (run / "poses.txt", run, f"no COLMAP model; did you mean '{run / 'poses.txt'}'"),
        (run / "poses.txt", model / "images.txt", "a part of a COLMAP model: give its folder"),
        (run / "poses.txt", run / "results.jsonl", "holds results where the ground truth"),
    ):
        with pytest.raises(InputError, match=message):
            evaluate(results, truth)
    assert evaluate(run / "poses.txt", run / "poses.txt").num_localized == 3


def test_names_that_do_not_fit_are_an_error_and_unknown_queries_a_note() -> None:
    with pytest.raises(InputError, match=r"named like 'x/q0\.jpg'.*images like 'q0\.jpg'"):
        evaluate({"x/q0.jpg": at(0)}, TRUTH, queries=["x/q0.jpg"])
    report = evaluate({**RESULTS, "new.jpg": failed("new.jpg")}, TRUTH)
    assert report.num_queries == 4
    assert any("1 queries have no ground truth" in note for note in report.notes)
    report = evaluate(RESULTS, TRUTH, queries=["q0.jpg", "q1.jpg"])
    assert report.num_queries == 2
    assert any("2 results are of no query" in note for note in report.notes)
    assert any(note.endswith("ignored: q2.jpg, q3.jpg") for note in report.notes)
    unknown = [f"new{i}.jpg" for i in range(5)]
    report = evaluate({**RESULTS, **{name: failed(name) for name in unknown}}, TRUTH)
    named = "new0.jpg, new1.jpg, new2.jpg and 2 more"
    assert f"5 queries have no ground truth and are not scored: {named}" in report.notes


def test_alignment_is_done_only_if_asked_and_from_map_images_only(tmp_path: Path) -> None:
    truth = {f"m{i}.jpg": at(float(i), float(i * i) / 4, float(i % 2)) for i in range(5)}
    truth |= {f"q{i}.jpg": at(i + 0.5, 1.0, turn_deg=10.0 * i) for i in range(3)}
    truth_from_map = pycolmap.Sim3d(
        0.1, pycolmap.Rotation3d(np.array([0.2, 0.5, -0.3])), np.array([1.0, 2.0, 3.0])
    )
    map_from_truth = truth_from_map.inverse()
    moved = {n: map_from_truth.transform_camera_world(p) for n, p in truth.items()}
    estimated = {n: p for n, p in moved.items() if n.startswith("q")}
    estimated["q1.jpg"] = at(0)  # a wrong query must not move the alignment
    queries = list(estimated)
    map_poses = {n: p for n, p in moved.items() if n.startswith("m")}

    unaligned = evaluate(estimated, truth, queries=queries)
    assert unaligned.alignment is None and unaligned.recall["0.25m_2deg"] == 0.0
    for aligner in (map_poses, model_of(map_poses, tmp_path / "sparse")):
        report = evaluate(estimated, truth, queries=queries, align_map=aligner)
        assert report.recall["0.05m_0.5deg"] == pytest.approx(2 / 3)
        assert report.alignment is not None
        assert report.alignment["scale"] == pytest.approx(0.1, rel=1e-6)
        assert report.alignment["num_used"] == 5
    errors = [score.translation_error_m for score in report.per_query]
    assert errors[0] == pytest.approx(0, abs=1e-6) and errors[1] != pytest.approx(0, abs=0.1)


def test_poses_of_another_frame_are_noticed_and_poor_alignments_too(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng = np.random.default_rng(0)
    truth = {
        f"{i}.jpg": at(*(3 * rng.normal(size=3)), turn_deg=40 * float(rng.normal()))
        for i in range(8)
    }
    map_from_truth = pycolmap.Sim3d(
        4.0, pycolmap.Rotation3d(np.array([0.2, 0.5, -0.3])), np.array([30.0, 2.0, 3.0])
    )
    moved = {n: map_from_truth.transform_camera_world(p) for n, p in truth.items()}
    report = evaluate(moved, truth)
    assert report.recall["5m_10deg"] == 0.0  # a hint changes no score
    (hint,) = [note for note in report.notes if "--align-map MAP" in note]
    assert "another frame or scale" in hint and hint in caplog.text
    few = {name: moved[name] for name in list(moved)[:2]}  # a similarity would fit any two
    (hint,) = [note for note in evaluate(few, truth).notes if "--align-map MAP" in note]
    assert "more than the cameras of the truth are apart" in hint
    right = {name: truth[name] for name in few}
    assert not any("--align-map" in note for note in evaluate(right, truth).notes)
    name = next(iter(few))  # of one camera nobody can tell
    assert not any("--align-map" in n for n in evaluate(moved, {name: truth[name]}).notes)
    caplog.clear()
    # no hint where the frame is right, or where no frame makes the poses right
    wrong = dict(zip(truth, reversed(list(truth.values())), strict=True))
    for poses in (truth, wrong):
        assert not any("--align-map" in note for note in evaluate(poses, truth).notes)
    assert caplog.text == ""

    bent = {n: p for n, p in moved.items() if n != "0.jpg"}
    for name, pose in bent.items():
        shift = 2 * rng.normal(size=3)
        bent[name] = pycolmap.Rigid3d(pose.rotation, pose.translation + shift)
    report = evaluate(moved, truth, align_map=bent)
    (doubt,) = [note for note in report.notes if "fits the ground truth poorly" in note]
    assert "7 of 7 common images are off by" in doubt and doubt in caplog.text
    with pytest.raises(AlignmentError, match="of different places"):
        evaluate(moved, truth, align_map=wrong)
    with pytest.raises(InputError, match="no map or COLMAP model to align by 'none'"):
        evaluate(moved, truth, align_map="none")


def test_a_truth_without_scale_gets_no_metric_score() -> None:
    report = evaluate(RESULTS, TRUTH, options=EvaluationOptions(metric_truth=False))
    assert report.recall == {}
    assert report.vcre_precision is report.median_vcre_px is report.pose_auc is None
    assert report.median_rotation_error_deg is not None
    assert any("no metric scale" in note for note in report.notes)
    assert all(score.vcre_px is None for score in report.per_query)
    text = report.to_text()
    assert "0.0300 units" in text and "cm" not in text and " m," not in text


def test_thresholds_are_the_users_choice() -> None:
    options = build_options(
        EvaluationOptions, {"thresholds": [[0.04, 1]], "max_vcre_px": 1000, "max_rotation_deg": 180}
    )
    report = evaluate(RESULTS, TRUTH, options=options)
    assert report.recall == {"0.04m_1deg": 0.25}
    assert report.vcre_precision == 0.75
    with pytest.raises(InputError, match="thresholds"):
        build_options(EvaluationOptions, {"thresholds": [[0, 1]]})


def test_the_default_vcre_threshold_is_a_tenth_of_the_diagonal() -> None:
    # The same pan moves pixels in proportion to the focal length: larger photos, larger limit.
    double = pycolmap.Camera(
        model="PINHOLE", width=1080, height=1440, params=[1200.0, 1200.0, 540.0, 720.0]
    )
    pan = {"q0.jpg": at(0, turn_deg=6.0)}
    small = evaluate(pan, TRUTH, queries=["q0.jpg"], cameras={"q0.jpg": CAMERA})
    large = evaluate(pan, TRUTH, queries=["q0.jpg"], cameras={"q0.jpg": double})
    assert small.median_vcre_px is not None and large.median_vcre_px is not None
    assert large.median_vcre_px == pytest.approx(2 * small.median_vcre_px)
    assert small.median_vcre_px < 90 < large.median_vcre_px
    assert small.vcre_precision == large.vcre_precision == 1.0


def test_results_without_truth_are_reported_without_errors() -> None:
    report = report_without_truth(RESULTS)
    assert (report.num_queries, report.num_localized) == (4, 3)
    assert report.median_translation_error_m is None and report.recall == {}
    assert "no ground truth" in report.to_text()
    assert report_without_truth({}).seconds_per_query is None


STATISTICS = {
    "num_images": 8,
    "num_registered": 7,
    "num_points3D": 100,
    "mean_reprojection_error_px": 0.25,
    "mean_track_length": 3.5,
    "not_registered": {"a.jpg": "too few matches"},
}


def test_the_report_file_is_strict_json(tmp_path: Path) -> None:
    report = evaluate(RESULTS, TRUTH).with_run(
        seconds_map=2.0, map_statistics=STATISTICS, options={"top_k": 5}, notes=["n"]
    )
    report.write(tmp_path / "report.json")

    def refuse(constant: str) -> float:
        raise AssertionError(f"{constant} is no JSON")

    assert "7 of 8 photos, 100 points, 0.25 px" in report.to_text()
    values = json.loads((tmp_path / "report.json").read_text(), parse_constant=refuse)
    assert values["per_query"][3]["translation_error_m"] is None
    assert values["options"]["top_k"] == 5 and values["map"] == STATISTICS
    expected = {"num_queries", "num_localized", "median_translation_error_m", "median_vcre_px"}
    expected |= {"median_rotation_error_deg", "recall", "vcre_precision", "vcre_auc"}
    expected |= {"seconds_map", "seconds_per_query", "options", "per_query"}
    assert expected <= set(values)


def test_tables_show_units_and_failures() -> None:
    text = evaluate(RESULTS, TRUTH).to_text()
    assert "3.00 cm" in text and "5.00 m" in text and "3 of 4" in text
    assert "too few inliers" in text
    pairs = PairsReport(
        num_pairs=1,
        num_estimated=0,
        auc_deg={"5": 0.0, "10": 0.0, "20": 0.0},
        median_error_deg=math.inf,
        precision_2px=0.0,
        median_matches=3.0,
        median_inliers=0.0,
        per_pair=[
            PairScore(
                image0="a",
                image1="b",
                num_matches=3,
                num_inliers=0,
                success=False,
                rotation_error_deg=math.inf,
            )
        ],
    )
    assert "AUC at 5 / 10 / 20 deg  0.000  0.000  0.000" in pairs.to_text()
    assert pairs.to_dict()["per_pair"][0]["rotation_error_deg"] is None
    assert isinstance(evaluate(RESULTS, TRUTH), Report)
