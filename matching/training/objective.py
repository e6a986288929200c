"""What the small network is trained for: the losses joined, and the numbers that are logged."""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from matching.descriptor_grid import pixels_to_cells, sample_bilinear
from matching.network.prediction import Prediction
from matching.network.small import SmallNetwork
from matching.training.batch import PairBatch
from matching.training.geometry import rigid_inverse
from matching.training.losses import (
    confidence_weighted_loss,
    info_nce,
    local_matching_errors,
    log_scale_error,
    masked_mean,
    match_odds_loss,
    pointmap_errors,
    unmatched_loss,
)
from matching.training.samples import Correspondences

METRIC_NAMES = (
    *("loss", "matching", "accuracy", "local", "local_error_px", "odds"),
    *("regression", "point_error", "scale_error", "retrieval", "retrieval_accuracy", "visible"),
    "unmatched",
)

_FEW = 32  # a pair of so many visible correspondences counts half


@dataclass(frozen=True, kw_only=True)
class LossOptions:
    """Weights and constants of the joined loss."""

    matching_weight: float = 1.0  # InfoNCE, mean over the pairs of the mean of a pair, nats
    unmatched_weight: float = 0.15  # what places without a partner single out, nats
    local_weight: float = 1.0  # cross-entropy inside the window, nats
    local_error_weight: float = 1.0  # distance of the expected from the true place, cells
    odds_weight: float = 0.5  # descriptor confidence as the odds of a right match
    regression_weight: float = 0.15  # confidence-weighted point maps of any scale
    # reward of confident point maps; at the published 0.2 no error on hard pairs is small enough
    # for a confidence above the least
    confidence_reward: float = 1.0
    scale_weight: float = 0.1  # logarithm of their scale against metres
    retrieval_weight: float = 0.1  # global descriptors, the pair against the batch
    temperature: float = 0.05  # of InfoNCE and of the window
    retrieval_temperature: float = 0.07
    local_correspondences: int = 256  # per pair that get a window; the costliest part of the loss
    local_radius_cells: int = 3  # half the side of the window
    local_jitter_cells: int = 1  # how far the window's centre may be from the truth's cell
    # a match is right for the confidence if the best of all sampled places is this near to the
    # truth, and the expected place inside the window that near
    right_within_px: float = 3.0
    exact_within_px: float = 1.0
    max_distance: float = 20.0  # targets beyond this many times the pair's median are not regressed

    def __post_init__(self) -> None:
        for name in (
            *("temperature", "retrieval_temperature", "max_distance"),
            *("right_within_px", "exact_within_px", "confidence_reward"),
        ):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name, least in (
            ("local_correspondences", 1),
            ("local_radius_cells", 1),
            ("local_jitter_cells", 0),
        ):
            if getattr(self, name) < least:
                raise ValueError(f"{name} must be >= {least}, got {getattr(self, name)}")


class _Maps(NamedTuple):
    """A prediction of which nothing is missing."""

    pointmap: Tensor
    confidence: Tensor
    descriptors: Tensor
    descriptor_confidence: Tensor

    @staticmethod
    def of(view: Prediction) -> "_Maps":
        values = [getattr(view, name) for name in _Maps._fields]
        if any(value is None for value in values):
            raise ValueError("training needs point maps and descriptors of both views")
        return _Maps(*values)


