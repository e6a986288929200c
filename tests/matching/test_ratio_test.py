"""`matching.ratio_test`: the search in blocks of bytes against a plain one."""

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from matching import ratio_test
from matching.ratio_test import int8_products_are_exact, mutual_ratio_matches, two_nearest

Bytes = NDArray[np.uint8]

SIZES = [(0, 5), (5, 0), (1, 1), (1, 2), (2, 1), (1, 70), (7, 3), (257, 130), (131, 401)]
SIZES += [(90, 31), (90, 32), (90, 33), (90, 47)]


@pytest.fixture(params=["int8", "float32"])
def products(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to multiply, in small blocks."""
    if request.param == "float32":
        monkeypatch.setattr(ratio_test, "int8_products_are_exact", lambda: False)
    elif not int8_products_are_exact():
        pytest.skip("this CPU has no exact int8 products")
    monkeypatch.setattr(ratio_test, "_BLOCK_ROWS", {"cpu": 10})
    return str(request.param)


def unit(descriptors: Bytes) -> NDArray[np.float64]:
    length = np.linalg.norm(descriptors.astype(float), axis=1, keepdims=True)
    return descriptors / np.maximum(length, 1e-9)


def plain_mutual_ratio_matches(
    descriptors0: Bytes, descriptors1: Bytes, max_ratio: float
) -> set[tuple[int, int]]:
    """The slow twin: one row at a time, in float64."""
    found: set[tuple[int, int]] = set()
    if len(descriptors1) < 2:
        return found
    distance = np.linalg.norm(unit(descriptors0)[:, None] - unit(descriptors1)[None], axis=2)
    for row, values in enumerate(distance):
        column, second = np.argsort(values, kind="stable")[:2]
        if distance[:, column].argmin() == row and values[column] < max_ratio * values[second]:
            found.add((row, int(column)))
    return found


def some_bytes(generator: np.random.Generator, num: int, dim: int, largest: int) -> Bytes:
    """Rows of very different lengths."""
    values = np.abs(generator.normal(size=(num, dim)))
    values *= generator.uniform(0.2, 1, (num, 1)) / np.maximum(values.max(1, keepdims=True), 1e-9)
    return np.round(values * largest).astype(np.uint8)


@pytest.mark.parametrize("num0, num1", SIZES)
@pytest.mark.parametrize("max_ratio", [0.8, 1.0])
@pytest.mark.parametrize("largest", [127, 180, 255])
def test_blocks_agree_with_plain_search(
    products: str, num0: int, num1: int, max_ratio: float, largest: int
) -> None:
    generator = np.random.default_rng(num0 + num1)
    descriptors1 = some_bytes(generator, num1, 16, largest)
    descriptors0 = some_bytes(generator, num0, 16, largest)
    shared = min(num0, num1) // 2  # half of them really correspond
    noise = generator.integers(-9, 10, (shared, 16))
    descriptors0[:shared] = (descriptors1[:shared] + noise).clip(0, largest)
    first, second = torch.from_numpy(descriptors0), torch.from_numpy(descriptors1)
    rows, columns, ratios = mutual_ratio_matches(first, second, max_ratio)
    found = set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert found == plain_mutual_ratio_matches(descriptors0, descriptors1, max_ratio)
    assert (ratios < max_ratio).all()
    assert rows.tolist() == sorted(rows.tolist())
    assert num0 < 100 or len(found) > 0


def test_products_are_exact(products: str) -> None:
    """The largest bytes there are, blocks that do not divide the rows, and rows of zeros."""
    generator = np.random.default_rng(1)
    queries = generator.choice([0, 1, 127, 128, 254, 255], (43, 128)).astype(np.uint8)
    targets = generator.choice([0, 1, 127, 128, 254, 255], (101, 128)).astype(np.uint8)
    queries[3], targets[5], queries[7], targets[11] = 0, 0, 255, 255
    columns, values = two_nearest(torch.from_numpy(queries), torch.from_numpy(targets))
    exact = queries.astype(np.int64) @ targets.T.astype(np.int64)
    np.testing.assert_array_equal(values, np.take_along_axis(exact, columns.numpy(), 1))
    cosines = np.sort(unit(queries) @ unit(targets).T, axis=1)[:, :-3:-1]
    inverse = 1 / np.maximum(np.linalg.norm(queries.astype(float), axis=1), 1e-9)
    lengths = np.maximum(np.linalg.norm(targets.astype(float), axis=1), 1e-9)
    mine = values.numpy() * inverse[:, None] / lengths[columns.numpy()]
    np.testing.assert_allclose(mine, cosines, atol=1e-6)


def test_targets_that_groups_hide_are_found(products: str) -> None:
    """Long and short targets in one group: its largest product says little about its nearest."""
    for seed in range(5):
        generator = np.random.default_rng(seed)
        queries = some_bytes(generator, 30, 32, 255)
        targets = (some_bytes(generator, 40, 32, 255) * np.float32(0.2)).astype(np.uint8)
        targets[:20] = 255 - targets[:20]  # long, and far from all
        columns, _ = two_nearest(torch.from_numpy(queries), torch.from_numpy(targets))
        cosines = unit(queries) @ unit(targets).T
        found = np.take_along_axis(cosines, columns.numpy(), 1)
        np.testing.assert_allclose(found, np.sort(cosines, axis=1)[:, :-3:-1], atol=1e-6)


def test_identical_descriptors_stay_one_to_one(products: str) -> None:
    different = torch.eye(4, dtype=torch.uint8) * 200
    rows, columns, _ = mutual_ratio_matches(different.repeat_interleave(2, 0), different, 0.9)
    assert rows.tolist() == [0, 2, 4, 6] and columns.tolist() == [0, 1, 2, 3]


def test_blank_descriptors_match_nothing(products: str) -> None:
    blank = torch.zeros(40, 128, dtype=torch.uint8)
    other = torch.full((50, 128), 7, dtype=torch.uint8)
    for first, second in ((blank, blank), (blank, other), (other, blank)):
        assert len(mutual_ratio_matches(first, second, 1.0)[0]) == 0


@pytest.mark.gpu
def test_device_finds_the_same() -> None:
    generator = np.random.default_rng(3)
    first, second = (torch.from_numpy(some_bytes(generator, n, 128, 180)) for n in (700, 5000))
    first[:300] = second[:300]
    found = mutual_ratio_matches(first, second, 0.8)
    on_device = mutual_ratio_matches(first.cuda(), second.cuda(), 0.8)
    for mine, other in zip(found[:2], on_device[:2], strict=True):
        assert torch.equal(mine, other.cpu())
    # of two equal descriptors the distance is 0 but for the last bit of their cosine
    torch.testing.assert_close(found[2], on_device[2].cpu(), atol=1e-6, rtol=1e-5)
