"""The classical matcher: SIFT (Lowe, IJCV 2004) by pycolmap, mutual nearest neighbours by torch."""

import hashlib
import json
import os
import tempfile
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from PIL import Image

from matching.errors import InputError
from matching.files import reserve_space
from matching.images import read_image
from matching.matcher import ImageLike, Matcher
from matching.options import options_as_dict
from matching.ratio_test import mutual_ratio_matches
from matching.types import Matches, View

_MAX_THREADS = 8

# COLMAP tells of every photo it extracts; what goes wrong raises in Python
pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR.value)


@dataclass(frozen=True, kw_only=True)
class SiftOptions:
    """Settings of `SiftMatcher`."""

    max_num_features: int = 8192  # largest number of blobs per photo (COLMAP's default)
    peak_threshold: float = 0.02 / 3  # smallest contrast of a blob, of a grey range of 0..1
    # longer sides are scaled down to this (COLMAP's default): 32 megapixels once doubled, which
    # take 1.6 GB
    max_image_size_px: int = 3200
    max_ratio: float = 0.8  # distance to the best over the second-best neighbour (Lowe's test)
    num_threads: int = 0  # photos encoded at a time; 0: one per core, at most 8 for their memory

    def __post_init__(self) -> None:
        if self.max_num_features < 1:
            raise ValueError(f"max_num_features must be at least 1, got {self.max_num_features}")
        if self.max_image_size_px < 16:
            raise ValueError(f"max_image_size_px must be at least 16, got {self.max_image_size_px}")
        if not self.peak_threshold >= 0:
            raise ValueError(f"peak_threshold must be >= 0, got {self.peak_threshold}")
        if not 0 < self.max_ratio <= 1:
            raise ValueError(f"max_ratio must be in (0, 1], got {self.max_ratio}")
        if self.num_threads < 0:
            raise ValueError(f"num_threads must be >= 0, got {self.num_threads}")


