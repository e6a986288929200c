"""Transformer blocks of the family: rotary positions, attention, encoder and decoder blocks.

Written from the papers: rotary embedding (Su et al. 2021, arXiv 2104.09864) in two dimensions as in
CroCo v2 (Weinzaepfel et al. 2023, arXiv 2211.10408); decoders that exchange information in every
block as in DUSt3R (Wang et al. 2024, arXiv 2312.14132).

Precision: linear layers may be stored in half precision, LayerNorms and the residual stream stay in
float32, so that twenty-four blocks do not add up their rounding. In float32 no cast does anything.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F

LAYER_NORM_EPS = 1e-6


class Rope(NamedTuple):
    """Rotation of every token's queries and keys, float32.

    Attributes:
        cos: Cosines, (1 or B, N, 1, head_dim).
        sin: Sines with the sign of the rotation, (1 or B, N, 1, head_dim).
    """

    cos: Tensor
    sin: Tensor


def grid_positions(height: int, width: int, device: torch.device | str | None = None) -> Tensor:
    """(row, column) of every token of a grid, row-major, (height * width, 2) int64."""
    rows = torch.arange(height, device=device)
    columns = torch.arange(width, device=device)
    return torch.stack(torch.meshgrid(rows, columns, indexing="ij"), -1).reshape(-1, 2)


def rope_table(positions: Tensor, head_dim: int, base: float) -> Rope:
    """The rotations of tokens at given grid positions.

    The first half of a head's channels turns with the row, the second with the column; inside a
    half, channel j pairs with channel j + head_dim / 4.

    Args:
        positions: (row, column), (N, 2) or (B, N, 2).
        head_dim: Channels of one attention head, a multiple of 4.
        base: Base of the frequencies.
    """
    quarter = head_dim // 4
    exponents = torch.arange(quarter, device=positions.device, dtype=torch.float32) / quarter
    angles = positions.float()[..., None] / base**exponents  # (..., N, 2, quarter)
    cos, sin = angles.cos(), angles.sin()
    cos = torch.stack((cos, cos), -2).flatten(-3)  # (..., N, head_dim)
    sin = torch.stack((-sin, sin), -2).flatten(-3)
    if positions.ndim == 2:
        cos, sin = cos[None], sin[None]
    return Rope(cos[:, :, None], sin[:, :, None])


def rotate(x: Tensor, rope: Rope) -> Tensor:
    """Apply rotary positions to queries or keys, (B, N, heads, head_dim)."""
    swapped = x.unflatten(-1, (2, 2, x.shape[-1] // 4)).flip(-2).flatten(-3)
    return (x * rope.cos + swapped * rope.sin).to(x.dtype)


class Norm(nn.LayerNorm):
    """LayerNorm in float32 that hands its result on in the dtype of the layer that follows."""

    def __init__(self, width: int) -> None:
        super().__init__(width, eps=LAYER_NORM_EPS)

    def into(self, x: Tensor, layer: nn.Linear) -> Tensor:
        """The normalised ``x`` in the dtype of the weights of ``layer``."""
        return self(x).to(layer.weight.dtype)


class Attention(nn.Module):
    """Self attention with rotary positions."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """Args: x: (B, N, width). Returns the same shape."""
        heads = self.num_heads
        qkv = self.qkv(x).unflatten(-1, (3 * heads, -1))  # (B, N, 3 * heads, d)
        q, k = rotate(qkv[:, :, : 2 * heads], rope).unflatten(2, (2, heads)).unbind(2)
        return self.proj(attend(q, k, qkv[:, :, 2 * heads :]))


class CrossAttention(nn.Module):
    """Attention of one view's tokens to the other view's, with rotary positions of both."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.projq = nn.Linear(width, width)
        self.projk = nn.Linear(width, width)
        self.projv = nn.Linear(width, width)
        self.proj = nn.Linear(width, width)

    def forward(self, x: Tensor, memory: Tensor, rope: Rope, memory_rope: Rope) -> Tensor:
        """Args: x: (B, N, width); memory: (B, M, width). Returns (B, N, width)."""
        q = self.projq(x).unflatten(-1, (self.num_heads, -1))  # (B, N, heads, d)
        k = self.projk(memory).unflatten(-1, (self.num_heads, -1))
        v = self.projv(memory).unflatten(-1, (self.num_heads, -1))
        return self.proj(attend(rotate(q, rope), rotate(k, memory_rope), v))


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Softmax attention per head: (B, N, heads, d) and twice (B, M, heads, d) -> (B, N, width)."""
    out = F.scaled_dot_product_attention(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2))
    return out.transpose(1, 2).flatten(2)


class Mlp(nn.Module):
    """Two linear layers with the exact (erf) GELU between them."""

    def __init__(self, width: int, hidden: int, out: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, hidden)
        self.fc2 = nn.Linear(hidden, out)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (..., width). Returns (..., out)."""
        return self.fc2(F.gelu(self.fc1(x)))


class EncoderBlock(nn.Module):
    """Pre-norm transformer block."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = Norm(width)
        self.attn = Attention(width, num_heads)
        self.norm2 = Norm(width)
        self.mlp = Mlp(width, mlp_ratio * width, width)

    def forward(self, x: Tensor, rope: Rope) -> Tensor:
        """Args: x: (B, N, width), float32. Returns the same."""
        x = x + self.attn(self.norm1.into(x, self.attn.qkv), rope)
        return x + self.mlp(self.norm2.into(x, self.mlp.fc1))


class DecoderBlock(nn.Module):
    """Pre-norm block that also attends to the other view's tokens."""

    def __init__(self, width: int, num_heads: int, mlp_ratio: int = 4) -> None:
        super().__init__()
        self.norm1 = Norm(width)
        self.attn = Attention(width, num_heads)
        self.cross_attn = CrossAttention(width, num_heads)
        self.norm2 = Norm(width)
        self.norm3 = Norm(width)
        self.mlp = Mlp(width, mlp_ratio * width, width)
        self.norm_y = Norm(width)

    def forward(self, x: Tensor, memory: Tensor, rope: Rope, memory_rope: Rope) -> Tensor:
        """Args: x: (B, N, width), float32; memory: (B, M, width). Returns (B, N, width)."""
        x = x + self.attn(self.norm1.into(x, self.attn.qkv), rope)
        memory = self.norm_y.into(memory, self.cross_attn.projk)
        query = self.norm2.into(x, self.cross_attn.projq)
        x = x + self.cross_attn(query, memory, rope, memory_rope)
        return x + self.mlp(self.norm3.into(x, self.mlp.fc1))
