"""kapture folders (format 1.0 and 1.1): cameras, rigs, trajectories, and maps with their points.

kapture has COLMAP's camera models, its world-to-device poses, and its pixel origin (the upper left
corner of the image is (0, 0)), so nothing is shifted.
"""

import re
import tarfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.datasets.posed_photos import posed_model
from mapping.cameras import parse_camera
from matching.errors import InputError
from matching.files import existing_file, existing_folder, text_lines

RECORDS = "sensors/records_data"
_VERSION = re.compile(r"#\s*kapture format\s*:\s*(\d+)\.(\d+)")
_MAX_NESTING = 8  # of rigs in rigs


@dataclass(frozen=True, kw_only=True)
class KapturePhoto:
    """One record of a camera.

    Attributes:
        name: Path below ``sensors/records_data``.
        timestamp: As in the file.
        camera: None where its parameters are unknown.
        cam_from_world: None where its trajectory is unknown.
    """

    name: str
    timestamp: str
    camera: pycolmap.Camera | None
    cam_from_world: pycolmap.Rigid3d | None


def read_kapture(folder: Path) -> dict[str, KapturePhoto]:
    """Photos of a kapture folder by name, in the order of ``records_camera.txt``.

    Raises:
        InputError: A file is missing, of another version, or malformed (with its line).
    """
    root = existing_folder(folder, "kapture folder")
    sensors = _read_sensors(root / "sensors" / "sensors.txt")
    rigs = _read_rigs(root / "sensors" / "rigs.txt")
    poses = _read_trajectories(root / "sensors" / "trajectories.txt")
    photos: dict[str, KapturePhoto] = {}
    for where, row in _rows(root / "sensors" / "records_camera.txt", 3):
        timestamp, device, name = row[0], row[1], ",".join(row[2:])
        if device not in sensors:
            raise InputError(f"{where}: sensors.txt has no camera '{device}'")
        if name in photos:
            raise InputError(f"{where}: '{name}' comes twice")
        photos[name] = KapturePhoto(
            name=name,
            timestamp=timestamp,
            camera=sensors[device],
            cam_from_world=_pose_of(timestamp, device, poses, rigs),
        )
    if not photos:
        raise InputError(f"'{root}' holds no record of a camera")
    return photos


def kapture_model(folder: Path) -> pycolmap.Reconstruction:
    """The photos of a kapture folder that have a camera and a pose, as a COLMAP model.

    Its keypoints, 3D points and observations are in it where the folder has some.

    Args:
        folder: The kapture folder of a map.

    Raises:
        InputError: No such photo, or a malformed file.
    """
    photos = {
        name: (photo.camera, photo.cam_from_world)
        for name, photo in read_kapture(folder).items()
        if photo.camera is not None and photo.cam_from_world is not None
    }
    if not photos:
        raise InputError(f"'{folder}' has no photo with a known camera and a pose")
    model = posed_model(photos)
    if (folder / "reconstruction" / "points3d.txt").is_file():
        _add_points(model, folder / "reconstruction")
    return model


def read_keypoints(reconstruction: Path, kind: str) -> Callable[[str], NDArray[np.float32]]:
    """A function that reads the keypoints (N, 2) of a photo, pixels in COLMAP's convention.

    Args:
        reconstruction: Folder ``reconstruction`` of a kapture.
        kind: Type of the keypoints, the name of their folder.

    Raises:
        InputError: No such type, or another type of numbers; later: a photo without keypoints.
    """
    folder = existing_folder(reconstruction / "keypoints" / kind, "folder of keypoints")
    where, row = next(_rows(folder / "keypoints.txt", 3), ("", []))
    if not row or not row[2].isdigit() or int(row[2]) < 2:
        raise InputError(f"'{folder / 'keypoints.txt'}' has no line 'name, dtype, dsize'")
    try:
        dtype = np.dtype(row[1].split(".")[-1]).newbyteorder("<")
    except TypeError as error:
        raise InputError(f"{where}: '{row[1]}' is no type of numbers") from error
    size = int(row[2])
    tar = folder / "keypoints.tar"

    def read(name: str) -> NDArray[np.float32]:
        if tar.is_file():
            try:
                with tarfile.open(tar) as archive:
                    member = archive.extractfile(f"{name}.kpt")
                    data = b"" if member is None else member.read()
            except KeyError as error:
                raise InputError(f"'{tar}' holds no '{name}.kpt'") from error
            except (tarfile.TarError, EOFError) as error:
                raise InputError(f"'{tar}' is no readable tar file: {error}") from error
        else:
            data = existing_file(folder / f"{name}.kpt", "file of keypoints").read_bytes()
        if len(data) % (dtype.itemsize * size):
            raise InputError(f"the keypoints of '{name}' are no rows of {size} {dtype.name}")
        return np.frombuffer(data, dtype).reshape(-1, size)[:, :2].astype(np.float32)

    return read


