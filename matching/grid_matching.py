"""Matches between two grids of vectors: free, or from given points of one of them.

Positions are pixels of the network images, centre of the top-left pixel at (0.5, 0.5). The nearest
neighbours themselves are those of `matching.reciprocal`.

A GPU needs less time for the pairs of a query than it takes to start an operation for each of them.
So the points of all pairs go through every step together, and only the result is waited for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from matching.descriptor_grid import (
    cells_to_pixels,
    pixels_to_cells,
    refine_positions,
    sample_bilinear,
)
from matching.distinctness import distinctness
from matching.peaks import displacements_of
from matching.reciprocal import dense_matches, iterated_matches, seeded_matches


@dataclass(frozen=True, kw_only=True)
class Grid:
    """What is compared of one view of a pair.

    Attributes:
        vectors: Larger dot products are better matches, (h, w, D). NaN never matches.
        confidence: (h, w).
        stride: Image pixels per cell; cell (i, j) covers pixels from stride * i, stride * j on.
        placing: How matches get between the cells: "peak" fits the similarity around a cell,
            "window" averages it as networks trained for that want it, "none" keeps the centre.
        temperature: Of the softmax that the vectors were trained with: scores are then matches'
            probabilities, which tell them from look-alikes. None: unknown, scores are confidences.
    """

    vectors: Tensor
    confidence: Tensor
    stride: int = 1
    placing: Literal["none", "peak", "window"] = "peak"
    temperature: float | None = None

    def confidence_at(self, cells: Tensor) -> Tensor:
        """Confidence of cells (M, 2) x, y."""
        return self.confidence[cells[:, 1], cells[:, 0]]

    def contains(self, cells: Tensor, border: int = 0) -> Tensor:
        """Which cells (M, 2) lie inside the grid and at least ``border`` off its edge."""
        height, width = self.confidence.shape
        size = torch.tensor([width, height], device=cells.device)
        return ((cells >= border) & (cells < size - border)).all(1)


@dataclass(frozen=True, kw_only=True)
class GridMatches:
    """Matches in network pixels, in no particular order.

    Attributes:
        points0: (M, 2) float32 x, y in image 0.
        points1: (M, 2) float32 x, y in image 1.
        scores: (M,) float32: geometric mean of the match's probability in both images where the
            grids have a temperature, else that of both confidences.
        rows0: Rows of the given points of image 0, (M,) int64; -1, or None for all, where the
            match ends at a free pixel.
        rows1: The same of image 1.
    """

    points0: Tensor
    points1: Tensor
    scores: Tensor
    rows0: Tensor | None = None
    rows1: Tensor | None = None

    def swapped(self) -> "GridMatches":
        """The same matches with image 0 and image 1 exchanged."""
        return GridMatches(
            points0=self.points1,
            points1=self.points0,
            scores=self.scores,
            rows0=self.rows1,
            rows1=self.rows0,
        )

    def with_free_ends(self) -> "GridMatches":
        """The same with rows on both sides: -1 where there were none."""
        free = torch.full((len(self.scores),), -1, device=self.scores.device)
        return replace(
            self,
            rows0=free if self.rows0 is None else self.rows0,
            rows1=free if self.rows1 is None else self.rows1,
        )

    def cpu(self) -> "GridMatches":
        """The same in main memory."""
        return replace(self, **{n: v.cpu() for n, v in vars(self).items() if v is not None})

    @staticmethod
    def concatenate(parts: "Sequence[GridMatches]") -> "GridMatches":
        """Join matches that have rows on the same sides."""
        names = [name for name, value in vars(parts[0]).items() if value is not None]
        return GridMatches(**{n: torch.cat([getattr(part, n) for part in parts]) for n in names})


def free_matches(
    grid0: Grid, grid1: Grid, *, dense: bool, step_px: int, border_px: int, subpixel: bool
) -> GridMatches:
    """Mutual nearest neighbours wherever they are.

    Args:
        grid0: Image 0.
        grid1: Image 1.
        dense: All of them, instead of those reached from a grid of seeds.
        step_px: Distance of the seeds, pixels.
        border_px: Matches this close to an image border are dropped, pixels.
        subpixel: Place the points of image 1 between its cells.
    """
    if dense:
        found = dense_matches(grid0.vectors, grid1.vectors)
        cells0, cells1 = found.keypoints0.long(), found.keypoints1.long()  # centres, at .5
    else:
        step = max(1, step_px // grid0.stride)
        cells0, cells1 = iterated_matches(grid0.vectors, grid1.vectors, step=step)
    inside = grid0.contains(cells0, -(-border_px // grid0.stride))
    inside &= grid1.contains(cells1, -(-border_px // grid1.stride))
    cells0, cells1 = cells0[inside], cells1[inside]
    pair = _Pairs.of([grid0], [grid1])
    first = torch.zeros_like(cells0[:, 0])
    return GridMatches(
        points0=cells_to_pixels(cells0, grid0.stride),
        points1=pair.place(first, [len(first)], cells0.float(), cells1, subpixel),
        scores=pair.scores(first, [len(first)], cells0, cells1),
    )


def matches_from_points(
    points0: Sequence[Tensor],
    grids0: Sequence[Grid],
    grids1: Sequence[Grid],
    *,
    tolerance_px: float,
    subpixel: bool,
) -> list[GridMatches]:
    """Matches of given points of image 0 that find back, of several pairs in one batch.

    Args:
        points0: Points of each image 0, (N, 2) float; those outside the grid have no match.
        grids0: Images 0.
        grids1: Images 1.
        tolerance_px: A point has to come back closer than this, pixels; 0: to its own cell.
        subpixel: Place the points of image 1 between its cells, looking for what is at the exact
            point of image 0 and not at its cell's centre.

    Returns:
        The matches of each pair, on the CPU, in the order of its points.
    """
    if not points0:
        return []
    if (
        len({(g0.vectors.shape, g1.vectors.shape) for g0, g1 in zip(grids0, grids1, strict=True)})
        > 1
    ):
        return [
            matches_from_points(
                [points], [grid0], [grid1], tolerance_px=tolerance_px, subpixel=subpixel
            )[0]
            for points, grid0, grid1 in zip(points0, grids0, grids1, strict=True)
        ]
    num_pairs, device = len(grids0), grids0[0].vectors.device
    points = torch.cat([p.cpu() for p in points0])
    lengths = torch.tensor([len(p) for p in points0])
    pair = torch.repeat_interleave(lengths)
    row = torch.arange(len(points)) - (lengths.cumsum(0) - lengths)[pair]
    exact = pixels_to_cells(points, grids0[0].stride)
    cells = exact.round().long()
    height, width = grids0[0].confidence.shape
    inside = ((cells >= 0) & (cells < torch.tensor([width, height]))).all(1)
    points, pair, row, exact, cells = (t[inside] for t in (points, pair, row, exact, cells))
    found = seeded_matches(
        [grid.vectors for grid in grids0],
        [grid.vectors for grid in grids1],
        list(cells.split(torch.bincount(pair, minlength=num_pairs).tolist())),
        pixel_tol=tolerance_px / grids0[0].stride,
    )
    kept = torch.nonzero(torch.cat([seeds.kept for seeds in found]))[:, 0]
    cells1 = torch.cat([seeds.xy1 for seeds in found])[kept]
    kept = kept.cpu()
    points, pair, row, exact, cells = (t[kept] for t in (points, pair, row, exact, cells))
    counts = torch.bincount(pair, minlength=num_pairs).tolist()
    which, cells = (t.to(device, non_blocking=True) for t in (pair, cells))
    pairs = _Pairs.of(grids0, grids1)
    points1 = pairs.place(which, counts, exact.float(), cells1, subpixel)
    scores = pairs.scores(which, counts, cells, cells1)
    result = torch.cat((points1, scores[:, None]), 1).cpu()
    return [
        GridMatches(points0=own, points1=there[:, :2], scores=there[:, 2], rows0=rows)
        for own, there, rows in zip(
            points.split(counts), result.split(counts), row.split(counts), strict=True
        )
    ]


@dataclass(frozen=True, kw_only=True)
class _Pairs:
    """Grids of one size of several pairs.

    Attributes:
        grids0: Images 0.
        grids1: Images 1.
        vectors0: Theirs, (P, h, w, D).
        vectors1: The same of images 1.
    """

    grids0: Sequence[Grid]
    grids1: Sequence[Grid]
    vectors0: Tensor
    vectors1: Tensor

    @staticmethod
    def of(grids0: Sequence[Grid], grids1: Sequence[Grid]) -> "_Pairs":
        return _Pairs(
            grids0=grids0,
            grids1=grids1,
            vectors0=_stacked([grid.vectors for grid in grids0]),
            vectors1=_stacked([grid.vectors for grid in grids1]),
        )

    def place(
        self, which: Tensor, counts: list[int], exact0: Tensor, cells1: Tensor, subpixel: bool
    ) -> Tensor:
        """Pixels in images 1 of places in images 0 that were matched to cells.

        Args:
            which: The pair of each match, ascending, (M,).
            counts: Matches of each pair.
            exact0: The places in cells, (M, 2) float.
            cells1: The cells, (M, 2).
            subpixel: Leave the cells' centres.
        """
        kind, stride = self.grids1[0].placing, self.grids1[0].stride
        if not subpixel or kind == "none" or not len(cells1):
            return cells_to_pixels(cells1, stride)
        places = pad_sequence(list(exact0.split(counts)), batch_first=True)  # (P, S, 2)
        device = cells1.device
        there = sample_bilinear(self.vectors0, places.to(device, non_blocking=True))
        slots = torch.cat([torch.arange(n) + k * places.shape[1] for k, n in enumerate(counts)])
        slots = slots.to(device, non_blocking=True)
        vectors = F.normalize(there.flatten(0, 1)[slots].float(), dim=-1)
        if kind == "peak":
            offset = displacements_of(vectors, self.vectors1, which, cells1)
            return cells_to_pixels(cells1 + offset, stride)
        parts = zip(vectors.split(counts), self.grids1, cells1.split(counts), strict=True)
        refined = [refine_positions(own, grid.vectors, cells) for own, grid, cells in parts]
        return cells_to_pixels(torch.cat(refined), stride)

    def scores(self, which: Tensor, counts: list[int], cells0: Tensor, cells1: Tensor) -> Tensor:
        """Scores of matches between cells, (M,); arguments as of `place`."""
        if self.grids0[0].temperature is None or self.grids1[0].temperature is None:
            confidence0 = _stacked([grid.confidence for grid in self.grids0])
            confidence1 = _stacked([grid.confidence for grid in self.grids1])
            product = confidence0[which, cells0[:, 1], cells0[:, 0]]
            product = product * confidence1[which, cells1[:, 1], cells1[:, 0]]
            return product.float().sqrt()
        parts = zip(
            self.grids0, cells0.split(counts), self.grids1, cells1.split(counts), strict=True
        )
        return torch.cat([_distinctness_of(*part) for part in parts])


def _distinctness_of(grid0: Grid, cells0: Tensor, grid1: Grid, cells1: Tensor) -> Tensor:
    """Geometric mean of the probabilities in both images, (M,)."""
    assert grid0.temperature is not None and grid1.temperature is not None
    both = [
        distinctness(
            here.vectors[own[:, 1], own[:, 0]], there.vectors, other, temperature=temperature
        )
        for here, own, there, other, temperature in (
            (grid0, cells0, grid1, cells1, grid1.temperature),
            (grid1, cells1, grid0, cells0, grid0.temperature),
        )
    ]
    return (both[0] * both[1]).sqrt()


def _stacked(parts: Sequence[Tensor]) -> Tensor:
    """Tensors of one shape as one, (P, ...): not copied where they are its consecutive slices."""
    if len(parts) == 1:
        return parts[0][None]
    first, size = parts[0], parts[0].numel()
    start, storage = first.storage_offset(), first.untyped_storage().data_ptr()
    together = all(
        part.untyped_storage().data_ptr() == storage
        and part.storage_offset() == start + k * size
        and part.is_contiguous()
        for k, part in enumerate(parts)
    )
    if not together:
        return torch.stack(list(parts))
    return first.as_strided((len(parts), *first.shape), (size, *first.stride()))
