"""Relative poses of image pairs: matches are written first, poses estimated and scored second."""

import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import poselib
from numpy.typing import NDArray

from benchmarks.datasets.pairs import ImagePair, PairSet, prepare_photo
from benchmarks.metrics import epipolar_distances_px, pose_auc, relative_pose_errors_deg
from benchmarks.report import PairScore, PairsReport
from matching.errors import InputError
from matching.files import atomic_file
from matching.matcher import Matcher
from matching.options import options_as_dict
from matching.progress import Progress, silent
from matching.types import View

FloatArray = NDArray[np.float64]

AUC_THRESHOLDS_DEG = (5, 10, 20)
_MIN_MATCHES = 6  # five define an essential matrix, the sixth can contradict it
_NUM_CACHED_VIEWS = 64  # encoded photos kept: neighbouring pairs share photos


@dataclass(frozen=True, kw_only=True)
class PairsOptions:
    """Protocol of `benchmark pairs`. Scores move by points with it: reports state it."""

    SCORING: ClassVar[tuple[str, ...]] = ("max_error_px", "seed")  # matches serve any of them

    gaps: tuple[int, int] = (1, 3)  # places apart in the sorted photos; not used by pairs.json
    ground_truth: str | None = None  # a COLMAP model in place of sparse_gt or pairs.json
    # (width, height) pixels that every photo is scaled to cover and cropped to; None: as it is
    crop_size: tuple[int, int] | None = None
    max_matches: int | None = 3000  # best matches used of a pair; None: all
    max_error_px: float = 1.5  # largest epipolar error of an inlier, in the photos as matched
    seed: int = 0  # of RANSAC

    def __post_init__(self) -> None:
        if not 1 <= self.gaps[0] <= self.gaps[1]:
            raise ValueError(f"gaps must be (smallest, largest) from 1 on, got {self.gaps}")
        if self.crop_size is not None and min(self.crop_size) < 16:
            raise ValueError(f"crop_size must be at least 16x16, got {self.crop_size}")
        if self.max_matches is not None and self.max_matches < _MIN_MATCHES:
            raise ValueError(f"max_matches must be at least {_MIN_MATCHES}, got {self.max_matches}")
        if not self.max_error_px > 0:
            raise ValueError(f"max_error_px must be > 0, got {self.max_error_px}")


@dataclass(frozen=True, kw_only=True)
class PairMatches:
    """Matches of one pair in the photos as the protocol framed them.

    Attributes:
        keypoints0: Pixels, (M, 2) float32, best first.
        keypoints1: The same in photo 1.
        K0: Calibration matrix of the framed photo 0, (3, 3).
        K1: The same of photo 1.
        seconds: Matching took so long, the photos being encoded.
    """

    keypoints0: NDArray[np.float32]
    keypoints1: NDArray[np.float32]
    K0: FloatArray
    K1: FloatArray
    seconds: float


