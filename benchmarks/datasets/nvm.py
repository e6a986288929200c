"""Cameras of VisualSFM's NVM files, as Aachen, Cambridge Landmarks and RobotCar publish them."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import PurePosixPath

import pycolmap

from benchmarks.datasets.posed_photos import parse_numbers, pose_from_quaternion
from matching.errors import InputError
from matching.files import PathLike, existing_file


@dataclass(frozen=True, kw_only=True)
class NvmCamera:
    """One photo of an NVM file.

    Attributes:
        cam_from_world: From the file's rotation (world to camera) and camera centre.
        focal_px: In pixels of the full photo.
        radial: VisualSFM's distortion term, which is not COLMAP's.
    """

    cam_from_world: pycolmap.Rigid3d
    focal_px: float
    radial: float


def read_nvm(path: PathLike) -> dict[str, NvmCamera]:
    """Read the photos of the first model; its points, most of the file, are not read.

    Lines: ``NVM_V3...``, blank, their number, then ``name f qw qx qy qz cx cy cz r 0`` each.

    Raises:
        InputError: No such file, another kind of file, or fewer photos than it announces.
    """
    file = existing_file(path, "NVM file")
    cameras: dict[str, NvmCamera] = {}
    with file.open(encoding="utf-8", errors="replace") as opened:
        lines = ((n, line.strip()) for n, line in enumerate(opened, 1) if line.strip())
        _, head = next(lines, (0, ""))
        number, count = next(lines, (0, ""))
        if not head.startswith("NVM_V3") or not count.isdigit():
            raise InputError(f"'{file}' is no NVM_V3 file: it starts with '{head[:40]}'")
        for _ in range(int(count)):
            number, line = next(lines, (number, ""))
            name, camera = _camera(line, f"'{file}' line {number}", int(count))
            cameras[name] = camera
    if len(cameras) != int(count):
        raise InputError(f"'{file}' names some of its {count} photos twice")
    return cameras


def _camera(line: str, where: str, count: int) -> tuple[str, NvmCamera]:
    words = line.rsplit(maxsplit=10)  # a name may hold blanks
    values = parse_numbers(words[1:]) if len(words) == 11 else None
    if values is None or not values[0] > 0:
        raise InputError(
            f"{where}: expected 'name f qw qx qy qz cx cy cz r 0', one of {count} lines, got "
            f"'{line[:100]}'"
        )
    pose = pose_from_quaternion(values[1:5], where, center=values[5:8])
    # some writers begin every name with ./
    return PurePosixPath(words[0]).as_posix(), NvmCamera(
        cam_from_world=pose, focal_px=float(values[0]), radial=float(values[8])
    )


def nvm_text(photos: Iterator[tuple[str, float, pycolmap.Rigid3d]]) -> str:
    """The text of an NVM file without points: name, focal length, cam_from_world of each photo."""
    lines = []
    for name, focal_px, pose in photos:
        quat = pose.rotation.quat
        center = pose.inverse().translation
        values = [focal_px, quat[3], *quat[:3], *center, 0.0, 0]
        lines.append(f"{name}\t{' '.join(f'{value:.12g}' for value in values)}")
    return "\n".join(["NVM_V3", "", str(len(lines)), *lines, "", "0", "", "0", ""])
