"""A tiny 12-Scenes of one room, with its SfM pseudo ground truth beside it."""

from pathlib import Path

import numpy as np
import pycolmap

from benchmarks.datasets.depth import depth_path
from benchmarks.miniatures.studio import (
    Studio,
    depth_png,
    matrix_text,
    numbers,
    pinhole,
    quat_wxyz,
    world_frame,
    write_photo,
)
from matching.files import PathLike, write_text_atomic

SCENE = "apt1/kitchen"
WORLD = world_frame(70.0, 50.0, (2.0, 1.0, 0.5))
_COLOR, _DEPTH = (324, 242), (160, 120)  # a quarter of 1296x968 and 640x480
_FOCAL_PX = 286.0
NUM_QUERIES, NUM_MAP = 3, 6
LOST = "frame-000001.color.jpg"  # a query whose pose the authors could not tell


def write_twelve_scenes(root: PathLike, studio: Studio) -> dict[str, pycolmap.Rigid3d]:
    """Write it; returns the true poses of the queries that have one."""
    folder = Path(root) / SCENE
    color = pinhole(*_COLOR, _FOCAL_PX)
    scale = _DEPTH[1] / _COLOR[1]
    depth = pinhole(*_DEPTH, _FOCAL_PX * scale)
    poses: dict[str, pycolmap.Rigid3d] = {}
    pseudo: dict[str, str] = {}
    for number in range(NUM_QUERIES + NUM_MAP):
        is_query = number < NUM_QUERIES
        index = number if is_query else number - NUM_QUERIES
        kind = "query" if is_query else "map"
        shot = studio.shot("query" if is_query else "map", index, color, WORLD)
        path = folder / "data" / f"frame-{number:06d}.color.jpg"
        write_photo(path, shot.image)
        in_depth = studio.shot("query" if kind == "query" else "map", index, depth, WORLD)
        write_photo(depth_path(path, ".depth.png"), depth_png(in_depth.depth, invalid=0))
        world_from_cam = np.linalg.inv(shot.cam_from_world)
        if path.name == LOST:
            world_from_cam = np.full((4, 4), -np.inf)
        text = matrix_text(world_from_cam).replace("inf", "INF")
        write_text_atomic(depth_path(path, ".pose.txt"), text)
        pose = numbers(
            quat_wxyz(shot.cam_from_world), shot.cam_from_world[:3, 3], np.array([_FOCAL_PX])
        )
        pseudo[path.name] = f"{path.name} {pose}\n"
        if is_query:
            poses[path.name] = shot.rigid
    last = NUM_QUERIES + NUM_MAP - 1
    write_text_atomic(
        folder / "split.txt",
        f"sequence0 [frames={NUM_QUERIES}]  [start=0 ; end={NUM_QUERIES - 1}]\n"
        f"sequence1 [frames={NUM_MAP}]  [start={NUM_QUERIES} ; end={last}]\n",
    )
    intrinsic = np.eye(4)
    intrinsic[:3, :3] = color.calibration_matrix()
    write_text_atomic(
        folder / "info.txt",
        f"m_versionNumber = 4\nm_sensorName = StructureSensor\nm_colorWidth = {_COLOR[0]}\n"
        f"m_colorHeight = {_COLOR[1]}\nm_depthWidth = {_DEPTH[0]}\nm_depthHeight = {_DEPTH[1]}\n"
        f"m_depthShift = 1000\nm_calibrationColorIntrinsic = {numbers(intrinsic)} \n",
    )
    pgt = Path(root) / "pgt" / "sfm" / "12scenes" / SCENE.replace("/", "_")
    for split, is_query in (("test", True), ("train", False)):
        lines = [line for k, line in enumerate(pseudo.values()) if (k < NUM_QUERIES) == is_query]
        write_text_atomic(pgt.with_name(f"{pgt.name}_{split}.txt"), "".join(lines))
    return {name: pose for name, pose in poses.items() if name != LOST}
