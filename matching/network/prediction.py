"""What the network is asked for, what it answers, and the activations of its raw outputs."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from matching.network.config import ActivationMode


@dataclass(frozen=True, kw_only=True)
class Want:
    """Which outputs of one view to compute; what is not asked for costs nothing.

    Attributes:
        pointmap: Point map and its confidence.
        descriptors: Descriptors and their confidence, of every pixel.
        pixels: With ``descriptors``: only of these pixels, (B, M, 2) int64 x, y counted from 0.
    """

    pointmap: bool = False
    descriptors: bool = False
    pixels: Tensor | None = None

    @property
    def anything(self) -> bool:
        """Whether any output is asked for."""
        return self.pointmap or self.descriptors

    @property
    def dense(self) -> "Want":
        """The same outputs at every pixel."""
        return Want(pointmap=self.pointmap, descriptors=self.descriptors)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Want":
        """Apply a function to the pixels (indexing, moving), if there are any."""
        pixels = None if self.pixels is None else function(self.pixels)
        return Want(pointmap=self.pointmap, descriptors=self.descriptors, pixels=pixels)


EVERYTHING = Want(pointmap=True, descriptors=True)
NOTHING = Want()


@dataclass(frozen=True, kw_only=True)
class Prediction:
    """The network's outputs for one view; None for what was not asked for. All float32.

    Attributes:
        pointmap: Points of both views in the camera frame of view 0, (B, H, W, 3).
        confidence: Of the points, (B, H, W).
        descriptors: Unit vectors, (B, H, W, D), or (B, M, D) where pixels were given.
        descriptor_confidence: (B, H, W) or (B, M).
    """

    pointmap: Tensor | None = None
    confidence: Tensor | None = None
    descriptors: Tensor | None = None
    descriptor_confidence: Tensor | None = None

    def map(self, function: Callable[[Tensor], Tensor]) -> "Prediction":
        """Apply a function to every tensor that is there."""
        return Prediction(**{k: None if v is None else function(v) for k, v in vars(self).items()})

    def __getitem__(self, items: slice | int | Tensor) -> "Prediction":
        return self.map(lambda tensor: tensor[items])

    @staticmethod
    def concatenate(parts: "list[Prediction]") -> "Prediction":
        """Join predictions along the batch axis."""
        names = [name for name, value in vars(parts[0]).items() if value is not None]
        return Prediction(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})


def activate_points(raw: Tensor) -> Tensor:
    """Points from raw (..., 3) values: the norm r becomes expm1(r), the direction stays."""
    norm = raw.norm(dim=-1, keepdim=True)
    return torch.expm1(norm) * (raw / norm.clamp_min(1e-8))


def activate_confidence(raw: Tensor, mode: ActivationMode) -> Tensor:
    """Confidence from raw values of any shape, see `NetworkConfig.conf_mode`."""
    kind, low, high = mode
    if kind == "sigmoid":
        return low + (high - low) * raw.sigmoid()
    return low + raw.exp().clamp_max(high - low)


def activate_descriptors(raw: Tensor) -> Tensor:
    """Descriptors of unit norm from raw (..., D) values."""
    return raw / raw.norm(dim=-1, keepdim=True)
