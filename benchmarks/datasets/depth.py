"""Depth images of RGB-D data sets, brought into the view of the colour camera."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matching.errors import InputError
from matching.files import PathLike, existing_file

FloatArray = NDArray[np.float64]

INVALID_MM = (0, 65535)  # what 16-bit depth images hold where the sensor saw nothing
_MAX_EDGE = 0.05  # neighbouring depths that differ by more, relatively, lie on different surfaces
_MAX_MISS_PX = 1.0  # of the depth image: farther off, another surface hides what was looked up
_ROUNDS = 4
_STARTS = (0.02, 0.5)  # quantiles of the depth that the look-ups start from


def read_depth_mm(path: PathLike) -> FloatArray:
    """A 16-bit depth image in millimetres as metres, (H, W); NaN where it is 0 or 65535.

    Raises:
        InputError: No such file, or no image with one 16-bit channel.
    """
    file = existing_file(path, "16-bit depth image")
    try:
        with Image.open(file, formats=("PNG", "TIFF")) as opened:
            values = np.asarray(opened)
    except (OSError, SyntaxError, ValueError) as error:
        raise InputError(f"'{file}' is no readable depth image: {error}") from error
    if values.ndim != 2 or values.dtype == np.uint8 or not np.issubdtype(values.dtype, np.integer):
        raise InputError(
            f"'{file}' is no 16-bit depth image: it holds {values.dtype} of shape {values.shape}"
        )
    return np.where(np.isin(values, INVALID_MM), np.nan, values / 1000.0)


def surface_of_depth(
    depth_m: FloatArray,
    depth_K: FloatArray,
    color_K: FloatArray,
    color_size: tuple[int, int],
    color_from_depth: FloatArray,
    world_from_color: FloatArray,
) -> NDArray[np.float32]:
    """World point of each pixel of the colour image.

    The depth image is looked up where the colour pixel's point projects to, which depends on its
    depth: a few rounds settle it. Between pixels, 1 / depth is interpolated, exact on planes;
    across edges the nearest pixel counts.

    Args:
        depth_m: Metres along the depth camera's axis, (h, w), NaN unknown.
        depth_K: Its intrinsics, (3, 3), centre of the top-left pixel at (0.5, 0.5).
        color_K: Those of the colour camera.
        color_size: (width, height) of the result.
        color_from_depth: Depth camera frame to colour camera frame, (4, 4).
        world_from_color: (4, 4).

    Returns:
        (H, W, 3) float32; NaN where the depth camera saw nothing, or something else.
    """
    width, height = color_size
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(color_K).T
    depth_from_color = np.asarray(np.linalg.inv(color_from_depth), np.float64)
    known = depth_m[np.isfinite(depth_m)]
    z = np.full((height, width), np.nan)
    # a pixel may see two surfaces of the depth image one behind the other: the nearer one counts
    for start in np.quantile(known, _STARTS) if len(known) else ():
        found = np.full((height, width), start)
        for _ in range(_ROUNDS):
            found, miss = _look_up(
                depth_m, depth_K, rays, found, depth_from_color, color_from_depth
            )
        z = np.fmin(z, np.where(miss <= _MAX_MISS_PX, found, np.nan))
    points = rays * z[..., None]
    return (points @ world_from_color[:3, :3].T + world_from_color[:3, 3]).astype(np.float32)


def _look_up(
    depth_m: FloatArray,
    depth_K: FloatArray,
    rays: FloatArray,
    z: FloatArray,
    depth_from_color: FloatArray,
    color_from_depth: FloatArray,
) -> tuple[FloatArray, FloatArray]:
    """Better depths of colour pixels, and how far in the depth image they moved the look-up."""
    known = np.isfinite(z)
    z = np.where(known, z, np.median(z[known]) if known.any() else 1.0)
    pixels = _project(rays * z[..., None], depth_from_color, depth_K)
    found = _sample(depth_m, pixels)
    ones = np.ones((*pixels.shape[:2], 1))
    in_depth = np.append(pixels, ones, axis=-1) @ np.linalg.inv(depth_K).T * found[..., None]
    better = in_depth @ color_from_depth[2, :3] + color_from_depth[2, 3]
    moved = _project(rays * better[..., None], depth_from_color, depth_K)
    miss = np.linalg.norm(moved - pixels, axis=-1)
    return better, np.where(np.isfinite(miss), miss, np.inf)


def _project(points: FloatArray, depth_from_color: FloatArray, depth_K: FloatArray) -> FloatArray:
    in_depth = points @ depth_from_color[:3, :3].T + depth_from_color[:3, 3]
    z = np.where(in_depth[..., 2] > 1e-6, in_depth[..., 2], np.nan)
    homogeneous = in_depth @ depth_K.T
    return homogeneous[..., :2] / z[..., None]


def _sample(depth_m: FloatArray, pixels: FloatArray) -> FloatArray:
    """Depth at pixel positions (..., 2); NaN outside."""
    height, width = depth_m.shape
    inside = np.all(np.isfinite(pixels) & (pixels >= 0) & (pixels < (width, height)), axis=-1)
    at = np.where(inside[..., None], pixels, 0.5) - 0.5
    nearest = np.round(at).astype(int).clip(0, (width - 1, height - 1))
    corner = np.floor(at).astype(int).clip(0, (max(width - 2, 0), max(height - 2, 0)))
    part = at - corner
    total = np.zeros(at.shape[:-1])
    low, high = np.full_like(total, np.inf), np.full_like(total, -np.inf)
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        value = depth_m[
            (corner[..., 1] + dy).clip(max=height - 1), (corner[..., 0] + dx).clip(max=width - 1)
        ]
        weight = np.abs(1 - dx - part[..., 0]) * np.abs(1 - dy - part[..., 1])
        total = total + weight / value
        low, high = np.minimum(low, value), np.maximum(high, value)
    smooth = (high - low) <= _MAX_EDGE * low  # false where one of the four is NaN
    single = depth_m[nearest[..., 1], nearest[..., 0]]
    depth = np.where(smooth, 1 / np.where(smooth, total, 1.0), single)
    return np.where(inside, depth, np.nan)


def depth_path(color: Path, ending: str) -> Path:
    """``frame-000000.color.png`` -> ``frame-000000<ending>``."""
    return color.with_name(color.name.split(".")[0] + ending)
