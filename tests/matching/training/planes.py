"""The smallest world there is, two cameras before one textured plane, and a tiny network."""

import torch

from matching.training.batch import PairBatch
from matching.training.options import NetworkOptions

TINY = NetworkOptions(
    encoder_width=16,
    encoder_depth=1,
    encoder_heads=1,
    decoder_width=16,
    decoder_depth=1,
    decoder_heads=1,
)


def plane_pairs(
    seed: int, *, pairs: int, image_size: tuple[int, int], difficulty: float = 1.0
) -> PairBatch:
    """A batch of pairs; camera 1 is shifted and turned in proportion to the difficulty."""
    width, height = image_size
    generator = torch.Generator().manual_seed(seed)

    def uniform(*size: int, low: float, high: float) -> torch.Tensor:
        return torch.rand(*size, generator=generator) * (high - low) + low

    focal = uniform(pairs, 2, low=0.9, high=1.1) * width
    K = torch.zeros(pairs, 2, 3, 3)
    K[..., 0, 0] = K[..., 1, 1] = focal
    K[..., 0, 2], K[..., 1, 2], K[..., 2, 2] = width / 2, height / 2, 1.0
    angle = uniform(pairs, low=-0.2, high=0.2) * difficulty
    cam1_from_cam0 = torch.eye(4).repeat(pairs, 1, 1)
    cam1_from_cam0[:, 0, 0] = cam1_from_cam0[:, 2, 2] = angle.cos()
    cam1_from_cam0[:, 0, 2], cam1_from_cam0[:, 2, 0] = angle.sin(), -angle.sin()
    cam1_from_cam0[:, :3, 3] = uniform(pairs, 3, low=-0.5, high=0.5) * difficulty
    # the plane z = depth + slope * x in camera 0
    depth, slope = uniform(pairs, low=2.0, high=4.0), uniform(pairs, low=-0.3, high=0.3)
    texture = torch.rand(pairs, 3, 64, 64, generator=generator)

    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    pixels = torch.stack([x + 0.5, y + 0.5, torch.ones_like(x)], -1).float()  # (H, W, 3)
    images, pointmaps = [], []
    for view in range(2):
        rays = pixels @ torch.linalg.inv(K[:, view])[:, None].mT  # (B, H, W, 3)
        cam0_from_cam = (
            torch.linalg.inv(cam1_from_cam0) if view else torch.eye(4).expand(pairs, 4, 4)
        )
        directions = rays @ cam0_from_cam[:, None, :3, :3].mT
        origin = cam0_from_cam[:, None, None, :3, 3]
        normal = torch.stack([-slope, torch.zeros(pairs), torch.ones(pairs)], -1)[:, None, None]
        distance = depth[:, None, None] - (origin * normal).sum(-1)
        scale = distance / (directions * normal).sum(-1)
        points0 = origin + scale[..., None] * directions
        images.append(
            torch.nn.functional.grid_sample(
                texture, points0[..., :2] / 3, align_corners=False, padding_mode="reflection"
            )
        )
        pointmaps.append(rays * scale[..., None])
    batch_pointmaps = torch.stack(pointmaps, 1)
    pixels0 = torch.stack(
        [
            torch.randint(0, width, (pairs, 256), generator=generator),
            torch.randint(0, height, (pairs, 256), generator=generator),
        ],
        -1,
    )
    points = batch_pointmaps[torch.arange(pairs)[:, None], 0, pixels0[..., 1], pixels0[..., 0]]
    points = points @ cam1_from_cam0[:, :3, :3].mT + cam1_from_cam0[:, None, :3, 3]
    image = points @ K[:, 1].mT
    pixels1 = (image[..., :2] / image[..., 2:]).floor().long()
    size = torch.tensor([width, height])
    visible = ((pixels1 >= 0) & (pixels1 < size)).all(-1)
    order = visible.long().argsort(dim=1, descending=True, stable=True)
    return PairBatch(
        images=torch.stack(images, 1),
        pointmaps=batch_pointmaps,
        valid=torch.ones(pairs, 2, height, width, dtype=torch.bool),
        K=K,
        cam1_from_cam0=cam1_from_cam0,
        pixels0=pixels0.gather(1, order[..., None].expand(-1, -1, 2)),
        pixels1=pixels1.clamp_min(0)
        .minimum(size - 1)
        .gather(1, order[..., None].expand(-1, -1, 2)),
        visible=visible.gather(1, order),
    )
