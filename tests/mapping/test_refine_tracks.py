"""Tests of `mapping/refine_tracks.py` against known truth and against a dense solution."""

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from mapping.refine_tracks import MeasuredPair, refine_keypoints

NAMES = ["a", "b", "c", "d"]


def tracks(
    num_points: int, noise_px: float, seed: int = 0
) -> tuple[dict[str, NDArray[np.float32]], NDArray[np.float64], list[MeasuredPair]]:
    """Keypoints beside the true places of points in four photos, and measured matches of all pairs.

    Returns:
        The keypoints, how far each lies off its true place (4, N, 2), and the pairs.
    """
    random = np.random.default_rng(seed)
    true = random.uniform(0, 500, (4, num_points, 2))
    keypoints = {
        name: (true[i] + random.uniform(-0.8, 0.8, (num_points, 2))).astype(np.float32)
        for i, name in enumerate(NAMES)
    }
    off = np.stack([keypoints[name] - true[i] for i, name in enumerate(NAMES)])
    rows = np.repeat(np.arange(num_points)[:, None], 2, axis=1)
    pairs = []
    for i in range(4):
        for j in range(i + 1, 4):
            # keypoint i is seen in j as far off the truth there as in i: no zoom, no turn
            gaps = off[i] - off[j] + random.normal(0, noise_px, (num_points, 2))
            pairs.append(
                MeasuredPair(names=(NAMES[i], NAMES[j]), rows=rows, gaps=gaps.astype(np.float32))
            )
    return keypoints, off, pairs


def refine(
    keypoints: dict[str, NDArray[np.float32]],
    pairs: list[MeasuredPair],
    pixel_px: float = 1.0,
    **num_fixed: int,
) -> dict[str, NDArray[np.float32]]:
    return refine_keypoints(
        keypoints, pairs, pixel_px=dict.fromkeys(NAMES, pixel_px), num_fixed=num_fixed
    )


def disagreement(
    before: dict[str, NDArray[np.float32]],
    after: dict[str, NDArray[np.float32]],
    off: NDArray[np.float64],
) -> float:
    """Median distance of a track's observations from one common displacement off the truth."""
    errors = off + np.stack([after[name] - before[name] for name in NAMES])
    return float(np.median(np.linalg.norm(errors - errors.mean(0), axis=-1)))


def test_observations_of_a_track_meet() -> None:
    keypoints, off, pairs = tracks(400, noise_px=0.2)
    before = disagreement(keypoints, keypoints, off)
    refined = refine(keypoints, pairs)
    after = disagreement(keypoints, refined, off)
    # of four observations with three measurements each the noise is averaged
    assert before > 0.5 and after < 0.12
    assert all(refined[name].dtype == np.float32 for name in NAMES)


def test_a_photo_in_which_the_matcher_sees_coarsely() -> None:
    """Gaps of three pixels are one of the matcher's: nothing else changes with the scale."""
    keypoints, _, pairs = tracks(100, noise_px=0.2)
    large = {name: points * 3 for name, points in keypoints.items()}
    scaled = [MeasuredPair(names=p.names, rows=p.rows, gaps=p.gaps * 3) for p in pairs]
    once, thrice = refine(keypoints, pairs), refine(large, scaled, pixel_px=3.0)
    for name in NAMES:
        np.testing.assert_allclose(thrice[name] / 3, once[name], atol=1e-3)


def test_agrees_with_the_dense_solution() -> None:
    """Without noise the weights stay near one and the problem is linear."""
    keypoints, _, pairs = tracks(1, noise_px=0.01)
    refined = refine(keypoints, pairs)
    system, right = [np.sqrt(0.02) * np.eye(4)], [np.zeros((4, 2))]
    for pair in pairs:
        line = np.zeros((1, 4))
        line[0, [NAMES.index(name) for name in pair.names]] = -1, 1
        system.append(line)
        right.append(pair.gaps)
    shifts = np.linalg.lstsq(np.concatenate(system), np.concatenate(right), rcond=None)[0]
    moved = np.concatenate([refined[name] - keypoints[name] for name in NAMES])
    # where a track lies as a whole is settled slowly, and changes no agreement
    np.testing.assert_allclose(moved - moved.mean(0), shifts - shifts.mean(0), atol=0.02)


def test_wrong_matches_move_little() -> None:
    keypoints, off, pairs = tracks(300, noise_px=0.05)
    good = disagreement(keypoints, refine(keypoints, pairs), off)
    wrong = pairs[2]  # a with d: two other ways lead from a to d
    far = wrong.gaps + np.array([4, -3], np.float32)
    pairs[2] = MeasuredPair(names=wrong.names, rows=wrong.rows, gaps=far)
    spoiled = disagreement(keypoints, refine(keypoints, pairs), off)
    assert spoiled < good + 0.1


@pytest.mark.parametrize("fixed", [0, 1, 250])
def test_keypoints_that_stay_and_limits(fixed: int) -> None:
    keypoints, _, pairs = tracks(250, noise_px=3.0)
    refined = refine(keypoints, pairs, a=fixed)
    np.testing.assert_array_equal(refined["a"][:fixed], keypoints["a"][:fixed])
    moved = np.abs(np.concatenate([refined[name] - keypoints[name] for name in NAMES]))
    assert 1.0 < moved.max() <= 1.5001


def test_nothing_measured_nothing_moved() -> None:
    keypoints, _, _ = tracks(5, noise_px=0.0)
    keypoints["empty"] = np.zeros((0, 2), np.float32)
    refined = refine(keypoints, [])
    for name, points in keypoints.items():
        np.testing.assert_array_equal(refined[name], points)


def test_matches_are_worked_on_in_parts_from_the_disk(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    keypoints, _, pairs = tracks(150, noise_px=0.3)
    whole = refine(keypoints, pairs)
    monkeypatch.setattr("mapping.refine_tracks._CHUNK", 97)
    parts = refine_keypoints(keypoints, iter(pairs), pixel_px={}, num_fixed={}, scratch=tmp_path)
    for name in NAMES:
        np.testing.assert_allclose(parts[name], whole[name], atol=1e-4)
    assert not list(tmp_path.iterdir()), "the files have no names, nothing is left behind"
