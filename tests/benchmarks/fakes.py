"""The fake matcher of the map tests, made fit for localization, and a small folder with a truth."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

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


def write_folder(root: Path, names: Sequence[str]) -> Path:
    """Photos on a line with truth, three of four in the map."""
    (root / "images").mkdir(parents=True)
    (root / "sparse_gt").mkdir()
    (root / "sparse_gt" / "cameras.txt").write_text("1 PINHOLE 40 30 50 50 20 15\n")
    lines = []
    for i, name in enumerate(names):
        Image.fromarray(np.full((30, 40, 3), 100, np.uint8)).save(root / "images" / name)
        lines.append(f"{i + 1} 1 0 0 0 {-i} 0 0 1 {name}\n\n")
    (root / "sparse_gt" / "images.txt").write_text("".join(lines))
    (root / "map.txt").write_text("\n".join(names[1:]) + "\n")
    (root / "query.txt").write_text(f"{names[0]} PINHOLE 40 30 50 50 20 15\n")
    return root
