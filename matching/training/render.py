"""From scenes, cameras and lights to images with exact depth, primitive ids and normals."""

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import NamedTuple

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
BRIGHTNESS_JUMP = 0.6  # of the logarithm between neighbours, where there may be an edge


class RayOwners(NamedTuple):
    """What P rays belong to."""

    scene: torch.Tensor  # (P,) int64
    image: torch.Tensor  # (P,) int64
    pixel_angle: torch.Tensor  # (P,) width of a pixel at unit depth


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


class Hits(NamedTuple):
    """Hits of P rays, between tracing and shading."""

    surface: Surface
    points: torch.Tensor  # (P, 3) world
    unit: torch.Tensor  # (P, 3) direction of the ray
    distance: torch.Tensor  # (P,) metres from the camera
    footprint: torch.Tensor  # (P,) size of a pixel on the surface, metres
    starts: torch.Tensor  # (P, 3) of shadow rays, lifted off the surface
    active: torch.Tensor  # (P,) bool, hits that look at the key light


def find_hits(
    geometry: torch.Tensor,
    lights: torch.Tensor,
    rays: RayOwners,
    origins: torch.Tensor,
    directions: torch.Tensor,
    depth: torch.Tensor,
    ids: torch.Tensor,
) -> Hits:
    """Surfaces at the hits of P rays.

    Args:
        geometry: (B, N, NUM_GEOMETRY).
        lights: (I, NUM_LIGHT).
        rays: Scene and image of each ray.
        origins: Camera centres, (I, 3).
        directions: (P, 3), unit depth.
        depth: (P,), inf for a miss.
        ids: (P,) int32, -1 for a miss.
    """
    hit = ids >= 0
    depth = torch.where(hit, depth, 1.0)
    points = origins[rays.image] + depth[:, None] * directions
    surface = surface_at(geometry[rays.scene, ids.clamp_min(0).long()], points, directions)
    length = directions.norm(dim=-1)
    unit = directions / length[:, None]
    facing = -(surface.normal * unit).sum(-1)
    # the mean of the two axes of the pixel's ellipse on the surface
    footprint = depth * rays.pixel_angle / facing.clamp_min(0.05).sqrt()
    to_key, _ = toward_key(lights[rays.image], points)
    return Hits(
        surface=surface,
        points=points,
        unit=unit,
        distance=depth * length,
        footprint=footprint,
        starts=points + surface.normal * (2e-3 + 1e-3 * depth)[:, None],
        active=hit & ((surface.normal * to_key).sum(-1) > 0),
    )


def color_hits(
    materials: torch.Tensor,
    lights: torch.Tensor,
    rays: RayOwners,
    hits: Hits,
    ids: torch.Tensor,
    shadow: torch.Tensor,
    bank: TextureBank,
) -> torch.Tensor:
    """Linear radiance of P rays, (P, 3).

    Args:
        materials: (B, N, NUM_FACES, NUM_MATERIAL).
        lights: (I, NUM_LIGHT).
        rays: Scene and image of each ray.
        hits: From `find_hits`.
        ids: (P,) int32.
        shadow: True where something stands before the key light, (P,).
        bank: Textures.
    """
    return shade(
        lights[rays.image],
        materials[rays.scene, ids.clamp_min(0).long(), hits.surface.face],
        hits.surface,
        hits.points,
        hits.unit,
        hits.distance,
        ids >= 0,
        ~shadow,
        hits.footprint,
        bank,
    )


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
        zero = torch.zeros(count, dtype=torch.int64)
        rays = RayOwners(scene=zero + scene, image=zero, pixel_angle=(1 / K[0, 0]).expand(count))
        flat_ids = ids.reshape(-1)
        hits = find_hits(
            scenes.geometry,
            light[None],
            rays,
            origin[None],
            directions.reshape(-1, 3),
            depth.reshape(-1),
            flat_ids,
        )
        shadow = raycast.shadowed(
            primitives,
            hits.starts.reshape(*ids.shape, 3),
            ids,
            hits.active.reshape(ids.shape),
            light[KEY],
        )
        color = color_hits(
            scenes.materials, light[None], rays, hits, flat_ids, shadow.reshape(-1), bank
        )
        return color, depth.reshape(-1), flat_ids, hits.surface.face, hits.surface.normal

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
        jump = (first[0] != second[0]) | ((first[1] - second[1]).abs() > BRIGHTNESS_JUMP)
        rough.narrow(axis, 0, size).logical_or_(jump)
        rough.narrow(axis, 1, size).logical_or_(jump)
    return rough


def render_images(
    scenes: Scenes,
    scene: torch.Tensor,
    view: torch.Tensor,
    K: torch.Tensor,
    cam_from_world: torch.Tensor,
    image_size: tuple[int, int],
    lights: torch.Tensor,
    bank: TextureBank,
) -> Frames:
    """Render I images, on the device of the scenes: in plain torch on the CPU, else with Triton.

    Args:
        scenes: The scenes.
        scene: Which of them each image shows, (I,) int64.
        view: 0 or 1, for primitives that exist in one view only, (I,) int64.
        K: (I, 3, 3) float32, pixels.
        cam_from_world: (I, 4, 4) float32.
        image_size: (width, height).
        lights: (I, NUM_LIGHT).
        bank: Textures.
    """
    if scenes.geometry.is_cuda:
        from matching.training.render_gpu import render_images_gpu  # needs Triton

        return render_images_gpu(scenes, scene, view, K, cam_from_world, image_size, lights, bank)
    frames = [
        render_image(
            scenes,
            int(scene[i]),
            int(view[i]),
            K[i],
            cam_from_world[i],
            image_size,
            lights[i],
            bank,
        )
        for i in range(len(scene))
    ]
    return Frames(
        radiance=torch.cat([f.radiance for f in frames]),
        depth=torch.cat([f.depth for f in frames]),
        ids=torch.cat([f.ids for f in frames]),
        normals=torch.cat([f.normals for f in frames]),
    )


@torch.no_grad()
def depth_images(
    scenes: Scenes,
    scene: torch.Tensor,
    view: torch.Tensor,
    K: torch.Tensor,
    cam_from_world: torch.Tensor,
    image_size: tuple[int, int],
) -> torch.Tensor:
    """Depth alone, without light or textures: for looking before rendering.

    Args:
        scenes: The scenes.
        scene: (I,) int64.
        view: (I,) int64.
        K: (I, 3, 3).
        cam_from_world: (I, 4, 4).
        image_size: (width, height).

    Returns:
        (I, H, W) float32 metres along the optical axis, inf where nothing is hit.
    """
    width, height = image_size
    if scenes.geometry.is_cuda:
        from matching.training.render_gpu import depth_images_gpu  # needs Triton

        return depth_images_gpu(scenes, scene, view, K, cam_from_world, image_size)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x, y], -1).float() + 0.5
    result = []
    for i in range(len(scene)):
        directions = ray_directions(K[i], cam_from_world[i], pixels)  # a block per row
        origin = camera_center(cam_from_world[i])
        primitives = raycast.Primitives(scenes.geometry[int(scene[i])], int(view[i]))
        cull = raycast.cone_cull(origin, directions)
        result.append(raycast.trace(primitives, origin, directions, cull)[0])
    return torch.stack(result)
