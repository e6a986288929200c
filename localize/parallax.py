"""Whether matches show that the camera moved, or only that it turned, zoomed or was cropped."""

import numpy as np
import poselib
import pycolmap
from numpy.typing import NDArray

from localize.intrinsics import QueryCamera

FloatArray = NDArray[np.float64]

_MAX_MATCHES = 2000  # looked at: a share of them needs no more
_OFF = 1.5  # error limits by which a match has to be off
_MIN_SHARE = 0.1  # of the matches that have to be: repeated windows matched wrongly are off, too
_MIN_COUNT = 5  # fewer do not define an essential matrix
_MAX_STDS = 3.0  # by which a focal length may differ from what is expected of it
_MAX_SAMPLES = 1000  # where nearly all matches fit, a few are enough
_MAX_STEPS = 30


def shows_parallax(
    pixels0: FloatArray,
    pixels1: FloatArray,
    guess0: QueryCamera,
    guess1: QueryCamera,
    max_error_px: float,
) -> bool:
    """Whether matches that a pose explains need its translation.

    An essential matrix with any translation fits where a turn of the camera, x1 ~ K1 R K0^-1 x0,
    does (Torr, Fitzgibbon and Zisserman, "The problem of degeneracy in structure and motion
    recovery", IJCV 1999). So that is fitted by itself, with focal lengths that were not given near
    the expected ones, and, unless both cameras were given, the photo cut, resized and straightened:
    a similarity. A plane seen from two places is another homography, except where cameras that
    nobody knows look straight at it, both to a fraction of a degree.

    Torr's criterion compares mean errors: a few things near a camera before a far landscape are
    lost in them. Here a share of the matches is enough.

    Args:
        pixels0: Matched pixels of photo 0, inliers of the pose, (M, 2).
        pixels1: Those of photo 1.
        guess0: What was known of camera 0 before the pose. What fits the pose does not count: it is
            made up together with the translation.
        guess1: The same of camera 1.
        max_error_px: Largest error of an inlier, in pixels of the photos.

    Returns:
        Whether there is parallax; False for fewer matches than an essential matrix needs.
    """
    step = max(1, -(-len(pixels0) // _MAX_MATCHES))
    pixels0, pixels1 = pixels0[::step], pixels1[::step]  # best first: some of all qualities
    points0, points1 = _centred(guess0.camera, pixels0), _centred(guess1.camera, pixels1)
    usable = np.isfinite(points0).all(1) & np.isfinite(points1).all(1)
    pixels0, pixels1, points0, points1 = (
        array[usable] for array in (pixels0, pixels1, points0, points1)
    )
    needed = max(_MIN_COUNT, _MIN_SHARE * len(points0))
    if len(points0) < needed:
        return False
    homography, _ = poselib.estimate_homography(
        points0,
        points1,
        {"max_reproj_error": _OFF * max_error_px, "max_iterations": _MAX_SAMPLES, "seed": 0},
        {},
    )
    if not abs(np.linalg.det(np.nan_to_num(homography))) > 0:
        return False  # all at one pixel
    # what photo 0 shows larger in photo 1 brings its errors along
    limit_px = max_error_px * max(_magnification(homography, points0.mean(0)), 1.0)

    def explained(errors: FloatArray) -> bool:
        near = np.linalg.norm(errors, axis=1) < _OFF * limit_px  # not where an error is not finite
        return bool((~near).sum() < needed)

    if not explained(_mapped(homography, points0) - points1):
        return True  # the rule among photos of a place: no homography at all
    log_focals = np.log([_focal_limits(guess) for guess in (guess0, guess1)])
    if explained(_turn_errors(points0, points1, homography, log_focals, limit_px)):
        return False
    given = guess0.source == guess1.source == "given"
    return given or not explained(_cut_errors(pixels0, pixels1, limit_px))


def _centred(camera: pycolmap.Camera, pixels: FloatArray) -> FloatArray:
    """Undistorted pixels around the principal point."""
    return np.asarray(camera.cam_from_img(pixels)) * camera.mean_focal_length()


def _focal_limits(guess: QueryCamera) -> tuple[float, float]:
    """The least and the largest focal length in pixels; the same if it is known."""
    focal, factor = guess.camera.mean_focal_length(), np.exp(_MAX_STDS * guess.focal_log_std)
    return focal / factor, focal * factor


def _mapped(homography: FloatArray, points: FloatArray) -> FloatArray:
    """Points through a homography, NaN for those that it puts behind the camera."""
    x, y, z = homography @ np.column_stack([points, np.ones(len(points))]).T
    depth = np.where(z * np.sign(np.linalg.det(homography)) > 0, z, np.nan)
    return np.column_stack([x / depth, y / depth])


def _magnification(homography: FloatArray, point: FloatArray) -> float:
    """How many times longer something at a point becomes."""
    depth = max(abs(homography[2] @ np.append(point, 1.0)), 1e-12)
    return float(np.sqrt(abs(np.linalg.det(homography)) / depth**3))


def _turn_errors(
    points0: FloatArray,
    points1: FloatArray,
    homography: FloatArray,
    log_focals: FloatArray,
    scale_px: float,
) -> FloatArray:
    """Errors of the best turn of the camera: Levenberg-Marquardt with a Cauchy loss.

    Args:
        points0: In pixels around the principal point, (M, 2).
        points1: The same in photo 1.
        homography: What fits without being a turn: the start.
        log_focals: Least and largest logarithm of either focal length, (2, 2).
        scale_px: Of the loss.

    Returns:
        (M, 2), pixels; NaN for what the turn puts behind the camera.
    """
    low, high = log_focals.T
    free = np.append([True] * 3, high > low)
    focals = log_focals.mean(1)
    rotation = _nearest_rotation(homography, focals)
    errors, jacobian = _turned(points0, points1, rotation, focals)
    damping = 1e-3
    for _ in range(_MAX_STEPS):
        weights = np.nan_to_num(1 / (1 + (errors**2).sum(1) / scale_px**2))
        columns = np.nan_to_num(jacobian[:, :, free])
        normal = np.einsum("mij,mik,m->jk", columns, columns, weights)
        gradient = np.einsum("mij,mi,m->j", columns, np.nan_to_num(errors), weights)
        update = np.zeros(5)
        # matches on a line leave a turn about it open
        floor = 1e-9 * np.trace(normal) + 1e-12
        damped = normal + np.diag(damping * np.diag(normal) + floor)
        update[free] = -np.linalg.solve(damped, gradient)
        new_rotation = pycolmap.Rotation3d(update[:3]).matrix() @ rotation
        new_focals = np.clip(focals + update[3:], low, high)
        new_errors, new_jacobian = _turned(points0, points1, new_rotation, new_focals)
        gain = 1 - _cauchy(new_errors, scale_px) / max(_cauchy(errors, scale_px), 1e-12)
        damping *= 0.1 if gain > 0 else 10.0
        if gain > 0:
            rotation, focals = new_rotation, new_focals
            errors, jacobian = new_errors, new_jacobian
        if 0 <= gain < 1e-6:
            break
    return errors


def _nearest_rotation(homography: FloatArray, log_focals: FloatArray) -> FloatArray:
    focal0, focal1 = np.exp(log_focals)
    of_rays = np.diag([1 / focal1, 1 / focal1, 1]) @ homography @ np.diag([focal0, focal0, 1])
    left, _, right = np.linalg.svd(of_rays * np.sign(np.linalg.det(of_rays)))
    return np.asarray(left @ right)


def _turned(
    points0: FloatArray, points1: FloatArray, rotation: FloatArray, log_focals: FloatArray
) -> tuple[FloatArray, FloatArray]:
    """Errors (M, 2) and their derivatives (M, 2, 5) by turn and logarithms of focal lengths."""
    focal0, focal1 = np.exp(log_focals)
    aside = points0 / focal0
    rays = np.column_stack([aside, np.ones(len(aside))]) @ rotation.T
    depth = np.where(rays[:, 2] > 0, rays[:, 2], np.nan)
    x, y = (rays[:, :2] / depth[:, None]).T
    one, zero = np.ones_like(x), np.zeros_like(x)
    by_rays = focal1 / depth * np.array([[one, zero, -x], [zero, one, -y]])  # (2, 3, M)
    across = np.cross(np.eye(3)[:, None], rays[None])  # by a small turn, (3, M, 3)
    inward = -aside @ rotation[:, :2].T  # by the logarithm of focal length 0, (M, 3)
    projected = focal1 * np.column_stack([x, y])
    jacobian = np.empty((len(points0), 2, 5))
    jacobian[:, :, :3] = np.einsum("ijm,kmj->mik", by_rays, across)
    jacobian[:, :, 3] = np.einsum("ijm,mj->mi", by_rays, inward)
    jacobian[:, :, 4] = projected
    return projected - points1, jacobian


def _cauchy(errors: FloatArray, scale_px: float) -> float:
    squares = np.nan_to_num((errors / scale_px) ** 2, nan=1e12).sum(1)
    return float(np.log1p(squares).sum())


def _cut_errors(pixels0: FloatArray, pixels1: FloatArray, scale_px: float) -> FloatArray:
    """Errors of the best similarity, by least squares reweighted for a Cauchy loss.

    Args:
        pixels0: (M, 2).
        pixels1: (M, 2).
        scale_px: Of the loss.

    Returns:
        (M, 2), pixels of photo 1.
    """
    plane0, plane1 = (pixels @ np.array([1, 1j]) for pixels in (pixels0, pixels1))
    weights = np.ones(len(pixels0))
    for _ in range(_MAX_STEPS):
        from0, from1 = (p - np.average(p, weights=weights) for p in (plane0, plane1))
        factor = np.vdot(from0, weights * from1) / max(weights @ np.abs(from0) ** 2, 1e-12)
        errors = factor * from0 - from1
        weights = 1 / (1 + np.abs(errors / scale_px) ** 2)
    return np.column_stack([errors.real, errors.imag])
