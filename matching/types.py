"""What passes between the stages: encoded images (`View`) and matches (`Matches`)."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.floating[Any]]
IntArray = NDArray[np.integer[Any]]


@dataclass(frozen=True, kw_only=True)
class View:
    """One encoded image: all that a matcher needs to match it again without the photo.

    Attributes:
        image_size: (width, height) of the upright photo in pixels.
        keypoints: Pixels at which the matcher detects or is asked, (N, 2) float32 x, y in the
            original photo, centre of the top-left pixel at (0.5, 0.5). Empty (0, 2) for a dense
            matcher until the map has chosen some.
        arrays: The matcher's own data by name, storable as HDF5 datasets (for example SIFT's
            ``descriptors`` (N, 128) uint8, or encoder ``tokens`` float16).
    """

    image_size: tuple[int, int]
    keypoints: NDArray[np.float32]
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.keypoints.ndim != 2 or self.keypoints.shape[1] != 2:
            raise ValueError(f"keypoints must be (N, 2), got {self.keypoints.shape}")


@dataclass(frozen=True, kw_only=True)
class Matches:
    """Matches between image 0 and image 1, best first.

    Attributes:
        keypoints0: Pixels in image 0, (M, 2) float32 x, y; top-left pixel centre at (0.5, 0.5).
        keypoints1: Pixels in image 1, (M, 2) float32.
        scores: Confidence, (M,) float32, not increasing; larger is surer. Only the order is
            comparable between matchers.
        indices0: Rows of ``View.keypoints`` of image 0, (M,) int64, or None if the matches of
            image 0 are free pixels. Between two views with keypoints, a matcher may look from the
            keypoints of either for free pixels of the other: these ends have row -1.
        indices1: The same for image 1. Where image 0 has no keypoints, no row is -1.
    """

    keypoints0: NDArray[np.float32]
    keypoints1: NDArray[np.float32]
    scores: NDArray[np.float32]
    indices0: NDArray[np.int64] | None = None
    indices1: NDArray[np.int64] | None = None

    def __post_init__(self) -> None:
        count = len(self.scores)
        for name in ("keypoints0", "keypoints1"):
            shape = getattr(self, name).shape
            if shape != (count, 2):
                raise ValueError(f"{name} must be ({count}, 2) to go with scores, got {shape}")
        for name in ("indices0", "indices1"):
            indices = getattr(self, name)
            if indices is not None and indices.shape != (count,):
                raise ValueError(f"{name} must be ({count},), got {indices.shape}")

    def __len__(self) -> int:
        return len(self.scores)

    def num_above(self, score: float) -> int:
        """How many matches have a larger score."""
        return int((self.scores > score).sum())

    def select(self, rows: NDArray[Any] | Sequence[int] | slice) -> "Matches":
        """The matches of the given rows (indices, a mask or a slice), in that order."""
        return Matches(
            keypoints0=self.keypoints0[rows],
            keypoints1=self.keypoints1[rows],
            scores=self.scores[rows],
            indices0=None if self.indices0 is None else self.indices0[rows],
            indices1=None if self.indices1 is None else self.indices1[rows],
        )

    def swapped(self) -> "Matches":
        """The same matches with image 0 and image 1 exchanged."""
        return Matches(
            keypoints0=self.keypoints1,
            keypoints1=self.keypoints0,
            scores=self.scores,
            indices0=self.indices1,
            indices1=self.indices0,
        )

    @staticmethod
    def concatenate(parts: "Sequence[Matches]") -> "Matches":
        """All matches of several sets that have rows on the same sides, in the order given."""
        names = [name for name, value in vars(parts[0]).items() if value is not None]
        return Matches(**{n: np.concatenate([getattr(p, n) for p in parts]) for n in names})

    @staticmethod
    def empty(*, indexed: bool = False) -> "Matches":
        """No matches; ``indexed`` gives empty index arrays instead of None."""
        return Matches(
            keypoints0=np.zeros((0, 2), np.float32),
            keypoints1=np.zeros((0, 2), np.float32),
            scores=np.zeros(0, np.float32),
            indices0=np.zeros(0, np.int64) if indexed else None,
            indices1=np.zeros(0, np.int64) if indexed else None,
        )
