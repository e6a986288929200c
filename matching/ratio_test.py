"""Mutual nearest neighbours of byte descriptors by Lowe's ratio test (Lowe, IJCV 2004).

Products of bytes are whole numbers small enough for float32, so they are exact however they are
computed: in int8 where the CPU has instructions for it (VNNI: four times as fast), else in float32.
"""

from dataclasses import dataclass
from functools import lru_cache

import torch

_BLOCK_ROWS = {"cpu": 256, "cuda": 4096}  # of products at a time
_COLUMNS_PER_GROUP = 16


def mutual_ratio_matches(
    descriptors0: torch.Tensor, descriptors1: torch.Tensor, max_ratio: float
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Mutual nearest neighbours that pass Lowe's ratio test.

    Nearness is the angle between descriptors: their lengths do not count.

    Args:
        descriptors0: (N0, D) uint8, D at most 256.
        descriptors1: (N1, D) uint8.
        max_ratio: Largest distance to the nearest over the second-nearest descriptor of image 1.

    Returns:
        Rows (M,) int64, columns (M,) int64 and distance ratios (M,) float32, by ascending row;
        one-to-one. Two equally near descriptors of image 1 fail the test. With fewer than two
        descriptors in image 1 there is no second-nearest one and so no match.
    """
    device = descriptors0.device
    none = torch.zeros(0, dtype=torch.int64, device=device)
    if len(descriptors0) == 0 or len(descriptors1) < 2:
        return none, none, none.float()
    inverse0, inverse1 = _inverse_lengths(descriptors0), _inverse_lengths(descriptors1)
    columns, products = two_nearest(descriptors0, descriptors1)
    cosines = products.double() * inverse0[:, None] * inverse1[columns]
    distances = (2 - 2 * cosines).clamp_min(0).sqrt()
    rows = torch.nonzero(distances[:, 0] < max_ratio * distances[:, 1])[:, 0]
    if len(rows) == 0 or len(descriptors0) == 1:
        return rows, columns[rows, 0], (distances[rows, 0] / distances[rows, 1]).float()
    # the way back, only from columns that are wanted
    wanted, place = columns[rows, 0].unique(return_inverse=True)
    back, back_products = two_nearest(descriptors1[wanted], descriptors0)
    nearest = (back_products[:, 0].double() * inverse0[back[:, 0]])[place]
    rows = rows[products[rows, 0].double() * inverse0[rows] >= nearest]
    # identical descriptors in image 0 can share a column: the first keeps it
    owner = torch.full((len(descriptors1),), len(descriptors0), dtype=torch.int64, device=device)
    owner.scatter_reduce_(0, columns[rows, 0], rows, "amin")
    rows = rows[owner[columns[rows, 0]] == rows]
    return rows, columns[rows, 0], (distances[rows, 0] / distances[rows, 1]).float()


def two_nearest(queries: torch.Tensor, targets: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """The two targets with the smallest angles to each query.

    The products of a block of queries are looked at once: for the largest of each group of
    targets. Targets of a group have nearly the same length, which bounds their cosines from above
    by that product; the two groups with the largest bounds are looked at closely. Where the third
    bound leaves doubts, all targets are.

    Args:
        queries: (N, D) uint8, at least one.
        targets: (M, D) uint8, at least two.

    Returns:
        Columns (N, 2) int64, and exact products with these targets, (N, 2) float32. Of equally
        near targets it is open which one is meant.
    """
    device, num = queries.device, len(targets)
    groups = _COLUMNS_PER_GROUP if num >= 2 * _COLUMNS_PER_GROUP else 1
    width = -(-num // groups)
    # Neighbours by length form a group. They lie far apart, so that the maxima of groups run along
    # the rows. Padding stands for targets at a right angle: it takes no place from another one.
    order = torch.argsort(_inverse_lengths(targets), stable=True)
    order = torch.nn.functional.pad(order, (0, groups * width - num), value=num)
    order = order.view(width, groups).T.reshape(-1)
    padded = torch.nn.functional.pad(targets, (0, 0, 0, 1))[order]
    inverse = _inverse_lengths(padded).float()
    longest = inverse.view(groups, width).amax(0)
    steps = torch.arange(groups, device=device) * width
    products = _Products(queries, padded)
    candidates = torch.empty(len(queries), 2, groups, dtype=torch.int64, device=device)
    exact = torch.empty(len(queries), 2 * groups, dtype=products.dtype, device=device)
    third = torch.full((len(queries),), -1.0, device=device)
    for start in range(0, len(queries), _BLOCK_ROWS[device.type]):
        rows = slice(start, min(start + _BLOCK_ROWS[device.type], len(queries)))
        block = products.of(rows)
        maxima = block.view(-1, groups, width).amax(1).add_(products.offset[rows])
        bounds = (maxima * longest).topk(min(3, width))
        torch.add(bounds.indices[:, :2, None], steps, out=candidates[rows])
        torch.gather(block, 1, candidates[rows].view(-1, 2 * groups), out=exact[rows])
        if width > 2:
            third[rows] = bounds.values[:, 2]
    places = candidates.view(-1, 2 * groups)
    values = exact.add_(products.offset).float()
    top = (values * inverse[places]).topk(2)
    columns, values = places.gather(1, top.indices), values.gather(1, top.indices)
    unsure = torch.nonzero(top.values[:, 1] < third)[:, 0]
    for rows in unsure.split(_BLOCK_ROWS[device.type]):
        all_values = queries[rows].float() @ padded.T.float()
        columns[rows] = (all_values * inverse).topk(2).indices
        values[rows] = all_values.gather(1, columns[rows])
    # padding is only ever among the two where its product is 0, as that of any other such target
    return order[columns].clamp_max(num - 1), values


def _inverse_lengths(descriptors: torch.Tensor) -> torch.Tensor:
    """1 / length of rows (N, D), float64; 0 for rows of zeros: they are at a right angle to all."""
    squares = descriptors.float().square().sum(1).double()
    return torch.where(squares > 0, squares.rsqrt(), squares)


class _Products:
    """Products of queries (N, D) and targets (M, D), exact whole numbers.

    Attributes:
        dtype: Of the numbers.
        offset: What to add to them, (N, 1).
    """

    def __init__(self, queries: torch.Tensor, targets: torch.Tensor) -> None:
        self._int8 = queries.device.type == "cpu" and int8_products_are_exact()
        if self._int8:
            small = _as_int8(queries, targets)
            self._queries, self._targets, self.offset = small.queries, small.targets, small.offset
        else:
            self._queries = queries.float()
            self._targets = targets.T.float().contiguous()
            self.offset = torch.zeros(len(queries), 1, device=queries.device)
        self.dtype = self.offset.dtype
        rows = min(_BLOCK_ROWS[queries.device.type], len(queries))
        self._buffer = torch.empty(rows, len(targets), dtype=self.dtype, device=queries.device)

    def of(self, rows: slice) -> torch.Tensor:
        """Numbers (B, M) of some queries, valid until the next call."""
        block = self._buffer[: rows.stop - rows.start]
        multiply = torch._int_mm if self._int8 else torch.mm
        multiply(self._queries[rows], self._targets, out=block)
        return block


@dataclass(frozen=True)
class _Int8:
    """Two sets of bytes shifted into int8.

    Attributes:
        queries: (N, K) int8.
        targets: (K, M) int8.
        offset: (N, 1) int32, what their products lack.
    """

    queries: torch.Tensor
    targets: torch.Tensor
    offset: torch.Tensor


def _as_int8(queries: torch.Tensor, targets: torch.Tensor) -> _Int8:
    """Shift bytes so far down that all fit, and append columns that make up for it.

    With a shift s, (q - s)(t - s) = q t - s sum(q) - s sum(t) + D s^2. The term of the targets
    needs columns of its own, in digits small enough for int8; that of the queries is an offset.
    """
    shift = max(0, int(queries.max()) - 127, int(targets.max()) - 127)
    if not shift:
        none = torch.zeros(len(queries), 1, dtype=torch.int32)
        return _Int8(queries.to(torch.int8), targets.T.contiguous().to(torch.int8), none)
    sums = shift * targets.sum(1, dtype=torch.int32)
    least = int(sums.min())
    tens, ones = (sums - least) // 127, (sums - least) % 127
    starts = torch.arange(0, int(tens.max()) + 1, 127, dtype=torch.int32)
    digits = torch.cat([(tens - starts[:, None]).clamp(0, 127), ones[None]])
    weights = torch.full((len(starts) + 1,), 127, dtype=torch.int8)
    weights[-1] = 1
    lowered = (queries.short() - shift).to(torch.int8)
    constant = least - queries.shape[1] * shift**2
    return _Int8(
        torch.cat([lowered, weights.expand(len(queries), -1)], 1),
        torch.cat([(targets.T.short() - shift).to(torch.int8), digits.to(torch.int8)]).contiguous(),
        shift * queries.sum(1, dtype=torch.int32)[:, None] + constant,
    )


@lru_cache(maxsize=1)
def int8_products_are_exact() -> bool:
    """Whether this CPU multiplies int8 fast and without overflow; older ones saturate."""
    if not torch.cpu._is_vnni_supported():
        return False
    extreme = torch.tensor([-128, 127], dtype=torch.int8).repeat_interleave(16)
    rows = extreme[:, None].repeat(1, 128)
    return torch.equal(torch._int_mm(rows, rows.T.contiguous()), rows.int() @ rows.T.int())
