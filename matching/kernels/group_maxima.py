"""Triton kernels of the exact search on tensor cores; `matching.kernels.tensor_core` calls them.

A search has two stages. `group_maxima` multiplies half-precision copies of two maps tile by tile
and keeps, for each descriptor, only the largest similarity of each group of 64 candidates, both
ways from one product. `decide` reads these maxima, and scores in float32 every group whose maximum
lies within the error bound of the best one.

The groups are chosen so that nothing has to move between threads in the inner loop:

* a row's group is 64 consecutive columns. The columns of a tile are loaded in such an order that
  they lie in the registers of one thread;
* a column's group is 64 rows that are 64 apart: the same place in 64 successive tiles of 64 rows,
  so its maximum is a running elementwise one.
"""

import triton
import triton.language as tl

TILE_ROWS = 64
TILE_COLUMNS = 256
STEPS = 64  # tiles of rows per program; the span of rows is TILE_ROWS * STEPS
SPAN = TILE_ROWS * STEPS
GROUP = 64  # candidates that share one maximum, either way
PER_TILE = TILE_COLUMNS // GROUP  # groups of a row in a tile
ENTRIES = 512  # stored maxima that `decide` reads at once
ROW_QUERIES = 4  # rows that one program decides
COLUMN_QUERIES = ENTRIES // TILE_ROWS  # columns that one program decides

_TILE_ROWS: tl.constexpr = tl.constexpr(TILE_ROWS)
_TILE_COLUMNS: tl.constexpr = tl.constexpr(TILE_COLUMNS)
_STEPS: tl.constexpr = tl.constexpr(STEPS)
_GROUP: tl.constexpr = tl.constexpr(GROUP)
_PER_TILE: tl.constexpr = tl.constexpr(PER_TILE)
_ENTRIES: tl.constexpr = tl.constexpr(ENTRIES)
_NONE: tl.constexpr = tl.constexpr(2**31 - 1)

# Columns of the tables: where the map's floats are, how many rows, where its packed rows start.
_POINTER: tl.constexpr = tl.constexpr(0)
_SIZE: tl.constexpr = tl.constexpr(1)
_START: tl.constexpr = tl.constexpr(2)
_FIELDS: tl.constexpr = tl.constexpr(3)
# Statistics of a map, float32 (as bits while they grow): largest entry, norm, rounding error.
_LARGEST: tl.constexpr = tl.constexpr(0)
_NORM: tl.constexpr = tl.constexpr(1)
_ERROR: tl.constexpr = tl.constexpr(2)
_STATS: tl.constexpr = tl.constexpr(3)


