"""groundloc's own small network of the MASt3R family, for CPUs and for real-time use.

What it shares with the family: an encoder that sees one image, decoders that look at both through
cross attention, and heads for point maps in camera 0, descriptors and confidences. What differs:

* A convolutional stem down to 1/16 feeds the encoder, and what it saw at 1/2, 1/4 and 1/8 goes
  straight to the head (skips). Trained from nothing on little, plain patches stay at chance where
  the stem takes off.
* Both views share one decoder and one head; an embedding tells view 0 from view 1.
* Descriptors live on a grid of 1/2 the resolution and are smooth in between: no layer runs at full
  resolution, and matches are placed between pixels by `matching.descriptor_grid`.
* A global descriptor for retrieval is pooled from the encoder's tokens.
"""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from matching.descriptor_grid import pixels_to_cells, sample_bilinear
from matching.errors import InputError
from matching.network.blocks import DecoderBlock, EncoderBlock, Norm
from matching.network.config import NetworkConfig
from matching.network.model import Encoding, PairNetwork
from matching.network.prediction import (
    EVERYTHING,
    Prediction,
    Want,
    activate_confidence,
    activate_points,
)

GLOBAL_DIM = 256  # channels of the global descriptor

_STEM = (32, 64, 128)  # channels at 1/2, 1/4, 1/8
_SKIPS = (16, 32, 64)  # channels of these that are kept for the head
_HEAD = (32, 64, 128)  # channels of the head at 1/2, 1/4, 1/8
_MAX_LOG_DEPTH = 8.0  # bounds expm1 of the points' norm; e^8 is far beyond any scene
_MAX_LOG_CONFIDENCE = 10.0


def small_config() -> NetworkConfig:
    """The configuration of the bundled model."""
    return NetworkConfig(
        architecture="GroundlocSmall",
        img_size=(384, 512),
        enc_embed_dim=256,
        enc_depth=6,
        enc_num_heads=4,
        dec_embed_dim=192,
        dec_depth=6,
        dec_num_heads=3,
        head_type="small",
        output_mode="pts3d+desc24",
        desc_conf_mode=("exp", 0.0, float("inf")),
        two_confs=True,
        landscape_only=False,
    )


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of each pixel; no statistics over pixels, so one fused pass."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (B, C, H, W), best channels-last in memory. Returns the same."""
        last = x.permute(0, 2, 3, 1)
        weight, bias = self.weight.to(x.dtype), self.bias.to(x.dtype)
        # autocast would write float32 to memory; the kernel sums in float32 whatever it is given
        with torch.autocast(x.device.type, enabled=False):
            normed = F.layer_norm(last, last.shape[-1:], weight, bias, eps=1e-5)
        return normed.permute(0, 3, 1, 2)


class ConvBlock(nn.Module):
    """Convolution, norm where asked for, GELU.

    Norms cost as much as the convolutions at 1/2 and 1/4 of the resolution; there, careful starting
    weights and the residual blocks' gain keep the scale instead.
    """

    def __init__(
        self, inputs: int, outputs: int, *, kernel: int = 3, stride: int = 1, norm: bool = False
    ) -> None:
        super().__init__()
        padding = (kernel - 1) // 2
        self.conv = nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=not norm)
        self.norm = ChannelNorm(outputs) if norm else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (B, inputs, H, W). Returns (B, outputs, H / stride, W / stride)."""
        return F.gelu(self.norm(self.conv(x)))


class ResidualBlock(nn.Module):
    """Adds the result of ``depth`` convolutions, little at the start."""

    def __init__(self, channels: int, *, depth: int, norm: bool = False) -> None:
        super().__init__()
        self.body = nn.Sequential(
            *(ConvBlock(channels, channels, norm=norm) for _ in range(depth - 1))
        )
        self.conv = nn.Conv2d(channels, channels, 3, padding=1)
        self.gain = nn.Parameter(torch.full((channels, 1, 1), 0.2))

    def forward(self, x: Tensor) -> Tensor:
        """Args: x: (B, channels, H, W). Returns the same shape."""
        return F.gelu(x + self.gain.to(x.dtype) * self.conv(self.body(x)))


def _product_dtype(layer: nn.Conv2d) -> torch.dtype:
    """What a layer multiplies in: autocast's dtype where that is on, else that of its weights."""
    kind = layer.weight.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else layer.weight.dtype


