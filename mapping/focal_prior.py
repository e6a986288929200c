"""What is known of a photo's focal length before any pose is: EXIF, point maps, or what is common.

All three err by factors, so they are compared and averaged as logarithms.
"""

import math
from dataclasses import dataclass
from typing import Literal

FocalSource = Literal["exif", "pointmap", "exif+pointmap", "guess"]

DEFAULT_FOCAL_RATIO = 1.2  # focal length over the longer side where nothing is known (COLMAP)

# standard deviations of the logarithm
_EXIF_LOG_STD = 0.1  # rounded, or of another crop
_POINTMAP_LOG_STD = 0.25  # of the small network on photos of common lenses, see the results
_GUESS_LOG_STD = 0.35  # two thirds of photos have 0.85 to 1.7 times the longer side
_MAX_DISAGREEMENT = 3.0  # standard deviations by which EXIF and point map may differ


@dataclass(frozen=True, kw_only=True)
class FocalPrior:
    """A focal length and how far to trust it.

    Attributes:
        focal_px: Of the upright photo, pixels.
        log_std: Standard deviation of its logarithm.
        source: What it is from.
    """

    focal_px: float
    log_std: float
    source: FocalSource


def focal_prior(
    image_size: tuple[int, int], *, exif_px: float | None = None, pointmap_px: float | None = None
) -> FocalPrior:
    """Blend what is known of a focal length.

    The rule: the mean of the logarithms, each weighted by one over its variance, of EXIF and point
    map; where there is no EXIF, the common 1.2 times the longer side takes its place. If EXIF and
    point map differ by more than three standard deviations, one of them is of another photo: EXIF,
    the more exact, stays, but is trusted no further than the two differ.

    Args:
        image_size: (width, height) of the photo.
        exif_px: From the EXIF block, if there is one; pixels.
        pointmap_px: From point maps (`matching.matcher.Matcher.focal_px`); pixels.
    """
    if exif_px is None:
        common = DEFAULT_FOCAL_RATIO * max(image_size)
        if pointmap_px is None:
            return FocalPrior(focal_px=common, log_std=_GUESS_LOG_STD, source="guess")
        return _blended(common, _GUESS_LOG_STD, pointmap_px, "pointmap")
    if pointmap_px is None:
        return FocalPrior(focal_px=exif_px, log_std=_EXIF_LOG_STD, source="exif")
    difference = abs(math.log(exif_px / pointmap_px))
    if difference > _MAX_DISAGREEMENT * math.hypot(_EXIF_LOG_STD, _POINTMAP_LOG_STD):
        return FocalPrior(focal_px=exif_px, log_std=difference, source="exif")
    return _blended(exif_px, _EXIF_LOG_STD, pointmap_px, "exif+pointmap")


def _blended(
    focal_px: float, log_std: float, pointmap_px: float, source: FocalSource
) -> FocalPrior:
    weights = [std**-2 for std in (log_std, _POINTMAP_LOG_STD)]
    mean = (weights[0] * math.log(focal_px) + weights[1] * math.log(pointmap_px)) / sum(weights)
    return FocalPrior(focal_px=math.exp(mean), log_std=sum(weights) ** -0.5, source=source)
