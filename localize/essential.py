"""Essential matrices from matches, with the focal lengths where they are not known."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import poselib
import pycolmap
from numpy.typing import NDArray

from localize.intrinsics import QueryCamera
from localize.pnp import focal_surprise, with_focal_length

FloatArray = NDArray[np.float64]

RelativeMethod = Literal["essential", "reference", "pointmap"]

MIN_MATCHES = 6  # five define an essential matrix, one more can contradict it
# matches lie so close to each other that their errors are alike: more than these count as these,
# or a thousand of them talk a focal length down to a third of what point maps or EXIF say
_INDEPENDENT = 100


@dataclass(frozen=True, kw_only=True)
class RelativeOptions:
    """Settings of `relative_pose`.

    Errors are in pixels as the matcher saw them: of the photo, or of the network's image where that
    is smaller (`Matcher.pixel_px`).
    """

    # "essential": the essential matrix of the matches, its length from both point maps;
    # "reference": PnP of the matched pixels of photo 1 on their points in photo 0's point map;
    # "pointmap": PnP of the pixels of photo 1 on their own point map in camera 0, without matches
    method: RelativeMethod = "essential"
    # "reference" and "pointmap" are improved over the matches, as "essential" is: PnP trusts points
    # that are less exact than pixels, and noise in them makes it misjudge lengths
    refine: bool = True
    max_error_px: float = 1.0  # largest epipolar (Sampson) error of an inlier
    max_point_error_px: float = 12.0  # largest reprojection error of a point of a point map
    min_inliers: int = 15  # with fewer there is no result
    # a pose that is hardly better than chance counts as a failure; 0 keeps every pose
    min_confidence: float = 0.1
    max_iterations: int = 20_000  # most samples drawn by RANSAC
    success_probability: float = 0.9999  # RANSAC stops when a better pose is less likely than 1 - p
    seed: int = 0  # of the random samples

    def __post_init__(self) -> None:
        if self.method not in get_args(RelativeMethod):
            raise ValueError(
                f"method must be one of {', '.join(get_args(RelativeMethod))}, got '{self.method}'"
            )
        for name in ("max_error_px", "max_point_error_px"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        if self.min_inliers < MIN_MATCHES:
            raise ValueError(f"min_inliers must be at least {MIN_MATCHES}, got {self.min_inliers}")
        if not 0 <= self.min_confidence <= 1:
            raise ValueError(f"min_confidence must be in [0, 1], got {self.min_confidence}")
        if self.max_iterations < 1:
            raise ValueError(f"max_iterations must be at least 1, got {self.max_iterations}")
        if not 0 < self.success_probability < 1:
            raise ValueError(
                f"success_probability must be in (0, 1), got {self.success_probability}"
            )
        if self.seed < 0:
            raise ValueError(f"seed must be >= 0, got {self.seed}")


@dataclass(frozen=True, kw_only=True)
class Estimate:
    camera0: pycolmap.Camera
    camera1: pycolmap.Camera
    rotation: FloatArray  # (3, 3)
    translation: FloatArray  # (3,), of unit length where its length is not known
    cost: float  # squared errors in pixels, those of outliers truncated; less is better
    inlier_mask: NDArray[np.bool_]
    limit_px: float  # largest error of these inliers, pixels of the photos


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


def best_estimate(
    pixels0: FloatArray,
    pixels1: FloatArray,
    guess0: QueryCamera,
    guess1: QueryCamera,
    options: RelativeOptions,
) -> Estimate | None:
    """The cameras and the pose that explain the matches best."""
    unknown0, unknown1 = (g.source in ("estimated", "pointmap") for g in (guess0, guess1))
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
    num_inliers = max(int(best.inlier_mask.sum()), 1)
    variance = max(best.cost / min(num_inliers, _INDEPENDENT), 1e-12)
    best = min(
        found,
        key=lambda e: (
            e.cost / variance
            + (focal_surprise(e.camera0, guess0.camera, guess0.focal_log_std) if unknown0 else 0.0)
            + (focal_surprise(e.camera1, guess1.camera, guess1.focal_log_std) if unknown1 else 0.0)
        ),
    )
    if limited is options:
        return best
    again = _calibrated(pixels0, pixels1, best.camera0, best.camera1, options)
    if again is not None and again.cost < best.cost:
        best = again
    if unknown0 != unknown1:
        best = _with_refined_focal(pixels0, pixels1, best, unknown0, options)
    return best


def _with_refined_focal(
    pixels0: FloatArray,
    pixels1: FloatArray,
    start: Estimate,
    first: bool,
    options: RelativeOptions,
) -> Estimate:
    """Search the one unknown focal length around a coarse one: the pose is refined for each."""
    best = start
    for step in (0.12, 0.06, 0.03, 0.015, 0.008, 0.004, 0.002):
        for factor in (1 - step, 1 + step):
            camera0, camera1 = best.camera0, best.camera1
            if first:
                camera0 = with_focal_length(camera0, camera0.mean_focal_length() * factor)
            else:
                camera1 = with_focal_length(camera1, camera1.mean_focal_length() * factor)
            trial = refined(pixels0, pixels1, camera0, camera1, best, options)
            if trial.cost < best.cost:
                best = trial
                break
    return best


def refined(
    pixels0: FloatArray,
    pixels1: FloatArray,
    camera0: pycolmap.Camera,
    camera1: pycolmap.Camera,
    start: Estimate,
    options: RelativeOptions,
) -> Estimate:
    """The pose of these cameras by refinement over the inliers of another estimate.

    PoseLib keeps the length of the baseline at 1.
    """
    rays0, rays1 = undistorted_rays(camera0, pixels0), undistorted_rays(camera1, pixels1)
    focals = [camera0.mean_focal_length(), camera1.mean_focal_length()]
    pose = poselib.CameraPose()
    pose.R, pose.t = start.rotation, start.translation / np.linalg.norm(start.translation)
    found, _ = poselib.refine_relative_pose(
        rays0[start.inlier_mask] * focals[0],
        rays1[start.inlier_mask] * focals[1],
        pose,
        *_pinholes(camera0, camera1),
        {"loss_type": "CAUCHY", "loss_scale": options.max_error_px / 2},
    )
    return judged(found, camera0, camera1, rays0, rays1, options)


def _calibrated(
    pixels0: FloatArray,
    pixels1: FloatArray,
    camera0: pycolmap.Camera,
    camera1: pycolmap.Camera,
    options: RelativeOptions,
) -> Estimate | None:
    """Essential matrix of undistorted pixels."""
    rays0, rays1 = undistorted_rays(camera0, pixels0), undistorted_rays(camera1, pixels1)
    usable = np.isfinite(rays0).all(1) & np.isfinite(rays1).all(1)
    if usable.sum() < MIN_MATCHES:
        return None
    found, info = poselib.estimate_relative_pose(
        rays0[usable] * camera0.mean_focal_length(),
        rays1[usable] * camera1.mean_focal_length(),
        *_pinholes(camera0, camera1),
        _ransac_options(options),
        {"loss_type": "CAUCHY"},
    )
    if info["num_inliers"] < MIN_MATCHES or np.linalg.norm(found.t) < 1e-12:
        return None
    return judged(found, camera0, camera1, rays0, rays1, options)


def judged(
    pose: poselib.CameraPose,
    camera0: pycolmap.Camera,
    camera1: pycolmap.Camera,
    rays0: FloatArray,
    rays1: FloatArray,
    options: RelativeOptions,
) -> Estimate:
    """A pose with its support among the matches; the baseline gets the length 1."""
    # PoseLib's own score is in units of the focal lengths, which differ between candidates
    focal = (camera0.mean_focal_length() + camera1.mean_focal_length()) / 2
    translation = pose.t / np.linalg.norm(pose.t)
    errors = epipolar_errors(pose.R, translation, rays0, rays1) * focal
    inlier_mask = errors < options.max_error_px  # not where a keypoint could not be undistorted
    return Estimate(
        camera0=camera0,
        camera1=camera1,
        rotation=pose.R,
        translation=translation,
        cost=float((np.where(inlier_mask, errors, options.max_error_px) ** 2).sum()),
        inlier_mask=inlier_mask,
        limit_px=options.max_error_px,
    )


def _pinholes(*cameras: pycolmap.Camera) -> list[dict[str, Any]]:
    """What is left of the cameras for undistorted pixels around the principal point."""
    return [
        {
            "model": "SIMPLE_PINHOLE",
            "width": c.width,
            "height": c.height,
            "params": [c.mean_focal_length(), 0.0, 0.0],
        }
        for c in cameras
    ]


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
        if info["num_inliers"] >= MIN_MATCHES:
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


def undistorted_rays(camera: pycolmap.Camera, pixels: FloatArray) -> FloatArray:
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
