"""Random monuments: large buildings on a square, symmetric, of one stone, with all that repeats."""

import torch
import torch.nn.functional as F

from matching.training.draft import Draft
from matching.training.furnish import (
    add_bushes,
    add_clutter,
    add_rods,
    add_roof,
    add_trees,
    stack3,
)
from matching.training.geometry import constant
from matching.training.stage import Stage, make_stage
from matching.training.world import Kind

_SIDES = (-1.0, 1.0)
_LEAST_CELL_M = 0.7  # narrower walls have fewer windows beside each other


def monument(draft: Draft) -> Stage:
    """A church or a palace, 10 to 36 m wide, whose front looks along -y, and a crowd before it."""
    wide = draft.log_uniform(1, low=5.0, high=18.0)  # half extents of the main body
    tall = wide * draft.uniform(1, low=0.4, high=1.0)
    deep = wide * draft.uniform(1, low=0.35, high=0.8)
    ground = constant((150.0, 150.0, 0.2), draft.device).expand(draft.count, 1, 3)
    draft.add(
        Kind.BOX, ground * constant((0.0, 0.0, -1.0), draft.device), ground, "ground",
        texture_m=draft.log_uniform(1, low=1.0, high=6.0),
    )  # fmt: skip
    zero = torch.zeros_like(wide)
    texture_m = draft.log_uniform(1, low=1.5, high=8.0)
    stone = draft.add(
        Kind.FACADE, stack3(zero, zero, tall), stack3(wide, deep, tall), "masonry",
        params=_windows(draft, wide, tall), texture_m=texture_m,
    )  # fmt: skip
    add_roof(
        draft, stack3(zero, zero, 2 * tall), torch.cat([wide, deep], -1)[:, None],
        draft.chance(0.6, 1),
    )  # fmt: skip
    for level in (0.03, 0.55, 1.0):  # plinth and cornices
        out = wide * draft.uniform(1, low=0.005, high=0.04)
        band = tall * draft.uniform(1, low=0.01, high=0.05)
        draft.add(
            Kind.BOX, stack3(zero, zero, 2 * tall * level), stack3(wide + out, deep + out, band),
            "masonry", of=stone, keep=draft.chance(0.7, 1),
        )  # fmt: skip
    _portico(draft, stone, wide, tall, deep)
    _portals(draft, stone, wide, tall, deep)
    _towers(draft, stone, wide, tall, deep)
    _statues(draft, wide, tall, deep)
    # lower wings and the houses behind
    number = 2
    side = constant(_SIDES, draft.device).expand(draft.count, number)
    low_half = stack3(
        wide * draft.uniform(1, low=0.3, high=0.8), deep * 0.8,
        tall * draft.uniform(1, low=0.3, high=0.7),
    ).expand(-1, number, 3)  # fmt: skip
    center = stack3(side * (wide + low_half[..., 0]), deep * 0.1 + 0 * side, low_half[..., 2])
    windows = _windows(draft, low_half[..., 0], low_half[..., 2])
    draft.add(
        Kind.FACADE, center, low_half, "masonry", params=windows, of=stone,
        keep=draft.chance(0.5, 1).expand(-1, number),
    )  # fmt: skip
    number = 3
    half = draft.uniform(number, 3, low=4.0, high=9.0)
    x = wide * draft.uniform(number, low=-2.5, high=2.5)
    y = wide * 2.0 + 10.0 * draft.uniform(number)
    draft.add(
        Kind.FACADE, stack3(x, y, half[..., 2]), half, "wall",
        params=_windows(draft, half[..., 0], half[..., 2]),
        texture_m=draft.log_uniform(number, low=0.8, high=5.0),
    )  # fmt: skip
    # the square: people and their things, lamps, trees
    front = torch.cat([-1.6 * wide, -deep - 2.5 * wide - 4.0], -1)
    back = torch.cat([1.6 * wide, -1.2 * deep], -1)
    add_clutter(draft, 16, front, back, draft.uniform(16) * 0.0, (0.15, 1.0))
    add_rods(draft, 4, front, back, 7.0)
    add_bushes(draft, 2, front, back, 0.0, (0.4, 1.5))
    number = 2
    xy = front[:, None] + (back - front)[:, None] * draft.uniform(number, 2)
    tall_tree = draft.uniform(number, low=1.5, high=4.0)
    add_trees(
        draft, F.pad(xy, (0, 1)), 0.06 * tall_tree, tall_tree,
        tall_tree * draft.uniform(number, low=0.5, high=0.9),
        draft.uniform(number, low=0.1, high=0.35), fill=0.85, seed=9.0,
        keep=draft.chance(0.5, number),
    )  # fmt: skip
    eye = draft.uniform(1, low=1.8, high=3.0) + tall * 0.8 * draft.chance(0.25, 1)
    near = -deep - 3.0 - 0.3 * wide
    return make_stage(
        draft,
        torch.cat([-1.7 * wide, near - 4.0 * wide, zero + 1.2], -1),
        torch.cat([1.7 * wide, near, eye], -1),
        indoor=False,
        look=(
            torch.cat([-1.5 * wide, -1.8 * deep, zero + 0.3], -1),
            torch.cat([1.5 * wide, deep, 3.0 * tall], -1),
        ),
    )


