"""Exact nearest neighbours on a GPU: half-precision tensor cores propose, float32 decides.

The kernels and the reasons are in `group_maxima` and `decide`; here is what calls them, with the
same functions as the CPU engine `blocked`.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
import triton
from torch import Tensor

from matching.kernels import decide as second
from matching.kernels import group_maxima as first

MAX_DIMENSION = 64  # of a descriptor; similarities of halves could overflow beyond
_BYTES = 1 << 30  # for the stored maxima of one direction; larger searches go in chunks
_PACK_ROWS = 64  # rows per program when packing


@dataclass
class _Pack:
    """Maps that are searched together, one after the other in common arrays.

    Attributes:
        maps: The maps as given, (N, d) float32 contiguous.
        table: Address, number of rows and first packed row of each map, (M, 3) int64.
        stats: Largest magnitude, norm and rounding error of each map, (M, 3) int32 float bits.
        values: Scaled descriptors, (R, pitch) float32; zeros where unusable.
        half: The same in half precision, (R, K) with K a power of two.
        norms: Norm of each half-precision row, (R,) float32.
        errors: Norm of what half precision drops, (R,) float32; -1 for an unusable row.
        pairs: Pair lists already on the device.
    """

    maps: list[Tensor]
    table: Tensor
    stats: Tensor
    values: Tensor
    half: Tensor
    norms: Tensor
    errors: Tensor
    pairs: dict[tuple[tuple[int, int], ...], Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class DescriptorMap:
    """One map of a pack: its number, rows and pixels per row."""

    pack: _Pack
    number: int
    size: int
    width: int


def prepare(maps: Sequence[Tensor]) -> list[DescriptorMap]:
    """Pack maps for searches among them, each (H, W, d) or (N, d) of any floating type."""
    dim = maps[0].shape[-1]
    device = maps[0].device
    flat = [desc.reshape(-1, dim).float().contiguous() for desc in maps]
    sizes = [len(desc) for desc in flat]
    padded = [_pad(size, first.SPAN) for size in sizes]
    starts = [sum(padded[:number]) for number in range(len(flat))]
    rows, pitch, k = max(sum(padded), first.SPAN), _pad(dim, 4), max(16, _power_of_two(dim))
    fields = [
        [desc.data_ptr(), size, at] for desc, size, at in zip(flat, sizes, starts, strict=True)
    ]
    pack = _Pack(
        maps=flat,
        table=torch.tensor(fields).to(device, non_blocking=True),
        stats=torch.zeros(len(flat), 3, dtype=torch.int32, device=device),
        values=torch.empty(rows, pitch, device=device),
        half=torch.empty(rows, k, dtype=torch.float16, device=device),
        norms=torch.empty(rows, device=device),
        errors=torch.empty(rows, device=device),
    )
    grid = (max(padded, default=0) // _PACK_ROWS, len(flat))
    if grid[0]:
        first.measure[grid](pack.table, pack.stats, DIM=dim, K=k, ROWS=_PACK_ROWS)
        first.pack[grid](
            pack.table, pack.stats, pack.values, pack.half, pack.norms, pack.errors,
            DIM=dim, PITCH=pitch, K=k, ROWS=_PACK_ROWS,
        )  # fmt: skip
    widths = [
        desc.shape[1] if desc.ndim == 3 else size for desc, size in zip(maps, sizes, strict=True)
    ]
    return [
        DescriptorMap(pack, number, size, max(width, 1))
        for number, (size, width) in enumerate(zip(sizes, widths, strict=True))
    ]


def search(
    sources: Sequence[DescriptorMap], rows: Sequence[Tensor], targets: Sequence[DescriptorMap]
) -> list[tuple[Tensor, Tensor]]:
    """Nearest neighbours of some rows of each source map in the target map of the same place.

    All pairs go in one launch; the maps must come from one call of `prepare`.

    Args:
        sources: P maps that hold the queries.
        rows: P tensors (S,) int64: rows of the source maps; -1 asks nothing.
        targets: P maps.

    Returns:
        P pairs: row of the target map, (S,) int64, -1 where there is none, and similarity, (S,)
        float32, -inf there.
    """
    pack = sources[0].pack
    counts = [len(asked) for asked in rows]
    places = _pad(max(counts), first.TILE_COLUMNS)
    asked = torch.full((len(rows), places), -1, dtype=torch.int32, device=pack.half.device)
    if len(set(counts)) == 1:
        asked[:, : counts[0]] = torch.stack(list(rows))
    else:
        for pair, numbers in enumerate(rows):
            asked[pair, : counts[pair]] = numbers
    indices = torch.full_like(asked, -1)
    scores = torch.full(asked.shape, -torch.inf, device=asked.device)
    num_rows = max(_pad(target.size, first.SPAN) for target in targets)
    if places and num_rows:
        per_place = num_rows // first.SPAN * first.TILE_ROWS * 2
        step = max(1, _BYTES // (per_place * places))  # pairs at once, else slices of places
        slice_places = max(first.TILE_COLUMNS, _BYTES // per_place)
        slice_places -= slice_places % first.TILE_COLUMNS
        for start in range(0, len(rows), step):
            some = slice(start, start + step)
            pairs = _pairs(pack, targets[some], sources[some])
            for place in range(0, places, slice_places):
                part = slice(place, min(place + slice_places, places))
                _search_columns(
                    pack,
                    pairs,
                    asked[some, part],
                    indices[some, part],
                    scores[some, part],
                    num_rows,
                )
    scales = _scales(pack)
    numbers0 = [source.number for source in sources]
    numbers1 = [target.number for target in targets]
    scores = scores / scales[numbers0, None] / scales[numbers1, None]
    indices = indices.long()
    return [
        (index[:count], score[:count])
        for index, score, count in zip(indices, scores, counts, strict=True)
    ]


def search_both(
    map0: DescriptorMap, map1: DescriptorMap, second_best_px: float | None = None
) -> tuple[tuple[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor, Tensor | None]]:
    """Nearest neighbours of all rows in both directions, and second-best similarities on request.

    Returns:
        For each direction index (N,) int64, similarity (N,) float32 and the best similarity
        farther than ``second_best_px`` pixels from the neighbour (N,) or None.
    """
    found = _sweep(map0, map1, None, 0.0)
    apart = None if second_best_px is None else _sweep(map0, map1, found, second_best_px)
    scales = _scales(map0.pack)
    scale = scales[map0.number], scales[map1.number]
    results = []
    for number, (index, score) in enumerate(found):
        others = None if apart is None else apart[number][1] / scale[0] / scale[1]
        results.append((index.long(), score / scale[0] / scale[1], others))
    return results[0], results[1]


def _sweep(
    map0: DescriptorMap,
    map1: DescriptorMap,
    winners: list[tuple[Tensor, Tensor]] | None,
    distance_px: float,
) -> list[tuple[Tensor, Tensor]]:
    """Both directions in one pass over all tiles, in chunks of rows that fit the memory.

    Returns:
        Index (N,) int32 and scaled score (N,) of each map's rows; with ``winners`` (what a first
        sweep gave) of the best candidate farther than the distance from each.
    """
    pack = map0.pack
    device = pack.half.device
    results = [
        (
            torch.full((size,), -1, dtype=torch.int32, device=device),
            torch.full((size,), -torch.inf, device=device),
        )
        for size in (map0.size, map1.size)
    ]
    if not map0.size or not map1.size:
        return results
    places = _pad(map1.size, first.TILE_COLUMNS)
    all_rows = _pad(map0.size, first.SPAN)
    spans = max(1, min(all_rows, _BYTES // (places // first.GROUP * 2)) // first.SPAN)
    rows = spans * first.SPAN
    half = torch.float16
    row_maxima = torch.empty(rows * places // first.GROUP, dtype=half, device=device)
    column_maxima = torch.empty(spans * places * first.TILE_ROWS, dtype=half, device=device)
    tops = torch.empty(spans * places, dtype=half, device=device)
    pairs = _pairs(pack, [map0], [map1])
    squared = distance_px * distance_px
    for start in range(0, all_rows, rows):
        here = min(rows, all_rows - start)
        first.group_maxima[(places // first.TILE_COLUMNS, here // first.SPAN, 1)](
            pack.half, pack.table, pairs, pairs, row_maxima, column_maxima, tops,
            start, rows, places, 0,
            K=pack.half.shape[1], BOTH=True, PACKED=_packed(device), num_warps=4, num_stages=3,
        )  # fmt: skip
        for columns in (False, True):
            index, score = results[columns]
            others = index if winners is None else winners[columns][0]
            queries = first.COLUMN_QUERIES if columns else first.ROW_QUERIES
            second.decide[((places if columns else here) // queries, 1)](
                pack.values, pack.norms, pack.errors, pack.table, pack.stats, pairs, pairs,
                column_maxima if columns else row_maxima, tops, others, index, score,
                start, rows, places, 0, 0, (map0 if columns else map1).width, squared,
                PITCH=pack.values.shape[1], K=pack.half.shape[1], COLUMNS=columns, ASKED=False,
                APART=winners is not None, num_warps=1,
            )  # fmt: skip
    return results


def _search_columns(
    pack: _Pack, pairs: Tensor, asked: Tensor, indices: Tensor, scores: Tensor, num_rows: int
) -> None:
    """Fill in the neighbours of the asked rows (P, places) among all rows of the other maps."""
    num_pairs, places = asked.shape
    spans = num_rows // first.SPAN
    half, device = torch.float16, pack.half.device
    maxima = torch.empty(num_pairs * spans * places * first.TILE_ROWS, dtype=half, device=device)
    tops = torch.empty(num_pairs * spans * places, dtype=half, device=device)
    k, pitch, stride = pack.half.shape[1], pack.values.shape[1], asked.stride(0)
    first.group_maxima[(places // first.TILE_COLUMNS, spans, num_pairs)](
        pack.half, pack.table, pairs, asked, maxima, maxima, tops,
        0, num_rows, places, stride,
        K=k, BOTH=False, PACKED=_packed(device), num_warps=4, num_stages=3,
    )  # fmt: skip
    second.decide[(places // first.COLUMN_QUERIES, num_pairs)](
        pack.values, pack.norms, pack.errors, pack.table, pack.stats, pairs, asked,
        maxima, tops, indices, indices, scores,
        0, num_rows, places, places, stride, 1, 0.0,
        PITCH=pitch, K=k, COLUMNS=True, ASKED=True, APART=False, num_warps=1,
    )  # fmt: skip


def _pairs(pack: _Pack, lefts: Sequence[DescriptorMap], rights: Sequence[DescriptorMap]) -> Tensor:
    """Numbers of the maps whose rows are searched and of those that ask, (P, 2) int32."""
    key = tuple((left.number, right.number) for left, right in zip(lefts, rights, strict=True))
    if key not in pack.pairs:
        pack.pairs[key] = torch.tensor(key, dtype=torch.int32).to(pack.half.device)
    return pack.pairs[key]


def _scales(pack: _Pack) -> Tensor:
    """The powers of two by which the maps were multiplied, (M,); see `group_maxima.scale_of`."""
    exponent = (256 - (pack.stats[:, 0] >> 23)).clamp(1, 254)
    return (exponent << 23).view(torch.float32)


def _packed(device: torch.device) -> bool:
    """Whether the GPU takes the maximum of two halves at once (NVIDIA, Ampere or newer)."""
    if device.type != "cuda" or torch.version.hip is not None:
        return False
    return torch.cuda.get_device_capability(device) >= (8, 0)


def _pad(count: int, multiple: int) -> int:
    return -(-count // multiple) * multiple


def _power_of_two(count: int) -> int:
    return int(triton.next_power_of_2(count))
