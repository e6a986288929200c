"""Rendering on the GPU (Triton): surfaces, shadows, textures and light.

The twin of `matching.training.render`, `surface`, `textures` and `light`, formula by formula; see
there for what the numbers mean. Four kernels over tiles of pixels: trace
(`matching.kernels.raycast`), surfaces, shadows, light with textures. One for all would save
little memory traffic and take Triton a minute to compile. They work on the centres of all pixels
first; a fifth finds the tiles with edges, in which they work on four more samples of each pixel.
"""

import torch
import triton
import triton.language as tl

from matching.kernels.raycast import (
    AROUND,
    CENTERS,
    chosen,
    lanes_of_tile,
    ray_directions,
    shadowed,
    tile_grid,
    trace_layers,
)
from matching.kernels.surface import surface_at
from matching.kernels.textures import relief_normal, sample_texture
from matching.training.light import NUM_LIGHT
from matching.training.render import BRIGHTNESS_JUMP
from matching.training.world import NUM_FACES, NUM_GEOMETRY, NUM_MATERIAL

NUM_HIT = 11  # numbers that pass from the surface kernel to the light kernel, one plane each
MAX_SAMPLES = 1 << 27  # keeps NUM_HIT planes of offsets within 32 bits


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
    geometry, cameras, lights, scenes, offsets, rough, depth, ids, hits, width, height, count,
    plane, first, samples, ROW: tl.constexpr, FACES: tl.constexpr, LIGHT: tl.constexpr,
    TILE: tl.constexpr, COUNT: tl.constexpr, SPARSE: tl.constexpr,
):  # fmt: skip
    """Writes of each hit: material, u, v, normal, cell, strength of the key light if nothing is
    in its way, start of the ray that finds that out."""
    image = tl.program_id(1)
    if chosen(rough, SPARSE) == 0:
        return
    _, _, x, y, sample = lanes_of_tile(width, first, TILE, COUNT)
    inside = (x < width) & (y < height)
    at = ((image.to(tl.int64) * samples + sample) * height + y) * width + x
    owner = tl.load(ids + at, mask=inside, other=-1)
    t = tl.load(depth + at, mask=inside, other=1.0)
    hit = owner >= 0
    slot = tl.maximum(owner, 0)
    far = tl.where(hit, t, 1.0)
    scene = tl.load(scenes + image)
    cam, light = cameras + image * 16, lights + image * LIGHT
    own = geometry + scene * count * ROW
    dx, dy, dz = ray_directions(
        cam, x, y, tl.load(offsets + 2 * sample), tl.load(offsets + 2 * sample + 1)
    )
    px = tl.load(cam + 13) + far * dx
    py = tl.load(cam + 14) + far * dy
    pz = tl.load(cam + 15) + far * dz
    face, u, v, nx, ny, nz, cell = surface_at(own + slot * ROW, px, py, pz, dx, dy, dz)
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
    materials, cameras, lights, scenes, offsets, texels, rough, depth, ids, hits, shadow, radiance,
    width, height, count, plane, first, samples, size, textures, levels, sky_lod,
    FACES: tl.constexpr, COLUMNS: tl.constexpr, LIGHT: tl.constexpr, TILE: tl.constexpr,
    COUNT: tl.constexpr, SPARSE: tl.constexpr,
):  # fmt: skip
    """light.shade; samples around a pixel's centre are averaged with that."""
    image = tl.program_id(1)
    if chosen(rough, SPARSE) == 0:
        return
    tile_x, tile_y, x, y, sample = lanes_of_tile(width, first, TILE, COUNT)
    inside = (x < width) & (y < height)
    cam, light = cameras + image * 16, lights + image * LIGHT
    scene = tl.load(scenes + image)
    at = ((image.to(tl.int64) * samples + sample) * height + y) * width + x
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
    lamp_r = tl.zeros((TILE * TILE * COUNT,), tl.float32)
    lamp_g = tl.zeros((TILE * TILE * COUNT,), tl.float32)
    lamp_b = tl.zeros((TILE * TILE * COUNT,), tl.float32)
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
    pixel = tl.arange(0, TILE * TILE)
    x, y = tile_x + pixel % TILE, tile_y + pixel // TILE
    inside = (x < width) & (y < height)
    area = height.to(tl.int64) * width
    out = radiance + image * 3 * area + y * width + x
    _write(out, tl.where(hit, r, sr), inside, TILE, COUNT, SPARSE)
    _write(out + area, tl.where(hit, g, sg), inside, TILE, COUNT, SPARSE)
    _write(out + 2 * area, tl.where(hit, b, sb), inside, TILE, COUNT, SPARSE)


@triton.jit
def _write(  # type: ignore[no-untyped-def]
    out, values, inside, TILE: tl.constexpr, COUNT: tl.constexpr, AVERAGE: tl.constexpr
):
    """Write the one sample a pixel, or average ``COUNT`` samples with what is there."""
    if AVERAGE:
        total = tl.sum(tl.reshape(values, (COUNT, TILE * TILE)), 0)
        values = (tl.load(out, mask=inside, other=0.0) + total) / (COUNT + 1)
    tl.store(out, values, mask=inside)


