import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from localize.relative import RelativeOptions, RelativePose, relative_pose
from matching.errors import InputError
from matching.types import View
from tests.localize.synthetic import (
    TruthMatcher,
    look_at,
    make_camera,
    make_view,
    observe,
    photo_of,
)

Pair = tuple[View, View, np.ndarray]


def make_pair(
    camera0: pycolmap.Camera,
    camera1: pycolmap.Camera,
    *,
    baseline: float = 2.0,
    seed: int = 0,
) -> Pair:
    """Two views of one cloud and the true cam1_from_cam0."""
    rng = np.random.default_rng(seed)
    points = rng.uniform(-2, 2, (600, 3))
    # where optical axes meet at equal distances, focal lengths cannot be told
    pose0 = look_at([7, -baseline / 2, 0.3], [0, 0.8, -0.3])
    pose1 = look_at([7 - baseline / 3, baseline / 2, 0.3 - baseline / 10], [0, -0.2, 1.0])
    views = []
    for pose, camera in ((pose0, camera0), (pose1, camera1)):
        pixels, rows = observe(points, pose, camera, rng, noise_px=0.3)
        views.append(make_view(pixels, rows, (camera.width, camera.height)))
    relative = np.eye(4)
    relative[:3] = (pose1 * pose0.inverse()).matrix()
    return views[0], views[1], relative


def errors_deg(result: RelativePose, truth: np.ndarray) -> tuple[float, float]:
    """Rotation and direction of the translation, degrees."""
    assert result.cam1_from_cam0 is not None
    estimate = result.cam1_from_cam0
    turn = estimate[:3, :3] @ truth[:3, :3].T
    cosines = [
        (np.trace(turn) - 1) / 2,
        estimate[:3, 3] @ truth[:3, 3] / np.linalg.norm(truth[:3, 3]),
    ]
    rotation, translation = np.degrees(np.arccos(np.clip(cosines, -1, 1)))
    return float(rotation), float(translation)


@pytest.mark.parametrize("outliers", [0.0, 0.6])
@pytest.mark.parametrize(
    ("model", "extra"), [("SIMPLE_PINHOLE", ()), ("OPENCV", (0.05, -0.02, 0.001, 0.002))]
)
def test_given_cameras(model: str, extra: tuple[float, ...], outliers: float) -> None:
    camera0 = make_camera(model, extra=extra)
    camera1 = make_camera(model, 900.0, (1000, 700), extra)
    view0, view1, truth = make_pair(camera0, camera1)
    result = relative_pose(
        view0, view1, matcher=TruthMatcher({}, outliers), camera0=camera0, camera1=camera1
    )
    assert result.success, result.reason
    rotation, translation = errors_deg(result, truth)
    assert rotation < 0.2
    assert translation < 1
    assert not result.metric
    assert result.cam1_from_cam0 is not None
    assert np.linalg.norm(result.cam1_from_cam0[:3, 3]) == pytest.approx(1)
    assert result.num_matches == len(result.matches) == len(result.inlier_mask)
    assert result.num_inliers == result.inlier_mask.sum()
    assert 0 < result.confidence < 1
    assert result.has_parallax and result.doubt() == ""
    values = json.loads(json.dumps(result.to_dict()))
    np.testing.assert_array_equal(values["cam1_from_cam0"], result.cam1_from_cam0)
    assert values["camera1"]["width"] == 1000
    assert "no scale" in result.summary()


def test_turned_round_gives_the_inverse() -> None:
    camera = make_camera()
    view0, view1, truth = make_pair(camera, camera)
    cameras: dict[str, Any] = {"camera0": camera, "camera1": camera}
    result = relative_pose(view1, view0, matcher=TruthMatcher({}), **cameras)
    rotation, translation = errors_deg(result, np.linalg.inv(truth))
    assert rotation < 0.2
    assert translation < 1


@pytest.mark.parametrize(
    ("focal0", "focal1", "size1"),
    [(600.0, 600.0, (800, 600)), (1500.0, 1500.0, (800, 600)), (700.0, 1100.0, (1000, 700))],
)
def test_unknown_focal_lengths(focal0: float, focal1: float, size1: tuple[int, int]) -> None:
    camera0, camera1 = make_camera(focal=focal0), make_camera(focal=focal1, size=size1)
    view0, view1, truth = make_pair(camera0, camera1)
    result = relative_pose(view0, view1, matcher=TruthMatcher({}, 0.3))
    rotation, translation = errors_deg(result, truth)
    # without calibration, some degrees of the direction trade with the focal length
    assert rotation < 1.5
    assert translation < 4
    assert result.camera0.mean_focal_length() == pytest.approx(focal0, rel=0.15)
    assert result.camera1.mean_focal_length() == pytest.approx(focal1, rel=0.15)


def test_one_camera_given() -> None:
    camera0, camera1 = make_camera(focal=700.0), make_camera(focal=1100.0, size=(1000, 700))
    view0, view1, truth = make_pair(camera0, camera1)
    result = relative_pose(view0, view1, matcher=TruthMatcher({}, 0.3), camera0=camera0)
    rotation, translation = errors_deg(result, truth)
    assert rotation < 1
    assert translation < 3
    assert result.camera0.mean_focal_length() == 700
    assert result.camera1.mean_focal_length() == pytest.approx(1100, rel=0.1)


