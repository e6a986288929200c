"""Poses and intrinsics of virtual cameras: one at a time for places, in pairs for training."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from matching.training.geometry import Amount, constant

FloatArray = NDArray[np.floating[Any]]

FOCAL_WIDTHS = (0.5, 2.5)  # focal length in image widths (of the longer side), least and most
APART = 0.2  # share of the pairs that look at different things, at full difficulty
MAX_ZOOM = 3.0  # largest ratio of the two focal lengths of a pair


def look_at(position: FloatArray, target: FloatArray, *, roll: float = 0.0) -> FloatArray:
    """Pose of an upright camera that looks at a point.

    Args:
        position: Camera centre, world, (3,).
        target: Point on the optical axis, (3,); not straight above or below.
        roll: Rotation about the optical axis, radians, clockwise as seen in the image.

    Returns:
        cam_from_world, (4, 4) float64, OpenCV axes in a world with z up.
    """
    forward = (target - position) / np.linalg.norm(target - position)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    norm = np.linalg.norm(right)
    if norm < 1e-9:
        raise ValueError("the target lies straight above or below the camera")
    right = right / norm
    down = np.cross(forward, right)
    c, s = np.cos(roll), np.sin(roll)
    rotation = np.stack([c * right + s * down, c * down - s * right, forward])
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = rotation
    cam_from_world[:3, 3] = -rotation @ position
    return cam_from_world


@dataclass(frozen=True, kw_only=True)
class CameraPairs:
    """Two cameras for each of B scenes.

    Attributes:
        K: (B, 2, 3, 3) float32 pixels.
        cam_from_world: (B, 2, 4, 4) float32.
    """

    K: torch.Tensor
    cam_from_world: torch.Tensor


def draw_camera_pairs(
    low: torch.Tensor,
    high: torch.Tensor,
    targets: torch.Tensor,
    image_size: tuple[int, int],
    generator: torch.Generator,
    *,
    difficulty: Amount,
) -> CameraPairs:
    """Draw two cameras per scene that look at about the same thing, a few at different things.

    The second stands off the first by a part of the distance to what they look at, in any
    direction: aside for a baseline, ahead for a change of scale. A longer lens looks from farther
    off as often as it zooms.

    Args:
        low: Lower corner of the space cameras may stand in, (B, 3).
        high: Upper corner, (B, 3).
        targets: Points worth looking at, (B, T, 3).
        image_size: (width, height).
        generator: Source of all draws, on the device of ``low``.
        difficulty: 0 to 1: length of baselines, roll, differences of focal length.
    """
    count, device = len(low), low.device

    def uniform(*shape: int, low: Amount = 0.0, high: Amount = 1.0) -> torch.Tensor:
        return low + (high - low) * torch.rand((count, *shape), generator=generator, device=device)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn((count, *shape), generator=generator, device=device)

    scene = torch.arange(count, device=device)
    target = targets[scene, (uniform() * targets.shape[1]).long()]
    elsewhere = targets[scene, (uniform() * targets.shape[1]).long()]
    apart = uniform(1) < APART * difficulty
    first = low + (high - low) * uniform(3)
    # come closer to small things and step back from near ones
    reach = (target - first).norm(dim=-1, keepdim=True).clamp_min(0.3)
    wanted = reach * uniform(1, low=0.35, high=1.0)
    first = target + (first - target) / reach * torch.maximum(wanted, uniform(1, low=0.5, high=1.5))
    first = torch.minimum(torch.maximum(first, low), high)
    distance = (target - first).norm(dim=-1, keepdim=True).clamp_min(0.3)
    step = F.normalize(normal(3) * constant((1.0, 1.0, 0.4), device), dim=-1)
    length = distance * (0.03 + uniform(1, high=1.0) * (0.1 + 1.1 * difficulty))
    second = torch.minimum(torch.maximum(first + step * length, low), high)

    width, height = image_size
    longest = max(width, height)
    focal = torch.exp(uniform(low=np.log(0.55), high=np.log(1.6)))
    long_lens = uniform() < 0.12 * difficulty
    focal = torch.where(long_lens, uniform(low=1.2, high=FOCAL_WIDTHS[1]), focal)
    spread = float(np.log(MAX_ZOOM)) * difficulty
    ratio = torch.exp(uniform(low=-spread, high=spread) * (uniform() < 0.65).float())
    other = (focal * ratio).clamp(*FOCAL_WIDTHS)
    focals = torch.stack([focal, other], 1) * longest
    K = torch.zeros((count, 2, 3, 3), device=device)
    K[..., 0, 0], K[..., 1, 1], K[..., 2, 2] = focals, focals, 1.0
    # cropped photos have their principal point off the middle
    shift = 0.06 * difficulty * normal(2, 2) * (uniform(2, 1) < 0.3).float()
    K[..., 0, 2] = width * (0.5 + shift[..., 0])
    K[..., 1, 2] = height * (0.5 + shift[..., 1])

    aside = distance * 0.16 * difficulty
    poses = []
    for position, subject in ((first, target), (second, torch.where(apart, elsewhere, target))):
        roll = 0.06 * normal()
        tilted = uniform() < 0.12 * difficulty
        roll = torch.where(tilted, 0.5 * normal(), roll)
        quarter = uniform() < 0.03 * difficulty
        roll = roll + torch.where(quarter, 1.5708 * (1 + torch.floor(3 * uniform())), 0.0)
        poses.append(_look(position, subject + aside * normal(3), roll))
    return CameraPairs(K=K, cam_from_world=torch.stack(poses, 1))


def _look(position: torch.Tensor, target: torch.Tensor, roll: torch.Tensor) -> torch.Tensor:
    """`look_at` for (B, 3) positions; straight up or down is nudged aside."""
    forward = F.normalize(target - position + 1e-4, dim=-1)
    up = constant((0.0, 0.0, 1.0), position.device).expand_as(forward)
    right = torch.linalg.cross(forward, up)
    right = F.normalize(right + 1e-5, dim=-1)
    right = F.normalize(right - (right * forward).sum(-1, keepdim=True) * forward, dim=-1)
    down = torch.linalg.cross(forward, right)
    c, s = roll.cos()[:, None], roll.sin()[:, None]
    rotation = torch.stack([c * right + s * down, c * down - s * right, forward], 1)
    pose = torch.zeros((len(position), 4, 4), device=position.device)
    pose[:, :3, :3] = rotation
    pose[:, :3, 3] = -(rotation @ position[..., None])[..., 0]
    pose[:, 3, 3] = 1.0
    return pose
