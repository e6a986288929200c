"""Global descriptors of photos from their local ones, and the index that finds similar photos.

VLAD (Jegou et al., CVPR 2010) over a vocabulary learned on the map's own photos, with
intra-normalisation (Arandjelovic and Zisserman, CVPR 2013), then PCA whitening (Jegou and Chum,
ECCV 2012) once a map has photos enough to estimate it.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import faiss
import numpy as np
from numpy.typing import NDArray

from mapping.colmap import SEED
from mapping.options import RetrievalOptions

FloatArray = NDArray[np.float32]

# whitening n descriptors with n - 1 components makes all of them equally similar
_MIN_IMAGES_PER_COMPONENT = 4
_MIN_GLOBAL_DIM = 16
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
        if len(local) == 0 or len(self.centroids) == 0:
            return np.zeros(self.dim, np.float32)
        aggregated = self._aggregate(local)
        if len(self.global_mean):
            return _unit((aggregated - self.global_mean) @ self.global_projection)
        return aggregated

    def _aggregate(self, local: FloatArray) -> FloatArray:
        """VLAD with intra-normalisation and signed square root, (K * d,) of unit norm."""
        reduced = _unit((local - self.local_mean) @ self.local_projection)  # (N, d)
        words = _nearest(reduced, self.centroids)
        # sums of residuals per word as one product, much faster than scattered additions
        members = (words[None] == np.arange(len(self.centroids))[:, None]).astype(np.float32)
        cells = _unit(members @ reduced - members.sum(1, keepdims=True) * self.centroids)
        return _unit((np.sign(cells) * np.sqrt(np.abs(cells))).ravel())

    def arrays(self) -> dict[str, FloatArray]:
        """Everything to store, by name; `GlobalDescriber(**arrays)` restores it."""
        return {name: getattr(self, name) for name in self.__dataclass_fields__}


def train_describer(
    num_images: int, local_of: Callable[[int], FloatArray], options: RetrievalOptions
) -> GlobalDescriber:
    """Learn the vocabulary and the projections from the photos of a map.

    Args:
        num_images: How many photos the map has.
        local_of: Unit local descriptors (N, D) of the i-th photo; called up to twice per photo.
        options: Sizes.
    """
    sample = _sample_descriptors(num_images, local_of, options)
    if len(sample) == 0:
        empty = np.zeros(0, np.float32)
        none = np.zeros((0, 0), np.float32)
        return GlobalDescriber(empty, none, none, empty, none)
    mean, projection = _whitening(sample, min(options.local_dim, sample.shape[1]))
    reduced = _unit((sample - mean) @ projection)
    num_clusters = min(options.num_clusters, max(1, len(reduced) // _MIN_DESCRIPTORS_PER_CLUSTER))
    kmeans = faiss.Kmeans(reduced.shape[1], num_clusters, niter=15, seed=SEED, verbose=False)
    kmeans.cp.min_points_per_centroid = 1  # silences a warning on stdout for tiny maps
    kmeans.train(reduced)
    empty = np.zeros(0, np.float32)
    describer = GlobalDescriber(
        mean, projection, np.array(kmeans.centroids), empty, np.zeros((0, 0), np.float32)
    )
    if min(options.global_dim, num_images // _MIN_IMAGES_PER_COMPONENT) < _MIN_GLOBAL_DIM:
        return describer  # too few photos to learn a projection from
    # a sample of the photos bounds memory and time on large maps
    step = max(1, num_images // (10 * options.global_dim))
    aggregated = np.array([describer.describe(local_of(i)) for i in range(0, num_images, step)])
    aggregated = aggregated[np.abs(aggregated).sum(1) > 0]
    dim = min(options.global_dim, len(aggregated) // _MIN_IMAGES_PER_COMPONENT)
    if dim < _MIN_GLOBAL_DIM or aggregated.shape[1] <= dim:
        return describer
    global_mean, global_projection = _whitening(aggregated, dim)
    return GlobalDescriber(mean, projection, describer.centroids, global_mean, global_projection)


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


def _whitening(rows: FloatArray, dim: int) -> tuple[FloatArray, FloatArray]:
    """Mean (D,) and projection (D, dim) to the leading components with unit variance."""
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean.astype(np.float32)
    if len(rows) >= rows.shape[1]:
        values, vectors = np.linalg.eigh(centred.T @ centred / len(rows))
    else:  # the small Gram matrix has the same leading components
        values, left = np.linalg.eigh(centred @ centred.T / len(rows))
        vectors = centred.T @ left / np.sqrt(np.maximum(values, 1e-12) * len(rows))
    values, vectors = values[::-1][:dim], vectors[:, ::-1][:, :dim]
    # eigh leaves the signs open
    signs = np.sign(vectors[np.abs(vectors).argmax(0), np.arange(vectors.shape[1])])
    # directions without variance hold noise only: they are not blown up
    scale = 1 / np.sqrt(np.maximum(values, 1e-4 * values[0]) + 1e-12)
    return mean.astype(np.float32), (vectors * signs * scale).astype(np.float32)


def _unit(rows: NDArray[np.floating[Any]]) -> FloatArray:
    norm = np.linalg.norm(rows, axis=-1, keepdims=True)
    return (rows / np.maximum(norm, 1e-12)).astype(np.float32)


def _nearest(rows: FloatArray, centroids: FloatArray) -> NDArray[np.int64]:
    distances = (centroids**2).sum(1) - 2 * rows @ centroids.T
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