def test_a_turn_on_the_spot_has_no_translation() -> None:
    camera = make_camera()
    view0, view1, _ = make_pair(camera, camera, baseline=0.0)
    result = relative_pose(view0, view1, matcher=TruthMatcher({}), camera0=camera, camera1=camera)
    assert not result.success
    assert "one spot" in result.reason
    assert result.confidence == 0
    assert not result.has_parallax and result.doubt() == ""


def test_a_turn_of_an_unknown_camera_has_a_translation_that_is_doubted() -> None:
    camera = make_camera(focal=1000.0)  # not what is expected
    view0, view1, truth = make_pair(camera, camera, baseline=0.0)
    result = relative_pose(view0, view1, matcher=TruthMatcher({}))
    assert errors_deg(result, truth)[0] < 1
    assert result.success and result.confidence > 0.5
    assert not result.has_parallax
    assert result.to_dict()["has_parallax"] is False
    assert result.doubt() == (
        "the photos show no parallax (taken from one spot, or one is a crop of the other): "
        "the translation is a guess"
    )
    both = replace(result, confidence=0.18).doubt()
    assert both.startswith("the confidence is low") and both.endswith("is a guess")


def test_a_crop_has_a_translation_that_is_doubted() -> None:
    view0, _, _ = make_pair(make_camera(), make_camera())
    corner, size = np.array([250, 100]), np.array([400, 300])
    inside = ((view0.keypoints > corner) & (view0.keypoints < corner + size)).all(1)
    shifted = (view0.keypoints[inside] - corner).astype(np.float64)
    crop = make_view(
        shifted + np.random.default_rng(0).normal(0, 0.3, shifted.shape),
        view0.arrays["ids"][inside],
        (400, 300),
    )
    result = relative_pose(view0, crop, matcher=TruthMatcher({}))
    assert result.success and not result.has_parallax
    assert "one is a crop of the other" in result.doubt()


def test_wrong_and_few_matches_fail_with_a_reason() -> None:
    camera = make_camera()
    view0, view1, _ = make_pair(camera, camera)
    cameras: dict[str, Any] = {"camera0": camera, "camera1": camera}
    wrong = relative_pose(view0, view1, matcher=TruthMatcher({}, 1.0), **cameras)
    assert not wrong.success
    assert "too few inliers" in wrong.reason
    assert wrong.cam1_from_cam0 is None
    unknown = relative_pose(view0, view1, matcher=TruthMatcher({}, 1.0))
    assert not unknown.success
    few = make_view(view1.keypoints[:9], view1.arrays["ids"][:9])
    result = relative_pose(view0, few, matcher=TruthMatcher({}), **cameras)
    assert result.reason.startswith("too few matches: ")
    black = relative_pose(photo_of(0), photo_of(0, (1, 1)), matcher=TruthMatcher({}))
    assert black.reason == "too few matches: 0 < 15"
    assert black.num_matches == 0
    assert black.summary() == "no relative pose: too few matches: 0 < 15"
    assert black.to_dict()["cam1_from_cam0"] is None


def test_a_doubtful_pose_is_a_failure_with_its_confidence() -> None:
    camera = make_camera()
    view0, view1, _ = make_pair(camera, camera)
    cameras: dict[str, Any] = {"camera0": camera, "camera1": camera}
    sure = relative_pose(view0, view1, matcher=TruthMatcher({}), **cameras)
    assert sure.success and 0.1 < sure.confidence < 1
    assert sure.doubt() == ""
    low = replace(sure, confidence=0.18)
    assert low.doubt().startswith("the confidence is low (0.18 < 0.45)")
    assert replace(low, success=False, cam1_from_cam0=None).doubt() == ""
    limit = RelativeOptions(min_confidence=(1 + sure.confidence) / 2)
    doubtful = relative_pose(view0, view1, matcher=TruthMatcher({}), options=limit, **cameras)
    assert not doubtful.success and doubtful.cam1_from_cam0 is None
    assert "hardly better than chance" in doubtful.reason


def test_the_same_input_gives_the_same_pose() -> None:
    view0, view1, _ = make_pair(make_camera(), make_camera())
    first, second = (
        relative_pose(view0, view1, matcher=TruthMatcher({}, 0.3)).cam1_from_cam0 for _ in range(2)
    )
    assert first is not None and second is not None
    assert (first == second).all()


def test_files_and_their_exif(tmp_path: Path) -> None:
    view0, view1, truth = make_pair(make_camera(focal=700.0), make_camera(focal=700.0))
    paths = [tmp_path / "0.png", tmp_path / "1.png"]
    exif = Image.Exif()
    exif[0x8769] = {0xA405: 32}  # 32 mm on 36 mm film at 800 pixels: about 700
    for number, path in enumerate(paths):
        Image.fromarray(photo_of(number)).save(path, exif=exif)
    result = relative_pose(*paths, matcher=TruthMatcher({0: view0, 1: view1}))
    assert result.camera0.mean_focal_length() == pytest.approx(700, rel=0.1)
    # the film's diagonal is meant, so the focal length is 4 % off
    assert errors_deg(result, truth)[0] < 2
    with pytest.raises(InputError, match=r"nothing\.png"):
        relative_pose(tmp_path / "nothing.png", paths[1], matcher=TruthMatcher({}))
    with pytest.raises(InputError, match="'image 1' is 600x800"):
        relative_pose(*paths, matcher=TruthMatcher({}), camera1=make_camera(size=(600, 800)))
