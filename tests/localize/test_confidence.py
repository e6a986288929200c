import math
from typing import Any

import numpy as np
import pytest

from localize.confidence import (
    chance_agreement,
    distinct_pixels,
    inliers_by_chance,
    pose_confidence,
    spread_inliers,
)


@pytest.mark.parametrize("num_matches", [5, 50, 500, 5000])
@pytest.mark.parametrize("probability", [1e-4, 1e-2, 0.2])
def test_chance_bounds_the_binomial_tail(num_matches: int, probability: float) -> None:
    limit = inliers_by_chance(num_matches, probability)
    assert 3 <= limit <= num_matches
    # simulated: the best of 1,000 random poses stays below the limit for 100,000 of them
    rng = np.random.default_rng(0)
    lucky = rng.binomial(num_matches - 3, probability, 1000).max() + 3
    assert lucky <= limit
    exact = sum(
        math.exp(
            math.lgamma(num_matches - 2)
            - math.lgamma(k + 1)
            - math.lgamma(num_matches - 2 - k)
            + k * math.log(probability)
            + (num_matches - 3 - k) * math.log1p(-probability)
        )
        for k in range(limit - 3, num_matches - 2)
    )
    assert limit == num_matches or exact <= 1e-8


def test_chance_grows_with_matches_probability_and_trials() -> None:
    assert inliers_by_chance(100, 1e-3) < inliers_by_chance(10_000, 1e-3)
    assert inliers_by_chance(1000, 1e-4) < inliers_by_chance(1000, 1e-2)
    assert inliers_by_chance(1000, 1e-3, num_trials=1) < inliers_by_chance(1000, 1e-3)
    assert [inliers_by_chance(n, 0.1) for n in (0, 1, 3)] == [0, 1, 3]


def test_agreement_by_chance_sees_crowds() -> None:
    rng = np.random.default_rng(0)
    size = (800, 600)
    even, elsewhere = rng.uniform(0, 1, (2, 500, 2)) * size
    crowd = rng.uniform(0, 40, (500, 2))
    expected = math.pi * 8**2 / (800 * 600)
    assert chance_agreement(even, elsewhere, 8, size) == pytest.approx(expected, rel=0.5)
    assert chance_agreement(crowd, crowd[::-1], 8, size) > 50 * expected
    nowhere = np.full((500, 2), np.nan)
    assert chance_agreement(even, nowhere, 8, size) == pytest.approx(expected)
    assert 0 < chance_agreement(np.zeros((0, 2)), np.zeros((0, 2)), 8, size) < 1
    assert 0 < chance_agreement(np.zeros((1, 2)), np.zeros((1, 2)), 1000, (1, 1)) < 1


def test_spread_counts_crowds_less() -> None:
    size = (1600, 1200)
    apart = np.stack(np.meshgrid(np.arange(4) * 400 + 50, np.arange(3) * 400 + 50), -1)
    apart = apart.reshape(-1, 2).astype(float)
    everything = np.ones(12, bool)
    assert spread_inliers(apart, everything, size) == 12
    crowd = np.column_stack([np.arange(12.0), np.zeros(12)])
    assert spread_inliers(crowd, everything, size) == pytest.approx(math.sqrt(12))
    assert spread_inliers(apart, ~everything, size) == 0
    same = np.zeros((12, 2))  # one keypoint with twelve points is one observation
    assert spread_inliers(same, everything, size) == 1


@pytest.mark.parametrize("count", [0, 1, 500])
def test_distinct_pixels_agree_with_their_slow_twin(count: int) -> None:
    rng = np.random.default_rng(count)
    pixels = rng.integers(0, 12, (count, 2)) - [0.0, 0.5]
    np.testing.assert_array_equal(distinct_pixels(pixels), np.unique(pixels, axis=0))
    # rows of a larger array, and columns in another order, are no complex numbers as they lie
    np.testing.assert_array_equal(distinct_pixels(pixels[::2]), np.unique(pixels[::2], axis=0))
    turned = np.asfortranarray(pixels)
    np.testing.assert_array_equal(distinct_pixels(turned), np.unique(pixels, axis=0))


def test_confidence_follows_the_evidence() -> None:
    base: dict[str, Any] = {"num_inliers": 150, "support": 100.0, "chance": 10, "num_outliers": 100}
    sure = pose_confidence(**base)
    assert 0.5 < sure < 1
    assert pose_confidence(**base | {"support": 140.0}) > sure
    assert pose_confidence(**base | {"num_outliers": 3000}) < sure
    assert pose_confidence(**base | {"chance": 100}) < sure
    assert pose_confidence(**base, relative_std=0.02) == pytest.approx(sure / 2)
    assert pose_confidence(**base, relative_std=math.inf) == 0
    # a tie between two places is a coin toss
    assert pose_confidence(**base, rival_support=100.0) == pytest.approx(sure / 2)
    assert pose_confidence(**base, rival_support=10.0) == pytest.approx(sure * 10 / 11)
    assert pose_confidence(**base | {"chance": 150}) == 0
    assert pose_confidence(**base | {"chance": 149}) > 0
    # never tied at the top: the order of the surest still counts
    many, more = ({"num_inliers": n, "support": n / 2} for n in (10**5, 2 * 10**5))
    assert pose_confidence(**base | many) < pose_confidence(**base | more) < 1
