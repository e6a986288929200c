"""Pillow's resizing on a GPU, to the same pixels.

Pillow resizes bytes in whole numbers: each pixel of a row is a sum of bytes times weights of 22
bits, rounded to a byte, and then the same along the columns. Double precision holds such sums
exactly, whatever the order of a matrix product, so that the result is the same to the last bit.
"""

from functools import lru_cache

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from matching.preprocess import PatchFit

_BITS = 22  # of Pillow's weights
_CHUNK_BYTES = 2**28  # of double-precision rows at a time
# compute capabilities of GPUs with half as many units for double precision as for single: P100,
# V100, A100, H100 and H200, B200. The others have a 32nd or a 64th: with the 37 GFLOP of a photo of
# 4000 x 3000 a T4, of 0.25 TFLOPS, is busy for 0.15 s at least
_FAST_DOUBLES = ((6, 0), (7, 0), (8, 0), (9, 0), (10, 0))
_SUPPORT = {Image.Resampling.LANCZOS: 3.0, Image.Resampling.BICUBIC: 2.0}


def resized_on_device(image: NDArray[np.uint8], fit: PatchFit, device: torch.device) -> Tensor:
    """`matching.preprocess.resized_by_pillow` on a device.

    Args:
        image: RGB, (H, W, 3).
        fit: How to resize.
        device: One that computes in double precision.

    Returns:
        (h, w, 3) uint8 on the device.
    """
    left, top, right, bottom = fit.box
    height, width = image.shape[:2]
    # a copy of what may not be written to, of which torch would warn
    whole = np.require(image, requirements=("C", "W"))
    pixels = torch.from_numpy(whole).to(device, non_blocking=True)
    pixels = pixels.permute(2, 0, 1)  # (3, H, W)
    across = (width, fit.size[0], slice(left, right))
    down = (height, fit.size[1], slice(top, bottom))
    if _down_first((width, height), fit.size):
        pixels = _along_rows(pixels.transpose(1, 2), *down, fit.kernel).transpose(1, 2)
        pixels = _along_rows(pixels, *across, fit.kernel)
    else:
        pixels = _along_rows(pixels, *across, fit.kernel)
        pixels = _along_rows(pixels.transpose(1, 2), *down, fit.kernel).transpose(1, 2)
    return pixels.permute(1, 2, 0).contiguous()


def is_worthwhile(capability: tuple[int, int]) -> bool:
    """Whether a GPU resizes a photo sooner than the CPU: it has to be fast in double precision.

    Args:
        capability: Its compute capability, `torch.cuda.get_device_capability`.
    """
    return capability in _FAST_DOUBLES


def _down_first(size: tuple[int, int], new_size: tuple[int, int]) -> bool:
    """Whether Pillow resizes columns before rows, which changes roundings."""
    across, down = (old - new for old, new in zip(size, new_size, strict=True))
    return down > 0 and down > 2 * across and _pillow_goes_down_first()


@lru_cache(maxsize=1)
def _pillow_goes_down_first() -> bool:
    """Pillow 13 does so where `_down_first` says; before, it began with rows always."""
    kernel = Image.Resampling.LANCZOS
    noise = np.random.default_rng(0).integers(0, 256, (60, 20), dtype=np.uint8)
    image = Image.fromarray(noise)
    down_first = image.resize((20, 20), kernel).resize((18, 20), kernel)
    return image.resize((18, 20), kernel).tobytes() == down_first.tobytes()


def _along_rows(
    pixels: Tensor, size: int, new_size: int, kept: slice, kernel: Image.Resampling
) -> Tensor:
    """Bytes (3, A, B) resized along B; only the kept of the new places."""
    if size == new_size:
        return pixels[:, :, kept]
    weights = _weights(size, new_size, kernel, pixels.device)[kept]
    lines = pixels.shape[1]
    return _weighted(pixels.reshape(-1, size), weights).view(3, lines, len(weights))


def _weighted(rows: Tensor, weights: Tensor) -> Tensor:
    """Bytes (R, in) times weights (out, in), rounded to bytes (R, out)."""
    step = max(1, _CHUNK_BYTES // (8 * rows.shape[1]))
    parts = [
        torch.floor((part.double() @ weights.T + 2.0 ** (_BITS - 1)) * 2.0**-_BITS)
        .clamp(0, 255)
        .to(torch.uint8)
        for part in rows.split(step)
    ]
    return torch.cat(parts)


# two sizes of photos, lying or standing: a table of a very large photo takes 50 MB of the GPU
@lru_cache(maxsize=4)
def _weights(size: int, new_size: int, kernel: Image.Resampling, device: torch.device) -> Tensor:
    """Weights of the pixels of a line for each pixel of the resized line, (new_size, size).

    They are whole numbers: `precompute_coeffs` and `normalize_coeffs_8bpc` of Pillow.
    """
    scale = size / new_size
    stretch = max(scale, 1.0)
    support = _SUPPORT[kernel] * stretch
    centres = (np.arange(new_size) + 0.5) * scale
    first = np.maximum((centres - support + 0.5).astype(np.int64), 0)
    last = np.minimum((centres + support + 0.5).astype(np.int64), size)
    places = first[:, None] + np.arange(int((last - first).max()))
    inside = places < last[:, None]
    values = _kernel(kernel, (places - centres[:, None] + 0.5) / stretch) * inside
    values /= values.sum(1, keepdims=True)
    whole = np.trunc(values * 2**_BITS + np.copysign(0.5, values))
    table = np.zeros((new_size, size))
    table[np.nonzero(inside)[0], places[inside]] = whole[inside]
    return torch.from_numpy(table).to(device)


def _kernel(kernel: Image.Resampling, x: NDArray[np.float64]) -> NDArray[np.float64]:
    if kernel == Image.Resampling.LANCZOS:
        return np.where((x >= -3) & (x < 3), np.sinc(x) * np.sinc(x / 3), 0.0)
    a = -0.5
    x = np.abs(x)
    near = ((a + 2) * x - (a + 3)) * x * x + 1
    far = (((x - 5) * x + 8) * x - 4) * a
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))
