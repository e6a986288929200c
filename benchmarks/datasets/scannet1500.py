"""ScanNet-1500: pairs of indoor video frames, 15 from each of 100 rooms.

The list of SuperGlue (Sarlin et al., CVPR 2020), in any of the three layouts it is published in:

* LoFTR's: ``test.npz`` and ``intrinsics.npz`` (or both in ``scannet_test_1500/`` or
  ``assets/scannet_test_1500/``) and frames ``sceneXXXX_YY/color/N.jpg``;
* SuperGlue's: ``scannet_test_pairs_with_gt.txt``, frames as it names them, or as in LoFTR's layout;
* glue-factory's: ``pairs_calibrated.txt`` and ``images/``.

All photos are stretched to 640x480, as all publications do.
"""

import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets.pair_lists import (
    CalibratedPair,
    PhotoSizes,
    calibrated_camera,
    check_pose,
    first_with,
    read_calibrated_list,
    read_superglue_list,
)
from benchmarks.datasets.pair_task import FloatArray, ImagePair, PairSet, PairsOptions, Size
from matching.errors import InputError
from matching.files import existing_folder

SUPERGLUE_LIST = "scannet_test_pairs_with_gt.txt"
PHOTO_SIZE = (640, 480)  # that every photo is stretched to
COLOR_SIZE = (1296, 968)  # of ScanNet's colour frames, which SuperGlue's intrinsics mean

_INDEX_FOLDERS = (".", "scannet_test_1500", "assets/scannet_test_1500")
_PHOTO_FOLDERS = (".", "scannet_test_1500", "test", "scans_test", "images")
_FRAME = re.compile(r"(scene\d{4}_\d{2})\D.*?(\d+)(?:\.color)?\.jpg$")


@dataclass(frozen=True, kw_only=True)
class ScannetOptions(PairsOptions):
    """Settings of `benchmark scannet1500`."""

    # glue-factory's rows are the best over these
    sweep_px: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def open_scannet1500(root: Path, options: ScannetOptions) -> PairSet:
    """Read the pairs.

    Raises:
        InputError: A file is missing or malformed; it is named with what was expected.
    """
    folder = existing_folder(root, "ScanNet-1500 data set")
    superglue, gluefactory = folder / SUPERGLUE_LIST, "pairs_calibrated.txt"
    if superglue.is_file():
        images, pairs = _from_superglue(folder, superglue)
    elif (folder / gluefactory).is_file():
        images = folder / "images" if (folder / "images").is_dir() else folder
        pairs = _from_gluefactory(images, folder / gluefactory)
    else:
        hint = f", nor '{superglue.name}' or '{gluefactory}' in '{folder}'"
        index = first_with(folder, _INDEX_FOLDERS, "test.npz", "list of pairs", hint)
        images = first_with(folder, _PHOTO_FOLDERS, "scene*_*/color", "frames")
        pairs = list(_from_loftr(index))
    sizes = PhotoSizes(images)
    for pair in pairs:
        for name in (pair.image0, pair.image1):
            _check_shape(sizes(name), f"'{images / name}'")
    if not pairs:
        raise InputError(f"the list of pairs in '{folder}' is empty")
    return PairSet(
        images=images,
        pairs=tuple(pairs),
        title="ScanNet-1500",
        stretched_to=PHOTO_SIZE,
        published="scannet1500",
        num_published=1500,
    )