def _windows(draft: Draft, wide: torch.Tensor, tall: torch.Tensor) -> torch.Tensor:
    """Parameters of facades: tall windows, a few or many to a wall, (B, n, 5).

    Recesses keep clear of each other and of the corners; ``wide`` is at least 0.4 m.
    """
    number = wide.shape[1]
    columns = torch.floor(draft.uniform(number, low=3.0, high=12.0))
    columns = torch.minimum(columns, torch.floor(1.9 * wide / _LEAST_CELL_M)).clamp_min(1.0)
    rows = torch.floor(draft.uniform(number, low=1.0, high=5.0))
    cell_w, cell_h = 1.9 * wide / columns, 1.9 * tall / rows
    depth = (0.1 * cell_w * draft.uniform(number, low=0.3)).clamp(0.04, 0.5)
    half_w = (0.5 * cell_w - depth) * draft.uniform(number, low=0.35, high=0.8)
    half_h = 0.5 * cell_h * draft.uniform(number, low=0.3, high=0.85)
    return torch.stack([cell_w, cell_h, half_w, half_h, depth], -1)


def _portico(
    draft: Draft, stone: int, wide: torch.Tensor, tall: torch.Tensor, deep: torch.Tensor
) -> None:
    """Steps, a row of columns, the beam on them, and a roof whose open gable looks ahead."""
    keep = draft.chance(0.6, 1)
    number = 8
    half = wide * draft.uniform(1, low=0.35, high=0.9)
    high = tall * draft.uniform(1, low=0.3, high=0.75)  # half the columns' height
    out = wide * draft.uniform(1, low=0.06, high=0.2)
    rise = 0.15 * high
    for k in range(3):
        more = 0.25 * out * (2 - k)
        draft.add(
            Kind.BOX, stack3(0 * out, -deep - 0.5 * out, rise * (k + 0.5) / 3),
            stack3(half + more + 0.3, 0.6 * out + more, rise / 6), "masonry", of=stone, keep=keep,
        )  # fmt: skip
    place = constant(tuple(2 * k / (number - 1) - 1 for k in range(number)), draft.device)
    thick = half * draft.uniform(1, low=0.025, high=0.06)
    x = place * (half - thick)
    draft.add(
        Kind.CYLINDER, stack3(x, -deep - 1.1 * out + thick, rise + high),
        stack3(thick, thick, high + 0 * x),
        "masonry", of=stone, keep=keep.expand(-1, number),
    )  # fmt: skip
    beam = high * draft.uniform(1, low=0.05, high=0.15)
    top = rise + 2 * high + beam
    draft.add(
        Kind.BOX, stack3(0 * out, -deep - 0.5 * out, top), stack3(half, 0.6 * out, beam),
        "masonry", of=stone, keep=keep,
    )  # fmt: skip
    add_roof(
        draft, stack3(0 * out, -deep - 0.5 * out, top + beam), torch.cat([half, out], -1)[:, None],
        keep & draft.chance(0.6, 1), along_y=True,
    )  # fmt: skip


def _portals(
    draft: Draft, stone: int, wide: torch.Tensor, tall: torch.Tensor, deep: torch.Tensor
) -> None:
    """Three doors under round arches, each framed, and a round window above."""
    number = 3
    spread = wide * draft.uniform(1, low=0.35, high=0.7)
    x = spread * constant((-1.0, 0.0, 1.0), draft.device)
    size = constant((0.8, 1.0, 0.8), draft.device) * wide * draft.uniform(1, low=0.07, high=0.16)
    high = size * draft.uniform(1, low=0.8, high=1.6)  # half the height below the arch
    keep = draft.chance(0.75, 1).expand(-1, number)
    frame = 1.0 + draft.uniform(1, low=0.1, high=0.35)
    thin = torch.full_like(size, 0.08)
    y = -deep + 0 * size
    draft.add(
        Kind.BOX, stack3(x, y, high), stack3(size * frame, 2 * thin, high), "masonry", of=stone,
        keep=keep,
    )  # fmt: skip
    _disc(draft, x, y, 2 * high, size * frame, 2 * thin, "masonry", keep, of=stone)
    door = draft.add(Kind.BOX, stack3(x, y, high), stack3(size, 3 * thin, high), "wood", keep=keep)
    _disc(draft, x, y, 2 * high, size, 3 * thin, "wood", keep, like=door)
    rose = wide * draft.uniform(1, low=0.08, high=0.25)
    at, z = torch.zeros_like(rose), tall * draft.uniform(1, low=1.1, high=1.5)
    kept = draft.chance(0.5, 1)
    thin, y = thin[:, :1], y[:, :1]
    _disc(draft, at, y, z, 1.15 * rose, 2 * thin, "masonry", kept, of=stone)
    _disc(draft, at, y, z, rose, 3 * thin, "picture", kept)


