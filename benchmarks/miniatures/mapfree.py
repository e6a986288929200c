"""A tiny Map-free: train, val and test scenes of portrait frames, with depth of the references."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pycolmap

from benchmarks.datasets.mapfree_scene import REFERENCE
from benchmarks.miniatures.studio import (
    FloatArray,
    Kind,
    Shot,
    Studio,
    depth_png,
    numbers,
    quat_wxyz,
    write_photo,
)
from matching.files import PathLike, atomic_file, write_text_atomic

DEPTH_KIND = "rendered"  # the side files `frame_00000.rendered.png`
_SIZE = (540, 720)
_IDENTITY = np.eye(4)
# Two scenes of val with gaps in their frame numbers, one of test: reference, then the queries.
_SCENES: dict[str, tuple[int, tuple[tuple[Kind, int], ...]]] = {
    "val/s00460": (0, tuple(("map", i) for i in (1, 2, 3, 4, 5, 6, 7, 1, 2, 3))),
    "val/s00461": (1, tuple(("map", i) for i in (0, 2, 3, 4, 5, 6))),
    "test/s00525": (0, tuple(("map", i) for i in (3, 2, 1, 4, 5))),
}


def write_mapfree(root: PathLike, studio: Studio) -> dict[str, dict[str, FloatArray]]:
    """Write it; returns the true ``cam_from_world`` of the queries by scene and frame name."""
    truth = {}
    for path, (reference, queries) in _SCENES.items():
        folder = Path(root) / path
        shots = {REFERENCE: _shot(studio, ("map", reference), 0)}
        for number, viewpoint in enumerate(queries):
            frame = 2 * number if path == "val/s00461" else number  # gaps
            shots[f"seq1/frame_{frame:05d}.jpg"] = _shot(studio, viewpoint, number)
        poses = _relative_to(shots[REFERENCE], shots)
        _write_photos(folder, shots)
        depth = depth_png(shots[REFERENCE].depth, invalid=0)
        write_photo((folder / REFERENCE).with_suffix(f".{DEPTH_KIND}.png"), depth)
        known = path.startswith("val") or None
        lines = [
            _pose_line(name, pose if known or name == REFERENCE else None)
            for name, pose in poses.items()
        ]
        write_text_atomic(folder / "poses.txt", "".join(lines))
        names = [name for name in poses if name != REFERENCE]
        write_text_atomic(folder / "poses_device.txt", _device_poses(names, poses))
        truth[folder.name] = {name: poses[name] for name in names}
    _write_train(Path(root) / "train" / "s00000", studio)
    return truth


def _shot(studio: Studio, viewpoint: tuple[Kind, int], number: int) -> Shot:
    # every frame has its own focal length, as a phone's autofocus gives it
    focal = 600.0 + 3 * number
    camera = pycolmap.Camera(
        model="PINHOLE",
        width=_SIZE[0],
        height=_SIZE[1],
        params=[focal, focal + 1, 268.5 + 0.5 * number, 361.0],
    )
    return studio.shot(*viewpoint, camera)


def _relative_to(reference: Shot, shots: dict[str, Shot]) -> dict[str, FloatArray]:
    """Poses in the world that is the reference camera's own frame."""
    world_from_reference = np.linalg.inv(reference.cam_from_world)
    return {name: shot.cam_from_world @ world_from_reference for name, shot in shots.items()}


def _write_photos(folder: Path, shots: dict[str, Shot]) -> None:
    lines = []
    for name, shot in shots.items():
        write_photo(folder / name, shot.image)
        fx, fy, cx, cy = shot.camera.params
        # pixels counted from the centre of the first one
        lines.append(f"{name} {numbers([fx, fy, cx - 0.5, cy - 0.5])} {_SIZE[0]} {_SIZE[1]}\n")
    write_text_atomic(folder / "intrinsics.txt", "".join(lines))


def _pose_line(name: str, pose: FloatArray | None) -> str:
    if pose is None:
        return f"{name} 0 0 0 0 0 0 0\n"
    return f"{name} {numbers(quat_wxyz(pose), pose[:3, 3])}\n"


def _device_poses(names: Sequence[str], poses: dict[str, FloatArray]) -> str:
    """The phone's tracking: each window of ten in the frame of its last, the first without."""
    lines = [_pose_line(REFERENCE, _IDENTITY)]
    for number, name in enumerate(names):
        last = names[min(number // 10 * 10 + 9, len(names) - 1)]
        tracked = poses[name] @ np.linalg.inv(poses[last])
        lines.append(_pose_line(name, None if number % 10 == 0 else tracked))
    return "".join(lines)


def _write_train(folder: Path, studio: Studio) -> None:
    """Two scans with poses in a common world, and which of their frames overlap."""
    scans = {0: (0, 1, 2), 1: (3, 4)}
    shots = {
        f"seq{scan}/frame_{frame:05d}.jpg": _shot(studio, ("map", viewpoint), frame)
        for scan, viewpoints in scans.items()
        for frame, viewpoint in enumerate(viewpoints)
    }
    _write_photos(folder, shots)
    poses = _relative_to(shots[REFERENCE], shots)
    text = "".join(_pose_line(name, pose) for name, pose in poses.items())
    write_text_atomic(folder / "poses.txt", text)
    write_text_atomic(folder / "poses_device.txt", text)
    pairs = np.array([(0, 0, 0, 1), (0, 0, 1, 0), (0, 1, 1, 1)])
    with atomic_file(folder / "overlaps.npz") as temporary, temporary.open("wb") as file:
        np.savez(file, idxs=pairs, overlaps=np.array([0.6, 0.4, 0.3], np.float32))
