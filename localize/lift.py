"""From 2D-2D matches with map photos to 2D-3D matches with map points."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from matching.types import Matches

IntArray = NDArray[np.int64]


@dataclass(frozen=True, kw_only=True)
class LiftOptions:
    """Settings of `lift_matches`."""

    # a matched pixel that is no keypoint of the map takes the map point observed nearest to it
    max_distance_px: float = 2.0
    # free pixels that several map photos give for one map point are one observation, their mean
    # weighted by the scores, where they lie this close; 0 keeps them apart
    merge_distance_px: float = 3.0

    def __post_init__(self) -> None:
        if not self.max_distance_px > 0:
            raise ValueError(f"max_distance_px must be > 0, got {self.max_distance_px}")
        if not self.merge_distance_px >= 0:
            raise ValueError(f"merge_distance_px must be >= 0, got {self.merge_distance_px}")


@dataclass(frozen=True, kw_only=True)
class Correspondences:
    """2D-3D matches of one query.

    Attributes:
        points2D: Pixels in the query, (M, 2) float64.
        points3D_ids: Map points, (M,) int64.
        images: Which retrieved photo the match came through first, (M,) int64.
        scores: How sure the match is, (M,) float32: the sum over the photos it came through.
    """

    points2D: NDArray[np.float64]
    points3D_ids: IntArray
    images: IntArray
    scores: NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.points3D_ids)

    def select(self, rows: NDArray[np.bool_] | IntArray) -> "Correspondences":
        """The given rows (indices or a mask)."""
        return Correspondences(
            points2D=self.points2D[rows],
            points3D_ids=self.points3D_ids[rows],
            images=self.images[rows],
            scores=self.scores[rows],
        )

    @staticmethod
    def concatenate(parts: "Sequence[Correspondences]") -> "Correspondences":
        """Join sets of matches; of none, an empty set."""
        return Correspondences(
            points2D=np.concatenate([np.zeros((0, 2)), *(p.points2D for p in parts)]),
            points3D_ids=np.concatenate([np.zeros(0, np.int64), *(p.points3D_ids for p in parts)]),
            images=np.concatenate([np.zeros(0, np.int64), *(p.images for p in parts)]),
            scores=np.concatenate([np.zeros(0, np.float32), *(p.scores for p in parts)]),
        )


def lift_matches(
    matches: Sequence[Matches],
    map_keypoints: Sequence[NDArray[np.float32]],
    point3D_ids: Sequence[IntArray],
    options: LiftOptions,
) -> Correspondences:
    """Replace the map photo's end of every match by the 3D point seen there.

    Args:
        matches: Query (image 0) against each map photo (image 1).
        map_keypoints: Per map photo its keypoints, (N, 2).
        point3D_ids: Per map photo the point of each keypoint, (N,); -1 without one.
        options: Settings.

    Returns:
        Each pair of a query pixel and a point once, the best match first, as progressive sampling
        wants them. A keypoint may have several points: separate tracks of one spot, or look-alikes.
    """
    parts, free = [], False
    for row, (found, keypoints, points) in enumerate(
        zip(matches, map_keypoints, point3D_ids, strict=True)
    ):
        if found.indices1 is not None:
            point = points[found.indices1]
        else:
            seen = points >= 0
            nearest = nearest_within(found.keypoints1, keypoints[seen], options.max_distance_px)
            # row -1 of a miss is replaced, so its value does not matter
            point = np.where(nearest >= 0, np.append(points[seen], -1)[nearest], -1)
        # pixels that are no numbers would never lie near anything
        good = (point >= 0) & np.isfinite(found.keypoints0).all(1)
        free |= found.indices0 is None
        parts.append(
            Correspondences(
                points2D=found.keypoints0[good].astype(np.float64),
                points3D_ids=point[good].astype(np.int64),
                images=np.full(int(good.sum()), row, dtype=np.int64),
                scores=found.scores[good],
            )
        )
    return merged_matches(
        Correspondences.concatenate(parts), options.merge_distance_px if free else 0.0
    )


def merged_matches(matches: Correspondences, distance_px: float) -> Correspondences:
    """Join matches of one map point whose pixels lie close together.

    A dense matcher finds the same point of a photo again through every map photo, each time a
    little elsewhere. Kept apart, these would count as independent evidence, which they are not;
    their mean is more exact than each.

    Args:
        matches: In any order; of a point, the pixel of the best match gathers those around it.
        distance_px: Largest distance to that pixel; 0 joins equal pixels only.

    Returns:
        The joined matches, best first: pixels are means weighted by the scores, scores are sums.
    """
    groups = _groups(matches, distance_px)
    count = int(groups.max(initial=-1)) + 1
    weights = np.maximum(matches.scores.astype(np.float64), 1e-12)
    total = np.bincount(groups, weights, count)
    means = [np.bincount(groups, weights * matches.points2D[:, k], count) / total for k in (0, 1)]
    first = np.zeros(count, np.int64)
    first[groups[::-1]] = np.arange(len(matches))[::-1]  # of a group the last one written stays
    alone = np.bincount(groups, minlength=count) == 1
    points2D = np.column_stack(means)
    points2D[alone] = matches.points2D[first[alone]]  # not a bit of a pixel changes
    if distance_px == 0:
        points2D = matches.points2D[first]
    joined = Correspondences(
        points2D=points2D,
        points3D_ids=matches.points3D_ids[first],
        images=matches.images[first],
        scores=np.bincount(groups, matches.scores, count).astype(np.float32),
    )
    return joined.select(np.lexsort((first, -joined.scores)))


def _groups(matches: Correspondences, distance_px: float) -> IntArray:
    """A number per match from 0 on; equal numbers are one observation."""
    groups = np.full(len(matches), -1, dtype=np.int64)
    if distance_px == 0:
        x, y = matches.points2D.T
        row = np.lexsort((y, x, matches.points3D_ids))
        columns = (matches.points3D_ids[row], x[row], y[row])
        fresh = np.any([np.diff(column, prepend=np.nan) != 0 for column in columns], axis=0)
        groups[row] = np.cumsum(fresh) - 1
        return groups
    # every round, the best match that is left of every point gathers those around it; there are
    # about as many rounds as photos
    row = np.lexsort((-matches.scores, matches.points3D_ids))
    point = matches.points3D_ids[row]
    x, y = matches.points2D[row].T
    count = 0
    while len(row):
        fresh = np.ones(len(row), np.bool_)
        fresh[1:] = point[1:] != point[:-1]
        starts, number = np.flatnonzero(fresh), np.cumsum(fresh) - 1
        leader = starts[number]
        offset_x, offset_y = x - x[leader], y - y[leader]
        near = offset_x * offset_x + offset_y * offset_y <= distance_px**2
        near[starts] = True  # also where it is NaN
        groups[row[near]] = number[near] + count
        count += len(starts)
        left = np.flatnonzero(~near)
        row, point, x, y = row[left], point[left], x[left], y[left]
    return groups


def nearest_within(
    queries: NDArray[np.float32], keypoints: NDArray[np.float32], max_distance_px: float
) -> IntArray:
    """For each query pixel the row of the nearest keypoint, -1 if none is near enough.

    Args:
        queries: (M, 2).
        keypoints: (N, 2).
        max_distance_px: Largest distance, inclusive.

    Returns:
        (M,); among equally near ones any.
    """
    rows = np.full(len(queries), -1, dtype=np.int64)
    order = np.argsort(keypoints[:, 0], kind="stable")
    targets = keypoints[order].astype(np.float64)
    pixels = queries.astype(np.float64)
    # keypoints in the vertical strip around each query: a few dozen of thousands
    first = np.searchsorted(targets[:, 0], pixels[:, 0] - max_distance_px, side="left")
    last = np.searchsorted(targets[:, 0], pixels[:, 0] + max_distance_px, side="right")
    best = np.full(len(queries), max_distance_px**2)
    for step in range(int((last - first).max(initial=0))):
        active = np.flatnonzero(first + step < last)
        candidate = first[active] + step
        squared = ((pixels[active] - targets[candidate]) ** 2).sum(1)
        nearer = squared <= best[active]
        best[active[nearer]] = squared[nearer]
        rows[active[nearer]] = order[candidate[nearer]]
    return rows
