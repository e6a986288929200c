"""Subpixel refinement: keypoints move to where all the matches of their tracks agree best.

A match that was measured between pixels is attached to the nearest keypoints, which lie a little
off. Every such match says how far: if keypoint i of one photo lies at its place plus a shift, then
the keypoint j matched to it should lie at its own place plus that shift plus the measured gap. The
shifts that agree best with all matches of a track, and are no larger than that takes, are the
solution of a sparse least-squares problem, as in motion averaging; wrong matches lose their weight
as in iteratively reweighted least squares. (Dusmanu et al., "Multi-view optimization of local
feature geometry", ECCV 2020, solve the same with flow fields measured around the keypoints.)
"""

import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.tracks import RowMatches

_ROUNDS = 30
_PRIOR = 0.02  # weight of staying, relative to that of one match: fixes what matches leave open
_CHUNK = 1 << 22  # matches worked on at a time


@dataclass(frozen=True, kw_only=True)
class MeasuredPair:
    """Matches of two photos that agree with their geometry.

    Attributes:
        names: The two photos.
        rows: Their keypoints, (M, 2) int64.
        gaps: How far the second keypoint lies off the place where the first one was found, or the
            first off the place of the second, (M, 2) float32 pixels of the second photo.
    """

    names: tuple[str, str]
    rows: NDArray[np.int64]
    gaps: NDArray[np.float32]


def refine_keypoints(
    keypoints: Mapping[str, NDArray[np.float32]],
    pairs: Iterable[MeasuredPair],
    *,
    pixel_px: Mapping[str, float],
    num_fixed: Mapping[str, int],
    max_shift: float = 1.5,
    scratch: Path | None = None,
) -> dict[str, NDArray[np.float32]]:
    """Move keypoints so that their matches agree.

    Args:
        keypoints: Photo to its keypoints, (N, 2) float32.
        pairs: Matches between them.
        pixel_px: Photo to the size of the pixels that the matcher saw, in its own pixels.
        num_fixed: Photo to how many of its first keypoints stay where they are; 0 if missing.
        max_shift: No keypoint moves farther along x or y, in pixels that the matcher saw.
        scratch: A folder for the matches, which do not fit into memory on large maps.

    Returns:
        The keypoints of every photo, in the same order.
    """
    names = list(keypoints)
    counts = np.array([len(keypoints[name]) for name in names], np.int64)
    starts = dict(zip(names, (np.cumsum(counts) - counts).tolist(), strict=True))
    scales = np.repeat([pixel_px.get(name, 1.0) for name in names], counts).astype(np.float32)
    graph = _Graph.collect(pairs, starts, scratch)
    movable = np.ones(len(scales), bool)
    for name, fixed in num_fixed.items():
        movable[starts[name] : starts[name] + fixed] = False
    # from here on in pixels that the matcher saw
    shifts = np.zeros((len(scales), 2), np.float32)
    for _ in range(_ROUNDS):
        total = np.zeros((len(scales), 2))
        weights = np.full(len(scales), _PRIOR)
        for start in range(0, len(graph.gaps), _CHUNK):
            first, second = graph.nodes[start : start + _CHUNK].T
            gap = graph.gaps[start : start + _CHUNK] / scales[second, None]
            residual = shifts[second] - shifts[first] - gap
            # Cauchy's weight at a scale of one pixel
            weight = 1 / (1 + (residual**2).sum(1))
            for node, target in (
                (first, shifts[second] - gap),
                (second, shifts[first] + gap),
            ):
                weights += np.bincount(node, weight, len(weights))
                for axis in (0, 1):
                    total[:, axis] += np.bincount(node, weight * target[:, axis], len(weights))
        # half a step: with whole ones the two ends of a match would swap their places for ever
        shifts = (shifts + total / weights[:, None]).astype(np.float32) / 2
        shifts[~movable] = 0
        shifts = shifts.clip(-max_shift, max_shift)
    moved = shifts * scales[:, None]
    return {
        name: (keypoints[name] + moved[start : start + len(keypoints[name])]).astype(np.float32)
        for name, start in starts.items()
    }


