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

from matching.kernels.group_maxima import column_of, scale_of

ENTRIES = 512  # stored maxima that are read at once: 64 rows of 8 columns, or 4 rows of 128 groups
ROW_QUERIES = 4  # rows that one program decides
COLUMN_QUERIES = 8  # columns that one program decides


@triton.jit
def _slack(norm, error, most, stats, target, K: tl.constexpr):  # type: ignore[no-untyped-def]
    """How far below the largest stored maximum that of the winner's group can be."""
    target_norm = tl.load(stats + target * 3 + 1).to(tl.float32, bitcast=True)
    target_error = tl.load(stats + target * 3 + 2).to(tl.float32, bitcast=True)
    off = error * target_norm + norm * target_error
    off += (norm + error) * target_norm * (K * 3.7e-7)  # K (2^-22 + 2^-23), rounded up
    off = 2.02 * off  # twice, and 1 % for the rounding of these very lines
    return off + (tl.abs(most) + off) * 0.00098 + 1.3e-7  # 2^-10; a half's smallest step is 2^-24


@triton.jit
def _score_group(  # type: ignore[no-untyped-def]
    values, errors, query, first, stride, size, start, winner, width, distance_squared,
    PITCH: tl.constexpr, K: tl.constexpr, APART: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """Best float32 score of the packed query row within one group, and its row (-inf: none)."""
    none: tl.constexpr = 2147483647
    k = tl.arange(0, K)
    row = first + tl.arange(0, GROUP) * stride
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
    return best, tl.min(tl.where(inside & (score == best), row, none), axis=0)


@triton.jit
def _group_of_entry(  # type: ignore[no-untyped-def]
    entry, chunk, first_row,
    COLUMNS: tl.constexpr, TILE_ROWS: tl.constexpr, STEPS: tl.constexpr,
    TILE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """First candidate of the group that an entry of a chunk stands for."""
    if COLUMNS:
        first = first_row + chunk * TILE_ROWS * STEPS + entry // 8
    else:
        first = (chunk * 32 + entry // 16) * TILE_COLUMNS + entry % 4 * (TILE_COLUMNS // 4)
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
    """The value of each entry's query, (queries,) -> (512,)."""
    if COLUMNS:
        spread = tl.broadcast_to(per_query[None, :], (64, 8))
    else:
        spread = tl.broadcast_to(per_query[None, :, None], (32, 4, 4))
    return tl.reshape(spread, (512,))


@triton.jit
def _largest_of_queries(entries, COLUMNS: tl.constexpr):  # type: ignore[no-untyped-def]
    """Largest entry of each query, (512,) -> (queries,)."""
    if COLUMNS:
        largest = tl.max(tl.reshape(entries, (64, 8)), axis=0)
    else:
        largest = tl.max(tl.max(tl.reshape(entries, (32, 4, 4)), axis=2), axis=0)
    return largest


@triton.jit
def _score_candidates(  # type: ignore[no-untyped-def]
    candidate, chunks, score, index, packed, winner, values, errors, first_row, target_size,
    target_start, width, distance_squared,
    PITCH: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, APART: tl.constexpr,
    TILE_ROWS: tl.constexpr, STEPS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
):  # fmt: skip
    """Improve score and index of the queries by the groups of the candidate entries (512,)."""
    none: tl.constexpr = 2147483647
    entry = tl.arange(0, 512)
    lane = tl.arange(0, 8 if COLUMNS else 4)
    following = tl.min(tl.where(candidate, entry, none), axis=0)
    while following < none:
        chunk = tl.sum(tl.where(entry == following, chunks, 0), axis=0)
        if COLUMNS:
            mine = lane == following % 8
            stride = TILE_ROWS
        else:
            mine = lane == following % 16 // 4
            stride = 1
        first = _group_of_entry(
            following, chunk, first_row, COLUMNS, TILE_ROWS, STEPS, TILE_COLUMNS
        )
        best, row = _score_group(
            values, errors, tl.sum(tl.where(mine, packed, 0), axis=0), first, stride, target_size,
            target_start, tl.sum(tl.where(mine, winner, 0), axis=0), width, distance_squared,
            PITCH, K, APART, TILE_ROWS if COLUMNS else TILE_COLUMNS // 4,
        )  # fmt: skip
        # Groups come in no order of rows: of equal scores in two of them the lower row wins.
        better = mine & (row < none) & ((best > score) | ((best == score) & (row < index)))
        score = tl.where(better, best, score)
        index = tl.where(better, row, index)
        following = tl.min(tl.where(candidate & (entry > following), entry, none), axis=0)
    return score, index


@triton.jit
def decide(  # type: ignore[no-untyped-def]
    values, norms, errors, table, stats, asked, maxima, tops, winners, indices, scores,
    left_first, right_first, first_row, num_rows, num_places, num_asked, width, distance_squared,
    PITCH: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, ASKED: tl.constexpr,
    APART: tl.constexpr, TILE_ROWS: tl.constexpr, TILE_COLUMNS: tl.constexpr,
    STEPS: tl.constexpr,
):  # fmt: skip
    """Nearest neighbour of four rows, or of eight columns, from the stored group maxima.

    Improves ``indices`` and ``scores`` (scaled), which hold what earlier chunks of rows gave; with
    ASKED all rows come at once, and it writes int64 indices and unscaled scores of what is asked.
    With APART only candidates farther than a distance from ``winners`` count.
    """
    bundle, pair = tl.program_id(0), tl.program_id(1)
    left, right = left_first + pair, right_first + pair
    if COLUMNS:
        source, target = right, left
        place = bundle * 8 + tl.arange(0, 8)
        if ASKED:
            slot = (pair * num_asked + place).to(tl.int64)
            query = tl.load(asked + slot, mask=place < num_asked, other=-1).to(tl.int32)
        else:
            query = column_of(place, TILE_COLUMNS)
            slot = query
    else:
        source, target = left, right
        query = first_row + bundle * 4 + tl.arange(0, 4)
        slot = query
    target_start = tl.load(table + target * 3 + 2)
    target_size = tl.load(table + target * 3 + 1).to(tl.int32)
    usable = (query >= 0) & (query < tl.load(table + source * 3 + 1))
    packed = tl.load(table + source * 3 + 2) + query
    error = tl.load(errors + packed, mask=usable, other=-1.0)
    norm = tl.load(norms + packed, mask=usable, other=0.0)
    usable &= error >= 0
    if ASKED:
        score = tl.full((8,), float("-inf"), tl.float32)
        index = tl.full((8,), -1, tl.int32)
    else:
        score = tl.load(scores + slot, mask=usable, other=float("-inf"))
        index = tl.load(indices + slot, mask=usable, other=-1)
    if APART:
        winner = tl.load(winners + slot, mask=usable, other=0)
        x, y = _of_entries(winner % width, COLUMNS), _of_entries(winner // width, COLUMNS)
    else:
        winner = index
    entry = tl.arange(0, 512)
    if COLUMNS:
        span = TILE_ROWS * STEPS
        chunks = (tl.minimum(target_size - first_row, num_rows) + span - 1) // span
        at_pair = (pair * (num_rows // span)).to(tl.int64) * num_places
        first_top = tops + at_pair + place
        first_entry = maxima + at_pair * TILE_ROWS + bundle * 512
        chunk_stride = num_places.to(tl.int64) * TILE_ROWS
        num_entries = chunks * 512
        reach = (STEPS - 1) * TILE_ROWS
    else:
        num_entries = num_places // TILE_COLUMNS * 16
        chunks = (num_entries + 511) // 512
        first_top = tops
        first_entry = maxima + bundle.to(tl.int64) * num_entries
        chunk_stride = tl.full((), 512, tl.int64)
        reach = TILE_COLUMNS // 4 - 1

    # First pass: the largest maximum of each query. Rows remember on the way in which chunk each
    # entry was largest, and the runner-up, which mostly spares them the second pass.
    runner_up = tl.full((512,), float("-inf"), tl.float32)
    largest = runner_up
    chunk_of = tl.zeros((512,), tl.int32)
    if COLUMNS and not APART:
        most = tl.full((8,), float("-inf"), tl.float32)
        several = tl.arange(0, 32)
        for chunk in range(0, chunks, 32):
            span_of_top = (chunk + several)[:, None]
            top = tl.load(
                first_top[None, :] + span_of_top.to(tl.int64) * num_places,
                mask=span_of_top < chunks,
                other=float("-inf"),
            )
            most = tl.maximum(most, tl.max(top.to(tl.float32), axis=0))
    else:
        for chunk in range(chunks):
            inside = chunk * 512 + entry < num_entries
            x16 = tl.load(first_entry + chunk * chunk_stride + entry, mask=inside, other=-65504.0)
            maximum = tl.where(inside, x16.to(tl.float32), float("-inf"))
            if APART:
                first = _group_of_entry(
                    entry, chunk, first_row, COLUMNS, TILE_ROWS, STEPS, TILE_COLUMNS
                )
                last = tl.minimum(first + reach, target_size - 1)
                apart = _group_is_apart(first, last, x, y, width, distance_squared)
                maximum = tl.where(apart & (first < target_size), maximum, float("-inf"))
            chunk_of = tl.where(maximum > largest, chunk, chunk_of)
            runner_up = tl.maximum(runner_up, tl.minimum(maximum, largest))
            largest = tl.maximum(largest, maximum)
        most = _largest_of_queries(largest, COLUMNS)

    most = tl.maximum(most, score)
    threshold = tl.where(
        most > 0, most - _slack(norm, error, most, stats, target, K), float("-inf")
    )
    threshold = tl.where(usable, threshold, float("inf"))
    limit = _of_entries(threshold, COLUMNS)
    scan = True
    if not COLUMNS and not APART:
        scan = tl.max((runner_up >= limit).to(tl.int32), axis=0) > 0
        if not scan:
            score, index = _score_candidates(
                largest >= limit, chunk_of, score, index, packed, winner, values, errors,
                first_row, target_size, target_start, width, distance_squared,
                PITCH, K, COLUMNS, APART, TILE_ROWS, STEPS, TILE_COLUMNS,
            )  # fmt: skip
    if scan:
        for chunk in range(chunks):
            hot = True
            if COLUMNS:
                top = tl.load(first_top + chunk * num_places.to(tl.int64)).to(tl.float32)
                hot = tl.max((top >= threshold).to(tl.int32), axis=0) > 0
            if hot:
                inside = chunk * 512 + entry < num_entries
                x16 = tl.load(
                    first_entry + chunk * chunk_stride + entry, mask=inside, other=-65504.0
                )
                score, index = _score_candidates(
                    inside & (x16.to(tl.float32) >= limit), tl.zeros((512,), tl.int32) + chunk,
                    score, index, packed, winner, values, errors,
                    first_row, target_size, target_start, width, distance_squared,
                    PITCH, K, COLUMNS, APART, TILE_ROWS, STEPS, TILE_COLUMNS,
                )  # fmt: skip
    if ASKED:
        score = (
            score / scale_of(tl.load(stats + source * 3)) / scale_of(tl.load(stats + target * 3))
        )
        tl.store(scores + slot, score, mask=place < num_asked)
        tl.store(indices + slot, index.to(tl.int64), mask=place < num_asked)
    else:
        tl.store(scores + slot, score, mask=usable)
        tl.store(indices + slot, index, mask=usable)


@triton.jit
def check_return(  # type: ignore[no-untyped-def]
    asked, found, returned, widths, xy, kept,
    source_first, target_first, num_asked, distance_squared,
    EXACT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Pixels of ``found``, and whether ``returned`` is, or lies close to, the asked row."""
    pair = tl.program_id(1)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < num_asked
    at = pair.to(tl.int64) * num_asked + place
    width = tl.load(widths + source_first + pair)
    target_width = tl.load(widths + target_first + pair)
    wanted = tl.load(asked + at, mask=inside, other=-1)
    row = tl.load(found + at, mask=inside, other=-1)
    back = tl.load(returned + at, mask=inside, other=-1)
    if EXACT:
        close = back == wanted
    else:
        dx, dy = back % width - wanted % width, back // width - wanted // width
        close = (dx * dx + dy * dy).to(tl.float32) < distance_squared
    tl.store(kept + at, (close & (back >= 0)).to(tl.uint8), mask=inside)
    tl.store(xy + at * 2, tl.where(row < 0, -1, row % target_width), mask=inside)
    tl.store(xy + at * 2 + 1, tl.where(row < 0, -1, row // target_width), mask=inside)


@triton.jit
def advance(  # type: ignore[no-untyped-def]
    here, there, ends0, ends1, new_there, new_here, walking, num_walks, BLOCK: tl.constexpr
):
    """End the walks whose pair repeats, take the others further, add up those that go on."""
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = at < num_walks
    was_here = tl.load(here + at, mask=inside, other=-1)
    was_there = tl.load(there + at, mask=inside, other=-1)
    is_there = tl.load(new_there + at, mask=inside, other=-1)
    is_here = tl.load(new_here + at, mask=inside, other=-1)
    found = is_there >= 0
    done = found & ((is_there == was_there) | (is_here == was_here))
    tl.store(ends0 + at, was_here, mask=inside & done)
    tl.store(ends1 + at, is_there, mask=inside & done)
    onward = tl.where(found & (done == 0), is_here, -1)
    tl.store(here + at, onward, mask=inside)
    tl.store(there + at, is_there, mask=inside)
    tl.atomic_add(walking, tl.sum((onward >= 0).to(tl.int32), axis=0))
