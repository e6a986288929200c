"""Ray-caster on the CPU, vectorised over rays: the slow twin of `matching.kernels.raycast`.

Rays come in blocks of neighbours. For each primitive only the blocks whose bounding cone (or, for
shadow rays, bounding tube) touches its bounding sphere are intersected.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from matching.training.world import AXES, CENTER, HALF, KIND, PARAMS, RADIUS, VIEWS, Kind

NEAR = 0.02  # m along the ray's unit of length; hits before it are ignored
TERRAIN_STEPS = 56
MISS = float("inf")

Vec = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
Cull = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _guard(direction: torch.Tensor) -> torch.Tensor:
    """No zero components, so that the slab test divides safely."""
    return torch.where(direction.abs() < 1e-9, torch.full_like(direction, 1e-9), direction)


def _slab(o: torch.Tensor, d: torch.Tensor, half: float) -> tuple[torch.Tensor, torch.Tensor]:
    inverse = 1.0 / _guard(d)
    t0, t1 = (-half - o) * inverse, (half - o) * inverse
    return torch.minimum(t0, t1), torch.maximum(t0, t1)


def _box(o: Vec, d: Vec, half: list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    n0, f0 = _slab(o[0], d[0], half[0])
    n1, f1 = _slab(o[1], d[1], half[1])
    n2, f2 = _slab(o[2], d[2], half[2])
    return torch.maximum(torch.maximum(n0, n1), n2), torch.minimum(torch.minimum(f0, f1), f2)


def _round(o: Vec, d: Vec, half: list[float], axes: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Both intersections with an ellipsoid (3 axes) or an elliptic cylinder (2 axes)."""
    a: torch.Tensor | float = 0.0
    b: torch.Tensor | float = 0.0
    c: torch.Tensor | float = -1.0
    for k in range(axes):
        ok, dk = o[k] / half[k], d[k] / half[k]
        a, b, c = a + dk * dk, b + ok * dk, c + ok * ok
    assert isinstance(a, torch.Tensor) and isinstance(b, torch.Tensor)
    a = a.clamp_min(1e-12)
    discriminant = b * b - a * c
    root = discriminant.clamp_min(0).sqrt()
    missed = discriminant <= 0
    near = ((-b - root) / a).masked_fill(missed, MISS)
    far = ((-b + root) / a).masked_fill(missed, -MISS)
    return near, far


def hash_cells(i: torch.Tensor, j: torch.Tensor, k: torch.Tensor, seed: int) -> torch.Tensor:
    """A 24-bit hash of three integers (int32 wrap-around arithmetic, as in the kernel)."""
    h = (i * 73856093) ^ (j * 19349663) ^ (k * 83492791) ^ (seed * 265443576)
    h = (h ^ ((h >> 13) & 0x7FFFF)) * 1274126177
    h = (h ^ ((h >> 16) & 0xFFFF)) * 668265263
    return (h ^ ((h >> 15) & 0x1FFFF)) & 0xFFFFFF


def _unit(h: torch.Tensor, shift: int) -> torch.Tensor:
    return ((h >> shift) & 0xFF).float() * (1.0 / 255.0)


def leaf_mask(q: Vec, size: float, radius: float, fill: float, seed: int) -> torch.Tensor:
    """True where a point lies in a leaf: a ball around a jittered centre of a hashed cell."""
    s = [x * (1.0 / size) for x in q]
    cells = [x.floor() for x in s]
    i, j, k = (c.to(torch.int32) for c in cells)
    h = hash_cells(i, j, k, seed)
    distance = torch.zeros_like(s[0])
    for axis in range(3):
        centre = cells[axis] + 0.5 + 0.4 * (_unit(h, 8 * axis) - 0.5)
        distance = distance + (s[axis] - centre) * (s[axis] - centre)
    return (distance < radius * radius) & (_unit(h, 4) < fill)


def panel_mask(u: torch.Tensor, v: torch.Tensor, params: list[float]) -> torch.Tensor:
    """True where a panel is filled at local coordinates u, v (metres)."""
    pattern, period, fill, seed = int(params[0]), params[1], params[2], int(params[3])
    if pattern == 0:
        return torch.ones_like(u, dtype=torch.bool)
    if pattern == 3:
        return leaf_mask((u, v, torch.zeros_like(u)), period, 0.5, fill, seed)
    fu, fv = u * (1.0 / period), v * (1.0 / period)
    inside = (fu - fu.floor()) < fill
    if pattern == 2:
        inside = inside | ((fv - fv.floor()) < fill)
    return inside


