"""The unit of point maps: from the configuration through checkpoints to predictions."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from matching.errors import InputError
from matching.mast3r import Mast3rMatcher
from matching.network.build import build_network
from matching.network.config import NetworkConfig
from matching.network.small import small_config


def test_the_unit_travels_with_the_configuration() -> None:
    plain = small_config()
    assert plain.point_unit_m is None
    assert "metres_per_unit" not in plain.to_arguments()
    metric = replace(plain, metres_per_unit=7.5)
    again = NetworkConfig.from_arguments("GroundlocSmall", metric.to_arguments())
    assert again == metric and again.point_unit_m == 7.5
    assert NetworkConfig(architecture="AsymmetricMASt3R").point_unit_m == 1
    assert NetworkConfig(architecture="AsymmetricCroCo3DStereo").point_unit_m is None
    with pytest.raises(InputError, match="metres_per_unit"):
        replace(plain, metres_per_unit=0.0)


def test_predictions_are_in_metres_where_the_unit_is_known() -> None:
    torch.manual_seed(0)
    config = replace(small_config(), enc_depth=1, dec_depth=1)
    matcher = Mast3rMatcher(build_network(config), name="tiny", fingerprint="0")
    image = np.random.default_rng(0).integers(0, 255, (96, 128, 3)).astype(np.uint8)
    view = matcher.encode(image)
    predictions = []
    for unit in (None, 2.0):
        matcher.config = replace(matcher.config, metres_per_unit=unit)
        predictions.append(matcher.predict(view, view))
    plain, metric = predictions
    assert plain is not None and metric is not None
    assert metric.metric
    assert not plain.metric
    np.testing.assert_allclose(metric.in_camera0[1], 2 * plain.in_camera0[1], rtol=1e-6)
    np.testing.assert_array_equal(metric.confidence_in_camera1[0], plain.confidence_in_camera1[0])
