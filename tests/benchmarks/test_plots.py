"""Match pictures: ends on the right pixels, inliers apart from outliers, any photo sizes."""

from pathlib import Path
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image, ImageDraw

from benchmarks.plots import draw_matches, plot_matches, score_colors
from matching.errors import InputError
from matching.types import Matches


def grey_photo(width: int, height: int) -> np.ndarray:
    return np.full((height, width, 3), 40, np.uint8)


def matches_at(ends0: list, ends1: list, scores: list | None = None) -> Matches:
    return Matches(
        keypoints0=np.array(ends0, np.float32).reshape(-1, 2),
        keypoints1=np.array(ends1, np.float32).reshape(-1, 2),
        scores=np.array(scores or [1.0] * len(ends0), np.float32),
    )


def changed(picture: Image.Image, reference: Image.Image) -> np.ndarray:
    """Where two pictures of one size differ clearly, above the legend."""
    difference = np.abs(np.asarray(picture, int) - np.asarray(reference, int)).max(2)
    return difference > 60


def test_ends_of_a_match_lie_on_its_pixels_whatever_the_photo_sizes() -> None:
    image0, image1 = grey_photo(800, 400), grey_photo(300, 600)
    match = matches_at([(200, 300)], [(150, 60)])
    picture = draw_matches(image0, image1, match, photo_size_px=600)
    empty = draw_matches(image0, image1, Matches.empty(), photo_size_px=600)
    mark = changed(picture, empty)[:600]
    # left photo 600x300, centred in a height of 600; right one 300x600 behind a gap of 6 pixels
    left, right = (200 * 0.75, 150 + 300 * 0.75), (606 + 150, 60)
    ys, xs = np.nonzero(mark)
    assert abs(xs.min() - left[0]) < 5 and abs(xs.max() - right[0]) < 5
    assert abs(ys.max() - left[1]) < 5 and abs(ys.min() - right[1]) < 5
    for x, y in (left, right):
        assert mark[int(y) - 1 : int(y) + 2, int(x) - 1 : int(x) + 2].all()


def test_inliers_follow_the_score_and_outliers_are_red_crosses() -> None:
    image = grey_photo(600, 400)
    ends = [(100, 100), (100, 200), (100, 300)]
    match = matches_at(ends, ends, scores=[0.9, 0.5, 0.1])
    mask = np.array([True, True, False])
    picture = np.asarray(draw_matches(image, image, match, inlier_mask=mask, photo_size_px=600))
    best, middle, outlier = (picture[y, x].astype(int) for x, y in ends)
    assert best[0] > 200 and best[1] > 200 and best[2] < 100  # yellow
    assert middle[1] > middle[0]  # between blue and yellow lies green
    assert outlier[0] > 200 and outlier[1] < 100  # red
    # the disc of an inlier covers its corner-side neighbours, the cross of an outlier does not
    assert picture[100, 98].max() > 150 and picture[300, 98].max() < 100
    without = np.asarray(draw_matches(image, image, match, photo_size_px=600))
    assert not (without[..., 0].astype(int) - without[..., 1] > 150).any()  # no mask, no red


def test_drawn_matches_are_spread_over_the_ranks() -> None:
    image = grey_photo(640, 640)
    ends = [(320, y) for y in range(5, 640, 4)]
    match = matches_at(ends, ends, scores=np.linspace(1, 0, len(ends)).tolist())
    empty = draw_matches(image, image, Matches.empty(), photo_size_px=640)
    few = changed(draw_matches(image, image, match, photo_size_px=640, max_matches=8), empty)
    rows = np.nonzero(few[:640, 320])[0]
    assert rows.min() < 10 and rows.max() > 540
    groups = 1 + int((np.diff(rows) > 1).sum())
    assert groups == 8
    none = draw_matches(image, image, match, photo_size_px=640, max_matches=0)
    assert not changed(none, empty)[:640].any()


@pytest.mark.parametrize("sizes", [((1, 1), (1, 1)), ((3000, 20), (20, 3000)), ((7, 5), (900, 2))])
def test_odd_sizes_and_no_matches_still_give_a_picture(sizes: tuple, tmp_path: Path) -> None:
    image0, image1 = (grey_photo(*size) for size in sizes)
    path = tmp_path / "new folder" / "picture.png"
    plot_matches(image0, image1, Matches.empty(), path)
    with Image.open(path) as picture:
        assert picture.width >= 640 and picture.height > 0


def test_photos_are_drawn_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6  # turned by a quarter
    Image.new("RGB", (200, 100), "white").save(tmp_path / "turned.jpg", exif=exif)
    photo = tmp_path / "turned.jpg"
    plot_matches(
        photo, photo, matches_at([(50, 199)], [(50, 1)]), tmp_path / "p.png", photo_size_px=800
    )
    with Image.open(tmp_path / "p.png") as picture:
        assert picture.width == 400 + 6 + 400


def test_file_format_follows_the_ending(tmp_path: Path) -> None:
    image = grey_photo(64, 48)
    for suffix, kind in ((".png", "PNG"), (".jpg", "JPEG"), (".WEBP", "WEBP")):
        plot_matches(image, image, Matches.empty(), tmp_path / f"m{suffix}")
        with Image.open(tmp_path / f"m{suffix}") as picture:
            assert picture.format == kind
    with pytest.raises(InputError, match=r"m\.gif.*\.png"):
        plot_matches(image, image, Matches.empty(), tmp_path / "m.gif")
    assert sorted(p.suffix for p in tmp_path.iterdir()) == [".WEBP", ".jpg", ".png"]


