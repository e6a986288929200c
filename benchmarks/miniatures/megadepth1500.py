"""A miniature of MegaDepth-1500 in the layouts that `benchmarks.datasets.megadepth1500` reads."""

import pickle
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.datasets.megadepth1500 import SCENE_FILES, SCENE_INFO
from benchmarks.miniatures.studio import Studio, numbers, world_frame, write_photo

FloatArray = NDArray[np.float64]
Layout = Literal["loftr", "gluefactory"]

_SCALE = 0.137  # of a metre: a reconstruction from photos has a unit of its own
# photos of a scene: camera position and camera, each its own size, shape and focal lengths
_PHOTOS = (
    (1, (480, 360, 430.0, 433.0, 251.0, 172.0)),
    (2, (330, 450, 390.0, 388.0, 160.0, 231.0)),
    (3, (510, 340, 470.0, 472.0, 249.0, 175.0)),
)
# places of the two photos of each pair, by scene file
_PAIRS = {stem: [(0, 1)] for stem in SCENE_FILES} | {SCENE_FILES[0]: [(0, 2), (2, 1)]}


def write_megadepth1500(root: Path, studio: Studio, layout: Layout = "loftr") -> None:
    """Write photos, intrinsics, poses and pairs.

    Args:
        root: A new folder.
        studio: Takes the photos.
        layout: LoFTR's pickled scene files, or glue-factory's list.
    """
    lines = []
    for place, scene in enumerate(("0015", "0022")):
        frame = world_frame(15.0 + 100 * place, -20.0, (3.0, 1.0, -2.0))
        photos = f"Undistorted_SfM/{scene}/images"
        names: list[str | None] = [f"{photos}/{number}_o.jpg" for number in range(len(_PHOTOS))]
        poses, calibrations = [], []
        for name, (position, (width, height, *params)) in zip(names, _PHOTOS, strict=True):
            camera = pycolmap.Camera(
                model="PINHOLE", width=int(width), height=int(height), params=params
            )
            shot = studio.shot("map", position, camera, frame)
            folder = root / "images" if layout == "gluefactory" else root
            write_photo(folder / str(name), shot.image)
            pose = shot.cam_from_world.copy()
            pose[:3, 3] *= _SCALE
            poses.append(pose)
            calibrations.append(camera.calibration_matrix())
        for stem in (stem for stem in SCENE_FILES if stem.startswith(scene)):
            pairs = _PAIRS[stem]
            if layout == "loftr":
                _write_scene_info(root / SCENE_INFO, stem, names, calibrations, poses, pairs)
            for a, b in pairs:
                relative = poses[b] @ np.linalg.inv(poses[a])
                values = (calibrations[a], calibrations[b], relative[:3, :3], relative[:3, 3])
                lines.append(f"{names[a]} {names[b]} {numbers(*values)}\n")
    if layout == "gluefactory":
        (root / "pairs_calibrated.txt").write_text("".join(lines))


def _write_scene_info(
    folder: Path,
    stem: str,
    names: list[str | None],
    calibrations: list[FloatArray],
    poses: list[FloatArray],
    pairs: list[tuple[int, int]],
) -> None:
    """A pickled dict under the ending of an archive, with unused entries, as published."""

    def objects(values: list[Any]) -> NDArray[np.object_]:
        array = np.empty(len(values) + 1, object)  # the last entry is a photo that was left out
        array[: len(values)] = values
        return array

    info = {
        "image_paths": objects(names),
        "depth_paths": objects([None] * len(names)),
        "intrinsics": objects(calibrations),
        "poses": objects(poses),
        "pair_infos": [(pair, 0.25, np.zeros((2, 2), np.float32)) for pair in pairs],
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.npz").write_bytes(pickle.dumps(info, protocol=4))
