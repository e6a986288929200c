"""Relative poses in metres, on rendered photos whose geometry an oracle knows."""

import json
from pathlib import Path
from typing import Any, get_args

import numpy as np
import pycolmap
import pytest
from PIL import Image

from localize.essential import RelativeMethod
from localize.pointmap_pose import baseline_length
from localize.relative import RelativeOptions, RelativePose, relative_pose
from tests.localize.synthetic import TruthMatcher, make_camera
from tests.localize.test_relative import make_pair
from tests.rendered_views import Faults, OracleMatcher, RenderedView, relative, render_views

METHODS = get_args(RelativeMethod)


@pytest.fixture(scope="module")
def views() -> list[RenderedView]:
    """Two neighbours of the arc, and one of them with a longer lens."""
    first, second = render_views([3, 5], 160)
    (zoomed,) = render_views([5], 160, zoom={5: 1.6})
    return [first, second, zoomed]


def solve(
    views: list[RenderedView], rows: tuple[int, int], faults: Faults, known: str, **options: Any
) -> RelativePose:
    """The relative pose of two views; ``known`` says whose cameras are given."""
    a, b = (views[row] for row in rows)
    return relative_pose(
        a.image,
        b.image,
        matcher=OracleMatcher(views, faults),
        camera0=a.camera if "0" in known else None,
        camera1=b.camera if "1" in known else None,
        options=RelativeOptions(**options),
    )


def errors(result: RelativePose, truth: np.ndarray) -> tuple[float, float]:
    """Distance of the camera centres in metres, rotation in degrees."""
    assert result.cam1_from_cam0 is not None, result.reason
    estimate = result.cam1_from_cam0
    cosine = (np.trace(estimate[:3, :3] @ truth[:3, :3].T) - 1) / 2
    centres = [-pose[:3, :3].T @ pose[:3, 3] for pose in (estimate, truth)]
    distance = float(np.linalg.norm(centres[0] - centres[1]))
    return distance, float(np.degrees(np.arccos(np.clip(cosine, -1, 1))))


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("rows", [(0, 1), (1, 0), (0, 2)])
def test_exact_answers_give_the_pose_in_metres(
    views: list[RenderedView], rows: tuple[int, int], method: RelativeMethod
) -> None:
    truth = relative(views[rows[0]], views[rows[1]])
    assert np.linalg.norm(truth[:3, 3]) > 1
    result = solve(views, rows, Faults(pixel_noise=0.2, outliers=0.2), "01", method=method)
    assert result.success and result.metric
    distance, angle = errors(result, truth)
    assert distance < 0.03
    assert angle < 0.2
    assert "(m" in result.summary() and "(given)" in result.summary()
    values = json.loads(json.dumps(result.to_dict()))
    assert values["metric"] and values["camera_sources"] == ["given", "given"]


@pytest.mark.parametrize("method", METHODS)
def test_noisy_point_maps_still_give_the_length(
    views: list[RenderedView], method: RelativeMethod
) -> None:
    faults = Faults(noise=0.1, pixel_noise=0.3, outliers=0.3)
    result = solve(views, (0, 1), faults, "01", method=method)
    distance, angle = errors(result, relative(views[0], views[1]))
    assert distance < 0.15  # of a baseline of 2.3 m
    assert angle < 1
    assert result.length_spread is not None and 0.01 < result.length_spread < 0.3


@pytest.mark.parametrize("method", ["reference", "pointmap"])
def test_refinement_over_matches_helps_where_point_maps_are_noisy(
    views: list[RenderedView], method: RelativeMethod
) -> None:
    truth, faults = relative(views[0], views[1]), Faults(noise=0.15, pixel_noise=0.1)
    plain = solve(views, (0, 1), faults, "01", method=method, refine=False)
    better = solve(views, (0, 1), faults, "01", method=method)
    assert errors(plain, truth)[1] > errors(better, truth)[1]
    assert plain.length_spread is None


@pytest.mark.parametrize("known", ["", "0", "1"])
@pytest.mark.parametrize("method", METHODS)
def test_unknown_cameras_are_those_of_the_point_maps(
    views: list[RenderedView], method: RelativeMethod, known: str
) -> None:
    result = solve(views, (0, 2), Faults(pixel_noise=0.2), known, method=method)
    distance, angle = errors(result, relative(views[0], views[2]))
    for number, (camera, view) in enumerate(
        zip((result.camera0, result.camera1), (views[0], views[2]), strict=True)
    ):
        given = str(number) in known
        assert result.camera_sources[number] == ("given" if given else "pointmap")
        assert camera.mean_focal_length() == pytest.approx(view.K[0, 0], rel=0 if given else 0.03)
    assert distance < 0.25
    assert angle < 1


def test_a_given_camera_bends_the_point_maps(views: list[RenderedView]) -> None:
    """The network saw focal lengths a fifth too long; the given cameras say better."""
    truth = relative(views[0], views[1])
    faults = Faults(focal=1.2, pixel_noise=0.1)
    for method in METHODS:
        given = solve(views, (0, 1), faults, "01", method=method)
        assert errors(given, truth)[0] < 0.2, method
    assert errors(solve(views, (0, 1), faults, "", method="pointmap"), truth)[0] > 0.2


