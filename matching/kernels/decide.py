"""The second stage of the search on a GPU (Triton): float32 decides among the proposed groups.

Why the float32 winner is always among them. Let s be a similarity of the scaled maps, a.b, and let
the halves be a' and b'. Then |s - a'.b'| <= |a - a'| |b| + |a'| |b - b'|, and these norms were
measured when the maps were packed, so the first bound is that of the data and not of a worst case.
The tensor cores multiply halves exactly and add "with at least single precision" (PTX ISA), so the
sum of K products is off by at most K 2^-22 |a'| |b'| even if every addition truncates. float32
scoring is off by at most K 2^-23 |a| |b|. Call the sum of the three E. Rounding the maximum to a
half is monotonic and off by 2^-11 of its size. So the group of the float32 winner has a stored
maximum of at least m - 2 E - 2^-10 (|m| + 2 E), where m is the largest stored maximum: `_slack`.

m itself may come from a padding or unusable row, which is stored as zeros, but then m = 0: with
m <= 0 every group is scored. What is the best after that is the exact maximum of the float32
scores, always computed in the same order, and the first one of equals.
"""

import triton
import triton.language as tl

from matching.kernels.group_maxima import (
    _ENTRIES,
    _ERROR,
    _FIELDS,
    _GROUP,
    _NONE,
    _NORM,
    _PER_TILE,
    _SIZE,
    _START,
    _STATS,
    _STEPS,
    _TILE_COLUMNS,
    _TILE_ROWS,
    column_of,
)


