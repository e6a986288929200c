"""Subpixel refinement of matches from the similarity surface around them."""

import torch
from torch import Tensor


def refine_subpixel(
    desc0: Tensor, desc1: Tensor, xy0: Tensor, xy1: Tensor
) -> tuple[Tensor, Tensor]:
    """Move integer matches to the peaks of their similarity surfaces, by at most one pixel.

    The descriptor of pixel ``xy0`` against the 3 x 3 pixels around ``xy1`` gives where in image 1
    the point ``xy0`` lies; the descriptor of ``xy1`` around ``xy0`` gives where in image 0 the
    point ``xy1`` lies. Both are peaks of a fitted quadratic. They are two measurements of one
    correspondence, (xy0, xy1 + d1) and (xy0 + d0, xy1); applying both offsets in full would count
    the displacement twice, so the match returned is their mean, (xy0 + d0 / 2, xy1 + d1 / 2).

    Args:
        desc0: (H0, W0, d).
        desc1: (H1, W1, d).
        xy0: Pixels of map 0, (M, 2) int64 x, y counted from 0.
        xy1: Pixels of map 1, (M, 2) int64.

    Returns:
        Image coordinates, (M, 2) float32 each, centre of the top-left pixel at (0.5, 0.5).
        A match at a border, or on a surface without a peak, keeps its pixel centre.
    """
    offset0, offset1 = displacements(desc0, desc1, xy0, xy1)
    return xy0 + 0.5 + 0.5 * offset0, xy1 + 0.5 + 0.5 * offset1


def displacements(desc0: Tensor, desc1: Tensor, xy0: Tensor, xy1: Tensor) -> tuple[Tensor, Tensor]:
    """Where, from each match, the peaks of its two similarity surfaces lie.

    Args:
        desc0: (H0, W0, d).
        desc1: (H1, W1, d).
        xy0: Pixels of map 0, (M, 2) int64 x, y counted from 0.
        xy1: Pixels of map 1, (M, 2) int64.

    Returns:
        Offsets (M, 2) x, y in pixels, at most one: in image 0 of the point that pixel ``xy1``
        shows, and in image 1 of the point that pixel ``xy0`` shows.
    """
    offset0 = displacements_of(desc1[xy1[:, 1], xy1[:, 0]], desc0[None], None, xy0)
    return offset0, displacements_of(desc0[xy0[:, 1], xy0[:, 0]], desc1[None], None, xy1)


def displacements_of(vectors: Tensor, maps: Tensor, which: Tensor | None, xy: Tensor) -> Tensor:
    """Where, from given pixels of several maps, the similarity to given vectors has its peaks.

    Args:
        vectors: (M, d).
        maps: (P, H, W, d).
        which: The map of each vector, (M,) int64; None: the first.
        xy: The pixel in that map, (M, 2) int64 x, y counted from 0.

    Returns:
        Offsets (M, 2) x, y in pixels, at most one; zero where there is no peak.
    """
    return _peak(_surface(vectors, maps, which, xy))


def _surface(vectors: Tensor, maps: Tensor, which: Tensor | None, centre: Tensor) -> Tensor:
    """Similarity of each vector to the 3 x 3 pixels around a centre, (M, 3, 3), y then x.

    NaN where the window leaves the map or meets a descriptor that is not usable.
    """
    height, width = maps.shape[1:3]
    step = torch.arange(-1, 2, device=centre.device)
    x, y = centre[:, 0, None, None] + step[None, None, :], centre[:, 1, None, None] + step[:, None]
    x, y = torch.broadcast_tensors(x, y)
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    rows = y.clamp(0, max(height - 1, 0)) * width + x.clamp(0, max(width - 1, 0))
    if which is not None:
        rows = rows + (which * (height * width))[:, None, None]
    query = vectors.float()
    flat = maps.reshape(-1, maps.shape[-1])
    surface = query.new_empty(len(centre), 3, 3)
    for i in range(3):  # nine gathers of (M, d) rather than one of (M, 9, d)
        for j in range(3):
            surface[:, i, j] = (query * flat[rows[:, i, j]].float()).sum(-1)
    usable = inside & (surface != 0) & torch.isfinite(surface)
    return torch.where(usable, surface, torch.nan)


def _peak(surface: Tensor) -> Tensor:
    """Offset (M, 2) x, y of the peak of a quadratic fitted to (M, 3, 3) samples, within one pixel.

    The quadratic c + gx x + gy y + (hxx x^2 + hyy y^2) / 2 + hxy x y is the least-squares fit over
    the nine samples at x, y in {-1, 0, 1}. Zero where it has no maximum. An offset longer than a
    pixel in x or y is shortened along its direction.
    """
    step = torch.tensor([-1.0, 0.0, 1.0], device=surface.device)
    along_x, along_y = surface.mean(1), surface.mean(2)  # (M, 3): profiles in x and in y
    gradient_x, gradient_y = (along_x @ step) / 2, (along_y @ step) / 2
    curve = torch.tensor([1.0, -2.0, 1.0], device=surface.device)
    curve_x, curve_y = along_x @ curve, along_y @ curve
    mixed = torch.einsum("mij,i,j->m", surface, step, step) / 4
    determinant = curve_x * curve_y - mixed * mixed
    peaked = (curve_x < 0) & (curve_y < 0) & (determinant > 0)
    offset = torch.stack(
        (
            (mixed * gradient_y - curve_y * gradient_x),
            (mixed * gradient_x - curve_x * gradient_y),
        ),
        1,
    ) / torch.where(peaked, determinant, 1.0).unsqueeze(1)
    offset = offset / offset.abs().amax(1, keepdim=True).clamp(min=1.0)
    return torch.where(peaked[:, None], offset, 0.0)
