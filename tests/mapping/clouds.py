"""Reads the point clouds that `mapping.ply` writes, by the header as any PLY reader does."""

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

_TYPES = {"double": "<f8", "float": "<f4", "uchar": "u1"}


def read_ply(path: Path) -> NDArray[np.void]:
    """A record per point, with the names of its properties."""
    header, _, body = path.read_bytes().partition(b"end_header\n")
    lines = header.decode("ascii").splitlines()
    assert lines[:2] == ["ply", "format binary_little_endian 1.0"]
    assert lines[2].startswith("element vertex ")
    properties = [line.split()[1:] for line in lines[3:]]
    vertex = np.dtype([(name, _TYPES[kind]) for kind, name in properties])
    cloud = np.frombuffer(body, vertex)
    assert len(cloud) == int(lines[2].split()[-1])
    return cloud
