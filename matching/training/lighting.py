"""Random light for pairs of images: the same light twice, another sun, or day against night."""

import math

import torch
import torch.nn.functional as F

from matching.training.draft import Palette
from matching.training.geometry import Amount, constant
from matching.training.light import (
    CLOUD_WEIGHT,
    CLOUDS,
    GROUND,
    HAZE,
    HAZE_DENSITY,
    HORIZON,
    KEY,
    KEY_COLOR,
    NUM_LAMPS,
    NUM_LIGHT,
    SKY,
)


def draw_lights(
    low: torch.Tensor,
    high: torch.Tensor,
    indoor: torch.Tensor,
    palette: Palette,
    generator: torch.Generator,
    *,
    difficulty: Amount,
) -> torch.Tensor:
    """Light of both images of B pairs.

    Args:
        low: Lower corner of the space lamps may hang in, (B, 3).
        high: Upper corner, (B, 3).
        indoor: (B,) bool.
        palette: Textures, for clouds.
        generator: Source of all draws, on the device of ``low``.
        difficulty: 0 to 1: how often and how far the two lights differ.

    Returns:
        (B, 2, NUM_LIGHT) float32.
    """
    first = _draw(low, high, indoor, palette, generator)
    second = _draw(low, high, indoor, palette, generator)
    count, device = len(low), low.device

    def chance(probability: Amount) -> torch.Tensor:
        draw = torch.rand((count, 1), generator=generator, device=device)
        return draw < probability

    other = torch.where(chance(0.55 * difficulty), second, first)
    # the same weather at another hour: only the key light differs
    later = first.clone()
    later[:, KEY], later[:, KEY_COLOR] = second[:, KEY], second[:, KEY_COLOR]
    other = torch.where(chance(0.2 * difficulty), later, other)
    return torch.stack([first, other], 1)


def _draw(
    low: torch.Tensor,
    high: torch.Tensor,
    indoor: torch.Tensor,
    palette: Palette,
    generator: torch.Generator,
) -> torch.Tensor:
    count, device = len(low), low.device

    def uniform(*shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        return low + (high - low) * torch.rand((count, *shape), generator=generator, device=device)

    def warm(amount: torch.Tensor) -> torch.Tensor:
        """White to amber, (B, 3)."""
        tint = constant((1.0, 0.72, 0.42), device)
        return 1 + (tint - 1) * amount[:, None]

    row = torch.zeros((count, NUM_LIGHT), device=device)
    mode = uniform()  # below 0.55 sun, then overcast, then night with lamps
    sunny, night = mode < 0.55, mode > 0.82
    # rooms: a lamp or the sun through a window that is not there, soft light otherwise
    azimuth = uniform(high=2 * math.pi)
    elevation = torch.asin(uniform(low=0.12, high=0.98))
    sun = torch.stack(
        [azimuth.cos() * elevation.cos(), azimuth.sin() * elevation.cos(), elevation.sin()], -1
    )
    hang = low + (high - low) * torch.cat([uniform(2), uniform(1, low=0.75, high=1.0)], -1)
    lamp_key = night | (indoor & (uniform() < 0.6))
    span = (high - low).norm(dim=-1)
    row[:, 0:3] = torch.where(lamp_key[:, None], hang, sun)
    row[:, 3] = lamp_key.float()
    strength = torch.where(sunny, uniform(low=0.9, high=2.6), uniform(low=0.0, high=0.5))
    sun_color = strength[:, None] * warm((1 - elevation.sin()).clamp(0, 1) ** 2 * uniform())
    bulb = 0.06 * (span * uniform(low=0.5, high=1.3)) ** 2
    lamp_color = bulb[:, None] * uniform(1, low=0.6, high=2.5) * warm(uniform())
    row[:, KEY_COLOR] = torch.where(lamp_key[:, None], lamp_color, sun_color)

    soft = torch.where(night, uniform(low=0.01, high=0.08), uniform(low=0.15, high=0.7))
    soft = torch.where(indoor, soft * uniform(low=0.3, high=1.0) + 0.03, soft)
    blue = uniform() * torch.where(sunny & ~indoor, 1.0, 0.25)
    sky = 1 + (constant((0.45, 0.72, 1.15), device) - 1) * blue[:, None]
    row[:, SKY] = soft[:, None] * sky
    row[:, HORIZON] = soft[:, None] * (0.4 + 0.8 * uniform(1)) * (1 + 0.15 * (uniform(3) - 0.5))
    row[:, GROUND] = soft[:, None] * uniform(1, low=0.25, high=0.8) * warm(uniform() * 0.5)
    haze = (row[:, SKY] + row[:, HORIZON]) * 0.8
    row[:, HAZE] = haze
    foggy = (uniform() < 0.2).float() * torch.where(indoor, 0.1, 1.0)
    row[:, HAZE_DENSITY] = foggy * torch.exp(uniform(low=math.log(0.004), high=math.log(0.06)))
    for k in range(NUM_LAMPS):
        at = low + (high - low) * uniform(3)
        color = (0.35 * bulb)[:, None] * uniform(1) * warm(uniform())
        color = color * (uniform() < torch.where(night, 0.8, 0.15))[:, None].float()
        row[:, 20 + 6 * k : 23 + 6 * k] = at
        row[:, 23 + 6 * k : 26 + 6 * k] = color
    clouds = palette.table[palette.names.index("sky")]
    row[:, CLOUDS] = clouds[(uniform() * len(clouds)).long()].float()
    row[:, CLOUD_WEIGHT] = uniform() * 0.8
    row[:, 0:3] = torch.where(lamp_key[:, None], row[:, 0:3], F.normalize(row[:, 0:3], dim=-1))
    return row
