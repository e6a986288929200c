"""From 2D-3D matches to a judged result."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from localize.confidence import pose_confidence
from localize.groups import Candidate, best_candidate
from localize.intrinsics import QueryCamera
from localize.lift import Correspondences
from localize.options import LocalizerOptions
from localize.pnp import MIN_MATCHES, pose_covariance
from localize.results import Localization
from mapping.map import Map

# The camera of the map photos is preferred to one fitted to the photo alone where it explains
# nearly as many matches nearly as exactly: with another lens errors grow before inliers are lost.
_AS_MANY, _AS_EXACT = 0.95, 1.1


@dataclass(frozen=True, kw_only=True)
class Solved:
    """A result and the pose behind it.

    Attributes:
        result: What the caller gets.
        best: The best supported pose, also where it is too weak for a success.
    """

    result: Localization
    best: Candidate | None = None

    @property
    def rank(self) -> tuple[bool, float]:
        """The better supported one of two is the larger."""
        return self.result.success, 0.0 if self.best is None else self.best.support


def solve(
    scene: Map,
    matches: Correspondences,
    camera: QueryCamera,
    name: str,
    retrieved: tuple[str, ...],
    options: LocalizerOptions,
    timings: Mapping[str, float],
) -> Solved:
    """Best pose over the groups of compared photos, refined, judged.

    Args:
        scene: The map.
        matches: 2D-3D matches, best first.
        camera: The query's camera.
        name: The query's name.
        retrieved: Photos that were compared; ``matches.images`` are its rows.
        options: Settings.
        timings: Put into the result, which is not copied.
    """
    pnp = options.pnp

    def failure(reason: str, tried: Correspondences, best: Candidate | None = None) -> Solved:
        result = failed(name, reason, camera, timings, retrieved, tried, best)
        return Solved(result=result, best=best)

    if len(matches) < max(pnp.min_inliers, MIN_MATCHES):
        return failure(
            f"too few matches with map points: {len(matches)} < {pnp.min_inliers}", matches
        )
    best, rivals = best_candidate(
        scene, matches, retrieved, camera, pnp, min_shared_points=options.min_shared_points
    )
    if best is None:
        return failure(f"no pose fits the {len(matches)} matches", matches)
    num_inliers = best.pose.num_inliers
    chance = best.chance(pnp)
    needed = max(pnp.min_inliers, chance + 1)
    if best.num_explained < needed:
        reason = f"too few inliers: {best.num_explained} of {len(best.matches)} < {needed}"
        return failure(reason, best.matches, best)
    covariance = pose_covariance(
        best.pose,
        best.matches.points2D,
        best.points3D,
        pnp,
        refine_intrinsics=not camera.fixed,
    )
    if covariance is None:
        reason = f"the {num_inliers} inliers do not determine the pose"
        return failure(reason, best.matches, best)
    confidence = pose_confidence(
        num_inliers=best.num_explained,
        support=best.support,
        chance=chance,
        num_outliers=len(best.matches) - num_inliers,
        rival_support=max((r.support for r in rivals), default=0.0),
        relative_std=best.relative_std(covariance),
    )
    if confidence < options.min_confidence:
        reason = (
            f"hardly better than chance: confidence {confidence:.3f} < "
            f"{options.min_confidence:g} with {num_inliers} of {len(best.matches)} inliers"
        )
        return failure(reason, best.matches, best)
    result = Localization(
        name=name,
        success=True,
        cam_from_world=best.pose.cam_from_world,
        camera=best.pose.camera,
        camera_source=camera.source,
        num_inliers=num_inliers,
        num_matches=len(best.matches),
        confidence=confidence,
        covariance=covariance,
        retrieved=retrieved,
        points2D=best.matches.points2D,
        points3D_ids=best.matches.points3D_ids,
        inlier_mask=best.pose.inlier_mask,
        scores=best.matches.scores,
        timings_s=timings,
    )
    return Solved(result=result, best=best)


def most_exact(tried: Sequence[Solved]) -> Solved:
    """The solution whose inliers are the nearest, of those that found a pose, if any."""
    found = [s for s in tried if s.best is not None and s.result.success]
    return min(found or tried, key=lambda s: np.inf if s.best is None else s.best.median_error_px)


def simpler(free: Solved, shared: Solved) -> Solved:
    """The pose with the map's own camera where it explains nearly as much as one of its own.

    Args:
        free: With intrinsics that were refined with the pose.
        shared: With the camera of the map photos.
    """
    if shared.best is None or not shared.result.success:
        return free
    if free.best is None:
        return shared
    as_many = shared.best.support >= _AS_MANY * free.best.support
    as_exact = shared.best.median_error_px <= _AS_EXACT * free.best.median_error_px
    return shared if as_many and as_exact else free


def failed(
    name: str,
    reason: str,
    camera: QueryCamera | None,
    timings: Mapping[str, float],
    retrieved: tuple[str, ...] = (),
    matches: Correspondences | None = None,
    best: Candidate | None = None,
) -> Localization:
    """A result without a pose.

    Args:
        name: The query's name.
        reason: Why.
        camera: Its camera, if that is known.
        timings: Put into the result, which is not copied.
        retrieved: Photos that were compared.
        matches: 2D-3D matches that were tried.
        best: Their best pose, if any.
    """
    matches = matches or Correspondences.concatenate([])
    mask = np.zeros(len(matches), np.bool_) if best is None else best.pose.inlier_mask
    return Localization(
        name=name,
        success=False,
        reason=reason,
        camera=None if camera is None else camera.camera,
        camera_source="estimated" if camera is None else camera.source,
        num_inliers=int(mask.sum()),
        num_matches=len(matches),
        retrieved=retrieved,
        points2D=matches.points2D,
        points3D_ids=matches.points3D_ids,
        inlier_mask=mask,
        scores=matches.scores,
        timings_s=timings,
    )
