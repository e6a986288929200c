"""Poses of InLoc's cutouts: those under which their scan points project to their own pixels.

The data set gives no poses in any published convention, but every pixel's scan point. The points of
a cutout are a MATLAB file of some ten megabytes, so that what was computed of it is kept.
"""

import functools
import json
import logging
import zlib
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.datasets.posed_photos import parse_numbers
from matching.errors import InputError
from matching.files import existing_file, text_lines

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

_AFTER = "after general icp:"
_GRID = 24  # points per side that a cutout's pose is computed from
_MIN_POINTS = 24  # of a cutout with a pose: some look out of windows or at a wall too near
_MAX_POSE_ERROR_PX = 8.0  # of a cutout of 1600 pixels: its pixels and scan points belong together
_MAX_UNPOSED = 0.1  # more cutouts without a pose are no accident
_THREADS = 8  # files being read; each in memory holds two million points


def scan_file(root: Path, name: str) -> Path:
    """The file of a cutout's scan points."""
    return root / f"{name}.mat"


def transformation_file(root: Path, name: str) -> Path:
    """The file that leads from the scan of a cutout to its building."""
    building, scan = Path(name).parts[-3:-1]
    folder = root / "database" / "alignments" / building / "transformations"
    return folder / f"DUC_trans_{scan}.txt"


def scan_points(root: Path, name: str) -> FloatArray:
    """What each pixel of a cutout sees in the frame of its building, (H, W, 3); NaN unknown.

    Raises:
        InputError: The .mat file or the scan's transformation is missing or malformed.
    """
    points = _read_xyz(existing_file(scan_file(root, name), "scan points of a cutout"))
    world_from_scan = _read_transformation(transformation_file(root, name))
    homogeneous = points @ world_from_scan[:, :3].T + world_from_scan[:, 3]
    return homogeneous[..., :3] / homogeneous[..., 3:]


def _read_xyz(file: Path) -> FloatArray:
    """``XYZcut`` of a MATLAB file."""
    try:
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError
    except ImportError as error:
        raise InputError(
            "InLoc's scans are MATLAB files: pip install 'groundloc[inloc]' (scipy) reads them"
        ) from error
    try:
        values: Any = loadmat(file, variable_names=["XYZcut"]).get("XYZcut")
    except (
        MatReadError, ValueError, OSError, TypeError, NotImplementedError, zlib.error,
    ) as error:  # fmt: skip
        raise InputError(f"'{file}' is no readable MATLAB file: {error}") from error
    if values is None or values.ndim != 3 or values.shape[2] != 3:
        raise InputError(f"'{file}' holds no XYZcut of shape (height, width, 3)")
    return np.asarray(values, np.float64)


@functools.lru_cache(maxsize=512)
def _read_transformation(file: Path) -> FloatArray:
    """The second of the two matrices, that after generalised ICP."""
    rows: list[FloatArray] = []
    started = False
    for _, line in text_lines(existing_file(file, "transformation of a scan")):
        if started and line and len(rows) < 4:
            row = parse_numbers(line.split())
            if row is None or len(row) != 4:
                break
            rows.append(row)
        started = started or line.lower().startswith(_AFTER)
    if len(rows) != 4:
        raise InputError(f"'{file}' has no 4x4 numbers after the line 'After general icp:'")
    return np.stack(rows)


