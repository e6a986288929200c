"""From radiance to a photo: exposure, tone curve, and what lens and sensor do to it."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from matching.training.geometry import Amount, constant

BLUR_RADIUS = 6  # pixels; half the window of motion blur and defocus
MOVED = 0.35  # share of the photos with motion blur


def tone_map(radiance: torch.Tensor) -> torch.Tensor:
    """Film-like curve and gamma: linear radiance (...) to display values in [0, 1]."""
    exposed = radiance.clamp_min(0)
    curve = exposed * (1 + exposed * 0.12) / (1 + exposed)
    return curve.clamp(1e-5, 1).pow(1 / 2.2)


@dataclass(frozen=True, kw_only=True)
class SensorRange:
    """How far the sensors of a batch may stray; all strengths scale with the difficulty."""

    exposure: float = 0.55  # standard deviation, natural logarithm
    white_balance: float = 0.12  # of each channel's gain
    contrast: float = 0.25  # of the gamma's logarithm
    noise: float = 0.035  # largest standard deviation of the read noise, display range 1
    blur_px: float = 2.0  # largest standard deviation of the defocus, at 512 px image width
    motion_px: float = 4.0  # of motion blur along its direction, at 512 px image width
    vignette: float = 0.55  # largest loss in the corners
    jpeg: float = 0.6  # part of the images that went through JPEG

    def __post_init__(self) -> None:
        for name, value in vars(self).items():
            if not value >= 0:
                raise ValueError(f"{name} must be >= 0, got {value}")


def develop(
    radiance: torch.Tensor,
    generator: torch.Generator,
    *,
    difficulty: Amount,
    options: SensorRange | None = None,
) -> torch.Tensor:
    """Photograph linear radiance with a random camera per image.

    Args:
        radiance: Linear RGB, (I, 3, H, W) float32.
        generator: Source of all draws, on the same device.
        difficulty: 0 (good cameras) to 1.
        options: Strengths.

    Returns:
        Display values in [0, 1], (I, 3, H, W) float32.
    """
    options = options or SensorRange()
    count, _, height, width = radiance.shape
    device = radiance.device

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return low + (high - low) * torch.rand((count, *shape), generator=generator, device=device)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn((count, *shape), generator=generator, device=device)

    settings = _Settings(
        stray=(options.exposure * difficulty * normal(1, 1, 1)).exp(),
        balance=(1 + options.white_balance * difficulty * normal(3, 1, 1)).clamp(0.5, 1.6),
        corner=options.vignette * difficulty * uniform(1, 1, 1) ** 2 / 2,
        gamma=(options.contrast * difficulty * normal(1, 1, 1)).exp(),
        colors=(1 + 0.3 * difficulty * normal(1, 1, 1)).clamp(0, 1.6),
        level=options.noise * difficulty * uniform(1, 1, 1) ** 2,
        chosen=uniform(1, 1, 1) < options.jpeg * difficulty,
        quality=uniform(low=35.0, high=95.0),
    )
    scale = max(height, width) / 512
    focus = options.blur_px * difficulty * scale * uniform() ** 3
    motion = options.motion_px * difficulty * scale * uniform() ** 2
    motion = motion * (uniform() < MOVED).float()
    kernels = _blur_kernels(focus, motion, uniform(high=math.pi))
    white = torch.randn(radiance.shape, generator=generator, device=device)
    exposed = _before_blur(radiance, settings)
    radius = (BLUR_RADIUS,) * 4
    flat = F.pad(exposed.reshape(1, -1, height, width), radius, mode="replicate")
    blurred = F.conv2d(flat, kernels, groups=3 * count).reshape(radiance.shape)
    return _after_blur(blurred, white, settings, jpeg_tables(device))


class _Settings(NamedTuple):
    """One camera per image, (I, 1, 1, 1) unless said otherwise."""

    stray: torch.Tensor  # exposure against the metered one
    balance: torch.Tensor  # (I, 3, 1, 1) gains
    corner: torch.Tensor  # loss of light in the corners
    gamma: torch.Tensor
    colors: torch.Tensor  # saturation
    level: torch.Tensor  # of the noise
    chosen: torch.Tensor  # bool: goes through JPEG
    quality: torch.Tensor  # (I,) of the JPEG


def _before_blur(radiance: torch.Tensor, settings: _Settings) -> torch.Tensor:
    """What happens to the light on its way to the sensor."""
    # exposure as cameras meter it: the mean of the logarithm goes to a middle grey
    metered = radiance.clamp(1e-4, 20).log().mean((1, 2, 3), keepdim=True).exp()
    gain = 0.22 / metered.clamp_min(2e-3) * settings.stray
    height, width = radiance.shape[2:]
    y = torch.linspace(-1, 1, height, device=radiance.device)[:, None]
    x = torch.linspace(-1, 1, width, device=radiance.device)
    return radiance * gain * settings.balance * (1 - settings.corner * (x * x + y * y))


def _after_blur(
    exposed: torch.Tensor, white: torch.Tensor, settings: _Settings, tables: torch.Tensor
) -> torch.Tensor:
    """What the camera makes of it: tone, colour, noise, JPEG."""
    image = tone_map(exposed).pow(settings.gamma)
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * settings.colors
    # read noise plus a part that follows the signal
    shot = 0.6 * settings.level * image.clamp_min(0).sqrt()
    image = (image + white * (0.5 * settings.level + shot)).clamp(0, 1)
    return torch.where(settings.chosen, jpeg(image, settings.quality, tables), image)


def _blur_kernels(focus: torch.Tensor, motion: torch.Tensor, angle: torch.Tensor) -> torch.Tensor:
    """Anisotropic Gaussians, round for defocus, drawn out for motion: (3 I, 1, size, size)."""
    across = (focus**2 + 0.12**2).sqrt()[:, None, None]
    along = (focus**2 + motion**2 + 0.12**2).sqrt()[:, None, None]
    span = torch.arange(-BLUR_RADIUS, BLUR_RADIUS + 1, device=focus.device).float()
    c, s = angle.cos()[:, None, None], angle.sin()[:, None, None]
    a, b = span * c + span[:, None] * s, span[:, None] * c - span * s
    kernel = torch.exp(-0.5 * ((a / along) ** 2 + (b / across) ** 2))
    kernel = kernel / kernel.sum((1, 2), keepdim=True)
    return kernel.repeat_interleave(3, 0)[:, None]


# quantisation tables of the JPEG standard (ITU T.81, annex K), luminance and chrominance
_LUMINANCE: tuple[float, ...] = (
    16, 11, 10, 16, 24, 40, 51, 61, 12, 12, 14, 19, 26, 58, 60, 55, 14, 13, 16, 24, 40, 57, 69, 56,
    14, 17, 22, 29, 51, 87, 80, 62, 18, 22, 37, 56, 68, 109, 103, 77, 24, 35, 55, 64, 81, 104, 113,
    92, 49, 64, 78, 87, 103, 121, 120, 101, 72, 92, 95, 98, 112, 100, 103, 99,
)  # fmt: skip
_CHROMINANCE: tuple[float, ...] = (
    17, 18, 24, 47, 99, 99, 99, 99, 18, 21, 26, 66, 99, 99, 99, 99, 24, 26, 56, 99, 99, 99, 99, 99,
    47, 66, 99, 99, 99, 99, 99, 99, *[99] * 32,
)  # fmt: skip


def jpeg_tables(device: torch.device) -> torch.Tensor:
    """The standard's quantisation tables of Y, Cb, Cr at quality 50, (3 * 64,)."""
    return constant(_LUMINANCE + _CHROMINANCE + _CHROMINANCE, device)


