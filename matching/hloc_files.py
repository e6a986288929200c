"""hloc's HDF5 files: local features, global features, matches.

hloc's pixels have the centre of the top-left one at (0, 0); here, as everywhere in groundloc and
COLMAP, it is at (0.5, 0.5). Readers add the half, writers take it off.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import h5py
import numpy as np
from numpy.typing import NDArray

from matching.errors import InputError
from matching.files import PathLike, atomic_file, existing_file

MAX_KEYPOINTS = 2**15 - 1  # matches are int16 rows


@dataclass(frozen=True, kw_only=True)
class LocalFeatures:
    """Local features of one photo.

    Attributes:
        image_size: (width, height) of the photo; None in files of dense matchers that leave it out.
        keypoints: Pixels, (N, 2) float32, centre of the top-left one at (0.5, 0.5).
        descriptors: (N, D), or None.
        scores: (N,) float32, or None.
        uncertainty_px: Noise of the detector, hloc's attribute of the keypoints.
    """

    image_size: tuple[int, int] | None
    keypoints: NDArray[np.float32]
    descriptors: NDArray[np.float32] | None = None
    scores: NDArray[np.float32] | None = None
    uncertainty_px: float = 1.0


@dataclass(frozen=True, kw_only=True)
class IndexMatches:
    """Matches of a pair as rows of the keypoints.

    Attributes:
        rows: (M, 2) int64, columns image 0 and image 1; best first.
        scores: (M,) float32.
    """

    rows: NDArray[np.int64]
    scores: NDArray[np.float32]


class FeatureReader:
    """An ``feats-*.h5`` file, opened for reading.

    Args:
        path: The file.

    Attributes:
        names: The photos.
        descriptor_dim: Length of their descriptors; 0 in files of dense matchers, which have none.

    Raises:
        InputError: No such file, or no HDF5.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = existing_file(path, "hloc feature file")
        with _opened(self.path) as file:
            self.names = tuple(sorted(_image_groups(file, ("keypoints",))))
            if not self.names:
                raise InputError(f"'{path}' holds no group with keypoints: no feature file of hloc")
            # dense matchers write places only
            group = file[self.names[0]]
            self.descriptor_dim = len(group["descriptors"]) if "descriptors" in group else 0

    def read(self, name: str) -> LocalFeatures:
        """Features of a photo by its path relative to the image folder.

        Raises:
            InputError: The file has none of it, or malformed ones.
        """
        with _opened(self.path) as file:
            if name not in file or "keypoints" not in file[name]:
                raise InputError(
                    f"'{self.path}' has no features of '{name}': it names '{self.names[0]}'"
                )
            group = file[name]
            points = group["keypoints"]
            keypoints = np.asarray(points[()], np.float64)
            count = len(keypoints)
            if keypoints.ndim != 2 or keypoints.shape[1] != 2 or not np.isfinite(keypoints).all():
                raise InputError(f"'{self.path}': keypoints of '{name}' are no (N, 2) numbers")
            size = group["image_size"][()].tolist() if "image_size" in group else None
            descriptors = None
            if "descriptors" in group:
                descriptors = np.asarray(group["descriptors"][()], np.float32).T  # (D, N) there
                if len(descriptors) != count:
                    raise InputError(
                        f"'{self.path}': '{name}' has {count} keypoints and "
                        f"{len(descriptors)} descriptors"
                    )
            # dense matchers call it by the singular
            found = next((group[key][()] for key in ("scores", "score") if key in group), None)
            return LocalFeatures(
                image_size=None if size is None else (int(size[0]), int(size[1])),
                keypoints=(keypoints + 0.5).astype(np.float32),
                descriptors=descriptors,
                scores=None if found is None else np.asarray(found, np.float32),
                uncertainty_px=float(points.attrs.get("uncertainty", 1.0)),
            )


def write_features(path: PathLike, features: Iterator[tuple[str, LocalFeatures]]) -> int:
    """Write a feature file of hloc, in float32: its half precision rounds to whole pixels.

    Args:
        path: The file, replaced when complete.
        features: Of each photo by name.

    Returns:
        How many photos it holds.

    Raises:
        InputError: A photo has more keypoints than hloc's matches can count.
    """
    count = 0
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        for name, found in features:
            if len(found.keypoints) > MAX_KEYPOINTS:
                raise InputError(
                    f"'{name}' has {len(found.keypoints)} keypoints, but hloc's matches number "
                    f"{MAX_KEYPOINTS} at most"
                )
            group = file.create_group(name)
            points = group.create_dataset(
                "keypoints", data=(found.keypoints.astype(np.float64) - 0.5).astype(np.float32)
            )
            points.attrs["uncertainty"] = found.uncertainty_px
            if found.image_size is not None:
                group["image_size"] = np.array(found.image_size, np.int64)
            if found.descriptors is not None:
                group["descriptors"] = found.descriptors.T.astype(np.float32)
            scores = found.scores
            group["scores"] = (
                np.ones(len(found.keypoints), np.float32) if scores is None else scores
            )
            count += 1
    return count


