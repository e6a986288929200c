"""The parts of a Map-free run without photos: fusion, given depth, confidence, submissions."""

import zipfile
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray

from benchmarks.given_depth import baseline_from_depth, sample_depth, with_length
from benchmarks.mapfree_confidence import mapfree_confidence
from benchmarks.mapfree_submission import (
    EstimateLine,
    text_problems,
    write_mapfree_zip,
    zip_problems,
)
from benchmarks.mapfree_track import fuse
from benchmarks.metrics import rotation_errors_deg, translation_errors
from localize.relative import RelativePose
from matching.errors import InputError
from matching.types import Matches

FloatArray = NDArray[np.float64]
CAMERA = pycolmap.Camera(model="PINHOLE", width=540, height=720, params=[600, 610, 265, 362])


def pose(rotation_vector: tuple[float, ...], translation: tuple[float, ...]) -> FloatArray:
    matrix = np.eye(4)
    matrix[:3, :3] = pycolmap.Rotation3d(np.array(rotation_vector)).matrix()
    matrix[:3, 3] = translation
    return matrix


def relative(truth: FloatArray, depth: FloatArray) -> RelativePose:
    """Exact matches of a scene of known depth, the translation brought to length 1."""
    rng = np.random.default_rng(0)
    pixels0 = rng.uniform((5, 5), (535, 715), (60, 2))
    z = depth[pixels0[:, 1].astype(int), pixels0[:, 0].astype(int)]
    rays = np.append(np.asarray(CAMERA.cam_from_img(pixels0)), np.ones((60, 1)), axis=1)
    points1 = (rays * z[:, None]) @ truth[:3, :3].T + truth[:3, 3]
    pixels1 = np.asarray(CAMERA.img_from_cam(points1))
    return RelativePose(
        success=True,
        cam1_from_cam0=with_length(truth, 1.0),
        camera0=CAMERA,
        camera1=CAMERA,
        camera_sources=("given", "given"),
        num_inliers=60,
        num_matches=60,
        confidence=0.9,
        matches=Matches(
            keypoints0=pixels0.astype(np.float32),
            keypoints1=pixels1.astype(np.float32),
            scores=np.ones(60, np.float32),
        ),
        inlier_mask=np.ones(60, np.bool_),
    )


