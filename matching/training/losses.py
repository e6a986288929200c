"""Training losses of the MASt3R family, as published, and four of our own.

Published: scale-normalised point-map regression weighted by the predicted confidence (Wang et al.,
"DUSt3R", CVPR 2024, equations 2-5) and InfoNCE over corresponding descriptors (Leroy, Cabon,
Revaud, "Grounding Image Matching in 3D with MASt3R", ECCV 2024, equations 8-10). Our own:
`unmatched_loss` teaches places without a partner to resemble no other, `local_matching_loss`
teaches descriptors to peak at the exact sub-pixel place within a small window, `match_odds_loss`
teaches the descriptor confidence which matches are right, and `log_scale_error` the metres of point
maps whose shape is learned without a scale.

All functions take and return tensors only, in float32 (call them outside autocast); an empty mask
gives a zero that still carries a gradient graph.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

InfoNCEMode = Literal["proper", "dual", "all"]

_MIN_PROBABILITY = 1e-8  # published clamp inside the logarithms of InfoNCE


def masked_mean(values: Tensor, mask: Tensor) -> Tensor:
    """Mean of the masked values, 0 for an empty mask; shapes equal, no synchronisation."""
    # where() and not a product: a NaN outside the mask must not leak into the mean
    return torch.where(mask, values, 0).sum() / mask.sum().clamp_min(1)


def pair_scale(points0: Tensor, points1: Tensor, valid0: Tensor, valid1: Tensor) -> Tensor:
    """Mean distance to the origin over the valid points of both maps (``avg_dis``).

    Args:
        points0: Point map of view 0 in camera 0, (B, H0, W0, 3).
        points1: Point map of view 1, also in camera 0, (B, H1, W1, 3).
        valid0: Pixels with a target, (B, H0, W0) bool.
        valid1: The same for view 1, (B, H1, W1) bool.

    Returns:
        One positive scale per pair, (B,).
    """
    norm0 = torch.where(valid0, points0.norm(dim=-1), 0).flatten(1).sum(1)
    norm1 = torch.where(valid1, points1.norm(dim=-1), 0).flatten(1).sum(1)
    count = valid0.flatten(1).sum(1) + valid1.flatten(1).sum(1)
    return ((norm0 + norm1) / (count + 1e-8)).clamp_min(1e-8)


def pointmap_errors(
    predicted0: Tensor,
    predicted1: Tensor,
    target0: Tensor,
    target1: Tensor,
    valid0: Tensor,
    valid1: Tensor,
    is_metric: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Distances between scale-normalised predicted and true points (``Regr3D(L21)``).

    The target is divided by its own `pair_scale`; the prediction by its own, too, except in
    metric pairs, where the prediction must get the scale right and is divided by the target's.

    Args:
        predicted0: Predicted point map of view 0 in camera 0, (B, H0, W0, 3).
        predicted1: Predicted point map of view 1 in camera 0, (B, H1, W1, 3).
        target0: True points of view 0 in camera 0, (B, H0, W0, 3).
        target1: True points of view 1 in camera 0, (B, H1, W1, 3).
        valid0: Pixels of view 0 with a target, (B, H0, W0) bool.
        valid1: Pixels of view 1 with a target, (B, H1, W1) bool.
        is_metric: Pairs whose scale counts, (B,) bool; None: no pair (``avg_dis``), all False and
            None are the same.

    Returns:
        Euclidean distances in units of the target's scale, (B, H0, W0) and (B, H1, W1).
    """
    target_scale = pair_scale(target0, target1, valid0, valid1)
    scale = pair_scale(predicted0, predicted1, valid0, valid1)
    if is_metric is not None:
        scale = torch.where(is_metric, target_scale, scale)
    target_scale, scale = target_scale[:, None, None, None], scale[:, None, None, None]
    return (
        (predicted0 / scale - target0 / target_scale).norm(dim=-1),
        (predicted1 / scale - target1 / target_scale).norm(dim=-1),
    )


