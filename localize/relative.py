"""`relative_pose`: how one camera stood relative to another, from two photos."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from localize.confidence import inliers_by_chance, pose_confidence, spread_inliers
from localize.essential import (
    Estimate,
    RelativeOptions,
    best_estimate,
    epipolar_errors,
    refined,
    undistorted_rays,
)
from localize.intrinsics import QueryCamera, query_camera, with_pointmap_focal
from localize.parallax import shows_parallax
from localize.pointmap_pose import (
    Baseline,
    baseline_length,
    matched_depths,
    pose_on_pointmap,
    pose_on_reference,
)
from localize.results import CameraSource, camera_to_dict
from matching.matcher import ImageLike, Matcher
from matching.pointmap import PairGeometry
from matching.types import Matches, View

FloatArray = NDArray[np.float64]

# On 79 pairs of real photos, poses of different places had confidences up to 0.36 with the bundled
# network (SIFT found none), right ones 0.55 and more; wrong ones of one place may have more, too
_DOUBTFUL = 0.45
_TOLD: dict[CameraSource, str] = {
    "given": "given",
    "exif": "from EXIF",
    "exif+pointmap": "from EXIF and the point maps",
    "pointmap": "no EXIF: from the point maps, or what fits the matches",
    "estimated": "no EXIF: a common one, or what fits the matches",
}


@dataclass(frozen=True, kw_only=True)
class RelativePose:
    """The pose of camera 1 relative to camera 0, or why it is not known.

    Attributes:
        success: Whether there is a pose.
        reason: Why there is none; empty on success.
        cam1_from_cam0: (4, 4), OpenCV axes; None without success.
        metric: Whether the translation is in metres, by the network's guess of the scale (that of
            the bundled one is off by up to a factor of two); if not, its length is 1 and only its
            direction counts.
        length_spread: How far the matches disagree about the length of the translation: median
            deviation of its logarithm, which a wrong scale of the whole does not show; None where
            it does not come from matched depths.
        camera0: Camera of photo 0: the given one scaled to the photo, or with the focal length
            found from EXIF or with the pose.
        camera1: The same for photo 1.
        camera_sources: Where each camera came from.
        num_inliers: Matches within the error limit.
        num_matches: All matches.
        confidence: In [0, 1], larger is surer; 0 without success.
        has_parallax: Whether the matches show that the camera moved. If not, a turn, a zoom or a
            crop explains them as well: the translation is a guess whatever the confidence, and the
            rotation as good as the focal lengths. False without success.
        matches: The matches, best first.
        inlier_mask: Which of them the pose explains, (num_matches,).
    """

    success: bool
    reason: str = ""
    cam1_from_cam0: FloatArray | None = None
    metric: bool = False
    length_spread: float | None = None
    camera0: pycolmap.Camera
    camera1: pycolmap.Camera
    camera_sources: tuple[CameraSource, CameraSource]
    num_inliers: int = 0
    num_matches: int = 0
    confidence: float = 0.0
    has_parallax: bool = False
    matches: Matches
    inlier_mask: NDArray[np.bool_]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, without the matches themselves."""
        pose = self.cam1_from_cam0
        return {
            "success": self.success,
            "reason": self.reason,
            "cam1_from_cam0": None if pose is None else pose.tolist(),
            "metric": self.metric,
            "length_spread": self.length_spread,
            "camera0": camera_to_dict(self.camera0),
            "camera1": camera_to_dict(self.camera1),
            "camera_sources": list(self.camera_sources),
            "num_inliers": self.num_inliers,
            "num_matches": self.num_matches,
            "confidence": self.confidence,
            "has_parallax": self.has_parallax,
        }

    def summary(self) -> str:
        """A few lines for people."""
        if self.cam1_from_cam0 is None:
            return f"no relative pose: {self.reason}"
        rotation = pycolmap.Rotation3d(self.cam1_from_cam0[:3, :3])
        quat_wxyz = np.roll(rotation.quat, 1)
        translation = self.cam1_from_cam0[:3, 3]
        unit = "of unit length: photos alone give no scale"
        if self.metric:
            unit = "m as the network guesses them: its scale may be off by a factor"
        if self.length_spread is not None:
            unit += f"; matches disagree by {np.expm1(self.length_spread):.0%}"
        focal0, focal1 = (
            f"{camera.mean_focal_length():.1f} px ({_TOLD[source]})"
            for camera, source in zip(
                (self.camera0, self.camera1), self.camera_sources, strict=True
            )
        )
        return "\n".join(
            [
                "cam1_from_cam0 (camera axes x right, y down, z forward)",
                f"  rotation qw qx qy qz  {' '.join(f'{v:.6f}' for v in quat_wxyz)}"
                f"  ({np.degrees(rotation.angle()):.2f} deg)",
                f"  translation x y z  {' '.join(f'{v:.4f}' for v in translation)}  ({unit})",
                f"  focal lengths  {focal0}, {focal1}",
                f"  {self.num_inliers} of {self.num_matches} matches agree, "
                f"confidence {self.confidence:.2f}",
            ]
        )

    def doubt(self) -> str:
        """Why the pose should not be trusted; empty without a reason, or without a pose."""
        if not self.success:
            return ""
        doubts = []
        if self.confidence < _DOUBTFUL:
            doubts.append(
                f"the confidence is low ({self.confidence:.2f} < {_DOUBTFUL:g}): photos of "
                "different places give such poses too"
            )
        if not self.has_parallax:
            doubts.append(
                "the photos show no parallax (taken from one spot, or one is a crop of the other): "
                "the translation is a guess"
            )
        return "; ".join(doubts)


