"""Ray-casting on the GPU (Triton): first hits and shadows of batches of scenes.

The twin of `matching.training.raycast`, formula by formula; see there and `Kind` for the shapes.
One program traces a tile of pixels, with one or several samples each. It walks the scene's
primitives and intersects only those whose bounding sphere touches the tile's cone (shadows: the
tube from its hits to the light).
"""

from typing import NamedTuple

import torch
import triton
import triton.language as tl

from matching.kernels.shapes import MISS, intersect
from matching.training.world import NUM_GEOMETRY


class Layers(NamedTuple):
    """Which samples of which pixels one launch works on.

    Attributes:
        tile: Pixels along a side of a program's tile.
        first: First sample.
        samples: Samples a program works on, a power of two.
    """

    tile: int
    first: int
    samples: int


CENTERS = Layers(tile=16, first=0, samples=1)  # one sample in all pixels
AROUND = Layers(tile=8, first=1, samples=4)  # four more, where a tile needs them


@triton.jit
def chosen(rough, SPARSE: tl.constexpr):  # type: ignore[no-untyped-def]
    """Whether a program's tile is to be worked on: all are where ``rough`` is not looked at."""
    flag = tl.program_id(0) >= 0
    if SPARSE:
        flag = tl.load(rough + tl.program_id(1) * tl.num_programs(0) + tl.program_id(0)) != 0
    return flag


@triton.jit
def lanes_of_tile(width, first, TILE: tl.constexpr, COUNT: tl.constexpr):  # type: ignore[no-untyped-def]
    """Corner of a program's tile, and pixel and sample of each lane."""
    across = tl.cdiv(width, TILE)
    tile_x = (tl.program_id(0) % across) * TILE
    tile_y = (tl.program_id(0) // across) * TILE
    lane = tl.arange(0, TILE * TILE * COUNT)
    within = lane % (TILE * TILE)
    x, y = tile_x + within % TILE, tile_y + within // TILE
    sample = first + lane // (TILE * TILE)
    return tile_x, tile_y, x, y, sample


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
    ROW: tl.constexpr, TILE: tl.constexpr, COUNT: tl.constexpr,
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
    best = tl.full((TILE * TILE * COUNT,), MISS, tl.float32)
    owner = tl.full((TILE * TILE * COUNT,), -1, tl.int32)
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
            t = intersect(
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
        reach = tl.where(kw > 0, reach, MISS)
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
                t = intersect(
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
    geometry, cameras, scenes, views, offsets, rough, depth, ids, width, height, count, first,
    samples, ROW: tl.constexpr, TILE: tl.constexpr, COUNT: tl.constexpr, SPARSE: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1)
    if chosen(rough, SPARSE) == 0:
        return
    tile_x, tile_y, x, y, sample = lanes_of_tile(width, first, TILE, COUNT)
    best, owner = _trace_tile(
        geometry + tl.load(scenes + image) * count * ROW, count, tl.load(views + image),
        cameras + image * 16, x, y, tl.load(offsets + 2 * sample),
        tl.load(offsets + 2 * sample + 1), tile_x, tile_y, ROW, TILE, COUNT,
    )  # fmt: skip
    inside = (x < width) & (y < height)
    at = ((image.to(tl.int64) * samples + sample) * height + y) * width + x
    tl.store(depth + at, best, mask=inside)
    tl.store(ids + at, owner, mask=inside)


@triton.jit
def _shadow_kernel(  # type: ignore[no-untyped-def]
    geometry, scenes, views, keys, points, active, rough, shadow, width, height, count, plane,
    key_stride, first, samples, ROW: tl.constexpr, TILE: tl.constexpr, COUNT: tl.constexpr,
    SPARSE: tl.constexpr,
):  # fmt: skip
    image = tl.program_id(1)
    if chosen(rough, SPARSE) == 0:
        return
    _, _, x, y, sample = lanes_of_tile(width, first, TILE, COUNT)
    inside = (x < width) & (y < height)
    at = ((image.to(tl.int64) * samples + sample) * height + y) * width + x
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
    for sample in range(len(offsets)):
        layers = CENTERS._replace(first=sample)
        trace_layers(geometry, scenes, views, cameras, offsets, depth, ids, layers)
    return depth, ids


def trace_layers(
    geometry: torch.Tensor,
    scenes: torch.Tensor,
    views: torch.Tensor,
    cameras: torch.Tensor,
    offsets: torch.Tensor,
    depth: torch.Tensor,
    ids: torch.Tensor,
    layers: Layers,
    rough: torch.Tensor | None = None,
) -> None:
    """Write the first hits of some samples into the tensors that `trace` returns.

    Args:
        geometry: As in `trace`, like all up to ``offsets``.
        scenes: See there.
        views: See there.
        cameras: See there.
        offsets: See there.
        depth: (I, S, H, W) float32.
        ids: (I, S, H, W) int32.
        layers: Which samples.
        rough: Not 0 for the tiles to work on, (I, tiles) int8; None: all.
    """
    images, samples, height, width = depth.shape
    _trace_kernel[tile_grid((width, height), images, layers)](
        geometry, cameras, scenes, views, offsets, ids if rough is None else rough, depth, ids,
        width, height, geometry.shape[1], layers.first, samples, ROW=NUM_GEOMETRY,
        TILE=layers.tile, COUNT=layers.samples, SPARSE=rough is not None, num_warps=4,
    )  # fmt: skip


def shadowed(
    geometry: torch.Tensor,
    scenes: torch.Tensor,
    views: torch.Tensor,
    keys: torch.Tensor,
    points: torch.Tensor,
    active: torch.Tensor,
    shadow: torch.Tensor,
    layers: Layers,
    rough: torch.Tensor | None = None,
) -> None:
    """Find out whether something stands between points and their image's key light.

    Args:
        geometry: (B, N, NUM_GEOMETRY) float32, contiguous.
        scenes: (I,) int32.
        views: (I,) int32.
        keys: Key lights, homogeneous, in the first four columns of (I, K) float32, contiguous.
        points: Starts of the shadow rays, (3, I, S, H, W) float32, contiguous.
        active: Not 0 for the points to test, (I, S, H, W), contiguous, no bool.
        shadow: Written to, (I, S, H, W) int8: 1 in the shadow, 0 elsewhere and where not active.
        layers: Which samples.
        rough: Not 0 for the tiles to work on, (I, tiles) int8; None: all.
    """
    images, samples, height, width = active.shape
    _shadow_kernel[tile_grid((width, height), images, layers)](
        geometry, scenes, views, keys, points, active, shadow if rough is None else rough, shadow,
        width, height, geometry.shape[1], active.numel(), keys.shape[1], layers.first, samples,
        ROW=NUM_GEOMETRY, TILE=layers.tile, COUNT=layers.samples, SPARSE=rough is not None,
        num_warps=4,
    )  # fmt: skip


def tile_grid(image_size: tuple[int, int], images: int, layers: Layers) -> tuple[int, int]:
    """Programs of a kernel that works on the tiles of images."""
    width, height = image_size
    return triton.cdiv(width, layers.tile) * triton.cdiv(height, layers.tile), images
