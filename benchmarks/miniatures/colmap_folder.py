"""A tiny folder as the benchmarks ``colmap`` and ``pairs`` take them: photos, model, lists."""

from pathlib import Path

import pycolmap

from benchmarks.datasets.posed_photos import posed_model
from benchmarks.interchange.hloc_lists import write_query_list
from benchmarks.miniatures.studio import Studio, pinhole, world_frame, write_photo
from matching.files import PathLike, write_text_atomic

WORLD = world_frame(110.0, -15.0, (4.0, 9.0, -6.0))
MAP = tuple(f"map/{k:02d}.jpg" for k in range(6))
QUERIES = tuple(f"query/{k:02d}.jpg" for k in range(3))


def write_colmap_folder(root: PathLike, studio: Studio) -> dict[str, pycolmap.Rigid3d]:
    """Write it; returns the true poses of the queries."""
    folder = Path(root)
    shots = {}
    for kind, names in (("map", MAP), ("query", QUERIES)):
        for index, name in enumerate(names):
            size = (240, 320) if index == 2 else (320, 240)
            shots[name] = studio.shot(
                "map" if kind == "map" else "query", index, pinhole(*size, 275.0), WORLD
            )
            write_photo(folder / "images" / name, shots[name].image)
    (folder / "sparse_gt").mkdir(parents=True)
    posed_model({name: (shot.camera, shot.rigid) for name, shot in shots.items()}).write_binary(
        folder / "sparse_gt"
    )
    write_text_atomic(folder / "map.txt", "".join(f"{name}\n" for name in MAP))
    write_query_list(folder / "query.txt", {name: shots[name].camera for name in QUERIES})
    return {name: shots[name].rigid for name in QUERIES}