def test_a_bad_photo_leaves_an_old_picture_alone(tmp_path: Path) -> None:
    (tmp_path / "bad.jpg").write_bytes(b"no image")
    (tmp_path / "old.png").write_bytes(b"old")
    with pytest.raises(InputError, match=r"bad\.jpg"):
        plot_matches(tmp_path / "bad.jpg", grey_photo(9, 9), Matches.empty(), tmp_path / "old.png")
    assert (tmp_path / "old.png").read_bytes() == b"old"


def test_wrong_arguments_are_refused() -> None:
    image = grey_photo(9, 9)
    with pytest.raises(ValueError, match="inlier_mask must be"):
        draw_matches(image, image, Matches.empty(), inlier_mask=np.ones(3, bool))
    with pytest.raises(ValueError, match="max_matches"):
        draw_matches(image, image, Matches.empty(), max_matches=-1)


def test_score_colors_cover_the_range_and_survive_odd_scores() -> None:
    low, high = score_colors(np.array([0.0, 5.0]))
    assert low[2] > low[0] and high[0] > high[2]
    assert score_colors(np.zeros(0)).shape == (0, 4)
    # one that is far surer than all others does not make these alike
    odds = score_colors(np.array([900.0, 3.0, 2.0, 1.0]))
    np.testing.assert_array_equal(odds, score_colors(np.array([4.0, 3.0, 2.0, 1.0])))
    np.testing.assert_array_equal(*score_colors(np.array([1.0, 2.0, 1.0, 3.0]))[[0, 2]])
    same = score_colors(np.full(4, 0.3))
    assert (same == same[0]).all()
    assert score_colors(np.array([np.nan, np.inf, 1.0])).shape == (3, 4)


def test_scores_that_are_probabilities_show_how_sure_matches_are() -> None:
    best, just, nearly, none = score_colors(np.array([1.0, 0.301, 0.299, 0.0]), 0.3).astype(int)
    assert best[0] > best[2] and just[1] > max(just[0], just[2])  # yellow, green
    assert nearly[2] > nearly[1] and none[2] > none[1]  # blue
    assert best[3] == just[3] == 255 and nearly[3] > 250 and none[3] < 128
    assert score_colors(np.zeros(0), 0.3).shape == (0, 4)
    with np.errstate(all="raise"):
        none, best = score_colors(np.array([0.0, 1.0]), 0).tolist()
        assert best == score_colors(np.ones(1), 0.3)[0].tolist() and none[:3] != best[:3]
        assert score_colors(np.array([0.0, 0.99, 1.0]), 1)[:2, 2].min() > 200  # blue
    assert score_colors(np.array([np.nan, np.inf, -1.0, 2.0]), 0.3).shape == (4, 4)

    image = grey_photo(600, 600)
    ends = [(300, y) for y in range(20, 600, 20)]
    pairs = [matches_at(ends, ends, [score] * len(ends)) for score in (0.9, 0.001)]
    empty, *drawn = (
        np.asarray(draw_matches(image, image, match, sure_score=0.3, photo_size_px=600), int)[:600]
        for match in (Matches.empty(), *pairs)
    )
    seen = [np.abs(picture - empty).mean() for picture in drawn]
    assert seen[0] > 2 * seen[1] > 0, "two different places must not look like one"
    blue = np.array([59, 110, 255])
    assert np.abs(drawn[1][20, 300] - blue).max() > 50, "dots fade as well"
    ranks = [draw_matches(image, image, match, photo_size_px=600) for match in pairs]
    assert (np.asarray(ranks[0])[:600] == np.asarray(ranks[1])[:600]).all(), "ranks alone tell none"


def test_the_legend_tells_how_many_are_sure_and_what_colours_mean() -> None:
    image, ends = grey_photo(600, 600), [(300, 100), (300, 300), (300, 500)]
    match = matches_at(ends, ends, [0.9, 0.9, 0.2])
    text = ImageDraw.ImageDraw.text
    with patch.object(ImageDraw.ImageDraw, "text", autospec=True, side_effect=text) as written:
        picture = draw_matches(image, image, match, sure_score=0.3, photo_size_px=600)
    told = [call.args[2] for call in written.call_args_list]
    assert "3 matches, 2 sure" in told
    assert told[told.index("score, sure above 0.3: 0") + 1] == "1"
    legend = {tuple(color) for color in np.asarray(picture)[600:].reshape(-1, 3).tolist()}
    faint, blue, yellow = (21, 38, 89), (59, 110, 255), (253, 231, 60)
    assert {faint, yellow} <= legend and blue not in legend


def test_names_beyond_ascii_do_not_stop_a_picture() -> None:
    image = grey_photo(320, 240)
    for caption in ("ä b.jpg", "写真.jpg", "x" * 500, ""):
        picture = draw_matches(image, image, Matches.empty(), captions=(caption, caption))
        assert picture.width == 900 * 2 + 6
