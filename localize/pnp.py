"""Pose from 2D-3D matches: LO-RANSAC, unknown focal length, refinement, covariance."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import poselib
import pycolmap
from numpy.typing import NDArray

from localize.refinement import (
    POSELIB_MODELS,
    centred,
    covariance_in_map,
    information,
    minimized,
)
from mapping.cameras import with_focal_length

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

MIN_MATCHES = 4  # below, a pose cannot even be checked: three points define it
_MAX_REFINED = 3  # best focal length candidates that are refined
_REFINEMENT_ROUNDS = 4  # inliers and refined parameters settle within three on real photos


@dataclass(frozen=True, kw_only=True)
class PnPOptions:
    """Settings of `estimate_pose`."""

    max_error_px: float = 8.0  # largest reprojection error of an inlier
    min_inliers: int = 12  # with fewer, the query counts as not localized
    loss_scale_px: float = 1.0  # error beyond which the Cauchy loss of the refinement flattens
    max_iterations: int = 20_000  # most samples drawn by RANSAC
    success_probability: float = 0.9999  # RANSAC stops when a better pose is less likely than 1 - p
    # RANSAC with a known focal length looks at no more: the first half of them are the first
    # matches, the others are spread evenly over the rest. Inliers and refinement count all.
    max_ransac_matches: int = 2_000
    # draw samples from the first matches at first, which callers give best first (PROSAC)
    progressive_sampling: bool = True
    # of a camera from EXIF or a guess: the distortion too, not the focal length alone
    refine_distortion: bool = True
    seed: int = 0  # of the random samples

    def __post_init__(self) -> None:
        for name in ("max_error_px", "loss_scale_px"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.min_inliers < MIN_MATCHES:
            raise ValueError(f"min_inliers must be at least {MIN_MATCHES}, got {self.min_inliers}")
        if self.max_ransac_matches < 2 * MIN_MATCHES:
            raise ValueError(
                f"max_ransac_matches must be at least {2 * MIN_MATCHES}, "
                f"got {self.max_ransac_matches}"
            )
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")
        if not 0 < self.success_probability < 1:
            raise ValueError(
                f"success_probability must be in (0, 1), got {self.success_probability}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Pose:
    """A pose that fits some of the 2D-3D matches.

    Attributes:
        cam_from_world: The pose.
        camera: The camera it holds for; refined if that was asked.
        errors_px: Reprojection error of every match, (M,); inf behind the camera.
        inlier_mask: Errors within the limit, (M,).
    """

    cam_from_world: pycolmap.Rigid3d
    camera: pycolmap.Camera
    errors_px: FloatArray
    inlier_mask: BoolArray

    @property
    def num_inliers(self) -> int:
        """How many matches the pose explains."""
        return int(self.inlier_mask.sum())

    def cost(self, max_error_px: float) -> float:
        """Truncated squared error summed over the matches (MSAC); the better pose has less."""
        return float(np.minimum((self.errors_px / max_error_px) ** 2, 1).sum())


def reprojection_errors(
    cam_from_world: pycolmap.Rigid3d,
    camera: pycolmap.Camera,
    points2D: FloatArray,
    points3D: FloatArray,
) -> FloatArray:
    """Distances in pixels between keypoints and projected map points, inf behind the camera.

    Args:
        cam_from_world: The pose.
        camera: Its camera.
        points2D: Pixels, (M, 2).
        points3D: Points in the map's frame, (M, 3).

    Returns:
        (M,) float64.
    """
    errors = np.full(len(points2D), np.inf)
    in_cam = np.asarray(cam_from_world * points3D)
    front = in_cam[:, 2] > 1e-9 * max(in_cam.max(initial=1e-9), -in_cam.min(initial=0.0))
    rows = slice(None) if front.all() else front  # without a copy where it can be
    if front.any():
        x, y = (np.asarray(camera.img_from_cam(in_cam[rows])) - points2D[rows]).T
        distances = np.sqrt(x * x + y * y)
        # a distortion model may have no image for a ray far outside the photo
        errors[rows] = np.where(np.isfinite(distances), distances, np.inf)
    return errors


def estimate_pose(
    points2D: FloatArray,
    points3D: FloatArray,
    camera: pycolmap.Camera,
    options: PnPOptions,
) -> Pose | None:
    """Pose of a calibrated camera: PoseLib's LO-RANSAC, then non-linear refinement.

    Every camera model is served: the keypoints are undistorted for RANSAC, and the refinement and
    the inliers use the distorted photo.

    Args:
        points2D: Pixels, (M, 2); the top-left pixel's centre is (0.5, 0.5).
        points3D: Their points in the map's frame, (M, 3).
        camera: Intrinsics of the photo; not changed.
        options: Settings.

    Returns:
        The pose with the best support however weak, or None if there are fewer than `MIN_MATCHES`
        usable matches or no pose fits any.
    """
    start = _ransac(points2D, points3D, camera, options)
    if start is None:
        return None
    return refine_pose(start, points2D, points3D, options, refine_intrinsics=False)


def estimate_pose_and_focal(
    points2D: FloatArray,
    points3D: FloatArray,
    guess: pycolmap.Camera,
    options: PnPOptions,
    *,
    focal_log_std: float | None = None,
    focal_lengths_px: Sequence[float] = (),
) -> Pose | None:
    """Pose and focal length together.

    Candidates are P4Pf in LO-RANSAC (Larsson et al., "Making minimal solvers for absolute pose
    estimation compact and robust", ICCV 2017; by COLMAP), the given focal lengths, and a coarse
    ladder of fields of view, since P4Pf fails on planes, and facades are planes. The best are
    refined together with their focal length; the one with the least truncated error wins.

    Args:
        points2D: Pixels, (M, 2).
        points3D: Points in the map's frame, (M, 3).
        guess: Camera of the photo's size whose focal length is uncertain; not changed.
        options: Settings.
        focal_log_std: Of the guess's focal length, see `focal_surprise`.
        focal_lengths_px: Focal lengths worth a try beside the guess's own, for example those of
            the map's cameras.

    Returns:
        As `estimate_pose`; the pose's camera has the refined focal length.
    """
    if len(points2D) < MIN_MATCHES:
        return None
    starts = [_p4pf(points2D, points3D, guess, options)]
    long_side = max(guess.width, guess.height)
    ladder = long_side * np.geomspace(0.5, 3.0, 7)  # 90 to 19 degrees across the long side
    tried: list[float] = []
    for focal in [guess.mean_focal_length(), *focal_lengths_px, *ladder]:
        # refinement walks over the 10 % between two neighbours
        if all(abs(np.log(focal / other)) > 0.1 for other in tried):
            tried.append(focal)
            camera = with_focal_length(guess, focal)
            # the guess, tried first, is the likeliest
            limit = options.max_iterations // (4 if starts[1:] else 1)
            starts.append(
                _ransac(points2D, points3D, camera, options, max_iterations=max(limit, 1))
            )
    found = [s for s in starts if s is not None]
    found.sort(key=lambda s: s.cost(options.max_error_px))
    best = _most_plausible(found[:_MAX_REFINED], points2D, points3D, guess, focal_log_std, options)
    if best is None:
        return None
    # the short runs above may have missed the best sample; now the focal length is known
    again = _ransac(points2D, points3D, best.camera, options)
    both = [best] if again is None else [best, again]
    return _most_plausible(both, points2D, points3D, guess, focal_log_std, options)


def _most_plausible(
    starts: Sequence[Pose],
    points2D: FloatArray,
    points3D: FloatArray,
    guess: pycolmap.Camera,
    focal_log_std: float | None,
    options: PnPOptions,
) -> Pose | None:
    """Refine poses with and without their focal lengths; the best of all by the posterior.

    Few inliers do not hold a focal length: refined, it drifts to absurd ones, and the prior then
    prefers the pose with the focal length that was tried.
    """
    refined = [
        refine_pose(start, points2D, points3D, options, refine_intrinsics=intrinsics)
        for start in starts
        for intrinsics in (True, False)
    ]
    found = [p for p in refined if p is not None and _plausible(p.camera)]
    if not found:
        return None
    best = min(found, key=lambda p: p.cost(options.max_error_px))
    # of one coordinate, in units of the error limit as the cost is
    inlier_errors = best.errors_px[best.inlier_mask] / options.max_error_px
    variance = max(float((inlier_errors**2).mean()) / 2, 1e-9)
    return min(
        found,
        key=lambda p: (
            p.cost(options.max_error_px) / variance + focal_surprise(p.camera, guess, focal_log_std)
        ),
    )


def refine_pose(
    start: Pose,
    points2D: FloatArray,
    points3D: FloatArray,
    options: PnPOptions,
    *,
    refine_intrinsics: bool,
) -> Pose | None:
    """Minimize the Cauchy loss over the inliers, find the inliers anew, repeat until they stay.

    Args:
        start: Pose and camera to start from.
        points2D: Pixels, (M, 2).
        points3D: Points in the map's frame, (M, 3).
        options: Settings.
        refine_intrinsics: Refine the focal length and, with enough inliers, the distortion too, as
            the options allow.

    Returns:
        The refined pose; None if fewer than `MIN_MATCHES` inliers are left.
    """
    points3D, centred_from_map = centred(points3D)
    pose = start.cam_from_world * centred_from_map.inverse()
    camera, mask = start.camera, start.inlier_mask
    for _ in range(_REFINEMENT_ROUNDS):
        if mask.sum() < MIN_MATCHES:
            return None
        if refine_intrinsics or camera.model.name not in POSELIB_MODELS:
            camera = pycolmap.Camera(camera.todict())  # pycolmap refines it in place
            settings = _refinement(options, mask, refine_intrinsics)
            refined = pycolmap.refine_absolute_pose(
                pose, points2D, points3D, mask, camera, settings
            )
            refined_pose = None if refined is None else refined["cam_from_world"]
        else:
            refined_pose = minimized(
                pose, camera, points2D[mask], points3D[mask], loss_scale_px=options.loss_scale_px
            )
        if refined_pose is None or camera.has_bogus_params(0.05, 20.0, 1.0):
            return None
        pose = refined_pose
        errors = reprojection_errors(pose, camera, points2D, points3D)
        previous, mask = mask, errors < options.max_error_px
        if (mask == previous).all():
            break
    if mask.sum() < MIN_MATCHES:
        return None
    return Pose(
        cam_from_world=pose * centred_from_map,
        camera=camera,
        errors_px=errors,
        inlier_mask=mask,
    )


def pose_covariance(
    pose: Pose,
    points2D: FloatArray,
    points3D: FloatArray,
    options: PnPOptions,
    *,
    refine_intrinsics: bool,
) -> FloatArray | None:
    """Covariance of a refined pose, from the scatter of its inliers.

    The asymptotic covariance of an M-estimator (Huber and Ronchetti, "Robust Statistics", 2009,
    section 6.3) with the Cauchy weight w(r) = 1 / (1 + r^2 / c^2) of the refinement and isotropic
    errors: (J^T J)^-1 * mean(w^2 r^2 / 2) / mean((w + d(w r)/dr) / 2)^2, so that neither the size
    of the noise nor its tails have to be known.

    Args:
        pose: What `refine_pose` returned.
        points2D: Pixels, (M, 2).
        points3D: Points in the map's frame, (M, 3).
        options: Settings of that refinement.
        refine_intrinsics: As in that refinement; the intrinsics are marginalized out.

    Returns:
        (6, 6), rotation (rad) then translation in camera axes as `Localization.covariance` says;
        None if the points do not determine the pose.
    """
    points3D, centred_from_map = centred(points3D)
    near = pose.cam_from_world * centred_from_map.inverse()
    unscaled = (
        _covariance_beside_intrinsics(pose, near, points2D, points3D, options)
        if refine_intrinsics
        else _inverse(information(near, pose.camera, points3D[pose.inlier_mask]))
    )
    if unscaled is None:
        return None
    num_params = 6 + refine_intrinsics
    errors = pose.errors_px[pose.inlier_mask]
    squared = (errors / options.loss_scale_px) ** 2
    weights = 1 / (1 + squared)
    degrees_of_freedom = max(2 * len(errors) - num_params, 1)
    spread = float((weights**2 * errors**2).sum()) / degrees_of_freedom
    slope = float(np.mean(weights + (1 - squared) * weights**2) / 2)
    if slope <= 0:  # most errors far beyond the loss scale: no minimum to speak of
        return None
    covariance = covariance_in_map(unscaled, pose.cam_from_world, centred_from_map)
    covariance *= spread / slope**2
    return covariance if np.isfinite(covariance).all() else None


def _covariance_beside_intrinsics(
    pose: Pose,
    cam_from_points: pycolmap.Rigid3d,
    points2D: FloatArray,
    points3D: FloatArray,
    options: PnPOptions,
) -> FloatArray | None:
    """Covariance (6, 6) at errors of one pixel, the intrinsics marginalized out."""
    settings = _refinement(options, pose.inlier_mask, True)
    # an infinite scale makes the loss quadratic; no iterations: the covariance at this pose
    settings.loss_function_scale = 1e6
    settings.max_num_iterations = 0
    result = pycolmap.refine_absolute_pose(
        cam_from_points,
        points2D,
        points3D,
        pose.inlier_mask,
        pycolmap.Camera(pose.camera.todict()),
        settings,
        return_covariance=True,
    )
    if result is None or result.get("covariance") is None:
        return None
    # COLMAP's tangent space of a rotation is the half angle (Ceres' quaternion manifold)
    unit = np.diag([2.0, 2.0, 2.0, 1.0, 1.0, 1.0])
    covariance: FloatArray = unit @ np.asarray(result["covariance"]) @ unit
    return covariance


def _inverse(information_matrix: FloatArray) -> FloatArray | None:
    """The inverse of a symmetric (6, 6) matrix, None if it has none worth the name."""
    # with a unit diagonal the condition does not depend on the units of the translation
    scale = np.sqrt(np.diag(information_matrix))
    if not (np.isfinite(scale).all() and (scale > 0).all()):
        return None
    correlation = information_matrix / np.outer(scale, scale)
    if np.linalg.eigvalsh(correlation)[0] < 1e-14:
        return None
    inverse: FloatArray = np.linalg.inv(correlation) / np.outer(scale, scale)
    return inverse


def focal_surprise(
    camera: pycolmap.Camera, guess: pycolmap.Camera, log_std: float | None = None
) -> float:
    """How far a focal length is from a guess, in squared standard deviations of its logarithm.

    Args:
        camera: Has the focal length.
        guess: Has the guess.
        log_std: Standard deviation; by default what EXIF or a mere guess deserves.
    """
    if log_std is None:
        log_std = 0.1 if guess.has_prior_focal_length else 0.35
    ratio = camera.mean_focal_length() / guess.mean_focal_length()
    return float((np.log(ratio) / log_std) ** 2)


def _refinement(
    options: PnPOptions, mask: BoolArray, intrinsics: bool
) -> pycolmap.AbsolutePoseRefinementOptions:
    settings = pycolmap.AbsolutePoseRefinementOptions()
    settings.loss_function_scale = options.loss_scale_px
    settings.gradient_tolerance = 1e-8
    settings.refine_focal_length = intrinsics
    # one radial term needs points out to the corners: many inliers make that likely
    enough = int(mask.sum()) >= 100
    settings.refine_extra_params = intrinsics and options.refine_distortion and enough
    return settings


def _plausible(camera: pycolmap.Camera) -> bool:
    """Fields of view from 6 to 150 degrees: beyond, a wrong pose has collapsed."""
    ratio = camera.mean_focal_length() / max(camera.width, camera.height)
    return bool(0.13 < ratio < 10)


def _ransac(
    points2D: FloatArray,
    points3D: FloatArray,
    camera: pycolmap.Camera,
    options: PnPOptions,
    *,
    max_iterations: int | None = None,
) -> Pose | None:
    """PoseLib's LO-RANSAC on undistorted pixels."""
    focal = camera.mean_focal_length()
    undistorted = focal * np.asarray(camera.cam_from_img(points2D))
    usable = np.flatnonzero(np.isfinite(undistorted).all(1))
    if len(usable) < MIN_MATCHES:
        return None
    if len(usable) > options.max_ransac_matches:
        # Scoring a sample, and more so its local refinement, takes time in proportion to the
        # matches, and a fraction of them ranks samples as well.
        first = options.max_ransac_matches // 2
        spread = np.linspace(first, len(usable) - 1, options.max_ransac_matches - first)
        usable = usable[np.concatenate((np.arange(first), spread.astype(np.int64)))]
    pinhole = {
        "model": "SIMPLE_PINHOLE",
        "width": camera.width,
        "height": camera.height,
        "params": [focal, 0.0, 0.0],
    }
    ransac = {
        "max_reproj_error": options.max_error_px,
        "max_iterations": min(max_iterations or options.max_iterations, options.max_iterations),
        "min_iterations": 100,
        "success_prob": options.success_probability,
        "progressive_sampling": options.progressive_sampling,
        "seed": options.seed,
    }
    near, centred_from_map = centred(points3D)
    found, info = poselib.estimate_absolute_pose(
        undistorted[usable], near[usable], pinhole, ransac, {"loss_type": "CAUCHY"}
    )
    if info["num_inliers"] < MIN_MATCHES:
        return None
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.roll(found.q, -1)), found.t)
    return _scored(pose * centred_from_map, camera, points2D, points3D, options)


