"""What point maps give beyond matches: depth, focal length, metric relative pose, 3D matches."""

from dataclasses import dataclass

import numpy as np
import poselib
import torch
from numpy.typing import NDArray
from torch import Tensor

from matching.focal import focal_from_pointmap
from matching.preprocess import NetworkFrame

_MAX_PNP_POINTS = 20_000  # more make RANSAC slower and no better: neighbours are not independent


@dataclass(frozen=True, kw_only=True)
class PairGeometry:
    """Point maps of two views, each in the frames of both cameras.

    Attributes:
        frames: Where the two network images lie in their photos.
        image_sizes: (width, height) of the two photos, pixels.
        in_camera0: Points of view 0 and of view 1 in camera 0, each (H, W, 3) float32.
        confidence_in_camera0: Their confidences, each (H, W) float32.
        in_camera1: Points of view 0 and of view 1 in camera 1.
        confidence_in_camera1: Their confidences.
        metric: Whether the unit is the metre; else it is any, even another one for other views.
    """

    frames: tuple[NetworkFrame, NetworkFrame]
    image_sizes: tuple[tuple[int, int], tuple[int, int]]
    in_camera0: tuple[NDArray[np.float32], NDArray[np.float32]]
    confidence_in_camera0: tuple[NDArray[np.float32], NDArray[np.float32]]
    in_camera1: tuple[NDArray[np.float32], NDArray[np.float32]]
    confidence_in_camera1: tuple[NDArray[np.float32], NDArray[np.float32]]
    metric: bool = True

    def own_pointmap(self, view: int) -> NDArray[np.float32]:
        """Points of a view (0 or 1) in its own camera, (H, W, 3)."""
        return (self.in_camera0[0], self.in_camera1[1])[view]

    def depth(self, view: int) -> NDArray[np.float32]:
        """Depth map of a view: z in its own camera, (H, W), pixels of the network image."""
        return self.own_pointmap(view)[..., 2]

    def focal_px(self, view: int) -> float:
        """Focal length of a view in pixels of its photo, its principal point in the middle."""
        frame = self.frames[view]
        middle = np.array([self.image_sizes[view]]) / 2
        principal_point = torch.from_numpy(frame.to_network(middle) - 0.5).float()
        # the limits of MASt3R's sparse alignment
        focal = focal_from_pointmap(
            torch.from_numpy(self.own_pointmap(view))[None],
            principal_point,
            min_focal=0.5,
            max_focal=3.5,
        )
        return float(focal[0]) * float(np.mean(frame.scale))

    def relative_pose(
        self,
        K1: NDArray[np.float64] | None = None,
        *,
        min_confidence: float = 3.0,
        max_error_px: float = 5.0,
        seed: int = 0,
    ) -> "PointmapPose | None":
        """Pose of camera 1 from its own pixels and their points in camera 0, by PnP.

        Args:
            K1: Intrinsics of photo 1, (3, 3) pixels; None estimates the focal length.
            min_confidence: Smallest confidence of a point that is used.
            max_error_px: Largest reprojection error of an inlier, pixels of the network image.
            seed: Of RANSAC.

        Returns:
            The pose, or None with fewer than four inliers.
        """
        points, confidence = self.in_camera0[1], self.confidence_in_camera0[1]
        height, width = confidence.shape
        usable = np.flatnonzero((confidence >= min_confidence) & np.isfinite(points).all(-1))
        if len(usable) < 4:
            return None
        usable = usable[:: -(-len(usable) // _MAX_PNP_POINTS)]
        if K1 is None:
            (photo_width, photo_height), focal = self.image_sizes[1], self.focal_px(1)
            K1 = np.array([[focal, 0, photo_width / 2], [0, focal, photo_height / 2], [0, 0, 1]])
        K = self.frames[1].camera_matrix(K1)
        pixels = np.stack((usable % width, usable // width), 1) + 0.5
        camera = {
            "model": "PINHOLE",
            "width": width,
            "height": height,
            "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
        }
        pose, info = poselib.estimate_absolute_pose(
            pixels,
            points.reshape(-1, 3)[usable].astype(np.float64),
            camera,
            {"max_reproj_error": max_error_px, "seed": seed},
        )
        if info["num_inliers"] < 4:
            return None
        cam1_from_cam0 = np.eye(4)
        cam1_from_cam0[:3] = pose.Rt
        return PointmapPose(
            cam1_from_cam0=cam1_from_cam0,
            K1=K1,
            num_inliers=int(info["num_inliers"]),
            num_points=len(usable),
        )


@dataclass(frozen=True, kw_only=True)
class PointmapPose:
    """A relative pose from point maps.

    Attributes:
        cam1_from_cam0: (4, 4) float64; translation in the point maps' unit.
        K1: Intrinsics of photo 1 that were given or estimated, (3, 3).
        num_inliers: Of the points used.
        num_points: Points used.
    """

    cam1_from_cam0: NDArray[np.float64]
    K1: NDArray[np.float64]
    num_inliers: int
    num_points: int


def lift_points(
    points0: Tensor, points1: Tensor, usable0: Tensor, usable1: Tensor
) -> tuple[Tensor, Tensor]:
    """Vectors whose dot product is -|x - y|^2 / 2, so that the largest is the nearest point.

    With x -> (x, -|x|^2 / 2, 1) and y -> (y, 1, -|y|^2 / 2). Both sets are centred and scaled
    first, which changes no neighbour and keeps the digits of float32.

    Args:
        points0: (H0, W0, 3).
        points1: (H1, W1, 3), in the same frame.
        usable0: Points that take part, (H0, W0) bool.
        usable1: (H1, W1) bool.

    Returns:
        (H0, W0, 5) and (H1, W1, 5) float32, NaN where a point does not take part.
    """
    usable0 = usable0 & points0.isfinite().all(-1)
    usable1 = usable1 & points1.isfinite().all(-1)
    together = torch.cat([points0[usable0], points1[usable1]]).double()
    centre = together.mean(0) if len(together) else together.new_zeros(3)
    spread = (together - centre).square().sum(-1).mean().sqrt() if len(together) else centre[0]
    scale = 1 / spread.clamp_min(1e-12)
    x, y = ((points.double() - centre) * scale for points in (points0, points1))
    half0, half1 = (-0.5 * p.square().sum(-1, keepdim=True) for p in (x, y))
    lifted0 = torch.cat([x, half0, torch.ones_like(half0)], -1).float()
    lifted1 = torch.cat([y, torch.ones_like(half1), half1], -1).float()
    nan = torch.tensor(torch.nan, device=points0.device)
    return (
        torch.where(usable0[..., None], lifted0, nan),
        torch.where(usable1[..., None], lifted1, nan),
    )
