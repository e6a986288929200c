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

    def __post_init__(self) -> None:
        if not self.max_distance_px > 0:
            raise ValueError(f"max_distance_px must be > 0, got {self.max_distance_px}")


@dataclass(frozen=True, kw_only=True)
class Correspondences:
    """2D-3D matches of one query.

    Attributes:
        points2D: Pixels in the query, (M, 2) float64.
        points3D_ids: Map points, (M,) int64.
        images: Which retrieved photo the match came through first, (M,) int64.
    """

    points2D: NDArray[np.float64]
    points3D_ids: IntArray
    images: IntArray

    def __len__(self) -> int:
        return len(self.points3D_ids)

    def select(self, rows: NDArray[np.bool_] | IntArray) -> "Correspondences":
        """The given rows (indices or a mask)."""
        return Correspondences(
            points2D=self.points2D[rows],
            points3D_ids=self.points3D_ids[rows],
            images=self.images[rows],
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
        Each pair of a query pixel and a point once, in the order of the photos, best match first.
        A keypoint may have several points: separate tracks of one spot, or look-alikes.
    """
    points2D, ids, images = [], [], []
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
        good = point >= 0
        points2D.append(found.keypoints0[good].astype(np.float64))
        ids.append(point[good])
        images.append(np.full(int(good.sum()), row, dtype=np.int64))
    if not ids:
        return Correspondences(
            points2D=np.zeros((0, 2)), points3D_ids=np.zeros(0, np.int64), images=np.zeros(0, int)
        )
    every = Correspondences(
        points2D=np.concatenate(points2D),
        points3D_ids=np.concatenate(ids).astype(np.int64),
        images=np.concatenate(images),
    )
    keys = np.column_stack([every.points2D, every.points3D_ids.astype(np.float64)])
    _, first = np.unique(keys, axis=0, return_index=True)
    return every.select(np.sort(first))


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
