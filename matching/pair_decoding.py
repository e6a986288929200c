"""From encoded network images to matches: decode pairs in batches, compare what was decoded."""

import logging
from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matching.encoded import frame_of
from matching.errors import InputError
from matching.grid_matching import Grid, GridMatches, free_matches, matches_from_points
from matching.network import Encoding, Prediction, Want
from matching.network.engine import Engine
from matching.pointmap import lift_points
from matching.preprocess import NetworkFrame
from matching.types import Matches, View

logger = logging.getLogger(__name__)

_TEMPERATURE = 0.05  # of the InfoNCE that `small` is trained with
# free matches kept where scores are probabilities: so many, and all that are this sure. The rest
# costs poses of hard pairs more than it gives to those of easy ones
_NUM_FREE_MATCHES, SURE = 1000, 0.3


class MatchingOptions(Protocol):
    """The options of `matching.mast3r.Mast3rOptions` that are read here."""

    @property
    def dense(self) -> bool: ...
    @property
    def grid_step_px(self) -> int: ...
    @property
    def pixel_tol_px(self) -> float: ...
    @property
    def border_px(self) -> int: ...
    @property
    def max_matches(self) -> int | None: ...
    @property
    def symmetric(self) -> bool: ...


@dataclass(frozen=True, kw_only=True)
class Side:
    """One network image of a pair: a whole photo or a window of it.

    Attributes:
        image_size: (width, height) of the photo.
        frame: Where the network image lies in the photo.
        keypoints: Where the photo is asked, (N, 2) float32 pixels of the photo; those outside the
            network image have no match. Empty: matches are free.
    """

    image_size: tuple[int, int]
    frame: NetworkFrame
    keypoints: NDArray[np.float32]

    @staticmethod
    def of(view: View) -> "Side":
        """A whole photo."""
        return Side(image_size=view.image_size, frame=frame_of(view), keypoints=view.keypoints)

    def network_points(self) -> Tensor | None:
        """The keypoints in the network image, (N, 2) on the CPU, or None if there are none."""
        if not len(self.keypoints):
            return None
        return torch.from_numpy(self.frame.to_network(self.keypoints)).float()

    def photo_points(
        self, points: NDArray[np.float32], rows: NDArray[np.int64] | None
    ) -> NDArray[np.float32]:
        """Network points in the photo; own keypoints (rows >= 0) stay exactly what they are."""
        if rows is not None and (rows >= 0).all():
            return self.keypoints[rows]
        inside = np.clip(self.frame.to_photo(points), 0, self.image_size)
        photo: NDArray[np.float32] = inside.astype(np.float32)
        if rows is not None:
            photo[rows >= 0] = self.keypoints[rows[rows >= 0]]
        return photo