def jpeg(image: torch.Tensor, quality: torch.Tensor, tables: torch.Tensor) -> torch.Tensor:
    """What JPEG with full chroma does to images.

    Args:
        image: (I, 3, H, W) in [0, 1].
        quality: 1 to 100 as in libjpeg, (I,).
        tables: From `jpeg_tables`.

    Returns:
        (I, 3, H, W) in [0, 1].
    """
    count, _, height, width = image.shape
    device = image.device
    padded = F.pad(image, (0, -width % 8, 0, -height % 8), mode="replicate") * 255
    r, g, b = padded.unbind(1)
    luma = 0.299 * r + 0.587 * g + 0.114 * b - 128
    planes = torch.stack([luma, 0.564 * (b - luma - 128), 0.713 * (r - luma - 128)], 1)
    rows, columns = planes.shape[2] // 8, planes.shape[3] // 8
    blocks = planes.reshape(count, 3, rows, 8, columns, 8)
    k = torch.arange(8, device=device).float()
    basis = torch.cos((2 * k[None] + 1) * k[:, None] * math.pi / 16) * 0.5
    basis[0] = basis[0] / math.sqrt(2)
    spectrum = torch.einsum("ua,icranb,vb->icrunv", basis, blocks, basis)
    scale = torch.where(quality < 50, 5000 / quality, 200 - 2 * quality)[:, None]
    steps = ((tables * scale + 50) / 100).floor().clamp(1, 255)
    steps = steps.reshape(count, 3, 1, 8, 1, 8)
    spectrum = torch.round(spectrum / steps) * steps
    planes = torch.einsum("ua,icrunv,vb->icranb", basis, spectrum, basis).reshape(planes.shape)
    luma, blue, red = planes[:, 0] + 128, planes[:, 1] / 0.564, planes[:, 2] / 0.713
    r, b = luma + red, luma + blue
    g = (luma - 0.299 * r - 0.114 * b) / 0.587
    result = torch.stack([r, g, b], 1)[:, :, :height, :width]
    return (result / 255).clamp(0, 1)
