"""Reciprocal nearest neighbours between dense descriptor maps, exact and fast.

Similarity is the dot product. Every function gives the answer of float32 arithmetic: faster
arithmetic (half-precision tensor cores on a GPU, blocked products on a CPU) only proposes
candidates, and all those within its error bound are scored again in float32, which decides. Equal
similarities go to the lowest index. Descriptors that are zero or hold a NaN or an infinity never
match. Maps of any norm and scale are accepted.

Indices and integer pixels here count grid cells from 0: row ``i`` of a (H, W, d) map is the pixel
``x = i % W``, ``y = i // W``. Only `refine_subpixel` and `dense_matches` return image coordinates,
where the centre of the top-left pixel is (0.5, 0.5).

The scheme from seeds is that of MASt3R (Leroy, Cabon, Revaud, "Grounding image matching in 3D with
MASt3R", ECCV 2024, section 3.3).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from types import ModuleType

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from matching.errors import InputError
from matching.kernels import blocked
from matching.peaks import refine_subpixel

__all__ = [
    "DenseMatches",
    "Neighbours",
    "SeededMatches",
    "dense_matches",
    "iterated_matches",
    "nearest_neighbours",
    "nearest_neighbours_many",
    "refine_subpixel",
    "seeded_matches",
]


@dataclass(frozen=True)
class Neighbours:
    """Nearest neighbours between map 0 (N0 descriptors) and map 1 (N1), in both directions.

    Attributes:
        index01: Row of map 1 nearest to each row of map 0, (N0,) int64; -1 where there is none.
        index10: The same from map 1 to map 0, (N1,) int64.
        similarity01: Dot product with that neighbour, (N0,) float32; -inf where there is none.
        similarity10: The same from map 1 to map 0, (N1,).
        second01: Largest similarity farther than ``second_best_px`` from the neighbour, (N0,)
            float32, -inf where there is none; None if not asked for. A small gap to
            ``similarity01`` means that the neighbour is ambiguous.
        second10: The same from map 1 to map 0, (N1,) or None.
    """

    index01: Tensor
    index10: Tensor
    similarity01: Tensor
    similarity10: Tensor
    second01: Tensor | None = None
    second10: Tensor | None = None

    def mutual(self) -> tuple[Tensor, Tensor]:
        """Rows (M,) of map 0, ascending, and of map 1 that are each other's neighbour."""
        here = torch.arange(len(self.index01), device=self.index01.device)
        if not len(self.index10):
            return here[:0], here[:0]
        back = self.index10[self.index01.clamp(min=0)]
        rows = torch.nonzero((self.index01 >= 0) & (back == here))[:, 0]
        return rows, self.index01[rows]


@dataclass(frozen=True)
class SeededMatches:
    """The matches of the given seeds, in their order.

    Attributes:
        xy1: Pixel in image 1 nearest to each seed, (S, 2) int64; (-1, -1) where there is none.
        similarity: Dot product, (S,) float32; -inf where there is none.
        kept: Whether the way back from image 1 ends close enough to the seed, (S,) bool.
    """

    xy1: Tensor
    similarity: Tensor
    kept: Tensor


@dataclass(frozen=True)
class DenseMatches:
    """Mutual nearest neighbours in image coordinates, best first.

    Attributes:
        keypoints0: (M, 2) float32 x, y in map 0; centre of the top-left pixel at (0.5, 0.5).
        keypoints1: (M, 2) float32 in map 1.
        similarity: Dot product of the two descriptors, (M,) float32.
        scores: What they are sorted by, (M,) float32: the geometric mean of the two confidences,
            or the similarity if there are none.
    """

    keypoints0: Tensor
    keypoints1: Tensor
    similarity: Tensor
    scores: Tensor


def nearest_neighbours(
    desc0: Tensor, desc1: Tensor, *, second_best_px: float | None = None
) -> Neighbours:
    """Nearest neighbour of every descriptor, both ways, without storing N0 x N1 similarities.

    Args:
        desc0: (H0, W0, d) or (N0, d), any floating type.
        desc1: (H1, W1, d) or (N1, d), on the same device.
        second_best_px: Also find the best similarity at pixels farther than this distance from
            the neighbour (pixels of the searched map; a flat list is one row of pixels).

    Returns:
        Both directions; ``.mutual()`` gives the reciprocal pairs.

    Raises:
        matching.errors.InputError: The shapes, types or devices do not go together.
    """
    return nearest_neighbours_many([desc0], [desc1], second_best_px=second_best_px)[0]


