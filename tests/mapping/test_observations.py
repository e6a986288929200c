"""Tests of `mapping/observations.py`: what is read in parts agrees with the whole model."""

import shutil
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from mapping import Map
from mapping.observations import Observations, write_observations
from matching import InputError


def world(num_images: int, num_points: int, seed: int = 0) -> pycolmap.Reconstruction:
    """A model whose points have gaps in their numbers, and photos that see nothing."""
    random = np.random.default_rng(seed)
    model = pycolmap.Reconstruction()
    cameras = [
        pycolmap.Camera(camera_id=7, model="PINHOLE", width=64, height=48, params=[50, 51, 32, 24]),
        pycolmap.Camera(
            camera_id=3, model="SIMPLE_RADIAL", width=48, height=64, params=[40, 24, 32, 0.1]
        ),
    ]
    cameras[1].has_prior_focal_length = True
    for camera in cameras:
        model.add_camera_with_trivial_rig(camera)
    for number in range(num_images):
        image = pycolmap.Image(
            name=f"{num_images - number:04d} é.jpg",  # names and numbers in different orders
            camera_id=(7, 3)[number % 2],
            image_id=number + 1,
        )
        keypoints = 0 if number == 2 else 30
        image.points2D = pycolmap.Point2DList(
            [pycolmap.Point2D(p) for p in random.uniform(0, 48, (keypoints, 2))]
        )
        quaternion = random.normal(size=4)
        pose = pycolmap.Rigid3d(
            pycolmap.Rotation3d(quaternion / np.linalg.norm(quaternion)), random.normal(size=3)
        )
        model.add_image_with_trivial_frame(image, pose)
    free = {i: list(range(model.image(i).num_points2D())) for i in model.images}
    ids = []
    for _ in range(num_points):
        seen = [i for i in sorted(free) if free[i] and random.random() < 0.4]
        track = pycolmap.Track()
        for image_id in seen[:6]:
            track.add_element(image_id, free[image_id].pop())
        ids.append(model.add_point3D(random.normal(size=3), track))
    for point in ids[1::3]:
        model.delete_point3D(point)
    return model


def check_against_model(stored: Observations, model: pycolmap.Reconstruction) -> None:
    """Everything the slow way, photo by photo and point by point."""
    images = {model.image(i).name: model.image(i) for i in model.reg_image_ids()}
    assert stored.names == sorted(images)
    points = {n: [p.point3D_id for p in i.points2D if p.has_point3D()] for n, i in images.items()}
    for name, image in images.items():
        assert name in stored
        expected = [p.point3D_id if p.has_point3D() else -1 for p in image.points2D]
        assert stored.point3D_ids(name).tolist() == expected
        np.testing.assert_array_equal(
            stored.cam_from_world(name).matrix(), image.cam_from_world().matrix()
        )
        camera, true = stored.camera(name), model.camera(image.camera_id)
        assert repr(camera) == repr(true)
        assert camera.has_prior_focal_length == true.has_prior_focal_length
        np.testing.assert_array_equal(camera.params, true.params)
        shared = {n: len(set(points[name]) & set(p)) for n, p in points.items() if n != name}
        found = stored.covisible(name)
        assert found == {n: count for n, count in shared.items() if count}
        assert list(found.values()) == sorted(found.values(), reverse=True)
    known = sorted(model.points3D)
    asked = np.array(known[::2] + known[::-1], np.int64)  # unsorted, with repetitions
    expected_xyz = np.array([model.point3D(i).xyz for i in asked.tolist()]).reshape(-1, 3)
    np.testing.assert_array_equal(stored.points3D(asked), expected_xyz)
    for missing in (-1, 0, max(known, default=0) + 1, *set(range(1, 20)).difference(known)):
        with pytest.raises(KeyError):
            stored.points3D([*known[:3], missing])


@pytest.mark.parametrize(
    ("num_images", "num_points"), [(0, 0), (1, 0), (2, 1), (9, 40), (150, 900)]
)
def test_agrees_with_the_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, num_images: int, num_points: int
) -> None:
    # small chunks, so that photos and points lie in several of them
    monkeypatch.setattr("mapping.observations._POINTS_PER_CHUNK", 16)
    monkeypatch.setattr("mapping.observations._VALUES_PER_CHUNK", 50)
    monkeypatch.setattr("mapping.observations._MAX_PHOTOS_IN_MEMORY", 4)
    model = world(num_images, num_points)
    write_observations(tmp_path / "o.h5", model)
    stored = Observations(tmp_path / "o.h5")
    assert stored.num_cameras() == min(2, num_images)
    check_against_model(stored, model)


def test_what_is_shared_cannot_be_changed(tmp_path: Path) -> None:
    write_observations(tmp_path / "o.h5", world(3, 5))
    stored = Observations(tmp_path / "o.h5")
    with pytest.raises(ValueError, match="read-only"):
        stored.point3D_ids(stored.names[0])[:] = 0


def test_damage_is_named_where_it_is_read(tmp_path: Path) -> None:
    file = tmp_path / "o.h5"
    model = world(30, 300)
    write_observations(file, model)
    data = file.read_bytes()
    xyz = np.array([model.point3D(i).xyz for i in sorted(model.points3D)[:4]]).tobytes()
    at = data.index(xyz) + 5
    file.write_bytes(data[:at] + bytes([data[at] ^ 1]) + data[at + 1 :])
    stored = Observations(file)
    assert len(stored.point3D_ids(stored.names[0])) == 30
    with pytest.raises(InputError, match=r"o\.h5' is damaged"):
        stored.points3D([min(model.points3D)])
    other = tmp_path / "x.h5"
    other.write_bytes(b"no such file")
    with pytest.raises(InputError, match=r"x\.h5' is damaged"):
        Observations(other)


def test_maps_read_the_model_only_when_asked(posed_map: Map, tmp_path: Path) -> None:
    shutil.copytree(posed_map.path, tmp_path / "map")
    scene = Map.open(tmp_path / "map")
    expected = {n: posed_map.image(n).cam_from_world().matrix() for n in posed_map.image_names}
    shutil.rmtree(tmp_path / "map" / "sparse")
    for name in scene.image_names:
        np.testing.assert_array_equal(scene.cam_from_world(name).matrix(), expected[name])
        ids = scene.point3D_ids(name)
        assert len(scene.points3D(ids[ids >= 0])) > 100
        assert scene.covisible(name)
    with pytest.raises(InputError, match="is missing, or was replaced: open the map again"):
        scene.image(scene.image_names[0])


def test_whole_model_is_checked_when_it_is_read(
    posed_map: Map, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("mapping.info._MAX_CHEAP_BYTES", 0)
    shutil.copytree(posed_map.path, tmp_path / "map")
    file = tmp_path / "map" / "sparse" / "images.bin"
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    scene = Map.open(tmp_path / "map")  # too large to hash at opening
    with pytest.raises(InputError, match=r"images\.bin.*damaged"):
        _ = scene.reconstruction