def match_pairs(
    pair_set: PairSet,
    folder: Path,
    matcher: Matcher,
    options: PairsOptions,
    *,
    numbers: Sequence[int] | None = None,
    progress: Progress = silent,
) -> None:
    """Write the matches of every pair to ``folder``, one file each; those there are kept.

    Args:
        pair_set: The pairs.
        folder: Of the files, which are named by the number of their pair.
        matcher: Any.
        options: The protocol.
        numbers: Only these pairs; None for all.
        progress: Wraps the loop.

    Raises:
        InputError: A photo cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photos = _Photos(pair_set, matcher, options)
    wanted = range(len(pair_set.pairs)) if numbers is None else numbers
    for number in progress(wanted, "match", total=len(wanted)):
        pair, file = pair_set.pairs[number], _file(folder, number)
        if file.exists():
            continue
        view0, K0 = photos.framed(pair, 0)
        view1, K1 = photos.framed(pair, 1)
        start = time.perf_counter()
        matches = matcher.match_views(view0, view1)
        seconds = time.perf_counter() - start
        if options.max_matches is not None:
            matches = matches.select(slice(options.max_matches))
        with atomic_file(file) as temporary, temporary.open("wb") as stream:
            np.savez(
                stream,
                keypoints0=matches.keypoints0,
                keypoints1=matches.keypoints1,
                K0=K0,
                K1=K1,
                seconds=seconds,
            )


def score_pairs(
    pair_set: PairSet, folder: Path, options: PairsOptions, *, progress: Progress = silent
) -> PairsReport:
    """Estimate the relative poses from written matches and score them.

    PoseLib's LO-RANSAC on the essential matrix, refined with a Cauchy loss.

    Raises:
        InputError: The matches of a pair are missing or damaged.
    """
    found = [read_matches(folder, number) for number in range(len(pair_set.pairs))]
    scores = [
        _score(pair, matches, options)
        for pair, matches in progress(
            zip(pair_set.pairs, found, strict=True), "relative poses", total=len(found)
        )
    ]
    known = [score for score in scores if score.rotation_error_deg is not None]
    errors = np.array([max(s.rotation_error_deg, s.translation_error_deg) for s in known])  # type: ignore[type-var]
    precisions = [s.precision_2px for s in scores if s.precision_2px is not None]
    notes = []
    if len(known) < len(scores):
        notes.append(f"{len(scores) - len(known)} pairs have no ground truth and are not scored")
    areas = pose_auc(errors, AUC_THRESHOLDS_DEG)
    auc_deg = {str(t): a for t, a in zip(AUC_THRESHOLDS_DEG, areas, strict=True)}
    frame = "as they are" if options.crop_size is None else "{}x{}".format(*options.crop_size)
    notes.append(
        f"protocol: photos undistorted, {frame}; "
        f"{'all' if options.max_matches is None else f'at most {options.max_matches}'} matches; "
        f"PoseLib essential matrix at {options.max_error_px:g} px, seed {options.seed}"
    )
    return PairsReport(
        num_pairs=len(scores),
        num_estimated=sum(s.success for s in scores),
        auc_deg=auc_deg if known else None,
        median_error_deg=float(np.median(errors)) if known else None,
        precision_2px=float(np.mean(precisions)) if precisions else None,
        median_matches=float(np.median([s.num_matches for s in scores])),
        median_inliers=float(np.median([s.num_inliers for s in scores])),
        seconds_per_pair=float(np.mean([m.seconds for m in found])),
        options={"pairs": options_as_dict(options)},
        per_pair=scores,
        notes=notes,
    )


def read_matches(folder: Path, number: int) -> PairMatches:
    """Read the matches of one pair.

    Raises:
        InputError: The file is missing or damaged.
    """
    file = _file(folder, number)
    try:
        with np.load(file, allow_pickle=False) as arrays:
            return PairMatches(
                keypoints0=arrays["keypoints0"],
                keypoints1=arrays["keypoints1"],
                K0=arrays["K0"],
                K1=arrays["K1"],
                seconds=float(arrays["seconds"]),
            )
    except FileNotFoundError as error:
        raise InputError(f"no matches '{file}': match the pairs first") from error
    except (ValueError, KeyError, OSError, EOFError) as error:
        raise InputError(f"'{file}' is damaged: delete it and match again") from error


class _Photos:
    """Encoded photos as the protocol frames them; the last ones stay in memory."""

    def __init__(self, pair_set: PairSet, matcher: Matcher, options: PairsOptions) -> None:
        self._images = pair_set.images
        self._matcher = matcher
        self._size = options.crop_size
        self._views: OrderedDict[str, tuple[View, FloatArray]] = OrderedDict()

    def framed(self, pair: ImagePair, number: int) -> tuple[View, FloatArray]:
        """View and calibration matrix of photo 0 or 1 of a pair."""
        name = pair.image1 if number else pair.image0
        camera = pair.camera1 if number else pair.camera0
        # A list may give one photo several calibrations.
        key = json.dumps([name, None if camera is None else camera.params.tolist()])
        if key in self._views:
            self._views.move_to_end(key)
            return self._views[key]
        image, K = prepare_photo(self._images / name, camera, self._size)
        self._views[key] = self._matcher.encode(image), K
        if len(self._views) > _NUM_CACHED_VIEWS:
            self._views.popitem(last=False)
        return self._views[key]


def _score(pair: ImagePair, matches: PairMatches, options: PairsOptions) -> PairScore:
    keypoints0 = matches.keypoints0.astype(np.float64)
    keypoints1 = matches.keypoints1.astype(np.float64)
    count = len(keypoints0)
    values: dict[str, Any] = {
        "image0": pair.image0,
        "image1": pair.image1,
        "num_matches": count,
    }
    truth = pair.cam1_from_cam0
    if pair.camera0 is None or pair.camera1 is None:
        inliers = 0
        if count >= 8:
            ransac = {"max_epipolar_error": options.max_error_px, "seed": options.seed}
            _, info = poselib.estimate_fundamental(keypoints0, keypoints1, ransac, {})
            inliers = int(info["num_inliers"])
        reason = "no intrinsics: the inliers are those of a fundamental matrix"
        return PairScore(**values, num_inliers=inliers, success=False, reason=reason)
    if truth is not None:
        values["precision_2px"] = _precision(keypoints0, keypoints1, matches, truth)
    estimated, inliers = _estimate(keypoints0, keypoints1, matches, options)
    if estimated is None:
        failed = None if truth is None else np.inf
        return PairScore(
            **values,
            num_inliers=inliers,
            success=False,
            reason=f"no pose from {count} matches",
            rotation_error_deg=failed,
            translation_error_deg=failed,
        )
    if truth is not None:
        rotation, translation = relative_pose_errors_deg(estimated[None], truth[None])
        values["rotation_error_deg"] = float(rotation[0])
        values["translation_error_deg"] = float(translation[0])
    return PairScore(**values, num_inliers=inliers, success=True)


def _estimate(
    keypoints0: FloatArray, keypoints1: FloatArray, matches: PairMatches, options: PairsOptions
) -> tuple[FloatArray | None, int]:
    """``cam1_from_cam0`` (4, 4) or None, and the number of inliers."""
    if len(keypoints0) < _MIN_MATCHES:
        return None, 0
    cameras = [
        # The size plays no part in PoseLib's pinhole camera.
        {
            "model": "PINHOLE",
            "width": 0,
            "height": 0,
            "params": [K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
        }
        for K in (matches.K0, matches.K1)
    ]
    ransac = {"max_epipolar_error": options.max_error_px, "seed": options.seed}
    pose, info = poselib.estimate_relative_pose(
        keypoints0, keypoints1, *cameras, ransac, {"loss_type": "CAUCHY"}
    )
    inliers = int(info["num_inliers"])
    if inliers < _MIN_MATCHES:
        return None, inliers
    cam1_from_cam0 = np.eye(4)
    cam1_from_cam0[:3, :3], cam1_from_cam0[:3, 3] = pose.R, pose.t
    return cam1_from_cam0, inliers


def _precision(
    keypoints0: FloatArray, keypoints1: FloatArray, matches: PairMatches, truth: FloatArray
) -> float | None:
    """Share of the matches within 2 px of the true epipolar lines; None without a baseline."""
    translation = truth[:3, 3]
    if np.linalg.norm(translation) < 1e-12:
        return None
    x, y, z = translation / np.linalg.norm(translation)
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ truth[:3, :3]
    fundamental = np.linalg.inv(matches.K1).T @ essential @ np.linalg.inv(matches.K0)
    distances = epipolar_distances_px(keypoints0, keypoints1, fundamental)
    return float((distances < 2).mean()) if len(distances) else 0.0


def _file(folder: Path, number: int) -> Path:
    return folder / f"{number:06d}.npz"
