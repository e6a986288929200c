import json
import math
from pathlib import Path

import pytest
import torch

from matching.training.losses import (
    InfoNCEMode,
    blockwise_info_nce,
    confidence_weighted_loss,
    confident_matching_loss,
    info_nce,
    local_matching_loss,
    masked_mean,
    match_odds_loss,
    pointmap_errors,
    unmatched_loss,
)
from tests import golden_adapter
from tests.matching.training.loss_batch import golden_loss_batch

GOLDEN = json.loads(
    (Path(__file__).parents[2] / "data" / "golden_losses.json").read_text(encoding="utf-8")
)


def unit(*shape: int, seed: int = 0) -> torch.Tensor:
    values = torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
    return torch.nn.functional.normalize(values, dim=-1)


@pytest.mark.parametrize("name", sorted(GOLDEN["losses"]))
def test_published_numbers(name: str) -> None:
    value = golden_adapter.losses(name, *golden_loss_batch(GOLDEN["seed"]))
    # the fixtures' own tolerance; float32 sums in another order differ by about 2e-7
    assert value == pytest.approx(GOLDEN["losses"][name], rel=2e-5)


def test_info_nce_by_hand() -> None:
    desc0 = torch.tensor([[[1.0, 0.0], [0.0, 1.0]]])
    desc1 = torch.tensor([[[1.0, 0.0], [0.6, 0.8]]])
    similarity = torch.tensor([[1.0, 0.6], [0.0, 0.8]]) / 0.5
    exponent = similarity.exp()
    for i in range(2):
        row = -math.log(exponent[i, i] / exponent[i].sum())
        column = -math.log(exponent[i, i] / exponent[:, i].sum())
        proper = info_nce(desc0, desc1, temperature=0.5)[0, i]
        assert float(proper) == pytest.approx(row + column, rel=1e-6)


def test_unmatched_loss_is_nothing_for_all_alike_and_most_for_one_found() -> None:
    grid = unit(2, 9, 4)
    every = torch.ones(2, 9, dtype=torch.bool)
    alike = grid[:, :1].expand(2, 7, 4)
    one = unmatched_loss(grid[:, :5], alike, every[:, :7], temperature=0.05)
    torch.testing.assert_close(one, torch.zeros(2, 5), atol=1e-5, rtol=0)
    sure = unmatched_loss(grid[:, :5], grid, every, temperature=1e-4)
    torch.testing.assert_close(sure, torch.full((2, 5), math.log(9)), atol=1e-3, rtol=0)
    # by hand, and a step against its gradient makes the places more alike
    places = grid[:, :5].clone().requires_grad_()
    losses = unmatched_loss(places, grid, every, temperature=0.2)
    probability = (places[0, 3] @ grid[0].T / 0.2).softmax(0)
    by_hand = float((probability * (9 * probability).log()).sum().detach())
    assert float(losses[0, 3].detach()) == pytest.approx(by_hand, rel=1e-5)
    losses.sum().backward()  # type: ignore[no-untyped-call]
    assert places.grad is not None
    moved = unmatched_loss(places - 0.01 * places.grad, grid, every, temperature=0.2)
    assert float((moved.sum() - losses.sum()).detach()) < 0
    # who is no candidate is not there; without any there is nothing to single out
    some = every.clone()
    some[0, 4:] = False
    some[1] = False
    losses = unmatched_loss(grid[:, :5], grid, some, temperature=0.2)
    few = unmatched_loss(grid[:, :5], grid[:, :4], every[:, :4], temperature=0.2)
    torch.testing.assert_close(losses[0], few[0])
    assert losses[1].tolist() == [0.0] * 5


@pytest.mark.parametrize("mode", ["proper", "dual", "all"])
def test_info_nce_is_clamped_and_survives_nan(mode: InfoNCEMode) -> None:
    desc0 = unit(1, 5, 8)
    hopeless = info_nce(desc0, -desc0, temperature=0.01, mode=mode)
    most = -math.log(1e-8) * (2 if mode == "proper" else 1)
    assert float(hopeless.max()) == pytest.approx(most, rel=1e-5)
    broken = desc0.clone()
    broken[0, 3] = torch.nan  # a NaN descriptor is no negative for the others
    losses = info_nce(desc0, broken, mode=mode)
    keep = torch.tensor([0, 1, 2, 4])
    expected = info_nce(desc0, desc0, mode=mode)[0, keep]
    # row 3 still is a negative on one side, so only finiteness and rough size are compared
    assert torch.isfinite(losses[0, keep]).all()
    assert float((losses[0, keep] - expected).abs().max()) < 1.0


def test_blocks_contrast_within_themselves_in_the_input_order() -> None:
    desc0, desc1 = unit(2, 12, 8, seed=1), unit(2, 12, 8, seed=2)
    torch.testing.assert_close(
        blockwise_info_nce(desc0, desc1, block_size=12), info_nce(desc0, desc1)
    )
    generator = torch.Generator().manual_seed(3)
    blocks = blockwise_info_nce(desc0, desc1, block_size=5, generator=generator)
    order = torch.randperm(12, generator=torch.Generator().manual_seed(3))
    for rows in (order[:5], order[5:10], order[10:]):
        torch.testing.assert_close(blocks[:, rows], info_nce(desc0[:, rows], desc1[:, rows]))


