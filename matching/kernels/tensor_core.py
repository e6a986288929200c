"""Exact nearest neighbours on a GPU: half-precision tensor cores propose, float32 decides.

The kernels and the reasons are in `group_maxima` and `decide`; here is what calls them, with the
same functions as the CPU engine `blocked`.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import triton
from torch import Tensor

from matching.kernels import decide as second
from matching.kernels import group_maxima as first

MAX_DIMENSION = 64  # of a descriptor; similarities of halves could overflow beyond
_FLOAT = torch.float32
_BYTES = 5 << 28  # for the stored maxima of one direction; larger searches go in chunks
_PACK_ROWS = 64  # rows per program when packing
_CHECKED = 256  # ways back, or walks, per program


@dataclass
class _Pack:
    """Maps that are searched together, one after the other in common arrays.

    Attributes:
        maps: The maps as given, (N, d) float32 contiguous.
        table: Address, number of rows and first packed row of each map, (M, 3) int64.
        stats: Largest magnitude, norm and rounding error of each map, (M, 3) int32 float bits.
        widths: Pixels in a row of each map, (M,) int64.
        values: Scaled descriptors, (R, pitch) float32; zeros where unusable.
        half: The same in half precision, (R, K) with K a power of two.
        norms: Norm of each half-precision row, (R,) float32.
        errors: Norm of what half precision drops, (R,) float32; -1 for an unusable row.
    """

    maps: list[Tensor]
    table: Tensor
    stats: Tensor
    widths: Tensor
    values: Tensor
    half: Tensor
    norms: Tensor
    errors: Tensor


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
    widths = [
        max(desc.shape[1] if desc.ndim == 3 else size, 1)
        for desc, size in zip(maps, sizes, strict=True)
    ]
    # One upload: table, widths, and behind them zeros for the statistics (each launch costs time).
    fields = [
        number
        for desc, size, at in zip(flat, sizes, starts, strict=True)
        for number in (desc.data_ptr(), size, at)
    ]
    zeros = [0] * (2 * len(flat))
    uploaded = torch.tensor(fields + widths + zeros).to(device, non_blocking=True)
    norms_and_errors = torch.empty(2, rows, device=device)
    pack = _Pack(
        maps=flat,
        table=uploaded[: 3 * len(flat)].view(-1, 3),
        stats=uploaded[4 * len(flat) :].view(torch.int32)[: 3 * len(flat)].view(-1, 3),
        widths=uploaded[3 * len(flat) : 4 * len(flat)],
        values=torch.empty(rows, pitch, device=device),
        half=torch.empty(rows, k, dtype=torch.float16, device=device),
        norms=norms_and_errors[0],
        errors=norms_and_errors[1],
    )
    grid = (max(padded, default=0) // _PACK_ROWS, len(flat))
    if grid[0]:
        aligned = all(desc.data_ptr() % 16 == 0 for desc in flat)
        first.measure[grid](pack.table, pack.stats, DIM=dim, K=k, ROWS=_PACK_ROWS, ALIGNED=aligned)
        first.pack[grid](
            pack.table, pack.stats, pack.values, pack.half, pack.norms, pack.errors,
            DIM=dim, PITCH=pitch, K=k, ROWS=_PACK_ROWS, ALIGNED=aligned, SPAN=first.SPAN,
        )  # fmt: skip
    return [
        DescriptorMap(pack, number, size, width)
        for number, (size, width) in enumerate(zip(sizes, widths, strict=True))
    ]


def search(
    sources: Sequence[DescriptorMap], asked: Tensor, targets: Sequence[DescriptorMap]
) -> tuple[Tensor, Tensor]:
    """Nearest neighbours of some rows of each source map in the target map of the same place.

    All pairs go in one launch. The sources, and the targets, must be consecutive maps of one call
    of `prepare`.

    Args:
        sources: P maps that hold the queries.
        asked: Rows of the source maps, (P, S) int64; -1 asks nothing.
        targets: P maps.

    Returns:
        Row of the target map, (P, S) int64, -1 where there is none, and similarity, (P, S)
        float32, -inf there.
    """
    pack = sources[0].pack
    asked = asked.contiguous()
    num_asked = asked.shape[1]
    num_rows = max(_pad(target.size, first.SPAN) for target in targets)
    if not num_asked or not num_rows:
        return torch.full_like(asked, -1), asked.new_full(asked.shape, -torch.inf, dtype=_FLOAT)
    per_place = num_rows // first.SPAN * first.TILE_ROWS * 2
    if num_asked > first.TILE_COLUMNS and per_place * num_asked > _BYTES:
        halves = asked.tensor_split(2, dim=1)
        parts = [search(sources, half, targets) for half in halves]
        return torch.cat([part[0] for part in parts], 1), torch.cat([part[1] for part in parts], 1)
    places = _pad(num_asked, first.TILE_COLUMNS)
    step = max(1, _BYTES // (per_place * places))  # pairs that fit the memory at once
    indices, scores = torch.empty_like(asked), torch.empty_like(asked, dtype=_FLOAT)
    for start in range(0, len(asked), step):
        part = slice(start, start + step)
        _search_pairs(
            pack, sources[start].number, targets[start].number, num_rows, places,
            asked[part], indices[part], scores[part],
        )  # fmt: skip
    return indices, scores


def check_return(
    sources: Sequence[DescriptorMap],
    asked: Tensor,
    targets: Sequence[DescriptorMap],
    found: Tensor,
    returned: Tensor,
    pixel_tol: float,
) -> tuple[Tensor, Tensor]:
    """Pixels that were found, and which of the asked ones the way back comes close enough to.

    One launch; arguments and results are those of `blocked.check_return`.
    """
    pack = sources[0].pack
    xy = torch.empty(*found.shape, 2, dtype=torch.int64, device=found.device)
    kept = torch.empty_like(found, dtype=torch.bool)
    if kept.numel():
        num_pairs, num_asked = found.shape
        second.check_return[(triton.cdiv(num_asked, _CHECKED), num_pairs)](
            asked.contiguous(), found, returned, pack.widths, xy, kept.view(torch.uint8),
            sources[0].number, targets[0].number, num_asked, float(pixel_tol) ** 2,
            EXACT=pixel_tol == 0, BLOCK=_CHECKED,
        )  # fmt: skip
    return xy, kept


def advance(
    here: Tensor, there: Tensor, ends0: Tensor, ends1: Tensor, new_there: Tensor, new_here: Tensor
) -> int:
    """End the walks whose pair repeats and take the others one round further, in place.

    One launch; arguments and result are those of `blocked.advance`.
    """
    walking = torch.zeros(1, dtype=torch.int32, device=here.device)
    if here.numel():
        second.advance[(triton.cdiv(here.numel(), _CHECKED),)](
            here, there, ends0, ends1, new_there, new_here, walking, here.numel(), BLOCK=_CHECKED
        )
    return int(walking)


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
    fitting = max(1, _BYTES // (places // first.GROUP * 2) // first.SPAN)  # spans at once
    chunks = -(-all_rows // (fitting * first.SPAN))
    spans = -(-all_rows // (chunks * first.SPAN))  # the same in every chunk
    rows = spans * first.SPAN
    half = torch.float16
    row_maxima = torch.empty(rows * places // first.GROUP, dtype=half, device=device)
    column_maxima = torch.empty(spans * places * first.TILE_ROWS, dtype=half, device=device)
    tops = torch.empty(spans * places, dtype=half, device=device)
    unused = pack.stats  # no list of asked rows
    squared = distance_px * distance_px
    for start in range(0, all_rows, rows):
        here = min(rows, all_rows - start)
        first.group_maxima[(places // first.TILE_COLUMNS, here // first.SPAN, 1)](
            pack.half, pack.table, unused, row_maxima, column_maxima, tops,
            map0.number, map1.number, start, rows, places, 0,
            K=pack.half.shape[1], BOTH=True, PACKED=_packed(device), **first.SIZES,
            num_warps=4, num_stages=3,
        )  # fmt: skip
        for columns in (False, True):
            index, score = results[columns]
            others = index if winners is None else winners[columns][0]
            queries = second.COLUMN_QUERIES if columns else second.ROW_QUERIES
            count = places if columns else min(here, map0.size - start)
            second.decide[(triton.cdiv(count, queries), 1)](
                pack.values, pack.norms, pack.errors, pack.table, pack.stats, unused,
                column_maxima if columns else row_maxima, tops, others, index, score,
                map0.number, map1.number, start, rows, places, 0,
                (map0 if columns else map1).width, squared,
                PITCH=pack.values.shape[1], K=pack.half.shape[1], COLUMNS=columns, ASKED=False,
                APART=winners is not None, **first.SIZES, num_warps=1,
            )  # fmt: skip
    return results


def _search_pairs(
    pack: _Pack,
    source: int,
    target: int,
    num_rows: int,
    places: int,
    asked: Tensor,
    indices: Tensor,
    scores: Tensor,
) -> None:
    """Neighbours of the asked rows (P, S) of maps ``source ...`` in maps ``target ...``."""
    num_pairs, num_asked = asked.shape
    spans = num_rows // first.SPAN
    half, device = torch.float16, pack.half.device
    maxima = torch.empty(num_pairs * spans * places * first.TILE_ROWS, dtype=half, device=device)
    tops = torch.empty(num_pairs * spans * places, dtype=half, device=device)
    k, pitch = pack.half.shape[1], pack.values.shape[1]
    first.group_maxima[(places // first.TILE_COLUMNS, spans, num_pairs)](
        pack.half, pack.table, asked, maxima, maxima, tops,
        target, source, 0, num_rows, places, num_asked,
        K=k, BOTH=False, PACKED=_packed(device), **first.SIZES,
            num_warps=4, num_stages=3,
    )  # fmt: skip
    second.decide[(places // second.COLUMN_QUERIES, num_pairs)](
        pack.values, pack.norms, pack.errors, pack.table, pack.stats, asked,
        maxima, tops, indices, indices, scores,
        target, source, 0, num_rows, places, num_asked, 1, 0.0,
        PITCH=pitch, K=k, COLUMNS=True, ASKED=True, APART=False, **first.SIZES, num_warps=1,
    )  # fmt: skip


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
