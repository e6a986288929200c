"""Matches of many pairs -> keypoints that pairs share.

Keypoints chosen once per photo make matches of different pairs meet in them. A dense matcher also
gives free pixels, which differ from pair to pair by a little: those near a keypoint are that
keypoint, and of the others close ones become one, or there would be no track longer than two.
"""

import tempfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mapping.pairs import Pair
from matching.types import Matches

_NO_SCALES: Mapping[str, float] = {}


@dataclass(frozen=True, kw_only=True)
class SharedKeypoints:
    """Keypoints per photo and matches as rows of them.

    Attributes:
        keypoints: Photo to (N, 2) float32 pixels, top-left pixel centre at (0.5, 0.5).
        matches: Pair to (M, 2) int64 rows in the keypoints of its first and second photo; both
            columns without repetitions, best match first. Computed whenever they are asked for.
    """

    keypoints: dict[str, NDArray[np.float32]]
    matches: "RowMatches"


class RowMatches(Mapping[Pair, NDArray[np.int64]]):
    """Matches as rows of the shared keypoints; what `share_keypoints` returns.

    Args:
        matches: What the matcher found.
        min_score: Matches with a lower score are left out.
        starts: (pair, side) to where the rows of its free ends start in ``rows``.
        rows: Keypoint of every free end.
        keypoints: Shared keypoints per photo.
    """

    def __init__(
        self,
        matches: Mapping[Pair, Matches],
        min_score: float,
        starts: Mapping[tuple[Pair, int], int],
        rows: NDArray[np.int32],
        keypoints: Mapping[str, NDArray[np.float32]],
    ) -> None:
        self._matches = matches
        self._min_score = min_score
        self._starts = starts
        self._rows = rows
        self._keypoints = keypoints

    def __getitem__(self, pair: Pair) -> NDArray[np.int64]:
        return _one_to_one(self.measured(pair)[0])

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._matches)

    def __len__(self) -> int:
        return len(self._matches)

    @property
    def any_free(self) -> bool:
        """Whether any match ended beside keypoints."""
        return len(self._rows) > 0

    def measured(self, pair: Pair) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
        """Every match of a pair, repetitions included, and where it really lies.

        Returns:
            Rows in the keypoints of both photos, (M, 2); and how far from its own place, in
            pixels of the second photo, the second keypoint would have to lie to match the first
            one at its place, (M, 2) x, y.
        """
        found = _sure(self._matches[pair], self._min_score)
        rows = np.empty((len(found), 2), np.int64)
        gaps = []
        for side, name in enumerate(pair):
            indices, pixels = _side(found, side)
            free = indices < 0
            rows[:, side] = indices
            if free.any():
                start = self._starts[pair, side]
                rows[free, side] = self._rows[start : start + int(free.sum())]
            places = self._keypoints[name][rows[:, side]]
            gaps.append(np.where(free[:, None], pixels - places, 0).astype(np.float32))
        return rows, gaps[1] - gaps[0]


def share_keypoints(
    keypoints: Mapping[str, NDArray[np.float32]],
    matches: Mapping[Pair, Matches],
    *,
    merge_radius_px: float,
    min_score: float = 0.0,
    pixel_px: Mapping[str, float] = _NO_SCALES,
    scratch: Path | None = None,
) -> SharedKeypoints:
    """Give every match a row in the keypoints of both its photos.

    Args:
        keypoints: The matcher's own keypoints per photo, (N, 2); (0, 2) where it has none. They
            keep their rows.
        matches: Matches per pair of photos, by rows of ``keypoints`` or as free pixels.
        merge_radius_px: Free pixels of a photo within this distance of a keypoint become that
            keypoint, and of each other one; in pixels of the size ``pixel_px``.
        min_score: Matches with a lower score are left out.
        pixel_px: Photo to the size of the pixels that the matcher saw; 1 where it is missing.
        scratch: A folder for what does not fit into memory on large maps.
    """
    free: dict[str, list[tuple[Pair, int]]] = {}
    starts: dict[tuple[Pair, int], int] = {}
    count = 0
    for pair, found in matches.items():
        found = _sure(found, min_score)
        for side, name in enumerate(pair):
            number = int((_side(found, side)[0] < 0).sum())
            if number:
                free.setdefault(name, []).append((pair, side))
                starts[pair, side] = count
                count += number
    all_rows = _array(count, scratch)
    shared = {name: np.asarray(points, np.float32) for name, points in keypoints.items()}
    for name, parts in free.items():
        pixels, scores = [], []
        for pair, side in parts:
            found = _sure(matches[pair], min_score)
            indices, places = _side(found, side)
            pixels.append(places[indices < 0])
            scores.append(found.scores[indices < 0])
        radius = merge_radius_px * pixel_px.get(name, 1.0)
        shared[name], rows = merge_pixels(
            shared[name], np.concatenate(pixels), np.concatenate(scores), radius
        )
        done = 0
        for (pair, side), part in zip(parts, pixels, strict=True):
            start = starts[pair, side]
            all_rows[start : start + len(part)] = rows[done : done + len(part)]
            done += len(part)
    return SharedKeypoints(
        keypoints=shared, matches=RowMatches(matches, min_score, starts, all_rows, shared)
    )


def _sure(found: Matches, min_score: float) -> Matches:
    """The matches that are sure enough; without those whose free pixels are no numbers."""
    good = found.scores >= min_score
    for side in (0, 1):
        indices, pixels = _side(found, side)
        # ends that are rows of keypoints need no pixels: `StoredMatches` leaves theirs out
        good &= (indices >= 0) | np.isfinite(pixels).all(1)
    return found.select(good)


