"""Every search of `matching.reciprocal` against the plain reference, on each device there is."""

import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from matching import InputError, reference
from matching.reciprocal import (
    dense_matches,
    iterated_matches,
    nearest_neighbours,
    nearest_neighbours_many,
    refine_subpixel,
    seeded_matches,
)
from tests.matching.descriptor_fields import flat_pair, smooth_pair, unit, warp_1_to_0

DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]
SIZES = [(0, 5), (5, 0), (0, 0), (1, 1), (1, 9), (64, 65), (257, 130), (1009, 997)]
KINDS = ["random", "scaled", "near_ties", "duplicated", "holes"]


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    """These inputs are too small for several threads to help, and busy cores make them wait."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(params=DEVICES)
def device(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def numbers(tensor: Tensor) -> NDArray[np.float64]:
    return tensor.detach().cpu().double().numpy()


def assert_nearest(
    index: Tensor, similarity: Tensor, exact: NDArray[np.float64], rounding: NDArray[np.float64]
) -> None:
    """The indices are the float32 answer: within rounding of the best, and nowhere else.

    Args:
        exact: All similarities in float64, (N0, N1).
        rounding: Largest error of a float32 dot product of each row, (N0,).
    """
    found = index.cpu().numpy()
    assert found.shape == (len(exact),)
    usable = np.isfinite(exact).any(1) if exact.shape[1] else np.zeros(len(exact), bool)
    assert (found[~usable] == -1).all()
    assert np.isneginf(numbers(similarity)[~usable]).all()
    rows = np.flatnonzero(usable)
    assert (found[rows] >= 0).all()
    chosen = exact[rows, found[rows]]
    assert (chosen >= exact[rows].max(1, initial=-np.inf) - 2 * rounding[rows]).all()
    assert (np.abs(numbers(similarity)[rows] - chosen) <= rounding[rows]).all()


def rounding_of(desc0: Tensor, desc1: Tensor) -> NDArray[np.float64]:
    """d u |a| max |b|: the bound of a float32 dot product, doubled for its own evaluation."""
    norm0, norm1 = (
        np.nan_to_num(np.linalg.norm(numbers(d), axis=-1), posinf=0, neginf=0)
        for d in (desc0, desc1)
    )
    return (desc0.shape[-1] + 2) * 2.0**-23 * norm0 * norm1.max(initial=0.0)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("num0", "num1"), SIZES)
def test_both_directions_agree_with_reference(kind: str, num0: int, num1: int, device: str) -> None:
    desc0, desc1 = flat_pair(kind, num0, num1, 24, seed=num0 + num1)
    found = nearest_neighbours(desc0.to(device), desc1.to(device))
    exact = reference.similarities(desc0, desc1)
    assert_nearest(found.index01, found.similarity01, exact, rounding_of(desc0, desc1))
    assert_nearest(found.index10, found.similarity10, exact.T, rounding_of(desc1, desc0))
    if kind == "duplicated":  # exact arithmetic: the same indices, the lowest of equals
        assert (found.index01.cpu().numpy() == reference.nearest(exact)).all()
        assert (found.index10.cpu().numpy() == reference.nearest(exact.T)).all()
        rows0, rows1 = found.mutual()
        expected = reference.mutual(exact)
        assert (rows0.cpu().numpy() == expected[0]).all()
        assert (rows1.cpu().numpy() == expected[1]).all()


@pytest.mark.parametrize("dim", [1, 2, 3, 16, 24, 32, 33, 64, 80])
def test_every_dimension(dim: int, device: str) -> None:
    desc0, desc1 = flat_pair("random", 301, 211, dim, seed=dim)
    found = nearest_neighbours(desc0.to(device), desc1.to(device))
    exact = reference.similarities(desc0, desc1)
    assert_nearest(found.index01, found.similarity01, exact, rounding_of(desc0, desc1))
    assert_nearest(found.index10, found.similarity10, exact.T, rounding_of(desc1, desc0))


def test_200000_descriptors(device: str) -> None:
    desc0, desc1 = flat_pair("random", 200_000, 67, 24, seed=3)
    found = nearest_neighbours(desc0.to(device), desc1.to(device))
    exact = reference.similarities(desc0, desc1)
    assert_nearest(found.index01, found.similarity01, exact, rounding_of(desc0, desc1))
    assert_nearest(found.index10, found.similarity10, exact.T, rounding_of(desc1, desc0))


def test_equal_descriptors_go_to_the_lowest_index(device: str) -> None:
    desc, _ = flat_pair("random", 1511, 0, 24, seed=5)
    thrice = torch.cat([desc, desc, desc])
    found = nearest_neighbours(desc.to(device), thrice.to(device))
    assert found.index01.tolist() == list(range(len(desc)))
    assert found.index10.tolist() == list(range(len(desc))) * 3
    constant = torch.ones(700, 3)
    found = nearest_neighbours(constant.to(device), constant.to(device))
    assert found.index01.unique().tolist() == [0]


def test_all_similarities_negative(device: str) -> None:
    # Padding and unusable rows score zero on the way, above every true candidate.
    desc0 = torch.tensor([[1.0, 0.0], [0.9, 0.1]])
    desc1 = torch.tensor([[torch.nan, 1.0], [-1.0, 0.0], [0.0, 0.0], [-0.5, 0.0]])
    found = nearest_neighbours(desc0.to(device), desc1.to(device))
    assert found.index01.tolist() == [3, 3]
    assert found.index10.tolist() == [-1, 1, -1, 1]
    assert found.similarity01.tolist() == pytest.approx([-0.5, -0.45])


@pytest.mark.parametrize(
    ("scale0", "scale1"), [(1e-30, 1e30), (1e-35, 1.0), (3e37, 1.0), (1e-30, 1)]
)
def test_scale_does_not_matter(scale0: float, scale1: float, device: str) -> None:
    desc0, desc1 = flat_pair("random", 500, 411, 24, seed=6)
    plain = nearest_neighbours(desc0.to(device), desc1.to(device))
    # Powers of two change no digit.
    scale0, scale1 = (2.0 ** round(np.log2(scale)) for scale in (scale0, scale1))
    found = nearest_neighbours((desc0 * scale0).to(device), (desc1 * scale1).to(device))
    assert torch.equal(found.index01, plain.index01)
    assert torch.equal(found.index10, plain.index10)
    expected = plain.similarity01 * scale0 * scale1
    assert torch.allclose(found.similarity01, expected, rtol=1e-5, atol=0)


def test_half_precision_maps(device: str) -> None:
    desc0, desc1 = flat_pair("random", 130, 110, 24, seed=7)
    found = nearest_neighbours(desc0.half().to(device), desc1.half().to(device))
    exact = reference.similarities(desc0.half(), desc1.half())
    assert_nearest(found.index01, found.similarity01, exact, rounding_of(desc0, desc1))


def test_pairs_of_different_sizes(device: str) -> None:
    pairs = [flat_pair("random", n0, n1, 16, seed=n0) for n0, n1 in ((70, 300), (0, 4), (513, 64))]
    together = nearest_neighbours_many(
        [a.to(device) for a, _ in pairs], [b.to(device) for _, b in pairs]
    )
    for found, (desc0, desc1) in zip(together, pairs, strict=True):
        alone = nearest_neighbours(desc0.to(device), desc1.to(device))
        assert torch.equal(found.index01, alone.index01)
        assert torch.equal(found.index10, alone.index10)
    assert nearest_neighbours_many([], []) == []


@pytest.mark.parametrize("distance_px", [0.0, 1.0, 5.0, 500.0])
def test_second_best(distance_px: float, device: str) -> None:
    desc0, desc1 = smooth_pair((21, 33), (30, 41), seed=8)
    desc1[3:5] = 0.0
    desc0[0, 0] = torch.nan
    found = nearest_neighbours(desc0.to(device), desc1.to(device), second_best_px=distance_px)
    exact = reference.similarities(desc0, desc1)
    for matrix, width, second, index in (
        (exact, 41, found.second01, found.index01),
        (exact.T, 33, found.second10, found.index10),
    ):
        assert (index.cpu().numpy() == reference.nearest(matrix)).all()
        assert second is not None
        expected = reference.second_best(matrix, width, distance_px)
        np.testing.assert_allclose(numbers(second), expected, atol=1e-5)


@pytest.mark.parametrize("pixel_tol", [0.0, 1.0, 2.5])
def test_seeds_agree_with_reference(pixel_tol: float, device: str) -> None:
    sizes = [((30, 41), (27, 35)), ((64, 48), (17, 19)), ((9, 200), (40, 40)), ((31, 1), (29, 1))]
    pairs = [smooth_pair(*size, seed=i) for i, size in enumerate(sizes)]
    for number in (0, 3):
        pairs[number][0][10:20] = 0.0
    rng = np.random.default_rng(0)
    seeds = [
        torch.from_numpy(rng.integers(0, (d.shape[1], d.shape[0]), (count, 2)))
        for (d, _), count in zip(pairs, (150, 0, 333, 40), strict=True)
    ]
    maps0, maps1 = ([pair[side].to(device) for pair in pairs] for side in (0, 1))
    together = seeded_matches(maps0, maps1, [xy.to(device) for xy in seeds], pixel_tol=pixel_tol)
    from_cpu = seeded_matches(maps0, maps1, seeds, pixel_tol=pixel_tol)
    for found, same in zip(together, from_cpu, strict=True):
        assert torch.equal(found.xy1, same.xy1)
        assert torch.equal(found.kept, same.kept)
    for found, (desc0, desc1), xy0 in zip(together, pairs, seeds, strict=True):
        exact = reference.similarities(desc0, desc1)
        rows0 = (xy0[:, 1] * desc0.shape[1] + xy0[:, 0]).numpy()
        rows1 = reference.nearest(exact)[rows0]
        back = reference.nearest(exact.T)[rows1]
        expected = np.stack([rows1 % desc1.shape[1], rows1 // desc1.shape[1]], 1)
        expected[rows1 < 0] = -1
        assert (found.xy1.cpu().numpy() == expected).all()
        gap = np.hypot(
            back % desc0.shape[1] - xy0[:, 0].numpy(), back // desc0.shape[1] - xy0[:, 1].numpy()
        )
        kept = (gap == 0 if pixel_tol == 0 else gap < pixel_tol) & (rows1 >= 0)
        assert (found.kept.cpu().numpy() == kept).all()
        np.testing.assert_allclose(
            numbers(found.similarity), exact[rows0].max(1, initial=-np.inf), atol=1e-5
        )


@pytest.mark.parametrize("max_rounds", [1, 2, 10])
def test_iterated_scheme_agrees_with_reference(max_rounds: int, device: str) -> None:
    desc0, desc1 = smooth_pair((40, 53), (47, 38), seed=9)
    desc0[12:14, 10:30] = torch.nan
    xy0, xy1 = iterated_matches(desc0.to(device), desc1.to(device), step=4, max_rounds=max_rounds)
    y, x = np.mgrid[2:40:4, 2:53:4]
    exact = reference.similarities(desc0, desc1)
    expected = sorted(reference.iterated(exact, (y * 53 + x).ravel(), max_rounds))
    assert len(expected) > 20
    assert (xy0[:, 1] * 53 + xy0[:, 0]).tolist() == [row for row, _ in expected]
    assert (xy1[:, 1] * 38 + xy1[:, 0]).tolist() == [column for _, column in expected]


def test_iterated_scheme_ends_in_mutual_neighbours(device: str) -> None:
    desc0, desc1 = (desc.to(device) for desc in smooth_pair((60, 70), (66, 60), seed=10))
    dense = set(
        zip(*(rows.tolist() for rows in nearest_neighbours(desc0, desc1).mutual()), strict=True)
    )
    xy0, xy1 = iterated_matches(desc0, desc1, step=3)
    walked = set(
        zip(
            (xy0[:, 1] * 70 + xy0[:, 0]).tolist(),
            (xy1[:, 1] * 60 + xy1[:, 0]).tolist(),
            strict=True,
        )
    )
    assert len(walked) > 100
    assert walked <= dense


def test_iterated_scheme_without_any_match(device: str) -> None:
    nothing = torch.zeros(8, 8, 4, device=device)
    for desc0, desc1 in ((nothing, nothing), (nothing[:2, :2], nothing)):
        xy0, xy1 = iterated_matches(desc0, desc1, step=8)
        assert xy0.shape == xy1.shape == (0, 2)


def test_threads_change_nothing() -> None:
    desc0, desc1 = flat_pair("near_ties", 1100, 700, 24, seed=11)
    single = nearest_neighbours(desc0, desc1)
    torch.set_num_threads(2)
    double = nearest_neighbours(desc0, desc1)
    assert torch.equal(single.index01, double.index01)
    assert torch.equal(single.similarity10, double.similarity10)


def test_memory_on_the_cpu_is_bounded() -> None:
    """At most 256 MB beside the inputs, measured in a fresh process."""
    script = """
