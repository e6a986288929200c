"""The `Map`: what localization reads."""

import hashlib
import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.info import DamagedMapError, MapInfo, check_files, read_info
from mapping.observations import FILE_NAME, Observations
from mapping.retrieval import Retrieved, search
from mapping.store import FeatureFile, ViewCache
from mapping.workspace import is_half_published, locked_workspace
from matching.errors import InputError
from matching.files import PathLike, atomic_folder
from matching.load import load_matcher
from matching.matcher import Matcher
from matching.options import first_difference
from matching.progress import Progress, silent
from matching.types import IntArray, View

_TEXT_MODEL = {f"{name}.txt" for name in ("rigs", "cameras", "frames", "images", "points3D")}
_OPEN_ATTEMPTS = 20
_OPEN_PAUSE_S = 0.05


class Map:
    """A finished map, open for reading; made by `Map.open` or `mapping.build_map`.

    Photos are named by their paths relative to the photo folder, with ``/``. Threads may share a
    map.

    Attributes:
        path: Folder of the map.
        info: What ``map.json`` says.
        image_names: Photos with a pose, sorted.
        describer: Turns local descriptors into the map's global ones.
    """

    def __init__(self, path: Path, info: MapInfo) -> None:
        self.path = path
        self.info = info
        self._observations = Observations(path / FILE_NAME)
        self.image_names = self._observations.names
        self._features = FeatureFile(path / "features.h5")
        self._views: ViewCache[str] = ViewCache(self._features.view)
        self.describer = self._features.describer()
        self._index = faiss.read_index(str(path / "retrieval.faiss"))
        self._reconstruction: pycolmap.Reconstruction | None = None
        self._image_ids: dict[str, int] = {}
        self._lock = threading.Lock()

    @staticmethod
    def open(path: PathLike) -> "Map":
        """Open a finished map.

        Checks that all files are there with their sizes, and the hashes of those that are small
        (up to 64 MB) or read whole here; `check` verifies every byte. Of the larger ones only what
        a query needs is read, when it needs it.

        Raises:
            InputError: No map, an unfinished one, another format version, or a damaged file.
        """
        folder = Path(path)
        for _ in range(_OPEN_ATTEMPTS):
            try:
                opened = Map._read(folder)
            except (ValueError, RuntimeError, LookupError, OSError):
                # files of two maps do not fit together while another process replaces one
                if not is_half_published(folder):
                    return Map._read(folder)
            else:
                if not is_half_published(folder) and read_info(folder) == opened.info:
                    return opened
            time.sleep(_OPEN_PAUSE_S)
        return Map._read(folder)

    @staticmethod
    def _read(folder: Path) -> "Map":
        """The map as its files are now, which may be those of two maps during a publication."""
        if is_half_published(folder):
            with locked_workspace(folder):
                pass  # a process died while it moved a complete new map into place: go on
        info = read_info(folder)
        problems = check_files(folder, info, thorough=False)
        if problems:
            raise DamagedMapError(problems[0])
        return Map(folder, info)

    def check(self) -> list[str]:
        """Verify every byte of every file.

        Returns:
            Problems, each naming a file, and the photos whose encoding cannot be read; empty if
            the map is as it was written. If another map is there by now, that alone.
        """
        problems = check_files(self.path, self.info, thorough=True)
        if problems and self._is_replaced():
            return [f"the map '{self.path}' was replaced since it was opened: open it again"]
        if problems:
            problems += self._features.problems(self.image_names)
        return problems

    def _is_replaced(self) -> bool:
        """Whether another process has put another map into the folder."""
        try:
            return is_half_published(self.path) or read_info(self.path) != self.info
        except InputError:
            return False

    def check_matcher(self, matcher: Matcher) -> None:
        """Refuse a matcher that did not make this map.

        Raises:
            InputError: Another matcher, other weights or options; the field is named.
        """
        made, given = self.info.matcher, matcher.describe()
        if (made["name"], made["fingerprint"]) == (given["name"], given["fingerprint"]):
            return  # what else describes a matcher does not change encodings
        field = _difference_of_matchers(made, given)
        raise InputError(
            f"the map '{self.path}' was made by another matcher: '{field}' differs (the map's is "
            f"{_value(made, field)}, this one's {_value(given, field)}): load the matcher that "
            "made it, or make the map again"
        )

    def load_matcher(self, device: str = "cpu") -> Matcher:
        """Load the matcher that made this map.

        Raises:
            InputError: It cannot be loaded, or its weights have changed since.
        """
        made = self.info.matcher
        matcher = load_matcher(made["name"], device=device, options=made.get("options"))
        self.check_matcher(matcher)
        return matcher

    def extend(
        self,
        images: PathLike,
        matcher: Matcher,
        *,
        names: Sequence[str] | None = None,
        known_poses: PathLike | pycolmap.Reconstruction | None = None,
        cameras: Mapping[str, pycolmap.Camera] | None = None,
        progress: Progress = silent,
    ) -> "Map":
        """Add photos; what is in the map stays as it is. See `mapping.extend.extend_map`."""
        from mapping.extend import extend_map

        _ = self.reconstruction  # this object keeps the old model when the files are replaced
        return extend_map(
            self, images, matcher, image_names=names, known_poses=known_poses, cameras=cameras,
            progress=progress,
        )  # fmt: skip

    def export(self, folder: PathLike) -> None:
        """Write the model as COLMAP text files; ``sparse/`` of a map holds the binary ones.

        Args:
            folder: New, empty, or that of an earlier export, which is replaced.

        Raises:
            InputError: The folder holds something else, or is a file.
        """
        target = Path(folder)
        if target.exists() and not target.is_dir():
            raise InputError(f"'{folder}' is a file, but a model is exported into a folder")
        others = {p.name for p in target.iterdir()} - _TEXT_MODEL if target.exists() else set()
        if others:
            raise InputError(
                f"'{folder}' holds '{min(others)}', which the export would delete: give a new or "
                "an empty folder"
            )
        with atomic_folder(folder) as temporary:
            self.reconstruction.write_text(temporary)

    def to_dict(self) -> dict[str, Any]:
        """What the map is made of, as plain JSON values."""
        info = self.info
        return {
            "path": str(self.path),
            "fingerprint": self.fingerprint,
            "format_version": info.format_version,
            "groundloc_version": info.groundloc_version,
            "matcher": info.matcher,
            "options": info.options,
            "known_poses": info.known_poses,
            "num_images": len(info.images),
            "num_registered": len(self.image_names),
            "not_registered": info.not_registered,
            "num_cameras": self._observations.num_cameras(),
            "focal_sources": info.focal_sources,
            "num_pairs": info.num_pairs,
            "num_points3D": info.num_points3D,
            "num_observations": info.num_observations,
            "mean_track_length": info.num_observations / max(1, info.num_points3D),
            "mean_reprojection_error_px": info.mean_reprojection_error_px,
            "size_bytes": sum(f.size_bytes for f in info.files),
            "seconds": info.seconds,
        }

    def summary(self) -> str:
        """What the map is made of, in a few lines for people."""
        values = self.to_dict()
        world = "that of the known poses" if values["known_poses"] else "its own, without scale"
        seconds = ", ".join(f"{stage} {s:.1f}" for stage, s in values["seconds"].items())
        lines = [
            f"map '{self.path}' (format {values['format_version']}, matcher "
            f"{values['matcher']['name']}, {values['size_bytes'] / 2**20:.1f} MiB)",
            f"  photos     {values['num_registered']} with a pose, "
            f"{len(values['not_registered'])} without, {values['num_pairs']} pairs matched",
            f"  cameras    {values['num_cameras']}{_told(values['focal_sources'])}",
            f"  points     {values['num_points3D']}, seen by "
            f"{values['mean_track_length']:.1f} photos each, mean reprojection error "
            f"{values['mean_reprojection_error_px']:.2f} px",
            f"  world      {world}",
            f"  seconds    {seconds}",
        ]
        lines += [
            f"  no pose: {name}: {reason}" for name, reason in values["not_registered"].items()
        ]
        return "\n".join(lines)

    @property
    def reconstruction(self) -> pycolmap.Reconstruction:
        """The COLMAP model: read when it is first asked for, then in memory as long as the map is.

        Localization does without it.

        Raises:
            InputError: It is damaged, or another process has replaced the map meanwhile.
        """
        with self._lock:
            if self._reconstruction is None:
                sparse = tuple(f for f in self.info.files if f.name.startswith("sparse/"))
                problems = check_files(self.path, replace(self.info, files=sparse), thorough=True)
                if problems:
                    raise InputError(f"{problems[0]}, or was replaced: open the map again")
                model = pycolmap.Reconstruction(self.path / "sparse")
                self._image_ids = {model.image(i).name: i for i in model.reg_image_ids()}
                self._reconstruction = model
        return self._reconstruction

    @property
    def fingerprint(self) -> str:
        """Hash of all that localization reads: maps with the same one give the same poses.

        The database is left out: the order of its rows depends on which thread was first.
        """
        read = [f for f in self.info.files if f.name != "database.db"]
        files = "".join(f"{f.name} {f.sha256}\n" for f in read)
        return hashlib.sha256(files.encode()).hexdigest()

    def image(self, name: str) -> pycolmap.Image:
        """The photo in the COLMAP model, see `reconstruction`.

        Raises:
            InputError: No such photo, or the map has no pose for it.
        """
        self._known(name)
        return self.reconstruction.image(self._image_ids[name])

    def camera(self, name: str) -> pycolmap.Camera:
        """The camera of a photo."""
        return self._observations.camera(self._known(name))

    def cam_from_world(self, name: str) -> pycolmap.Rigid3d:
        """The pose of a photo."""
        return self._observations.cam_from_world(self._known(name))

    def load_view(self, name: str) -> View:
        """The encoded photo; row i of its keypoints belongs to row i of `point3D_ids`.

        Raises:
            InputError: The map has no pose of the photo, or its encoding is damaged.
        """
        return self._views(self._known(name))

    def point3D_ids(self, name: str) -> NDArray[np.int64]:  # noqa: N802 (COLMAP's word)
        """The point each keypoint of a photo sees, (N,) int64; -1 where there is none."""
        return self._observations.point3D_ids(self._known(name))

    def points3D(self, ids: IntArray | Sequence[int]) -> NDArray[np.float64]:  # noqa: N802
        """World coordinates of points.

        Args:
            ids: (M,).

        Returns:
            (M, 3) float64.

        Raises:
            KeyError: A number is no point of the map.
        """
        return self._observations.points3D(ids)

    def covisible(self, name: str) -> dict[str, int]:
        """Photos that see points of a photo, to the number of points they share; most first."""
        return self._observations.covisible(self._known(name))

    def _known(self, name: str) -> str:
        """The name, if the map has a pose for it."""
        if name not in self._observations:
            reason = self.info.not_registered.get(name)
            raise InputError(
                f"the map has no pose of '{name}': {reason}"
                if reason
                else f"'{name}' is no photo of the map '{self.path}'"
            )
        return name

    def retrieve(self, view: View, matcher: Matcher, top_k: int) -> list[Retrieved]:
        """The photos of the map that look most like a query.

        Args:
            view: The encoded query.
            matcher: What encoded it.
            top_k: How many photos at most.

        Returns:
            Photos, best first; none for a query without anything to see.
        """
        descriptor = self.describer.describe(matcher.local_descriptors(view))
        return search(self._index, self.image_names, descriptor, top_k)