@pytest.mark.parametrize("scale", [1.0, 0.5])  # depth maps may be smaller than the photo
def test_given_depth_tells_the_length(scale: float) -> None:
    rows, columns = np.mgrid[0:720, 0:540]
    depth = (3 + 2 * ((rows // 90 + columns // 90) % 3)).astype(np.float32)
    truth = pose((0.05, -0.1, 0.02), (0.4, -0.1, 0.3))
    given = depth if scale == 1 else depth[::2, ::2]
    found = baseline_from_depth(relative(truth, depth), given)
    assert found is not None
    assert found.length == pytest.approx(np.linalg.norm(truth[:3, 3]), rel=1e-3)
    assert found.spread < 1e-3
    assert baseline_from_depth(relative(truth, depth), np.zeros_like(depth)) is None


def test_depth_is_taken_from_the_pixel_itself() -> None:
    depth = np.array([[1, 2], [0, np.nan]], np.float32)
    places = np.array([[0.49, 0.0], [0.51, 0.49], [0.1, 0.9], [0.99, 0.99]])
    np.testing.assert_array_equal(sample_depth(depth, places), [1, 2, np.nan, np.nan])


def test_fusion_follows_the_estimates_that_agree() -> None:
    truth = pose((0.1, 0.2, -0.1), (1.0, 0.5, -0.3))
    rng = np.random.default_rng(2)
    right = [
        pose((0.1 + rng.normal(0, 0.005), 0.2, -0.1), (1.0 + rng.normal(0, 0.02), 0.5, -0.3))
        for _ in range(4)
    ]
    # a surer estimate that nobody shares, and others that disagree with each other
    wrong = [pose((0, 1.0 * k, 0), (3.0 * k, 0, 0)) for k in (1, -1, 2)]
    fused = fuse([*wrong, *right], [0.9, 0.6, 0.6, 0.5, 0.5, 0.5, 0.5])
    assert fused is not None
    assert translation_errors(fused.cam_from_world[None], truth[None])[0] < 0.03
    assert rotation_errors_deg(fused.cam_from_world[None], truth[None])[0] < 0.5
    assert 1.8 < fused.support <= 2.0
    np.testing.assert_allclose(
        fused.cam_from_world[:3, :3] @ fused.cam_from_world[:3, :3].T, np.eye(3), atol=1e-12
    )
    assert fuse([], []) is None
    alone = fuse([truth], [0.0])
    assert alone is not None
    np.testing.assert_allclose(alone.cam_from_world, truth, atol=1e-12)


def test_confidence_falls_with_length_and_disagreement() -> None:
    result = relative(pose((0, 0, 0), (1, 0, 0)), np.full((720, 540), 4.0))
    near, far = (mapfree_confidence(result, length, 0.05) for length in (0.3, 3.0))
    assert 0 < far < near <= result.confidence
    assert mapfree_confidence(result, 1.0, 0.5) < mapfree_confidence(result, 1.0, 0.05)
    assert mapfree_confidence(result, 1.0, None) == mapfree_confidence(result, 1.0, 0.0)


def line(number: int, confidence: float = 0.5) -> EstimateLine:
    name = f"seq1/frame_{number:05d}.jpg"
    rigid = pycolmap.Rigid3d(pose((0.1, 0.2, 0.3), (1, 2, 3))[:3])
    return EstimateLine(name=name, cam_from_world=rigid, confidence=confidence)


def test_a_zip_is_the_same_bytes_again_and_keeps_empty_scenes(tmp_path: Path) -> None:
    scenes = {"s00460": [line(5), line(0)], "s00461": []}
    first, second = tmp_path / "a.zip", tmp_path / "b.zip"
    write_mapfree_zip(first, scenes)
    write_mapfree_zip(second, scenes)
    assert first.read_bytes() == second.read_bytes()
    with zipfile.ZipFile(first) as archive:
        assert archive.namelist() == ["pose_s00460.txt", "pose_s00461.txt"]
        text = archive.read("pose_s00460.txt").decode()
    assert text_problems(text) == [] and len(text.splitlines()[0].split(" ")) == 9
    assert zip_problems(first, ["s00460", "s00461"]) == []
    assert zip_problems(first, ["s00460", "s00461", "s00462"]) == [
        "s00462 is absent: charged with five times its frames"
    ]
    assert zip_problems(first, ["s00460"]) == [
        "'pose_s00461.txt' is no 'pose_<scene>.txt' of a scene"
    ]
    (tmp_path / "c.zip").write_text("text")
    assert "is no zip file" in zip_problems(tmp_path / "c.zip", ["s00460"])[0]


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        ([line(0, -0.1)], "negative confidence, which voids the whole submission"),
        ([line(0, float("nan"))], "no finite pose and confidence"),
        ([line(3), line(3)], "frame 00003 comes twice"),
    ],
)
def test_a_submission_that_would_be_refused_is_not_written(
    lines: list[EstimateLine], problem: str, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match=problem):
        write_mapfree_zip(tmp_path / "s.zip", {"s00460": lines})
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "text",
    [
        "seq1/frame_00000.jpg  1 0 0 0 0 0 0 1",
        "seq1/frame_00000.jpg 1 0 0 0 0 0 0",
        "seq1/frame_00000.jpg 1 0 0 0 0 0 0 x",
        "seq1/frame_0000x.jpg 1 0 0 0 0 0 0 1",
        "seq0/frame_00000.jpg 1 0 0 0 0 0 0 1",
        "seq1/frame_00000.jpg 0 0 0 0 0 0 0 1",
        "seq1/frame_00000.jpg\t1 0 0 0 0 0 0 1",
    ],
)
def test_the_checker_finds_lines_that_the_official_reader_drops(text: str) -> None:
    assert len(text_problems(text)) == 1
