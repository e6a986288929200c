"""MegaDepth-1500: pairs of tourist photos of two places, 300 from each of five overlap bands.

The test pairs of LoFTR (Sun et al., CVPR 2021), in either of the layouts they are published in:

* LoFTR's: the five scene files ``0015_0.1_0.3.npz`` ... (in the folder itself, in
  ``megadepth_test_1500_scene_info/`` or in ``assets/megadepth_test_1500_scene_info/``) and the
  photos ``Undistorted_SfM/0015/images/...``;
* glue-factory's: ``pairs_calibrated.txt`` and ``images/``.

Intrinsics are those of the full undistorted photos; translations have no metric scale.
"""

import pickle
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, ClassVar

import numpy as np

from benchmarks.datasets.pair_lists import (
    PhotoSizes,
    calibrated_camera,
    check_pose,
    first_with,
    read_calibrated_list,
)
from benchmarks.datasets.pair_task import (
    FloatArray,
    ImagePair,
    PairSet,
    PairsOptions,
    finite_matrix,
)
from matching.errors import InputError
from matching.files import existing_folder

SCENE_INFO = "megadepth_test_1500_scene_info"
SCENE_FILES = ("0015_0.1_0.3", "0015_0.3_0.5", "0022_0.1_0.3", "0022_0.3_0.5", "0022_0.5_0.7")

_KEYS = ("image_paths", "intrinsics", "poses", "pair_infos")
# what a damaged or foreign pickle raises
_UNPICKLE_ERRORS = (
    pickle.UnpicklingError, EOFError, ValueError, TypeError, AttributeError, IndexError, KeyError,
    ImportError,
)  # fmt: skip
_LAYOUTS = (".", SCENE_INFO, f"assets/{SCENE_INFO}", f"index/{SCENE_INFO}")


@dataclass(frozen=True, kw_only=True)
class MegadepthOptions(PairsOptions):
    """Settings of `benchmark megadepth1500`."""

    long_side_px: int | None = 1600  # as glue-factory
    max_matches: int | None = 5000
    # glue-factory's rows are the best over these
    sweep_px: tuple[float, ...] = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0)


def open_megadepth1500(root: Path, options: MegadepthOptions) -> PairSet:
    """Read the pairs.

    Raises:
        InputError: A file is missing or malformed; it is named with what was expected.
    """
    folder = existing_folder(root, "MegaDepth-1500 data set")
    gluefactory = folder / "pairs_calibrated.txt"
    if gluefactory.is_file():
        images = folder / "images" if (folder / "images").is_dir() else folder
        pairs = _from_gluefactory(images, gluefactory)
    else:
        hint = f", and no '{gluefactory}'"
        index = first_with(folder, _LAYOUTS, f"{SCENE_FILES[0]}.npz", "scene files", hint)
        images = first_with(folder, (".", "test"), "Undistorted_SfM", "photos")
        pairs = _from_loftr(images, index)
    found = tuple(pairs)
    if not found:
        raise InputError(f"the list of pairs in '{folder}' is empty")
    return PairSet(
        images=images,
        pairs=found,
        title="MegaDepth-1500",
        published="megadepth1500",
        num_published=1500,
    )


def _from_gluefactory(images: Path, file: Path) -> Iterator[ImagePair]:
    sizes = PhotoSizes(images)
    for pair in read_calibrated_list(file):
        yield ImagePair(
            image0=pair.image0,
            image1=pair.image1,
            camera0=calibrated_camera(pair.K0, sizes(pair.image0), pair.where),
            camera1=calibrated_camera(pair.K1, sizes(pair.image1), pair.where),
            cam1_from_cam0=pair.cam1_from_cam0,
        )


def _from_loftr(images: Path, index: Path) -> Iterator[ImagePair]:
    sizes = PhotoSizes(images)
    for stem in SCENE_FILES:
        file = index / f"{stem}.npz"
        info = read_scene_info(file)
        for number, entry in enumerate(info["pair_infos"]):
            where = f"'{file}' pair {number}"
            try:
                ids = [int(i) for i in entry[0]]
                names = [str(info["image_paths"][i]) for i in ids]
                poses = [finite_matrix(info["poses"][i], (4, 4)) for i in ids]
                calibrations = [info["intrinsics"][i] for i in ids]
            except (TypeError, ValueError, IndexError, KeyError) as error:
                raise InputError(
                    f"{where}: expected ((i, j), overlap, ...) with i and j in its lists of "
                    f"photos, poses and intrinsics: {error}"
                ) from error
            if len(ids) != 2:
                raise InputError(f"{where}: expected two photos, got {len(ids)}")
            for pose in poses:
                check_pose(pose, where)
            camera0, camera1 = (
                calibrated_camera(K, sizes(name), where)
                for K, name in zip(calibrations, names, strict=True)
            )
            yield ImagePair(
                image0=names[0],
                image1=names[1],
                camera0=camera0,
                camera1=camera1,
                cam1_from_cam0=_relative(*poses),
                group=stem,
            )


def _relative(cam0_from_world: FloatArray, cam1_from_world: FloatArray) -> FloatArray:
    return cam1_from_world @ np.linalg.inv(cam0_from_world)


def read_scene_info(file: Path) -> Mapping[str, Any]:
    """Read a scene file: a pickled dict, despite its ending. Nothing in it is ever run.

    Args:
        file: Whose ``image_paths`` (names or None), ``intrinsics`` (3, 3), ``poses`` (4, 4;
            cam_from_world) and ``pair_infos`` (((i, j), overlap, ...)) count.

    Raises:
        InputError: It is missing, no such file, or holds anything but numbers, texts and lists.
    """
    try:
        with file.open("rb") as opened:
            info = _PlainUnpickler(opened).load()
    except FileNotFoundError as error:
        raise InputError(f"no scene file '{file}'") from error
    except _UNPICKLE_ERRORS as error:
        raise InputError(f"'{file}' is no scene file of LoFTR's list: {error}") from error
    if not isinstance(info, dict) or not all(key in info for key in _KEYS):
        raise InputError(f"'{file}': expected a dict with {', '.join(_KEYS)}")
    return info


def _encode_latin1(text: str, encoding: str) -> bytes:
    if encoding != "latin1":
        raise pickle.UnpicklingError(f"it holds bytes in an unknown encoding {encoding!r}")
    return text.encode("latin1")


class _PlainUnpickler(pickle.Unpickler):
    """Builds plain values and arrays of numpy, and refuses to look up anything else."""

    _ALLOWED: ClassVar[Mapping[str, tuple[str, ...]]] = {
        "numpy": ("ndarray", "dtype"),
        "numpy._core.multiarray": ("_reconstruct", "scalar"),
        "numpy._core.numeric": ("_frombuffer",),
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file, encoding="latin1")  # for files that Python 2 wrote

    def find_class(self, module: str, name: str) -> Any:
        """The few constructors that arrays are made with."""
        module = module.replace("numpy.core.", "numpy._core.")  # its name before numpy 2
        if name in self._ALLOWED.get(module, ()):
            return super().find_class(module, name)
        if (module, name) == ("_codecs", "encode"):  # bytes, as old protocols write them
            return _encode_latin1
        raise pickle.UnpicklingError(f"it wants to run {module}.{name}, which arrays do not need")