def _disc(
    draft: Draft,
    x: torch.Tensor,
    y: torch.Tensor,
    z: torch.Tensor,
    radius: torch.Tensor,
    half: torch.Tensor,
    surface: str,
    keep: torch.Tensor,
    *,
    of: int | None = None,
    like: int | None = None,
) -> None:
    """Flat cylinders along y; ``of`` and ``like`` as in `Draft.add`."""
    turned = constant((1.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, -1.0, 0.0), draft.device).reshape(3, 3)
    draft.add(
        Kind.CYLINDER, stack3(x, y, z), stack3(radius, radius, half), surface,
        rotation=turned.expand(*x.shape, 3, 3), keep=keep, of=of, like=like,
    )  # fmt: skip


def _towers(
    draft: Draft, stone: int, wide: torch.Tensor, tall: torch.Tensor, deep: torch.Tensor
) -> None:
    """Two towers alike, and a drum in the middle; each with a dome, a lantern and a knob.

    Only the shapes of both are the same: each drum and dome is of a material of its own.
    """
    half = wide * draft.uniform(1, low=0.12, high=0.25)
    high = tall * draft.uniform(1, low=1.1, high=2.0)
    x = (wide - half) * draft.uniform(1, low=0.6, high=1.15)
    y = -deep * draft.uniform(1, low=0.3, high=1.0)
    pair = constant(_SIDES, draft.device)
    keep = draft.chance(0.6, 1)
    number = len(_SIDES)
    draft.add(
        Kind.FACADE, stack3(x * pair, y, high), stack3(half + 0 * pair, half, high), "masonry",
        params=_windows(draft, half, high).expand(-1, number, -1), of=stone,
        keep=keep.expand(-1, number),
    )  # fmt: skip
    _dome(draft, x * pair, y + 0 * pair, 2 * high, 0.9 * half, keep.expand(-1, number))
    middle = wide * draft.uniform(1, low=0.2, high=0.5)
    _dome(draft, 0 * x, deep * 0.2, 2 * tall, middle, draft.chance(0.6, 1))


def _dome(
    draft: Draft,
    x: torch.Tensor,
    y: torch.Tensor,
    base: torch.Tensor,
    radius: torch.Tensor,
    keep: torch.Tensor,
) -> None:
    """A drum, a dome on it, a lantern and a knob; (B, n) each, ``base`` and ``radius`` (B, 1)."""
    drum = radius * draft.uniform(1, low=0.2, high=0.8)
    rise = radius * draft.uniform(1, low=0.6, high=1.6)
    lamp = radius * draft.uniform(1, low=0.1, high=0.25)
    same = 0 * x
    z = base + drum
    first = draft.add(
        Kind.CYLINDER, stack3(x, y, z), stack3(radius + same, radius, drum), "masonry", keep=keep
    )
    z = z + drum
    dome = draft.add(
        Kind.ELLIPSOID, stack3(x, y, z), stack3(radius + same, radius, rise), "roof", keep=keep
    )
    z = z + rise + lamp
    draft.add(
        Kind.CYLINDER, stack3(x, y, z), stack3(lamp + same, lamp, 1.5 * lamp), "masonry",
        keep=keep, of=first,
    )  # fmt: skip
    z = z + 2 * lamp
    draft.add(
        Kind.ELLIPSOID, stack3(x, y, z), stack3(lamp + same, lamp, lamp), "roof", keep=keep, of=dome
    )


def _statues(draft: Draft, wide: torch.Tensor, tall: torch.Tensor, deep: torch.Tensor) -> None:
    """Figures on pedestals, before the front or on the cornice."""
    number = 6
    x = wide * draft.uniform(number, low=-0.9, high=0.9)
    above = draft.chance(0.5, number)
    y = torch.where(above, -deep, -deep - 0.15 * wide - 0.5 * wide * draft.uniform(number))
    base = torch.where(above, 2 * tall, 0.0)
    size = (0.05 * wide * draft.uniform(number, low=0.6, high=1.6)).clamp(0.3, 1.5)
    keep = draft.chance(0.6, number)
    yaw = draft.uniform(number, high=6.283)
    draft.add(
        Kind.BOX, stack3(x, y, base + 0.7 * size), stack3(0.7 * size, 0.7 * size, 0.7 * size),
        "masonry", keep=keep,
    )  # fmt: skip
    body = draft.add(
        Kind.ELLIPSOID, stack3(x, y, base + 2.6 * size),
        stack3(0.65 * size, 0.45 * size, 1.3 * size), "masonry", yaw=yaw, keep=keep,
    )  # fmt: skip
    draft.add(
        Kind.ELLIPSOID, stack3(x + 0.1 * size, y, base + 4.1 * size),
        stack3(0.3 * size, 0.32 * size, 0.42 * size), "masonry", yaw=yaw, keep=keep, like=body,
    )  # fmt: skip
