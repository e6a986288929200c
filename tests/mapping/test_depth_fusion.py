"""Fusion of hand-made depth maps, and the files clouds are written to."""

from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from mapping.depth_fusion import CloudPart, DepthMap, FusionOptions, fuse
from mapping.ply import write_ply
from matching.preprocess import NetworkFrame
from tests.mapping.clouds import read_ply

SIZE = (40, 30)


def wall(x: float, distance: float = 5.0) -> DepthMap:
    """A camera at (x, 0, 0) that looks at a wall."""
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=80, height=60, params=[80.0, 40.0, 30.0])
    return DepthMap(
        camera=camera,
        cam_from_world=pycolmap.Rigid3d(pycolmap.Rotation3d(), np.array([-x, 0.0, 0.0])),
        frame=NetworkFrame(image_size=SIZE, scale=(2.0, 2.0), offset=(0.0, 0.0)),
        depth=np.full(SIZE[::-1], distance, np.float32),
        confidence=np.ones(SIZE[::-1], np.float32),
    )


def run(maps: list[DepthMap], **options: Any) -> list[CloudPart]:
    others = [[m for m in range(len(maps)) if m != n] for n in range(len(maps))]
    return fuse(maps.__getitem__, others, FusionOptions(**options))


def test_what_two_photos_see_is_there_once() -> None:
    parts = run([wall(0.0), wall(0.25)])
    assert len(parts[0].points) > 1000
    assert len(parts[1].points) < 0.05 * len(parts[0].points)
    np.testing.assert_allclose(parts[0].points[:, 2], 5, atol=1e-6)
    np.testing.assert_allclose(parts[0].normals, [[0, 0, -1]] * len(parts[0].points), atol=1e-5)
    ((view, rows, positions),) = parts[0].others
    assert view == 1 and len(rows) == len(parts[0].points)
    # 0.25 m aside at 5 m and 80 px: 4 px to the left
    np.testing.assert_allclose(positions[:, 0] - parts[0].pixels[rows][:, 0], -4, atol=1e-6)


def test_agreeing_depths_are_averaged() -> None:
    parts = run([wall(0.0, 5.0), wall(0.25, 5.1)])
    np.testing.assert_allclose(parts[0].points[:, 2], 5.05, atol=1e-5)


def test_points_that_others_see_through_are_left_out() -> None:
    floating = wall(0.0)
    floating.depth[10:20, 15:25] = 2.5
    maps = [floating, wall(0.25), wall(-0.25)]
    kept = run(maps, min_consistent=0)[0]
    assert (kept.points[:, 2] > 4).all()
    assert not len(run([wall(0.0)], min_consistent=1)[0].points)
    assert len(run([wall(0.0)], min_consistent=0)[0].points) == SIZE[0] * SIZE[1]


def test_unknown_and_unsure_depths_do_not_count() -> None:
    holes = wall(0.0)
    holes.depth[:5] = 0
    holes.depth[5:10] = np.nan
    holes.confidence[10:15] = 0.1
    part = run([holes, wall(0.25)], min_confidence=0.5)[0]
    assert part.pixels[:, 1].min() > 30
    nothing = wall(0.0)
    nothing.depth[:] = 0
    assert not len(run([nothing, nothing])[0].points)


def test_too_many_points_are_thinned_evenly() -> None:
    maps = [wall(0.0), wall(0.25)]
    part = run(maps, max_points=200)[0]
    assert len(part.points) == 100
    assert np.ptp(part.pixels[:, 1]) > 50
    rows = part.others[0][1]
    assert rows.max() < 100 and (np.diff(rows) > 0).all()


@pytest.mark.parametrize(
    "values", [{"min_consistent": -1}, {"max_depth_difference": 0.0}, {"max_points": 0}]
)
def test_bad_options_are_refused(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        FusionOptions(**values)


@pytest.mark.parametrize("count", [0, 1, 1000])
def test_clouds_come_back_as_written(tmp_path: Path, count: int) -> None:
    rng = np.random.default_rng(0)
    points, normals = rng.normal(size=(2, count, 3))
    points += (4e6, 5e5, 4.5e6)  # geographic coordinates
    colors = rng.integers(0, 256, (count, 3)).astype(np.uint8)
    write_ply(tmp_path / "a.ply", points, normals, colors, np.arange(count))
    cloud = read_ply(tmp_path / "a.ply")
    np.testing.assert_allclose(np.column_stack([cloud[a] for a in "xyz"]), points, rtol=0)
    np.testing.assert_allclose(cloud["nz"], normals[:, 2], rtol=1e-6)
    np.testing.assert_array_equal(cloud["green"], colors[:, 1])
    np.testing.assert_array_equal(cloud["confidence"], np.arange(count))
