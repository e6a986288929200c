import numpy as np
import pycolmap
import pytest

from localize.pnp import reprojection_errors
from localize.refinement import POSELIB_MODELS, information, minimized
from tests.localize.synthetic import make_camera, pose_errors
from tests.localize.test_pnp import CAMERAS, matches_of


def by_ceres(
    start: pycolmap.Rigid3d,
    camera: pycolmap.Camera,
    pixels: np.ndarray,
    points: np.ndarray,
    **settings: float,
) -> dict[str, object]:
    options = pycolmap.AbsolutePoseRefinementOptions(refine_focal_length=False, **settings)
    refined: dict[str, object] = pycolmap.refine_absolute_pose(
        start,
        *(pixels, points, np.ones(len(pixels), np.bool_), pycolmap.Camera(camera.todict())),
        options,
        return_covariance=True,
    )
    return refined


@pytest.mark.parametrize(("model", "extra"), [c for c in CAMERAS if c[0] in POSELIB_MODELS])
def test_the_minimum_is_that_of_ceres(model: str, extra: tuple[float, ...]) -> None:
    camera = make_camera(model, extra=extra)
    pixels, points, truth = matches_of(camera, outliers=0.1, noise_px=2.0)
    turn = pycolmap.Rotation3d(np.array([0.001, -0.002, 0.001]))
    start = pycolmap.Rigid3d(turn, np.array([0.01, 0.0, -0.01])) * truth
    found = minimized(start, camera, pixels, points, loss_scale_px=1.0)
    slow = by_ceres(start, camera, pixels, points, gradient_tolerance=1e-12)["cam_from_world"]
    assert found is not None and isinstance(slow, pycolmap.Rigid3d)
    losses = [
        np.log1p(reprojection_errors(pose, camera, pixels, points) ** 2).sum()
        for pose in (found, slow, start)
    ]
    assert losses[0] <= losses[1] + 1e-6 < losses[2]  # Ceres stops a little before the minimum
    distance, angle = pose_errors(found, slow)
    assert distance < 1e-3 and angle < 5e-3  # a tenth of a pixel
    assert pose_errors(found, start)[0] > 10 * distance


@pytest.mark.parametrize(("model", "extra"), CAMERAS)
def test_information_is_the_inverse_of_the_covariance_of_ceres(
    model: str, extra: tuple[float, ...]
) -> None:
    camera = make_camera(model, extra=extra)
    pixels, points, pose = matches_of(camera)
    slow = by_ceres(pose, camera, pixels, points, loss_function_scale=1e6, max_num_iterations=0)[
        "covariance"
    ]
    unit = np.diag([2.0, 2.0, 2.0, 1.0, 1.0, 1.0])  # Ceres counts half angles
    np.testing.assert_allclose(
        information(pose, camera, points) @ (unit @ slow @ unit), np.eye(6), atol=1e-5
    )
