"""The plain way to match descriptor maps: all similarities at once, in float64.

Everything in `matching.reciprocal` is tested against these few lines. They hold the whole N0 x N1
matrix, so they are for small inputs and for tests only.
"""

import numpy as np
from numpy.typing import ArrayLike, NDArray

IntArray = NDArray[np.int64]
FloatArray = NDArray[np.float64]


def similarities(desc0: ArrayLike, desc1: ArrayLike) -> FloatArray:
    """Dot products of all pairs; -inf where a descriptor is zero or not finite.

    Args:
        desc0: Descriptors, (N0, d) or (H0, W0, d).
        desc1: Descriptors, (N1, d) or (H1, W1, d).

    Returns:
        (N0, N1) float64.
    """
    flat = [np.asarray(desc, np.float64) for desc in (desc0, desc1)]
    flat = [desc.reshape(-1, desc.shape[-1]) for desc in flat]
    valid0, valid1 = (np.isfinite(desc).all(1) & (desc != 0).any(1) for desc in flat)
    clean0, clean1 = (np.nan_to_num(desc, nan=0.0, posinf=0.0, neginf=0.0) for desc in flat)
    return np.where(valid0[:, None] & valid1[None, :], clean0 @ clean1.T, -np.inf)


def nearest(similarity: FloatArray) -> IntArray:
    """Column of the largest entry of every row, the first of equals; -1 in rows of -inf."""
    if similarity.shape[1] == 0:
        return np.full(len(similarity), -1, np.int64)
    return np.where(np.isinf(similarity).all(1), -1, similarity.argmax(1))


def mutual(similarity: FloatArray) -> tuple[IntArray, IntArray]:
    """Pairs (row, column) that are each other's nearest neighbour, sorted by row."""
    nearest01, nearest10 = nearest(similarity), nearest(similarity.T)
    rows = np.flatnonzero(nearest01 >= 0)
    rows = rows[nearest10[nearest01[rows]] == rows]
    return rows, nearest01[rows]


def second_best(similarity: FloatArray, width1: int, distance_px: float) -> FloatArray:
    """Largest similarity farther than ``distance_px`` from each row's nearest neighbour.

    Columns are pixels ``y * width1 + x`` of image 1. -inf where there is none.
    """
    best = nearest(similarity)
    column = np.arange(similarity.shape[1])
    apart = np.hypot(
        column[None] % width1 - (best % width1)[:, None],
        column[None] // width1 - (best // width1)[:, None],
    )
    others = np.where((apart > distance_px) & (best >= 0)[:, None], similarity, -np.inf)
    return others.max(1, initial=-np.inf)


def iterated(similarity: FloatArray, seeds: IntArray, max_rounds: int = 10) -> set[tuple[int, int]]:
    """Mutual pairs that the seeds (rows) reach by walking to and fro, as MASt3R section 3.3."""
    nearest01, nearest10 = nearest(similarity), nearest(similarity.T)
    found = set()
    for seed in seeds:
        row, column = int(seed), -1
        for _ in range(max_rounds):
            previous, column = column, int(nearest01[row])
            if column < 0:
                break
            back = int(nearest10[column])
            if column == previous or back == row:
                found.add((row, column))
                break
            row = back
    return found
