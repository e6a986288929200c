"""Ray-casting on the GPU (Triton): first hits and shadows of batches of scenes.

The twin of `matching.training.raycast`, formula by formula; see there and `Kind` for the shapes.
One program traces a tile of 16x16 pixels. It walks the scene's primitives and intersects only
those whose bounding sphere touches the tile's cone (shadows: the tube from its hits to the light).
"""

import torch
import triton
import triton.language as tl

from matching.training.world import NUM_GEOMETRY

TILE = 16
_NEAR = tl.constexpr(0.02)  # raycast.NEAR
_MISS = tl.constexpr(float("inf"))
_TERRAIN_STEPS = tl.constexpr(56)


@triton.jit
def sine(x):  # type: ignore[no-untyped-def]
    """sin to 4e-6: the library's, exact for huge arguments too, takes most of the compile time."""
    r = x * 0.15915494
    r = r - tl.floor(r + 0.5)
    r = tl.where(r > 0.25, 0.5 - r, tl.where(r < -0.25, -0.5 - r, r)) * 6.2831853
    s = r * r
    return r * (1 - s * (0.16666667 - s * (0.0083333333 - s * (0.0001984127 - s * 2.7557319e-6))))


@triton.jit
def hash_cells(i, j, k, seed):  # type: ignore[no-untyped-def]
    """raycast.hash_cells."""
    h = (i * 73856093) ^ (j * 19349663) ^ (k * 83492791) ^ (seed * 265443576)
    h = (h ^ ((h >> 13) & 0x7FFFF)) * 1274126177
    h = (h ^ ((h >> 16) & 0xFFFF)) * 668265263
    return (h ^ ((h >> 15) & 0x1FFFF)) & 0xFFFFFF


@triton.jit
def _guard(d):  # type: ignore[no-untyped-def]
    return tl.where(tl.abs(d) < 1e-9, 1e-9, d)


@triton.jit
def _slab(o, d, half):  # type: ignore[no-untyped-def]
    inverse = 1.0 / _guard(d)
    t0 = (-half - o) * inverse
    t1 = (half - o) * inverse
    return tl.minimum(t0, t1), tl.maximum(t0, t1)


@triton.jit
def _box(o0, o1, o2, d0, d1, d2, h0, h1, h2):  # type: ignore[no-untyped-def]
    n0, f0 = _slab(o0, d0, h0)
    n1, f1 = _slab(o1, d1, h1)
    n2, f2 = _slab(o2, d2, h2)
    near = tl.maximum(tl.maximum(n0, n1), n2)
    far = tl.minimum(tl.minimum(f0, f1), f2)
    return near, far


@triton.jit
def _quadratic(a, b, c):  # type: ignore[no-untyped-def]
    a = tl.maximum(a, 1e-12)
    discriminant = b * b - a * c
    root = tl.sqrt(tl.maximum(discriminant, 0.0))
    missed = discriminant <= 0
    near = tl.where(missed, _MISS, (-b - root) / a)
    far = tl.where(missed, -_MISS, (-b + root) / a)
    return near, far


@triton.jit
def _round3(o0, o1, o2, d0, d1, d2, h0, h1, h2):  # type: ignore[no-untyped-def]
    p0, p1, p2 = o0 / h0, o1 / h1, o2 / h2
    e0, e1, e2 = d0 / h0, d1 / h1, d2 / h2
    a = e0 * e0 + e1 * e1 + e2 * e2
    b = p0 * e0 + p1 * e1 + p2 * e2
    c = p0 * p0 + p1 * p1 + p2 * p2 - 1.0
    return _quadratic(a, b, c)


@triton.jit
def _cell_unit(h, shift: tl.constexpr):  # type: ignore[no-untyped-def]
    return ((h >> shift) & 0xFF).to(tl.float32) * (1.0 / 255.0)


@triton.jit
def _leaf(q0, q1, q2, size, radius, fill, seed):  # type: ignore[no-untyped-def]
    inverse = 1.0 / size
    s0, s1, s2 = q0 * inverse, q1 * inverse, q2 * inverse
    c0, c1, c2 = tl.floor(s0), tl.floor(s1), tl.floor(s2)
    h = hash_cells(c0.to(tl.int32), c1.to(tl.int32), c2.to(tl.int32), seed)
    r0 = s0 - (c0 + 0.5 + 0.4 * (_cell_unit(h, 0) - 0.5))
    r1 = s1 - (c1 + 0.5 + 0.4 * (_cell_unit(h, 8) - 0.5))
    r2 = s2 - (c2 + 0.5 + 0.4 * (_cell_unit(h, 16) - 0.5))
    return (r0 * r0 + r1 * r1 + r2 * r2 < radius * radius) & (_cell_unit(h, 4) < fill)


