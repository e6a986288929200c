"""The camera of a query photo: given, from EXIF, or a guess to be refined with the pose."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import pycolmap

from localize.results import CameraSource
from mapping.cameras import camera_from_image, create_camera, with_focal_length
from mapping.focal_prior import FocalPrior, focal_prior
from mapping.map import Map
from matching.errors import InputError
from matching.files import PathLike

logger = logging.getLogger(__name__)

_SHARED_BY = 3  # retrieved photos that have to have the camera
_MAX_DISAGREEMENT = 3.0  # standard deviations by which the focal lengths may differ
# models whose distortion depends on the distance to the principal point alone
_ROUND_MODELS = (
    *("SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "SIMPLE_RADIAL_FISHEYE"),
    *("RADIAL_FISHEYE", "OPENCV_FISHEYE", "SIMPLE_FISHEYE", "FISHEYE"),
)


@dataclass(frozen=True, kw_only=True)
class QueryCamera:
    """Intrinsics of one photo and how far to trust them.

    Attributes:
        camera: For pixels of the upright photo.
        source: "given" and "map" are taken as they are; others are refined with the pose.
        focal_log_std: Standard deviation of the logarithm of the focal length; 0 if fixed.
    """

    camera: pycolmap.Camera
    source: CameraSource
    focal_log_std: float = 0.0

    @property
    def fixed(self) -> bool:
        """Whether the camera is taken as it is."""
        return self.source in ("given", "map")


def query_camera(
    path: PathLike | None,
    image_size: tuple[int, int],
    given: pycolmap.Camera | None,
    name: str,
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
        prior = focal_prior(image_size)
        camera = create_camera("SIMPLE_RADIAL", prior.focal_px, *image_size)
    else:
        guess = camera_from_image(path, image_size)
        prior, camera = guess.prior, guess.camera
    return _assumed(camera, prior)


def with_pointmap_focal(known: QueryCamera, pointmap_px: float | None) -> QueryCamera:
    """Blend the focal length from point maps in, see `mapping.focal_prior.focal_prior`.

    Args:
        known: From `query_camera`; a given camera stays as it is.
        pointmap_px: From `matching.matcher.Matcher.focal_px`; None leaves the camera as it is.
    """
    if known.source == "given" or pointmap_px is None:
        return known
    exif_px = known.camera.mean_focal_length() if known.source == "exif" else None
    size = (known.camera.width, known.camera.height)
    prior = focal_prior(size, exif_px=exif_px, pointmap_px=pointmap_px)
    return _assumed(with_focal_length(known.camera, prior.focal_px), prior)


def map_camera(scene: Map, retrieved: Sequence[str], known: QueryCamera) -> QueryCamera | None:
    """The camera that the retrieved photos of the query's size share, if they are of one.

    Photos of a place and new ones of it mostly come from one device. Its camera, refined with all
    photos of the map, is far more exact than what a single photo tells of its own.

    Args:
        scene: The map.
        retrieved: Names of map photos that look like the query.
        known: What is known of the query's own camera.

    Returns:
        None with fewer than three such photos, where they have several cameras (each photo its
        own, as in collections from the internet) or are panoramas, or where EXIF or point maps
        speak against it.
    """
    size = (known.camera.width, known.camera.height)
    camera = _shared_camera(scene, retrieved, size, known)
    return None if camera is None else QueryCamera(camera=camera, source="map")


def turned_map_cameras(
    scene: Map, retrieved: Sequence[str], known: QueryCamera
) -> list[QueryCamera]:
    """What `map_camera` gives for a photo taken upright where the map's were taken lying.

    The arguments are those of `map_camera`.

    Returns:
        The camera turned either way, since photos do not tell how the device was held; one where
        both are the same; none where the model of the camera is not known to look alike turned.
    """
    width, height = known.camera.width, known.camera.height
    lying = None if width == height else _shared_camera(scene, retrieved, (height, width), known)
    if lying is None or lying.model_name not in _ROUND_MODELS:
        return []
    across, down = lying.principal_point_x, lying.principal_point_y
    middles = dict.fromkeys([(width - down, across), (down, height - across)])
    return [QueryCamera(camera=_turned(lying, middle), source="map") for middle in middles]


def _shared_camera(
    scene: Map, retrieved: Sequence[str], size: tuple[int, int], known: QueryCamera
) -> pycolmap.Camera | None:
    """A copy of the camera of the retrieved photos of a size, as far as `map_camera` trusts it."""
    if known.fixed:
        return None
    cameras = [scene.camera(name) for name in retrieved]
    alike = [camera for camera in cameras if (camera.width, camera.height) == size]
    if len(alike) < _SHARED_BY or len({camera.camera_id for camera in alike}) > 1:
        return None
    camera = alike[0]
    if camera.is_spherical():  # a panorama has no focal length, and no pose is looked for in one
        return None
    factor = camera.mean_focal_length() / known.camera.mean_focal_length()
    told = known.source != "estimated"  # a common focal length says nothing against a fisheye
    if told and abs(math.log(factor)) > _MAX_DISAGREEMENT * known.focal_log_std:
        return None
    return pycolmap.Camera(camera.todict())


def _turned(camera: pycolmap.Camera, middle: tuple[float, float]) -> pycolmap.Camera:
    """The camera of photos turned by a right angle, with their principal point."""
    turned = pycolmap.Camera(camera.todict())
    turned.width, turned.height = camera.height, camera.width
    params = np.array(camera.params)
    focal = list(camera.focal_length_idxs())
    params[focal] = params[focal[::-1]]
    params[list(camera.principal_point_idxs())] = middle
    turned.params = params.tolist()
    return turned


def _assumed(camera: pycolmap.Camera, prior: FocalPrior) -> QueryCamera:
    source: CameraSource = "estimated" if prior.source == "guess" else prior.source
    return QueryCamera(camera=camera, source=source, focal_log_std=prior.log_std)


@lru_cache(maxsize=100)  # once for all photos alike
def _tell_scaled(camera_size: tuple[int, int], image_size: tuple[int, int]) -> None:
    logger.warning(
        "cameras given for photos of %dx%d pixels are scaled to photos of %dx%d",
        *camera_size, *image_size,
    )  # fmt: skip


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
        _tell_scaled((camera.width, camera.height), image_size)
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
