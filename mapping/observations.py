"""``observations.h5``: what localization asks of the COLMAP model, read photo by photo.

A COLMAP model can only be read whole, which takes seconds and gigabytes for thousands of photos; a
query needs a few dozen of them. Everything here is derived from ``sparse/``.
"""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pycolmap
from numpy.typing import NDArray

from matching.errors import InputError
from matching.files import PathLike, atomic_file
from matching.types import IntArray

FILE_NAME = "observations.h5"

_POINTS_PER_CHUNK = 1024
_VALUES_PER_CHUNK = 8192
_MAX_PHOTOS_IN_MEMORY = 2048
_MAX_CHUNKS_IN_MEMORY = 1024  # of points, 32 KB each


def write_observations(path: PathLike, model: pycolmap.Reconstruction) -> None:
    """Write the file for a COLMAP model, whole or not at all.

    Layout: ``photos/*`` (names, poses as quaternion xyzw and translation, rows of cameras),
    ``cameras/*``, ``points3D/*`` (ids, ascending, and coordinates), ``observations/*`` (point
    of each keypoint, -1 without one) and ``covisible/*`` (photos that share points, most first),
    the last two for all photos on end with ``starts``. All large data sets carry checksums.
    """
    images = sorted((model.image(i) for i in model.reg_image_ids()), key=lambda i: i.name)
    ids = [np.array([p.point3D_id for p in i.points2D], np.uint64).view(np.int64) for i in images]
    camera_ids = sorted({image.camera_id for image in images})
    row_of = {camera_id: row for row, camera_id in enumerate(camera_ids)}
    with atomic_file(path) as temporary, h5py.File(temporary, "w") as file:
        poses = [image.cam_from_world() for image in images]
        photos = file.create_group("photos")
        _write_names(photos, "names", [image.name for image in images])
        photos["quat_xyzw"] = np.array([p.rotation.quat for p in poses]).reshape(-1, 4)
        photos["translation"] = np.array([p.translation for p in poses]).reshape(-1, 3)
        photos["cameras"] = np.array([row_of[image.camera_id] for image in images], np.int64)
        _write_cameras(file.create_group("cameras"), [model.camera(i) for i in camera_ids])
        _write_points(file.create_group("points3D"), model)
        observations = file.create_group("observations")
        observations["starts"] = _starts([len(i) for i in ids])
        _write_values(observations, "point3D_ids", _joined(ids, np.int64))
        others, counts = _covisible(ids)
        covisible = file.create_group("covisible")
        covisible["starts"] = _starts([len(o) for o in others])
        _write_values(covisible, "photos", _joined(others, np.int32))
        _write_values(covisible, "counts", _joined(counts, np.int32))


def _write_names(group: h5py.Group, name: str, values: Sequence[str]) -> None:
    group.create_dataset(name, data=list(values), shape=(len(values),), dtype=h5py.string_dtype())


def _write_cameras(group: h5py.Group, cameras: Sequence[pycolmap.Camera]) -> None:
    _write_names(group, "models", [camera.model.name for camera in cameras])
    group["ids"] = np.array([camera.camera_id for camera in cameras], np.int64)
    group["sizes"] = np.array([(c.width, c.height) for c in cameras], np.int64).reshape(-1, 2)
    group["has_prior"] = np.array([c.has_prior_focal_length for c in cameras], np.bool_)
    params = np.full((len(cameras), max((len(c.params) for c in cameras), default=0)), np.nan)
    for row, camera in zip(params, cameras, strict=True):
        row[: len(camera.params)] = camera.params
    group["params"] = params


def _write_points(group: h5py.Group, model: pycolmap.Reconstruction) -> None:
    points = model.points3D
    ids = np.array(sorted(points), np.int64)
    xyz = np.array([points[i].xyz for i in ids.tolist()]).reshape(-1, 3)
    group["first_ids"] = ids[::_POINTS_PER_CHUNK]
    _write_values(group, "ids", ids, _POINTS_PER_CHUNK)
    _write_values(group, "xyz", xyz, _POINTS_PER_CHUNK)


def _write_values(
    group: h5py.Group, name: str, values: NDArray[Any], rows: int = _VALUES_PER_CHUNK
) -> None:
    if len(values) == 0:  # HDF5 knows no chunks of nothing
        group[name] = values
        return
    chunks = (min(rows, len(values)), *values.shape[1:])
    options: dict[str, Any] = {}
    if values.dtype.kind == "i":  # most bytes of integers are zero
        options = {"compression": "gzip", "compression_opts": 1, "shuffle": True}
    group.create_dataset(name, data=values, chunks=chunks, fletcher32=True, **options)


def _starts(lengths: Sequence[int]) -> NDArray[np.int64]:
    return np.concatenate([[0], np.cumsum(lengths)]).astype(np.int64)


def _joined(parts: Sequence[NDArray[Any]], dtype: type[np.signedinteger]) -> NDArray[Any]:
    return np.concatenate([np.zeros(0, dtype), *(p.astype(dtype) for p in parts)])


def _covisible(ids: Sequence[IntArray]) -> tuple[list[IntArray], list[IntArray]]:
    """For each photo the others that see some of its points, and how many, most first.

    Args:
        ids: Point of each keypoint per photo, -1 without one.
    """
    seen = [np.unique(i[i >= 0]) for i in ids]
    places = np.repeat(np.arange(len(seen)), [len(i) for i in seen])
    points = _joined(seen, np.int64)
    order = np.argsort(points, kind="stable")
    points, places = points[order], places[order]
    others, counts = [], []
    for photo, own in enumerate(seen):
        starts = np.searchsorted(points, own)
        lengths = np.searchsorted(points, own, side="right") - starts
        # rows starts[i] .. starts[i] + lengths[i] of every own point
        rows = np.repeat(starts - np.cumsum(lengths) + lengths, lengths) + np.arange(lengths.sum())
        photos, shared = np.unique(places[rows], return_counts=True)
        photos, shared = photos[photos != photo], shared[photos != photo]
        best = np.argsort(-shared, kind="stable")
        others.append(photos[best])
        counts.append(shared[best])
    return others, counts


