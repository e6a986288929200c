"""Camera pairs that see a wanted part of each other's view, found by casting a few rays first."""

import torch

from matching.training.cameras import CameraPairs, draw_camera_pairs
from matching.training.geometry import Amount, backproject, rigid_inverse
from matching.training.render import depth_images
from matching.training.stage import Stage

CANDIDATES = 4  # camera pairs tried per scene
PROBE = 24  # pixels on the longer side of the probing depth maps
TOO_NEAR_M = 0.35  # nothing should fill the view from nearer
NO_OVERLAP = 0.06  # share of the pairs that should see nothing in common
TOLERANCE = 0.05  # relative difference of depths that still counts as the same surface


def draw_overlapping(
    stage: Stage, image_size: tuple[int, int], generator: torch.Generator, *, difficulty: Amount
) -> CameraPairs:
    """Draw several camera pairs per scene and keep the one nearest to a wanted overlap.

    Args:
        stage: The scenes.
        image_size: (width, height).
        generator: Source of all draws.
        difficulty: 0 to 1: 0 wants nearly full overlap, 1 anything from a sliver upwards, and
            now and then none: what two places of one wall have alike must not match.
    """
    count, device = len(stage.low), stage.low.device
    tries = [
        draw_camera_pairs(
            stage.low, stage.high, stage.targets, image_size, generator, difficulty=difficulty
        )
        for _ in range(CANDIDATES)
    ]
    K = torch.cat([t.K for t in tries])
    poses = torch.cat([t.cam_from_world for t in tries])
    shrink = PROBE / max(image_size)
    size = (max(1, round(image_size[0] * shrink)), max(1, round(image_size[1] * shrink)))
    small = K.clone()
    small[..., 0, :] *= size[0] / image_size[0]
    small[..., 1, :] *= size[1] / image_size[1]
    scene = torch.arange(count, device=device).repeat(CANDIDATES)
    depth = depth_images(
        stage.scenes,
        scene.repeat_interleave(2),
        torch.arange(2, device=device).repeat(count * CANDIDATES),
        small.flatten(0, 1),
        poses.flatten(0, 1),
        size,
    ).reshape(-1, 2, size[1], size[0])
    seen = overlap(depth, small, poses)
    draw = torch.rand(count, generator=generator, device=device)
    wanted = 0.92 - 0.89 * difficulty * draw
    none = torch.rand(count, generator=generator, device=device) < NO_OVERLAP * difficulty
    wanted = torch.where(none, 0.0, wanted).repeat(CANDIDATES)
    near = (depth < TOO_NEAR_M).float().mean((1, 2, 3))
    sky = torch.isinf(depth).float().mean((1, 2, 3))
    cost = (seen - wanted).abs() + 2.0 * near + (sky - 0.4).clamp_min(0)
    # one surface that fills both views says little: prefer views with depth to them
    logs = depth.clamp(0.1, 100).log()
    cost = cost + 0.3 * (0.15 - logs.std((2, 3)).mean(1)).clamp_min(0) / 0.15
    best = cost.reshape(CANDIDATES, count).argmin(0)
    row = best * count + torch.arange(count, device=device)
    return CameraPairs(K=K[row], cam_from_world=poses[row])


def overlap(depth: torch.Tensor, K: torch.Tensor, cam_from_world: torch.Tensor) -> torch.Tensor:
    """Part of each view's pixels whose points the other view sees, the smaller of both ways.

    Args:
        depth: (P, 2, H, W) metres, inf for the sky.
        K: (P, 2, 3, 3) of these depth maps.
        cam_from_world: (P, 2, 4, 4).

    Returns:
        (P,) in [0, 1].
    """
    count, _, height, width = depth.shape
    valid = torch.isfinite(depth)
    points = backproject(K, torch.where(valid, depth, 0.0))
    ways = []
    for a, b in ((0, 1), (1, 0)):
        b_from_a = cam_from_world[:, b] @ rigid_inverse(cam_from_world[:, a])
        moved = points[:, a].reshape(count, -1, 3) @ b_from_a[:, :3, :3].transpose(1, 2)
        moved = moved + b_from_a[:, None, :3, 3]
        z = moved[..., 2].clamp_min(1e-3)
        x = torch.floor(moved[..., 0] / z * K[:, b, None, 0, 0] + K[:, b, None, 0, 2])
        y = torch.floor(moved[..., 1] / z * K[:, b, None, 1, 1] + K[:, b, None, 1, 2])
        inside = (x >= 0) & (x < width) & (y >= 0) & (y < height) & (moved[..., 2] > 1e-3)
        at = y.clamp(0, height - 1).long() * width + x.clamp(0, width - 1).long()
        other = depth[:, b].reshape(count, -1).gather(1, at)
        same = inside & ((other - z).abs() < TOLERANCE * z) & valid[:, a].reshape(count, -1)
        ways.append(same.float().mean(1))
    return torch.minimum(ways[0], ways[1])
