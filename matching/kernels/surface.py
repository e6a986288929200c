"""Faces, normals and texture coordinates of hits (Triton): the twin of
`matching.training.surface`, formula by formula.
"""

import triton
import triton.language as tl

from matching.kernels.shapes import hash_cells, sine


@triton.jit
def _cell_number(i, j, k):  # type: ignore[no-untyped-def]
    h = hash_cells(i.to(tl.int32), j.to(tl.int32), k.to(tl.int32), 1)
    return h.to(tl.float32) * (1.0 / 16777216.0)


@triton.jit
def _arctangent(y, x):  # type: ignore[no-untyped-def]
    """atan2 to 1e-5 rad (Abramowitz and Stegun 4.4.49, refitted): enough for a texture."""
    high = tl.maximum(tl.abs(x), tl.abs(y))
    z = tl.minimum(tl.abs(x), tl.abs(y)) / tl.maximum(high, 1e-20)
    s = z * z
    a = 0.05265332 - s * 0.01172120
    a = 0.11643287 - s * a
    a = 0.19354346 - s * a
    a = 0.33262347 - s * a
    a = z * (0.99997726 - s * a)
    a = tl.where(tl.abs(y) > tl.abs(x), 1.5707963 - a, a)
    a = tl.where(x < 0, 3.1415927 - a, a)
    return tl.where(y < 0, -a, a)


@triton.jit
def _facade_cell(s, z, half_s, half_z, width, height, hw, hh):  # type: ignore[no-untyped-def]
    width, height = tl.maximum(width, 1e-3), tl.maximum(height, 1e-3)
    columns = tl.floor(2 * half_s / width + 1e-4)
    rows = tl.floor(2 * half_z / height + 1e-4)
    i = tl.floor(s / width + 0.5 * columns)
    j = tl.floor(z / height + 0.5 * rows)
    cs, cz = (i + 0.5 - 0.5 * columns) * width, (j + 0.5 - 0.5 * rows) * height
    inside = (i >= 0) & (i < columns) & (j >= 0) & (j < rows)
    inside = inside & (tl.abs(s - cs) <= hw + 2e-4) & (tl.abs(z - cz) <= hh + 2e-4)
    return cs, cz, i, j, inside


@triton.jit
def _wave_slope(x, y, a, wavelength, cx: tl.constexpr, cy: tl.constexpr, phase: tl.constexpr):  # type: ignore[no-untyped-def]
    w = 6.2831853 / tl.maximum(wavelength, 1e-3)
    return a * w * sine(w * (cx * x + cy * y) + phase + 1.5707963)


