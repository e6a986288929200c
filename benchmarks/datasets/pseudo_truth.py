"""Pseudo ground truth of 7-Scenes and 12-Scenes (Brachmann et al., ICCV 2021).

Files ``pgt/{sfm,dslam}/{7scenes,12scenes}/<scene>_{train,test}.txt`` of the repository
visloc_pseudo_gt_limitations: ``name qw qx qy qz tx ty tz f``, world to colour camera.
"""

from dataclasses import dataclass
from pathlib import Path

import pycolmap

from benchmarks.datasets.posed_photos import pose_from_quaternion, read_number_lines
from matching.errors import InputError

_LINE = "name qw qx qy qz tx ty tz f"


@dataclass(frozen=True, kw_only=True)
class PseudoTruth:
    """One split of a scene.

    Attributes:
        poses: cam_from_world by name.
        focal_px: By name, of the colour photos.
    """

    poses: dict[str, pycolmap.Rigid3d]
    focal_px: dict[str, float]


def find_pseudo_truth(root: Path, given: str | None, data_set: str) -> Path:
    """The folder with a data set's SfM files.

    Args:
        root: The data set; ``pgt`` may lie in it or beside it.
        given: The user's folder: the repository, its ``pgt``, or the files' own.
        data_set: ``7scenes`` or ``12scenes``.

    Raises:
        InputError: None of the places looked at holds it.
    """
    tail = Path("sfm") / data_set
    if given is not None:
        places = [Path(given) / "pgt" / tail, Path(given) / tail, Path(given)]
    else:
        places = [
            base / "pgt" / tail
            for base in (root, root.parent, root.parent / "visloc_pseudo_gt_limitations")
        ]
    for place in places:
        if place.is_dir() and any(place.glob("*_test.txt")):
            return place
    raise InputError(
        f"no SfM pseudo ground truth '*_test.txt' in {', '.join(map(repr, map(str, places)))}: get "
        "the repository visloc_pseudo_gt_limitations and set pseudo_truth, or use truth=dslam"
    )


def read_pseudo_truth(folder: Path, scene: str, split: str) -> PseudoTruth:
    """Read ``<scene>_<split>.txt``.

    Raises:
        InputError: No such file, a malformed line, or a frame given twice.
    """
    file = folder / f"{scene}_{split}.txt"
    poses: dict[str, pycolmap.Rigid3d] = {}
    focal_px: dict[str, float] = {}
    for where, name, values in read_number_lines(file, 8, _LINE):
        if name in poses or not values[7] > 0:
            raise InputError(f"{where}: '{name}' comes twice or has no focal length")
        poses[name] = pose_from_quaternion(values[:4], where, translation=values[4:7])
        focal_px[name] = float(values[7])
    return PseudoTruth(poses=poses, focal_px=focal_px)
