"""Rendering of batches on a GPU, with the kernels of `matching.kernels`."""

import torch

from matching.kernels import raycast as raycast_kernels
from matching.kernels import render as render_kernels
from matching.training.geometry import constant
from matching.training.light import sky_lod
from matching.training.render import SAMPLE_OFFSETS, Frames
from matching.training.textures import TextureBank
from matching.training.world import Scenes


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
    """`render_images` for CUDA tensors; every pixel gets all samples."""
    offsets = constant(tuple(v for offset in SAMPLE_OFFSETS for v in offset), K.device)
    radiance, depth, ids, normals = render_kernels.render(
        scenes.geometry,
        scenes.materials,
        scene.to(torch.int32),
        view.to(torch.int32),
        raycast_kernels.pack_cameras(K, cam_from_world),
        lights.contiguous(),
        offsets.reshape(-1, 2),
        bank.texels.view(torch.int32)[:, 0],
        bank.size,
        bank.count,
        sky_lod(bank),
        image_size,
    )
    return Frames(radiance=radiance, depth=depth, ids=ids, normals=normals)


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
        image_size,
    )
    return depth
