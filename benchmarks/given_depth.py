"""The length of a relative pose from a given depth map of the first photo.

The way of the Map-free baselines: the essential matrix gives rotation and direction, and each
inlier whose depth is known votes for the length.
"""

import numpy as np
from numpy.typing import NDArray

from localize.essential import undistorted_rays
from localize.pointmap_pose import Baseline, baseline_length
from localize.relative import RelativePose

FloatArray = NDArray[np.float64]


def baseline_from_depth(result: RelativePose, depth0: NDArray[np.float32]) -> Baseline | None:
    """The length of the translation in the depth map's unit.

    Args:
        result: A pose with its matches; the length of its translation plays no part.
        depth0: (H, W) along the optical axis, 0 or NaN where nothing is known; any size that covers
            photo 0.

    Returns:
        The length and its spread, or None without a pose or with too few depths.
    """
    pose = result.cam1_from_cam0
    if pose is None:
        return None
    inliers = result.inlier_mask
    pixels0 = result.matches.keypoints0[inliers].astype(np.float64)
    pixels1 = result.matches.keypoints1[inliers].astype(np.float64)
    depths0 = sample_depth(depth0, pixels0 / [result.camera0.width, result.camera0.height])
    return baseline_length(
        pose[:3, :3],
        pose[:3, 3] / np.linalg.norm(pose[:3, 3]),
        undistorted_rays(result.camera0, pixels0),
        undistorted_rays(result.camera1, pixels1),
        depths0,
        np.full(len(depths0), np.nan),
    )


def with_length(cam1_from_cam0: FloatArray, length: float) -> FloatArray:
    """The pose with its translation brought to a length."""
    scaled = cam1_from_cam0.copy()
    scaled[:3, 3] *= length / np.linalg.norm(cam1_from_cam0[:3, 3])
    return scaled


def sample_depth(depth: NDArray[np.float32], places: FloatArray) -> FloatArray:
    """Depth at places in [0, 1) of width and height, (N, 2): the nearest pixel's, as the baselines.

    Nothing is interpolated: at the edges of things that would invent depths between them.

    Returns:
        (N,), NaN where nothing is known.
    """
    height, width = depth.shape
    x = np.clip((places[:, 0] * width).astype(int), 0, width - 1)
    y = np.clip((places[:, 1] * height).astype(int), 0, height - 1)
    values = depth[y, x].astype(np.float64)
    return np.where(values > 0, values, np.nan)
