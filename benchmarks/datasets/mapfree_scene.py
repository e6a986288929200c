"""The photos of the Map-free data set: scenes, frames, intrinsics, device poses, given depth.

Layout: ``<root>/{train,val,test}/sNNNNN/`` with ``intrinsics.txt``, ``poses.txt``,
``poses_device.txt``, ``seq0/frame_00000.jpg`` (the reference) and ``seq1/frame_NNNNN.jpg``.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.datasets.depth import read_depth_mm
from benchmarks.datasets.mapfree import (
    MULTI_EVERY,
    SCORED_EVERY,
    frame_number,
    parse_pose,
    read_lines,
)
from matching.errors import InputError
from matching.files import existing_file, existing_folder

FloatArray = NDArray[np.float64]
Split = Literal["train", "val", "test"]

REFERENCE = "seq0/frame_00000.jpg"
NUM_SCENES = {"train": 460, "val": 65, "test": 130}  # as published
WINDOW = 9  # frames that a query of the multi-frame track may use, itself the last


@dataclass(frozen=True, kw_only=True)
class MapfreeScene:
    """The photos of one scene of val or test; nothing in here tells where a query was taken.

    Attributes:
        folder: That all names are relative to.
        names: Queries in the order of their frame numbers.
        cameras: Of the reference and of each query, by name.
        scored: Queries that the single-frame track scores: by the order of ``poses.txt``, as the
            official script takes them, and by the order of frame numbers, as the official loader
            does. (They differ only in a scene without a query frame 0.)
    """

    folder: Path
    names: tuple[str, ...]
    cameras: Mapping[str, pycolmap.Camera]
    scored: tuple[str, ...]

    def windows(self) -> dict[str, tuple[str, ...]]:
        """Queries of the multi-frame track to the frames that they may use, themselves last."""
        return {
            self.names[i]: self.names[i - WINDOW + 1 : i + 1]
            for i in range(MULTI_EVERY - 1, len(self.names), MULTI_EVERY)
        }


def scene_folders(root: Path, split: Split) -> list[Path]:
    """Folders of a split's scenes in the order of their names.

    Raises:
        InputError: There is no such split, or it holds no scene.
    """
    folder = existing_folder(root / split, f"Map-free split '{split}'")
    scenes = sorted(p for p in folder.iterdir() if p.is_dir() and p.name.startswith("s"))
    if not scenes:
        raise InputError(f"'{folder}' holds no scene such as s00460")
    return scenes


def read_mapfree_scene(folder: Path) -> MapfreeScene:
    """Read what a method may know of a scene of val or test.

    Raises:
        InputError: A file is missing or malformed.
    """
    scene = existing_folder(folder, "Map-free scene")
    cameras: dict[str, pycolmap.Camera] = {}
    for name, values, where in read_lines(scene / "intrinsics.txt", 6):
        fx, fy, cx, cy, width, height = values
        # The data set counts pixels from the centre of the first one; here it is at (0.5, 0.5).
        try:
            camera = pycolmap.Camera(
                model="PINHOLE",
                width=int(width),
                height=int(height),
                params=[fx, fy, cx + 0.5, cy + 0.5],
            )
        except (TypeError, ValueError, OverflowError) as error:
            raise InputError(f"{where}: no camera: {error}") from error
        if min(fx, fy, width, height) <= 0:
            raise InputError(f"{where}: focal lengths and size must be positive")
        cameras[name] = camera
    listed = [name for name, _, _ in read_lines(scene / "poses.txt", 7)]
    names = sorted((n for n in listed if n.startswith("seq1/")), key=_number)
    if not names:
        raise InputError(f"'{scene / 'poses.txt'}' lists no query 'seq1/frame_NNNNN.jpg'")
    for name in (REFERENCE, *names):
        existing_file(scene / name, "photo")
        if name not in cameras:
            raise InputError(f"'{scene / 'intrinsics.txt'}' has no line for '{name}'")
    # The official script keys frames by number alone; a later line takes the earlier one's place.
    by_number = {_number(name): name for name in listed}
    scored = {*list(by_number.values())[::SCORED_EVERY], *names[::SCORED_EVERY]} - {REFERENCE}
    return MapfreeScene(
        folder=scene,
        names=tuple(names),
        cameras=cameras,
        scored=tuple(sorted(scored, key=_number)),
    )


def read_device_poses(scene: MapfreeScene) -> dict[str, FloatArray]:
    """The phone's own tracking, for the multi-frame track only: ``cam_from_query`` by frame name.

    The query that a pose refers to is that of the frame's window; frames without a pose (zeros)
    are left out.

    Raises:
        InputError: The file is missing or malformed.
    """
    poses = {}
    for name, values, _ in read_lines(scene.folder / "poses_device.txt", 7):
        pose = parse_pose(values)
        if pose is not None and name.startswith("seq1/"):
            poses[name] = pose
    return poses


def read_depth(scene: MapfreeScene, name: str, kind: str) -> NDArray[np.float32]:
    """Metric depth that some method estimated: ``frame_NNNNN.<kind>.png``, 16 bit, millimetres.

    Args:
        scene: The scene.
        name: Of the photo.
        kind: Of the estimate, such as ``dptkitti``.

    Returns:
        (H, W) metres, 0 where nothing is known.

    Raises:
        InputError: There is no such file, or it is no 16 bit image.
    """
    photo = scene.folder / name
    file = photo.with_suffix(f".{kind}.png")
    if not file.is_file():
        kinds = sorted(p.name.split(".")[1] for p in photo.parent.glob(f"{photo.stem}.*.png"))
        there = f"there are {', '.join(kinds)}" if kinds else "there are none of any kind"
        raise InputError(f"no depth map '{file}' of kind '{kind}' ({there})")
    return np.nan_to_num(read_depth_mm(file)).astype(np.float32)


def _number(name: str) -> int:
    number = frame_number(name)
    if number is None:
        raise InputError(f"'{name}': expected a name such as 'seq1/frame_00000.jpg'")
    return number