def _p4pf(
    points2D: FloatArray, points3D: FloatArray, guess: pycolmap.Camera, options: PnPOptions
) -> Pose | None:
    """COLMAP's LO-RANSAC with the P4Pf solver."""
    camera = with_focal_length(guess, guess.mean_focal_length())  # COLMAP writes the result into it
    settings = pycolmap.AbsolutePoseEstimationOptions()
    settings.estimate_focal_length = True
    settings.ransac.max_error = options.max_error_px
    settings.ransac.min_inlier_ratio = 0.02
    settings.ransac.max_num_trials = options.max_iterations
    settings.ransac.random_seed = options.seed
    near, centred_from_map = centred(points3D)
    found = pycolmap.estimate_absolute_pose(points2D, near, camera, settings)
    if found is None or not _plausible(camera):
        return None
    pose = found["cam_from_world"] * centred_from_map
    return _scored(pose, camera, points2D, points3D, options)


def _scored(
    pose: pycolmap.Rigid3d,
    camera: pycolmap.Camera,
    points2D: FloatArray,
    points3D: FloatArray,
    options: PnPOptions,
) -> Pose:
    errors = reprojection_errors(pose, camera, points2D, points3D)
    return Pose(
        cam_from_world=pose,
        camera=camera,
        errors_px=errors,
        inlier_mask=errors < options.max_error_px,
    )
