"""hloc's feature and match files in place of a matcher: maps and poses from what hloc computed.

hloc extracts and matches whole data sets beforehand, query photos too, and keeps all in HDF5 files.
With these files the stages here go on from any point: a map from hloc's matches, poses of queries
from hloc's matches with that map.
"""

import hashlib
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matching.errors import InputError
from matching.files import PathLike
from matching.hloc_files import FeatureReader, read_matches
from matching.images import image_size
from matching.matcher import ImageLike, Matcher
from matching.types import Matches, View

PREFIX = "hloc:"


class HlocMatcher(Matcher):
    """Looks features and matches up by the names of the photos.

    Args:
        features: hloc's file of local features, with those of the queries too.
        matches: Its files of matches; a pair is taken from the first that has it.

    Raises:
        InputError: A file is missing, or holds something else.
    """

    reads_files = True

    def __init__(self, features: PathLike, *matches: PathLike) -> None:
        if not matches:
            raise InputError("hloc's files: give features and matches, as hloc:FEATS.h5,MATCHES.h5")
        self.features = FeatureReader(features)
        self.matches = tuple(Path(path) for path in matches)
        for path in self.matches:
            if not path.is_file():
                raise InputError(f"no hloc match file '{path}'")
        self.name = PREFIX + ",".join(str(path) for path in (features, *matches))
        # the map keeps its own copies of what it read, and queries come to the files later
        self.fingerprint = hashlib.sha256(f"hloc {self.features.path.stem}".encode()).hexdigest()
        self._known = frozenset(self.features.names)
        self._files = {str(path): _state(path) for path in (self.features.path, *self.matches)}

    @staticmethod
    def load(name: str) -> "HlocMatcher":
        """From ``hloc:FEATS.h5,MATCHES.h5[,MATCHES.h5...]``."""
        features, *matches = name.removeprefix(PREFIX).split(",")
        return HlocMatcher(features, *matches)

    def describe(self) -> dict[str, Any]:
        """Name, fingerprint, and size and time of each file: hloc may have written it anew."""
        return {**super().describe(), "files": self._files}

    def encode(self, image: ImageLike) -> View:
        """The features of a photo.

        Args:
            image: Its path; the longest ending of it that the file knows is its name.

        Raises:
            InputError: An array, or a photo that the file does not have.
        """
        if isinstance(image, np.ndarray):
            raise InputError("hloc's files know photos by their paths: an array has none")
        parts = PurePosixPath(Path(image).as_posix()).parts
        endings = ("/".join(parts[start:]) for start in range(len(parts)))
        name = next((ending for ending in endings if ending in self._known), None)
        if name is None:
            raise InputError(
                f"'{self.features.path}' has no features of '{image}'; it names photos like "
                f"'{self.features.names[0]}'"
            )
        found = self.features.read(name)
        if found.descriptors is None:
            raise InputError(f"'{self.features.path}': '{name}' has no descriptors to retrieve by")
        return View(
            image_size=found.image_size or image_size(image, apply_exif_orientation=False),
            keypoints=found.keypoints,
            arrays={
                "descriptors": found.descriptors,
                "name": np.frombuffer(name.encode(), np.uint8),
                "rows": np.arange(len(found.keypoints), dtype=np.int64),  # in hloc's files
            },
        )

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        """Pixels alone do not name a photo."""
        return self.encode(image)

    def at_keypoints(self, view: View, rows: NDArray[np.int64]) -> View:
        """The view with only some of its keypoints."""
        arrays: dict[str, NDArray[Any]] = dict(view.arrays)
        for name in ("descriptors", "rows"):
            arrays[name] = arrays[name][rows]
        return View(image_size=view.image_size, keypoints=view.keypoints[rows], arrays=arrays)

    def match_views(self, view0: View, view1: View) -> Matches:
        """hloc's matches between two photos; none if hloc did not match them."""
        name0, name1 = (bytes(view.arrays["name"]).decode() for view in (view0, view1))
        for path in self.matches:
            found = read_matches(path, name0, name1)
            if found is not None:
                break
        else:
            return Matches.empty(indexed=True)
        places = [_places(v.arrays["rows"], found.rows[:, k]) for k, v in ((0, view0), (1, view1))]
        good = (places[0] >= 0) & (places[1] >= 0)
        indices0, indices1 = places[0][good], places[1][good]
        return Matches(
            keypoints0=view0.keypoints[indices0],
            keypoints1=view1.keypoints[indices1],
            scores=found.scores[good],
            indices0=indices0,
            indices1=indices1,
        )

    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        """hloc's descriptors at unit length."""
        descriptors = np.asarray(view.arrays["descriptors"], np.float32)
        return descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True).clip(min=1e-9)


def _state(path: Path) -> list[int]:
    status = path.stat()
    return [status.st_size, status.st_mtime_ns]


def _places(kept: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the wanted rows are among the kept ones, -1 for those that are not."""
    if len(kept) == 0:
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(kept, kind="stable")
    at = np.searchsorted(kept[order], wanted).clip(max=len(kept) - 1)
    return np.where(kept[order][at] == wanted, order[at], -1)
