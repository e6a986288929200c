"""The neural matcher with golden weights.

Random weights match no real photos, so most tests use a network whose two sides share their
weights: two views of the same image then have the same descriptors, and the right matches are
known.
"""

import json
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from matching import InputError, View, pair_decoding
from matching.grid_matching import matches_from_points
from matching.mast3r import Mast3rMatcher, Mast3rOptions
from matching.matcher import Matcher
from matching.network import NetworkConfig, PairNetwork, build_network
from matching.network.engine import EngineOptions
from matching.network.small import small_config
from matching.options import build_options
from tests import golden_adapter
from tests.matching.matcher_suite import MatcherSuite, textured


@pytest.fixture(scope="module")
def twin_network(golden_state: dict[str, Tensor]) -> PairNetwork:
    """The small golden MASt3R with the weights of side 0 on both sides."""
    network = golden_adapter.small_network(golden_state)
    network.dec_blocks2 = network.dec_blocks
    network.downstream_head2 = network.downstream_head1
    return network


def matcher_of(network: PairNetwork, **options: Any) -> Mast3rMatcher:
    # random weights are sure of nothing
    values = {"long_side_px": 112, "min_confidence": 0.0, **options}
    return Mast3rMatcher(network, name="golden", fingerprint="f", options=Mast3rOptions(**values))


@pytest.fixture(scope="module")
def matcher(twin_network: PairNetwork) -> Matcher:
    return matcher_of(twin_network)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return textured(168, 224)


@pytest.fixture(scope="module")
def view(matcher: Matcher, photo: np.ndarray) -> View:
    return matcher.encode(photo)


def keypoints_of(view: View, number: int, seed: int = 0, margin: float = 0.0) -> View:
    """The view asked at random places, also off its cells' centres."""
    size = np.array(view.image_size)
    points = np.random.default_rng(seed).uniform(-margin, size + margin, (number, 2))
    return replace(view, keypoints=points.astype(np.float32))


class TestContract(MatcherSuite):
    """What every matcher promises."""

    def test_matches_a_shifted_image(self, matcher: Matcher) -> None:
        """Random weights know no shift; the same photo twice is what they must match."""
        photo = textured(168, 224, seed=5)
        matches = matcher.match(photo, photo)
        assert len(matches) >= 100
        assert np.abs(matches.keypoints0 - matches.keypoints1).max() < 0.01

    def test_at_keypoints_only_those_are_matched(self, matcher: Matcher) -> None:
        view = keypoints_of(matcher.encode(textured(180, 240, seed=5)), 80)
        rows = np.arange(80)[::-2].copy()
        part = matcher.at_keypoints(view, rows)
        np.testing.assert_array_equal(part.keypoints, view.keypoints[rows])
        matches = matcher.match_views(replace(view, keypoints=view.keypoints[:0]), part)
        assert len(matches) >= 20 and matches.indices1 is not None
        np.testing.assert_array_equal(part.keypoints[matches.indices1], matches.keypoints1)


# ------------------------------------------------------------------------------------ encoding


def test_an_encoded_view_is_small_and_complete(view: View) -> None:
    assert view.image_size == (224, 168)
    assert view.keypoints.shape == (0, 2)
    tokens, frame = view.arrays["tokens"], view.arrays["frame"]
    assert tokens.dtype == np.float16 and tokens.shape == (7 * 5, 192)
    assert frame.tolist() == [112, 80, 2, 2, 0, 4]  # the crop takes two rows of 84 off each end


def test_photos_of_mixed_sizes_and_bad_ones_keep_their_order(
    matcher: Matcher, photo: np.ndarray
) -> None:
    images: list[Any] = [photo, photo[:, :160], "missing.png", photo[::-1].copy()]
    images += [np.zeros((9, 9, 3), np.uint8), photo, photo[:2]]
    found = list(matcher.encode_many(iter(images)))
    assert len(found) == len(images)
    for image, result in zip(images, found, strict=True):
        if isinstance(image, str):
            assert isinstance(result, InputError)
            continue
        assert isinstance(result, View)
        alone = matcher.encode(image)
        assert result.image_size == alone.image_size == (image.shape[1], image.shape[0])
        for name, values in alone.arrays.items():
            np.testing.assert_allclose(result.arrays[name], values, atol=2e-3)
    assert list(matcher.encode_many([])) == []


