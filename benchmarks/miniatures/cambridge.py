"""A tiny Cambridge Landmarks of one scene, with hloc's retriangulated models beside it."""

from pathlib import Path, PurePosixPath

import pycolmap

from benchmarks.datasets.nvm import nvm_text
from benchmarks.datasets.posed_photos import posed_model
from benchmarks.interchange.hloc_lists import write_query_list
from benchmarks.miniatures.studio import (
    Shot,
    Studio,
    camera_center,
    numbers,
    pinhole,
    quat_wxyz,
    world_frame,
    write_photo,
)
from matching.files import PathLike, write_text_atomic

SCENE = "ShopFacade"
WORLD = world_frame(-60.0, 85.0, (12.0, -30.0, 7.0))
TRAIN = tuple(f"seq{1 + k % 2}/frame{10 * k + 1:05d}.png" for k in range(6))
TEST = tuple(f"seq3/frame{k + 1:05d}.png" for k in range(3))
_HEADER = "Visual Landmark Dataset V1\nImageFile, Camera Position [X Y Z W P Q R]\n\n"
RETRIANGULATED = "CambridgeLandmarks_Colmap_Retriangulated_1024px"


def write_cambridge(root: PathLike, studio: Studio) -> dict[str, pycolmap.Rigid3d]:
    """Write it; returns the true poses of the queries."""
    folder = Path(root) / SCENE
    shots = {name: _take(studio, "map", k) for k, name in enumerate(TRAIN)}
    shots |= {name: _take(studio, "query", k) for k, name in enumerate(TEST)}
    for name, shot in shots.items():
        write_photo(folder / name, shot.image)
    for split, names in (("train", TRAIN), ("test", TEST)):
        lines = [
            f"{name} {numbers(camera_center(pose), quat_wxyz(pose))}\n"  # centre and w2c rotation
            for name, pose in ((name, shots[name].cam_from_world) for name in names)
        ]
        write_text_atomic(folder / f"dataset_{split}.txt", _HEADER + "".join(lines))
    as_jpg = {name: PurePosixPath(name).with_suffix(".jpg").as_posix() for name in shots}
    write_text_atomic(
        folder / "reconstruction.nvm",
        nvm_text((as_jpg[name], s.camera.focal_length, s.rigid) for name, s in shots.items()),
    )
    _write_retriangulated(Path(root) / RETRIANGULATED / SCENE, shots)
    return {name: shots[name].rigid for name in TEST}


def _take(studio: Studio, kind: str, index: int) -> Shot:
    size = (240, 320) if index == 2 else (320, 240)
    camera = pinhole(*size, 280.0 + 2 * index)  # every photo has its own focal length
    return studio.shot("map" if kind == "map" else "query", index, camera, WORLD)


def _write_retriangulated(folder: Path, shots: dict[str, Shot]) -> None:
    """The model of the map photos and the list of the queries, at a smaller width."""
    small = {}
    for name, shot in shots.items():
        focal, cx, cy = shot.camera.params
        small[name] = pycolmap.Camera(
            model="SIMPLE_RADIAL",
            width=shot.camera.width // 2,
            height=shot.camera.height // 2,
            params=[focal / 2, cx / 2, cy / 2, 0.0],
        )
    model = posed_model({name: (small[name], shots[name].rigid) for name in TRAIN})
    (folder / "model_train").mkdir(parents=True)
    model.write_binary(folder / "model_train")
    write_query_list(folder / "list_query.txt", {name: small[name] for name in TEST})
