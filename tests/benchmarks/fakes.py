"""The fake matcher of the map tests, made fit for localization, and a small folder with a truth."""

import hashlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from matching.errors import InputError
from matching.images import read_image
from matching.matcher import ImageLike
from matching.sift import SiftMatcher
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


class RememberingSift(SiftMatcher):
    """SIFT that looks at each photo once per session: several tests see the same miniatures."""

    _seen: ClassVar[dict[tuple[Any, ...], View]] = {}

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        key = self._key(image, "memory")
        if key not in self._seen:
            self._seen[key] = super().encode_image(image)
        return self._seen[key]

    def _encode_aside(self, image: ImageLike, work: str) -> View | InputError:
        try:
            photo = read_image(image)
        except InputError as error:
            return error
        key = self._key(photo, "file")
        if key not in self._seen:
            view = super()._encode_aside(photo, work)
            assert isinstance(view, View)
            self._seen[key] = view
        return self._seen[key]

    def quick(self) -> SiftMatcher | None:
        return None if self.first_octave >= 0 else RememberingSift(self.options, first_octave=0)

    def _key(self, image: NDArray[np.uint8], way: str) -> tuple[Any, ...]:
        return self.fingerprint, way, image.shape, hashlib.sha256(image.tobytes()).digest()


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
