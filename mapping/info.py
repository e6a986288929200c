"""``map.json``: what a map is made of, and whether its files are the ones that were written."""

import dataclasses
import hashlib
import importlib.metadata
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

from mapping.options import MapOptions
from mapping.workspace import MAP_FILE
from matching.errors import InputError
from matching.files import existing_folder, sha256_of_file
from matching.options import build_options, first_difference, options_as_dict

FORMAT_VERSION = 2

# files up to this size are hashed whenever a map is opened (about 0.1 s per 100 MB)
_MAX_CHEAP_BYTES = 64 * 2**20
# read whole at opening anyway, so always hashed
_ALWAYS_CHECKED = "retrieval.faiss"
# their photos carry checksums, checked where they are read: one damaged photo must not close a map
_CHECKED_IN_PARTS = re.compile(r"features(\.\d+)?\.h5")


class PhotoFile(Protocol):
    """A photo as a file."""

    @property
    def name(self) -> str:
        """Relative to the photo folder, with ``/``."""
        ...

    @property
    def size_bytes(self) -> int:
        """Size of the file."""
        ...

    @property
    def mtime_ns(self) -> int:
        """Time of its last change."""
        ...


@dataclass(frozen=True, kw_only=True)
class MapImage:
    """A photo that a map was made from."""

    name: str  # relative to the photo folder, with /
    size_bytes: int
    mtime_ns: int  # time of its last change
    sha256: str  # of the file, which tells a copy from another photo; empty if it was gone
    registered: bool  # whether the map has its pose


@dataclass(frozen=True, kw_only=True)
class MapFile:
    """A file of a map."""

    name: str  # relative to the map, with /
    size_bytes: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class MapInfo:
    """The content of ``map.json``."""

    format_version: int
    groundloc_version: str
    options: dict[str, Any]  # of `mapping.MapOptions`, nested
    matcher: dict[str, Any]  # `Matcher.describe()`
    known_poses: bool  # whether poses were given, so the map has their world and scale
    inputs: dict[str, Any]  # hashes of the given poses, cameras and pairs
    images: tuple[MapImage, ...]
    not_registered: dict[str, str]  # photo to reason
    num_points3D: int
    num_observations: int
    mean_reprojection_error_px: float
    num_pairs: int  # pairs of photos that were matched
    seconds: dict[str, float]  # wall time per stage
    files: tuple[MapFile, ...]
    # where focal lengths are from before they are refined: given, exif, pointmap, exif+pointmap,
    # guess, or map (photos of an extension that share a camera of it), to the number of photos with
    # a pose
    focal_sources: dict[str, int] = field(default_factory=dict)

    def identity(self) -> dict[str, Any]:
        """What decides whether a map is up to date, as plain values."""
        return map_identity(
            self.options,
            self.matcher,
            self.inputs,
            self.images,
        )


def map_identity(
    options: dict[str, Any],
    matcher: dict[str, Any],
    inputs: dict[str, Any],
    images: Iterable[PhotoFile],
) -> dict[str, Any]:
    """The inputs of a map; two maps with the same ones are the same."""
    return {
        "format_version": FORMAT_VERSION,
        "options": options,
        "matcher": matcher,
        "inputs": inputs,
        "images": image_identity(images),
    }


def identity_difference(made: dict[str, Any], asked: dict[str, Any]) -> str | None:
    """The dotted name of a field in which two results of `map_identity` differ, or None.

    Options that are younger than the first map count as their defaults. A matcher's fingerprint,
    which tells nobody what is different, is named if nothing else differs.
    """
    from matching.load import options_class  # nothing heavy is needed to read a map's info

    defaults: dict[str, Any] = {"options": options_as_dict(MapOptions())}
    matcher = asked["matcher"]
    if "options" in matcher:
        of_matcher = options_as_dict(options_class(matcher["name"])())
        defaults["matcher"] = {"options": of_matcher}
    readable_made, readable_asked = (
        {**identity, "matcher": {**identity["matcher"], "fingerprint": ""}}
        for identity in (made, asked)
    )
    differs = first_difference(readable_made, readable_asked, defaults=defaults)
    return differs or first_difference(made, asked, defaults=defaults)


