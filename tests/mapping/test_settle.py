"""Tests of `mapping/settle.py`."""

import numpy as np
import pycolmap
import pytest

from mapping.options import ReconstructionOptions
from mapping.settle import settle

WRONG_PX = 3.0  # below the limit of COLMAP's filters


def test_added_photos_are_not_drawn_by_wrong_matches() -> None:
    pycolmap.set_random_seed(0)
    truth = pycolmap.synthesize_dataset(
        pycolmap.SyntheticDatasetOptions(
            num_rigs=1, num_cameras_per_rig=1, num_frames_per_rig=6, num_points3D=300
        )
    )
    added = truth.image(sorted(truth.reg_image_ids())[0])
    start = pycolmap.Reconstruction(truth)
    start.deregister_frame(added.frame_id)
    fresh = sorted(truth.points3D)[:40]  # points that the added photo brought
    for point3D_id in fresh:
        start.delete_point3D(point3D_id)
    # what a quadratic adjustment leaves: the pose and the points follow the wrong matches
    model = pycolmap.Reconstruction(truth)
    image = model.image(added.image_id)
    wrong = [p for p in image.points2D if p.has_point3D()][::6]
    for point2D in wrong:
        point2D.xy = np.add(point2D.xy, (WRONG_PX, 0.0))
    askew = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0, 0.003, 0])), np.array([0.02, 0, 0]))
    image.frame.rig_from_world = askew * added.cam_from_world()
    for point in model.points3D.values():
        point.xyz = point.xyz + 0.01
    cameras = {camera_id: camera.params.copy() for camera_id, camera in truth.cameras.items()}
    settle(model, start, set(cameras), ReconstructionOptions())
    for image_id in model.reg_image_ids():
        off = (
            model.image(image_id).cam_from_world()
            * truth.image(image_id).cam_from_world().inverse()
        )
        limit = 2e-4 if image_id == added.image_id else 0
        assert off.rotation.angle() <= limit + 1e-12
        assert np.linalg.norm(off.translation) <= 5 * limit + 1e-12
    for point3D_id, before in start.points3D.items():
        np.testing.assert_array_equal(model.point3D(point3D_id).xyz, before.xyz)
    for point3D_id in set(fresh) & set(model.points3D):  # those come near the truth
        near = np.linalg.norm(model.point3D(point3D_id).xyz - truth.point3D(point3D_id).xyz)
        assert near < 0.01
    for camera_id, params in cameras.items():
        np.testing.assert_array_equal(model.camera(camera_id).params, params)
    assert model.compute_mean_reprojection_error() == pytest.approx(
        len(wrong) * WRONG_PX / model.compute_num_observations(), rel=0.3
    )
