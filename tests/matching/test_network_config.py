"""Configurations of networks: which are refused, and their constructor arguments."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from matching import InputError
from matching.network import NetworkConfig
from tests import golden_adapter
from tests.golden_adapter import revived

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "data" / "golden_network.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"enc_depth": 0}, "enc_depth must be > 0"),
        ({"enc_embed_dim": 100}, "does not divide into 16 heads"),
        ({"pos_embed": "cosine"}, "pos_embed must be"),
        ({"output_mode": "depth"}, "output_mode must be"),
        ({"head_type": "catmlp+dpt"}, "needs an output_mode"),
        ({"head_type": "dpt", "dec_depth": 9}, "more than 9 decoder blocks"),
        ({"depth_mode": ("linear", -math.inf, math.inf)}, "depth_mode must be"),
        ({"conf_mode": ("tanh", 0, 1)}, "confidence mode"),
    ],
)
def test_bad_configurations_are_refused(values: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        NetworkConfig(architecture="AsymmetricCroCo3DStereo", **values)


def test_configuration_survives_its_arguments() -> None:
    for model, arguments in GOLDEN["configs"].items():
        config = golden_adapter.network_config(revived(arguments))
        again = NetworkConfig.from_arguments(config.architecture, config.to_arguments())
        assert again == config, model