@triton.jit
def surface_at(row, px, py, pz, vx, vy, vz):  # type: ignore[no-untyped-def]
    """surface.surface_at: face, u, v, normal, cell."""
    a00, a01, a02 = tl.load(row + 3), tl.load(row + 4), tl.load(row + 5)
    a10, a11, a12 = tl.load(row + 6), tl.load(row + 7), tl.load(row + 8)
    a20, a21, a22 = tl.load(row + 9), tl.load(row + 10), tl.load(row + 11)
    hx, hy, hz = tl.load(row + 12), tl.load(row + 13), tl.load(row + 14)
    kind = tl.load(row + 15).to(tl.int32)
    p0, p1, p2 = tl.load(row + 16), tl.load(row + 17), tl.load(row + 18)
    p3, p4, p5 = tl.load(row + 19), tl.load(row + 20), tl.load(row + 21)
    e0, e1, e2 = px - tl.load(row), py - tl.load(row + 1), pz - tl.load(row + 2)
    x = a00 * e0 + a01 * e1 + a02 * e2
    y = a10 * e0 + a11 * e1 + a12 * e2
    z = a20 * e0 + a21 * e1 + a22 * e2
    d0 = a00 * vx + a01 * vy + a02 * vz
    d1 = a10 * vx + a11 * vy + a12 * vz
    d2 = a20 * vx + a21 * vy + a22 * vz

    smooth = (kind == 1) | (kind == 6)
    gap0 = tl.where(smooth, -tl.abs(x / hx), hx - tl.abs(x))
    gap1 = tl.where(smooth, -tl.abs(y / hy), hy - tl.abs(y))
    gap2 = tl.where(smooth, -tl.abs(z / hz), hz - tl.abs(z))
    cylinder = kind == 3
    boxy = (kind != 5) & (kind != 7) & (kind != 3)
    radial = (x / hx) * (x / hx) + (y / hy) * (y / hy)
    thin = tl.minimum(hx, hy)
    wall = cylinder & ((1.0 - tl.sqrt(radial)) * thin <= gap2)
    first = (gap0 <= gap1) & (gap0 <= gap2)
    on_x = (first & boxy) | wall
    on_y = (first == 0) & (gap1 <= gap2) & boxy
    along = tl.where(on_x, x, tl.where(on_y, y, z))
    flat = (kind == 5) | (kind == 7)
    sign = tl.where((along >= 0) | flat | wall, 1.0, -1.0)
    face = tl.where(on_x, 0, tl.where(on_y, 2, 4)) + (sign > 0).to(tl.int32)
    u = tl.where(on_x, sign * y, tl.where(on_y, -sign * x, x))
    v = tl.where(on_x | on_y, -z, -sign * y)
    u = tl.where(wall, _arctangent(y, x) * thin, u)

    n0 = tl.where(on_x, sign, 0.0)
    n1 = tl.where(on_y, sign, 0.0)
    n2 = tl.where(on_x | on_y, 0.0, sign)
    curved = smooth | wall
    n0 = tl.where(curved, x / (hx * hx), n0)
    n1 = tl.where(curved, y / (hy * hy), n1)
    n2 = tl.where(smooth, z / (hz * hz), tl.where(wall, 0.0, n2))
    w0 = _wave_slope(x, y, p0, p3, 0.8, 0.6, 0.0)
    w1 = _wave_slope(x, y, p1, p4, 0.28, -0.96, 1.0)
    w2 = _wave_slope(x, y, p2, p5, -0.9, -0.436, 2.0)
    terrain = kind == 7
    n0 = tl.where(terrain, -(0.8 * w0 + 0.28 * w1 - 0.9 * w2), n0)
    n1 = tl.where(terrain, -(0.6 * w0 - 0.96 * w1 - 0.436 * w2), n1)
    n2 = tl.where(terrain, 1.0, n2)

    # points inside a facade's box are in a recess
    deep = (kind == 4) & (tl.minimum(gap0, gap1) > 2e-4) & (gap2 > 2e-4)
    csx, czx, ix, jx, of_x = _facade_cell(y, z, hy, hz, p0, p1, p2, p3)
    csy, czy, iy, jy, of_y = _facade_cell(x, z, hx, hz, p0, p1, p2, p3)
    of_x = of_x & (gap0 <= p4 + 2e-4)
    of_y = of_y & (gap1 <= p4 + 2e-4)
    in_x = deep & of_x & ((of_y == 0) | (gap0 <= gap1))
    rs = tl.where(in_x, y - csx, x - csy)
    rz = z - tl.where(in_x, czx, czy)
    depth_in = tl.where(in_x, gap0, gap1)
    side = tl.where(tl.where(in_x, x, y) >= 0, 1.0, -1.0)
    gap_back = tl.abs(p4 - depth_in)
    gap_s, gap_z = tl.abs(p2 - tl.abs(rs)), tl.abs(p3 - tl.abs(rz))
    back = deep & (gap_back <= gap_s) & (gap_back <= gap_z)
    jamb = deep & (back == 0) & (gap_s <= gap_z)
    sill = deep & (back == 0) & (jamb == 0)
    face = tl.where(back, 6, tl.where(deep, 7, face))
    right = tl.where(in_x, side, -side)
    u = tl.where(back, rs * right, tl.where(jamb, depth_in, tl.where(sill, rs, u)))
    v = tl.where(back | jamb, -rz, tl.where(sill, depth_in, v))
    across = tl.where(jamb, tl.where(rs > 0, -1.0, 1.0), 0.0)
    inward = tl.where(back, side, 0.0)
    n0 = tl.where(deep, tl.where(in_x, inward, across), n0)
    n1 = tl.where(deep, tl.where(in_x, across, inward), n1)
    n2 = tl.where(deep, tl.where(sill, tl.where(rz > 0, -1.0, 1.0), 0.0), n2)
    window = _cell_number(
        tl.where(in_x, ix, iy), tl.where(in_x, jx, jy), side + tl.where(in_x, 2.0, 0.0)
    )
    cell = tl.where(deep, window, 0.0)

    leafy = (kind == 6) | ((kind == 5) & (p0 == 3.0))
    size = tl.maximum(tl.where(kind == 6, p0, p1), 1e-4)
    leaf = _cell_number(tl.floor(x / size), tl.floor(y / size), tl.floor(z / size))
    cell = tl.where(leafy, leaf, cell)
    second, third = leaf * 7.31, leaf * 13.7
    length = tl.sqrt(n0 * n0 + n1 * n1 + n2 * n2)
    inverse = 1.0 / tl.maximum(length, 1e-12)
    tilt = tl.where(leafy, 1.2, 0.0)
    n0 = n0 * inverse + tilt * (leaf - 0.5)
    n1 = n1 * inverse + tilt * (second - tl.floor(second) - 0.5)
    n2 = n2 * inverse + tilt * (third - tl.floor(third) - 0.5)
    inverse = 1.0 / tl.maximum(tl.sqrt(n0 * n0 + n1 * n1 + n2 * n2), 1e-12)
    inverse = tl.where(n0 * d0 + n1 * d1 + n2 * d2 > 0, -inverse, inverse)
    n0, n1, n2 = n0 * inverse, n1 * inverse, n2 * inverse
    return (
        face, u, v,
        a00 * n0 + a10 * n1 + a20 * n2,
        a01 * n0 + a11 * n1 + a21 * n2,
        a02 * n0 + a12 * n1 + a22 * n2,
        cell,
    )  # fmt: skip
