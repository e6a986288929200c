"""The network: an encoder shared by both views, two decoders that talk to each other, two heads."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from matching.errors import InputError
from matching.network.blocks import (
    DecoderBlock,
    EncoderBlock,
    Norm,
    Rope,
    grid_positions,
    rope_table,
)
from matching.network.config import NetworkConfig
from matching.network.heads import Head, LinearHead, PointAndDescriptorHead, PointHead
from matching.network.prediction import EVERYTHING, Prediction, Want


@dataclass(frozen=True, kw_only=True)
class Encoding:
    """Encoded images of one size; all that the decoder and the heads need of them.

    Attributes:
        tokens: (B, N, C), float32 when fresh, float16 when stored.
        image_size: (width, height) of the stored layout, pixels.
        extras: Further tensors of a network with more than tokens, batch first.
        transposed: Items that are stored transposed (training layout, see
            `NetworkConfig.landscape_only`), (B,) bool; None when all are upright.
    """

    tokens: Tensor
    image_size: tuple[int, int]
    extras: Mapping[str, Tensor] = field(default_factory=dict)
    transposed: Tensor | None = None

    def __len__(self) -> int:
        return len(self.tokens)

    def map(self, function: Callable[[Tensor], Tensor]) -> "Encoding":
        """Apply a function to the tensors (indexing, moving, casting)."""
        return Encoding(
            tokens=function(self.tokens),
            image_size=self.image_size,
            extras={name: function(tensor) for name, tensor in self.extras.items()},
            transposed=None if self.transposed is None else function(self.transposed),
        )

    def __getitem__(self, items: slice | Tensor) -> "Encoding":
        return self.map(lambda tensor: tensor[items])

    @staticmethod
    def concatenate(parts: "Sequence[Encoding]") -> "Encoding":
        """Join encodings of upright images of one size along the batch axis."""
        first = parts[0]
        if any(part.image_size != first.image_size for part in parts):
            raise ValueError("encodings of several image sizes make no batch")
        return Encoding(
            tokens=torch.cat([part.tokens for part in parts]),
            image_size=first.image_size,
            extras={n: torch.cat([part.extras[n] for part in parts]) for n in first.extras},
        )

    def expand(self, batch: int) -> "Encoding":
        """One encoding repeated without copying; a batch of that size stays as it is."""
        if len(self) == batch:
            return self
        if len(self) != 1:
            raise ValueError(f"{len(self)} encodings cannot go with {batch}")
        return self.map(lambda tensor: tensor.expand(batch, *tensor.shape[1:]))


class PatchEmbed(nn.Module):
    """One linear map per patch."""

    def __init__(self, patch_size: int, width: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, width, patch_size, patch_size)

    def forward(self, images: Tensor) -> Tensor:
        """Args: images: (B, 3, H, W). Returns (B, N, width), float32."""
        return self.proj(images.to(self.proj.weight.dtype)).flatten(2).transpose(1, 2).float()


class PairNetwork(nn.Module):
    """MASt3R and DUSt3R: parameters named as in the published checkpoints.

    A network of other stems or heads inherits and overrides `_build` and `embed`.

    Attributes:
        descriptor_stride: Image pixels per cell of the descriptor grid; cell (i, j) covers the
            pixels from stride * i and stride * j on.
    """

    descriptor_stride: int = 1

    downstream_head1: Head
    downstream_head2: Head

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        self._build()

    def _build(self) -> None:
        config = self.config
        enc, dec = config.enc_embed_dim, config.dec_embed_dim
        self.mask_token = nn.Parameter(torch.zeros(1, 1, dec))  # of the pretraining, unused
        self.patch_embed = PatchEmbed(config.patch_size, enc)
        self._build_transformer()
        head: dict[str, Callable[[NetworkConfig], Head]] = {
            "linear": LinearHead,
            "dpt": PointHead,
            "catmlp+dpt": PointAndDescriptorHead,
        }
        if config.head_type not in head:
            raise InputError(f"{config.architecture} has no head '{config.head_type}'")
        self.downstream_head1 = head[config.head_type](config)
        self.downstream_head2 = head[config.head_type](config)

    def _build_transformer(self) -> None:
        config = self.config
        enc, dec = config.enc_embed_dim, config.dec_embed_dim
        self.enc_blocks = nn.ModuleList(
            EncoderBlock(enc, config.enc_num_heads) for _ in range(config.enc_depth)
        )
        self.enc_norm = Norm(enc)
        self.decoder_embed = nn.Linear(enc, dec)
        self.dec_blocks = nn.ModuleList(
            DecoderBlock(dec, config.dec_num_heads) for _ in range(config.dec_depth)
        )
        self.dec_norm = Norm(dec)
        self.dec_blocks2 = nn.ModuleList(
            DecoderBlock(dec, config.dec_num_heads) for _ in range(config.dec_depth)
        )

    def blocks(self) -> Iterator[nn.Module]:
        """Parts from tensors to tensors that hold nearly all arithmetic: what to compile."""
        yield from self.enc_blocks
        yield from self.dec_blocks
        yield from self.dec_blocks2
        yield from self.downstream_head1.blocks()
        yield from self.downstream_head2.blocks()

    def float32_layers(self) -> Iterator[nn.Module]:
        """Layers at the two ends that stay in float32 when the others are cast."""
        yield from self.patch_embed.modules()
        yield from self.downstream_head1.float32_layers()
        yield from self.downstream_head2.float32_layers()

    def set_precision(self, dtype: torch.dtype) -> None:
        """Keep linear layers and convolutions in a dtype, in place.

        Norms, the residual stream and `float32_layers` stay in float32.
        """
        kept = {id(module) for module in self.float32_layers()}
        for module in self.modules():
            if isinstance(module, nn.Linear | nn.Conv2d | nn.ConvTranspose2d):
                module.to(torch.float32 if id(module) in kept else dtype)

    def embed(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """First tokens of upright images.

        Args:
            images: (B, 3, H, W) in [-1, 1].

        Returns:
            Tokens (B, N, C), row-major, and the extras of `Encoding`.
        """
        return self.patch_embed(images), {}

    def encode(self, images: Tensor, true_shapes: Tensor | None = None) -> Encoding:
        """Encode images of one size.

        Args:
            images: RGB in [-1, 1], (B, 3, H, W); H and W multiples of the patch size. With
                ``landscape_only``, W >= H and portrait images are stored transposed.
            true_shapes: (height, width) of the upright images, (B, 2); only used with
                ``landscape_only``, where None means that all are landscape.
        """
        height, width = images.shape[-2:]
        patch = self.config.patch_size
        if height % patch or width % patch:
            raise ValueError(f"image sides must be multiples of {patch}, got {width} x {height}")
        transposed = self._transposed(height, width, true_shapes)
        if transposed is None:
            tokens, extras = self.embed(images)
        else:
            tokens, extras = self._embed_mixed(images, transposed)
        encoding = Encoding(
            tokens=tokens, image_size=(width, height), extras=extras, transposed=transposed
        )
        rope = self._rope(encoding, self.config.enc_embed_dim // self.config.enc_num_heads)
        for block in self.enc_blocks:
            tokens = block(tokens, rope)
        return Encoding(
            tokens=self.enc_norm(tokens),
            image_size=(width, height),
            extras=extras,
            transposed=transposed,
        )

    def decode(
        self,
        encoding0: Encoding,
        encoding1: Encoding,
        want0: Want = EVERYTHING,
        want1: Want = EVERYTHING,
    ) -> tuple[Prediction, Prediction]:
        """Decode pairs of encoded images; points of both views are in the frame of view 0.

        Args:
            encoding0: First views, B of them, or one that goes with all of ``encoding1``.
            encoding1: Second views, likewise.
            want0: What to compute for view 0.
            want1: What to compute for view 1.
        """
        batch = max(len(encoding0), len(encoding1))
        tokens0, tokens1 = self._decoder_tokens(encoding0, encoding1, want0, want1, batch)
        return (
            self._head(self.downstream_head1, tokens0, encoding0.expand(batch), want0),
            self._head(self.downstream_head2, tokens1, encoding1.expand(batch), want1),
        )

    def forward(
        self,
        images0: Tensor,
        images1: Tensor,
        true_shapes0: Tensor | None = None,
        true_shapes1: Tensor | None = None,
    ) -> tuple[Prediction, Prediction]:
        """Everything of image pairs, as in training: see `encode` and `decode`."""
        encoding0 = self.encode(images0, true_shapes0)
        encoding1 = self.encode(images1, true_shapes1)
        return self.decode(encoding0, encoding1)

    def _transposed(self, height: int, width: int, true_shapes: Tensor | None) -> Tensor | None:
        if not self.config.landscape_only or true_shapes is None:
            return None
        portrait = true_shapes[:, 1] < true_shapes[:, 0]
        if not portrait.any():
            return None
        if self.config.patch_embed_cls != "ManyAR_PatchEmbed":
            raise ValueError("portrait images in landscape layout need ManyAR_PatchEmbed")
        if height > width:
            raise ValueError(f"images must be stored in landscape layout, got {width} x {height}")
        return portrait

    def _embed_mixed(self, images: Tensor, transposed: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        tokens, extras = self.embed(images[~transposed])
        portrait_tokens, portrait_extras = self.embed(images[transposed].transpose(2, 3))
        merged = {
            name: _merge(transposed, extra, portrait_extras[name].transpose(2, 3))
            for name, extra in extras.items()
        }
        return _merge(transposed, tokens, portrait_tokens), merged

    def _rope(self, encoding: Encoding, head_dim: int) -> Rope:
        width, height = (side // self.config.patch_size for side in encoding.image_size)
        device = encoding.tokens.device
        positions = grid_positions(height, width, device)
        if encoding.transposed is not None:
            positions = torch.where(
                encoding.transposed[:, None, None], grid_positions(width, height, device), positions
            )
        return rope_table(positions, head_dim, self.config.rope_base)

    def _decoder_tokens(
        self, encoding0: Encoding, encoding1: Encoding, want0: Want, want1: Want, batch: int
    ) -> tuple[dict[int, Tensor], dict[int, Tensor]]:
        """The token lists that the heads will read, by index: 0 encoder, k decoder block k."""
        hooks0 = self.downstream_head1.wanted_hooks(want0)
        hooks1 = self.downstream_head2.wanted_hooks(want1)
        head_dim = self.config.dec_embed_dim // self.config.dec_num_heads
        rope0, rope1 = self._rope(encoding0, head_dim), self._rope(encoding1, head_dim)
        dtype = self.decoder_embed.weight.dtype
        x0 = self.decoder_embed(encoding0.tokens.to(dtype)).float()
        x1 = self.decoder_embed(encoding1.tokens.to(dtype)).float()
        x0, x1 = (x.expand(batch, -1, -1).contiguous() for x in (x0, x1))
        kept0 = {0: encoding0.expand(batch).tokens}
        kept1 = {0: encoding1.expand(batch).tokens}
        last = max((*hooks0, *hooks1, 0))
        for k, (block0, block1) in enumerate(
            zip(self.dec_blocks[:last], self.dec_blocks2[:last], strict=True), 1
        ):
            # both sides read the other's tokens of before this step; in the last step only the
            # sides that somebody reads are computed
            new0 = block0(x0, x1, rope0, rope1) if k < last or k in hooks0 else x0
            new1 = block1(x1, x0, rope1, rope0) if k < last or k in hooks1 else x1
            x0, x1 = new0, new1
            final = k == self.config.dec_depth
            if k in hooks0:
                kept0[k] = self.dec_norm(x0) if final else x0
            if k in hooks1:
                kept1[k] = self.dec_norm(x1) if final else x1
        return kept0, kept1

    def _head(
        self, head: Head, tokens: Mapping[int, Tensor], encoding: Encoding, want: Want
    ) -> Prediction:
        if not want.anything:
            return Prediction()
        width, height = (side // self.config.patch_size for side in encoding.image_size)
        extras, transposed = encoding.extras, encoding.transposed
        if transposed is None:
            return head(tokens, extras, height, width, want)
        if want.pixels is not None:
            raise ValueError("descriptors at pixels need upright images")
        portrait = head(
            {k: v[transposed] for k, v in tokens.items()},
            {name: extra[transposed].transpose(2, 3) for name, extra in extras.items()},
            *(width, height, want),
        ).map(lambda tensor: tensor.transpose(1, 2))  # back to landscape layout
        if transposed.all():
            return portrait
        upright = head(
            {k: v[~transposed] for k, v in tokens.items()},
            {name: extra[~transposed] for name, extra in extras.items()},
            *(height, width, want),
        )
        merged = {
            name: None if value is None else _merge(transposed, value, getattr(portrait, name))
            for name, value in vars(upright).items()
        }
        return Prediction(**merged)


def _merge(mask: Tensor, where_false: Tensor, where_true: Tensor) -> Tensor:
    """One batch of the items of two, (B,) bool mask."""
    out = where_false.new_empty(len(mask), *where_false.shape[1:])
    out[~mask] = where_false
    out[mask] = where_true
    return out