def test_a_focal_length_from_exif_bends_the_point_maps(
    views: list[RenderedView], tmp_path: Path
) -> None:
    """Like a given camera, for the network saw focal lengths a fifth too long here."""
    exif = Image.Exif()
    in_35mm = views[0].K[0, 0] / np.hypot(*views[0].image_size) * np.hypot(36, 24)
    exif[0x8769] = {0xA405: round(float(in_35mm))}
    for number, view in enumerate(views[:2]):
        Image.fromarray(view.image).save(tmp_path / f"{number}.png", exif=exif)
    matcher = OracleMatcher(views, Faults(focal=1.2, pixel_noise=0.1))
    truth = relative(views[0], views[1])
    result = relative_pose(
        tmp_path / "0.png",
        tmp_path / "1.png",
        matcher=matcher,
        options=RelativeOptions(method="pointmap"),
    )
    assert result.camera_sources == ("exif+pointmap", "exif+pointmap")
    distance, angle = errors(result, truth)  # 1.8 m and 6 deg with the points as they are
    assert distance < 0.2
    assert angle < 0.6


@pytest.mark.parametrize("method", METHODS)
def test_a_turn_on_the_spot_has_no_baseline(
    views: list[RenderedView], method: RelativeMethod
) -> None:
    result = solve(views, (1, 2), Faults(pixel_noise=0.1), "01", method=method)
    distance, angle = errors(result, relative(views[1], views[2]))
    assert result.metric
    assert distance < 0.05
    assert angle < 0.2


@pytest.mark.parametrize("method", METHODS)
def test_point_maps_without_a_unit_give_a_direction(
    views: list[RenderedView], method: RelativeMethod
) -> None:
    faults = Faults(pixel_noise=0.2, scales=1.0, metric=False)
    result = solve(views, (0, 1), faults, "01", method=method)
    truth = relative(views[0], views[1])
    assert result.success and not result.metric and result.length_spread is None
    assert result.cam1_from_cam0 is not None
    direction = truth[:3, 3] / np.linalg.norm(truth[:3, 3])
    np.testing.assert_allclose(result.cam1_from_cam0[:3, 3], direction, atol=0.05)
    still = solve(views, (1, 2), faults, "01", method=method)
    assert not still.success and "one spot" in still.reason


def test_without_point_maps() -> None:
    view0, view1, _ = make_pair(make_camera(), make_camera())
    matcher = TruthMatcher({})
    plain = relative_pose(view0, view1, matcher=matcher)
    assert plain.success and not plain.metric and plain.length_spread is None
    result = relative_pose(
        view0, view1, matcher=matcher, options=RelativeOptions(method="reference")
    )
    assert not result.success
    assert "needs point maps, and truth predicts none" in result.reason


@pytest.mark.parametrize("method", METHODS)
def test_wrong_matches_and_blank_photos_fail_with_a_reason(
    views: list[RenderedView], method: RelativeMethod
) -> None:
    wrong = solve(views, (0, 1), Faults(outliers=1.0), "01", method=method)
    assert not wrong.success
    assert "too few inliers" in wrong.reason or "no pose" in wrong.reason
    black = np.zeros((120, 160, 3), np.uint8)
    result = relative_pose(
        views[0].image,
        black,
        matcher=OracleMatcher(views),
        options=RelativeOptions(method=method),
    )
    assert result.reason == "too few matches: 0 < 15"
    assert result.confidence == 0


def test_right_poses_rank_above_wrong_ones(views: list[RenderedView]) -> None:
    good = solve(views, (0, 1), Faults(pixel_noise=0.3, outliers=0.2), "01")
    poor = solve(views, (0, 1), Faults(pixel_noise=0.3, outliers=0.9), "01")
    assert good.confidence > poor.confidence


def test_the_length_of_a_baseline() -> None:
    rng = np.random.default_rng(0)
    points = rng.uniform(-1, 1, (50, 3)) + np.array([0, 0, 5])
    rotation = pycolmap.Rotation3d(np.array([0.02, 0.1, -0.05, 1.0])).matrix()
    translation = np.array([1.0, 0.2, 0.1])
    moved = points @ rotation.T + translation
    rays0, rays1 = points[:, :2] / points[:, 2:], moved[:, :2] / moved[:, 2:]
    length = float(np.linalg.norm(translation))
    depths = [points[:, 2].copy(), moved[:, 2].copy()]
    depths[0][:20] *= 3  # less than half of the votes
    depths[1][:5] = np.nan
    found = baseline_length(rotation, translation / length, rays0, rays1, depths[0], depths[1])
    assert found is not None
    assert found.length == pytest.approx(length, rel=1e-9)
    assert found.spread == pytest.approx(0, abs=1e-9)
    nothing = np.full(50, np.nan)
    none = baseline_length(rotation, translation / length, rays0, rays1, nothing, nothing)
    assert none is None
    still = baseline_length(rotation, translation / length, rays0, rays0, depths[0], depths[1])
    assert still is None or np.isfinite(still.length)
