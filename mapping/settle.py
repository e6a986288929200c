"""Poses of photos that were added to a model, as exact as its points allow."""

from collections.abc import Mapping, Set
from copy import copy

import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.options import ReconstructionOptions

# COLMAP's own limit for registering a photo, which its later steps do not keep: one whose pixels
# fit no camera (squeezed to a strip, a panorama) ends with a few points and wild parameters.
# Photos that belong to a scene have hundreds, the worst of the internet photos of a church 150
MIN_POINTS_OF_POSE = pycolmap.IncrementalMapperOptions().abs_pose_min_num_inliers


def settle(
    model: pycolmap.Reconstruction,
    start: pycolmap.Reconstruction,
    constant_cameras: Set[int],
    options: ReconstructionOptions,
) -> None:
    """Refine the photos that were added, with a loss that wrong matches hardly count in.

    COLMAP's last adjustment is quadratic: a few observations that are off by pixels draw the pose
    and the old points with it (left out of a map and added to it, photos were off by 3.5 cm where
    localizing them in it gave 1.0).

    Args:
        model: Changed: old poses and points are to the last digit where they were, and what does
            not fit them is taken out.
        start: What was there before.
        constant_cameras: Whose intrinsics stay.
        options: Thresholds, number of threads.
    """
    new = sorted(set(model.reg_image_ids()) - set(start.reg_image_ids()))
    seen = {p.point3D_id for i in new for p in model.image(i).points2D if p.has_point3D()}
    adjustment = pycolmap.BundleAdjustmentOptions()
    adjustment.print_summary = False
    adjustment.ceres.loss_function_type = pycolmap.LossFunctionType.CAUCHY
    adjustment.ceres.loss_function_scale = options.max_reprojection_error_px / 4
    adjustment.ceres.solver_options.num_threads = options.num_threads
    adjustment.ceres.solver_options.function_tolerance = 1e-8
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in new:
        config.add_image(image_id)
    for point3D_id in sorted(seen):
        if start.exists_point3D(point3D_id):
            config.add_constant_point(point3D_id)
        else:
            config.add_variable_point(point3D_id)
    kept = [i for i in start.points3D if model.exists_point3D(i)]
    for point3D_id in kept:
        model.point3D(point3D_id).xyz = start.point3D(point3D_id).xyz
    # about the middle: far from the origin, as in geographic coordinates, digits are lost
    middle = np.mean([point.xyz for point in model.points3D.values()], 0)
    to_middle = pycolmap.Sim3d(1.0, pycolmap.Rotation3d(), -middle)
    model.transform(to_middle)
    kept_points = {point3D_id: model.point3D(point3D_id).xyz for point3D_id in kept}
    for camera_id in {model.image(i).camera_id for i in new} & constant_cameras:
        config.set_constant_cam_intrinsics(camera_id)
    if seen:
        # from the old points alone, then the new points, then all: new points that stand where a
        # wrong pose saw them hold the pose there (11 cm off instead of 2)
        for image_id in new:
            _pose_by(kept_points, model, image_id, adjustment.ceres.loss_function_scale)
        fixed_poses = copy(config)
        for image_id in new:
            fixed_poses.set_constant_rig_from_world_pose(model.image(image_id).frame_id)
            fixed_poses.set_constant_cam_intrinsics(model.image(image_id).camera_id)
        for stage in (fixed_poses, config):
            pycolmap.create_default_bundle_adjuster(adjustment, stage, model).solve()
        pycolmap.ObservationManager(model).filter_points3D(
            options.max_reprojection_error_px, options.min_triangulation_angle_deg, seen
        )
    model.transform(to_middle.inverse())
    for point3D_id in kept:  # which the way there and back has rounded
        if model.exists_point3D(point3D_id):
            model.point3D(point3D_id).xyz = start.point3D(point3D_id).xyz
    for frame_id in start.reg_frame_ids():
        model.frame(frame_id).rig_from_world = start.frame(frame_id).rig_from_world
    model.update_point_3d_errors()


def _pose_by(
    points3D: Mapping[int, NDArray[np.float64]],
    model: pycolmap.Reconstruction,
    image_id: int,
    loss_scale_px: float,
) -> None:
    """Refine the pose of a photo by some of the points that it sees, if these are enough."""
    image = model.image(image_id)
    seen = [p for p in image.points2D if p.has_point3D() and p.point3D_id in points3D]
    if len(seen) < MIN_POINTS_OF_POSE:
        return
    options = pycolmap.AbsolutePoseRefinementOptions(
        refine_focal_length=False, refine_extra_params=False, loss_function_scale=loss_scale_px
    )
    refined = pycolmap.refine_absolute_pose(
        image.cam_from_world(),
        np.array([p.xy for p in seen]),
        np.array([points3D[p.point3D_id] for p in seen]),
        np.ones(len(seen), np.bool_),
        pycolmap.Camera(model.camera(image.camera_id).todict()),
        options,
    )
    if refined is not None:
        model.frame(image.frame_id).rig_from_world = refined["cam_from_world"]
