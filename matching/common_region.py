"""Which part of each photo shows what both show, by the matches that agree with each other.

Matches that repeat a pattern in the wrong place agree as well, but with fewer others; single ones
that lie anywhere agree with none. So a similarity (turn, scale and shift) is fitted by RANSAC
(Fischler and Bolles, "Random sample consensus", CACM 1981) with a tolerance that forgives depth and
perspective, and only the matches that follow it say where to look.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class RegionOptions:
    """How the common region is found, and when it is worth a look."""

    num_matches: int = 200  # the best ones are asked
    tolerance: float = 0.06  # matches that agree are off by less than this fraction of a long side
    min_share: float = 1 / 3  # of the matches asked must agree
    num_trials: int = 500  # similarities that are tried
    margin: float = 0.2  # added on all sides, fraction of the extent of what agrees
    min_side: float = 0.25  # smallest window, fraction of the photo's sides

    def __post_init__(self) -> None:
        for name in ("num_matches", "num_trials"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not self.tolerance > 0:
            raise ValueError(f"tolerance must be > 0, got {self.tolerance}")
        if not self.margin >= 0:
            raise ValueError(f"margin must be >= 0, got {self.margin}")
        for name in ("min_share", "min_side"):
            if not 0 < getattr(self, name) <= 1:
                raise ValueError(f"{name} must lie in (0, 1], got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class CommonRegion:
    """Windows of two photos that show what both show.

    Attributes:
        box0: x0 y0 x1 y1 in pixels of photo 0, (4,), of the photo's shape.
        box1: The same in photo 1.
        zoom: How much the photo is enlarged that is enlarged more, at least 1.
    """

    box0: FloatArray
    box1: FloatArray
    zoom: float


def common_region(
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    scores: NDArray[np.floating],
    *,
    size0: Size,
    size1: Size,
    options: RegionOptions | None = None,
) -> CommonRegion | None:
    """Find windows of both photos that show what both show.

    Args:
        points0: Matches in photo 0, (M, 2) x, y pixels.
        points1: The same in photo 1.
        scores: Larger is surer, at least 0, (M,).
        size0: (width, height) of photo 0, pixels.
        size1: The same of photo 1.
        options: Tolerances.

    Returns:
        The windows; None where too few matches agree.
    """
    options = options or RegionOptions()
    best = np.argsort(-scores, kind="stable")[: options.num_matches]
    if len(best) < 2:
        return None
    unit0, unit1 = float(max(size0)), float(max(size1))
    agree = agreeing(
        points0[best] / unit0,
        points1[best] / unit1,
        # a few that are very sure may not decide alone
        np.sqrt(scores[best]),
        tolerance=options.tolerance,
        num_trials=options.num_trials,
    )
    if agree.sum() < options.min_share * len(best):
        return None
    box0, zoom0 = _window(points0[best][agree], size0, options)
    box1, zoom1 = _window(points1[best][agree], size1, options)
    return CommonRegion(box0=box0, box1=box1, zoom=max(zoom0, zoom1))


def agreeing(
    points0: NDArray[np.floating],
    points1: NDArray[np.floating],
    weights: NDArray[np.floating],
    *,
    tolerance: float,
    num_trials: int,
) -> NDArray[np.bool_]:
    """Which matches follow the similarity that most of their weight follows.

    Args:
        points0: Matches in image 0, (M, 2) x, y.
        points1: The same in image 1.
        weights: Of the matches, (M,).
        tolerance: They follow it where they are off by less, as the geometric mean of the distances
            in both images.
        num_trials: So many pairs of matches are drawn, always the same for M matches; pairs closer
            than the tolerance in either image give no similarity.

    Returns:
        (M,).
    """
    first, second = drawn_pairs(len(points0), num_trials)
    # points as complex numbers: a similarity is one product and one sum
    here, there = points0 @ np.array([1, 1j]), points1 @ np.array([1, 1j])
    step0, step1 = here[second] - here[first], there[second] - there[first]
    apart = (np.abs(step0) > tolerance) & (np.abs(step1) > tolerance)
    if not apart.any():
        return np.zeros(len(points0), bool)
    turn = (step1[apart] / step0[apart])[:, None]
    shift = there[first[apart], None] - turn * here[first[apart], None]
    distance = np.abs(turn * here + shift - there) / np.sqrt(np.abs(turn))  # (T, M)
    support = np.clip(1 - np.square(distance / tolerance), 0, None) @ weights
    agree: NDArray[np.bool_] = distance[support.argmax()] < tolerance
    return agree


def drawn_pairs(count: int, num_trials: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Pairs of different rows of ``count``, (num_trials,) each, the same at every call."""
    rng = np.random.default_rng(0)
    first = rng.integers(0, count, num_trials)
    return first, (first + rng.integers(1, count, num_trials)) % count


def _window(
    points: NDArray[np.floating], size: Size, options: RegionOptions
) -> tuple[FloatArray, float]:
    """The window around points, inside the photo and of its shape, and how much it enlarges."""
    low, high = np.quantile(points, 0.05, axis=0), np.quantile(points, 0.95, axis=0)
    sides = np.array(size, np.float64)
    wanted = (high - low) * (1 + 2 * options.margin) / sides
    share = min(1.0, max(options.min_side, float(wanted.max())))
    half = sides * share / 2
    centre = np.clip((low + high) / 2, half, sides - half)
    return np.concatenate([centre - half, centre + half]), 1 / share
