"""Random places: rooms, streets, open land and heaps of things, whole batches at a time."""

from dataclasses import dataclass

import torch

from matching.training.draft import Draft, Palette, random_rotation
from matching.training.world import KIND, Kind, Scenes

SLOTS = 96
# shares of a batch; indoor scenes are the hardest on real photos and the commonest in use
ROOM_SHARE, STREET_SHARE, LAND_SHARE = 0.42, 0.28, 0.14  # the rest: heaps


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


def draw_stage(
    count: int, generator: torch.Generator, palette: Palette, *, difficulty: float
) -> Stage:
    """Draw a batch of places.

    Args:
        count: Number of scenes.
        generator: Source of all draws; its device is the result's.
        palette: Textures.
        difficulty: 0 to 1: how many things exist in one view only.
    """
    rooms = round(ROOM_SHARE * count)
    streets = round(STREET_SHARE * count)
    lands = min(round(LAND_SHARE * count), count - rooms - streets)
    makers = (
        (_room, rooms),
        (_street, streets),
        (_land, lands),
        (_heap, count - rooms - streets - lands),
    )
    parts = []
    for make, number in makers:
        if number > 0:
            parts.append(make(Draft(number, generator, palette, 0.12 * difficulty)))
    return Stage(
        scenes=Scenes(
            geometry=torch.cat([p.scenes.geometry for p in parts]).contiguous(),
            materials=torch.cat([p.scenes.materials for p in parts]).contiguous(),
        ),
        low=torch.cat([p.low for p in parts]),
        high=torch.cat([p.high for p in parts]),
        targets=torch.cat([p.targets for p in parts]),
        indoor=torch.cat([p.indoor for p in parts]),
    )


def _stage(draft: Draft, low: torch.Tensor, high: torch.Tensor, indoor: bool) -> Stage:
    geometry, materials = draft.finish(SLOTS)
    kind = geometry[..., KIND]
    # look at solid things that exist; walls, ground and empty slots are replaced by any point
    inside = low[:, None] + (high - low)[:, None] * draft.uniform(SLOTS, 3, low=-0.1, high=1.1)
    centers = geometry[..., :3]
    near = (centers > low[:, None] - 1.5).all(-1) & (centers < high[:, None] + 1.5).all(-1)
    usable = near & (kind != Kind.ROOM) & (kind != Kind.TERRAIN) & (geometry[..., 22] > 0)
    return Stage(
        scenes=Scenes(geometry=geometry, materials=materials),
        low=low,
        high=high,
        targets=torch.where(usable[..., None], centers, inside),
        indoor=torch.full((draft.count,), indoor, device=draft.device),
    )


def _vec(x: torch.Tensor, y: torch.Tensor, z: torch.Tensor) -> torch.Tensor:
    return torch.stack(torch.broadcast_tensors(x, y, z), -1)


def _solid_kinds(draft: Draft, number: int) -> torch.Tensor:
    """Box, ellipsoid or cylinder, (B, n)."""
    choice = draft.uniform(number)
    round_kind = torch.where(choice < 0.75, Kind.ELLIPSOID.value, Kind.CYLINDER.value)
    return torch.where(choice < 0.5, Kind.BOX.value, round_kind)


