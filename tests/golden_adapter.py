"""What the golden checks call: one function for each option of ``check_golden.py``.

python ../shared/golden/check_golden.py --impl tests.golden_adapter:impl --keys ...
"""

from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matching.focal import focal_from_pointmap
from matching.images import read_image
from matching.network import NetworkConfig, PairNetwork
from matching.preprocess import (
    NetworkFrame,
    fit_to_patches,
    fit_to_trained_size,
    to_network_tensor,
)

_cached: tuple[int, NetworkConfig, PairNetwork] | None = None


def _config(config: Mapping[str, Any]) -> NetworkConfig:
    arguments = {name: value for name, value in config.items() if name != "class"}
    return NetworkConfig.from_arguments(config["class"], arguments)


def _network(config: NetworkConfig, state: dict[str, Tensor]) -> PairNetwork:
    """The network of a checkpoint; the same weights serve all cases of one model."""
    global _cached
    if _cached is None or _cached[0] != id(state):
        _cached = None  # frees the old network before the new one is built
        with torch.device("meta"):
            network = PairNetwork(config)
        network.load_state_dict(state, strict=False, assign=True)
        _cached = (id(state), config, network.eval())
    network = _cached[2]
    for module in network.modules():
        if hasattr(module, "config"):
            module.config = config
    return network


def keys(config: Mapping[str, Any]) -> Iterable[tuple[str, tuple[int, ...]]]:
    with torch.device("meta"):
        state = PairNetwork(_config(config)).state_dict()
    return [(name, tuple(tensor.shape)) for name, tensor in state.items()]


def impl(
    config: Mapping[str, Any],
    state: dict[str, Tensor],
    img1: Tensor,
    img2: Tensor,
    true_shape1: Tensor,
    true_shape2: Tensor,
) -> dict[str, Tensor]:
    network = _network(_config(config), state)
    encodings = network.encode(img1, true_shape1), network.encode(img2, true_shape2)
    out = {}
    for view, (encoding, prediction) in enumerate(
        zip(encodings, network.decode(*encodings), strict=True), 1
    ):
        out[f"feat{view}"] = encoding.tokens
        out[f"pts3d_{view}"] = prediction.pointmap
        out[f"conf_{view}"] = prediction.confidence
        if prediction.descriptors is not None:
            out[f"desc_{view}"] = prediction.descriptors
            out[f"desc_conf_{view}"] = prediction.descriptor_confidence
    return out


def load_images(
    path: str, size: int, patch_size: int, square_ok: bool
) -> tuple[Tensor, tuple[int, int]]:
    fitted = fit_to_patches(read_image(path), size, patch_size=patch_size, square_ok=square_ok)
    assert fitted is not None
    image, frame = fitted
    return to_network_tensor(image), frame.image_size[::-1]


def visloc_resize(
    img: NDArray[np.float32], maxdim: int, antialias: bool
) -> tuple[Tensor, NDArray[np.float64], NDArray[np.float64]]:
    resized, frame = fit_to_trained_size(torch.from_numpy(img), maxdim, antialias=antialias)
    to_rescaled = frame.camera_matrix(np.eye(3))
    return resized, to_rescaled, np.linalg.inv(to_rescaled)


def rescale_points(
    pts2d: NDArray[np.float64],
    pts3d: NDArray[np.float32],
    to_rescaled: NDArray[np.float64],
    height: int,
    width: int,
) -> tuple[Any, Any, Any, Any]:
    to_orig = np.linalg.inv(to_rescaled)
    frame = NetworkFrame(
        image_size=(width, height),
        scale=(to_orig[0, 0], to_orig[1, 1]),
        offset=(to_orig[0, 2], to_orig[1, 2]),
    )
    pixels, inside = frame.nearest_pixels(pts2d + 0.5)
    kept = pixels[inside]
    pointmap = np.full((height, width, 3), np.nan, np.float32)
    pointmap[kept[:, 1], kept[:, 0]] = pts3d[inside]
    return frame.to_network(pts2d + 0.5), kept, pointmap, np.isfinite(pointmap).all(-1)


def focal(pts3d: Tensor, pp: Tensor, mode: Any, min_focal: float, max_focal: float) -> Tensor:
    return focal_from_pointmap(pts3d, pp, mode=mode, min_focal=min_focal, max_focal=max_focal)
