"""Match again at full resolution, in pairs of windows that cover the coarse matches.

A network sees at most a few hundred pixels a side. On a larger photo it is run once on the shrunken
image; its coarse matches then say which windows of the original pixels belong together, and the
matches of these windows are merged. The choice of windows is that of MASt3R (Leroy, Cabon, Revaud,
"Grounding image matching in 3D with MASt3R", ECCV 2024, section 3.4). The windows are cut with
`cut`, run through the network in batches by `matching.window_matching`, and what was found in them
is merged with `merge_matches`.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from matching.errors import InputError
from matching.types import Matches

Size = tuple[int, int]
FloatArray = NDArray[np.float64]
Boxes = NDArray[np.int64]  # (n, 4) x0 y0 x1 y1 in pixels, x1 and y1 excluded


@dataclass(frozen=True, kw_only=True)
class WindowOptions:
    """How windows are laid out and chosen."""

    max_size_px: int = 512  # longer side of a window
    multiple_px: int = 16  # sides of a window are multiples of the network's patches
    overlap: float = 0.5  # of neighbouring windows, fraction of their size
    min_matches: int = 10  # windows with fewer coarse matches are not used
    min_spread_px: float = 20.0  # smallest spread of matches that scales a window
    coverage: float = 0.9  # fraction of the matches' weight that the chosen pairs cover

    def __post_init__(self) -> None:
        if not 0 <= self.overlap < 1:
            raise InputError(f"overlap must be in [0, 1), got {self.overlap}")
        if not 0 < self.coverage <= 1:
            raise InputError(f"coverage must be in (0, 1], got {self.coverage}")
        for name in ("max_size_px", "multiple_px", "min_matches", "min_spread_px"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True)
class WindowPairs:
    """Windows of image 0 and of image 1 to be matched with each other, the most useful first.

    Attributes:
        boxes0: (n, 4) int64 x0 y0 x1 y1 in pixels of image 0, x1 and y1 excluded.
        boxes1: The same in image 1.
    """

    boxes0: Boxes
    boxes1: Boxes

    def __len__(self) -> int:
        return len(self.boxes0)


def choose_windows(
    *,
    image_size0: Size,
    image_size1: Size,
    keypoints0: NDArray[Any],
    keypoints1: NDArray[Any],
    network_size0: Size,
    network_size1: Size,
    options: WindowOptions | None = None,
) -> WindowPairs:
    """Choose pairs of windows that cover most of the coarse matches.

    Windows of each image's grid propose a partner around where their matches lie in the other
    image. Pairs are then taken greedily by how much weight of matches they add; a match weighs
    more in the middle of its windows.

    Args:
        image_size0: (width, height) of image 0, pixels.
        image_size1: The same of image 1.
        keypoints0: Coarse matches in image 0, (M, 2) x, y pixels of the full image; top-left pixel
            centre at (0.5, 0.5).
        keypoints1: The same in image 1.
        network_size0: (width, height) of a window of image 0, as the network gets it.
        network_size1: The same of image 1.
        options: Layout and choice.

    Returns:
        The pairs in the order chosen; none if no window has enough matches.

    Raises:
        matching.errors.InputError: An image is smaller than its window, or the matches do not
            go together.
    """
    options = options or WindowOptions()
    if keypoints0.shape != keypoints1.shape or keypoints0.ndim != 2 or keypoints0.shape[1] != 2:
        raise InputError(
            f"matches must be (M, 2) in both images, got {keypoints0.shape} and {keypoints1.shape}"
        )
    for image_size, network_size in ((image_size0, network_size0), (image_size1, network_size1)):
        if network_size[0] > image_size[0] or network_size[1] > image_size[1]:
            raise InputError(
                f"a window of {network_size[0]} x {network_size[1]} does not fit into an image of "
                f"{image_size[0]} x {image_size[1]}: match it in one piece"
            )
    # The published choice counts pixel centres from (0, 0).
    points0, points1 = (np.asarray(k, np.float64) - 0.5 for k in (keypoints0, keypoints1))
    first0, partner1, weights01 = _propose(
        image_size0, network_size0, points0, image_size1, network_size1, points1, options
    )
    first1, partner0, weights10 = _propose(
        image_size1, network_size1, points1, image_size0, network_size0, points0, options
    )
    boxes0, boxes1 = np.concatenate([first0, partner0]), np.concatenate([partner1, first1])
    chosen = _cover(np.concatenate([weights01, weights10]), options.coverage)
    return WindowPairs(boxes0[chosen], boxes1[chosen])


def cut(image: NDArray[np.uint8], boxes: Boxes) -> list[NDArray[np.uint8]]:
    """The windows of an image, (H, W, 3) or (H, W), as views into it."""
    return [image[y0:y1, x0:x1] for x0, y0, x1, y1 in boxes.tolist()]


def merge_matches(matches: Sequence[Matches], *, cell_px: float = 1.0) -> Matches:
    """Join the matches of overlapping windows, which find one correspondence several times.

    Of a keypoint only the best match survives. Free matches become one-to-one at the resolution of
    the cells: where several start in one cell of image 0, or end in one cell of image 1, the best
    one is kept.

    Args:
        matches: Of every pair of windows, in pixels of the full images.
        cell_px: Size of the cells, pixels; 1 means that no pixel is matched twice.

    Returns:
        The matches, best first.
    """
    if not matches:
        return Matches.empty()
    joined = Matches.concatenate(matches)
    rows = np.argsort(-joined.scores, kind="stable")
    sides = ((joined.keypoints0, joined.indices0), (joined.keypoints1, joined.indices1))
    free = joined.indices0 is None and joined.indices1 is None
    for keypoints, indices in sides:
        if free:
            cells = np.floor(keypoints[rows] / cell_px).astype(np.int64)
            # The first of each cell, which is its best; then back into the order of the scores.
            rows = rows[np.sort(np.unique(cells, axis=0, return_index=True)[1])]
        elif indices is not None:
            own = np.flatnonzero(indices[rows] >= 0)
            best = own[np.unique(indices[rows[own]], return_index=True)[1]]
            rows = rows[np.sort(np.concatenate([best, np.flatnonzero(indices[rows] < 0)]))]
    return joined.select(rows)


def window_grid(image_size: Size, options: WindowOptions) -> FloatArray:
    """Overlapping windows that cover an image evenly, (n, 4) x0 y0 x1 y1, x fastest."""
    longest = max(image_size)
    starts = []
    sides = []
    for length in image_size:
        side = length * options.max_size_px // longest // options.multiple_px * options.multiple_px
        last = length - side
        count = int(2 + (last - 1) // (side * (1 - options.overlap)))
        sides.append(side)
        starts.append(np.round(np.linspace(0, last, count)))
    x0, y0 = (axis.ravel() for axis in np.meshgrid(*starts))
    return np.stack([x0, y0, x0 + sides[0], y0 + sides[1]], 1)


def force_size(boxes: FloatArray, size: Size, image_size: Size) -> Boxes:
    """Bring windows to a size about their centres, on whole pixels and inside the image."""
    wanted = np.array(size)
    widen = (wanted - (boxes[:, 2:] - boxes[:, :2])) / 2
    low = np.floor(boxes[:, :2] - widen).astype(np.int64)
    high = np.floor(boxes[:, 2:] + widen).astype(np.int64)
    low += high - low - wanted
    inward = np.maximum(-low, 0)
    low, high = low + inward, high + inward
    inward = np.maximum(high - np.array(image_size), 0)
    return np.concatenate([low - inward, high - inward], 1)


def _propose(
    image_size: Size,
    network_size: Size,
    points: FloatArray,
    other_size: Size,
    other_network_size: Size,
    other_points: FloatArray,
    options: WindowOptions,
) -> tuple[Boxes, Boxes, FloatArray]:
    """Windows of one image's grid, their partners in the other, and the matches' weights (n, M)."""
    boxes = force_size(window_grid(image_size, options), network_size, image_size)
    beyond = (points[None] < boxes[:, None, :2]) | (points[None] >= boxes[:, None, 2:])
    inside: NDArray[np.bool_] = ~(beyond[..., 0] | beyond[..., 1])
    used = inside.sum(1) >= options.min_matches
    boxes, inside = boxes[used], inside[used]
    partners = np.zeros((len(boxes), 4))
    points32, other32 = points.astype(np.float32), other_points.astype(np.float32)
    for number, members in enumerate(inside):
        spread = _spread(points32[members], options)
        scale = _spread(other32[members], options) / spread
        half = (boxes[number, 2:] - boxes[number, :2]) * scale / 2
        centre = other32[members].mean(0)
        partners[number] = np.concatenate([centre - half, centre + half])
    other_boxes = force_size(partners, other_network_size, other_size)
    weights = inside * _centrality(boxes, points) * _centrality(other_boxes, other_points)
    return boxes, other_boxes, weights


def _spread(points: NDArray[np.float32], options: WindowOptions) -> NDArray[Any]:
    low, high = np.quantile(points, 0.1, axis=0), np.quantile(points, 0.9, axis=0)
    return np.maximum(high - low, options.min_spread_px)


def _centrality(boxes: Boxes, points: FloatArray) -> FloatArray:
    """How far in the middle of each window each point lies, (n, M), 1 at the centre."""
    size = boxes[:, 2:] - boxes[:, :2]
    centre = (boxes[:, 2:] + boxes[:, :2]) / 2
    offset = (points[None] - centre[:, None]) / size[:, None]
    return np.exp(-2 * np.square(offset).sum(-1))


def _cover(weights: FloatArray, coverage: float) -> list[int]:
    """Rows of ``weights`` (n, M), chosen greedily until they cover the fraction of all weight."""
    if not len(weights):
        return []
    remaining = weights.copy()
    target = coverage * weights.max(0).sum()
    chosen, covered = [], 0.0
    while covered < target:
        gains = remaining.sum(1)
        best = int(gains.argmax())
        if not gains[best] > 0:
            break  # rounding: everything is covered
        chosen.append(best)
        covered += gains[best]
        remaining = np.maximum(remaining - remaining[best], 0)
    return chosen
