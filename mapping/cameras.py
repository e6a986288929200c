"""Cameras from EXIF, from lists and from COLMAP models, checked line by line.

pycolmap reads a damaged model without a word (a truncated ``cameras.bin`` gives invented
parameters), hence readers of our own for the two small files that known poses need.
"""

import math
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import pycolmap
from PIL import ExifTags

from mapping.focal_prior import FocalPrior, FocalSource, focal_prior
from matching.errors import InputError
from matching.files import PathLike, existing_file, existing_folder, text_lines
from matching.images import exif_tags

# focal length over the longer side of a photo: below fisheyes, and above telescopes
_FOCAL_RATIOS = (0.05, 100.0)
_USUAL_MODELS = ("sparse", "sparse/0", "0", "sparse_gt")  # where a model is in a folder of others


@dataclass(frozen=True, kw_only=True)
class CameraGuess:
    """A camera that nobody calibrated.

    Attributes:
        camera: Intrinsics in pixels of the upright photo; `has_prior_focal_length` tells whether
            the focal length is from EXIF.
        prior: Its focal length, where that is from, and how far to trust it.
    """

    camera: pycolmap.Camera
    prior: FocalPrior

    @property
    def source(self) -> FocalSource:
        """Where the focal length is from; ``"guess"``: `DEFAULT_FOCAL_RATIO`."""
        return self.prior.source


def camera_from_image(
    path: PathLike,
    image_size: tuple[int, int],
    *,
    model: str = "SIMPLE_RADIAL",
    pointmap_px: float | None = None,
) -> CameraGuess:
    """Guess the camera of a photo from its EXIF block and, if given, from point maps.

    Args:
        path: The photo.
        image_size: (width, height) of the upright photo in pixels.
        model: COLMAP camera model of the result.
        pointmap_px: Focal length from point maps; see `mapping.focal_prior.focal_prior`.

    Raises:
        InputError: Unknown camera model.
    """
    exif_px = _exif_focal_px(Path(path), image_size)
    prior = focal_prior(image_size, exif_px=exif_px, pointmap_px=pointmap_px)
    camera = create_camera(model, prior.focal_px, *image_size)
    camera.has_prior_focal_length = exif_px is not None
    return CameraGuess(camera=camera, prior=prior)


def _exif_focal_px(path: Path, image_size: tuple[int, int]) -> float | None:
    """Focal length from the EXIF block, None without one."""
    tags = exif_tags(path)
    try:
        in_35mm = float(tags.get(ExifTags.Base.FocalLengthIn35mmFilm, 0))
        in_mm = float(tags.get(ExifTags.Base.FocalLength, 0))
    except (ValueError, TypeError, ZeroDivisionError):
        return None  # tags that hold no numbers
    if 0 < in_35mm < math.inf:
        # of a film frame with the same diagonal (CIPA DCG-001)
        return in_35mm / math.hypot(36, 24) * math.hypot(*image_size)
    if not in_mm > 0:
        return None
    try:
        # decodes the photo, but knows the sensor widths of many cameras
        inferred = pycolmap.infer_camera_from_image(path)
    except ValueError:  # a kind of file that COLMAP does not read
        return None
    return inferred.mean_focal_length() if inferred.has_prior_focal_length else None


def create_camera(model: str, focal_length_px: float, width: int, height: int) -> pycolmap.Camera:
    """A camera with its principal point in the middle and no distortion.

    Raises:
        InputError: Unknown camera model.
    """
    check_camera_model(model)
    return pycolmap.Camera.create_from_model_name(
        pycolmap.INVALID_CAMERA_ID, model, focal_length_px, width, height
    )


def check_camera_model(model: str) -> None:
    """Refuse a name that is no camera model of COLMAP.

    Raises:
        InputError: Unknown camera model.
    """
    if model not in _model_names():
        raise InputError(f"unknown camera model '{model}' (known: {', '.join(_model_names())})")


def with_focal_length(camera: pycolmap.Camera, focal_px: float) -> pycolmap.Camera:
    """A copy with another focal length (both, where the model has two)."""
    copy = pycolmap.Camera(camera.todict())
    params = np.array(copy.params)
    params[copy.focal_length_idxs()] = focal_px
    copy.params = params.tolist()
    return copy


