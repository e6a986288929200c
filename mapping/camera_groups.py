"""Which photos share a camera."""

import json
from collections import Counter
from collections.abc import Callable, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap

from mapping.cameras import CameraGuess, camera_from_image, misfit, with_focal_length
from mapping.database import MapCameras
from mapping.focal_prior import focal_prior
from mapping.options import CameraMode, ReconstructionOptions
from matching.errors import InputError
from matching.files import write_text_atomic
from matching.matcher import Matcher
from matching.types import View

# focal length of a photo from its point map beside another photo's; None where there is none
SeenFocal = Callable[[str, str], float | None]

_USUAL = 0.8  # share of a folder's photos that have one size, if that size is one camera's
_MAX_ASKED = 5  # photos of one camera whose point maps are asked for the focal length


@contextmanager
def remembered_focals(
    file: Path, matcher: Matcher, views: Callable[[str], View]
) -> Iterator[SeenFocal]:
    """Focal lengths as a matcher sees them; those of an interrupted run are not asked for again.

    Args:
        file: Keeps them, by name of the photo.
        matcher: Sees them.
        views: Encoded photos by name.
    """
    known: dict[str, float | None] = {}
    if file.is_file():
        known = json.loads(file.read_text(encoding="utf-8"))
    count = len(known)

    def seen(name: str, other: str) -> float | None:
        if name not in known:
            known[name] = matcher.focal_px(views(name), [views(other)])
        return known[name]

    try:
        yield seen
    finally:
        if len(known) > count:
            write_text_atomic(file, json.dumps(known))


def assign_cameras(
    image_sizes: Mapping[str, tuple[int, int]],
    images: Path,
    given: Mapping[str, pycolmap.Camera],
    options: ReconstructionOptions,
    *,
    focal_px: SeenFocal | None = None,
) -> tuple[MapCameras, dict[str, str]]:
    """Give every photo a camera: the given one, or a guess that photos of one camera share.

    Args:
        image_sizes: Photo to (width, height) of its upright pixels.
        images: Photo folder.
        given: Photo to known intrinsics.
        options: ``camera_model`` and ``camera_mode`` of the other photos.
        focal_px: Focal length of a photo from point maps (`matching.matcher.Matcher.focal_px`),
            seen beside the photo that follows it by name, which mostly shows the same place. Asked
            for a few photos of every camera that is not given, and blended with EXIF as
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
    guesses: dict[str, CameraGuess] = {}
    names = sorted(image_sizes)
    following = dict(zip(names, [*names[1:], *names[:1]], strict=True))
    for name in names:
        size = image_sizes[name]
        camera = given.get(name)
        if camera is None:
            guesses[name] = camera_from_image(images / name, size, model=options.camera_model)
            continue
        reason = misfit(camera, size)
        if reason is not None:
            bad[name] = reason
            continue
        key = ("given", camera.model, *size, *camera.params)
        if key not in place_of:
            place_of[key] = len(cameras)
            trusted = pycolmap.Camera(camera.todict())
            trusted.has_prior_focal_length = True
            cameras.append(trusted)
        camera_of[name] = place_of[key]
    groups = _group(guesses, {n: image_sizes[n] for n in guesses}, options.camera_mode)
    sources = dict.fromkeys(camera_of, "given")
    members: dict[Hashable, list[str]] = {}
    for name, group in groups.items():
        members.setdefault(group, []).append(name)
    for name, group in groups.items():
        if group not in place_of:
            place_of[group] = len(cameras)
            guess = guesses[name]
            if focal_px is not None:
                seen = _seen_focal_px(members[group], following, image_sizes, focal_px)
                guess = _blended(guess, seen)
            cameras.append(guess.camera)
            sources |= dict.fromkeys(members[group], guess.source)
        camera_of[name] = place_of[group]
        camera = cameras[place_of[group]]
        if (camera.width, camera.height) != image_sizes[name]:
            raise InputError(
                f"camera_mode '{options.camera_mode}' makes '{name}' share a camera with photos of "
                f"another size ({camera.width}x{camera.height}): use per_image"
            )
    return MapCameras(cameras, camera_of, sources), bad


def _seen_focal_px(
    names: Sequence[str],
    following: Mapping[str, str],
    image_sizes: Mapping[str, tuple[int, int]],
    focal_px: SeenFocal,
) -> float | None:
    """Median of what point maps say of photos of one camera, in pixels of the first."""
    step = -(-len(names) // _MAX_ASKED)
    found = [
        focal * max(image_sizes[names[0]]) / max(image_sizes[name])
        for name in names[::step]
        if (focal := focal_px(name, following[name])) is not None
    ]
    return float(np.median(found)) if found else None


def _blended(guess: CameraGuess, pointmap_px: float | None) -> CameraGuess:
    """The guess with the focal length from point maps blended in."""
    if pointmap_px is None:
        return guess
    exif_px = guess.prior.focal_px if guess.source == "exif" else None
    size = (guess.camera.width, guess.camera.height)
    prior = focal_prior(size, exif_px=exif_px, pointmap_px=pointmap_px)
    return replace(guess, camera=with_focal_length(guess.camera, prior.focal_px), prior=prior)


def _group(
    guesses: Mapping[str, CameraGuess], sizes: Mapping[str, tuple[int, int]], mode: CameraMode
) -> dict[str, Hashable]:
    """A key per photo; equal keys mean one camera.

    ``auto`` lets photos of a folder share a camera if their EXIF blocks give the same focal
    length, or, where there is no EXIF, if nearly all photos of the folder have their size, upright
    or turned: frames of a video, or a set exported together, and what strayed there. Photos from
    the internet rarely agree in either.
    """
    formats: dict[str, Counter[tuple[int, ...]]] = {}
    for name, guess in guesses.items():
        if guess.source != "exif":
            formats.setdefault(_folder(name), Counter())[_format(sizes[name])] += 1
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
        else:
            alike = formats[_folder(name)]
            usual = alike[_format(sizes[name])] >= _USUAL * alike.total()
            groups[name] = ("size", _folder(name), sizes[name]) if usual else ("image", name)
    return groups


def _format(size: tuple[int, int]) -> tuple[int, ...]:
    return tuple(sorted(size))


def _folder(name: str) -> str:
    return name.rpartition("/")[0]
