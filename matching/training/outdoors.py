"""Random streets and open land."""

import torch
import torch.nn.functional as F

from matching.training.draft import Draft, random_rotation
from matching.training.furnish import (
    add_bushes,
    add_cables,
    add_clutter,
    add_fences,
    add_rods,
    add_roof,
    add_tables,
    add_trees,
    solid_kinds,
    stack3,
)
from matching.training.geometry import constant
from matching.training.stage import Stage, make_stage
from matching.training.world import Kind


def _facade_row(draft: Draft, number: int, side: float, street: torch.Tensor) -> None:
    """Houses along x at distance ``street`` (B,) on one side, with rows of windows."""
    width = draft.uniform(number, low=3.0, high=8.0)
    gap = draft.uniform(number, low=0.0, high=2.5) * draft.chance(0.3, number)
    right = torch.cumsum(2 * width + gap, 1)
    x = right - width - 0.5 * right[:, -1:]
    setback = draft.uniform(number, low=0.0, high=0.7)
    tall = draft.log_uniform(number, low=2.5, high=9.0)
    deep = draft.uniform(number, low=2.0, high=4.0)
    y = side * (street[:, None] + setback + deep)
    cell_w = draft.uniform(number, low=1.3, high=3.2)
    cell_h = draft.uniform(number, low=2.2, high=3.4)
    depth = draft.uniform(number, low=0.05, high=0.35)
    hw = torch.minimum(cell_w * draft.uniform(number, low=0.15, high=0.4), 0.5 * cell_w - depth)
    hh = torch.minimum(cell_h * draft.uniform(number, low=0.15, high=0.42), 0.5 * cell_h - 0.1)
    # corners must be thicker than the recesses are deep: keep the grid off the edges
    params = torch.stack([cell_w, cell_h, hw.clamp_min(0.12), hh.clamp_min(0.15), depth], -1)
    center = stack3(x, y, tall)
    draft.add(
        Kind.FACADE, center, stack3(width, deep, tall), "wall", params=params,
        texture_m=draft.log_uniform(number, low=0.8, high=5.0),
    )  # fmt: skip
    top = stack3(x, y, 2 * tall)
    add_roof(draft, top, torch.stack([width, deep], -1), draft.chance(0.5, number))
    # plinths and cornices
    face = side * (street[:, None] + setback)
    band = draft.uniform(number, low=0.06, high=0.3)
    out = draft.uniform(number, low=0.03, high=0.35)
    draft.add(
        Kind.BOX, stack3(x, face, 2 * tall - band), stack3(width + 0.5 * out, out, band), "wall",
        keep=draft.chance(0.7, number),
    )  # fmt: skip
    draft.add(
        Kind.BOX, stack3(x, face, band * 1.5), stack3(width, 0.3 * out, band * 1.5), "wall",
        keep=draft.chance(0.6, number),
    )  # fmt: skip
    # doors, posters and signs
    for surface, low_z, high_z in (("picture", 1.0, 2.6), ("wood", 1.05, 1.1)):
        at = x + width * draft.uniform(number, low=-0.85, high=0.85)
        size = draft.uniform(number, low=0.35, high=1.0)
        z = draft.uniform(number, low=low_z, high=high_z)
        thin = torch.full_like(size, 0.05)
        draft.add(Kind.BOX, stack3(at, face, z), stack3(size, thin, z.clamp_max(1.1)), surface)


