"""Image pairs with known relative poses, and their photos as a protocol wants them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image

from matching.errors import InputError
from matching.files import PathLike
from matching.images import read_image

FloatArray = NDArray[np.float64]
Size = tuple[int, int]

MIN_MATCHES = 6  # five define an essential matrix, the sixth can contradict it


@dataclass(frozen=True, kw_only=True)
class PairsOptions:
    """Protocol of a benchmark of pairs. Scores move by points with it: reports state it.

    Attributes:
        SCORING: Options that only the scores depend on; matches on disk serve any of them.
    """

    SCORING: ClassVar[tuple[str, ...]] = (
        "max_error_px", "sweep_px", "seed", "num_seeds", "num_bootstrap",
    )  # fmt: skip

    # (width, height) pixels that every photo is scaled to cover and cropped to, turned for portrait
    # photos; None: as it is
    crop_size: Size | None = None
    long_side_px: int | None = None  # every photo is scaled to that; not together with crop_size
    max_matches: int | None = 3000  # best matches used of a pair; None: all
    max_error_px: float = 1.5  # largest epipolar error of an inlier, in the photos as matched
    sweep_px: tuple[float, ...] = ()  # the scores under these largest errors are reported too
    seed: int = 0  # of RANSAC
    num_seeds: int = 1  # runs of RANSAC, with seeds seed, seed + 1, ...
    num_bootstrap: int = 0  # resamplings of the pairs for 95 % intervals; 0: none

    def __post_init__(self) -> None:
        if self.num_seeds < 1 or self.num_bootstrap < 0:
            raise ValueError(
                f"num_seeds must be at least 1 and num_bootstrap at least 0, got {self.num_seeds} "
                f"and {self.num_bootstrap}"
            )
        if self.crop_size is not None and min(self.crop_size) < 16:
            raise ValueError(f"crop_size must be at least 16x16, got {self.crop_size}")
        if self.long_side_px is not None and self.long_side_px < 16:
            raise ValueError(f"long_side_px must be at least 16, got {self.long_side_px}")
        if self.crop_size is not None and self.long_side_px is not None:
            raise ValueError("give either crop_size or long_side_px, the other as null")
        if self.max_matches is not None and self.max_matches < MIN_MATCHES:
            raise ValueError(f"max_matches must be at least {MIN_MATCHES}, got {self.max_matches}")
        if not all(error > 0 for error in (self.max_error_px, *self.sweep_px)):
            raise ValueError(
                f"max_error_px and sweep_px must be > 0, got {self.max_error_px}, {self.sweep_px}"
            )


@dataclass(frozen=True, kw_only=True)
class ImagePair:
    """Two photos of one place.

    Attributes:
        image0: Name, relative to the photo folder.
        image1: Name.
        camera0: Intrinsics of photo 0 as stored, with its distortion; None if nobody knows them.
        camera1: The same of photo 1.
        cam1_from_cam0: True relative pose, (4, 4), any scale; None if nobody knows it.
        group: What the pair is also scored with, such as an overlap band; "" for nothing.
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
        images: Folder that all names are relative to.
        pairs: In the order of the data set.
        title: The data set as reports print it.
        stretched_to: (width, height) that every photo is first brought to, each axis by its own
            factor: the cameras mean photos of that size. None: photos as they are.
        published: Key of the published rows to print beside ours (`benchmarks.published`), or "".
        num_published: How many pairs the publishers count; None where they do not say.
        notes: What a reader of the scores must know.
        model: Keeps alive the cameras that pairs share.
    """

    images: Path
    pairs: tuple[ImagePair, ...]
    title: str = "image pairs"
    stretched_to: Size | None = None
    published: str = ""
    num_published: int | None = None
    notes: tuple[str, ...] = ()
    model: pycolmap.Reconstruction | None = None


def prepare_photo(
    path: PathLike,
    camera: pycolmap.Camera | None,
    options: PairsOptions,
    stretched_to: Size | None = None,
) -> tuple[NDArray[np.uint8], FloatArray]:
    """Read a photo as a pinhole camera would have taken it, and fit it into a frame.

    Args:
        path: The photo; its EXIF orientation is ignored, as by COLMAP.
        camera: Its intrinsics; distortion is removed, up to the largest upright frame without
            empty pixels. None if nobody knows them: the calibration matrix then only tells how
            the frame was cut out of the photo.
        options: The frame.
        stretched_to: Size that the photo is brought to first, which the camera is meant for.

    Returns:
        (H, W, 3) uint8, and the calibration matrix for it, (3, 3), pixel centres at 0.5.

    Raises:
        InputError: The photo cannot be read, or has another shape than the camera.
    """
    image = read_image(path, apply_exif_orientation=False)
    if stretched_to is not None:
        image = _resized(image, stretched_to)
    height, width = image.shape[:2]
    K = np.eye(3)
    if camera is not None:
        if abs(camera.width / camera.height - width / height) > 1 / min(width, height):
            raise InputError(
                f"'{path}' has {width}x{height} pixels, but its camera "
                f"{camera.width}x{camera.height}"
            )
        camera = pycolmap.Camera(camera.todict())
        camera.rescale(width, height)
        if not camera.is_undistorted():
            bitmap, camera = pycolmap.undistort_image(
                pycolmap.UndistortCameraOptions(), pycolmap.Bitmap.from_array(image), camera
            )
            image = bitmap.to_array()
        K = camera.calibration_matrix()
    if options.crop_size is not None:
        size = options.crop_size
        turned = (size[0] > size[1]) != (width > height) and size[0] != size[1]
        return cover_and_crop(image, K, size[::-1] if turned else size)
    if options.long_side_px is not None:
        return scale_long_side(image, K, options.long_side_px)
    return image, K


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


def scale_long_side(
    image: NDArray[np.uint8], K: FloatArray, long_side_px: int
) -> tuple[NDArray[np.uint8], FloatArray]:
    """Scale an image until its longer side has so many pixels; the other one is rounded.

    Returns:
        The scaled image and its calibration matrix, which follows the rounding.
    """
    height, width = image.shape[:2]
    scale = long_side_px / max(width, height)
    size = max(1, round(width * scale)), max(1, round(height * scale))
    return _resized(image, size), np.diag([size[0] / width, size[1] / height, 1]) @ K


def pinhole(K: FloatArray, size: Size) -> pycolmap.Camera:
    """The camera of a calibration matrix (3, 3) without skew, pixel centres at 0.5."""
    params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
    return pycolmap.Camera(model="PINHOLE", width=size[0], height=size[1], params=params)


def finite_matrix(values: Sequence[float] | NDArray[np.float64], shape: Size) -> FloatArray:
    """Numbers as a matrix.

    Raises:
        ValueError: They are not as many as the shape has, or not all finite.
    """
    matrix = np.asarray(values, np.float64)
    if matrix.size != shape[0] * shape[1] or not np.isfinite(matrix).all():
        raise ValueError(f"expected {shape[0]}x{shape[1]} finite numbers, got {matrix.shape}")
    return matrix.reshape(shape)


def _resized(image: NDArray[np.uint8], size: Size) -> NDArray[np.uint8]:
    if (image.shape[1], image.shape[0]) == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))
