"""Photos of a place in, a map on disk out: `build_map` makes it, `Map` reads it."""

from typing import TYPE_CHECKING

from matching.lazy import lazy_names

if TYPE_CHECKING:
    from mapping.build import build_map
    from mapping.cameras import CameraGuess, camera_from_image, read_camera_list, read_model
    from mapping.info import MapInfo
    from mapping.map import Map
    from mapping.options import (
        MapOptions,
        PairOptions,
        ReconstructionOptions,
        RetrievalOptions,
        VerificationOptions,
    )
    from mapping.retrieval import Retrieved
else:
    __getattr__ = lazy_names(
        __name__,
        {
            "CameraGuess": "mapping.cameras",
            "Map": "mapping.map",
            "MapInfo": "mapping.info",
            "MapOptions": "mapping.options",
            "PairOptions": "mapping.options",
            "ReconstructionOptions": "mapping.options",
            "RetrievalOptions": "mapping.options",
            "Retrieved": "mapping.retrieval",
            "VerificationOptions": "mapping.options",
            "build_map": "mapping.build",
            "camera_from_image": "mapping.cameras",
            "read_camera_list": "mapping.cameras",
            "read_model": "mapping.cameras",
        },
    )

__all__ = [
    "CameraGuess",
    "Map",
    "MapInfo",
    "MapOptions",
    "PairOptions",
    "ReconstructionOptions",
    "RetrievalOptions",
    "Retrieved",
    "VerificationOptions",
    "build_map",
    "camera_from_image",
    "read_camera_list",
    "read_model",
]
