"""A second look at pairs of photos of which little is sure: through the network at their own scale.

Where one photo shows a place much smaller than the other, or both share a corner only, the network
spends its pixels elsewhere and compares what is of unlike size. The matches that agree with each
other (`matching.common_region`) tell which part is common; it is cut out of both photos, enlarged
to the network's size, and matched again. That is believed where it finds enough that is sure.

Across a zoom of three or four the network finds next to nothing that could tell. So where hardly
anything is sure, each photo is also matched as a whole, made smaller, with the other one as it is:
where more is sure that way, it tells where to look.

Only free matches are looked at again, between views that hold their photos.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from matching.common_region import CommonRegion, FloatArray, RegionOptions, common_region
from matching.encoded import PHOTO, frame_of, is_blank, photo_step
from matching.network import Encoding
from matching.pair_decoding import SURE, PairDecoder, Side
from matching.preprocess import NetworkFrame, to_network_tensor
from matching.types import Matches, View

Size = tuple[int, int]
Window = tuple[Side, Tensor]


@dataclass(frozen=True, kw_only=True)
class LookOptions:
    """Which pairs are looked at again, and when the second look counts."""

    enough: int = 250  # pairs with more sure matches gain nothing by another look
    min_sure: int = 100  # a look that finds fewer is not believed
    # of the windows as the network sees them, fraction of its image: 0.75 takes half the time of 1
    size: float = 0.75
    min_zoom: float = 1.25  # of the photo that is enlarged more; less shows nothing new
    # of a photo against the whole other one, fractions of its network image; the next one where the
    # last has some sure matches, but fewer than min_sure
    smaller: tuple[float, ...] = (0.5, 0.3)
    min_sure_smaller: int = 20  # fewer tell nothing
    region: RegionOptions = field(default_factory=RegionOptions)

    def __post_init__(self) -> None:
        for name in ("enough", "min_sure", "min_sure_smaller"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if not 0 < self.size <= 1:
            raise ValueError(f"size must lie in (0, 1], got {self.size}")
        if not self.min_zoom >= 1:
            raise ValueError(f"min_zoom must be >= 1, got {self.min_zoom}")
        if not all(0 < size < 1 for size in self.smaller):
            raise ValueError(f"smaller must lie in (0, 1), got {self.smaller}")


@dataclass(frozen=True, kw_only=True)
class _Look:
    """Where to look at a pair again, and the matches that say so."""

    row: int
    region: CommonRegion
    guide: Matches


class SecondLook:
    """Matches pairs again in their common region.

    Args:
        decoder: Decodes and matches pairs of network images; its scores are probabilities.
        encoding_of: The encodings of whole views of one network size.
        options: Which pairs, and when it counts.
    """

    def __init__(
        self,
        decoder: PairDecoder,
        encoding_of: Callable[[Sequence[View]], Encoding],
        options: LookOptions | None = None,
    ) -> None:
        self._decoder = decoder.without_limit()  # a limit cuts off what counts here
        self._most = decoder.max_matches
        self._encoding_of = encoding_of
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
            The matches of each pair, best first: those of the second look, and of the ones that
            told where to look those outside its windows, all in all no more than the decoder's
            ``max_matches``; ``first`` where there is no second look or none to believe.
        """
        results = list(first)
        groups: dict[Size, dict[int, Matches]] = {}
        for row, (other, found) in enumerate(zip(others, first, strict=True)):
            if self._is_doubtful(view, other, found):
                groups.setdefault(frame_of(other).image_size, {})[row] = found
        for doubtful in groups.values():
            looks = self._looks(view, others, self._guides(view, others, doubtful))
            if looks:
                self._follow(view, others, looks, results)
        return results

    def _is_doubtful(self, view: View, other: View, found: Matches) -> bool:
        if any(len(v.keypoints) or is_blank(v) or PHOTO not in v.arrays for v in (view, other)):
            return False
        sure = found.num_above(SURE)
        return sure <= self._options.enough and not (self._most and sure >= self._most)

    def _is_vague(self, guide: Matches) -> bool:
        return guide.num_above(SURE) < self._options.min_sure

    def _looks(
        self, view: View, others: Sequence[View], guides: Mapping[int, Matches]
    ) -> list[_Look]:
        """Where to look by matches of some rows of the others; nothing for what is seen already."""
        looks = []
        for row, guide in guides.items():
            region = common_region(
                guide.keypoints0,
                guide.keypoints1,
                guide.scores,
                size0=view.image_size,
                size1=others[row].image_size,
                options=self._options.region,
            )
            if region is not None and region.zoom >= self._options.min_zoom:
                looks.append(_Look(row=row, region=region, guide=guide))
        return looks

    def _guides(
        self, view: View, others: Sequence[View], first: Mapping[int, Matches]
    ) -> dict[int, Matches]:
        """What tells where to look: the first look, or one with either photo made smaller.

        Args:
            view: The first photo of all pairs.
            others: All second photos.
            first: Matches of some rows of them, whose photos are of one network size.
        """
        guides = dict(first)
        rows = [row for row, found in first.items() if self._is_vague(found)]
        for size in self._options.smaller:
            if not rows:
                break
            partners = [others[row] for row in rows]
            smaller = dict(zip(rows, self._with_one_smaller(view, partners, size), strict=True))
            for row, found in smaller.items():
                sure = found.num_above(SURE)
                if sure >= self._options.min_sure_smaller and sure > guides[row].num_above(SURE):
                    guides[row] = found
            # where nothing is sure at one size, hardly ever anything is at the next
            rows = [r for r in rows if smaller[r].num_above(SURE) and self._is_vague(guides[r])]
        return guides

    def _follow(
        self, view: View, others: Sequence[View], looks: Sequence[_Look], results: list[Matches]
    ) -> None:
        """Look again at pairs of one network size, and put what is believed into ``results``."""
        size = self._options.size
        windows0 = [self._window(view, look.region.box0, size) for look in looks]
        windows1 = [self._window(others[look.row], look.region.box1, size) for look in looks]
        again = self._decoder.match(
            [side for side, _ in windows0],
            [side for side, _ in windows1],
            self._encode(windows0),
            self._encode(windows1),
        )
        for look, found in zip(looks, again, strict=True):
            if found.num_above(SURE) >= self._options.min_sure:
                joined = _joined(found, look)
                results[look.row] = joined.select(slice(self._most)) if self._most else joined

    def _with_one_smaller(self, view: View, others: Sequence[View], size: float) -> list[Matches]:
        """Matches of pairs with the first or the second photo smaller, whichever are surer.

        The smaller photo is decoded as the first one: on zoomed photos of fountain-P11 and
        entry-P10 that gave 1.3 times the sure matches, and both orders of a pair give the same.
        """
        small0 = self._window(view, _whole(view), size)
        small1 = [self._window(other, _whole(other), size) for other in others]
        smaller0 = self._decoder.match(
            [small0[0]] * len(others),
            [Side.of(other) for other in others],
            self._encode([small0]),
            self._encoding_of(others),
        )
        smaller1 = self._decoder.match(
            [side for side, _ in small1],
            [Side.of(view)] * len(others),
            self._encode(small1),
            self._encoding_of([view] * len(others)),
        )
        return [
            max(found0, found1.swapped(), key=lambda matches: matches.num_above(SURE))
            for found0, found1 in zip(smaller0, smaller1, strict=True)
        ]

    def _encode(self, windows: Sequence[Window]) -> Encoding:
        return self._decoder.engine.encode(torch.stack([image for _, image in windows]))

    def _window(self, view: View, box: FloatArray, size: float) -> Window:
        """A part of a view's photo, and the network image of it, (3, h, w)."""
        patch = self._decoder.engine.network.config.patch_size
        width, height = (
            max(1, round(side * size / patch)) * patch for side in frame_of(view).image_size
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


def _whole(view: View) -> FloatArray:
    return np.array([0, 0, *view.image_size], np.float64)


def _joined(again: Matches, look: _Look) -> Matches:
    """The second look, and what told where to look found elsewhere, best first."""
    guide, region = look.guide, look.region
    both = _inside(guide.keypoints0, region.box0) & _inside(guide.keypoints1, region.box1)
    joined = Matches.concatenate([again, guide.select(~both)])
    return joined.select(np.argsort(-joined.scores, kind="stable"))


def _inside(points: NDArray[np.float32], box: FloatArray) -> NDArray[np.bool_]:
    inside = (points >= box[:2]) & (points < box[2:])
    return inside[:, 0] & inside[:, 1]
