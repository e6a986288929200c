"""A second look with patches as descriptors, which match what is seen at one scale."""

from dataclasses import replace
from unittest.mock import Mock, patch

import numpy as np
import pytest
from PIL import Image
from torch import Tensor

from matching.common_region import CommonRegion, RegionOptions
from matching.encoded import PHOTO, frame_of, photo_step, with_photo
from matching.errors import InputError
from matching.mast3r import Mast3rMatcher, Mast3rOptions
from matching.pair_decoding import SURE
from matching.second_look import LookOptions, SecondLook, _joined, _Look
from matching.types import Matches, View
from tests import golden_adapter
from tests.matching.matcher_suite import textured
from tests.matching.patch_network import patch_matcher

SHIFT = np.array([208, 140])  # of the second photo in the scene


@pytest.fixture(scope="module")
def matcher() -> Mast3rMatcher:
    return patch_matcher(second_look=False)


@pytest.fixture(scope="module")
def looking() -> Mast3rMatcher:
    return patch_matcher(second_look=True)


@pytest.fixture(scope="module")
def scene() -> np.ndarray:
    whole = textured(400, 560, seed=2)
    return whole[:-2] // 3 + whole[1:-1] // 3 + whole[2:] // 3


@pytest.fixture(scope="module")
def views(looking: Mast3rMatcher, scene: np.ndarray) -> tuple[View, View]:
    """Photos of 320 x 240 pixels that share a corner."""
    x, y = SHIFT
    other = scene[y : y + 240, x : x + 320]
    return looking.encode(scene[:240, :320]), looking.encode(other)


def errors(matches: Matches) -> np.ndarray:
    gap: np.ndarray = np.linalg.norm(matches.keypoints0 - SHIFT - matches.keypoints1, axis=1)
    return gap


def look(matcher: Mast3rMatcher, *, enough: int = 60, min_sure: int = 5) -> SecondLook:
    """Patches are not trained to be told apart: few of their matches are sure."""
    return SecondLook(
        matcher._decoder, matcher._encoding, LookOptions(enough=enough, min_sure=min_sure)
    )


def test_the_common_corner_is_matched_again(
    matcher: Mast3rMatcher, views: tuple[View, View]
) -> None:
    first = matcher.match_views(*views)
    (again,) = look(matcher).match_many(views[0], views[1:], [first])
    assert (np.diff(again.scores) <= 0).all()
    right = errors(again) < 1.5
    assert right.sum() > 1.5 * (errors(first) < 1.5).sum() > 100
    known = {tuple(row) for row in np.hstack((first.keypoints0, first.keypoints1)).tolist()}
    found = np.hstack((again.keypoints0, again.keypoints1))
    new = np.array([tuple(row) not in known for row in found.tolist()])
    # the new ones lie in one window of each photo, the old ones that are left outside of them
    low, high = found[new].min(0), found[new].max(0)
    assert (high - low < (300, 225, 300, 225)).all() and right[new].mean() > 0.8
    inside = ((found > low) & (found < high)).all(1)
    assert not (inside & ~new).any() and (~new).sum() > 50


def test_pairs_of_one_call_equal_single_ones(
    matcher: Mast3rMatcher, looking: Mast3rMatcher, views: tuple[View, View], scene: np.ndarray
) -> None:
    tall = looking.encode(scene[100:398, 160:380])
    others = [views[1], tall, views[0], views[1]]
    first = matcher.match_many(views[0], others)
    seeing = look(matcher)
    together = seeing.match_many(views[0], others, first)
    alone = [
        seeing.match_many(views[0], [other], [own])[0]
        for other, own in zip(others, first, strict=True)
    ]
    for one, other in zip(together, alone, strict=True):
        np.testing.assert_allclose(one.keypoints1, other.keypoints1, atol=1e-3)
        np.testing.assert_allclose(one.scores, other.scores, atol=1e-5)
    assert together[2] is first[2], "the same photo twice: enough is sure"
    assert together[0] is not first[0] and together[1] is not first[1]
    assert seeing.match_many(views[0], [], []) == []


@pytest.mark.parametrize("sides", [(160, 160), (160, 640), (640, 160)])
def test_windows_of_shrunken_photos_are_where_they_are_in_the_photo(
    matcher: Mast3rMatcher,
    views: tuple[View, View],
    scene: np.ndarray,
    sides: tuple[int, int],
) -> None:
    x, y = SHIFT
    photos = scene[:240, :320], scene[y : y + 240, x : x + 320]
    held = [with_photo(*each) for each in zip(views, photos, sides, strict=True)]
    assert [photo_step(view) for view in held] == [2 if side == 160 else 1 for side in sides]
    first = matcher.match_views(*views)
    (again,) = look(matcher).match_many(held[0], held[1:], [first])
    assert (errors(again) < 1.5).sum() > 1.5 * (errors(first) < 1.5).sum()


