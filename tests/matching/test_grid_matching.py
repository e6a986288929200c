"""Matches between grids against a plain search over all pairs of cells."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from matching.grid_matching import (
    Grid,
    GridMatches,
    free_matches,
    matches_from_points,
)


def smooth_grid(height: int, width: int, stride: int, *, shift: float = 0.0) -> Grid:
    """Unit vectors that turn slowly with the place, shifted by pixels along x."""
    y = (torch.arange(height) + 0.5) * stride
    x = (torch.arange(width) + 0.5) * stride + shift
    y, x = torch.meshgrid(y, x, indexing="ij")
    waves = [
        torch.sin(f * (x * np.cos(a) + y * np.sin(a)) + p)
        for f, a, p in np.random.default_rng(0).uniform([0.02, 0, 0], [0.12, 6.28, 6.28], (24, 3))
    ]
    vectors = torch.nn.functional.normalize(torch.stack(waves, -1), dim=-1).float()
    confidence = 1 + torch.rand(height, width, generator=torch.Generator().manual_seed(1))
    return Grid(vectors=vectors, confidence=confidence, stride=stride)


def nearest(a: Tensor, b: Tensor) -> np.ndarray:
    """Row of ``b`` with the largest dot product for each row of ``a``, one at a time."""
    return np.array([int((b.double() @ row).argmax()) for row in a.double()], np.int64)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("dense", [True, False])
def test_free_matches_are_mutual_and_off_the_border(stride: int, dense: bool) -> None:
    grid0, grid1 = smooth_grid(24, 31, stride), smooth_grid(22, 28, stride, shift=3.0 * stride)
    found = free_matches(
        grid0, grid1, dense=dense, step_px=4 * stride, border_px=2 * stride, subpixel=False
    )
    flat0, flat1 = grid0.vectors.flatten(0, 1), grid1.vectors.flatten(0, 1)
    forth, back = nearest(flat0, flat1), nearest(flat1, flat0)
    mutual = {(i, int(j)) for i, j in enumerate(forth) if back[j] == i}
    cells0 = (found.points0 / stride - 0.5).long()
    cells1 = (found.points1 / stride - 0.5).long()
    got = set(
        zip(
            (cells0[:, 1] * 31 + cells0[:, 0]).tolist(),
            (cells1[:, 1] * 28 + cells1[:, 0]).tolist(),
            strict=True,
        )
    )
    inner = {
        (i, j)
        for i, j in mutual
        if 2 <= i % 31 < 29 and 2 <= i // 31 < 22 and 2 <= j % 28 < 26 and 2 <= j // 28 < 20
    }
    assert len(got) == len(found.scores) > 10
    assert got == inner if dense else got <= inner
    expected = grid0.confidence_at(cells0) * grid1.confidence_at(cells1)
    torch.testing.assert_close(found.scores.square(), expected)


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("placing", ["none", "peak", "window"])
def test_points_are_found_between_the_cells(stride: int, placing: Any) -> None:
    """What lies at x in image 0 lies 3.4 cells earlier in image 1."""
    shift = 3.4 * stride
    grid0, grid1 = (
        replace(smooth_grid(30, 40, stride, shift=by), placing=placing) for by in (0.0, shift)
    )
    points = torch.rand(200, 2, generator=torch.Generator().manual_seed(0))
    points = points * torch.tensor([28.0, 22.0]) * stride + torch.tensor([8.0, 4.0]) * stride
    errors = {}
    for subpixel in (False, True):
        (found,) = matches_from_points(
            [points], [grid0], [grid1], tolerance_px=2.0 * stride, subpixel=subpixel
        )
        assert found.rows0 is not None and len(found.rows0) > 190
        torch.testing.assert_close(found.points0, points[found.rows0])
        there = found.points0 - torch.tensor([shift, 0.0])
        errors[subpixel] = float((found.points1 - there).norm(dim=1).median()) / stride
    assert 0.2 < errors[False] < 0.6
    if placing == "peak":
        assert errors[True] < 0.05
    elif placing == "window":
        # flat for these slow waves: networks are trained to make it peaked
        assert errors[True] < errors[False]
    else:
        assert errors[True] == errors[False]


@pytest.mark.parametrize("placing", ["none", "peak", "window"])
@pytest.mark.parametrize("layout", ["slices", "every other slice", "apart"])
def test_a_batch_gives_what_each_pair_gives_alone(placing: Any, layout: str) -> None:
    step = 2 if layout == "every other slice" else 1
    shifts = [0.0, 1.3, 2.6, 5.1, -3.4, 7.7]
    grids = [smooth_grid(20, 26, 2, shift=by) for by in shifts]
    vectors = list(torch.stack([g.vectors for g in grids]))
    confidence = list(torch.stack([g.confidence + k for k, g in enumerate(grids)]))
    if layout == "apart":
        vectors, confidence = ([t.clone() for t in tensors] for tensors in (vectors, confidence))
    together = [
        replace(g, vectors=v, confidence=c, placing=placing)
        for g, v, c in zip(grids, vectors, confidence, strict=True)
    ]
    grids0, grids1 = together[::step], together[::-1][::step]
    generator = torch.Generator().manual_seed(0)
    counts = [40, 0, 1, 25, 60, 3][: len(grids0)]
    points = [torch.rand(n, 2, generator=generator) * 60 - 4 for n in counts]
    found = matches_from_points(points, grids0, grids1, tolerance_px=5, subpixel=True)
    assert sum(len(matches.scores) for matches in found) > 15
    for own, grid0, grid1, matches in zip(points, grids0, grids1, found, strict=True):
        (alone,) = matches_from_points([own], [grid0], [grid1], tolerance_px=5, subpixel=True)
        for name, value in vars(alone).items():
            torch.testing.assert_close(getattr(matches, name), value)


def test_grids_of_several_sizes_are_matched_too() -> None:
    small, large = smooth_grid(12, 16, 2), smooth_grid(20, 26, 2)
    points = [torch.tensor([[7.0, 7.0]]), torch.tensor([[31.0, 30.0], [5.0, 5.0]])]
    found = matches_from_points(
        points, [small, large], [large, small], tolerance_px=5, subpixel=False
    )
    assert [len(matches.scores) for matches in found] == [1, 1]


def test_points_outside_and_pairs_without_points() -> None:
    grid0, grid1 = smooth_grid(12, 16, 2), smooth_grid(12, 16, 2)
    outside = torch.tensor([[-0.1, 3.0], [5.0, 24.1], [32.5, 1.0], [7.0, 7.0], [31.9, 23.9]])
    found, none = matches_from_points(
        [outside, torch.zeros(0, 2)], [grid0] * 2, [grid1] * 2, tolerance_px=0, subpixel=True
    )
    assert found.rows0 is not None and found.rows0.tolist() == [3, 4]
    assert none.rows0 is not None and len(none.rows0) == len(none.scores) == 0
    assert matches_from_points([], [], [], tolerance_px=5, subpixel=True) == []


def test_a_point_has_to_come_back_within_the_tolerance() -> None:
    """In image 1 two places look like cell 2 of image 0, whose twin is cell 5."""
    vectors0, vectors1 = torch.zeros(1, 8, 8), torch.zeros(1, 4, 8)
    vectors0[0, torch.arange(8), torch.arange(8)] = 1
    vectors0[0, 5, 2] = 2  # cell 5 outshines cell 2 in what cell 2 shows
    vectors1[0, 1, 2] = 1
    vectors1[0, 3, 7] = 1
    ones = torch.ones(1, 8)
    grid0 = Grid(vectors=vectors0, confidence=ones)
    grid1 = Grid(vectors=vectors1, confidence=ones[:, :4])
    points = torch.tensor([[2.5, 0.5], [7.5, 0.5]])
    kept = {}
    for tolerance in (0.0, 3.0, 3.5):
        (found,) = matches_from_points(
            [points], [grid0], [grid1], tolerance_px=tolerance, subpixel=False
        )
        assert found.rows0 is not None
        kept[tolerance] = found.rows0.tolist()
    assert kept == {0.0: [1], 3.0: [1], 3.5: [0, 1]}  # it returns three pixels away: not closer


def test_free_ends_and_joined_matches() -> None:
    grid0, grid1 = smooth_grid(20, 25, 2), smooth_grid(20, 25, 2, shift=6.0)
    points = torch.rand(60, 2, generator=torch.Generator().manual_seed(2)) * 38
    (forth,) = matches_from_points([points], [grid0], [grid1], tolerance_px=5, subpixel=True)
    (back,) = matches_from_points([points], [grid1], [grid0], tolerance_px=5, subpixel=True)
    both = GridMatches.concatenate([forth.with_free_ends(), back.with_free_ends().swapped()])
    assert forth.rows0 is not None and back.rows0 is not None
    assert both.rows0 is not None and both.rows1 is not None
    free0, free1 = [-1] * len(back.rows0), [-1] * len(forth.rows0)
    assert both.rows0.tolist() == forth.rows0.tolist() + free0
    assert both.rows1.tolist() == free1 + back.rows0.tolist()
    assert torch.equal(both.points0, torch.cat([forth.points0, back.points1]))
    one_sided = GridMatches.concatenate([forth, forth])
    assert one_sided.rows1 is None and len(one_sided.scores) == 2 * len(forth.scores)