@dataclass(frozen=True)
class _Graph:
    """All matches: numbers over all keypoints of both ends, and gaps; in a file on large maps."""

    nodes: NDArray[np.int32]  # (M, 2)
    gaps: NDArray[np.float32]  # (M, 2)

    @staticmethod
    def collect(
        pairs: Iterable[MeasuredPair], starts: Mapping[str, int], scratch: Path | None
    ) -> "_Graph":
        """Write the matches one pair after the other, into files without a name."""
        with (
            tempfile.TemporaryFile(dir=scratch) as nodes,
            tempfile.TemporaryFile(dir=scratch) as gaps,
        ):
            count = 0
            for pair in pairs:
                first = np.array([starts[name] for name in pair.names])
                nodes.write((pair.rows + first).astype(np.int32).tobytes())
                gaps.write(pair.gaps.astype(np.float32).tobytes())
                count += len(pair.gaps)
            if not count:
                return _Graph(np.zeros((0, 2), np.int32), np.zeros((0, 2), np.float32))
            nodes.flush()
            gaps.flush()
            return _Graph(
                np.memmap(nodes, np.int32, mode="r", shape=(count, 2)),
                np.memmap(gaps, np.float32, mode="r", shape=(count, 2)),
            )


def refine_database(
    path: Path,
    matches: RowMatches,
    *,
    pixel_px: Mapping[str, float],
    num_fixed: Mapping[str, int],
) -> None:
    """Move the keypoints of a database so that its verified matches agree.

    Args:
        path: The database, its pairs verified.
        matches: The matches that were written into it.
        pixel_px: See `refine_keypoints`.
        num_fixed: See `refine_keypoints`.
    """
    if not matches.any_free:
        return  # every match ends at keypoints: there is nothing measured between them
    with pycolmap.Database.open(path) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        keypoints = {name: _keypoints(database, number) for name, number in ids.items()}
        refined = refine_keypoints(
            keypoints,
            _verified(database, ids, matches),
            pixel_px=pixel_px,
            num_fixed={n: len(keypoints[n]) for n in ids if n not in pixel_px} | dict(num_fixed),
            scratch=path.parent,
        )
        with pycolmap.DatabaseTransaction(database):
            for name, points in refined.items():
                if not np.array_equal(points, keypoints[name]):
                    database.update_keypoints(ids[name], points)


def database_keypoints(path: Path, names: Iterable[str]) -> dict[str, NDArray[np.float32]]:
    """Photo to its keypoints (N, 2) in a database, of some of its photos."""
    with pycolmap.Database.open(path) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        return {name: _keypoints(database, ids[name]) for name in names}


def _keypoints(database: pycolmap.Database, image_id: int) -> NDArray[np.float32]:
    stored = np.asarray(database.read_keypoints(image_id), np.float32)
    return stored.reshape(len(stored), -1)[:, :2] if len(stored) else np.zeros((0, 2), np.float32)


def _verified(
    database: pycolmap.Database, ids: Mapping[str, int], matches: RowMatches
) -> Iterator[MeasuredPair]:
    """Every measured match of the rows that agree with the geometry of their pair."""
    for names in matches:
        first, second = (ids[name] for name in names)
        if not database.exists_two_view_geometry(first, second):
            continue
        inliers = database.read_two_view_geometry(first, second).inlier_matches.astype(np.int64)
        rows, gaps = matches.measured(names)
        good = np.isin(_pair_number(rows), _pair_number(inliers))
        yield MeasuredPair(names=names, rows=rows[good], gaps=gaps[good])


def _pair_number(rows: NDArray[np.int64]) -> NDArray[np.int64]:
    numbers: NDArray[np.int64] = rows[:, 0] * 2**32 + rows[:, 1]
    return numbers