def test_when_there_is_no_second_look_to_believe(
    matcher: Mast3rMatcher, looking: Mast3rMatcher, views: tuple[View, View], scene: np.ndarray
) -> None:
    first = matcher.match_views(*views)
    blank = looking.encode(np.zeros((240, 320, 3), np.uint8))
    keyed = replace(views[1], keypoints=np.full((1, 2), 9, np.float32))
    bare = matcher.encode(scene[:240, :320])
    assert PHOTO not in bare.arrays and PHOTO not in blank.arrays
    seeing = look(matcher)
    for other, found in ((keyed, first), (bare, first), (blank, Matches.empty())):
        assert seeing.match_many(views[0], [other], [found])[0] is found
    doubting = look(matcher, min_sure=10**6)
    assert doubting.match_many(views[0], views[1:], [first])[0] is first
    assert look(matcher, enough=0).match_many(views[0], views[1:], [first])[0] is first


def test_matchers_look_again_by_themselves(matcher: Mast3rMatcher, scene: np.ndarray) -> None:
    assert patch_matcher()._second_look is not None, "scores of this kind of network are right"
    assert patch_matcher(coarse_to_fine=True)._second_look is None
    assert matcher._second_look is None
    with pytest.raises(ValueError, match="not together with coarse_to_fine"):
        Mast3rOptions(second_look=True, coarse_to_fine=True)
    maps = patch_matcher(second_look=True).encode_for_map([scene[:240, :320]])
    assert all(isinstance(v, View) and PHOTO not in v.arrays for v in maps), "maps stay small"


def test_no_more_matches_than_asked_for(views: tuple[View, View]) -> None:
    few = patch_matcher(second_look=False, max_matches=200)
    first = few.match_views(*views)
    (again,) = look(few).match_many(views[0], views[1:], [first])
    assert len(first) == len(again) == 200 and (np.diff(again.scores) <= 0).all()
    assert (errors(again) < 1.5).sum() > (errors(first) < 1.5).sum()


def test_photos_of_queries_are_not_kept_and_hold_up_nobody(
    looking: Mast3rMatcher, scene: np.ndarray, views: tuple[View, View]
) -> None:
    bare = looking.encode_bare(scene[:240, :320])
    large = np.tile(scene[:200, :280], (5, 5, 1))
    assert looking.encode(large).arrays[PHOTO].shape == (500, 700, 3), "enough for windows"
    assert PHOTO in views[0].arrays and PHOTO not in bare.arrays
    np.testing.assert_array_equal(bare.arrays["tokens"], views[0].arrays["tokens"])
    held = Mock(wraps=looking._turn, __enter__=Mock(), __exit__=Mock(return_value=None))
    with patch.object(looking, "_turn", held):
        looking.match_many(bare, views[1:])
        assert held.__enter__.call_count == 1
        looking.match_many(views[0], views[1:])
        assert held.__enter__.call_count == 3, "the device is asked for twice"


def test_bad_options_are_refused() -> None:
    for options in (
        *({"enough": -1}, {"min_sure": -1}, {"min_sure_smaller": -1}, {"size": 0.0}, {"size": 1.5}),
        *({"min_zoom": 0.9}, {"smaller": (0.5, 1.0)}, {"smaller": (0.0,)}),
    ):
        with pytest.raises(ValueError, match=f"{next(iter(options))} must"):
            LookOptions(**options)


def test_scores_that_are_no_probabilities_say_nothing(golden_state: dict[str, Tensor]) -> None:
    with pytest.raises(InputError, match="scores that are probabilities"):
        Mast3rMatcher(
            golden_adapter.small_network(golden_state),
            name="golden",
            fingerprint="f",
            options=Mast3rOptions(second_look=True),
        )