def log_scale_error(
    predicted0: Tensor,
    predicted1: Tensor,
    target0: Tensor,
    target1: Tensor,
    valid0: Tensor,
    valid1: Tensor,
) -> Tensor:
    """How far the scale of predicted point maps is from the true one, too large like too small.

    Args:
        predicted0: Predicted point map of view 0 in camera 0, (B, H0, W0, 3).
        predicted1: Predicted point map of view 1 in camera 0, (B, H1, W1, 3).
        target0: True points of view 0 in camera 0, (B, H0, W0, 3) metres.
        target1: True points of view 1 in camera 0, (B, H1, W1, 3) metres.
        valid0: Pixels of view 0 with a target, (B, H0, W0) bool.
        valid1: Pixels of view 1 with a target, (B, H1, W1) bool.

    Returns:
        The absolute logarithm of the ratio of both `pair_scale`, (B,); 0 for a pair without a
        target.
    """
    target_scale = pair_scale(target0, target1, valid0, valid1)
    scale = pair_scale(predicted0, predicted1, valid0, valid1)
    some = valid0.flatten(1).any(1) | valid1.flatten(1).any(1)
    return torch.where(some, (scale / target_scale).log().abs(), 0)


def confidence_weighted_loss(
    errors: Tensor,
    confidence: Tensor,
    valid: Tensor,
    *,
    alpha: float = 0.2,
    sky: Tensor | None = None,
    sky_error: float = 2.0,
) -> Tensor:
    """Mean of ``error * C - alpha * log C`` over the masked pixels of one view.

    Args:
        errors: Regression errors, (B, H, W).
        confidence: Predicted confidence C > 0, (B, H, W).
        valid: Pixels with a target, (B, H, W) bool.
        alpha: Reward of being confident.
        sky: Sky pixels, (B, H, W) bool: those that are not valid join the mask with a constant
            error, so that the network learns to doubt them (MASt3R). None: no such pixels (DUSt3R).
        sky_error: That constant error.
    """
    mask = valid
    if sky is not None:
        only_sky = sky & ~valid
        errors = torch.where(only_sky, torch.full_like(errors, sky_error), errors)
        mask = valid | only_sky
    return masked_mean(errors * confidence - alpha * confidence.log(), mask)


def info_nce(
    descriptors0: Tensor,
    descriptors1: Tensor,
    *,
    temperature: float = 0.05,
    mode: InfoNCEMode = "proper",
) -> Tensor:
    """InfoNCE of corresponding descriptors, row i of one image with row i of the other.

    Every row takes part as a negative of the others, also where its own loss is not used later
    because the correspondence is invalid. NaN similarities count as minus infinity.

    Args:
        descriptors0: Unit descriptors, (B, N, D).
        descriptors1: Unit descriptors, (B, N, D).
        temperature: Divides the similarities.
        mode: ``proper``: sum of both directions' cross-entropies; ``dual``: one logarithm over
            their product; ``all``: normalised over all N x N similarities.

    Returns:
        Loss of each correspondence, (B, N).
    """
    similarity = descriptors0 @ descriptors1.transpose(1, 2) / temperature  # (B, N, N)
    similarity = similarity.masked_fill(similarity.isnan(), -math.inf)
    positive = similarity.diagonal(dim1=1, dim2=2)  # (B, N)
    floor = math.log(_MIN_PROBABILITY)
    if mode == "all":
        return -(positive - similarity.flatten(1).logsumexp(1)[:, None]).clamp_min(floor)
    forward = positive - similarity.logsumexp(2)
    backward = positive - similarity.logsumexp(1)
    if mode == "dual":
        return -(forward + backward).clamp_min(floor)
    if mode == "proper":
        return -forward.clamp_min(floor) - backward.clamp_min(floor)
    raise ValueError(f"mode must be proper, dual or all, got {mode!r}")