@triton.jit
def _looks(  # type: ignore[no-untyped-def]
    ids, hits, radiance, image, samples, x, y, width, height, inside
):
    """Part of a primitive and logarithm of the brightness of pixels."""
    at = (image.to(tl.int64) * samples * height + y) * width + x
    area = height.to(tl.int64) * width
    color = radiance + image * 3 * area + y * width + x
    part = tl.load(hits + at, mask=inside, other=0.0)
    part = tl.where(tl.load(ids + at, mask=inside, other=-1) < 0, -1.0, part)
    bright = tl.load(color, mask=inside, other=0.0)
    bright += tl.load(color + area, mask=inside, other=0.0)
    bright += tl.load(color + 2 * area, mask=inside, other=0.0)
    return part, tl.log(tl.maximum(bright / 3, 1e-3))


@triton.jit
def _rough_kernel(  # type: ignore[no-untyped-def]
    ids, hits, radiance, rough, width, height, samples, JUMP: tl.constexpr, TILE: tl.constexpr,
):  # fmt: skip
    """render._differs of the centres: 1 for tiles with a pixel unlike its neighbour."""
    image = tl.program_id(1)
    _, _, x, y, _ = lanes_of_tile(width, 0, TILE, 1)
    inside = (x < width) & (y < height)
    part, bright = _looks(ids, hits, radiance, image, samples, x, y, width, height, inside)
    unlike = inside & (x < 0)
    for side in tl.static_range(4):
        dx = 1 if side == 0 else (-1 if side == 1 else 0)
        dy = 1 if side == 2 else (-1 if side == 3 else 0)
        beside = inside & (x + dx >= 0) & (x + dx < width) & (y + dy >= 0) & (y + dy < height)
        other, light = _looks(
            ids, hits, radiance, image, samples, x + dx, y + dy, width, height, beside
        )
        unlike = unlike | (beside & ((other != part) | (tl.abs(light - bright) > JUMP)))
    flag = tl.max(unlike.to(tl.int32), 0)
    tl.store(rough + image * tl.num_programs(0) + tl.program_id(0), flag.to(tl.int8))


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
    """Render I images with S samples a pixel, 1 or 5: four more in tiles with edges.

    Args:
        geometry: `Scenes.geometry`, (B, N, NUM_GEOMETRY) float32, contiguous.
        materials: `Scenes.materials`, (B, N, NUM_FACES, NUM_MATERIAL) float32, contiguous.
        scenes: Scene of each image, (I,) int32.
        views: 0 or 1, (I,) int32.
        cameras: From `raycast.pack_cameras`, (I, 16).
        lights: (I, NUM_LIGHT) float32, contiguous.
        offsets: Positions of the samples about the pixel's centre, (S, 2) float32 pixels; the first
            must be 0, 0: it gives depth, ids and normals, and says where there are edges.
        texels: `TextureBank.texels` as int32, (M,).
        texture_size: `TextureBank.size`.
        textures: `TextureBank.count`.
        sky_lod: Mip level of clouds and reflections.
        image_size: (width, height).

    The passing numbers take 53 bytes a sample; with more than 2**27 samples offsets would leave 32
    bits: render fewer images at once.

    Returns:
        radiance (I, 3, H, W), depth (I, H, W) (inf for the sky), ids (I, H, W) int32,
        normals (3, I, H, W), undefined for the sky.
    """
    width, height = image_size
    images, samples = len(cameras), len(offsets)
    if samples not in (1, 1 + AROUND.samples):
        raise ValueError(f"1 or {1 + AROUND.samples} samples a pixel, got {samples}")
    device = geometry.device
    shape = (images, samples, height, width)
    plane = images * samples * height * width
    if plane > MAX_SAMPLES:
        raise ValueError(f"at most {MAX_SAMPLES} samples at once, got {plane}: split the images")
    depth = torch.empty(shape, device=device, dtype=torch.float32)
    ids = torch.empty(shape, device=device, dtype=torch.int32)
    hits = torch.empty((NUM_HIT, *shape), device=device, dtype=torch.float32)
    shadow = torch.empty(shape, device=device, dtype=torch.int8)
    radiance = torch.empty((images, 3, height, width), device=device, dtype=torch.float32)
    rough: torch.Tensor | None = None
    for layers in (CENTERS, AROUND)[: 1 if samples == 1 else 2]:
        grid = tile_grid(image_size, images, layers)
        if layers.first > 0:
            rough = torch.empty((images, grid[0]), device=device, dtype=torch.int8)
            _rough_kernel[grid](
                ids, hits, radiance, rough, width, height, samples, JUMP=BRIGHTNESS_JUMP,
                TILE=layers.tile, num_warps=2,
            )  # fmt: skip
        trace_layers(geometry, scenes, views, cameras, offsets, depth, ids, layers, rough)
        mask = ids if rough is None else rough
        tiles = {"TILE": layers.tile, "COUNT": layers.samples, "SPARSE": rough is not None}
        _surface_kernel[grid](
            geometry, cameras, lights, scenes, offsets, mask, depth, ids, hits, width, height,
            geometry.shape[1], plane, layers.first, samples, ROW=NUM_GEOMETRY, FACES=NUM_FACES,
            LIGHT=NUM_LIGHT, num_warps=8, **tiles,
        )  # fmt: skip
        shadowed(geometry, scenes, views, lights, hits[8:], hits[7], shadow, layers, rough)
        _light_kernel[grid](
            materials, cameras, lights, scenes, offsets, texels, mask, depth, ids, hits, shadow,
            radiance, width, height, geometry.shape[1], plane, layers.first, samples, texture_size,
            textures, texture_size.bit_length(), sky_lod, FACES=NUM_FACES, COLUMNS=NUM_MATERIAL,
            LIGHT=NUM_LIGHT, num_warps=8, **tiles,
        )  # fmt: skip
    return radiance, depth[:, 0], ids[:, 0], hits[3:6, :, 0]
