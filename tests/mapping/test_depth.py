"""Map points from given surfaces."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from mapping import build_map
from mapping.database import MapCameras, write_database, write_matches
from mapping.depth import Surfaces, files_identity, join, lift_keypoints, points_from_surfaces
from matching.errors import InputError
from tests.mapping.conftest import Place
from tests.mapping.fakes import SIZE, FakeMatcher

WIDTH, HEIGHT, FOCAL = 40, 30, 30.0


def plane(width: int, height: int, center: np.ndarray) -> np.ndarray:
    """World points of the tilted plane z = 5 + 0.2 x, seen by an unturned camera, (H, W, 3)."""
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    rays = np.stack([(x - 0.5) * WIDTH / FOCAL, (y - 0.5) * HEIGHT / FOCAL, np.ones_like(x)], -1)
    z = (5 + 0.2 * center[0] - center[2]) / (1 - 0.2 * rays[..., 0])
    return center + rays * z[..., None]


def lift_slowly(surface: np.ndarray, pixel: np.ndarray, center: np.ndarray) -> np.ndarray:
    """Twin of `lift_keypoints` for one pixel."""
    height, width = surface.shape[:2]
    u, v = pixel[0] * width / WIDTH, pixel[1] * height / HEIGHT
    column, row = min(max(int(u), 0), width - 1), min(max(int(v), 0), height - 1)
    nearest = surface[row, column].astype(float)
    left, top = int(np.floor(u - 0.5)), int(np.floor(v - 0.5))
    total = np.zeros(3)
    for dx in (0, 1):
        for dy in (0, 1):
            x, y = min(max(left + dx, 0), width - 1), min(max(top + dy, 0), height - 1)
            corner = surface[y, x]
            gap = np.linalg.norm(corner - nearest)
            if not gap <= 0.05 * np.linalg.norm(nearest - center):
                return nearest
            weight = abs(1 - dx - (u - 0.5 - left)) * abs(1 - dy - (v - 0.5 - top))
            total += weight * corner
    return total


@pytest.mark.parametrize("grid", [(WIDTH, HEIGHT), (20, 15), (1, 1), (13, 30)])
def test_lifting_agrees_with_its_twin(grid: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    center = np.array([0.3, -0.2, 0.1])
    surface = plane(*grid, center)
    if surface.size > 3:
        surface[: grid[1] // 3] -= (0, 0, 2)  # an edge
        surface[rng.random(surface.shape[:2]) < 0.1] = np.nan  # and holes
    pixels = rng.uniform(0, (WIDTH, HEIGHT), (300, 2))
    pixels = np.concatenate([pixels, [[0, 0], [WIDTH, HEIGHT], [WIDTH - 1e-6, 0.2]]])
    fast = lift_keypoints(surface, pixels, (WIDTH, HEIGHT), center)
    slow = np.array([lift_slowly(surface, pixel, center) for pixel in pixels])
    np.testing.assert_allclose(fast, slow, rtol=1e-9)


def test_lifting_is_exact_to_a_fraction_of_a_pixel() -> None:
    center = np.array([0.0, 0.0, 0.0])
    surface = plane(WIDTH, HEIGHT, center)
    pixels = np.random.default_rng(1).uniform(2, 28, (200, 2))
    points = lift_keypoints(surface, pixels, (WIDTH, HEIGHT), center)
    projected = points[:, :2] / points[:, 2:] * FOCAL + (WIDTH / 2, HEIGHT / 2)
    # bilinear in space, not in the picture; the nearest grid point would be 0.4 px off
    assert np.abs(projected - pixels).max() < 0.01
    assert len(lift_keypoints(surface, np.zeros((0, 2)), (WIDTH, HEIGHT), center)) == 0
    with pytest.raises(InputError, match=r"\(30, 40\)"):
        lift_keypoints(surface[..., 0], pixels, (WIDTH, HEIGHT), center)


def test_join_connects_what_agrees() -> None:
    xyz = np.array([[0, 0, 10], [0.1, 0, 10], [0.2, 0, 10], [5, 0, 10], [np.nan] * 3, [9, 9, 9.0]])
    distance = np.linalg.norm(xyz, axis=1)
    edges = np.array([[1, 2], [0, 1], [2, 3], [4, 3], [4, 0]])
    # 3 is too far from 2; 4 has no surface and joins the first it is matched with
    np.testing.assert_array_equal(join(edges, xyz, distance), [0, 0, 0, 3, 3, 5])
    no_edges = np.zeros((0, 2), np.int64)
    np.testing.assert_array_equal(join(no_edges, xyz, distance), np.arange(6))
    chain = np.stack([np.arange(999), np.arange(1, 1000)], axis=1)
    line = np.tile([0.0, 0.0, 1.0], (1000, 1))
    assert (join(chain, line, np.ones(1000)) == 0).all()


def make_database(folder: Path) -> tuple[Path, dict[str, pycolmap.Rigid3d], np.ndarray]:
    """Two photos of the plane with ten matches, and one keypoint that only the first has."""
    camera = pycolmap.Camera(
        model="SIMPLE_PINHOLE", width=WIDTH, height=HEIGHT, params=[FOCAL, WIDTH / 2, HEIGHT / 2]
    )
    rng = np.random.default_rng(2)
    x, y = rng.uniform(-0.9, 1.1, 10), rng.uniform(-1, 1, 10)
    points = np.stack([x, y, 5 + 0.2 * x], axis=1)
    names, centers = ("a.jpg", "b.jpg"), (np.zeros(3), np.array([0.3, 0.1, 0.0]))
    poses, keypoints = {}, {}
    for name, center in zip(names, centers, strict=True):
        poses[name] = pycolmap.Rigid3d(pycolmap.Rotation3d(), -center)
        seen = points - center
        pixels = seen[:, :2] / seen[:, 2:] * FOCAL + (WIDTH / 2, HEIGHT / 2)
        keypoints[name] = pixels.astype(np.float32)
    keypoints["a.jpg"] = np.append(keypoints["a.jpg"], [[3.0, 4.0]], axis=0).astype(np.float32)
    cameras = MapCameras([camera], dict.fromkeys(names, 0))
    rows = np.stack([np.arange(10), np.arange(10)], axis=1)
    path = folder / "database.db"
    write_database(path, cameras, keypoints)
    write_matches(path, [(names, rows)])
    with pycolmap.Database.open(path) as database:
        geometry = pycolmap.TwoViewGeometry()
        geometry.config = pycolmap.TwoViewGeometryConfiguration.CALIBRATED
        geometry.inlier_matches = rows.astype(np.uint32)
        database.write_two_view_geometry(1, 2, geometry)
    return path, poses, points


def test_points_lie_on_the_surfaces(tmp_path: Path) -> None:
    database, poses, points = make_database(tmp_path)
    centers = {name: pose.inverse().translation for name, pose in poses.items()}
    result = points_from_surfaces(database, poses, lambda n: plane(WIDTH, HEIGHT, centers[n]))
    model = result.model
    tracks = sorted(point.track.length() for point in model.points3D.values())
    assert tracks == [1] + [2] * 10  # one keypoint only the first photo has
    found = np.array([p.xyz for p in model.points3D.values() if p.track.length() == 2])
    gap = np.linalg.norm(found[:, None] - points[None], axis=-1).min(axis=1)
    assert gap.max() < 0.01
    assert model.compute_mean_reprojection_error() < 0.05
    for name, pose in poses.items():
        image = model.find_image_with_name(name)
        np.testing.assert_array_equal(image.cam_from_world().matrix(), pose.matrix())


def test_keypoints_without_surface_have_no_point(tmp_path: Path) -> None:
    database, poses, _ = make_database(tmp_path)
    blind = np.full((4, 4, 3), np.nan)
    with pytest.raises(InputError, match="no keypoint lies on a given surface"):
        points_from_surfaces(database, poses, lambda name: blind)
    # one photo without any depth: its keypoints see the points of those they are matched with
    surface = plane(WIDTH, HEIGHT, np.zeros(3))
    result = points_from_surfaces(
        database, poses, lambda name: surface if name == "a.jpg" else blind
    )
    assert sorted(p.track.length() for p in result.model.points3D.values()) == [1] + [2] * 10


def test_a_map_with_other_depth_is_another_map(place: Place, tmp_path: Path) -> None:
    world_from_cam = {name: place.world.poses[k].inverse() for k, name in place.names.items()}
    x, y = np.meshgrid(np.arange(0, SIZE[0], 8) + 4, np.arange(0, SIZE[1], 8) + 4)
    rays = place.world.camera.cam_from_img(np.column_stack([x.ravel(), y.ravel()]).astype(float))

    def made(depth: float, identity: str, *, overwrite: bool = False) -> np.ndarray:
        def surface(name: str) -> np.ndarray:
            points = world_from_cam[name] * (depth * np.column_stack([rays, np.ones(len(rays))]))
            return points.reshape(*x.shape, 3).astype(np.float32)

        scene = build_map(
            place.photos,
            tmp_path / "map",
            FakeMatcher(place.world),
            known_poses=place.world.model(place.names),
            surfaces=Surfaces(read=surface, identity=identity),
            overwrite=overwrite,
        )
        ids = scene.point3D_ids(scene.image_names[0])
        return scene.points3D(np.unique(ids[ids >= 0]))

    near = made(6.0, "near")
    np.testing.assert_array_equal(made(6.0, "near"), near)
    with pytest.raises(InputError, match=r"another 'inputs\.surfaces'"):
        made(7.0, "far")
    far = made(7.0, "far", overwrite=True)
    assert np.linalg.norm(far.mean(0) - near.mean(0)) > 0.5


def test_identity_of_files(tmp_path: Path) -> None:
    file = tmp_path / "a.png"
    seen = {files_identity([file])}
    file.write_bytes(b"1")
    seen |= {files_identity([file]), files_identity([]), files_identity([file], "kinect")}
    file.write_bytes(b"22")
    seen.add(files_identity([file]))
    assert len(seen) == 5
    assert files_identity([file]) in seen
