"""Rendering of batches on a GPU, with the kernels of `matching.kernels`."""

import torch

from matching.kernels import raycast as raycast_kernels
from matching.kernels import render as render_kernels
from matching.training.geometry import constant
from matching.training.light import sky_lod
from matching.training.render import SAMPLE_OFFSETS, Frames
from matching.training.textures import TextureBank
from matching.training.world import Scenes

SAMPLES_AT_ONCE = 1 << 25  # bounds the memory between the kernels to 2 GB


def render_images_gpu(
    scenes: Scenes,
    scene: torch.Tensor,
    view: torch.Tensor,
    K: torch.Tensor,
    cam_from_world: torch.Tensor,
    image_size: tuple[int, int],
    lights: torch.Tensor,
    bank: TextureBank,
) -> Frames:
    """`render_images` for CUDA tensors; whole tiles with an edge get all samples."""
    width, height = image_size
    offsets = constant(tuple(v for offset in SAMPLE_OFFSETS for v in offset), K.device)
    cameras = raycast_kernels.pack_cameras(K, cam_from_world)
    scene32, view32 = scene.to(torch.int32), view.to(torch.int32)
    step = max(1, SAMPLES_AT_ONCE // (width * height * len(SAMPLE_OFFSETS)))
    parts = [
        render_kernels.render(
            scenes.geometry,
            scenes.materials,
            scene32[i : i + step],
            view32[i : i + step],
            cameras[i : i + step],
            lights[i : i + step].contiguous(),
            offsets.reshape(-1, 2),
            bank.texels.view(torch.int32)[:, 0],
            bank.size,
            bank.count,
            sky_lod(bank),
            image_size,
        )
        for i in range(0, len(scene), step)
    ]
    radiance, depth, ids = (torch.cat([part[k] for part in parts]) for k in range(3))
    normals = torch.cat([part[3] for part in parts], 1)
    return Frames(
        radiance=radiance.permute(0, 2, 3, 1),
        depth=depth,
        ids=ids,
        normals=torch.where(ids >= 0, normals, 0.0).permute(1, 2, 3, 0),
    )


def depth_images_gpu(
    scenes: Scenes,
    scene: torch.Tensor,
    view: torch.Tensor,
    K: torch.Tensor,
    cam_from_world: torch.Tensor,
    image_size: tuple[int, int],
) -> torch.Tensor:
    """`depth_images` for CUDA tensors."""
    depth, _ = raycast_kernels.trace(
        scenes.geometry,
        scene.to(torch.int32),
        view.to(torch.int32),
        raycast_kernels.pack_cameras(K, cam_from_world),
        torch.zeros((1, 2), device=K.device),
        image_size,
    )
    return depth[:, 0]