def test_photos_are_shrunken_copies() -> None:
    def view(width: int, height: int) -> View:
        empty = np.zeros((0, 2), np.float32)
        return View(image_size=(width, height), keypoints=empty, arrays={})

    for width, height, step in ((301, 200, 1), (2000, 1501, 3), (640, 5000, 7), (641, 480, 1)):
        image = np.zeros((height, width, 3), np.uint8)
        image[:, -(width // 2) :] = 200
        held = with_photo(view(width, height), image, 640)
        assert photo_step(held) == step
        photo = held.arrays[PHOTO]
        assert photo.shape == (height // step, width // step, 3)
        before = photo.copy()
        image[:] = 7
        np.testing.assert_array_equal(held.arrays[PHOTO], before)
    assert PHOTO not in with_photo(view(3000, 2), np.zeros((2, 3000, 3), np.uint8), 640).arrays


def zoomed_views(looking: Mast3rMatcher, scene: np.ndarray) -> tuple[View, View]:
    """A photo of 320 x 240 pixels, and what is in its middle at twice the size."""
    own = scene[:240, :320]
    middle = Image.fromarray(own).resize(
        (320, 240), Image.Resampling.BICUBIC, box=(80, 60, 240, 180)
    )
    return looking.encode(own), looking.encode(np.array(middle))


def zoom_errors(matches: Matches) -> np.ndarray:
    gap: np.ndarray = np.linalg.norm(
        (matches.keypoints0 - (80, 60)) * 2 - matches.keypoints1, axis=1
    )
    return gap


def scales(matcher: Mast3rMatcher, *smaller: float, **options: int) -> SecondLook:
    """Windows without much of a margin have one scale in both photos, as patches need it."""
    chosen = LookOptions(
        enough=60,
        smaller=smaller,
        region=RegionOptions(margin=0.05),
        **{"min_sure": 15, "min_sure_smaller": 5, **options},
    )
    return SecondLook(matcher._decoder, matcher._encoding, chosen)


@pytest.mark.parametrize("order", [1, -1])
def test_a_photo_made_smaller_tells_where_to_look_across_a_zoom(
    matcher: Mast3rMatcher, looking: Mast3rMatcher, scene: np.ndarray, order: int
) -> None:
    views = zoomed_views(looking, scene)[::order]
    first = matcher.match_views(*views)
    own = first if order == 1 else first.swapped()
    assert (zoom_errors(own) < 3).sum() < 20
    again = scales(matcher, 0.5).match_many(views[0], [*views[1:], views[0]], [first] * 2)
    found = again[0] if order == 1 else again[0].swapped()
    assert (zoom_errors(found) < 2).sum() > 200 and found.num_above(SURE) > 15
    assert (np.diff(found.scores) <= 0).all()
    # without it, too few sure matches at that size, or a better first look: all stays as it was
    without = scales(matcher), scales(matcher, 0.5, min_sure_smaller=10**6)
    for looks in (*without, scales(matcher, 0.5, min_sure=0)):
        assert looks.match_many(views[0], views[1:], [first])[0] is first


def sure_matches(count: int) -> Matches:
    """So many that are sure, and one that is not, all about one place."""
    points = np.full((count + 1, 2), 50, np.float32)
    scores = np.append(np.full(count, 0.9), 0.1).astype(np.float32)
    return Matches(keypoints0=points, keypoints1=points, scores=scores)


def test_few_matches_asked_for_do_not_hide_what_is_sure(
    looking: Mast3rMatcher, scene: np.ndarray
) -> None:
    views = zoomed_views(looking, scene)
    few, every = (patch_matcher(second_look=False, max_matches=number) for number in (10, 0))
    first = few.match_views(*views)
    (again,) = scales(few, 0.5).match_many(views[0], views[1:], [first])
    (whole,) = scales(every, 0.5).match_many(views[0], views[1:], [every.match_views(*views)])
    assert len(first) == 10 > first.num_above(SURE), "15 sure ones have to be found"
    np.testing.assert_array_equal(again.keypoints1, whole.keypoints1[:10])
    # where all that may be kept are sure, there is nothing to gain
    kept = sure_matches(10).select(slice(10))
    with patch.object(SecondLook, "_guides", side_effect=AssertionError("looked again")):
        assert scales(few, 0.5).match_many(views[0], views[1:], [kept])[0] is kept


@pytest.mark.parametrize(
    ("sure", "sizes", "guide"),
    [
        ((3, 0, 20), [0.5], 3),
        ((3, 4, 20), [0.5, 0.3], 20),
        ((3, 30, 20), [0.5], 30),
        ((3, 5, 4), [0.5, 0.3], 5),
        ((10, 9, 10), [0.5, 0.3], 10),
    ],
)
def test_the_next_size_is_tried_where_the_last_one_hardly_tells(
    matcher: Mast3rMatcher,
    views: tuple[View, View],
    sure: tuple[int, int, int],
    sizes: list[float],
    guide: int,
) -> None:
    looks = scales(matcher, 0.5, 0.3)
    first, *found = (sure_matches(count) for count in sure)
    with patch.object(looks, "_with_one_smaller", side_effect=[[each] for each in found]) as tried:
        guides = looks._guides(views[0], views[1:], {0: first})
    assert [call.args[2] for call in tried.call_args_list] == sizes
    assert guides[0].num_above(SURE) == guide
    assert guides[0] is first or guide > sure[0], "no more sure than the first look is no reason"


def test_sizes_are_not_tried_where_the_first_look_tells(
    matcher: Mast3rMatcher, views: tuple[View, View]
) -> None:
    looks = scales(matcher, 0.5)
    with patch.object(looks, "_with_one_smaller") as tried:
        assert looks._guides(views[0], views[1:], {0: sure_matches(30)}).keys() == {0}
    assert not tried.called


def test_there_is_no_look_where_nothing_would_be_enlarged(
    matcher: Mast3rMatcher, views: tuple[View, View]
) -> None:
    points = np.random.default_rng(0).random((200, 2)).astype(np.float32) * (320, 240)
    spread = Matches(keypoints0=points, keypoints1=points, scores=np.full(200, 0.9, np.float32))
    assert scales(matcher)._looks(views[0], views[1:], {0: spread}) == []
    (whole,) = scales(matcher, min_zoom=1)._looks(views[0], views[1:], {0: spread})
    assert whole.region.zoom < 1.1 and whole.guide is spread


@pytest.mark.parametrize(
    ("size", "pixels"), [(0.5, (160, 128)), (0.3, (96, 64)), (0.01, (16, 16)), (1, (320, 240))]
)
def test_photos_made_smaller_are_whole(
    matcher: Mast3rMatcher, views: tuple[View, View], size: float, pixels: tuple[int, int]
) -> None:
    side, image = scales(matcher)._window(views[0], np.array([0.0, 0, 320, 240]), size)
    assert side.frame.image_size == pixels and image.shape == (3, *pixels[::-1])
    corners = side.frame.to_photo(np.array([[0, 0], pixels]))
    np.testing.assert_allclose(corners, [[0, 0], [320, 240]])


def test_what_was_found_outside_of_either_window_stays() -> None:
    inside, outside = (50, 50), (200, 200)
    ends = np.array([(a, b) for a in (inside, outside) for b in (inside, outside)], np.float32)
    guide = Matches(
        keypoints0=ends[:, 0], keypoints1=ends[:, 1], scores=np.full(4, 0.5, np.float32)
    )
    box = np.array([0.0, 0, 100, 100])
    region = CommonRegion(box0=box, box1=box, zoom=2.0)
    joined = _joined(sure_matches(2), _Look(row=0, region=region, guide=guide))
    np.testing.assert_allclose(joined.scores, [0.9, 0.9, 0.5, 0.5, 0.5, 0.1])
    np.testing.assert_array_equal(joined.keypoints0[2:5], ends[1:, 0])
    np.testing.assert_array_equal(joined.keypoints1[2:5], ends[1:, 1])


def test_matchers_trained_at_several_sizes_see_photos_smaller(
    matcher: Mast3rMatcher, scene: np.ndarray, golden_state: dict[str, Tensor]
) -> None:
    half = matcher.smaller()
    assert half is not None and matcher.long_side_px == 320
    for each, size in ((half, (160, 112)), (matcher, (320, 240))):
        assert frame_of(each.encode_bare(scene[:240, :320])).image_size == size
    assert half.pixel_px(half.encode_bare(scene[:240, :320])) == 2
    assert half.fingerprint != matcher.fingerprint and half.describe()["options"] == {
        **matcher.describe()["options"],
        "long_side_px": 160,
    }
    assert matcher.options.long_side_px == 320, "the matcher itself stays as it is"
    for given in ({"coarse_to_fine": True}, {"resize": "trained", "long_side_px": 512}):
        assert patch_matcher(**given).smaller() is None
    for side, photo, size in ((448, (320, 240), (240, 176)), (20, (320, 240), None)):
        least = patch_matcher(long_side_px=side).smaller()
        assert least is not None
        seen = frame_of(least.encode_bare(scene[: photo[1], : photo[0]]))
        assert seen.image_size == (size or (0, 0)), "all of the photo, not a square of it"
    golden = golden_adapter.small_network(golden_state)
    assert Mast3rMatcher(golden, name="golden", fingerprint="f").smaller() is None
