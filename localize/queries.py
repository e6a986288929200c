"""Which photos to localize: one photo, a folder, a list file or paths, with their cameras."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pycolmap

from mapping.cameras import read_camera_list
from matching.errors import InputError
from matching.files import PathLike, existing_file
from matching.images import IMAGE_SUFFIXES, list_images, printable_name

Cameras = Mapping[str, pycolmap.Camera] | PathLike | None


@dataclass(frozen=True, kw_only=True)
class Query:
    """One photo to localize.

    Attributes:
        name: Its name in results: relative to the folder or list, or the path as given; bytes that
            are no UTF-8 are escaped.
        path: Its file.
        camera: Its camera where the caller gave one.
    """

    name: str
    path: Path
    camera: pycolmap.Camera | None


def read_queries(images: PathLike | Sequence[PathLike], cameras: Cameras = None) -> list[Query]:
    """Resolve what the caller asks to localize.

    Args:
        images: A photo; a folder (all photos below it); a text file with one name per line, or
            ``name MODEL WIDTH HEIGHT PARAMS...``, relative to the list's folder or to the folder
            ``images`` beside it; or several paths.
        cameras: Camera by name, or a file with ``name MODEL WIDTH HEIGHT PARAMS...`` lines. A
            photo without one gets its focal length from EXIF or with its pose.

    Raises:
        InputError: Nothing to localize, a name twice, a list whose photos are not there, a wrong
            line, or cameras of which none belongs to a query.
    """
    given = dict(cameras) if isinstance(cameras, Mapping) else None
    if cameras is not None and not isinstance(cameras, Mapping):
        given = read_camera_list(cameras)
    if isinstance(images, Sequence) and not isinstance(images, str):
        if not images:
            raise InputError("no queries: the list of photos is empty")
        what, paths = "the list of photos", {str(p): Path(p) for p in images}
        if len(paths) != len(images):
            names = [str(p) for p in images]
            twice = next(n for n in names if names.count(n) > 1)
            raise InputError(f"'{twice}' is in the list of photos twice")
    else:
        what, source = f"'{images}'", Path(images)
        if source.is_dir():
            paths = {name: source / name for name in list_images(source)}
        elif existing_file(source, "photo, folder or list").suffix.lower() in IMAGE_SUFFIXES:
            paths = {source.name: source}
        else:
            paths, listed = _read_list(source)
            given = listed if given is None else given
    if given and not given.keys() & paths.keys():
        raise InputError(
            f"none of the {len(given)} cameras belongs to a photo of {what}: cameras are named "
            f"like '{next(iter(given))}', photos like '{next(iter(paths))}'"
        )
    given = given or {}
    paths = {printable_name(name): path for name, path in paths.items()}
    return [Query(name=n, path=p, camera=given.get(n)) for n, p in paths.items()]


def _read_list(file: Path) -> tuple[dict[str, Path], dict[str, pycolmap.Camera] | None]:
    """Paths by name, and the cameras where the lines have them."""
    try:
        lines = file.read_text(encoding="utf-8-sig").split("\n")
    except UnicodeDecodeError as error:
        raise InputError(
            f"'{file}' is neither a photo (JPEG, PNG, WebP, TIFF, BMP, PPM) nor a UTF-8 list"
        ) from error
    entries = [(number, line.strip()) for number, line in enumerate(lines, 1)]
    entries = [(n, line) for n, line in entries if line and not line.startswith("#")]
    if not entries:
        raise InputError(f"no queries: the list '{file}' is empty")
    cameras = None
    if any(_has_camera(line) for _, line in entries):
        cameras = read_camera_list(file)  # refuses lines without a camera and names given twice
        names = list(cameras)
    else:
        names = []
        seen: set[str] = set()
        for number, name in entries:
            if name in seen:
                raise InputError(f"'{file}' line {number}: '{name}' is listed twice")
            seen.add(name)
            names.append(name)
    roots = [file.parent, file.parent / "images"]
    for root in roots:
        if any((root / name).is_file() for name in names):
            return {name: root / name for name in names}, cameras
    raise InputError(
        f"none of the photos in the list '{file}' exists, the first is '{names[0]}'; names are "
        f"relative to '{roots[0]}' or '{roots[1]}'"
    )


def _has_camera(line: str) -> bool:
    """Whether a camera model and a width follow the name."""
    words = line.split()
    return any(
        word in pycolmap.CameraModelId.__members__ and width.isdigit()
        for word, width in pairwise(words[1:])
    )