class SiftMatcher(Matcher):
    """SIFT keypoints and root-normalised descriptors (Arandjelovic and Zisserman, CVPR 2012).

    A `View` holds ``keypoints`` and the arrays ``descriptors`` (N, 128) uint8 and ``scales``
    (N,) float32 pixels. Matches are mutual nearest neighbours that pass the ratio test in the
    direction from image 0 to image 1; the score is 1 - ratio.

    Args:
        options: Settings.
        device: Where descriptors are compared, ``"cpu"`` or ``"cuda"``; features are found on the
            CPU.
        first_octave: Size at which blobs are looked for first: -1 doubles the photo, which finds
            the smallest and most precise ones; 0 takes it as it is, see `quick`.
    """

    encodes_aside = True
    sure_score = 0.3  # a ratio of 0.7

    def __init__(
        self,
        options: SiftOptions | None = None,
        *,
        device: str = "cpu",
        first_octave: int = -1,
    ) -> None:
        self.options = options or SiftOptions()
        self.device = torch.device(device)
        self.first_octave = first_octave
        self.name = "sift"
        encoding = options_as_dict(self.options)
        del encoding["max_ratio"], encoding["num_threads"]  # neither changes what is stored
        if first_octave != -1:
            encoding["first_octave"] = first_octave
        self.fingerprint = hashlib.sha256(
            json.dumps({"sift": encoding}, sort_keys=True).encode()
        ).hexdigest()
        self._local = threading.local()

    def describe(self) -> dict[str, Any]:
        """Name, fingerprint and the options that `load_matcher` needs to make it again."""
        options = options_as_dict(self.options)
        del options["num_threads"]  # a matter of the machine
        return {**super().describe(), "options": options}

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        """Find keypoints and descriptors; see `Matcher.encode_image`."""
        small = self._limited(image)
        bitmap = pycolmap.Bitmap.from_array(small).clone_as_grey()
        found, descriptors = self._extractor().extract(bitmap)
        matrix = np.asarray(pycolmap.keypoints_to_matrix(found), np.float32).reshape(-1, 4)
        return _view(image, small, matrix[:, :2], matrix[:, 2], descriptors.data)

    def _limited(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """The photo, scaled down if a side is longer than the limit."""
        height, width = image.shape[:2]
        scale = self.options.max_image_size_px / max(height, width)
        if scale >= 1:
            return image
        size = max(1, round(width * scale)), max(1, round(height * scale))
        return np.array(Image.fromarray(image).resize(size, Image.Resampling.LANCZOS))

    def encode_many(self, images: Iterable[ImageLike]) -> Iterator[View | InputError]:
        """Encode photos on several threads; see `Matcher.encode_many`.

        ``FeatureExtractor.extract`` keeps the interpreter to itself, so that threads would encode
        one photo at a time; COLMAP's own `extract_features` does not, but works on files. Each
        photo therefore goes through a small folder of its own.
        """
        threads = self.options.num_threads or min(os.cpu_count() or 1, _MAX_THREADS)
        waiting: deque[Future[View | InputError]] = deque()
        with (
            tempfile.TemporaryDirectory(prefix="groundloc-", ignore_cleanup_errors=True) as work,
            ThreadPoolExecutor(threads) as pool,
        ):
            for image in images:
                waiting.append(pool.submit(self._encode_aside, image, work))
                # bounds how many decoded photos are in memory; threads have work while the caller
                # does something with a view
                if len(waiting) > 2 * threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()

    def _encode_aside(self, image: ImageLike, work: str) -> View | InputError:
        """What `encode` gives, while the interpreter is free for other threads."""
        try:
            photo = read_image(image)
        except InputError as error:
            return error
        small = self._limited(photo)
        with tempfile.TemporaryDirectory(dir=work) as folder:
            try:
                matrix, data = self._extract_from_file(small, Path(folder))
            except OSError:  # no room for the files: the memory will do
                return self.encode_image(photo)
        # COLMAP stores the affine shape of a keypoint in place of its scale and angle; this is how
        # it turns one into the other
        scales = np.sqrt(np.square(matrix[:, 2:]).reshape(-1, 2, 2).sum(1)).sum(1) / np.float32(2)
        return _view(photo, small, matrix[:, :2], scales, data)

    def _extract_from_file(
        self, image: NDArray[np.uint8], folder: Path
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        """Keypoints (N, 6) with their affine shapes, and descriptors (N, 128)."""
        name, database = "photo.pgm", folder / "features.db"
        # 152 bytes a feature, of which there are up to two with different angles at a place;
        # COLMAP ends the process if it cannot write
        reserve_space(folder / "reserve", image[..., 0].size + 600 * self.options.max_num_features)
        if not pycolmap.Bitmap.from_array(image).clone_as_grey().write(folder / name):
            raise OSError(f"'{folder / name}' could not be written")
        pycolmap.extract_features(
            database,
            folder,
            image_names=[name],
            extraction_options=self._extraction_options(),
            device=pycolmap.Device.cpu,
        )
        with pycolmap.Database.open(database) as opened:
            (image_id,) = (image.image_id for image in opened.read_all_images())
            return opened.read_keypoints(image_id), opened.read_descriptors(image_id).data

    def match_views(self, view0: View, view1: View) -> Matches:
        """Mutual ratio-test matches; see `Matcher.match_views`."""
        return self.match_many(view0, [view1])[0]

    def match_many(self, view: View, others: Sequence[View]) -> list[Matches]:
        """Match one view with several; see `Matcher.match_many`."""
        descriptors0 = self._descriptors(view)
        results = []
        for other in others:
            rows, columns, ratios = mutual_ratio_matches(
                descriptors0, self._descriptors(other), self.options.max_ratio
            )
            order = torch.argsort(ratios, stable=True)
            indices0 = rows[order].cpu().numpy()
            indices1 = columns[order].cpu().numpy()
            results.append(
                Matches(
                    keypoints0=view.keypoints[indices0],
                    keypoints1=other.keypoints[indices1],
                    scores=(1 - ratios[order]).cpu().numpy().astype(np.float32),
                    indices0=indices0,
                    indices1=indices1,
                )
            )
        return results

    def at_keypoints(self, view: View, rows: NDArray[np.int64]) -> View:
        """Some keypoints with their descriptors; see `Matcher.at_keypoints`."""
        return View(
            image_size=view.image_size,
            keypoints=view.keypoints[rows],
            arrays={name: values[rows] for name, values in view.arrays.items()},
        )

    def quick(self) -> "SiftMatcher | None":
        """SIFT without the doubled photo: a third of the keypoints in a fifth of the time.

        The larger blobs are the same ones with the same descriptors, so they match full encodings.
        """
        if self.first_octave >= 0:
            return None
        return SiftMatcher(self.options, device=str(self.device), first_octave=0)

    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        """Unit-norm SIFT descriptors, (N, 128); see `Matcher.local_descriptors`."""
        return torch.nn.functional.normalize(self._descriptors(view).float(), dim=1).cpu().numpy()

    def _descriptors(self, view: View) -> torch.Tensor:
        stored = np.ascontiguousarray(view.arrays["descriptors"])
        return torch.from_numpy(stored).to(self.device)

    def _extractor(self) -> pycolmap.FeatureExtractor:
        """One extractor per thread: it keeps buffers between photos."""
        if not hasattr(self._local, "extractor"):
            self._local.extractor = pycolmap.FeatureExtractor.create(
                self._extraction_options(), pycolmap.Device.cpu
            )
        return self._local.extractor

    def _extraction_options(self) -> pycolmap.FeatureExtractionOptions:
        options = pycolmap.FeatureExtractionOptions()
        options.use_gpu = False
        options.num_threads = 1
        options.max_image_size = self.options.max_image_size_px
        options.sift.first_octave = self.first_octave
        options.sift.max_num_features = self.options.max_num_features
        options.sift.peak_threshold = self.options.peak_threshold
        return options


def _view(
    photo: NDArray[np.uint8],
    small: NDArray[np.uint8],
    keypoints: NDArray[np.float32],
    scales: NDArray[np.float32],
    descriptors: NDArray[np.uint8],
) -> View:
    """The view of a photo from what was found in a scaled-down copy of it."""
    height, width = photo.shape[:2]
    # with pixel centres at 0.5 a change of size is a plain multiplication
    back = np.array([width / small.shape[1], height / small.shape[0]], np.float32)
    return View(
        image_size=(width, height),
        keypoints=keypoints * back,
        arrays={
            "descriptors": np.array(descriptors, np.uint8).reshape(-1, 128),
            "scales": scales * back.mean(),
        },
    )
