"""Errors of poses and what is averaged from them: medians, recall, VCRE, precision, AUC.

Pure functions of arrays. Poses are ``cam_from_world`` (x_cam = R x_world + t) as (N, 4, 4). A query
without an estimate is a row of infinite errors: it stays in every denominator.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

# Grid of the virtual correspondences of the Map-free benchmark, metres in the camera of the truth
# (Arnold et al., "Map-free Visual Relocalization", ECCV 2022).
_GRID_X_M = (np.arange(7) - 3) * 0.3
_GRID_Y_M = (np.arange(4) - 1.5) * 0.3
_GRID_Z_M = 1.8 + np.arange(7) * 0.3
VCRE_POINTS_M: FloatArray = np.stack(
    np.meshgrid(_GRID_X_M, _GRID_Y_M, _GRID_Z_M, indexing="ij"), axis=-1
).reshape(-1, 3)  # (196, 3)


def camera_centers(cam_from_world: FloatArray) -> FloatArray:
    """Camera centres in the world.

    Args:
        cam_from_world: Poses, (..., 4, 4).

    Returns:
        ``-R^T t``, (..., 3), in the units of the world.
    """
    rotation, translation = cam_from_world[..., :3, :3], cam_from_world[..., :3, 3]
    return -np.einsum("...ji,...j->...i", rotation, translation)


def _inverse(b_from_a: FloatArray) -> FloatArray:
    """Rigid transforms (..., 4, 4) inverted: the rotation transposed, exactly."""
    a_from_b = np.array(b_from_a, np.float64)
    a_from_b[..., :3, :3] = b_from_a[..., :3, :3].swapaxes(-1, -2)
    a_from_b[..., :3, 3] = camera_centers(b_from_a)
    return a_from_b


def translation_errors(estimated: FloatArray, truth: FloatArray) -> FloatArray:
    """Distances between camera centres (not between t vectors).

    Args:
        estimated: ``cam_from_world``, (N, 4, 4).
        truth: ``cam_from_world``, (N, 4, 4).

    Returns:
        Distances in the units of the world, (N,).
    """
    return np.linalg.norm(camera_centers(estimated) - camera_centers(truth), axis=-1)


def rotation_errors_deg(estimated: FloatArray, truth: FloatArray) -> FloatArray:
    """Angles of the rotations between estimate and truth.

    Sine and cosine together keep full accuracy at 0 and at 180 degrees, where the usual
    ``arccos((trace - 1) / 2)`` loses half of the digits.

    Args:
        estimated: ``cam_from_world``, (N, 4, 4).
        truth: ``cam_from_world``, (N, 4, 4).

    Returns:
        Angles in [0, 180] degrees, (N,).
    """
    relative = np.einsum("nij,nkj->nik", estimated[:, :3, :3], truth[:, :3, :3])
    skew = relative - relative.swapaxes(-1, -2)
    sine = np.sqrt(skew[:, 0, 1] ** 2 + skew[:, 0, 2] ** 2 + skew[:, 1, 2] ** 2) / 2
    cosine = (np.trace(relative, axis1=-2, axis2=-1) - 1) / 2
    return np.degrees(np.arctan2(sine, cosine))


def vcre_px(
    estimated: FloatArray, truth: FloatArray, K: FloatArray, image_sizes: NDArray[np.int64]
) -> FloatArray:
    """Virtual correspondence reprojection errors, exactly as the Map-free benchmark scores them.

    A fixed grid of 196 points before the camera of the truth (1.8 to 3.6 m) is projected by both
    cameras, and the pixels are clamped to the image; the error is the mean distance of the two
    pixels. Points behind the estimated camera are projected through its centre like any other, as
    there, so the error never exceeds the image's diagonal.

    Args:
        estimated: ``cam_from_world``, (N, 4, 4), metres.
        truth: ``cam_from_world``, (N, 4, 4), metres.
        K: Calibration matrices of the queries (from the truth), (N, 3, 3), pixels.
        image_sizes: (width, height) of the queries, (N, 2), pixels.

    Returns:
        Mean distances in pixels, (N,). NaN where a point meets the estimated camera's centre plane
        and axis at once (0 / 0); NaN is below no threshold.
    """
    points_in_truth = np.broadcast_to(VCRE_POINTS_M, (len(truth), *VCRE_POINTS_M.shape))
    # As the official script: camera-to-world poses, numerically inverted. Points in the estimated
    # camera's plane (after a half turn, say) are only then rounded to the same side of it.
    estimate_from_truth = np.linalg.inv(_inverse(estimated)) @ _inverse(truth)
    rotation, translation = estimate_from_truth[:, :3, :3], estimate_from_truth[:, None, :3, 3]
    points_in_estimate = points_in_truth @ rotation.swapaxes(-1, -2) + translation
    limits = np.asarray(image_sizes, np.float64)[:, None, :]

    def project(points: FloatArray) -> FloatArray:
        uvw = points @ K.swapaxes(-1, -2).astype(np.float64)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.clip(uvw[..., :2] / uvw[..., 2:], 0, limits)

    distances = np.linalg.norm(project(points_in_truth) - project(points_in_estimate), axis=-1)
    return distances.mean(axis=-1)


def recall_within(
    translation: FloatArray, rotation_deg: FloatArray, max_translation: float, max_rotation: float
) -> float:
    """Share of the queries with both errors within a pair of thresholds; NaN without queries.

    Args:
        translation: Translation errors of all queries, (N,); infinite where there is no estimate.
        rotation_deg: Rotation errors, (N,), degrees.
        max_translation: Largest accepted translation error.
        max_rotation: Largest accepted rotation error, degrees.
    """
    if not len(translation):
        return float("nan")
    return float(((translation <= max_translation) & (rotation_deg <= max_rotation)).mean())


def average_precision(confidence: FloatArray, accepted: BoolArray, num_total: int) -> float:
    """Area under the precision over the share of answered queries, ordered by confidence.

    Map-free's AUC: estimates of equal confidence are taken as one block, so their order is
    irrelevant. Queries without an estimate only limit how far the curve goes.

    Args:
        confidence: Confidence of each estimate, (n,); larger is surer.
        accepted: Whether each estimate is within the threshold, (n,).
        num_total: Number of all queries, ``n`` plus those without an estimate.

    Returns:
        The area in [0, 1]; NaN if there are no queries.

    Raises:
        ValueError: A confidence is NaN, or ``num_total`` is less than ``n``.
    """
    if np.isnan(confidence).any():
        raise ValueError("confidence must not be NaN")
    if num_total < len(confidence):
        raise ValueError(f"num_total must be at least {len(confidence)}, got {num_total}")
    if num_total == 0:
        return float("nan")
    if not len(confidence):
        return 0.0
    order = np.argsort(-confidence, kind="stable")
    ordered = confidence[order]
    block_end = np.append(ordered[1:] != ordered[:-1], True)  # (n,)
    answered = np.arange(1, len(ordered) + 1)[block_end]
    correct = np.cumsum(accepted[order])[block_end]
    steps = np.diff(answered, prepend=0) / num_total
    return float(np.sum(steps * correct / answered))


def relative_pose_errors_deg(
    estimated: FloatArray, truth: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Rotation and translation-direction errors of relative poses known up to scale.

    Args:
        estimated: ``cam1_from_cam0``, (N, 4, 4); only the direction of the translation counts.
        truth: ``cam1_from_cam0``, (N, 4, 4).

    Returns:
        Rotation angles in [0, 180] and angles between the translations folded to [0, 90] (an
        essential matrix leaves the sign open), (N,) degrees each. Without a baseline in the truth
        the direction is undefined and its error 0.
    """
    t_estimated, t_truth = estimated[:, :3, 3], truth[:, :3, 3]
    cross = np.linalg.norm(np.cross(t_estimated, t_truth), axis=-1)
    dot = np.abs(np.sum(t_estimated * t_truth, axis=-1))
    return rotation_errors_deg(estimated, truth), np.degrees(np.arctan2(cross, dot))


