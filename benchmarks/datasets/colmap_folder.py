"""A folder with photos, a COLMAP model of the truth, and lists of map photos and queries.

Layout: ``images/`` (or the photos relative to the folder itself), ``sparse_gt/`` (COLMAP model,
text or binary, optional), ``map.txt`` (one name per line) and ``query.txt`` (``name`` or
``name MODEL WIDTH HEIGHT PARAMS...``).
"""

from dataclasses import dataclass, replace
from pathlib import Path

import pycolmap

from benchmarks.datasets.image_lists import read_photo_list
from benchmarks.datasets.posed_photos import published_retrieval
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask
from benchmarks.options import LocalizationOptions
from mapping.cameras import read_model
from matching.errors import InputError
from matching.files import PathLike, existing_folder


@dataclass(frozen=True, kw_only=True)
class ColmapOptions(LocalizationOptions):
    """Settings of `benchmark colmap`."""


def open_colmap(root: Path, options: ColmapOptions) -> LocalizationDataset:
    """The folder as a data set of one scene."""
    name = existing_folder(root, "data set").resolve().name

    def read(scene: str) -> LocalizationTask:
        task = read_colmap_folder(root)
        retrieval = published_retrieval(
            options.retrieval_pairs, task.query_cameras, task.map_names, scene=scene
        )
        return replace(task, retrieval=retrieval)

    return LocalizationDataset(title=name, scenes=(name,), read=read, one_scene=True)


def read_colmap_folder(root: PathLike) -> LocalizationTask:
    """Read such a folder.

    Raises:
        InputError: A list is missing or wrong, a photo does not exist, a name is in both lists,
            or the model knows none of the queries.
    """
    folder = existing_folder(root, "data set")
    queries = read_photo_list(folder / "query.txt")
    truth = read_truth(folder)
    if truth is not None:
        known = {image.name for image in truth.images.values()}
        if not known & set(queries):
            raise InputError(
                f"'{folder / TRUTH}' has no pose of any query of '{folder / 'query.txt'}', such as "
                f"'{next(iter(queries))}'"
            )
    return LocalizationTask(
        name=folder.resolve().name,
        images=photo_folder(folder),
        map_names=tuple(read_photo_list(folder / "map.txt")),
        query_cameras=queries,
        reference=truth,
        truth=truth,
    )


TRUTH = "sparse_gt"


def read_truth(folder: Path) -> pycolmap.Reconstruction | None:
    """The model in ``sparse_gt``, or None if there is no such folder."""
    return read_model(folder / TRUTH) if (folder / TRUTH).exists() else None


def photo_folder(folder: Path) -> Path:
    """``images`` below the folder, or the folder itself."""
    return folder / "images" if (folder / "images").is_dir() else folder
