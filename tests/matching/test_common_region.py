"""The common region against its definition written out match by match, and on made-up matches."""

import numpy as np
import pytest

from matching.common_region import RegionOptions, agreeing, common_region, drawn_pairs

SIZE0, SIZE1 = (640, 480), (400, 600)


def written_out(
    points0: np.ndarray, points1: np.ndarray, weights: np.ndarray, tolerance: float, trials: int
) -> list[bool]:
    """For each pair drawn the similarity through it, and who is close to it."""
    best, agree = -1.0, [False] * len(points0)
    for i, j in zip(*drawn_pairs(len(points0), trials), strict=True):
        (ax, ay), (bx, by) = points0[j] - points0[i], points1[j] - points1[i]
        long0, long1 = np.hypot(ax, ay), np.hypot(bx, by)
        if long0 <= tolerance or long1 <= tolerance:
            continue
        # rows of scale times rotation
        cosine = (ax * bx + ay * by) / long0**2
        sine = (ax * by - ay * bx) / long0**2
        support, close = 0.0, []
        for (x0, y0), (x1, y1), weight in zip(points0 - points0[i], points1, weights, strict=True):
            x, y = points1[i] + (cosine * x0 - sine * y0, sine * x0 + cosine * y0)
            error = np.hypot(x - x1, y - y1) / np.sqrt(long1 / long0)
            support += weight * max(0.0, 1 - (error / tolerance) ** 2)
            close.append(bool(error < tolerance))
        if support > best:
            best, agree = support, close
    return agree


@pytest.mark.parametrize(("count", "right", "trials"), [(2, 2, 5), (30, 12, 60), (61, 0, 40)])
def test_agreement_equals_its_definition(count: int, right: int, trials: int) -> None:
    rng = np.random.default_rng(count)
    points0, points1 = rng.random((2, count, 2))
    turn = 0.6 * np.array([[np.cos(0.4), -np.sin(0.4)], [np.sin(0.4), np.cos(0.4)]])
    points1[:right] = points0[:right] @ turn.T + 0.2 + 0.01 * rng.standard_normal((right, 2))
    weights = rng.random(count)
    found = agreeing(points0, points1, weights, tolerance=0.06, num_trials=trials)
    assert found.tolist() == written_out(points0, points1, weights, 0.06, trials)
    assert right < 3 or found[:right].mean() > 0.7


def test_matches_in_one_place_agree_on_nothing() -> None:
    points = np.full((9, 2), 0.5)
    assert not agreeing(points, points, np.ones(9), tolerance=0.06, num_trials=20).any()


def test_pairs_drawn_are_of_different_rows() -> None:
    for count in (2, 3, 200):
        first, second = drawn_pairs(count, 400)
        assert (first != second).all() and first.max() == second.max() == count - 1


def made_up(right: int, wrong: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A region of 128 x 96 pixels in photo 0 that is twice as large in photo 1."""
    rng = np.random.default_rng(right + wrong)
    own = rng.random((right, 2)) * (128, 96)
    strays = rng.random((2, wrong, 2))
    points0 = np.concatenate([own + np.array([400, 60]), strays[0] * SIZE0])
    points1 = np.concatenate([own * 2 + (20, 350), strays[1] * SIZE1])
    scores = rng.permutation(np.linspace(0.01, 0.5, right + wrong))
    return points0.astype(np.float32), points1.astype(np.float32), scores.astype(np.float32)


def test_windows_hold_what_agrees_and_have_the_shape_of_their_photos() -> None:
    found = common_region(*made_up(90, 90), size0=SIZE0, size1=SIZE1)
    assert found is not None
    (x0, y0, x1, y1), (u0, v0, u1, v1) = found.box0, found.box1
    assert (x1 - x0) / (y1 - y0) == pytest.approx(640 / 480)
    assert (u1 - u0) / (v1 - v0) == pytest.approx(400 / 600)
    assert x0 < 410 and y0 < 65 and x1 > 518 and y1 > 151 and x1 - x0 < 260
    assert u0 < 40 and v0 < 360 and u1 > 250 and v1 > 530
    assert min(x0, y0, u0, v0) >= 0 and x1 <= 640 and u1 <= 400 and v1 <= 600


def test_windows_are_not_smaller_than_allowed() -> None:
    points0, points1, scores = made_up(150, 10)
    spot0, spot1 = points0[0] + (points0 - points0[0]) / 3, points1[0] + (points1 - points1[0]) / 3
    options = RegionOptions(min_side=0.5)
    found = common_region(spot0, spot1, scores, size0=SIZE0, size1=SIZE1, options=options)
    assert found is not None
    np.testing.assert_allclose(found.box0[2:] - found.box0[:2], (320, 240))
    assert found.zoom == 2


def test_windows_are_wider_by_the_margin_and_leave_single_matches_out() -> None:
    points0, points1, scores = made_up(100, 0)
    # they follow the same similarity, but far away
    points0[:4] -= (300, 0)
    points1[:4] -= (600, 0)
    sides = []
    for margin in (0.0, 0.5):
        options = RegionOptions(margin=margin, min_side=0.05)
        found = common_region(points0, points1, scores, size0=SIZE0, size1=SIZE1, options=options)
        assert found is not None
        sides.append(found.box0[2] - found.box0[0])
    assert 100 < sides[0] < 130 and sides[1] == pytest.approx(2 * sides[0])


def test_the_zoom_is_that_of_the_photo_enlarged_more() -> None:
    points0, points1, scores = made_up(100, 0)
    whole = (points1 - points1.min(0)) / np.ptp(points1, 0) * SIZE1
    for points, sizes in (((points0, whole), (SIZE0, SIZE1)), ((whole, points0), (SIZE1, SIZE0))):
        found = common_region(*points, scores, size0=sizes[0], size1=sizes[1])
        assert found is not None and 2.5 < found.zoom <= 4


@pytest.mark.parametrize(
    "name", ["num_matches", "num_trials", "tolerance", "min_share", "min_side", "margin"]
)
def test_bad_options_are_refused(name: str) -> None:
    with pytest.raises(ValueError, match=f"{name} must"):
        RegionOptions(**{name: -1})  # type: ignore[arg-type]


def test_no_region_where_nothing_agrees() -> None:
    assert common_region(*made_up(30, 170), size0=SIZE0, size1=SIZE1) is None
    points0, points1, scores = made_up(180, 20)
    for count in (0, 1):
        few = points0[:count], points1[:count], scores[:count]
        assert common_region(*few, size0=SIZE0, size1=SIZE1) is None
    all_agree = RegionOptions(min_share=1)
    together = made_up(100, 0)
    found = common_region(*together, size0=SIZE0, size1=SIZE1, options=all_agree)
    assert found is not None, "no more than that can agree"
    whole = np.random.default_rng(0).random((200, 2)).astype(np.float32) * np.array(SIZE0)
    found = common_region(whole, whole, np.ones(200), size0=SIZE0, size1=SIZE0)
    assert found is not None and found.zoom == 1, "nothing would be enlarged"
    np.testing.assert_array_equal(found.box0, (0, 0, *SIZE0))