def relative_pose(
    image0: ImageLike | View,
    image1: ImageLike | View,
    *,
    matcher: Matcher,
    camera0: pycolmap.Camera | None = None,
    camera1: pycolmap.Camera | None = None,
    options: RelativeOptions | None = None,
) -> RelativePose:
    """Estimate the pose of photo 1 relative to photo 0.

    PoseLib's LO-RANSAC on the essential matrix, or PnP on point maps, see `RelativeOptions.method`.
    A matcher that predicts point maps gives the translation in metres (in their unit); others, such
    as SIFT, leave it at length 1.

    Without a camera the focal length comes from EXIF and the point map (`mapping.focal_prior`);
    without EXIF it is estimated with the pose: a shared one for two photos of one size (Kukelova et
    al., "Making minimal solvers fast", CVPR 2012), else those of the fundamental matrix.

    Args:
        image0: Path, upright array (H, W, 3) uint8, or encoded view.
        image1: The same for the other photo.
        matcher: Any matcher.
        camera0: Intrinsics of photo 0, for its size or a scaled one.
        camera1: Intrinsics of photo 1.
        options: Settings.

    Returns:
        The pose, or a result with ``success`` False and the reason.

    Raises:
        matching.errors.InputError: A photo cannot be read, or a camera does not fit its photo.
    """
    options = options or RelativeOptions()
    view0, view1 = (i if isinstance(i, View) else matcher.encode(i) for i in (image0, image1))
    guess0, guess1 = (
        query_camera(
            None if isinstance(image, View | np.ndarray) else image, view.image_size, given, name
        )
        for image, view, given, name in (
            (image0, view0, camera0, "image 0"),
            (image1, view1, camera1, "image 1"),
        )
    )
    matches = matcher.match_views(view0, view1)
    if len(matches) < options.min_inliers:
        reason = f"too few matches: {len(matches)} < {options.min_inliers}"
        return _failed(reason, matches, guess0, guess1)
    geometry = matcher.predict(view0, view1)
    if geometry is None and options.method != "essential":
        reason = (
            f"method '{options.method}' needs point maps, and {matcher.name} predicts none: use "
            "method=essential or another matcher"
        )
        return _failed(reason, matches, guess0, guess1)
    if geometry is not None:
        guess0, guess1 = (
            with_pointmap_focal(guess, geometry.focal_px(number))
            for number, guess in enumerate((guess0, guess1))
        )
    # errors are told in the pixels that the matcher looked at
    pixel_px = (matcher.pixel_px(view0) + matcher.pixel_px(view1)) / 2
    options = replace(
        options,
        max_error_px=options.max_error_px * pixel_px,
        max_point_error_px=options.max_point_error_px * pixel_px,
    )
    return _Pair(matches, guess0, guess1, geometry, options).solve()