def street(draft: Draft) -> Stage:
    """A street along x, 6 to 22 m wide, between two rows of houses."""
    street = draft.log_uniform(low=3.0, high=11.0)
    ground = constant((60.0, 60.0, 0.2), draft.device).expand(draft.count, 1, 3)
    below = constant((0.0, 0.0, -0.2), draft.device).expand(draft.count, 1, 3)
    draft.add(Kind.BOX, below, ground, "ground", texture_m=draft.log_uniform(1, low=0.8, high=5.0))
    for side in (-1.0, 1.0):
        _facade_row(draft, 3, side, street)
        kerb = torch.full((draft.count, 1), 0.07, device=draft.device)
        wide = draft.uniform(1, low=0.5, high=1.2)
        y = side * (street[:, None] - wide)
        long = torch.full_like(kerb, 25.0)
        draft.add(
            Kind.BOX, stack3(0 * y, y, kerb), stack3(long, wide, kerb), "ground",
            texture_m=draft.log_uniform(1, low=0.8, high=3.0),
        )  # fmt: skip
    # a house across one end
    end = torch.stack([draft.sign() * draft.uniform(low=12.0, high=24.0), 0 * street], -1)
    half = stack3(torch.full_like(street, 2.0), street + 4, draft.uniform(low=3.0, high=8.0))
    params = torch.stack(
        [
            draft.uniform(low=1.6, high=3.0), draft.uniform(low=2.3, high=3.2),
            draft.uniform(low=0.3, high=0.55), draft.uniform(low=0.5, high=0.9),
            draft.uniform(low=0.05, high=0.24),
        ],
        -1,
    )  # fmt: skip
    draft.add(
        Kind.FACADE, torch.cat([end, half[:, 2:]], -1)[:, None], half[:, None], "wall",
        params=params[:, None], keep=draft.chance(0.6, 1),
        texture_m=draft.log_uniform(1, low=0.8, high=5.0),
    )  # fmt: skip
    low = torch.stack([torch.full_like(street, -9.0), -street + 0.6], -1)
    high = -low
    # cars: body, cabin and wheels
    number = 2
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    yaw = 0.3 * draft.uniform(number, low=-1.0) + 3.1416 * draft.chance(0.5, number)
    ones = torch.ones_like(yaw)
    keep = draft.chance(0.7, number)
    body = stack3(2.0 * ones, 0.85 * ones, 0.32 * ones)
    draft.add(
        Kind.BOX, stack3(xy[..., 0], xy[..., 1], 0.6 * ones), body, "metal", yaw=yaw, keep=keep
    )
    draft.add(
        Kind.ELLIPSOID, stack3(xy[..., 0], xy[..., 1], 0.95 * ones),
        stack3(1.25 * ones, 0.78 * ones, 0.52 * ones), "glass", yaw=yaw, keep=keep,
    )  # fmt: skip
    # trees
    number = 3
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    add_trees(
        draft, F.pad(xy, (0, 1)), draft.uniform(number, low=0.06, high=0.2),
        draft.uniform(number, low=1.5, high=3.0), draft.uniform(number, low=0.8, high=1.8),
        draft.uniform(number, low=0.1, high=0.25), fill=0.85, seed=7.0,
    )  # fmt: skip
    add_fences(draft, 3, low, high)
    tops = add_tables(draft, 1, low * 0.6, high * 0.6)
    add_clutter(
        draft,
        3,
        tops[:, 0, :2] - 0.3,
        tops[:, 0, :2] + 0.3,
        tops[:, 0, 2:].expand(-1, 3),
        (0.04, 0.15),
    )
    add_clutter(draft, 22, low, high, draft.uniform(22) * 0.0, (0.06, 0.9))
    add_rods(draft, 5, low, high, 4.0)
    above = (F.pad(low, (0, 1), value=2.5), F.pad(high, (0, 1), value=8.0))
    add_cables(draft, 4, *above, longest=24.0)
    add_bushes(draft, 2, low, high, 0.0, (0.3, 0.9))
    span = torch.full_like(street, 9.0)
    return make_stage(
        draft,
        torch.stack([-span, -street + 0.5, torch.full_like(street, 0.9)], -1),
        torch.stack([span, street - 0.5, draft.uniform(low=2.0, high=4.0)], -1),
        indoor=False,
    )