def recess(
    s: torch.Tensor, z: torch.Tensor, half_s: float, half_z: float, params: list[float]
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """The window of a facade at face coordinates.

    Args:
        s: Coordinate along the face, metres.
        z: Height on the face.
        half_s: Half width of the face.
        half_z: Half height of the face.
        params: Of `Kind.FACADE`.

    Returns:
        inside (bool), centre in s, centre in z, and the cell's two numbers.
    """
    width, height, hw, hh = params[:4]
    columns, rows = float(int(2 * half_s / width + 1e-4)), float(int(2 * half_z / height + 1e-4))
    i = (s * (1.0 / width) + 0.5 * columns).floor()
    j = (z * (1.0 / height) + 0.5 * rows).floor()
    cs, cz = (i + (0.5 - 0.5 * columns)) * width, (j + (0.5 - 0.5 * rows)) * height
    inside = (i >= 0) & (i < columns) & (j >= 0) & (j < rows)
    inside = inside & ((s - cs).abs() < hw) & ((z - cz).abs() < hh)
    return inside, cs, cz, i, j


def _facade(o: Vec, d: Vec, half: list[float], params: list[float]) -> torch.Tensor:
    near, far = _box(o, d, half)
    outside = near > NEAR
    t = torch.where(outside, near, far)
    hit = (near < far) & (far > NEAR)
    q = [o[k] + t * d[k] for k in range(3)]
    gap0, gap1, gap2 = (half[k] - q[k].abs() for k in range(3))
    on_x = (gap0 <= gap1) & (gap0 <= gap2)
    upright = on_x | (gap1 <= gap2)
    depth = params[4]
    result = t
    for axis, face in ((0, upright & on_x), (1, upright & ~on_x)):
        other = 1 - axis
        inside, cs, cz, _, _ = recess(q[other], q[2], half[other], half[2], params)
        inside = inside & face
        # leaving the recess: through its back or one of its sides
        ds, dz, da = _guard(d[other]), _guard(d[2]), _guard(d[axis])
        ts = (cs + torch.copysign(torch.full_like(ds, params[2]), ds) - o[other]) / ds
        tz = (cz + torch.copysign(torch.full_like(dz, params[3]), dz) - o[2]) / dz
        back = torch.where(q[axis] >= 0, half[axis] - depth, depth - half[axis])
        ta = ((back - o[axis]) / da).masked_fill(q[axis] * d[axis] > 0, MISS)
        into = torch.minimum(torch.minimum(ts, tz), ta)
        # a ray that starts inside (a shadow ray from a window) leaves freely through an opening
        result = torch.where(inside, torch.where(outside, into, MISS), result)
    result = torch.where(outside | (result == MISS), result, torch.full_like(result, NEAR * 2))
    return result.masked_fill(~hit, MISS)


def _terrain_height(x: torch.Tensor, y: torch.Tensor, params: list[float]) -> torch.Tensor:
    a, w = params[:3], [6.2831853 / v for v in params[3:6]]
    return (
        a[0] * torch.sin(w[0] * (0.8 * x + 0.6 * y))
        + a[1] * torch.sin(w[1] * (0.28 * x - 0.96 * y) + 1.0)
        + a[2] * torch.sin(w[2] * (-0.9 * x - 0.436 * y) + 2.0)
    )


def _terrain(o: Vec, d: Vec, half: list[float], params: list[float]) -> torch.Tensor:
    """March with steps that the slope bound makes safe, then one secant step."""
    amplitude = params[0] + params[1] + params[2]
    slope = sum(a * 6.2831853 / w for a, w in zip(params[:3], params[3:6], strict=True))
    near, far = _box(o, d, [half[0], half[1], amplitude + 1e-3])
    t = near.clamp_min(NEAR).expand_as(d[0]).contiguous()
    closing = slope * (d[0] * d[0] + d[1] * d[1]).sqrt() + d[2].abs() + 1e-6
    for _ in range(TERRAIN_STEPS):
        gap = o[2] + t * d[2] - _terrain_height(o[0] + t * d[0], o[1] + t * d[1], params)
        t = t + gap / closing
    gap = o[2] + t * d[2] - _terrain_height(o[0] + t * d[0], o[1] + t * d[1], params)
    hit = (near < far) & (t < far + 1e-3) & (t > NEAR) & (gap.abs() < 1e-3 * t + 1e-3)
    return t.masked_fill(~hit, MISS)


def intersect(o: Vec, d: Vec, kind: int, half: list[float], params: list[float]) -> torch.Tensor:
    """Distances along rays to one primitive in its own frame.

    Args:
        o: Ray origins in the local frame, three tensors that broadcast against ``d``.
        d: Ray directions in the local frame, three tensors; their length is the unit of t.
        kind: `Kind`.
        half: Three half extents.
        params: Six shape parameters.

    Returns:
        t of the first hit beyond `NEAR`, inf without one.
    """
    if kind == Kind.TERRAIN:
        return _terrain(o, d, half, params)
    if kind == Kind.FACADE:
        return _facade(o, d, half, params)
    if kind == Kind.PANEL:
        t = -o[2] / _guard(d[2])
        u, v = o[0] + t * d[0], o[1] + t * d[1]
        hit = (t > NEAR) & (u.abs() < half[0]) & (v.abs() < half[1])
        return t.masked_fill(~(hit & panel_mask(u, v, params)), MISS)
    if kind == Kind.BUSH:
        near, far = _round(o, d, half, 3)
        result = torch.full_like(near, MISS)
        for t in (far, near):
            usable = torch.isfinite(t) & (t > NEAR)
            safe = t.masked_fill(~usable, 0.0)
            q = (o[0] + safe * d[0], o[1] + safe * d[1], o[2] + safe * d[2])
            leaf = leaf_mask(q, params[0], params[1], params[2], int(params[3]))
            result = torch.where(usable & leaf, t, result)
        return result
    if kind == Kind.ROOM:
        _, far = _box(o, d, half)
        return far.masked_fill(far <= NEAR, MISS)
    if kind == Kind.BOX:
        near, far = _box(o, d, half)
    elif kind == Kind.ELLIPSOID:
        near, far = _round(o, d, half, 3)
    else:  # cylinder: between the caps and inside the round wall
        near, far = _round(o, d, half, 2)
        cap_near, cap_far = _slab(o[2], d[2], half[2])
        near, far = torch.maximum(near, cap_near), torch.minimum(far, cap_far)
    return near.masked_fill(~((near < far) & (near > NEAR)), MISS)


def cone_cull(origin: torch.Tensor, directions: torch.Tensor) -> Cull:
    """Which spheres touch the cone around each block of rays from one origin.

    Args:
        origin: (3,).
        directions: (T, R, 3) any length.

    Returns:
        A function of sphere centres (N, 3) and radii (N,) to a mask (N, T).
    """
    unit = torch.nn.functional.normalize(directions, dim=-1)
    axis = torch.nn.functional.normalize(unit.mean(1), dim=-1)  # (T, 3)
    cosine = (unit * axis[:, None]).sum(-1).amin(1).clamp(-1, 1)  # (T,)
    sine = (1 - cosine * cosine).clamp_min(0).sqrt()

    def cull(centers: torch.Tensor, radii: torch.Tensor) -> torch.Tensor:
        offset = centers - origin
        along = offset @ axis.T  # (N, T)
        across = ((offset * offset).sum(-1, keepdim=True) - along * along).clamp_min(0).sqrt()
        # distance from the centre to the cone's surface, measured across it
        outside = across * cosine - along * sine > radii[:, None] * 1.001
        behind = along < -radii[:, None]
        near = (offset * offset).sum(-1, keepdim=True) <= (radii * radii)[:, None] * 1.01
        return ~(outside | behind) | near

    return cull


def tube_cull(
    primitives: "Primitives", points: torch.Tensor, active: torch.Tensor, key_light: torch.Tensor
) -> torch.Tensor:
    """Which primitives' boxes touch the tube from each block of points to the key light.

    Args:
        primitives: The primitives, N of them.
        points: Starts of the shadow rays, (T, R, 3).
        active: Which of them count, (T, R) bool.
        key_light: (4,) homogeneous: w = 0 a direction, w = 1 a position.

    Returns:
        (N, T) bool.
    """
    weight = active[..., None].float()
    centre = (points * weight).sum(1) / weight.sum(1).clamp_min(1)
    spread = ((points - centre[:, None]).norm(dim=-1) * weight[..., 0]).amax(1)
    toward = key_light[:3] - key_light[3] * centre  # (T, 3)
    reach = torch.where(key_light[3] > 0, 1.0, MISS)
    start = torch.einsum("nij,ntj->nti", primitives.axes, centre - primitives.centers[:, None])
    step = _guard(torch.einsum("nij,tj->nti", primitives.axes, toward))
    half = primitives.halves[:, None] + spread[:, None] * 1.001 + 1e-3
    t0, t1 = (-half - start) / step, (half - start) / step
    near = torch.minimum(t0, t1).amax(-1)
    far = torch.maximum(t0, t1).amin(-1)
    return (near <= far) & (far >= 0) & (near <= reach) & active.any(1)


@dataclass(frozen=True)
class Primitive:
    """One primitive unpacked to plain numbers."""

    index: int
    kind: int
    center: torch.Tensor  # (3,)
    axes: torch.Tensor  # (3, 3), local from world
    half: list[float]
    params: list[float]


class Primitives:
    """The primitives of one scene that exist in one view.

    Args:
        geometry: (N, NUM_GEOMETRY).
        view: 0 or 1.
    """

    def __init__(self, geometry: torch.Tensor, view: int) -> None:
        views = geometry[:, VIEWS].to(torch.int32)
        used = (geometry[:, RADIUS] > 0) & ((views >> view) & 1).bool()
        indices = used.nonzero()[:, 0]
        rows = geometry[indices]
        self.centers, self.radii, self.halves = rows[:, CENTER], rows[:, RADIUS], rows[:, HALF]
        self.axes = rows[:, AXES].reshape(-1, 3, 3)
        kind = rows[:, KIND]
        self.indices = indices.to(torch.int32)
        self.convex = (kind == Kind.BOX) | (kind == Kind.ELLIPSOID) | (kind == Kind.CYLINDER)
        # a room must not shut out its own light; hills are lit by their slope alone
        self.shadowless = (kind == Kind.ROOM) | (kind == Kind.TERRAIN)
        numbers = rows.tolist()
        self.items = [
            Primitive(
                index=index,
                kind=int(number[KIND]),
                center=row[CENTER],
                axes=row[AXES].reshape(3, 3),
                half=number[HALF],
                params=number[PARAMS],
            )
            for index, row, number in zip(indices.tolist(), rows, numbers, strict=True)
        ]

    def touched(self, found: torch.Tensor) -> list[tuple[Primitive, torch.Tensor]]:
        """From a mask (N, T): the primitives that touch any block, with those blocks."""
        counts = found.sum(1).tolist()
        return [(item, found[k].nonzero()[:, 0]) for k, item in enumerate(self.items) if counts[k]]


def trace(
    primitives: Primitives, origin: torch.Tensor, directions: torch.Tensor, cull: Cull
) -> tuple[torch.Tensor, torch.Tensor]:
    """First hits of blocks of rays from one origin.

    Args:
        primitives: What there is to hit.
        origin: (3,).
        directions: (T, R, 3); t counts in their length.
        cull: From `cone_cull`.

    Returns:
        t (T, R) float32, inf for a miss, and the primitive's index (T, R) int32, -1 for a miss.
    """
    best = torch.full(directions.shape[:2], MISS)
    ids = torch.full(directions.shape[:2], -1, dtype=torch.int32)
    for item, blocks in primitives.touched(cull(primitives.centers, primitives.radii)):
        local_o = (item.axes @ (origin - item.center)).unbind()
        local_d = (directions[blocks] @ item.axes.T).unbind(-1)
        t = intersect(_vec(local_o), _vec(local_d), item.kind, item.half, item.params)
        old = best[blocks]
        closer = t < old
        best[blocks] = torch.where(closer, t, old)
        ids[blocks] = ids[blocks].masked_fill(closer, item.index)
    return best, ids


def shadowed(
    primitives: Primitives,
    points: torch.Tensor,
    ids: torch.Tensor,
    active: torch.Tensor,
    key_light: torch.Tensor,
) -> torch.Tensor:
    """Whether something stands between points and the key light.

    Args:
        primitives: What may cast a shadow.
        points: Starts of the shadow rays in blocks, already lifted off their surface, (T, R, 3).
        ids: Primitive each point lies on, (T, R) int32.
        active: Points to test, (T, R) bool: hits that face the light; the others come back False.
        key_light: (4,) homogeneous direction (w = 0) or position (w = 1) of the light.

    Returns:
        (T, R) bool.
    """
    result = torch.zeros_like(active)
    found = tube_cull(primitives, points, active, key_light)
    # a convex body never shadows its own faces that look at the light
    low = torch.where(active, ids, 1 << 30).amin(1)
    sole = torch.where(low == torch.where(active, ids, -1).amax(1), low, -1)
    found &= ~((sole == primitives.indices[:, None]) & primitives.convex[:, None])
    found &= ~primitives.shadowless[:, None]
    for item, blocks in primitives.touched(found):
        start = points[blocks]
        toward = key_light[:3] - key_light[3] * start
        reach = toward.norm(dim=-1)
        toward = toward / reach[..., None].clamp_min(1e-9)
        local_o = ((start - item.center) @ item.axes.T).unbind(-1)
        local_d = (toward @ item.axes.T).unbind(-1)
        t = intersect(_vec(local_o), _vec(local_d), item.kind, item.half, item.params)
        limit = torch.where(key_light[3] > 0, reach, torch.full_like(reach, MISS))
        result[blocks] |= t < limit
    return result & active


def _vec(parts: tuple[torch.Tensor, ...]) -> Vec:
    return parts[0].contiguous(), parts[1].contiguous(), parts[2].contiguous()
