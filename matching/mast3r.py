"""The neural matcher: encode a photo once, decode it against many, match by nearest neighbours."""

import hashlib
import json
import os
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from copy import copy
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matching.checkpoint import read_checkpoint
from matching.coarse_to_fine import WindowOptions
from matching.device_encodings import DeviceEncodings
from matching.device_resize import is_worthwhile, resized_on_device
from matching.encoded import (
    PHOTO,
    PIXELS,
    Prepared,
    blank_view,
    frame_of,
    is_blank,
    limited,
    over_pixels,
    pixels_frame,
    views_of,
    with_photo,
)
from matching.errors import InputError
from matching.files import PathLike
from matching.focal import focal_from_pointmap
from matching.images import read_image
from matching.keypoints import choose_keypoints
from matching.matcher import ImageLike, Matcher
from matching.network import NOTHING, Encoding, PairNetwork, Want
from matching.network.engine import Engine, EngineOptions
from matching.options import options_as_dict
from matching.pair_decoding import SURE, PairDecoder, Side
from matching.pointmap import PairGeometry
from matching.preprocess import (
    fit_to_trained_size,
    patch_fit,
    resized_by_pillow,
    to_network_tensor,
)
from matching.second_look import SecondLook
from matching.types import Matches, View
from matching.window_matching import WindowMatcher

# published thresholds: of MASt3R's descriptor confidence, of DUSt3R's point confidence
_MIN_DESCRIPTOR_CONFIDENCE, _MIN_POINT_CONFIDENCE = 1.001, 3.0

_MOST_IN_STREAM = 8  # photos encoded together while their results are waited for


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
    # keep only so many of the best per pair; 0: all; none: of the free matches of `small`, whose
    # scores are probabilities, 1,000 of each look and all above 0.3, else all
    max_matches: int | None = None
    # place matches between the cells of the descriptor grid; none: if the network is trained for it
    subpixel: bool | None = None
    symmetric: bool = False  # also decode in the other order and join both sets of free matches
    # match what both photos of a pair show again, enlarged, where few free matches are sure; none:
    # if scores are probabilities (`small`) and not together with coarse_to_fine
    second_look: bool | None = None
    # places per photo of a map at which its pairs are matched; 0: other pixels for every pair
    num_keypoints: int = 2048
    # match again in windows of the photos, at up to `fine_side_px` instead of `long_side_px`
    coarse_to_fine: bool = False
    fine_side_px: int = 1600  # long side of photos cut into windows; 0: as large as they are
    engine: EngineOptions = field(default_factory=EngineOptions)

    def __post_init__(self) -> None:
        lengths = ("long_side_px", "pixel_tol_px", "border_px", "fine_side_px")
        for name in (*lengths, "num_keypoints"):
            if not getattr(self, name) >= 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.max_matches is not None and self.max_matches < 0:
            raise ValueError(f"max_matches must be >= 0 or none, got {self.max_matches}")
        if self.grid_step_px < 1:
            raise ValueError(f"grid_step_px must be at least 1, got {self.grid_step_px}")
        if self.second_look and self.coarse_to_fine:
            raise ValueError("second_look looks at whole pairs: not together with coarse_to_fine")
        if self.resize == "trained" and self.long_side_px not in (0, 224, 512):
            raise ValueError(f"resize 'trained' needs 224 or 512, got {self.long_side_px}")


