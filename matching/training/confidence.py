"""The point maps' confidences of a trained network, fitted anew; nothing else of it changes.

    python -m matching.training.confidence runs/third/small.safetensors runs/small.safetensors

The training rewards confidence by ``alpha * log C`` and charges ``error * C`` (Wang et al.,
"DUSt3R", CVPR 2024, equation 4), and C is at least 1: where errors exceed alpha everywhere, as on
hard worlds at the published 0.2, every C ends at 1 and says nothing. With a larger alpha the same
loss has its minimum at C = alpha / error. As points and confidences leave the network by one linear
layer, the confidences alone are a small fit to the features before it: minutes on a CPU.
"""

import argparse
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from matching.checkpoint import read_checkpoint, save_checkpoint
from matching.errors import InputError
from matching.files import check_writable
from matching.network import EVERYTHING
from matching.network.prediction import activate_confidence
from matching.network.small import SmallNetwork
from matching.progress import Progress, bars, silent
from matching.training.batch import PairWorld
from matching.training.losses import pointmap_errors
from matching.training.objective import LossOptions, counted_targets
from matching.training.trainer import PairStream

_CELL = 4  # pixels along a side that one row of features speaks for
_CHANNELS = 4  # of each pixel: x, y, z, raw confidence


@dataclass(frozen=True, kw_only=True)
class ConfidenceOptions:
    """How the confidences are fitted."""

    alpha: float = 1.0  # reward of the logarithm; confidences tend to alpha / error
    batches: int = 100  # of worlds; every fourth at the first size, the others at the second
    image_sizes: tuple[tuple[int, int], tuple[int, int]] = ((384, 288), (256, 192))  # width, height
    pairs: int = 2  # per batch
    difficulty: tuple[float, float] = (0.4, 1.0)  # drawn evenly between these
    cells_per_batch: int = 1500
    steps: int = 2000
    cells_per_step: int = 4096
    learning_rate: float = 0.02  # Adam, linear to zero
    seed: int = 5000  # of worlds and draws

    def __post_init__(self) -> None:
        for name in ("batches", "pairs", "cells_per_batch", "steps", "cells_per_step"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        for name in ("alpha", "learning_rate"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        low, high = self.difficulty
        if not 0 <= low <= high <= 1:
            raise ValueError(f"difficulty must rise within [0, 1], got {self.difficulty}")
        if len(self.image_sizes) != 2:
            raise ValueError(f"image_sizes must be two, got {len(self.image_sizes)}")


def fit_confidence(
    network: SmallNetwork,
    stream: PairStream,
    options: ConfidenceOptions | None = None,
    *,
    progress: Progress = silent,
) -> tuple[float, float]:
    """Fit the confidences of a network's point maps to its errors on rendered pairs, in place.

    Args:
        network: In float32; it is left in evaluation mode.
        stream: Renders the pairs on the network's device.
        options: Settings.
        progress: Told of the batches.

    Returns:
        The loss per pixel on the pairs it was fitted to, before and after.
    """
    options = options or ConfidenceOptions()
    network.eval()
    features, errors = _gather(network, stream, options, progress)
    counted = ~errors.isnan()
    errors = errors.nan_to_num(0)

    def loss(raw: Tensor, rows: Tensor | slice) -> Tensor:
        confidence = activate_confidence(raw, network.config.conf_mode)
        values = errors[rows] * confidence - options.alpha * confidence.log()
        return torch.where(counted[rows], values, 0).sum() / counted[rows].sum().clamp_min(1)

    layer, bias = network.head.points, network.head.points.bias
    assert bias is not None
    own = torch.arange(layer.out_channels, device=features.device)[_CHANNELS - 1 :: _CHANNELS]
    fitted = nn.Linear(layer.in_channels, len(own), device=features.device)
    with torch.no_grad():
        before = loss(features @ layer.weight[own, :, 0, 0].mT + bias[own], slice(None))
    # from nothing: where all confidences are 1, what raised them has no gradient to speak of
    nn.init.zeros_(fitted.weight)
    nn.init.zeros_(fitted.bias)
    optimizer = torch.optim.Adam(fitted.parameters(), lr=options.learning_rate)
    generator = torch.Generator(features.device).manual_seed(options.seed)
    for step in range(options.steps):
        for group in optimizer.param_groups:
            group["lr"] = options.learning_rate * (1 - step / options.steps)
        rows = torch.randint(
            len(features), (options.cells_per_step,), generator=generator, device=features.device
        )
        optimizer.zero_grad()
        loss(fitted(features[rows]), rows).backward()
        optimizer.step()
    with torch.no_grad():
        after = loss(fitted(features), slice(None))
        layer.weight[own] = fitted.weight[:, :, None, None]
        bias[own] = fitted.bias
    return float(before), float(after)


@torch.no_grad()
def _gather(
    network: SmallNetwork, stream: PairStream, options: ConfidenceOptions, progress: Progress
) -> tuple[Tensor, Tensor]:
    """Features of random cells, (M, C), and the errors of their pixels, (M, 16), NaN: no target."""
    random = np.random.default_rng(options.seed)
    seen: list[Tensor] = []
    hook = network.head.points.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    features, errors = [], []
    try:
        for number in progress(range(options.batches), "rendering pairs", options.batches):
            batch = stream(
                options.seed + number,
                pairs=options.pairs,
                image_size=options.image_sizes[number % 4 > 0],
                difficulty=float(random.uniform(*options.difficulty)),
            )
            seen.clear()
            images = batch.images.transpose(0, 1).flatten(0, 1).float() * 2 - 1
            encoding = network.encode(images)
            views = network.decode(
                encoding[: options.pairs], encoding[options.pairs :], EVERYTHING, EVERYTHING
            )
            points = [view.pointmap for view in views if view.pointmap is not None]
            target0, target1 = batch.pointmaps.flatten(2, 3).unbind(1)
            valid0, valid1 = batch.valid.flatten(2, 3).unbind(1)
            target1, valid0, valid1 = counted_targets(
                *(target0, target1, valid0, valid1, batch.cam1_from_cam0),
                LossOptions().max_distance,
            )
            maps = [
                x.unflatten(1, batch.valid.shape[2:]) for x in (target0, target1, valid0, valid1)
            ]
            error = torch.cat(pointmap_errors(*points, *maps))
            error = torch.where(torch.cat(maps[2:]), error, torch.nan)
            rows = torch.cat(seen).permute(0, 2, 3, 1).flatten(0, 2).float()
            pick = torch.from_numpy(random.permutation(len(rows))[: options.cells_per_batch])
            pick = pick.to(rows.device)
            features.append(rows[pick])
            errors.append(_cells(error)[pick])
    finally:
        hook.remove()
    return torch.cat(features), torch.cat(errors)


def _cells(image: Tensor) -> Tensor:
    """(B, H, W) pixels as (B H W / 16, 16), in the order of the layer's outputs."""
    parts = image.unflatten(2, (-1, _CELL)).unflatten(1, (-1, _CELL))  # (B, h, 4, w, 4)
    return parts.transpose(2, 3).flatten(3).flatten(0, 2)


def main() -> None:
    """Fit the confidences of a file of weights and write another one."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("weights", type=Path)
    parser.add_argument("out", type=Path)
    arguments = parser.parse_args()
    try:
        checkpoint = read_checkpoint(arguments.weights)
        network = checkpoint.network()
        if not isinstance(network, SmallNetwork):
            raise InputError(f"'{arguments.weights}' is no small network of groundloc")
        check_writable(arguments.out)
    except InputError as error:
        parser.error(str(error))
    stream = PairWorld("cpu", texture_seed=11, textures_per_style=8, texture_size=128)
    before, after = fit_confidence(network.float(), stream, progress=bars)
    state = {name: tensor.half() for name, tensor in network.state_dict().items()}
    save_checkpoint(checkpoint.config, state, arguments.out)
    sys.stderr.write(f"loss of the confidences: {before:.3f} before, {after:.3f} after\n")


if __name__ == "__main__":
    main()
