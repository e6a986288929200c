import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray

from benchmarks.metrics import (
    VCRE_POINTS_M,
    average_precision,
    camera_centers,
    epipolar_distances_px,
    pose_auc,
    recall_within,
    relative_pose_errors_deg,
    rotation_errors_deg,
    translation_errors,
    vcre_px,
)

FloatArray = NDArray[np.float64]

GOLDEN = Path(__file__).parents[1] / "data" / "golden_mapfree.json"


def poses(quat_wxyz: FloatArray, translation: FloatArray) -> FloatArray:
    """(N, 4, 4) from quaternions of any length."""
    out = np.tile(np.eye(4), (len(quat_wxyz), 1, 1))
    for pose, q, t in zip(out, quat_wxyz, translation, strict=True):
        pose[:3, :3] = pycolmap.Rotation3d(np.roll(q / np.linalg.norm(q), -1)).matrix()
        pose[:3, 3] = t
    return out


def turned(axis: tuple[float, float, float], angle_deg: float) -> FloatArray:
    pose = np.eye(4)
    unit = np.array(axis) / np.linalg.norm(axis)
    pose[:3, :3] = pycolmap.Rotation3d(np.radians(angle_deg) * unit).matrix()
    return pose


def check_pairs(table: dict[str, FloatArray]) -> None:
    truth = poses(table["q_gt_w2c"], table["t_gt_w2c"])
    estimated = poses(table["q_est_w2c"], table["t_est_w2c"])
    sizes = np.stack([table["W"], table["H"]], axis=1).astype(np.int64)
    vcre = vcre_px(estimated, truth, table["K"].astype(np.float64), sizes)
    # The official errors lose absolute digits where t ~ 1 m is subtracted: 1e-15 m, hence atol.
    np.testing.assert_allclose(
        translation_errors(estimated, truth), table["trans_err"], rtol=1e-9, atol=1e-14
    )
    # The official angle is 2 asin(..), good to 2e-8 rad next to a half turn.
    np.testing.assert_allclose(
        rotation_errors_deg(estimated, truth), table["rot_err"], rtol=0, atol=1e-8
    )
    np.testing.assert_allclose(vcre, table["reproj_err"], rtol=1e-9, atol=1e-12)


def test_pose_errors_reproduce_the_official_script() -> None:
    raw: dict[str, Any] = json.loads(GOLDEN.read_text())["pairs"]
    raw["reproj_err"] = [math.nan if e is None else e for e in raw["reproj_err"]]
    assert math.nan in raw["reproj_err"]
    check_pairs({name: np.array(values) for name, values in raw.items()})


@pytest.mark.shared
def test_pose_errors_reproduce_all_golden_pairs(shared: Path) -> None:
    with np.load(shared / "golden" / "golden_mapfree.npz") as arrays:
        check_pairs({name: arrays[name] for name in arrays if arrays[name].shape[:1] == (400,)})
        # As a set: the official order of the grid is of no consequence for its mean.
        official = arrays["grid_points"][:, :3]
    ours = VCRE_POINTS_M
    np.testing.assert_allclose(
        ours[np.lexsort(ours.round(6).T)], official[np.lexsort(official.round(6).T)], atol=1e-12
    )


def test_camera_centers_are_where_the_camera_maps_to_zero() -> None:
    pose = turned((1, 2, 3), 50)
    pose[:3, 3] = (4, -5, 6)
    center = camera_centers(pose[None])[0]
    np.testing.assert_allclose(pose[:3, :3] @ center + pose[:3, 3], 0, atol=1e-14)


@pytest.mark.parametrize("angle_deg", [0.0, 1e-9, 1e-3, 90.0, 179.999999, 180.0])
def test_rotation_errors_are_exact_at_both_ends(angle_deg: float) -> None:
    truth = turned((3, -1, 2), 77)
    estimated = turned((1, 1, -2), angle_deg) @ truth
    error = rotation_errors_deg(estimated[None], truth[None])[0]
    assert error == pytest.approx(angle_deg, abs=1e-12 if angle_deg < 1 else 1e-9)


def test_translation_errors_compare_centers_not_translations() -> None:
    truth = turned((0, 0, 1), 90)
    estimated = np.eye(4)
    truth[:3, 3] = estimated[:3, 3] = (10.0, 0, 0)
    assert translation_errors(estimated[None], truth[None])[0] == pytest.approx(10 * math.sqrt(2))


def test_vcre_is_bounded_by_the_diagonal_and_zero_for_the_truth() -> None:
    K = np.array([[[600.0, 0, 270], [0, 600, 360], [0, 0, 1]]])
    size = np.array([[540, 720]])
    truth = turned((1, 0, 0), 10)[None]
    assert vcre_px(truth, truth, K, size)[0] == pytest.approx(0, abs=1e-9)
    behind = truth.copy()
    behind[0, :3, 3] = (0, 0, -50)
    assert 0 < vcre_px(behind, truth, K, size)[0] <= 900


def test_vcre_of_a_small_pan_is_the_shift_in_pixels() -> None:
    # A pan by a small angle moves points on the axis by f * angle, others by a little more.
    K = np.array([[[1000.0, 0, 2000], [0, 1000, 2000], [0, 0, 1]]])
    size = np.array([[4000, 4000]])
    error = vcre_px(turned((0, 1, 0), 0.01)[None], np.eye(4)[None], K, size)[0]
    assert 0.1745 < error < 0.1745 * (1 + (0.9 / 1.8) ** 2)


