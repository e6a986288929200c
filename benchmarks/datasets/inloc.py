"""InLoc (Taira et al., CVPR 2018): phone photos against RGB-D cutouts of laser scans of two floors.

The map's photos are perspective cutouts whose every pixel has a scan point, so its points come from
the scans. Poses of the queries are known to visuallocalization.net only.
"""

import functools
import math
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap

from benchmarks.datasets.inloc_poses import (
    cutout_poses,
    scan_file,
    scan_points,
    transformation_file,
)
from benchmarks.datasets.posed_photos import posed_model, published_retrieval, simple_camera
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask, SceneCounts
from benchmarks.evaluate import EvaluationOptions
from benchmarks.options import LocalizationOptions
from benchmarks.submissions import SubmissionFormat
from localize.localizer import LocalizerOptions
from localize.pnp import PnPOptions
from mapping.depth import Surfaces, files_identity
from mapping.options import MapOptions, PairOptions
from matching.errors import InputError
from matching.files import existing_file, existing_folder

BUILDINGS = ("DUC1", "DUC2")
NUM_CUTOUTS, NUM_QUERIES = 277 * 36, 356  # 329 of the queries are scored, the server knows which
CUTOUT_FOV_DEG = 60.0  # horizontal: f = 1385.64 px at 1600x1200
LONG_SIDE_PX = 4032  # of the queries
QUERY_FOCAL_PER_LONG_SIDE = 28 / 36  # an iPhone 7's 28 mm of a 36 mm film: 3136 px at 4032
_CUTOUT = re.compile(r"DUC_cutout_(\d{3})_(\d+)_(-?\d+)\.jpg")


@dataclass(frozen=True, kw_only=True)
class InlocOptions(LocalizationOptions):
    """Settings of `benchmark inloc`."""

    map_points: Literal["triangulated", "depth"] = "depth"  # from the scans
    # file that keeps the poses of the cutouts, each computed once from its scan points (a .mat file
    # of some ten megabytes); name one to share it between runs; None: a file in the run's folder
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
    """Cutouts, and the phone photos.

    With a published retrieval list only the cutouts it names are mapped. The poses that their scan
    points imply are left for later: only whoever makes the map needs them.

    Raises:
        InputError: A file is missing or malformed.
    """
    queries = _queries(root)
    names = _cutouts(root)
    num_cutouts = len(names)
    retrieval = published_retrieval(options.retrieval_pairs, queries, names)
    if retrieval is not None:
        listed = {name for found in retrieval.values() for name in found}
        names = [name for name in names if name in listed]
    cameras = {name: _cutout_camera(root / name) for name in names}
    for name in names:  # what is not there is told now, not after hours of reading
        existing_file(scan_file(root, name), "scan points of a cutout")
        existing_file(transformation_file(root, name), "transformation of a scan")
    cache = None if options.cutout_poses is None else Path(options.cutout_poses)

    @functools.cache
    def reference() -> pycolmap.Reconstruction:
        poses = cutout_poses(root, cameras, cache)
        return posed_model({name: (cameras[name], pose) for name, pose in poses.items()})

    return LocalizationTask(
        name="inloc",
        images=root,
        map_names=tuple(names),
        query_cameras=queries,
        reference=reference,
        surfaces=Surfaces(
            read=lambda name: scan_points(root, name).astype(np.float32),
            identity=files_identity(
                [
                    *(scan_file(root, name) for name in names),
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
