"""A second look at pairs of photos of which little is sure: through the network at their own scale.

Where one photo shows a place much smaller than the other, or both share a corner only, the network
spends its pixels elsewhere and compares what is of unlike size. The matches that agree with each
other (`matching.common_region`) tell which part is common; it is cut out of both photos, enlarged
to the network's size, and matched again. That is believed where it finds enough that is sure.

Only free matches are looked at again, between views that hold their photos.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from matching.common_region import FloatArray, RegionOptions, common_region
from matching.encoded import PHOTO, frame_of, is_blank, photo_step
from matching.pair_decoding import SURE, PairDecoder, Side
from matching.preprocess import NetworkFrame, to_network_tensor
from matching.types import Matches, View

Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class LookOptions:
    """Which pairs are looked at again, and when the second look counts."""

    enough: int = 250  # pairs with more sure matches gain nothing by another look
    min_sure: int = 100  # a look that finds fewer is not believed
    # of the windows as the network sees them, fraction of its image: 0.75 takes half the time of 1
    size: float = 0.75
    region: RegionOptions = field(default_factory=RegionOptions)

    def __post_init__(self) -> None:
        for name in ("enough", "min_sure"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if not 0 < self.size <= 1:
            raise ValueError(f"size must lie in (0, 1], got {self.size}")


@dataclass(frozen=True, kw_only=True)
class _Look:
    """The windows of one pair, x0 y0 x1 y1 in pixels of the photos."""

    row: int
    box0: FloatArray
    box1: FloatArray


class SecondLook:
    """Matches pairs again in their common region.

    Args:
        decoder: Decodes and matches pairs of network images; its scores are probabilities.
        options: Which pairs, and when it counts.
    """

    def __init__(self, decoder: PairDecoder, options: LookOptions | None = None) -> None:
        self._decoder = decoder
        self._options = options or LookOptions()

    def match_many(
        self, view: View, others: Sequence[View], first: Sequence[Matches]
    ) -> list[Matches]:
        """Look again at pairs of a view with others.

        Args:
            view: The first photo of all pairs.
            others: The second photo of each pair.
            first: Matches of each pair as a whole.

        Returns:
            The matches of each pair, best first: those of the second look, and of the first what
            lies outside its windows, all in all no more than the decoder's ``max_matches``;
            ``first`` where there is no second look or none to believe.
        """
        results = list(first)
        groups: dict[Size, list[_Look]] = {}
        for row, (other, found) in enumerate(zip(others, first, strict=True)):
            look = self._look(row, view, other, found)
            if look is not None:
                groups.setdefault(frame_of(other).image_size, []).append(look)
        for looks in groups.values():
            self._again(view, others, looks, results)
        return results

    def _look(self, row: int, view: View, other: View, found: Matches) -> _Look | None:
        if any(len(v.keypoints) or is_blank(v) or PHOTO not in v.arrays for v in (view, other)):
            return None
        if found.num_above(SURE) > self._options.enough:
            return None
        boxes = common_region(
            found.keypoints0,
            found.keypoints1,
            found.scores,
            size0=view.image_size,
            size1=other.image_size,
            options=self._options.region,
        )
        return None if boxes is None else _Look(row=row, box0=boxes[0], box1=boxes[1])

    def _again(
        self, view: View, others: Sequence[View], looks: Sequence[_Look], results: list[Matches]
    ) -> None:
        """Match the windows of pairs of one network size and join what they show to ``results``."""
        sides: list[tuple[Side, Side]] = []
        images0, images1 = [], []
        for look in looks:
            side0, image0 = self._window(view, look.box0)
            side1, image1 = self._window(others[look.row], look.box1)
            sides.append((side0, side1))
            images0.append(image0)
            images1.append(image1)
        engine = self._decoder.engine
        again = self._decoder.match(
            [side0 for side0, _ in sides],
            [side1 for _, side1 in sides],
            engine.encode(torch.stack(images0)),
            engine.encode(torch.stack(images1)),
        )
        for look, found in zip(looks, again, strict=True):
            if found.num_above(SURE) >= self._options.min_sure:
                joined = _joined(results[look.row], found, look)
                most = self._decoder.options.max_matches
                results[look.row] = joined.select(slice(most)) if most else joined

    def _window(self, view: View, box: FloatArray) -> tuple[Side, Tensor]:
        """A part of a view's photo as the network gets it, (3, h, w)."""
        patch = self._decoder.engine.network.config.patch_size
        width, height = (
            max(1, round(side * self._options.size / patch)) * patch
            for side in frame_of(view).image_size
        )
        photo, step = np.asarray(view.arrays[PHOTO]), photo_step(view)
        whole = (photo.shape[1], photo.shape[0]) * 2
        x0, y0, x1, y1 = np.clip(box / step, 0, whole).tolist()
        pixels = Image.fromarray(photo).resize(
            (width, height), Image.Resampling.BICUBIC, box=(x0, y0, x1, y1)
        )
        frame = NetworkFrame(
            image_size=(width, height),
            scale=((x1 - x0) * step / width, (y1 - y0) * step / height),
            offset=(x0 * step, y0 * step),
        )
        side = Side(image_size=view.image_size, frame=frame, keypoints=view.keypoints)
        return side, to_network_tensor(np.array(pixels))


def _joined(first: Matches, again: Matches, look: _Look) -> Matches:
    """The second look, and what the first one found elsewhere, best first."""
    both = _inside(first.keypoints0, look.box0) & _inside(first.keypoints1, look.box1)
    whole = Matches.concatenate([again, first.select(~both)])
    return whole.select(np.argsort(-whole.scores, kind="stable"))


def _inside(points: NDArray[np.float32], box: FloatArray) -> NDArray[np.bool_]:
    inside = (points >= box[:2]) & (points < box[2:])
    return inside[:, 0] & inside[:, 1]