def test_recall_counts_failures_and_needs_both_errors() -> None:
    translation = np.array([0.01, 0.01, 1.0, np.inf])
    rotation = np.array([0.1, 3.0, 0.1, np.inf])
    assert recall_within(translation, rotation, 0.05, 0.5) == 0.25
    assert recall_within(translation, rotation, 0.01, 3.0) == 0.5  # thresholds are included
    assert recall_within(translation, rotation, 5, 10) == 0.75
    assert math.isnan(recall_within(np.zeros(0), np.zeros(0), 1, 1))


def average_precision_reference(
    confidence: list[float], accepted: list[bool], num_total: int
) -> float:
    """Slow twin: walk down the distinct confidence levels."""
    area, before = 0.0, 0
    for level in sorted(set(confidence), reverse=True):
        taken = [a for c, a in zip(confidence, accepted, strict=True) if c >= level]
        area += (len(taken) - before) / num_total * sum(taken) / len(taken)
        before = len(taken)
    return area


@pytest.mark.parametrize("count, levels", [(1, 1), (7, 3), (50, 50), (1001, 40)])
def test_average_precision_agrees_with_its_slow_twin(count: int, levels: int) -> None:
    rng = np.random.default_rng(count)
    confidence = rng.integers(0, levels, count).astype(float)
    accepted = rng.random(count) < 0.6
    expected = average_precision_reference(confidence.tolist(), accepted.tolist(), count + 5)
    assert average_precision(confidence, accepted, count + 5) == pytest.approx(expected, abs=1e-12)


def test_average_precision_by_hand() -> None:
    # Ranked right, wrong; one failure: 1/3 * 1/1 + 1/3 * 1/2.
    assert average_precision(np.array([2.0, 1.0]), np.array([True, False]), 3) == 0.5
    # Equal confidence is one block: the precision of the block.
    assert average_precision(np.ones(2), np.array([False, True]), 2) == 0.5
    assert average_precision(np.zeros(0), np.zeros(0, bool), 4) == 0.0
    with pytest.raises(ValueError, match="NaN"):
        average_precision(np.array([np.nan]), np.array([True]), 1)
    with pytest.raises(ValueError, match="num_total"):
        average_precision(np.ones(2), np.ones(2, bool), 1)


def test_pose_auc_by_hand() -> None:
    # Recall rises to 1/2 at 2 degrees and stays: (2 * 0.25 + 3 * 0.5) / 5.
    assert pose_auc(np.array([2.0, np.inf]), (5,)) == [pytest.approx(0.4)]
    assert pose_auc(np.zeros(3), (5, 10)) == [pytest.approx(1.0), pytest.approx(1.0)]
    # An error of exactly the threshold does not count (searchsorted, left).
    assert pose_auc(np.array([5.0]), (5,)) == [0.0]
    assert math.isnan(pose_auc(np.zeros(0), (5,))[0])


@pytest.mark.shared
def test_pose_auc_agrees_with_the_baseline_script(
    shared: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.syspath_prepend(str(shared / "tools"))
    import sift_baseline  # type: ignore[import-not-found]

    errors = np.append(np.random.default_rng(0).exponential(6, 200), np.inf)
    np.testing.assert_allclose(
        pose_auc(errors, (5, 10, 20)), sift_baseline.auc(errors, (5, 10, 20)), rtol=1e-12
    )


def test_relative_pose_errors_fold_the_sign_and_ignore_the_length() -> None:
    truth, estimated = turned((0, 1, 0), 20), turned((0, 1, 0), 23)
    truth[:3, 3], estimated[:3, 3] = (1, 0, 0), (-np.cos(0.1) * 7, np.sin(0.1) * 7, 0)
    rotation, direction = relative_pose_errors_deg(estimated[None], truth[None])
    assert rotation[0] == pytest.approx(3)
    assert direction[0] == pytest.approx(np.degrees(0.1))


def test_epipolar_distances_are_zero_on_the_line_and_grow_off_it() -> None:
    cam1_from_cam0 = turned((0, 1, 0), 10)
    cam1_from_cam0[:3, 3] = (1, 0.1, 0)
    K = np.array([[800.0, 0, 320], [0, 800, 240], [0, 0, 1]])
    points = np.random.default_rng(0).uniform((-1, -1, 4), (1, 1, 8), (20, 3))
    x0 = points @ K.T
    x1 = (points @ cam1_from_cam0[:3, :3].T + cam1_from_cam0[:3, 3]) @ K.T
    x0, x1 = x0[:, :2] / x0[:, 2:], x1[:, :2] / x1[:, 2:]
    t = cam1_from_cam0[:3, 3]
    cross = np.array([[0, -t[2], t[1]], [t[2], 0, -t[0]], [-t[1], t[0], 0]])
    inverse = np.linalg.inv(K)
    F = inverse.T @ cross @ cam1_from_cam0[:3, :3] @ inverse
    np.testing.assert_allclose(epipolar_distances_px(x0, x1, F), 0, atol=1e-9)
    line = np.append(x0[0], 1) @ F.T
    normal = line[:2] / np.linalg.norm(line[:2])
    off = epipolar_distances_px(x0[:1], x1[:1] + 3 * normal, F)[0]
    assert off >= 3 - 1e-9
    # The measure is symmetric in the images.
    assert epipolar_distances_px(x1[:1] + 3 * normal, x0[:1], F.T)[0] == pytest.approx(off)
    assert epipolar_distances_px(np.zeros((0, 2)), np.zeros((0, 2)), F).shape == (0,)
