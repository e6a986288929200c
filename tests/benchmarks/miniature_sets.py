"""Miniatures of the published localization data sets with their truth."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pycolmap

from benchmarks.miniatures import (
    aachen,
    cambridge,
    cmu,
    colmap_folder,
    inloc,
    kapture,
    robotcar,
    seven_scenes,
)
from benchmarks.miniatures import twelve_scenes as twelve
from benchmarks.miniatures.studio import FOCAL_PX, FloatArray, Studio, pinhole
from benchmarks.report import Report
from benchmarks.run import run_benchmark
from matching.sift import SiftOptions
from tests.benchmarks.fakes import RememberingSift


@dataclass(frozen=True, kw_only=True)
class Miniature:
    """A miniature on disk and its exact truth.

    Attributes:
        root: The data set.
        queries: True cam_from_world of the queries, by the task's names.
        map_photos: The same of the map's photos.
    """

    root: Path
    queries: dict[str, pycolmap.Rigid3d]
    map_photos: dict[str, pycolmap.Rigid3d]


# module of the miniature, its world, and the task's names of the map photos in the studio's order
WRITERS: dict[str, tuple[str, FloatArray, Sequence[str]]] = {
    "aachen": ("aachen", aachen.WORLD, aachen.DATABASE + aachen.SEQUENCES),
    "cambridge": ("cambridge", cambridge.WORLD, cambridge.TRAIN),
    "7scenes": ("seven_scenes", seven_scenes.WORLD, seven_scenes.TRAIN),
    "12scenes": (
        "twelve_scenes",
        twelve.WORLD,
        [f"frame-{twelve.NUM_QUERIES + k:06d}.color.jpg" for k in range(twelve.NUM_MAP)],
    ),
    "inloc": ("inloc", inloc.WORLD, inloc.CUTOUTS),
    "colmap": ("colmap_folder", colmap_folder.WORLD, colmap_folder.MAP),
    "cmu": ("cmu", cmu.WORLD, [f"database/{name}" for name in cmu.DATABASE]),
    "robotcar": ("robotcar", robotcar.WORLD, robotcar.MAP),
    "kapture": (
        "kapture",
        kapture.WORLD,
        [f"mapping/sensors/records_data/{name}" for name in kapture.MAP],
    ),
}


# options of each whole run; of 9 data sets three take their points from depth, two a retrieval list
OPTIONS: dict[str, dict[str, Any]] = {
    "aachen": {},
    "cambridge": {},
    "7scenes": {"map_points": "depth"},
    "12scenes": {"map_points": "depth"},
    "inloc": {"retrieval_pairs": "pairs-query-netvlad40-temporal.txt"},
    "cmu": {},
    "colmap": {},
    "robotcar": {},
    "kapture": {"retrieval_pairs": "query/pairsfile/query/fire_top6.txt"},
}
# fewer keypoints than the default only take less time
SIFT = RememberingSift(SiftOptions(max_num_features=1000))


@dataclass(frozen=True, kw_only=True)
class WholeRun:
    """A finished run on a miniature; tests must not change its folder.

    Attributes:
        report: Its scores.
        out: Its folder.
        options: With which it was made.
    """

    report: Report
    out: Path
    options: dict[str, Any]


def run_whole(name: str, mini: Miniature, out: Path) -> WholeRun:
    """Map, localize and score a miniature."""
    options = {"localizer": {"quick_min_inliers": 0}, **OPTIONS[name]}
    if "retrieval_pairs" in options:
        options["retrieval_pairs"] = str(mini.root / options["retrieval_pairs"])
    report = run_benchmark(name, mini.root, out, matcher=SIFT, options=options)
    return WholeRun(report=report, out=out, options=options)


def write_miniature(name: str, root: Path, studio: Studio) -> Miniature:
    """Write the miniature of a benchmark into an empty folder."""
    module, world, names = WRITERS[name]
    write = getattr(importlib.import_module(f"benchmarks.miniatures.{module}"), f"write_{module}")
    camera = pinhole(32, 24, FOCAL_PX)
    return Miniature(
        root=root,
        queries=write(root, studio),
        map_photos={n: studio.shot("map", k, camera, world).rigid for k, n in enumerate(names)},
    )