@triton.jit
def _panel(u, v, pattern, period, fill, seed):  # type: ignore[no-untyped-def]
    inside = tl.abs(u) < _MISS
    if pattern == 3:
        inside = _leaf(u, v, u * 0.0, period, 0.5, fill, seed)
    elif pattern > 0:
        fu = u * (1.0 / period)
        fv = v * (1.0 / period)
        inside = (fu - tl.floor(fu)) < fill
        if pattern == 2:
            inside = inside | ((fv - tl.floor(fv)) < fill)
    return inside


@triton.jit
def _into_recess(  # type: ignore[no-untyped-def]
    qs, qz, qa, os, oz, oa, ds, dz, da, half_s, half_z, half_a, width, height, hw, hh, depth
):
    """Whether a point of a wall lies in a window, and where the ray leaves that recess."""
    columns = tl.floor(2 * half_s / width + 1e-4)
    rows = tl.floor(2 * half_z / height + 1e-4)
    i = tl.floor(qs * (1.0 / width) + 0.5 * columns)
    j = tl.floor(qz * (1.0 / height) + 0.5 * rows)
    cs = (i + (0.5 - 0.5 * columns)) * width
    cz = (j + (0.5 - 0.5 * rows)) * height
    inside = (i >= 0) & (i < columns) & (j >= 0) & (j < rows)
    inside = inside & (tl.abs(qs - cs) < hw) & (tl.abs(qz - cz) < hh)
    gs, gz, ga = _guard(ds), _guard(dz), _guard(da)
    ts = (cs + tl.where(gs >= 0, hw, -hw) - os) / gs
    tz = (cz + tl.where(gz >= 0, hh, -hh) - oz) / gz
    ta = (tl.where(qa >= 0, half_a - depth, depth - half_a) - oa) / ga
    ta = tl.where(qa * da > 0, _MISS, ta)
    return inside, tl.minimum(tl.minimum(ts, tz), ta)


@triton.jit
def _facade(  # type: ignore[no-untyped-def]
    o0, o1, o2, d0, d1, d2, h0, h1, h2, width, height, hw, hh, depth
):
    near, far = _box(o0, o1, o2, d0, d1, d2, h0, h1, h2)
    outside = near > _NEAR
    t = tl.where(outside, near, far)
    hit = (near < far) & (far > _NEAR)
    q0, q1, q2 = o0 + t * d0, o1 + t * d1, o2 + t * d2
    gap0, gap1, gap2 = h0 - tl.abs(q0), h1 - tl.abs(q1), h2 - tl.abs(q2)
    on_x = (gap0 <= gap1) & (gap0 <= gap2)
    upright = on_x | (gap1 <= gap2)
    in_x, into_x = _into_recess(
        q1, q2, q0, o1, o2, o0, d1, d2, d0, h1, h2, h0, width, height, hw, hh, depth
    )
    in_y, into_y = _into_recess(
        q0, q2, q1, o0, o2, o1, d0, d2, d1, h0, h2, h1, width, height, hw, hh, depth
    )
    result = tl.where(in_x & upright & on_x, tl.where(outside, into_x, _MISS), t)
    result = tl.where(in_y & upright & (on_x == 0), tl.where(outside, into_y, _MISS), result)
    result = tl.where(outside | (result == _MISS), result, _NEAR * 2)
    return tl.where(hit, result, _MISS)


@triton.jit
def _height(x, y, a0, a1, a2, w0, w1, w2):  # type: ignore[no-untyped-def]
    return (
        a0 * sine(w0 * (0.8 * x + 0.6 * y))
        + a1 * sine(w1 * (0.28 * x - 0.96 * y) + 1.0)
        + a2 * sine(w2 * (-0.9 * x - 0.436 * y) + 2.0)
    )


