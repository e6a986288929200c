"""Keypoints of one photo, chosen once, at which its pairs are matched.

A network that matches densely could be asked anywhere. Asked at other pixels for every pair, it
gives tracks of two photos; asked at the same pixels always, a photo's points are seen in all its
partners. Good places look like a corner (Shi and Tomasi, "Good features to track", CVPR 1994), so
that other photos' choices meet them, and lie everywhere, so that the pose is well determined.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

# a response this much below the neighbourhood's is noise; keeps blank walls and sky empty
_MIN_RESPONSE = 1e-6
_SIGMA_PX = 1.2  # of the window over which gradients are gathered
_NEIGHBOURHOOD = 32  # cells per long side that responses are compared within
_BLEND = 0.5  # power of the neighbourhood's response that is divided out


def choose_keypoints(
    image: Tensor, confidence: Tensor | None = None, *, number: int, radius_px: int = 2
) -> Tensor:
    """Choose places that other photos of the scene are likely to choose too, spread out.

    Args:
        image: RGB, (3, H, W) float of any scale.
        confidence: How sure the network is of each pixel, (h, w) >= 0 of any resolution; corners
            are weighted by it. None: corners only.
        number: At most so many.
        radius_px: No two are closer than this along x and y.

    Returns:
        Positions, (N, 2) float32 x, y on the image's device, best first; centre of the top-left
        pixel at (0.5, 0.5). The same image always gives the same ones.
    """
    height, width = image.shape[-2:]
    if number < 1 or min(height, width) < 4 * radius_px + 8:
        return torch.zeros(0, 2, device=image.device)
    response = corner_response(image.float())
    local = _local_mean(response)
    # a strong corner beats its neighbours, but a street's facade does not take all from the wall
    score = response / (local + _MIN_RESPONSE).pow(_BLEND)
    if confidence is not None:
        weight = F.interpolate(confidence.float()[None, None], (height, width), mode="bilinear")
        score = score * weight[0, 0].clamp_min(0)
    side = 2 * radius_px + 1
    highest = F.max_pool2d(score[None, None], side, stride=1, padding=radius_px)[0, 0]
    peaks = (score == highest) & (score > 0) & (response > _MIN_RESPONSE)
    margin = radius_px + 2
    peaks[:margin], peaks[-margin:], peaks[:, :margin], peaks[:, -margin:] = (False,) * 4
    y, x = torch.nonzero(peaks, as_tuple=True)
    order = torch.argsort(score[y, x], descending=True, stable=True)
    y, x = y[order], x[order]
    kept = _spread(x, y, (width, height), number)
    x, y = x[kept], y[kept]
    return torch.stack([x, y], 1) + 0.5 + _peak_offset(response, x, y)


def corner_response(image: Tensor) -> Tensor:
    """Smaller eigenvalue of the gradients' second moments around each pixel, (H, W).

    Args:
        image: (3, H, W); of each pixel the sum over the channels counts.
    """
    channels = image[:, None]  # (3, 1, H, W)
    padded = F.pad(channels, (1, 1, 1, 1), mode="replicate")
    horizontal = (padded[..., 1:-1, 2:] - padded[..., 1:-1, :-2]) / 2
    vertical = (padded[..., 2:, 1:-1] - padded[..., :-2, 1:-1]) / 2
    moments = torch.stack(
        [(horizontal**2).sum(0), (vertical**2).sum(0), (horizontal * vertical).sum(0)]
    )  # (3, 1, H, W)
    xx, yy, xy = _gaussian(moments)[:, 0]
    return (xx + yy) / 2 - (((xx - yy) / 2) ** 2 + xy**2).sqrt()


def _gaussian(maps: Tensor) -> Tensor:
    """Smooth (N, 1, H, W)."""
    reach = round(3 * _SIGMA_PX)
    steps = torch.arange(-reach, reach + 1, device=maps.device, dtype=maps.dtype)
    kernel = torch.exp(-(steps**2) / (2 * _SIGMA_PX**2))
    kernel = kernel / kernel.sum()
    maps = F.conv2d(maps, kernel.view(1, 1, 1, -1), padding=(0, reach))
    return F.conv2d(maps, kernel.view(1, 1, -1, 1), padding=(reach, 0))


def _local_mean(response: Tensor) -> Tensor:
    """Mean response in the neighbourhood of each pixel, (H, W)."""
    height, width = response.shape
    cell = max(2, max(height, width) // _NEIGHBOURHOOD)
    coarse = F.avg_pool2d(response[None, None], cell, ceil_mode=True, count_include_pad=False)
    coarse = F.avg_pool2d(coarse, 3, stride=1, padding=1, count_include_pad=False)
    return F.interpolate(coarse, (height, width), mode="bilinear")[0, 0]


def _spread(x: Tensor, y: Tensor, size: tuple[int, int], number: int) -> Tensor:
    """Rows of the points to keep, ascending: of each square of the image the best in turn.

    Args:
        x: Best first, (N,).
        y: The same.
        size: (width, height) of the image.
        number: How many.
    """
    # a quarter as many squares as points: four per square where there is texture everywhere
    square = max(1.0, (size[0] * size[1] / max(1, number // 4)) ** 0.5)
    columns = int(size[0] / square) + 1
    cell = (y / square).long() * columns + (x / square).long()
    # the place of each point within its square: rows are best first and the sort keeps that
    by_cell = torch.argsort(cell, stable=True)
    sorted_cells = cell[by_cell]
    start = torch.searchsorted(sorted_cells, sorted_cells)
    place = torch.empty_like(cell)
    place[by_cell] = torch.arange(len(cell), device=cell.device) - start
    kept = torch.argsort(place, stable=True)[:number]
    return kept.sort().values


def _peak_offset(surface: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """Where, from pixels (N,) that are peaks, the peak of a parabola along x and y lies, (N, 2)."""
    centre = surface[y, x]

    def along(before: Tensor, after: Tensor) -> Tensor:
        curve = before + after - 2 * centre
        offset = (before - after) / (2 * torch.where(curve < 0, curve, -torch.inf))
        return offset.clamp(-0.5, 0.5)

    return torch.stack(
        [along(surface[y, x - 1], surface[y, x + 1]), along(surface[y - 1, x], surface[y + 1, x])],
        1,
    )
