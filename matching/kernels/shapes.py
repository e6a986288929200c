"""Where rays meet single primitives (Triton): the twins of the shapes of
`matching.training.raycast`, formula by formula; see `Kind` for what they are.
"""

import triton
import triton.language as tl

_NEAR = tl.constexpr(0.02)  # raycast.NEAR
MISS = tl.constexpr(float("inf"))
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
    near = tl.where(missed, MISS, (-b - root) / a)
    far = tl.where(missed, -MISS, (-b + root) / a)
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
    inside = tl.abs(u) < MISS
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
    ta = tl.where(qa * da > 0, MISS, ta)
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
    result = tl.where(in_x & upright & on_x, tl.where(outside, into_x, MISS), t)
    result = tl.where(in_y & upright & (on_x == 0), tl.where(outside, into_y, MISS), result)
    result = tl.where(outside | (result == MISS), result, _NEAR * 2)
    return tl.where(hit, result, MISS)


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
    return tl.where(hit, t, MISS)


@triton.jit
def intersect(row, kind, o0, o1, o2, d0, d1, d2, LAND: tl.constexpr):  # type: ignore[no-untyped-def]
    """raycast.intersect: o and d in the local frame, row = the primitive's numbers.

    ``LAND`` False leaves out terrain, which casts no shadow.
    """
    h0, h1, h2 = tl.load(row + 12), tl.load(row + 13), tl.load(row + 14)
    p0, p1, p2 = tl.load(row + 16), tl.load(row + 17), tl.load(row + 18)
    p3, p4, p5 = tl.load(row + 19), tl.load(row + 20), tl.load(row + 21)
    t = d0 * 0.0 + o0 * 0.0 + MISS
    if kind <= 2:
        if kind == 1:
            near, far = _round3(o0, o1, o2, d0, d1, d2, h0, h1, h2)
            t = tl.where((near < far) & (near > _NEAR), near, MISS)
        else:
            near, far = _box(o0, o1, o2, d0, d1, d2, h0, h1, h2)
            if kind == 2:
                t = tl.where(far <= _NEAR, MISS, far)
            else:
                t = tl.where((near < far) & (near > _NEAR), near, MISS)
    elif kind == 3:
        e0, e1, g0, g1 = d0 / h0, d1 / h1, o0 / h0, o1 / h1
        near, far = _quadratic(e0 * e0 + e1 * e1, g0 * e0 + g1 * e1, g0 * g0 + g1 * g1 - 1.0)
        n2, f2 = _slab(o2, d2, h2)
        near, far = tl.maximum(near, n2), tl.minimum(far, f2)
        t = tl.where((near < far) & (near > _NEAR), near, MISS)
    elif kind == 4:
        t = _facade(o0, o1, o2, d0, d1, d2, h0, h1, h2, p0, p1, p2, p3, p4)
    elif kind == 5:
        plane = -o2 / _guard(d2)
        u, v = o0 + plane * d0, o1 + plane * d1
        hit = (plane > _NEAR) & (tl.abs(u) < h0) & (tl.abs(v) < h1)
        hit = hit & _panel(u, v, p0.to(tl.int32), p1, p2, p3.to(tl.int32))
        t = tl.where(hit, plane, MISS)
    elif kind == 6:
        near, far = _round3(o0, o1, o2, d0, d1, d2, h0, h1, h2)
        seed = p3.to(tl.int32)
        usable = (far > _NEAR) & (near < MISS)
        safe = tl.where(usable, far, 0.0)
        leaf = _leaf(o0 + safe * d0, o1 + safe * d1, o2 + safe * d2, p0, p1, p2, seed)
        t = tl.where(usable & leaf, far, t)
        usable = (near > _NEAR) & (near < MISS)
        safe = tl.where(usable, near, 0.0)
        leaf = _leaf(o0 + safe * d0, o1 + safe * d1, o2 + safe * d2, p0, p1, p2, seed)
        t = tl.where(usable & leaf, near, t)
    elif LAND:
        t = _terrain(o0, o1, o2, d0, d1, d2, h0, h1, p0, p1, p2, p3, p4, p5)
    return t
