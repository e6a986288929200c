"""`reconstruct`: what the command of that name does, from photos or from a map."""

from collections.abc import Mapping

import pycolmap

from mapping.dense_export import DenseReconstruction
from mapping.map import Map
from mapping.reconstruct_map import reconstruct_map
from mapping.reconstruct_photos import ReconstructOptions, reconstruct_photos
from matching.errors import InputError
from matching.files import PathLike
from matching.matcher import Matcher
from matching.progress import Progress, silent

__all__ = ["ReconstructOptions", "reconstruct"]


def reconstruct(
    images: PathLike,
    out: PathLike,
    matcher: Matcher,
    *,
    scene: Map | PathLike | None = None,
    options: ReconstructOptions | None = None,
    cameras: Mapping[str, pycolmap.Camera] | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> DenseReconstruction:
    """Poses and a dense cloud of photos, or the dense cloud of a map.

    Args:
        images: Folder of photos.
        out: Folder of the result.
        matcher: One that predicts point maps.
        scene: A map of these photos, or its folder: its poses, cameras and frame are kept. None
            finds poses by global alignment.
        options: Settings.
        cameras: Known intrinsics by photo, without a map.
        overwrite: Replace an earlier reconstruction in ``out``, when the new one is complete.
        progress: Wraps the loops.

    Raises:
        InputError: See `reconstruct_photos` and `reconstruct_map`.
    """
    if scene is None:
        return reconstruct_photos(
            images, out, matcher, options=options, cameras=cameras, overwrite=overwrite,
            progress=progress,
        )  # fmt: skip
    if cameras:
        raise InputError("a map has its cameras: leave out --cameras")
    opened = scene if isinstance(scene, Map) else Map.open(scene)
    return reconstruct_map(
        opened, images, out, matcher, options=options, overwrite=overwrite, progress=progress
    )
