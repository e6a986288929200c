from dataclasses import replace
from typing import Any

import numpy as np
import pycolmap
import pytest

from localize.pnp import (
    PnPOptions,
    Pose,
    estimate_pose,
    estimate_pose_and_focal,
    pose_covariance,
    refine_pose,
    reprojection_errors,
    with_focal_length,
)
from tests.localize.synthetic import FakeMap, make_camera, make_place, pose_errors, query_view

OPTIONS = PnPOptions()
CAMERAS = [
    ("SIMPLE_PINHOLE", ()),
    ("PINHOLE", ()),
    ("SIMPLE_RADIAL", (0.05,)),
    ("OPENCV", (0.05, -0.02, 0.001, 0.002)),
    ("FULL_OPENCV", (0.05, -0.02, 0.001, 0.002, 0.001, 0, 0, 0)),
    ("OPENCV_FISHEYE", (0.02, 0, 0, 0)),
    ("FOV", (0.8,)),
]


def matches_of(
    camera: pycolmap.Camera, *, outliers: float = 0.0, seed: int = 0, noise_px: float = 0.5
) -> tuple[np.ndarray, np.ndarray, pycolmap.Rigid3d]:
    """Pixels, points and the true pose."""
    rng = np.random.default_rng(seed)
    scene = make_place(rng, num_images=1)
    view, pose = query_view(scene, rng, camera=camera, noise_px=noise_px)
    pixels = view.keypoints.astype(np.float64)
    wrong = rng.random(len(pixels)) < outliers
    pixels[wrong] = rng.uniform(0, 1, (wrong.sum(), 2)) * (camera.width, camera.height)
    return pixels, scene.points[view.arrays["ids"]], pose


def plane_matches(camera: pycolmap.Camera) -> tuple[np.ndarray, np.ndarray, pycolmap.Rigid3d]:
    """A slanted plane, on which the P4Pf solver fails."""
    rng = np.random.default_rng(5)
    points = np.column_stack([rng.uniform(-2, 2, (400, 2)), np.zeros(400)])
    points[:, 2] = 0.8 * points[:, 0]
    scene = FakeMap({}, {}, {}, points, {"one": 0})
    view, pose = query_view(scene, rng, camera=camera, angle=1.4)
    return view.keypoints.astype(np.float64), points[view.arrays["ids"]], pose


@pytest.mark.parametrize(("model", "extra"), CAMERAS)
@pytest.mark.parametrize("outliers", [0.0, 0.8])
def test_every_camera_model(model: str, extra: tuple[float, ...], outliers: float) -> None:
    camera = make_camera(model, extra=extra)
    pixels, points, truth = matches_of(camera, outliers=outliers)
    pose = estimate_pose(pixels, points, camera, OPTIONS)
    assert pose is not None
    distance, angle = pose_errors(pose.cam_from_world, truth)
    # 0.5 px at 700 px focal length and 7 units away is 0.005 units per match
    assert distance < 0.02
    assert angle < 0.15
    expected = np.flatnonzero(reprojection_errors(truth, camera, pixels, points) < 8)
    # matches at the edge of the limit may fall on either side
    assert abs(pose.num_inliers - len(expected)) <= 3
    assert camera.params_to_string() == make_camera(model, extra=extra).params_to_string()


