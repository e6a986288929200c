"""From scenes, cameras and lights to images with exact depth, primitive ids and normals."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

import torch

from matching.training import raycast
from matching.training.light import KEY, shade, toward_key
from matching.training.surface import Surface, surface_at
from matching.training.textures import TextureBank
from matching.training.world import Scenes

CHUNK_TILES = 160  # shaded at once: larger falls out of the cache, smaller costs calls
TILE = 16  # pixels; rays of a tile are culled together
# the pixel's centre first (it alone gives the geometry), then a rotated grid
SAMPLE_OFFSETS = ((0.0, 0.0), (-0.375, -0.125), (0.125, -0.375), (0.375, 0.125), (-0.125, 0.375))


@dataclass(frozen=True, kw_only=True)
class Frames:
    """Rendered images of I cameras.

    Attributes:
        radiance: Linear RGB, (I, H, W, 3) float32.
        depth: Along the optical axis, metres, (I, H, W) float32; inf where nothing is hit.
        ids: Index of the primitive at each pixel's centre, (I, H, W) int32; -1 for the sky.
        normals: Unit, world frame, towards the camera, (I, H, W, 3); 0 for the sky.
    """

    radiance: torch.Tensor
    depth: torch.Tensor
    ids: torch.Tensor
    normals: torch.Tensor


def ray_directions(
    K: torch.Tensor, cam_from_world: torch.Tensor, pixels: torch.Tensor
) -> torch.Tensor:
    """World directions through pixel positions, scaled so that t along them is depth.

    Args:
        K: (3, 3).
        cam_from_world: (4, 4).
        pixels: x, y with the centre of the top-left pixel at (0.5, 0.5), (..., 2).

    Returns:
        (..., 3).
    """
    x = (pixels[..., 0] - K[0, 2]) / K[0, 0]
    y = (pixels[..., 1] - K[1, 2]) / K[1, 1]
    return torch.stack([x, y, torch.ones_like(x)], -1) @ cam_from_world[:3, :3]


def camera_center(cam_from_world: torch.Tensor) -> torch.Tensor:
    """Position of cameras in the world, (..., 3), from (..., 4, 4)."""
    rotation, translation = cam_from_world[..., :3, :3], cam_from_world[..., :3, 3:]
    return -(rotation.transpose(-1, -2) @ translation)[..., 0]


def shade_samples(
    scenes: Scenes,
    scene: torch.Tensor,
    light: torch.Tensor,
    origins: torch.Tensor,
    directions: torch.Tensor,
    depth: torch.Tensor,
    ids: torch.Tensor,
    pixel_angle: torch.Tensor,
    bank: TextureBank,
    occlusion: "Occlusion",
) -> tuple[torch.Tensor, Surface]:
    """Radiance of traced rays; ``occlusion`` answers which of the hits the key light misses.

    Args:
        scenes: The scenes.
        scene: Scene of each ray, (P,) int64.
        light: Light of each ray, (P, NUM_LIGHT).
        origins: (P, 3).
        directions: (P, 3), unit depth.
        depth: (P,), inf for a miss.
        ids: (P,) int32.
        pixel_angle: Width of a pixel at unit depth, (P,).
        bank: Textures.
        occlusion: Called with points, ids, active -> shadowed.
    """
    hit = ids >= 0
    slot = ids.clamp_min(0).long()
    depth = torch.where(hit, depth, torch.ones_like(depth))
    points = origins + depth[:, None] * directions
    surface = surface_at(scenes.geometry[scene, slot], points, directions)
    length = directions.norm(dim=-1)
    unit = directions / length[:, None]
    distance = depth * length
    facing = -(surface.normal * unit).sum(-1)
    # the mean of the two axes of the pixel's ellipse on the surface
    footprint = depth * pixel_angle / facing.clamp_min(0.05).sqrt()
    to_key, _ = toward_key(light, points)
    active = hit & ((surface.normal * to_key).sum(-1) > 0)
    lifted = points + surface.normal * (2e-3 + 1e-3 * depth)[:, None]
    lit = ~occlusion(lifted, ids, active)
    material = scenes.materials[scene, slot, surface.face]
    color = shade(light, material, surface, points, unit, distance, hit, lit, footprint, bank)
    return color, surface


class Occlusion:
    """Shadow test of one image's blocks of rays on the CPU."""

    def __init__(self, primitives: raycast.Primitives, key: torch.Tensor, block: int) -> None:
        self.primitives, self.key, self.block = primitives, key, block

    def __call__(
        self, points: torch.Tensor, ids: torch.Tensor, active: torch.Tensor
    ) -> torch.Tensor:
        """Points (P, 3), ids (P,), active (P,) -> shadowed (P,)."""
        blocks = points.reshape(-1, self.block, 3)
        shape = blocks.shape[:2]
        return raycast.shadowed(
            self.primitives, blocks, ids.reshape(shape), active.reshape(shape), self.key
        ).reshape(-1)


