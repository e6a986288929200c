"""Reading photos: any common file, always upright 8-bit RGB, and clear errors for bad ones."""

import logging
import os
import struct
import threading
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image

from matching.errors import InputError
from matching.files import PathLike, existing_file, existing_folder

logger = logging.getLogger(__name__)

IMAGE_SUFFIXES = frozenset(
    {".jpg", ".jpeg", ".png", ".webp", ".tif", ".tiff", ".bmp", ".ppm", ".pgm"}
)
# photos to their owner, but not readable here: left out with a warning
_UNREAD_SUFFIXES = frozenset({".heic", ".heif", ".avif", ".gif", ".dng", ".cr2", ".nef", ".arw"})
MAX_PIXELS = 200_000_000  # larger files are refused before they are decoded

# Pillow would also open formats that run interpreters (EPS) or fetch more files; photos need none
_FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "PPM")
_ORIENTATION_TAG = 0x0112
_TRANSPOSITIONS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
# what Pillow's decoders raise on damaged files
_DECODE_ERRORS = (OSError, SyntaxError, ValueError, EOFError, struct.error, zlib.error)
_METADATA_ERRORS = (*_DECODE_ERRORS, TypeError, KeyError)
_PIL_LIMIT = threading.Lock()
_WARNINGS = threading.Lock()


@dataclass(frozen=True)
class StoredPhoto(os.PathLike[str]):
    """The path of a photo that is to be read as it is stored, whatever its EXIF orientation.

    It stands for the path wherever one is taken, so that whoever gets it reads the photo, on
    threads of its own if it likes.
    """

    path: str

    def __fspath__(self) -> str:
        return self.path

    def __str__(self) -> str:
        return self.path


def printable_name(name: str) -> str:
    """A file's name as texts and terminals can hold it: other bytes and controls are escaped."""
    text = name.encode("utf-8", errors="backslashreplace").decode()
    return "".join(c if ord(c) >= 32 else c.encode("unicode_escape").decode() for c in text)


def read_image(
    image: PathLike | NDArray[Any], *, apply_exif_orientation: bool = True
) -> NDArray[np.uint8]:
    """Read a photo as upright RGB.

    Grey, palette, alpha (over white), CMYK and 16-bit files are converted; of a file with several
    pages or frames the first counts.

    Args:
        image: A file, or an array that is checked and converted: (H, W, 3) RGB or (H, W) grey,
            uint8 or uint16.
        apply_exif_orientation: Turn the photo as its EXIF orientation says. Published benchmarks
            want the pixels as stored (False), and so does a `StoredPhoto`.

    Returns:
        (H, W, 3) uint8, contiguous.

    Raises:
        InputError: Missing, empty, truncated, no image, an unsupported kind, or larger than
            `MAX_PIXELS`.
    """
    if isinstance(image, np.ndarray):
        return _from_array(image)
    path = existing_file(image, "image")
    apply_exif_orientation &= not isinstance(image, StoredPhoto)
    with _opened(path) as file:
        try:
            file.load()
            if apply_exif_orientation and (turn := _orientation(file)) in _TRANSPOSITIONS:
                file = file.transpose(_TRANSPOSITIONS[turn])
            return _to_rgb(file, path)
        except _DECODE_ERRORS as error:
            if isinstance(error, InputError):
                raise
            raise InputError(f"'{path}' is damaged: {_one_line(error)}") from error


def image_size(path: PathLike, *, apply_exif_orientation: bool = True) -> tuple[int, int]:
    """(width, height) of a photo in pixels from its header, upright as `read_image` returns it.

    Raises:
        InputError: As `read_image`, as far as the header tells.
    """
    with _opened(existing_file(path, "image")) as file:
        width, height = file.size
        turned = apply_exif_orientation and _orientation(file) in (5, 6, 7, 8)
    return (height, width) if turned else (width, height)


def exif_tags(path: PathLike) -> dict[int, Any]:
    """The camera's EXIF tags of a photo (`PIL.ExifTags.Base`); none where they cannot be read."""
    try:
        with _opened(Path(path)) as file, _quiet_metadata():
            return dict(file.getexif().get_ifd(ExifTags.IFD.Exif))
    except _METADATA_ERRORS:
        return {}


