"""Relative poses of image pairs: matches are written first, poses estimated and scored second."""

import json
import time
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import poselib
import pycolmap
from numpy.typing import NDArray

from benchmarks.datasets.pair_task import (
    MIN_MATCHES,
    ImagePair,
    PairSet,
    PairsOptions,
    prepare_photo,
)
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
_BATCH = 16  # pairs with the same first photo matched in one call
_NUM_CACHED_VIEWS = 64  # encoded photos kept: neighbouring pairs share photos


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
        folder: For the files, named by the numbers of the pairs.
        matcher: Matches.
        options: How photos are framed, and how many matches count.
        numbers: Only these pairs; None: all.
        progress: Wraps the loop over pairs.

    Raises:
        InputError: A photo cannot be read.
    """
    folder.mkdir(parents=True, exist_ok=True)
    photos = _Photos(pair_set, matcher, options)
    wanted = range(len(pair_set.pairs)) if numbers is None else numbers
    batch: list[int] = []

    def match_batch() -> None:
        pairs = [pair_set.pairs[number] for number in batch]
        view0, K0 = photos.framed(pairs[0], 0)
        framed = [photos.framed(pair, 1) for pair in pairs]
        start = time.perf_counter()
        found = matcher.match_many(view0, [view1 for view1, _ in framed])
        seconds = (time.perf_counter() - start) / len(batch)
        for number, matches, (_, K1) in zip(batch, found, framed, strict=True):
            best = matches.select(slice(options.max_matches))
            values = PairMatches(
                keypoints0=best.keypoints0,
                keypoints1=best.keypoints1,
                K0=K0,
                K1=K1,
                seconds=seconds,
            )
            with atomic_file(_file(folder, number)) as temporary, temporary.open("wb") as stream:
                np.savez(stream, **vars(values))
        batch.clear()

    for number in progress(wanted, "match", total=len(wanted)):
        if _file(folder, number).exists():
            continue
        if batch and (
            len(batch) == _BATCH
            or photos.key(pair_set.pairs[number], 0) != photos.key(pair_set.pairs[batch[0]], 0)
        ):
            match_batch()
        batch.append(number)
    if batch:
        match_batch()


def score_pairs(
    pair_set: PairSet, folder: Path, options: PairsOptions, *, progress: Progress = silent
) -> PairsReport:
    """Estimate the relative poses from written matches and score them.

    PoseLib's LO-RANSAC on the essential matrix, refined with a Cauchy loss.

    Raises:
        InputError: The matches of a pair are missing or damaged.
    """
    limits = (options.max_error_px, *options.sweep_px)
    scores: dict[float, list[PairScore]] = {limit: [] for limit in limits}
    seconds = []
    pairs = enumerate(progress(pair_set.pairs, "relative poses", total=len(pair_set.pairs)))
    for number, pair in pairs:
        matches = read_matches(folder, number)
        seconds.append(matches.seconds)
        for limit in scores:
            scores[limit].append(_score(pair, matches, limit, options.seed))
    counted = scores[options.max_error_px]
    known = [score for score in counted if score.rotation_error_deg is not None]
    errors = _larger_errors(known)
    precisions = [s.precision_2px for s in counted if s.precision_2px is not None]
    notes = list(pair_set.notes)
    if len(known) < len(counted):
        notes.append(f"{len(counted) - len(known)} pairs have no ground truth and are not scored")
    notes.append(f"protocol: {_protocol(pair_set, options)}")
    if options.sweep_px and known:
        notes.append(
            "AUC at 5/10/20 deg by RANSAC's threshold: "
            + ", ".join(
                f"{limit:g} px {'/'.join(f'{area:.3f}' for area in _auc(scores[limit]).values())}"
                for limit in sorted(scores)
            )
        )
    return PairsReport(
        num_pairs=len(counted),
        num_estimated=sum(s.success for s in counted),
        auc_deg=_auc(counted) if known else None,
        median_error_deg=float(np.median(errors)) if known else None,
        precision_2px=float(np.mean(precisions)) if precisions else None,
        median_matches=float(np.median([s.num_matches for s in counted])),
        median_inliers=float(np.median([s.num_inliers for s in counted])),
        seconds_per_pair=float(np.mean(seconds)),
        options={"pairs": options_as_dict(options)},
        per_pair=counted,
        notes=notes,
    )


def _larger_errors(scores: Sequence[PairScore]) -> FloatArray:
    """max(rotation, translation error) of the pairs with a truth, degrees."""
    return np.array(
        [
            max(s.rotation_error_deg, s.translation_error_deg or 0.0)
            for s in scores
            if s.rotation_error_deg is not None
        ]
    )


def _auc(scores: Sequence[PairScore]) -> dict[str, float]:
    areas = pose_auc(_larger_errors(scores), AUC_THRESHOLDS_DEG)
    return {str(t): area for t, area in zip(AUC_THRESHOLDS_DEG, areas, strict=True)}


def _protocol(pair_set: PairSet, options: PairsOptions) -> str:
    """How photos were framed and poses estimated, in one line."""
    frame = "as they are"
    if options.crop_size is not None:
        frame = "{}x{}, portrait ones turned".format(*options.crop_size)
    elif options.long_side_px is not None:
        frame = f"{options.long_side_px} px on the long side"
    if pair_set.stretched_to is not None:
        stretched = "stretched to {}x{}".format(*pair_set.stretched_to)
        frame = stretched if frame == "as they are" else f"{stretched}, then {frame}"
    most = "all" if options.max_matches is None else f"at most {options.max_matches}"
    return (
        f"photos undistorted, {frame}; {most} matches; PoseLib essential matrix at "
        f"{options.max_error_px:g} px, seed {options.seed}"
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
    except (ValueError, KeyError, OSError, EOFError, zipfile.BadZipFile, zlib.error) as error:
        raise InputError(f"'{file}' is damaged: delete it and match again") from error


class _Photos:
    """Encoded photos as the protocol frames them; the last ones stay in memory."""

    def __init__(self, pair_set: PairSet, matcher: Matcher, options: PairsOptions) -> None:
        self._pair_set = pair_set
        self._matcher = matcher
        self._options = options
        self._views: OrderedDict[str, tuple[View, FloatArray]] = OrderedDict()

    def key(self, pair: ImagePair, number: int) -> str:
        """What identifies a framed photo: a list may give one photo several calibrations."""
        name, camera = self._photo(pair, number)
        return json.dumps([name, None if camera is None else camera.params.tolist()])

    def framed(self, pair: ImagePair, number: int) -> tuple[View, FloatArray]:
        """View and calibration matrix of photo 0 or 1 of a pair."""
        key = self.key(pair, number)
        if key in self._views:
            self._views.move_to_end(key)
            return self._views[key]
        name, camera = self._photo(pair, number)
        image, K = prepare_photo(
            self._pair_set.images / name, camera, self._options, self._pair_set.stretched_to
        )
        self._views[key] = self._matcher.encode(image), K
        if len(self._views) > _NUM_CACHED_VIEWS:
            self._views.popitem(last=False)
        return self._views[key]

    def _photo(self, pair: ImagePair, number: int) -> tuple[str, pycolmap.Camera | None]:
        return (pair.image1, pair.camera1) if number else (pair.image0, pair.camera0)


def _score(pair: ImagePair, matches: PairMatches, max_error_px: float, seed: int) -> PairScore:
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
            ransac = {"max_epipolar_error": max_error_px, "seed": seed}
            _, info = poselib.estimate_fundamental(keypoints0, keypoints1, ransac, {})
            inliers = int(info["num_inliers"])
        reason = "no intrinsics: the inliers are those of a fundamental matrix"
        return PairScore(**values, num_inliers=inliers, success=False, reason=reason)
    if truth is not None:
        values["precision_2px"] = _precision(keypoints0, keypoints1, matches, truth)
    estimated, inliers = _estimate(keypoints0, keypoints1, matches, max_error_px, seed)
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
    keypoints0: FloatArray,
    keypoints1: FloatArray,
    matches: PairMatches,
    max_error_px: float,
    seed: int,
) -> tuple[FloatArray | None, int]:
    """``cam1_from_cam0`` (4, 4) or None, and the number of inliers."""
    if len(keypoints0) < MIN_MATCHES:
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
    ransac = {"max_epipolar_error": max_error_px, "seed": seed}
    pose, info = poselib.estimate_relative_pose(
        keypoints0, keypoints1, *cameras, ransac, {"loss_type": "CAUCHY"}
    )
    inliers = int(info["num_inliers"])
    if inliers < MIN_MATCHES:
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
