"""The interface every matcher implements; stages know nothing else of a matcher."""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from matching.errors import InputError
from matching.files import PathLike
from matching.images import read_image
from matching.types import Matches, View

if TYPE_CHECKING:
    from matching.pointmap import PairGeometry  # needs torch

ImageLike = PathLike | NDArray[np.uint8]


class Matcher(ABC):
    """Matches images: encode each once, match it many times.

    Contract, inherited by every implementation's tests:

    * ``match`` returns pixels of the upright original photos, scores not increasing;
    * an image without anything to match (black, 1x1) gives empty matches, never an error;
    * the same input gives the same output.

    Attributes:
        name: What ``load_matcher`` takes, stored in ``map.json``.
        fingerprint: Hash of weights and of the options that change encodings; maps made with
            another fingerprint are refused.
        num_streams: Threads that should call `match_many` in turns so that the device of the
            matcher never waits for what callers compute in between; 1: calls are not thread-safe
            or keep all cores busy.
        encodes_aside: Whether `encode_many` works on threads of its own, which go on while its
            caller does something else between two photos.
        reads_files: Whether it knows photos by their paths and must be given these, never pixels.
        has_point_maps: Whether `predict` gives some.
        sure_score: Score above which a match counts as sure; None where scores only rank.
    """

    name: str
    fingerprint: str
    num_streams: int = 1
    encodes_aside: bool = False
    reads_files: bool = False
    has_point_maps: bool = False
    sure_score: float | None = None

    @abstractmethod
    def encode_image(self, image: NDArray[np.uint8]) -> View:
        """Encode one upright RGB image, (H, W, 3) uint8."""

    @abstractmethod
    def match_views(self, view0: View, view1: View) -> Matches:
        """Match two encoded images. Where a view has keypoints, the matches carry their rows."""

    @abstractmethod
    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        """Unit-norm local descriptors of an encoded image for retrieval, (N, D) float32."""

    def encode(self, image: ImageLike) -> View:
        """Encode a photo once, for any number of matches.

        Args:
            image: A path, or an upright image array: (H, W, 3) RGB or (H, W) grey, uint8.

        Raises:
            matching.errors.InputError: The file is missing or no readable image.
        """
        return self.encode_image(read_image(image))

    def encode_bare(self, image: ImageLike) -> View:
        """`encode` for a photo that is matched with photos of a map only, or not at all.

        Its view may lack what a matcher keeps to match two photos without keypoints better.
        """
        return self.encode(image)

    def encode_many(self, images: Iterable[ImageLike]) -> Iterator[View | InputError]:
        """Encode photos in order, as fast as the matcher can; a bad photo yields its error.

        Args:
            images: As for `encode`.

        Yields:
            The view of each photo, or the `InputError` that `encode` would have raised.
        """
        for image in images:
            yield self._encode_or_error(image)

    def encode_for_map(self, images: Iterable[ImageLike]) -> Iterator[View | InputError]:
        """`encode_many` for photos of a map, whose views have keypoints.

        They are chosen once per photo, so that all its pairs are matched at the same places.
        """
        return self.encode_many(images)

    def pixel_px(self, view: View) -> float:
        """Size of the pixels that the matcher looks at, in pixels of the photo, at least 1.

        What is nearer than about that is one place to the matcher.
        """
        return 1.0

    def match(self, image0: ImageLike | View, image1: ImageLike | View) -> Matches:
        """Match two photos.

        Args:
            image0: Path, array or encoded view.
            image1: The same for the other image.

        Returns:
            Matches in pixels of the upright photos, best first.

        Raises:
            matching.errors.InputError: A file is missing or no readable image.
        """
        return self.match_views(self._view(image0), self._view(image1))

    def match_many(self, view: View, others: Sequence[View]) -> list[Matches]:
        """Match one view (image 0) with several others (image 1 each), in one batch if possible."""
        return [self.match_views(view, other) for other in others]

    def at_keypoints(self, view: View, rows: NDArray[np.int64]) -> View:
        """The view with only some of its keypoints, in the order of ``rows`` (M,)."""
        return replace(view, keypoints=view.keypoints[rows])

    def predict(self, view0: View, view1: View) -> "PairGeometry | None":
        """Point maps of two encoded photos in the frames of both cameras.

        Returns:
            None if the matcher has no point maps, or a photo is blank.
        """
        return None

    def focal_px(self, view: View, others: Sequence[View] = ()) -> float | None:
        """Focal length of an encoded photo as the matcher sees it, pixels of the photo.

        Args:
            view: The photo.
            others: Photos of the same place, whose views help; by default it is looked at alone.

        Returns:
            None if the matcher cannot tell: it predicts no point maps, or the photo is blank.
        """
        return None

    def quick(self) -> "Matcher | None":
        """A matcher with a cheaper encoding that this matcher's encodings can be matched with.

        It makes the first attempt at a query; None if there is no such encoding.
        """
        return None

    def smaller(self) -> "Matcher | None":
        """A matcher that sees a photo smaller, with encodings to be matched with this matcher's.

        It makes another attempt at a query that may be zoomed; None if there is no use in that.
        """
        return None

    def describe(self) -> dict[str, Any]:
        """Plain values that identify the matcher: stored in ``map.json`` and in reports.

        A key ``options``, if there, holds what `load_matcher` needs to make the same matcher again.
        """
        return {"name": self.name, "fingerprint": self.fingerprint}

    def _encode_or_error(self, image: ImageLike) -> View | InputError:
        try:
            return self.encode(image)
        except InputError as error:
            return error

    def _view(self, image: ImageLike | View) -> View:
        return image if isinstance(image, View) else self.encode(image)