def read_camera_list(file: PathLike) -> dict[str, pycolmap.Camera]:
    """Read a list of photos with intrinsics, one ``name MODEL WIDTH HEIGHT PARAMS...`` per line.

    Names may hold spaces. Empty lines and lines that start with ``#`` are skipped.

    Raises:
        InputError: The file is missing, a line is wrong (its number is named), or a photo is
            listed twice.
    """
    path = existing_file(file, "camera list")
    cameras: dict[str, pycolmap.Camera] = {}
    for number, line in text_lines(path):
        if not line or line.startswith("#"):
            continue
        where = f"'{path}' line {number}"
        words = line.split()
        # the first word after the name that is a camera model ends a name with spaces
        start = next((i for i, w in enumerate(words) if i > 0 and w in _model_names()), None)
        if start is None:
            raise InputError(
                f"{where}: expected 'name MODEL WIDTH HEIGHT PARAMS...' with a camera model such "
                f"as PINHOLE, got '{line[:80]}'"
            )
        name = line.split(f" {words[start]} ", 1)[0].strip() if start > 1 else words[0]
        if name in cameras:
            raise InputError(f"{where}: '{name}' is listed twice")
        cameras[name] = _plausible(_camera_from_words(words[start:], where), where)
    return cameras


def parse_camera(text: str) -> pycolmap.Camera:
    """Read ``MODEL WIDTH HEIGHT PARAMS...``, as in camera lists after the name.

    Raises:
        InputError: Unknown model, or wrong numbers.
    """
    words = text.split()
    if not words:
        raise InputError("an empty camera: expected 'MODEL WIDTH HEIGHT PARAMS...'")
    return _plausible(_camera_from_words(words, f"camera '{text}'"), f"camera '{text}'")


def is_model(folder: Path) -> bool:
    """Whether the folder holds the poses of a COLMAP model, text or binary."""
    return any((folder / f"images.{suffix}").is_file() for suffix in ("bin", "txt"))


def read_model(path: PathLike) -> pycolmap.Reconstruction:
    """Read cameras and poses of a COLMAP model, text or binary; its points are left out.

    Args:
        path: Folder with ``cameras.txt`` and ``images.txt``, or ``cameras.bin`` and
            ``images.bin`` (preferred where both exist, as COLMAP does).

    Returns:
        A model with every camera and every image with its pose, without 2D and 3D points.

    Raises:
        InputError: A file is missing, truncated or contradicts itself; the file and the line or
            entry are named.
    """
    folder = existing_folder(path, "COLMAP model folder")
    suffix = next((s for s in ("bin", "txt") if (folder / f"images.{s}").exists()), None)
    if suffix is None:
        inside = next((m for m in map(folder.joinpath, _USUAL_MODELS) if is_model(m)), None)
        hint = f"; did you mean '{inside}'?" if inside is not None else ""
        raise InputError(
            f"'{path}' is no COLMAP model: it has neither images.bin nor images.txt{hint}"
        )
    cameras_file = existing_file(folder / f"cameras.{suffix}", "file of a COLMAP model")
    images_file = existing_file(folder / f"images.{suffix}", "file of a COLMAP model")
    if suffix == "bin":
        cameras, images = _read_cameras_bin(cameras_file), _read_images_bin(images_file)
    else:
        cameras, images = _read_cameras_txt(cameras_file), _read_images_txt(images_file)
    return _to_reconstruction(cameras, images, images_file)


@dataclass(frozen=True, kw_only=True)
class _PosedImage:
    where: str  # file and line or entry, for messages
    image_id: int
    name: str
    camera_id: int
    quat_wxyz: tuple[float, ...]
    translation: tuple[float, ...]


def _to_reconstruction(
    cameras: dict[int, pycolmap.Camera], images: Sequence[_PosedImage], file: Path
) -> pycolmap.Reconstruction:
    model = pycolmap.Reconstruction()
    for camera_id, camera in cameras.items():
        camera.camera_id = camera_id
        model.add_camera_with_trivial_rig(camera)
    seen: dict[str, str] = {}
    ids: set[int] = set()
    for image in images:
        if image.camera_id not in cameras:
            raise InputError(
                f"{image.where}: '{image.name}' has camera {image.camera_id}, which "
                f"{file.with_stem('cameras').name} does not list"
            )
        if image.name in seen or image.image_id in ids:
            raise InputError(f"{image.where}: image {image.image_id} '{image.name}' comes twice")
        seen[image.name] = image.where
        ids.add(image.image_id)
        w, x, y, z = image.quat_wxyz
        norm = math.sqrt(w * w + x * x + y * y + z * z)
        if not all(map(math.isfinite, (*image.quat_wxyz, *image.translation))) or norm < 1e-6:
            raise InputError(f"{image.where}: '{image.name}' has no valid pose")
        rotation = pycolmap.Rotation3d(np.array([x, y, z, w]) / norm)
        model.add_image_with_trivial_frame(
            pycolmap.Image(name=image.name, camera_id=image.camera_id, image_id=image.image_id),
            pycolmap.Rigid3d(rotation, np.array(image.translation)),
        )
    return model


