"""The last step of making a map: index, ``map.json``, publication."""

from collections.abc import Sequence
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mapping.info import (
    FORMAT_VERSION,
    MapFile,
    MapImage,
    MapInfo,
    groundloc_version,
    hash_files,
    info_to_json,
)
from mapping.map import Map
from mapping.observations import FILE_NAME, write_observations
from mapping.options import RetrievalOptions
from mapping.photos import Photo, content_hash
from mapping.reconstruct import SPARSE, ReconstructionResult
from mapping.retrieval import build_index
from mapping.workspace import Workspace
from matching.files import atomic_file

Descriptors = dict[str, NDArray[np.float32]]


def finish_map(
    workspace: Workspace,
    result: ReconstructionResult,
    photos: Sequence[Photo | MapImage],
    descriptors: Descriptors,
    retrieval: RetrievalOptions,
    details: dict[str, Any],
    kept: Sequence[MapFile] = (),
) -> Map:
    """Index the photos with a pose, write ``map.json``, publish all files, open the map.

    Args:
        workspace: Holds ``sparse/``, ``database.db`` and ``features.h5`` of the new map.
        result: The model, and all photos without a pose.
        photos: All photos the map was asked to use.
        descriptors: Global descriptor per photo.
        retrieval: Options of the index.
        details: The fields of `MapInfo` that only the caller knows.
        kept: Files of features that are those of the old map, perhaps under another name.
    """
    model = result.model
    registered = sorted(model.image(i).name for i in model.reg_image_ids())
    index_file = workspace.stages / "retrieval.faiss"
    if not index_file.exists():
        index = build_index(np.array([descriptors[name] for name in registered]), retrieval)
        with atomic_file(index_file) as temporary:
            # through memory: FAISS itself does not tell why it cannot write
            temporary.write_bytes(faiss.serialize_index(index).tobytes())
    observations_file = workspace.stages / FILE_NAME
    if not observations_file.exists():
        write_observations(observations_file, model)
    model_files = (workspace.stages / SPARSE).glob("*.bin")
    files = [f"{SPARSE}/{file.name}" for file in model_files]
    files += ["database.db", FILE_NAME, "retrieval.faiss"]
    features = {file.name for file in workspace.stages.glob("features*.h5")}
    files += features - {file.name for file in kept}
    info = MapInfo(
        format_version=FORMAT_VERSION,
        groundloc_version=groundloc_version(),
        images=tuple(
            MapImage(
                name=photo.name,
                size_bytes=photo.size_bytes,
                mtime_ns=photo.mtime_ns,
                sha256=photo.sha256 if isinstance(photo, MapImage) else content_hash(photo),
                registered=photo.name not in result.not_registered,
            )
            for photo in photos
        ),
        not_registered=dict(sorted(result.not_registered.items())),
        num_points3D=model.num_points3D(),
        num_observations=model.compute_num_observations(),
        mean_reprojection_error_px=model.compute_mean_reprojection_error(),
        files=(*hash_files(workspace.stages, files), *kept),
        **details,
    )
    workspace.publish(info_to_json(info))
    return Map.open(workspace.map_path)
