"""Rendering on the GPU (Triton): surfaces, shadows, textures and light.

The twin of `matching.training.render`, `surface`, `textures` and `light`, formula by formula; see
there for what the numbers mean. Four kernels over tiles of 16x16 pixels: trace
(`matching.kernels.raycast`), surfaces, shadows, light with textures. One for all would save
little memory traffic and take Triton a minute to compile.
"""

import torch
import triton
import triton.language as tl

from matching.kernels.raycast import (
    TILE,
    hash_cells,
    ray_directions,
    shadowed,
    sine,
    tile_grid,
    trace,
)
from matching.kernels.textures import relief_normal, sample_texture
from matching.training.light import NUM_LIGHT
from matching.training.world import NUM_FACES, NUM_GEOMETRY, NUM_MATERIAL

NUM_HIT = 11  # numbers that pass from the surface kernel to the light kernel, one plane each
MAX_SAMPLES = 1 << 27  # keeps NUM_HIT planes of offsets within 32 bits


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
def _surface(row, px, py, pz, vx, vy, vz):  # type: ignore[no-untyped-def]
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


@triton.jit
def _sky(light, texels, size, count, levels, lod, dx, dy, dz):  # type: ignore[no-untyped-def]
    """light.sky_color."""
    blend = tl.sqrt(tl.minimum(tl.maximum(dz, 0.0), 1.0))
    flat = 0.2 / (tl.abs(dz) + 0.15)
    index = tl.load(light + 38).to(tl.int32) + (dz * 0.0).to(tl.int32)
    cr, cg, cb, _, _ = sample_texture(
        texels, index, dx * flat, dy * flat, dz * 0.0 + lod, size, count, levels
    )
    cover = tl.load(light + 39)
    mix = tl.minimum(tl.maximum(dz * 6 + 0.5, 0.0), 1.0)
    r, g, b = (
        _sky_channel(light, 0, blend, cr, cover, mix),
        _sky_channel(light, 1, blend, cg, cover, mix),
        _sky_channel(light, 2, blend, cb, cover, mix),
    )
    return r, g, b


@triton.jit
def _sky_channel(light, k: tl.constexpr, blend, clouds, cover, mix):  # type: ignore[no-untyped-def]
    color = tl.load(light + 10 + k) * (1 - blend) + tl.load(light + 7 + k) * blend
    color = color * tl.maximum(1 + cover * (4 * clouds - 1), 0.05)
    below = tl.load(light + 13 + k) * (0.5 + 1.5 * clouds)
    return below + (color - below) * mix


@triton.jit
def _lit_channel(  # type: ignore[no-untyped-def]
    light, material, k: tl.constexpr, albedo, over, weight, vary, key, around, glint, diffuse_lamp,
    upward, side, tone, emission, fresnel, clear,
):  # fmt: skip
    """One colour channel of light.albedo and light.shade."""
    base = albedo * (1 - weight + 2.2 * weight * tl.sqrt(over))
    base = base * tl.load(material + 6 + k) * vary
    sky, horizon = tl.load(light + 7 + k), tl.load(light + 10 + k)
    ambient = tl.load(light + 13 + k) * (1 - upward) + sky * upward
    ambient = ambient + 0.25 * horizon * side * tone
    strength = tl.load(light + 4 + k)
    diffuse = strength * key + diffuse_lamp
    color = base * (diffuse + ambient + emission)
    color = color * (1 - fresnel) + fresnel * (around + strength * glint)
    return color * clear + tl.load(light + 16 + k) * (1 - clear)


