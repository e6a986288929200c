"""Matches of known scenes and motions: which of them need a translation."""

from collections.abc import Callable

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray

from localize import parallax
from localize.intrinsics import QueryCamera, query_camera
from localize.parallax import shows_parallax
from tests.localize.synthetic import make_camera

FloatArray = NDArray[np.float64]
Pixels = tuple[FloatArray, FloatArray]
SIZE = (800, 600)
RANDOM = np.random.default_rng(0)

CLOUD = RANDOM.uniform((-4, -3, 5), (4, 3, 12), (400, 3))
FAR = RANDOM.uniform((-400, -300, 500), (400, 300, 1000), (400, 3))
NEAR_IN_FAR = np.concatenate([FAR[:320], CLOUD[:80]])
_across = RANDOM.uniform(-4, 4, (400, 2))
FACADE = np.column_stack([_across, 8 + 0.5 * _across[:, 0] - 0.2 * _across[:, 1]])
PAINTING = np.column_stack([_across, np.full(400, 8.0)])
LYING = make_camera()
LONG = make_camera(focal=1400.0)


def motion(turn_deg: tuple[float, float, float], moved: tuple[float, float, float]) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3, :3] = pycolmap.Rotation3d(np.radians(np.array(turn_deg))).matrix()
    matrix[:3, 3] = moved
    return matrix


TURN = motion((3.0, -12.0, 4.0), (0.0, 0.0, 0.0))
WALK = motion((1.0, -4.0, 2.0), (1.0, 0.1, -0.3))
STEP = motion((3.0, -12.0, 4.0), (0.05, 0.0, 0.01))
ASIDE = motion((0.0, 0.0, 0.0), (1.0, 0.0, 0.0))


def seen(
    points: FloatArray,
    cam1_from_cam0: FloatArray,
    camera0: pycolmap.Camera = LYING,
    camera1: pycolmap.Camera = LYING,
    noise_px: float = 0.3,
) -> Pixels:
    """Noisy pixels of what both photos show."""
    rng = np.random.default_rng(1)
    in1 = points @ cam1_from_cam0[:3, :3].T + cam1_from_cam0[:3, 3]
    pixels0, pixels1 = (
        np.asarray(camera.img_from_cam(p)) + rng.normal(0, noise_px, (len(points), 2))
        for camera, p in ((camera0, points), (camera1, in1))
    )
    inside = ((np.minimum(pixels0, pixels1) > 0) & (np.maximum(pixels0, pixels1) < SIZE)).all(1)
    return pixels0[inside], pixels1[inside]


def given(camera: pycolmap.Camera) -> QueryCamera:
    return QueryCamera(camera=camera, source="given")


def unknown(camera: pycolmap.Camera) -> QueryCamera:
    return query_camera(None, (camera.width, camera.height), None, "photo")


def answers(pixels: Pixels, camera0: pycolmap.Camera, camera1: pycolmap.Camera) -> set[bool]:
    """What is said with both, one, or none of the cameras, and of the photos exchanged."""
    found = set()
    for known0 in (given, unknown):
        for known1 in (given, unknown):
            guesses = known0(camera0), known1(camera1)
            found.add(shows_parallax(*pixels, *guesses, 1.0))
            found.add(shows_parallax(*pixels[::-1], *guesses[::-1], 1.0))
    return found


@pytest.mark.parametrize(("camera0", "camera1"), [(LYING, LYING), (LYING, LONG), (LONG, LYING)])
def test_turns_and_zooms_show_none(camera0: pycolmap.Camera, camera1: pycolmap.Camera) -> None:
    pixels = seen(CLOUD, TURN, camera0, camera1)
    assert len(pixels[0]) > 60
    assert answers(pixels, camera0, camera1) == {False}


@pytest.mark.parametrize(("known", "distortion"), [(given, -0.1), (unknown, -0.05)])
def test_distortion_is_none(
    known: Callable[[pycolmap.Camera], QueryCamera], distortion: float
) -> None:
    camera = make_camera("SIMPLE_RADIAL", extra=(distortion,))
    pixels = seen(CLOUD, TURN, camera, camera)
    assert not shows_parallax(*pixels, known(camera), known(camera), 1.0)


def test_from_afar_a_step_is_none() -> None:
    assert answers(seen(FAR, STEP), LYING, LYING) == {False}
    # a fifth of the matches is near enough
    assert answers(seen(NEAR_IN_FAR, WALK), LYING, LYING) == {True}


@pytest.mark.parametrize(
    ("points", "moved"),
    [
        (CLOUD, WALK),
        (CLOUD, motion((0, 0, 0), (0.0, 0.0, -1.5))),  # forwards
        (CLOUD, motion((0, 0, 0), (0.1, 0.0, 0.0))),  # by 6 to 14 pixels
        (FACADE, WALK),
        (FACADE, ASIDE),
        (PAINTING, WALK),
    ],
)
def test_a_walk_shows_it_on_planes_too(points: FloatArray, moved: FloatArray) -> None:
    for camera1 in (LYING, LONG):
        assert answers(seen(points, moved, LYING, camera1), LYING, camera1) == {True}


