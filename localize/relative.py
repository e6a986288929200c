"""`relative_pose`: how one camera stood relative to another, from two photos."""

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import poselib
import pycolmap
from numpy.typing import NDArray

from localize.confidence import inliers_by_chance, pose_confidence, spread_inliers
from localize.intrinsics import QueryCamera, query_camera
from localize.pnp import with_focal_length
from localize.results import camera_to_dict
from mapping.cameras import DEFAULT_FOCAL_RATIO
from matching.matcher import ImageLike, Matcher
from matching.types import Matches, View

FloatArray = NDArray[np.float64]

_MIN_MATCHES = 6  # five define an essential matrix, one more can contradict it
_FOCAL_LOG_STD = 0.35  # of the logarithm of focal lengths: two thirds from 0.85 to 1.7 long sides


@dataclass(frozen=True, kw_only=True)
class RelativeOptions:
    """Settings of `relative_pose`."""

    max_error_px: float = 1.0  # largest epipolar (Sampson) error of an inlier
    min_inliers: int = 15  # with fewer there is no result
    max_iterations: int = 20_000  # most samples drawn by RANSAC
    success_probability: float = 0.9999  # RANSAC stops when a better pose is less likely than 1 - p
    seed: int = 0  # of the random samples

    def __post_init__(self) -> None:
        if not self.max_error_px > 0:
            raise ValueError(f"max_error_px must be > 0, got {self.max_error_px}")
        if self.min_inliers < _MIN_MATCHES:
            raise ValueError(f"min_inliers must be at least {_MIN_MATCHES}, got {self.min_inliers}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")
        if not 0 < self.success_probability < 1:
            raise ValueError(
                f"success_probability must be in (0, 1), got {self.success_probability}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")


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


@dataclass(frozen=True, kw_only=True)
class _Estimate:
    camera0: pycolmap.Camera
    camera1: pycolmap.Camera
    rotation: FloatArray  # (3, 3)
    translation: FloatArray  # (3,), unit length
    cost: float  # squared errors in pixels, those of outliers truncated; less is better
    inlier_mask: NDArray[np.bool_]


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
    estimate = _best_estimate(pixels0, pixels1, guess0, guess1, options)
    if estimate is None:
        return _failed(f"no pose fits the {len(matches)} matches", matches, guess0, guess1)
    return _judge(estimate, pixels0, pixels1, matches, options)


def epipolar_errors(
    rotation: FloatArray, translation: FloatArray, rays0: FloatArray, rays1: FloatArray
) -> FloatArray:
    """Sampson distances of normalized image points to an essential matrix.

    Args:
        rotation: Of cam1_from_cam0, (3, 3).
        translation: Of cam1_from_cam0, (3,).
        rays0: x / z and y / z in camera 0, (M, 2).
        rays1: The same in camera 1, (M, 2).

    Returns:
        (M,), in the unit of the rays: times the focal length they are pixels.
    """
    x, y, z = translation
    essential = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]) @ rotation
    homogeneous0 = np.column_stack([rays0, np.ones(len(rays0))])
    homogeneous1 = np.column_stack([rays1, np.ones(len(rays1))])
    lines1 = homogeneous0 @ essential.T
    lines0 = homogeneous1 @ essential
    numerator = np.abs((homogeneous1 * lines1).sum(1))
    squares = (lines0[:, :2] ** 2).sum(1) + (lines1[:, :2] ** 2).sum(1)
    return numerator / np.sqrt(np.maximum(squares, 1e-30))


def _best_estimate(
    pixels0: FloatArray,
    pixels1: FloatArray,
    guess0: QueryCamera,
    guess1: QueryCamera,
    options: RelativeOptions,
) -> _Estimate | None:
    """The cameras and the pose that explain the matches best."""
    unknown0, unknown1 = (g.source == "estimated" for g in (guess0, guess1))
    pairs = [(guess0.camera, guess1.camera)]
    if unknown0 or unknown1:
        pairs += _camera_candidates(
            pixels0, pixels1, guess0.camera, guess1.camera, unknown0, unknown1, options
        )
    # a short run tells good cameras from bad ones
    short = replace(options, max_iterations=min(options.max_iterations, 1000))
    limited = short if len(pairs) > 1 else options
    estimates = [_calibrated(pixels0, pixels1, c0, c1, limited) for c0, c1 in pairs]
    found = [e for e in estimates if e is not None]
    if not found:
        return None
    # the negative log posterior: where the matches do not tell the focal length, a common one wins
    best = min(found, key=lambda e: e.cost)
    variance = max(best.cost / max(int(best.inlier_mask.sum()), 1), 1e-12)
    best = min(
        found,
        key=lambda e: (
            e.cost / variance
            + (_unusual(e.camera0) if unknown0 else 0.0)
            + (_unusual(e.camera1) if unknown1 else 0.0)
        ),
    )
    if limited is options:
        return best
    again = _calibrated(pixels0, pixels1, best.camera0, best.camera1, options)
    return again if again is not None and again.cost < best.cost else best


