"""Pieces that data sets share: lists of poses and numbers, models made of them, published lists."""

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.interchange.hloc_lists import read_pairs_list
from matching.errors import InputError
from matching.files import PathLike, existing_file, text_lines
from matching.images import image_size

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
PosedPhotos = Mapping[str, tuple[pycolmap.Camera, pycolmap.Rigid3d]]


def read_number_lines(
    path: PathLike, num_values: int, expected: str, *, num_header_lines: int = 0
) -> Iterator[tuple[str, str, FloatArray]]:
    """Lines ``name v1 ... vn`` of a text file.

    Args:
        path: The file.
        num_values: How many numbers follow each name.
        expected: What a line looks like, for messages.
        num_header_lines: Lines at the top that are skipped; so are empty ones and comments (#).

    Yields:
        Place of the line for messages, name, numbers (n,).

    Raises:
        InputError: No such file, a malformed line, or none at all.
    """
    file = existing_file(path, f"list of '{expected}'")
    found = False
    for number, line in text_lines(file):
        if number <= num_header_lines or not line or line.startswith("#"):
            continue
        where = f"'{file}' line {number}"
        name, *words = line.split()
        values = parse_numbers(words)
        if values is None or len(values) != num_values:
            raise InputError(f"{where}: expected '{expected}', got '{line[:100]}'")
        found = True
        yield where, name, values
    if not found:
        raise InputError(f"'{file}' holds no line '{expected}'")


def parse_numbers(words: Sequence[str]) -> FloatArray | None:
    """Words as finite numbers, or None if one of them is none."""
    try:
        values = np.array([float(word) for word in words])
    except ValueError:
        return None
    return values if np.isfinite(values).all() else None


def pose_from_quaternion(
    quat_wxyz: FloatArray,
    where: str,
    *,
    translation: FloatArray | None = None,
    center: FloatArray | None = None,
) -> pycolmap.Rigid3d:
    """A cam_from_world from its rotation and either its translation or the camera's centre.

    Args:
        quat_wxyz: Rotation world to camera, (4,), w first, of any length but 0.
        where: Place of the numbers, for messages.
        translation: t of x_cam = R x_world + t, (3,).
        center: c = -R^T t instead, (3,).

    Raises:
        InputError: The quaternion is zero, or not one of translation and centre is given.
    """
    norm = float(np.linalg.norm(quat_wxyz))
    if norm < 1e-6:
        raise InputError(f"{where}: the quaternion {quat_wxyz.tolist()} is no rotation")
    rotation = pycolmap.Rotation3d(np.roll(quat_wxyz, -1) / norm)
    if center is not None and translation is None:
        translation = -(rotation.matrix() @ center)
    elif translation is None or center is not None:
        raise InputError(f"{where}: a pose needs its translation or its centre, and not both")
    return pycolmap.Rigid3d(rotation, translation)


def pose_from_world_from_cam(matrix: FloatArray, where: str) -> pycolmap.Rigid3d:
    """A cam_from_world from the camera-to-world matrix (4, 4) or (3, 4).

    Raises:
        InputError: Its rotation part is no rotation; text files round, so a little is forgiven.
    """
    rotation = matrix[:3, :3]
    u, _, vt = np.linalg.svd(rotation)
    if np.abs(u @ vt - rotation).max() > 1e-2 or np.linalg.det(rotation) < 0:
        raise InputError(f"{where}: the left 3x3 numbers are no rotation")
    return pycolmap.Rigid3d(np.column_stack([u @ vt, matrix[:3, 3]])).inverse()


def read_matrix(path: PathLike, shape: tuple[int, int]) -> FloatArray:
    """A text file that holds one matrix of numbers; infinite ones are allowed.

    Raises:
        InputError: No such file, or other contents.
    """
    file = existing_file(path, f"file with {shape[0]}x{shape[1]} numbers")
    try:
        values = np.array([float(word) for _, line in text_lines(file) for word in line.split()])
    except ValueError:
        values = np.zeros(0)
    if len(values) != shape[0] * shape[1]:
        raise InputError(f"'{file}' does not hold {shape[0]}x{shape[1]} numbers")
    return values.reshape(shape)


