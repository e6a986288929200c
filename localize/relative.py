"""`relative_pose`: how one camera stood relative to another, from two photos."""

from dataclasses import dataclass
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
    undistorted_rays,
)
from localize.intrinsics import QueryCamera, query_camera
from localize.results import camera_to_dict
from matching.matcher import ImageLike, Matcher
from matching.types import Matches, View

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class RelativePose:
    """The pose of camera 1 relative to camera 0, or why it is not known.

    Attributes:
        success: Whether there is a pose.
        reason: Why there is none; empty on success.
        cam1_from_cam0: (4, 4), OpenCV axes; None without success.
        metric: Whether the translation is in metres; if not, its length is 1 and only its
            direction counts.
        camera0: Camera of photo 0: the given one scaled to the photo, or with the focal length
            found from EXIF or with the pose.
        camera1: The same for photo 1.
        num_inliers: Matches within the error limit.
        num_matches: All matches.
        confidence: In [0, 1], larger is surer; 0 without success.
        matches: The matches, best first.
        inlier_mask: Which of them the pose explains, (num_matches,).
    """

    success: bool
    reason: str = ""
    cam1_from_cam0: FloatArray | None = None
    metric: bool = False
    camera0: pycolmap.Camera
    camera1: pycolmap.Camera
    num_inliers: int = 0
    num_matches: int = 0
    confidence: float = 0.0
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
            "camera0": camera_to_dict(self.camera0),
            "camera1": camera_to_dict(self.camera1),
            "num_inliers": self.num_inliers,
            "num_matches": self.num_matches,
            "confidence": self.confidence,
        }

    def summary(self) -> str:
        """A few lines for people."""
        if self.cam1_from_cam0 is None:
            return f"no relative pose: {self.reason}"
        rotation = pycolmap.Rotation3d(self.cam1_from_cam0[:3, :3])
        quat_wxyz = np.roll(rotation.quat, 1)
        translation = self.cam1_from_cam0[:3, 3]
        unit = "m" if self.metric else "of unit length: photos alone give no scale"
        focals = [c.mean_focal_length() for c in (self.camera0, self.camera1)]
        return "\n".join(
            [
                "cam1_from_cam0 (camera axes x right, y down, z forward)",
                f"  rotation qw qx qy qz  {' '.join(f'{v:.6f}' for v in quat_wxyz)}"
                f"  ({np.degrees(rotation.angle()):.2f} deg)",
                f"  translation x y z  {' '.join(f'{v:.4f}' for v in translation)}  ({unit})",
                f"  focal lengths  {focals[0]:.1f} px, {focals[1]:.1f} px",
                f"  {self.num_inliers} of {self.num_matches} matches agree, "
                f"confidence {self.confidence:.2f}",
            ]
        )


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

    PoseLib's LO-RANSAC on the essential matrix. Without a camera the focal length comes from EXIF,
    or is estimated with the pose: a shared one for two photos of one size (Kukelova et al., "Making
    minimal solvers fast", CVPR 2012), else those of the fundamental matrix.

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
        return _failed(
            f"too few matches: {len(matches)} < {options.min_inliers}", matches, guess0, guess1
        )
    pixels0, pixels1 = (m.astype(np.float64) for m in (matches.keypoints0, matches.keypoints1))
    estimate = best_estimate(pixels0, pixels1, guess0, guess1, options)
    if estimate is None:
        return _failed(f"no pose fits the {len(matches)} matches", matches, guess0, guess1)
    return _judge(estimate, pixels0, pixels1, matches, options)


def _judge(
    estimate: Estimate,
    pixels0: FloatArray,
    pixels1: FloatArray,
    matches: Matches,
    options: RelativeOptions,
) -> RelativePose:
    """Compare the support of a pose with what chance and what a turn on the spot would give."""
    camera0, camera1, mask = estimate.camera0, estimate.camera1, estimate.inlier_mask
    focal = (camera0.mean_focal_length() + camera1.mean_focal_length()) / 2
    rays0, rays1 = undistorted_rays(camera0, pixels0), undistorted_rays(camera1, pixels1)
    rows = np.random.default_rng(options.seed).integers(0, len(pixels0), (2, 20_000))
    wrong = epipolar_errors(estimate.rotation, estimate.translation, rays0[rows[0]], rays1[rows[1]])
    probability = float(np.mean(wrong[rows[0] != rows[1]] * focal < options.max_error_px))
    chance = inliers_by_chance(len(pixels0), min(max(probability, 1e-5), 0.5), sample_size=5)
    needed = max(options.min_inliers, chance + 1)
    num_inliers = int(mask.sum())
    turned = np.column_stack([rays0, np.ones(len(rays0))]) @ estimate.rotation.T
    shift = np.linalg.norm(turned[:, :2] / turned[:, 2:] - rays1, axis=1) * focal
    with np.errstate(invalid="ignore"):
        num_parallax = int((mask & ~(shift < 2 * options.max_error_px)).sum())
    reason = ""
    if num_inliers < needed:
        reason = f"too few inliers: {num_inliers} of {len(matches)} < {needed}"
    elif num_parallax < options.min_inliers:
        reason = (
            f"only {num_parallax} of {num_inliers} inliers moved by more than a turn of the camera "
            "explains: the photos were taken from one spot"
        )
    if reason:
        return RelativePose(
            success=False,
            reason=reason,
            camera0=camera0,
            camera1=camera1,
            num_inliers=num_inliers,
            num_matches=len(matches),
            matches=matches,
            inlier_mask=mask,
        )
    cam1_from_cam0 = np.eye(4)
    cam1_from_cam0[:3, :3], cam1_from_cam0[:3, 3] = estimate.rotation, estimate.translation
    return RelativePose(
        success=True,
        cam1_from_cam0=cam1_from_cam0,
        camera0=camera0,
        camera1=camera1,
        num_inliers=num_inliers,
        num_matches=len(matches),
        confidence=pose_confidence(
            num_inliers=num_inliers,
            support=spread_inliers(pixels0, mask, (camera0.width, camera0.height)),
            chance=chance,
            num_outliers=len(matches) - num_inliers,
        ),
        matches=matches,
        inlier_mask=mask,
    )


def _failed(
    reason: str, matches: Matches, guess0: QueryCamera, guess1: QueryCamera
) -> RelativePose:
    return RelativePose(
        success=False,
        reason=reason,
        camera0=guess0.camera,
        camera1=guess1.camera,
        num_matches=len(matches),
        matches=matches,
        inlier_mask=np.zeros(len(matches), np.bool_),
    )
