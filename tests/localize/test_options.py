"""Which pixels the limits of localization count."""

import pytest

from localize.options import LocalizerOptions
from localize.pnp import PnPOptions


def limit(pixel_px: float, image_size: tuple[int, int], **options: int) -> float:
    given = LocalizerOptions(pnp=PnPOptions(max_error_px=12.0), **options)
    return given.at_pixel(pixel_px, image_size).pnp.max_error_px


def test_limits_count_the_pixels_that_the_matcher_sees() -> None:
    assert limit(1.0, (1600, 1200)) == 12
    assert limit(3.125, (1600, 1200)) == 12 * 3.125  # a network that sees 512 of 1600 pixels


@pytest.mark.parametrize("pixel_px", [1.0, 1.75, 3.125])
def test_a_published_limit_is_of_the_photo_whatever_the_matcher_sees(pixel_px: float) -> None:
    assert limit(pixel_px, (1600, 1200), max_error_long_side_px=1600) == 12
    assert limit(pixel_px, (1200, 1600), max_error_long_side_px=1600) == 12
    # a smaller photo of the same field of view: the same angle
    assert limit(pixel_px, (1024, 768), max_error_long_side_px=1600) == pytest.approx(7.68)


def test_a_published_limit_is_no_finer_than_the_matcher() -> None:
    assert limit(8.0, (1600, 1200), max_error_long_side_px=1600) == 12
    assert limit(10.0, (1600, 1200), max_error_long_side_px=1600) == 15
    assert limit(1.0, (100, 80), max_error_long_side_px=1600) == 1.5


def test_other_lengths_stay_those_of_the_matcher() -> None:
    options = LocalizerOptions(max_error_long_side_px=1600)
    seen = options.at_pixel(2.0, (1600, 1200))
    assert seen.lift.max_distance_px == 2 * options.lift.max_distance_px
    assert seen.pnp.loss_scale_px == 2 * options.pnp.loss_scale_px
    # they are the photo's now: nothing is scaled once more
    assert seen.at_pixel(1.0, (800, 600)) == seen
    with pytest.raises(ValueError, match="max_error_long_side_px must be at least 1, got 0"):
        LocalizerOptions(max_error_long_side_px=0)
