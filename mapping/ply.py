"""Point clouds as binary PLY files, readable by MeshLab, CloudCompare and Open3D."""

import numpy as np
from numpy.typing import NDArray

from matching.files import PathLike, atomic_file

_VERTEX = np.dtype(
    [
        # single precision would round geographic coordinates to half a metre
        *((axis, "<f8") for axis in ("x", "y", "z")),
        *((axis, "<f4") for axis in ("nx", "ny", "nz")),
        *((channel, "u1") for channel in ("red", "green", "blue")),
        ("confidence", "<f4"),
    ]
)
_NAMES = {"f8": "double", "f4": "float", "u1": "uchar"}


def write_ply(
    path: PathLike,
    points: NDArray[np.floating],
    normals: NDArray[np.floating],
    colors: NDArray[np.uint8],
    confidence: NDArray[np.floating],
) -> None:
    """Write a cloud.

    Args:
        path: The file; written under a temporary name first.
        points: (M, 3).
        normals: (M, 3).
        colors: RGB, (M, 3).
        confidence: (M,).
    """
    vertices = np.zeros(len(points), _VERTEX)
    for column, axis in enumerate(("x", "y", "z")):
        vertices[axis] = points[:, column]
        vertices[f"n{axis}"] = normals[:, column]
    for column, channel in enumerate(("red", "green", "blue")):
        vertices[channel] = colors[:, column]
    vertices["confidence"] = confidence
    properties = "".join(
        f"property {_NAMES[str(_VERTEX[name].str)[1:]]} {name}\n" for name in _VERTEX.names or ()
    )
    header = (
        f"ply\nformat binary_little_endian 1.0\nelement vertex {len(points)}\n"
        f"{properties}end_header\n"
    )
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        file.write(header.encode("ascii"))
        file.write(vertices.tobytes())