def _clutter(
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
    draft.add(_solid_kinds(draft, number), center, half, "object", rotation=rotation, clutter=True)


def _tables(draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor) -> torch.Tensor:
    """Tables or benches with four legs and things on them; returns their tops, (B, n, 3)."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    half_x = draft.uniform(number, low=0.35, high=1.1)
    half_y = draft.uniform(number, low=0.25, high=0.5)
    top = draft.uniform(number, low=0.35, high=0.95)
    yaw = draft.uniform(number, high=6.283)
    thick = draft.uniform(number, low=0.015, high=0.04)
    center = torch.cat([xy, (top - thick)[..., None]], -1)
    draft.add(Kind.BOX, center, _vec(half_x, half_y, thick), "wood", yaw=yaw)
    foot = draft.uniform(number, low=0.015, high=0.045)
    for sx in (-1.0, 1.0):
        for sy in (-1.0, 1.0):
            ax, ay = sx * (half_x - foot), sy * (half_y - foot)
            at = torch.stack(
                [
                    xy[..., 0] + ax * yaw.cos() - ay * yaw.sin(),
                    xy[..., 1] + ax * yaw.sin() + ay * yaw.cos(),
                    0.5 * top - thick,
                ],
                -1,
            )
            draft.add(Kind.BOX, at, _vec(foot, foot, 0.5 * top - thick), "wood", yaw=yaw)
    return torch.cat([xy, top[..., None]], -1)


def _room(draft: Draft) -> Stage:
    half = torch.stack(
        [
            draft.log_uniform(low=1.4, high=5.5),
            draft.log_uniform(low=1.4, high=5.5),
            draft.uniform(low=1.2, high=1.9),
        ],
        -1,
    )
    center = half * torch.tensor([0.0, 0.0, 1.0], device=draft.device)
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
    rug = torch.cat(
        [draft.uniform(1, 2, low=0.4, high=1.6), torch.full_like(big, 0.02)[..., None]], -1
    )
    xy = (high * 0.7)[:, None] * draft.uniform(1, 2, low=-1.0)
    draft.add(
        Kind.BOX, torch.cat([xy, torch.full_like(big, 0.0)[..., None]], -1), rug, "picture",
        yaw=draft.uniform(1, high=3.0) * draft.chance(0.5, 1), keep=draft.chance(0.6, 1),
    )  # fmt: skip

    # pictures, windows, doors, cupboards on the walls
    for number, surface, sizes, depth in (
        (10, "picture", (0.12, 0.8), (0.01, 0.05)),
        (3, "glass", (0.4, 1.0), (0.02, 0.06)),
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
        draft.add(Kind.BOX, _vec(x, y, z), _vec(half_x, half_y, tall), surface)

    # book shelves: a facade whose recesses are the compartments
    number = 2
    on_x, side = draft.chance(0.5, number), draft.sign(number)
    hx, hy, _ = half[:, None].unbind(-1)
    thick = draft.uniform(number, low=0.15, high=0.25)
    along = draft.uniform(number, low=-0.8, high=0.8)
    width = draft.uniform(number, low=0.4, high=1.2)
    tall = draft.uniform(number, low=0.5, high=1.1)
    columns = torch.floor(draft.uniform(number, low=1, high=5))
    rows = torch.floor(draft.uniform(number, low=2, high=7))
    cell_w, cell_h = 2 * width / columns * 0.998, 2 * tall / rows * 0.998
    params = torch.stack(
        [cell_w, cell_h, 0.5 * cell_w - 0.02, 0.5 * cell_h - 0.015, thick * 1.2], -1
    )
    x = torch.where(on_x, side * (hx - thick), along * hx)
    y = torch.where(on_x, along * hy, side * (hy - thick))
    body = _vec(torch.where(on_x, thick, width), torch.where(on_x, width, thick), tall)
    draft.add(Kind.FACADE, _vec(x, y, tall), body, "wood", params=params)

    tops = _tables(draft, 3, low * 0.75, high * 0.75)
    for k in range(3):
        spot = tops[:, k]
        _clutter(
            draft, 4, spot[:, :2] - 0.35, spot[:, :2] + 0.35,
            spot[:, 2:3].expand(-1, 4), (0.02, 0.14),
        )  # fmt: skip
    _clutter(draft, 20, low * 0.95, high * 0.95, draft.uniform(20) * 0.0, (0.04, 0.5))
    _floating(draft, 5, low, high, 2 * half[:, 2])
    _rods(draft, 5, low * 0.9, high * 0.9, 1.6)
    _bushes(draft, 2, low * 0.85, high * 0.85, 0.0, (0.15, 0.45))
    wall = torch.tensor([0.12, 0.12, 0.3], device=draft.device)
    span = half - wall
    return _stage(
        draft,
        torch.cat([-span[:, :2] * 0.93, torch.full_like(big, 0.5)], -1),
        torch.cat([span[:, :2] * 0.93, 2 * half[:, 2:] * 0.9], -1),
        indoor=True,
    )


def _floating(
    draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor, top: torch.Tensor
) -> None:
    """Things that hang anywhere at any angle."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    z = top[:, None] * draft.uniform(number, low=0.3)
    size = draft.log_uniform(number, low=0.03, high=0.4)
    half = size[..., None] * draft.log_uniform(number, 3, low=0.35, high=1.8)
    draft.add(
        _solid_kinds(draft, number), torch.cat([xy, z[..., None]], -1), half, "object",
        rotation=random_rotation(draft, number), clutter=True,
    )  # fmt: skip


def _rods(draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor, tallest: float) -> None:
    """Thin poles, lamps, railings."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    radius = draft.log_uniform(number, low=0.008, high=0.06)
    tall = draft.uniform(number, low=0.3, high=1.0) * tallest
    half = _vec(radius, radius, 0.5 * tall)
    center = torch.cat([xy, (0.5 * tall)[..., None]], -1)
    draft.add(Kind.CYLINDER, center, half, "metal", keep=draft.chance(0.7, number))


def _bushes(
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
    center = _vec(x, y, tall)
    draft.add(
        Kind.FACADE, center, _vec(width, deep, tall), "wall", params=params,
        texture_m=draft.log_uniform(number, low=0.8, high=5.0),
    )  # fmt: skip
    # plinths and cornices
    face = side * (street[:, None] + setback)
    band = draft.uniform(number, low=0.06, high=0.3)
    out = draft.uniform(number, low=0.03, high=0.35)
    draft.add(
        Kind.BOX, _vec(x, face, 2 * tall - band), _vec(width + 0.5 * out, out, band), "wall",
        keep=draft.chance(0.7, number),
    )  # fmt: skip
    draft.add(
        Kind.BOX, _vec(x, face, band * 1.5), _vec(width, 0.3 * out, band * 1.5), "wall",
        keep=draft.chance(0.6, number),
    )  # fmt: skip
    # doors, posters and signs
    for surface, low_z, high_z in (("picture", 1.0, 2.6), ("wood", 1.05, 1.1)):
        at = x + width * draft.uniform(number, low=-0.85, high=0.85)
        size = draft.uniform(number, low=0.35, high=1.0)
        z = draft.uniform(number, low=low_z, high=high_z)
        thin = torch.full_like(size, 0.05)
        draft.add(Kind.BOX, _vec(at, face, z), _vec(size, thin, z.clamp_max(1.1)), surface)


def _street(draft: Draft) -> Stage:
    street = draft.log_uniform(low=3.0, high=11.0)
    ground = torch.tensor([[[60.0, 60.0, 0.2]]], device=draft.device).expand(draft.count, 1, 3)
    below = torch.tensor([[[0.0, 0.0, -0.2]]], device=draft.device).expand(draft.count, 1, 3)
    draft.add(Kind.BOX, below, ground, "ground", texture_m=draft.log_uniform(1, low=0.8, high=5.0))
    for side in (-1.0, 1.0):
        _facade_row(draft, 3, side, street)
        kerb = torch.full((draft.count, 1), 0.07, device=draft.device)
        wide = draft.uniform(1, low=0.5, high=1.2)
        y = side * (street[:, None] - wide)
        long = torch.full_like(kerb, 25.0)
        draft.add(
            Kind.BOX, _vec(0 * y, y, kerb), _vec(long, wide, kerb), "ground",
            texture_m=draft.log_uniform(1, low=0.8, high=3.0),
        )  # fmt: skip
    # a house across one end
    end = torch.stack([draft.sign() * draft.uniform(low=12.0, high=24.0), 0 * street], -1)
    half = _vec(torch.full_like(street, 2.0), street + 4, draft.uniform(low=3.0, high=8.0))
    params = torch.stack(
        [
            draft.uniform(low=1.6, high=3.0), draft.uniform(low=2.3, high=3.2),
            draft.uniform(low=0.3, high=0.7), draft.uniform(low=0.5, high=0.9),
            draft.uniform(low=0.05, high=0.3),
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
    body = _vec(2.0 * ones, 0.85 * ones, 0.32 * ones)
    draft.add(Kind.BOX, _vec(xy[..., 0], xy[..., 1], 0.6 * ones), body, "metal", yaw=yaw, keep=keep)
    draft.add(
        Kind.ELLIPSOID, _vec(xy[..., 0], xy[..., 1], 0.95 * ones),
        _vec(1.25 * ones, 0.78 * ones, 0.52 * ones), "glass", yaw=yaw, keep=keep,
    )  # fmt: skip
    # trees: trunk and crown
    number = 3
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    trunk = draft.uniform(number, low=0.06, high=0.2)
    tall = draft.uniform(number, low=1.5, high=3.0)
    draft.add(
        Kind.CYLINDER,
        torch.cat([xy, 0.5 * tall[..., None]], -1),
        _vec(trunk, trunk, 0.5 * tall),
        "wood",
    )
    crown = draft.uniform(number, low=0.8, high=1.8)
    for k, shrink in enumerate((1.0, 0.75)):
        leaf = draft.uniform(number, low=0.1, high=0.25)
        params = torch.stack([leaf, 0.52 + 0 * leaf, 0.85 + 0 * leaf, 7.0 + k + 0 * leaf], -1)
        draft.add(
            Kind.BUSH, torch.cat([xy, (tall + 0.6 * crown)[..., None]], -1),
            (crown * shrink)[..., None].expand(-1, -1, 3), "green", params=params,
        )  # fmt: skip
    _fences(draft, 3, low, high)
    tops = _tables(draft, 1, low * 0.6, high * 0.6)
    _clutter(
        draft,
        3,
        tops[:, 0, :2] - 0.3,
        tops[:, 0, :2] + 0.3,
        tops[:, 0, 2:].expand(-1, 3),
        (0.04, 0.15),
    )
    _clutter(draft, 22, low, high, draft.uniform(22) * 0.0, (0.06, 0.9))
    _rods(draft, 5, low, high, 4.0)
    _bushes(draft, 2, low, high, 0.0, (0.3, 0.9))
    span = torch.full_like(street, 9.0)
    return _stage(
        draft,
        torch.stack([-span, -street + 0.5, torch.full_like(street, 0.9)], -1),
        torch.stack([span, street - 0.5, draft.uniform(low=2.0, high=4.0)], -1),
        indoor=False,
    )


def _fences(draft: Draft, number: int, low: torch.Tensor, high: torch.Tensor) -> None:
    """Upright panels with bars, a grid or leaves cut out."""
    xy = low[:, None] + (high - low)[:, None] * draft.uniform(number, 2)
    yaw = draft.uniform(number, high=6.283)
    c, s, zero = yaw.cos(), yaw.sin(), torch.zeros_like(yaw)
    # local x along the fence, local y up, local z across it
    rotation = torch.stack([c, zero, s, s, zero, -c, zero, zero + 1, zero], -1)
    half = _vec(
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


def _land(draft: Draft) -> Stage:
    waves = torch.stack(
        [
            draft.uniform(1, low=0.2, high=1.6), draft.uniform(1, low=0.1, high=0.5),
            draft.uniform(1, low=0.02, high=0.15), draft.uniform(1, low=14.0, high=40.0),
            draft.uniform(1, low=5.0, high=12.0), draft.uniform(1, low=1.5, high=4.0),
        ],
        -1,
    )  # fmt: skip
    wide = torch.tensor([[[80.0, 80.0, 4.0]]], device=draft.device).expand(draft.count, 1, 3)
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
        kind = _solid_kinds(draft, number) if kinds is None else kinds
        center = torch.cat([xy, (height(xy) + 0.3 * half[..., 2])[..., None]], -1)
        if kinds is None:
            draft.add(
                kind, center, half, "object", rotation=random_rotation(draft, number), clutter=True
            )
        else:
            draft.add(kind, center, half, "wall", yaw=draft.uniform(number, high=6.283))
    xy = 22.0 * draft.uniform(2, 2, low=-1.0)
    half = draft.uniform(2, 3, low=3.0, high=6.0)
    params = torch.tensor([2.2, 2.6, 0.5, 0.8, 0.2], device=draft.device).expand(draft.count, 2, 5)
    draft.add(
        Kind.FACADE, torch.cat([xy, height(xy)[..., None] + half[..., 2:]], -1), half, "wall",
        yaw=draft.uniform(2, high=6.283), params=params, keep=(xy.norm(dim=-1) > 13.0),
    )  # fmt: skip
    number = 7
    xy = 14.0 * draft.uniform(number, 2, low=-1.0)
    trunk, tall = (
        draft.uniform(number, low=0.06, high=0.3),
        draft.uniform(number, low=1.0, high=3.5),
    )
    base = height(xy)
    center = torch.cat([xy, (base + 0.5 * tall)[..., None]], -1)
    draft.add(Kind.CYLINDER, center, _vec(trunk, trunk, 0.6 * tall), "wood")
    crown = draft.uniform(number, low=0.6, high=2.2)
    for k, shrink in enumerate((1.0, 0.75)):
        leaf = draft.uniform(number, low=0.1, high=0.3)
        params = torch.stack([leaf, 0.52 + 0 * leaf, 0.8 + 0 * leaf, 11.0 + k + 0 * leaf], -1)
        draft.add(
            Kind.BUSH, torch.cat([xy, (base + tall + 0.5 * crown)[..., None]], -1),
            (crown * shrink)[..., None] * draft.uniform(number, 3, low=0.8, high=1.2), "green",
            params=params,
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
    return _stage(
        draft,
        torch.stack([-8 * ones, -8 * ones, top + 0.6], -1),
        torch.stack([8 * ones, 8 * ones, top + draft.uniform(low=1.5, high=4.0)], -1),
        indoor=False,
    )


def _heap(draft: Draft) -> Stage:
    """A large hall full of bodies of all sizes at any angle: geometry without a meaning."""
    half = torch.stack([draft.log_uniform(low=2.0, high=20.0) for _ in range(3)], -1)
    scale = half.prod(-1) ** (1 / 3)
    draft.add(Kind.ROOM, torch.zeros_like(half)[:, None], half[:, None], "object")
    number = SLOTS - 6
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
    draft.add(_solid_kinds(draft, number), center, body, "object", rotation=rotation, clutter=True)
    return _stage(draft, -0.85 * half, 0.85 * half, indoor=True)
