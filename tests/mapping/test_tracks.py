"""Tests of `mapping/tracks.py`."""

from pathlib import Path

import numpy as np
import pytest

from mapping.tracks import merge_pixels, share_keypoints
from matching.types import Matches


def merge_pixels_slowly(fixed, pixels, scores, radius_px):
    """The definition, one pixel at a time: rounds of locally best pixels."""
    keypoints = [tuple(p) for p in fixed.tolist()]
    rows = np.full(len(pixels), -1)

    def place(candidates, first):
        for i in np.flatnonzero(rows < 0):
            distances = [np.float32(np.linalg.norm(np.float32(c) - pixels[i])) for c in candidates]
            if distances and min(distances) <= radius_px:
                rows[i] = first + int(np.argmin(distances))

    place(keypoints, 0)
    order = np.argsort(-scores, kind="stable").tolist()
    while (rows < 0).any():
        left = [i for i in order if rows[i] < 0]
        chosen = [
            i
            for place_of_i, i in enumerate(left)
            if all(np.linalg.norm(pixels[i] - pixels[j]) > radius_px for j in left[:place_of_i])
        ]
        place([pixels[i] for i in chosen], len(keypoints))
        keypoints += [tuple(pixels[i].tolist()) for i in chosen]
    return np.array(keypoints, np.float32).reshape(-1, 2), rows


@pytest.mark.parametrize(("num_fixed", "num_pixels"), [(0, 0), (0, 1), (3, 0), (5, 200), (0, 333)])
@pytest.mark.parametrize("radius_px", [0.5, 3.0])
def test_merge_agrees_with_the_slow_way(num_fixed, num_pixels, radius_px) -> None:
    random = np.random.default_rng(num_pixels)
    fixed = random.uniform(0, 40, (num_fixed, 2)).astype(np.float32)
    pixels = random.uniform(-5, 40, (num_pixels, 2)).astype(np.float32)
    scores = random.integers(0, 20, num_pixels).astype(np.float32)  # with ties
    keypoints, rows = merge_pixels(fixed, pixels, scores, radius_px)
    slow_keypoints, slow_rows = merge_pixels_slowly(fixed, pixels, scores, radius_px)
    np.testing.assert_array_equal(keypoints, slow_keypoints)
    np.testing.assert_array_equal(rows, slow_rows)


def test_merge_of_many_pixels() -> None:
    random = np.random.default_rng(0)
    pixels = random.uniform(0, 1000, (50_000, 2)).astype(np.float32)
    scores = random.uniform(size=50_000).astype(np.float32)
    keypoints, rows = merge_pixels(np.zeros((0, 2), np.float32), pixels, scores, 2.0)
    assert np.linalg.norm(keypoints[rows] - pixels, axis=1).max() <= 2.0
    assert len(keypoints) < 45_000
    best = np.argmax(scores)
    np.testing.assert_array_equal(keypoints[rows[best]], pixels[best])


def matches_of(pixels0, pixels1, scores, indices0=None, indices1=None) -> Matches:
    return Matches(
        keypoints0=np.array(pixels0, np.float32).reshape(-1, 2),
        keypoints1=np.array(pixels1, np.float32).reshape(-1, 2),
        scores=np.array(scores, np.float32),
        indices0=None if indices0 is None else np.array(indices0, np.int64),
        indices1=None if indices1 is None else np.array(indices1, np.int64),
    )


NONE = np.zeros((0, 2), np.float32)


def test_free_pixels_of_two_pairs_meet() -> None:
    shared = share_keypoints(
        {"a": NONE, "b": NONE, "c": NONE},
        {
            ("a", "b"): matches_of([[10, 10], [50, 50]], [[20, 20], [60, 60]], [0.9, 0.8]),
            ("b", "c"): matches_of([[20.5, 20]], [[30, 30]], [0.7]),
        },
        merge_radius_px=1,
    )
    # b's pixel (20.5, 20) is its (20, 20): the better scored one keeps its place
    np.testing.assert_array_equal(shared.keypoints["b"], [[20, 20], [60, 60]])
    assert shared.matches["a", "b"].tolist() == [[0, 0], [1, 1]]
    assert shared.matches["b", "c"].tolist() == [[0, 0]]


def test_rows_are_kept_and_keypoints_unchanged() -> None:
    points = np.array([[1, 1], [2, 2], [3, 3]], np.float32)
    shared = share_keypoints(
        {"a": points, "b": NONE},
        {("a", "b"): matches_of([[0, 0]] * 2, [[5, 5], [9, 9]], [0.9, 0.2], indices0=[2, 0])},
        merge_radius_px=2,
        min_score=0.1,
    )
    np.testing.assert_array_equal(shared.keypoints["a"], points)
    assert shared.matches["a", "b"].tolist() == [[2, 0], [0, 1]]


def test_worse_of_two_matches_that_meet_is_dropped() -> None:
    shared = share_keypoints(
        {"a": NONE, "b": NONE},
        {("a", "b"): matches_of([[5, 5], [5.4, 5], [40, 5]], [[7, 7], [90, 90], [7, 7.4]],
                                [0.9, 0.8, 0.7])},
        merge_radius_px=1,
    )  # fmt: skip
    assert shared.matches["a", "b"].tolist() == [[0, 0]]