def read_global_features(path: PathLike) -> tuple[list[str], NDArray[np.float32]]:
    """Global descriptors of all photos of a ``global-feats-*.h5`` file.

    Returns:
        Names, sorted, and descriptors (N, D); photos are ranked by the dot product.

    Raises:
        InputError: No such file, none in it, or descriptors of several lengths.
    """
    file_path = existing_file(path, "hloc global feature file")
    with _opened(file_path) as file:
        names = sorted(_image_groups(file, ("global_descriptor",)))
        if not names:
            raise InputError(f"'{path}' holds no global_descriptor")
        rows = [np.asarray(file[name]["global_descriptor"][()], np.float32) for name in names]
    if len({row.shape for row in rows}) != 1 or rows[0].ndim != 1:
        raise InputError(f"'{path}' holds global descriptors of several shapes")
    return names, np.stack(rows)


def write_global_features(
    path: PathLike,
    descriptors: Mapping[str, NDArray[np.float32]],
    image_sizes: Mapping[str, tuple[int, int]],
) -> None:
    """Write a global feature file of hloc.

    Args:
        path: The file, replaced when complete.
        descriptors: Of each photo by name, (D,).
        image_sizes: (width, height) of each of them.
    """
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        for name, descriptor in descriptors.items():
            group = file.create_group(name)
            group["global_descriptor"] = np.asarray(descriptor, np.float32)
            group["image_size"] = np.array(image_sizes[name], np.int64)


def rank(
    queries: Mapping[str, NDArray[np.float32]],
    database: Mapping[str, NDArray[np.float32]],
    top_k: int,
) -> dict[str, list[str]]:
    """The map photos with the largest dot products, best first, for each query."""
    names = list(database)
    matrix = np.stack([database[name] for name in names])
    found = {}
    for query, descriptor in queries.items():
        order = np.argsort(-(matrix @ descriptor), kind="stable")[:top_k]
        found[query] = [names[i] for i in order]
    return found


def read_matches(path: PathLike, name0: str, name1: str) -> IndexMatches | None:
    """Matches of a pair in either order, from files of any age; None if the pair is not there.

    Raises:
        InputError: No such file, or malformed matches.
    """
    file_path = existing_file(path, "hloc match file")
    with _opened(file_path) as file:
        for first, second, swapped in ((name0, name1, False), (name1, name0, True)):
            for group_name in _pair_groups(first, second):
                if group_name in file:
                    found = _matches_of(file[group_name], f"'{path}': '{group_name}'")
                    if not swapped:
                        return found
                    return IndexMatches(rows=found.rows[:, ::-1], scores=found.scores)
    return None


def write_matches(
    path: PathLike,
    matches: Iterator[tuple[str, str, IndexMatches]],
    num_keypoints: Mapping[str, int],
) -> int:
    """Write a match file of hloc.

    Args:
        path: The file, replaced when complete.
        matches: Names of both photos and their matches, pair by pair; each row of image 0 at most
            once (the first counts).
        num_keypoints: Of every photo: hloc has one entry per keypoint of image 0.

    Returns:
        How many pairs it holds.

    Raises:
        InputError: More keypoints than 16 bits can number.
    """
    count = 0
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        for name0, name1, found in matches:
            for name in (name0, name1):
                if num_keypoints[name] > MAX_KEYPOINTS:
                    raise InputError(
                        f"'{name}' has {num_keypoints[name]} keypoints, but hloc's matches number "
                        f"{MAX_KEYPOINTS} at most"
                    )
            rows = np.full(num_keypoints[name0], -1, np.int16)
            scores = np.zeros(num_keypoints[name0], np.float16)
            backwards = found.rows[::-1]  # so that the best of a row is written last
            rows[backwards[:, 0]] = backwards[:, 1]
            scores[backwards[:, 0]] = found.scores[::-1]
            group = file.create_group(next(iter(_pair_groups(name0, name1))))
            group["matches0"], group["matching_scores0"] = rows, scores
            count += 1
    return count


def _pair_groups(name0: str, name1: str) -> Sequence[str]:
    """Where a pair may be: today's nested groups, and the one level of older files."""
    first, second = (name.replace("/", "-") for name in (name0, name1))
    return f"{first}/{second}", f"{first}_{second}"


def _matches_of(group: h5py.Group, where: str) -> IndexMatches:
    if "matches0" not in group:
        raise InputError(f"{where} has no matches0")
    targets = np.asarray(group["matches0"][()])
    if targets.ndim != 1 or not np.issubdtype(targets.dtype, np.integer):
        raise InputError(f"{where}: matches0 is no list of whole numbers")
    rows0 = np.flatnonzero(targets >= 0)
    scores = np.ones(len(targets), np.float32)
    if "matching_scores0" in group:
        scores = np.asarray(group["matching_scores0"][()], np.float32)
        if len(scores) != len(targets):
            raise InputError(f"{where} has {len(targets)} matches and {len(scores)} scores")
    order = np.argsort(-scores[rows0], kind="stable")
    rows = np.stack([rows0, targets[rows0].astype(np.int64)], axis=1)[order]
    return IndexMatches(rows=rows, scores=scores[rows0][order])


@contextmanager
def _opened(path: PathLike) -> Iterator[h5py.File]:
    try:
        # these files are read by several processes at once, and locks fail on network disks
        file = h5py.File(path, "r", locking=False)
    except OSError as error:
        raise InputError(f"'{path}' is no readable HDF5 file: {error}") from error
    with file:
        yield file


def _image_groups(group: h5py.Group, marks: Sequence[str], prefix: str = "") -> Iterator[str]:
    """Names of the photos below a group: slashes in a name make nested groups."""
    if prefix and any(mark in group for mark in marks):
        yield prefix
        return
    for key, child in group.items():
        if isinstance(child, h5py.Group):
            yield from _image_groups(child, marks, f"{prefix}/{key}" if prefix else key)
