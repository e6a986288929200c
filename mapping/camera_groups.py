"""Which photos share a camera."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap

from mapping.cameras import CameraGuess, camera_from_image, with_focal_length
from mapping.database import MapCameras
from mapping.focal_prior import focal_prior
from mapping.options import CameraMode, ReconstructionOptions
from matching.errors import InputError

_MAX_ASKED = 5  # photos of one camera whose point maps are asked for the focal length


def assign_cameras(
    image_sizes: Mapping[str, tuple[int, int]],
    images: Path,
    given: Mapping[str, pycolmap.Camera],
    options: ReconstructionOptions,
    *,
    focal_px: Callable[[str], float | None] | None = None,
) -> tuple[MapCameras, dict[str, str]]:
    """Give every photo a camera: the given one, or a guess that photos of one camera share.

    Args:
        image_sizes: Photo to (width, height) of its upright pixels.
        images: Photo folder.
        given: Photo to known intrinsics.
        options: ``camera_model`` and ``camera_mode`` of the other photos.
        focal_px: Focal length of a photo from point maps (`matching.matcher.Matcher.focal_px`);
            asked for a few photos of every camera that is not given, and blended with EXIF as
            `mapping.focal_prior.focal_prior` says.

    Returns:
        The cameras, and the photos that cannot have one to the reason.

    Raises:
        InputError: ``camera_mode`` asks photos of different size to share a camera.
    """
    cameras: list[pycolmap.Camera] = []
    place_of: dict[Hashable, int] = {}
    camera_of: dict[str, int] = {}
    bad: dict[str, str] = {}
    fixed: set[int] = set()
    guesses: dict[str, CameraGuess] = {}
    for name in sorted(image_sizes):
        size = image_sizes[name]
        camera = given.get(name)
        if camera is None:
            guesses[name] = camera_from_image(images / name, size, model=options.camera_model)
            continue
        if (camera.width, camera.height) != size:
            bad[name] = (
                f"it has {size[0]}x{size[1]} pixels, but its camera is for "
                f"{camera.width}x{camera.height}"
            )
            if (camera.height, camera.width) == size:
                bad[name] += ": the option apply_exif_orientation says whether photos are turned"
            continue
        key = ("given", camera.model, *size, *camera.params)
        if key not in place_of:
            place_of[key] = len(cameras)
            trusted = pycolmap.Camera(camera.todict())
            trusted.has_prior_focal_length = True
            cameras.append(trusted)
        camera_of[name] = place_of[key]
        fixed.add(place_of[key])
    groups = _group(guesses, {n: image_sizes[n] for n in guesses}, options.camera_mode)
    members: dict[Hashable, list[str]] = {}
    for name, group in groups.items():
        members.setdefault(group, []).append(name)
    for name, group in groups.items():
        if group not in place_of:
            place_of[group] = len(cameras)
            seen = _seen_focal_px(members[group], image_sizes[name], image_sizes, focal_px)
            cameras.append(_blended(guesses[name], seen))
        camera_of[name] = place_of[group]
        camera = cameras[place_of[group]]
        if (camera.width, camera.height) != image_sizes[name]:
            raise InputError(
                f"camera_mode '{options.camera_mode}' makes '{name}' share a camera with photos of "
                f"another size ({camera.width}x{camera.height}): use per_image"
            )
    return MapCameras(cameras, camera_of, frozenset(fixed)), bad


def _seen_focal_px(
    names: Sequence[str],
    image_size: tuple[int, int],
    image_sizes: Mapping[str, tuple[int, int]],
    focal_px: Callable[[str], float | None] | None,
) -> float | None:
    """Median of what point maps say of photos of one camera, scaled to one of them."""
    if focal_px is None:
        return None
    step = -(-len(names) // _MAX_ASKED)
    found = [
        focal * max(image_size) / max(image_sizes[name])
        for name in names[::step]
        if (focal := focal_px(name)) is not None
    ]
    return float(np.median(found)) if found else None


def _blended(guess: CameraGuess, pointmap_px: float | None) -> pycolmap.Camera:
    """The guessed camera with the focal length from point maps blended in."""
    if pointmap_px is None:
        return guess.camera
    exif_px = guess.prior.focal_px if guess.source == "exif" else None
    size = (guess.camera.width, guess.camera.height)
    prior = focal_prior(size, exif_px=exif_px, pointmap_px=pointmap_px)
    return with_focal_length(guess.camera, prior.focal_px)


def _group(
    guesses: Mapping[str, CameraGuess], sizes: Mapping[str, tuple[int, int]], mode: CameraMode
) -> dict[str, Hashable]:
    """A key per photo; equal keys mean one camera.

    ``auto`` lets photos of a folder share a camera if their EXIF blocks give the same focal
    length, or, where there is no EXIF, if all photos of the folder have one size: frames of a
    video, or a set exported together. Photos from the internet rarely agree in either.
    """
    folders: dict[str, set[tuple[int, int]]] = {}
    for name in guesses:
        folders.setdefault(_folder(name), set()).add(sizes[name])
    groups: dict[str, Hashable] = {}
    for name, guess in guesses.items():
        if mode == "single":
            groups[name] = "all"
        elif mode == "per_folder":
            groups[name] = ("folder", _folder(name))
        elif mode == "per_image":
            groups[name] = ("image", name)
        elif guess.source == "exif":
            focal = guess.camera.mean_focal_length()
            groups[name] = ("exif", _folder(name), sizes[name], round(focal, 3))
        elif len(folders[_folder(name)]) == 1:
            groups[name] = ("folder", _folder(name))
        else:
            groups[name] = ("image", name)
    return groups


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
