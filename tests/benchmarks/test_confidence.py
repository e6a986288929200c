import math
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from benchmarks.confidence import Confidences, main, of_foreign, of_run, table
from localize import Localization, write_poses, write_results


def pose(x: float) -> pycolmap.Rigid3d:
    return pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([-x, 0.0, 0.0]))


def result(name: str, x: float, confidence: float) -> Localization:
    return Localization(
        name=name,
        success=True,
        cam_from_world=pose(x),
        confidence=confidence,
        covariance=np.eye(6),
    )


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """Two right poses, one 3 units off, one without a pose; and the truth."""
    results = [
        result("a", 0.0, 0.9),
        result("b", 0.1, 0.04),
        result("c", 3.0, 0.06),
        Localization(name="d", success=False, reason="black"),
    ]
    write_results(tmp_path / "results.jsonl", results)
    truth = [result(name, 0.0, 1.0) for name in "abcd"]
    write_poses(tmp_path / "truth.txt", truth)
    return tmp_path / "results.jsonl", tmp_path / "truth.txt"


def test_right_and_wrong_poses_are_told_apart(files: tuple[Path, Path]) -> None:
    found = of_run(*files, 0.25)
    assert (sorted(found.right), list(found.wrong), found.num_without) == ([0.04, 0.9], [0.06], 1)
    assert found.ranking == 0.5
    assert found.kept(0.05) == (1, 1) and found.kept(0.0) == (2, 1) and found.kept(1.0) == (0, 0)
    assert of_run(*files, 5.0).wrong == [] and math.isnan(of_run(*files, 5.0).ranking)


def test_every_pose_of_a_foreign_photo_is_wrong(files: tuple[Path, Path]) -> None:
    found = of_foreign(files[0])
    assert (sorted(found.wrong), list(found.right), found.num_without) == ([0.04, 0.06, 0.9], [], 1)


def test_the_tables(files: tuple[Path, Path], capsys: pytest.CaptureFixture[str]) -> None:
    main(["--run", "near", *map(str, files), "0.25", "--foreign", "elsewhere", str(files[0])])
    text = capsys.readouterr().out
    assert "| near | 2: 0.040, 0.470 | 1: 0.060, 0.060 | 1 | 0.500 |" in text
    assert "| elsewhere | 0 | 3: 0.060, 0.900 | 1 | nan |" in text
    assert "| 0.05 | 1 of 2 | 3 of 4 |" in text
    assert "all | 0 | 0 | 0 | nan" in table({"none": Confidences()})
