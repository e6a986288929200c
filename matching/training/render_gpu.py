"""Rendering of batches on a GPU: Triton traces, compiled torch shades."""

import torch

from matching.kernels import raycast as kernels
from matching.training.compiling import compiled
from matching.training.geometry import constant
from matching.training.light import KEY
from matching.training.render import (
    SAMPLE_OFFSETS,
    Frames,
    RayOwners,
    camera_center,
    color_hits,
    find_hits,
)
from matching.training.textures import TextureBank
from matching.training.world import Scenes

RAYS_AT_ONCE = 1 << 23  # bounds the memory of the shading, about 1 GB


@torch.no_grad()
def render_images_gpu(
    scenes: Scenes,
    scene: torch.Tensor,
    view: torch.Tensor,
    K: torch.Tensor,
    cam_from_world: torch.Tensor,
    image_size: tuple[int, int],
    lights: torch.Tensor,
    bank: TextureBank,
    *,
    fused: bool = True,
) -> Frames:
    """`render_images` for CUDA tensors; every pixel gets all samples.

    ``fused=False`` shades with plain torch operations: slower, nothing to compile.
    """
    width, height = image_size
    images, samples = len(scene), len(SAMPLE_OFFSETS)
    step = max(1, RAYS_AT_ONCE // (width * height * samples))
    # parts of one size, so that the shading is compiled once
    parts = -(-images // step)
    while images % parts:
        parts += 1
    size = images // parts
    frames = [
        _render_part(
            scenes,
            scene[i : i + size],
            view[i : i + size],
            K[i : i + size],
            cam_from_world[i : i + size],
            image_size,
            lights[i : i + size],
            bank,
            fused,
        )
        for i in range(0, images, size)
    ]
    return Frames(
        radiance=torch.cat([f.radiance for f in frames]),
        depth=torch.cat([f.depth for f in frames]),
        ids=torch.cat([f.ids for f in frames]),
        normals=torch.cat([f.normals for f in frames]),
    )


def _sample_rays(
    K: torch.Tensor, cam_from_world: torch.Tensor, offsets: torch.Tensor, size: tuple[int, int]
) -> torch.Tensor:
    """World directions of all samples, unit depth, (I, S, H, W, 3)."""
    width, height = size
    y = torch.arange(height, device=K.device)[:, None] + 0.5 + offsets[:, 1, None, None]
    x = torch.arange(width, device=K.device) + 0.5 + offsets[:, 0, None, None]
    inner = K[:, None, None, None]
    x = (x - inner[..., 0, 2]) / inner[..., 0, 0]  # (I, S, 1, W)
    y = (y - inner[..., 1, 2]) / inner[..., 1, 1]  # (I, S, H, 1)
    x, y = torch.broadcast_tensors(x, y)
    rotation = cam_from_world[:, None, None, None, :3, :3]
    return (
        x[..., None] * rotation[..., 0, :]
        + y[..., None] * rotation[..., 1, :]
        + rotation[..., 2, :]
    )


def _render_part(
    scenes: Scenes,
    scene: torch.Tensor,
    view: torch.Tensor,
    K: torch.Tensor,
    cam_from_world: torch.Tensor,
    image_size: tuple[int, int],
    lights: torch.Tensor,
    bank: TextureBank,
    fused: bool,
) -> Frames:
    width, height = image_size
    device = K.device
    images, samples = len(scene), len(SAMPLE_OFFSETS)
    offsets = constant(sum(SAMPLE_OFFSETS, ()), device).reshape(-1, 2)
    scene32, view32 = scene.to(torch.int32), view.to(torch.int32)
    cameras = kernels.pack_cameras(K, cam_from_world)
    depth, ids = kernels.trace(scenes.geometry, scene32, view32, cameras, offsets, image_size)

    find = compiled(_find) if fused else _find
    color = compiled(_color) if fused else _color
    hits = find(scenes.geometry, lights, scene, K, cam_from_world, offsets, depth, ids)
    shape = (images, samples, height, width)
    shadow = kernels.shadowed(
        scenes.geometry,
        scene32,
        view32,
        lights[:, KEY].contiguous(),
        hits.starts.reshape(*shape, 3).contiguous(),
        hits.active.reshape(shape).contiguous(),
    )
    radiance = color(scenes.materials, lights, scene, K, hits, ids, shadow, bank)
    hit = ids[:, 0] >= 0
    normals = hits.surface.normal.reshape(*shape, 3)[:, 0]
    return Frames(
        radiance=radiance,
        depth=depth[:, 0],
        ids=ids[:, 0],
        normals=torch.where(hit[..., None], normals, 0.0),
    )


def _owners(scene: torch.Tensor, K: torch.Tensor, shape: torch.Size) -> RayOwners:
    each = torch.arange(shape[0], device=scene.device)[:, None, None, None].expand(shape)
    image = each.reshape(-1)
    return RayOwners(scene=scene[image], image=image, pixel_angle=1.0 / K[image, 0, 0])


def _find(geometry, lights, scene, K, cam_from_world, offsets, depth, ids):  # type: ignore[no-untyped-def]
    height, width = depth.shape[2:]
    directions = _sample_rays(K, cam_from_world, offsets, (width, height))
    return find_hits(
        geometry,
        lights,
        _owners(scene, K, depth.shape),
        camera_center(cam_from_world),
        directions.reshape(-1, 3),
        depth.reshape(-1),
        ids.reshape(-1),
    )


def _color(materials, lights, scene, K, hits, ids, shadow, bank):  # type: ignore[no-untyped-def]
    """Mean over the samples of each pixel, (I, H, W, 3)."""
    radiance = color_hits(
        materials,
        lights,
        _owners(scene, K, ids.shape),
        hits,
        ids.reshape(-1),
        shadow.reshape(-1),
        bank,
    )
    return radiance.reshape(*ids.shape, 3).mean(1)


def depth_images_gpu(
    scenes: Scenes,
    scene: torch.Tensor,
    view: torch.Tensor,
    K: torch.Tensor,
    cam_from_world: torch.Tensor,
    image_size: tuple[int, int],
) -> torch.Tensor:
    """`depth_images` for CUDA tensors."""
    depth, _ = kernels.trace(
        scenes.geometry,
        scene.to(torch.int32),
        view.to(torch.int32),
        kernels.pack_cameras(K, cam_from_world),
        torch.zeros((1, 2), device=K.device),
        image_size,
    )
    return depth[:, 0]
