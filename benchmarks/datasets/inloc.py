"""InLoc (Taira et al., CVPR 2018): phone photos against RGB-D cutouts of laser scans of two floors.

The map's photos are perspective cutouts whose every pixel has a scan point, so its points come from
the scans. Poses of the queries are known to visuallocalization.net only.
"""

import functools
import logging
import math
import re
import zlib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.datasets.posed_photos import (
    parse_numbers,
    posed_model,
    published_retrieval,
    simple_camera,
)
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask, SceneCounts
from benchmarks.evaluate import EvaluationOptions
from benchmarks.interchange.hloc_lists import write_hloc_results
from benchmarks.options import LocalizationOptions
from benchmarks.submissions import SubmissionFormat
from localize.localizer import LocalizerOptions
from localize.pnp import PnPOptions
from localize.results import read_poses
from mapping.depth import Surfaces, files_identity
from mapping.options import MapOptions, PairOptions
from matching.errors import InputError
from matching.files import existing_file, existing_folder, text_lines

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

BUILDINGS = ("DUC1", "DUC2")
NUM_CUTOUTS, NUM_QUERIES = 277 * 36, 356  # 329 of the queries are scored, the server knows which
CUTOUT_FOV_DEG = 60.0  # horizontal: f = 1385.64 px at 1600x1200
LONG_SIDE_PX = 4032  # of the queries
QUERY_FOCAL_PER_LONG_SIDE = 28 / 36  # an iPhone 7's 28 mm of a 36 mm film: 3136 px at 4032
_CUTOUT = re.compile(r"DUC_cutout_(\d{3})_(\d+)_(-?\d+)\.jpg")
_AFTER = "after general icp:"
# poses by data set: a run reads the data set to map, to localize and to score
_computed: dict[Path, dict[str, pycolmap.Rigid3d]] = {}
_GRID = 24  # points per side that a cutout's pose is computed from
_MIN_POINTS = 24  # of a cutout with a pose: some look out of windows or at a wall too near
_MAX_POSE_ERROR_PX = 8.0  # of a cutout of 1600 pixels: its pixels and scan points belong together
_MAX_UNPOSED = 0.1  # more cutouts without a pose are no accident


@dataclass(frozen=True, kw_only=True)
class InlocOptions(LocalizationOptions):
    """Settings of `benchmark inloc`."""

    map_points: Literal["triangulated", "depth"] = "depth"  # from the scans
    # file that keeps the poses of the cutouts, computed from their scan points at the first run
    # (every cutout's .mat file is read for it); None computes them at every run
    cutout_poses: str | None = None
    evaluation: EvaluationOptions = field(
        default_factory=lambda: EvaluationOptions(
            thresholds=((0.25, 10.0), (0.5, 10.0), (1.0, 10.0))
        )
    )
    # scans and cutouts are some centimetres off each other: hloc's wide limit, at 4032 pixels
    localizer: LocalizerOptions = field(
        default_factory=lambda: LocalizerOptions(
            top_k=40, max_error_long_side_px=LONG_SIDE_PX, pnp=PnPOptions(max_error_px=48.0)
        )
    )
    # the points are given: pairs of cutouts only tell which of them show the same place
    map: MapOptions = field(default_factory=lambda: MapOptions(pairs=PairOptions(top_k=5)))


def open_inloc(root: Path, options: InlocOptions) -> LocalizationDataset:
    """Both buildings as one scene: which photo belongs to which is the server's secret."""
    existing_folder(root / "database" / "cutouts", "folder of InLoc's cutouts")
    return LocalizationDataset(
        title="InLoc",
        scenes=("inloc",),
        read=lambda _: read_inloc(root, options),
        one_scene=True,
        counts={"inloc": SceneCounts(map=NUM_CUTOUTS, queries=NUM_QUERIES)},
        published="inloc",
        submission=SubmissionFormat(file_name="InLoc_eval_{method}.txt"),
        notes=("query intrinsics by the 28/36 rule; 329 of the 356 queries are scored",),
    )


