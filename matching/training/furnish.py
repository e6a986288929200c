"""Things that stand or hang about: clutter, furniture, poles, cables, roofs, plants, fences."""

from collections.abc import Sequence

import torch

from matching.training.draft import Draft, random_rotation
from matching.training.world import Kind


def stack3(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return torch.stack(torch.broadcast_tensors(x, y, z), -1)


def solid_kinds(draft: Draft, number: int) -> torch.Tensor:
    """Box, ellipsoid or cylinder, (B, n)."""
    choice = draft.uniform(number)
    round_kind = torch.where(choice < 0.75, Kind.ELLIPSOID.value, Kind.CYLINDER.value)
    return torch.where(choice < 0.5, Kind.BOX.value, round_kind)


def add_clutter(
    draft: Draft,
    number: int,
    low: torch.Tensor,
    high: torch.Tensor,
    floor: torch.Tensor,
    sizes: tuple[float, float],
) -> None:
    """Things of all sizes standing about; a third lie askew.

    Args:
        draft: To add to.
        number: Things per scene.
        low: Corner of the region, (B, 2).
        high: (B, 2).
        floor: Height they stand on, (B, n).
        sizes: Smallest and largest half extent, metres.
    """
    size = draft.log_uniform(number, low=sizes[0], high=sizes[1])
    half = size[..., None] * draft.log_uniform(number, 3, low=0.5, high=1.8)
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    tilted = draft.chance(0.3, number)
    upright = random_rotation(draft, number)
    yaw = draft.uniform(number, low=0.0, high=6.283)
    flat = torch.zeros_like(upright)
    flat[..., 0, 0] = flat[..., 1, 1] = yaw.cos()
    flat[..., 1, 0], flat[..., 0, 1], flat[..., 2, 2] = yaw.sin(), -yaw.sin(), 1.0
    rotation = torch.where(tilted[..., None, None], upright, flat)
    height = torch.where(tilted, half.amin(-1), half[..., 2])
    center = torch.cat([xy, (floor + height)[..., None]], -1)
    draft.add(solid_kinds(draft, number), center, half, "object", rotation=rotation, clutter=True)


Numbers = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # x, y, z, (B, n) each


def add_boxes(
    draft: Draft,
    xy: torch.Tensor,
    yaw: torch.Tensor,
    parts: Sequence[tuple[Numbers, Numbers]],
    surface: str,
    *,
    keep: torch.Tensor | None = None,
) -> None:
    """Things made of boxes of one material.

    Args:
        draft: To add to.
        xy: Where each stands, (B, n, 2).
        yaw: Its turn about z, (B, n) radians.
        parts: Centre against ``xy`` and the floor, in the turned frame, and half extents.
        surface: Key of `SURFACES`.
        keep: False leaves one out, (B, n).
    """
    first: int | None = None
    for (x, y, z), half in parts:
        at = stack3(
            xy[..., 0] + x * yaw.cos() - y * yaw.sin(),
            xy[..., 1] + x * yaw.sin() + y * yaw.cos(),
            z,
        )
        place = draft.add(Kind.BOX, at, stack3(*half), surface, yaw=yaw, keep=keep, like=first)
        first = place if first is None else first


def _legs(
    half_x: torch.Tensor, half_y: torch.Tensor, foot: torch.Tensor, tall: torch.Tensor
) -> list[tuple[Numbers, Numbers]]:
    """Four legs under the corners; ``foot`` and ``tall`` are half their width and height."""
    return [
        ((sx * (half_x - foot), sy * (half_y - foot), tall), (foot, foot, tall))
        for sx in (-1.0, 1.0)
        for sy in (-1.0, 1.0)
    ]


def add_chairs(draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor) -> None:
    """Chairs and stools: a seat, four legs, a back."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    seat = draft.uniform(number, low=0.38, high=0.55)
    wide = draft.uniform(number, low=0.17, high=0.3)
    back = draft.uniform(number, low=0.12, high=0.35)
    thick = draft.uniform(number, low=0.012, high=0.05)
    foot = draft.uniform(number, low=0.01, high=0.03)
    zero = torch.zeros_like(wide)
    parts = [
        ((zero, zero, seat - thick), (wide, wide, thick)),
        ((zero, wide - thick, seat + back), (wide, thick, back)),
        *_legs(wide, wide, foot, 0.5 * seat - thick),
    ]
    yaw = draft.uniform(number, high=6.283)
    add_boxes(draft, xy, yaw, parts, "wood", keep=draft.chance(0.75, number))


def add_sofas(draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor) -> None:
    """Armchairs, sofas and beds: a base, a back, two sides that are often low."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    half_x = draft.uniform(number, low=0.35, high=1.1)
    half_y = draft.uniform(number, low=0.35, high=1.0)
    seat = draft.uniform(number, low=0.15, high=0.26)
    back = draft.uniform(number, low=0.05, high=0.35)
    side = draft.uniform(number, high=0.2)
    arm = draft.uniform(number, low=0.05, high=0.14)
    zero = torch.zeros_like(seat)
    arms = [
        ((sx * (half_x + arm), zero, seat + 0.5 * side), (arm, half_y, seat + 0.5 * side))
        for sx in (-1.0, 1.0)
    ]
    parts = [
        ((zero, zero, seat), (half_x, half_y, seat)),
        ((zero, half_y + arm, seat + back), (half_x, arm, seat + back)),
        *arms,
    ]
    # most stand along the walls
    yaw = 1.5708 * torch.floor(draft.uniform(number, high=4.0))
    yaw = yaw + draft.uniform(number, low=-0.4, high=0.4) * draft.chance(0.4, number)
    add_boxes(draft, xy, yaw, parts, "cloth", keep=draft.chance(0.7, number))


def add_tables(draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Tables or benches with four legs and things on them; returns their tops, (B, n, 3)."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    half_x = draft.uniform(number, low=0.35, high=1.1)
    half_y = draft.uniform(number, low=0.25, high=0.5)
    top = draft.uniform(number, low=0.35, high=0.95)
    yaw = draft.uniform(number, high=6.283)
    thick = draft.uniform(number, low=0.015, high=0.04)
    foot = draft.uniform(number, low=0.015, high=0.045)
    zero = torch.zeros_like(top)
    parts = [
        ((zero, zero, top - thick), (half_x, half_y, thick)),
        *_legs(half_x, half_y, foot, 0.5 * top - thick),
    ]
    add_boxes(draft, xy, yaw, parts, "wood")
    return torch.cat([xy, top[..., None]], -1)


def add_floating(
    draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor, top: torch.Tensor
) -> None:
    """Things that hang anywhere at any angle."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    z = top[:, None] * draft.uniform(number, low=0.3)
    size = draft.log_uniform(number, low=0.03, high=0.4)
    half = size[..., None] * draft.log_uniform(number, 3, low=0.35, high=1.8)
    draft.add(
        solid_kinds(draft, number), torch.cat([xy, z[..., None]], -1), half, "object",
        rotation=random_rotation(draft, number), clutter=True,
    )  # fmt: skip


def add_rods(
    draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor, tallest: float
) -> None:
    """Thin poles, lamps, railings."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    radius = draft.log_uniform(number, low=0.008, high=0.06)
    tall = draft.uniform(number, low=0.3, high=1.0) * tallest
    half = stack3(radius, radius, 0.5 * tall)
    center = torch.cat([xy, (0.5 * tall)[..., None]], -1)
    draft.add(Kind.CYLINDER, center, half, "metal", keep=draft.chance(0.7, number))


def add_cables(
    draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor, *, longest: float
) -> None:
    """Cables, pipes, curtain rails: thin and level, in any direction.

    Args:
        draft: To add to.
        number: Cables per scene.
        low: Lower corner of where their middles lie, (B, 3).
        high: Upper corner, (B, 3).
        longest: Metres.
    """
    center = low[:, None] + (high - low)[:, None] * draft.uniform(number, 3)
    radius = draft.log_uniform(number, low=0.003, high=0.025)
    half = stack3(radius, radius, 0.5 * longest * draft.uniform(number, low=0.1))
    # along the walls, or askew
    yaw = 1.5708 * torch.floor(draft.uniform(number, high=2.0))
    yaw = yaw + draft.uniform(number, high=3.1416) * draft.chance(0.4, number)
    c, s, zero = yaw.cos(), yaw.sin(), torch.zeros_like(yaw)
    # local z along the cable
    rotation = torch.stack([-s, zero, c, c, zero, s, zero, zero + 1, zero], -1)
    draft.add(
        Kind.CYLINDER, center, half, "metal", rotation=rotation.reshape(*yaw.shape, 3, 3),
        keep=draft.chance(0.6, number),
    )  # fmt: skip


def add_roof(
    draft: Draft,
    center: torch.Tensor,
    half: torch.Tensor,
    keep: torch.Tensor,
    *,
    along_y: bool = False,
) -> None:
    """Gable roofs: two slabs that lean on each other over boxes, open at the gables.

    A slab reaches beyond the ridge as far as over the wall, so that the two cross there.

    Args:
        draft: To add to.
        center: Of the boxes' tops, (B, n, 3).
        half: Half width along x and along y, (B, n, 2).
        keep: False leaves a roof out, (B, n).
        along_y: The ridge runs along y instead of x.
    """
    number = center.shape[1]
    pitch = draft.uniform(number, low=0.25, high=0.9)
    span, long = (half[..., 0], half[..., 1]) if along_y else (half[..., 1], half[..., 0])
    eaves = draft.uniform(number, low=0.05, high=0.4)
    slope = (0.5 * span + eaves) / pitch.cos()
    thick = torch.full_like(slope, 0.06)
    first: int | None = None
    for side in (-1.0, 1.0):
        c, s, zero = pitch.cos(), side * pitch.sin(), torch.zeros_like(pitch)
        out = side * 0.5 * span
        up = 0.5 * span * pitch.tan()
        if along_y:  # turned about y: local x runs down the slope
            rotation = torch.stack([c, zero, s, zero, zero + 1, zero, -s, zero, c], -1)
            at, body = stack3(out, zero, up), stack3(slope, long + eaves, thick)
        else:  # turned about x: local y runs down the slope
            rotation = torch.stack([zero + 1, zero, zero, zero, c, s, zero, -s, c], -1)
            at, body = stack3(zero, out, up), stack3(long + eaves, slope, thick)
        place = draft.add(
            Kind.BOX, center + at, body, "roof", rotation=rotation.reshape(*pitch.shape, 3, 3),
            keep=keep, like=first,
        )  # fmt: skip
        first = place if first is None else first


def add_bushes(
    draft: Draft,
    number: int,
    low: torch.Tensor,
    high: torch.Tensor,
    base: torch.Tensor | float,
    sizes: tuple[float, float],
) -> None:
    """Masses of leaves: two nested shells each; ``base`` is the height below them, (B, n)."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    radius = draft.log_uniform(number, low=sizes[0], high=sizes[1])
    half = radius[..., None] * draft.uniform(number, 3, low=0.8, high=1.25)
    center = torch.cat([xy, (base + half[..., 2])[..., None]], -1)
    leaf = (0.28 * radius * draft.uniform(number, low=0.4, high=1.2)).clamp_min(0.02)
    fill = draft.uniform(number, low=0.4, high=0.95)
    keep = draft.chance(0.7, number)
    for k, shrink in enumerate((1.0, 0.78)):
        params = torch.stack(
            [leaf, torch.full_like(leaf, 0.5 + 0.08 * k), fill, torch.full_like(leaf, 3.0 + k)], -1
        )
        draft.add(Kind.BUSH, center, half * shrink, "green", params=params, keep=keep)


def add_trees(
    draft: Draft,
    foot: torch.Tensor,
    trunk: torch.Tensor,
    tall: torch.Tensor,
    crown: torch.Tensor,
    leaf: torch.Tensor,
    *,
    fill: float,
    seed: float,
    keep: torch.Tensor | None = None,
) -> None:
    """Trees: a trunk, and two nested shells of leaves that begin below its top.

    Args:
        draft: To add to.
        foot: Where they stand, (B, n, 3).
        trunk: Radius, (B, n).
        tall: Height of the trunk, (B, n).
        crown: Radius of the crown, (B, n).
        leaf: Size of the leaves' cells, (B, n).
        fill: Share of the cells with a leaf.
        seed: Of the leaves.
        keep: False leaves one out, (B, n).
    """
    half = 0.5 * tall
    x, y, base = foot.unbind(-1)
    draft.add(
        Kind.CYLINDER, stack3(x, y, base + half), stack3(trunk, trunk, half), "wood", keep=keep
    )
    at = stack3(x, y, base + tall + 0.6 * crown)
    for k, shrink in enumerate((1.0, 0.75)):
        params = torch.stack(
            [leaf, *(torch.full_like(leaf, v) for v in (0.52, fill, seed + k))], -1
        )
        size = crown * shrink
        draft.add(Kind.BUSH, at, stack3(size, size, size), "green", params=params, keep=keep)


def add_fences(draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor) -> None:
    """Upright panels with bars, a grid or leaves cut out."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    yaw = draft.uniform(number, high=6.283)
    c, s, zero = yaw.cos(), yaw.sin(), torch.zeros_like(yaw)
    # local x along the fence, local y up, local z across it
    rotation = torch.stack([c, zero, s, s, zero, -c, zero, zero + 1, zero], -1)
    half = stack3(
        draft.uniform(number, low=0.5, high=2.5), draft.uniform(number, low=0.3, high=1.0), zero
    )
    pattern = torch.floor(draft.uniform(number, low=1.0, high=3.999))
    params = torch.stack(
        [
            pattern,
            draft.log_uniform(number, low=0.06, high=0.4),
            torch.where(pattern == 3, 0.9, draft.uniform(number, low=0.1, high=0.4)),
            pattern + 2,
        ],
        -1,
    )
    center = torch.cat([xy, half[..., 1:2]], -1)
    draft.add(
        Kind.PANEL,
        center,
        half,
        "metal",
        rotation=rotation.reshape(*yaw.shape, 3, 3),
        params=params,
    )