def pose_auc(errors_deg: FloatArray, thresholds_deg: Sequence[float]) -> list[float]:
    """Area under the recall-over-error curve up to each threshold, divided by the threshold.

    The protocol of SuperGlue (Sarlin et al., CVPR 2020) and its successors: recall rises linearly
    between the sorted errors and stays flat from the last one below the threshold.

    Args:
        errors_deg: max(rotation error, translation error) of each pair, (N,); infinite = failed.
        thresholds_deg: Upper limits, degrees.

    Returns:
        One area in [0, 1] per threshold; NaN if there are no pairs.
    """
    if not len(errors_deg):
        return [float("nan")] * len(thresholds_deg)
    errors = np.concatenate([[0.0], np.sort(errors_deg)])
    recall = np.arange(len(errors)) / (len(errors) - 1)
    areas = []
    for threshold in thresholds_deg:
        end = int(np.searchsorted(errors, threshold))
        x = np.append(errors[:end], threshold)
        y = np.append(recall[:end], recall[end - 1])
        areas.append(float(np.sum(np.diff(x) * (y[1:] + y[:-1]) / 2) / threshold))
    return areas


def epipolar_distances_px(
    keypoints0: FloatArray, keypoints1: FloatArray, F: FloatArray
) -> FloatArray:
    """Distances of matches from the epipolar lines, the larger of the two images'.

    Args:
        keypoints0: Pixels in image 0, (M, 2).
        keypoints1: Pixels in image 1, (M, 2).
        F: Fundamental matrix with ``x1^T F x0 = 0``, (3, 3), for those pixels.

    Returns:
        Distances in pixels, (M,).
    """
    ones = np.ones((len(keypoints0), 1))
    x0, x1 = np.hstack([keypoints0, ones]), np.hstack([keypoints1, ones])
    lines1, lines0 = x0 @ F.T, x1 @ F
    residual = np.abs(np.sum(x1 * lines1, axis=-1))
    tiny = np.finfo(np.float64).tiny
    norm0 = np.maximum(np.linalg.norm(lines0[:, :2], axis=-1), tiny)
    norm1 = np.maximum(np.linalg.norm(lines1[:, :2], axis=-1), tiny)
    return residual / np.minimum(norm0, norm1)
