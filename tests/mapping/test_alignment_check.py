"""Matches as witnesses of poses, on rendered photos with exact geometry."""

import numpy as np
import pycolmap
import pytest

from mapping.alignment_check import (
    MAX_ERROR,
    MAX_TURN_DEG,
    AlignmentCheck,
    PairCheck,
    check_pair,
    evenly,
)
from matching.types import Matches
from tests.rendered_views import Faults, OracleMatcher, RenderedView, relative, render_views


@pytest.fixture(scope="module")
def views() -> list[RenderedView]:
    return render_views([3, 5], 160)


def error(
    views: list[RenderedView], faults: Faults, *, turned_deg: float = 0.0, focal: float = 1.0
) -> float | None:
    matcher = OracleMatcher(views, faults)
    found = matcher.match_views(*(matcher.encode_image(view.image) for view in views))
    turn = np.eye(4)
    turn[:3, :3] = pycolmap.Rotation3d(np.array([np.radians(turned_deg), 0, 0])).matrix()
    cameras = []
    for view in views:
        camera = pycolmap.Camera(view.camera.todict())
        camera.params = [focal * camera.params[0], focal * camera.params[1], *camera.params[2:]]
        cameras.append(camera)
    pose = pycolmap.Rigid3d((turn @ relative(*views))[:3])
    checked = check_pair(found, (cameras[0], cameras[1]), pose)
    return None if checked is None else checked.error


def test_a_wrong_pose_is_told_from_a_right_one(views: list[RenderedView]) -> None:
    faults = Faults(pixel_noise=0.3, outliers=0.5)  # wrong matches are not the poses' fault
    right, askew, wrong = (error(views, faults, turned_deg=a) for a in (0, 0.5, 5))
    assert right is not None and askew is not None and wrong is not None
    assert right < 0.003
    assert right < askew < MAX_ERROR < wrong
    zoomed = error(views, faults, focal=2.0)
    assert zoomed is not None and zoomed > right


def test_coarse_matches_are_judged_in_the_pixels_they_were_seen_in(
    views: list[RenderedView],
) -> None:
    found = OracleMatcher(views, Faults(pixel_noise=2.0))
    matches = found.match_views(*(found.encode_image(view.image) for view in views))
    scale = 10.0  # photos of 1600 pixels, of which the network saw 160
    large = Matches(
        keypoints0=scale * matches.keypoints0,
        keypoints1=scale * matches.keypoints1,
        scores=matches.scores,
    )
    cameras = [pycolmap.Camera(view.camera.todict()) for view in views]
    pose = pycolmap.Rigid3d(relative(*views)[:3])
    expected = check_pair(matches, (cameras[0], cameras[1]), pose)
    for camera in cameras:
        camera.rescale(scale)
    checked = check_pair(large, (cameras[0], cameras[1]), pose, pixel_px=scale)
    assert expected is not None and checked is not None
    assert checked.error == pytest.approx(expected.error, rel=1e-3)
    assert checked.turn_deg == expected.turn_deg


def test_a_turn_does_not_hide_a_wrong_baseline(views: list[RenderedView]) -> None:
    found = OracleMatcher(views, Faults(pixel_noise=0.3, outliers=0.5))
    matches = found.match_views(*(found.encode_image(view.image) for view in views))
    cameras = tuple(pycolmap.Camera(view.camera.todict()) for view in views)
    pose = pycolmap.Rigid3d(relative(*views)[:3])
    # the baseline turned by 45 degrees, the camera by what brings the matches near their lines
    turned = pycolmap.Rotation3d(np.radians([0.30, -8.51, 0.74])) * pose.rotation
    askew = pycolmap.Rotation3d(np.radians([0.0, 45.0, 0.0])) * pose.translation
    wrong = check_pair(matches, (cameras[0], cameras[1]), pycolmap.Rigid3d(turned, askew))
    right = check_pair(matches, (cameras[0], cameras[1]), pose)
    assert wrong is not None and right is not None
    assert wrong.error < 0.5 * MAX_ERROR and 40 < wrong.turn_deg < 50
    assert right.turn_deg == 0
    check = AlignmentCheck.of([wrong, right, None])
    assert check.num_contradicted == 1 and len(check.errors) == 2
    # focal lengths are not the poses' fault
    for camera in cameras:
        camera.params = [1.4 * camera.params[0], 1.4 * camera.params[1], *camera.params[2:]]
    zoomed = check_pair(matches, (cameras[0], cameras[1]), pose)
    assert zoomed is not None and zoomed.turn_deg < 0.7 * MAX_TURN_DEG


