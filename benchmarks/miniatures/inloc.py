"""A tiny InLoc: cutouts with scan points in MATLAB files, alignments, phone photos."""

from pathlib import Path

import numpy as np
import pycolmap
from scipy.io import savemat

from benchmarks.datasets.inloc import CUTOUT_FOV_DEG, QUERY_FOCAL_PER_LONG_SIDE
from benchmarks.interchange.hloc_lists import write_pairs_list
from benchmarks.miniatures.studio import (
    Studio,
    matrix_text,
    pinhole,
    world_frame,
    write_photo,
)
from matching.files import PathLike, write_text_atomic

WORLD = world_frame(25.0, 0.0, (-12.0, 8.0, 3.0))
CUTOUTS = tuple(
    f"database/cutouts/{building}/{scan}/DUC_cutout_{scan}_{yaw}_{pitch}.jpg"
    for building, scan, yaw, pitch in (
        ("DUC1", "007", 150, -30), ("DUC1", "007", 180, 0), ("DUC1", "019", 0, 30),
        ("DUC2", "007", 30, 0), ("DUC2", "102", 330, -30), ("DUC2", "102", 60, 0),
    )
)  # fmt: skip
QUERIES = ("query/iphone7/IMG_0731.JPG", "query/iphone7/IMG_0732.JPG", "query/iphone7/IMG_1114.JPG")


def write_inloc(root: PathLike, studio: Studio) -> dict[str, pycolmap.Rigid3d]:
    """Write it; returns the true poses of the queries, which the data set does not publish."""
    folder = Path(root)
    width, height = 320, 240
    cutout = pinhole(width, height, width / 2 / np.tan(np.radians(CUTOUT_FOV_DEG / 2)))
    for index, name in enumerate(CUTOUTS):
        shot = studio.shot("map", index, cutout, WORLD)
        write_photo(folder / name, shot.image)
        building, scan = Path(name).parts[2:4]
        # each scan has a frame of its own, from which the alignment leads to the building's
        world_from_scan = world_frame(17.0 * int(scan), 3.0, (0.1 * int(scan), 1.0, -2.0))
        scan_from_cam = np.linalg.inv(shot.cam_from_world @ world_from_scan)
        points = shot.points_in_cam() @ scan_from_cam[:3, :3].T + scan_from_cam[:3, 3]
        savemat(
            folder / f"{name}.mat", {"XYZcut": points, "RGBcut": shot.image}, do_compression=True
        )
        before = world_from_scan @ world_frame(2.0, 1.0, (0.3, -0.2, 0.1))
        write_text_atomic(
            folder / f"database/alignments/{building}/transformations/DUC_trans_{scan}.txt",
            f"Before general icp:\n{matrix_text(before)}\n"
            f"After general icp:\n{matrix_text(world_from_scan)}",
        )
    poses = {}
    for index, name in enumerate(QUERIES):
        size = (240, 320) if index == 1 else (320, 240)
        camera = pinhole(*size, QUERY_FOCAL_PER_LONG_SIDE * 320)
        shot = studio.shot("query", index, camera, WORLD)
        write_photo((folder / name).with_suffix(".jpg"), shot.image, exif_orientation=6)
        (folder / name).with_suffix(".jpg").rename(folder / name)
        poses[name] = shot.rigid
    write_pairs_list(folder / "pairs-query-netvlad40-temporal.txt", dict.fromkeys(QUERIES, CUTOUTS))
    return poses
