"""Any data set in kapture's format: folders ``mapping`` and ``query``, of one or several scenes."""

from dataclasses import dataclass
from pathlib import Path

import pycolmap

from benchmarks.datasets.posed_photos import posed_model, published_retrieval
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask
from benchmarks.interchange.kapture import RECORDS, read_kapture
from benchmarks.options import LocalizationOptions
from matching.errors import InputError
from matching.files import existing_folder


@dataclass(frozen=True, kw_only=True)
class KaptureOptions(LocalizationOptions):
    """Settings of `benchmark kapture`."""


def open_kapture(root: Path, options: KaptureOptions) -> LocalizationDataset:
    """The folder itself if it holds ``mapping`` and ``query``, else every folder in it that does.

    Raises:
        InputError: Neither.
    """
    folder = existing_folder(root, "data set")
    if (folder / "mapping").is_dir():
        scenes = {folder.resolve().name: folder}
    else:
        scenes = {p.name: p for p in sorted(folder.iterdir()) if (p / "mapping").is_dir()}
    if not scenes:
        raise InputError(f"'{root}' holds no kapture folders 'mapping' and 'query'")
    return LocalizationDataset(
        title=f"kapture {folder.resolve().name}",
        scenes=tuple(scenes),
        read=lambda scene: read_kapture_scene(scenes[scene], scene, options),
        one_scene=(folder / "mapping").is_dir(),
    )


def read_kapture_scene(root: Path, scene: str, options: KaptureOptions) -> LocalizationTask:
    """One scene; names are below ``root``, such as ``mapping/sensors/records_data/db/1.jpg``.

    Raises:
        InputError: A file is missing or malformed.
    """
    mapping, query = read_kapture(root / "mapping"), read_kapture(root / "query")
    prefixes = {"mapping": f"mapping/{RECORDS}/", "query": f"query/{RECORDS}/"}
    posed = {
        prefixes["mapping"] + name: (photo.camera, photo.cam_from_world)
        for name, photo in mapping.items()
        if photo.camera is not None and photo.cam_from_world is not None
    }
    # without any pose the map is made by structure from motion
    map_names = tuple(posed) or tuple(prefixes["mapping"] + name for name in mapping)
    queries: dict[str, pycolmap.Camera | None] = {
        prefixes["query"] + name: photo.camera for name, photo in query.items()
    }
    truth = {
        prefixes["query"] + name: photo.cam_from_world
        for name, photo in query.items()
        if photo.cam_from_world is not None
    }
    # published lists have the names below records_data
    full = {name: prefixes["mapping"] + name for name in mapping}
    full |= {name: prefixes["query"] + name for name in query}
    return LocalizationTask(
        name=scene,
        images=root,
        map_names=map_names,
        query_cameras=queries,
        reference=posed_model(posed) if posed else None,
        truth={**truth, **{name: pose for name, (_, pose) in posed.items()}} if truth else None,
        retrieval=published_retrieval(
            options.retrieval_pairs,
            queries,
            map_names,
            scene=scene,
            rename=lambda name: full.get(name, name),
        ),
    )