def land(draft: Draft) -> Stage:
    """Open land: hills, rocks, ruins, trees and a house or two."""
    waves = torch.stack(
        [
            draft.uniform(1, low=0.2, high=1.6), draft.uniform(1, low=0.1, high=0.5),
            draft.uniform(1, low=0.02, high=0.15), draft.uniform(1, low=14.0, high=40.0),
            draft.uniform(1, low=5.0, high=12.0), draft.uniform(1, low=1.5, high=4.0),
        ],
        -1,
    )  # fmt: skip
    wide = constant((80.0, 80.0, 4.0), draft.device).expand(draft.count, 1, 3)
    draft.add(
        Kind.TERRAIN, torch.zeros_like(wide), wide, "ground", params=waves,
        texture_m=draft.log_uniform(1, low=1.0, high=5.0),
    )  # fmt: skip

    def height(xy: torch.Tensor) -> torch.Tensor:
        x, y = xy.unbind(-1)
        a, w = waves[..., :3], 6.2831853 / waves[..., 3:]
        return (
            a[..., 0] * torch.sin(w[..., 0] * (0.8 * x + 0.6 * y))
            + a[..., 1] * torch.sin(w[..., 1] * (0.28 * x - 0.96 * y) + 1.0)
            + a[..., 2] * torch.sin(w[..., 2] * (-0.9 * x - 0.436 * y) + 2.0)
        )

    # rocks, half buried; ruins; a house; trees
    for number, reach, sizes, kinds in (
        (26, 9.0, (0.08, 1.2), None),
        (8, 16.0, (0.3, 1.6), Kind.BOX),
    ):
        xy = reach * draft.uniform(number, 2, low=-1.0)
        half = draft.log_uniform(number, low=sizes[0], high=sizes[1])[..., None] * draft.uniform(
            number, 3, low=0.5, high=1.3
        )
        kind = solid_kinds(draft, number) if kinds is None else kinds
        center = torch.cat([xy, (height(xy) + 0.3 * half[..., 2])[..., None]], -1)
        if kinds is None:
            draft.add(
                kind, center, half, "object", rotation=random_rotation(draft, number), clutter=True
            )
        else:
            draft.add(kind, center, half, "wall", yaw=draft.uniform(number, high=6.283))
    xy = 22.0 * draft.uniform(2, 2, low=-1.0)
    half = draft.uniform(2, 3, low=3.0, high=6.0)
    params = constant((2.2, 2.6, 0.5, 0.8, 0.2), draft.device).expand(draft.count, 2, 5)
    draft.add(
        Kind.FACADE, torch.cat([xy, height(xy)[..., None] + half[..., 2:]], -1), half, "wall",
        yaw=draft.uniform(2, high=6.283), params=params, keep=(xy.norm(dim=-1) > 13.0),
    )  # fmt: skip
    number = 7
    xy = 14.0 * draft.uniform(number, 2, low=-1.0)
    foot = torch.cat([xy, height(xy)[..., None]], -1)
    add_trees(
        draft, foot, draft.uniform(number, low=0.06, high=0.3),
        draft.uniform(number, low=1.0, high=3.5), draft.uniform(number, low=0.6, high=2.2),
        draft.uniform(number, low=0.1, high=0.3), fill=0.8, seed=11.0,
    )  # fmt: skip
    number = 10
    xy = 8.0 * draft.uniform(number, 2, low=-1.0)
    radius = draft.uniform(number, low=0.25, high=0.7)
    leaf = draft.uniform(number, low=0.06, high=0.2)
    params = torch.stack([leaf, 0.5 + 0 * leaf, 0.7 + 0 * leaf, 5.0 + 0 * leaf], -1)
    center = torch.cat([xy, (height(xy) + 0.6 * radius)[..., None]], -1)
    draft.add(Kind.BUSH, center, radius[..., None].expand(-1, -1, 3), "green", params=params)
    ones = torch.ones(draft.count, device=draft.device)
    top = waves[:, 0, :3].sum(-1)
    return make_stage(
        draft,
        torch.stack([-8 * ones, -8 * ones, top + 0.6], -1),
        torch.stack([8 * ones, 8 * ones, top + draft.uniform(low=1.5, high=4.0)], -1),
        indoor=False,
    )
