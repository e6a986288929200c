"""A tiny 7-Scenes of one room at half size, with its SfM pseudo ground truth beside it."""

from pathlib import Path

import numpy as np
import pycolmap

from benchmarks.datasets.depth import depth_path
from benchmarks.datasets.seven_scenes import COLOR_FROM_DEPTH
from benchmarks.miniatures.studio import (
    FloatArray,
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

SCENE = "chess"
WORLD = world_frame(80.0, 60.0, (0.4, -0.2, 1.1))
# the SfM truth has another frame and focal length than KinectFusion's
SFM_FROM_WORLD = world_frame(2.0, 1.0, (0.01, 0.02, -0.03))
SFM_FOCAL_PX = 526.22
_SIZE = (320, 240)
TRAIN = tuple(f"seq-{1 + k // 3:02d}/frame-{20 * k:06d}.color.png" for k in range(6))
TEST = tuple(f"seq-03/frame-{k:06d}.color.png" for k in range(3))


def write_seven_scenes(
    root: PathLike, studio: Studio, *, sfm: bool = False
) -> dict[str, pycolmap.Rigid3d]:
    """Write it; returns the true poses of the queries' colour camera.

    Args:
        root: Where to.
        studio: Takes the photos.
        sfm: Photos as the SfM truth explains them, by its focal length; else by the nominal one.
            The real photos are neither.
    """
    folder = Path(root) / SCENE
    color = pinhole(*_SIZE, (SFM_FOCAL_PX if sfm else 525.0) / 2)
    depth = pinhole(*_SIZE, 585.0 / 2)
    truth: dict[str, list[str]] = {"train": [], "test": []}
    poses = {}
    for split, kind, names in (("train", "map", TRAIN), ("test", "query", TEST)):
        for index, name in enumerate(names):
            shot = studio.shot("map" if kind == "map" else "query", index, color, WORLD)
            write_photo(folder / name, shot.image)
            depth_from_world = np.linalg.inv(COLOR_FROM_DEPTH) @ shot.cam_from_world
            points = shot.points_in_cam().reshape(-1, 3)
            write_photo(
                depth_path(folder / name, ".depth.png"),
                depth_png(_seen_by_depth(points, depth), invalid=65535),
            )
            write_text_atomic(
                depth_path(folder / name, ".pose.txt"),
                matrix_text(np.linalg.inv(depth_from_world), "\t "),
            )
            cam_from_sfm = shot.cam_from_world @ np.linalg.inv(SFM_FROM_WORLD)
            pose = numbers(quat_wxyz(cam_from_sfm), cam_from_sfm[:3, 3], np.array([SFM_FOCAL_PX]))
            truth[split].append(f"{name} {pose}\n")
            poses[name] = pycolmap.Rigid3d(cam_from_sfm[:3]) if sfm else shot.rigid
        listed = sorted({int(name[4:6]) for name in names})
        write_text_atomic(
            folder / f"{split.capitalize()}Split.txt", "".join(f"sequence{n}\n" for n in listed)
        )
        pgt = Path(root) / "pgt" / "sfm" / "7scenes"
        write_text_atomic(pgt / f"{SCENE}_{split}.txt", "".join(truth[split]))
    return {name: poses[name] for name in TEST}


def _seen_by_depth(points_in_color: FloatArray, camera: pycolmap.Camera) -> np.ndarray:
    """Depth image of what the colour camera saw: each pixel the nearest point that falls on it."""
    points = points_in_color[np.isfinite(points_in_color).all(1)]
    color_in_depth = np.linalg.inv(COLOR_FROM_DEPTH)
    in_depth = points @ color_in_depth[:3, :3].T + color_in_depth[:3, 3]
    pixels = np.floor(np.asarray(camera.img_from_cam(in_depth))).astype(int)
    inside = ((pixels >= 0) & (pixels < (camera.width, camera.height))).all(1)
    order = np.argsort(-in_depth[inside, 2])  # far ones first: near ones overwrite them
    column, row = pixels[inside][order].T
    depth = np.zeros((camera.height, camera.width), np.float32)
    depth[row, column] = in_depth[inside, 2][order]
    return depth
