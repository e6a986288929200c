"""Image pairs with known relative poses, and their photos as a protocol wants them."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image

from benchmarks.datasets.colmap_folder import photo_folder, read_truth
from mapping.cameras import read_model
from matching.errors import InputError
from matching.files import PathLike, existing_file, existing_folder
from matching.images import image_size, read_image

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """Two photos of one place.

    Attributes:
        image0: Name, relative to the photo folder.
        image1: Name.
        camera0: Intrinsics of photo 0 as stored, with its distortion; None if nobody knows them.
        camera1: The same of photo 1.
        cam1_from_cam0: True relative pose, (4, 4), any scale; None if nobody knows it.
        group: Scene or overlap band that the pair's score is also listed under, or "".
    """

    image0: str
    image1: str
    camera0: pycolmap.Camera | None
    camera1: pycolmap.Camera | None
    cam1_from_cam0: FloatArray | None
    group: str = ""


@dataclass(frozen=True, kw_only=True)
class PairSet:
    """The pairs of a data set.

    Attributes:
        images: Folder that the names of the photos are relative to.
        pairs: In the order of the list.
        model: Keeps alive the cameras that the pairs share.
        title: As reports print it.
        published: Key of the published rows to print beside ours (`benchmarks.published`), or "".
        num_published: How many pairs the publishers count.
    """

    images: Path
    pairs: tuple[ImagePair, ...]
    model: pycolmap.Reconstruction | None = None
    title: str = "image pairs"
    published: str = ""
    num_published: int | None = None


def read_pairs(
    root: PathLike, *, gaps: tuple[int, int] = (1, 3), ground_truth: PathLike | None = None
) -> PairSet:
    """Read the pairs of a folder.

    With ``pairs.json``, those it lists: objects with ``image0``, ``image1``, ``K0``, ``K1`` (3, 3)
    and ``T_0to1`` (4, 4); without a truth, ``T_0to1`` is null and the ``K`` may be. Else all photos
    of the model in ``sparse_gt``, in the order of their names, paired with those ``gaps`` places
    further on.

    Args:
        root: Folder with ``images/`` (or the photos themselves).
        gaps: Smallest and largest difference of places in the sorted list.
        ground_truth: A COLMAP model to take in place of ``sparse_gt`` or ``pairs.json``.

    Raises:
        InputError: No truth, a malformed file, a missing photo, or no pair at all.
    """
    folder = existing_folder(root, "data set")
    images = photo_folder(folder)
    model = None
    if ground_truth is None and (folder / "pairs.json").is_file():
        pairs = _listed_pairs(folder / "pairs.json", images)
    else:
        model = read_model(ground_truth) if ground_truth is not None else read_truth(folder)
        if model is None:
            raise InputError(f"'{folder}' has neither pairs.json nor a model in sparse_gt")
        pairs = _pairs_by_gap(model, gaps)
    for name in {name for pair in pairs for name in (pair.image0, pair.image1)}:
        existing_file(images / name, "photo")
    if not pairs:
        raise InputError(f"'{folder}' has no pair of photos {gaps[0]} to {gaps[1]} places apart")
    return PairSet(images=images, pairs=tuple(pairs), model=model)


def prepare_photo(
    path: PathLike, camera: pycolmap.Camera | None, size: tuple[int, int] | None
) -> tuple[NDArray[np.uint8], FloatArray]:
    """Read a photo as a pinhole camera would have taken it, and fit it into a frame.

    Args:
        path: The photo; its EXIF orientation is ignored, as by COLMAP.
        camera: Its intrinsics; distortion is removed, up to the largest upright frame without
            empty pixels. None if nobody knows them: the calibration matrix then only tells how
            the frame was cut out of the photo.
        size: (width, height) to cover and crop to about the centre, or None to keep the size.

    Returns:
        (H, W, 3) uint8, and the calibration matrix for it, (3, 3), pixel centres at 0.5.

    Raises:
        InputError: The photo cannot be read, or has another shape than the camera.
    """
    image = read_image(path, apply_exif_orientation=False)
    height, width = image.shape[:2]
    if camera is None:
        return (image, np.eye(3)) if size is None else cover_and_crop(image, np.eye(3), size)
    if abs(camera.width / camera.height - width / height) > 1 / min(width, height):
        raise InputError(
            f"'{path}' has {width}x{height} pixels, but its camera {camera.width}x{camera.height}"
        )
    camera = pycolmap.Camera(camera.todict())
    camera.rescale(width, height)
    if not camera.is_undistorted():
        bitmap, camera = pycolmap.undistort_image(
            pycolmap.UndistortCameraOptions(), pycolmap.Bitmap.from_array(image), camera
        )
        image = bitmap.to_array()
    K = camera.calibration_matrix()
    return (image, K) if size is None else cover_and_crop(image, K, size)


def cover_and_crop(
    image: NDArray[np.uint8], K: FloatArray, size: tuple[int, int]
) -> tuple[NDArray[np.uint8], FloatArray]:
    """Scale an image by one factor until it just covers a frame, and cut the overhang evenly.

    Args:
        image: (H, W, 3) uint8.
        K: Its calibration matrix, (3, 3), pixel centres at 0.5.
        size: (width, height) of the frame.

    Returns:
        The framed image and its calibration matrix.
    """
    height, width = image.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    left, top = (width - size[0] / scale) / 2, (height - size[1] / scale) / 2
    # One resampling with a fractional box: no rounding of the size bends the calibration.
    framed = Image.fromarray(image).resize(
        size,
        Image.Resampling.LANCZOS,
        box=(left, top, min(left + size[0] / scale, width), min(top + size[1] / scale, height)),
    )
    pixels = np.array([[scale, 0, -left * scale], [0, scale, -top * scale], [0, 0, 1]])
    return np.asarray(framed), pixels @ K


def _pairs_by_gap(model: pycolmap.Reconstruction, gaps: tuple[int, int]) -> list[ImagePair]:
    posed = sorted((i for i in model.images.values() if i.has_pose), key=lambda i: i.name)
    pairs = []
    for first, image0 in enumerate(posed):
        for image1 in posed[first + gaps[0] : first + gaps[1] + 1]:
            cam1_from_cam0 = np.eye(4)
            relative = image1.cam_from_world() * image0.cam_from_world().inverse()
            cam1_from_cam0[:3] = relative.matrix()
            pairs.append(
                ImagePair(
                    image0=image0.name,
                    image1=image1.name,
                    camera0=model.camera(image0.camera_id),
                    camera1=model.camera(image1.camera_id),
                    cam1_from_cam0=cam1_from_cam0,
                )
            )
    return pairs


def _listed_pairs(file: Path, images: Path) -> list[ImagePair]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{file}' is no valid JSON: {error}") from error
    if not isinstance(entries, list):
        raise InputError(f"'{file}' must hold a list of pairs")
    pairs = []
    for number, entry in enumerate(entries):
        where = f"'{file}' entry {number}"
        if not isinstance(entry, Mapping):
            raise InputError(f"{where}: expected an object, got {entry!r}")
        if entry.get("rot0") or entry.get("rot1"):
            raise InputError(f"{where}: turned photos are not supported (rot0, rot1)")
        if entry.get("image0") == entry.get("image1"):
            continue  # some lists hold each photo with itself
        truth = entry.get("T_0to1")
        camera0, camera1 = (_pinhole(entry, number, images, where) for number in (0, 1))
        if truth is not None:
            truth = _matrix(truth, (4, 4), f"{where}: T_0to1")
            if camera0 is None or camera1 is None:
                raise InputError(f"{where}: T_0to1 needs K0 and K1 beside it")
        pairs.append(
            ImagePair(
                image0=_name(entry, "image0", where),
                image1=_name(entry, "image1", where),
                camera0=camera0,
                camera1=camera1,
                cam1_from_cam0=truth,
            )
        )
    return pairs


def _name(entry: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(entry.get(key), str):
        raise InputError(f"{where}: no '{key}'")
    return str(entry[key])


def _pinhole(
    entry: Mapping[str, Any], number: int, images: Path, where: str
) -> pycolmap.Camera | None:
    if entry.get(f"K{number}") is None:
        return None
    K = _matrix(entry[f"K{number}"], (3, 3), f"{where}: K{number}")
    path = images / _name(entry, f"image{number}", where)
    width, height = image_size(path, apply_exif_orientation=False)
    return pycolmap.Camera(
        model="PINHOLE",
        width=width,
        height=height,
        params=[K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
    )


def _matrix(values: Any, shape: Sequence[int], where: str) -> FloatArray:
    try:
        matrix = np.array(values, np.float64)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where} is no matrix of numbers") from error
    if matrix.shape != tuple(shape) or not np.isfinite(matrix).all():
        raise InputError(
            f"{where} must be {shape[0]}x{shape[1]} finite numbers, got {matrix.shape}"
        )
    return matrix
