"""Batches of rendered image pairs with exact geometry: what the training loop consumes."""

from dataclasses import dataclass
from functools import partial

import torch

from matching.training.cameras import CameraPairs
from matching.training.draft import Palette
from matching.training.geometry import backproject, rigid_inverse
from matching.training.lighting import draw_lights
from matching.training.overlap import draw_overlapping
from matching.training.recording import Recording
from matching.training.render import render_images
from matching.training.scenes import draw_stage
from matching.training.sensor import develop

DEPTH_TOLERANCE = 0.01  # relative: a point is visible where the other depth map agrees this well
OVERSAMPLING = 3  # candidates per correspondence wanted


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


class PairWorld:
    """An endless source of pairs: every batch follows from its seed alone.

    Args:
        device: Where scenes are drawn and rendered. CUDA needs Triton; the CPU is for tests and
            for looking.
        texture_seed: Of the textures, painted once here.
        textures_per_style: More is more varied; 24 take some seconds.
        texture_size: Pixels per side, a power of two.
        correspondences: N, per pair.
        recorded: Record the drawing of each size of batch as a CUDA graph and replay it: the same
            batches, several times as fast. Nothing to the CPU.
    """

    def __init__(
        self,
        device: torch.device | str,
        *,
        texture_seed: int = 0,
        textures_per_style: int = 24,
        texture_size: int = 256,
        correspondences: int = 512,
        recorded: bool = False,
    ) -> None:
        self.device = torch.device(device)
        self.recorded = recorded and self.device.type == "cuda"
        self._recordings: dict[tuple[int, tuple[int, int]], Recording] = {}
        self.correspondences = correspondences
        self.palette = Palette.paint(
            texture_seed, per_style=textures_per_style, size=texture_size, device=self.device
        )

    @torch.no_grad()
    def __call__(
        self, seed: int, *, pairs: int, image_size: tuple[int, int], difficulty: float = 1.0
    ) -> PairBatch:
        """Render a batch.

        Args:
            seed: Everything follows from it (on one kind of device: generators of CUDA and CPU
                draw different numbers).
            pairs: B.
            image_size: (width, height) of both images.
            difficulty: 0 (short baselines, like light, good cameras) to 1.

        Raises:
            ValueError: ``difficulty`` outside [0, 1], or no pairs.
        """
        if not 0 <= difficulty <= 1:
            raise ValueError(f"difficulty must be in [0, 1], got {difficulty}")
        if pairs < 1 or min(image_size) < 1:
            raise ValueError(f"need pairs >= 1 and a size, got {pairs} of {image_size}")
        if self.recorded:
            key = (pairs, image_size)
            if key not in self._recordings:
                draw = partial(self._tensors, pairs=pairs, image_size=image_size)
                self._recordings[key] = Recording(draw, self.device)
            return PairBatch(**self._recordings[key](seed, difficulty))
        generator = torch.Generator(self.device).manual_seed(seed)
        # as a recording gets it, and not rounded otherwise
        amount = torch.full((), difficulty, device=self.device)
        return PairBatch(**self._tensors(generator, amount, pairs=pairs, image_size=image_size))

    def _tensors(
        self,
        generator: torch.Generator,
        difficulty: torch.Tensor,
        *,
        pairs: int,
        image_size: tuple[int, int],
    ) -> dict[str, torch.Tensor]:
        """The fields of a batch."""
        stage = draw_stage(pairs, generator, self.palette, difficulty=difficulty)
        cameras = draw_overlapping(stage, image_size, generator, difficulty=difficulty)
        lights = draw_lights(
            stage.low, stage.high, stage.indoor, self.palette, generator, difficulty=difficulty
        )
        frames = render_images(
            stage.scenes,
            torch.arange(pairs, device=self.device).repeat_interleave(2),
            torch.arange(2, device=self.device).repeat(pairs),
            cameras.K.flatten(0, 1),
            cameras.cam_from_world.flatten(0, 1),
            image_size,
            lights.flatten(0, 1),
            self.palette.bank,
        )
        photos = develop(frames.radiance.permute(0, 3, 1, 2), generator, difficulty=difficulty)
        width, height = image_size
        depth = frames.depth.reshape(pairs, 2, height, width)
        images = photos.reshape(pairs, 2, 3, height, width)
        return vars(
            make_batch(
                images.half() if self.device.type == "cuda" else images,
                depth,
                cameras,
                generator,
                self.correspondences,
            )
        )


def make_batch(
    images: torch.Tensor,
    depth: torch.Tensor,
    cameras: CameraPairs,
    generator: torch.Generator,
    correspondences: int,
) -> PairBatch:
    """Point maps and visible correspondences from depth maps.

    Args:
        images: (B, 2, 3, H, W).
        depth: (B, 2, H, W) metres along the optical axis; inf for the sky.
        cameras: Of both images.
        generator: Picks the pixels of image 0.
        correspondences: N.
    """
    count, _, height, width = depth.shape
    device = depth.device
    valid = torch.isfinite(depth)
    pointmaps = backproject(cameras.K, torch.where(valid, depth, 0.0))
    pose0, pose1 = cameras.cam_from_world.unbind(1)
    cam1_from_cam0 = pose1 @ rigid_inverse(pose0)
    tries = correspondences * OVERSAMPLING
    pick = torch.randint(0, height * width, (count, tries), generator=generator, device=device)
    row = torch.arange(count, device=device)[:, None]
    points = pointmaps[:, 0].reshape(count, -1, 3)[row, pick]
    points = points @ cam1_from_cam0[:, :3, :3].transpose(1, 2) + cam1_from_cam0[:, None, :3, 3]
    z = points[..., 2].clamp_min(1e-3)
    K1 = cameras.K[:, 1, None]
    x = torch.floor(points[..., 0] / z * K1[..., 0, 0] + K1[..., 0, 2])
    y = torch.floor(points[..., 1] / z * K1[..., 1, 1] + K1[..., 1, 2])
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (points[..., 2] > 1e-3)
    xi, yi = x.clamp(0, width - 1).long(), y.clamp(0, height - 1).long()
    seen = depth[:, 1].reshape(count, -1)[row, yi * width + xi]
    found = valid[:, 0].reshape(count, -1)[row, pick] & inside
    # the pixel's centre lies up to half a pixel off the point: on slanted faces its depth differs
    found = found & ((seen - z).abs() < DEPTH_TOLERANCE * z)
    order = torch.argsort(found.to(torch.uint8), dim=1, descending=True, stable=True)
    order = order[:, :correspondences]
    pixels0 = torch.stack([pick % width, pick // width], -1)
    pixels1 = torch.stack([xi, yi], -1)
    return PairBatch(
        images=images,
        pointmaps=pointmaps,
        valid=valid,
        K=cameras.K,
        cam1_from_cam0=cam1_from_cam0,
        pixels0=pixels0[row, order],
        pixels1=pixels1[row, order],
        visible=found[row, order],
    )
