"""A tiny RobotCar Seasons of one place, by three cameras, with the lists of v2."""

from pathlib import Path, PurePosixPath

import numpy as np
import pycolmap

from benchmarks.datasets.posed_photos import posed_model
from benchmarks.miniatures.studio import (
    Studio,
    matrix_text,
    numbers,
    world_frame,
    write_photo,
)
from matching.files import PathLike, write_text_atomic

PLACE = "013"
WORLD = world_frame(65.0, 75.0, (-210.0, 160.0, 25.0))
_FOLDERS = ("rear", "left", "right")
_INTRINSICS = {
    "rear": (301.0, 300.0, 150.5, 152.0),
    "left": (303.0, 302.0, 153.0, 149.0),
    "right": (302.0, 301.0, 149.0, 151.0),
}
_SIZE = 302  # photos are square
MAP = tuple(
    f"overcast-reference/{_FOLDERS[k % 3]}/{1417176506710143 + 250000 * k}.jpg" for k in range(6)
)
QUERIES = ("dusk/rear/1424450252189781.jpg", "night/left/1418841055829011.jpg",
           "sun/rear/1425996681061123.jpg")  # fmt: skip
TRAIN = QUERIES[:1]  # of v2


def write_robotcar(root: PathLike, studio: Studio) -> dict[str, pycolmap.Rigid3d]:
    """Write it; returns the true poses of all queries, of which the data set tells one."""
    folder = Path(root)
    cameras = {
        name: pycolmap.Camera(model="PINHOLE", width=_SIZE, height=_SIZE, params=list(params))
        for name, params in _INTRINSICS.items()
    }
    shots = {}
    for kind, names in (("map", MAP), ("query", QUERIES)):
        for index, name in enumerate(names):
            camera = cameras[PurePosixPath(name).parts[1]]
            shots[name] = studio.shot("map" if kind == "map" else "query", index, camera, WORLD)
            write_photo(folder / "images" / name, shots[name].image)
    for name, values in _INTRINSICS.items():
        lines = [
            f"{key} {value}\n" for key, value in zip(("fx", "fy", "cx", "cy"), values, strict=True)
        ]
        write_text_atomic(folder / "intrinsics" / f"{name}_intrinsics.txt", "".join(lines))
        write_text_atomic(
            folder / "extrinsics" / f"{name}_extrinsics.txt", matrix_text(np.eye(4), ", ")
        )
    model = folder / "3D-models/individual/colmap_reconstructions" / f"{PLACE}_aligned"
    model.mkdir(parents=True)
    # the models say .png
    as_png = {name: PurePosixPath(name).with_suffix(".png").as_posix() for name in MAP}
    posed_model({as_png[n]: (shots[n].camera, shots[n].rigid) for n in MAP}).write_text(model)
    write_text_atomic(
        folder / "queries_per_location" / f"queries_location_{PLACE}.txt",
        "".join(f"{name}\n" for name in QUERIES),
    )
    rows = [f"{name} {numbers(np.linalg.inv(shots[name].cam_from_world)[:3])}\n" for name in TRAIN]
    write_text_atomic(folder / "robotcar_v2_train.txt", "".join(rows))
    test = [name for name in QUERIES if name not in TRAIN]
    write_text_atomic(folder / "robotcar_v2_test.txt", "".join(f"{name}\n" for name in test))
    return {name: shots[name].rigid for name in QUERIES}