class PairDecoder:
    """Decodes pairs and matches them.

    Args:
        engine: Runs the network.
        options: How to match.
        min_confidence: Matches that are less sure are dropped.
        subpixel: Place matches between the cells of the descriptor grid.
        trained_to_place: Whether the network was trained for that.
    """

    def __init__(
        self,
        engine: Engine,
        options: MatchingOptions,
        *,
        min_confidence: float,
        subpixel: bool,
        trained_to_place: bool,
    ) -> None:
        self.engine = engine
        self.options = options
        self.max_matches = options.max_matches
        self.min_confidence = min_confidence
        self._subpixel = subpixel
        self._placing: Literal["window", "peak"] = "window" if trained_to_place else "peak"
        self._temperature = _TEMPERATURE if trained_to_place else None
        self._has_descriptors = bool(engine.network.config.desc_dim)
        self._stride = engine.network.descriptor_stride

    def without_limit(self) -> "PairDecoder":
        """The same, as if no largest number of matches had been given."""
        free = copy(self)
        free.max_matches = None if self.max_matches else self.max_matches  # 0 stays all
        return free

    def match(
        self,
        sides0: Sequence[Side],
        sides1: Sequence[Side],
        encoding0: Encoding,
        encoding1: Encoding,
    ) -> list[Matches]:
        """Matches of pairs of network images, in pixels of their photos.

        Args:
            sides0: First images.
            sides1: Second images, as many.
            encoding0: Encodings of the first images, or one that goes with all second ones.
            encoding1: Encodings of the second images.
        """
        return self.begin(sides0, sides1, encoding0, encoding1)()

    def begin(
        self,
        sides0: Sequence[Side],
        sides1: Sequence[Side],
        encoding0: Encoding,
        encoding1: Encoding,
    ) -> Callable[[], list[Matches]]:
        """`match` up to where the device is done with it.

        Returns:
            What computes the rest, on the CPU alone: the device may do something else meanwhile.
        """
        want = Want(descriptors=True) if self._has_descriptors else Want(pointmap=True)
        found: list[GridMatches] = []
        for first, second in self.engine.decode_batches(encoding0, encoding1, want, want):
            grids0, grids1 = self._grids(first, second)
            chunk = slice(len(found), len(found) + len(grids0))
            found += self._match_batch(sides0[chunk], sides1[chunk], grids0, grids1)
        again: dict[int, GridMatches] = {}
        for row, (side0, side1) in enumerate(zip(sides0, sides1, strict=True)):
            if self.options.symmetric and not len(side0.keypoints) and not len(side1.keypoints):
                own0 = encoding0 if len(encoding0) == 1 else encoding0[row : row + 1]
                decoded = self.engine.decode(encoding1[row : row + 1], own0, want, want)
                grids1, grids0 = self._grids(*decoded)
                again[row] = self._match_batch([side0], [side1], grids0, grids1)[0]

        def rest() -> list[Matches]:
            pairs = list(zip(sides0, sides1, strict=True))
            results = [self._finished(own, *pair) for own, pair in zip(found, pairs, strict=True)]
            for row, own in again.items():
                both = _joined(results[row], self._finished(own, *pairs[row]))
                results[row] = both.select(slice(self.max_matches)) if self.max_matches else both
            return results

        return rest

    def _grids(self, first: Prediction, second: Prediction) -> tuple[list[Grid], list[Grid]]:
        """What is compared between the two views of each pair."""
        if self._has_descriptors:
            return self._descriptor_grids(first), self._descriptor_grids(second)
        assert first.pointmap is not None and second.pointmap is not None
        assert first.confidence is not None and second.confidence is not None
        grids0, grids1 = [], []
        for points0, confidence0, points1, confidence1 in zip(
            first.pointmap, first.confidence, second.pointmap, second.confidence, strict=True
        ):
            lifted0, lifted1 = lift_points(
                *(points0, points1),
                *(confidence0 >= self.min_confidence, confidence1 >= self.min_confidence),
            )
            grids0.append(Grid(vectors=lifted0, confidence=confidence0, placing="none"))
            grids1.append(Grid(vectors=lifted1, confidence=confidence1, placing="none"))
        return grids0, grids1

    def _descriptor_grids(self, prediction: Prediction) -> list[Grid]:
        vectors, confidence = prediction.descriptors, prediction.descriptor_confidence
        assert vectors is not None and confidence is not None
        return [
            Grid(
                vectors=v,
                confidence=c,
                stride=self._stride,
                placing=self._placing,
                temperature=self._temperature,
            )
            for v, c in zip(vectors, confidence, strict=True)
        ]

    def _match_batch(
        self,
        sides0: Sequence[Side],
        sides1: Sequence[Side],
        grids0: Sequence[Grid],
        grids1: Sequence[Grid],
    ) -> list[GridMatches]:
        """Matches of pairs, one by one where the GPU's memory does not do for all of them.

        Raises:
            InputError: It does not do for one pair either.
        """
        try:
            return self._match_grids(sides0, sides1, grids0, grids1)
        except torch.OutOfMemoryError:
            pass  # not in the handler: there, the error keeps tensors alive
        logger.warning("out of GPU memory: matching %d pairs one by one", len(sides0))
        self.engine.free_caches()
        pairs = zip(sides0, sides1, grids0, grids1, strict=True)
        return [self._match_alone(*pair) for pair in pairs]

    def _match_alone(self, side0: Side, side1: Side, grid0: Grid, grid1: Grid) -> GridMatches:
        try:
            return self._match_grids([side0], [side1], [grid0], [grid1])[0]
        except torch.OutOfMemoryError as error:
            width, height = side0.frame.image_size
            raise InputError(
                f"the memory of {self.engine.device} does not do for the matches of a network "
                f"image of {width} x {height}: free it, or take a smaller "
                "matcher.long_side_px, or --device cpu"
            ) from error

    def _match_grids(
        self,
        sides0: Sequence[Side],
        sides1: Sequence[Side],
        grids0: Sequence[Grid],
        grids1: Sequence[Grid],
    ) -> list[GridMatches]:
        """Matches of pairs on the CPU, given what to compare."""
        found: list[list[GridMatches]] = [[] for _ in sides0]
        for from_first in (True, False):
            seeded, partners = (sides0, sides1) if from_first else (sides1, sides0)
            here, there = (grids0, grids1) if from_first else (grids1, grids0)
            points = {
                row: own
                for row, side in enumerate(seeded)
                if (own := side.network_points()) is not None
            }
            batch = matches_from_points(
                list(points.values()),
                [here[row] for row in points],
                [there[row] for row in points],
                tolerance_px=self.options.pixel_tol_px,
                subpixel=self._subpixel,
            )
            for row, matches in zip(points, batch, strict=True):
                if len(partners[row].keypoints):
                    matches = matches.with_free_ends()
                found[row].append(matches if from_first else matches.swapped())
        for row, parts in enumerate(found):
            if not parts:
                free = free_matches(
                    grids0[row],
                    grids1[row],
                    dense=self.options.dense,
                    step_px=self.options.grid_step_px,
                    border_px=self.options.border_px,
                    subpixel=self._subpixel,
                )
                parts.append(free)
        return [GridMatches.concatenate(parts).cpu() for parts in found]

    def _finished(self, found: GridMatches, side0: Side, side1: Side) -> Matches:
        """Confident matches in photo pixels, best first."""
        values = {n: v.numpy() for n, v in vars(found).items() if v is not None}
        scores = values["scores"].astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= self.min_confidence]
        most = self.max_matches
        if most is None and found.rows0 is None and found.rows1 is None:
            sure = int((scores[order] > SURE).sum())
            most = max(_NUM_FREE_MATCHES, sure) if self._temperature is not None else 0
        if most:
            order = order[:most]
        chosen = {name: value[order] for name, value in values.items()}
        rows0, rows1 = chosen.get("rows0"), chosen.get("rows1")
        return Matches(
            keypoints0=side0.photo_points(chosen["points0"], rows0),
            keypoints1=side1.photo_points(chosen["points1"], rows1),
            scores=scores[order],
            indices0=rows0,
            indices1=rows1,
        )


def _joined(first: Matches, second: Matches) -> Matches:
    """Both sets of free matches, best first; of the same pair of pixels the better one."""
    pairs = np.concatenate([np.hstack((m.keypoints0, m.keypoints1)) for m in (first, second)])
    scores = np.concatenate([first.scores, second.scores])
    order = np.argsort(-scores, kind="stable")
    _, best = np.unique(pairs[order], axis=0, return_index=True)
    rows = order[np.sort(best)]
    return Matches(keypoints0=pairs[rows, :2], keypoints1=pairs[rows, 2:], scores=scores[rows])
