"""Matches between two grids of vectors: free, or from given points of one of them.

Positions are pixels of the network images, centre of the top-left pixel at (0.5, 0.5). The nearest
neighbours themselves are those of `matching.reciprocal`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from matching.descriptor_grid import (
    cells_to_pixels,
    pixels_to_cells,
    refine_positions,
    sample_bilinear,
)
from matching.distinctness import distinctness
from matching.reciprocal import (
    dense_matches,
    iterated_matches,
    refine_subpixel,
    seeded_matches,
)


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
    return GridMatches(
        points0=cells_to_pixels(cells0, grid0.stride),
        points1=_place(grid0, cells0.float(), grid1, cells1, subpixel),
        scores=_scores(grid0, cells0, grid1, cells1),
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
    """
    placed = [_cells(points, grid) for points, grid in zip(points0, grids0, strict=True)]
    found = seeded_matches(
        [grid.vectors for grid in grids0],
        [grid.vectors for grid in grids1],
        [cells for _, cells, _ in placed],
        pixel_tol=tolerance_px / grids0[0].stride if grids0 else 0.0,
    )
    results = []
    for points, grid0, grid1, (rows, cells0, exact0), seeds in zip(
        points0, grids0, grids1, placed, found, strict=True
    ):
        rows, cells0, exact0 = rows[seeds.kept], cells0[seeds.kept], exact0[seeds.kept]
        cells1 = seeds.xy1[seeds.kept]
        results.append(
            GridMatches(
                points0=points[rows],
                points1=_place(grid0, exact0, grid1, cells1, subpixel),
                scores=_scores(grid0, cells0, grid1, cells1),
                rows0=rows,
            )
        )
    return results


def _cells(points: Tensor, grid: Grid) -> tuple[Tensor, Tensor, Tensor]:
    """Rows of the points inside the grid, their cells and their exact places in cells."""
    exact = pixels_to_cells(points, grid.stride)
    cells = exact.round().long()
    rows = torch.nonzero(grid.contains(cells))[:, 0]
    return rows, cells[rows], exact[rows].float()


def _place(grid0: Grid, exact0: Tensor, grid1: Grid, cells1: Tensor, subpixel: bool) -> Tensor:
    """Pixels in image 1 of places in image 0 (in cells) that were matched to ``cells1``."""
    if not subpixel or grid1.placing == "none" or not len(cells1):
        return cells_to_pixels(cells1, grid1.stride)
    there = sample_bilinear(grid0.vectors[None], exact0[None])[0]
    vectors = F.normalize(there.float(), dim=-1)
    if grid1.placing == "window":
        return cells_to_pixels(refine_positions(vectors, grid1.vectors, cells1), grid1.stride)
    # in a map of one row no cell has neighbours above, so that side is not moved, and of the two
    # half steps that make one displacement only that in image 1 is taken: it is doubled
    row = torch.arange(len(vectors), device=vectors.device)
    pixels0 = torch.stack((row, torch.zeros_like(row)), 1)
    _, moved = refine_subpixel(vectors[None], grid1.vectors, pixels0, cells1)
    return cells_to_pixels(2 * (moved - 0.5) - cells1, grid1.stride)


def _scores(grid0: Grid, cells0: Tensor, grid1: Grid, cells1: Tensor) -> Tensor:
    if grid0.temperature is None or grid1.temperature is None:
        return (grid0.confidence_at(cells0) * grid1.confidence_at(cells1)).float().sqrt()
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
