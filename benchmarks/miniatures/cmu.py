"""A tiny Extended CMU Seasons of one slice with two distorted cameras."""

from pathlib import Path

import pycolmap

from benchmarks.datasets.posed_photos import posed_model
from benchmarks.interchange.hloc_lists import write_query_list
from benchmarks.miniatures.studio import (
    Shot,
    Studio,
    camera_center,
    numbers,
    quat_wxyz,
    world_frame,
    write_photo,
)
from matching.files import PathLike, write_text_atomic

SLICE = "slice7"
WORLD = world_frame(40.0, 4.0, (310.0, -95.0, 12.0))
DATABASE = tuple(f"img_{122 + k:05d}_c{k % 2}_{1303398475046031 + 7 * k}us.jpg" for k in range(6))
QUERIES = tuple(f"img_{31 + k:05d}_c{k % 2}_{1311874731171555 + 9 * k}us.jpg" for k in range(3))
_CAMERAS = {
    "c0": [286.0, 285.0, 163.0, 118.0, -0.11, 0.025, 0.0006, 0.0003],
    "c1": [288.0, 287.0, 157.0, 122.0, -0.12, 0.03, -0.0004, 0.0007],
}


def write_cmu(root: PathLike, studio: Studio) -> dict[str, pycolmap.Rigid3d]:
    """Write it; returns the true poses of all queries, of which the data set tells two."""
    folder = Path(root) / SLICE
    cameras = {
        name: pycolmap.Camera(model="OPENCV", width=320, height=240, params=params)
        for name, params in _CAMERAS.items()
    }
    write_query_list(Path(root) / "intrinsics.txt", cameras)
    database, queries = {}, {}
    for index, name in enumerate(DATABASE):
        database[name] = studio.shot("map", index, cameras[f"c{index % 2}"], WORLD)
        write_photo(folder / "database" / name, database[name].image)
    for index, name in enumerate(QUERIES):
        queries[name] = studio.shot("query", index, cameras[f"c{index % 2}"], WORLD)
        write_photo(folder / "query" / name, queries[name].image)
    write_text_atomic(folder / f"ground-truth-database-images-{SLICE}.txt", _poses(database))
    write_text_atomic(folder / f"test-images-{SLICE}.txt", "".join(f"{n}\n" for n in QUERIES))
    published = {name: queries[name] for name in QUERIES[:2]}
    write_text_atomic(folder / "camera-poses" / f"{SLICE}.txt", _poses(published))
    (folder / "sparse").mkdir()
    posed_model({n: (s.camera, s.rigid) for n, s in database.items()}).write_binary(
        folder / "sparse"
    )
    return {f"query/{name}": shot.rigid for name, shot in queries.items()}


def _poses(shots: dict[str, Shot]) -> str:
    """Rotation world to camera, but the camera's centre."""
    return "".join(
        f"{name} {numbers(quat_wxyz(s.cam_from_world), camera_center(s.cam_from_world))}\n"
        for name, s in shots.items()
    )