def small_error(baseline: float, seed: int) -> PairCheck | None:
    """A pose off by 1 degree and 2 % of the depth; the baseline is a share of the depth, too."""
    rng = np.random.default_rng(seed)
    camera = pycolmap.Camera(
        model="SIMPLE_PINHOLE", width=512, height=384, params=[450.0, 256.0, 192.0]
    )
    pixels = rng.uniform((20, 20), (490, 360), (300, 2))
    rays = np.asarray(camera.cam_from_img(pixels))
    points = np.column_stack((rays, np.ones(300))) * rng.uniform(5, 12, (300, 1))

    def step(length: float) -> np.ndarray:
        direction = rng.normal(size=3)
        return np.asarray(length * direction / np.linalg.norm(direction))

    turn = pycolmap.Rotation3d(step(np.radians(5)))
    pose = pycolmap.Rigid3d(turn, step(8 * baseline))
    seen = np.asarray(camera.img_from_cam(np.asarray(pose * points)))
    found = [xy + rng.normal(0, 0.3, xy.shape) for xy in (pixels, seen)]
    matches = Matches(
        keypoints0=found[0].astype(np.float32),
        keypoints1=found[1].astype(np.float32),
        scores=np.ones(300, np.float32),
    )
    off = pycolmap.Rotation3d(step(np.radians(1)))
    aligned = pycolmap.Rigid3d(off * turn, off * (pose.translation + step(8 * 0.02)))
    return check_pair(matches, (camera, camera), aligned)


@pytest.mark.parametrize("baseline", [0.03, 0.08])
def test_directions_of_short_baselines_contradict_nothing(baseline: float) -> None:
    checks = [check for seed in range(8) if (check := small_error(baseline, seed)) is not None]
    assert len(checks) > 5
    assert all(check.turn_deg < MAX_TURN_DEG for check in checks)
    assert any(check.turn_deg > 0 for check in checks)  # though others explain the matches better


def test_nothing_to_tell(views: list[RenderedView]) -> None:
    assert error(views, Faults(outliers=1.0)) is None
    camera = views[0].camera
    pose = pycolmap.Rigid3d(relative(*views)[:3])
    assert check_pair(Matches.empty(), (camera, camera), pose) is None
    found = OracleMatcher(views)
    same = found.match_views(*(found.encode_image(view.image) for view in views))
    still = pycolmap.Rigid3d(np.eye(4)[:3])
    assert check_pair(same, (camera, camera), still) is None  # no baseline, no epipolar lines
    none = AlignmentCheck.of([None])
    assert none.num_contradicted == 0 and "no pair" in none.summary()


def test_counting() -> None:
    check = AlignmentCheck(errors=(0.001, 0.5, 0.03), turns_deg=(0.0, 80.0, 0.0))
    assert check.num_contradicted == 2
    assert "2 of 3 pairs contradict the poses (median distance from epipolar lines 3.0%" in (
        check.summary()
    )


@pytest.mark.parametrize(("count", "expected"), [(0, 0), (1, 1), (60, 60), (61, 31), (1000, 59)])
def test_checked_pairs_are_spread(count: int, expected: int) -> None:
    pairs = [(str(number), "x") for number in range(count)]
    chosen = evenly(pairs, 60)
    assert len(chosen) == expected
    if count > 100:
        assert int(chosen[-1][0]) > 0.9 * count
