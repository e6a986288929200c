"""Settings of `localize.localizer.Localizer`."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from localize.lift import LiftOptions
from localize.pnp import PnPOptions

_MATCHER_PIXELS = 1.5  # no limit is finer: a match is not more precise


@dataclass(frozen=True, kw_only=True)
class LocalizerOptions:
    """Settings of `Localizer`.

    Lengths of ``lift`` and ``pnp`` in pixels are those of the pixels that the matcher looks at
    (`matching.matcher.Matcher.pixel_px`): for SIFT pixels of the photo, for a network those of its
    own, smaller image.
    """

    top_k: int = 10  # map photos that a query is matched with
    # inliers with which the matcher's quick encoding of a query is enough; with fewer the full one
    # is tried as well (0: only the full one is used)
    quick_min_inliers: int = 500
    # a second round matches up to so many map photos more: those that see what the camera sees from
    # the pose of the first but were not retrieved; without a pose the next retrieved ones; 0: none
    second_round_photos: int = 5
    second_round_below: float = 0.5  # only poses of less confidence get a second round
    # poses of less confidence are looked for once more with the query seen smaller, which makes up
    # for a zoom of three or four, if the matcher can do that (`small`), and replaced by one of that
    # confidence; 0: none
    smaller_below: float = 0.3
    # of a query without a given camera: ask the matcher's point maps for the focal length
    pointmap_focal: bool = True
    # a pose that is hardly better than chance counts as a failure; 0 keeps every pose
    min_confidence: float = 0.15
    # long side of the photos that pnp.max_error_px is meant for, as limits are published (hloc's 12
    # at 1600 pixels): every photo is then judged by the same angle, whatever its size and whatever
    # the matcher sees of it, but never finer than 1.5 pixels of the matcher. None: the limit is in
    # pixels of the matcher.
    max_error_long_side_px: int | None = None
    min_shared_points: int = 5  # map points two photos share to show the same place
    num_threads: int = 0  # queries of a stream worked on at a time; 0: as the matcher likes it
    lift: LiftOptions = field(default_factory=LiftOptions)
    pnp: PnPOptions = field(default_factory=PnPOptions)

    def at_pixel(self, pixel_px: float, image_size: Sequence[int]) -> "LocalizerOptions":
        """The options in pixels of a photo.

        Args:
            pixel_px: Size of the matcher's pixels in those of the photo.
            image_size: (width, height) of the photo.
        """
        max_error_px = self.pnp.max_error_px * pixel_px
        if self.max_error_long_side_px is not None:
            scaled = self.pnp.max_error_px * max(image_size) / self.max_error_long_side_px
            max_error_px = max(scaled, _MATCHER_PIXELS * pixel_px)
        lift = replace(
            self.lift,
            max_distance_px=self.lift.max_distance_px * pixel_px,
            merge_distance_px=self.lift.merge_distance_px * pixel_px,
        )
        pnp = replace(
            self.pnp,
            max_error_px=max_error_px,
            loss_scale_px=self.pnp.loss_scale_px * pixel_px,
        )
        return replace(self, lift=lift, pnp=pnp, max_error_long_side_px=None)

    def __post_init__(self) -> None:
        if self.top_k < 1:
            raise ValueError(f"top_k must be at least 1, got {self.top_k}")
        for name in ("second_round_photos", "num_threads"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in ("second_round_below", "smaller_below", "min_confidence"):
            if not 0 <= getattr(self, name) <= 1:
                raise ValueError(f"{name} must be in [0, 1], got {getattr(self, name)}")
        if self.max_error_long_side_px is not None and self.max_error_long_side_px < 1:
            raise ValueError(
                f"max_error_long_side_px must be at least 1, got {self.max_error_long_side_px}"
            )
        if self.min_shared_points < 1:
            raise ValueError(f"min_shared_points must be at least 1, got {self.min_shared_points}")
