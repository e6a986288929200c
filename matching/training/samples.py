"""Correspondences for the losses, drawn from the exact geometry of a batch of rendered pairs."""

from dataclasses import dataclass

import torch
from torch import Tensor

from matching.training.batch import PairBatch
from matching.training.geometry import constant, rigid_inverse

_MIN_DEPTH_M = 0.05
_SAME_SURFACE = 0.02  # relative depth; a grazing surface changes by about this much within a pixel
# ratio of depths; between the two nothing is sure, as on steep faces
_OTHER_SURFACE = 1.25
# from a place to itself and its eight neighbours, x and y in turns
_AROUND = tuple(float(step) for y in (-1, 0, 1) for x in (-1, 0, 1) for step in (x, y))


@dataclass(frozen=True, kw_only=True)
class Correspondences:
    """N places a pair, seen in both images where ``visible``.

    Positions are x, y in pixels with the centre of the top-left pixel at (0, 0), as feature grids
    index; each is a whole pixel in one image and exact, between pixels, in the other.
    """

    positions0: Tensor  # (B, N, 2) float32
    positions1: Tensor  # (B, N, 2) float32; anywhere where not visible
    visible: Tensor  # (B, N) bool
    unmatched0: Tensor  # (B, N) bool: a pixel of image 0 that has no partner in image 1
    unmatched1: Tensor  # (B, N) bool: the same of image 1
    real0: Tensor  # (B, N) bool: positions0 is a place that image 0 shows, and not "anywhere"
    real1: Tensor  # (B, N) bool


