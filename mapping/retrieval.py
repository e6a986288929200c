"""Global descriptors of photos from their local ones, and the index that finds similar photos.

VLAD (Jegou et al., CVPR 2010) over a vocabulary learned on the map's own photos, with
intra-normalisation (Arandjelovic and Zisserman, CVPR 2013), then PCA whitening (Jegou and Chum,
ECCV 2012) once a map has photos enough to estimate it. Nothing needs labels or other photos, so it
serves SIFT's descriptors and the encoder's tokens of any network alike. `benchmarks.retrieval`
compares it with simpler ways.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import faiss
import numpy as np
import torch
from numpy.typing import NDArray

from mapping.colmap import SEED
from mapping.options import RetrievalOptions
from matching.matcher import Matcher
from matching.types import View

FloatArray = NDArray[np.float32]

_MIN_PHOTOS_TO_PROJECT = 64
_MAX_PHOTOS_TO_LEARN = 2048  # bounds time and memory of learning on large maps
# Whitening n descriptors to n - 1 components of equal variance makes all of them equally similar.
# With this share of the mean variance added to each, all components can be kept, and more photos
# are found than with the first n / 4 of equal variance (`benchmarks/results/retrieval.md`).
_SHRINKAGE = 1.0
_MIN_DESCRIPTORS_PER_CLUSTER = 32


@dataclass(frozen=True, kw_only=True)
class Retrieved:
    """A map photo that looks like the query.

    Attributes:
        name: The photo.
        score: Cosine similarity of the global descriptors, at most 1.
    """

    name: str
    score: float


@dataclass(frozen=True)
class GlobalDescriber:
    """Turns local descriptors of a photo into one vector.

    Attributes:
        local_mean: (D,), subtracted from local descriptors.
        local_projection: (D, d) whitening projection of local descriptors.
        centroids: (K, d) visual words; K = 0 if no photo had anything to describe.
        global_mean: (K * d,), subtracted from the aggregated vector; empty: no projection.
        global_projection: (K * d, G) whitening projection of the aggregated vector.
    """

    local_mean: FloatArray
    local_projection: FloatArray
    centroids: FloatArray
    global_mean: FloatArray
    global_projection: FloatArray

    @property
    def dim(self) -> int:
        """Length of the global descriptor, at least 1."""
        if len(self.global_mean):
            return int(self.global_projection.shape[1])
        return max(1, int(self.centroids.size))

    def describe(self, local: FloatArray) -> FloatArray:
        """Aggregate the local descriptors of one photo.

        Args:
            local: Unit rows, (N, D).

        Returns:
            Unit vector (dim,); zeros for a photo without local descriptors.
        """
        return self.project(self.aggregate(local))

    def project(self, aggregated: FloatArray) -> FloatArray:
        """The second step of `describe`: (K * d,) -> (dim,)."""
        if not len(self.global_mean) or not aggregated.any():
            return aggregated[: self.dim]
        return _unit(_product((aggregated - self.global_mean)[None], self.global_projection)[0])

    def aggregate(self, local: FloatArray) -> FloatArray:
        """The first step: VLAD with intra-normalisation and signed square root, of unit norm.

        Args:
            local: Unit rows, (N, D).

        Returns:
            (K * d,), at least (1,); zeros for a photo without local descriptors.
        """
        if len(local) == 0 or len(self.centroids) == 0:
            return np.zeros(max(1, self.centroids.size), np.float32)
        reduced = _unit(_product(local - self.local_mean, self.local_projection))  # (N, d)
        words = _nearest(reduced, self.centroids)
        # sums of residuals per word as one product, much faster than scattered additions
        members = (words[None] == np.arange(len(self.centroids))[:, None]).astype(np.float32)
        cells = _unit(_product(members, reduced) - members.sum(1, keepdims=True) * self.centroids)
        return _unit((np.sign(cells) * np.sqrt(np.abs(cells))).ravel())

    def arrays(self) -> dict[str, FloatArray]:
        """Everything to store, by name; `GlobalDescriber(**arrays)` restores it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def describe_photos(
    names: Sequence[str],
    views: Callable[[str], View],
    matcher: Matcher,
    options: RetrievalOptions,
) -> tuple[GlobalDescriber, dict[str, FloatArray]]:
    """Learn vocabulary and projections on the photos of a map, and describe each of them.

    Args:
        names: The photos.
        views: The encoded photo of a name; called up to twice for each.
        matcher: What encoded them.
        options: Sizes.

    Returns:
        The describer, and the global descriptor (G,) of each photo.
    """

    def local_of(i: int) -> FloatArray:
        return matcher.local_descriptors(views(names[i]))

    describer, aggregated = _learn(len(names), local_of, options)
    return describer, {
        name: describer.project(aggregated[i])
        if i in aggregated
        else describer.describe(local_of(i))
        for i, name in enumerate(names)
    }


