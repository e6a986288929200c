"""Whether aligned poses are right, asked of the matches, which alignment does not use.

Point maps can be aligned well with each other and still be wrong: errors that all point maps of a
network share, such as a field of view that it takes for common, do not contradict each other. The
network's matches are far more exact than its points. They have to lie near the epipolar lines that
the aligned poses draw.
"""

from collections.abc import Sequence
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
_VERIFICATION = VerificationOptions(max_error_px=2.0)  # in pixels that the network sees


@dataclass(frozen=True, kw_only=True)
class AlignmentCheck:
    """What the matches say about aligned poses.

    Attributes:
        errors: Per pair of photos with enough matches: the median distance of its matches from
            their epipolar lines, as a share of the photos' longer side.
    """

    errors: tuple[float, ...]

    @property
    def num_contradicted(self) -> int:
        """Pairs whose matches lie far from where the poses have them."""
        return sum(error > MAX_ERROR for error in self.errors)

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
            "side)"
        )


def pair_error(
    matches: Matches,
    cameras: tuple[pycolmap.Camera, pycolmap.Camera],
    cam1_from_cam0: pycolmap.Rigid3d,
    *,
    pixel_px: float = 1.0,
) -> float | None:
    """How far the right matches of two photos are from where a relative pose has them.

    Which matches are right is decided without the pose: those that agree on any epipolar geometry.

    Args:
        matches: Between the photos.
        cameras: Theirs.
        cam1_from_cam0: The pose to check.
        pixel_px: Size of the pixels that the matcher saw, in those of the photos.

    Returns:
        Median distance of the matches from their epipolar lines, over the longer side; None with
        too few matches that agree.
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
    length = float(np.linalg.norm(cam1_from_cam0.translation))
    rays = [np.asarray(c.cam_from_img(p[right])) for c, p in zip(cameras, points, strict=True)]
    usable = np.isfinite(rays[0]).all(1) & np.isfinite(rays[1]).all(1)
    if length == 0 or not usable.any():
        return None
    essential = pycolmap.essential_matrix_from_pose(cam1_from_cam0)
    squared = pycolmap.compute_squared_sampson_error(rays[0][usable], rays[1][usable], essential)
    focal = float(np.mean([camera.mean_focal_length() for camera in cameras]))
    longer = max(max(camera.width, camera.height) for camera in cameras)
    return float(np.median(np.sqrt(np.asarray(squared)))) * focal / longer


def evenly(pairs: Sequence[Pair], count: int) -> list[Pair]:
    """At most ``count`` of the pairs, spread over all of them."""
    step = max(1, -(-len(pairs) // count))
    return list(pairs[::step])
