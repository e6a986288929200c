"""`distinctness` against its formula written out place by place."""

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from matching.distinctness import distinctness


def written_out(
    descriptor: Tensor, grid: Tensor, x: int, y: int, temperature: float, radius: int, step: int
) -> float:
    best = float(descriptor @ grid[y, x])
    odds = 0.0
    for row in range(0, grid.shape[0], step):
        for column in range(0, grid.shape[1], step):
            similarity = float(descriptor @ grid[row, column])
            if max(abs(row - y), abs(column - x)) > radius and not math.isnan(similarity):
                odds += step**2 * math.exp((similarity - best) / temperature)
    return 1 / (1 + odds)


@pytest.mark.parametrize(
    ("height", "width", "number", "radius", "step"),
    [(23, 17, 31, 4, 2), (1, 1, 1, 4, 2), (5, 40, 7, 0, 1), (16, 16, 9, 3, 3), (9, 9, 5, 20, 2)],
)
def test_equals_the_formula(height: int, width: int, number: int, radius: int, step: int) -> None:
    rng = torch.Generator().manual_seed(height)
    grid = F.normalize(torch.randn(height, width, 8, generator=rng), dim=-1)
    if height > 5:
        grid[2, 4] = torch.nan
    cells = (torch.rand(number, 2, generator=rng) * torch.tensor([width, height])).long()
    own = torch.where(grid[cells[:, 1], cells[:, 0]].isnan(), 0.1, grid[cells[:, 1], cells[:, 0]])
    descriptors = F.normalize(own + 0.3 * torch.randn(number, 8, generator=rng), dim=-1)
    cells = cells[~grid[cells[:, 1], cells[:, 0]].isnan().any(1)]
    descriptors = descriptors[: len(cells)]
    found = distinctness(descriptors, grid, cells, temperature=0.2, radius=radius, step=step)
    expected = [
        written_out(d, grid, int(x), int(y), 0.2, radius, step)
        for d, (x, y) in zip(descriptors, cells, strict=True)
    ]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_of_no_matches() -> None:
    empty = distinctness(torch.zeros(0, 8), torch.zeros(4, 4, 8), torch.zeros(0, 2).long())
    assert empty.shape == (0,)


def test_many_matches_in_blocks_equal_few() -> None:
    rng = torch.Generator().manual_seed(0)
    grid = F.normalize(torch.randn(90, 120, 24, generator=rng), dim=-1)
    cells = (torch.rand(3000, 2, generator=rng) * torch.tensor([120, 90])).long()
    descriptors = F.normalize(torch.randn(3000, 24, generator=rng), dim=-1)
    whole = distinctness(descriptors, grid, cells)
    parts = [distinctness(descriptors[k::7], grid, cells[k::7]) for k in range(7)]
    for k, part in enumerate(parts):
        torch.testing.assert_close(whole[k::7], part, rtol=1e-4, atol=1e-7)


def test_a_look_alike_far_away_halves_it_and_a_neighbour_does_not() -> None:
    grid = torch.zeros(40, 48, 24)
    grid[..., 0] = -1.0
    own = torch.zeros(1, 24)
    own[0, 0] = 1.0
    grid[20, 20] = own[0]
    cells = torch.tensor([[20, 20]])
    alone = float(distinctness(own, grid, cells, step=1))
    grid[22, 22] = own[0]
    beside = float(distinctness(own, grid, cells, step=1))
    grid[4, 30] = own[0]
    twice = float(distinctness(own, grid, cells, step=1))
    assert alone == pytest.approx(1.0, abs=1e-6)
    assert beside == pytest.approx(1.0, abs=1e-6)
    assert twice == pytest.approx(0.5, abs=1e-6)
