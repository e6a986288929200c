"""Scenes together with where cameras may stand and look in them."""

from dataclasses import dataclass

import torch

from matching.training.draft import Draft
from matching.training.world import KIND, RADIUS, Kind, Scenes

SLOTS = 112  # primitives per scene


@dataclass(frozen=True, kw_only=True)
class Stage:
    """Scenes and where cameras may stand and look in them.

    Attributes:
        scenes: B scenes.
        low: Lower corner of the cameras' space, (B, 3) metres.
        high: Upper corner, (B, 3).
        targets: Points worth looking at, (B, T, 3).
        indoor: True for rooms, (B,) bool.
    """

    scenes: Scenes
    low: torch.Tensor
    high: torch.Tensor
    targets: torch.Tensor
    indoor: torch.Tensor


def make_stage(
    draft: Draft,
    low: torch.Tensor,
    high: torch.Tensor,
    indoor: bool,
    *,
    look: tuple[torch.Tensor, torch.Tensor] | None = None,
) -> Stage:
    """Finish a draft.

    Args:
        draft: The scenes.
        low: As in `Stage`.
        high: As in `Stage`.
        indoor: For all of them.
        look: Corners of the region that is worth looking at, (B, 3) each; None: where the cameras
            stand and a little more.
    """
    geometry, materials = draft.finish(SLOTS)
    kind = geometry[..., KIND]
    # look at solid things that exist; walls, ground and empty slots are replaced by any point
    first, last = (low - 1.5, high + 1.5) if look is None else look
    around = (low, high) if look is None else look
    margin = 0.1 if look is None else 0.0
    anywhere = draft.uniform(SLOTS, 3, low=-margin, high=1.0 + margin)
    inside = around[0][:, None] + (around[1] - around[0])[:, None] * anywhere
    centers = geometry[..., :3]
    near = (centers > first[:, None]).all(-1) & (centers < last[:, None]).all(-1)
    usable = near & (kind != Kind.ROOM) & (kind != Kind.TERRAIN) & (geometry[..., RADIUS] > 0)
    return Stage(
        scenes=Scenes(geometry=geometry, materials=materials),
        low=low,
        high=high,
        targets=torch.where(usable[..., None], centers, inside),
        indoor=torch.full((draft.count,), indoor, device=draft.device),
    )
