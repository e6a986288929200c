"""Descriptor maps for tests: smooth, random, repetitive, with equals and with unusable entries."""

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


def generator(seed: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64(seed))


def smooth_pair(
    size0: tuple[int, int], size1: tuple[int, int], *, seed: int, dim: int = 24, noise: float = 0.25
) -> tuple[Tensor, Tensor]:
    """Two (H, W, d) unit-norm maps of one random field, the second warped, both with noise.

    The recipe of the golden numbers: per channel three plane waves of 9 to 60 pixels.
    """
    rng = generator(seed)
    wavelength = rng.uniform(9.0, 60.0, (dim, 3))
    direction = rng.uniform(0.0, 2 * np.pi, (dim, 3))
    phase = rng.uniform(0.0, 2 * np.pi, (dim, 3))
    maps = []
    for view, (height, width) in enumerate((size0, size1)):
        y, x = np.mgrid[0:height, 0:width].astype(np.float64)
        if view == 1:
            x, y = warp_1_to_0(x, y)
        field = np.zeros((height, width, dim))
        for wave in range(3):
            along = (
                np.cos(direction[:, wave]) * x[..., None]
                + np.sin(direction[:, wave]) * y[..., None]
            )
            field += np.sin(2 * np.pi / wavelength[:, wave] * along + phase[:, wave])
        maps.append(unit(field + noise * rng.standard_normal(field.shape)))
    return maps[0], maps[1]


def warp_1_to_0(
    x: NDArray[np.float64], y: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where pixel (x, y) of the second map of `smooth_pair` lies in the first."""
    return (
        0.80 * x + 0.05 * y - 5.0 + 2.0 * np.sin(y / 25.0),
        -0.04 * x + 0.82 * y + 3.0 + 1.5 * np.cos(x / 30.0),
    )


def unit(values: NDArray[np.float64]) -> Tensor:
    norm = np.linalg.norm(values, axis=-1, keepdims=True)
    return torch.from_numpy((values / np.where(norm > 0, norm, 1)).astype(np.float32))


def flat_pair(kind: str, num0: int, num1: int, dim: int, *, seed: int) -> tuple[Tensor, Tensor]:
    """Two lists of descriptors (N, d).

    ``random``: unit norm. ``scaled``: norms over six decades. ``near_ties``: copies of seven
    descriptors, apart by about one float32 rounding. ``duplicated``: multiples of 1/64, so that
    float32 is exact, drawn from few values. ``holes``: a third is zero, NaN or infinite.
    """
    rng = generator(seed)
    pair = []
    for count in (num0, num1):
        values = rng.standard_normal((count, dim))
        if kind == "near_ties":
            few = generator(1).standard_normal((7, dim))[rng.integers(0, 7, count)]
            values = few * (1 + 1e-7 * rng.standard_normal((count, dim)))
        desc = unit(values)
        if kind == "scaled":
            desc = desc * torch.from_numpy(10.0 ** rng.uniform(-3, 3, (count, 1))).float()
        if kind == "duplicated":
            desc = torch.from_numpy(rng.integers(-3, 4, (count, dim)) / 64.0).float()
        if kind == "holes" and count:
            desc[torch.from_numpy(rng.uniform(size=count) < 0.1)] = 0.0
            desc[torch.from_numpy(rng.uniform(size=count) < 0.1), -1] = torch.nan
            desc[torch.from_numpy(rng.uniform(size=count) < 0.1), 0] = -torch.inf
        pair.append(desc)
    return pair[0], pair[1]


def golden_pair() -> tuple[Tensor, Tensor]:
    """The maps of the golden numbers, (96, 128, 24) and (120, 160, 24).

    Entries are multiples of 1/4096 and norms just below one, so float32 products are exact.
    """
    rng = generator(7)
    wavelength = rng.uniform(9.0, 60.0, (24, 3))
    direction = rng.uniform(0.0, 2 * np.pi, (24, 3))
    phase = rng.uniform(0.0, 2 * np.pi, (24, 3))
    fx, fy = 2 * np.pi / wavelength * np.cos(direction), 2 * np.pi / wavelength * np.sin(direction)
    maps = []
    for view, size in enumerate(((96, 128), (120, 160))):
        y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(np.float64)
        if view == 1:
            x, y = warp_1_to_0(x, y)
        field = sum(
            np.sin(fx[:, wave] * x[..., None] + fy[:, wave] * y[..., None] + phase[:, wave])
            for wave in range(3)
        )
        field = field + 0.25 * rng.standard_normal((*size, 24))
        field = 0.98 * field / np.sqrt((field * field).sum(-1, keepdims=True))
        maps.append(torch.from_numpy((np.round(field * 4096) / 4096).astype(np.float32)))
    return maps[0], maps[1]


def golden_seeds(size: tuple[int, int]) -> Tensor:
    """A lattice of pixels (S, 2) x, y, the first twenty of them twice."""
    x, y = np.arange(size[1])[None, :], np.arange(size[0])[:, None]
    y, x = np.nonzero((3 * x + 5 * y) % 11 == 0)
    return torch.from_numpy(np.stack([np.r_[x, x[:20]], np.r_[y, y[:20]]], 1))


def chain_pair(num_chains: int = 16) -> tuple[Tensor, Tensor]:
    """Maps (20, 20 * num_chains, 2 * num_chains) on which walk k from a grid of step 20 takes k + 1
    rounds: points on circles, each nearest to the next; all other descriptors are zero.
    """
    maps = [np.zeros((20, 20 * num_chains, 2 * num_chains), np.float32) for _ in range(2)]
    for chain in range(num_chains):
        gaps = 0.05 - 0.0015 * np.arange(2 * chain + 1)
        angle = np.concatenate([[0.0], np.cumsum(gaps)])
        points = np.stack([np.cos(angle), np.sin(angle)], -1)
        column = 20 * chain + (10 + np.arange(chain + 1)) % 20
        for view in range(2):
            maps[view][10, column, 2 * chain : 2 * chain + 2] = points[view::2]
    return torch.from_numpy(maps[0]), torch.from_numpy(maps[1])
