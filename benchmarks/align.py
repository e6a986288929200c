"""Bring a map without metric scale into the frame of the truth, from the poses of its own images.

The queries take no part: a localizer whose poses are wrong must not be able to hide it here.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.metrics import camera_centers, rotation_errors_deg, translation_errors
from matching.errors import InputError

FloatArray = NDArray[np.float64]
BoolArray = NDArray[np.bool_]

_MIN_ARM = 0.05  # least weight of the rotations, see _fit; keeps exactly collinear centres solvable
_MAX_HYPOTHESES = 100
_MAX_PAIRS = 10_000  # that hypotheses are chosen from: all pairs of up to 141 images
_OUTLIER_FACTOR = 10.0  # misplaced, not noisy: times the median error

_MIN_IMAGES = 3  # two always fit in their centres; the third can contradict them
# Residuals of centres, relative to their spread, and of rotations. Maps of the same photos come to
# a hundredth and a degree; those of other places that share names come to one and 60 degrees.
_POOR, _POOR_DEG = 0.05, 5.0
_ABSURD, _ABSURD_DEG = 0.3, 30.0


class AlignmentError(InputError):
    """Map and truth cannot be brought together: too little in common, or no similarity fits."""


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """A similarity from the map's frame to the truth's, and how well the map's images fit it.

    Attributes:
        truth_from_map: Scale, rotation and translation.
        rms_translation_m: Of the centres of the images used, in the truth's units.
        rms_rotation_deg: Of their rotations.
        num_images: Images known to both.
        num_used: Images the fit rests on; the others are outliers.
        spread_m: RMS distance of the truth's centres of the common images from their mean.
    """

    truth_from_map: pycolmap.Sim3d
    rms_translation_m: float
    rms_rotation_deg: float
    num_images: int
    num_used: int
    spread_m: float

    def doubt(self) -> str:
        """Why the fit is poor, with its numbers; empty if it is good."""
        if (
            self.rms_translation_m <= _POOR * self.spread_m
            and self.rms_rotation_deg <= _POOR_DEG
            and 2 * self.num_used > self.num_images
        ):
            return ""
        return (
            f"the map fits the ground truth poorly: {self._residuals()}; errors of the queries "
            "include that"
        )

    def _residuals(self) -> str:
        return (
            f"after alignment {self.num_used} of {self.num_images} common images are off by "
            f"{self.rms_translation_m:.3g} and {self.rms_rotation_deg:.3g} deg (RMS), where their "
            f"centres spread {self.spread_m:.3g}"
        )

    def apply(self, cam_from_map: pycolmap.Rigid3d) -> pycolmap.Rigid3d:
        """The pose of a camera in the truth's frame."""
        return self.truth_from_map.transform_camera_world(cam_from_map)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for ``report.json``."""
        return {
            "scale": float(self.truth_from_map.scale),
            "rms_translation_m": self.rms_translation_m,
            "rms_rotation_deg": self.rms_rotation_deg,
            "num_images": self.num_images,
            "num_used": self.num_used,
            "spread_m": self.spread_m,
        }


def align_poses(
    map_poses: Mapping[str, pycolmap.Rigid3d], truth_poses: Mapping[str, pycolmap.Rigid3d]
) -> Alignment:
    """Fit a similarity to the images that both sides know, by centres and rotations.

    Centres alone leave the rotation about their line open when they are (nearly) collinear, and
    rotations alone are biased when an unknown principal point turned every camera of the map. How
    much each counts is therefore taken from their residuals, until it no longer changes. The
    rotation errors of a map share their cause, so all of them together count as one measurement.

    Args:
        map_poses: ``cam_from_map`` by image name.
        truth_poses: ``cam_from_world`` by image name.

    Raises:
        AlignmentError: Fewer than 3 common images, all of them at one place, or residuals that
            tell of two different places; the message has the numbers.
    """
    names = sorted(set(map_poses) & set(truth_poses))
    if len(names) < _MIN_IMAGES:
        examples = ""
        if map_poses and truth_poses and not names:
            examples = f" (the map has '{min(map_poses)}', the truth '{min(truth_poses)}')"
        raise AlignmentError(
            f"cannot align: the map and the ground truth share {len(names)} images, "
            f"{_MIN_IMAGES} are needed{examples}"
        )
    source = pose_matrices([map_poses[name] for name in names])
    target = pose_matrices([truth_poses[name] for name in names])
    used = _well_placed(source, target)
    similarity, translation, rotation = _fit_weighted(source, target, used)
    alignment = Alignment(
        truth_from_map=similarity,
        rms_translation_m=_rms(translation[used]),
        rms_rotation_deg=_rms(rotation[used]),
        num_images=len(names),
        num_used=int(used.sum()),
        spread_m=_spread(target),
    )
    if (
        alignment.rms_translation_m > _ABSURD * alignment.spread_m
        or alignment.rms_rotation_deg > _ABSURD_DEG
    ):
        raise AlignmentError(
            f"cannot align: {alignment._residuals()}: the map and the ground truth are of "
            "different places, or one of them is wrong"
        )
    return alignment


def pose_matrices(poses: list[pycolmap.Rigid3d]) -> FloatArray:
    """``cam_from_world`` as (N, 4, 4)."""
    matrices = np.tile(np.eye(4), (len(poses), 1, 1))
    for matrix, pose in zip(matrices, poses, strict=True):
        matrix[:3] = pose.matrix()
    return matrices


def _well_placed(source: FloatArray, target: FloatArray) -> BoolArray:
    """Which images agree with most others, (N,): least median of squares over pairs of images.

    Two images determine a similarity; under that of the best pair the median image has a small
    error, however far the misplaced ones are off.
    """
    count = len(source)
    rng = np.random.default_rng(0)
    if count * (count - 1) // 2 <= _MAX_PAIRS:
        pairs = np.stack(np.triu_indices(count, 1), axis=1)
    else:  # listing them all would take gigabytes for the maps of whole cities
        first = rng.integers(count, size=_MAX_PAIRS)
        second = (first + rng.integers(1, count, size=_MAX_PAIRS)) % count
        pairs = np.stack([first, second], axis=1)
    for poses in (source, target):  # images at one place determine nothing
        distances = np.linalg.norm(np.diff(camera_centers(poses)[pairs], axis=1)[:, 0], axis=-1)
        pairs = pairs[distances > 1e-6 * _spread(poses)]
    if len(pairs) > _MAX_HYPOTHESES:
        pairs = rng.choice(pairs, _MAX_HYPOTHESES, replace=False)
    least, used = np.inf, np.ones(count, bool)
    for pair in pairs:
        moved = _apply(_fit(source[pair], target[pair], 1.0), source)
        translation, rotation = (
            translation_errors(moved, target),
            rotation_errors_deg(moved, target),
        )
        median = float(np.median(translation))
        if median < least:
            least = median
            # The floors keep rounding errors of an exact map from being taken for misplacement.
            used = (translation <= _OUTLIER_FACTOR * median + 1e-6 * _spread(target)) & (
                rotation <= _OUTLIER_FACTOR * np.median(rotation) + 1e-6
            )
    return used


def _fit_weighted(
    source: FloatArray, target: FloatArray, used: BoolArray
) -> tuple[pycolmap.Sim3d, FloatArray, FloatArray]:
    """Alternate the fit and the weight of the rotations; it settles within ten rounds.

    Returns:
        The similarity, and the translation and rotation errors of all images, used or not.
    """
    spread = _spread(target[used])
    arm = 1.0
    for _ in range(30):
        similarity = _fit(source[used], target[used], arm)
        moved = _apply(similarity, source)
        translation, rotation = (
            translation_errors(moved, target),
            rotation_errors_deg(moved, target),
        )
        angle = np.radians(_rms(rotation[used]))
        if angle < 1e-12:  # exact rotations: any weight gives this answer
            break
        ratio = _rms(translation[used]) / spread / angle
        new_arm = max(_MIN_ARM, ratio / np.sqrt(used.sum()))
        if abs(new_arm - arm) < 1e-4 * arm:
            break
        arm = new_arm
    return similarity, translation, rotation


def _fit(source: FloatArray, target: FloatArray, arm: float) -> pycolmap.Sim3d:
    """Least squares over centres and the ends of six arms along the axes of each camera.

    Turning a camera by a small angle moves the ends of its arms by angle times arm, so the length
    of the arms (in units of the centres' spread) is the weight of rotations against centres.
    """
    ends = []
    for poses in (source, target):
        centers = camera_centers(poses)
        axes = poses[:, :3, :3] * (arm * _spread(poses))  # rows: the camera's axes in the world
        ends.append(
            np.concatenate(
                [centers, *(centers + sign * axes[:, i] for i in range(3) for sign in (-1, 1))]
            )
        )
    similarity = pycolmap.estimate_sim3d(*ends)
    if similarity is None:
        raise AlignmentError(
            "cannot align: the images that map and ground truth share fit no similarity"
        )
    return similarity


def _apply(similarity: pycolmap.Sim3d, poses: FloatArray) -> FloatArray:
    """`Alignment.apply` for many poses, (N, 4, 4)."""
    rotation = similarity.rotation.matrix()
    moved = poses.copy()
    moved[:, :3, :3] = poses[:, :3, :3] @ rotation.T
    centers = similarity.scale * (camera_centers(poses) @ rotation.T) + similarity.translation
    moved[:, :3, 3] = -np.einsum("nij,nj->ni", moved[:, :3, :3], centers)
    return moved


def _spread(poses: FloatArray) -> float:
    """RMS distance of the camera centres from their mean."""
    centers = camera_centers(poses)
    spread = _rms(np.linalg.norm(centers - centers.mean(axis=0), axis=-1))
    if spread <= 1e-12 * np.abs(centers).max():
        raise AlignmentError(
            "cannot align: all images that map and ground truth share are at one place"
        )
    return spread


def _rms(values: FloatArray) -> float:
    return float(np.sqrt(np.mean(np.square(values))))
