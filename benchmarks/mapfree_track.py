"""The multi-frame track of Map-free: nine single estimates and the phone's tracking, one pose.

Each frame of the window gives an estimate of the query's pose: its own pose relative to the
reference, moved on by the tracking, which is precise over so short a time. Wrong estimates rarely
agree with each other, right ones do: the estimate with the most confident company wins, and its
company is averaged.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics import camera_centers, rotation_errors_deg, translation_errors

FloatArray = NDArray[np.float64]

_AGREE_M = 0.25  # scale of the distance up to which two estimates support each other
_AGREE_DEG = 5.0


@dataclass(frozen=True, kw_only=True)
class Fused:
    """A pose and the support it has: the sum of the confidences that agree with it."""

    cam_from_world: FloatArray
    support: float


def query_from_frame(frame_from_reference: FloatArray, frame_from_query: FloatArray) -> FloatArray:
    """The query's pose that a frame's pose implies.

    Args:
        frame_from_reference: The frame's estimate, (4, 4), metres.
        frame_from_query: The tracking, (4, 4): the frame's pose in the query camera's frame.
    """
    return np.linalg.inv(frame_from_query) @ frame_from_reference


def fuse(poses: Sequence[FloatArray], confidences: Sequence[float]) -> Fused | None:
    """Agree on one of several estimates of the same pose.

    Args:
        poses: ``cam_from_world``, (4, 4) each, metres.
        confidences: Of each, larger is surer.

    Returns:
        The weighted mean of the estimates that agree with the best supported one, or None if there
        is no estimate.
    """
    if not poses:
        return None
    stacked, weights = np.stack(poses), np.maximum(np.array(confidences, np.float64), 1e-9)
    count = len(stacked)
    rows, columns = np.divmod(np.arange(count * count), count)
    metres = translation_errors(stacked[rows], stacked[columns]).reshape(count, count)
    degrees = rotation_errors_deg(stacked[rows], stacked[columns]).reshape(count, count)
    agreement = np.exp(-0.5 * ((metres / _AGREE_M) ** 2 + (degrees / _AGREE_DEG) ** 2))
    support = agreement @ weights
    best = int(np.argmax(support))
    return Fused(
        cam_from_world=_mean_pose(stacked, agreement[best] * weights), support=float(support[best])
    )


def _mean_pose(poses: FloatArray, weights: FloatArray) -> FloatArray:
    """Weighted mean of centres and (chordal) of rotations."""
    shares = weights / weights.sum()
    u, _, vt = np.linalg.svd(np.einsum("n,nij->ij", shares, poses[:, :3, :3]))
    rotation = u @ np.diag([1, 1, np.linalg.det(u @ vt)]) @ vt
    mean = np.eye(4)
    mean[:3, :3] = rotation
    mean[:3, 3] = -rotation @ (shares @ camera_centers(poses))
    return mean
