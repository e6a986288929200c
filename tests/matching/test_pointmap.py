"""Geometry from point maps against a known pair of cameras."""

import numpy as np
import pytest
import torch

from matching.pointmap import PairGeometry, lift_points
from matching.preprocess import NetworkFrame
from matching.reciprocal import nearest_neighbours

WIDTH, HEIGHT, FOCAL = 64, 48, 60.0
FRAME = NetworkFrame(image_size=(WIDTH, HEIGHT), scale=(10.0, 10.0), offset=(0.0, 20.0))
PHOTO = (640, 520)
CAM1_FROM_CAM0 = np.array(
    [
        [0.995004165, 0, -0.099833417, -0.4],
        [0, 1, 0, 0.1],
        [0.099833417, 0, 0.995004165, 0.05],
        [0, 0, 0, 1],
    ]
)


def own_points(seed: int) -> np.ndarray:
    """A wavy surface in the frame of the camera that sees it, (H, W, 3)."""
    v, u = np.mgrid[0:HEIGHT, 0:WIDTH].astype(float)
    z = 4 + np.sin(u / 9 + seed) + 0.7 * np.cos(v / 7)
    principal = FRAME.to_network(np.array([PHOTO]) / 2)[0] - 0.5
    return np.stack(((u - principal[0]) * z / FOCAL, (v - principal[1]) * z / FOCAL, z), -1)


def moved(b_from_a: np.ndarray, points: np.ndarray) -> np.ndarray:
    return points @ b_from_a[:3, :3].T + b_from_a[:3, 3]


@pytest.fixture
def geometry() -> PairGeometry:
    own0, own1 = own_points(0), own_points(1)
    cam0_from_cam1 = np.linalg.inv(CAM1_FROM_CAM0)
    confidence = np.full((HEIGHT, WIDTH), 5, np.float32)
    return PairGeometry(
        frames=(FRAME, FRAME),
        image_sizes=(PHOTO, PHOTO),
        in_camera0=(own0.astype(np.float32), moved(cam0_from_cam1, own1).astype(np.float32)),
        confidence_in_camera0=(confidence, confidence.copy()),
        in_camera1=(moved(CAM1_FROM_CAM0, own0).astype(np.float32), own1.astype(np.float32)),
        confidence_in_camera1=(confidence, confidence.copy()),
    )


def test_depth_and_focal_length(geometry: PairGeometry) -> None:
    for view in (0, 1):
        np.testing.assert_allclose(geometry.depth(view), own_points(view)[..., 2], rtol=1e-6)
        assert geometry.focal_px(view) == pytest.approx(FOCAL * 10, rel=1e-3)


@pytest.mark.parametrize("known", [True, False])
def test_relative_pose(geometry: PairGeometry, known: bool) -> None:
    K1 = np.array([[FOCAL * 10, 0, PHOTO[0] / 2], [0, FOCAL * 10, PHOTO[1] / 2], [0, 0, 1]])
    pose = geometry.relative_pose(K1 if known else None)
    assert pose is not None and pose.num_inliers > 0.99 * pose.num_points
    np.testing.assert_allclose(pose.cam1_from_cam0, CAM1_FROM_CAM0, atol=2e-3)


def test_relative_pose_with_wrong_and_unsure_points(geometry: PairGeometry) -> None:
    points, confidence = geometry.in_camera0[1], geometry.confidence_in_camera0[1]
    points[:10] = 3.0  # sure but wrong
    points[10:12] = np.nan
    points[40:] = -7.0
    confidence[40:] = 1  # wrong and known to be
    pose = geometry.relative_pose()
    assert pose is not None
    np.testing.assert_allclose(pose.cam1_from_cam0, CAM1_FROM_CAM0, atol=2e-2)
    assert geometry.relative_pose(min_confidence=6) is None


@pytest.mark.parametrize("shift", [0.0, 1000.0])
def test_nearest_lifted_vectors_are_the_nearest_points(shift: float) -> None:
    g = torch.Generator().manual_seed(0)
    points0 = torch.randn(7, 11, 3, generator=g) + shift
    points1 = torch.randn(5, 13, 3, generator=g) + shift
    usable0 = torch.rand(7, 11, generator=g) < 0.8
    usable1 = torch.rand(5, 13, generator=g) < 0.8
    points1[0, 0] = torch.nan
    lifted0, lifted1 = lift_points(points0, points1, usable0, usable1)
    found = nearest_neighbours(lifted0, lifted1)
    distance = torch.cdist(points0.reshape(-1, 3).double(), points1.reshape(-1, 3).double())
    distance[~usable0.reshape(-1)] = torch.inf
    distance[:, ~usable1.reshape(-1) | distance.isnan().any(0)] = torch.inf
    rows = usable0.reshape(-1)
    assert torch.equal(found.index01[rows], distance.argmin(1)[rows])
    assert (found.index01[~rows] == -1).all()


def test_no_usable_points_no_matches() -> None:
    points, none = torch.ones(3, 4, 3), torch.zeros(3, 4, dtype=torch.bool)
    lifted0, lifted1 = lift_points(points, points, none, none)
    assert len(nearest_neighbours(lifted0, lifted1).mutual()[0]) == 0