def nearest_neighbours_many(
    descs0: Sequence[Tensor], descs1: Sequence[Tensor], *, second_best_px: float | None = None
) -> list[Neighbours]:
    """`nearest_neighbours` of several pairs, each of its own sizes.

    Args:
        descs0: P maps, (H0, W0, d) or (N0, d).
        descs1: P maps; pair i is ``descs0[i]`` with ``descs1[i]``.
        second_best_px: As in `nearest_neighbours`.
    """
    _check_maps(descs0, descs1)
    if second_best_px is not None and not second_best_px >= 0:
        raise InputError(f"second_best_px must be >= 0 pixels, got {second_best_px}")
    if not descs0:
        return []
    engine = _engine(descs0[0])
    results = []
    for desc0, desc1 in zip(descs0, descs1, strict=True):
        map0, map1 = engine.prepare([desc0, desc1])
        forth, back = engine.search_both(map0, map1, second_best_px)
        results.append(Neighbours(forth[0], back[0], forth[1], back[1], forth[2], back[2]))
    return results


def seeded_matches(
    descs0: Sequence[Tensor],
    descs1: Sequence[Tensor],
    seeds: Sequence[Tensor],
    *,
    pixel_tol: float = 0.0,
) -> list[SeededMatches]:
    """Match given pixels of image 0, each checked by the way back; all pairs in one batch.

    Args:
        descs0: P maps (H0, W0, d).
        descs1: P maps (H1, W1, d).
        seeds: P integer tensors (S, 2): pixels x, y of map 0, counted from 0.
        pixel_tol: A seed is kept if it returns closer than this to itself (Euclidean, pixels,
            strict); with 0 it has to return exactly to itself.

    Returns:
        One result per pair, aligned with its seeds.

    Raises:
        matching.errors.InputError: Shapes do not go together, or a seed lies outside its map.
    """
    _check_maps(descs0, descs1, spatial=True)
    if len(seeds) != len(descs0):
        raise InputError(f"{len(seeds)} seed lists for {len(descs0)} pairs of maps")
    if not pixel_tol >= 0:
        raise InputError(f"pixel_tol must be >= 0 pixels, got {pixel_tol}")
    if not descs0:
        return []
    device = descs0[0].device
    xy0 = _stack_seeds(seeds, descs0)  # (P, S, 2), padded with zeros
    asked = xy0[..., 1] * _widths(descs0, xy0.device) + xy0[..., 0]
    counts = [len(xy) for xy in seeds]
    if min(counts) < max(counts):
        for pair, count in enumerate(counts):
            asked[pair, count:] = -1
    # The GPU is never waited for from here on: it needs hardly longer than the launches take.
    asked = asked.to(device, non_blocking=device.type == "cuda")
    engine = _engine(descs0[0])
    maps = engine.prepare([*descs0, *descs1])
    maps0, maps1 = maps[: len(descs0)], maps[len(descs0) :]
    rows1, similarity = engine.search(maps0, asked, maps1)
    returned, _ = engine.search(maps1, rows1, maps0)
    xy1, kept = engine.check_return(maps0, asked, maps1, rows1, returned, pixel_tol)
    return [
        SeededMatches(xy1[pair, :count], similarity[pair, :count], kept[pair, :count])
        for pair, count in enumerate(counts)
    ]