class Mast3rMatcher(Matcher):
    """MASt3R, DUSt3R and groundloc's own networks behind one interface.

    What a `View` holds is told in `matching.encoded`. Views of `encode_for_map` have keypoints,
    those of `encode` none. A photo without any texture or with a side shorter than a patch has no
    tokens and no matches.

    Matches are looked for at the keypoints of the views, whichever have some; between two views
    without, they are free, from a grid of seeds or dense.

    Args:
        network: The network.
        name: What `load_matcher` was asked for.
        fingerprint: Hash of the weights, see `Checkpoint.fingerprint`; ``weights_sha256`` in
            `describe`.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        options: Settings.
    """

    has_point_maps = True

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
        self.num_streams = 1 if self.engine.device.type == "cpu" else 4
        self._resizes_on_gpu = self.engine.device.type == "cuda" and is_worthwhile(
            torch.cuda.get_device_capability(self.engine.device)
        )
        self._turn = threading.RLock()  # recorded launches have one set of inputs and outputs
        self.long_side_px = self.options.long_side_px or network.config.long_side
        self.weights_sha256 = fingerprint
        self.fingerprint = self._fingerprint(fingerprint)
        small = self.config.architecture == "GroundlocSmall"
        published = _MIN_DESCRIPTOR_CONFIDENCE if self.config.desc_dim else _MIN_POINT_CONFIDENCE
        if small:
            published = 0.0  # its scores rank, RANSAC decides
            self.sure_score = SURE
        given = self.options.min_confidence
        self.min_confidence = published if given is None else given
        asked = self.options.subpixel
        self._decoder = PairDecoder(
            self.engine,
            self.options,
            min_confidence=self.min_confidence,
            subpixel=small if asked is None else asked,
            trained_to_place=small,
        )
        self._stored = DeviceEncodings(
            self.engine.device,
            num_channels=self.config.enc_embed_dim,
            patch_size=self.config.patch_size,
            max_bytes=_cache_bytes(self.engine),
        )
        self.engine.caches.append(self._stored.clear)
        looks = self.options.second_look
        if looks is None:
            looks = small and not self.options.coarse_to_fine
        if looks and not small:
            raise InputError(
                "second_look needs scores that are probabilities, as those of small: "
                f"{self.config.architecture} has none"
            )
        self._second_look = SecondLook(self._decoder, self._encoding) if looks else None
        self._windows = WindowMatcher(self._decoder, WindowOptions(max_size_px=self.long_side_px))

    def _fingerprint(self, of_weights: str) -> str:
        """Hash of the weights and of the options that decide what a view holds."""
        options = self.options
        encoding: list[Any] = [of_weights, self.long_side_px, options.resize, options.square_ok]
        encoding.append(options.num_keypoints)
        if options.coarse_to_fine:
            encoding.append(options.fine_side_px)
        return hashlib.sha256(json.dumps(encoding).encode()).hexdigest()

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
        """Name, hashes and the options that `load_matcher` needs to make it again."""
        options = options_as_dict(self.options)
        del options["engine"]  # a matter of the machine
        return {**super().describe(), "options": options, "weights_sha256": self.weights_sha256}

    def smaller(self) -> "Mast3rMatcher | None":
        """This matcher at half of its size, `small` only; see `Matcher.smaller`."""
        one_scale = self.options.coarse_to_fine or self.options.resize == "trained"
        if self.config.architecture != "GroundlocSmall" or one_scale:
            return None  # trained at few sizes, or its windows would be of unlike scale again
        side, patch = self.long_side_px // 2, self.config.patch_size
        half = copy(self)  # of one network, with one turn on the device
        half.long_side_px = max(patch, side + patch * (side == 224))  # 224 would be a square
        half.options = replace(self.options, long_side_px=half.long_side_px)
        half.fingerprint = half._fingerprint(self.weights_sha256)
        return half

    # ------------------------------------------------------------------ encoding

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        """Encode one photo; see `Matcher.encode_image`."""
        view = self.encode_bare(image)
        if self._second_look is None or is_blank(view):
            return view
        return with_photo(view, image, 2 * self.long_side_px)

    def encode_bare(self, image: ImageLike) -> View:
        """Encode a photo that has no second look; see `Matcher.encode_bare`."""
        return self._encode_prepared([self._prepare(read_image(image), alone=True)])[0]

    def encode_many(self, images: Iterable[ImageLike]) -> Iterator[View | InputError]:
        """Read photos on several threads, encode those of one size together.

        Few of them, so that the first view does not wait for many photos and whoever matches at
        the same time does not wait for the device.
        """
        for _, view in self._encode_all(images, most=_MOST_IN_STREAM):
            yield view

    def encode_for_map(self, images: Iterable[ImageLike]) -> Iterator[View | InputError]:
        """Encode photos of a map and choose their keypoints; see `Matcher.encode_for_map`."""
        for prepared, view in self._encode_all(images):
            yield view if prepared is None else self._with_keypoints(prepared, view)

    def pixel_px(self, view: View) -> float:
        """Size of the finest pixels that the network sees; see `Matcher.pixel_px`."""
        frame = pixels_frame(view) if PIXELS in view.arrays else frame_of(view)
        return max(1.0, *frame.scale)

    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        """Encoder tokens of unit norm, (N, C); see `Matcher.local_descriptors`."""
        # by torch, which takes a quarter of numpy's time for half precision
        tokens = torch.from_numpy(np.asarray(view.arrays["tokens"])).float()
        unit: NDArray[np.float32] = torch.nn.functional.normalize(tokens, dim=1, eps=1e-12).numpy()
        return unit

    def _encode_all(
        self, images: Iterable[ImageLike], *, most: int | None = None
    ) -> "Iterator[tuple[Prepared | None, View | InputError]]":
        """Each photo with its view; ``most`` photos at a time (None: as many as fit)."""
        threads = os.cpu_count() or 1
        batch = self.engine.max_batch((self.long_side_px, self.long_side_px))
        ahead = threads + min(batch, most or batch)
        waiting: deque[Future[Prepared | InputError]] = deque()
        remaining = iter(images)
        with ThreadPoolExecutor(threads) as pool:
            while True:
                for image in remaining:
                    waiting.append(pool.submit(self._read, image))
                    if len(waiting) >= ahead:
                        break
                if not waiting:
                    return
                yield from self._encode_first(waiting, most)

    def _read(self, image: ImageLike) -> Prepared | InputError:
        try:
            return self._prepare(read_image(image))
        except InputError as error:
            return error

    def _prepare(self, image: NDArray[np.uint8], *, alone: bool = False) -> Prepared:
        """The photo at network size.

        Args:
            image: Upright RGB, (H, W, 3).
            alone: It is waited for, and no other one: many a GPU resizes it sooner than a thread of
                the CPU, to the same pixels.
        """
        height, width = image.shape[:2]
        blank = Prepared(image_size=(width, height))
        # hardly any photo has even a row of one colour, and looking at every pixel takes time
        if all((part == image[0, 0]).all() for part in (image[0], image)):
            return blank
        pixels = None
        if self.options.coarse_to_fine:
            pixels = limited(image, self.options.fine_side_px, at_least_px=self.long_side_px)
        if self.options.resize == "trained":
            tensor, frame = fit_to_trained_size(to_network_tensor(image), self.long_side_px)
            return Prepared(image_size=(width, height), tensor=tensor, frame=frame, pixels=pixels)
        fit = patch_fit(
            (width, height),
            self.long_side_px,
            patch_size=self.config.patch_size,
            square_ok=self.options.square_ok,
        )
        if fit is None:
            return blank
        resized: Tensor | None = None
        if alone and self._resizes_on_gpu:
            with self._turn, suppress(torch.OutOfMemoryError):  # the CPU gives the same pixels
                resized = to_network_tensor(resized_on_device(image, fit, self.engine.device))
        if resized is None:
            resized = to_network_tensor(resized_by_pillow(image, fit))
        return Prepared(
            image_size=(width, height),
            tensor=resized,
            frame=fit.frame((width, height)),
            pixels=pixels,
        )

    def _encode_first(
        self, waiting: "deque[Future[Prepared | InputError]]", most: int | None
    ) -> "Iterator[tuple[Prepared | None, View | InputError]]":
        """Encode the first photo and those after it that are ready to go into its batch."""
        first = waiting.popleft().result()
        if isinstance(first, InputError):
            yield None, first
            return
        batch = [first]
        limit = 1 if first.frame is None else self.engine.max_batch(first.frame.image_size)
        while waiting and len(batch) < min(limit, most or limit):
            following = waiting[0].result()
            if isinstance(following, InputError) or following.shape != first.shape:
                break
            batch.append(following)
            waiting.popleft()
        yield from zip(batch, self._encode_prepared(batch), strict=True)

    def _encode_prepared(self, batch: Sequence[Prepared]) -> list[View]:
        """Views of photos of one network size, or of blank ones."""
        tensors = [prepared.tensor for prepared in batch if prepared.tensor is not None]
        if not tensors:
            return [blank_view(p.image_size, self.config.enc_embed_dim) for p in batch]
        with self._turn:
            return views_of(batch, self.engine.encode(torch.stack(tensors)))

    def _with_keypoints(self, prepared: Prepared, view: View | InputError) -> View | InputError:
        """The view with the photo's keypoints, chosen on what the network sees of it."""
        number = self.options.num_keypoints
        if isinstance(view, InputError) or prepared.tensor is None or not number:
            return view
        image, frame = prepared.tensor, frame_of(view)
        confidence = self._own_confidence(view)
        if prepared.pixels is not None:
            image, frame = to_network_tensor(prepared.pixels), pixels_frame(view)
            confidence = None if confidence is None else over_pixels(confidence, view)
        points = choose_keypoints(image.to(self.engine.device), confidence, number=number)
        photo = frame.to_photo(points.cpu().numpy()).astype(np.float32)
        return replace(view, keypoints=photo)

    def _own_confidence(self, view: View) -> Tensor | None:
        """How sure the network is of each pixel's descriptor when it sees the photo twice, (h, w).

        Pixels chosen by it as well had 3 % more right matches, and more exact ones, on facades and
        rendered rooms; it costs half of a pair.
        """
        if not self.config.desc_dim:
            return None
        own = self._encoding([view])
        with self._turn:
            first, _ = self.engine.decode(own, own, Want(descriptors=True), NOTHING)
        assert first.descriptor_confidence is not None
        return first.descriptor_confidence[0]

    def _encoding(self, views: Sequence[View]) -> Encoding:
        """The stored encodings of views of one network size as a batch on the device."""
        return self._stored.batch(views)

    # ------------------------------------------------------------------ matching

    def match_views(self, view0: View, view1: View) -> Matches:
        """Match two views; see `Matcher.match_views`."""
        return self.match_many(view0, [view1])[0]

    def match_many(self, view: View, others: Sequence[View]) -> list[Matches]:
        """Match one view with several, decoding those of one size together."""
        return self._match_many(view, others)

    def _match_many(self, view: View, others: Sequence[View]) -> list[Matches]:
        results = [_no_matches(view, other) for other in others]
        groups: dict[tuple[int, int], list[int]] = {}
        for row, other in enumerate(others):
            if not is_blank(view) and not is_blank(other):
                groups.setdefault(frame_of(other).image_size, []).append(row)
        found = []
        with self._turn:
            for rows in groups.values():
                partners = [others[row] for row in rows]
                rest = self._decoder.begin(
                    [Side.of(view)] * len(rows),
                    [Side.of(partner) for partner in partners],
                    self._encoding([view]),
                    self._encoding(partners),
                )
                found.append((rows, rest))
        # the device is another thread's by now
        for rows, rest in found:
            for row, matches in zip(rows, rest(), strict=True):
                results[row] = matches
        again = self._windows if self.options.coarse_to_fine else self._second_look
        # nobody waits for the device where there is nothing to look at again
        if again is None or (again is self._second_look and PHOTO not in view.arrays):
            return results
        with self._turn:
            return again.match_many(view, others, results)

    def predict(self, view0: View, view1: View) -> PairGeometry | None:
        """Point maps of two views in both cameras' frames; None where a view is blank.

        They are in metres if the network knows the unit of its point maps.

        Args:
            view0: First view.
            view1: Second view.
        """
        if is_blank(view0) or is_blank(view1):
            return None
        want = Want(pointmap=True)
        encodings = self._encoding([view0]), self._encoding([view1])
        with self._turn:
            passes = self.engine.decode_symmetric(*encodings, want, want)
        arrays = []
        unit_m = self.config.point_unit_m
        for prediction in (*passes[0], *passes[1]):
            assert prediction.pointmap is not None and prediction.confidence is not None
            points = prediction.pointmap[0] * (1.0 if unit_m is None else unit_m)
            arrays.append((points.cpu().numpy(), prediction.confidence[0].cpu().numpy()))
        (map00, conf00), (map10, conf10), (map01, conf01), (map11, conf11) = arrays
        return PairGeometry(
            frames=(frame_of(view0), frame_of(view1)),
            image_sizes=(view0.image_size, view1.image_size),
            in_camera0=(map00, map10),
            confidence_in_camera0=(conf00, conf10),
            in_camera1=(map01, map11),
            confidence_in_camera1=(conf01, conf11),
            metric=unit_m is not None,
        )

    def focal_px(self, view: View, others: Sequence[View] = ()) -> float | None:
        """Median of the focal lengths of the photo's point maps; see `Matcher.focal_px`."""
        partners = [other for other in others if not is_blank(other)] or [view]
        if is_blank(view):
            return None
        frame = frame_of(view)
        middle = frame.to_network(np.array([view.image_size]) / 2)
        principal_point = torch.from_numpy(middle - 0.5).float().to(self.engine.device)
        focal_lengths: list[float] = []
        for partner in partners:
            with self._turn:
                own, _ = self.engine.decode(
                    self._encoding([view]), self._encoding([partner]), Want(pointmap=True), NOTHING
                )
            if own.pointmap is None:
                return None  # a network of descriptors only
            # fields of view from 100 to 19 degrees, the limits of MASt3R's sparse alignment
            focal = focal_from_pointmap(own.pointmap, principal_point, min_focal=0.5, max_focal=3.5)
            focal_lengths += focal.tolist()
        return float(np.median(focal_lengths)) * float(np.mean(frame.scale))


def _cache_bytes(engine: Engine) -> int:
    if engine.device.type != "cuda":
        return 0  # the encodings are where they are wanted
    total = torch.cuda.get_device_properties(engine.device).total_memory
    return min(engine.options.cache_mb << 20, total // 16)


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
