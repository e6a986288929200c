"""The joined loss: its parts, and how they are weighted."""

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from matching.descriptor_grid import pixels_to_cells, sample_bilinear
from matching.network.prediction import Prediction
from matching.training import objective
from matching.training.losses import masked_mean, unmatched_loss
from matching.training.objective import METRIC_NAMES, LossOptions, joined_loss
from matching.training.samples import sample_correspondences
from tests.matching.training.planes import plane_pairs


def test_places_without_a_partner_count_in_both_images() -> None:
    batch = plane_pairs(4, pairs=2, image_size=(64, 48), difficulty=1.0)
    generator = torch.Generator().manual_seed(0)
    views = [
        Prediction(
            pointmap=torch.rand(2, 48, 64, 3, generator=generator) + 1,
            confidence=torch.rand(2, 48, 64, generator=generator) + 1,
            descriptors=torch.randn(2, 24, 32, 8, generator=generator),
            descriptor_confidence=torch.rand(2, 24, 32, generator=generator) + 1,
        )
        for _ in range(2)
    ]
    samples = sample_correspondences(batch, 512, generator=generator)
    num_alone = [int(alone.sum()) for alone in (samples.unmatched0, samples.unmatched1)]
    assert min(num_alone) > 5

    def judge(weight: float) -> tuple[float, dict[str, float]]:
        loss, metrics = joined_loss(
            *views,
            F.normalize(torch.ones(2, 2, 4), dim=-1),
            batch,
            samples,
            LossOptions(unmatched_weight=weight, temperature=0.3),
            torch.Generator().manual_seed(1),
        )
        return float(loss), dict(zip(METRIC_NAMES, metrics.tolist(), strict=True))

    d0, d1 = (
        F.normalize(sample_bilinear(view.descriptors, pixels_to_cells(at + 0.5, 2)), dim=-1)
        for view, at in zip(views, (samples.positions0, samples.positions1), strict=True)
        if view.descriptors is not None
    )
    means = [
        float(masked_mean(unmatched_loss(one, other, real, temperature=0.3), alone))
        for one, other, real, alone in (
            (d0, d1, samples.real1, samples.unmatched0),
            (d1, d0, samples.real0, samples.unmatched1),
        )
    ]
    assert means[0] != pytest.approx(means[1], rel=1e-3)
    without, metrics = judge(0.0)
    assert metrics["unmatched"] == pytest.approx(sum(means) / 2, rel=1e-5)
    assert metrics["visible"] == pytest.approx(float(samples.visible.float().mean()))
    assert judge(0.5)[0] - without == pytest.approx(0.5 * metrics["unmatched"], rel=1e-4)


def test_shape_and_scale_of_point_maps_are_judged_apart() -> None:
    points = torch.rand(2, 40, 3, generator=torch.Generator().manual_seed(0)) + 1
    valid = torch.ones(2, 40, dtype=torch.bool)
    same = torch.eye(4).expand(2, 4, 4)

    def judge(
        guess: torch.Tensor, valid: torch.Tensor = valid, sure: float = 1.0, reward: float = 1.0
    ) -> list[float]:
        maps = (guess, guess, torch.full((2, 40), sure), torch.full((2, 40), sure))
        rows = objective._regression(*maps, points, points, valid, valid, same, 20.0, reward)
        return [float(row) for row in rows]

    assert judge(points) == pytest.approx([0, 0, 0], abs=1e-6)
    halves, doubles = judge(points * 0.5), judge(points * 2)
    assert halves == pytest.approx([0, 0, np.log(2)], abs=1e-6)
    assert doubles == pytest.approx(halves, abs=1e-6)  # too near is as wrong as too far
    bent = judge(points * torch.tensor([1.0, 1.0, 0.2]))
    assert bent[1] > 0.2
    # confidence pays where the error is below the reward
    assert judge(points * torch.tensor([1.0, 1.0, 0.2]), sure=1.1)[0] < bent[0]
    low = judge(points * torch.tensor([1.0, 1.0, 0.2]), sure=1.1, reward=0.2)[0]
    assert low > judge(points * torch.tensor([1.0, 1.0, 0.2]), reward=0.2)[0]
    assert judge(points * 3, torch.zeros_like(valid)) == pytest.approx([0, 0, 0], abs=1e-6)


def test_a_pair_that_shares_little_counts_nearly_like_one_that_shares_all() -> None:
    losses = torch.tensor([[1.0], [3.0]]).expand(2, 1000).clone()
    visible = torch.ones(2, 1000, dtype=torch.bool)
    visible[1, 100:] = False
    losses[1, 100:] = torch.nan  # what is not visible leaves no trace
    mean = float(objective._mean_of_pairs(losses, visible))
    assert mean == pytest.approx((1000 / 1032 + 3 * 100 / 132) / 2)
    assert float(objective._mean_of_pairs(losses, torch.zeros_like(visible))) == 0