def _side(found: Matches, side: int) -> tuple[NDArray[np.int64], NDArray[np.float32]]:
    """Rows (M,) of one side's keypoints, -1 for free pixels, and its pixels (M, 2)."""
    indices = found.indices1 if side else found.indices0
    pixels = found.keypoints1 if side else found.keypoints0
    return np.full(len(found), -1, np.int64) if indices is None else indices, pixels


def _array(count: int, scratch: Path | None) -> NDArray[np.int32]:
    """Room for numbers, in a file without a name that goes when the array goes."""
    if scratch is None or not count:
        return np.empty(count, np.int32)
    with tempfile.TemporaryFile(dir=scratch) as file:
        return np.memmap(file, np.int32, mode="w+", shape=(count,))


def merge_pixels(
    fixed: NDArray[np.float32],
    pixels: NDArray[np.float32],
    scores: NDArray[np.float32],
    radius_px: float,
) -> tuple[NDArray[np.float32], NDArray[np.int64]]:
    """Greedy clustering: the best pixel becomes a keypoint and takes all others within a radius.

    Every pixel goes to the nearest keypoint of the round in which it first lies within
    ``radius_px`` of one; fixed keypoints come before all. Works on the cells of a grid as wide
    as the radius, so only the 3x3 cells around a pixel matter.

    Args:
        fixed: Keypoints that exist already, (F, 2).
        pixels: Pixels to place, (P, 2).
        scores: Their scores, (P,).
        radius_px: Largest distance of a pixel to its keypoint.

    Returns:
        Keypoints (N, 2), the fixed ones first, and the row of each pixel, (P,) int64.

    Raises:
        ValueError: Pixels that are no numbers: they lie near nothing, not even themselves.
    """
    if not np.isfinite(pixels).all():
        raise ValueError("pixels must be finite")
    rows = np.full(len(pixels), -1, np.int64)
    keypoints = [np.asarray(fixed, np.float32).reshape(-1, 2)]
    if len(fixed):
        rows = _nearest_within(keypoints[0], pixels, radius_px)
    count = len(fixed)
    order = np.argsort(-scores, kind="stable")
    rank = np.empty(len(pixels), np.int64)
    rank[order] = np.arange(len(pixels))
    while True:
        left = np.flatnonzero(rows < 0)
        if len(left) == 0:
            break
        chosen = left[_local_best(pixels[left], rank[left], radius_px)]
        chosen = chosen[np.argsort(rank[chosen])]
        found = _nearest_within(pixels[chosen], pixels[left], radius_px)
        rows[left] = np.where(found >= 0, found + count, -1)
        keypoints.append(pixels[chosen].astype(np.float32))
        count += len(chosen)
    return np.concatenate(keypoints), rows


class _Grid:
    """Points sorted by the cells of a square grid, to look at the 3x3 cells around a pixel."""

    def __init__(self, points: NDArray[np.float32], cell_px: float) -> None:
        self.cell_px = cell_px
        cells = np.floor(points / cell_px).astype(np.int64)
        self.keys, self.order = self._sorted(self._key(cells))

    @staticmethod
    def _key(cells: NDArray[np.int64]) -> NDArray[np.int64]:
        return (cells[:, 0] + 2**30) * 2**31 + (cells[:, 1] + 2**30)

    @staticmethod
    def _sorted(keys: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        order = np.argsort(keys, kind="stable")
        return keys[order], order

    def neighbours(
        self, points: NDArray[np.float32]
    ) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """Indices (into ``points``, into the grid's points) of all pairs in adjacent cells."""
        cells = np.floor(points / self.cell_px).astype(np.int64)
        queries, members = [], []
        for dx in (-1, 0, 1):
            for dy in (-1, 0, 1):
                keys = self._key(cells + np.array([dx, dy]))
                first = np.searchsorted(self.keys, keys, side="left")
                counts = np.searchsorted(self.keys, keys, side="right") - first
                query = np.repeat(np.arange(len(points)), counts)
                within = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
                queries.append(query)
                members.append(self.order[np.repeat(first, counts) + within])
        return np.concatenate(queries), np.concatenate(members)


def _local_best(
    pixels: NDArray[np.float32], rank: NDArray[np.int64], radius_px: float
) -> NDArray[np.bool_]:
    """Which pixels have no better-ranked one within the radius; always includes the best."""
    queries, members = _Grid(pixels, radius_px).neighbours(pixels)
    close = np.linalg.norm(pixels[queries] - pixels[members], axis=1) <= radius_px
    beaten = close & (rank[members] < rank[queries])
    best = np.ones(len(pixels), bool)
    best[queries[beaten]] = False
    return best


def _nearest_within(
    keypoints: NDArray[np.float32], pixels: NDArray[np.float32], radius_px: float
) -> NDArray[np.int64]:
    """Row of the nearest keypoint of each pixel, (P,); -1 if none within the radius."""
    queries, members = _Grid(keypoints, radius_px).neighbours(pixels)
    distances = np.linalg.norm(pixels[queries] - keypoints[members], axis=1)
    close = distances <= radius_px
    queries, members, distances = queries[close], members[close], distances[close]
    order = np.lexsort((members, distances, queries))  # nearest first, then the lower row
    queries, members = queries[order], members[order]
    rows = np.full(len(pixels), -1, np.int64)
    first = np.ones(len(queries), bool)
    first[1:] = queries[1:] != queries[:-1]
    rows[queries[first]] = members[first]
    return rows


def _one_to_one(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of best-first matches (M, 2), the best of each row of image 0, then of image 1."""
    for column in (0, 1):
        _, first = np.unique(rows[:, column], return_index=True)
        rows = rows[np.sort(first)]
    return rows