def _add_points(model: pycolmap.Reconstruction, reconstruction: Path) -> None:
    points = [row for _, row in _numbers(reconstruction / "points3d.txt", (3, 6))]
    tracks: dict[int, list[tuple[str, int]]] = {}
    kinds: set[str] = set()
    for where, row in _rows(reconstruction / "observations.txt", 4):
        words = row[2:]
        if not row[0].isdigit() or len(words) % 2 or not all(w.isdigit() for w in words[1::2]):
            raise InputError(f"{where}: expected 'point, keypoints type, image, keypoint, ...'")
        if int(row[0]) >= len(points):
            raise InputError(f"{where}: points3d.txt has no point {row[0]}")
        kinds.add(row[1])
        found = tracks.setdefault(int(row[0]), [])
        found += zip(words[::2], map(int, words[1::2]), strict=True)
    if len(kinds) > 1:
        raise InputError(f"'{reconstruction}' mixes keypoints of {', '.join(sorted(kinds))}")
    ids = {image.name: image.image_id for image in model.images.values()}
    counts: dict[str, int] = {}
    if kinds:
        keypoints = read_keypoints(reconstruction, kinds.pop())
        for name in sorted({name for track in tracks.values() for name, _ in track if name in ids}):
            pixels = keypoints(name).astype(np.float64)
            counts[name] = len(pixels)
            model.image(ids[name]).points2D = pycolmap.Point2DList(
                [pycolmap.Point2D(xy) for xy in pixels]
            )
    for number, track in tracks.items():
        elements = []
        for name, keypoint in track:
            if name in ids:
                if keypoint >= counts[name]:
                    raise InputError(f"point {number} is seen by keypoint {keypoint} of '{name}', "
                                     f"which has {counts[name]}")  # fmt: skip
                elements.append(pycolmap.TrackElement(ids[name], keypoint))
        if elements:
            color = points[number][3:] if len(points[number]) == 6 else np.zeros(3)
            model.add_point3D(points[number][:3], pycolmap.Track(elements), color.astype(np.uint8))
    model.update_point_3d_errors()


# ---------------------------------------------------------------------------- the text files


def _rows(file: Path, at_least: int) -> Iterator[tuple[str, list[str]]]:
    """Place and fields of each line."""
    path = existing_file(file, "file of a kapture")
    for number, line in text_lines(path):
        where = f"'{path}' line {number}"
        version = _VERSION.match(line)
        if version and (version[1], version[2]) not in (("1", "0"), ("1", "1")):
            raise InputError(f"{where}: kapture format {version[1]}.{version[2]}, known is 1.1")
        if not line or line.startswith("#"):
            continue
        row = [field.strip() for field in line.split(",")]
        if len(row) < at_least:
            raise InputError(f"{where}: expected at least {at_least} fields, got '{line[:100]}'")
        yield where, row


def _numbers(file: Path, counts: tuple[int, ...]) -> Iterator[tuple[str, NDArray[np.float64]]]:
    for where, row in _rows(file, min(counts)):
        try:
            values = np.array([float(field) for field in row])
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        if len(values) not in counts:
            raise InputError(f"{where}: expected {' or '.join(map(str, counts))} numbers")
        yield where, values


def _read_sensors(file: Path) -> dict[str, pycolmap.Camera | None]:
    """Cameras by id; None where the model is UNKNOWN_CAMERA. Other sensors are left out."""
    cameras: dict[str, pycolmap.Camera | None] = {}
    for where, row in _rows(file, 3):
        if row[2] != "camera":
            continue
        if len(row) < 6:
            raise InputError(f"{where}: expected 'id, name, camera, MODEL, width, height, ...'")
        if row[3] == "UNKNOWN_CAMERA":
            cameras[row[0]] = None
            continue
        try:
            width, height = (str(int(float(size))) for size in row[4:6])
            cameras[row[0]] = parse_camera(" ".join([row[3], width, height, *row[6:]]))
        except (ValueError, OverflowError) as error:
            raise InputError(f"{where}: {error}") from error
    return cameras


def _pose(row: list[str], where: str) -> pycolmap.Rigid3d | None:
    """From qw qx qy qz tx ty tz; None if some of them are empty."""
    if len(row) != 7:
        raise InputError(f"{where}: expected qw, qx, qy, qz, tx, ty, tz")
    if not all(row):
        return None
    try:
        values = np.array([float(field) for field in row])
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    norm = np.linalg.norm(values[:4])
    if not np.isfinite(values).all() or norm < 1e-6:
        raise InputError(f"{where}: no pose: {', '.join(row)}")
    return pycolmap.Rigid3d(pycolmap.Rotation3d(np.roll(values[:4], -1) / norm), values[4:])


def _read_rigs(file: Path) -> dict[str, list[tuple[str, pycolmap.Rigid3d]]]:
    """Sensor to the rigs it is on and sensor_from_rig."""
    rigs: dict[str, list[tuple[str, pycolmap.Rigid3d]]] = {}
    if not file.is_file():
        return rigs  # optional in the format
    for where, row in _rows(file, 9):
        pose = _pose(row[2:], where)
        if pose is not None:
            rigs.setdefault(row[1], []).append((row[0], pose))
    return rigs


def _read_trajectories(file: Path) -> dict[tuple[str, str], pycolmap.Rigid3d]:
    """device_from_world by timestamp and device (a sensor or a rig)."""
    poses: dict[tuple[str, str], pycolmap.Rigid3d] = {}
    if not file.is_file():
        return poses  # queries without truth have none
    for where, row in _rows(file, 9):
        pose = _pose(row[2:], where)
        if pose is not None:
            poses[row[0], row[1]] = pose
    return poses


def _pose_of(
    timestamp: str,
    device: str,
    poses: dict[tuple[str, str], pycolmap.Rigid3d],
    rigs: dict[str, list[tuple[str, pycolmap.Rigid3d]]],
    nesting: int = 0,
) -> pycolmap.Rigid3d | None:
    """device_from_world, through the rigs that the device is on."""
    if (timestamp, device) in poses:
        return poses[timestamp, device]
    if nesting == _MAX_NESTING:
        return None
    for rig, sensor_from_rig in rigs.get(device, []):
        rig_from_world = _pose_of(timestamp, rig, poses, rigs, nesting + 1)
        if rig_from_world is not None:
            return sensor_from_rig * rig_from_world
    return None
