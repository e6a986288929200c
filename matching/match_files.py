"""Matches as .npz files, for those who go on without groundloc."""

import numpy as np

from matching.files import PathLike, atomic_file
from matching.types import Matches


def write_matches(
    path: PathLike,
    matches: Matches,
    image_size0: tuple[int, int],
    image_size1: tuple[int, int],
) -> None:
    """Write matches under a temporary name, then rename.

    Args:
        path: The file; it holds ``keypoints0``, ``keypoints1``, ``scores``, ``image_size0`` and
            ``image_size1``.
        matches: The matches.
        image_size0: (width, height) of photo 0.
        image_size1: The same of photo 1.
    """
    with atomic_file(path) as temporary, temporary.open("wb") as file:
        np.savez(
            file,
            keypoints0=matches.keypoints0,
            keypoints1=matches.keypoints1,
            scores=matches.scores,
            image_size0=np.array(image_size0),
            image_size1=np.array(image_size1),
        )
