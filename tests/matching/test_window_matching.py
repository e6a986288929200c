"""Coarse to fine through a network, with golden weights that are the same on both sides."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from matching.encoded import PIXELS, limited, over_pixels, pixels_frame
from matching.mast3r import Mast3rMatcher, Mast3rOptions
from matching.network import PairNetwork
from matching.network.engine import EngineOptions
from matching.types import View
from tests import golden_adapter
from tests.matching.matcher_suite import textured
from tests.matching.patch_network import patch_matcher


@pytest.fixture(scope="module")
def twin_network(golden_state: dict[str, Tensor]) -> PairNetwork:
    network = golden_adapter.small_network(golden_state)
    network.dec_blocks2 = network.dec_blocks
    network.downstream_head2 = network.downstream_head1
    return network


def matcher_of(network: PairNetwork, **options: Any) -> Mast3rMatcher:
    values = {
        "long_side_px": 112, "min_confidence": 0.0, "num_keypoints": 400,
        "coarse_to_fine": True, "fine_side_px": 224, **options,
    }  # fmt: skip
    return Mast3rMatcher(network, name="golden", fingerprint="f", options=Mast3rOptions(**values))


@pytest.fixture(scope="module")
def matcher(twin_network: PairNetwork) -> Mast3rMatcher:
    return matcher_of(twin_network)


@pytest.fixture(scope="module")
def photo() -> np.ndarray:
    return textured(336, 448, seed=2)


@pytest.fixture(scope="module")
def mapped(matcher: Mast3rMatcher, photo: np.ndarray) -> View:
    (view,) = matcher.encode_for_map([photo])
    assert isinstance(view, View)
    return view


def test_views_hold_the_photo_at_the_size_of_the_windows(
    matcher: Mast3rMatcher, twin_network: PairNetwork, photo: np.ndarray, mapped: View
) -> None:
    pixels = mapped.arrays[PIXELS]
    assert pixels.shape == (168, 224, 3) and pixels.dtype == np.uint8
    assert matcher.pixel_px(mapped) == 2.0
    assert pixels_frame(mapped).scale == (2.0, 2.0)
    assert 200 <= len(mapped.keypoints) <= 400
    whole = matcher_of(twin_network, coarse_to_fine=False)
    (view,) = whole.encode_for_map([photo])
    assert isinstance(view, View) and PIXELS not in view.arrays
    assert whole.pixel_px(view) == 4.0
    assert whole.fingerprint != matcher.fingerprint
    assert matcher_of(twin_network, fine_side_px=448).fingerprint != matcher.fingerprint


def test_sizes_of_stored_pixels() -> None:
    for size, long_side, at_least, expected in (
        ((300, 400), 200, 112, (150, 200)),
        ((300, 400), 0, 112, (300, 400)),
        ((300, 400), 1600, 112, (300, 400)),
        ((60, 80), 200, 112, (84, 112)),
        ((3, 400), 100, 50, (1, 100)),
    ):
        image = np.zeros((*size, 3), np.uint8)
        assert limited(image, long_side, at_least_px=at_least).shape == (*expected, 3)


def test_maps_over_the_network_image_fit_the_pixels() -> None:
    """A square photo of which the network sees the middle 3:4."""
    arrays = {PIXELS: np.zeros((200, 200, 3), np.uint8), "tokens": np.zeros((35, 1), np.float16)}
    arrays["frame"] = np.array([64, 48, 6.25, 6.25, 0, 50])
    view = View(image_size=(400, 400), keypoints=np.zeros((0, 2), np.float32), arrays=arrays)
    rows = torch.arange(1.0, 13)[:, None].expand(12, 16)
    filled = over_pixels(rows, view)
    assert filled.shape == (200, 200)
    assert filled[0].unique().tolist() == filled[199].unique().tolist() == [6.0]
    assert filled[26, 100] == 1 and filled[173, 100] == 12
    assert filled[:, 0].equal(filled[:, 199])


def test_windows_are_more_accurate_than_the_whole() -> None:
    """Two cuts of one picture, of which patches are matched at 1/4 and at 1/2 of its size."""
    picture = textured(500, 700, seed=2)
    picture = (picture[:-2] // 3 + picture[1:-1] // 3 + picture[2:] // 3)[:, :640]
    first, second = picture[:448, :576], picture[33:481, 50:626]
    errors = {}
    for coarse_to_fine in (False, True):
        matcher = patch_matcher(
            long_side_px=144, fine_side_px=288, coarse_to_fine=coarse_to_fine, num_keypoints=300
        )
        (mapped,) = matcher.encode_for_map([first])
        assert isinstance(mapped, View)
        found = matcher.match_views(matcher.encode(second), mapped)
        assert found.indices0 is None and found.indices1 is not None
        assert len(np.unique(found.indices1)) == len(found) > 80
        np.testing.assert_array_equal(found.keypoints1, mapped.keypoints[found.indices1])
        assert (np.diff(found.scores) <= 0).all()
        gap = np.linalg.norm(found.keypoints0 - found.keypoints1 + np.array([50, 33]), axis=1)
        assert (gap < 4).mean() > 0.7
        errors[coarse_to_fine] = float(np.median(gap[gap < 4]))
    assert errors[True] < 0.65 * errors[False]


def test_keypoints_of_both_photos_and_of_none(matcher: Mast3rMatcher, mapped: View) -> None:
    both = matcher.match_views(mapped, mapped)
    assert both.indices0 is not None and both.indices1 is not None
    for rows in (both.indices0, both.indices1):
        own = rows[rows >= 0]
        assert len(np.unique(own)) == len(own) > 100
    assert ((both.indices0 >= 0) != (both.indices1 >= 0)).all()
    free = replace(mapped, keypoints=mapped.keypoints[:0])
    found = matcher.match_views(free, free)
    assert found.indices0 is None and found.indices1 is None
    assert len(found) > 100
    assert (found.keypoints0 <= found.keypoints0.max(0)).all()
    cells = np.floor(found.keypoints0 / 2)
    assert len(np.unique(cells, axis=0)) == len(found), "one-to-one at the fine resolution"


def test_windows_without_keypoints() -> None:
    """Keypoints in a few spots, as on photos with much sky: some windows have none."""
    picture = textured(448, 576, seed=2)
    matcher = patch_matcher(
        long_side_px=64, fine_side_px=576, coarse_to_fine=True, num_keypoints=600
    )
    (mapped,) = matcher.encode_for_map([picture])
    assert isinstance(mapped, View)
    spots = np.array([[80, 80], [500, 380]])
    near = np.linalg.norm(mapped.keypoints[:, None] - spots, axis=2).min(1) < 50
    sparse = replace(mapped, keypoints=mapped.keypoints[near])
    for view, other in ((sparse, mapped), (mapped, sparse)):
        found = matcher.match_views(view, other)
        assert found.indices0 is not None and found.indices1 is not None
        assert ((found.indices0 >= 0) | (found.indices1 >= 0)).all() and len(found) > 100
        own = found.indices0 >= 0
        np.testing.assert_array_equal(found.keypoints0[own], view.keypoints[found.indices0[own]])
    only_there = matcher.match_views(matcher.encode(picture), sparse)
    assert only_there.indices0 is None and only_there.indices1 is not None
    assert (only_there.indices1 >= 0).all() and len(only_there) > 5


def test_batches_change_no_match(
    twin_network: PairNetwork, mapped: View, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Windows of several photos, more than fit into a batch, and photos without windows at once."""
    query = replace(mapped, keypoints=mapped.keypoints[:0])
    small = textured(84, 112, seed=2)
    matcher = matcher_of(twin_network, engine=EngineOptions(max_batch=3))
    others = [
        mapped,
        matcher.encode(small),
        matcher.encode(np.zeros((50, 60, 3), np.uint8)),
        mapped,
    ]
    together = matcher.match_many(query, others)
    with monkeypatch.context() as patch:
        patch.setattr("matching.window_matching._MAX_WINDOWS", 2)
        patch.setattr("matching.window_matching._KEPT_WINDOWS", 1)
        alone = matcher_of(twin_network).match_views(query, mapped)
    for row in (0, 3):
        np.testing.assert_array_equal(together[row].indices1, alone.indices1)
        np.testing.assert_allclose(together[row].keypoints0, alone.keypoints0, atol=1e-2)
    assert len(together[2]) == 0


def test_a_photo_of_the_networks_size_is_matched_once(
    twin_network: PairNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = matcher_of(twin_network)
    small = matcher.encode(textured(80, 112, seed=4))
    monkeypatch.setattr(matcher._windows, "_match", None)  # calling it would fail
    assert len(matcher.match_views(small, small)) > 50


def test_a_large_photo_with_a_small_one(matcher: Mast3rMatcher, mapped: View) -> None:
    """One window of the small photo, several of the large one; random weights know no zoom."""
    small = matcher.encode(limited(textured(336, 448, seed=2), 112))
    found = matcher.match_views(small, mapped)
    assert found.indices1 is not None and len(found) > 30
    assert (found.keypoints0 <= small.image_size).all() and (found.keypoints0 >= 0).all()
    np.testing.assert_array_equal(found.keypoints1, mapped.keypoints[found.indices1])