def test_encodings_depend_on_the_options_that_the_fingerprint_holds(
    twin_network: PairNetwork,
) -> None:
    prints = {
        matcher_of(twin_network, **options).fingerprint
        for options in (
            *({}, {"long_side_px": 128}, {"square_ok": True}),
            {"long_side_px": 224, "resize": "trained"},
        )
    }
    assert len(prints) == 4
    same = matcher_of(twin_network, dense=True, max_matches=3, symmetric=True, subpixel=False)
    assert same.fingerprint in prints, "matching options change no encoding"


def test_a_description_makes_the_same_matcher_again(twin_network: PairNetwork) -> None:
    engine = EngineOptions(max_batch=3)
    matcher = matcher_of(twin_network, square_ok=True, pixel_tol_px=4.0, engine=engine)
    described = json.loads(json.dumps(matcher.describe()))  # as map.json keeps it
    options = build_options(Mast3rOptions, described["options"])
    again = Mast3rMatcher(twin_network, name="golden", fingerprint="f", options=options)
    assert again.describe() == described
    assert again.options == replace(matcher.options, engine=EngineOptions())


def test_the_trained_sizes(twin_network: PairNetwork, photo: np.ndarray) -> None:
    view = matcher_of(twin_network, long_side_px=224, resize="trained").encode(photo)
    assert view.arrays["tokens"].shape == (14 * 14, 192)
    assert view.arrays["frame"].tolist() == [224, 224, 0.75, 0.75, 28, 0]


# ------------------------------------------------------------------------------------ matching


@pytest.mark.parametrize("options", [{}, {"dense": True}, {"symmetric": True}])
def test_free_matches_of_a_photo_with_itself(
    twin_network: PairNetwork, photo: np.ndarray, options: dict[str, Any]
) -> None:
    matches = matcher_of(twin_network, **options).match(photo, photo)
    network_pixels = 112 * 80
    assert len(matches) > (0.5 * network_pixels if "dense" in options else 100)
    assert np.abs(matches.keypoints0 - matches.keypoints1).max() < 0.01
    assert matches.indices0 is None and matches.indices1 is None
    # three network pixels, six photo pixels, off every border; the crop took four rows
    for points in (matches.keypoints0, matches.keypoints1):
        assert (points >= [6, 10]).all() and (points <= [218, 158]).all()


def test_matches_at_the_keypoints_of_the_map(matcher: Matcher, view: View) -> None:
    mapped = keypoints_of(view, 300, margin=20)
    (matches,) = matcher.match_many(view, [mapped])
    assert matches.indices0 is None and matches.indices1 is not None
    inside = (mapped.keypoints > [0, 4]).all(1) & (mapped.keypoints < [224, 164]).all(1)
    assert inside[matches.indices1].all()
    assert len(matches) > 0.9 * inside.sum()
    # a cell has two photo pixels; random descriptors tell little of places inside it
    error = np.linalg.norm(matches.keypoints0 - matches.keypoints1, axis=1)
    assert np.median(error) < 1.0


def test_subpixel_matches_lie_beside_their_cells(twin_network: PairNetwork, view: View) -> None:
    asked = keypoints_of(view, 50)
    found = {}
    for subpixel in (False, True):
        matches = matcher_of(twin_network, subpixel=subpixel).match(view, asked)
        assert matches.indices1 is not None
        found[subpixel] = matches.keypoints0[np.argsort(matches.indices1)]
    cells = (found[False] - [0, 4]) / 2 - 0.5
    np.testing.assert_allclose(cells, np.round(cells), atol=1e-5)
    moved = np.abs(found[True] - found[False])
    assert 0 < moved.max() <= 2.001, "by one cell at most"
    default = matcher_of(twin_network).match(view, asked)
    assert default.indices1 is not None
    np.testing.assert_array_equal(default.keypoints0[np.argsort(default.indices1)], found[False])