def project(batch: PairBatch, source: int, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Carry pixels of one image to the other through the true geometry.

    Args:
        batch: The rendered pairs.
        source: The image the pixels lie in, 0 or 1.
        pixels: Whole pixels, (B, N, 2) int64 x, y.

    Returns:
        Exact positions in the other image, (B, N, 2) float32, first pixel centre at (0, 0), and
        whether the other image sees the same surface there, (B, N) bool.
    """
    positions, visible, _ = _look_up(batch, source, pixels)
    return positions, visible


def _look_up(batch: PairBatch, source: int, pixels: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """`project`, and which pixels have no partner, (B, N) bool; False where in doubt."""
    height, width = batch.valid.shape[-2:]
    target = 1 - source
    target_from_source = batch.cam1_from_cam0.float()
    if source == 1:
        target_from_source = rigid_inverse(target_from_source)  # waits for nothing
    index = pixels[..., 1] * width + pixels[..., 0]
    points = _gather(batch.pointmaps[:, source].flatten(1, 2), index)  # (B, N, 3)
    points = points @ target_from_source[:, :3, :3].mT + target_from_source[:, None, :3, 3]
    depth = points[..., 2]
    image = points @ batch.K[:, target].mT
    positions = image[..., :2] / depth.clamp_min(_MIN_DEPTH_M)[..., None] - 0.5
    nearest = positions.round()
    bounds = constant((float(width - 1), float(height - 1)), positions.device)
    inside = ((nearest >= 0) & (nearest <= bounds)).all(-1)
    nearest = nearest.nan_to_num(0).clamp_min(0).minimum(bounds).long()
    target_index = nearest[..., 1] * width + nearest[..., 0]
    seen_depth = _gather(batch.pointmaps[:, target].flatten(1, 2), target_index)[..., 2]
    solid = batch.valid[:, source].flatten(1).gather(1, index)
    there = batch.valid[:, target].flatten(1).gather(1, target_index)
    inside = inside & (depth > _MIN_DEPTH_M)
    visible = inside & solid & there & ((seen_depth - depth).abs() < _SAME_SURFACE * depth)
    # hidden, or seen through: nothing about the place is this surface, nor the outline of its thing
    around = constant(_AROUND, positions.device).view(-1, 2).long()
    near = (nearest[:, :, None] + around).clamp_min(0).minimum(bounds.long())  # (B, N, 9, 2)
    at = (near[..., 1] * width + near[..., 0]).flatten(1)
    near_depth = _gather(batch.pointmaps[:, target].flatten(1, 2), at)[..., 2]
    sky = ~batch.valid[:, target].flatten(1).gather(1, at)
    ratio = near_depth.view(*depth.shape, -1) / depth[..., None]
    other = (ratio > _OTHER_SURFACE) | (ratio < 1 / _OTHER_SURFACE)
    apart = (other | sky.view(other.shape)).all(-1)
    # sky, out of sight, hidden, or not there at all
    unmatched = ~solid | ~inside | apart
    # an unseen place may project anywhere; keep it finite
    return positions.nan_to_num(0).clamp(-1e4, 1e4), visible, unmatched


def sample_correspondences(
    batch: PairBatch,
    count: int,
    *,
    window: int = 4,
    spacing_px: int = 2,
    generator: torch.Generator | None = None,
) -> Correspondences:
    """Draw correspondences, spread over the images and in tight windows.

    Places spread over an image are far from each other, so contrasting them teaches recognition
    but not localisation. A third of the places therefore come in square windows of close
    neighbours, which are each other's negatives. Another third are random pixels, most often
    unseen in the other image: matching meets whole images, so what only one of them shows has to
    repel, and teaches doubt. Both images take turns as the one with whole pixels.

    Args:
        batch: The rendered pairs.
        count: Places a pair; half of them start in each image.
        window: Places along a side of a window.
        spacing_px: Distance of neighbours in a window.
        generator: Random numbers on the batch's device.

    Returns:
        ``count`` correspondences a pair, fewer where ``count`` is no multiple of what a pair of
        windows needs.
    """
    num_windows = max(count // 6 // window**2, 1)
    num_random = count // 6
    num_spread = max(count // 2 - num_windows * window**2 - num_random, 1)
    height, width = batch.valid.shape[-2:]
    num_pairs, num_given = batch.visible.shape
    device = batch.valid.device

    def random(*size: int) -> Tensor:
        return torch.rand(*size, device=device, generator=generator)

    # the visible ones come first; a pair with none gets its first pixels, which stay invisible
    num_visible = batch.visible.sum(1, keepdim=True).clamp_min(1)
    steps = (torch.arange(window, device=device) - (window - 1) / 2).mul(spacing_px).round().long()
    grid_y, grid_x = torch.meshgrid(steps, steps, indexing="ij")
    offsets = torch.stack([grid_x.flatten(), grid_y.flatten()], -1)  # (window**2, 2)
    size = torch.tensor([width, height], device=device)
    # no place twice, it would be its own negative: where too few are visible, unseen ones follow
    order = (random(num_pairs, num_given) - 2.0 * batch.visible).argsort(1)
    sides = []
    for source, given in enumerate((batch.pixels0, batch.pixels1)):
        choice = (random(num_pairs, num_windows) * num_visible).long().clamp_max(num_given - 1)
        own = torch.arange(source * num_spread, (source + 1) * num_spread, device=device)
        spread = _gather(given, order[:, own % num_given])
        anchors = _gather(given, order.gather(1, choice))
        windows = (anchors[:, :, None] + offsets).flatten(1, 2)
        anywhere = (random(num_pairs, num_random, 2) * size).long()
        pixels = torch.cat([spread, windows, anywhere], 1).clamp_min(0).minimum(size - 1)
        positions, visible, unmatched = _look_up(batch, source, pixels)
        sides.append((pixels.float(), positions, visible, unmatched))
    (own0, other0, visible0, unmatched0), (own1, other1, visible1, unmatched1) = sides
    return Correspondences(
        positions0=torch.cat([own0, other1], 1),
        positions1=torch.cat([other0, own1], 1),
        visible=torch.cat([visible0, visible1], 1),
        # of the places that start in the other image, it is not known where they would be in this
        unmatched0=torch.cat([unmatched0, torch.zeros_like(unmatched1)], 1),
        unmatched1=torch.cat([torch.zeros_like(unmatched0), unmatched1], 1),
        real0=torch.cat([torch.ones_like(visible0), visible1], 1),
        real1=torch.cat([visible0, torch.ones_like(visible1)], 1),
    )


def _gather(rows: Tensor, index: Tensor) -> Tensor:
    """Rows (B, M, C) at indices (B, N)."""
    return rows.gather(1, index[..., None].expand(-1, -1, rows.shape[-1]))