import resource, torch
from matching.reciprocal import nearest_neighbours, seeded_matches
torch.set_num_threads(1)
small, large = torch.randn(1500, 24), torch.randn(200_000, 24)
nearest_neighbours(small[:700], small[:700])  # loads the libraries
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
nearest_neighbours(small, large)
seeds = torch.zeros(300, 2, dtype=torch.long)
seeded_matches([small.view(30, 50, 24)], [large.view(400, 500, 24)], [seeds])
print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True
    )
    assert float(done.stdout) < 256


def test_dense_matches_are_mutual_and_sorted(device: str) -> None:
    desc0, desc1 = (desc.to(device) for desc in smooth_pair((40, 50), (44, 48), seed=12))
    found = dense_matches(desc0, desc1)
    rows0, rows1 = nearest_neighbours(desc0, desc1).mutual()
    expected = {
        (row0 % 50 + 0.5, row0 // 50 + 0.5, row1 % 48 + 0.5, row1 // 48 + 0.5)
        for row0, row1 in zip(rows0.tolist(), rows1.tolist(), strict=True)
    }
    both = torch.cat([found.keypoints0, found.keypoints1], 1)
    assert {tuple(row) for row in both.tolist()} == expected
    assert (found.scores.diff() <= 0).all()
    assert torch.equal(found.scores, found.similarity)
    few = dense_matches(desc0, desc1, max_matches=7, border_px=3)
    assert len(few.scores) == 7
    for keypoints, (width, height) in ((few.keypoints0, (50, 40)), (few.keypoints1, (48, 44))):
        limit = torch.tensor([width - 3, height - 3], device=device)
        assert ((keypoints > 3) & (keypoints < limit)).all()


def test_dense_matches_use_confidence(device: str) -> None:
    desc0, desc1 = (desc.to(device) for desc in smooth_pair((30, 30), (30, 30), seed=13))
    confidence0 = torch.rand(30, 30, device=device) + 0.1
    confidence1 = torch.rand(30, 30, device=device) + 0.1
    found = dense_matches(desc0, desc1, confidence0, confidence1, min_confidence=0.5)
    xy0, xy1 = found.keypoints0.long(), found.keypoints1.long()
    expected = (confidence0[xy0[:, 1], xy0[:, 0]] * confidence1[xy1[:, 1], xy1[:, 0]]).sqrt()
    assert torch.allclose(found.scores, expected)
    assert len(found.scores) and bool((found.scores >= 0.5).all())


def test_ratio_drops_repeated_structure(device: str) -> None:
    desc0, desc1 = (
        desc.to(device) for desc in smooth_pair((24, 60), (24, 60), seed=14, noise=0.05)
    )
    desc1[:, 30:] = desc1[:, :30]  # everything is there twice, 30 pixels apart
    kept = dense_matches(desc0, desc1, max_ratio=0.9, ratio_distance_px=5.0)
    assert len(dense_matches(desc0, desc1).scores) > 50
    assert len(kept.scores) == 0


def test_subpixel_recovers_a_fractional_shift(device: str) -> None:
    rng = np.random.default_rng(0)
    wave = rng.uniform(-0.5, 0.5, (24, 2))
    phase = rng.uniform(0, 2 * np.pi, 24)
    shift = np.array([0.37, -0.22])
    y, x = np.mgrid[0:30, 0:40].astype(np.float64)
    desc0 = unit(np.sin(x[..., None] * wave[:, 0] + y[..., None] * wave[:, 1] + phase))
    x, y = x - shift[0], y - shift[1]
    desc1 = unit(np.sin(x[..., None] * wave[:, 0] + y[..., None] * wave[:, 1] + phase))
    grid = torch.from_numpy(np.stack(np.mgrid[5:35:3, 5:25:3], -1).reshape(-1, 2)).to(device)
    xy0, xy1 = refine_subpixel(desc0.to(device), desc1.to(device), grid, grid)
    error = (numbers(xy1 - xy0) - shift).__abs__().max(0)
    assert (error < 0.1).all()
    assert (numbers((xy0 - grid - 0.5).abs()).max(0) <= 0.5).all()


def test_subpixel_leaves_borders_and_flat_surfaces(device: str) -> None:
    desc = torch.ones(5, 5, 3, device=device)
    xy = torch.tensor([[0, 0], [4, 2], [2, 2]], device=device)
    xy0, xy1 = refine_subpixel(desc, desc, xy, xy)
    assert torch.equal(xy0, xy + 0.5)
    assert torch.equal(xy1, xy + 0.5)
    rough = torch.randn(5, 5, 3, generator=torch.Generator().manual_seed(0)).to(device)
    inner = torch.tensor([[x, y] for x in range(1, 4) for y in range(1, 4)], device=device)
    for moved in refine_subpixel(rough, rough.flip(0), inner, inner):
        assert bool(((moved - inner - 0.5).abs() <= 0.5 + 1e-6).all())
    none = refine_subpixel(desc, desc, xy[:0], xy[:0])
    assert none[0].shape == none[1].shape == (0, 2)


def test_dense_subpixel_is_closer_to_the_truth(device: str) -> None:
    desc0, desc1 = smooth_pair((60, 80), (60, 80), seed=15, noise=0.05)
    errors = {}
    for subpixel in (False, True):
        found = dense_matches(desc0.to(device), desc1.to(device), subpixel=subpixel, border_px=2)
        keypoints0, keypoints1 = numbers(found.keypoints0), numbers(found.keypoints1) - 0.5
        truth = np.stack(warp_1_to_0(keypoints1[:, 0], keypoints1[:, 1]), 1) + 0.5
        errors[subpixel] = np.median(np.linalg.norm(keypoints0 - truth, axis=1))
    assert errors[True] < 0.75 * errors[False]


def test_wrong_input_is_refused() -> None:
    flat, grid = torch.ones(4, 3), torch.ones(2, 2, 3)
    with pytest.raises(InputError, match="one dimension"):
        nearest_neighbours(flat, torch.ones(4, 2))
    with pytest.raises(InputError, match="floating-point"):
        nearest_neighbours(flat.long(), flat)
    with pytest.raises(InputError, match="not pairs"):
        nearest_neighbours_many([flat], [])
    with pytest.raises(InputError, match=r"\(H, W, d\)"):
        seeded_matches([flat], [flat], [torch.zeros(1, 2, dtype=torch.long)])
    with pytest.raises(InputError, match="outside its 2 x 2"):
        seeded_matches([grid], [grid], [torch.tensor([[0, 2]])])
    with pytest.raises(InputError, match="integer x, y"):
        seeded_matches([grid], [grid], [torch.zeros(1, 2)])
    with pytest.raises(InputError, match="second_best_px"):
        nearest_neighbours(flat, flat, second_best_px=-1.0)
    with pytest.raises(InputError, match="step"):
        iterated_matches(grid, grid, step=0)
    with pytest.raises(InputError, match="both maps, or neither"):
        dense_matches(grid, grid, torch.ones(2, 2))
    with pytest.raises(InputError, match="confidence1"):
        dense_matches(grid, grid, torch.ones(2, 2), torch.ones(3, 2))