@triton.jit
def _read_rows(table, number, rows, DIM: tl.constexpr, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """Rows of a map as given (R, K), with zeros for unusable rows; which are usable; their peak."""
    source = tl.load(table + number * _FIELDS + _POINTER).to(tl.pointer_type(tl.float32))
    size = tl.load(table + number * _FIELDS + _SIZE)
    k = tl.arange(0, K)
    inside = (rows[:, None] < size) & (k[None, :] < DIM)
    values = tl.load(source + rows[:, None] * DIM + k[None, :], mask=inside, other=0.0)
    finite = tl.abs(values) < float("inf")  # false for NaN too
    peak = tl.max(tl.where(finite, tl.abs(values), 0.0), axis=1)
    usable = (tl.min(finite.to(tl.int32), axis=1) > 0) & (peak > 0)
    return tl.where(usable[:, None], values, 0.0), usable, tl.where(usable, peak, 0.0)


@triton.jit
def measure(table, stats, DIM: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Largest magnitude of the usable descriptors of each map, as the bits of a float32."""
    number = tl.program_id(1)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    if tl.program_id(0).to(tl.int64) * ROWS < tl.load(table + number * _FIELDS + _SIZE):
        _, _, peak = _read_rows(table, number, rows, DIM, K)
        # The bits of positive floats are ordered as the floats are.
        bits = tl.max(peak, axis=0).to(tl.int32, bitcast=True)
        tl.atomic_max(stats + number * _STATS + _LARGEST, bits)


@triton.jit
def scale_of(largest_bits):  # type: ignore[no-untyped-def]
    """Power of two that brings a magnitude to 4 .. 8, from its bits: similarities below 4096."""
    exponent = 256 - (largest_bits >> 23)
    exponent = tl.minimum(tl.maximum(exponent, 1), 254)
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def pack(  # type: ignore[no-untyped-def]
    table, stats, values, half, norms, errors,
    DIM: tl.constexpr, PITCH: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """Scaled copies of the maps in float32 and float16, and how far the latter are off."""
    number = tl.program_id(1)
    size = tl.load(table + number * _FIELDS + _SIZE)
    start = tl.load(table + number * _FIELDS + _START)
    first = tl.program_id(0).to(tl.int64) * ROWS
    if first < (size + _TILE_ROWS * _STEPS - 1) // (_TILE_ROWS * _STEPS) * _TILE_ROWS * _STEPS:
        rows = first + tl.arange(0, ROWS)
        k = tl.arange(0, K)
        given, usable, _ = _read_rows(table, number, rows, DIM, K)
        scaled = given * scale_of(tl.load(stats + number * _STATS + _LARGEST))
        rounded = scaled.to(tl.float16)
        kept = rounded.to(tl.float32)
        rest = scaled - kept
        norm = tl.sqrt(tl.sum(kept * kept, axis=1))
        error = tl.sqrt(tl.sum(rest * rest, axis=1))
        packed = start + rows
        column = k[None, :] < PITCH
        tl.store(values + packed[:, None] * PITCH + k[None, :], scaled, mask=column)
        tl.store(half + packed[:, None] * K + k[None, :], rounded)
        tl.store(norms + packed, norm)
        tl.store(errors + packed, tl.where(usable, error, -1.0))  # -1 marks an unusable row
        most = tl.max(norm + error, axis=0).to(tl.int32, bitcast=True)
        tl.atomic_max(stats + number * _STATS + _NORM, most)
        most = tl.max(error, axis=0).to(tl.int32, bitcast=True)
        tl.atomic_max(stats + number * _STATS + _ERROR, most)


@triton.jit
def _to_half(x, PACKED: tl.constexpr):  # type: ignore[no-untyped-def]
    if PACKED:
        half = tl.inline_asm_elementwise(
            "cvt.rn.f16x2.f32 $0, $2, $1;", "=r,r,r", [x], dtype=tl.float16, is_pure=True, pack=2
        )
    else:
        half = x.to(tl.float16)
    return half


@triton.jit
def _larger(x, y, PACKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """Elementwise maximum of halves, two in one instruction: what bounds the whole search."""
    if PACKED:
        larger = tl.inline_asm_elementwise(
            "max.f16x2 $0, $1, $2;", "=r,r,r", [x, y], dtype=tl.float16, is_pure=True, pack=2
        )
    else:
        larger = tl.maximum(x, y)
    return larger


@triton.jit
def _fold(x, PACKED: tl.constexpr):  # type: ignore[no-untyped-def]
    """(R, 2 C) -> (R, C): maximum of the left and the right half, column by column."""
    halves = tl.permute(tl.reshape(x, (x.shape[0], 2, x.shape[1] // 2)), (0, 2, 1))
    left, right = tl.split(halves)
    return _larger(left, right, PACKED)


@triton.jit
def column_of(place):  # type: ignore[no-untyped-def]
    """Column of the map at a place of the tiles: groups of 64 columns, 2 every 8 places."""
    in_tile = place % _TILE_COLUMNS
    group, member = in_tile % 8 // 2, in_tile // 8 * 2 + in_tile % 2
    return place - in_tile + group * _GROUP + member


@triton.jit
def group_maxima(  # type: ignore[no-untyped-def]
    half, table, pairs, asked, row_maxima, column_maxima, column_tops,
    first_row, num_rows, num_places, asked_stride,
    K: tl.constexpr, BOTH: tl.constexpr, PACKED: tl.constexpr,
):  # fmt: skip
    """Largest similarity of each column in each group of rows, and with BOTH of each row too.

    Program (b, s, p): tile b of 256 columns, span s of 4096 rows, pair p. Rows are those of the
    left map of the pair from first_row; columns are those of the right map in the order of
    `column_of` with BOTH, else the rows of the right map that ``asked`` names (-1: none).

    Stored, all float16: row_maxima [row / 4, tile, row % 4, 4 groups], column_maxima
    [pair, span, place / 8, row of the tile, place % 8], column_tops [pair, span, place], the
    maximum of a whole span.
    """
    block, span, pair = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    left, right = tl.load(pairs + pair * 2), tl.load(pairs + pair * 2 + 1)
    left_size = tl.load(table + left * _FIELDS + _SIZE)
    row = first_row + span * _TILE_ROWS * _STEPS
    if row < left_size:
        k = tl.arange(0, K)
        r = tl.arange(0, _TILE_ROWS)
        place = block * _TILE_COLUMNS + tl.arange(0, _TILE_COLUMNS)
        if BOTH:
            columns = column_of(place)
        else:
            columns = tl.load(asked + pair * asked_stride + place)
        columns = tl.where(columns < tl.load(table + right * _FIELDS + _SIZE), columns, -1)
        at = (tl.load(table + right * _FIELDS + _START) + columns).to(tl.int64)
        b = tl.load(half + at[None, :] * K + k[:, None], mask=columns[None, :] >= 0, other=0.0)
        start = tl.load(table + left * _FIELDS + _START) + row
        tile = half + start.to(tl.int64) * K + r[:, None] * K + k[None, :]
        top = tl.full((_TILE_ROWS, _TILE_COLUMNS), float("-inf"), tl.float16)
        if BOTH:
            stride = num_places // _TILE_COLUMNS * 4 * _PER_TILE  # of four rows
            bundle = row_maxima + (span.to(tl.int64) * (_TILE_ROWS * _STEPS // 4)) * stride
            bundle += block * 4 * _PER_TILE
            group = tl.arange(0, _PER_TILE)
            entry = bundle + (r // 4 * stride + r % 4 * _PER_TILE)[:, None] + group[None, :]
        for step in tl.range(0, _STEPS, loop_unroll_factor=2):
            a = tl.load(tile + step * _TILE_ROWS * K)
            x = _to_half(tl.dot(a, b), PACKED)
            top = _larger(top, x, PACKED)
            if BOTH:
                x = _fold(_fold(_fold(_fold(_fold(x, PACKED), PACKED), PACKED), PACKED), PACKED)
                even, odd = tl.split(tl.reshape(x, (_TILE_ROWS, _PER_TILE, 2)))
                tl.store(entry, tl.maximum(even, odd))
                entry += _TILE_ROWS // 4 * stride
        spans = num_rows // (_TILE_ROWS * _STEPS)
        at_span = (pair * spans + span).to(tl.int64) * num_places
        tl.store(column_tops + at_span + place, tl.max(top.to(tl.float32), axis=0).to(tl.float16))
        out = column_maxima + at_span * _TILE_ROWS
        out += (place // 8 * _TILE_ROWS * 8 + place % 8)[None, :] + (r * 8)[:, None]
        tl.store(out, top)
