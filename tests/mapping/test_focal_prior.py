import math

import pytest

from mapping.focal_prior import DEFAULT_FOCAL_RATIO, focal_prior

SIZE = (800, 600)


def test_one_source_is_taken_as_it_is() -> None:
    exif = focal_prior(SIZE, exif_px=700.0)
    assert (exif.focal_px, exif.source) == (700.0, "exif")
    nothing = focal_prior(SIZE)
    assert (nothing.focal_px, nothing.source) == (800 * DEFAULT_FOCAL_RATIO, "guess")
    assert exif.log_std < nothing.log_std


@pytest.mark.parametrize("exif_px", [700.0, None])
def test_two_sources_are_averaged_by_their_exactness(exif_px: float | None) -> None:
    alone = focal_prior(SIZE, exif_px=exif_px)
    blend = focal_prior(SIZE, exif_px=exif_px, pointmap_px=1000.0)
    low, high = sorted((alone.focal_px, 1000.0))
    assert low < blend.focal_px < high
    assert blend.log_std < alone.log_std
    assert blend.source == ("pointmap" if exif_px is None else "exif+pointmap")
    # EXIF is the more exact one, a common focal length the less exact one
    nearer_to_pointmap = abs(math.log(blend.focal_px / 1000)) < abs(
        math.log(blend.focal_px / alone.focal_px)
    )
    assert nearer_to_pointmap == (exif_px is None)


def test_the_blend_does_not_depend_on_the_unit() -> None:
    small = focal_prior(SIZE, exif_px=700.0, pointmap_px=900.0)
    large = focal_prior((1600, 1200), exif_px=1400.0, pointmap_px=1800.0)
    assert large.focal_px == pytest.approx(2 * small.focal_px)
    assert large.log_std == small.log_std


@pytest.mark.parametrize("pointmap_px", [150.0, 3000.0])
def test_exif_that_the_point_map_contradicts_is_trusted_less(pointmap_px: float) -> None:
    prior = focal_prior(SIZE, exif_px=700.0, pointmap_px=pointmap_px)
    assert (prior.focal_px, prior.source) == (700.0, "exif")
    assert prior.log_std == pytest.approx(abs(math.log(700 / pointmap_px)))