def unmatched_loss(
    descriptors0: Tensor,
    descriptors1: Tensor,
    candidates: Tensor,
    *,
    temperature: float = 0.05,
) -> Tensor:
    """How much the match probabilities of places that have no partner single one out.

    InfoNCE tells a place where its partner is and has nothing to say to one that has none, so that
    an empty sky may find another. The divergence of its softmax from the uniform distribution,
    log N minus the entropy, is 0 for a place that is as like to all others as to any.

    Args:
        descriptors0: Unit descriptors of the places, (B, M, D).
        descriptors1: Unit descriptors of the other image, (B, N, D).
        candidates: Which of these are places that a match may choose, (B, N) bool.
        temperature: Divides the similarities.

    Returns:
        Nats, (B, M), from 0 to the logarithm of the number of candidates; 0 without any.
    """
    logits = descriptors0 @ descriptors1.mT / temperature  # (B, M, N)
    # a large number and not infinity: infinity times a probability of 0 would be NaN
    logits = logits.masked_fill(~candidates[:, None], -1e4)
    log_probability = logits.log_softmax(-1)
    information = (log_probability.exp() * log_probability).sum(-1)
    count = candidates.sum(-1, keepdim=True)
    return torch.where(count > 0, information + count.clamp_min(1).log(), 0)


def blockwise_info_nce(
    descriptors0: Tensor,
    descriptors1: Tensor,
    *,
    block_size: int = 8192,
    temperature: float = 0.05,
    mode: InfoNCEMode = "proper",
    generator: torch.Generator | None = None,
) -> Tensor:
    """`info_nce` with at most ``block_size`` correspondences against each other.

    More are shuffled and cut into blocks, as published; the result is in the input's order.
    """
    count = descriptors0.shape[1]
    if count <= block_size:
        return info_nce(descriptors0, descriptors1, temperature=temperature, mode=mode)
    order = torch.randperm(count, generator=generator, device=descriptors0.device)
    shuffled = [
        info_nce(descriptors0[:, rows], descriptors1[:, rows], temperature=temperature, mode=mode)
        for rows in order.split(block_size)
    ]
    return torch.cat(shuffled, dim=1)[:, order.argsort()]


def confident_matching_loss(
    losses: Tensor,
    confidence0: Tensor,
    confidence1: Tensor,
    valid: Tensor,
    *,
    alpha: float = 10.0,
    mode: Literal["mean", "prod"] = "mean",
) -> Tensor:
    """Matching losses weighted by the descriptor confidences (``ConfMatchingLoss``).

    Args:
        losses: Loss of each correspondence, (B, N).
        confidence0: Descriptor confidence of image 0 at the correspondences, (B, N).
        confidence1: The same of image 1, (B, N).
        valid: Correspondences that are true, (B, N) bool; the others contribute nothing.
        alpha: Reward of being confident.
        mode: How the two confidences join.
    """
    if mode == "mean":
        confidence = (confidence0 + confidence1) / 2
    elif mode == "prod":
        confidence = confidence0 * confidence1
    else:
        raise ValueError(f"mode must be mean or prod, got {mode!r}")
    return masked_mean(losses * confidence - alpha * confidence.log(), valid)


def local_matching_loss(
    descriptors: Tensor,
    grid: Tensor,
    positions: Tensor,
    valid: Tensor,
    *,
    centers: Tensor,
    radius: int = 3,
    temperature: float = 0.05,
) -> tuple[Tensor, Tensor]:
    """Means of `local_matching_errors` over the correspondences that count, (), ()."""
    cross_entropy, distance, usable = local_matching_errors(
        descriptors,
        grid,
        positions,
        valid,
        centers=centers,
        radius=radius,
        temperature=temperature,
    )
    return masked_mean(cross_entropy, usable), masked_mean(distance, usable)


