"""Batches of rendered image pairs with exact geometry: what the training loop consumes."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True, kw_only=True)
class PairBatch:
    """B pairs of images of procedural places, with point maps and visible correspondences.

    Pixel ``(x, y)`` is the integer index of a pixel; its centre lies at ``(x + 0.5, y + 0.5)`` in
    the convention of ``K`` (top-left pixel centre at (0.5, 0.5)).
    """

    images: torch.Tensor  # (B, 2, 3, H, W) in [0, 1]: float16 on CUDA, float32 on the CPU
    pointmaps: torch.Tensor  # (B, 2, H, W, 3) float32, metres, each in its own camera's frame
    valid: torch.Tensor  # (B, 2, H, W) bool, False where the ray hits nothing (sky)
    K: torch.Tensor  # (B, 2, 3, 3) float32, pixels
    cam1_from_cam0: torch.Tensor  # (B, 4, 4) float32
    pixels0: torch.Tensor  # (B, N, 2) int64 x, y in image 0
    pixels1: torch.Tensor  # (B, N, 2) int64 x, y in image 1: the pixel that holds the same point
    visible: torch.Tensor  # (B, N) bool, True for the real correspondences (they come first)
