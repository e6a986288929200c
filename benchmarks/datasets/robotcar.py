"""RobotCar Seasons v1 and v2 (Sattler et al., CVPR 2018): 49 places, nine conditions.

The map is the condition ``overcast-reference``. Poses of queries are known to the server, and those
of ``robotcar_v2_train.txt`` to everyone.
"""

from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import Literal

import pycolmap

from benchmarks.datasets.image_lists import read_photo_list
from benchmarks.datasets.posed_photos import (
    model_photos,
    parse_numbers,
    pose_from_world_from_cam,
    posed_model,
    published_retrieval,
    read_number_lines,
)
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask
from benchmarks.evaluate import EvaluationOptions
from benchmarks.options import LocalizationOptions
from benchmarks.submissions import SubmissionFormat, camera_and_name
from mapping.cameras import read_model
from matching.errors import InputError
from matching.files import existing_file, existing_folder, text_lines
from matching.images import image_size

NUM_PLACES = 49
CAMERAS = ("left", "rear", "right")
_REFERENCE = "overcast-reference"
_MODELS = "3D-models/individual/colmap_reconstructions"
_V2_LINE = "name r11 r12 r13 x r21 r22 r23 y r31 r32 r33 z"


@dataclass(frozen=True, kw_only=True)
class RobotcarOptions(LocalizationOptions):
    """Settings of `benchmark robotcar`."""

    # all: every query of the places (v1); v2_train and v2_test: those of robotcar_v2_*.txt
    queries: Literal["all", "v2_train", "v2_test"] = "all"
    evaluation: EvaluationOptions = field(
        default_factory=lambda: EvaluationOptions(thresholds=((0.25, 2.0), (0.5, 5.0), (5.0, 10.0)))
    )


def open_robotcar(root: Path, options: RobotcarOptions) -> LocalizationDataset:
    """The places whose models are there; of v2 those that have queries, no other needs a map.

    Raises:
        InputError: There is no place, or a list of queries is missing.
    """
    models = existing_folder(root / _MODELS, "folder of RobotCar's models")
    places = sorted(p.name.split("_")[0] for p in models.glob("*_aligned") if p.is_dir())
    if not places:
        raise InputError(f"'{models}' holds no folder like 001_aligned")
    listed = _listed(root, options)
    if listed is None:
        scenes, note = places, "queries: all"
    else:
        scenes = [p for p in places if not listed.isdisjoint(_queries_of(root, p))]
        note = f"queries: {options.queries}, which {len(scenes)} of {len(places)} places have"
        if not scenes:
            raise InputError(f"no place below '{models}' has a query of {options.queries}")
    return LocalizationDataset(
        title="RobotCar Seasons" if listed is None else "RobotCar Seasons v2",
        scenes=tuple(scenes),
        num_scenes=NUM_PLACES if listed is None else None,
        read=lambda place: read_robotcar(root, place, options),
        # the server scores the test queries of v2; so does the one published row
        published="robotcar-v2" if options.queries == "v2_test" else "",
        submission=SubmissionFormat(
            file_name="RobotCar_eval_{method}.txt", line_name=camera_and_name
        ),
        notes=(note,),
    )


def _queries_of(root: Path, place: str) -> list[str]:
    """All queries of a place."""
    return list(read_photo_list(root / "queries_per_location" / f"queries_location_{place}.txt"))


def _listed(root: Path, options: RobotcarOptions) -> set[str] | None:
    """Queries of the chosen list of v2; None for all."""
    if options.queries == "v2_train":
        file = existing_file(root / "robotcar_v2_train.txt", f"list of '{_V2_LINE}'")
        lines = (line for _, line in text_lines(file) if line and not line.startswith("#"))
        return {_file_name(line.split()[0]) for line in lines}
    if options.queries == "v2_test":
        return {_file_name(name) for name in read_photo_list(root / "robotcar_v2_test.txt")}
    return None


def read_robotcar(root: Path, place: str, options: RobotcarOptions) -> LocalizationTask:
    """One place.

    Raises:
        InputError: A file is missing or malformed.
    """
    images = existing_folder(root / "images", "folder of RobotCar's photos")
    photos = model_photos(read_model(root / _MODELS / f"{place}_aligned"))
    reference = posed_model({_file_name(name): photo for name, photo in photos.items()})
    query_list = root / "queries_per_location" / f"queries_location_{place}.txt"
    names = _queries_of(root, place)
    cameras = {camera: _intrinsics(root, camera) for camera in CAMERAS}
    truth: dict[str, pycolmap.Rigid3d] = {}
    train = root / "robotcar_v2_train.txt"
    if options.queries == "v2_train" or train.is_file():
        truth = {
            _file_name(name): pose_from_world_from_cam(values.reshape(3, 4), where)
            for where, name, values in read_number_lines(train, 12, _V2_LINE)
        }
    listed = _listed(root, options)
    if listed is not None:
        names = [name for name in names if name in listed]
    queries = {name: _camera(images, name, cameras, query_list) for name in names}
    map_names = tuple(model_photos(reference))
    return LocalizationTask(
        name=place,
        images=images,
        map_names=map_names,
        query_cameras=queries,
        reference=reference,
        truth=truth if truth.keys() & queries.keys() else None,
        retrieval=published_retrieval(
            options.retrieval_pairs, queries, map_names, scene=place, rename=_file_name
        ),
        conditions={name: PurePosixPath(name).parts[0] for name in queries},
    )


def _file_name(name: str) -> str:
    """``rear/1417178853389469.png`` of a model -> the file ``overcast-reference/rear/....jpg``."""
    path = PurePosixPath(name).with_suffix(".jpg")
    if path.parts[0] in CAMERAS:
        path = _REFERENCE / path
    return path.as_posix()


def _intrinsics(root: Path, camera: str) -> list[float]:
    """fx fy cx cy: the second words of the four lines of a camera's file."""
    file = existing_file(root / "intrinsics" / f"{camera}_intrinsics.txt", "intrinsics of a camera")
    words = [line.split()[1:2] for _, line in text_lines(file) if line]
    values = parse_numbers([word for found in words for word in found])
    if values is None or len(values) != 4 or not (values[:2] > 0).all():
        raise InputError(f"'{file}' must hold four lines like 'fx 400.0': fx, fy, cx, cy")
    return [float(value) for value in values]


def _camera(
    images: Path, name: str, cameras: dict[str, list[float]], query_list: Path
) -> pycolmap.Camera:
    parts = PurePosixPath(name).parts
    if len(parts) != 3 or parts[1] not in cameras:
        raise InputError(
            f"'{query_list}': '{name}' is no name like night/rear/1418841055829011.jpg with one of "
            f"the cameras {', '.join(CAMERAS)}"
        )
    width, height = image_size(images / name, apply_exif_orientation=False)
    return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=cameras[parts[1]])
