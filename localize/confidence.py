"""How sure a pose is: its support against what chance gives, spread and precision."""

import math

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_MAX_EXPECTED = 1e-3  # a chance pose may reach the limit once in a thousand queries
_CELLS = 16  # of the grid over the photo's longer side
# inliers beyond chance, well spread, at which a pose without outliers is as likely right as wrong
_HALF_SURE = 40.0
# evidence against the pose by the root of the number of matches that it does not explain: chance
# inliers scatter with it; in proportion, a matcher that answers for every keypoint was never sure
_OUTLIER_WEIGHT = 2.0
_IMPRECISE = 0.02  # standard deviation in radians, or over the depth, that halves the confidence


def inliers_by_chance(
    num_matches: int,
    probability: float,
    *,
    num_trials: float = 1e5,
    sample_size: int = 3,
) -> int:
    """The most inliers that wrong matches are likely to give some pose.

    RANSAC looks at many poses and keeps the luckiest; each fits its own sample and every other
    match with ``probability``. The a-contrario bound of Moisan and Stival ("A probabilistic
    criterion to detect rigid point matches", IJCV 2004), with Chernoff's inequality for the tail
    of the binomial distribution.

    Args:
        num_matches: Matches given to RANSAC.
        probability: That a wrong match agrees with a given pose.
        num_trials: Poses looked at.
        sample_size: Matches that a sample holds.

    Returns:
        The smallest count that chance exceeds in at most one of 1,000 queries.
    """
    others = max(num_matches - sample_size, 0)
    limit = math.log(num_trials / _MAX_EXPECTED)
    low, high = 0, others
    while low < high:  # the tail falls with the count: bisect
        middle = (low + high) // 2
        if _chernoff_exponent(middle, others, probability) >= limit:
            high = middle
        else:
            low = middle + 1
    return min(sample_size + low, num_matches)


def _chernoff_exponent(count: int, total: int, probability: float) -> float:
    """-log of the bound on P(Binomial(total, probability) >= count)."""
    fraction = count / max(total, 1)
    if fraction <= probability:
        return 0.0
    exponent = fraction * math.log(fraction / probability)
    if fraction < 1:
        exponent += (1 - fraction) * math.log((1 - fraction) / (1 - probability))
    return total * exponent


def chance_agreement(
    points2D: FloatArray,
    projected: FloatArray,
    max_error_px: float,
    image_size: tuple[int, int],
    *,
    seed: int = 0,
) -> float:
    """Probability that a wrong match agrees with a pose, measured on the photo itself.

    Keypoints crowd where there is texture, so wrong matches agree more often than evenly spread
    ones would; here keypoints are paired at random with the projections of the map points.

    Args:
        points2D: Keypoints, (M, 2).
        projected: The map points' projections, (M, 2); not finite where there is none.
        max_error_px: Largest error of an inlier.
        image_size: (width, height) of the photo.
        seed: Of the pairing.

    Returns:
        In (0, 1).
    """
    width, height = image_size
    even = min(math.pi * max_error_px**2 / (width * height), 0.5)
    if len(points2D) == 0:
        return even
    rng = np.random.default_rng(seed)
    rows = rng.integers(0, len(points2D), (2, 20_000))
    drawn, others = points2D[rows[0]], points2D[rows[1]]
    x, y = (drawn - projected[rows[1]]).T
    # a keypoint that was matched several times agrees with its own points rightly
    different = (drawn[:, 0] != others[:, 0]) | (drawn[:, 1] != others[:, 1])
    near = x * x + y * y < max_error_px**2
    agree = float(np.mean(near[different])) if different.any() else even
    return min(max(agree, even), 0.5)


def spread_inliers(
    points2D: FloatArray, inlier_mask: BoolArray, image_size: tuple[int, int]
) -> float:
    """Inliers, those that crowd counted less: the sum over grid cells of the root of their number.

    Twelve inliers in twelve cells count 12; a thousand on one poster in one cell count 32.

    Args:
        points2D: Keypoints, (M, 2).
        inlier_mask: Which of them are inliers, (M,).
        image_size: (width, height) of the photo.
    """
    cell = max(image_size) / _CELLS
    # a keypoint matched to several map points is one observation
    cells = np.floor(distinct_pixels(points2D[inlier_mask]) / cell)
    _, counts = np.unique(4096 * cells[:, 0] + cells[:, 1], return_counts=True)
    return float(np.sqrt(counts).sum())


def distinct_pixels(pixels: FloatArray) -> FloatArray:
    """Each pixel once, in the order of x, then y.

    Sorted as complex numbers, a tenth of the time of rows (``axis=0``).

    Args:
        pixels: (M, 2).

    Returns:
        (N, 2).
    """
    numbers = np.sort(np.ascontiguousarray(pixels, np.float64).view(np.complex128)[:, 0])
    fresh = np.ones(len(numbers), np.bool_)
    fresh[1:] = numbers[1:] != numbers[:-1]
    return numbers[fresh].view(np.float64).reshape(-1, 2)


def pose_confidence(
    *,
    num_inliers: int,
    support: float,
    chance: int,
    num_outliers: int,
    rival_support: float = 0.0,
    relative_std: float = 0.0,
) -> float:
    """Combine the evidence for a pose to a number that ranks right poses above wrong ones.

    Args:
        num_inliers: Distinct keypoints that the pose explains.
        support: The same weighted by their spread (`spread_inliers`).
        chance: Inliers that wrong matches may reach (`inliers_by_chance`).
        num_outliers: Matches that the pose does not explain.
        rival_support: Spread inliers of the best pose at another place; a tie means a coin toss.
        relative_std: Standard deviation of the pose: of the rotation in radians, or of the
            position over the median depth, whichever is larger; inf if undetermined.

    Returns:
        In [0, 1); 0 only where chance alone explains the inliers.
    """
    beyond_chance = max(1 - chance / max(num_inliers, 1), 0.0)
    evidence = support * beyond_chance
    if evidence == 0 or not math.isfinite(relative_std):
        return 0.0
    sure = evidence / (evidence + _HALF_SURE + _OUTLIER_WEIGHT * math.sqrt(num_outliers))
    unrivalled = evidence / (evidence + rival_support * beyond_chance)
    precise = 1 / (1 + (relative_std / _IMPRECISE) ** 2)
    return sure * unrivalled * precise
