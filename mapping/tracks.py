"""Matches of many pairs -> keypoints that pairs share.

Detectors give every photo fixed keypoints, so that matches of different pairs meet in them. A
dense matcher gives free pixels that differ from pair to pair by a little: close ones are merged
to one keypoint, or there would be no track longer than two photos.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from mapping.pairs import Pair
from matching.types import Matches


@dataclass(frozen=True, kw_only=True)
class SharedKeypoints:
    """Keypoints per photo and matches as rows of them.

    Attributes:
        keypoints: Photo to (N, 2) float32 pixels, top-left pixel centre at (0.5, 0.5).
        matches: Pair to (M, 2) int64 rows in the keypoints of its first and second photo; both
            columns without repetitions, best match first.
    """

    keypoints: dict[str, NDArray[np.float32]]
    matches: dict[Pair, NDArray[np.int64]]


def share_keypoints(
    keypoints: Mapping[str, NDArray[np.float32]],
    matches: Mapping[Pair, Matches],
    *,
    merge_radius_px: float,
    min_score: float = 0.0,
) -> SharedKeypoints:
    """Give every match a row in the keypoints of both its photos.

    Args:
        keypoints: The matcher's own keypoints per photo, (N, 2); (0, 2) where it has none. They
            keep their rows.
        matches: Matches per pair of photos, by rows of ``keypoints`` or as free pixels.
        merge_radius_px: Free pixels of a photo within this distance become one keypoint.
        min_score: Matches with a lower score are left out.
    """
    kept = {pair: found.select(found.scores >= min_score) for pair, found in matches.items()}
    free = _collect_free_pixels(kept)
    shared = {name: np.asarray(points, np.float32) for name, points in keypoints.items()}
    rows_of: dict[tuple[Pair, int], NDArray[np.int64]] = {}
    for name, parts in free.items():
        pixels = np.concatenate([kept[pair].keypoints1 if side else kept[pair].keypoints0
                                 for pair, side in parts])  # fmt: skip
        scores = np.concatenate([kept[pair].scores for pair, _ in parts])
        shared[name], rows = merge_pixels(shared[name], pixels, scores, merge_radius_px)
        start = 0
        for pair, side in parts:
            rows_of[pair, side] = rows[start : start + len(kept[pair])]
            start += len(kept[pair])
    result = {}
    for pair, found in kept.items():
        rows0 = rows_of[pair, 0] if found.indices0 is None else found.indices0
        rows1 = rows_of[pair, 1] if found.indices1 is None else found.indices1
        result[pair] = _one_to_one(np.stack([rows0, rows1], axis=1).astype(np.int64))
    return SharedKeypoints(keypoints=shared, matches=result)


def _collect_free_pixels(matches: Mapping[Pair, Matches]) -> dict[str, list[tuple[Pair, int]]]:
    """Photo to the (pair, side) in which it is matched by free pixels."""
    free: dict[str, list[tuple[Pair, int]]] = {}
    for pair, found in matches.items():
        if found.indices0 is None:
            free.setdefault(pair[0], []).append((pair, 0))
        if found.indices1 is None:
            free.setdefault(pair[1], []).append((pair, 1))
    return free


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
    """
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
