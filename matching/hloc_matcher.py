"""hloc's feature and match files in place of a matcher: maps and poses from what hloc computed.

hloc extracts and matches whole data sets beforehand, query photos too, and keeps all in HDF5 files.
With these files the stages here go on from any point: a map from hloc's matches, poses of queries
from hloc's matches with that map. Files of its dense matchers serve too; they have no descriptors,
so that pairs and retrieval must be given as lists, which hloc needs as well.
"""

import hashlib
import logging
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

logger = logging.getLogger(__name__)

PREFIX = "hloc:"

_SAMPLES, _SAMPLE_BYTES = 64, 2**20  # of a file of any size so much is read to know it again


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
        # Photos come to the files later, queries for example: what a map was made of is known by
        # the keypoints of each photo (`match_views`), not by the contents of the whole file.
        kind = f"hloc, descriptors of {self.features.descriptor_dim}"
        self.fingerprint = hashlib.sha256(kind.encode()).hexdigest()
        self._known = frozenset(self.features.names)
        self._digests: dict[str, bytes] = {}
        self._files = {
            str(path): contents_hash(path) for path in (self.features.path, *self.matches)
        }
        if self.features.descriptor_dim == 0:
            logger.warning(
                "'%s' has no descriptors, as dense matchers' files: photos are not retrieved by "
                "their looks, give lists (pairs of the map, retrieval_pairs of the queries)",
                features,
            )

    @staticmethod
    def load(name: str) -> "HlocMatcher":
        """From ``hloc:FEATS.h5,MATCHES.h5[,MATCHES.h5...]``."""
        features, *matches = name.removeprefix(PREFIX).split(",")
        return HlocMatcher(features, *matches)

    def describe(self) -> dict[str, Any]:
        """Name, fingerprint, and a hash of each file: hloc may have written it anew."""
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
        descriptors = found.descriptors
        if descriptors is None:
            descriptors = np.zeros((len(found.keypoints), 0), np.float32)
        self._digests[name] = _digest(found.keypoints)
        return View(
            image_size=found.image_size or image_size(image, apply_exif_orientation=False),
            keypoints=found.keypoints,
            arrays={
                "descriptors": descriptors,
                "digest": np.frombuffer(self._digests[name], np.uint8),
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
        """hloc's matches between two photos; none if hloc did not match them.

        Raises:
            InputError: The file has other keypoints of a photo than the view: its rows mean others.
        """
        name0, name1 = (self._checked_name(view) for view in (view0, view1))
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

    def _checked_name(self, view: View) -> str:
        name = bytes(view.arrays["name"]).decode()
        if name not in self._digests:
            self._digests[name] = _digest(self.features.read(name).keypoints)
        if bytes(view.arrays["digest"]) != self._digests[name]:
            raise InputError(
                f"'{self.features.path}' has other keypoints of '{name}' than those that the map "
                "was made of: make the map again"
            )
        return name

    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        """hloc's descriptors at unit length, (N, D); (0, 0) of a dense matcher's file."""
        descriptors = np.asarray(view.arrays["descriptors"], np.float32)
        if descriptors.shape[1] == 0:
            return np.zeros((0, 0), np.float32)
        return descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True).clip(min=1e-9)


def contents_hash(path: Path) -> str:
    """Hash of a file's size and contents, of large ones of evenly spaced pieces.

    Times are left out: a copied file is the same.
    """
    size = path.stat().st_size
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for start in np.linspace(0, max(size - _SAMPLE_BYTES, 0), _SAMPLES).astype(int):
            file.seek(start)
            digest.update(file.read(_SAMPLE_BYTES))
            if size <= _SAMPLE_BYTES:
                break
    return digest.hexdigest()


def _digest(keypoints: NDArray[np.float32]) -> bytes:
    return hashlib.sha256(keypoints.tobytes()).digest()[:16]


def _places(kept: NDArray[np.int64], wanted: NDArray[np.int64]) -> NDArray[np.int64]:
    """Where the wanted rows are among the kept ones, -1 for those that are not."""
    if len(kept) == 0:
        return np.full(len(wanted), -1, np.int64)
    order = np.argsort(kept, kind="stable")
    at = np.searchsorted(kept[order], wanted).clip(max=len(kept) - 1)
    return np.where(kept[order][at] == wanted, order[at], -1)
