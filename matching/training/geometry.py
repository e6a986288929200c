"""Rigid transforms and depth maps of batches."""

import functools

import torch

Amount = float | torch.Tensor  # a number, on the host or (0-dimensional) on the device


@functools.cache
def constant(values: tuple[float, ...], device: torch.device) -> torch.Tensor:
    """A small float32 tensor on a device, made once.

    Making one from Python numbers waits for the GPU each time, which would keep the host from
    preparing the next batch meanwhile. Do not write to the result.
    """
    return torch.tensor(values, device=device)


def backproject(K: torch.Tensor, depth: torch.Tensor) -> torch.Tensor:
    """Points of depth maps in their camera's frame.

    Args:
        K: (..., 3, 3) pixels.
        depth: (..., H, W).

    Returns:
        (..., H, W, 3).
    """
    height, width = depth.shape[-2:]
    y, x = torch.meshgrid(
        torch.arange(height, device=depth.device) + 0.5,
        torch.arange(width, device=depth.device) + 0.5,
        indexing="ij",
    )
    inner = K[..., None, None, :, :]
    return torch.stack(
        [
            (x - inner[..., 0, 2]) / inner[..., 0, 0] * depth,
            (y - inner[..., 1, 2]) / inner[..., 1, 1] * depth,
            depth,
        ],
        -1,
    )


def rigid_inverse(b_from_a: torch.Tensor) -> torch.Tensor:
    """a_from_b of rigid transforms, (..., 4, 4)."""
    rotation = b_from_a[..., :3, :3].transpose(-1, -2)
    result = torch.zeros_like(b_from_a)
    result[..., :3, :3] = rotation
    result[..., :3, 3:] = -(rotation @ b_from_a[..., :3, 3:])
    result[..., 3, 3] = 1.0
    return result