@triton.jit
def _surface_kernel(  # type: ignore[no-untyped-def]
    geometry, cameras, lights, scenes, offsets, depth, ids, hits, width, height, count,
    plane, ROW: tl.constexpr, FACES: tl.constexpr, LIGHT: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """Writes of each hit: material, u, v, normal, cell, strength of the key light if nothing is
    in its way, start of the ray that finds that out."""
    across = tl.cdiv(width, TILE)
    image, sample = tl.program_id(1), tl.program_id(2)
    lane = tl.arange(0, TILE * TILE)
    x = (tl.program_id(0) % across) * TILE + lane % TILE
    y = (tl.program_id(0) // across) * TILE + lane // TILE
    inside = (x < width) & (y < height)
    at = ((image.to(tl.int64) * tl.num_programs(2) + sample) * height + y) * width + x
    owner = tl.load(ids + at, mask=inside, other=-1)
    t = tl.load(depth + at, mask=inside, other=1.0)
    hit = owner >= 0
    slot = tl.maximum(owner, 0)
    far = tl.where(hit, t, 1.0)
    scene = tl.load(scenes + image)
    cam, light = cameras + image * 16, lights + image * LIGHT
    first = geometry + scene * count * ROW
    dx, dy, dz = ray_directions(
        cam, x, y, tl.load(offsets + 2 * sample), tl.load(offsets + 2 * sample + 1)
    )
    px = tl.load(cam + 13) + far * dx
    py = tl.load(cam + 14) + far * dy
    pz = tl.load(cam + 15) + far * dz
    face, u, v, nx, ny, nz, cell = _surface(first + slot * ROW, px, py, pz, dx, dy, dz)
    kx, ky, kz, falloff = _toward_key(light, px, py, pz)
    cosine = nx * kx + ny * ky + nz * kz
    lift = 2e-3 + 1e-3 * far
    tl.store(hits + at, (slot * FACES + face).to(tl.float32), mask=inside)
    tl.store(hits + at + plane, u, mask=inside)
    tl.store(hits + at + 2 * plane, v, mask=inside)
    tl.store(hits + at + 3 * plane, nx, mask=inside)
    tl.store(hits + at + 4 * plane, ny, mask=inside)
    tl.store(hits + at + 5 * plane, nz, mask=inside)
    tl.store(hits + at + 6 * plane, cell, mask=inside)
    tl.store(hits + at + 7 * plane, tl.where(hit & (cosine > 0), falloff, 0.0), mask=inside)
    tl.store(hits + at + 8 * plane, px + nx * lift, mask=inside)
    tl.store(hits + at + 9 * plane, py + ny * lift, mask=inside)
    tl.store(hits + at + 10 * plane, pz + nz * lift, mask=inside)


@triton.jit
def _toward_key(light, px, py, pz):  # type: ignore[no-untyped-def]
    """light.toward_key."""
    kw = tl.load(light + 3)
    kx = tl.load(light) - kw * px
    ky = tl.load(light + 1) - kw * py
    kz = tl.load(light + 2) - kw * pz
    squared = kx * kx + ky * ky + kz * kz
    falloff = tl.where(kw > 0, 1.0 / (0.3 + squared), 1.0)
    inverse = tl.rsqrt(tl.maximum(squared, 1e-12))
    return kx * inverse, ky * inverse, kz * inverse, falloff


@triton.jit
def _light_kernel(  # type: ignore[no-untyped-def]
    materials, cameras, lights, scenes, offsets, texels, depth, ids, hits, shadow, radiance,
    width, height, count, plane, size, textures, levels, sky_lod,
    FACES: tl.constexpr, COLUMNS: tl.constexpr, LIGHT: tl.constexpr, TILE: tl.constexpr,
    SAMPLES: tl.constexpr,
):  # fmt: skip
    """light.shade, averaged over the samples."""
    across = tl.cdiv(width, TILE)
    image = tl.program_id(1)
    lane = tl.arange(0, TILE * TILE)
    x = (tl.program_id(0) % across) * TILE + lane % TILE
    y = (tl.program_id(0) // across) * TILE + lane // TILE
    inside = (x < width) & (y < height)
    cam, light = cameras + image * 16, lights + image * LIGHT
    scene = tl.load(scenes + image)
    red = tl.zeros((TILE * TILE,), tl.float32)
    green = tl.zeros((TILE * TILE,), tl.float32)
    blue = tl.zeros((TILE * TILE,), tl.float32)
    for sample in range(SAMPLES):
        at = ((image.to(tl.int64) * SAMPLES + sample) * height + y) * width + x
        hit = tl.load(ids + at, mask=inside, other=-1) >= 0
        far = tl.where(hit, tl.load(depth + at, mask=inside, other=1.0), 1.0)
        wear = tl.load(hits + at, mask=inside, other=0.0).to(tl.int32)
        u = tl.load(hits + at + plane, mask=inside, other=0.0)
        v = tl.load(hits + at + 2 * plane, mask=inside, other=0.0)
        nx = tl.load(hits + at + 3 * plane, mask=inside, other=0.0)
        ny = tl.load(hits + at + 4 * plane, mask=inside, other=0.0)
        nz = tl.load(hits + at + 5 * plane, mask=inside, other=1.0)
        cell = tl.load(hits + at + 6 * plane, mask=inside, other=0.0)
        key = tl.load(hits + at + 7 * plane, mask=inside, other=0.0)
        key = tl.where(tl.load(shadow + at, mask=inside, other=0) != 0, 0.0, key)
        dx, dy, dz = ray_directions(
            cam, x, y, tl.load(offsets + 2 * sample), tl.load(offsets + 2 * sample + 1)
        )
        px = tl.load(cam + 13) + far * dx
        py = tl.load(cam + 14) + far * dy
        pz = tl.load(cam + 15) + far * dz
        length = tl.sqrt(dx * dx + dy * dy + dz * dz)
        vx, vy, vz = dx / length, dy / length, dz / length
        facing = -(nx * vx + ny * vy + nz * vz)
        footprint = far / tl.load(cam) / tl.sqrt(tl.maximum(facing, 0.05))
        kx, ky, kz, _ = _toward_key(light, px, py, pz)
        # albedo
        material = materials + (scene * count * FACES + wear) * COLUMNS
        scale = tl.load(material + 1)
        jitter = cell * tl.load(material + 14)
        shift_u, shift_v = tl.load(material + 2), tl.load(material + 3)
        c, s = tl.load(material + 4), tl.load(material + 5)
        scale = tl.where(scale > 0, scale, 1.0)
        texel = footprint * size.to(tl.float32)
        r, g, b, slope_u, slope_v = sample_texture(
            texels, tl.load(material).to(tl.int32), (u * c - v * s) / scale + shift_u + jitter,
            (u * s + v * c) / scale + shift_v + jitter * 1.618,
            tl.log2(tl.maximum(texel / scale, 1e-3)), size, textures, levels,
        )  # fmt: skip
        # from here on the normal with relief; the geometric one is needed no more
        relief = tl.load(material + 15)
        brightest = 3 * (nx * kx + ny * ky + nz * kz)
        nx, ny, nz = relief_normal(
            nx, ny, nz, relief * (slope_u * c + slope_v * s), relief * (slope_v * c - slope_u * s)
        )
        facing = -(nx * vx + ny * vy + nz * vz)
        over = tl.load(material + 11)
        over = tl.where(over > 0, over, 1.0)
        r2, g2, b2, _, _ = sample_texture(
            texels, tl.load(material + 10).to(tl.int32), u / over + shift_v, v / over + shift_u,
            tl.log2(tl.maximum(texel / over, 1e-3)), size, textures, levels,
        )  # fmt: skip
        weight = tl.load(material + 12)
        vary = 1 + tl.where(jitter > 0, 0.5, 0.0) * (cell - 0.5)
        # lamps without shadows
        lamp_r = tl.zeros((TILE * TILE,), tl.float32)
        lamp_g = tl.zeros((TILE * TILE,), tl.float32)
        lamp_b = tl.zeros((TILE * TILE,), tl.float32)
        for k in tl.static_range(3):
            lamp = light + 20 + 6 * k
            lx, ly, lz = tl.load(lamp) - px, tl.load(lamp + 1) - py, tl.load(lamp + 2) - pz
            squared = lx * lx + ly * ly + lz * lz
            part = (nx * lx + ny * ly + nz * lz) * tl.rsqrt(squared + 1e-6)
            part = tl.maximum(part, 0.0) / (0.3 + squared)
            lamp_r += tl.load(lamp + 3) * part
            lamp_g += tl.load(lamp + 4) * part
            lamp_b += tl.load(lamp + 5) * part
        # gloss, or the sky itself where nothing is hit
        mx, my, mz = vx + 2 * facing * nx, vy + 2 * facing * ny, vz + 2 * facing * nz
        sr, sg, sb = _sky(
            light, texels, size, textures, levels, sky_lod,
            tl.where(hit, mx, vx), tl.where(hit, my, vy), tl.where(hit, mz, vz),
        )  # fmt: skip
        gloss = tl.load(material + 9)
        grazing = 1 - tl.minimum(tl.maximum(facing, 0.0), 1.0)
        grazing2 = grazing * grazing
        fresnel = gloss + (1 - gloss) * tl.sqrt(gloss) * grazing2 * grazing2 * grazing
        shine = tl.maximum(mx * kx + my * ky + mz * kz, 1e-6)
        glint = key * tl.exp2(60 * tl.log2(shine)) * 4
        clear = tl.exp(-tl.load(light + 19) * far * length)
        upward = 0.5 + 0.5 * nz
        side, tone = 1 - nz * nz, 1 + 0.35 * nx + 0.2 * ny
        shone = key * tl.maximum(tl.minimum(nx * kx + ny * ky + nz * kz, brightest), 0.0)
        emission = tl.load(material + 13)
        r = _lit_channel(
            light, material, 0, r, r2, weight, vary, shone, sr, glint, lamp_r, upward, side, tone,
            emission, fresnel, clear,
        )  # fmt: skip
        g = _lit_channel(
            light, material, 1, g, g2, weight, vary, shone, sg, glint, lamp_g, upward, side, tone,
            emission, fresnel, clear,
        )  # fmt: skip
        b = _lit_channel(
            light, material, 2, b, b2, weight, vary, shone, sb, glint, lamp_b, upward, side, tone,
            emission, fresnel, clear,
        )  # fmt: skip
        red += tl.where(hit, r, sr)
        green += tl.where(hit, g, sg)
        blue += tl.where(hit, b, sb)
    share = 1.0 / SAMPLES
    area = height.to(tl.int64) * width
    out = radiance + image * 3 * area + y * width + x
    tl.store(out, red * share, mask=inside)
    tl.store(out + area, green * share, mask=inside)
    tl.store(out + 2 * area, blue * share, mask=inside)


def render(
    geometry: torch.Tensor,
    materials: torch.Tensor,
    scenes: torch.Tensor,
    views: torch.Tensor,
    cameras: torch.Tensor,
    lights: torch.Tensor,
    offsets: torch.Tensor,
    texels: torch.Tensor,
    texture_size: int,
    textures: int,
    sky_lod: float,
    image_size: tuple[int, int],
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Render I images with S samples a pixel.

    Args:
        geometry: `Scenes.geometry`, (B, N, NUM_GEOMETRY) float32, contiguous.
        materials: `Scenes.materials`, (B, N, NUM_FACES, NUM_MATERIAL) float32, contiguous.
        scenes: Scene of each image, (I,) int32.
        views: 0 or 1, (I,) int32.
        cameras: From `raycast.pack_cameras`, (I, 16).
        lights: (I, NUM_LIGHT) float32, contiguous.
        offsets: Positions of the samples about the pixel's centre, (S, 2) float32 pixels; the first
            must be 0, 0: it gives depth, ids and normals.
        texels: `TextureBank.texels` as int32, (M,).
        texture_size: `TextureBank.size`.
        textures: `TextureBank.count`.
        sky_lod: Mip level of clouds and reflections.
        image_size: (width, height).

    The passing numbers take 56 bytes a sample; with more than 2**27 samples offsets would leave 32
    bits: render fewer images at once.

    Returns:
        radiance (I, 3, H, W), depth (I, H, W) (inf for the sky), ids (I, H, W) int32,
        normals (3, I, H, W), undefined for the sky.
    """
    width, height = image_size
    images, samples = len(cameras), len(offsets)
    device = geometry.device
    depth, ids = trace(geometry, scenes, views, cameras, offsets, image_size)
    plane = ids.numel()
    if plane > MAX_SAMPLES:
        raise ValueError(f"at most {MAX_SAMPLES} samples at once, got {plane}: split the images")
    hits = torch.empty((NUM_HIT, *ids.shape), device=device, dtype=torch.float32)
    radiance = torch.empty((images, 3, height, width), device=device, dtype=torch.float32)
    grid = tile_grid(image_size, images)
    _surface_kernel[(*grid, samples)](
        geometry, cameras, lights, scenes, offsets, depth, ids, hits, width, height,
        geometry.shape[1], plane, ROW=NUM_GEOMETRY, FACES=NUM_FACES, LIGHT=NUM_LIGHT, TILE=TILE,
        num_warps=8,
    )  # fmt: skip
    shadow = shadowed(geometry, scenes, views, lights, hits[8:], hits[7])
    _light_kernel[grid](
        materials, cameras, lights, scenes, offsets, texels, depth, ids, hits, shadow, radiance,
        width, height, geometry.shape[1], plane, texture_size, textures, texture_size.bit_length(),
        sky_lod, FACES=NUM_FACES, COLUMNS=NUM_MATERIAL, LIGHT=NUM_LIGHT, TILE=TILE,
        SAMPLES=samples, num_warps=8,
    )  # fmt: skip
    return radiance, depth[:, 0], ids[:, 0], hits[3:6, :, 0]
