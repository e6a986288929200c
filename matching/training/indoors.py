"""Random rooms, and halls full of bodies without a meaning."""

import torch

from matching.training.draft import Draft, random_rotation
from matching.training.furnish import (
    add_bushes,
    add_cables,
    add_chairs,
    add_clutter,
    add_floating,
    add_rods,
    add_sofas,
    add_tables,
    solid_kinds,
    stack3,
)
from matching.training.geometry import constant
from matching.training.stage import Stage, make_stage
from matching.training.world import Kind


def room(draft: Draft) -> Stage:
    """A furnished room of 3 to 11 m, seen from inside."""
    half = torch.stack(
        [
            draft.log_uniform(low=1.4, high=5.5),
            draft.log_uniform(low=1.4, high=5.5),
            draft.uniform(low=1.2, high=1.9),
        ],
        -1,
    )
    center = half * constant((0.0, 0.0, 1.0), draft.device)
    big = torch.full((draft.count, 1), 2.0, device=draft.device)
    draft.add(
        Kind.ROOM, center[:, None], half[:, None], "wall",
        texture_m=big * draft.log_uniform(1, low=0.4, high=2.0),
    )  # fmt: skip
    low, high = -half[:, :2], half[:, :2]
    # the floor is a slab of its own, so that it wears what floors wear
    slab = torch.cat([half[:, :2], torch.full_like(half[:, :1], 0.01)], -1)
    draft.add(
        Kind.BOX, torch.zeros_like(slab)[:, None], slab[:, None], "floor",
        texture_m=draft.log_uniform(1, low=0.5, high=3.0),
    )  # fmt: skip
    top = torch.cat([torch.zeros_like(half[:, :2]), 2 * half[:, 2:]], -1)
    draft.add(
        Kind.BOX, top[:, None], slab[:, None], "ceiling", keep=draft.chance(0.75, 1),
        texture_m=draft.log_uniform(1, low=0.6, high=3.0),
    )  # fmt: skip
    rug = torch.cat(
        [draft.uniform(1, 2, low=0.4, high=1.6), torch.full_like(big, 0.02)[..., None]], -1
    )
    xy = (high * 0.7)[:, None] * draft.uniform(1, 2, low=-1.0)
    draft.add(
        Kind.BOX, torch.cat([xy, torch.full_like(big, 0.0)[..., None]], -1), rug, "picture",
        yaw=draft.uniform(1, high=3.0) * draft.chance(0.5, 1), keep=draft.chance(0.6, 1),
    )  # fmt: skip

    _add_on_walls(draft, half)
    _add_shelves(draft, half)
    tops = add_tables(draft, 3, low * 0.75, high * 0.75)
    for k in range(3):
        spot = tops[:, k]
        add_clutter(
            draft, 4, spot[:, :2] - 0.35, spot[:, :2] + 0.35,
            spot[:, 2:3].expand(-1, 4), (0.02, 0.14),
        )  # fmt: skip
    _add_screens(draft, tops[:, :2])
    add_chairs(draft, 3, low * 0.9, high * 0.9)
    add_sofas(draft, 2, low * 0.8, high * 0.8)
    add_clutter(draft, 14, low * 0.95, high * 0.95, draft.uniform(14) * 0.0, (0.04, 0.5))
    add_floating(draft, 5, low, high, 2 * half[:, 2])
    add_rods(draft, 5, low * 0.9, high * 0.9, 1.6)
    corners = (
        torch.cat([low * 0.97, 0 * half[:, 2:]], -1),
        torch.cat([high * 0.97, 2 * half[:, 2:]], -1),
    )
    add_cables(draft, 3, *corners, longest=3.0)
    add_bushes(draft, 2, low * 0.85, high * 0.85, 0.0, (0.15, 0.45))
    wall = constant((0.12, 0.12, 0.3), draft.device)
    span = half - wall
    return make_stage(
        draft,
        torch.cat([-span[:, :2] * 0.93, torch.full_like(big, 0.5)], -1),
        torch.cat([span[:, :2] * 0.93, 2 * half[:, 2:] * 0.9], -1),
        indoor=True,
    )