def _told(focal_sources: Mapping[str, int]) -> str:
    """Where focal lengths are from, for people."""
    counts = ", ".join(f"{count} {source}" for source, count in sorted(focal_sources.items()))
    assumed = set(focal_sources) - {"given"}
    refined = "; all but given ones refined" if assumed else ""
    return f" (focal lengths of the photos with a pose from: {counts}{refined})" if counts else ""


def _difference_of_matchers(made: Mapping[str, Any], given: Mapping[str, Any]) -> str:
    """What explains best that two matchers' fingerprints differ: names, weights, then options.

    Options that only one of both has came with another version of groundloc.
    """
    of_made, of_given = (description.get("options") or {} for description in (made, given))
    shared = of_made.keys() & of_given.keys()
    differ = first_difference(
        {key: value for key, value in made.items() if key not in ("fingerprint", "options")},
        {key: value for key, value in given.items() if key not in ("fingerprint", "options")},
    )
    differ = differ or first_difference(
        {name: of_made[name] for name in shared},
        {name: of_given[name] for name in shared},
        "options",
    )
    return differ or "fingerprint"


def _value(description: Mapping[str, Any], field: str) -> str:
    """A field of a matcher's description by its dotted name, hashes cut short."""
    value: Any = description
    for key in field.split("."):
        value = value.get(key) if isinstance(value, Mapping) else None
    text = "unknown" if value is None else repr(value) if isinstance(value, str) else str(value)
    return text if len(text) <= 40 else f"{text[:13]}..."
