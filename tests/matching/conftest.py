"""Networks with golden weights, drawn once for all tests of a run."""

import json
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from matching.network import PairNetwork
from tests import golden_adapter
from tests.golden_rule import canonical_name, golden_param


@pytest.fixture(scope="session")
def golden_state() -> dict[str, Tensor]:
    """The small golden MASt3R's state dict as in a ``.pth``: some tensors have two names."""
    path = Path(__file__).parents[1] / "data" / "golden_network.json"
    golden = json.loads(path.read_text(encoding="utf-8"))
    keys = golden_adapter.keys(golden_adapter.revived(golden["configs"]["mast3r_small"]))
    drawn: dict[str, Tensor] = {}
    state: dict[str, Tensor] = {}
    checksum = 0
    for name, shape in keys:
        canonical = canonical_name(name)
        if canonical not in drawn:
            drawn[canonical] = torch.from_numpy(golden_param(name, shape))
        state[name] = drawn[canonical]
        checksum = zlib.crc32(name.encode(), checksum)
        checksum = zlib.crc32(np.ascontiguousarray(state[name].numpy()).data, checksum)
    assert checksum == golden["weights_crc32"], "the rule draws other weights than the golden ones"
    return state


@pytest.fixture(scope="session")
def small_network(golden_state: dict[str, Tensor]) -> PairNetwork:
    """The small golden MASt3R for upright images; not to be changed."""
    return golden_adapter.small_network(golden_state)