class _Pair:
    """Two photos with everything that is known of them before their pose is."""

    def __init__(
        self,
        matches: Matches,
        guess0: QueryCamera,
        guess1: QueryCamera,
        geometry: PairGeometry | None,
        options: RelativeOptions,
    ) -> None:
        self.matches = matches
        self.pixels0 = matches.keypoints0.astype(np.float64)
        self.pixels1 = matches.keypoints1.astype(np.float64)
        self.guess0, self.guess1 = guess0, guess1
        self.geometry = geometry
        self.options = options

    def solve(self) -> RelativePose:
        """The pose by the chosen method."""
        photos = (self.pixels0, self.pixels1)
        guesses = (self.guess0, self.guess1)
        if self.geometry is None or self.options.method == "essential":
            estimate = best_estimate(*photos, *guesses, self.options)
        elif self.options.method == "reference":
            estimate = pose_on_reference(*photos, self.geometry, *guesses, self.options)
        else:
            estimate = pose_on_pointmap(*photos, self.geometry, *guesses, self.options)
        if estimate is None:
            reason = f"no pose fits the {len(self.matches)} matches"
            return _failed(reason, self.matches, self.guess0, self.guess1)
        if self.geometry is None:
            return self._judge(estimate, None, metric=False)
        if self.options.method != "essential":
            return self._judge(*self._refined(estimate), metric=True)
        if self._num_parallax(estimate) >= self.options.min_inliers:
            baseline = self._baseline(estimate)
            if baseline is None:
                return self._judge(estimate, None, metric=False)
            return self._judge(_with_length(estimate, baseline.length), baseline, metric=True)
        # no parallax to triangulate from: the points of the reference hold short baselines too
        turned = pose_on_reference(*photos, self.geometry, *guesses, self.options)
        if turned is None:
            return self._judge(estimate, None, metric=False)
        return self._judge(turned, None, metric=True)

    def _refined(self, estimate: Estimate) -> tuple[Estimate, Baseline | None]:
        """The pose of the matches near their epipolar lines and of their depths."""
        length = float(np.linalg.norm(estimate.translation))
        if not self.options.refine or length == 0:
            return estimate, None
        if self._num_parallax(estimate) < self.options.min_inliers:
            return estimate, None  # matches without parallax know no direction
        cameras = (estimate.camera0, estimate.camera1)
        better = estimate
        for _ in range(2):  # the second time over the inliers of the first
            better = refined(self.pixels0, self.pixels1, *cameras, better, self.options)
            if better.inlier_mask.sum() < self.options.min_inliers:
                return estimate, None
        if better.translation @ estimate.translation < 0:
            return estimate, None  # the matches see the other side: they do not agree
        baseline = self._baseline(better)
        return _with_length(better, length if baseline is None else baseline.length), baseline

    def _baseline(self, estimate: Estimate) -> Baseline | None:
        assert self.geometry is not None
        mask = estimate.inlier_mask
        pixels0, pixels1 = self.pixels0[mask], self.pixels1[mask]
        return baseline_length(
            estimate.rotation,
            estimate.translation,
            undistorted_rays(estimate.camera0, pixels0),
            undistorted_rays(estimate.camera1, pixels1),
            matched_depths(self.geometry, 0, pixels0),
            matched_depths(self.geometry, 1, pixels1),
        )

    def _num_parallax(self, estimate: Estimate) -> int:
        """Inliers that moved by more than a turn of the camera explains."""
        rays0 = undistorted_rays(estimate.camera0, self.pixels0)
        rays1 = undistorted_rays(estimate.camera1, self.pixels1)
        turned = np.column_stack([rays0, np.ones(len(rays0))]) @ estimate.rotation.T
        focal = _mean_focal(estimate)
        shift = np.linalg.norm(turned[:, :2] / turned[:, 2:] - rays1, axis=1) * focal
        with np.errstate(invalid="ignore"):
            return int((estimate.inlier_mask & ~(shift < 2 * estimate.limit_px)).sum())

    def _has_parallax(self, mask: NDArray[np.bool_]) -> bool:
        """Whether the inliers need a translation, whatever the cameras that fit the pose."""
        return shows_parallax(
            self.pixels0[mask],
            self.pixels1[mask],
            self.guess0,
            self.guess1,
            self.options.max_error_px,
        )

    def _judge(
        self, estimate: Estimate, baseline: Baseline | None, *, metric: bool
    ) -> RelativePose:
        """Compare the support of a pose with what chance and a turn on the spot would give."""
        options, num_matches = self.options, len(self.matches)
        camera0, camera1, mask = estimate.camera0, estimate.camera1, estimate.inlier_mask
        rays0 = undistorted_rays(camera0, self.pixels0)
        rays1 = undistorted_rays(camera1, self.pixels1)
        rows = np.random.default_rng(options.seed).integers(0, num_matches, (2, 20_000))
        direction = estimate.translation / np.linalg.norm(estimate.translation)
        wrong = epipolar_errors(estimate.rotation, direction, rays0[rows[0]], rays1[rows[1]])
        agree = wrong[rows[0] != rows[1]] * _mean_focal(estimate) < estimate.limit_px
        probability = min(max(float(np.mean(agree)), 1e-5), 0.5)
        chance = inliers_by_chance(num_matches, probability, sample_size=5)
        needed = max(options.min_inliers, chance + 1)
        num_inliers, num_parallax = int(mask.sum()), self._num_parallax(estimate)
        # some point maps know shapes but no unit
        metric = metric and self.geometry is not None and self.geometry.metric
        reason = ""
        if num_inliers < needed:
            reason = f"too few inliers: {num_inliers} of {num_matches} < {needed}"
        elif num_parallax < options.min_inliers and not metric:
            reason = (
                f"only {num_parallax} of {num_inliers} inliers moved by more than a turn of the "
                "camera explains: the photos were taken from one spot"
            )
        confidence = pose_confidence(
            num_inliers=num_inliers,
            support=spread_inliers(self.pixels0, mask, (camera0.width, camera0.height)),
            chance=chance,
            num_outliers=num_matches - num_inliers,
        )
        if not reason and confidence < options.min_confidence:
            reason = (
                f"hardly better than chance: confidence {confidence:.3f} < "
                f"{options.min_confidence:g} with {num_inliers} of {num_matches} inliers"
            )
        cam1_from_cam0 = np.eye(4)
        cam1_from_cam0[:3, :3] = estimate.rotation
        cam1_from_cam0[:3, 3] = estimate.translation if metric else direction
        return RelativePose(
            success=not reason,
            reason=reason,
            cam1_from_cam0=None if reason else cam1_from_cam0,
            metric=metric and not reason,
            length_spread=None if reason or not metric or baseline is None else baseline.spread,
            camera0=camera0,
            camera1=camera1,
            camera_sources=(self.guess0.source, self.guess1.source),
            num_inliers=num_inliers,
            num_matches=num_matches,
            confidence=0.0 if reason else confidence,
            has_parallax=not reason and self._has_parallax(mask),
            matches=self.matches,
            inlier_mask=mask,
        )


def _with_length(estimate: Estimate, length: float) -> Estimate:
    direction = estimate.translation / np.linalg.norm(estimate.translation)
    return replace(estimate, translation=direction * length)


def _mean_focal(estimate: Estimate) -> float:
    return (estimate.camera0.mean_focal_length() + estimate.camera1.mean_focal_length()) / 2


def _failed(
    reason: str, matches: Matches, guess0: QueryCamera, guess1: QueryCamera
) -> RelativePose:
    return RelativePose(
        success=False,
        reason=reason,
        camera0=guess0.camera,
        camera1=guess1.camera,
        camera_sources=(guess0.source, guess1.source),
        num_matches=len(matches),
        matches=matches,
        inlier_mask=np.zeros(len(matches), np.bool_),
    )
