"""How far a match stands out among all other places of an image."""

import torch
from torch import Tensor

_BLOCK_BYTES = (2**20, 2**26)  # of similarities held at a time, in the cache of a CPU and on a GPU


def distinctness(
    descriptors: Tensor,
    grid: Tensor,
    cells: Tensor,
    *,
    temperature: float = 0.05,
    radius: int = 4,
    step: int = 2,
) -> Tensor:
    """Probability of each match among all places of the other image.

    The softmax that InfoNCE trains (Oord et al., "Representation Learning with Contrastive
    Predictive Coding", 2018, equation 4), with the cells around the match counted as one place:
    1 / (1 + sum of exp((s - s_match) / temperature) over all cells farther than ``radius``). It is
    a ratio test that knows of every rival and not of the second best alone.

    Args:
        descriptors: Unit descriptors of one image, (M, D).
        grid: Unit descriptors of the other image, (H, W, D); cells with NaN are no rivals.
        cells: Their matches in that grid, (M, 2) int64 x, y.
        temperature: Divides the similarities; the training's.
        radius: Cells up to this far along both axes belong to the match.
        step: Rivals are looked at in every ``step``-th row and column, and count ``step`` squared
            times: neighbours resemble each other.

    Returns:
        (M,) float32 in [0, 1].
    """
    height, width, _ = grid.shape
    rivals = grid[::step, ::step].flatten(0, 1).float()
    usable = ~rivals.isnan().any(1)
    if not bool(usable.all()):
        rivals = rivals[usable]
    own, x, y = descriptors.float(), cells[:, 0], cells[:, 1]
    best = (own * grid[y, x].float()).sum(1) / temperature
    every = torch.empty_like(best)
    size = _BLOCK_BYTES[grid.device.type == "cuda"] // (4 * max(len(rivals), 1))
    scaled = own / temperature
    for part in torch.arange(len(own), device=grid.device).split(max(1, size)):
        logits = torch.addmm(-best[part, None], scaled[part], rivals.T)
        every[part] = logits.exp_().sum(1)
    # the match's own cells among them, a few of many, are taken off again
    turns = torch.arange(2 * radius // step + 1, device=grid.device) * step
    rows, columns = (-(-(a[:, None] - radius) // step) * step + turns for a in (y, x))
    counted = [
        (at >= 0) & (at < side) & (at - centre[:, None] <= radius)
        for at, side, centre in ((rows, height, y), (columns, width, x))
    ]
    rows, columns = rows.clamp(0, height - 1), columns.clamp(0, width - 1)
    near = grid[rows[:, :, None], columns[:, None, :]].float()  # (M, K, K, D)
    odds = ((near * scaled[:, None, None]).sum(-1) - best[:, None, None]).exp()
    odds = torch.where(counted[0][:, :, None] & counted[1][:, None, :], odds, 0.0).nan_to_num(0.0)
    return 1 / (1 + step**2 * (every - odds.sum((1, 2))).clamp_min(0.0))
