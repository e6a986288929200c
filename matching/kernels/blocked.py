"""Exact nearest neighbours in blocks of plain float32 products (torch): the CPU engine.

A block product may round differently at its edges, so it only proposes: it yields the largest
similarity of each group of 64 candidates. Every group whose maximum lies within the rounding error
of the best one is scored again, product by product in one fixed order, and that score decides. So
equal descriptors tie exactly and the lowest index wins, whatever the blocks and the threads.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

GROUP = 64  # candidates that share one stored maximum
_BLOCK = 1024  # rows and columns of one product, more of the one if there are few of the other
_AREA = _BLOCK * _BLOCK  # entries of one product; 4 MB stay in the cache
_SPANS = 32  # parts that the candidates are split in; each query searches one part twice
_BYTES = 24 << 20  # largest single temporary; few live at once, so all stay under 256 MB


@dataclass(frozen=True)
class DescriptorMap:
    """A descriptor map ready for search: finite, non-zero rows, scaled to about one.

    Attributes:
        values: The usable descriptors times ``factor``, (M, d) float32 contiguous.
        rows: Row of the original map of each, (M,) int64; None if all rows are usable.
        slots: Row of ``values`` of each original row, (N,) int64, -1 if unusable; None likewise.
        factor: Power of two, so that scaling is exact.
        size: Number of rows N of the original map.
        width: Pixels in a row of the map; N for a flat list.
    """

    values: Tensor
    rows: Tensor | None
    slots: Tensor | None
    factor: float
    size: int
    width: int


def prepare(maps: Sequence[Tensor]) -> list[DescriptorMap]:
    """Clean and scale maps, each (H, W, d) or (N, d) of any floating type."""
    return [_prepare_one(desc) for desc in maps]


def _prepare_one(desc: Tensor) -> DescriptorMap:
    flat = desc.reshape(-1, desc.shape[-1]).float().contiguous()
    size, width = len(flat), desc.shape[1] if desc.ndim == 3 else len(flat)
    # The largest magnitude of a row is NaN or infinite if any entry is, and zero if all are.
    largest = flat.abs().amax(1) if flat.numel() else flat.new_zeros(size)
    usable = torch.isfinite(largest) & (largest > 0)
    rows = slots = None
    if not bool(usable.all()):
        rows = torch.nonzero(usable)[:, 0]
        slots = torch.full((size,), -1, dtype=torch.int64, device=flat.device)
        slots[rows] = torch.arange(len(rows), device=flat.device)
        flat, largest = flat[rows], largest[rows]
    factor = 1.0
    if len(flat):
        exponent = int(torch.frexp(largest.max())[1])
        factor = 2.0 ** max(-126, min(126, -exponent))
    values = flat if factor == 1.0 else flat * factor
    return DescriptorMap(values, rows, slots, factor, size, width)


def search(
    sources: Sequence[DescriptorMap], asked: Tensor, targets: Sequence[DescriptorMap]
) -> tuple[Tensor, Tensor]:
    """Nearest neighbours of some rows of each source map in the target map of the same place.

    Args:
        sources: P prepared maps that hold the queries.
        asked: Rows of the source maps, (P, S) int64; -1 asks nothing.
        targets: P prepared maps.

    Returns:
        Row of the target map, (P, S) int64, -1 where there is none, and similarity, (P, S)
        float32, -inf there.
    """
    index = torch.full_like(asked, -1)
    score = asked.new_full(asked.shape, -torch.inf, dtype=torch.float32)
    for pair, (source, target) in enumerate(zip(sources, targets, strict=True)):
        # Seeds that walk to the same pixel are searched once.
        distinct, inverse = torch.unique(asked[pair], return_inverse=True)
        nearest, best, _ = _search_one(source, distinct, target, None)
        index[pair], score[pair] = nearest[inverse], best[inverse]
    return index, score


def check_return(
    sources: Sequence[DescriptorMap],
    asked: Tensor,
    targets: Sequence[DescriptorMap],
    found: Tensor,
    returned: Tensor,
    pixel_tol: float,
) -> tuple[Tensor, Tensor]:
    """Pixels that were found, and which of the asked ones the way back comes close enough to.

    Args:
        sources: P maps that hold the queries.
        asked: Rows of the source maps, (P, S) int64.
        targets: P maps.
        found: Rows of the target maps, (P, S) int64; -1 where there is none.
        returned: Rows of the source maps that are nearest to ``found``, (P, S); -1 likewise.
        pixel_tol: See `matching.reciprocal.seeded_matches`.

    Returns:
        Pixels x, y of the target maps, (P, S, 2) int64, (-1, -1) where there is none; kept, (P, S).
    """
    xy = torch.empty(*found.shape, 2, dtype=torch.int64, device=found.device)
    close = returned == asked
    for pair, (source, target) in enumerate(zip(sources, targets, strict=True)):
        xy[pair] = pixels_of(found[pair], max(target.width, 1))
        if pixel_tol > 0:
            width = max(source.width, 1)
            gap = pixels_of(returned[pair], width) - pixels_of(asked[pair], width)
            close[pair] = gap.square().sum(-1) < pixel_tol**2
    return xy, close & (returned >= 0)


def advance(
    here: Tensor, there: Tensor, ends0: Tensor, ends1: Tensor, new_there: Tensor, new_here: Tensor
) -> int:
    """End the walks whose pair repeats and take the others one round further, in place.

    Args:
        here: Where each walk is in map 0, (1, S) int64; -1 once it has ended. Becomes where it is
            after this round.
        there: Where it was in map 1 the round before, (1, S); -1 at first. Becomes ``new_there``.
        ends0: The rows of map 0 that walks have ended in, (1, S); -1 where none has.
        ends1: The same in map 1.
        new_there: Nearest to ``here``, (1, S); -1 where there is none.
        new_here: Nearest to ``new_there``, (1, S); -1 likewise.

    Returns:
        How many walks go on.
    """
    found = new_there >= 0
    done = found & ((new_there == there) | (new_here == here))
    ends0.copy_(torch.where(done, here, ends0))
    ends1.copy_(torch.where(done, new_there, ends1))
    here.copy_(torch.where(found & ~done, new_here, -1))
    there.copy_(new_there)
    return int((here >= 0).sum())


def pixels_of(rows: Tensor, width: int) -> Tensor:
    """Rows of a map (...) as pixels x, y (..., 2) int64; -1 becomes (-1, -1)."""
    x, y = torch.fmod(rows, width), torch.div(rows, width, rounding_mode="floor")
    return torch.stack((torch.where(rows < 0, -1, x), y), -1)


def search_both(
    map0: DescriptorMap, map1: DescriptorMap, second_best_px: float | None = None
) -> tuple[tuple[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]:
    """Nearest neighbours of all rows in both directions, and second-best similarities on request.

    Returns:
        For each direction index (N,) int64, similarity (N,) float32 and the best similarity
        farther than ``second_best_px`` pixels from the neighbour (N,) or None.
    """
    if second_best_px is not None:
        all0, all1 = (torch.arange(m.size, device=m.values.device) for m in (map0, map1))
        return (
            _search_one(map0, all0, map1, second_best_px),
            _search_one(map1, all1, map0, second_best_px),
        )
    forth, back = _both(map0.values, map1.values)
    return (*_expand(map0, map1, *forth), None), (*_expand(map1, map0, *back), None)


def _expand(
    source: DescriptorMap, target: DescriptorMap, index: Tensor, score: Tensor
) -> tuple[Tensor, Tensor]:
    """From rows of ``values`` to rows of the maps, and back to the scale of the input."""
    index = _original(target, index)
    score = score / source.factor / target.factor
    if source.rows is None:
        return index, score
    full_index = index.new_full((source.size,), -1)
    full_score = score.new_full((source.size,), -torch.inf)
    full_index[source.rows], full_score[source.rows] = index, score
    return full_index, full_score


def _original(target: DescriptorMap, index: Tensor) -> Tensor:
    if target.rows is None or not len(target.rows):
        return index
    return torch.where(index >= 0, target.rows[index.clamp(min=0)], -1)


def _search_one(
    source: DescriptorMap, asked: Tensor, target: DescriptorMap, second_best_px: float | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    index = asked.new_full((len(asked),), -1)
    score = source.values.new_full((len(asked),), -torch.inf)
    second = None if second_best_px is None else score.clone()
    slots = asked if source.slots is None else torch.where(asked < 0, -1, source.slots[asked])
    usable = torch.nonzero(slots >= 0)[:, 0]
    if len(usable) and len(target.values):
        queries = source.values[slots[usable]]
        apart = None if second_best_px is None else _Apart(target, second_best_px)
        nearest, best, other = _nearest(queries, target.values, apart)
        index[usable] = _original(target, nearest)
        score[usable] = best / source.factor / target.factor
        if second is not None and other is not None:
            second[usable] = other / source.factor / target.factor
    return index, score, second


class _Apart:
    """Which candidates, and which whole groups, lie farther from a pixel than a distance."""

    def __init__(self, target: DescriptorMap, distance_px: float) -> None:
        rows = target.rows
        if rows is None:
            rows = torch.arange(target.size, device=target.values.device)
        self.pixels = torch.stack((rows % target.width, rows // target.width), 1).float()
        self.squared = distance_px * distance_px
        padding = -len(rows) % GROUP
        groups = torch.cat((self.pixels, self.pixels[-1:].expand(padding, 2))).view(-1, GROUP, 2)
        self.low, self.high = groups.amin(1), groups.amax(1)  # boxes of the groups, (G, 2)

    def groups(self, nearest: Tensor) -> Tensor:
        """(G, Q): the whole group is far from the pixel of the nearest candidate."""
        centre = self.pixels[nearest]  # (Q, 2)
        gap = torch.maximum(self.low[:, None] - centre, centre - self.high[:, None]).clamp(min=0)
        return gap.square().sum(-1) > self.squared

    def members(self, candidates: Tensor, nearest: Tensor) -> Tensor:
        """(P, GROUP): candidate (P, GROUP) is far from nearest (P,)."""
        offset = self.pixels[candidates] - self.pixels[nearest][:, None]
        return offset.square().sum(-1) > self.squared


def _slack(queries: Tensor, candidates: Tensor) -> Tensor:
    """Largest gap between the proposed maximum of the winner's group and the best one, (Q,).

    A dot product of d terms in arithmetic with unit roundoff u is off by at most about
    d u |a| |b| (Higham, Accuracy and Stability of Numerical Algorithms, section 3.1), once for
    each of the two products that are compared, proposed and decided.
    """
    roundoff = 2.0**-24
    if candidates.is_cuda and torch.backends.cuda.matmul.allow_tf32:
        roundoff = 2.0**-11
    elif not candidates.is_cuda and torch.get_float32_matmul_precision() != "highest":
        roundoff = 2.0**-8  # the CPU may then multiply in bfloat16
    terms = 4 * (queries.shape[1] + 4) * roundoff
    return terms * queries.norm(dim=1) * candidates.norm(dim=1).max()


def _nearest(
    queries: Tensor, candidates: Tensor, apart: _Apart | None
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Nearest candidate of each query: index (Q,), similarity (Q,), second best (Q,) or None."""
    num_groups = -(-len(candidates) // GROUP)
    temporaries = 1 if apart is None else 6  # per stored maximum
    block = min(_BLOCK, len(candidates))
    step = max(1, min(_AREA // block, _BYTES // (4 * num_groups * temporaries)))
    index = torch.empty(len(queries), dtype=torch.int64, device=queries.device)
    score = torch.empty_like(queries[:, 0])
    second = None if apart is None else torch.empty_like(score)
    slack = _slack(queries, candidates)
    product = queries.new_empty(block * min(step, len(queries)))
    for start in range(0, len(queries), step):
        part = slice(start, start + step)
        asked = queries[part]
        maxima = _group_maxima(asked, candidates, product)  # (G, q)
        threshold = maxima.amax(0) - slack[part]
        index[part], score[part] = _decide(asked, candidates, maxima >= threshold)
        if second is not None and apart is not None:
            far = apart.groups(index[part])
            threshold = maxima.masked_fill(~far, -torch.inf).amax(0) - slack[part]
            second[part] = _decide(asked, candidates, maxima >= threshold, apart, index[part])[1]
    return index, score, second


def _group_maxima(queries: Tensor, candidates: Tensor, memory: Tensor) -> Tensor:
    """Largest product of each query with each group of candidates, (G, Q)."""
    columns = queries.T.contiguous()
    maxima = queries.new_empty(-(-len(candidates) // GROUP), len(queries))
    for start in range(0, len(candidates), _BLOCK):
        block = candidates[start : start + _BLOCK]
        product = memory[: len(block) * len(queries)].view(len(block), len(queries))
        torch.mm(block, columns, out=product)
        whole = len(block) // GROUP
        first = start // GROUP
        if whole:
            grouped = product[: whole * GROUP].view(whole, GROUP, -1)
            torch.amax(grouped, 1, out=maxima[first : first + whole])
        if whole * GROUP < len(block):
            torch.amax(product[whole * GROUP :], 0, out=maxima[first + whole])
    return maxima


def _decide(
    queries: Tensor,
    candidates: Tensor,
    proposed: Tensor,
    apart: _Apart | None = None,
    nearest: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """Best candidate of each query within the proposed groups (G, Q), scored in a fixed order."""
    query, group = torch.nonzero(proposed.T, as_tuple=True)
    index = torch.full((len(queries),), len(candidates), device=queries.device)
    score = queries.new_full((len(queries),), -torch.inf)
    member = torch.arange(GROUP, device=queries.device)
    step = max(1, _BYTES // (4 * GROUP * queries.shape[1]))
    for start in range(0, len(query), step):
        asked = query[start : start + step]
        rows = group[start : start + step, None] * GROUP + member  # (p, GROUP)
        outside = rows >= len(candidates)
        rows = rows.clamp(max=len(candidates) - 1)
        scores = (candidates[rows].mul_(queries[asked, None])).sum(-1)
        if apart is not None and nearest is not None:
            outside |= ~apart.members(rows, nearest[asked])
        scores.masked_fill_(outside, -torch.inf)
        best = scores.amax(1)
        first = torch.where(scores == best[:, None], rows, len(candidates)).amin(1)
        # Groups of one query may be split between two steps: keep what is there unless beaten.
        before = score.clone()
        score.scatter_reduce_(0, asked, best, "amax")
        index = torch.where(score > before, len(candidates), index)
        wins = best == score[asked]
        index.scatter_reduce_(0, asked[wins], first[wins], "amin")
    return torch.where(torch.isneginf(score), -1, index), score


def _both(values0: Tensor, values1: Tensor) -> tuple[tuple[Tensor, Tensor], tuple[Tensor, Tensor]]:
    """Nearest neighbours in both directions; every block product serves both."""
    if not len(values0) or not len(values1):
        return tuple(
            (
                torch.full((len(v),), -1, device=v.device),
                v.new_full((len(v),), -torch.inf),
            )
            for v in (values0, values1)
        )  # type: ignore[return-value]
    block0 = _AREA // min(_BLOCK, len(values1))
    block1 = _AREA // min(_BLOCK, len(values0))
    # One maximum per query and span of candidates; spans grow so that the maxima stay small.
    span0 = _span(len(values0), len(values1), block0)
    span1 = _span(len(values1), len(values0), block1)
    maxima01 = values0.new_full((-(-len(values1) // span1), len(values0)), -torch.inf)
    maxima10 = values0.new_full((-(-len(values0) // span0), len(values1)), -torch.inf)
    memory = values0.new_empty(min(block0, len(values0)) * min(block1, len(values1)))
    for start0 in range(0, len(values0), block0):
        columns = values0[start0 : start0 + block0].T.contiguous()
        part0 = slice(start0, start0 + columns.shape[1])
        for start1 in range(0, len(values1), block1):
            block = values1[start1 : start1 + block1]
            part1 = slice(start1, start1 + len(block))
            product = memory[: len(block) * columns.shape[1]].view(len(block), -1)
            torch.mm(block, columns, out=product)
            kept01, kept10 = maxima01[start1 // span1, part0], maxima10[start0 // span0, part1]
            torch.maximum(kept01, product.amax(0), out=kept01)
            torch.maximum(kept10, product.amax(1), out=kept10)
    return _resolve(values0, values1, maxima01, span1), _resolve(values1, values0, maxima10, span0)


def _span(num_candidates: int, num_queries: int, block: int) -> int:
    spans = max(1, min(_SPANS, _BYTES // (4 * num_queries)))
    return -(-num_candidates // (spans * block)) * block


def _resolve(
    queries: Tensor, candidates: Tensor, maxima: Tensor, span: int
) -> tuple[Tensor, Tensor]:
    """Search each query again in the spans of candidates that may hold its neighbour."""
    threshold = maxima.amax(0) - _slack(queries, candidates)
    index = torch.full((len(queries),), -1, device=queries.device)
    score = queries.new_full((len(queries),), -torch.inf)
    for number, kept in enumerate(maxima):
        asked = torch.nonzero(kept >= threshold)[:, 0]
        if not len(asked):
            continue
        start = number * span
        nearest, best, _ = _nearest(queries[asked], candidates[start : start + span], None)
        better = best > score[asked]  # spans ascend, so equals keep the lower index
        index[asked[better]] = nearest[better] + start
        score[asked[better]] = best[better]
    return index, score
