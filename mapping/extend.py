"""Adding photos to a finished map without building it again."""

from collections.abc import Mapping, Sequence

import pycolmap

from mapping.map import Map
from matching.files import PathLike
from matching.matcher import Matcher
from matching.progress import Progress, silent


def extend_map(
    scene: Map,
    images: PathLike,
    matcher: Matcher,
    *,
    image_names: Sequence[str] | None = None,
    known_poses: PathLike | pycolmap.Reconstruction | None = None,
    cameras: Mapping[str, pycolmap.Camera] | None = None,
    progress: Progress = silent,
) -> Map:
    raise NotImplementedError
