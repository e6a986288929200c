"""A network of the family that needs no training: descriptors are patches of the photo.

Encoder and decoder do nothing; what the head gives are the lowest DCT coefficients of the grey
patch around each pixel, which match photos taken a small step apart. So maps are made and photos
localized through everything that surrounds a network, without weights.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor, nn

from matching.mast3r import Mast3rMatcher, Mast3rOptions
from matching.network import Encoding, PairNetwork, Prediction, Want
from matching.network.prediction import EVERYTHING
from matching.network.small import small_config

_PATCH, _COEFFICIENTS = 15, 24


class PatchNetwork(PairNetwork):
    """Patches as descriptors, at 1/2 of the resolution as `matching.network.small` has them."""

    descriptor_stride = 2

    def _build(self) -> None:
        k = torch.arange(_PATCH, dtype=torch.float32)
        basis = torch.cos(torch.pi * (k + 0.5) * k[:, None] / _PATCH)
        window = torch.exp(-((k - _PATCH // 2) ** 2) / (2 * (_PATCH / 4) ** 2))
        both = torch.einsum("ux,vy,x,y->uvxy", basis, basis, window, window)
        lowest = torch.argsort((k[:, None] + k).flatten(), stable=True)[1 : _COEFFICIENTS + 1]
        kernels = both.flatten(0, 1)[lowest][:, None]  # (24, 1, patch, patch)
        kernels = kernels - kernels.mean((2, 3), keepdim=True)
        self.patches = nn.Conv2d(1, _COEFFICIENTS, _PATCH, padding=_PATCH // 2, bias=False)
        self.patches.weight.data = kernels / kernels.flatten(1).norm(dim=1)[:, None, None, None]
        self.enc_blocks, self.enc_norm = nn.ModuleList(), nn.Identity()

    def blocks(self) -> Iterator[nn.Module]:
        """There are none."""
        return iter(())

    def float32_layers(self) -> Iterator[nn.Module]:
        """The only layer."""
        yield self.patches

    def embed(self, images: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
        """Tokens that only say how bright a patch is, and the descriptors as an extra."""
        grey = images.mean(1, keepdim=True)
        side = self.config.patch_size
        brightness = nn.functional.avg_pool2d(grey, side).flatten(2).transpose(1, 2)
        waves = torch.linspace(1, 9, self.config.enc_embed_dim)
        at_half = nn.functional.avg_pool2d(self.patches(grey), 2)
        return torch.sin(brightness * waves), {"descriptors": at_half}

    def decode(
        self,
        encoding0: Encoding,
        encoding1: Encoding,
        want0: Want = EVERYTHING,
        want1: Want = EVERYTHING,
    ) -> tuple[Prediction, Prediction]:
        """The descriptors that were encoded; surer where there is more to see."""
        batch = max(len(encoding0), len(encoding1))
        views = []
        for encoding in (encoding0, encoding1):
            raw = encoding.expand(batch).extras["descriptors"].float().permute(0, 2, 3, 1)
            strength = raw.norm(dim=-1)
            views.append(
                Prediction(
                    descriptors=raw / strength.clamp_min(1e-6)[..., None],
                    descriptor_confidence=strength,
                )
            )
        return views[0], views[1]


def patch_matcher(fingerprint: str = "patches", **options: object) -> Mast3rMatcher:
    """A matcher with this network; photos are seen at 320 pixels."""
    config = replace(small_config(), img_size=(240, 320))
    values = {"long_side_px": 320, "num_keypoints": 800, **options}
    return Mast3rMatcher(
        PatchNetwork(config),
        name="patches",
        fingerprint=fingerprint,
        options=Mast3rOptions(**values),  # type: ignore[arg-type]
    )
