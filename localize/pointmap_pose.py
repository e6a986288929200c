"""Relative poses in metres: how point maps give matches a scale, and PnP on point maps."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from localize.essential import (
    Estimate,
    RelativeOptions,
    epipolar_errors,
    undistorted_rays,
)
from localize.intrinsics import QueryCamera
from localize.pnp import PnPOptions, Pose, estimate_pose, estimate_pose_and_focal, with_focal_length
from matching.pointmap import PairGeometry

FloatArray = NDArray[np.float64]

_MAX_PNP_POINTS = 4000  # of a point map: neighbours are not independent, more only cost time
_PNP_ITERATIONS = 2000  # of the 4000 points half may be wrong: three of them are soon right
_MIN_DEPTHS = 5  # matches with a depth that give a baseline its length
_NETWORKS_OWN = ("pointmap", "estimated")  # cameras of which nobody knows more than the point map
_TRUSTED_LOG_STD = 0.1  # of a focal length: EXIF that no point map contradicts
_MIN_PARALLAX = 1e-3  # radians; below, a triangulated depth means nothing


@dataclass(frozen=True, kw_only=True)
class Baseline:
    """The length of a baseline whose direction is known.

    Attributes:
        length: In the point maps' unit.
        spread: Median deviation of the logarithm of the length over the matches: how little they
            agree about it.
    """

    length: float
    spread: float


def matched_depths(geometry: PairGeometry, view: int, pixels: FloatArray) -> FloatArray:
    """Depths that a view's own point map gives at pixels of its photo.

    Args:
        geometry: Point maps of both views.
        view: 0 or 1.
        pixels: (M, 2).

    Returns:
        (M,); NaN outside of the network's image and where the map has no point before the camera.
    """
    nearest, inside = geometry.frames[view].nearest_pixels(pixels)
    depth = geometry.depth(view)
    height, width = depth.shape
    rows = nearest.clip(0, (width - 1, height - 1))
    values = depth[rows[:, 1], rows[:, 0]].astype(np.float64)
    return np.where(inside & (values > 0), values, np.nan)


def baseline_length(
    rotation: FloatArray,
    direction: FloatArray,
    rays0: FloatArray,
    rays1: FloatArray,
    depths0: FloatArray,
    depths1: FloatArray,
) -> Baseline | None:
    """How long a baseline is when the depths of what was matched are known.

    Each match is triangulated with a baseline of length 1; the ratio of its known depth to the
    triangulated one votes. Its weight is the parallax, as an error in pixels moves a triangulated
    depth by the inverse of that. The weighted median of the logarithms wins.

    Args:
        rotation: Of cam1_from_cam0, (3, 3).
        direction: Of its translation, (3,), unit length.
        rays0: x / z and y / z in camera 0, (M, 2).
        rays1: The same in camera 1.
        depths0: z in camera 0, (M,), NaN where unknown.
        depths1: z in camera 1, likewise.

    Returns:
        None with fewer than five usable depths.
    """
    turned = np.column_stack([rays0, np.ones(len(rays0))]) @ rotation.T
    seen = np.column_stack([rays1, np.ones(len(rays1))])
    # least squares of z1 * seen - z0 * turned = direction
    aa, ab, bb = (seen**2).sum(1), (seen * turned).sum(1), (turned**2).sum(1)
    at, bt = seen @ direction, turned @ direction
    determinant = aa * bb - ab**2
    sine = np.sqrt(np.maximum(determinant, 0) / (aa * bb))
    with np.errstate(divide="ignore", invalid="ignore"):
        triangulated1 = (bb * at - ab * bt) / determinant
        triangulated0 = (ab * at - aa * bt) / determinant
        ratios = np.concatenate([depths0 / triangulated0, depths1 / triangulated1])
    weights = np.concatenate([sine, sine])
    front = np.tile((triangulated0 > 0) & (triangulated1 > 0) & (sine > _MIN_PARALLAX), 2)
    usable = front & np.isfinite(ratios) & (ratios > 0)
    if usable.sum() < _MIN_DEPTHS:
        return None
    votes, weights = np.log(ratios[usable]), weights[usable]
    middle = _weighted_median(votes, weights)
    return Baseline(
        length=float(np.exp(middle)), spread=_weighted_median(np.abs(votes - middle), weights)
    )


def pose_on_reference(
    pixels0: FloatArray,
    pixels1: FloatArray,
    geometry: PairGeometry,
    guess0: QueryCamera,
    guess1: QueryCamera,
    options: RelativeOptions,
) -> Estimate | None:
    """PnP of matched pixels of photo 1 on the points that photo 0's own point map gives them.

    Only the depth is taken from the point map: the rays are those of camera 0, so that a known
    camera is honoured.

    Args:
        pixels0: Matched pixels of photo 0, best first, (M, 2).
        pixels1: Those of photo 1.
        geometry: Point maps of both photos.
        guess0: Camera of photo 0, taken as it is.
        guess1: Camera of photo 1; its focal length is estimated unless it was given.
        options: Settings.

    Returns:
        The pose in metres; its inliers are matches. None if no pose fits.
    """
    guess0 = _as_seen(guess0, geometry)
    depths = matched_depths(geometry, 0, pixels0)
    rays = undistorted_rays(guess0.camera, pixels0)
    usable = np.isfinite(depths) & np.isfinite(rays).all(1)
    points = np.column_stack([rays * depths[:, None], depths])[usable]
    pose = _pnp(pixels1[usable], points, guess1, options)
    if pose is None:
        return None
    inlier_mask = np.zeros(len(pixels0), np.bool_)
    inlier_mask[usable] = pose.inlier_mask
    return _estimate(pose, guess0, inlier_mask, options)


def pose_on_pointmap(
    pixels0: FloatArray,
    pixels1: FloatArray,
    geometry: PairGeometry,
    guess0: QueryCamera,
    guess1: QueryCamera,
    options: RelativeOptions,
) -> Estimate | None:
    """PnP of the pixels of photo 1 on the network's points for them in camera 0.

    Where camera 0 is given or known from EXIF, the points are bent to its focal length: the network
    saw them through the one that its own point map of photo 0 has. The focal length of a camera 1
    that EXIF knows stays what it is, for the points are of the same network and know it less well.

    Args: as `pose_on_reference`.

    Returns:
        The pose in metres; its inliers are the matches near their epipolar lines.
    """
    guess0 = _as_seen(guess0, geometry)
    points, confidence = geometry.in_camera0[1], geometry.confidence_in_camera0[1]
    height, width = confidence.shape
    step = max(1, round((height * width / _MAX_PNP_POINTS) ** 0.5))
    y, x = np.mgrid[step // 2 : height : step, step // 2 : width : step].reshape(2, -1)
    finite = np.isfinite(points[y, x]).all(1)
    x, y = x[finite], y[finite]
    # the surer half, best first; what is far or seen by photo 1 only is the least sure
    order = np.argsort(-confidence[y, x], kind="stable")[: max(len(x) // 2, _MIN_DEPTHS)]
    x, y = x[order], y[order]
    pixels = geometry.frames[1].to_photo(np.column_stack([x, y]) + 0.5)
    points3D = points[y, x].astype(np.float64)
    if guess0.source not in _NETWORKS_OWN:
        points3D = _seen_through(points3D, geometry, guess0)
    if guess1.source not in _NETWORKS_OWN and guess1.focal_log_std <= _TRUSTED_LOG_STD:
        guess1 = QueryCamera(camera=guess1.camera, source="given")
    pose = _pnp(pixels, points3D, guess1, options)
    if pose is None:
        return None
    transform = pose.cam_from_world
    length = float(np.linalg.norm(transform.translation))
    if length == 0:
        return None
    rays0 = undistorted_rays(guess0.camera, pixels0)
    rays1 = undistorted_rays(pose.camera, pixels1)
    focal = (guess0.camera.mean_focal_length() + pose.camera.mean_focal_length()) / 2
    errors = focal * epipolar_errors(
        transform.rotation.matrix(), transform.translation / length, rays0, rays1
    )
    return _estimate(pose, guess0, errors < options.max_point_error_px, options)


def _as_seen(guess0: QueryCamera, geometry: PairGeometry) -> QueryCamera:
    """Camera 0 for PnP on points in its frame: without EXIF it is the one that they were seen by.

    A blend with the lens that is common would contradict the points.
    """
    if guess0.source not in _NETWORKS_OWN:
        return guess0
    camera = with_focal_length(guess0.camera, geometry.focal_px(0))
    return QueryCamera(camera=camera, source="pointmap", focal_log_std=guess0.focal_log_std)


def _seen_through(points: FloatArray, geometry: PairGeometry, guess0: QueryCamera) -> FloatArray:
    """Points in camera 0 with the depths of the network and the rays of the known camera."""
    camera = guess0.camera
    middle = np.array(geometry.image_sizes[0]) / 2
    principal_point = np.array([camera.principal_point_x, camera.principal_point_y])
    focal = camera.mean_focal_length()
    depth = points[:, 2:]
    aside = geometry.focal_px(0) * points[:, :2] + (middle - principal_point) * depth
    return np.hstack([aside / focal, depth])


def _pnp(
    pixels: FloatArray, points3D: FloatArray, guess: QueryCamera, options: RelativeOptions
) -> Pose | None:
    settings = PnPOptions(
        max_error_px=options.max_point_error_px,
        min_inliers=options.min_inliers,
        loss_scale_px=options.max_point_error_px / 4,
        max_iterations=min(options.max_iterations, _PNP_ITERATIONS),
        success_probability=options.success_probability,
        refine_distortion=False,  # depths are not exact enough to tell it
        seed=options.seed,
    )
    if guess.source == "given":
        return estimate_pose(pixels, points3D, guess.camera, settings)
    return estimate_pose_and_focal(
        pixels, points3D, guess.camera, settings, focal_log_std=guess.focal_log_std
    )


def _estimate(
    pose: Pose, guess0: QueryCamera, inlier_mask: NDArray[np.bool_], options: RelativeOptions
) -> Estimate:
    return Estimate(
        camera0=guess0.camera,
        camera1=pose.camera,
        rotation=pose.cam_from_world.rotation.matrix(),
        translation=np.array(pose.cam_from_world.translation),
        cost=pose.cost(options.max_point_error_px),
        inlier_mask=inlier_mask,
        limit_px=options.max_point_error_px,
    )


def _weighted_median(values: FloatArray, weights: FloatArray) -> float:
    order = np.argsort(values, kind="stable")
    heap = np.cumsum(weights[order])
    return float(values[order][np.searchsorted(heap, heap[-1] / 2)])
