"""Windows against the published choice, and the merging of their matches."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from matching import InputError, Matches
from matching.coarse_to_fine import (
    WindowOptions,
    choose_windows,
    cut,
    force_size,
    merge_matches,
    window_grid,
)

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "golden_reciprocal.json").read_text()
)


def golden_matches(case: dict[str, Any]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Noisy matches of a similarity; pixel centres counted from (0, 0), as published."""
    rng = np.random.Generator(np.random.PCG64(case["seed"]))
    (height0, width0), (height1, width1) = case["hw_map"], case["hw_query"]
    size0 = np.array([width0, height0])
    points0 = rng.uniform(0.0, 1.0, (case["n"], 2)) * ([0.8, 0.9] * size0)
    points0 = np.add(points0, [0.1, 0.05] * size0)
    scale, angle = 0.7 * min(height1, width1) / min(height0, width0), 0.15
    rotation = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    points1 = (points0 - [width0 / 2, height0 / 2]) @ (scale * rotation).T
    points1 = points1 + [0.55 * width1, 0.5 * height1] + 2.0 * rng.standard_normal((case["n"], 2))
    points0, points1 = np.round(points0, 3), np.round(points1, 3)
    keep = (points1 >= 0).all(1) & (points1[:, 0] < width1) & (points1[:, 1] < height1)
    return points0[keep], points1[keep]


@pytest.mark.parametrize("case", GOLDEN["windows"], ids=lambda case: str(case["name"]))
def test_published_choice(case: dict[str, Any]) -> None:
    points0, points1 = golden_matches(case)
    assert len(points0) == case["n_kept"]
    windows = choose_windows(
        image_size0=case["hw_map"][::-1],
        image_size1=case["hw_query"][::-1],
        keypoints0=points0 + 0.5,
        keypoints1=points1 + 0.5,
        network_size0=case["res_map"][::-1],
        network_size1=case["res_query"][::-1],
    )
    assert windows.boxes0.tolist() == case["cells_map"]
    assert windows.boxes1.tolist() == case["cells_query"]


@pytest.mark.parametrize("image_size", [(1600, 1200), (512, 512), (777, 2000), (1024, 512)])
def test_grid_covers_the_image(image_size: tuple[int, int]) -> None:
    grid = window_grid(image_size, WindowOptions())
    covered = np.zeros(image_size[::-1], bool)
    for x0, y0, x1, y1 in grid.astype(int):
        assert 0 <= x0 < x1 <= image_size[0] and 0 <= y0 < y1 <= image_size[1]
        covered[y0:y1, x0:x1] = True
    assert covered.all()


def test_forced_windows_have_their_size_and_stay_inside() -> None:
    rng = np.random.default_rng(0)
    low = rng.uniform(-300, 900, (200, 2))
    boxes = np.concatenate([low, low + rng.uniform(1, 700, (200, 2))], 1)
    forced = force_size(boxes, (512, 384), (1000, 700))
    assert (forced[:, 2:] - forced[:, :2] == [512, 384]).all()
    assert (forced[:, :2] >= 0).all()
    assert (forced[:, 2:] <= [1000, 700]).all()
    inside = force_size(np.array([[100.0, 100, 400, 300]]), (512, 384), (1000, 700))
    assert inside.tolist() == [[0, 8, 512, 392]]  # -6 moved to 0


def test_chosen_windows_hold_the_matches_they_are_for() -> None:
    rng = np.random.default_rng(1)
    keypoints0 = rng.uniform(0, 1, (500, 2)) * [400, 300] + [900, 700]
    windows = choose_windows(
        image_size0=(1600, 1200),
        image_size1=(1600, 1200),
        keypoints0=keypoints0,
        keypoints1=keypoints0 - [600, 500],
        network_size0=(512, 384),
        network_size1=(512, 384),
    )
    covered = np.zeros(500, bool)
    for box0, box1 in zip(windows.boxes0, windows.boxes1, strict=True):
        in0 = ((keypoints0 >= box0[:2]) & (keypoints0 < box0[2:])).all(1)
        in1 = ((keypoints0 - [600, 500] >= box1[:2]) & (keypoints0 - [600, 500] < box1[2:])).all(1)
        assert (in0 & in1).sum() >= 10
        covered |= in0 & in1
    assert covered.mean() > 0.9


