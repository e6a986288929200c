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

Sizes are arguments and not globals of the kernels: Triton compares each global at every launch,
which costs more than the launch itself. The tables: ``table`` (M, 3) int64 holds a map's address,
its number of rows and its first packed row; ``stats`` (M, 3) int32 the bits of its largest
magnitude, of the largest norm and of the largest rounding error of its descriptors.
"""

import triton
import triton.language as tl

TILE_ROWS = 64
TILE_COLUMNS = 256  # of a program, as two tiles of half the width
STEPS = 64  # tiles of rows per program
SPAN = TILE_ROWS * STEPS  # rows per program
GROUP = 64  # candidates that share one maximum, either way
SIZES = {"TILE_ROWS": TILE_ROWS, "TILE_COLUMNS": TILE_COLUMNS, "STEPS": STEPS}


@triton.jit
def _read_rows(  # type: ignore[no-untyped-def]
    table, number, rows, DIM: tl.constexpr, K: tl.constexpr, ALIGNED: tl.constexpr
):
    """Rows of a map as given (R, K), with zeros for unusable rows; which are usable; their peak."""
    source = tl.load(table + number * 3).to(tl.pointer_type(tl.float32))
    if ALIGNED:
        source = tl.multiple_of(source, 16)
    size = tl.load(table + number * 3 + 1)
    k = tl.arange(0, K)
    inside = (rows[:, None] < size) & (k[None, :] < DIM)
    values = tl.load(source + rows[:, None] * DIM + k[None, :], mask=inside, other=0.0)
    finite = tl.abs(values) < float("inf")  # false for NaN too
    peak = tl.max(tl.where(finite, tl.abs(values), 0.0), axis=1)
    usable = (tl.min(finite.to(tl.int32), axis=1) > 0) & (peak > 0)
    return tl.where(usable[:, None], values, 0.0), usable, tl.where(usable, peak, 0.0)


@triton.jit
def measure(  # type: ignore[no-untyped-def]
    table, stats,
    DIM: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Largest magnitude of the usable descriptors of each map, as the bits of a float32."""
    number = tl.program_id(1)
    first = tl.program_id(0).to(tl.int64) * ROWS
    if first < tl.load(table + number * 3 + 1):
        rows = first + tl.arange(0, ROWS)
        _, _, peak = _read_rows(table, number, rows, DIM, K, ALIGNED)
        # The bits of positive floats are ordered as the floats are.
        tl.atomic_max(stats + number * 3, tl.max(peak, axis=0).to(tl.int32, bitcast=True))


@triton.jit
def scale_of(largest_bits):  # type: ignore[no-untyped-def]
    """Power of two that brings a magnitude to 4 .. 8, from its bits: similarities below 4096."""
    exponent = tl.minimum(tl.maximum(256 - (largest_bits >> 23), 1), 254)
    return (exponent << 23).to(tl.float32, bitcast=True)


