"""A folder of photos whose pairs are made by their order, or listed in ``pairs.json``."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from benchmarks.datasets.colmap_folder import photo_folder, read_truth
from benchmarks.datasets.pair_task import (
    FloatArray,
    ImagePair,
    PairSet,
    PairsOptions,
    Size,
    finite_matrix,
    pinhole,
)
from mapping.build import build_map
from mapping.cameras import read_model
from mapping.options import MapOptions
from matching.errors import InputError
from matching.files import existing_file, existing_folder
from matching.images import image_size
from matching.load import load_matcher


@dataclass(frozen=True, kw_only=True)
class FolderPairsOptions(PairsOptions):
    """Settings of `benchmark pairs`."""

    gaps: tuple[int, int] = (1, 3)  # places apart in the sorted photos; not used by pairs.json
    ground_truth: str | None = None  # a COLMAP model in place of sparse_gt or pairs.json
    # for photos without a truth: a folder that a map of them from motion is made in, with SIFT, or
    # was; its poses and cameras stand in for the truth
    pseudo_truth: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 1 <= self.gaps[0] <= self.gaps[1]:
            raise ValueError(f"gaps must be (smallest, largest) from 1 on, got {self.gaps}")
        if self.ground_truth is not None and self.pseudo_truth is not None:
            raise ValueError("give either ground_truth or pseudo_truth")


def open_pairs(root: Path, options: FolderPairsOptions) -> PairSet:
    """Read the pairs of a folder.

    With ``pairs.json``, those it lists: objects with ``image0``, ``image1``, ``K0``, ``K1`` (3, 3)
    and ``T_0to1`` (4, 4); without a truth, ``T_0to1`` is null and the ``K`` may be. Else all photos
    of the model in ``sparse_gt``, in the order of their names, paired with those ``gaps`` places
    further on.

    Args:
        root: Folder with ``images/`` (or the photos themselves).
        options: Which pairs, and a model to take in place of ``sparse_gt`` or ``pairs.json``.

    Raises:
        InputError: No truth, a malformed file, a missing photo, or no pair at all.
    """
    folder = existing_folder(root, "data set")
    images = photo_folder(folder)
    model = None
    notes: tuple[str, ...] = ()
    if options.pseudo_truth is not None:
        model, note = _from_motion(images, options.pseudo_truth)
        notes = (note,)
        pairs = _pairs_by_gap(model, options.gaps)
    elif options.ground_truth is None and (folder / "pairs.json").is_file():
        pairs = _listed_pairs(folder / "pairs.json", images)
    else:
        given = options.ground_truth
        model = read_model(given) if given is not None else read_truth(folder)
        if model is None:
            raise InputError(
                f"'{folder}' has neither pairs.json nor a model in sparse_gt: give a COLMAP model "
                "(ground_truth=FOLDER), or let one be made of the photos (pseudo_truth=NEW_FOLDER)"
            )
        pairs = _pairs_by_gap(model, options.gaps)
    for name in {name for pair in pairs for name in (pair.image0, pair.image1)}:
        existing_file(images / name, "photo")
    if not pairs:
        smallest, largest = options.gaps
        raise InputError(f"'{folder}' has no pair of photos {smallest} to {largest} places apart")
    return PairSet(images=images, pairs=tuple(pairs), notes=notes, model=model)


def _from_motion(images: Path, folder: str) -> tuple[pycolmap.Reconstruction, str]:
    """A model of the photos by structure from motion with SIFT, and what to say of it."""
    scene = build_map(
        images,
        folder,
        load_matcher("sift"),
        # as photos are read for matching
        options=MapOptions(apply_exif_orientation=False),
    )
    return scene.reconstruction, (
        "the truth is a pseudo truth: structure from motion with SIFT on the photos at full size, "
        f"{len(scene.image_names)} of {len(scene.info.images)} registered; it cannot tell errors "
        "below its own, and pairs that SIFT cannot connect at all are not in it"
    )


def _pairs_by_gap(model: pycolmap.Reconstruction, gaps: tuple[int, int]) -> list[ImagePair]:
    posed = sorted((i for i in model.images.values() if i.has_pose), key=lambda i: i.name)
    pairs = []
    for first, image0 in enumerate(posed):
        for image1 in posed[first + gaps[0] : first + gaps[1] + 1]:
            cam1_from_cam0 = np.eye(4)
            relative = image1.cam_from_world() * image0.cam_from_world().inverse()
            cam1_from_cam0[:3] = relative.matrix()
            pairs.append(
                ImagePair(
                    image0=image0.name,
                    image1=image1.name,
                    camera0=model.camera(image0.camera_id),
                    camera1=model.camera(image1.camera_id),
                    cam1_from_cam0=cam1_from_cam0,
                )
            )
    return pairs


def _listed_pairs(file: Path, images: Path) -> list[ImagePair]:
    try:
        entries = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{file}' is no valid JSON: {error}") from error
    if not isinstance(entries, list):
        raise InputError(f"'{file}' must hold a list of pairs")
    pairs = []
    for number, entry in enumerate(entries):
        where = f"'{file}' entry {number}"
        if not isinstance(entry, Mapping):
            raise InputError(f"{where}: expected an object, got {entry!r}")
        if entry.get("rot0") or entry.get("rot1"):
            raise InputError(f"{where}: turned photos are not supported (rot0, rot1)")
        if entry.get("image0") == entry.get("image1"):
            continue  # some lists hold each photo with itself
        truth = entry.get("T_0to1")
        camera0, camera1 = (_pinhole(entry, number, images, where) for number in (0, 1))
        if truth is not None:
            truth = _matrix(truth, (4, 4), f"{where}: T_0to1")
            if camera0 is None or camera1 is None:
                raise InputError(f"{where}: T_0to1 needs K0 and K1 beside it")
        pairs.append(
            ImagePair(
                image0=_name(entry, "image0", where),
                image1=_name(entry, "image1", where),
                camera0=camera0,
                camera1=camera1,
                cam1_from_cam0=truth,
            )
        )
    return pairs


def _name(entry: Mapping[str, Any], key: str, where: str) -> str:
    if not isinstance(entry.get(key), str):
        raise InputError(f"{where}: no '{key}'")
    return str(entry[key])


def _pinhole(
    entry: Mapping[str, Any], number: int, images: Path, where: str
) -> pycolmap.Camera | None:
    if entry.get(f"K{number}") is None:
        return None
    K = _matrix(entry[f"K{number}"], (3, 3), f"{where}: K{number}")
    path = images / _name(entry, f"image{number}", where)
    width, height = image_size(path, apply_exif_orientation=False)
    return pinhole(K, (width, height))


def _matrix(values: Any, shape: Size, where: str) -> FloatArray:
    if np.shape(values) != shape:
        raise InputError(f"{where} must be {shape[0]}x{shape[1]} finite numbers, got {values!r}")
    try:
        return finite_matrix(values, shape)
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: {error}") from error
