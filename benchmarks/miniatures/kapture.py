"""A tiny kapture of a rig with two cameras, with keypoints, points and a list of pairs."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from benchmarks.miniatures.studio import (
    FloatArray,
    Shot,
    Studio,
    pinhole,
    quat_wxyz,
    world_frame,
    write_photo,
)
from matching.files import PathLike, atomic_file, write_text_atomic

WORLD = world_frame(-70.0, 15.0, (4.0, 44.0, -9.0))
MAP = tuple(f"cam{k % 2}/{k:03d}.jpg" for k in range(6))
QUERIES = tuple(f"phone/IMG_{k}.jpg" for k in range(3))
KEYPOINTS = "harris"  # type of the keypoints; they only serve the points
_LINE = "# kapture format: 1.1\n"
# the second camera of the rig looks and stands elsewhere than the first
_CAM1_FROM_RIG = world_frame(3.0, -2.0, (0.2, 0.03, -0.1))


def write_kapture(root: PathLike, studio: Studio) -> dict[str, pycolmap.Rigid3d]:
    """Write it; returns the true poses of the queries by their full names."""
    folder = Path(root)
    cameras = {"cam0": pinhole(320, 240, 275.0), "cam1": pinhole(240, 320, 270.0)}
    shots = [
        studio.shot("map", index, cameras[f"cam{index % 2}"], WORLD) for index in range(len(MAP))
    ]
    mapping = folder / "mapping"
    trajectories, records = [], []
    for index, (name, shot) in enumerate(zip(MAP, shots, strict=True)):
        write_photo(mapping / "sensors/records_data" / name, shot.image)
        cam_from_rig = np.eye(4) if index % 2 == 0 else _CAM1_FROM_RIG
        rig_from_world = np.linalg.inv(cam_from_rig) @ shot.cam_from_world
        trajectories.append([index, "rig", *_pose(rig_from_world)])
        records.append([index, f"cam{index % 2}", name])
    _write(mapping / "sensors/sensors.txt", [_sensor(n, c) for n, c in cameras.items()])
    rigs = [["rig", "cam0", *_pose(np.eye(4))], ["rig", "cam1", *_pose(_CAM1_FROM_RIG)]]
    _write(mapping / "sensors/rigs.txt", rigs)
    _write(mapping / "sensors/trajectories.txt", trajectories)
    _write(mapping / "sensors/records_camera.txt", records)
    _write_points(mapping / "reconstruction", shots)
    return _write_queries(folder, studio)


def _write_queries(folder: Path, studio: Studio) -> dict[str, pycolmap.Rigid3d]:
    camera = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=320, height=240, params=[280.0, 160.0, 120.0, -0.05]
    )
    trajectories, records, poses = [], [], {}
    for index, name in enumerate(QUERIES):
        shot = studio.shot("query", index, camera, WORLD)
        write_photo(folder / "query/sensors/records_data" / name, shot.image)
        trajectories.append([100 + index, "phone", *_pose(shot.cam_from_world)])
        records.append([100 + index, "phone", name])
        poses[f"query/sensors/records_data/{name}"] = shot.rigid
    _write(folder / "query/sensors/sensors.txt", [_sensor("phone", camera)])
    _write(folder / "query/sensors/trajectories.txt", trajectories)
    _write(folder / "query/sensors/records_camera.txt", records)
    # the best one last: the score counts, not the order
    pairs = [[query, name, 0.1 * (k + 1)] for query in QUERIES for k, name in enumerate(MAP)]
    _write(folder / "query/pairsfile/query/fire_top6.txt", pairs)
    return poses


def _write_points(folder: Path, shots: Sequence[Shot]) -> None:
    """Points at some pixels of the first photo, with their projections into the others."""
    points = shots[0].points_in_cam()[20:220:10, 20:300:10].reshape(-1, 3)
    points = points[np.isfinite(points).all(1)]
    world_from_cam = np.linalg.inv(shots[0].cam_from_world)
    points = points @ world_from_cam[:3, :3].T + world_from_cam[:3, 3]
    observations: list[list[object]] = [[k, KEYPOINTS] for k in range(len(points))]
    for name, shot in zip(MAP[:3], shots[:3], strict=True):
        in_cam = points @ shot.cam_from_world[:3, :3].T + shot.cam_from_world[:3, 3]
        pixels = np.asarray(shot.camera.img_from_cam(in_cam))
        inside = (pixels > 0).all(1) & (pixels < (shot.camera.width, shot.camera.height)).all(1)
        rows = np.flatnonzero(inside & (in_cam[:, 2] > 0))
        keypoints = np.column_stack([pixels[rows], np.ones((len(rows), 2))]).astype("<f4")
        with atomic_file(folder / "keypoints" / KEYPOINTS / f"{name}.kpt") as temporary:
            temporary.write_bytes(keypoints.tobytes())
        for keypoint, row in enumerate(rows):
            observations[row] += [name, keypoint]
    _write(folder / "keypoints" / KEYPOINTS / "keypoints.txt", [["harris", "float32", 4]])
    _write(folder / "points3d.txt", [[*map(repr, p.tolist()), 9, 8, 7] for p in points])
    _write(folder / "observations.txt", [row for row in observations if len(row) > 2])


def _sensor(name: str, camera: pycolmap.Camera) -> list[object]:
    size = [camera.width, camera.height]
    return [name, name, "camera", camera.model.name, *size, *camera.params.tolist()]


def _pose(cam_from_world: FloatArray) -> list[object]:
    return [*quat_wxyz(cam_from_world).tolist(), *cam_from_world[:3, 3].tolist()]


def _write(file: Path, rows: Sequence[Sequence[object]]) -> None:
    write_text_atomic(file, _LINE + "".join(", ".join(map(str, row)) + "\n" for row in rows))
