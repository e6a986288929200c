from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from benchmarks.datasets.pair_task import ImagePair, PairSet, PairsOptions
from benchmarks.markdown import to_markdown
from benchmarks.pair_scores import score_all_seeds

K = np.array([[500.0, 0, 320], [0, 500, 240], [0, 0, 1]])


def pinhole() -> object:
    import pycolmap

    return pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[500, 500, 320, 240])


def write_pairs(folder: Path, noise_px: tuple[float, ...]) -> PairSet:
    """Matches of a cloud of points with known noise, every second pair in another group."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    pairs = []
    truth = np.eye(4)
    truth[:3, 3] = (-1.0, 0.1, 0.05)
    for number, noise in enumerate(noise_px):
        points = rng.uniform((-2, -1.5, 4), (2, 1.5, 9), (80, 3))
        pixels = [(p @ K.T)[:, :2] / p[:, 2:] for p in (points, points + truth[:3, 3])]
        np.savez(
            folder / f"{number:06d}.npz",
            keypoints0=pixels[0].astype(np.float32),
            keypoints1=(pixels[1] + rng.normal(0, noise, (80, 2))).astype(np.float32),
            K0=K,
            K1=K,
            seconds=0.1,
        )
        pairs.append(
            ImagePair(
                image0=f"{number}a.jpg",
                image1=f"{number}b.jpg",
                camera0=pinhole(),
                camera1=pinhole(),
                cam1_from_cam0=truth,
                group="easy" if noise < 1 else "hard",
            )
        )
    return PairSet(images=folder, pairs=tuple(pairs), title="some pairs", published="megadepth1500")


def test_groups_seeds_and_intervals_stand_beside_the_score(tmp_path: Path) -> None:
    pair_set = write_pairs(tmp_path / "m", (0.01, 30.0, 0.02, 40.0, 0.01))
    options = PairsOptions(num_seeds=2, num_bootstrap=100)
    report = score_all_seeds(pair_set, tmp_path / "m", options)
    assert report.auc_deg is not None
    easy, hard = report.groups["easy"], report.groups["hard"]
    assert (easy["num_pairs"], hard["num_pairs"]) == (3, 2)
    assert easy["auc_deg"]["5"] > 0.9 > 0.5 > hard["auc_deg"]["5"]
    assert len(report.seeds["10"]) == 2 and report.seeds["10"][0] == report.auc_deg["10"]
    low, high = report.intervals["20"]
    assert low <= report.auc_deg["20"] <= high and low < high
    text = to_markdown(report, "megadepth1500", "sift", ["pose_errors.png"])
    assert "| easy | 3 |" in text and "RoMa v2" in text and "# some pairs" in text
    plain = score_all_seeds(
        replace(pair_set, pairs=pair_set.pairs[:1]), tmp_path / "m", PairsOptions()
    )
    assert (plain.groups, plain.seeds, plain.intervals) == ({}, {}, {})


def test_pairs_without_truth_have_neither(tmp_path: Path) -> None:
    pair_set = write_pairs(tmp_path / "m", (0.01,))
    unknown = tuple(replace(pair, cam1_from_cam0=None) for pair in pair_set.pairs)
    options = PairsOptions(num_seeds=2, num_bootstrap=10)
    report = score_all_seeds(replace(pair_set, pairs=unknown), tmp_path / "m", options)
    assert report.auc_deg is None and report.seeds == {} and report.intervals == {}
    with pytest.raises(ValueError, match="num_seeds must be at least 1"):
        PairsOptions(num_seeds=0)
