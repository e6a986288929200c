"""The fake matcher of the map tests, made fit for localization."""

import numpy as np
from numpy.typing import NDArray

from matching.types import View
from tests.mapping.fakes import FakeMatcher


class LocalizingMatcher(FakeMatcher):
    """A `FakeMatcher` whose views can be cut down to a part of their keypoints."""

    def at_keypoints(self, view: View, rows: NDArray[np.int64]) -> View:
        return View(
            image_size=view.image_size,
            keypoints=view.keypoints[rows],
            arrays={**view.arrays, "rows": view.arrays["rows"][rows]},
        )