def _from_loftr(index: Path) -> Iterator[ImagePair]:
    listed = _arrays(index / "test.npz")
    names = _column(listed, "name", 4, index / "test.npz").astype(int)
    poses = _column(listed, "rel_pose", 12, index / "test.npz").astype(np.float64)
    intrinsics = _arrays(index / "intrinsics.npz")
    if len(names) != len(poses):
        raise InputError(f"'{index / 'test.npz'}': {len(names)} names, {len(poses)} poses")
    for number, ((scene, sub, frame0, frame1), rel_pose) in enumerate(
        zip(names.tolist(), poses, strict=True)
    ):
        where = f"'{index / 'test.npz'}' pair {number}"
        room = f"scene{scene:04d}_{sub:02d}"
        if room not in intrinsics:
            raise InputError(f"'{index / 'intrinsics.npz'}' has no '{room}'")
        cam1_from_cam0 = np.eye(4)
        cam1_from_cam0[:3] = rel_pose.reshape(3, 4)
        check_pose(cam1_from_cam0, where)
        camera = calibrated_camera(intrinsics[room], PHOTO_SIZE, where)
        yield ImagePair(
            image0=f"{room}/color/{frame0}.jpg",
            image1=f"{room}/color/{frame1}.jpg",
            camera0=camera,
            camera1=camera,
            cam1_from_cam0=cam1_from_cam0,
        )


def _from_superglue(folder: Path, file: Path) -> tuple[Path, list[ImagePair]]:
    listed = list(read_superglue_list(file))
    as_named = [
        root for root in _PHOTO_FOLDERS if listed and (folder / root / listed[0].image0).is_file()
    ]
    if as_named:
        return folder / as_named[0], [_calibrated(pair, COLOR_SIZE) for pair in listed]
    images = first_with(
        folder, _PHOTO_FOLDERS, "scene*_*/color", "frames",
        f", and no '{listed[0].image0}'" if listed else "",
    )  # fmt: skip
    return images, [
        _calibrated(
            pair, COLOR_SIZE, _as_in_loftr(pair.image0, pair), _as_in_loftr(pair.image1, pair)
        )
        for pair in listed
    ]


def _as_in_loftr(name: str, pair: CalibratedPair) -> str:
    """Where LoFTR's layout has a frame that SuperGlue names otherwise."""
    match = _FRAME.search(name)
    if match is None:
        raise InputError(
            f"{pair.where}: expected a frame like 'scene0707_00/.../15.jpg', got {name}"
        )
    return f"{match[1]}/color/{int(match[2])}.jpg"


def _from_gluefactory(images: Path, file: Path) -> list[ImagePair]:
    sizes = PhotoSizes(images)
    return [_calibrated(pair, sizes(pair.image0)) for pair in read_calibrated_list(file)]


def _calibrated(
    pair: CalibratedPair, size: Size, image0: str | None = None, image1: str | None = None
) -> ImagePair:
    """A pair whose intrinsics are those of photos of a size, for photos that get stretched."""
    stretch = np.diag([PHOTO_SIZE[0] / size[0], PHOTO_SIZE[1] / size[1], 1])
    camera0, camera1 = (
        calibrated_camera(stretch @ K, PHOTO_SIZE, pair.where) for K in (pair.K0, pair.K1)
    )
    return ImagePair(
        image0=image0 or pair.image0,
        image1=image1 or pair.image1,
        camera0=camera0,
        camera1=camera1,
        cam1_from_cam0=pair.cam1_from_cam0,
    )


def _check_shape(size: Size, where: str) -> None:
    """Frames are 1296x968, or smaller copies that are stretched already or not."""
    ratio = size[0] / size[1]
    if not 1.32 < ratio < 1.35:
        raise InputError(
            f"{where} has {size[0]}x{size[1]} pixels; ScanNet's colour frames have 1296x968, "
            "or 640x480 once stretched"
        )


def _arrays(file: Path) -> dict[str, NDArray[Any]]:
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return dict(arrays)
    except FileNotFoundError as error:
        raise InputError(f"no file '{file}': it belongs beside 'test.npz'") from error
    except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"'{file}' is damaged: download it again") from error


def _column(
    arrays: dict[str, NDArray[Any]], name: str, width: int, file: Path
) -> FloatArray | NDArray[Any]:
    if name not in arrays:
        raise InputError(f"'{file}' has no array '{name}', only {', '.join(arrays)}")
    values = arrays[name]
    if values.ndim < 2 or values[0].size != width:
        raise InputError(f"'{file}': expected '{name}' as (N, {width}), got {values.shape}")
    return values.reshape(len(values), width)