@triton.jit
def _slack(norm, error, most, stats, target, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """How far below the largest stored maximum that of the winner's group can be."""
    bits = tl.load(stats + target * _STATS + _NORM)
    target_norm = bits.to(tl.float32, bitcast=True)
    bits = tl.load(stats + target * _STATS + _ERROR)
    target_error = bits.to(tl.float32, bitcast=True)
    off = error * target_norm + norm * target_error
    off += (norm + error) * target_norm * (K * 3.7e-7)  # K (2^-22 + 2^-23), rounded up
    off = 2.02 * off  # twice, and 1 % for the rounding of these very lines
    return off + (tl.abs(most) + off) * 0.00098 + 1.3e-7  # 2^-10; a half's smallest step is 2^-24


@triton.jit
def _decide_entry(  # type: ignore[no-untyped-def]
    values, errors, query, first, stride, size, start, winner, width, distance_squared,
    PITCH: tl.constexpr, K: tl.constexpr, APART: tl.constexpr,
):  # fmt: skip
    """Best float32 score of the packed query row within one group, and its row (-inf: none)."""
    k = tl.arange(0, K)
    row = first + tl.arange(0, _GROUP) * stride
    inside = row < size
    at = (start + tl.minimum(row, size - 1)).to(tl.int64)
    column = k < PITCH
    a = tl.load(values + query.to(tl.int64) * PITCH + k, mask=column, other=0.0)
    b = tl.load(values + at[:, None] * PITCH + k[None, :], mask=column[None, :], other=0.0)
    score = tl.sum(b * a[None, :], axis=1)
    inside &= tl.load(errors + at) >= 0
    if APART:
        dx = (row % width - winner % width).to(tl.float32)
        dy = (row // width - winner // width).to(tl.float32)
        inside &= dx * dx + dy * dy > distance_squared
    score = tl.where(inside, score, float("-inf"))
    best = tl.max(score, axis=0)
    return best, tl.min(tl.where(inside & (score == best), row, _NONE), axis=0)


@triton.jit
def _group_of_entry(entry, chunk, first_row, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """First candidate of the group that an entry of a chunk stands for."""
    if COLUMNS:
        first = first_row + chunk * _TILE_ROWS * _STEPS + entry // 8
    else:
        tile = chunk * (_ENTRIES // (4 * _PER_TILE)) + entry // (4 * _PER_TILE)
        first = tile * _TILE_COLUMNS + entry % _PER_TILE * _GROUP
    return first


@triton.jit
def _group_is_apart(first, last, x, y, width, distance_squared):  # type: ignore[no-untyped-def]
    """Whether all of first .. last surely lie farther than the distance from pixel (x, y)."""
    top, bottom = first // width, last // width
    gap_y = tl.maximum(tl.maximum(top - y, y - bottom), 0).to(tl.float32)
    gap_x = tl.maximum(tl.maximum(first % width - x, x - last % width), 0).to(tl.float32)
    gap_x = tl.where(top == bottom, gap_x, 0.0)
    return gap_x * gap_x + gap_y * gap_y > distance_squared


@triton.jit
def _of_entries(per_query, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """The value of each entry's query, (queries,) -> (ENTRIES,)."""
    if COLUMNS:
        spread = tl.broadcast_to(per_query[None, :], (_TILE_ROWS, 8))
    else:
        spread = tl.broadcast_to(per_query[None, :, None], (_ENTRIES // 16, 4, _PER_TILE))
    return tl.reshape(spread, (_ENTRIES,))


@triton.jit
def _largest_of_queries(entries, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Largest entry of each query, (ENTRIES,) -> (queries,)."""
    if COLUMNS:
        largest = tl.max(tl.reshape(entries, (_TILE_ROWS, 8)), axis=0)
    else:
        largest = tl.max(tl.reshape(entries, (_ENTRIES // 16, 4, _PER_TILE)), axis=2)
        largest = tl.max(largest, axis=0)
    return largest


@triton.jit
def decide(  # type: ignore[no-untyped-def]
    values, norms, errors, table, stats, pairs, asked, maxima, tops, winners, indices, scores,
    first_row, num_rows, num_places, num_asked, asked_stride, width, distance_squared,
    PITCH: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, ASKED: tl.constexpr,
    APART: tl.constexpr,
):  # fmt: skip
    """Nearest neighbour of four rows, or of eight columns, from the stored group maxima.

    Improves ``indices`` and ``scores`` (scaled), which hold what earlier chunks of rows gave.
    With APART only candidates farther than a distance from ``winners`` count.
    """
    bundle, pair = tl.program_id(0), tl.program_id(1)
    left, right = tl.load(pairs + pair * 2), tl.load(pairs + pair * 2 + 1)
    if COLUMNS:
        source, target = right, left
        place = bundle * 8 + tl.arange(0, 8)
        if ASKED:
            query = tl.load(
                asked + pair * asked_stride + place, mask=place < num_asked, other=-1
            ).to(tl.int32)
            slot = pair * asked_stride + place
        else:
            query = column_of(place)
            slot = query
    else:
        source, target = left, right
        place = bundle * 4 + tl.arange(0, 4)
        query = first_row + place
        slot = query
    source_start = tl.load(table + source * _FIELDS + _START)
    target_start = tl.load(table + target * _FIELDS + _START)
    target_size = tl.load(table + target * _FIELDS + _SIZE).to(tl.int32)
    usable = (query >= 0) & (query < tl.load(table + source * _FIELDS + _SIZE))
    packed = source_start + query
    error = tl.load(errors + packed, mask=usable, other=-1.0)
    norm = tl.load(norms + packed, mask=usable, other=0.0)
    usable &= error >= 0
    score = tl.load(scores + slot, mask=usable, other=float("-inf"))
    index = tl.load(indices + slot, mask=usable, other=-1)
    if APART:
        winner = tl.load(winners + slot, mask=usable, other=0)
        x, y = _of_entries(winner % width, COLUMNS), _of_entries(winner // width, COLUMNS)
    else:
        winner = index
    entry = tl.arange(0, _ENTRIES)
    if COLUMNS:
        span = _TILE_ROWS * _STEPS
        here = tl.minimum(target_size - first_row, num_rows)
        chunks = (here + span - 1) // span
        first_entry = maxima + (pair * (num_rows // span)).to(tl.int64) * num_places * _TILE_ROWS
        first_entry += bundle * _ENTRIES
        chunk_stride = num_places.to(tl.int64) * _TILE_ROWS
        num_entries = chunks * _ENTRIES
        first_top = tops + (pair * (num_rows // span)).to(tl.int64) * num_places + place
        reach = (_GROUP - 1) * _TILE_ROWS
        group_stride = _TILE_ROWS
    else:
        num_entries = num_places // _TILE_COLUMNS * 4 * _PER_TILE
        chunks = (num_entries + _ENTRIES - 1) // _ENTRIES
        first_entry = maxima + bundle.to(tl.int64) * num_entries
        chunk_stride = tl.full((), _ENTRIES, tl.int64)
        first_top = tops
        reach = _GROUP - 1
        group_stride = 1

    if COLUMNS and not APART:
        most = tl.full((8,), float("-inf"), tl.float32)
        several = tl.arange(0, 32)
        for chunk in range(0, chunks, 32):
            rows_of_tops = (chunk + several)[:, None]
            top = tl.load(
                first_top[None, :] + rows_of_tops.to(tl.int64) * num_places,
                mask=rows_of_tops < chunks,
                other=float("-inf"),
            )
            most = tl.maximum(most, tl.max(top.to(tl.float32), axis=0))
    else:
        running = tl.full((_ENTRIES,), float("-inf"), tl.float32)
        for chunk in range(chunks):
            at = first_entry + chunk * chunk_stride
            x16 = tl.load(
                at + entry, mask=chunk * _ENTRIES + entry < num_entries, other=float("-inf")
            )
            x32 = x16.to(tl.float32)
            if APART:
                first = _group_of_entry(entry, chunk, first_row, COLUMNS)
                last = tl.minimum(first + reach, target_size - 1)
                apart = _group_is_apart(first, last, x, y, width, distance_squared)
                x32 = tl.where(apart & (first < target_size), x32, float("-inf"))
            running = tl.maximum(running, x32)
        most = _largest_of_queries(running, COLUMNS)

    most = tl.maximum(most, score)
    slack = _slack(norm, error, most, stats, target, K)
    threshold = tl.where(most > 0, most - slack, float("-inf"))
    threshold = tl.where(usable, threshold, float("inf"))
    limit = _of_entries(threshold, COLUMNS)
    lane = tl.arange(0, 8 if COLUMNS else 4)
    for chunk in range(chunks):
        hot = True
        if COLUMNS:
            top = tl.load(first_top + chunk * num_places.to(tl.int64)).to(tl.float32)
            hot = tl.max((top >= threshold).to(tl.int32), axis=0) > 0
        if hot:
            at = first_entry + chunk * chunk_stride
            x16 = tl.load(
                at + entry, mask=chunk * _ENTRIES + entry < num_entries, other=float("-inf")
            )
            x32 = x16.to(tl.float32)
            candidate = (x32 >= limit) & (chunk * _ENTRIES + entry < num_entries)
            following = tl.min(tl.where(candidate, entry, _NONE), axis=0)
            while following < _NONE:
                if COLUMNS:
                    owner = following % 8
                else:
                    owner = following % (4 * _PER_TILE) // _PER_TILE
                mine = lane == owner
                first = _group_of_entry(following, chunk, first_row, COLUMNS)
                best, best_row = _decide_entry(
                    values, errors, tl.sum(tl.where(mine, packed, 0), axis=0), first,
                    group_stride, target_size, target_start,
                    tl.sum(tl.where(mine, winner, 0), axis=0), width, distance_squared,
                    PITCH, K, APART,
                )  # fmt: skip
                # Groups of columns interleave: of equal scores in two of them the lower row wins.
                equal = (score == best) & (best_row < index)
                better = mine & ((best > score) | equal) & (best_row < _NONE)
                score = tl.where(better, best, score)
                index = tl.where(better, best_row, index)
                following = tl.min(tl.where(candidate & (entry > following), entry, _NONE), axis=0)
    tl.store(scores + slot, score, mask=usable)
    tl.store(indices + slot, index, mask=usable)
