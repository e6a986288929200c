"""The rule by which golden weights and inputs are drawn, so that only outputs have to be stored.

Every tensor depends on nothing but its name and shape; see the golden files' own description.
"""

import re
import zlib
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

Float32Array = NDArray[np.float32]

_ALIAS = re.compile(r"scratch\.layer([1-4])_rn\.")
_NORM = re.compile(r"(^|\.)(norm\w*|\w+_norm)\.weight$")
_DECONVOLUTION = re.compile(r"act_postprocess\.[01]\.1\.weight$")
_RESIDUAL = re.compile(r"blocks2?\.\d+\.(attn\.proj|cross_attn\.proj|mlp\.fc2)$")


def canonical_name(name: str) -> str:
    """One name for the tensors that have two."""
    return _ALIAS.sub(lambda m: f"scratch.layer_rn.{int(m.group(1)) - 1}.", name)


def golden_param(name: str, shape: Iterable[int]) -> Float32Array:
    """The golden value of one parameter."""
    name = canonical_name(name)
    z = np.random.Generator(np.random.PCG64(zlib.crc32(name.encode()))).standard_normal(
        tuple(shape)
    )
    stem = name.rsplit(".", 1)[0]
    gain = 1.0
    if _RESIDUAL.search(stem):
        gain = 0.1
    elif stem in ("patch_embed.proj", "decoder_embed"):
        gain = 0.3
    if name == "mask_token":
        w = 0.02 * z
    elif z.ndim == 1:
        w = 1.0 + 0.05 * z if _NORM.search(name) else (0.05 * gain) * z
    else:
        fan_in = z.shape[0] if _DECONVOLUTION.search(name) else int(np.prod(z.shape[1:]))
        w = z * (gain / np.sqrt(float(fan_in)))
        if name.endswith(".attn.qkv.weight"):
            w[: 2 * (z.shape[0] // 3)] *= 2.0
        elif name.endswith((".cross_attn.projq.weight", ".cross_attn.projk.weight")) or re.search(
            r"act_postprocess\.[12]\.0\.weight$", name
        ):
            w *= 2.0
        elif name.endswith(".dpt.head.4.weight") or re.fullmatch(
            r"downstream_head[12]\.proj\.weight", name
        ):
            w *= 0.5
    return w.astype(np.float32)


def golden_image(seed: int, height: int, width: int) -> Float32Array:
    """(3, H, W) in [-1, 1]: a smooth coloured pattern plus pixel noise."""
    g = np.random.Generator(np.random.PCG64(seed))
    y, x = np.mgrid[0:height, 0:width].astype(np.float64)
    out = np.zeros((3, height, width))
    for channel in out:
        for _ in range(4):
            fx, fy, phase = g.uniform(-1.0, 1.0, 3)
            channel += 0.2 * np.sin(0.35 * fx * x + 0.35 * fy * y + np.pi * phase)
    out += 0.2 * g.uniform(-1.0, 1.0, (3, height, width))
    return np.clip(out, -1.0, 1.0).astype(np.float32)


def golden_images(seeds: Iterable[int], height: int, width: int) -> Float32Array:
    """(B, 3, H, W), one seed per image."""
    return np.stack([golden_image(seed, height, width) for seed in seeds])


def pattern_image(width: int, height: int) -> NDArray[np.uint8]:
    """(H, W, 3): triangle waves of different slopes per channel."""
    y, x = np.mgrid[0:height, 0:width].astype(np.int64)
    out = np.empty((height, width, 3), np.uint8)
    for c, (a, b, d) in enumerate([(3, 2, 37), (5, 1, 53), (2, 4, 29)]):
        t = (a * x + b * y + (x * y) // d + 40 * c) % 510
        out[..., c] = 255 - np.abs(t - 255)
    return out


def pointmap(
    seed: int,
    height: int,
    width: int,
    focal: float,
    pp: tuple[float, float],
    noise: float = 0.01,
    outliers: float = 0.15,
    zeros: float = 0.0,
) -> Float32Array:
    """(H, W, 3): a wavy surface seen with a focal length, a part replaced by wrong points."""
    g = np.random.Generator(np.random.PCG64(seed))
    v, u = np.mgrid[0:height, 0:width].astype(np.float64)
    z = 3.0 + np.sin(u / 17.0) + 0.7 * np.cos(v / 11.0)
    p = np.stack([(u - pp[0]) * z / focal, (v - pp[1]) * z / focal, z], -1)
    p *= 1.0 + noise * g.standard_normal((height, width, 3))
    select = g.uniform(0.0, 1.0, (height, width))
    xy = 1.5 * g.standard_normal((height, width, 2))
    wrong = np.concatenate([xy, g.uniform(1.0, 5.0, (height, width))[..., None]], -1)
    p = np.where((select < outliers)[..., None], wrong, p)
    p[select > 1.0 - zeros] = 0.0
    return p.astype(np.float32)
