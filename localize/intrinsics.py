"""The camera of a query photo: given, from EXIF, or a guess to be refined with the pose."""

from dataclasses import dataclass

import numpy as np
import pycolmap

from localize.results import CameraSource
from mapping.cameras import DEFAULT_FOCAL_RATIO, camera_from_image, create_camera
from matching.errors import InputError
from matching.files import PathLike


@dataclass(frozen=True, kw_only=True)
class QueryCamera:
    """Intrinsics of one photo and how far to trust them.

    Attributes:
        camera: For pixels of the upright photo.
        source: "given" is taken as it is; "exif" and "estimated" are refined with the pose.
    """

    camera: pycolmap.Camera
    source: CameraSource


def query_camera(
    path: PathLike | None, image_size: tuple[int, int], given: pycolmap.Camera | None, name: str
) -> QueryCamera:
    """The best camera known before the pose is.

    Args:
        path: The photo's file for its EXIF block; None for an array.
        image_size: (width, height) of the upright photo.
        given: The caller's camera, if any; scaled to the photo.
        name: The photo's name, for messages.

    Raises:
        InputError: The given camera does not fit the photo.
    """
    if given is not None:
        return QueryCamera(camera=camera_for_size(given, image_size, name), source="given")
    if path is None:
        camera = create_camera("SIMPLE_RADIAL", DEFAULT_FOCAL_RATIO * max(image_size), *image_size)
        return QueryCamera(camera=camera, source="estimated")
    guess = camera_from_image(path, image_size)
    return QueryCamera(
        camera=guess.camera, source="exif" if guess.source == "exif" else "estimated"
    )


def camera_for_size(
    camera: pycolmap.Camera, image_size: tuple[int, int], name: str
) -> pycolmap.Camera:
    """A copy of a camera for the photo at another resolution.

    Args:
        camera: Calibrated at its own width and height.
        image_size: (width, height) of the photo.
        name: The photo's name, for messages.

    Raises:
        InputError: The photo has another shape (cropped or turned), or the parameters are no
            camera.
    """
    width, height = image_size
    copy = pycolmap.Camera(camera.todict())
    if copy.is_spherical():
        raise InputError(
            f"the camera given for '{name}' is {copy.model_name}: cut panoramas into perspective "
            "photos first"
        )
    usable = copy.verify_params() and np.isfinite(copy.params).all()
    if not usable or not copy.mean_focal_length() > 0:
        raise InputError(f"the camera given for '{name}' has unusable parameters: {camera}")
    if (camera.width, camera.height) == (width, height):
        return copy
    sizes = f"the camera given for '{name}' is {camera.width}x{camera.height}"
    # resizing rounds each side to whole pixels: up to one pixel off is the same shape
    scale = (width + height) / max(camera.width + camera.height, 1)
    if max(abs(camera.width * scale - width), abs(camera.height * scale - height)) <= 1:
        copy.rescale(width, height)
        return copy
    scale = (width + height) / max(camera.height + camera.width, 1)
    if max(abs(camera.height * scale - width), abs(camera.width * scale - height)) <= 1:
        raise InputError(
            f"{sizes} but the photo is {width}x{height} when upright (EXIF orientation applied): "
            "give the camera of the upright photo"
        )
    raise InputError(
        f"{sizes} but the photo is {width}x{height}, another shape: a cropped photo needs its own "
        "camera"
    )