def _camera_from_words(words: Sequence[str], where: str) -> pycolmap.Camera:
    """A camera from ``MODEL WIDTH HEIGHT PARAMS...``."""
    model = words[0]
    if model not in _model_names():
        raise InputError(
            f"{where}: unknown camera model '{model}' (known: {', '.join(_model_names())})"
        )
    named = pycolmap.Camera.create_from_model_name(0, model, 1.0, 1, 1).params_info
    expected = f"expected '{' '.join([model, 'WIDTH', 'HEIGHT', *named.split(', ')]).strip()}'"
    if len(words) < 3:
        raise InputError(f"{where}: the size of the photo is missing: {expected}")
    numbers: list[float] = []
    for kind, word in zip([int, int, *(float for _ in words[3:])], words[1:], strict=True):
        try:
            numbers.append(kind(word))
        except ValueError as error:
            what = "a whole number of pixels" if kind is int else "a number"
            raise InputError(f"{where}: '{word}' is not {what}: {expected}") from error
    return _checked_camera(model, int(numbers[0]), int(numbers[1]), numbers[2:], where)


def _plausible(camera: pycolmap.Camera, where: str) -> pycolmap.Camera:
    """The camera, if its focal length is one of a camera that took photos of that size.

    Raises:
        InputError: It is not: mostly one in millimetres, or of another size of the photos.
    """
    if len(camera.focal_length_idxs()) == 0:  # a panorama
        return camera
    focal_px, longer = camera.mean_focal_length(), max(camera.width, camera.height)
    if not _FOCAL_RATIOS[0] <= focal_px / longer <= _FOCAL_RATIOS[1]:
        raise InputError(
            f"{where}: a focal length of {focal_px:g} pixels is impossible for photos of "
            f"{camera.width}x{camera.height} pixels (millimetres?)"
        )
    return camera


def misfit(camera: pycolmap.Camera, image_size: tuple[int, int]) -> str | None:
    """Why a given camera is not that of a photo of the map; None if it is of its size.

    Args:
        camera: The given camera.
        image_size: (width, height) of the photo.
    """
    if (camera.width, camera.height) == image_size:
        return None
    reason = (
        f"it has {image_size[0]}x{image_size[1]} pixels, but its camera is for "
        f"{camera.width}x{camera.height}"
    )
    if (camera.height, camera.width) == image_size:
        reason += ": the option apply_exif_orientation says whether photos are turned"
    return reason


def _checked_camera(
    model: str, width: int, height: int, params: Sequence[float], where: str
) -> pycolmap.Camera:
    if width < 1 or height < 1:
        raise InputError(f"{where}: image size {width}x{height}")
    camera = pycolmap.Camera.create_from_model_name(
        pycolmap.INVALID_CAMERA_ID, model, 1.0, width, height
    )
    if len(params) != len(camera.params):
        raise InputError(
            f"{where}: {model} takes {len(camera.params)} parameters ({camera.params_info}), "
            f"got {len(params)}"
        )
    camera.params = list(params)
    focals = [params[i] for i in camera.focal_length_idxs()]
    if not all(map(math.isfinite, params)) or any(f <= 0 for f in focals):
        raise InputError(f"{where}: the parameters {params} are no camera")
    camera.has_prior_focal_length = True
    return camera


def _model_names() -> list[str]:
    return [n for n in pycolmap.CameraModelId.__members__ if n != "INVALID"]


# ---------------------------------------------------------------- COLMAP text


def _announced(line: str, what: str) -> int | None:
    """The count in COLMAP's comment ``# Number of cameras: 3``."""
    head = f"# Number of {what}:"
    digits = line.removeprefix(head).split(",")[0].strip() if line.startswith(head) else ""
    return int(digits) if digits.isdigit() else None


def _check_count(path: Path, announced: int | None, found: int, what: str) -> None:
    if announced is not None and announced != found:
        raise InputError(f"'{path}' announces {announced} {what} but holds {found}: lines missing")
    if found == 0:
        raise InputError(f"'{path}' holds no {what}")


