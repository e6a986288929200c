"""Published lists of calibrated pairs, one pair per line, and what their readers share."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import ArrayLike

from benchmarks.datasets.pair_task import FloatArray, Size, finite_matrix, pinhole
from matching.errors import InputError
from matching.files import text_lines
from matching.images import image_size

# A principal point further from the middle, relative to the photo, means photos of another size.
_MAX_OFF_MIDDLE = 0.25


@dataclass(frozen=True, kw_only=True)
class CalibratedPair:
    """A line of such a list."""

    where: str  # file and line, for messages
    image0: str
    image1: str
    K0: FloatArray  # (3, 3)
    K1: FloatArray
    cam1_from_cam0: FloatArray  # (4, 4)


def read_calibrated_list(file: Path) -> Iterator[CalibratedPair]:
    """Read glue-factory's ``pairs_calibrated.txt``: ``name0 name1 K0(9) K1(9) R(9) t(3)``.

    Raises:
        InputError: A line is malformed; it is named.
    """
    for where, (name0, name1, *words) in _lines(file, 2 + 9 + 9 + 9 + 3):
        K0, K1, R, t = _matrices(words, [(3, 3), (3, 3), (3, 3), (3, 1)], where)
        pose = np.eye(4)
        pose[:3] = np.hstack([R, t])
        yield _pair(where, name0, name1, K0, K1, pose)


def read_superglue_list(file: Path) -> Iterator[CalibratedPair]:
    """Read SuperGlue's ``..._pairs_with_gt.txt``: ``A B rotA rotB K_A(9) K_B(9) T_AB(16)``.

    ``T_AB`` maps coordinates of camera A to those of camera B; the turns must be 0.

    Raises:
        InputError: A line is malformed or holds a turned photo; it is named.
    """
    for where, (name0, name1, *words) in _lines(file, 2 + 2 + 9 + 9 + 16):
        if words[:2] != ["0", "0"]:
            raise InputError(f"{where}: turned photos are not supported, got turns {words[:2]}")
        K0, K1, pose = _matrices(words[2:], [(3, 3), (3, 3), (4, 4)], where)
        yield _pair(where, name0, name1, K0, K1, pose)


def _lines(file: Path, num_words: int) -> Iterator[tuple[str, list[str]]]:
    for number, line in text_lines(file):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        where = f"'{file}' line {number}"
        if len(words) != num_words:
            raise InputError(f"{where}: expected {num_words} words, got {len(words)}")
        yield where, words


def _matrices(words: Sequence[str], shapes: Sequence[Size], where: str) -> list[FloatArray]:
    matrices, start = [], 0
    try:
        values = [float(word) for word in words]
        for shape in shapes:
            end = start + shape[0] * shape[1]
            matrices.append(finite_matrix(values[start:end], shape))
            start = end
    except ValueError as error:
        raise InputError(f"{where}: {error}") from error
    return matrices


def _pair(
    where: str, name0: str, name1: str, K0: FloatArray, K1: FloatArray, pose: FloatArray
) -> CalibratedPair:
    check_pose(pose, where)
    return CalibratedPair(
        where=where, image0=name0, image1=name1, K0=K0, K1=K1, cam1_from_cam0=pose
    )


def check_pose(pose: FloatArray, where: str) -> None:
    """Raise `InputError` unless a matrix (4, 4) is a rotation, a translation and 0 0 0 1."""
    R = pose[:3, :3]
    # published files hold four or more digits; a transposed or scaled matrix is far off
    is_rotation = np.allclose(R @ R.T, np.eye(3), atol=1e-2) and np.linalg.det(R) > 0
    if not is_rotation or not np.allclose(pose[3], (0, 0, 0, 1), atol=1e-6):
        raise InputError(f"{where}: the relative pose is no rotation and translation: {pose}")


def calibrated_camera(K: ArrayLike, size: Size, where: str) -> pycolmap.Camera:
    """The camera of a published calibration matrix for photos of a size (width, height).

    Raises:
        InputError: It is no calibration matrix, or one for photos of another size.
    """
    try:
        matrix = finite_matrix(np.asarray(K, np.float64), (3, 3))
    except (TypeError, ValueError) as error:
        raise InputError(f"{where}: K: {error}") from error
    fx, fy = matrix[0, 0], matrix[1, 1]
    expected = np.array([[fx, 0, matrix[0, 2]], [0, fy, matrix[1, 2]], [0, 0, 1]])
    if fx <= 0 or fy <= 0 or not np.allclose(matrix, expected, atol=1e-6 * fx):
        raise InputError(f"{where}: expected fx 0 cx, 0 fy cy, 0 0 1 as K, got {matrix.tolist()}")
    off_middle = matrix[:2, 2] / size - 0.5
    if np.abs(off_middle).max() > _MAX_OFF_MIDDLE:
        cx, cy = matrix[:2, 2]
        raise InputError(
            f"{where}: the photo has {size[0]}x{size[1]} pixels, but its principal point "
            f"({cx:g}, {cy:g}) is that of about {2 * cx:.0f}x{2 * cy:.0f}"
        )
    return pinhole(matrix, size)


class PhotoSizes:
    """Sizes of photos, read once each, and checked to be there."""

    def __init__(self, images: Path) -> None:
        self._images = images
        self._known: dict[str, Size] = {}

    def __call__(self, name: str) -> Size:
        """(width, height) of a photo as stored.

        Raises:
            InputError: It is missing or damaged.
        """
        if name not in self._known:
            self._known[name] = image_size(self._images / name, apply_exif_orientation=False)
        return self._known[name]


def first_with(root: Path, folders: Sequence[str], content: str, what: str, hint: str = "") -> Path:
    """The first of some folders below a root that holds a file or folder.

    Args:
        root: Where a data set was unpacked.
        folders: Relative to it, in the order to look.
        content: Pattern of the name that must be there.
        what: What is looked for, for the message.
        hint: What else could be done, for the message.

    Raises:
        InputError: None of them has it; all places are named.
    """
    for folder in folders:
        if any((root / folder).glob(content)):
            return root / folder
    places = ", ".join(f"'{root / folder}'" for folder in folders)
    raise InputError(f"no {what} ('{content}') in {places}{hint}")
