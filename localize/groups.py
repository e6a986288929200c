"""Candidates for the pose: one per group of retrieved photos that see the same place."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import pycolmap
from numpy.typing import NDArray

from localize.confidence import (
    chance_agreement,
    distinct_pixels,
    inliers_by_chance,
    spread_inliers,
)
from localize.intrinsics import QueryCamera
from localize.lift import Correspondences
from localize.pnp import (
    MIN_MATCHES,
    PnPOptions,
    Pose,
    estimate_pose,
    estimate_pose_and_focal,
    refine_pose,
    reprojection_errors,
)
from mapping.map import Map

_MAX_MAP_FOCALS = 5  # retrieved photos whose focal length is tried for a query without one


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A pose from the matches with one group of retrieved photos.

    Attributes:
        matches: The 2D-3D matches it was estimated from.
        points3D: Their points in the map's frame, (M, 3).
        pose: Its pose, with the error of every match.
        known_camera: Whether the focal length was known before the pose.
    """

    matches: Correspondences
    points3D: NDArray[np.float64]
    pose: Pose
    known_camera: bool

    @cached_property
    def num_explained(self) -> int:
        """Distinct keypoints among the inliers: one may match several points of one spot."""
        return len(distinct_pixels(self.matches.points2D[self.pose.inlier_mask]))

    @cached_property
    def support(self) -> float:
        """Inliers weighted by their spread over the photo."""
        camera = self.pose.camera
        return spread_inliers(
            self.matches.points2D, self.pose.inlier_mask, (camera.width, camera.height)
        )

    @property
    def median_error_px(self) -> float:
        """Of the inliers' reprojections."""
        return float(np.median(self.pose.errors_px[self.pose.inlier_mask]))

    def chance(self, options: PnPOptions, *, num_trials: float | None = None) -> int:
        """Inliers that wrong matches would reach with the luckiest of ``num_trials`` poses.

        By default 100,000, about what RANSAC looks at, and ten times as many where a focal length
        was to be found too.
        """
        trials = num_trials or (1e5 if self.known_camera else 1e6)
        sample_size = 3 if self.known_camera else 4
        camera = self.pose.camera
        in_cam = np.asarray(self.pose.cam_from_world * self.points3D)
        projected = np.full((len(in_cam), 2), np.nan)
        front = in_cam[:, 2] > 0
        if front.any():
            projected[front] = camera.img_from_cam(in_cam[front])
        probability = chance_agreement(
            self.matches.points2D,
            projected,
            options.max_error_px,
            (camera.width, camera.height),
            seed=options.seed,
        )
        return inliers_by_chance(
            len(self.matches), probability, num_trials=trials, sample_size=sample_size
        )

    def agrees(self, other: "Candidate", options: PnPOptions) -> bool:
        """Whether this pose explains at least half of the other one's inliers."""
        mask = other.pose.inlier_mask
        errors = reprojection_errors(
            self.pose.cam_from_world,
            self.pose.camera,
            other.matches.points2D[mask],
            other.points3D[mask],
        )
        return bool((errors < options.max_error_px).mean() >= 0.5)

    def relative_std(self, covariance: NDArray[np.float64]) -> float:
        """Standard deviation of the rotation (rad) or of the position over the median depth.

        Args:
            covariance: Of the pose, (6, 6), see `localize.results.Localization`.
        """
        in_cam = np.asarray(self.pose.cam_from_world * self.points3D)
        depth = float(np.median(in_cam[self.pose.inlier_mask, 2]))
        x, y, z = self.pose.cam_from_world.translation
        cross = np.array([[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]])
        # the centre -R^T t moves by -v - [t]x w in the axes of the camera
        jacobian = np.hstack([-cross, -np.eye(3)])
        position = jacobian @ covariance @ jacobian.T
        rotation_variance = float(np.linalg.eigvalsh(covariance[:3, :3])[-1])
        position_variance = float(np.linalg.eigvalsh(position)[-1])
        return max(rotation_variance, position_variance / max(depth, 1e-12) ** 2, 0.0) ** 0.5


