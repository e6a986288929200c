"""Photos of a place in, a map on disk out: `build_map` makes it, `Map` reads it."""

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