def train_describer(
    num_images: int, local_of: Callable[[int], FloatArray], options: RetrievalOptions
) -> GlobalDescriber:
    """Learn the vocabulary and the projections from the photos of a map.

    Args:
        num_images: How many photos the map has.
        local_of: Unit local descriptors (N, D) of the i-th photo; called up to twice per photo.
        options: Sizes.
    """
    return _learn(num_images, local_of, options)[0]


def _learn(
    num_images: int, local_of: Callable[[int], FloatArray], options: RetrievalOptions
) -> tuple[GlobalDescriber, dict[int, FloatArray]]:
    """The describer, and what it aggregated of the photos it learned its projection from."""
    sample = _sample_descriptors(num_images, local_of, options)
    if len(sample) == 0:
        empty = np.zeros(0, np.float32)
        none = np.zeros((0, 0), np.float32)
        return GlobalDescriber(empty, none, none, empty, none), {}
    mean, projection = _whitening(sample, min(options.local_dim, sample.shape[1]))
    reduced = _unit(_product(sample - mean, projection))
    num_clusters = min(options.num_clusters, max(1, len(reduced) // _MIN_DESCRIPTORS_PER_CLUSTER))
    kmeans = faiss.Kmeans(reduced.shape[1], num_clusters, niter=15, seed=SEED, verbose=False)
    kmeans.cp.min_points_per_centroid = 1  # silences a warning on stdout for tiny maps
    kmeans.train(reduced)
    describer = GlobalDescriber(
        mean,
        projection,
        np.array(kmeans.centroids),
        np.zeros(0, np.float32),
        np.zeros((0, 0), np.float32),
    )
    if num_images < _MIN_PHOTOS_TO_PROJECT:
        return describer, {}
    step = -(-num_images // _MAX_PHOTOS_TO_LEARN)
    aggregated = {i: describer.aggregate(local_of(i)) for i in range(0, num_images, step)}
    rows = np.array([row for row in aggregated.values() if row.any()])
    dim = min(options.global_dim, len(rows) - 1)
    if len(rows) < _MIN_PHOTOS_TO_PROJECT or rows.shape[1] <= dim:
        return describer, aggregated
    global_mean, global_projection = _whitening(rows, dim, shrinkage=_SHRINKAGE)
    projecting = replace(describer, global_mean=global_mean, global_projection=global_projection)
    return projecting, aggregated


def _sample_descriptors(
    num_images: int, local_of: Callable[[int], FloatArray], options: RetrievalOptions
) -> FloatArray:
    """Descriptors of all photos, evenly, at most ``num_training_descriptors``; (N, D)."""
    random = np.random.default_rng(SEED)
    # beyond this many photos only some are read
    step = max(1, num_images // 2000)
    indices = range(0, num_images, step)
    quota = max(1, options.num_training_descriptors // max(1, len(indices)))
    parts = []
    for i in indices:
        local = local_of(i)
        if len(local) > quota:
            local = local[np.sort(random.choice(len(local), quota, replace=False))]
        if len(local):
            parts.append(local)
    return np.concatenate(parts) if parts else np.zeros((0, 0), np.float32)


def _whitening(
    rows: FloatArray, dim: int, *, shrinkage: float = 0.0
) -> tuple[FloatArray, FloatArray]:
    """Mean (D,) and projection (D, dim) to the leading components with unit variance.

    Args:
        rows: (N, D).
        dim: Components to keep.
        shrinkage: Share of their mean variance that is added to that of each one.
    """
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean.astype(np.float32)
    if len(rows) >= rows.shape[1]:
        values, vectors = np.linalg.eigh(_product(centred.T, centred) / len(rows))
    else:  # the small Gram matrix has the same leading components
        values, left = np.linalg.eigh(_product(centred, centred.T) / len(rows))
        vectors = _product(centred.T, left) / np.sqrt(np.maximum(values, 1e-12) * len(rows))
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    # eigh leaves the signs open
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    # directions without variance hold noise only: they are not blown up
    variance = np.maximum(values, 1e-4 * values[0]) + shrinkage * values.mean()
    scale = 1 / np.sqrt(variance + 1e-12)
    return mean.astype(np.float32), (vectors * signs * scale).astype(np.float32)


def _unit(rows: NDArray[np.floating[Any]]) -> FloatArray:
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / np.maximum(norm, 1e-12)).astype(np.float32)


def _product(a: FloatArray, b: FloatArray) -> FloatArray:
    """``a @ b`` by torch: numpy's threads spin while they wait, on busy cores for seconds."""
    return (torch.from_numpy(a) @ torch.from_numpy(b)).numpy()


def _nearest(rows: FloatArray, centroids: FloatArray) -> NDArray[np.int64]:
    distances = (centroids**2).sum(1) - 2 * _product(rows, centroids.T)
    return np.asarray(distances.argmin(1))


def build_index(descriptors: FloatArray, options: RetrievalOptions) -> Any:
    """A FAISS inner-product index over global descriptors (N, G): exact, or IVF for many photos."""
    count, dim = descriptors.shape
    index: Any = faiss.IndexFlatIP(dim)
    if count > options.max_exact:
        num_lists = int(4 * np.sqrt(count))
        quantizer, index = (
            index,
            faiss.IndexIVFFlat(index, dim, num_lists, faiss.METRIC_INNER_PRODUCT),
        )
        index.own_fields = True  # the index frees its quantizer, Python no longer
        quantizer.this.disown()
        index.cp.seed = SEED
        index.train(descriptors)
        index.nprobe = options.num_probes
    index.add(np.ascontiguousarray(descriptors, dtype=np.float32))
    return index


def similar_photos(
    names: Sequence[str], descriptors: Mapping[str, FloatArray], options: RetrievalOptions
) -> Callable[[str, int], list[str]]:
    """A function that gives the photos of a map most similar to one of them, without itself."""
    rows = np.array([descriptors[n] for n in names], dtype=np.float32)
    index = build_index(rows, options)
    place = {name: i for i, name in enumerate(names)}

    @lru_cache(maxsize=1)  # all photos are asked for with the same number
    def neighbours(top_k: int) -> NDArray[np.int64]:
        # one search for all: 20 times as fast as one for each
        found: NDArray[np.int64] = index.search(rows, min(top_k + 1, len(names)))[1]
        return found

    def similar(name: str, top_k: int) -> list[str]:
        own = place[name]
        if not rows[own].any():
            return []
        others = [i for i in neighbours(top_k)[own].tolist() if i not in (own, -1)]
        return [names[i] for i in others[:top_k]]

    return similar


def search(index: Any, names: Sequence[str], descriptor: FloatArray, top_k: int) -> list[Retrieved]:
    """The most similar photos, best first; nothing for a descriptor of zeros.

    Args:
        index: From `build_index`; row i is ``names[i]``.
        names: Photos.
        descriptor: Global descriptor of the query, (G,).
        top_k: How many at most.
    """
    if top_k < 1:
        raise ValueError(f"top_k must be at least 1, got {top_k}")
    if not descriptor.any() or not names:
        return []
    scores, rows = index.search(descriptor[None].astype(np.float32), min(top_k, len(names)))
    return [
        Retrieved(name=names[row], score=float(score))
        for row, score in zip(rows[0].tolist(), scores[0].tolist(), strict=True)
        if row >= 0
    ]
