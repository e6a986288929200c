"""From radiance to a photo: exposure, tone curve, and what lens and sensor do to it."""

import torch


def tone_map(radiance: torch.Tensor) -> torch.Tensor:
    """Film-like curve and gamma: linear radiance (..., 3) to display values in [0, 1]."""
    exposed = radiance.clamp_min(0)
    curve = exposed * (1 + exposed * 0.12) / (1 + exposed)
    return curve.clamp(1e-5, 1).pow(1 / 2.2)
