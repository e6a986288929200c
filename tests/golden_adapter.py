"""What the golden checks call: one function for each option of ``check_golden.py``.

python ../shared/golden/check_golden.py --impl tests.golden_adapter:impl --keys ...
"""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor

from matching.network import NetworkConfig, PairNetwork

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
