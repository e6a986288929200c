"""The length of a relative pose from a given depth map of the first photo.

The way of the Map-free baselines: the essential matrix gives rotation and direction, and each
inlier whose depth is known votes for the length.
"""

import numpy as np
from numpy.typing import NDArray

from localize.relative import RelativePose

FloatArray = NDArray[np.float64]

_MIN_VOTES = 5  # inliers with depth


def length_from_depth(result: RelativePose, depth0: NDArray[np.float32]) -> float | None:
    """The length of the translation in the depth map's unit.

    A point X seen at depth z in photo 0 lies on the ray r of photo 1: r x (R X + s t) = 0. Its
    least squares solution for s is a match's vote; the median over the inliers is taken.

    Args:
        result: A pose whose translation has length 1, with its matches.
        depth0: (H, W) along the optical axis, 0 or NaN where nothing is known; any size that covers
            photo 0.

    Returns:
        The length, or None if too few inliers have a depth or the median is not positive.
    """
    pose = result.cam1_from_cam0
    if pose is None:
        return None
    inliers = result.inlier_mask
    pixels0 = result.matches.keypoints0[inliers].astype(np.float64)
    pixels1 = result.matches.keypoints1[inliers].astype(np.float64)
    depth = sample_depth(depth0, pixels0 / [result.camera0.width, result.camera0.height])
    known = np.isfinite(depth) & (depth > 0)
    if known.sum() < _MIN_VOTES:
        return None
    rays0, rays1 = (
        np.append(np.asarray(camera.cam_from_img(pixels[known])), np.ones((known.sum(), 1)), axis=1)
        for camera, pixels in ((result.camera0, pixels0), (result.camera1, pixels1))
    )
    turned = (rays0 * depth[known, None]) @ pose[:3, :3].T
    off, shift = np.cross(rays1, turned), np.cross(rays1, pose[:3, 3])
    along = np.einsum("ij,ij->i", shift, shift)
    with np.errstate(divide="ignore", invalid="ignore"):
        votes = -np.einsum("ij,ij->i", off, shift) / along
    votes = votes[np.isfinite(votes)]
    length = float(np.median(votes)) if len(votes) >= _MIN_VOTES else 0.0
    return length if length > 0 else None


def sample_depth(depth: NDArray[np.float32], places: FloatArray) -> FloatArray:
    """Depth at places in [0, 1) of width and height, (N, 2): the nearest pixel's, as the baselines.

    Nothing is interpolated: at the edges of things that would invent depths between them.
    """
    height, width = depth.shape
    x = np.clip((places[:, 0] * width).astype(int), 0, width - 1)
    y = np.clip((places[:, 1] * height).astype(int), 0, height - 1)
    return depth[y, x].astype(np.float64)
