"""Tests of `mapping/dense_export.py`; whole reconstructions are in the tests of their makers."""

from pathlib import Path

import h5py
import numpy as np
import pycolmap

from mapping.dense_export import read_depth, write_depth
from mapping.depth_fusion import DepthMap
from matching.preprocess import NetworkFrame


def test_depth_maps_come_back_as_written(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    depth = rng.uniform(0, 9, (6, 8)).astype(np.float32)
    confidence = np.ones((6, 8), np.float32)
    confidence[0, :3] = 1e9, np.inf, 70_000  # more than half precision holds
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=16, height=12, params=[14, 8, 6])
    pose = pycolmap.Rigid3d()
    frame = NetworkFrame(image_size=(8, 6), scale=(2.0, 2.0), offset=(0.5, 0.0))
    written = DepthMap(
        camera=camera, cam_from_world=pose, frame=frame, depth=depth, confidence=confidence
    )
    with h5py.File(tmp_path / "depth.h5", "w") as file:
        write_depth(file, "sub/a.jpg", written)
        found = read_depth(file, "sub/a.jpg", camera, pose)
    np.testing.assert_array_equal(found.depth, depth)
    assert found.frame == frame
    assert np.isfinite(found.confidence).all()
    assert (found.confidence[0, :3] > 60_000).all() and (found.confidence[1:] == 1).all()
