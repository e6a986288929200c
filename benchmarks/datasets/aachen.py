"""Aachen Day-Night v1.0 and v1.1 (Sattler et al., CVPR 2018; Zhang et al., IJCV 2021).

Photos are stored upright below ``images_upright``; their EXIF orientation must not be applied.
Poses of the queries are known to visuallocalization.net only.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pycolmap

from benchmarks.datasets.image_lists import read_photo_list
from benchmarks.datasets.nvm import read_nvm
from benchmarks.datasets.posed_photos import model_photos, posed_model, published_retrieval
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask, SceneCounts
from benchmarks.evaluate import EvaluationOptions
from benchmarks.options import LocalizationOptions
from benchmarks.submissions import SubmissionFormat
from mapping.cameras import read_camera_list, read_model
from matching.errors import InputError
from matching.files import existing_folder

IMAGES = "images_upright"
THRESHOLDS = ((0.25, 2.0), (0.5, 5.0), (5.0, 10.0))
_QUERY_LISTS = {
    "day": "queries/day_time_queries_with_intrinsics.txt",
    "night": "queries/night_time_queries_with_intrinsics.txt",
}
_NUM_NIGHT = {"v1.0": 98, "v1.1": 191}
_COUNTS = {
    "v1.0": SceneCounts(map=4328, queries=824 + 98),
    "v1.1": SceneCounts(map=6697, queries=824 + 191),
}


@dataclass(frozen=True, kw_only=True)
class AachenOptions(LocalizationOptions):
    """Settings of `benchmark aachen`."""

    # night scores of the two versions are not comparable: 98 and 191 photos
    version: Literal["v1.0", "v1.1"] = "v1.1"
    evaluation: EvaluationOptions = field(
        default_factory=lambda: EvaluationOptions(thresholds=THRESHOLDS)
    )


def open_aachen(root: Path, options: AachenOptions) -> LocalizationDataset:
    """The data set as one scene."""
    existing_folder(root / IMAGES, "folder of Aachen's photos")
    return LocalizationDataset(
        title=f"Aachen Day-Night {options.version}",
        scenes=("aachen",),
        read=lambda _: read_aachen(root, options),
        one_scene=True,
        counts={"aachen": _COUNTS[options.version]},
        published=f"aachen-{options.version}",
        submission=SubmissionFormat(file_name="Aachen_eval_{method}.txt"),
        notes=(
            f"Aachen {options.version}: {_NUM_NIGHT[options.version]} night queries in the "
            "published set; night scores of v1.0 and v1.1 are not comparable",
        ),
    )


def read_aachen(root: Path, options: AachenOptions) -> LocalizationTask:
    """Map photos with their poses, and the queries of both lists.

    Raises:
        InputError: A file is missing or malformed; it is named.
    """
    images = existing_folder(root / IMAGES, "folder of Aachen's photos")
    queries: dict[str, pycolmap.Camera | None] = {}
    conditions: dict[str, str] = {}
    for condition, name in _QUERY_LISTS.items():
        for query, camera in read_photo_list(root / name).items():
            if camera is None:
                raise InputError(f"'{root / name}' gives no intrinsics of '{query}'")
            if query in queries:
                raise InputError(f"'{query}' is in both lists of queries")
            queries[query], conditions[query] = camera, condition
    reference = _reference_v1_1(root) if options.version == "v1.1" else _reference_v1_0(root)
    map_names = tuple(model_photos(reference))
    return LocalizationTask(
        name="aachen",
        images=images,
        map_names=map_names,
        query_cameras=queries,
        reference=reference,
        retrieval=published_retrieval(options.retrieval_pairs, queries, map_names),
        conditions=conditions,
    )


def _reference_v1_1(root: Path) -> pycolmap.Reconstruction:
    """The COLMAP model, without its SIFT points."""
    return read_model(root / "3D-models" / "aachen_v_1_1")


def _reference_v1_0(root: Path) -> pycolmap.Reconstruction:
    """Poses of the NVM file, intrinsics of the list beside it: those inside the NVM are wrong."""
    nvm = root / "3D-models" / "aachen_cvpr2018_db.nvm"
    intrinsics = root / "3D-models" / "database_intrinsics.txt"
    cameras = read_camera_list(intrinsics)
    photos = {}
    for name, camera in read_nvm(nvm).items():
        if name not in cameras:
            raise InputError(f"'{intrinsics}' has no intrinsics of '{name}', which '{nvm}' holds")
        photos[name] = (cameras[name], camera.cam_from_world)
    return posed_model(photos)
