"""Tests of `benchmarks/speed/scale.py` on a tiny map."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.line_chart import draw_chart
from benchmarks.speed import scale
from mapping import Map


@pytest.fixture(scope="module")
def out(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("scale")
    scale.write_photos(folder / "photos", 21)
    scale.make_map(folder / "photos", folder / "sift_12", 12, "sift", {"max_num_features": 300})
    return folder


def test_photos_are_those_of_the_poses(out: Path) -> None:
    """The triangulated points lie on the wall or on the ground of their place."""
    scene = Map.open(out / "sift_12")
    assert scene.image_names == scale.photo_names(12)
    points = np.array([p.xyz for p in scene.reconstruction.points3D.values()])
    assert len(points) > 100
    on_wall, on_ground = np.abs(points[:, 1]) < 0.1, np.abs(points[:, 2]) < 0.1
    assert np.mean(on_wall | on_ground) > 0.9
    assert on_wall.sum() > 50


def test_queries_are_no_map_photos(out: Path) -> None:
    assert not set(scale.query_names()) & set(scale.photo_names(5000))
    assert all((out / "photos" / name).is_file() for name in scale.query_names())


def test_measure_and_report(out: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = scale.query_names()[:2]  # the others are of what the tiny map does not show
    monkeypatch.setattr(scale, "query_names", lambda: seen)
    row = scale.measure(out / "photos", out / "sift_12", top_k=4)
    assert row.size == 12
    assert (row.num_localized, row.num_wrong) == (2, 0)
    assert 0 < row.matcher_bytes <= row.open_bytes <= row.peak_bytes
    assert row.total_s >= sum(row.steps_s.values()) * 0.5 > 0
    text = scale.table([row, row])
    assert "| photos in the map | 12 | 12 |" in text
    assert "| queries localized | 2 of 2 | 2 of 2 |" in text
    for chart in scale.charts([row, row]).values():
        assert draw_chart(chart).size == (960, 600)