def local_matching_errors(
    descriptors: Tensor,
    grid: Tensor,
    positions: Tensor,
    valid: Tensor,
    *,
    centers: Tensor,
    radius: int = 3,
    temperature: float = 0.05,
) -> tuple[Tensor, Tensor, Tensor]:
    """Teach descriptors to peak at the exact place within a small window of the other image.

    The similarities of one descriptor with the cells of a window, softmaxed, are compared with
    the truth spread bilinearly over its four nearest cells (cross-entropy), and their expected
    position with the true position (as the fine level of Sun et al., "LoFTR", CVPR 2021, 3.4).

    Args:
        descriptors: Unit descriptors of one image at the correspondences, (B, N, D).
        grid: Unit descriptors of the other image, (B, H, W, D).
        positions: True positions in that grid, (B, N, 2) x, y in cells, first centre at (0, 0).
        valid: True correspondences, (B, N) bool.
        centers: Window centres, (B, N, 2) int64 cells; give a jittered truth, or the centre gives
            the answer away.
        radius: The window has (2 radius + 1) squared cells.
        temperature: Divides the similarities.

    Returns:
        The cross-entropy in nats, (B, N), the distance of the expected from the true position in
        cells, (B, N), and which of them count: the valid correspondences whose true cells lie in
        the window, (B, N) bool.
    """
    height, width, channels = grid.shape[1:]
    steps = torch.arange(-radius, radius + 1, device=grid.device)
    offsets_y, offsets_x = torch.meshgrid(steps, steps, indexing="ij")
    cells_x = centers[..., 0, None] + offsets_x.flatten()  # (B, N, K)
    cells_y = centers[..., 1, None] + offsets_y.flatten()
    inside = (cells_x >= 0) & (cells_x < width) & (cells_y >= 0) & (cells_y < height)
    index = cells_y.clamp(0, height - 1) * width + cells_x.clamp(0, width - 1)
    batch, count, window = index.shape
    near = grid.flatten(1, 2).gather(
        1, index.flatten(1)[..., None].expand(-1, -1, channels)
    )  # (B, N*K, D)
    near = near.view(batch, count, window, channels)
    logits = (near @ descriptors[..., None])[..., 0] / temperature  # (B, N, K)
    log_probability = logits.masked_fill(~inside, -1e4).log_softmax(-1)
    distance_x = (cells_x - positions[..., 0, None]).abs()
    distance_y = (cells_y - positions[..., 1, None]).abs()
    target = (1 - distance_x).clamp_min(0) * (1 - distance_y).clamp_min(0)
    target = torch.where(inside, target, 0)
    # all four neighbours of the truth are in the window, else the target would be skewed
    usable = valid & (target.sum(-1) > 0.999)
    cross_entropy = -(target * log_probability).sum(-1)
    probability = log_probability.exp()
    expected = torch.stack(
        [(probability * cells_x).sum(-1), (probability * cells_y).sum(-1)], dim=-1
    )
    difference = torch.where(usable[..., None], expected - positions, 0)
    # a root of exactly zero has no gradient
    distance = (difference.square().sum(-1) + 1e-6).sqrt()
    return cross_entropy, distance, usable


def match_odds_loss(confidence: Tensor, is_right: Tensor, counted: Tensor) -> Tensor:
    """Teach a confidence ``exp(c)`` to be the odds that a pixel's best match is right.

    Binary cross-entropy with logit c. Unlike `confident_matching_loss`, pixels without a partner
    in the other image are negatives, so that they rank last.

    Args:
        confidence: Descriptor confidence, any shape, > 0.
        is_right: The pixel has a partner and finds it, same shape, bool.
        counted: Pixels that take part, same shape, bool.
    """
    logit = confidence.clamp(1e-6, 1e6).log()
    errors = F.binary_cross_entropy_with_logits(logit, is_right.to(logit.dtype), reduction="none")
    return masked_mean(errors, counted)