def _read_cameras_txt(path: Path) -> dict[int, pycolmap.Camera]:
    cameras: dict[int, pycolmap.Camera] = {}
    announced = None
    for number, line in text_lines(path):
        if not line or line.startswith("#"):
            announced = announced or _announced(line, "cameras")
            continue
        where = f"'{path}' line {number}"
        words = line.split()
        if len(words) < 5 or not words[0].isdigit():
            raise InputError(f"{where}: expected 'CAMERA_ID MODEL WIDTH HEIGHT PARAMS...'")
        if int(words[0]) in cameras:
            raise InputError(f"{where}: camera {words[0]} comes twice")
        cameras[int(words[0])] = _camera_from_words(words[1:], where)
    _check_count(path, announced, len(cameras), "cameras")
    return cameras


def _read_images_txt(path: Path) -> list[_PosedImage]:
    """Two lines per image: the pose, then its 2D points (x y point3D_id), which may be empty."""
    images: list[_PosedImage] = []
    announced = None
    expects_points = False
    for number, line in text_lines(path):
        where = f"'{path}' line {number}"
        words = line.split()
        if expects_points:
            if len(words) % 3 or not _are_numbers(words[:3]):
                raise InputError(
                    f"{where}: expected the 2D points of '{images[-1].name}' (x y point3D_id ..., "
                    "or an empty line): a line is missing"
                )
            expects_points = False
            continue
        if not line or line.startswith("#"):
            announced = announced or _announced(line, "images")
            continue
        numbers, name = words[:9], line.split(maxsplit=9)[9:]
        if not name or not _are_numbers(numbers) or not (words[0] + words[8]).isdigit():
            raise InputError(
                f"{where}: expected 'IMAGE_ID QW QX QY QZ TX TY TZ CAMERA_ID NAME', got "
                f"'{line[:80]}': a line may be missing"
            )
        values = tuple(float(w) for w in words[1:8])
        images.append(
            _PosedImage(
                where=where,
                image_id=int(words[0]),
                name=name[0],
                camera_id=int(words[8]),
                quat_wxyz=values[:4],
                translation=values[4:],
            )
        )
        expects_points = True
    _check_count(path, announced, len(images), "images")
    return images


def _are_numbers(words: Sequence[str]) -> bool:
    try:
        for word in words:
            float(word)
    except ValueError:
        return False
    return True


# ---------------------------------------------------------------- COLMAP binary (little endian)


def _take(file: BinaryIO, form: str, path: Path, what: str) -> tuple[float, ...]:
    size = struct.calcsize("<" + form)
    data = file.read(size)
    if len(data) < size:
        raise InputError(f"'{path}' is truncated at {what}")
    return struct.unpack("<" + form, data)


def _read_cameras_bin(path: Path) -> dict[int, pycolmap.Camera]:
    names = {int(m.value): n for n, m in pycolmap.CameraModelId.__members__.items()}
    cameras: dict[int, pycolmap.Camera] = {}
    with path.open("rb") as file:
        (count,) = _take(file, "Q", path, "its start")
        for index in range(int(count)):
            what = f"camera {index + 1} of {count}"
            camera_id, model, width, height = map(int, _take(file, "IiQQ", path, what))
            if model not in names or names[model] == "INVALID":
                raise InputError(f"'{path}': {what} has the unknown model number {model}")
            size = len(pycolmap.Camera.create_from_model_name(0, names[model], 1.0, 1, 1).params)
            params = _take(file, f"{size}d", path, what)
            cameras[camera_id] = _checked_camera(
                names[model], width, height, params, f"'{path}': {what}"
            )
        if file.read(1):
            raise InputError(f"'{path}' goes on after its {count} cameras")
    _check_count(path, None, len(cameras), "cameras")
    return cameras


def _read_images_bin(path: Path) -> list[_PosedImage]:
    images = []
    with path.open("rb") as file:
        (count,) = _take(file, "Q", path, "its start")
        for index in range(int(count)):
            what = f"image {index + 1} of {count}"
            values = _take(file, "I7dI", path, what)
            name = bytearray()
            while (letter := file.read(1)) != b"\0":
                if not letter:
                    raise InputError(f"'{path}' is truncated at {what}")
                name += letter
            (num_points2D,) = _take(file, "Q", path, what)
            points_bytes = int(num_points2D) * 24  # x, y float64 and point3D_id uint64
            if len(file.read(points_bytes)) < points_bytes:
                raise InputError(f"'{path}' is truncated at {what}")
            images.append(
                _PosedImage(
                    where=f"'{path}': {what}",
                    image_id=int(values[0]),
                    name=name.decode("utf-8", errors="surrogateescape"),
                    camera_id=int(values[8]),
                    quat_wxyz=values[1:5],
                    translation=values[5:8],
                )
            )
        if file.read(1):
            raise InputError(f"'{path}' goes on after its {count} images")
    _check_count(path, None, len(images), "images")
    return images
