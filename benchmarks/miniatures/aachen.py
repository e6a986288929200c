"""A tiny Aachen Day-Night: v1.1 laid over v1.0, as the archives unpack."""

from pathlib import Path

import numpy as np
import pycolmap

from benchmarks.datasets.nvm import nvm_text
from benchmarks.datasets.posed_photos import posed_model
from benchmarks.interchange.hloc_lists import write_pairs_list, write_query_list
from benchmarks.miniatures.studio import Shot, Studio, world_frame, write_photo
from matching.files import PathLike, write_text_atomic

WORLD = world_frame(60.0, 100.0, (700.0, 20.0, 180.0))  # the data set's y points down
DATABASE = ("db/1.jpg", "db/1045.jpg", "db/3921.jpg", "db/4479.jpg")
SEQUENCES = (
    "sequences/nexus4_sequences/sequence_1/1_0001.png",
    "sequences/gopro3_undistorted/frame_0007.png",
)
DAY = ("query/day/nexus4/IMG_20130210_163208.jpg", "query/day/milestone/2010-10-30_17-47-25_73.jpg")
NIGHT_V1_0 = ("query/night/nexus5x/IMG_20161227_160713.jpg",)


def write_aachen(root: PathLike, studio: Studio) -> dict[str, pycolmap.Rigid3d]:
    """Write it; returns the true poses of the queries, which the data set does not publish."""
    folder = Path(root)
    images = folder / "images_upright"
    database = {name: _take(studio, "map", i, name) for i, name in enumerate(DATABASE)}
    sequences = {name: _take(studio, "map", 4 + i, name) for i, name in enumerate(SEQUENCES)}
    queries = {name: _take(studio, "query", i, name) for i, name in enumerate(DAY + NIGHT_V1_0)}
    for name, shot in (database | sequences | queries).items():
        # files of phones still say how they were held, though their pixels are upright
        turned = 6 if name == DAY[0] else None
        write_photo(images / name, shot.image, exif_orientation=turned)
    for condition, names in (("day", DAY), ("night", NIGHT_V1_0)):
        list_file = folder / "queries" / f"{condition}_time_queries_with_intrinsics.txt"
        write_query_list(list_file, {name: queries[name].camera for name in names})
    models = folder / "3D-models"
    write_text_atomic(
        models / "aachen_cvpr2018_db.nvm",
        # its focal lengths are not those of the photos: intrinsics come from the list beside it
        nvm_text((n, 1.07 * s.camera.focal_length, s.rigid) for n, s in database.items()),
    )
    write_query_list(
        models / "database_intrinsics.txt", {name: s.camera for name, s in database.items()}
    )
    everything = database | sequences
    write_query_list(
        models / "database_intrinsics_v1_1.txt", {n: s.camera for n, s in everything.items()}
    )
    model = posed_model({name: (shot.camera, shot.rigid) for name, shot in everything.items()})
    (models / "aachen_v_1_1").mkdir()
    model.write_binary(models / "aachen_v_1_1")
    # hloc's list has queries that are not scored
    listed = {name: [*DATABASE, *SEQUENCES] for name in (*queries, "query/day/nexus4/unscored.jpg")}
    write_pairs_list(folder / "pairs-query-netvlad50.txt", listed)
    return {name: shot.rigid for name, shot in queries.items()}


def _take(studio: Studio, kind: str, index: int, name: str) -> Shot:
    width, height = (240, 320) if index == 1 else (320, 240)  # portrait and landscape are mixed
    radial = 0.0 if name.startswith("sequences/gopro3_undistorted") else -0.06
    camera = pycolmap.Camera(
        model="SIMPLE_RADIAL",
        width=width,
        height=height,
        params=np.array([270.0 + 3 * index, width / 2, height / 2, radial]),
    )
    return studio.shot("map" if kind == "map" else "query", index, camera, WORLD)