def test_point_errors_ignore_scale_unless_metric() -> None:
    target = torch.rand(2, 4, 5, 3) + 1
    valid = torch.ones(2, 4, 5, dtype=torch.bool)
    metric = torch.tensor([False, True])
    errors0, errors1 = pointmap_errors(
        3 * target, 3 * target, target, target, valid, valid, is_metric=metric
    )
    assert float(errors0[0].max()) < 1e-6 and float(errors1[0].max()) < 1e-6
    # tripled points lie two target distances off
    scale = target[1].norm(dim=-1).mean()
    torch.testing.assert_close(errors0[1], 2 * target[1].norm(dim=-1) / scale)


def test_invalid_pixels_and_empty_masks_count_nothing() -> None:
    target = torch.rand(1, 3, 3, 3) + 1
    valid = torch.ones(1, 3, 3, dtype=torch.bool)
    valid[0, 0, 0] = False
    predicted = target.clone()
    predicted[0, 0, 0] = torch.nan
    predicted.requires_grad_()
    errors, _ = pointmap_errors(predicted, target, target, target, valid, valid)
    confidence = torch.full((1, 3, 3), 2.0)
    loss = confidence_weighted_loss(errors, confidence, valid, alpha=0.5)
    assert float(loss.detach()) == pytest.approx(-0.5 * math.log(2), abs=1e-6)
    nothing = torch.zeros(1, 3, 3, dtype=torch.bool)
    assert float(confidence_weighted_loss(errors.detach(), confidence, nothing)) == 0
    assert float(masked_mean(torch.full((2,), torch.nan), torch.zeros(2, dtype=torch.bool))) == 0


def test_sky_joins_the_mask_with_a_constant() -> None:
    errors, confidence = torch.zeros(1, 1, 4), torch.full((1, 1, 4), 3.0)
    valid = torch.tensor([[[True, True, False, False]]])
    sky = torch.tensor([[[False, True, True, False]]])  # valid pixels stay valid
    loss = confidence_weighted_loss(errors, confidence, valid, sky=sky, alpha=0.2)
    assert float(loss) == pytest.approx(2.0 * 3 / 3 - 0.2 * math.log(3), rel=1e-6)


def test_confident_matching_modes() -> None:
    losses, valid = torch.tensor([[2.0, 9.0]]), torch.tensor([[True, False]])
    conf0, conf1 = torch.tensor([[1.0, 5.0]]), torch.tensor([[3.0, 5.0]])
    mean = confident_matching_loss(losses, conf0, conf1, valid)
    assert float(mean) == pytest.approx(2 * 2 - 10 * math.log(2), rel=1e-6)
    product = confident_matching_loss(losses, conf0, conf1, valid, mode="prod")
    assert float(product) == pytest.approx(2 * 3 - 10 * math.log(3), rel=1e-6)


def smooth_grid(height: int, width: int) -> torch.Tensor:
    """Unit descriptors that change slowly with the place: angles along x and y."""
    y, x = torch.meshgrid(torch.arange(height) * 0.3, torch.arange(width) * 0.3, indexing="ij")
    grid = torch.stack([x.cos(), x.sin(), y.cos(), y.sin()], -1)[None]
    return torch.nn.functional.normalize(grid, dim=-1)


def test_local_loss_is_least_at_the_truth() -> None:
    grid = smooth_grid(20, 24)
    places = torch.tensor([[[9.3, 8.6], [12.0, 11.0], [15.5, 6.25]]])
    x, y = places[..., 0] * 0.3, places[..., 1] * 0.3
    right = torch.stack([x.cos(), x.sin(), y.cos(), y.sin()], -1) / math.sqrt(2)
    centers = places.round().long() + torch.tensor([1, -1])
    valid = torch.ones(1, 3, dtype=torch.bool)

    def losses(descriptors: torch.Tensor) -> tuple[float, float]:
        entropy, distance = local_matching_loss(
            *(descriptors, grid, places, valid), centers=centers, temperature=0.01
        )
        return float(entropy), float(distance)

    entropy, distance = losses(right)
    assert distance < 0.15
    moved = right.roll(1, dims=1)
    assert losses(moved)[0] > entropy + 1 and losses(moved)[1] > 1


def test_local_loss_counts_only_whole_targets_in_the_window() -> None:
    grid = smooth_grid(8, 8)
    places = torch.tensor([[[3.5, 3.5], [7.4, 3.0], [3.5, 3.5]]])
    centers = torch.tensor([[[3, 3], [7, 3], [3, 3]]])
    valid = torch.tensor([[True, True, False]])  # the second's neighbours are out of the grid
    descriptors = unit(1, 3, 4)
    both = local_matching_loss(descriptors, grid, places, valid, centers=centers)
    alone = local_matching_loss(
        descriptors[:, :1], grid, places[:, :1], valid[:, :1], centers=centers[:, :1]
    )
    torch.testing.assert_close(both, alone)
    none = local_matching_loss(descriptors, grid, places, ~valid & valid, centers=centers)
    assert float(none[0]) == 0 and float(none[1]) == 0


def test_odds_are_those_of_the_data() -> None:
    log_odds = torch.zeros(400, requires_grad=True)
    right = torch.arange(400) % 4 != 0  # three of four
    counted = torch.ones(400, dtype=torch.bool)
    shared = log_odds.sum() / 400 + torch.zeros(400)
    (gradient,) = torch.autograd.grad(match_odds_loss(shared.exp(), right, counted), log_odds)
    assert float(gradient.sum()) < 0  # wants larger odds
    at_truth = torch.full((400,), math.log(3.0), requires_grad=True)
    (gradient,) = torch.autograd.grad(match_odds_loss(at_truth.exp(), right, counted), at_truth)
    assert abs(float(gradient.sum())) < 1e-6