@torch.no_grad()
def render_image(
    scenes: Scenes,
    scene: int,
    view: int,
    K: torch.Tensor,
    cam_from_world: torch.Tensor,
    image_size: tuple[int, int],
    light: torch.Tensor,
    bank: TextureBank,
    *,
    antialias: bool = True,
) -> Frames:
    """Render one image on the CPU.

    Only pixels at edges of primitives, faces or shadows get the four extra samples: textures are
    mip-mapped and need none.

    Args:
        scenes: The scenes.
        scene: Which of them.
        view: 0 or 1, for primitives that exist in one view only.
        K: (3, 3) float32, pixels.
        cam_from_world: (4, 4) float32.
        image_size: (width, height).
        light: (NUM_LIGHT,).
        bank: Textures.
        antialias: False saves the extra samples.

    Returns:
        Frames with I = 1.
    """
    width, height = image_size
    across, down = -(-width // TILE), -(-height // TILE)
    y, x = torch.meshgrid(torch.arange(down * TILE), torch.arange(across * TILE), indexing="ij")
    grid = torch.stack([x, y], -1).float() + 0.5

    def tiled(image: torch.Tensor) -> torch.Tensor:
        parts = image.reshape(down, TILE, across, TILE, -1).transpose(1, 2)
        return parts.reshape(down * across, TILE * TILE, -1)

    def untiled(tiles: torch.Tensor) -> torch.Tensor:
        parts = tiles.reshape(down, across, TILE, TILE, -1).transpose(1, 2)
        return parts.reshape(down * TILE, across * TILE, -1)

    pixels = tiled(grid)
    primitives = raycast.Primitives(scenes.geometry[scene], view)
    origin = camera_center(cam_from_world)

    @torch.no_grad()
    def radiance(positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        directions = ray_directions(K, cam_from_world, positions)
        cull = raycast.cone_cull(origin, directions)
        depth, ids = raycast.trace(primitives, origin, directions, cull)
        count = ids.numel()
        color, surface = shade_samples(
            scenes,
            torch.full((count,), scene),
            light.expand(count, -1),
            origin.expand(count, 3),
            directions.reshape(-1, 3),
            depth.reshape(-1),
            ids.reshape(-1),
            (1.0 / K[0, 0]).expand(count),
            bank,
            Occlusion(primitives, light[KEY], positions.shape[1]),
        )
        return color, depth.reshape(-1), ids.reshape(-1), surface.face, surface.normal

    def in_chunks(positions: torch.Tensor) -> tuple[torch.Tensor, ...]:
        # a thread per chunk, not per operation: threads that wait for each other after every
        # small operation crawl as soon as the machine has other work
        threads = torch.get_num_threads()
        with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            parts = list(pool.map(radiance, positions.split(CHUNK_TILES)))
        torch.set_num_threads(threads)
        return tuple(torch.cat(columns) for columns in zip(*parts, strict=True))

    color, depth, ids, face, normals = in_chunks(pixels)
    if antialias:
        part = ids.long() * 16 + face
        seen = untiled(torch.cat([part[:, None].float(), color], -1))
        rough = _differs(seen)
        chosen = tiled(rough[..., None].float()).reshape(-1).nonzero()[:, 0]
        block = TILE * TILE // 4
        padding = -len(chosen) % block
        if len(chosen):
            padded = torch.cat([chosen, chosen[-1:].expand(padding)])
            centers = pixels.reshape(-1, 2)[padded].reshape(-1, block, 1, 2)
            offsets = torch.tensor(SAMPLE_OFFSETS[1:])
            extra = in_chunks((centers + offsets).reshape(-1, block * 4, 2))[0]
            extra = extra.reshape(-1, 4, 3).sum(1)
            color[chosen] = (color[chosen] + extra[: len(chosen)]) / 5
    normals = torch.where(ids[:, None] >= 0, normals, torch.zeros(()))

    def cropped(flat: torch.Tensor) -> torch.Tensor:
        return untiled(flat.reshape(down * across, TILE * TILE, -1))[:height, :width][None]

    return Frames(
        radiance=cropped(color),
        depth=cropped(depth)[..., 0],
        ids=cropped(ids)[..., 0],
        normals=cropped(normals),
    )


def _differs(seen: torch.Tensor) -> torch.Tensor:
    """Pixels whose primitive, face or brightness jumps to a neighbour; (H, W, 4) -> (H, W)."""
    part, bright = seen[..., 0], seen[..., 1:].mean(-1).clamp_min(1e-3).log()
    rough = torch.zeros(part.shape, dtype=torch.bool)
    for axis in (0, 1):
        size = part.shape[axis] - 1
        first = (part.narrow(axis, 0, size), bright.narrow(axis, 0, size))
        second = (part.narrow(axis, 1, size), bright.narrow(axis, 1, size))
        jump = (first[0] != second[0]) | ((first[1] - second[1]).abs() > 0.6)
        rough.narrow(axis, 0, size).logical_or_(jump)
        rough.narrow(axis, 1, size).logical_or_(jump)
    return rough
