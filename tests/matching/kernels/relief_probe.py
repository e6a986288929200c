"""A kernel around `matching.kernels.textures.relief_normal`; apart, as it imports Triton."""

import torch
import triton
import triton.language as tl

from matching.kernels.textures import relief_normal


@triton.jit
def _probe(normals, slopes, out, BLOCK: tl.constexpr):  # type: ignore[no-untyped-def]
    k = tl.arange(0, BLOCK)
    x, y, z = relief_normal(
        tl.load(normals + 3 * k), tl.load(normals + 3 * k + 1), tl.load(normals + 3 * k + 2),
        tl.load(slopes + 2 * k), tl.load(slopes + 2 * k + 1),
    )  # fmt: skip
    tl.store(out + 3 * k, x)
    tl.store(out + 3 * k + 1, y)
    tl.store(out + 3 * k + 2, z)


def bent(normals: torch.Tensor, slopes: torch.Tensor) -> torch.Tensor:
    """`relief_normal` of the kernel, of a power of two of normals (P, 3) and slopes (P, 2)."""
    out = torch.empty_like(normals)
    _probe[(1,)](normals, slopes, out, BLOCK=len(normals))
    return out
