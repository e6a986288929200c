"""Photos made ready for a network, and their encodings as the arrays of a `View`.

A view's arrays are ``tokens`` (N, C) float16, ``frame`` (6,) float64 (width, height, scale and
offset of the network image), the network's further encodings, each (C, h, w) int8 with the steps
of its channels as ``NAME_step`` (C,) float32, and with coarse to fine ``pixels`` (H, W, 3) uint8,
the photo itself, shrunken to what is matched at last. Views that are not stored may hold ``photo``,
the same for a second look.

Further encodings are most of what a map stores. A byte per value instead of two changes the number
of right matches by 0.2 % and their errors not at all (benchmarks/results/neural_maps.md).
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from matching.errors import DamagedEncodingError
from matching.network import Encoding
from matching.preprocess import NetworkFrame
from matching.types import View

PIXELS = "pixels"
PHOTO = "photo"
_OWN_ARRAYS = ("tokens", "frame", PIXELS, PHOTO)
_STEP = "_step"  # ending of the names of steps
_LARGEST = 127  # int8, symmetric


@dataclass(frozen=True, kw_only=True)
class Prepared:
    """A photo at network size; without tensor if there is nothing to see in it.

    Attributes:
        image_size: (width, height) of the photo.
        tensor: The network image, (3, h, w) float32 in [-1, 1].
        frame: Where it lies in the photo.
        pixels: The photo for coarse to fine, (H, W, 3) uint8; None if the network sees it whole.
    """

    image_size: tuple[int, int]
    tensor: Tensor | None = None
    frame: NetworkFrame | None = None
    pixels: NDArray[np.uint8] | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the network image; photos of one shape can be encoded together."""
        return () if self.tensor is None else tuple(self.tensor.shape)


def limited(
    image: NDArray[np.uint8], long_side_px: int, *, at_least_px: int = 1
) -> NDArray[np.uint8]:
    """The photo at a long side of at most ``long_side_px`` (0: any), at least ``at_least_px``."""
    height, width = image.shape[:2]
    longest = max(width, height)
    wanted = max(at_least_px, min(longest, long_side_px or longest))
    if wanted == longest:
        return image
    size = tuple(max(1, round(side * wanted / longest)) for side in (width, height))
    return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))


def views_of(batch: Sequence[Prepared], encoding: Encoding) -> list[View]:
    """Views of photos of one network size and their encodings, without keypoints."""
    tokens = encoding.tokens.to(torch.float16).cpu()
    extras = {name: _rounded(extra) for name, extra in encoding.extras.items()}
    views = []
    for row, prepared in enumerate(batch):
        frame = prepared.frame
        assert frame is not None
        arrays: dict[str, NDArray[Any]] = {"tokens": tokens[row].numpy()}
        for name, (levels, steps) in extras.items():
            arrays |= {name: levels[row].numpy(), name + _STEP: steps[row].numpy()}
        arrays["frame"] = np.array([*frame.image_size, *frame.scale, *frame.offset])
        if prepared.pixels is not None:
            arrays[PIXELS] = prepared.pixels
        views.append(_view(prepared.image_size, arrays))
    return views


def _rounded(extra: Tensor) -> tuple[Tensor, Tensor]:
    """Encodings (B, C, h, w) as int8 of the same shape, and the steps of their channels, (B, C)."""
    values = extra.float()
    steps = values.abs().amax((2, 3)).clamp_min(1e-12) / _LARGEST
    levels = (values / steps[..., None, None]).round().clamp(-_LARGEST, _LARGEST)
    return levels.to(torch.int8).cpu(), steps.cpu()


def extra_of(view: View, name: str, device: torch.device) -> Tensor:
    """A further encoding as it was, (C, h, w) float16, on a device."""
    levels = torch.from_numpy(np.asarray(view.arrays[name])).to(device, non_blocking=True)
    if name + _STEP not in view.arrays:
        return levels  # float16, as maps were made before
    steps = torch.from_numpy(np.asarray(view.arrays[name + _STEP])).to(device, non_blocking=True)
    return (levels * steps[:, None, None]).to(torch.float16)


