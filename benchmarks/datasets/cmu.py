"""Extended CMU Seasons (Sattler et al., CVPR 2018): slices of a drive, two distorted cameras.

Poses of half of the queries are published below ``camera-poses``; the server knows all.
"""

from dataclasses import dataclass, field
from pathlib import Path

import pycolmap

from benchmarks.datasets.image_lists import read_photo_list
from benchmarks.datasets.posed_photos import (
    pose_from_quaternion,
    posed_model,
    published_retrieval,
    read_number_lines,
)
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask
from benchmarks.evaluate import EvaluationOptions
from benchmarks.options import LocalizationOptions
from benchmarks.submissions import SubmissionFormat
from mapping.cameras import read_camera_list
from matching.errors import InputError
from matching.files import existing_folder

# first to last slice of each kind
_KINDS = {"urban": (2, 8), "suburban": (9, 17), "park": (18, 25)}
_LINE = "name qw qx qy qz cx cy cz"


@dataclass(frozen=True, kw_only=True)
class CmuOptions(LocalizationOptions):
    """Settings of `benchmark cmu`."""

    evaluation: EvaluationOptions = field(
        default_factory=lambda: EvaluationOptions(thresholds=((0.25, 2.0), (0.5, 5.0), (5.0, 10.0)))
    )


def open_cmu(root: Path, options: CmuOptions) -> LocalizationDataset:
    """The slices whose folders are there."""
    folder = existing_folder(root, "data set")
    numbers = [int(p.name[5:]) for p in folder.glob("slice*") if p.name[5:].isdigit()]
    if not numbers:
        raise InputError(f"'{root}' holds no folder slice2 ... slice25")
    return LocalizationDataset(
        title="Extended CMU Seasons",
        scenes=tuple(f"slice{number}" for number in sorted(numbers)),
        read=lambda scene: read_cmu(root, scene, options),
        published="cmu",
        submission=SubmissionFormat(file_name="CMU_eval_{method}.txt"),
    )


def read_cmu(root: Path, scene: str, options: CmuOptions) -> LocalizationTask:
    """One slice.

    Raises:
        InputError: A file is missing or malformed, or a photo is by an unknown camera.
    """
    images = existing_folder(root / scene, "slice of CMU Seasons")
    number = int(scene.removeprefix("slice"))
    cameras = read_camera_list(root / "intrinsics.txt")
    database_list = images / f"ground-truth-database-images-{scene}.txt"
    database = _read_poses(database_list, "database")
    query_list = images / f"test-images-{scene}.txt"
    names = [_below("query", name) for name in read_photo_list(query_list)]
    queries = {name: _camera(cameras, name, query_list) for name in names}
    truth = {}
    for file in sorted((images / "camera-poses").glob("*.txt")):
        truth.update(_read_poses(file, "query"))
    kind = next((k for k, (low, high) in _KINDS.items() if low <= number <= high), "")
    map_names = tuple(database)
    return LocalizationTask(
        name=scene,
        images=images,
        map_names=map_names,
        query_cameras=queries,
        reference=posed_model(
            {name: (_camera(cameras, name, database_list), p) for name, p in database.items()}
        ),
        truth=truth if truth.keys() & queries.keys() else None,
        retrieval=published_retrieval(
            options.retrieval_pairs,
            queries,
            map_names,
            scene=scene,
            rename=lambda n: n.removeprefix(f"{scene}/"),
        ),
        conditions=dict.fromkeys(queries, kind) if kind else {},
    )


def _below(folder: str, name: str) -> str:
    return name if name.startswith(f"{folder}/") else f"{folder}/{name}"


def _read_poses(file: Path, folder: str) -> dict[str, pycolmap.Rigid3d]:
    """Rotations are world to camera, but positions are camera centres."""
    return {
        _below(folder, name): pose_from_quaternion(values[:4], where, center=values[4:])
        for where, name, values in read_number_lines(file, 7, _LINE)
    }


def _camera(cameras: dict[str, pycolmap.Camera], name: str, file: Path) -> pycolmap.Camera:
    """By the third part of ``img_00122_c0_1303398475046031us.jpg``."""
    parts = Path(name).name.split("_")
    if len(parts) < 4 or parts[2] not in cameras:
        raise InputError(
            f"'{file}': '{name}' is no name like img_00122_c0_1303398475046031us.jpg with one of "
            f"the cameras of intrinsics.txt, {', '.join(cameras)}"
        )
    return cameras[parts[2]]
