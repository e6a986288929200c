"""Photos of the studio show what their cameras and depth say."""

import numpy as np
import pycolmap
import pytest

from benchmarks.miniatures.studio import (
    FOCAL_PX,
    Shot,
    Studio,
    camera_center,
    pinhole,
    quat_wxyz,
    world_frame,
)

WORLD = world_frame(130.0, 70.0, (700.0, 20.0, 180.0))


def world_points(shot: Shot) -> np.ndarray:
    """Of every pixel, (H, W, 3), NaN without depth."""
    world_from_cam = np.linalg.inv(shot.cam_from_world)
    return shot.points_in_cam() @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]


def test_a_pinhole_at_the_rendered_focal_length_is_a_plain_crop(studio: Studio) -> None:
    wide = studio.shot("map", 1, pinhole(320, 240, FOCAL_PX))
    small = studio.shot("map", 1, pinhole(240, 200, FOCAL_PX))
    np.testing.assert_array_equal(wide.image[20:220, 40:280], small.image)
    np.testing.assert_array_equal(wide.depth[20:220, 40:280], small.depth)
    assert (wide.depth > 0).mean() > 0.7


def test_distorted_and_portrait_photos_see_the_same_world(studio: Studio) -> None:
    """Points of one photo, projected into another by another camera, lie where it has them."""
    first = studio.shot("map", 1, pinhole(320, 240, FOCAL_PX), WORLD)
    params = [270.0, 262.0, 118.0, 163.0, -0.12, 0.02, 0.001, -0.002]
    distorted = pycolmap.Camera(model="OPENCV", width=240, height=320, params=params)
    second = studio.shot("map", 2, distorted, WORLD)
    points = world_points(first).reshape(-1, 3)
    points = points[np.isfinite(points).all(1)]
    in_second = points @ second.cam_from_world[:3, :3].T + second.cam_from_world[:3, 3]
    pixels = distorted.img_from_cam(in_second)
    inside = (in_second[:, 2] > 0) & (pixels > 0).all(1) & (pixels < (240, 320)).all(1)
    column, row = pixels[inside].astype(int).T
    seen, expected = world_points(second)[row, column], points[inside]
    gap = np.linalg.norm(seen - expected, axis=1)
    agrees = gap < 0.02 * in_second[inside, 2]  # a pixel is 0.4 % of the depth wide
    assert inside.sum() > 10_000
    # the others are hidden in the second photo
    assert agrees[np.isfinite(gap)].mean() > 0.8


def test_world_frames_move_poses_not_photos(studio: Studio) -> None:
    plain = studio.shot("query", 1, pinhole(160, 120, FOCAL_PX))
    moved = studio.shot("query", 1, pinhole(160, 120, FOCAL_PX), WORLD)
    np.testing.assert_array_equal(plain.image, moved.image)
    expected = WORLD[:3, :3] @ camera_center(plain.cam_from_world) + WORLD[:3, 3]
    np.testing.assert_allclose(camera_center(moved.cam_from_world), expected, atol=1e-9)
    rotation = pycolmap.Rotation3d(np.roll(quat_wxyz(moved.cam_from_world), -1)).matrix()
    np.testing.assert_allclose(rotation, moved.cam_from_world[:3, :3], atol=1e-12)


def test_a_wider_camera_is_refused(studio: Studio) -> None:
    with pytest.raises(ValueError, match="more than 70 degrees"):
        studio.shot("map", 0, pinhole(320, 240, 150.0))