def test_many_matches_of_which_only_the_last_are_right() -> None:
    rng = np.random.default_rng(1)
    camera = make_camera("SIMPLE_PINHOLE")
    pixels, points, truth = matches_of(camera)
    wrong = 2 * len(pixels)
    pixels = np.concatenate((rng.uniform(0, (camera.width, camera.height), (wrong, 2)), pixels))
    points = np.concatenate((points[rng.integers(0, len(points), wrong)], points))
    every = PnPOptions(progressive_sampling=False)
    few = replace(every, max_ransac_matches=len(pixels) // 2)
    part, everything = (estimate_pose(pixels, points, camera, o) for o in (few, every))
    assert part is not None and everything is not None
    assert part.num_inliers == everything.num_inliers >= 0.9 * (len(points) - wrong)
    position, rotation = pose_errors(part.cam_from_world, truth)
    assert position < 0.05 and rotation < 0.2


@pytest.mark.parametrize("known", [True, False])
def test_a_map_far_from_its_origin_gives_the_same_pose(known: bool) -> None:
    """Geographic coordinates are millions of metres, and every one of their digits counts."""
    camera = make_camera("OPENCV", extra=(0.05, -0.02, 0.001, 0.002))
    pixels, points, _ = matches_of(camera, outliers=0.5)
    centres, covariances, turns = [], [], []
    offsets = np.array([[0, 0, 0], [4e6, 5e5, 4.5e6]])
    for offset in offsets:
        if known:
            pose = estimate_pose(pixels, points + offset, camera, OPTIONS)
        else:
            guess = make_camera("SIMPLE_RADIAL", 900.0)
            pose = estimate_pose_and_focal(pixels, points + offset, guess, OPTIONS)
        assert pose is not None
        covariance = pose_covariance(
            pose, pixels, points + offset, OPTIONS, refine_intrinsics=not known
        )
        assert covariance is not None
        # of the camera's centre -R^T t, in the axes of the camera
        x, y, z = pose.cam_from_world.translation
        jacobian = np.array([[0, z, -y, -1, 0, 0], [-z, 0, x, 0, -1, 0], [y, -x, 0, 0, 0, -1]])
        covariances.append((covariance[:3, :3], jacobian @ covariance @ jacobian.T))
        centres.append(pose.cam_from_world.inverse().translation - offset)
        turns.append(pose.cam_from_world.rotation)
    np.testing.assert_allclose(centres[1], centres[0], atol=1e-4)
    assert (turns[1] * turns[0].inverse()).angle() < 1e-5
    for far, near in zip(*covariances[::-1], strict=True):
        np.testing.assert_allclose(far, near, atol=0.01 * np.abs(near).max())


def test_the_same_input_gives_the_same_pose() -> None:
    camera = make_camera()
    pixels, points, _ = matches_of(camera, outliers=0.7)
    first, second = (estimate_pose(pixels, points, camera, OPTIONS) for _ in range(2))
    assert first is not None and second is not None
    assert (first.cam_from_world.matrix() == second.cam_from_world.matrix()).all()
    guess = make_camera("SIMPLE_RADIAL", 900.0)
    first, second = (estimate_pose_and_focal(pixels, points, guess, OPTIONS) for _ in range(2))
    assert first is not None and second is not None
    assert (first.cam_from_world.matrix() == second.cam_from_world.matrix()).all()
    assert (first.camera.params == second.camera.params).all()


@pytest.mark.parametrize("count", [0, 1, 3])
def test_too_few_matches_give_none(count: int) -> None:
    camera = make_camera()
    pixels, points, _ = matches_of(camera)
    assert estimate_pose(pixels[:count], points[:count], camera, OPTIONS) is None
    assert estimate_pose_and_focal(pixels[:count], points[:count], camera, OPTIONS) is None


def test_errors_behind_the_camera_are_infinite() -> None:
    camera = make_camera()
    points = np.array([[0.0, 0, 2], [0, 0, -2], [0, 0, 0]])
    pixels = np.full((3, 2), [400.0, 300.0])
    errors = reprojection_errors(pycolmap.Rigid3d(), camera, pixels, points)
    np.testing.assert_array_equal(errors, [0, np.inf, np.inf])


@pytest.mark.parametrize("true_focal", [450.0, 700.0, 1900.0])
@pytest.mark.parametrize("outliers", [0.0, 0.7])
def test_focal_length_is_found_with_the_pose(true_focal: float, outliers: float) -> None:
    camera = make_camera("SIMPLE_RADIAL", true_focal, extra=(0.03,))
    pixels, points, truth = matches_of(camera, outliers=outliers)
    guess = make_camera("SIMPLE_RADIAL", 960.0)
    pose = estimate_pose_and_focal(pixels, points, guess, OPTIONS)
    assert pose is not None
    assert guess.focal_length == 960.0  # the caller's camera is not touched
    # a long focal length trades with the distance: 2 % of it and of 7 units
    assert pose.camera.focal_length == pytest.approx(true_focal, rel=0.02)
    distance, angle = pose_errors(pose.cam_from_world, truth)
    assert distance < 0.15
    assert angle < 0.3


def test_few_inliers_keep_a_usual_focal_length() -> None:
    camera = make_camera("SIMPLE_RADIAL", 900.0, extra=(0.0,))
    exif = make_camera("SIMPLE_RADIAL", 930.0)
    exif.has_prior_focal_length = True
    guessed, prior = [], []
    for seed in range(8):
        pixels, points, _ = matches_of(camera, noise_px=2.0, seed=seed)
        for guess, ratios in ((make_camera("SIMPLE_RADIAL", 960.0), guessed), (exif, prior)):
            pose = estimate_pose_and_focal(pixels[:16], points[:16], guess, OPTIONS)
            assert pose is not None
            ratios.append(abs(np.log(pose.camera.focal_length / 900)))
    assert max(guessed) < 0.4
    assert max(prior) < 0.2


def test_focal_length_on_a_plane() -> None:
    camera = make_camera("SIMPLE_RADIAL", 700.0, extra=(0.0,))
    pixels, points, truth = plane_matches(camera)
    pose = estimate_pose_and_focal(pixels, points, make_camera("SIMPLE_RADIAL", 960.0), OPTIONS)
    assert pose is not None
    assert pose.camera.focal_length == pytest.approx(700, rel=0.03)
    assert pose_errors(pose.cam_from_world, truth)[0] < 0.2


def test_a_few_inliers_do_not_bend_the_distortion() -> None:
    camera = make_camera("SIMPLE_RADIAL", 700.0, extra=(0.0,))
    pixels, points, _ = matches_of(camera)
    few = estimate_pose_and_focal(pixels[:40], points[:40], camera, OPTIONS)
    assert few is not None
    assert few.camera.params[3] == 0
    fixed = PnPOptions(refine_distortion=False)
    many = estimate_pose_and_focal(pixels, points, camera, fixed)
    assert many is not None
    assert many.camera.params[3] == 0


@pytest.mark.parametrize("refine_intrinsics", [False, True])
@pytest.mark.parametrize("heavy_tails", [False, True])
def test_covariance_agrees_with_monte_carlo(refine_intrinsics: bool, heavy_tails: bool) -> None:
    camera = make_camera("SIMPLE_RADIAL", extra=(0.02,))
    pixels, points, truth = matches_of(camera, noise_px=0.0)
    rng = np.random.default_rng(0)
    errors, covariances = [], []
    for trial in range(150):
        noise = (
            rng.standard_t(3, pixels.shape) * 0.7
            if heavy_tails
            else rng.normal(0, 1.5, pixels.shape)
        )
        noisy = pixels + noise
        away = reprojection_errors(truth, camera, noisy, points)
        start = Pose(cam_from_world=truth, camera=camera, errors_px=away, inlier_mask=away < 8)
        pose = refine_pose(start, noisy, points, OPTIONS, refine_intrinsics=refine_intrinsics)
        assert pose is not None
        turn = (pose.cam_from_world.rotation * truth.rotation.inverse()).quat
        shift = pose.cam_from_world.translation - truth.translation
        errors.append(np.concatenate([2 * turn[:3] * np.sign(turn[3]), shift]))
        if trial < 10:
            covariances.append(
                pose_covariance(pose, noisy, points, OPTIONS, refine_intrinsics=refine_intrinsics)
            )
    covariance = np.mean(np.array(covariances, dtype=float), 0)
    measured = np.std(errors, axis=0)
    # the scatter of 150 trials is itself known to 6 %: three times that, and the linearization
    np.testing.assert_allclose(measured, np.sqrt(np.diag(covariance)), rtol=0.25)
    # correlations too: the squared Mahalanobis distance of six parameters is six on average
    distances = [e @ np.linalg.solve(covariance, e) for e in errors]
    assert np.mean(distances) == pytest.approx(6, rel=0.2)


def test_covariance_of_an_undetermined_pose_is_none_or_huge() -> None:
    camera = make_camera()
    points = np.column_stack([np.zeros(20), np.zeros(20), np.linspace(2, 9, 20)])
    points[:, 0] = 0.1 * points[:, 2]  # on a ray through the camera: one pixel
    pixels = np.asarray(camera.img_from_cam(points))
    errors = np.zeros(20)
    pose = Pose(
        cam_from_world=pycolmap.Rigid3d(), camera=camera, errors_px=errors, inlier_mask=errors < 8
    )
    covariance = pose_covariance(pose, pixels, points, OPTIONS, refine_intrinsics=False)
    assert covariance is None or not np.isfinite(covariance).all() or np.trace(covariance) > 1


def test_keypoints_without_a_ray_are_left_out() -> None:
    camera = make_camera("OPENCV", extra=(-0.6, 0.0, 0, 0))  # folds over inside the photo
    pixels, points, truth = matches_of(camera)
    beyond = np.arange(len(pixels)) % 2 == 0
    pixels[beyond] = np.random.default_rng(0).uniform(1, 40, (beyond.sum(), 2))
    assert np.isnan(camera.cam_from_img(pixels[beyond])).all()
    pose = estimate_pose(pixels, points, camera, OPTIONS)
    assert pose is not None
    distance, angle = pose_errors(pose.cam_from_world, truth)
    assert distance < 0.02 and angle < 0.15
    np.testing.assert_array_equal(pose.inlier_mask, ~beyond)
    assert estimate_pose(pixels[beyond], points[beyond], camera, OPTIONS) is None


def test_with_focal_length_copies() -> None:
    camera = make_camera("PINHOLE")
    other = with_focal_length(camera, 50.0)
    np.testing.assert_array_equal(other.params, [50, 50, 400, 300])
    np.testing.assert_array_equal(camera.params, [700, 700, 400, 300])


@pytest.mark.parametrize(
    "values",
    [
        {"max_error_px": 0.0},
        {"loss_scale_px": -1.0},
        {"min_inliers": 3},
        {"max_iterations": 0},
        {"max_ransac_matches": 7},
        {"success_probability": 1.0},
        {"seed": -1},
    ],
)
def test_bad_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        PnPOptions(**values)
