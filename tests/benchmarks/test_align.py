import tracemalloc

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray

from benchmarks.align import AlignmentError, _apply, align_poses, pose_matrices
from benchmarks.metrics import rotation_errors_deg, translation_errors
from matching.errors import InputError

FloatArray = NDArray[np.float64]
Poses = dict[str, pycolmap.Rigid3d]

SIMILARITY = pycolmap.Sim3d(
    2.5, pycolmap.Rotation3d(np.array([0.3, -1.2, 0.7])), np.array([4.0, -3.0, 10.0])
)


def cameras(centers: FloatArray, seed: int = 0) -> Poses:
    rng = np.random.default_rng(seed)
    poses = {}
    for i, center in enumerate(centers):
        rotation = pycolmap.Rotation3d(rng.normal(size=3))
        poses[f"{i}.jpg"] = pycolmap.Rigid3d(rotation, -(rotation.matrix() @ center))
    return poses


def moved(poses: Poses) -> Poses:
    """The same cameras in a frame from which SIMILARITY leads back."""
    inverse = SIMILARITY.inverse()
    return {name: inverse.transform_camera_world(pose) for name, pose in poses.items()}


def noisy(poses: Poses, sigma: float, sigma_deg: float, bias_deg: float = 0.0) -> Poses:
    """Noise on centres and rotations, and one turn that all cameras share."""
    rng = np.random.default_rng(1)
    out = {}
    for name, pose in poses.items():
        turn = np.radians(sigma_deg) * rng.normal(size=3) + np.radians(bias_deg) * np.eye(3)[1]
        center = pose.inverse().translation + sigma * rng.normal(size=3)
        rotation = pycolmap.Rotation3d(turn) * pose.rotation
        out[name] = pycolmap.Rigid3d(rotation, -(rotation.matrix() @ center))
    return out


LINE = np.outer(np.linspace(-5, 5, 7), (1.0, 0.2, 0.1))
CLOUD = np.random.default_rng(5).normal(size=(9, 3)) * (5, 3, 1)


@pytest.mark.parametrize("centers", [CLOUD, LINE, LINE[:3]], ids=["cloud", "line", "three"])
def test_an_exact_map_is_aligned_exactly(centers: FloatArray) -> None:
    truth = cameras(centers)
    alignment = align_poses(moved(truth), truth)
    assert float(alignment.truth_from_map.scale) == pytest.approx(2.5, rel=1e-9)
    assert alignment.num_used == alignment.num_images == len(centers)
    assert alignment.rms_translation_m < 1e-7
    query = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0.1, 0, 2])), np.array([1.0, 2, 3]))
    back = alignment.apply(SIMILARITY.inverse().transform_camera_world(query))
    np.testing.assert_allclose(back.matrix(), query.matrix(), atol=1e-7)


def test_rotations_decide_what_collinear_centres_leave_open() -> None:
    truth = cameras(LINE)
    alignment = align_poses(moved(noisy(truth, 0.01, 0.05)), truth)
    assert alignment.rms_rotation_deg < 0.15
    assert alignment.rms_translation_m < 0.03


def test_a_shared_turn_of_all_cameras_does_not_bend_the_centres() -> None:
    # An unknown principal point turns every camera of a map about its own axes alike.
    truth = cameras(CLOUD)
    alignment = align_poses(moved(noisy(truth, 0.005, 0.02, bias_deg=2.0)), truth)
    assert alignment.rms_translation_m < 0.015
    assert alignment.rms_rotation_deg == pytest.approx(2.0, abs=0.2)


@pytest.mark.parametrize("strays", [["3.jpg"], ["0.jpg", "7.jpg"]])
def test_misplaced_images_are_left_out(strays: list[str]) -> None:
    truth = cameras(CLOUD)
    estimated = noisy(truth, 0.005, 0.02)
    for name, shift in zip(strays, ((2.0, 1, 0), (0, -1, 3)), strict=False):
        pose = estimated[name]
        estimated[name] = pycolmap.Rigid3d(pose.rotation, pose.translation + np.array(shift))
    alignment = align_poses(moved(estimated), truth)
    assert (alignment.num_images, alignment.num_used) == (9, 9 - len(strays))
    others = [name for name in truth if name not in strays]
    fitted = pose_matrices([alignment.apply(moved(estimated)[name]) for name in others])
    expected = pose_matrices([truth[name] for name in others])
    assert translation_errors(fitted, expected).max() < 0.03
    assert rotation_errors_deg(fitted, expected).max() < 0.3


def test_poses_are_moved_alike_one_by_one_and_all_together() -> None:
    truth = cameras(CLOUD)
    expected = [SIMILARITY.transform_camera_world(pose) for pose in truth.values()]
    np.testing.assert_allclose(
        _apply(SIMILARITY, pose_matrices(list(truth.values()))), pose_matrices(expected), atol=1e-12
    )


def test_a_map_of_thousands_is_aligned_in_little_memory() -> None:
    """All pairs of 3,000 images, as hypotheses are made of, would take 300 MB."""
    truth = cameras(np.random.default_rng(2).normal(size=(3000, 3)) * (50, 30, 5))
    estimated = moved(truth)
    for name in ("7.jpg", "2500.jpg"):
        pose = estimated[name]
        estimated[name] = pycolmap.Rigid3d(pose.rotation, pose.translation + 20.0)
    tracemalloc.start()
    try:
        alignment = align_poses(estimated, truth)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak < 50e6
    assert alignment.num_used == 2998
    assert float(alignment.truth_from_map.scale) == pytest.approx(2.5, rel=1e-9)


def test_too_little_in_common_is_an_error() -> None:
    truth = cameras(CLOUD)
    with pytest.raises(AlignmentError, match="share 1 images"):
        align_poses({"0.jpg": truth["0.jpg"], "x.jpg": truth["1.jpg"]}, truth)
    with pytest.raises(AlignmentError, match="share 2 images, 3 are needed"):
        align_poses({name: truth[name] for name in ("0.jpg", "1.jpg")}, truth)
    with pytest.raises(AlignmentError, match=r"share 0 images.*has 'a\.jpg', the truth '0\.jpg'"):
        align_poses({"a.jpg": truth["0.jpg"]}, truth)
    same_place = cameras(np.ones((4, 3)))
    with pytest.raises(InputError, match="at one place"):
        align_poses(same_place, same_place)


def test_a_poor_fit_is_told_with_its_numbers() -> None:
    truth = cameras(CLOUD)
    assert align_poses(moved(noisy(truth, 0.02, 0.5)), truth).doubt() == ""
    poor = align_poses(moved(noisy(truth, 0.5, 1.0)), truth)
    assert 0.05 * poor.spread_m < poor.rms_translation_m < 0.3 * poor.spread_m
    assert f"off by {poor.rms_translation_m:.3g} and" in poor.doubt()
    turned = align_poses(moved(noisy(truth, 0.01, 0.1, bias_deg=9.0)), truth)
    assert "deg (RMS)" in turned.doubt()


@pytest.mark.parametrize("count", [3, 5, 40])
def test_another_place_with_the_same_names_is_refused(count: int) -> None:
    rng = np.random.default_rng(count)
    for seed in range(5):
        truth = cameras(rng.normal(size=(count, 3)) * 5, seed=2 * seed)
        other = cameras(rng.normal(size=(count, 3)) * 2, seed=2 * seed + 1)
        with pytest.raises(AlignmentError, match=r"of different places.*") as error:
            align_poses(other, truth)
        assert f"of {count} common images are off by" in str(error.value)
