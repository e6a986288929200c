"""A map of real pixels with the real matcher: textured walls photographed by a simple renderer."""

from pathlib import Path

import numpy as np
import pycolmap
from PIL import Image

from mapping import build_map
from matching import load_matcher

SIZE = (320, 240)


def wall_texture(seed: int) -> np.ndarray:
    """Blobs of many sizes, (512, 512, 3) uint8."""
    random = np.random.default_rng(seed)
    texture = np.zeros((512, 512, 3))
    for step in (4, 8, 16, 32):
        coarse = random.uniform(0, 255, (512 // step, 512 // step, 3)).astype(np.uint8)
        texture += np.array(Image.fromarray(coarse).resize((512, 512), Image.Resampling.BICUBIC))
    return np.clip((texture / 4 - 128) * 1.8 + 128, 0, 255).astype(np.uint8)


def render(K: np.ndarray, cam_from_world: pycolmap.Rigid3d) -> np.ndarray:
    """A corner of two walls, z = 0 and x = 2, each 4 x 4 units, by intersecting pixel rays."""
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    rays = np.stack([x, y, np.ones_like(x)], axis=-1) @ np.linalg.inv(K).T
    world_from_cam = cam_from_world.inverse()
    directions = rays @ world_from_cam.rotation.matrix().T
    centre = world_from_cam.translation
    image = np.full((*x.shape, 3), 90, np.uint8)
    nearest = np.full(x.shape, np.inf)
    for axis, place, (u, v), seed in ((2, 0.0, (0, 1), 1), (0, 2.0, (2, 1), 2)):
        distance = (place - centre[axis]) / directions[..., axis]
        hits = centre + distance[..., None] * directions
        inside = (distance > 0) & (distance < nearest)
        inside &= (np.abs(hits[..., v]) < 2) & (hits[..., u] > -4) & (hits[..., u] < 2)
        texture = wall_texture(seed)
        columns = ((hits[..., u] + 4) / 6 * 511).clip(0, 511).astype(int)
        rows = ((hits[..., v] + 2) / 4 * 511).clip(0, 511).astype(int)
        image[inside] = texture[rows, columns][inside]
        nearest[inside] = distance[inside]
    return image


def test_map_of_rendered_walls(tmp_path: Path) -> None:
    camera = pycolmap.Camera.create_from_model_name(1, "PINHOLE", 300.0, *SIZE)
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(camera)
    (tmp_path / "photos").mkdir()
    for i in range(6):
        angle = np.radians(25 - 9 * i)
        centre = np.array([-1.2 + 0.45 * i, 0.15 * (-1) ** i, -4.0])
        rotation = np.array(
            [[np.cos(angle), 0, -np.sin(angle)], [0, 1, 0], [np.sin(angle), 0, np.cos(angle)]]
        )
        pose = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ centre)
        name = f"{i}.jpg"
        model.add_image_with_trivial_frame(
            pycolmap.Image(name=name, camera_id=1, image_id=i + 1), pose
        )
        image = render(camera.calibration_matrix(), pose)
        Image.fromarray(image).save(tmp_path / "photos" / name, quality=92)
    matcher = load_matcher("sift", options={"max_num_features": 800})
    posed = build_map(tmp_path / "photos", tmp_path / "posed", matcher, known_poses=model)
    points = posed.points3D(sorted(posed.reconstruction.points3D))
    distances = np.minimum(np.abs(points[:, 2]), np.abs(points[:, 0] - 2))
    assert len(points) > 150
    assert np.median(distances) < 0.02  # a pixel is 1.3 cm on the walls
    assert posed.load_matcher().fingerprint == matcher.fingerprint
    free = build_map(
        tmp_path / "photos",
        tmp_path / "free",
        matcher,
        cameras={i.name: camera for i in model.images.values()},
    )
    assert len(free.image_names) == 6
    result = pycolmap.compare_reconstructions(
        free.reconstruction, posed.reconstruction, alignment_error="proj_center"
    )
    assert result is not None
    assert max(e.proj_center_error for e in result["errors"]) < 0.05
    assert max(e.rotation_error_deg for e in result["errors"]) < 0.5
