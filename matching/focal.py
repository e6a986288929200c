"""Focal length from a point map, as published for DUSt3R (Wang et al. 2024, arXiv 2312.14132)."""

import math
from typing import Literal

import torch
from torch import Tensor

_WEISZFELD_ROUNDS = 10
_SIXTY_DEGREES = 2 * math.tan(math.radians(30))  # width over focal length of a 60 degree view


def focal_from_pointmap(
    pointmap: Tensor,
    principal_point: Tensor | None = None,
    *,
    mode: Literal["weiszfeld", "median"] = "weiszfeld",
    min_focal: float = 0.0,
    max_focal: float = math.inf,
) -> Tensor:
    """The focal length that best explains where points of a camera's own frame are seen.

    ``weiszfeld`` minimises the sum of distances |(u, v) - f (X/Z, Y/Z)|; ``median`` takes the
    median of the votes u Z / X and v Z / Y. Both shrug off a minority of wrong points.

    Args:
        pointmap: Points in the frame of the camera that sees them, (B, H, W, 3), float32.
        principal_point: x, y, (B, 2), with pixel centres at integers (a groundloc principal point
            minus 0.5); None for the middle of the image.
        mode: The estimator.
        min_focal: Smallest answer, in units of the focal length of a 60 degree field of view.
        max_focal: Largest answer, likewise.

    Returns:
        Focal lengths in pixels, (B,); of square pixels.
    """
    height, width = pointmap.shape[1:3]
    if principal_point is None:
        principal_point = pointmap.new_tensor([(width - 1) / 2, (height - 1) / 2])[None]
    y, x = torch.meshgrid(
        torch.arange(height, device=pointmap.device, dtype=pointmap.dtype),
        torch.arange(width, device=pointmap.device, dtype=pointmap.dtype),
        indexing="ij",
    )
    pixels = torch.stack((x, y), -1).reshape(1, -1, 2) - principal_point[:, None]  # (B, HW, 2)
    points = pointmap.flatten(1, 2)
    if mode == "median":
        votes = pixels * points[..., 2:] / points[..., :2]
        focal = votes.flatten(1).nanmedian(1).values
    else:
        rays = (points[..., :2] / points[..., 2:]).nan_to_num(0, 0, 0)
        along, square = (rays * pixels).sum(-1), (rays * rays).sum(-1)
        focal = along.mean(1) / square.mean(1)
        for _ in range(_WEISZFELD_ROUNDS):
            distance = (pixels - focal[:, None, None] * rays).norm(dim=-1)
            weight = 1 / distance.clamp_min(1e-8)
            focal = (weight * along).mean(1) / (weight * square).mean(1)
    unit = max(height, width) / _SIXTY_DEGREES
    return focal.clamp(min_focal * unit, max_focal * unit)
