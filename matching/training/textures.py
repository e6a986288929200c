"""Banks of procedural textures (`matching.training.painter`), with mip-mapped sampling.

Albedo is stored as its square root in 8 bits (an approximate gamma), RGBA, every texture with its
whole mip chain in one flat tensor, so that one gather serves any mixture of textures.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch
import torch.nn.functional as F

from matching.training.painter import Painter

_PAINTERS = 16  # threads; more fight for the interpreter


@dataclass(frozen=True, kw_only=True)
class TextureBank:
    """T square textures of S pixels with their mip levels.

    Attributes:
        texels: (M, 4) uint8; level after level, in each texture after texture, row by row.
        size: S, a power of two.
        count: T.
    """

    texels: torch.Tensor
    size: int
    count: int

    @property
    def num_levels(self) -> int:
        """Number of mip levels, the last of 1x1."""
        return self.size.bit_length()

    @staticmethod
    def from_images(images: torch.Tensor) -> "TextureBank":
        """Build the mip chain.

        Args:
            images: Linear albedo in [0, 1], (T, 3, S, S), S a power of two.
        """
        count, channels, size, width = images.shape
        if channels != 3 or size != width or size & (size - 1):
            raise ValueError(f"images must be (T, 3, S, S), S a power of 2, got {images.shape}")
        levels, level = [], images.float()
        while True:
            stored = (level.clamp(0, 1).sqrt() * 255 + 0.5).to(torch.uint8)
            opaque = torch.full_like(stored[:, :1], 255)
            levels.append(torch.cat([stored, opaque], 1).permute(0, 2, 3, 1).reshape(-1, 4))
            if level.shape[-1] == 1:
                break
            level = F.avg_pool2d(level, 2)
        return TextureBank(texels=torch.cat(levels), size=size, count=count)

    def sample(
        self, texture: torch.Tensor, u: torch.Tensor, v: torch.Tensor, lod: torch.Tensor
    ) -> torch.Tensor:
        """Trilinear lookup with repeat.

        Args:
            texture: Index, (P,) any dtype.
            u: Coordinate in repeats, to the right, (P,).
            v: Coordinate in repeats, downwards, (P,).
            lod: Mip level, (P,) float; below 0 the finest is used.

        Returns:
            Linear albedo, (P, 3) float32.
        """
        level, weight = self._level(lod)
        index, u, v = texture.long(), u - u.floor(), v - v.floor()
        low = self._bilinear(index, u, v, level)
        high = self._bilinear(index, u, v, level + 1)
        stored = low + (high - low) * weight[:, None]
        return stored * stored

    def slope(
        self, texture: torch.Tensor, u: torch.Tensor, v: torch.Tensor, lod: torch.Tensor
    ) -> torch.Tensor:
        """Gradient of the brightness, which is the stored green: the root of the albedo.

        Args:
            texture: As `sample` takes it, (P,).
            u: (P,).
            v: (P,).
            lod: (P,).

        Returns:
            Brightness (0 to 1) per repeat along u and v, (P, 2) float32: of the same texels as
            `sample`, jumping where the next texel begins.
        """
        level, weight = self._level(lod)
        index, u, v = texture.long(), u - u.floor(), v - v.floor()
        low = self._bilinear_slope(index, u, v, level)
        high = self._bilinear_slope(index, u, v, level + 1)
        return low + (high - low) * weight[:, None]

    def roughness(self) -> torch.Tensor:
        """Root mean square of the `slope` of each texture on its second finest level, (T,)."""
        size = max(1, self.size // 2)
        start = self.count * (self.size * self.size - size * size) * 4 // 3
        texels = self.texels[start : start + self.count * size * size, 1]
        bright = texels.reshape(self.count, size, size).float() * (size / 255.0)
        steps = [(bright.roll(-1, axis) - bright).square().mean((1, 2)) for axis in (1, 2)]
        return (steps[0] + steps[1]).sqrt()

    def _level(self, lod: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """The finer of two mip levels and the share of the coarser, (P,) each."""
        lod = lod.clamp(0, self.num_levels - 1.001)
        fine = lod.floor()
        return fine.long(), lod - fine

    def _corners(
        self, index: torch.Tensor, u: torch.Tensor, v: torch.Tensor, level: torch.Tensor
    ) -> tuple[tuple[torch.Tensor, ...], torch.Tensor, torch.Tensor]:
        """Texels at 00, 01, 10, 11 (row, column) about a point, and how far it is past 00."""
        size = self.size >> level
        # texels before this level: T * (S^2 + S^2/4 + ...) = T * (S^2 - size^2) * 4 / 3
        base = self.count * ((self.size * self.size - size * size) * 4 // 3) + index * size * size
        x, y = u * size - 0.5, v * size - 0.5
        x0, y0 = x.floor(), y.floor()
        mask = size - 1
        xi, yi = x0.long(), y0.long()
        xa, xb = xi & mask, (xi + 1) & mask
        ya, yb = base + (yi & mask) * size, base + ((yi + 1) & mask) * size
        return (ya + xa, ya + xb, yb + xa, yb + xb), x - x0, y - y0

    def _bilinear(
        self, index: torch.Tensor, u: torch.Tensor, v: torch.Tensor, level: torch.Tensor
    ) -> torch.Tensor:
        corners, fx, fy = self._corners(index, u, v, level)
        weights = ((1 - fx) * (1 - fy), fx * (1 - fy), (1 - fx) * fy, fx * fy)
        total = torch.zeros((len(u), 4), device=u.device)
        for at, weight in zip(corners, weights, strict=True):
            total.addcmul_(self.texels[at], (weight * (1.0 / 255.0))[:, None])
        return total[:, :3]

    def _bilinear_slope(
        self, index: torch.Tensor, u: torch.Tensor, v: torch.Tensor, level: torch.Tensor
    ) -> torch.Tensor:
        corners, fx, fy = self._corners(index, u, v, level)
        t00, t01, t10, t11 = (self.texels[at, 1].float() for at in corners)
        across = (t01 - t00) * (1 - fy) + (t11 - t10) * fy
        down = (t10 - t00) * (1 - fx) + (t11 - t01) * fx
        step = (self.size >> level).float() * (1.0 / 255.0)
        return torch.stack([across, down], -1) * step[:, None]

    def to(self, device: torch.device | str) -> "TextureBank":
        """The same textures on another device."""
        return TextureBank(texels=self.texels.to(device), size=self.size, count=self.count)


def paint(styles: list[str], size: int, seed: int) -> TextureBank:
    """One texture per entry of ``styles`` (names of `Painter` methods), on the CPU's cores.

    Raises:
        ValueError: A style that `Painter` does not have.
    """

    def one(numbered: tuple[int, str]) -> torch.Tensor:
        number, style = numbered
        generator = torch.Generator().manual_seed(seed * 100003 + number)
        method: Callable[[], torch.Tensor] | None = getattr(Painter(size, generator), style, None)
        if method is None:
            raise ValueError(f"no texture style '{style}'")
        return method().clamp(0.003, 1).expand(3, size, size)

    threads = torch.get_num_threads()
    workers = min(_PAINTERS, os.cpu_count() or 1)
    # a thread per texture and none inside: these operations are too small to be split
    try:
        with ThreadPoolExecutor(workers, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            images = list(pool.map(one, enumerate(styles)))
    finally:
        torch.set_num_threads(threads)
    return TextureBank.from_images(torch.stack(images))