def test_keypoints_on_either_side_or_both(matcher: Matcher, view: View) -> None:
    asked = keypoints_of(view, 120)
    there = matcher.match(view, asked)
    back = matcher.match(asked, view)
    assert back.indices1 is None and back.indices0 is not None
    np.testing.assert_array_equal(np.sort(back.indices0), np.sort(there.indices1))
    others = keypoints_of(view, 90, seed=4)
    both = matcher.match(asked, others)
    assert both.indices0 is not None and both.indices1 is not None
    forth, back = both.indices0 >= 0, both.indices1 >= 0
    assert (forth != back).all(), "each from a keypoint of one to a free pixel of the other"
    for seeded, rows, alone in (
        (forth, both.indices0, matcher.match(asked, view).indices0),
        (back, both.indices1, matcher.match(view, others).indices1),
    ):
        assert alone is not None and len(alone) > 60
        np.testing.assert_array_equal(np.sort(rows[seeded]), np.sort(alone))
    np.testing.assert_array_equal(both.keypoints0[forth], asked.keypoints[both.indices0[forth]])
    np.testing.assert_array_equal(both.keypoints1[back], others.keypoints[both.indices1[back]])


def test_a_query_meets_views_of_every_kind_at_once(
    matcher: Matcher, view: View, photo: np.ndarray
) -> None:
    others = [
        keypoints_of(view, 40, seed=1),
        matcher.encode(photo[:, :120]),
        view,
        keypoints_of(matcher.encode(np.zeros((30, 40, 3), np.uint8)), 5),
        keypoints_of(matcher.encode(photo[:, :120]), 30, seed=2),
        keypoints_of(view, 25, seed=3),
    ]
    together = matcher.match_many(view, others)
    for other, matches in zip(others, together, strict=True):
        alone = matcher.match_views(view, other)
        np.testing.assert_array_equal(matches.keypoints0, alone.keypoints0)
        assert (matches.indices1 is None) == (len(other.keypoints) == 0)
        if matches.indices1 is not None:
            np.testing.assert_array_equal(matches.indices1, alone.indices1)
    assert len(together[3]) == 0