def joined_loss(
    view0: Prediction,
    view1: Prediction,
    global_descriptors: Tensor,
    batch: PairBatch,
    correspondences: Correspondences,
    options: LossOptions,
    generator: torch.Generator | None = None,
    *,
    compile: bool = False,
) -> tuple[Tensor, Tensor]:
    """The training loss of a batch.

    Args:
        view0: Prediction of the pairs' image 0.
        view1: Prediction of their image 1; points in camera 0.
        global_descriptors: (B, 2, G).
        batch: The rendered pairs with their geometry.
        correspondences: From `matching.training.samples.sample_correspondences`.
        options: Weights and constants.
        generator: For the jitter of the windows, on the batch's device.
        compile: Compile the parts that move the most memory.

    Returns:
        The loss, and the metrics of `METRIC_NAMES` as one detached vector, both on the device.
    """
    maps0, maps1 = _Maps.of(view0), _Maps.of(view1)
    visible = correspondences.visible
    cells0 = pixels_to_cells(correspondences.positions0 + 0.5, SmallNetwork.descriptor_stride)
    cells1 = pixels_to_cells(correspondences.positions1 + 0.5, SmallNetwork.descriptor_stride)
    descriptors0 = F.normalize(sample_bilinear(maps0.descriptors, cells0), dim=-1)  # (B, N, D)
    descriptors1 = F.normalize(sample_bilinear(maps1.descriptors, cells1), dim=-1)

    losses, right0, right1 = _either(_contrast, compile)(
        descriptors0,
        descriptors1,
        correspondences.positions0,
        correspondences.positions1,
        options.temperature,
        options.right_within_px,
    )
    matching = _mean_of_pairs(losses, visible)
    accuracy = masked_mean((right0 & right1).float(), visible)

    unmatched = torch.zeros((), device=visible.device)
    for one, another, real, alone in (
        (descriptors0, descriptors1, correspondences.real1, correspondences.unmatched0),
        (descriptors1, descriptors0, correspondences.real0, correspondences.unmatched1),
    ):
        nats = _either(unmatched_loss, compile)(one, another, real, temperature=options.temperature)
        unmatched = unmatched + masked_mean(nats, alone) / 2

    local = local_error = odds = torch.zeros((), device=visible.device)
    every = slice(None, None, max(1, visible.shape[1] // options.local_correspondences))
    for maps, own, own_cells, right, other, cells in (
        (maps0, descriptors0, cells0, right0, maps1.descriptors, cells1),
        (maps1, descriptors1, cells1, right1, maps0.descriptors, cells0),
    ):
        own, own_cells, right, cells = (x[:, every] for x in (own, own_cells, right, cells))
        shape = (*cells.shape[:-1], 2)
        jitter = torch.rand(shape, device=cells.device, generator=generator)
        reach = options.local_jitter_cells
        centers = cells.round().long() + (jitter * (2 * reach + 1)).long() - reach
        cross_entropy, error, usable = local_matching_errors(
            own,
            other,
            cells,
            visible[:, every],
            centers=centers,
            radius=options.local_radius_cells,
            temperature=options.temperature,
        )
        local = local + masked_mean(cross_entropy, usable) / 2
        local_error = local_error + masked_mean(error, usable) / 2
        exact = error.detach() * SmallNetwork.descriptor_stride < options.exact_within_px
        odds = odds + _odds(maps, own_cells, right & exact & visible[:, every])

    regression, point_error, scale_error = _either(_regression, compile)(
        *(m.flatten(1, 2) for m in (maps0.pointmap, maps1.pointmap)),
        *(m.flatten(1, 2) for m in (maps0.confidence, maps1.confidence)),
        *batch.pointmaps.flatten(2, 3).unbind(1),
        *batch.valid.flatten(2, 3).unbind(1),
        batch.cam1_from_cam0,
        options.max_distance,
        options.confidence_reward,
    )
    retrieval, retrieval_accuracy = _retrieval(global_descriptors, visible, options)
    loss = (
        options.matching_weight * matching
        + options.unmatched_weight * unmatched
        + options.local_weight * local
        + options.local_error_weight * local_error
        + options.odds_weight * odds
        + options.regression_weight * regression
        + options.scale_weight * scale_error
        + options.retrieval_weight * retrieval
    )
    metrics = torch.stack(
        [
            *(loss, matching, accuracy, local, local_error * SmallNetwork.descriptor_stride, odds),
            *(regression, point_error, scale_error),
            *(retrieval, retrieval_accuracy, visible.float().mean(), unmatched),
        ]
    )
    return loss, metrics.detach()


def chance_level(count: int) -> float:
    """InfoNCE of descriptors that know nothing, among ``count`` correspondences, nats."""
    return 2 * math.log(count)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    return torch.compile(function, dynamic=False)


def _either(function: Callable[..., Any], compile: bool) -> Callable[..., Any]:
    return _compiled(function) if compile else function


def _contrast(
    descriptors0: Tensor,
    descriptors1: Tensor,
    positions0: Tensor,
    positions1: Tensor,
    temperature: float,
    within_px: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """InfoNCE, (B, N), and whether each place's best match among all lies where it should."""
    losses = info_nce(descriptors0, descriptors1, temperature=temperature)
    with torch.no_grad():
        similarity = descriptors0 @ descriptors1.mT
        best1 = positions1.gather(1, similarity.argmax(2)[..., None].expand(-1, -1, 2))
        best0 = positions0.gather(1, similarity.argmax(1)[..., None].expand(-1, -1, 2))
        right0 = (best1 - positions1).norm(dim=-1) < within_px
        right1 = (best0 - positions0).norm(dim=-1) < within_px
    return losses, right0, right1


def _odds(maps: _Maps, cells: Tensor, is_right: Tensor) -> Tensor:
    height, width = maps.descriptor_confidence.shape[1:]
    x, y = cells[..., 0], cells[..., 1]
    # places that are not in this image have no confidence to teach
    inside = (x >= -0.5) & (y >= -0.5) & (x <= width - 0.5) & (y <= height - 0.5)
    confidence = sample_bilinear(maps.descriptor_confidence[..., None], cells)[..., 0]
    return match_odds_loss(confidence, is_right, inside) / 2


def _regression(
    points0: Tensor,
    points1: Tensor,
    confidence0: Tensor,
    confidence1: Tensor,
    target0: Tensor,
    target1: Tensor,
    valid0: Tensor,
    valid1: Tensor,
    cam1_from_cam0: Tensor,
    max_distance: float,
    reward: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """The point maps' loss, error by the size of the pair, and error of their scale.

    Shape and scale are learned apart: errors in metres would be mostly errors of the scale, drive
    all confidences to their least and, as a point too far costs more than one too near, shrink
    the depths. Pixels are in one axis, so that portrait compiles no second time.

    Predicted points and confidences, (B, P, 3) and (B, P); targets in their own cameras, (B, P, 3),
    and whether they are there, (B, P).
    """
    target1, valid0, valid1 = counted_targets(
        target0, target1, valid0, valid1, cam1_from_cam0, max_distance
    )
    # (B, P, 3) maps are (B, P, 1, 3) images
    maps = [x[:, :, None] for x in (points0, points1, target0, target1, valid0, valid1)]
    errors0, errors1 = (x[:, :, 0] for x in pointmap_errors(*maps))
    scale_error = log_scale_error(*maps).mean()
    loss = confidence_weighted_loss(errors0, confidence0, valid0, alpha=reward)
    loss = loss + confidence_weighted_loss(errors1, confidence1, valid1, alpha=reward)
    error = masked_mean(errors0.detach(), valid0) + masked_mean(errors1.detach(), valid1)
    return loss, error / 2, scale_error


def counted_targets(
    target0: Tensor,
    target1: Tensor,
    valid0: Tensor,
    valid1: Tensor,
    cam1_from_cam0: Tensor,
    max_distance: float,
) -> tuple[Tensor, Tensor, Tensor]:
    """What the point maps of a batch are compared with.

    Args:
        target0: True points of view 0 in camera 0, (B, P, 3).
        target1: True points of view 1 in camera 1, (B, P, 3).
        valid0: Pixels of view 0 with a target, (B, P) bool.
        valid1: Pixels of view 1 with a target, (B, P) bool.
        cam1_from_cam0: (B, 4, 4).
        max_distance: `LossOptions.max_distance`.

    Returns:
        The points of view 1 in camera 0, and which pixels of both views count: a few far ones
        would set the scale of the pair.
    """
    cam0_from_cam1 = rigid_inverse(cam1_from_cam0.float())
    target1 = target1 @ cam0_from_cam1[:, :3, :3].mT + cam0_from_cam1[:, None, :3, 3]
    norm0, norm1 = target0.norm(dim=-1), target1.norm(dim=-1)
    reach = max_distance * norm0[:, ::16].median(1).values[:, None]
    return target1, valid0 & (norm0 < reach), valid1 & (norm1 < reach)


def _mean_of_pairs(losses: Tensor, visible: Tensor) -> Tensor:
    """Mean over the pairs of the mean of each, (B, N) losses where visible.

    A pose is found or lost by the pair: one that shares a sliver counts like one that shares all,
    but for the few correspondences where a mean would be noise.
    """
    sums = torch.where(visible, losses, 0).sum(1)
    return (sums / (visible.sum(1) + _FEW)).mean()


def _retrieval(descriptors: Tensor, visible: Tensor, options: LossOptions) -> tuple[Tensor, Tensor]:
    """The images of a pair find each other among the batch; every pair is another place."""
    similarity = descriptors[:, 0] @ descriptors[:, 1].mT / options.retrieval_temperature
    truth = torch.arange(len(similarity), device=similarity.device)
    losses = F.cross_entropy(similarity, truth, reduction="none")
    losses = losses + F.cross_entropy(similarity.mT, truth, reduction="none")
    overlaps = visible.float().mean(1) > 0.1  # images with nothing in common need not be similar
    found = (similarity.argmax(1) == truth).float()
    return masked_mean(losses / 2, overlaps), masked_mean(found, overlaps)