def _calibrated(
    pixels0: FloatArray,
    pixels1: FloatArray,
    camera0: pycolmap.Camera,
    camera1: pycolmap.Camera,
    options: RelativeOptions,
) -> _Estimate | None:
    """Essential matrix of undistorted pixels."""
    rays0, rays1 = _rays(camera0, pixels0), _rays(camera1, pixels1)
    usable = np.isfinite(rays0).all(1) & np.isfinite(rays1).all(1)
    if usable.sum() < _MIN_MATCHES:
        return None
    focals = [c.mean_focal_length() for c in (camera0, camera1)]
    pinholes = [
        {"model": "SIMPLE_PINHOLE", "width": c.width, "height": c.height, "params": [f, 0.0, 0.0]}
        for c, f in zip((camera0, camera1), focals, strict=True)
    ]
    found, info = poselib.estimate_relative_pose(
        rays0[usable] * focals[0],
        rays1[usable] * focals[1],
        *pinholes,
        _ransac_options(options),
        {"loss_type": "CAUCHY"},
    )
    norm = float(np.linalg.norm(found.t))
    if info["num_inliers"] < _MIN_MATCHES or norm < 1e-12:
        return None
    # PoseLib's own score is in units of the focal lengths, which differ between candidates
    errors = epipolar_errors(found.R, found.t / norm, rays0, rays1) * np.mean(focals)
    inlier_mask = np.zeros(len(pixels0), np.bool_)
    inlier_mask[np.flatnonzero(usable)[np.asarray(info["inliers"], bool)]] = True
    return _Estimate(
        camera0=camera0,
        camera1=camera1,
        rotation=found.R,
        translation=found.t / norm,
        cost=float(np.nansum(np.where(inlier_mask, errors, options.max_error_px) ** 2)),
        inlier_mask=inlier_mask,
    )


def _camera_candidates(
    pixels0: FloatArray,
    pixels1: FloatArray,
    camera0: pycolmap.Camera,
    camera1: pycolmap.Camera,
    unknown0: bool,
    unknown1: bool,
    options: RelativeOptions,
) -> list[tuple[pycolmap.Camera, pycolmap.Camera]]:
    """Focal lengths worth a try where they are not known."""
    centre0, centre1 = (
        np.array([c.principal_point_x, c.principal_point_y]) for c in (camera0, camera1)
    )
    candidates: list[tuple[float, float]] = []
    focal0, focal1 = camera0.mean_focal_length(), camera1.mean_focal_length()
    same_size = (camera0.width, camera0.height) == (camera1.width, camera1.height)
    if unknown0 and unknown1 and same_size:
        pair, info = poselib.estimate_shared_focal_relative_pose(
            pixels0 - centre0, pixels1 - centre1, np.zeros(2), _ransac_options(options), {}
        )
        if info["num_inliers"] >= _MIN_MATCHES:
            candidates.append((pair.camera1.focal(), pair.camera1.focal()))
    fundamental, info = poselib.estimate_fundamental(pixels0, pixels1, _ransac_options(options), {})
    if info["num_inliers"] >= 8:
        cameras = poselib.focals_from_fundamental(fundamental, centre0, centre1)
        candidates.append((cameras[0].focal(), cameras[1].focal()))
    # the fundamental matrix tells nothing of the focal lengths when the optical axes meet
    candidates += [(focal0 * s, focal1 * s) for s in np.geomspace(0.5, 2.0, 5)]
    pairs = []
    for new0, new1 in candidates:
        chosen0, chosen1 = new0 if unknown0 else focal0, new1 if unknown1 else focal1
        if _plausible(chosen0, camera0) and _plausible(chosen1, camera1):
            pairs.append((with_focal_length(camera0, chosen0), with_focal_length(camera1, chosen1)))
    return pairs


def _judge(
    estimate: _Estimate,
    pixels0: FloatArray,
    pixels1: FloatArray,
    matches: Matches,
    options: RelativeOptions,
) -> RelativePose:
    """Compare the support of a pose with what chance and what a turn on the spot would give."""
    camera0, camera1, mask = estimate.camera0, estimate.camera1, estimate.inlier_mask
    focal = (camera0.mean_focal_length() + camera1.mean_focal_length()) / 2
    rays0, rays1 = _rays(camera0, pixels0), _rays(camera1, pixels1)
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
            support=spread_inliers(pixels0, mask, (camera0.width, camera0.height)),
            chance=chance,
            num_outliers=len(matches) - num_inliers,
        ),
        matches=matches,
        inlier_mask=mask,
    )


def _unusual(camera: pycolmap.Camera) -> float:
    """How far a focal length is from that of common lenses, in squared standard deviations."""
    ratio = camera.mean_focal_length() / max(camera.width, camera.height)
    return float((np.log(ratio / DEFAULT_FOCAL_RATIO) / _FOCAL_LOG_STD) ** 2)


def _rays(camera: pycolmap.Camera, pixels: FloatArray) -> FloatArray:
    return np.asarray(camera.cam_from_img(pixels))


def _plausible(focal_px: float, camera: pycolmap.Camera) -> bool:
    return bool(0.2 < focal_px / max(camera.width, camera.height) < 10)


def _ransac_options(options: RelativeOptions) -> dict[str, float | int]:
    return {
        "max_epipolar_error": options.max_error_px,
        "max_iterations": options.max_iterations,
        "min_iterations": 100,
        "success_prob": options.success_probability,
        "seed": options.seed,
    }


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