def test_no_windows_without_matches() -> None:
    nothing = np.zeros((0, 2), np.float32)
    windows = choose_windows(
        image_size0=(1600, 1200),
        image_size1=(800, 600),
        keypoints0=nothing,
        keypoints1=nothing,
        network_size0=(512, 384),
        network_size1=(512, 384),
    )
    assert len(windows) == 0
    assert windows.boxes0.shape == windows.boxes1.shape == (0, 4)
    assert len(merge_matches([])) == 0


def test_cut_windows_are_the_pixels_of_the_image() -> None:
    image = np.random.default_rng(2).integers(0, 256, (90, 120, 3), dtype=np.uint8)
    (window,) = cut(image, np.array([[5, 7, 69, 55]]))
    assert (window == image[7:55, 5:69]).all()


def test_merging_keeps_the_best_of_each_pixel() -> None:
    first = Matches(
        keypoints0=np.array([[40.5, 10.5], [50.5, 10.5]], np.float32),
        keypoints1=np.array([[11.5, 21.5], [12.5, 22.5]], np.float32),
        scores=np.array([0.9, 0.5], np.float32),
    )
    second = Matches(
        keypoints0=np.array([[40.75, 10.25], [52.5, 20.5], [50.5, 10.5]], np.float32),
        keypoints1=np.array([[40.5, 50.5], [12.25, 22.75], [50.5, 60.5]], np.float32),
        scores=np.array([0.95, 0.4, 0.3], np.float32),
    )
    merged = merge_matches([first, second])
    # 40.75, 10.25 beats 40.5, 10.5 in the same pixel of image 0; the pixel 12, 22 of image 1 goes
    # to the match of 0.5; the last one loses pixel 50, 10 of image 0 to it as well.
    assert merged.keypoints0.tolist() == [[40.75, 10.25], [50.5, 10.5]]
    assert merged.keypoints1.tolist() == [[40.5, 50.5], [12.5, 22.5]]
    assert merged.scores.tolist() == pytest.approx([0.95, 0.5])


def test_merging_keeps_the_best_match_of_each_keypoint() -> None:
    """Keypoints matched in two windows; where they end is not theirs alone."""

    def found(rows0: list[int], rows1: list[int], scores: list[float], place: float) -> Matches:
        points = np.full((len(rows0), 2), place, np.float32)
        return Matches(
            keypoints0=points,
            keypoints1=points + 1,
            scores=np.array(scores, np.float32),
            indices0=np.array(rows0),
            indices1=np.array(rows1),
        )

    first = found([4, 7, -1], [-1, -1, 4], [0.9, 0.5, 0.3], 10.0)
    second = found([7, -1, -1], [-1, 4, 5], [0.8, 0.6, 0.2], 30.0)
    merged = merge_matches([first, second])
    assert merged.indices0 is not None and merged.indices1 is not None
    assert merged.indices0.tolist() == [4, 7, -1, -1]
    assert merged.indices1.tolist() == [-1, -1, 4, 5]
    assert merged.scores.tolist() == pytest.approx([0.9, 0.8, 0.6, 0.2])
    assert merged.keypoints0[:, 0].tolist() == [10, 30, 30, 30]
    one_sided = Matches(
        keypoints0=first.keypoints0,
        keypoints1=first.keypoints1,
        scores=first.scores,
        indices1=np.array([3, 3, 1]),
    )
    merged = merge_matches([one_sided])
    assert merged.indices0 is None and merged.indices1 is not None
    assert merged.indices1.tolist() == [3, 1]


def test_wrong_input_is_refused() -> None:
    points = np.zeros((3, 2))
    sizes = {"network_size0": (512, 384), "network_size1": (512, 384)}
    with pytest.raises(InputError, match="does not fit"):
        choose_windows(
            image_size0=(300, 200),
            image_size1=(800, 600),
            keypoints0=points,
            keypoints1=points,
            **sizes,
        )
    with pytest.raises(InputError, match=r"\(M, 2\)"):
        choose_windows(
            image_size0=(800, 600),
            image_size1=(800, 600),
            keypoints0=points,
            keypoints1=points[:2],
            **sizes,
        )
    with pytest.raises(InputError, match="overlap"):
        WindowOptions(overlap=1.0)
