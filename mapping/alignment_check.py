"""Whether aligned poses are right, asked of the matches, which alignment does not use.

Point maps can be aligned well with each other and still be wrong: errors that all point maps of a
network share, such as a field of view that it takes for common, do not contradict each other. The
network's matches are far more exact than its points. They have to lie near the epipolar lines that
the aligned poses draw. That alone does not do: a turned camera and a moved one see much the same,
so that poses with baselines of nothing may leave the matches near their lines. So where another
pose explains the matches far better, the aligned one has to be near that.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.colmap import two_view_options
from mapping.options import VerificationOptions
from mapping.pairs import Pair
from matching.types import Matches

FloatArray = NDArray[np.float64]

_TIMES_CHANCE = 3  # RANSAC finds more than the share that a band around random lines covers
# of the longer side, 5 pixels of a network's 512. It has to be strict, for a translation and a
# focal length hide much of a wrong rotation: poses whose relative rotations were off by 11 to 44
# degrees left 1.7 % in the median, those of point maps with 10 % of noise 0.2 %
MAX_ERROR = 0.01
# of the aligned pose to the one that the matches ask for. Of the bundled model on a facade it was
# 28 to 131 degrees, where the lines were off by 0.3 to 1.7 % (the other poses' by 0.04 %) and the
# baselines were 5 to 28 times too short; noise of 10 % and focal lengths that are 40 % off leave 9
MAX_TURN_DEG = 20.0
_CLEARLY_BETTER = 3.0  # how much nearer to the matches another pose's lines have to be
# between the rays of a match: where photos are nearer to each other, the direction of translation
# says little. Of poses that were off by 1 degree and 2 % of the depth it was off by more than
# `MAX_TURN_DEG` in 18 of 24 pairs with 1.7 degrees, in none with 4.6; of that facade they have 5
_MIN_PARALLAX_DEG = 3.0
_VERIFICATION = VerificationOptions(max_error_px=2.0)  # in pixels that the network sees


@dataclass(frozen=True, kw_only=True)
class PairCheck:
    """What the matches of a pair of photos say about their aligned pose.

    Attributes:
        error: Median distance of the matches from their epipolar lines, as a share of the photos'
            longer side.
        turn_deg: The angle to the pose that the matches ask for, the larger one of that between the
            rotations and, unless the photos are too near to each other to tell, that between the
            directions of translation; 0 where no other pose explains them clearly better.
    """

    error: float
    turn_deg: float


@dataclass(frozen=True, kw_only=True)
class AlignmentCheck:
    """What the matches say about aligned poses.

    Attributes:
        errors: `PairCheck.error` of each pair of photos with enough matches.
        turns_deg: `PairCheck.turn_deg` of the same.
    """

    errors: tuple[float, ...]
    turns_deg: tuple[float, ...]

    @staticmethod
    def of(pairs: Iterable[PairCheck | None]) -> "AlignmentCheck":
        """Over all pairs that could be checked."""
        checked = [pair for pair in pairs if pair is not None]
        return AlignmentCheck(
            errors=tuple(pair.error for pair in checked),
            turns_deg=tuple(pair.turn_deg for pair in checked),
        )

    @property
    def num_contradicted(self) -> int:
        """Pairs whose matches lie far from where the poses have them, or ask for other poses."""
        pairs = zip(self.errors, self.turns_deg, strict=True)
        return sum(error > MAX_ERROR or turn > MAX_TURN_DEG for error, turn in pairs)

    @property
    def median_error(self) -> float | None:
        """Over the pairs; None if no pair could be checked."""
        return float(np.median(self.errors)) if self.errors else None

    def summary(self) -> str:
        """One line for people."""
        if self.median_error is None:
            return "no pair has enough matches to check the poses with"
        return (
            f"the matches of {self.num_contradicted} of {len(self.errors)} pairs contradict the "
            f"poses (median distance from epipolar lines {self.median_error:.1%} of the longer "
            f"side, median angle to better poses {np.median(self.turns_deg):.0f} deg)"
        )


def check_pair(
    matches: Matches,
    cameras: tuple[pycolmap.Camera, pycolmap.Camera],
    cam1_from_cam0: pycolmap.Rigid3d,
    *,
    pixel_px: float = 1.0,
) -> PairCheck | None:
    """How far the right matches of two photos are from where a relative pose has them.

    Which matches are right is decided without the pose: those that agree on any epipolar geometry.

    Args:
        matches: Between the photos.
        cameras: Theirs.
        cam1_from_cam0: The pose to check.
        pixel_px: Size of the pixels that the matcher saw, in those of the photos.

    Returns:
        None with too few matches that agree.
    """
    if len(matches) < _VERIFICATION.min_inliers:
        return None
    points = [m.astype(np.float64) for m in (matches.keypoints0, matches.keypoints1)]
    options = two_view_options(_VERIFICATION)
    options.ransac.max_error *= pixel_px
    rows = np.repeat(np.arange(len(matches), dtype=np.uint32)[:, None], 2, axis=1)
    # focal lengths are as doubtful as the poses: any fundamental matrix will do
    unsure = []
    for camera in cameras:
        copy = pycolmap.Camera(camera.todict())
        copy.has_prior_focal_length = False
        unsure.append(copy)
    geometry = pycolmap.estimate_two_view_geometry(
        unsure[0], points[0], unsure[1], points[1], rows, options
    )
    right = np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2)[:, 0]
    shorter = min(min(camera.width, camera.height) for camera in cameras)
    by_chance = 2 * options.ransac.max_error / shorter * len(matches)
    if len(right) < max(_VERIFICATION.min_inliers, _TIMES_CHANCE * by_chance):
        return None
    rays = [np.asarray(c.cam_from_img(p[right])) for c, p in zip(cameras, points, strict=True)]
    usable = np.isfinite(rays[0]).all(1) & np.isfinite(rays[1]).all(1)
    if np.linalg.norm(cam1_from_cam0.translation) == 0 or not usable.any():
        return None
    right, rays = right[usable], [r[usable] for r in rays]
    focal = float(np.mean([camera.mean_focal_length() for camera in cameras]))
    longer = max(max(camera.width, camera.height) for camera in cameras)

    def error_of(pose: pycolmap.Rigid3d) -> float:
        essential = pycolmap.essential_matrix_from_pose(pose)
        squared = pycolmap.compute_squared_sampson_error(rays[0], rays[1], essential)
        return float(np.median(np.sqrt(np.asarray(squared)))) * focal / longer

    error = error_of(cam1_from_cam0)
    other = pycolmap.estimate_essential_matrix(
        *(points[0][right], points[1][right]), *cameras, options.ransac
    )
    if other is None or _CLEARLY_BETTER * error_of(other["cam2_from_cam1"]) > error:
        return PairCheck(error=error, turn_deg=0.0)
    best = other["cam2_from_cam1"]
    turn = np.degrees((cam1_from_cam0.rotation.inverse() * best.rotation).angle())
    ahead = [np.column_stack((r, np.ones(len(r)))) for r in rays]
    parallax = _angles_deg(ahead[0] @ best.rotation.matrix().T, ahead[1])
    if np.median(parallax) >= _MIN_PARALLAX_DEG:
        turn = max(turn, *_angles_deg(cam1_from_cam0.translation[None], best.translation[None]))
    return PairCheck(error=error, turn_deg=float(turn))


def _angles_deg(first: FloatArray, second: FloatArray) -> FloatArray:
    """Between vectors (N, 3)."""
    units = [v / np.linalg.norm(v, axis=1, keepdims=True) for v in (first, second)]
    angles: FloatArray = np.degrees(np.arccos(np.clip((units[0] * units[1]).sum(1), -1, 1)))
    return angles


def evenly(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most ``count`` of the pairs, spread over all of them."""
    step = max(1, -(-len(pairs) // count))
    return list(pairs[::step])
