import numpy as np
import pytest

from localize.lift import (
    Correspondences,
    LiftOptions,
    lift_matches,
    merged_matches,
    nearest_within,
)
from matching.types import Matches


def nearest_slowly(queries: np.ndarray, keypoints: np.ndarray, limit: float) -> list[float]:
    """The slow twin: distance to the nearest keypoint, inf beyond the limit."""
    result = []
    for query in queries.astype(float):
        distances = [float(np.hypot(*(query - k))) for k in keypoints.astype(float)]
        nearest = min(distances, default=np.inf)
        result.append(nearest if nearest <= limit else np.inf)
    return result


@pytest.mark.parametrize(
    ("num_queries", "num_keypoints"), [(0, 0), (0, 5), (5, 0), (1, 1), (77, 1), (1, 77), (113, 251)]
)
@pytest.mark.parametrize("limit", [0.5, 5.0, 1000.0])
def test_nearest_within_agrees_with_its_slow_twin(
    num_queries: int, num_keypoints: int, limit: float
) -> None:
    rng = np.random.default_rng(num_queries + num_keypoints)
    # a column of equal x is the worst case of the strips
    keypoints = (rng.random((num_keypoints, 2)) * 60).astype(np.float32)
    keypoints[: num_keypoints // 3, 0] = 30
    queries = (rng.random((num_queries, 2)) * 60).astype(np.float32)
    rows = nearest_within(queries, keypoints, limit)
    found = [
        float(np.hypot(*(q.astype(float) - keypoints[r].astype(float)))) if r >= 0 else np.inf
        for q, r in zip(queries, rows, strict=True)
    ]
    # distances, not rows: among equally near keypoints any will do
    np.testing.assert_allclose(found, nearest_slowly(queries, keypoints, limit), rtol=1e-12)


def test_nearest_within_includes_the_limit() -> None:
    keypoints = np.array([[10.0, 10.0]], np.float32)
    queries = np.array([[12.0, 10.0], [12.25, 10.0], [10.0, 8.0]], np.float32)
    np.testing.assert_array_equal(nearest_within(queries, keypoints, 2.0), [0, -1, 0])


def matches(rows0: list[int], rows1: list[int], *, indexed: bool = True) -> Matches:
    grid = np.stack(np.meshgrid(np.arange(10) * 20, [50]), -1).reshape(-1, 2).astype(np.float32)
    # a dense matcher lands beside the keypoint
    offset = np.array([0, 0] if indexed else [1.5, 0], np.float32)
    return Matches(
        keypoints0=grid[rows0] + 7,
        keypoints1=grid[rows1] + offset,
        scores=np.linspace(1, 0.5, len(rows0), dtype=np.float32),
        indices0=np.array(rows0) if indexed else None,
        indices1=np.array(rows1) if indexed else None,
    )


KEYPOINTS = np.stack([np.arange(10) * 20, np.full(10, 50)], 1).astype(np.float32)


@pytest.mark.parametrize("indexed", [True, False])
def test_matches_take_the_points_of_the_map(indexed: bool) -> None:
    ids0 = np.array([100, -1, 102, 103, -1, -1, -1, -1, -1, -1])
    ids1 = np.array([-1, 100, 200, -1, -1, -1, -1, -1, -1, -1])
    lifted = lift_matches(
        [matches([3, 4, 5], [0, 1, 2], indexed=indexed), matches([3, 6], [1, 2], indexed=indexed)],
        [KEYPOINTS, KEYPOINTS],
        [ids0, ids1],
        LiftOptions(),
    )
    # keypoint 1 of photo 0 sees no point; 3 -> 100 comes through both photos and counts once
    np.testing.assert_array_equal(lifted.points3D_ids, [100, 102, 200])
    np.testing.assert_array_equal(lifted.images, [0, 0, 1])
    np.testing.assert_allclose(lifted.points2D, [[67, 57], [107, 57], [127, 57]])


def test_a_dense_match_far_from_every_observation_is_left_out() -> None:
    ids = np.arange(10)
    found = matches([3, 4], [0, 1], indexed=False)
    near = lift_matches([found], [KEYPOINTS], [ids], LiftOptions(max_distance_px=1.6))
    far = lift_matches([found], [KEYPOINTS], [ids], LiftOptions(max_distance_px=1.4))
    assert len(near) == 2
    assert len(far) == 0


def test_nearest_observed_keypoint_wins_over_a_nearer_one_without_a_point() -> None:
    keypoints = np.array([[10.0, 10.0], [11.0, 10.0]], np.float32)
    dense = Matches(
        keypoints0=np.array([[5.0, 5.0]], np.float32),
        keypoints1=np.array([[10.0, 10.0]], np.float32),
        scores=np.ones(1, np.float32),
    )
    lifted = lift_matches([dense], [keypoints], [np.array([-1, 42])], LiftOptions())
    np.testing.assert_array_equal(lifted.points3D_ids, [42])


def test_a_keypoint_may_have_several_points() -> None:
    ids = np.arange(10)
    lifted = lift_matches(
        [matches([3], [0]), matches([3], [1])], [KEYPOINTS, KEYPOINTS], [ids, ids], LiftOptions()
    )
    np.testing.assert_array_equal(lifted.points3D_ids, [0, 1])


def merged_slowly(matches: Correspondences, distance: float) -> list[tuple[float, ...]]:
    """The slow twin: (point, x, y, score) per observation, best first."""
    found = []
    for point in np.unique(matches.points3D_ids):
        rows = np.flatnonzero(matches.points3D_ids == point)
        left = sorted(rows.tolist(), key=lambda row: (-matches.scores[row], row))
        while left:
            near = [
                row
                for row in left
                if np.linalg.norm(matches.points2D[row] - matches.points2D[left[0]]) <= distance
            ]
            weights = matches.scores[near].astype(float)
            x, y = (weights[:, None] * matches.points2D[near]).sum(0) / weights.sum()
            found.append((float(point), float(x), float(y), float(weights.sum())))
            left = [row for row in left if row not in near]
    return sorted(found)


@pytest.mark.parametrize("count", [0, 1, 2, 151])
@pytest.mark.parametrize("distance", [0.0, 2.0, 1000.0])
def test_merging_agrees_with_its_slow_twin(count: int, distance: float) -> None:
    rng = np.random.default_rng(count)
    found = Correspondences(
        points2D=rng.uniform(0, 12, (count, 2)).round(rng.integers(0, 2)),  # some are equal
        points3D_ids=rng.integers(0, max(count // 8, 1), count),
        images=rng.integers(0, 9, count),
        scores=rng.uniform(0.1, 1, count).astype(np.float32),
    )
    joined = merged_matches(found, distance)
    columns = [joined.points3D_ids, *joined.points2D.T, joined.scores]
    expected = merged_slowly(found, distance)
    result = sorted(zip(*(c.astype(float).tolist() for c in columns), strict=True))
    np.testing.assert_allclose(result, expected, rtol=1e-5) if count else None
    assert len(result) == len(expected)
    assert (np.diff(joined.scores) <= 1e-6).all()
    if distance == 0 and count:  # pixels stay bit for bit
        known = {tuple(p) for p in found.points2D.tolist()}
        assert {tuple(p) for p in joined.points2D.tolist()} <= known


def free(pixels: list[tuple[float, float]], rows1: list[int], scores: list[float]) -> Matches:
    return Matches(
        keypoints0=np.array(pixels, np.float32),
        keypoints1=KEYPOINTS[rows1],
        scores=np.array(scores, np.float32),
        indices1=np.array(rows1),
    )


def test_one_point_found_through_several_photos_is_one_observation() -> None:
    ids = np.arange(10)
    found = [free([(10, 10), (50, 50)], [0, 1], [0.9, 0.3]), free([(12, 10)], [0], [0.3])]
    lifted = lift_matches(found, [KEYPOINTS] * 2, [ids] * 2, LiftOptions())
    np.testing.assert_array_equal(lifted.points3D_ids, [0, 1])
    np.testing.assert_allclose(lifted.points2D, [[10.5, 10], [50, 50]])
    np.testing.assert_allclose(lifted.scores, [1.2, 0.3])
    apart = lift_matches(found, [KEYPOINTS] * 2, [ids] * 2, LiftOptions(merge_distance_px=0))
    np.testing.assert_array_equal(apart.points3D_ids, [0, 1, 0])


def test_keypoints_of_the_query_are_never_moved() -> None:
    ids = np.array([7, 7, *range(2, 10)])  # two keypoints of the map photo see one point
    lifted = lift_matches(
        [matches([3], [0]), matches([4], [1])],
        [KEYPOINTS] * 2,
        [ids] * 2,
        LiftOptions(merge_distance_px=100),
    )
    np.testing.assert_array_equal(lifted.points3D_ids, [7, 7])
    np.testing.assert_allclose(lifted.points2D, [[67, 57], [87, 57]])


def test_nothing_gives_nothing() -> None:
    assert len(lift_matches([], [], [], LiftOptions())) == 0
    for indexed in (True, False):
        empty = Matches.empty(indexed=indexed)
        lifted = lift_matches([empty], [KEYPOINTS], [np.full(10, -1)], LiftOptions())
        assert len(lifted) == 0
        assert lifted.points2D.shape == (0, 2)


def test_pixels_that_are_no_numbers_are_left_out() -> None:
    found = free([(10, 10), (np.nan, 50), (50, 50)], [0, 1, 2], [0.9, 0.8, 0.3])
    lifted = lift_matches([found], [KEYPOINTS], [np.arange(10)], LiftOptions())
    np.testing.assert_array_equal(lifted.points3D_ids, [0, 2])
    broken = Correspondences(
        points2D=np.array([[np.nan, 1], [2, 2], [np.nan, np.nan]]),
        points3D_ids=np.array([4, 4, 4]),
        images=np.zeros(3, np.int64),
        scores=np.ones(3, np.float32),
    )
    assert len(merged_matches(broken, 1.0)) == 3  # and it comes to an end


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="max_distance_px"):
        LiftOptions(max_distance_px=0)
    with pytest.raises(ValueError, match="merge_distance_px"):
        LiftOptions(merge_distance_px=-1)