def test_only_the_best_and_the_sure(twin_network: PairNetwork, view: View) -> None:
    everything = matcher_of(twin_network).match(view, view)
    best = matcher_of(twin_network, max_matches=17).match(view, view)
    np.testing.assert_array_equal(best.scores, everything.scores[:17])
    middle = float(everything.scores[len(everything) // 2])
    sure = matcher_of(twin_network, min_confidence=middle).match(view, view)
    assert 0 < len(sure) < len(everything) and (sure.scores >= middle).all()
    assert matcher_of(twin_network).sure_score is None  # of no known scale


def test_only_the_best_of_both_orders(golden_state: dict[str, Tensor], photo: np.ndarray) -> None:
    network = golden_adapter.small_network(golden_state)  # whose two sides differ
    views = [matcher_of(network).encode(image) for image in (photo, textured(168, 224, seed=5))]
    every = matcher_of(network, symmetric=True).match(*views)
    assert len(every) > len(matcher_of(network).match(*views))
    few = matcher_of(network, symmetric=True, max_matches=17).match(*views)
    assert len(few) == 17, "of both orders together"
    np.testing.assert_allclose(few.scores, every.scores[:17], rtol=1e-5)


def test_batches_of_the_engine_change_no_match(twin_network: PairNetwork, view: View) -> None:
    others = [keypoints_of(view, 30, seed=seed) for seed in range(3)]
    whole = matcher_of(twin_network, engine=EngineOptions(max_batch=3)).match_many(view, others)
    parts = matcher_of(twin_network, engine=EngineOptions(max_batch=2)).match_many(view, others)
    for a, b in zip(whole, parts, strict=True):
        np.testing.assert_array_equal(a.indices1, b.indices1)
        np.testing.assert_allclose(a.keypoints0, b.keypoints0, atol=1e-2)


def test_out_of_gpu_memory_while_matching(
    twin_network: PairNetwork,
    view: View,
    photo: np.ndarray,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """The pairs that were decoded together are matched one by one; then it says so."""
    matcher = matcher_of(twin_network, engine=EngineOptions(max_batch=3))
    others = [keypoints_of(matcher.encode(photo[:, :: (-1) ** k]), 60, seed=k) for k in range(3)]
    whole = matcher.match_many(view, others)
    limit = 1

    def cramped(points: list[Any], *arguments: Any, **options: Any) -> Any:
        if len(points) > limit:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return matches_from_points(points, *arguments, **options)

    monkeypatch.setattr(pair_decoding, "matches_from_points", cramped)
    emptied: list[bool] = []
    monkeypatch.setattr(matcher.engine, "caches", [lambda: emptied.append(True)])
    alone = matcher.match_many(view, others)
    assert "matching 3 pairs one by one" in caplog.text and len(emptied) == 1
    for a, b in zip(whole, alone, strict=True):
        assert len(a) > 0
        np.testing.assert_array_equal(a.indices1, b.indices1)
        np.testing.assert_allclose(a.keypoints0, b.keypoints0, atol=1e-3)
    limit = 0
    with pytest.raises(InputError, match="does not do for the matches of a network image of 112"):
        matcher.match_many(view, others)


# -------------------------------------------------------------------------------- point maps


def test_out_of_gpu_memory_empties_the_encodings_kept(
    twin_network: PairNetwork, view: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = matcher_of(twin_network)
    expected = matcher.match_many(view, [view])[0]
    monkeypatch.setattr(matcher._stored, "_max_bytes", 2**20)
    decode, kept = twin_network.decode, list[int]()

    def full_at_first(*arguments: Any) -> Any:
        kept.append(matcher._stored.num_bytes)
        if len(kept) == 1:
            raise torch.OutOfMemoryError
        return decode(*arguments)

    monkeypatch.setattr(twin_network, "decode", full_at_first)
    found = matcher.match_many(view, [view])[0]
    np.testing.assert_array_equal(found.keypoints1, expected.keypoints1)
    assert kept[0] > 0 and kept[1] == 0


def test_out_of_gpu_memory_while_resizing(
    twin_network: PairNetwork, photo: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = matcher_of(twin_network)
    expected = matcher._prepare(photo).tensor

    def full(*_: object) -> Tensor:
        tried.append(True)
        raise torch.OutOfMemoryError

    tried: list[bool] = []
    monkeypatch.setattr("matching.mast3r.resized_on_device", full)
    monkeypatch.setattr(matcher, "_resizes_on_gpu", True)
    monkeypatch.setattr(matcher.engine, "device", torch.device("cuda"))
    found = matcher._prepare(photo, alone=True).tensor
    assert found is not None and expected is not None
    assert torch.equal(found, expected) and tried
    tried.clear()
    matcher._prepare(photo)  # one of many: the CPU's threads do it meanwhile
    monkeypatch.setattr(matcher, "_resizes_on_gpu", False)  # a GPU slow in double precision
    matcher._prepare(photo, alone=True)
    assert not tried


def test_geometry_of_a_pair(matcher: Mast3rMatcher, view: View) -> None:
    geometry = matcher.predict(view, view)
    assert geometry is not None
    assert geometry.depth(0).shape == (80, 112)
    # the same image on both sides of a twin network: the same points in both cameras
    np.testing.assert_allclose(geometry.in_camera0[0], geometry.in_camera1[1], rtol=1e-4)
    np.testing.assert_allclose(geometry.in_camera0[1], geometry.in_camera1[0], rtol=1e-4)
    assert geometry.focal_px(0) == pytest.approx(geometry.focal_px(1), rel=1e-4)
    blank = matcher.encode(np.zeros((30, 40, 3), np.uint8))
    assert matcher.predict(view, blank) is None and matcher.predict(blank, view) is None


def test_the_focal_length_of_a_photo_is_that_of_its_point_map(
    matcher: Mast3rMatcher, view: View
) -> None:
    geometry = matcher.predict(view, view)
    assert geometry is not None
    alone = matcher.focal_px(view)
    assert alone == pytest.approx(geometry.focal_px(0), rel=1e-4)
    blank = matcher.encode(np.zeros((30, 40, 3), np.uint8))
    assert matcher.focal_px(view, [view, blank, view]) == pytest.approx(alone, rel=1e-6)
    assert matcher.focal_px(view, [blank]) == pytest.approx(alone, rel=1e-6)
    assert matcher.focal_px(blank, [view]) is None


@pytest.fixture(scope="module")
def dust3r() -> PairNetwork:
    """A DUSt3R with random weights, the same on both sides."""
    config = NetworkConfig(
        architecture="AsymmetricCroCo3DStereo",
        img_size=(112, 112),
        enc_embed_dim=48,
        enc_depth=3,
        enc_num_heads=3,
        dec_embed_dim=32,
        dec_depth=3,
        dec_num_heads=2,
        landscape_only=False,
    )
    torch.manual_seed(0)
    network = build_network(config)
    for parameter in network.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=2 / parameter[0].numel() ** 0.5)
    network.dec_blocks2, network.downstream_head2 = network.dec_blocks, network.downstream_head1
    return network.eval()


@pytest.mark.parametrize("dense", [True, False])
def test_networks_without_descriptors_match_points(
    dust3r: PairNetwork, photo: np.ndarray, dense: bool
) -> None:
    matcher = matcher_of(dust3r, dense=dense)
    view = matcher.encode(photo)
    matches = matcher.match(view, view)
    assert len(matches) > 50
    assert np.abs(matches.keypoints0 - matches.keypoints1).max() < 0.01
    asked = matcher.match(view, keypoints_of(view, 60))
    assert asked.indices1 is not None and len(asked) > 30
    # unsure points take no part
    unsure = matcher_of(dust3r, dense=dense, min_confidence=1e9)
    assert len(unsure.match(view, view)) == 0


# ---------------------------------------------------------------------------------- options


@pytest.mark.parametrize(
    "values",
    [
        {"long_side_px": -1},
        {"grid_step_px": 0},
        {"pixel_tol_px": -0.5},
        {"max_matches": -2},
        {"border_px": -1},
        {"resize": "trained", "long_side_px": 300},
    ],
)
def test_bad_options(values: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(values)) if len(values) == 1 else "trained"):
        Mast3rOptions(**values)


# ------------------------------------------------------------------------- groundloc's own model


def test_a_network_of_a_coarser_descriptor_grid(photo: np.ndarray) -> None:
    """Its skip features are stored beside the tokens, its matches lie between its cells."""
    torch.manual_seed(0)
    network = build_network(small_config()).eval()
    matcher = matcher_of(network, long_side_px=128)
    view = matcher.encode(photo)
    extras = {name for name in view.arrays if name.startswith("skip") and "_" not in name}
    assert extras and all(view.arrays[name].dtype == np.int8 for name in extras)
    for matches in (matcher.match(view, view), matcher.match(view, keypoints_of(view, 40))):
        assert len(matches) > 0
        for points in (matches.keypoints0, matches.keypoints1):
            assert (points >= 0).all() and (points <= [224, 168]).all()
    half = Mast3rOptions(long_side_px=128, engine=EngineOptions(precision="bfloat16"))
    cast = Mast3rMatcher(network, name="small", fingerprint="f", options=half)
    assert cast.encode(photo).arrays["tokens"].dtype == np.float16