def iterated_matches(
    desc0: Tensor, desc1: Tensor, *, step: int = 8, max_rounds: int = 10
) -> tuple[Tensor, Tensor]:
    """Mutual nearest neighbours reached from a grid of seeds, walking to and fro.

    From seed u: v = neighbour of u, u' = neighbour of v, and so on until a pair repeats. Each
    step cannot lower the similarity, so every walk ends in a mutual pair (MASt3R, section 3.3);
    walks of more than ``max_rounds`` rounds are dropped.

    Args:
        desc0: (H0, W0, d).
        desc1: (H1, W1, d).
        step: Pixels between seeds; the first seed is at ``step // 2`` in x and y.
        max_rounds: Rounds (there and back) after which a walk is given up.

    Returns:
        Pixels of image 0 and of image 1, (M, 2) int64 x, y counted from 0, without duplicates,
        in the order of image 0's rows.
    """
    _check_maps([desc0], [desc1], spatial=True)
    if step < 1 or max_rounds < 1:
        raise InputError(f"step and max_rounds must be >= 1, got {step} and {max_rounds}")
    engine = _engine(desc0)
    map0, map1 = engine.prepare([desc0, desc1])
    height, width = desc0.shape[:2]
    first = step // 2
    y = torch.arange(min(first, height), height, step, device=desc0.device)
    x = torch.arange(min(first, width), width, step, device=desc0.device)
    here = (y[:, None] * width + x[None, :]).reshape(1, -1)
    there, ends0, ends1 = (torch.full_like(here, -1) for _ in range(3))
    for _ in range(max_rounds):
        new_there, _ = engine.search([map0], here, [map1])
        new_here, _ = engine.search([map1], new_there, [map0])
        if not engine.advance(here, there, ends0, ends1, new_there, new_here):
            break
    # The ends are mutual pairs, so each pixel of image 0 has one partner. Behind the last pixel is
    # the place of walks without an end.
    num_rows = height * width
    partners = here.new_full((num_rows + 1,), -1)
    partners.scatter_(0, torch.where(ends0 < 0, num_rows, ends0)[0], ends1[0])
    rows0 = torch.nonzero(partners[:num_rows] >= 0)[:, 0]
    rows1 = partners[rows0]
    return blocked.pixels_of(rows0, width), blocked.pixels_of(rows1, desc1.shape[1])


def dense_matches(
    desc0: Tensor,
    desc1: Tensor,
    confidence0: Tensor | None = None,
    confidence1: Tensor | None = None,
    *,
    max_matches: int | None = None,
    min_confidence: float = 0.0,
    border_px: int = 0,
    max_ratio: float | None = None,
    ratio_distance_px: float = 8.0,
    subpixel: bool = False,
) -> DenseMatches:
    """All mutual nearest neighbours of two descriptor maps as image matches, best first.

    Args:
        desc0: (H0, W0, d).
        desc1: (H1, W1, d).
        confidence0: Confidence of each descriptor, (H0, W0), larger is surer; or None.
        confidence1: The same for image 1, (H1, W1); give both or neither.
        max_matches: Keep only so many of the best.
        min_confidence: Drop matches whose confidence (geometric mean) is below this.
        border_px: Drop matches closer than so many pixels to an image border.
        max_ratio: Keep a match only if, both ways, the angle to the neighbour is below this
            fraction of the angle to the best candidate farther than ``ratio_distance_px``. For
            unit-norm descriptors.
        ratio_distance_px: Pixels; nearer candidates belong to the same match.
        subpixel: Refine with `refine_subpixel`.

    Returns:
        The matches on the device of the maps.

    Raises:
        matching.errors.InputError: Shapes do not go together.
    """
    _check_maps([desc0], [desc1], spatial=True)
    if (confidence0 is None) != (confidence1 is None):
        raise InputError("give the confidences of both maps, or neither")
    for name, confidence, desc in (
        ("confidence0", confidence0, desc0),
        ("confidence1", confidence1, desc1),
    ):
        if confidence is not None and confidence.shape != desc.shape[:2]:
            raise InputError(
                f"{name} must be {tuple(desc.shape[:2])} as its map, got {tuple(confidence.shape)}"
            )
    found = nearest_neighbours(
        desc0, desc1, second_best_px=None if max_ratio is None else ratio_distance_px
    )
    rows0, rows1 = found.mutual()
    similarity = found.similarity01[rows0]
    xy0, xy1 = blocked.pixels_of(rows0, desc0.shape[1]), blocked.pixels_of(rows1, desc1.shape[1])
    keep = _inside(xy0, desc0, border_px) & _inside(xy1, desc1, border_px)
    scores = similarity
    if confidence0 is not None and confidence1 is not None:
        scores = (confidence0.reshape(-1)[rows0] * confidence1.reshape(-1)[rows1]).float().sqrt()
        keep &= scores >= min_confidence
    if max_ratio is not None and found.second01 is not None and found.second10 is not None:
        second = torch.maximum(found.second01[rows0], found.second10[rows1])
        keep &= _angle(similarity) < max_ratio * _angle(second)
    kept = torch.nonzero(keep)[:, 0]
    order = torch.argsort(scores[kept], descending=True, stable=True)[:max_matches]
    kept = kept[order]
    xy0, xy1 = xy0[kept], xy1[kept]
    if subpixel:
        keypoints0, keypoints1 = refine_subpixel(desc0, desc1, xy0, xy1)
    else:
        keypoints0, keypoints1 = xy0.float() + 0.5, xy1.float() + 0.5
    return DenseMatches(keypoints0, keypoints1, similarity[kept], scores[kept])