class Stem(nn.Module):
    """Image to tokens at 1/16 and skip features at 1/2, 1/4 and 1/8."""

    def __init__(self, width: int) -> None:
        super().__init__()
        half, quarter, eighth = _STEM
        self.first = ConvBlock(3, half, kernel=4, stride=2)
        self.stage2 = ResidualBlock(half, depth=1)
        self.stage4 = nn.Sequential(
            ConvBlock(half, quarter, stride=2), ResidualBlock(quarter, depth=2)
        )
        self.stage8 = nn.Sequential(
            ConvBlock(quarter, eighth, stride=2, norm=True),
            ResidualBlock(eighth, depth=2, norm=True),
        )
        self.stage16 = nn.Conv2d(eighth, width, 3, stride=2, padding=1)
        self.skips = nn.ModuleList(
            nn.Conv2d(inputs, outputs, 1) for inputs, outputs in zip(_STEM, _SKIPS, strict=True)
        )

    def forward(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Args: images: (B, 3, H, W) float32 in [-1, 1]. Returns tokens (B, N, width) and skips."""
        # exposure and contrast of the whole image are no cue: remove them once, at the input
        deviation, mean = torch.std_mean(images, dim=(1, 2, 3), keepdim=True, correction=0)
        x = ((images - mean) / (deviation + 0.05)).contiguous(memory_format=torch.channels_last)
        # in half precision the image would lose what faint texture it has; its gradients do not
        with torch.autocast(x.device.type, enabled=False):
            x = self.first(x)
        half = self.stage2(x.to(_product_dtype(self.stage16)))
        quarter = self.stage4(half)
        eighth = self.stage8(quarter)
        tokens = self.stage16(eighth).flatten(2).transpose(1, 2).float()  # (B, N, width)
        to_half, to_quarter, to_eighth = self.skips
        skips = {
            "skip2": to_half(half),
            "skip4": to_quarter(quarter),
            "skip8": to_eighth(eighth),
        }
        return tokens, skips


class SmallHead(nn.Module):
    """Tokens and stem features, from coarse to fine, to descriptors and point maps."""

    def __init__(self, width: int, descriptor_dim: int) -> None:
        super().__init__()
        half, quarter, eighth = _HEAD
        skip_half, skip_quarter, skip_eighth = _SKIPS
        self.tokens = nn.Linear(width, 4 * 96)
        self.stage8 = nn.Sequential(
            ConvBlock(96 + skip_eighth, eighth, norm=True),
            ResidualBlock(eighth, depth=2, norm=True),
        )
        self.to_stage4 = nn.Conv2d(eighth, 4 * 48, 1)
        self.stage4 = nn.Sequential(
            ConvBlock(48 + skip_quarter, quarter), ResidualBlock(quarter, depth=2)
        )
        self.to_stage2 = nn.Conv2d(quarter, 4 * 24, 1)
        self.stage2 = nn.Sequential(ConvBlock(24 + skip_half, half), ResidualBlock(half, depth=1))
        self.descriptors = nn.Conv2d(half, descriptor_dim + 1, 1)
        self.points = nn.Conv2d(quarter, 4 * 4 * 4, 1)

    def forward(
        self, tokens: Tensor, skips: Mapping[str, Tensor], grid: tuple[int, int], want: Want
    ) -> tuple[Tensor | None, Tensor | None]:
        """Raw outputs of what is wanted, before the activations.

        Args:
            tokens: (B, N, width).
            skips: Stem features by name, see `Stem`.
            grid: (rows, columns) of the tokens.
            want: What to compute; its ``pixels`` are not looked at here.

        Returns:
            Points and log confidence, (B, H, W, 4), and descriptors and their log confidence,
            (B, H/2, W/2, D + 1), float32; None for what is not wanted.
        """
        # token outputs lie in memory as a channels-last image does
        x = _spread(self.tokens(tokens).unflatten(1, grid), 2).permute(0, 3, 1, 2)
        x = self.stage8(_join(x, skips["skip8"]))
        x = _spread(self.to_stage4(x).permute(0, 2, 3, 1), 2).permute(0, 3, 1, 2)
        x = self.stage4(_join(x, skips["skip4"]))
        points = descriptors = None
        if want.pointmap:
            points = _spread(_in_own_precision(self.points, x).permute(0, 2, 3, 1), 4)
        if want.descriptors:
            x = _spread(self.to_stage2(x).permute(0, 2, 3, 1), 2).permute(0, 3, 1, 2)
            x = self.stage2(_join(x, skips["skip2"]))
            descriptors = _in_own_precision(self.descriptors, x).permute(0, 2, 3, 1)
        return points, descriptors


def _in_own_precision(layer: nn.Conv2d, x: Tensor) -> Tensor:
    """A last layer stays in float32 when the others are cast, and under autocast."""
    with torch.autocast(x.device.type, enabled=False):
        return layer(x.to(layer.weight.dtype)).float()


def _spread(x: Tensor, factor: int) -> Tensor:
    """Every cell's channels become factor x factor cells: (B, h, w, factor^2 C) -> (B, H, W, C).

    A pixel shuffle that keeps the channels last, in one copy.
    """
    cells = x.unflatten(-1, (factor, factor, -1)).transpose(2, 3)  # (B, h, factor, w, factor, C)
    return cells.flatten(3, 4).flatten(1, 2)


def _join(x: Tensor, skip: Tensor) -> Tensor:
    joined = torch.cat([x, skip.to(x.dtype)], 1)
    return joined.contiguous(memory_format=torch.channels_last)


class SmallNetwork(PairNetwork):
    """The network `small`; see the module's text for its shape.

    Attributes:
        descriptor_stride: Image pixels per cell of the descriptor grid: descriptors and their
            confidence are (B, H/2, W/2, ...), cell (i, j) covers pixels 2i, 2i+1 and 2j, 2j+1. At
            given pixels they are read between the cells.
    """

    descriptor_stride = 2

    def _build(self) -> None:
        config = self.config
        if config.architecture != "GroundlocSmall" or config.patch_size != 16:
            raise InputError("the small network is GroundlocSmall with patches of 16 pixels")
        width, dec_width = config.enc_embed_dim, config.dec_embed_dim
        self.stem = Stem(width)
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(width, config.enc_num_heads) for _ in range(config.enc_depth)
        )
        self.enc_norm = Norm(width)
        self.decoder_embed = nn.Linear(width, dec_width)
        self.view_embed = nn.Parameter(torch.empty(2, dec_width))
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(dec_width, config.dec_num_heads) for _ in range(config.dec_depth)
        )
        self.dec_norm = Norm(dec_width)
        self.head = SmallHead(width + dec_width, config.desc_dim)
        self.pool = nn.Linear(width, 1)
        self.global_head = nn.Linear(width, GLOBAL_DIM)
        self.apply(_initialise)
        nn.init.trunc_normal_(self.view_embed, std=0.02)

    def blocks(self) -> Iterator[nn.Module]:
        """All transformer blocks, see `PairNetwork.blocks`."""
        yield from self.enc_blocks
        yield from self.dec_blocks

    def float32_layers(self) -> Iterator[nn.Module]:
        """Layers that stay in float32 when the others are cast."""
        yield self.stem.first.conv
        yield from (self.head.points, self.head.descriptors, self.pool, self.global_head)

    def embed(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """First tokens (B, N, C) float32 and the stem's skip features; images in [-1, 1]."""
        return self.stem(images)

    def decode(
        self,
        encoding0: Encoding,
        encoding1: Encoding,
        want0: Want = EVERYTHING,
        want1: Want = EVERYTHING,
    ) -> tuple[Prediction, Prediction]:
        """Decode pairs of encoded images, see `PairNetwork.decode`."""
        if encoding0.transposed is not None or encoding1.transposed is not None:
            raise ValueError("the small network takes upright images only")
        batch = max(len(encoding0), len(encoding1))
        encoding0, encoding1 = encoding0.expand(batch), encoding1.expand(batch)
        head_dim = self.config.dec_embed_dim // self.config.dec_num_heads
        rope0, rope1 = self._rope(encoding0, head_dim), self._rope(encoding1, head_dim)
        dtype = self.decoder_embed.weight.dtype
        x0, x1 = (
            self.decoder_embed(encoding.tokens.to(dtype)).float() + embed
            for encoding, embed in zip((encoding0, encoding1), self.view_embed.float(), strict=True)
        )
        if encoding0.image_size == encoding1.image_size:
            # one batch of both views: the same numbers in half the launches
            both = torch.cat([x0, x1])
            for block in self.dec_blocks:
                both = block(both, both.roll(batch, 0), rope0, rope0)
            x0, x1 = both[:batch], both[batch:]
        else:
            for block in self.dec_blocks:
                x0, x1 = block(x0, x1, rope0, rope1), block(x1, x0, rope1, rope0)
        return self._predict(encoding0, x0, want0), self._predict(encoding1, x1, want1)

    def global_descriptors(self, tokens: Tensor) -> Tensor:
        """Unit descriptors of whole images for retrieval: (B, N, C) -> (B, GLOBAL_DIM) float32."""
        tokens = tokens.to(self.pool.weight.dtype)
        weights = self.pool(tokens).float().softmax(1)  # (B, N, 1)
        pooled = (weights * tokens.float()).sum(1).to(self.global_head.weight.dtype)
        return F.normalize(self.global_head(pooled).float(), dim=-1)

    def _predict(self, encoding: Encoding, tokens: Tensor, want: Want) -> Prediction:
        """The head and its activations for one view."""
        if not want.anything:
            return Prediction()
        values = self.outputs(
            encoding.tokens, tokens, encoding.extras, encoding.image_size, want.dense, want.pixels
        )
        names = ("pointmap", "confidence", "descriptors", "descriptor_confidence")
        return Prediction(**dict(zip(names, values, strict=True)))

    def outputs(
        self,
        encoded: Tensor,
        decoded: Tensor,
        skips: Mapping[str, Tensor],
        image_size: tuple[int, int],
        want: Want,
        pixels: Tensor | None,
    ) -> tuple[Tensor | None, ...]:
        """The four fields of a `Prediction`, from plain tensors: what is worth compiling as one.

        Args:
            encoded: The encoder's tokens, (B, N, C).
            decoded: The decoder's, (B, N, C'), before the last norm.
            skips: Stem features by name.
            image_size: (width, height) pixels.
            want: What to compute.
            pixels: As `Want.pixels`.
        """
        width, height = image_size
        joined = torch.cat([encoded.float(), self.dec_norm(decoded)], -1)
        points, descriptors = self.head(
            joined.to(self.head.tokens.weight.dtype),
            skips,
            (height // self.config.patch_size, width // self.config.patch_size),
            want,
        )
        pointmap = confidence = unit = descriptor_confidence = None
        if points is not None:
            pointmap = _bounded_points(points[..., :3])
            confidence = activate_confidence(
                points[..., 3].clamp_max(_MAX_LOG_CONFIDENCE), self.config.conf_mode
            )
        if descriptors is not None:
            if pixels is not None:
                cells = pixels_to_cells(pixels + 0.5, self.descriptor_stride)
                descriptors = sample_bilinear(descriptors, cells)
            unit = F.normalize(descriptors[..., :-1], dim=-1)
            descriptor_confidence = activate_confidence(
                descriptors[..., -1].clamp(-_MAX_LOG_CONFIDENCE, _MAX_LOG_CONFIDENCE),
                self.config.desc_conf_mode or self.config.conf_mode,
            )
        return pointmap, confidence, unit, descriptor_confidence


def _bounded_points(raw: Tensor) -> Tensor:
    """`activate_points` with the norm bounded, so that training cannot overflow."""
    norm = raw.norm(dim=-1, keepdim=True)
    return activate_points(raw * (norm.clamp_max(_MAX_LOG_DEPTH) / norm.clamp_min(1e-8)))


def _initialise(module: nn.Module) -> None:
    if isinstance(module, nn.Linear):
        nn.init.trunc_normal_(module.weight, std=0.02)
        nn.init.zeros_(module.bias)
    elif isinstance(module, nn.Conv2d):
        nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
        if module.bias is not None:
            nn.init.zeros_(module.bias)
