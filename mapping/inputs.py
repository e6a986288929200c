"""What a map can be given besides photos: known poses, known cameras, a list of pairs."""

import hashlib
import logging
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import pycolmap

from mapping.cameras import misfit, read_model
from mapping.pairs import Pair
from mapping.photos import Photo
from matching.errors import InputError
from matching.files import PathLike
from matching.images import image_size

logger = logging.getLogger(__name__)

Poses = dict[str, tuple[pycolmap.Camera, pycolmap.Rigid3d]]


def read_known_poses(
    known_poses: PathLike | pycolmap.Reconstruction, names: Sequence[str]
) -> Poses:
    """Camera and cam_from_world of the photos that a COLMAP model holds.

    Raises:
        InputError: The model is damaged, or holds none of the photos.
    """
    if isinstance(known_poses, pycolmap.Reconstruction):
        model, where = known_poses, "the given model"
    else:
        model, where = read_model(known_poses), f"'{known_poses}'"
    wanted = set(names)
    images = [model.image(i) for i in model.reg_image_ids()]
    poses = {
        # copies: cameras of a model end with it
        i.name: (pycolmap.Camera(model.camera(i.camera_id).todict()), i.cam_from_world())
        for i in images
        if i.name in wanted
    }
    if not poses:
        example = f"'{images[0].name}'" if images else "nothing"
        photo = f"'{names[0]}'" if names else "none"
        raise InputError(
            f"{where} has no pose of any photo: it names {example}, the photos are {photo} ..."
        )
    return poses


def usable_photos(
    photos: Mapping[str, Photo],
    cameras: Mapping[str, pycolmap.Camera],
    *,
    posed_only: bool,
    apply_exif_orientation: bool,
) -> tuple[list[Photo], dict[str, str]]:
    """The photos worth encoding: those that are told by their headers alone are left out.

    Args:
        photos: Photos by name.
        cameras: Known intrinsics by name.
        posed_only: Only photos with a camera have a pose, and others are of no use.
        apply_exif_orientation: Whether cameras are those of upright photos.

    Returns:
        The photos, and the others' names to the reason.
    """
    usable, bad = [], {}
    for name, photo in photos.items():
        reason = None
        if name in cameras:
            try:
                size = image_size(photo.path, apply_exif_orientation=apply_exif_orientation)
                reason = misfit(cameras[name], size)
            except InputError as error:
                reason = str(error)
        elif posed_only:
            reason = "the known poses do not hold it"
        if reason is None:
            usable.append(photo)
        else:
            bad[name] = reason
    return usable, bad


def given_cameras(
    cameras: Mapping[str, pycolmap.Camera] | None, names: Collection[str], images: PathLike
) -> dict[str, pycolmap.Camera]:
    """The cameras of a list that are of photos in a folder; warns of photos in only one of them.

    Raises:
        InputError: The list names none of the photos.
    """
    if not cameras:
        return {}
    given = {name: camera for name, camera in cameras.items() if name in names}
    if not given:
        raise InputError(
            f"none of the photos in '{images}' is in the camera list, which names "
            f"'{next(iter(cameras))}' first"
        )
    unknown = [name for name in cameras if name not in names]
    if unknown:
        logger.warning(
            "%d names of the camera list are no photos in '%s', e.g. %s",
            len(unknown), images, unknown[0],
        )  # fmt: skip
    without = [name for name in names if name not in given]
    if without:
        logger.warning("%d photos without a given camera, e.g. %s", len(without), without[0])
    return given


def _hash_cameras(cameras: Mapping[str, pycolmap.Camera]) -> str:
    lines = [
        f"{n} {c.model.name} {c.width} {c.height} {c.params.tolist()}"
        for n, c in sorted(cameras.items())
    ]
    return hashlib.sha256("\n".join(lines).encode()).hexdigest()


def hash_inputs(
    poses: Poses | None,
    cameras: Mapping[str, pycolmap.Camera],
    pairs: Sequence[Pair] | None = None,
) -> dict[str, Any]:
    """Hashes of given poses, cameras and pairs; None for what is not given."""
    of_poses = None
    if poses:
        lines = [f"{n} {pose.matrix().tolist()}" for n, (_, pose) in sorted(poses.items())]
        lines.append(_hash_cameras({n: camera for n, (camera, _) in poses.items()}))
        of_poses = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    return {
        "known_poses": of_poses,
        "cameras": _hash_cameras(cameras) if cameras else None,
        "pairs": None if pairs is None else hashlib.sha256(repr(pairs).encode()).hexdigest(),
    }