@triton.jit
def _terrain(  # type: ignore[no-untyped-def]
    o0, o1, o2, d0, d1, d2, h0, h1, a0, a1, a2, l0, l1, l2
):
    w0, w1, w2 = 6.2831853 / l0, 6.2831853 / l1, 6.2831853 / l2
    slope = a0 * w0 + a1 * w1 + a2 * w2
    near, far = _box(o0, o1, o2, d0, d1, d2, h0, h1, a0 + a1 + a2 + 1e-3)
    t = tl.maximum(near, _NEAR)
    closing = slope * tl.sqrt(d0 * d0 + d1 * d1) + tl.abs(d2) + 1e-6
    for _ in range(_TERRAIN_STEPS):
        gap = o2 + t * d2 - _height(o0 + t * d0, o1 + t * d1, a0, a1, a2, w0, w1, w2)
        t = t + gap / closing
    gap = o2 + t * d2 - _height(o0 + t * d0, o1 + t * d1, a0, a1, a2, w0, w1, w2)
    hit = (near < far) & (t < far + 1e-3) & (t > _NEAR) & (tl.abs(gap) < 1e-3 * t + 1e-3)
    return tl.where(hit, t, _MISS)


@triton.jit
def _intersect(row, kind, o0, o1, o2, d0, d1, d2, LAND: tl.constexpr):  # type: ignore[no-untyped-def]
    """raycast.intersect: o and d in the local frame, row = the primitive's numbers.

    ``LAND`` False leaves out terrain, which casts no shadow.
    """
    h0, h1, h2 = tl.load(row + 12), tl.load(row + 13), tl.load(row + 14)
    p0, p1, p2 = tl.load(row + 16), tl.load(row + 17), tl.load(row + 18)
    p3, p4, p5 = tl.load(row + 19), tl.load(row + 20), tl.load(row + 21)
    t = d0 * 0.0 + o0 * 0.0 + _MISS
    if kind <= 2:
        if kind == 1:
            near, far = _round3(o0, o1, o2, d0, d1, d2, h0, h1, h2)
            t = tl.where((near < far) & (near > _NEAR), near, _MISS)
        else:
            near, far = _box(o0, o1, o2, d0, d1, d2, h0, h1, h2)
            if kind == 2:
                t = tl.where(far <= _NEAR, _MISS, far)
            else:
                t = tl.where((near < far) & (near > _NEAR), near, _MISS)
    elif kind == 3:
        e0, e1, g0, g1 = d0 / h0, d1 / h1, o0 / h0, o1 / h1
        near, far = _quadratic(e0 * e0 + e1 * e1, g0 * e0 + g1 * e1, g0 * g0 + g1 * g1 - 1.0)
        n2, f2 = _slab(o2, d2, h2)
        near, far = tl.maximum(near, n2), tl.minimum(far, f2)
        t = tl.where((near < far) & (near > _NEAR), near, _MISS)
    elif kind == 4:
        t = _facade(o0, o1, o2, d0, d1, d2, h0, h1, h2, p0, p1, p2, p3, p4)
    elif kind == 5:
        plane = -o2 / _guard(d2)
        u, v = o0 + plane * d0, o1 + plane * d1
        hit = (plane > _NEAR) & (tl.abs(u) < h0) & (tl.abs(v) < h1)
        hit = hit & _panel(u, v, p0.to(tl.int32), p1, p2, p3.to(tl.int32))
        t = tl.where(hit, plane, _MISS)
    elif kind == 6:
        near, far = _round3(o0, o1, o2, d0, d1, d2, h0, h1, h2)
        seed = p3.to(tl.int32)
        usable = (far > _NEAR) & (near < _MISS)
        safe = tl.where(usable, far, 0.0)
        leaf = _leaf(o0 + safe * d0, o1 + safe * d1, o2 + safe * d2, p0, p1, p2, seed)
        t = tl.where(usable & leaf, far, t)
        usable = (near > _NEAR) & (near < _MISS)
        safe = tl.where(usable, near, 0.0)
        leaf = _leaf(o0 + safe * d0, o1 + safe * d1, o2 + safe * d2, p0, p1, p2, seed)
        t = tl.where(usable & leaf, near, t)
    elif LAND:
        t = _terrain(o0, o1, o2, d0, d1, d2, h0, h1, p0, p1, p2, p3, p4, p5)
    return t


@triton.jit
def ray_directions(cam, x, y, shift_x, shift_y):  # type: ignore[no-untyped-def]
    """World directions through pixels, scaled so that t along them is depth."""
    px = (x.to(tl.float32) + 0.5 + shift_x - tl.load(cam + 2)) / tl.load(cam)
    py = (y.to(tl.float32) + 0.5 + shift_y - tl.load(cam + 3)) / tl.load(cam + 1)
    dx = px * tl.load(cam + 4) + py * tl.load(cam + 7) + tl.load(cam + 10)
    dy = px * tl.load(cam + 5) + py * tl.load(cam + 8) + tl.load(cam + 11)
    dz = px * tl.load(cam + 6) + py * tl.load(cam + 9) + tl.load(cam + 12)
    return dx, dy, dz


