"""What the timing script claims about a truth that has metres, and about one that has none."""

import sys
from pathlib import Path

import pytest
import torch

from benchmarks.datasets.colmap_folder import read_colmap_folder
from benchmarks.speed import pipeline
from matching.sift import SiftMatcher
from tests.benchmarks.fakes import LocalizingMatcher
from tests.mapping.fakes import FakeWorld


@pytest.mark.parametrize("metric", [True, False])
def test_metres_recall_and_vcre_are_claimed_of_a_metric_truth_only(
    tmp_path: Path, metric: bool
) -> None:
    world = FakeWorld()
    scene = tmp_path / "place"
    names = world.write_photos(scene / "images")
    (scene / "sparse_gt").mkdir()
    world.model(names).write_text(scene / "sparse_gt")
    params = " ".join(map(str, world.camera.params))
    (scene / "query.txt").write_text(f"{names[3]} PINHOLE 640 480 {params}\n")
    (scene / "map.txt").write_text("".join(f"{n}\n" for k, n in names.items() if k != 3))
    row, report = pipeline.run_ours(
        read_colmap_folder(scene),
        "given",
        tmp_path / "out",
        LocalizingMatcher(world),
        metric=metric,
    )
    assert (row.num_queries, row.num_localized, row.metric) == (1, 1, metric)
    line = pipeline.table([row]).splitlines()[-1]
    if metric:
        assert f"{row.translation * 100:.2f} cm, " in line and "| 1.00 |" in line
    else:
        assert f"{row.translation:.4f} units, " in line and " cm" not in line
        assert "| - px | - |" in line
        assert any("no metric scale" in note for note in report.notes)


def test_the_threads_asked_for_are_those_used_and_named() -> None:
    before = torch.get_num_threads()
    try:
        matcher = pipeline.load_threaded("sift", 3)
        assert isinstance(matcher, SiftMatcher) and matcher.options.num_threads == 3
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert "3 threads for torch and for reading and encoding photos" in pipeline.environment(3)


def test_an_unscaled_scene_that_is_not_run_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["pipeline", "data/fox", "--out", "x", "--unscaled", "fix"]
    monkeypatch.setattr(sys, "argv", arguments)
    with pytest.raises(SystemExit):
        pipeline.main()
    assert "--unscaled names no scene: fix" in capsys.readouterr().err