@triton.jit
def pack(  # type: ignore[no-untyped-def]
    table, stats, values, half, norms, errors,
    DIM: tl.constexpr, PITCH: tl.constexpr, K: tl.constexpr, ROWS: tl.constexpr,
    ALIGNED: tl.constexpr, SPAN: tl.constexpr,
):  # fmt: skip
    """Scaled copies of the maps in float32 and float16, and how far the latter are off."""
    number = tl.program_id(1)
    size = tl.load(table + number * 3 + 1)
    start = tl.load(table + number * 3 + 2)
    first = tl.program_id(0).to(tl.int64) * ROWS
    if first < (size + SPAN - 1) // SPAN * SPAN:
        rows = first + tl.arange(0, ROWS)
        k = tl.arange(0, K)
        given, usable, _ = _read_rows(table, number, rows, DIM, K, ALIGNED)
        scaled = given * scale_of(tl.load(stats + number * 3))
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
        tl.atomic_max(stats + number * 3 + 1, most)
        most = tl.max(error, axis=0).to(tl.int32, bitcast=True)
        tl.atomic_max(stats + number * 3 + 2, most)


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
def column_of(place, TILE_COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Column of the map at a place of the tiles: four groups of 64 columns, 2 every 8 places."""
    in_tile = place % TILE_COLUMNS
    group, member = in_tile % 8 // 2, in_tile // 8 * 2 + in_tile % 2
    return place - in_tile + group * (TILE_COLUMNS // 4) + member


@triton.jit
def _load_columns(  # type: ignore[no-untyped-def]
    half, table, right, asked, place, num_asked,
    K: tl.constexpr, BOTH: tl.constexpr, TILE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Half-precision descriptors (K, places), zeros where there is none."""
    if BOTH:
        columns = column_of(place, TILE_COLUMNS)
    else:
        columns = tl.load(asked + place, mask=place < num_asked, other=-1)
    inside = (columns >= 0) & (columns < tl.load(table + right * 3 + 1))
    at = (tl.load(table + right * 3 + 2) + columns).to(tl.int64)
    k = tl.arange(0, K)
    return tl.load(half + at[None, :] * K + k[:, None], mask=inside[None, :], other=0.0)


@triton.jit
def _store_columns(column_maxima, column_tops, top, at_span, place, TILE_ROWS: tl.constexpr):  # type: ignore[no-untyped-def]
    tl.store(column_tops + at_span + place, tl.max(top.to(tl.float32), axis=0).to(tl.float16))
    r = tl.arange(0, TILE_ROWS)
    out = column_maxima + at_span * TILE_ROWS + (r * 8)[:, None]
    tl.store(out + (place // 8 * TILE_ROWS * 8 + place % 8)[None, :], top)


@triton.jit
def group_maxima(  # type: ignore[no-untyped-def]
    half, table, asked, row_maxima, column_maxima, column_tops,
    left_first, right_first, first_row, num_rows, num_places, num_asked,
    K: tl.constexpr, BOTH: tl.constexpr, PACKED: tl.constexpr, TILE_ROWS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr, STEPS: tl.constexpr,
):  # fmt: skip
    """Largest similarity of each column in each group of rows, and with BOTH of each row too.

    Program (b, s, p): tile b of 256 columns, span s of 4096 rows, pair p. Rows are those of the
    left map (left_first + p) from first_row; columns are those of the right map in the order of
    `column_of` with BOTH, else the rows of the right map that ``asked`` names (-1: none).

    Stored, all float16: row_maxima [row / 4, tile, row % 4, 4 groups], column_maxima
    [pair, span, place / 8, row of the tile, place % 8], column_tops [pair, span, place], the
    maximum of a whole span.
    """
    block, span, pair = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    left, right = left_first + pair, right_first + pair
    row = first_row + span * TILE_ROWS * STEPS
    if row < tl.load(table + left * 3 + 1):
        k = tl.arange(0, K)
        r = tl.arange(0, TILE_ROWS)
        # Two tiles of half the width leave registers for three programs at a time, so that one
        # multiplies while another takes maxima.
        width: tl.constexpr = TILE_COLUMNS // 2
        place0 = block * TILE_COLUMNS + tl.arange(0, width)
        place1 = place0 + width
        list_of_pair = asked + pair * num_asked
        b0 = _load_columns(
            half, table, right, list_of_pair, place0, num_asked, K, BOTH, TILE_COLUMNS
        )
        b1 = _load_columns(
            half, table, right, list_of_pair, place1, num_asked, K, BOTH, TILE_COLUMNS
        )
        start = tl.load(table + left * 3 + 2) + row
        tile = half + start.to(tl.int64) * K + r[:, None] * K + k[None, :]
        top0 = tl.full((TILE_ROWS, width), float("-inf"), tl.float16)
        top1 = top0
        if BOTH:
            stride = num_places // TILE_COLUMNS * 16  # four groups of each of four rows
            bundle = row_maxima + (span.to(tl.int64) * (TILE_ROWS * STEPS // 4)) * stride
            group = tl.arange(0, 4)
            entry = bundle + block * 16 + (r // 4 * stride + r % 4 * 4)[:, None] + group[None, :]
        for step in tl.range(0, STEPS, loop_unroll_factor=4):
            a = tl.load(tile + step * TILE_ROWS * K)
            x0 = _to_half(tl.dot(a, b0), PACKED)
            top0 = _larger(top0, x0, PACKED)
            if BOTH:
                x0 = _fold(_fold(_fold(_fold(x0, PACKED), PACKED), PACKED), PACKED)
            x1 = _to_half(tl.dot(a, b1), PACKED)
            top1 = _larger(top1, x1, PACKED)
            if BOTH:
                x1 = _fold(_fold(_fold(_fold(x1, PACKED), PACKED), PACKED), PACKED)
                eight = _larger(x0, x1, PACKED)
                even, odd = tl.split(tl.reshape(eight, (TILE_ROWS, 4, 2)))
                tl.store(entry, tl.maximum(even, odd))
                entry += TILE_ROWS // 4 * stride
        at_span = (pair * (num_rows // (TILE_ROWS * STEPS)) + span).to(tl.int64) * num_places
        _store_columns(column_maxima, column_tops, top0, at_span, place0, TILE_ROWS)
        _store_columns(column_maxima, column_tops, top1, at_span, place1, TILE_ROWS)