@triton.jit
def _trace_tile(  # type: ignore[no-untyped-def]
    first, count, view, cam, x, y, shift_x, shift_y, tile_x, tile_y,
    ROW: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """First hits of a tile of pixels: depth and primitive."""
    fx, fy, cx, cy = tl.load(cam), tl.load(cam + 1), tl.load(cam + 2), tl.load(cam + 3)
    r00, r01, r02 = tl.load(cam + 4), tl.load(cam + 5), tl.load(cam + 6)
    r10, r11, r12 = tl.load(cam + 7), tl.load(cam + 8), tl.load(cam + 9)
    r20, r21, r22 = tl.load(cam + 10), tl.load(cam + 11), tl.load(cam + 12)
    ox, oy, oz = tl.load(cam + 13), tl.load(cam + 14), tl.load(cam + 15)
    dx, dy, dz = ray_directions(cam, x, y, shift_x, shift_y)
    # cone around the tile, in the camera's frame: its axis through the middle, its angle to the
    # farthest corner (with a pixel to spare)
    ax = (tile_x + 0.5 * TILE - cx) / fx
    ay = (tile_y + 0.5 * TILE - cy) / fy
    scale = tl.rsqrt(ax * ax + ay * ay + 1.0)
    wide_x, wide_y = (0.5 * TILE + 1.0) / fx, (0.5 * TILE + 1.0) / fy
    cosine = 1.0
    for corner in tl.static_range(4):
        bx = ax + (wide_x if corner % 2 == 0 else -wide_x)
        by = ay + (wide_y if corner // 2 == 0 else -wide_y)
        dot = (ax * bx + ay * by + 1.0) * scale * tl.rsqrt(bx * bx + by * by + 1.0)
        cosine = tl.minimum(cosine, dot)
    sine = tl.sqrt(tl.maximum(1.0 - cosine * cosine, 0.0))
    ux = (ax * r00 + ay * r10 + r20) * scale
    uy = (ax * r01 + ay * r11 + r21) * scale
    uz = (ax * r02 + ay * r12 + r22) * scale
    best = tl.full((TILE * TILE,), _MISS, tl.float32)
    owner = tl.full((TILE * TILE,), -1, tl.int32)
    for n in range(count):
        row = first + n * ROW
        c0, c1, c2 = tl.load(row) - ox, tl.load(row + 1) - oy, tl.load(row + 2) - oz
        radius = tl.load(row + 22)
        along = c0 * ux + c1 * uy + c2 * uz
        squared = c0 * c0 + c1 * c1 + c2 * c2
        gap = tl.sqrt(tl.maximum(squared - along * along, 0.0))
        touched = (gap * cosine - along * sine <= radius * 1.001) & (along >= -radius)
        touched = touched | (squared <= radius * radius * 1.01)
        present = ((tl.load(row + 23).to(tl.int32) >> view) & 1) > 0
        if touched & present & (radius > 0):
            a00, a01, a02 = tl.load(row + 3), tl.load(row + 4), tl.load(row + 5)
            a10, a11, a12 = tl.load(row + 6), tl.load(row + 7), tl.load(row + 8)
            a20, a21, a22 = tl.load(row + 9), tl.load(row + 10), tl.load(row + 11)
            t = _intersect(
                row,
                tl.load(row + 15).to(tl.int32),
                -(a00 * c0 + a01 * c1 + a02 * c2),
                -(a10 * c0 + a11 * c1 + a12 * c2),
                -(a20 * c0 + a21 * c1 + a22 * c2),
                a00 * dx + a01 * dy + a02 * dz,
                a10 * dx + a11 * dy + a12 * dz,
                a20 * dx + a21 * dy + a22 * dz,
                LAND=True,
            )
            closer = t < best
            best = tl.where(closer, t, best)
            owner = tl.where(closer, n, owner)
    return best, owner


@triton.jit
def _shadow_tile(first, count, view, key, px, py, pz, on, ROW: tl.constexpr):  # type: ignore[no-untyped-def]
    """Which of a tile's points (where ``on``) have something between them and the key light."""
    dark = on & (on == 0)
    number = tl.sum(on.to(tl.int32))
    if number > 0:
        share = 1.0 / number.to(tl.float32)
        mx = tl.sum(tl.where(on, px, 0.0)) * share
        my = tl.sum(tl.where(on, py, 0.0)) * share
        mz = tl.sum(tl.where(on, pz, 0.0)) * share
        ex, ey, ez = px - mx, py - my, pz - mz
        spread = tl.sqrt(tl.max(tl.where(on, ex * ex + ey * ey + ez * ez, 0.0)))
        kx, ky, kz, kw = tl.load(key), tl.load(key + 1), tl.load(key + 2), tl.load(key + 3)
        # the axis of the tube
        ux, uy, uz = kx - kw * mx, ky - kw * my, kz - kw * mz
        length = tl.sqrt(ux * ux + uy * uy + uz * uz)
        ux, uy, uz = ux / length, uy / length, uz / length
        limit = tl.where(kw > 0, length, 1e9)
        dx, dy, dz = kx - kw * px, ky - kw * py, kz - kw * pz
        reach = tl.sqrt(dx * dx + dy * dy + dz * dz)
        inverse = 1.0 / tl.maximum(reach, 1e-9)
        dx, dy, dz = dx * inverse, dy * inverse, dz * inverse
        reach = tl.where(kw > 0, reach, _MISS)
        for n in range(count):
            row = first + n * ROW
            c0, c1, c2 = tl.load(row), tl.load(row + 1), tl.load(row + 2)
            radius = tl.load(row + 22)
            b0, b1, b2 = c0 - mx, c1 - my, c2 - mz
            along = tl.minimum(tl.maximum(b0 * ux + b1 * uy + b2 * uz, 0.0), limit)
            g0, g1, g2 = b0 - along * ux, b1 - along * uy, b2 - along * uz
            gap = (radius + spread) * 1.001
            kind = tl.load(row + 15).to(tl.int32)
            present = ((tl.load(row + 23).to(tl.int32) >> view) & 1) > 0
            touched = (g0 * g0 + g1 * g1 + g2 * g2 <= gap * gap) & present & (radius > 0)
            if touched & (kind != 2) & (kind != 7):
                a00, a01, a02 = tl.load(row + 3), tl.load(row + 4), tl.load(row + 5)
                a10, a11, a12 = tl.load(row + 6), tl.load(row + 7), tl.load(row + 8)
                a20, a21, a22 = tl.load(row + 9), tl.load(row + 10), tl.load(row + 11)
                s0, s1, s2 = px - c0, py - c1, pz - c2
                t = _intersect(
                    row,
                    kind,
                    a00 * s0 + a01 * s1 + a02 * s2,
                    a10 * s0 + a11 * s1 + a12 * s2,
                    a20 * s0 + a21 * s1 + a22 * s2,
                    a00 * dx + a01 * dy + a02 * dz,
                    a10 * dx + a11 * dy + a12 * dz,
                    a20 * dx + a21 * dy + a22 * dz,
                    LAND=False,
                )
                dark = dark | ((t < reach) & on)
    return dark


@triton.jit
def _trace_kernel(  # type: ignore[no-untyped-def]
    geometry, cameras, scenes, views, offsets, depth, ids, width, height, count,
    ROW: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(width, TILE)
    tile_x = (tl.program_id(0) % across) * TILE
    tile_y = (tl.program_id(0) // across) * TILE
    image, sample = tl.program_id(1), tl.program_id(2)
    lane = tl.arange(0, TILE * TILE)
    x, y = tile_x + lane % TILE, tile_y + lane // TILE
    best, owner = _trace_tile(
        geometry + tl.load(scenes + image) * count * ROW, count, tl.load(views + image),
        cameras + image * 16, x, y, tl.load(offsets + 2 * sample),
        tl.load(offsets + 2 * sample + 1), tile_x, tile_y, ROW, TILE,
    )  # fmt: skip
    inside = (x < width) & (y < height)
    at = ((image.to(tl.int64) * tl.num_programs(2) + sample) * height + y) * width + x
    tl.store(depth + at, best, mask=inside)
    tl.store(ids + at, owner, mask=inside)


@triton.jit
def _shadow_kernel(  # type: ignore[no-untyped-def]
    geometry, scenes, views, keys, points, active, shadow, width, height, count, plane, key_stride,
    ROW: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    across = tl.cdiv(width, TILE)
    image, sample = tl.program_id(1), tl.program_id(2)
    lane = tl.arange(0, TILE * TILE)
    x = (tl.program_id(0) % across) * TILE + lane % TILE
    y = (tl.program_id(0) // across) * TILE + lane // TILE
    inside = (x < width) & (y < height)
    at = ((image.to(tl.int64) * tl.num_programs(2) + sample) * height + y) * width + x
    on = tl.load(active + at, mask=inside, other=0) != 0
    px = tl.load(points + at, mask=on, other=0.0)
    py = tl.load(points + at + plane, mask=on, other=0.0)
    pz = tl.load(points + at + 2 * plane, mask=on, other=0.0)
    dark = _shadow_tile(
        geometry + tl.load(scenes + image) * count * ROW, count, tl.load(views + image),
        keys + image * key_stride, px, py, pz, on, ROW,
    )  # fmt: skip
    tl.store(shadow + at, dark.to(tl.int8), mask=inside)


def pack_cameras(K: torch.Tensor, cam_from_world: torch.Tensor) -> torch.Tensor:
    """Cameras as the kernels read them: focal lengths, principal point, rotation, centre.

    Args:
        K: (I, 3, 3) pixels.
        cam_from_world: (I, 4, 4).

    Returns:
        (I, 16) float32.
    """
    rotation, translation = cam_from_world[:, :3, :3], cam_from_world[:, :3, 3:]
    center = -(rotation.transpose(1, 2) @ translation)[..., 0]
    inner = torch.stack([K[:, 0, 0], K[:, 1, 1], K[:, 0, 2], K[:, 1, 2]], 1)
    return torch.cat([inner, rotation.reshape(-1, 9), center], 1).float().contiguous()


def trace(
    geometry: torch.Tensor,
    scenes: torch.Tensor,
    views: torch.Tensor,
    cameras: torch.Tensor,
    offsets: torch.Tensor,
    image_size: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor]:
    """First hits of all pixels of I images with S samples each.

    Args:
        geometry: `Scenes.geometry`, (B, N, NUM_GEOMETRY) float32, contiguous.
        scenes: Scene of each image, (I,) int32.
        views: 0 or 1 for each image, (I,) int32.
        cameras: From `pack_cameras`, (I, 16).
        offsets: Positions of the samples about the pixel's centre, (S, 2) float32 pixels.
        image_size: (width, height).

    Returns:
        depth (I, S, H, W) float32, inf for a miss; primitive (I, S, H, W) int32, -1 for a miss.
    """
    width, height = image_size
    shape = (len(cameras), len(offsets), height, width)
    depth = torch.empty(shape, device=geometry.device, dtype=torch.float32)
    ids = torch.empty(shape, device=geometry.device, dtype=torch.int32)
    _trace_kernel[(*tile_grid(image_size, len(cameras)), len(offsets))](
        geometry, cameras, scenes, views, offsets, depth, ids, width, height,
        geometry.shape[1], ROW=NUM_GEOMETRY, TILE=TILE, num_warps=4,
    )  # fmt: skip
    return depth, ids


def shadowed(
    geometry: torch.Tensor,
    scenes: torch.Tensor,
    views: torch.Tensor,
    keys: torch.Tensor,
    points: torch.Tensor,
    active: torch.Tensor,
) -> torch.Tensor:
    """Whether something stands between points and their image's key light.

    Args:
        geometry: (B, N, NUM_GEOMETRY) float32, contiguous.
        scenes: (I,) int32.
        views: (I,) int32.
        keys: Key lights, homogeneous, in the first four columns of (I, K) float32, contiguous.
        points: Starts of the shadow rays, (3, I, S, H, W) float32, contiguous.
        active: Not 0 for the points to test, (I, S, H, W), contiguous, no bool.

    Returns:
        (I, S, H, W) int8: 1 in the shadow, 0 elsewhere and where not active.
    """
    images, samples, height, width = active.shape
    shadow = torch.empty(active.shape, device=geometry.device, dtype=torch.int8)
    _shadow_kernel[(*tile_grid((width, height), images), samples)](
        geometry, scenes, views, keys, points, active, shadow, width, height,
        geometry.shape[1], active.numel(), keys.shape[1], ROW=NUM_GEOMETRY, TILE=TILE, num_warps=4,
    )  # fmt: skip
    return shadow


def tile_grid(image_size: tuple[int, int], images: int) -> tuple[int, int]:
    """Programs of a kernel that works on the tiles of images."""
    width, height = image_size
    return triton.cdiv(width, TILE) * triton.cdiv(height, TILE), images
