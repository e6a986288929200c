"""The COLMAP database of a map: photos, keypoints, matches, verified pairs."""

import sqlite3
from collections.abc import Iterable, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import MappingProxyType

import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.colmap import two_view_options
from mapping.options import VerificationOptions
from mapping.pairs import Pair
from matching.progress import Progress, silent

# parts in which pairs are verified: each costs COLMAP a look at the whole database
_MAX_PARTS, _MIN_PAIRS_OF_PART = 100, 50


@dataclass(frozen=True)
class MapCameras:
    """Cameras of photos.

    Attributes:
        cameras: Distinct cameras; several photos may share one.
        camera_of: Photo to its place in ``cameras``.
        focal_sources: Photo to where its focal length is from before it is refined, see
            `mapping.focal_prior.FocalPrior`, or ``given``.
    """

    cameras: Sequence[pycolmap.Camera]
    camera_of: Mapping[str, int]
    focal_sources: Mapping[str, str] = field(default_factory=dict)


def write_database(
    path: Path,
    cameras: MapCameras,
    keypoints: Mapping[str, NDArray[np.float32]],
    taken_by: Mapping[str, int] = MappingProxyType({}),
) -> None:
    """Write a new database, or add photos to an existing one; see `verify_pairs` for matches.

    Args:
        path: The database file.
        cameras: The camera of each new photo; numbers follow those in the database.
        keypoints: New photo to its keypoints (N, 2); for a photo of the database more keypoints
            than it has, the first ones unchanged.
        taken_by: New photo to the number of a camera in the database, instead of ``cameras``.
    """
    with pycolmap.Database.open(path) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        camera_ids: dict[int, int] = {}
        with pycolmap.DatabaseTransaction(database):
            for name, points in keypoints.items():
                if name in ids:
                    database.update_keypoints(ids[name], points)
                    continue
                camera_id = taken_by.get(name)
                if camera_id is None:
                    place = cameras.camera_of[name]
                    if place not in camera_ids:
                        camera_ids[place] = database.write_camera(cameras.cameras[place])
                        _write_trivial_rig(database, camera_ids[place])
                    camera_id = camera_ids[place]
                ids[name] = _write_image(database, name, camera_id)
                database.write_keypoints(ids[name], points)


def write_matches(path: Path, matches: Iterable[tuple[Pair, NDArray[np.int64]]]) -> None:
    """Add pairs, as rows (M, 2) of their photos' keypoints; pairs without matches are left out."""
    with pycolmap.Database.open(path) as database:
        ids = {image.name: image.image_id for image in database.read_all_images()}
        with pycolmap.DatabaseTransaction(database):
            for (name0, name1), rows in matches:
                if len(rows):
                    database.write_matches(ids[name0], ids[name1], rows.astype(np.uint32))


def database_bytes(
    keypoints: Mapping[str, NDArray[np.float32]], matches: Mapping[Pair, NDArray[np.int64]]
) -> int:
    """Upper bound of what a verified database and its journal take on the disk."""
    rows = sum(len(m) for m in matches.values())
    points = sum(len(k) for k in keypoints.values())
    per_row, per_point = 16, 8  # two indices in matches and in inlier matches; x and y
    per_record, empty = 2048, 2**20
    records = len(matches) + len(keypoints)
    return 2 * (per_row * rows + per_point * points + per_record * records) + empty


def _write_trivial_rig(database: pycolmap.Database, camera_id: int) -> None:
    rig = pycolmap.Rig(rig_id=camera_id)
    rig.add_ref_sensor(pycolmap.sensor_t(type=pycolmap.SensorType.CAMERA, id=camera_id))
    database.write_rig(rig, use_rig_id=True)


def _write_image(database: pycolmap.Database, name: str, camera_id: int) -> int:
    image = pycolmap.Image(name=name, camera_id=camera_id)
    image.image_id = database.write_image(image)
    frame = pycolmap.Frame(frame_id=image.image_id, rig_id=camera_id)
    frame.add_data_id(image.data_id)
    database.write_frame(frame, use_frame_id=True)
    return int(image.image_id)


def verify_pairs(
    path: Path,
    matches: Mapping[Pair, NDArray[np.int64]],
    options: VerificationOptions,
    posed: pycolmap.Reconstruction | None = None,
    *,
    progress: Progress = silent,
) -> None:
    """Write the matches of new pairs, and keep those that fit the geometry of their pair.

    COLMAP tells of no pair before all are verified, so they are given to it bit by bit.

    Args:
        path: The database; pairs that are in it already are left alone.
        matches: Pair to rows of the keypoints, (M, 2).
        options: Thresholds.
        posed: Known cameras and poses under the database's ids: then a match is checked against
            the epipolar line they give, instead of against geometry estimated from the matches.
        progress: Wraps the loop over pairs.
    """
    two_view = two_view_options(options)
    # checking against known poses takes no time worth a bar, but is done again for all every time
    parts = 1 if posed is not None else _MAX_PARTS
    size = max(_MIN_PAIRS_OF_PART, -(-len(matches) // parts))
    pairs = iter(progress(matches.items(), "verifying pairs", len(matches)))
    while part := list(islice(pairs, size)):
        write_matches(path, part)
        if posed is None:
            pycolmap.geometric_verification(path, two_view_geometry_options=two_view)
    if posed is not None:
        pycolmap.guided_geometric_verification(posed, path, two_view_geometry_options=two_view)


def posed_reconstruction(
    path: Path, poses: Mapping[str, pycolmap.Rigid3d]
) -> pycolmap.Reconstruction:
    """A model without points: cameras and ids of the database, with the known poses.

    Args:
        path: The database.
        poses: Photo to cam_from_world; photos of the database without a pose are left out.
    """
    model = pycolmap.Reconstruction()
    with pycolmap.Database.open(path) as database:
        for camera in database.read_all_cameras():
            model.add_camera_with_trivial_rig(camera)
        for image in database.read_all_images():
            if image.name in poses:
                bare = pycolmap.Image(
                    name=image.name, camera_id=image.camera_id, image_id=image.image_id
                )
                model.add_image_with_trivial_frame(bare, poses[image.name])
    return model


def database_names(path: Path) -> list[str]:
    """All photos of a database, sorted.

    Read without COLMAP, which writes into every database it opens.
    """
    uri = f"{path.resolve().as_uri()}?mode=ro&immutable=1"
    with closing(sqlite3.connect(uri, uri=True)) as connection:
        return sorted(name for (name,) in connection.execute("SELECT name FROM images"))


def verified_matches(path: Path) -> dict[str, tuple[int, int]]:
    """Photo to (number of verified matches, number of photos it has them with)."""
    counts: dict[int, tuple[int, int]] = {}
    with pycolmap.Database.open(path) as database:
        names = {image.image_id: image.name for image in database.read_all_images()}
        pair_ids, inliers = database.read_two_view_geometry_num_inliers()
        for pair_id, number in zip(pair_ids, inliers, strict=True):
            for image_id in pycolmap.pair_id_to_image_pair(pair_id):
                matches, photos = counts.get(image_id, (0, 0))
                if number:
                    counts[image_id] = (matches + number, photos + 1)
    return {name: counts.get(image_id, (0, 0)) for image_id, name in names.items()}