def cutout_poses(
    root: Path, cameras: Mapping[str, pycolmap.Camera], cache: Path | None
) -> dict[str, pycolmap.Rigid3d]:
    """cam_from_world of cutouts; those that have too few scan points are left out.

    Args:
        root: The data set.
        cameras: Camera of each cutout by name.
        cache: File that keeps each pose as soon as it is computed, or that there is none: a killed
            run goes on where it was, and every process and run that names the file shares it. A
            cutout whose file has another size now is computed again. None keeps nothing.

    Raises:
        InputError: A file is missing or malformed, or a tenth of the cutouts have no pose.
    """
    sizes = {name: existing_file(scan_file(root, name), "scan points").stat().st_size
             for name in cameras}  # fmt: skip
    kept = {} if cache is None else _read_cache(cache)
    poses = {name: kept[name, sizes[name]] for name in cameras if (name, sizes[name]) in kept}
    missing = [name for name in cameras if name not in poses]
    if missing:
        logger.info("computing the poses of %d cutouts from their scan points", len(missing))
        for name, pose in _computed(root, missing, cameras):
            matrix = None if pose is None else pose.matrix().tolist()
            poses[name] = _pose(matrix)  # to the last digit what the file gives back
            if cache is not None:
                _append(cache, {"name": name, "num_bytes": sizes[name], "cam_from_world": matrix})
    unposed = [name for name in cameras if poses[name] is None]
    if len(unposed) > _MAX_UNPOSED * len(cameras):
        raise InputError(
            f"the scan points of {len(unposed)} of {len(cameras)} cutouts do not project to "
            f"their pixels, such as those of '{scan_file(root, unposed[0])}'"
        )
    if unposed:
        logger.warning(
            "%d cutouts have too few scan points and are left out, such as %s",
            len(unposed), unposed[0],
        )  # fmt: skip
    return {name: pose for name in cameras if (pose := poses[name]) is not None}


def _computed(
    root: Path, names: Sequence[str], cameras: Mapping[str, pycolmap.Camera]
) -> Iterator[tuple[str, pycolmap.Rigid3d | None]]:
    """Each name with its pose, as soon as it and those before it are there."""
    with ThreadPoolExecutor(_THREADS) as pool:
        # a few files ahead: of thousands none is read that an interruption makes useless
        for start in range(0, len(names), 4 * _THREADS):
            batch = names[start : start + 4 * _THREADS]
            found = pool.map(lambda name: cutout_pose(root, name, cameras[name]), batch)
            yield from zip(batch, found, strict=True)


def _read_cache(cache: Path) -> dict[tuple[str, int], pycolmap.Rigid3d | None]:
    """Poses by name and size of the scan points' file."""
    kept: dict[tuple[str, int], pycolmap.Rigid3d | None] = {}
    if not cache.exists():
        return kept
    for _, line in text_lines(cache):
        if line and not line.startswith("{"):
            raise InputError(f"'{cache}' keeps no poses of cutouts: name another file")
        try:
            record = json.loads(line or "{}")
            kept[record["name"], record["num_bytes"]] = _pose(record["cam_from_world"])
        except (ValueError, KeyError, TypeError):
            continue  # half a line of a killed process: its cutout is computed again
    return kept


def _pose(matrix: list[list[float]] | None) -> pycolmap.Rigid3d | None:
    return None if matrix is None else pycolmap.Rigid3d(np.array(matrix, np.float64))


def _append(cache: Path, record: Mapping[str, Any]) -> None:
    cache.parent.mkdir(parents=True, exist_ok=True)
    with cache.open("a", encoding="utf-8") as file:
        # one write: processes may share the file. The first end of line ends what one half wrote.
        file.write(f"\n{json.dumps(record)}\n")


def cutout_pose(root: Path, name: str, camera: pycolmap.Camera) -> pycolmap.Rigid3d | None:
    """The pose under which the scan points project to their own pixels; None if there is none."""
    points = scan_points(root, name)
    height, width = points.shape[:2]
    row, column = np.meshgrid(_spread(height), _spread(width), indexing="ij")
    xyz = points[row, column].reshape(-1, 3)
    # the grid may be smaller than the photo
    scale = np.array([camera.width / width, camera.height / height])
    pixels = (np.stack([column, row], axis=-1).reshape(-1, 2) + 0.5) * scale
    seen = np.isfinite(xyz).all(1)
    if seen.sum() < _MIN_POINTS:
        return None
    options = pycolmap.AbsolutePoseEstimationOptions()
    options.ransac.max_error = _MAX_POSE_ERROR_PX * max(camera.width / 1600, 0.5)
    options.ransac.random_seed = 0
    found = pycolmap.estimate_and_refine_absolute_pose(pixels[seen], xyz[seen], camera, options)
    if found is None or found["num_inliers"] < 0.5 * seen.sum():
        return None
    pose: pycolmap.Rigid3d = found["cam_from_world"]
    return pose


def _spread(size: int) -> Sequence[int]:
    return np.unique(np.linspace(0, size - 1, min(_GRID, size)).astype(int)).tolist()
