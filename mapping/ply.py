"""Point clouds as binary PLY files, readable by MeshLab, CloudCompare and Open3D."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from matching.files import PathLike, atomic_file

_VERTEX = np.dtype(
    [
        *((axis, "<f4") for axis in ("x", "y", "z", "nx", "ny", "nz")),
        *((channel, "u1") for channel in ("red", "green", "blue")),
        ("confidence", "<f4"),
    ]
)
_NAMES = {"f4": "float", "u1": "uchar"}


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


def read_ply(path: PathLike) -> NDArray[np.void]:
    """Read a cloud that `write_ply` wrote: a record per point, with its names.

    Raises:
        ValueError: Another kind of PLY file.
    """
    with Path(path).open("rb") as file:
        lines: list[bytes] = []
        while not lines or lines[-1] != b"end_header":
            line = file.readline()
            if not line:
                raise ValueError(f"'{path}' has no PLY header")
            lines.append(line.strip())
        expected = [f"property {_NAMES[_VERTEX[n].str[1:]]} {n}" for n in _VERTEX.names or ()]
        if lines[0] != b"ply" or [w.decode() for w in lines if b"property" in w] != expected:
            raise ValueError(f"'{path}' is no point cloud of groundloc")
        count = int(lines[2].split()[-1])
        return np.frombuffer(file.read(count * _VERTEX.itemsize), _VERTEX)