class Observations:
    """An ``observations.h5`` open for reading; threads may share it.

    What is read at opening grows with the number of photos by about 100 bytes each; the rest is
    read when it is asked for, and the last used of it is kept.

    Attributes:
        path: The file.
        names: Photos with a pose, sorted.

    Raises:
        InputError: The file is no such file, or damaged where it is read.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = Path(path)
        try:
            # files of a map never change in place, and locks fail on some network disks
            self._file = h5py.File(self.path, "r", locking=False)
            photos = self._file["photos"]
            self.names: list[str] = photos["names"].asstr()[()].tolist()
            self._rows = {name: row for row, name in enumerate(self.names)}
            self._quat_xyzw, self._translation = photos["quat_xyzw"][()], photos["translation"][()]
            self._camera_rows = photos["cameras"][()]
            self._observed = self._file["observations/starts"][()]
            self._shared = self._file["covisible/starts"][()]
            self._first_ids = self._file["points3D/first_ids"][()]
        except (OSError, KeyError) as error:
            raise self._damaged(error) from error
        self._ids = lru_cache(_MAX_PHOTOS_IN_MEMORY)(self._read_ids)
        self._covisible = lru_cache(_MAX_PHOTOS_IN_MEMORY)(self._read_covisible)
        self._camera = lru_cache(_MAX_PHOTOS_IN_MEMORY)(self._read_camera)
        self._points = lru_cache(_MAX_CHUNKS_IN_MEMORY)(self._read_points)

    def __contains__(self, name: str) -> bool:
        return name in self._rows

    def num_cameras(self) -> int:
        """How many cameras the photos share."""
        return int(self._camera_rows.max(initial=-1)) + 1

    def camera(self, name: str) -> pycolmap.Camera:
        """The camera of a photo, with its number in the model."""
        return self._camera(int(self._camera_rows[self._rows[name]]))

    def cam_from_world(self, name: str) -> pycolmap.Rigid3d:
        """The pose of a photo."""
        row = self._rows[name]
        rotation = pycolmap.Rotation3d(self._quat_xyzw[row])
        return pycolmap.Rigid3d(rotation, self._translation[row])

    def point3D_ids(self, name: str) -> NDArray[np.int64]:  # noqa: N802 (COLMAP's word)
        """The point each keypoint of a photo sees, (N,); -1 without one. Not to be written to."""
        return self._ids(self._rows[name])

    def covisible(self, name: str) -> dict[str, int]:
        """Photos that see points of a photo, to how many they share; most first."""
        return self._covisible(self._rows[name])

    def points3D(self, ids: IntArray | Sequence[int]) -> NDArray[np.float64]:  # noqa: N802
        """World coordinates of points, (M,) -> (M, 3).

        Raises:
            KeyError: A number is no point.
        """
        wanted, places = np.unique(np.asarray(ids, np.int64), return_inverse=True)
        xyz = np.zeros((len(wanted), 3))
        chunks = np.searchsorted(self._first_ids, wanted, side="right") - 1
        for chunk in np.unique(chunks).tolist():
            rows = np.flatnonzero(chunks == chunk)
            known, coordinates = self._points(chunk) if chunk >= 0 else (wanted[:0], xyz[:0])
            found = np.searchsorted(known, wanted[rows]).clip(max=max(0, len(known) - 1))
            if not len(known) or (known[found] != wanted[rows]).any():
                raise KeyError("a number among the ids is no point of the map")
            xyz[rows] = coordinates[found]
        return xyz[places]

    def _read_ids(self, row: int) -> NDArray[np.int64]:
        return self._read("observations/point3D_ids", *self._observed[row : row + 2])

    def _read_covisible(self, row: int) -> dict[str, int]:
        photos = self._read("covisible/photos", *self._shared[row : row + 2])
        counts = self._read("covisible/counts", *self._shared[row : row + 2])
        return {self.names[p]: n for p, n in zip(photos.tolist(), counts.tolist(), strict=True)}

    def _read_points(self, chunk: int) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        start, stop = chunk * _POINTS_PER_CHUNK, (chunk + 1) * _POINTS_PER_CHUNK
        return self._read("points3D/ids", start, stop), self._read("points3D/xyz", start, stop)

    def _read_camera(self, row: int) -> pycolmap.Camera:
        try:
            group = self._file["cameras"]
            model = group["models"].asstr()[row]
            width, height = group["sizes"][row].tolist()
            params = group["params"][row]
            camera = pycolmap.Camera(
                camera_id=int(group["ids"][row]),
                model=model,
                width=width,
                height=height,
                params=params[~np.isnan(params)],
            )
            camera.has_prior_focal_length = bool(group["has_prior"][row])
        except (OSError, KeyError) as error:
            raise self._damaged(error) from error
        return camera

    def _read(self, name: str, start: int, stop: int) -> NDArray[Any]:
        """Rows of a data set, read-only because they are shared."""
        try:
            values = np.asarray(self._file[name][start:stop])
        except (OSError, KeyError) as error:
            raise self._damaged(error) from error
        values.flags.writeable = False
        return values

    def _damaged(self, error: Exception) -> InputError:
        return InputError(f"'{self.path}' is damaged: {' '.join(str(error).split())}")