def posed_model(photos: PosedPhotos) -> pycolmap.Reconstruction:
    """A COLMAP model with these photos and no points; equal cameras are shared.

    Args:
        photos: Camera and cam_from_world by name.
    """
    model = pycolmap.Reconstruction()
    ids: dict[tuple[str, int, int, tuple[float, ...]], int] = {}
    for number, (name, (camera, pose)) in enumerate(photos.items(), start=1):
        key = (camera.model.name, camera.width, camera.height, tuple(camera.params.tolist()))
        if key not in ids:
            ids[key] = len(ids) + 1
            own = pycolmap.Camera(camera.todict())
            own.camera_id = ids[key]
            model.add_camera_with_trivial_rig(own)
        image = pycolmap.Image(name=name, camera_id=ids[key], image_id=number)
        model.add_image_with_trivial_frame(image, pose)
    return model


def model_photos(
    model: pycolmap.Reconstruction,
) -> dict[str, tuple[pycolmap.Camera, pycolmap.Rigid3d]]:
    """Camera (a copy) and pose of every posed photo of a model, in the order of their names."""
    posed = sorted((i for i in model.images.values() if i.has_pose), key=lambda i: i.name)
    return {
        i.name: (pycolmap.Camera(model.camera(i.camera_id).todict()), i.cam_from_world())
        for i in posed
    }


def simple_camera(path: Path, focal_px: float, radial: float = 0.0) -> pycolmap.Camera:
    """A camera with its principal point in the middle of the stored photo."""
    width, height = image_size(path, apply_exif_orientation=False)
    params = [focal_px, width / 2, height / 2]
    if radial:
        return pycolmap.Camera(
            model="SIMPLE_RADIAL", width=width, height=height, params=[*params, radial]
        )
    return pycolmap.Camera(model="SIMPLE_PINHOLE", width=width, height=height, params=params)


def checked_size(path: Path, camera: pycolmap.Camera) -> None:
    """Refuse a photo that has not the size its camera says.

    Raises:
        InputError: It is larger, smaller or turned; or no photo.
    """
    size = image_size(path, apply_exif_orientation=False)
    if size != (camera.width, camera.height):
        raise InputError(
            f"'{path}' has {size[0]}x{size[1]} pixels, but its camera is given for "
            f"{camera.width}x{camera.height}"
        )


def published_retrieval(
    file: PathLike | None,
    queries: Mapping[str, object] | Sequence[str],
    map_names: Sequence[str],
    *,
    scene: str = "",
    rename: Callable[[str], str] = lambda name: name,
) -> dict[str, list[str]] | None:
    """A published list of the map photos to compare each query with, in the task's names.

    Args:
        file: A pairs file, or None; ``{scene}`` in its path is replaced, as each scene of a data
            set has its own list.
        queries: Names of the task's queries.
        map_names: Names of its map photos.
        scene: Name of the scene.
        rename: Name in the list to name in the task.

    Returns:
        Map photos by query, best first; None without a file. Queries and map photos that the task
        does not have are left out with a warning: lists cover more than what is scored.

    Raises:
        InputError: The list has nothing in common with the task.
    """
    if file is None:
        return None
    file = str(file).replace("{scene}", scene)
    listed = read_pairs_list(file)
    known, wanted = set(map_names), set(queries)
    retrieval: dict[str, list[str]] = {}
    unknown = 0
    for query, candidates in listed.items():
        renamed = [rename(name) for name in candidates]
        found = [name for name in renamed if name in known]
        unknown += len(renamed) - len(found)
        if rename(query) in wanted and found:
            retrieval[rename(query)] = found
    if not retrieval and wanted:  # some lists leave a scene without queries
        query, candidates = next(iter(listed.items()))
        raise InputError(
            f"'{file}' pairs '{query}' with '{candidates[0]}', but queries are named like "
            f"'{next(iter(queries))}' and map photos like '{map_names[0]}'"
        )
    left = len(wanted) - len(retrieval)
    if unknown or left:
        logger.warning(
            "'%s': %d of its map photos are not in the map, %d of %d queries are not in the list",
            file, unknown, left, len(wanted),
        )  # fmt: skip
    return retrieval


def folder_scenes(root: Path, names: Sequence[str], what: str) -> tuple[str, ...]:
    """Those of the known scenes that have a folder below the root, in the published order.

    Raises:
        InputError: None of them has.
    """
    scenes = tuple(name for name in names if (root / name).is_dir())
    if not scenes:
        raise InputError(f"'{root}' has none of the {what} folders {', '.join(names)}")
    return scenes