def image_identity(images: Iterable[PhotoFile]) -> dict[str, Any]:
    """The part of `map_identity` that tells of photos."""
    return {i.name: [i.size_bytes, i.mtime_ns] for i in images}


def groundloc_version() -> str:
    """The version of the installed package, or ``unknown`` when run from a bare folder."""
    try:
        return importlib.metadata.version("groundloc")
    except importlib.metadata.PackageNotFoundError:
        return "unknown"


def hash_files(root: Path, names: list[str]) -> tuple[MapFile, ...]:
    """Sizes and hashes of files below a folder."""
    return tuple(
        MapFile(
            name=name,
            size_bytes=(root / name).stat().st_size,
            sha256=sha256_of_file(root / name),
        )
        for name in sorted(names)
    )


def info_to_json(info: MapInfo) -> str:
    """``map.json``; its last key is the hash of all others."""
    values = dataclasses.asdict(info)
    values["images"] = {i.name: _without_name(i) for i in info.images}
    values["files"] = {f.name: _without_name(f) for f in info.files}
    values["sha256"] = _hash_of(values)
    return json.dumps(values, indent=1, ensure_ascii=False) + "\n"


class DamagedMapError(InputError):
    """A file of a finished map is not as it was written.

    Args:
        what: The file, and what is wrong with it.
    """

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what}: restore it from a copy, or make the map again (groundloc map --overwrite)"
        )
        self.what = what


def read_info(map_path: Path) -> MapInfo:
    """Read and check ``map.json``.

    Raises:
        InputError: No map, an unfinished or damaged one, or another format version.
    """
    folder = existing_folder(map_path, "map")
    file = folder / MAP_FILE
    if not file.exists():
        raise InputError(
            f"'{map_path}' is no finished map, it has no {MAP_FILE}: run `groundloc map` (again)"
        )
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        version = values["format_version"]
    except (ValueError, KeyError, TypeError) as error:
        raise DamagedMapError(f"'{file}' is damaged: {error}") from error
    if version != FORMAT_VERSION:
        raise InputError(
            f"'{file}' has format_version {version}, but this groundloc reads {FORMAT_VERSION}: "
            "make the map again"
        )
    if values.pop("sha256", None) != _hash_of(values):
        raise DamagedMapError(f"'{file}' is damaged: its checksum does not fit its content")
    values["images"] = [{"name": n, **v} for n, v in values["images"].items()]
    values["files"] = [{"name": n, **v} for n, v in values["files"].items()]
    # the checksum vouches for names and types, whose check would take 50 us for each photo
    images = tuple(MapImage(**v) for v in values.pop("images"))
    files = tuple(build_options(MapFile, v) for v in values.pop("files"))
    return MapInfo(images=images, files=files, **values)


def check_files(map_path: Path, info: MapInfo, *, thorough: bool) -> list[str]:
    """Problems of a map's files, each naming the file; empty if there are none.

    Args:
        map_path: The map.
        info: Its ``map.json``.
        thorough: Hash every file; else only those that are small or read whole at opening (the
            others must have the right size, and the photos in ``features.h5`` carry checksums
            of their own that are checked when they are read).
    """
    problems = []
    for expected in info.files:
        file = map_path / expected.name
        if not file.is_file():
            problems.append(f"'{file}' is missing")
            continue
        size = file.stat().st_size
        if size != expected.size_bytes:
            problems.append(
                f"'{file}' is damaged: it has {size} bytes instead of {expected.size_bytes}"
            )
            continue
        cheap = size <= _MAX_CHEAP_BYTES or expected.name.startswith(_ALWAYS_CHECKED)
        cheap = cheap and not _CHECKED_IN_PARTS.fullmatch(expected.name)
        if (thorough or cheap) and sha256_of_file(file) != expected.sha256:
            problems.append(f"'{file}' is damaged: its bytes have changed since the map was made")
    return problems


def _without_name(item: MapImage | MapFile) -> dict[str, Any]:
    values = dataclasses.asdict(item)
    del values["name"]
    return values


def _hash_of(values: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()
