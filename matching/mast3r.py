"""The neural matcher: encode a photo once, decode it against many, match by nearest neighbours."""

import hashlib
import json
import os
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matching.checkpoint import read_checkpoint
from matching.errors import InputError
from matching.files import PathLike
from matching.grid_matching import (
    Grid,
    GridMatches,
    free_matches,
    matches_between_points,
    matches_from_points,
)
from matching.images import read_image
from matching.matcher import ImageLike, Matcher
from matching.network import Encoding, PairNetwork, Prediction, Want
from matching.network.engine import Engine, EngineOptions
from matching.options import options_as_dict
from matching.pointmap import PairGeometry, lift_points
from matching.preprocess import (
    NetworkFrame,
    fit_to_patches,
    fit_to_trained_size,
    to_network_tensor,
)
from matching.types import Matches, View

# published thresholds: of MASt3R's descriptor confidence, of DUSt3R's point confidence
_MIN_DESCRIPTOR_CONFIDENCE, _MIN_POINT_CONFIDENCE = 1.001, 3.0


@dataclass(frozen=True, kw_only=True)
class Mast3rOptions:
    """Settings of `Mast3rMatcher`."""

    long_side_px: int = 0  # photos are resized to this long side; 0: the network's own
    # "patches" keeps nearly all of a photo, "trained" crops to an aspect ratio of the training
    resize: Literal["patches", "trained"] = "patches"
    square_ok: bool = False  # with "patches": square photos stay square instead of becoming 4:3
    dense: bool = False  # all mutual nearest neighbours instead of those reached from a grid
    grid_step_px: int = 8  # distance of the grid's seeds, network pixels
    pixel_tol_px: float = 5.0  # a keypoint has to come back this close, network pixels
    # smallest confidence (geometric mean of both pixels); none: 1.001 of descriptors, 3 of points
    min_confidence: float | None = None
    border_px: int = 3  # free matches this close to a border are dropped, network pixels
    max_matches: int = 0  # keep only so many of the best per pair; 0: all
    # place matches between the cells of the descriptor grid; none: if the network is trained for it
    subpixel: bool | None = None
    symmetric: bool = False  # also decode in the other order and join both sets of free matches
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        for name in ("long_side_px", "pixel_tol_px", "border_px", "max_matches"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.grid_step_px < 1:
            raise ValueError(f"grid_step_px must be at least 1, got {self.grid_step_px}")
        if self.resize == "trained" and self.long_side_px not in (0, 224, 512):
            raise ValueError(f"resize 'trained' needs 224 or 512, got {self.long_side_px}")


class Mast3rMatcher(Matcher):
    """MASt3R, DUSt3R and groundloc's own networks behind one interface.

    A `View` holds no keypoints and the arrays ``tokens`` (N, C) float16, ``frame`` (6,) float64
    (width, height, scale and offset of the network image) and the network's further encodings. A
    photo without any texture or with a side shorter than a patch has no tokens and no matches.

    Where a view has keypoints, set with ``dataclasses.replace(view, keypoints=...)``, matches are
    looked for at these; otherwise they are free, from a grid of seeds or dense.

    Args:
        network: The network.
        name: What `load_matcher` was asked for.
        fingerprint: Hash of the weights, see `Checkpoint.fingerprint`.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        options: Settings.
    """

    def __init__(
        self,
        network: PairNetwork,
        *,
        name: str,
        fingerprint: str,
        device: str = "cpu",
        options: Mast3rOptions | None = None,
    ) -> None:
        self.options = options or Mast3rOptions()
        self.name = name
        self.config = network.config
        self.engine = Engine(network, device=device, options=self.options.engine)
        self.long_side_px = self.options.long_side_px or network.config.long_side
        encoding = [fingerprint, self.long_side_px, self.options.resize, self.options.square_ok]
        self.fingerprint = hashlib.sha256(json.dumps(encoding).encode()).hexdigest()
        self._stride = network.descriptor_stride
        published = _MIN_DESCRIPTOR_CONFIDENCE if self.config.desc_dim else _MIN_POINT_CONFIDENCE
        if self.config.architecture == "GroundlocSmall":
            published = 0.0  # odds that a match is right: they rank, RANSAC decides
        given = self.options.min_confidence
        self.min_confidence = published if given is None else given
        self._trained_to_place = network.config.architecture == "GroundlocSmall"
        asked = self.options.subpixel
        self._subpixel = self._trained_to_place if asked is None else asked

    @staticmethod
    def load(
        source: PathLike,
        *,
        device: str = "cpu",
        options: Mast3rOptions | None = None,
        name: str | None = None,
    ) -> "Mast3rMatcher":
        """Load a checkpoint of any format, see `matching.checkpoint.read_checkpoint`."""
        checkpoint = read_checkpoint(source)
        fingerprint = checkpoint.fingerprint()
        return Mast3rMatcher(
            checkpoint.network(),
            name=name or str(source),
            fingerprint=fingerprint,
            device=device,
            options=options,
        )

    def describe(self) -> dict[str, Any]:
        """Name, fingerprint and the options that `load_matcher` needs to make it again."""
        options = options_as_dict(self.options)
        del options["engine"]  # a matter of the machine
        return {**super().describe(), "options": options}

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        """Encode one photo; see `Matcher.encode_image`."""
        prepared = self._prepare(image)
        return self._encode_prepared([prepared])[0]

    def encode_many(self, images: Iterable[ImageLike]) -> Iterator[View | InputError]:
        """Read photos on several threads, encode those of one size together."""
        threads = os.cpu_count() or 1
        ahead = threads + self.engine.max_batch((self.long_side_px, self.long_side_px))
        waiting: deque[Future[_Prepared | InputError]] = deque()
        remaining = iter(images)
        with ThreadPoolExecutor(threads) as pool:
            while True:
                for image in remaining:
                    waiting.append(pool.submit(self._read, image))
                    if len(waiting) >= ahead:
                        break
                if not waiting:
                    return
                yield from self._encode_first(waiting)

    def match_views(self, view0: View, view1: View) -> Matches:
        """Match two views; see `Matcher.match_views`."""
        return self.match_many(view0, [view1])[0]

    def match_many(self, view: View, others: Sequence[View]) -> list[Matches]:
        """Match one view with several, decoding those of one size together."""
        results = [_no_matches(view, other) for other in others]
        groups: dict[tuple[int, int], list[int]] = {}
        for row, other in enumerate(others):
            if len(view.arrays["tokens"]) and len(other.arrays["tokens"]):
                groups.setdefault(_frame(other).image_size, []).append(row)
        for rows in groups.values():
            for row, matches in zip(
                rows, self._match_group(view, [others[r] for r in rows]), strict=True
            ):
                results[row] = matches
        return results

    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        """Encoder tokens of unit norm, (N, C); see `Matcher.local_descriptors`."""
        tokens = np.asarray(view.arrays["tokens"], np.float32)
        return tokens / np.maximum(np.linalg.norm(tokens, axis=1, keepdims=True), 1e-12)

    def predict(self, view0: View, view1: View) -> PairGeometry | None:
        """Point maps of two views in both cameras' frames; None where a view is blank.

        Args:
            view0: First view.
            view1: Second view.
        """
        if not len(view0.arrays["tokens"]) or not len(view1.arrays["tokens"]):
            return None
        want = Want(pointmap=True)
        encodings = self._encoding([view0]), self._encoding([view1])
        passes = self.engine.decode_symmetric(*encodings, want, want)
        arrays = []
        for prediction in (*passes[0], *passes[1]):
            assert prediction.pointmap is not None and prediction.confidence is not None
            arrays.append(
                (prediction.pointmap[0].cpu().numpy(), prediction.confidence[0].cpu().numpy())
            )
        (map00, conf00), (map10, conf10), (map01, conf01), (map11, conf11) = arrays
        return PairGeometry(
            frames=(_frame(view0), _frame(view1)),
            image_sizes=(view0.image_size, view1.image_size),
            in_camera0=(map00, map10),
            confidence_in_camera0=(conf00, conf10),
            in_camera1=(map01, map11),
            confidence_in_camera1=(conf01, conf11),
        )

    # ------------------------------------------------------------------ encoding

    def _read(self, image: ImageLike) -> "_Prepared | InputError":
        try:
            return self._prepare(read_image(image))
        except InputError as error:
            return error

    def _prepare(self, image: NDArray[np.uint8]) -> "_Prepared":
        height, width = image.shape[:2]
        blank = _Prepared(image_size=(width, height))
        if (image == image[0, 0]).all():
            return blank
        if self.options.resize == "trained":
            tensor, frame = fit_to_trained_size(to_network_tensor(image), self.long_side_px)
            return _Prepared(image_size=(width, height), tensor=tensor, frame=frame)
        fitted = fit_to_patches(
            image,
            self.long_side_px,
            patch_size=self.config.patch_size,
            square_ok=self.options.square_ok,
        )
        if fitted is None:
            return blank
        return _Prepared(
            image_size=(width, height), tensor=to_network_tensor(fitted[0]), frame=fitted[1]
        )

    def _encode_first(
        self, waiting: "deque[Future[_Prepared | InputError]]"
    ) -> Iterator[View | InputError]:
        """Encode the first photo and those after it that are ready to go into its batch."""
        first = waiting.popleft().result()
        if isinstance(first, InputError):
            yield first
            return
        batch = [first]
        limit = 1 if first.frame is None else self.engine.max_batch(first.frame.image_size)
        while waiting and len(batch) < limit:
            following = waiting[0].result()
            if isinstance(following, InputError) or following.shape != first.shape:
                break
            batch.append(following)
            waiting.popleft()
        yield from self._encode_prepared(batch)

    def _encode_prepared(self, batch: "Sequence[_Prepared]") -> list[View]:
        """Views of photos of one network size, or of blank ones."""
        tensors = [prepared.tensor for prepared in batch if prepared.tensor is not None]
        if not tensors:
            return [self._blank_view(prepared.image_size) for prepared in batch]
        encoding = self.engine.encode(torch.stack(tensors))
        stored = encoding.map(lambda tensor: tensor.to(torch.float16).cpu())
        views = []
        for row, prepared in enumerate(batch):
            frame = prepared.frame
            assert frame is not None
            arrays = {"tokens": stored.tokens[row].numpy()}
            arrays |= {name: extra[row].numpy() for name, extra in stored.extras.items()}
            arrays["frame"] = np.array([*frame.image_size, *frame.scale, *frame.offset])
            views.append(_view(prepared.image_size, arrays))
        return views

    def _blank_view(self, image_size: tuple[int, int]) -> View:
        tokens = np.zeros((0, self.config.enc_embed_dim), np.float16)
        return _view(image_size, {"tokens": tokens, "frame": np.array([0, 0, 1.0, 1.0, 0, 0])})

    def _encoding(self, views: Sequence[View]) -> Encoding:
        """The stored encodings of views of one network size as a batch."""

        def batch(name: str) -> Tensor:
            stacked = np.stack([np.asarray(view.arrays[name]) for view in views])
            return torch.from_numpy(stacked).to(self.engine.device)

        extras = [name for name in views[0].arrays if name not in ("tokens", "frame")]
        return Encoding(
            tokens=batch("tokens"),
            image_size=_frame(views[0]).image_size,
            extras={name: batch(name) for name in extras},
        )

    # ------------------------------------------------------------------ matching

    def _match_group(self, view: View, others: Sequence[View]) -> list[Matches]:
        """Matches of one view with views of one network size."""
        query, mapped = self._encoding([view]), self._encoding(others)
        want = Want(descriptors=True) if self.config.desc_dim else Want(pointmap=True)
        results: list[Matches] = []
        for first, second in self.engine.decode_batches(query, mapped, want, want):
            grids0, grids1 = self._grids(first, second)
            chunk = others[len(results) : len(results) + len(grids0)]
            results += self._match_grids(view, chunk, grids0, grids1)
        if self.options.symmetric and not len(view.keypoints):
            for row, other in enumerate(others):
                if not len(other.keypoints):
                    second, first = self.engine.decode(mapped[row : row + 1], query, want, want)
                    grids = self._grids(second, first)[::-1]
                    results[row] = _joined(
                        results[row], self._match_grids(view, [other], *grids)[0]
                    )
        return results

    def _grids(self, first: Prediction, second: Prediction) -> tuple[list[Grid], list[Grid]]:
        """What is compared between the two views of each pair."""
        if self.config.desc_dim:
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
        placing: Literal["window", "peak"] = "window" if self._trained_to_place else "peak"
        return [
            Grid(vectors=v, confidence=c, stride=self._stride, placing=placing)
            for v, c in zip(vectors, confidence, strict=True)
        ]

    def _match_grids(
        self, view: View, others: Sequence[View], grids0: Sequence[Grid], grids1: Sequence[Grid]
    ) -> list[Matches]:
        """Matches of one view with each of several others, given what to compare."""
        options = self.options
        from_points = partial(
            matches_from_points, tolerance_px=options.pixel_tol_px, subpixel=self._subpixel
        )
        points = self._network_points(view)
        found: dict[int, GridMatches] = {}
        seeded = [row for row, other in enumerate(others) if len(other.keypoints)]
        if points is None and seeded:
            other_points = [self._network_points(others[row]) for row in seeded]
            batch = from_points(
                [p for p in other_points if p is not None],
                [grids1[row] for row in seeded],
                [grids0[row] for row in seeded],
            )
            found = {row: matches.swapped() for row, matches in zip(seeded, batch, strict=True)}
        for row, other in enumerate(others):
            if row in found:
                continue
            grid0, grid1, there = grids0[row], grids1[row], self._network_points(other)
            if points is None:
                found[row] = free_matches(
                    grid0,
                    grid1,
                    dense=options.dense,
                    step_px=options.grid_step_px,
                    border_px=options.border_px,
                    subpixel=self._subpixel,
                )
            elif there is None:
                (found[row],) = from_points([points], [grid0], [grid1])
            else:
                found[row] = matches_between_points(points, there, grid0, grid1)
        return [self._finished(found[row], view, other) for row, other in enumerate(others)]

    def _network_points(self, view: View) -> Tensor | None:
        """A view's keypoints in its network image, or None if it has none."""
        if not len(view.keypoints):
            return None
        points = _frame(view).to_network(view.keypoints)
        return torch.from_numpy(points).float().to(self.engine.device)

    def _finished(self, found: GridMatches, view0: View, view1: View) -> Matches:
        """Confident matches in photo pixels, best first."""
        scores = found.scores.cpu().numpy().astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        order = order[scores[order] >= self.min_confidence]
        if self.options.max_matches:
            order = order[: self.options.max_matches]
        indices0 = None if found.rows0 is None else found.rows0.cpu().numpy()
        indices1 = None if found.rows1 is None else found.rows1.cpu().numpy()
        return Matches(
            keypoints0=_photo_points(view0, found.points0, indices0),
            keypoints1=_photo_points(view1, found.points1, indices1),
            scores=scores,
            indices0=indices0,
            indices1=indices1,
        ).select(order)


@dataclass(frozen=True, kw_only=True)
class _Prepared:
    """A photo at network size; without tensor if there is nothing to see in it."""

    image_size: tuple[int, int]
    tensor: Tensor | None = None
    frame: NetworkFrame | None = None

    @property
    def shape(self) -> tuple[int, ...]:
        return () if self.tensor is None else tuple(self.tensor.shape)


def _view(image_size: tuple[int, int], arrays: dict[str, NDArray]) -> View:
    return View(image_size=image_size, keypoints=np.zeros((0, 2), np.float32), arrays=arrays)


def _frame(view: View) -> NetworkFrame:
    width, height, *rest = (float(value) for value in view.arrays["frame"])
    scale_x, scale_y, offset_x, offset_y = rest
    return NetworkFrame(
        image_size=(int(width), int(height)),
        scale=(scale_x, scale_y),
        offset=(offset_x, offset_y),
    )


def _photo_points(
    view: View, points: Tensor, indices: NDArray[np.int64] | None
) -> NDArray[np.float32]:
    """Network points in the photo; a view's own keypoints stay exactly what they are."""
    if indices is not None:
        return view.keypoints[indices]
    photo = _frame(view).to_photo(points.cpu().numpy())
    return np.clip(photo, 0, view.image_size).astype(np.float32)


def _no_matches(view0: View, view1: View) -> Matches:
    empty = Matches.empty()
    none = np.zeros(0, np.int64)
    return Matches(
        keypoints0=empty.keypoints0,
        keypoints1=empty.keypoints1,
        scores=empty.scores,
        indices0=none if len(view0.keypoints) else None,
        indices1=none if len(view1.keypoints) else None,
    )


def _joined(first: Matches, second: Matches) -> Matches:
    """Both sets of free matches, best first; of the same pair of pixels the better one."""
    pairs = np.concatenate([np.hstack((m.keypoints0, m.keypoints1)) for m in (first, second)])
    scores = np.concatenate([first.scores, second.scores])
    order = np.argsort(-scores, kind="stable")
    _, best = np.unique(pairs[order], axis=0, return_index=True)
    rows = order[np.sort(best)]
    return Matches(keypoints0=pairs[rows, :2], keypoints1=pairs[rows, 2:], scores=scores[rows])
