"""A confidence for Map-free, where a pose is right within 25 cm, not within so many percent.

The benchmark's AUC rewards ranking right poses above wrong ones. `localize.relative` tells how sure
it is that two photos show one place from the given side; whether the pose is also near enough
depends on its length: with the same relative error, the pose of a camera that moved by 4 m is eight
times as far off as that of one that moved by half a metre.
"""

import math

import numpy as np

from localize.relative import RelativePose

NEAR_M = 0.25  # expected error that halves the confidence: the benchmark's threshold
# relative error of the length of a baseline, see results/confidence.md
_LENGTH_ERROR = 0.15  # that a matcher's depths all share, so that no match tells of it
_DIRECTION_ERROR = 0.02  # of its direction, radians, however many matches agree


def mapfree_confidence(result: RelativePose, length_m: float, length_spread: float | None) -> float:
    """The confidence of a metric relative pose.

    Args:
        result: The pose.
        length_m: Of its translation.
        length_spread: How far the matches disagree about the length (median deviation of its
            logarithm), or None if unknown.

    Returns:
        In [0, 1]; 0 only without a pose.
    """
    if not result.success:
        return 0.0
    spread = 0.0 if length_spread is None else length_spread
    relative = math.hypot(_LENGTH_ERROR, spread, _DIRECTION_ERROR)
    return result.confidence / (1 + (length_m * relative / NEAR_M) ** 2)


def inlier_score(result: RelativePose) -> float:
    """Mean score that the matcher gave the inliers."""
    scores = result.matches.scores[result.inlier_mask]
    return float(np.mean(scores)) if len(scores) else 0.0
