"""A neural matcher and maps: weights of another version, encodings that are none of its own."""

import dataclasses
import logging
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from localize import Localizer, LocalizerOptions
from mapping.map import Map
from matching.errors import InputError
from matching.mast3r import Mast3rMatcher, Mast3rOptions
from matching.network import build_network
from matching.network.small import small_config
from matching.types import View
from tests.localize.synthetic import FakeMap, make_camera, make_place


def tiny_matcher(weights: str = "a", long_side_px: int = 64) -> Mast3rMatcher:
    """A network too small to match anything right, with a given hash of its weights."""
    config = dataclasses.replace(
        small_config(), img_size=(48, 64), enc_depth=1, dec_depth=1, enc_embed_dim=64,
        dec_embed_dim=48, enc_num_heads=1, dec_num_heads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    options = Mast3rOptions(long_side_px=long_side_px)
    return Mast3rMatcher(build_network(config), name="tiny", fingerprint=weights, options=options)


class NeuralMap(FakeMap):
    """Photos encoded by a network, with the keypoints and points of a synthetic place."""

    def retrieve(self, view: View, matcher: object, top_k: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self.image_names][:top_k]

    def point3D_ids(self, name: str) -> np.ndarray:  # noqa: N802
        return self.ids[name]

    def check_matcher(self, matcher: object) -> None:
        Map.check_matcher(self, matcher)  # type: ignore[arg-type]


def neural_map(matcher: Mast3rMatcher) -> NeuralMap:
    rng = np.random.default_rng(0)
    place = make_place(rng, num_images=3, camera=make_camera(size=(160, 120), focal=150.0))
    scene = NeuralMap(**vars(place))
    scene.ids = {name: view.arrays["ids"] for name, view in place.views.items()}  # type: ignore[attr-defined]
    for name, view in place.views.items():
        encoded = matcher.encode(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
        scene.views[name] = dataclasses.replace(encoded, keypoints=view.keypoints)
    scene.info.matcher = matcher.describe()
    return scene


def test_other_weights_and_options_are_refused_by_name() -> None:
    scene = neural_map(tiny_matcher("a"))
    message = r"'weights_sha256' differs \(the map's is 'a', this one's 'b'\)"
    with pytest.raises(InputError, match=message):
        Localizer(scene, tiny_matcher("b"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'options\.long_side_px' differs"):
        Localizer(scene, tiny_matcher("a", long_side_px=48))  # type: ignore[arg-type]


def test_a_damaged_encoding_is_skipped_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    matcher = tiny_matcher()
    scene = neural_map(matcher)
    whole = scene.views["place0/1.jpg"]
    cut = {**whole.arrays, "tokens": whole.arrays["tokens"][:-3]}
    scene.views["place0/1.jpg"] = dataclasses.replace(whole, arrays=cut)
    loc = Localizer(scene, matcher, options=LocalizerOptions(second_round_photos=0))  # type: ignore[arg-type]
    query = np.random.default_rng(5).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    with caplog.at_level(logging.WARNING):
        results = [loc.localize(query, camera) for camera in (make_camera(size=(160, 120)), None)]
    for result in results:
        assert result.retrieved == ("place0/0.jpg", "place0/2.jpg")
        assert len(result.scores) == result.num_matches > 0
    assert caplog.text.count("'place0/1.jpg' is skipped") == 1
    # its point maps were asked for the focal length, together with the best photo
    assert [r.camera_source for r in results] == ["given", "pointmap"]
