"""The contract of `Matcher`, inherited by the tests of every implementation."""

from dataclasses import replace

import numpy as np
import pytest

from matching.matcher import Matcher
from matching.types import View


def textured(height: int, width: int, seed: int = 0) -> np.ndarray:
    """A photo-like random image with structure at several scales, (H, W, 3) uint8."""
    generator = np.random.default_rng(seed)
    image = np.zeros((height, width, 3))
    for step in (4, 8, 16, 32):
        coarse = generator.random((height // step + 2, width // step + 2, 3))
        image += np.kron(coarse, np.ones((step, step, 1)))[:height, :width]
    image -= image.min()
    return (image / image.max() * 255).astype(np.uint8)


class MatcherSuite:
    """Subclasses give a fixture ``matcher``."""

    def test_matches_a_shifted_image(self, matcher: Matcher) -> None:
        scene = textured(280, 360)
        image0, image1 = scene[:240, :320], scene[16:256, 24:344]
        matches = matcher.match(image0, image1)
        assert len(matches) >= 20
        # what lies at (x, y) in image 0 lies 24 columns and 16 rows earlier in image 1
        error = np.linalg.norm(matches.keypoints0 - [24, 16] - matches.keypoints1, axis=1)
        assert np.median(error) < 1.0

    def test_order_range_and_rows(self, matcher: Matcher) -> None:
        scene = textured(280, 360, seed=1)
        view0, view1 = matcher.encode(scene[:240, :320]), matcher.encode(scene[8:, 12:])
        matches = matcher.match(view0, view1)
        assert (np.diff(matches.scores) <= 0).all()
        for keypoints, view in ((matches.keypoints0, view0), (matches.keypoints1, view1)):
            width, height = view.image_size
            assert (keypoints >= 0).all() and (keypoints <= [width, height]).all()
        for indices, keypoints, view in (
            (matches.indices0, matches.keypoints0, view0),
            (matches.indices1, matches.keypoints1, view1),
        ):
            if indices is not None:
                np.testing.assert_array_equal(view.keypoints[indices], keypoints)
                assert len(set(indices.tolist())) == len(indices), "one-to-one"

    def test_many_equals_one_at_a_time(self, matcher: Matcher) -> None:
        scene = textured(280, 360, seed=2)
        views = [matcher.encode(scene[i : 200 + i, i : 300 + i]) for i in (0, 16, 32)]
        together = matcher.match_many(views[0], views[1:])
        for matches, other in zip(together, views[1:], strict=True):
            alone = matcher.match_views(views[0], other)
            np.testing.assert_array_equal(matches.keypoints0, alone.keypoints0)
            np.testing.assert_array_equal(matches.keypoints1, alone.keypoints1)
            np.testing.assert_allclose(matches.scores, alone.scores, atol=1e-5)
        assert matcher.match_many(views[0], []) == []

    @pytest.mark.parametrize("shape", [(1, 1), (3, 500), (120, 160)])
    def test_nothing_to_match_is_empty_not_an_error(
        self, matcher: Matcher, shape: tuple[int, int]
    ) -> None:
        blank = matcher.encode(np.zeros((*shape, 3), np.uint8))
        assert blank.image_size == (shape[1], shape[0])
        photo = matcher.encode(textured(120, 160))
        for pair in ((blank, photo), (photo, blank), (blank, blank)):
            assert len(matcher.match_views(*pair)) == 0
        assert matcher.local_descriptors(blank).ndim == 2

    def test_deterministic(self, matcher: Matcher) -> None:
        images = textured(160, 200, seed=3), textured(160, 200, seed=3)[5:, 5:]
        first, second = matcher.match(*images), matcher.match(*images)
        np.testing.assert_array_equal(first.keypoints0, second.keypoints0)
        np.testing.assert_array_equal(first.scores, second.scores)

    def test_stored_view_matches_the_same(self, matcher: Matcher) -> None:
        scene = textured(200, 260, seed=4)
        view0, view1 = matcher.encode(scene[:180, :240]), matcher.encode(scene[10:, 10:])
        stored = View(
            image_size=view0.image_size,
            keypoints=view0.keypoints.copy(),
            arrays={name: np.array(values) for name, values in view0.arrays.items()},
        )
        first, second = matcher.match_views(view0, view1), matcher.match_views(stored, view1)
        np.testing.assert_array_equal(first.keypoints1, second.keypoints1)

    def test_at_keypoints_only_those_are_matched(self, matcher: Matcher) -> None:
        scene = textured(200, 260, seed=5)
        view0, view1 = matcher.encode(scene[:180, :240]), matcher.encode(scene[4:, 6:])
        if len(view1.keypoints) == 0:  # a dense matcher is told where to look
            grid = np.mgrid[40:160:8, 40:200:8].reshape(2, -1).T[:, ::-1] + 0.5
            view1 = replace(view1, keypoints=grid.astype(np.float32))
        rows = np.arange(len(view1.keypoints))[::-2].copy()
        part = matcher.at_keypoints(view1, rows)
        np.testing.assert_array_equal(part.keypoints, view1.keypoints[rows])
        matches = matcher.match_views(view0, part)
        assert len(matches) >= 10 and matches.indices1 is not None
        np.testing.assert_array_equal(part.keypoints[matches.indices1], matches.keypoints1)
        error = np.linalg.norm(matches.keypoints0 - [6, 4] - matches.keypoints1, axis=1)
        assert np.median(error) < 1.0

    def test_local_descriptors_are_unit(self, matcher: Matcher) -> None:
        descriptors = matcher.local_descriptors(matcher.encode(textured(160, 200)))
        assert descriptors.dtype == np.float32 and len(descriptors) > 10
        np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-3)