def with_photo(view: View, image: NDArray[np.uint8], long_side_px: int) -> View:
    """The view with its photo, shrunken by a whole number to no less than ``long_side_px``.

    It is a copy: who encodes frames of a video may reuse the memory of each.
    """
    step = max(1, max(view.image_size) // long_side_px)
    width, height = (side // step * step for side in view.image_size)
    if not width or not height:
        return view
    whole = image[:height, :width]
    photo = np.array(Image.fromarray(whole).reduce(step)) if step > 1 else whole.copy()
    return replace(view, arrays={**view.arrays, PHOTO: photo})


def photo_step(view: View) -> int:
    """How many pixels of its photo a pixel of `with_photo` is wide and high."""
    height, width = view.arrays[PHOTO].shape[:2]
    return min(view.image_size[0] // width, view.image_size[1] // height)


def blank_view(image_size: tuple[int, int], num_channels: int) -> View:
    """The view of a photo in which there is nothing to see."""
    tokens = np.zeros((0, num_channels), np.float16)
    return _view(image_size, {"tokens": tokens, "frame": np.array([0, 0, 1.0, 1.0, 0, 0])})


def is_blank(view: View) -> bool:
    """Whether there is nothing to see in a photo."""
    return not len(view.arrays["tokens"])


def frame_of(view: View) -> NetworkFrame:
    """Where a view's network image lies in its photo."""
    width, height, *rest = (float(value) for value in view.arrays["frame"])
    scale_x, scale_y, offset_x, offset_y = rest
    return NetworkFrame(
        image_size=(int(width), int(height)),
        scale=(scale_x, scale_y),
        offset=(offset_x, offset_y),
    )


def pixels_frame(view: View) -> NetworkFrame:
    """Where the pixels of coarse to fine lie in the photo: they show all of it."""
    height, width = view.arrays[PIXELS].shape[:2]
    return NetworkFrame(
        image_size=(width, height),
        scale=(view.image_size[0] / width, view.image_size[1] / height),
        offset=(0.0, 0.0),
    )


def over_pixels(values: Tensor, view: View) -> Tensor:
    """A map over the network image, (h, w), as one over the view's pixels, (H, W).

    What the network image was cropped off has the median value.
    """
    whole, part = pixels_frame(view), frame_of(view)
    width, height = whole.image_size
    corners = part.to_photo(np.array([[0, 0], part.image_size]))
    (x0, y0), (x1, y1) = np.rint(whole.to_network(corners)).astype(int).tolist()
    filled = values.median().float().expand(height, width).clone()
    inner = F.interpolate(values.float()[None, None], (y1 - y0, x1 - x0), mode="bilinear")
    filled[y0:y1, x0:x1] = inner[0, 0, : height - y0, : width - x0]
    return filled


def checked_names(views: Sequence[View], *, num_channels: int, patch_size: int) -> list[str]:
    """Names of the further encodings that views of one network size hold.

    Args:
        views: Encoded photos.
        num_channels: Of the network's tokens.
        patch_size: Of the network, pixels.

    Raises:
        DamagedEncodingError: Arrays that no such network made.
    """
    names = [n for n in views[0].arrays if n not in _OWN_ARRAYS and not n.endswith(_STEP)]
    for view in views:
        _check(view, names, num_channels, patch_size)
    return names


def _check(view: View, names: Sequence[str], num_channels: int, patch_size: int) -> None:
    """Refuse arrays that no such network made, before they are stacked with others."""
    width, height = frame_of(view).image_size
    tokens = view.arrays["tokens"]
    count = (width // patch_size) * (height // patch_size)
    if tokens.shape != (count, num_channels):
        raise DamagedEncodingError(
            f"an encoding holds tokens {tokens.shape} where ({count}, {num_channels}) belong: it "
            "is damaged or of another network"
        )
    for name in names:
        array = view.arrays.get(name)
        if array is None or array.ndim != 3 or height % array.shape[1] or width % array.shape[2]:
            shape = "nothing" if array is None else array.shape
            raise DamagedEncodingError(
                f"an encoding is damaged: '{name}' of {width} x {height} is {shape}"
            )
        steps = view.arrays.get(name + _STEP)
        if steps is None and array.dtype == np.int8:
            raise DamagedEncodingError(f"an encoding is damaged: '{name}' has no steps")
        if steps is not None and steps.shape != array.shape[:1]:
            raise DamagedEncodingError(
                f"an encoding is damaged: the steps of '{name}' are {steps.shape}"
            )


def _view(image_size: tuple[int, int], arrays: dict[str, NDArray[Any]]) -> View:
    return View(image_size=image_size, keypoints=np.zeros((0, 2), np.float32), arrays=arrays)
