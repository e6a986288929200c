"""Coarse to fine through a network: windows of both photos are encoded, decoded and matched.

Which windows go together is decided in `matching.coarse_to_fine` from the matches of the whole
photos. At most `_MAX_WINDOWS` pairs and `_KEPT_WINDOWS` encodings are in memory at a time.
"""

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from matching.coarse_to_fine import WindowOptions, WindowPairs, choose_windows, cut, merge_matches
from matching.encoded import PIXELS, is_blank, pixels_frame
from matching.network import Encoding
from matching.pair_decoding import PairDecoder, Side
from matching.preprocess import NetworkFrame, to_network_tensor
from matching.types import Matches, View

_MAX_WINDOWS = 48  # pairs of windows per batch, the published number
_KEPT_WINDOWS = 96  # encoded windows of a photo that are kept for its next partners


class WindowMatcher:
    """Matches photos again in windows of their pixels.

    Args:
        decoder: Decodes and matches pairs of network images.
        options: How windows are laid out and chosen.
    """

    def __init__(self, decoder: PairDecoder, options: WindowOptions) -> None:
        self._decoder = decoder
        self._options = options

    def match_many(
        self, view: View, others: Sequence[View], coarse: Sequence[Matches]
    ) -> list[Matches]:
        """Match a view with others where their coarse matches lie.

        Args:
            view: The first photo of all pairs; views must hold their pixels.
            others: The second photo of each pair.
            coarse: Matches of each pair as a whole.

        Returns:
            The windows' matches of each pair, best first; the coarse ones where there are too few
            of them to choose windows, where no window has a keypoint, and where no window holds
            more than the network has seen.
        """
        windows_of_view: dict[tuple[int, ...], Encoding] = {}
        results = []
        for other, found in zip(others, coarse, strict=True):
            chosen = self._choose(view, other, found)
            if len(chosen):
                found = self._match(view, other, chosen, windows_of_view)
            results.append(found)
        return results

    def _choose(self, view: View, other: View, coarse: Matches) -> WindowPairs:
        nothing = np.zeros((0, 4), np.int64)
        if is_blank(view) or is_blank(other) or not len(coarse):
            return WindowPairs(nothing, nothing)
        frames = [pixels_frame(v) for v in (view, other)]
        sizes = [self._window_size(frame) for frame in frames]
        if all(size == frame.image_size for size, frame in zip(sizes, frames, strict=True)):
            return WindowPairs(nothing, nothing)  # nothing is cut: that was the coarse pass
        windows = choose_windows(
            image_size0=frames[0].image_size,
            image_size1=frames[1].image_size,
            keypoints0=frames[0].to_network(coarse.keypoints0),
            keypoints1=frames[1].to_network(coarse.keypoints1),
            network_size0=sizes[0],
            network_size1=sizes[1],
            options=self._options,
        )
        if not len(view.keypoints) and not len(other.keypoints):
            return windows
        # those without any keypoint would be matched at free pixels
        return _with_keypoints(windows, view, other)

    def _window_size(self, frame: NetworkFrame) -> tuple[int, int]:
        """(width, height) of windows of a photo: the network's size of its shape."""
        longest, multiple = max(frame.image_size), self._options.multiple_px
        width, height = (
            max(multiple, side * self._options.max_size_px // longest // multiple * multiple)
            for side in frame.image_size
        )
        return width, height

    def _match(
        self,
        view: View,
        other: View,
        windows: WindowPairs,
        windows_of_view: dict[tuple[int, ...], Encoding],
    ) -> Matches:
        whole: list[Matches] = []
        keyed = len(view.keypoints) > 0, len(other.keypoints) > 0
        for start in range(0, len(windows), _MAX_WINDOWS):
            boxes0 = windows.boxes0[start : start + _MAX_WINDOWS]
            boxes1 = windows.boxes1[start : start + _MAX_WINDOWS]
            sides0, rows0 = _sides(view, boxes0)
            sides1, rows1 = _sides(other, boxes1)
            found = self._decoder.match(
                sides0,
                sides1,
                self._encode(view, boxes0, windows_of_view),
                self._encode(other, boxes1, {}),
            )
            whole += [
                _with_rows_of_view(matches, own, keyed)
                for matches, *own in zip(found, rows0, rows1, strict=True)
            ]
        cell_px = max(1.0, *pixels_frame(view).scale, *pixels_frame(other).scale)
        return merge_matches(whole, cell_px=cell_px)

    def _encode(
        self, view: View, boxes: NDArray[np.int64], known: dict[tuple[int, ...], Encoding]
    ) -> Encoding:
        """Encodings of windows, one for each box; ``known`` are looked up and added to."""
        keys = [tuple(box) for box in boxes.tolist()]
        missing = sorted(set(keys) - set(known))
        if missing:
            pixels = np.asarray(view.arrays[PIXELS])
            images = [to_network_tensor(w) for w in cut(pixels, np.array(missing))]
            encoded = self._decoder.engine.encode(torch.stack(images))
            # half precision as stored encodings have it; a photo's windows stay in main memory
            kept = encoded.map(lambda tensor: tensor.to(torch.float16).cpu())
            known.update({key: kept[row : row + 1] for row, key in enumerate(missing)})
        batch = Encoding.concatenate([known[key] for key in keys])
        while len(known) > _KEPT_WINDOWS:
            del known[next(iter(known))]  # the oldest: partners' windows lie anywhere
        return batch


def _sides(view: View, boxes: NDArray[np.int64]) -> tuple[list[Side], list[NDArray[np.int64]]]:
    """The windows of a view, each with the keypoints inside it, and their rows in the view."""
    frame = pixels_frame(view)
    points = frame.to_network(view.keypoints)
    sides, rows = [], []
    for x0, y0, x1, y1 in boxes.tolist():
        inside = ((points >= (x0, y0)) & (points < (x1, y1))).all(1)
        rows.append(np.flatnonzero(inside))
        (scale_x, scale_y) = frame.scale
        window = NetworkFrame(
            image_size=(x1 - x0, y1 - y0),
            scale=frame.scale,
            offset=(x0 * scale_x, y0 * scale_y),
        )
        sides.append(
            Side(image_size=view.image_size, frame=window, keypoints=view.keypoints[inside])
        )
    return sides, rows


def _with_keypoints(windows: WindowPairs, view: View, other: View) -> WindowPairs:
    """The pairs of windows with a keypoint in at least one of both."""
    rows0, rows1 = _sides(view, windows.boxes0)[1], _sides(other, windows.boxes1)[1]
    kept = [k for k in range(len(windows)) if len(rows0[k]) or len(rows1[k])]
    return WindowPairs(windows.boxes0[kept], windows.boxes1[kept])


def _with_rows_of_view(
    matches: Matches, rows: Sequence[NDArray[np.int64]], keyed: tuple[bool, bool]
) -> Matches:
    """Rows of the windows' keypoints as rows of the photos' keypoints.

    Args:
        matches: Of a pair of windows.
        rows: Per side the row in the photo of each keypoint of the window.
        keyed: Per side whether the photo has keypoints: also where the window has none, its ends
            are free pixels with row -1.
    """
    indices = []
    for own, of_photo, with_rows in zip(
        (matches.indices0, matches.indices1), rows, keyed, strict=True
    ):
        whole = np.full(len(matches), -1, np.int64) if with_rows else None
        if own is not None and whole is not None:
            whole[own >= 0] = of_photo[own[own >= 0]]
        indices.append(whole)
    return Matches(
        keypoints0=matches.keypoints0,
        keypoints1=matches.keypoints1,
        scores=matches.scores,
        indices0=indices[0],
        indices1=indices[1],
    )
