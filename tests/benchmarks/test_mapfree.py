import json
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.datasets.mapfree import aggregate, read_scene, read_submission, score_submission
from matching.errors import InputError

GOLDEN = Path(__file__).parents[1] / "data" / "golden_mapfree.json"


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return dict(document["cases"])


def unpack(case: dict[str, Any], root: Path) -> Path:
    """Write the case in the official layout; returns the submission."""
    for scene, files in case["val"].items():
        folder = root / "val" / scene
        folder.mkdir(parents=True)
        for name, text in files.items():
            (folder / name).write_bytes(text.encode())
    submission = root / "submission.zip"
    with zipfile.ZipFile(submission, "w") as archive:
        for name, text in case["submission"].items():
            archive.writestr(name, text)
    return submission


@pytest.mark.parametrize("name", ["mapfree_case1", "mapfree_case2", "mapfree_case4_perfect"])
def test_all_eight_values_reproduce_the_official_script(
    name: str, cases: dict[str, Any], tmp_path: Path
) -> None:
    case = cases[name]
    scenes = score_submission(unpack(case, tmp_path), tmp_path)
    values = aggregate(scenes)
    assert list(values) == list(case["expected"])
    for key, expected in case["expected"].items():
        # The official AUC keeps its recall in single precision.
        tolerance = 2e-8 if key.startswith("AUC") else 1e-12
        assert values[key] == pytest.approx(expected, abs=tolerance), key
    for scene, expected in (case["expected_frames"] or {}).items():
        errors, frames = scenes[scene], expected.get("frames", [])
        assert errors.num_failures == expected["failures"]
        assert errors.frames.tolist() == [f["frame"] for f in frames]
        for ours, official in (
            (errors.translation_m, "trans_err"),
            (errors.rotation_deg, "rot_err"),
            (errors.vcre_px, "reproj_err"),
            (errors.confidence, "confidence"),
        ):
            np.testing.assert_allclose(ours, [f[official] for f in frames], rtol=1e-9, atol=1e-9)


def test_negative_confidence_is_an_error_that_names_the_frame(
    cases: dict[str, Any], tmp_path: Path
) -> None:
    submission = unpack(cases["mapfree_case3_rejected"], tmp_path)
    with pytest.raises(InputError, match=r"s00460, frame 000\d\d: confidence is negative"):
        score_submission(submission, tmp_path)


def test_an_empty_scene_list_and_odd_files_are_errors(
    cases: dict[str, Any], tmp_path: Path
) -> None:
    case = cases["mapfree_case1"]
    submission = unpack(case, tmp_path)
    with pytest.raises(InputError, match="Map-free split 'tset'"):
        score_submission(submission, tmp_path, split="tset")
    text = tmp_path / "pose.txt"
    text.write_text("seq1/frame_00000.jpg 1 0 0 0 0 0 0 1\n")
    with pytest.raises(InputError, match="no zip file"):
        read_submission(text)
    with zipfile.ZipFile(tmp_path / "nested.zip", "w") as archive:
        archive.writestr("sub/pose_s00460.txt", "")
    with pytest.raises(InputError, match="at its root"):
        read_submission(tmp_path / "nested.zip")


def test_a_broken_line_of_the_truth_is_named(cases: dict[str, Any], tmp_path: Path) -> None:
    unpack(cases["mapfree_case1"], tmp_path)
    poses = tmp_path / "val" / "s00460" / "poses.txt"
    lines = poses.read_text().splitlines()
    lines[3] = lines[3].rsplit(" ", 1)[0]
    poses.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"poses\.txt:4: expected"):
        read_scene(poses.parent)
    lines[3] = "seq1/frame_00002.jpg 0 0 0 0 0 0 0"
    poses.write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"poses\.txt:4: no valid pose"):
        read_scene(poses.parent)


def test_nothing_submitted_gives_zero_precision_not_an_error(
    cases: dict[str, Any], tmp_path: Path
) -> None:
    case = dict(cases["mapfree_case1"], submission={"pose_s99999.txt": ""})
    values = aggregate(score_submission(unpack(case, tmp_path), tmp_path))
    assert values["Precision @ VCRE < 90px"] == 0
    assert values["AUC @ VCRE < 90px"] == 0
    assert np.isnan(values["Average Median Translation Error"])