def best_candidate(
    scene: Map,
    matches: Correspondences,
    retrieved: Sequence[str],
    camera: QueryCamera,
    options: PnPOptions,
    *,
    min_shared_points: int,
) -> tuple[Candidate | None, list[Candidate]]:
    """The pose with the most inliers over the groups of retrieved photos.

    Matches of other groups that this pose explains beyond chance are merged into it: groups can be
    parts of one place that share no map point.

    Args:
        scene: The map.
        matches: 2D-3D matches with all retrieved photos.
        retrieved: Their names, best first.
        camera: The query's camera.
        options: Settings of the pose.
        min_shared_points: See `covisibility_groups`.

    Returns:
        The best pose, None if no group gave one, and the poses of groups that disagree with it.
    """
    groups = covisibility_groups(
        retrieved, {name: scene.covisible(name) for name in retrieved}, min_shared_points
    )
    parts = [matches.select(np.isin(matches.images, group)) for group in groups]
    parts.sort(key=len, reverse=True)  # stable: among equals the better retrieved one
    best: Candidate | None = None
    tried: list[Candidate] = []
    for part in parts:
        # a group with fewer matches than the best has inliers cannot win
        if len(part) < max(MIN_MATCHES, best.num_explained if best else 0):
            break
        candidate = _candidate(scene, part, retrieved, camera, options)
        if candidate is None:
            continue
        tried.append(candidate)
        if best is None or candidate.num_explained > best.num_explained:
            best = candidate
    if best is None or len(parts) == 1:
        return best, []
    merged = _merge(scene, best, parts, camera, options)
    return merged, [c for c in tried if c is not best and not merged.agrees(c, options)]


def covisibility_groups(
    names: Sequence[str], covisible: Mapping[str, Mapping[str, int]], min_shared_points: int
) -> list[list[int]]:
    """Connected groups of retrieved photos, so that two look-alike places are not mixed.

    Args:
        names: Retrieved photos, best first.
        covisible: Per photo, how many points it shares with others.
        min_shared_points: Shared points that make two photos neighbours.

    Returns:
        Rows of ``names`` per group, ascending; groups in the order of their best photo.
    """
    rows = {name: row for row, name in enumerate(names)}
    group_of = [-1] * len(names)
    groups: list[list[int]] = []
    for first in range(len(names)):
        if group_of[first] >= 0:
            continue
        group_of[first] = len(groups)
        members, waiting = [first], [first]
        while waiting:
            for name, shared in covisible[names[waiting.pop()]].items():
                row = rows.get(name)
                if row is not None and group_of[row] < 0 and shared >= min_shared_points:
                    group_of[row] = len(groups)
                    members.append(row)
                    waiting.append(row)
        groups.append(sorted(members))
    return groups


def _candidate(
    scene: Map,
    matches: Correspondences,
    retrieved: Sequence[str],
    camera: QueryCamera,
    options: PnPOptions,
) -> Candidate | None:
    points3D = scene.points3D(matches.points3D_ids)
    if camera.fixed:
        pose = estimate_pose(matches.points2D, points3D, camera.camera, options)
    else:
        pose = estimate_pose_and_focal(
            matches.points2D,
            points3D,
            camera.camera,
            options,
            focal_log_std=camera.focal_log_std,
            focal_lengths_px=_map_focal_lengths(scene, retrieved, camera.camera),
        )
    if pose is None:
        return None
    return Candidate(
        matches=matches,
        points3D=points3D,
        pose=pose,
        known_camera=camera.fixed,
    )


def _merge(
    scene: Map,
    best: Candidate,
    parts: Sequence[Correspondences],
    camera: QueryCamera,
    options: PnPOptions,
) -> Candidate:
    """Add the matches of the other groups that the best pose explains beyond chance."""
    rows = [best.matches]
    for part in parts:
        if part is not best.matches and len(part) > 0:
            judged = _judged(scene, best, part, options)
            if judged.num_explained > judged.chance(options, num_trials=1):
                rows.append(part)
    if len(rows) == 1:
        return best
    union = Correspondences.concatenate(rows)
    judged = _judged(scene, best, union, options)
    pose = refine_pose(
        judged.pose,
        union.points2D,
        judged.points3D,
        options,
        refine_intrinsics=not camera.fixed,
    )
    if pose is None or pose.num_inliers < best.pose.num_inliers:
        return best
    return replace(judged, pose=pose)


def _judged(
    scene: Map, best: Candidate, matches: Correspondences, options: PnPOptions
) -> Candidate:
    """The pose of a candidate with the errors of other matches."""
    pose = best.pose
    points3D = scene.points3D(matches.points3D_ids)
    errors = reprojection_errors(pose.cam_from_world, pose.camera, matches.points2D, points3D)
    return replace(
        best,
        matches=matches,
        points3D=points3D,
        pose=replace(pose, errors_px=errors, inlier_mask=errors < options.max_error_px),
    )


def _map_focal_lengths(
    scene: Map, retrieved: Sequence[str], camera: pycolmap.Camera
) -> list[float]:
    """Focal lengths of the best retrieved photos, scaled to the query: often the same camera."""
    long_side = max(camera.width, camera.height)
    cameras = [scene.camera(name) for name in retrieved[:_MAX_MAP_FOCALS]]
    return [
        c.mean_focal_length() * long_side / max(c.width, c.height)
        for c in cameras
        if not c.is_spherical()  # a panorama has no focal length
    ]