def _engine(desc: Tensor) -> ModuleType:
    """The module that searches on this device."""
    if desc.is_cuda:
        from matching.kernels import tensor_core

        if desc.shape[-1] <= tensor_core.MAX_DIMENSION:
            return tensor_core
    return blocked


def _widths(descs: Sequence[Tensor], device: torch.device) -> int | Tensor:
    """Pixels in a row of each map: one number if all are alike, else (P, 1)."""
    widths = [max(desc.shape[1], 1) for desc in descs]
    if len(set(widths)) == 1:
        return widths[0]
    return torch.tensor(widths, device=device)[:, None]


def _inside(xy: Tensor, desc: Tensor, border_px: int) -> Tensor:
    size = torch.tensor([desc.shape[1], desc.shape[0]], device=xy.device)
    return ((xy >= border_px) & (xy < size - border_px)).all(1)


def _angle(similarity: Tensor) -> Tensor:
    return torch.arccos(similarity.clamp(-1.0, 1.0))


def _check_maps(
    descs0: Sequence[Tensor], descs1: Sequence[Tensor], *, spatial: bool = False
) -> None:
    if len(descs0) != len(descs1):
        raise InputError(f"{len(descs0)} maps of image 0 and {len(descs1)} of image 1: not pairs")
    shapes = (3,) if spatial else (2, 3)
    for desc in (*descs0, *descs1):
        if desc.ndim not in shapes or not desc.is_floating_point() or desc.shape[-1] == 0:
            wanted = "(H, W, d)" if spatial else "(H, W, d) or (N, d)"
            raise InputError(
                f"a descriptor map must be a floating-point tensor {wanted}, "
                f"got {tuple(desc.shape)} of {desc.dtype}"
            )
    kinds = {(desc.shape[-1], desc.device) for desc in (*descs0, *descs1)}
    if len(kinds) > 1:
        raise InputError(
            "all descriptor maps must have one dimension and one device, got "
            + ", ".join(sorted(f"{dimension} on {device}" for dimension, device in kinds))
        )


def _stack_seeds(seeds: Sequence[Tensor], descs: Sequence[Tensor]) -> Tensor:
    """The checked seeds of all pairs, (P, S, 2) int64 where they are, padded with zeros."""
    for xy in seeds:
        if xy.ndim != 2 or xy.shape[1] != 2 or xy.is_floating_point():
            raise InputError(
                f"seeds must be integer x, y (S, 2), got {tuple(xy.shape)} of {xy.dtype}"
            )
    stacked = pad_sequence(list(seeds), batch_first=True).long()
    sizes = torch.tensor([[desc.shape[1], desc.shape[0]] for desc in descs]).to(stacked.device)
    # Element by element: a minimum over each list wakes all threads of a CPU for a few numbers.
    if bool(((stacked < 0) | (stacked >= sizes[:, None])).any()):
        for pair, xy in enumerate(seeds):  # it may be the padding of a list without seeds
            if bool(((xy < 0) | (xy >= sizes[pair])).any()):
                width, height = sizes[pair].tolist()
                raise InputError(f"a seed of pair {pair} lies outside its {width} x {height} map")
    return stacked
