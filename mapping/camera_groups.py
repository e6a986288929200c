"""Which photos share a camera."""

from collections.abc import Hashable, Mapping
from pathlib import Path

import pycolmap

from mapping.cameras import CameraGuess, camera_from_image
from mapping.database import MapCameras
from mapping.options import CameraMode, ReconstructionOptions
from matching.errors import InputError


def assign_cameras(
    image_sizes: Mapping[str, tuple[int, int]],
    images: Path,
    given: Mapping[str, pycolmap.Camera],
    options: ReconstructionOptions,
) -> tuple[MapCameras, dict[str, str]]:
    """Give every photo a camera: the given one, or a guess that photos of one camera share.

    Args:
        image_sizes: Photo to (width, height) of its upright pixels.
        images: Photo folder.
        given: Photo to known intrinsics.
        options: ``camera_model`` and ``camera_mode`` of the other photos.

    Returns:
        The cameras, and the photos that cannot have one to the reason.

    Raises:
        InputError: ``camera_mode`` asks photos of different size to share a camera.
    """
    cameras: list[pycolmap.Camera] = []
    place_of: dict[Hashable, int] = {}
    camera_of: dict[str, int] = {}
    bad: dict[str, str] = {}
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
    groups = _group(guesses, {n: image_sizes[n] for n in guesses}, options.camera_mode)
    for name, group in groups.items():
        if group not in place_of:
            place_of[group] = len(cameras)
            cameras.append(guesses[name].camera)
        camera_of[name] = place_of[group]
        camera = cameras[place_of[group]]
        if (camera.width, camera.height) != image_sizes[name]:
            raise InputError(
                f"camera_mode '{options.camera_mode}' makes '{name}' share a camera with photos of "
                f"another size ({camera.width}x{camera.height}): use per_image"
            )
    return MapCameras(cameras, camera_of), bad


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
