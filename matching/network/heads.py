"""Heads: tokens of a view to point maps and descriptors.

Point maps by DPT (Ranftl et al. 2021, arXiv 2103.13413) or by a linear layer, descriptors by an MLP
on the tokens (MASt3R, Leroy et al. 2024, arXiv 2406.09756). A head is called with the tokens of the
encoder (index 0) and of the decoder blocks that it names in ``hooks``.

The last layer of each head gives float32 whatever the precision of the others.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matching.network.config import NetworkConfig
from matching.network.prediction import (
    Prediction,
    Want,
    activate_confidence,
    activate_descriptors,
    activate_points,
)

DPT_CHANNELS = (96, 192, 384, 768)  # per hook, fine to coarse
DPT_FEATURES = 256


def upsample2(x: Tensor) -> Tensor:
    """Bilinear, factor 2, the corners' pixel centres kept in place."""
    return F.interpolate(x, scale_factor=2.0, mode="bilinear", align_corners=True)


class ResidualConvUnit(nn.Module):
    """Two 3x3 convolutions added to their input."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (B, C, H, W). Returns the same shape."""
        return x + self.conv2(F.relu(self.conv1(F.relu(x))))


class Fusion(nn.Module):
    """Adds a finer level to a coarser one and doubles the resolution."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.out_conv = nn.Conv2d(channels, channels, 1)
        self.resConfUnit1 = ResidualConvUnit(channels)
        self.resConfUnit2 = ResidualConvUnit(channels)

    def forward(self, x: Tensor, finer: Tensor | None = None) -> Tensor:
        """Args: x, finer: (B, C, H, W). Returns (B, C, 2H, 2W)."""
        if finer is not None:
            x = x + self.resConfUnit1(finer)
        # the 1x1 convolution commutes with the upsampling and costs a quarter before it
        return upsample2(self.out_conv(self.resConfUnit2(x)))


class _Scratch(nn.Module):
    """Only the published names: each of the four convolutions has two."""

    def __init__(self) -> None:
        super().__init__()
        self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn = (
            nn.Conv2d(channels, DPT_FEATURES, 3, padding=1, bias=False) for channels in DPT_CHANNELS
        )
        self.layer_rn = nn.ModuleList(
            (self.layer1_rn, self.layer2_rn, self.layer3_rn, self.layer4_rn)
        )
        self.refinenet1, self.refinenet2, self.refinenet3, self.refinenet4 = (
            Fusion(DPT_FEATURES) for _ in DPT_CHANNELS
        )


class Dpt(nn.Module):
    """Four token lists of one resolution to a dense map."""

    def __init__(self, enc_dim: int, dec_dim: int, out_channels: int) -> None:
        super().__init__()
        c0, c1, c2, c3 = DPT_CHANNELS
        self.scratch = _Scratch()
        self.head = nn.Sequential(
            nn.Conv2d(DPT_FEATURES, DPT_FEATURES // 2, 3, padding=1),
            nn.UpsamplingBilinear2d(scale_factor=2),  # aligns corners
            nn.Conv2d(DPT_FEATURES // 2, 128, 3, padding=1),
            nn.ReLU(inplace=True),
            nn.Conv2d(128, out_channels, 1),
        )
        self.act_postprocess = nn.ModuleList(
            (
                nn.Sequential(nn.Conv2d(enc_dim, c0, 1), nn.ConvTranspose2d(c0, c0, 4, 4)),
                nn.Sequential(nn.Conv2d(dec_dim, c1, 1), nn.ConvTranspose2d(c1, c1, 2, 2)),
                nn.Sequential(nn.Conv2d(dec_dim, c2, 1)),
                nn.Sequential(nn.Conv2d(dec_dim, c3, 1), nn.Conv2d(c3, c3, 3, 2, 1)),
            )
        )

    def forward(self, tokens: list[Tensor], height: int, width: int) -> Tensor:
        """The raw map of four levels of tokens.

        Args:
            tokens: Fine to coarse, four times (B, N, C).
            height: Rows of the token grid.
            width: Columns of the token grid.

        Returns:
            (B, out_channels, 16 * height, 16 * width), float32.
        """
        scratch = self.scratch
        dtype = scratch.layer1_rn.weight.dtype
        levels = []
        for level, postprocess, reduce in zip(
            tokens, self.act_postprocess, scratch.layer_rn, strict=True
        ):
            # a transposed view of the tokens: channels last, which convolutions on GPUs prefer
            grid = level.to(dtype).transpose(1, 2).unflatten(2, (height, width))
            levels.append(reduce(postprocess(grid)))
        x = scratch.refinenet4(levels[3])[:, :, :height, :width]  # odd grids: one too many
        x = scratch.refinenet3(x, levels[2])
        x = scratch.refinenet2(x, levels[1])
        x = scratch.refinenet1(x, levels[0])
        *body, last = self.head
        for layer in body:
            x = layer(x)
        return last(x.to(last.weight.dtype)).float()


class Head(nn.Module, ABC):
    """Interface of the heads."""

    @abstractmethod
    def wanted_hooks(self, want: Want) -> tuple[int, ...]:
        """Indices of the token lists that the wanted outputs are made of."""

    def float32_layers(self) -> tuple[nn.Module, ...]:
        """Layers that give final values and stay in float32 when the others are cast."""
        return ()

    def blocks(self) -> tuple[nn.Module, ...]:
        """Parts from tensors to tensors, see `PairNetwork.blocks`."""
        return ()

    @abstractmethod
    def forward(
        self,
        tokens: Mapping[int, Tensor],
        extras: Mapping[str, Tensor],
        height: int,
        width: int,
        want: Want,
    ) -> Prediction:
        """Compute what is wanted.

        Args:
            tokens: Encoder tokens at 0, decoder block k at k, (B, N, C).
            extras: `Encoding.extras`, of networks with more than tokens.
            height: Rows of the token grid.
            width: Columns of the token grid.
            want: What to compute.
        """


class PointHead(Head):
    """Point map and confidence by DPT."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        depth = config.dec_depth
        self.config = config
        self.hooks = (0, depth * 2 // 4, depth * 3 // 4, depth)
        self.dpt = Dpt(config.enc_embed_dim, config.dec_embed_dim, 4)

    def wanted_hooks(self, want: Want) -> tuple[int, ...]:
        """See `Head.wanted_hooks`."""
        return self.hooks if want.pointmap else ()

    def float32_layers(self) -> tuple[nn.Module, ...]:
        """See `Head.float32_layers`."""
        return (self.dpt.head[-1],)

    def forward(
        self,
        tokens: Mapping[int, Tensor],
        extras: Mapping[str, Tensor],
        height: int,
        width: int,
        want: Want,
    ) -> Prediction:
        """See `Head.forward`."""
        if not want.pointmap:
            return Prediction()
        raw = self.dpt([tokens[hook] for hook in self.hooks], height, width)
        return points_and_confidence(raw, self.config)


class LinearHead(Head):
    """Point map and confidence by one linear layer per token."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self.proj = nn.Linear(config.dec_embed_dim, 4 * config.patch_size**2)

    def wanted_hooks(self, want: Want) -> tuple[int, ...]:
        """See `Head.wanted_hooks`."""
        return (self.config.dec_depth,) if want.pointmap else ()

    def forward(
        self,
        tokens: Mapping[int, Tensor],
        extras: Mapping[str, Tensor],
        height: int,
        width: int,
        want: Want,
    ) -> Prediction:
        """See `Head.forward`."""
        if not want.pointmap:
            return Prediction()
        last = tokens[self.config.dec_depth]
        raw = float32_linear(last.to(self.proj.weight.dtype), self.proj.weight, self.proj.bias)
        grid = raw.transpose(1, 2).unflatten(2, (height, width))
        return points_and_confidence(F.pixel_shuffle(grid, self.config.patch_size), self.config)


class LocalFeatures(nn.Module):
    """An MLP of encoder and last decoder tokens to one vector per pixel of the patch."""

    def __init__(self, width: int, channels: int, patch_size: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(width, 4 * width)
        self.fc2 = nn.Linear(4 * width, channels * patch_size**2)
        self.channels = channels
        self.patch_size = patch_size

    def forward(self, tokens: Tensor, last: Tensor, height: int, width: int) -> Tensor:
        """Raw vectors of all pixels.

        Args:
            tokens: Encoder tokens in the layers' dtype, (B, N, E).
            last: Tokens of the last decoder block, (B, N, D).
            height: Rows of the token grid.
            width: Columns of the token grid.

        Returns:
            (B, H, W, channels) float32.
        """
        raw = float32_linear(self._hidden(tokens, last), self.fc2.weight, self.fc2.bias)
        raw = raw.unflatten(2, (self.channels, self.patch_size, self.patch_size))
        raw = raw.unflatten(1, (height, width)).permute(0, 1, 4, 2, 5, 3)
        return raw.flatten(3, 4).flatten(1, 2)

    def at_pixels(self, tokens: Tensor, last: Tensor, pixels: Tensor, width: int) -> Tensor:
        """Raw vectors of the given pixels only.

        A pixel needs the rows of the last layer that belong to its place inside the patch, so
        pixels are grouped by that place: one small matrix product per place instead of all
        outputs of every token.

        Args:
            tokens: Encoder tokens in the layers' dtype, (B, N, E).
            last: Tokens of the last decoder block, (B, N, D).
            pixels: (B, M, 2) int64 x, y.
            width: Columns of the token grid.

        Returns:
            (B, M, channels) float32.
        """
        patch = self.patch_size
        hidden = self._hidden(tokens, last)
        batch, number = pixels.shape[:2]
        x, y = pixels.reshape(-1, 2).unbind(-1)
        items = torch.arange(batch, device=pixels.device).repeat_interleave(number)
        rows = items * hidden.shape[1] + (y // patch) * width + x // patch
        place = (y % patch) * patch + x % patch
        weight = self.fc2.weight.unflatten(0, (self.channels, patch * patch))
        bias = self.fc2.bias.unflatten(0, (self.channels, patch * patch))
        raw = torch.empty(batch * number, self.channels, device=hidden.device)
        order = place.argsort(stable=True)
        places, counts = place[order].unique_consecutive(return_counts=True)
        source = hidden.flatten(0, 1)
        for group, p in zip(order.split(counts.tolist()), places.tolist(), strict=True):
            raw[group] = float32_linear(source[rows[group]], weight[:, p], bias[:, p])
        return raw.unflatten(0, (batch, number))

    def _hidden(self, tokens: Tensor, last: Tensor) -> Tensor:
        return F.gelu(self.fc1(torch.cat((tokens, last), -1)))


class PointAndDescriptorHead(PointHead):
    """MASt3R's head: DPT, and descriptors by an MLP of encoder and last decoder tokens."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__(config)
        self.head_local_features = LocalFeatures(
            config.enc_embed_dim + config.dec_embed_dim,
            config.desc_dim + config.two_confs,
            config.patch_size,
        )

    def wanted_hooks(self, want: Want) -> tuple[int, ...]:
        """See `Head.wanted_hooks`."""
        hooks = set(super().wanted_hooks(self._wanted_points(want)))
        if want.descriptors:
            hooks |= {0, self.config.dec_depth}
        return tuple(sorted(hooks))

    def blocks(self) -> tuple[nn.Module, ...]:
        """See `Head.blocks`; compiling DPT for all shapes takes a minute and gains a tenth."""
        return (self.head_local_features,)

    def forward(
        self,
        tokens: Mapping[int, Tensor],
        extras: Mapping[str, Tensor],
        height: int,
        width: int,
        want: Want,
    ) -> Prediction:
        """See `Head.forward`."""
        config = self.config
        points = super().forward(tokens, extras, height, width, self._wanted_points(want))
        if not want.descriptors:
            return points
        dtype = self.head_local_features.fc1.weight.dtype
        # one dtype and layout, so that the compiled part is compiled once
        first, last = (tokens[hook].to(dtype).contiguous() for hook in (0, config.dec_depth))
        if want.pixels is None:
            raw = self.head_local_features(first, last, height, width)
        else:
            raw = self.head_local_features.at_pixels(first, last, want.pixels, width)
        confidence = points.confidence
        if config.two_confs:
            mode = config.desc_conf_mode or config.conf_mode
            confidence = activate_confidence(raw[..., config.desc_dim], mode)
        elif want.pixels is not None:
            assert confidence is not None
            items = torch.arange(len(confidence), device=raw.device)[:, None]
            confidence = confidence[items, want.pixels[..., 1], want.pixels[..., 0]]
        return Prediction(
            pointmap=points.pointmap if want.pointmap else None,
            confidence=points.confidence if want.pointmap else None,
            descriptors=activate_descriptors(raw[..., : config.desc_dim]),
            descriptor_confidence=confidence,
        )

    def _wanted_points(self, want: Want) -> Want:
        """Without a confidence of their own the descriptors share the points' one."""
        return Want(pointmap=want.pointmap or (want.descriptors and not self.config.two_confs))


def points_and_confidence(raw: Tensor, config: NetworkConfig) -> Prediction:
    """Activated points and confidence of a raw map (B, 4, H, W), float32."""
    raw = raw.permute(0, 2, 3, 1)
    return Prediction(
        pointmap=activate_points(raw[..., :3]),
        confidence=activate_confidence(raw[..., 3], config.conf_mode),
    )


def float32_linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """A linear layer whose sums are not rounded to half precision on the way out.

    Args:
        x: (..., K), float32 or half.
        weight: (N, K) in the dtype of ``x``.
        bias: (N,).

    Returns:
        (..., N) float32.
    """
    if weight.dtype == torch.float32 or not x.is_cuda:
        return F.linear(x, weight, bias.to(weight.dtype)).float()
    product = torch.mm(x.flatten(0, -2), weight.t(), out_dtype=torch.float32)
    return product.add_(bias.float()).unflatten(0, x.shape[:-1])