def list_images(folder: PathLike) -> list[str]:
    """Names of the photos below a folder, relative to it with ``/``, sorted; hidden ones left out.

    Links to folders are followed, but no folder is listed twice.

    Raises:
        InputError: No such folder, or no photo in it.
    """
    root = existing_folder(folder, "image folder")
    files = [
        (parent / name).relative_to(root).as_posix()
        for parent, names_in_parent in _walk(root)
        for name in names_in_parent
        if not name.startswith(".")
    ]
    names = [f for f in files if Path(f).suffix.lower() in IMAGE_SUFFIXES]
    unread = [f for f in files if Path(f).suffix.lower() in _UNREAD_SUFFIXES]
    if unread:
        _tell_unread(str(folder), len(unread), unread[0])
    if not names:
        kinds = ", ".join(sorted(s[1:] for s in IMAGE_SUFFIXES))
        raise InputError(f"no photos in '{folder}' (looked for {kinds})")
    return sorted(names)


@lru_cache(maxsize=100)  # once, though several stages list a folder
def _tell_unread(folder: str, count: int, example: str) -> None:
    logger.warning(
        "%d files in '%s' are of kinds that are not read, such as '%s': convert them to JPEG",
        *(count, folder, example),
    )


def _walk(root: Path) -> Iterator[tuple[Path, list[str]]]:
    """Every folder once with the names of its files, links after all real folders."""
    visited: set[str] = set()
    waiting = [root]
    while waiting:
        for parent, folders, files in os.walk(waiting.pop(0)):
            folders[:] = sorted(f for f in folders if not f.startswith("."))
            real = os.path.realpath(parent)
            if real in visited:
                folders.clear()
                continue
            visited.add(real)
            waiting += [Path(parent, f) for f in folders if Path(parent, f).is_symlink()]
            yield Path(parent), files


@contextmanager
def _opened(path: Path) -> Iterator[Image.Image]:
    """The file opened by Pillow, its size checked, not decoded yet."""
    if path.stat().st_size == 0:
        raise InputError(f"'{path}' is empty (0 bytes)")
    try:
        # Pillow's own limit is a global below ours, so it is lifted just while the header is read
        with _PIL_LIMIT:
            limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
            try:
                with _quiet_metadata():
                    file = Image.open(path, formats=_FORMATS)
            finally:
                Image.MAX_IMAGE_PIXELS = limit
    except _DECODE_ERRORS as error:
        if isinstance(error, PermissionError):
            raise InputError(f"'{path}' cannot be read: permission denied") from error
        raise InputError(
            f"'{path}' is no readable image (JPEG, PNG, WebP, TIFF, BMP or PPM)"
        ) from error
    with file:
        width, height = file.size
        if width * height > MAX_PIXELS:
            raise InputError(
                f"'{path}' has {width}x{height} = {width * height / 1e6:.0f} megapixels, more than "
                f"{MAX_PIXELS / 1e6:.0f}: make it smaller first"
            )
        yield file


def _orientation(file: Image.Image) -> int:
    """The EXIF orientation, 1..8; 1 where there is none or the EXIF block is damaged."""
    try:
        with _quiet_metadata():
            return int(file.getexif().get(_ORIENTATION_TAG, 1))
    except _METADATA_ERRORS:
        return 1


@contextmanager
def _quiet_metadata() -> Iterator[None]:
    """Keep Pillow from printing warnings of several lines about a damaged EXIF block."""
    # the filters of warnings are global: two threads would restore each other's
    with _WARNINGS, warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        yield


def _to_rgb(file: Image.Image, path: Path) -> NDArray[np.uint8]:
    if file.mode in ("I", "F"):
        # 16-bit grey PNG and TIFF open as I;16 or I depending on the file
        values = np.asarray(file)
        if file.mode == "F" or values.min() < 0 or values.max() > 65535:
            raise InputError(
                f"'{path}' holds floating-point or 32-bit pixels: save it with 8 or 16 bits"
            )
        return _from_array(values.astype(np.uint16))
    if file.mode.startswith("I;16"):
        return _from_array(np.asarray(file).astype(np.uint16))
    if file.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in file.info:
        layer = file.convert("RGBA")
        file = Image.alpha_composite(Image.new("RGBA", layer.size, "white"), layer)
    return np.array(file if file.mode == "RGB" else file.convert("RGB"))


def _from_array(values: NDArray[Any]) -> NDArray[np.uint8]:
    shape_ok = values.ndim == 2 or (values.ndim == 3 and values.shape[2] in (1, 3))
    if not shape_ok or values.size == 0:
        raise InputError(
            f"an image array must be (H, W, 3) RGB or (H, W) grey and not empty, got {values.shape}"
        )
    if values.dtype == np.uint16:
        values = (values.astype(np.uint32) * 255 + 32767) // 65535
    elif values.dtype != np.uint8:
        raise InputError(f"an image array must be uint8 or uint16, got {values.dtype}")
    if values.ndim == 2:
        values = values[:, :, None]
    if values.shape[2] == 1:
        values = np.repeat(values, 3, axis=2)
    return np.ascontiguousarray(values, dtype=np.uint8)


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split()) or type(error).__name__
