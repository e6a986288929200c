"""Photos to network size, as the published networks were fed, and the way back to photo pixels.

Two published ways: `fit_to_patches` resizes with Pillow and crops to multiples of the patch;
`fit_to_trained_size` crops to one of the aspect ratios of the training and resizes with
antialiasing. Positions have the centre of the top-left pixel at (0.5, 0.5) on both sides, so the
way between photo and network image is a scale and a shift.
"""

from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional as F

from matching.errors import InputError

# (width, height) of landscape images the published networks were trained with, by long side
TRAINED_SIZES = {
    512: ((512, 384), (512, 336), (512, 288), (512, 256), (512, 160)),
    224: ((224, 224),),
}
# of the network for each byte, as torch computes them
_VALUES = ((torch.arange(256, dtype=torch.float32).div(255) - 0.5) / 0.5).numpy()
_SAME_RATIO = 1.19e-7  # float32's epsilon: closer ratios count as equal


@dataclass(frozen=True, kw_only=True)
class NetworkFrame:
    """Where a network image lies in its photo.

    Attributes:
        image_size: (width, height) of the network image.
        scale: Photo pixels per network pixel along x and y.
        offset: Photo position of the network image's top-left corner, x, y.
    """

    image_size: tuple[int, int]
    scale: tuple[float, float]
    offset: tuple[float, float]

    def to_photo(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Positions in the network image to positions in the photo, (N, 2) x, y."""
        return np.asarray(points, np.float64) * self.scale + self.offset

    def to_network(self, points: NDArray[np.floating]) -> NDArray[np.float64]:
        """Positions in the photo to positions in the network image, (N, 2) x, y."""
        return (np.asarray(points, np.float64) - self.offset) / self.scale

    def nearest_pixels(
        self, points: NDArray[np.floating]
    ) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
        """The network pixels that hold positions of the photo.

        Args:
            points: Positions in the photo, (N, 2) x, y.

        Returns:
            Pixels counted from 0, (N, 2) x, y, ties to even; and which of them exist, (N,).
        """
        pixels = np.rint(self.to_network(points) - 0.5).astype(np.int64)
        inside = np.all((pixels >= 0) & (pixels < self.image_size), axis=1)
        return pixels, inside

    def camera_matrix(self, K: NDArray[np.float64]) -> NDArray[np.float64]:
        """Intrinsics (3, 3) of the photo as those of the network image."""
        (sx, sy), (ox, oy) = self.scale, self.offset
        network_from_photo = np.array([[1 / sx, 0, -ox / sx], [0, 1 / sy, -oy / sy], [0, 0, 1]])
        return network_from_photo @ K


@dataclass(frozen=True, kw_only=True)
class PatchFit:
    """How a photo becomes a network image of whole patches.

    Attributes:
        size: (width, height) that the whole photo is resized to.
        box: Left, top, right and bottom of what is kept of that.
        kernel: Of Pillow's resizing.
    """

    size: tuple[int, int]
    box: tuple[int, int, int, int]
    kernel: Image.Resampling

    def frame(self, photo_size: tuple[int, int]) -> NetworkFrame:
        """Where the network image lies in the photo of (width, height) pixels."""
        left, top, right, bottom = self.box
        scale = (photo_size[0] / self.size[0], photo_size[1] / self.size[1])
        return NetworkFrame(
            image_size=(right - left, bottom - top),
            scale=scale,
            offset=(left * scale[0], top * scale[1]),
        )


def patch_fit(
    photo_size: tuple[int, int], long_side: int, *, patch_size: int = 16, square_ok: bool = False
) -> PatchFit | None:
    """How a photo is fitted to patches, see `fit_to_patches`.

    Args:
        photo_size: (width, height) of the photo.
        long_side: Long side after resizing, pixels. 224 makes a square of 224 pixels.
        patch_size: The crop's sides are multiples of it, pixels.
        square_ok: Leave square images square; the published default crops them to 4:3.

    Returns:
        None if a side is shorter than a patch.
    """
    width, height = photo_size
    longest = max(width, height)
    target = long_side
    if long_side == 224:  # here the short side counts
        target = round(224 * max(width / height, height / width))
    new_width = round(width * target / longest)
    new_height = round(height * target / longest)
    cx, cy = new_width // 2, new_height // 2
    if long_side == 224:
        half_width = half_height = float(min(cx, cy))
    else:
        half_width = (2 * cx) // patch_size * patch_size / 2
        half_height = (2 * cy) // patch_size * patch_size / 2
        if new_width == new_height and not square_ok:
            half_height = 3 * half_width / 4
    left, top, right, bottom = (
        round(edge)
        for edge in (cx - half_width, cy - half_height, cx + half_width, cy + half_height)
    )
    if right - left < patch_size or bottom - top < patch_size:
        return None
    kernel = Image.Resampling.LANCZOS if longest > target else Image.Resampling.BICUBIC
    return PatchFit(size=(new_width, new_height), box=(left, top, right, bottom), kernel=kernel)


def resized_by_pillow(image: NDArray[np.uint8], fit: PatchFit) -> NDArray[np.uint8]:
    """The network image of a photo (H, W, 3), (h, w, 3)."""
    return np.array(Image.fromarray(image).resize(fit.size, fit.kernel).crop(fit.box))


def fit_to_patches(
    image: NDArray[np.uint8], long_side: int, *, patch_size: int = 16, square_ok: bool = False
) -> tuple[NDArray[np.uint8], NetworkFrame] | None:
    """Resize by Pillow to the long side and crop the centre to multiples of the patch.

    Args:
        image: Upright RGB, (H, W, 3).
        long_side: Long side after resizing, pixels. 224 makes a square of 224 pixels.
        patch_size: The crop's sides are multiples of it, pixels.
        square_ok: Leave square images square; the published default crops them to 4:3.

    Returns:
        The network image (h, w, 3) uint8 and its frame; None if a side is shorter than a patch.
    """
    photo_size = (image.shape[1], image.shape[0])
    fit = patch_fit(photo_size, long_side, patch_size=patch_size, square_ok=square_ok)
    return None if fit is None else (resized_by_pillow(image, fit), fit.frame(photo_size))


def to_network_tensor(image: NDArray[np.uint8] | Tensor) -> Tensor:
    """RGB bytes (h, w, 3) to the network's values, (3, h, w) float32 in [-1, 1].

    They are looked up: a GPU would divide with another rounding, and on a CPU arithmetic of torch
    wakes threads in each of those that read photos.
    """
    if isinstance(image, Tensor):
        return torch.from_numpy(_VALUES).to(image.device)[image.permute(2, 0, 1).long()]
    return torch.from_numpy(_VALUES[image]).permute(2, 0, 1)


def fit_to_trained_size(
    image: Tensor, long_side: int, *, antialias: bool = True
) -> tuple[Tensor, NetworkFrame]:
    """Crop the centre to the nearest aspect ratio of the training and resize to that size.

    Args:
        image: (3, H, W) float32.
        long_side: 512 or 224.
        antialias: As the published loader with its present libraries; False as with older ones.

    Returns:
        The network image (3, h, w) and its frame.

    Raises:
        InputError: A long side without known sizes.
    """
    if long_side not in TRAINED_SIZES:
        raise InputError(
            f"no trained image sizes are known for a long side of {long_side} pixels (known: "
            f"{', '.join(map(str, TRAINED_SIZES))})"
        )
    height, width = image.shape[-2:]
    sizes = TRAINED_SIZES[long_side]
    if (max(width, height), min(width, height)) in sizes:
        return image, NetworkFrame(image_size=(width, height), scale=(1, 1), offset=(0, 0))
    if width < height:
        sizes = tuple((short, long) for long, short in sizes)
    new_width, new_height = min(sizes, key=lambda size: abs(size[0] / size[1] - width / height))
    ratio = new_width / new_height
    crop_width, crop_height = width, height
    if abs(width / height - ratio) >= _SAME_RATIO:
        if width / height < ratio:
            crop_height = int(width / ratio)
        else:
            crop_width = int(height * ratio)
    # the pixels of an odd difference cannot be halved: the published transforms keep the half
    left, top = round((width - crop_width) / 2), round((height - crop_height) / 2)
    cropped = image[:, top : top + crop_height, left : left + crop_width]
    resized = F.interpolate(
        cropped[None], (new_height, new_width), mode="bilinear", antialias=antialias
    )[0]
    frame = NetworkFrame(
        image_size=(new_width, new_height),
        scale=(crop_width / new_width, crop_height / new_height),
        offset=((width - crop_width) / 2, (height - crop_height) / 2),
    )
    return resized, frame