def read_inloc(root: Path, options: InlocOptions) -> LocalizationTask:
    """Cutouts with the poses that their scan points imply, and the phone photos.

    With a published retrieval list only the cutouts it names are mapped.

    Raises:
        InputError: A file is missing or malformed; or a cutout does not fit its scan points.
    """
    queries = _queries(root)
    names = _cutouts(root)
    num_cutouts = len(names)
    retrieval = published_retrieval(options.retrieval_pairs, queries, names)
    if retrieval is not None:
        listed = {name for found in retrieval.values() for name in found}
        names = [name for name in names if name in listed]
    cameras = {name: _cutout_camera(root / name) for name in names}
    poses = _cutout_poses(root, cameras, options.cutout_poses)
    names = [name for name in names if name in poses]
    if retrieval is not None:
        retrieval = {q: [n for n in found if n in poses] for q, found in retrieval.items()}
    return LocalizationTask(
        name="inloc",
        images=root,
        map_names=tuple(names),
        query_cameras=queries,
        reference=posed_model({name: (cameras[name], poses[name]) for name in names}),
        surfaces=Surfaces(
            read=lambda name: scan_points(root, name).astype(np.float32),
            identity=files_identity(
                [
                    *(root / f"{name}.mat" for name in names),
                    *sorted(root.glob("database/alignments/*/transformations/*.txt")),
                ]
            ),
        ),
        retrieval=retrieval,
        num_unused=num_cutouts - len(names),
    )


def _queries(root: Path) -> dict[str, pycolmap.Camera | None]:
    folder = existing_folder(root / "query" / "iphone7", "folder of InLoc's queries")
    cameras: dict[str, pycolmap.Camera | None] = {}
    for path in sorted(folder.glob("IMG_*.JPG")):
        camera = simple_camera(path, 1.0)
        # of the long side, also for photos stored upright
        camera.focal_length = QUERY_FOCAL_PER_LONG_SIDE * max(camera.width, camera.height)
        cameras[path.relative_to(root).as_posix()] = camera
    if not cameras:
        raise InputError(f"'{folder}' holds no IMG_0731.JPG")
    return cameras


def _cutouts(root: Path) -> list[str]:
    names = []
    for building in BUILDINGS:
        folder = root / "database" / "cutouts" / building
        names += [p.relative_to(root).as_posix() for p in sorted(folder.glob("*/DUC_cutout_*.jpg"))]
    for name in names:
        if _CUTOUT.fullmatch(Path(name).name) is None:
            raise InputError(f"'{root / name}' is no name like DUC_cutout_007_150_-30.jpg")
    if not names:
        raise InputError(
            f"'{root}' holds no database/cutouts/DUC1/007/DUC_cutout_007_150_-30.jpg: only "
            f"{' and '.join(BUILDINGS)} are used"
        )
    return names


def _cutout_camera(path: Path) -> pycolmap.Camera:
    camera = simple_camera(path, 1.0)
    camera.focal_length = camera.width / 2 / math.tan(math.radians(CUTOUT_FOV_DEG / 2))
    return camera


def scan_points(root: Path, name: str) -> FloatArray:
    """What each pixel of a cutout sees in the frame of its building, (H, W, 3); NaN unknown.

    Raises:
        InputError: The .mat file or the scan's transformation is missing or malformed.
    """
    file = existing_file(root / f"{name}.mat", "scan points of a cutout")
    points = _read_xyz(file)
    building, scan = Path(name).parts[-3:-1]
    world_from_scan = _read_transformation(
        root / "database" / "alignments" / building / "transformations" / f"DUC_trans_{scan}.txt"
    )
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


def _cutout_poses(
    root: Path, cameras: dict[str, pycolmap.Camera], cache: str | None
) -> dict[str, pycolmap.Rigid3d]:
    """cam_from_world of cutouts, those in the cache as they are."""
    known = _computed.setdefault(root.resolve(), {})
    if cache is not None and Path(cache).is_file():
        known.update(read_poses(cache))
    missing = [name for name in cameras if name not in known]
    if missing:
        logger.info("computing the poses of %d cutouts from their scan points", len(missing))
        with ThreadPoolExecutor(8) as pool:
            found = list(pool.map(lambda name: _cutout_pose(root, name, cameras[name]), missing))
        known.update({n: p for n, p in zip(missing, found, strict=True) if p is not None})
        unposed = [name for name in missing if name not in known]
        if len(unposed) > _MAX_UNPOSED * len(cameras):
            raise InputError(
                f"the scan points of {len(unposed)} of {len(cameras)} cutouts do not project to "
                f"their pixels, such as those of '{root / unposed[0]}.mat'"
            )
        if unposed:
            logger.warning(
                "%d cutouts have too few scan points and are left out, such as %s",
                len(unposed), unposed[0],
            )  # fmt: skip
    if cache is not None and (missing or not Path(cache).is_file()):
        write_hloc_results(cache, known, line_name=lambda name: name)
    return {name: known[name] for name in cameras if name in known}


def _cutout_pose(root: Path, name: str, camera: pycolmap.Camera) -> pycolmap.Rigid3d | None:
    """The pose under which the scan points project to their own pixels; None if there is none.

    The angles in the names are of no published convention; the points are exact.
    """
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
