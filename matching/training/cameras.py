"""Poses and intrinsics of virtual cameras."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]


def look_at(position: FloatArray, target: FloatArray, *, roll: float = 0.0) -> FloatArray:
    """Pose of an upright camera that looks at a point.

    Args:
        position: Camera centre, world, (3,).
        target: Point on the optical axis, (3,); not straight above or below.
        roll: Rotation about the optical axis, radians, clockwise as seen in the image.

    Returns:
        cam_from_world, (4, 4) float64, OpenCV axes in a world with z up.
    """
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    norm = np.linalg.norm(right)
    if norm < 1e-9:
        raise ValueError("the target lies straight above or below the camera")
    right = right / norm
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = rotation
    cam_from_world[:3, 3] = -rotation @ position
    return cam_from_world
