"""Non-linear refinement of a pose of a known camera, and what the points tell of it.

PoseLib's refiner needs a third of the time of Ceres, which `localize.pnp` takes for the models that
PoseLib does not know and where intrinsics are refined too.
"""

import numpy as np
import poselib
import pycolmap
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

# models that both libraries project alike, to 1e-12 px
POSELIB_MODELS = frozenset({"SIMPLE_PINHOLE", "PINHOLE", "SIMPLE_RADIAL", "RADIAL", "OPENCV"})
# in radians and over the depth; each step is a third of the one before, so that it ends ten times
# nearer to the minimum than Ceres with a gradient tolerance of 1e-8
_LAST_STEP = 1e-6
_STEP = 1e-5  # of the central differences, over the depth: errors of 1e-10 of a derivative


def centred(points3D: FloatArray) -> tuple[FloatArray, pycolmap.Rigid3d]:
    """Points about their mean, where arithmetic is exact.

    Geographic coordinates (UTM, ECEF) are millions of metres: a turn of the camera about their
    origin moves it by as much as a shift does, and no solver tells the two apart any more.

    Args:
        points3D: Points in the map's frame, (M, 3).

    Returns:
        The points, (M, 3), and centred_from_map; the inverse of that takes poses back.
    """
    shift = -points3D.mean(0) if len(points3D) else np.zeros(3)
    return points3D + shift, pycolmap.Rigid3d(pycolmap.Rotation3d(), shift)


def covariance_in_map(
    covariance: FloatArray, cam_from_map: pycolmap.Rigid3d, centred_from_map: pycolmap.Rigid3d
) -> FloatArray:
    """The covariance (6, 6) of a pose about centred points as that of the pose in the map.

    A turn w of the camera about the centre also shifts it about the map's origin.

    Args:
        covariance: Of cam_from_centred.
        cam_from_map: The pose.
        centred_from_map: From `centred`.
    """
    x, y, z = cam_from_map.rotation * -centred_from_map.translation
    jacobian = np.eye(6)
    jacobian[3:, :3] = [[0.0, -z, y], [z, 0.0, -x], [-y, x, 0.0]]
    moved: FloatArray = jacobian @ covariance @ jacobian.T
    return moved


def minimized(
    start: pycolmap.Rigid3d,
    camera: pycolmap.Camera,
    points2D: FloatArray,
    points3D: FloatArray,
    *,
    loss_scale_px: float,
) -> pycolmap.Rigid3d | None:
    """The pose with the least Cauchy loss of reprojection errors, near a first one.

    Args:
        start: Pose to start from.
        camera: Its camera, of one of `POSELIB_MODELS`.
        points2D: Pixels, (M, 2).
        points3D: Points in the map's frame, (M, 3).
        loss_scale_px: Error beyond which the loss flattens.

    Returns:
        The pose; None if there is none, since the points do not determine it.
    """
    first = poselib.CameraPose()
    first.q, first.t = np.roll(start.rotation.quat, 1), start.translation
    model = {
        "model": camera.model.name,
        "width": camera.width,
        "height": camera.height,
        "params": list(camera.params),
    }
    depth = float(np.median((start * points3D)[:, 2]))
    settings = {
        "loss_type": "CAUCHY",
        "loss_scale": loss_scale_px,
        "step_tol": _LAST_STEP * min(1.0, max(depth, 1e-9)),
    }
    found, _ = poselib.refine_absolute_pose(points2D, points3D, first, model, settings)
    if not (np.isfinite(found.q).all() and np.isfinite(found.t).all()):
        return None
    return pycolmap.Rigid3d(pycolmap.Rotation3d(np.roll(found.q, -1)), found.t)


def information(
    cam_from_world: pycolmap.Rigid3d, camera: pycolmap.Camera, points3D: FloatArray
) -> FloatArray:
    """How much the projections of points tell of a pose: J^T J of their pixels.

    Args:
        cam_from_world: The pose.
        camera: Its camera, of any model.
        points3D: Points in front of the camera, map's frame, (M, 3).

    Returns:
        (6, 6), of rotation (rad) then translation, in the axes of the camera.
    """
    in_cam = np.asarray(cam_from_world * points3D)
    step = _STEP * np.linalg.norm(in_cam, axis=1)
    by_point = np.empty((len(in_cam), 2, 3))  # derivatives of the pixels by the point
    for axis in range(3):
        offset = np.zeros_like(in_cam)
        offset[:, axis] = step
        ends = [np.asarray(camera.img_from_cam(in_cam + sign * offset)) for sign in (1, -1)]
        by_point[:, :, axis] = (ends[0] - ends[1]) / (2 * step[:, None])
    # the point moves by w x (R X) + v: row by row d . (w x a) = w . (a x d)
    turned = in_cam - cam_from_world.translation
    by_rotation = np.cross(turned[:, None], by_point)
    jacobian = np.concatenate((by_rotation, by_point), axis=2).reshape(-1, 6)
    jacobian = jacobian[np.isfinite(jacobian).all(1)]
    # not as a product of matrices, for which numpy wakes threads that then spin
    product: FloatArray = np.einsum("ni,nj->ij", jacobian, jacobian)
    return product