def _add_on_walls(draft: Draft, half: torch.Tensor) -> None:
    """Pictures, windows, doors and cupboards of a room of half extents (B, 3)."""
    for number, surface, sizes, depth in (
        (8, "picture", (0.12, 0.8), (0.01, 0.05)),
        (3, "view", (0.4, 1.0), (0.02, 0.06)),
        (4, "wood", (0.25, 0.9), (0.1, 0.5)),
    ):
        on_x = draft.chance(0.5, number)
        side = draft.sign(number)
        along = draft.uniform(number, low=-0.92, high=0.92)
        width = draft.log_uniform(number, low=sizes[0], high=sizes[1])
        tall = draft.log_uniform(number, low=sizes[0], high=sizes[1])
        thick = draft.uniform(number, low=depth[0], high=depth[1])
        hx, hy, hz = half[:, None].unbind(-1)
        x = torch.where(on_x, side * (hx - thick), along * hx)
        y = torch.where(on_x, along * hy, side * (hy - thick))
        z = hz * draft.uniform(number, low=0.5, high=1.5)
        if surface == "wood":  # standing on the floor or hanging high
            z = torch.where(draft.chance(0.6, number), tall, 1.6 * hz)
        half_x = torch.where(on_x, thick, width)
        half_y = torch.where(on_x, width, thick)
        glow = None
        if surface == "view":  # the day outside is brighter than the room
            glow = draft.log_uniform(number, low=0.2, high=4.0) * draft.chance(0.6, number)
        draft.add(Kind.BOX, stack3(x, y, z), stack3(half_x, half_y, tall), surface, glow=glow)


def _add_shelves(draft: Draft, half: torch.Tensor) -> None:
    """Book shelves along the walls: facades whose recesses are the compartments."""
    number = 2
    on_x, side = draft.chance(0.5, number), draft.sign(number)
    hx, hy, _ = half[:, None].unbind(-1)
    thick = draft.uniform(number, low=0.15, high=0.25)
    along = draft.uniform(number, low=-0.8, high=0.8)
    width = draft.uniform(number, low=0.4, high=1.2)
    tall = draft.uniform(number, low=0.5, high=1.1)
    columns = torch.floor(draft.uniform(number, low=1, high=5))
    # a compartment is wider than the shelf is deep: its sides have none
    columns = torch.minimum(columns, torch.floor(0.99 * width / thick)).clamp_min(1.0)
    rows = torch.floor(draft.uniform(number, low=2, high=7))
    cell_w, cell_h = 2 * width / columns * 0.998, 2 * tall / rows * 0.998
    params = torch.stack(
        [cell_w, cell_h, 0.5 * cell_w - 0.02, 0.5 * cell_h - 0.015, thick * 0.9], -1
    )
    x = torch.where(on_x, side * (hx - thick), along * hx)
    y = torch.where(on_x, along * hy, side * (hy - thick))
    body = stack3(torch.where(on_x, thick, width), torch.where(on_x, width, thick), tall)
    draft.add(Kind.FACADE, stack3(x, y, tall), body, "wood", params=params)
    # half of them are full: books in place of their backs
    keep = draft.chance(0.5, number)
    half_x, half_y = (torch.where(way, 0.4 * thick, width) for way in (on_x, ~on_x))
    draft.add(Kind.BOX, stack3(x, y, tall), stack3(half_x, half_y, tall * 0.99), "shelf", keep=keep)


def _add_screens(draft: Draft, spot: torch.Tensor) -> None:
    """Screens on table tops at (B, n, 3): off, or shining."""
    number = spot.shape[1]
    tall = draft.uniform(number, low=0.1, high=0.25)
    xy = spot[..., :2] + 0.2 * draft.uniform(number, 2, low=-1.0)
    on = draft.uniform(number, low=0.2, high=1.5) * draft.chance(0.5, number)
    draft.add(
        Kind.BOX, stack3(xy[..., 0], xy[..., 1], spot[..., 2] + tall),
        stack3(1.6 * tall, torch.full_like(tall, 0.015), tall), "picture",
        yaw=draft.uniform(number, high=6.283), keep=draft.chance(0.7, number), glow=on,
    )  # fmt: skip


def heap(draft: Draft) -> Stage:
    """A large hall full of bodies of all sizes at any angle: geometry without a meaning."""
    half = torch.stack([draft.log_uniform(low=2.0, high=20.0) for _ in range(3)], -1)
    scale = half.prod(-1) ** (1 / 3)
    draft.add(Kind.ROOM, torch.zeros_like(half)[:, None], half[:, None], "object")
    number = 90
    center = half[:, None] * draft.uniform(number, 3, low=-0.97, high=0.97)
    size = scale[:, None] * draft.log_uniform(number, low=0.015, high=0.2)
    body = size[..., None] * draft.log_uniform(number, 3, low=0.45, high=2.0)
    rest = draft.chance(0.4, number)
    center[..., 2] = torch.where(rest, body[..., 2] - half[:, None, 2], center[..., 2])
    rotation = torch.where(
        draft.chance(0.5, number)[..., None, None],
        random_rotation(draft, number),
        torch.eye(3, device=draft.device),
    )
    draft.add(solid_kinds(draft, number), center, body, "object", rotation=rotation, clutter=True)
    return make_stage(draft, -0.85 * half, 0.85 * half, indoor=True)