def test_a_plane_straight_ahead_needs_a_known_camera() -> None:
    """Moved aside without a turn, an unknown one shows what a crop of the photo does."""
    pixels = seen(PAINTING, ASIDE)
    assert shows_parallax(*pixels, given(LYING), given(LYING), 1.0)
    assert not shows_parallax(*pixels, unknown(LYING), unknown(LYING), 1.0)


@pytest.mark.parametrize("zoom", [1.0, 1.3, 3.0])
@pytest.mark.parametrize("resized", [1.0, 0.4, 2.5])
def test_crops_show_none(zoom: float, resized: float) -> None:
    pixels0, _ = seen(CLOUD, np.eye(4))
    size = np.array(SIZE) / zoom
    corner = (np.array(SIZE) - size) * (0.9, 0.2)
    inside = ((pixels0 > corner) & (pixels0 < corner + size)).all(1)
    noise_px = np.random.default_rng(2).normal(0, 0.3, pixels0.shape)
    pixels1 = (pixels0 - corner) * resized + noise_px * max(resized, 1.0)
    width, height = (size * resized).round().astype(int)
    pixels = pixels0[inside], pixels1[inside]
    crop = unknown(make_camera(size=(int(width), int(height))))
    assert not shows_parallax(*pixels, unknown(LYING), crop, 1.0)
    assert not shows_parallax(*pixels, given(LYING), crop, 1.0)
    assert not shows_parallax(*pixels[::-1], crop, unknown(LYING), 1.0)
    tilt = np.radians(3.0)
    straight = pixels[1] @ [[np.cos(tilt), np.sin(tilt)], [-np.sin(tilt), np.cos(tilt)]]
    assert not shows_parallax(pixels[0], straight, unknown(LYING), crop, 1.0)
    # of both cameras known, the middle of the crop is
    known = make_camera(focal=700.0 * resized, size=(int(width), int(height)))
    known.principal_point_x, known.principal_point_y = (np.array((400, 300)) - corner) * resized
    assert not shows_parallax(*pixels, given(LYING), given(known), 1.0)


@pytest.mark.parametrize(("share", "expected"), [(0.06, False), (0.2, True)])
def test_a_few_wrong_matches_are_no_parallax(share: float, expected: bool) -> None:
    pixels0, pixels1 = seen(CLOUD, TURN)
    rng = np.random.default_rng(3)
    wrong = rng.permutation(len(pixels1)) < share * len(pixels1)
    pixels1[wrong] += rng.choice([-1, 1], (wrong.sum(), 2)) * rng.uniform(10, 60, (wrong.sum(), 2))
    assert answers((pixels0, pixels1), LYING, LYING) == {expected}


@pytest.mark.parametrize("noise_px", [0.0, 0.4])
def test_noise(noise_px: float) -> None:
    assert answers(seen(CLOUD, TURN, noise_px=noise_px), LYING, LYING) == {False}
    assert answers(seen(CLOUD, WALK, noise_px=noise_px), LYING, LYING) == {True}


def test_many_matches_are_thinned_out() -> None:
    many = np.random.default_rng(4).uniform((-4, -3, 5), (4, 3, 12), (9000, 3))
    assert len(seen(many, TURN)[0]) > 2 * parallax._MAX_MATCHES
    assert answers(seen(many, TURN), LYING, LYING) == {False}
    assert answers(seen(many, WALK), LYING, LYING) == {True}


def test_few_and_useless_matches_show_none() -> None:
    pixels0, pixels1 = seen(CLOUD, WALK)
    for count in (0, 1, 4):
        assert answers((pixels0[:count], pixels1[:count]), LYING, LYING) == {False}
    assert answers((pixels0[:15], pixels1[:15]), LYING, LYING) == {True}
    same = np.full((30, 2), 100.0)
    assert answers((same, same), LYING, LYING) == {False}
    line = np.column_stack([np.linspace(10, 790, 30), np.full(30, 300.0)])
    assert answers((line, line), LYING, LYING) == {False}
    pixels0[::20] = np.nan  # keypoints that could not be undistorted
    assert answers((pixels0, pixels1), LYING, LYING) == {True}
    assert answers((np.full((30, 2), np.nan), same), LYING, LYING) == {False}


def test_derivatives_of_a_turn() -> None:
    rng = np.random.default_rng(5)
    points0, points1 = rng.uniform(-300, 300, (2, 7, 2))
    rotation = pycolmap.Rotation3d(np.array([0.1, -0.4, 0.2])).matrix()
    log_focals = np.log([700.0, 900.0])
    errors, jacobian = parallax._turned(points0, points1, rotation, log_focals)
    for column, step in enumerate(1e-6 * np.eye(5)):
        turned = pycolmap.Rotation3d(step[:3]).matrix() @ rotation
        after, _ = parallax._turned(points0, points1, turned, log_focals + step[3:])
        # differences of numbers near 1000 keep six digits of a step of a millionth
        np.testing.assert_allclose(jacobian[:, :, column], (after - errors) / 1e-6, atol=0.01)
    behind = parallax._turned(points0, points1, np.diag([-1.0, 1.0, -1.0]), log_focals)[0]
    assert np.isnan(behind).all()