def test_low_scores_and_empty_pairs() -> None:
    shared = share_keypoints(
        {"a": NONE, "b": NONE, "c": NONE},
        {("a", "b"): Matches.empty(), ("b", "c"): matches_of([[1, 1]], [[1, 1]], [0.3])},
        merge_radius_px=1,
        min_score=0.5,
    )
    assert all(len(k) == 0 for k in shared.keypoints.values())
    assert all(m.shape == (0, 2) for m in shared.matches.values())


def test_free_pixels_near_a_keypoint_are_that_keypoint() -> None:
    points = np.array([[10, 10], [30, 30], [50, 50]], np.float32)
    both = matches_of(
        [[10, 10], [30.5, 30.2], [80, 80], [50, 50]],
        [[11, 10.5], [30, 30], [50, 50], [90, 90]],
        [0.9, 0.8, 0.7, 0.6],
        indices0=[0, -1, -1, 2],
        indices1=[-1, 1, 2, -1],
    )
    shared = share_keypoints(
        {"a": points, "b": points},
        {("a", "b"): both},
        merge_radius_px=1,
        pixel_px={"b": 2.0},
    )
    # a sees pixels of size 1, b of size 2: there 1.1 px off is still the keypoint
    np.testing.assert_array_equal(shared.keypoints["a"], [*points, [80, 80]])
    np.testing.assert_array_equal(shared.keypoints["b"], [*points, [90, 90]])
    assert shared.matches["a", "b"].tolist() == [[0, 0], [1, 1], [3, 2], [2, 3]]
    assert shared.matches.any_free
    rows, gaps = shared.matches.measured(("a", "b"))
    assert rows.tolist() == [[0, 0], [1, 1], [3, 2], [2, 3]]
    # b's keypoint 0 is a's at 11, 10.5; a's keypoint 1 was seen half a pixel off, so b's has to
    # give way to the other side
    np.testing.assert_allclose(gaps, [[1, 0.5], [-0.5, -0.2], [0, 0], [0, 0]], atol=1e-5)


@pytest.mark.parametrize("on_disk", [False, True])
def test_many_pairs_in_memory_and_on_disk(on_disk: bool, tmp_path: Path) -> None:
    random = np.random.default_rng(5)
    names = [f"{number}" for number in range(6)]
    keypoints = {name: random.uniform(0, 60, (20, 2)).astype(np.float32) for name in names}
    matches = {}
    for i, first in enumerate(names):
        for second in names[i + 1 :]:
            count = int(random.integers(0, 40))
            rows = random.integers(-1, 20, (2, count))
            pixels = random.uniform(0, 60, (2, count, 2)).astype(np.float32)
            matches[first, second] = matches_of(
                *pixels, np.sort(random.uniform(size=count))[::-1], rows[0], rows[1]
            )
    shared = share_keypoints(
        keypoints,
        matches,
        merge_radius_px=1.5,
        min_score=0.2,
        scratch=tmp_path if on_disk else None,
    )
    assert list(shared.matches) == list(matches) and not list(tmp_path.iterdir())
    for pair, found in matches.items():
        sure = found.select(found.scores >= 0.2)
        rows, gaps = shared.matches.measured(pair)
        assert len(rows) == len(sure)
        places = [shared.keypoints[name][rows[:, side]] for side, name in enumerate(pair)]
        asked = []
        for side, (indices, pixels) in enumerate(
            ((sure.indices0, sure.keypoints0), (sure.indices1, sure.keypoints1))
        ):
            assert indices is not None
            own = indices >= 0
            np.testing.assert_array_equal(rows[own, side], indices[own])
            asked.append(np.where(own[:, None], places[side], pixels))
            assert (np.linalg.norm(asked[side] - places[side], axis=1) <= 1.5001).all()
        expected = (asked[1] - places[1]) - (asked[0] - places[0])
        np.testing.assert_allclose(gaps, expected, atol=1e-5)
        one = shared.matches[pair]
        assert len(np.unique(one[:, 0])) == len(np.unique(one[:, 1])) == len(one)


def test_pixels_that_are_no_numbers_are_left_out() -> None:
    found = Matches(
        keypoints0=np.array([[1, 1], [np.nan, 2], [3, 3]], np.float32),
        keypoints1=np.array([[1, 1], [2, 2], [np.inf, 3]], np.float32),
        scores=np.ones(3, np.float32),
    )
    none = np.zeros((0, 2), np.float32)
    shared = share_keypoints({"a": none, "b": none}, {("a", "b"): found}, merge_radius_px=1.0)
    np.testing.assert_array_equal(shared.matches["a", "b"], [[0, 0]])
    assert [len(points) for points in shared.keypoints.values()] == [1, 1]
    with pytest.raises(ValueError, match="finite"):
        merge_pixels(none, found.keypoints0, found.scores, 1.0)
