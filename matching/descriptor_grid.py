"""Feature grids read between their cells, and matches placed between them."""

import torch
from torch import Tensor


def sample_bilinear(grid: Tensor, positions: Tensor) -> Tensor:
    """Read a feature grid between its cells; positions outside take the border's values.

    Args:
        grid: Features, (B, H, W, D).
        positions: Where to read, (B, N, 2) x, y in cells, centre of the first cell at (0, 0).

    Returns:
        Interpolated features, (B, N, D).
    """
    height, width, channels = grid.shape[1:]
    x = positions[..., 0].clamp(0, width - 1)
    y = positions[..., 1].clamp(0, height - 1)
    left, top = x.floor().clamp_max(max(width - 2, 0)), y.floor().clamp_max(max(height - 2, 0))
    weight_x, weight_y = (x - left)[..., None], (y - top)[..., None]
    right = (left + 1).clamp_max(width - 1).long()
    bottom = (top + 1).clamp_max(height - 1).long()
    left, top = left.long(), top.long()
    flat = grid.flatten(1, 2)  # (B, H*W, D)

    def read(row: Tensor, column: Tensor) -> Tensor:
        return flat.gather(1, (row * width + column)[..., None].expand(-1, -1, channels))

    upper = read(top, left) * (1 - weight_x) + read(top, right) * weight_x
    lower = read(bottom, left) * (1 - weight_x) + read(bottom, right) * weight_x
    return upper * (1 - weight_y) + lower * weight_y


def refine_positions(
    descriptors: Tensor, grid: Tensor, cells: Tensor, *, radius: int = 1, temperature: float = 0.05
) -> Tensor:
    """Move matches to the expected place of the best similarity around a cell.

    The window's similarities are softmaxed and the cells averaged with these weights, what
    `matching.training.losses.local_matching_loss` trains descriptors for (Sun et al., "LoFTR",
    CVPR 2021, section 3.4).

    Args:
        descriptors: Unit descriptors of one image, (M, D).
        grid: Unit descriptors of the other image, (H, W, D).
        cells: Their matches in that grid, (M, 2) int64 x, y.
        radius: The window has (2 radius + 1) squared cells, cut at the border.
        temperature: Divides the similarities; the training's.

    Returns:
        Positions in cells, (M, 2) float32 x, y, centre of the first cell at (0, 0).
    """
    height, width, _ = grid.shape
    steps = torch.arange(-radius, radius + 1, device=grid.device)
    offsets_y, offsets_x = torch.meshgrid(steps, steps, indexing="ij")
    x = cells[:, 0, None] + offsets_x.flatten()  # (M, K)
    y = cells[:, 1, None] + offsets_y.flatten()
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    near = grid[y.clamp(0, height - 1), x.clamp(0, width - 1)]  # (M, K, D)
    logits = (near.float() @ descriptors.float()[..., None])[..., 0] / temperature
    weights = logits.masked_fill(~inside, -torch.inf).softmax(-1)
    return torch.stack([(weights * x).sum(-1), (weights * y).sum(-1)], -1)


def cells_to_pixels(positions: Tensor, stride: int) -> Tensor:
    """Grid positions (first cell's centre at (0, 0)) to pixels (top-left centre at (0.5, 0.5))."""
    return (positions.float() + 0.5) * stride


def pixels_to_cells(pixels: Tensor, stride: int) -> Tensor:
    """The inverse of `cells_to_pixels`."""
    return pixels / stride - 0.5
