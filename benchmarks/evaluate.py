"""`evaluate`: poses against the truth. Works on files alone, so metrics rerun without a map."""

import copy
import logging
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.align import Alignment, AlignmentError, align_poses, pose_matrices
from benchmarks.datasets.image_lists import read_photo_list
from benchmarks.metrics import rotation_errors_deg, translation_errors, vcre_px
from benchmarks.report import QueryScore, Report
from benchmarks.summary import Limits, ScoreTable, bootstrap, concatenate, flat, summarize
from localize.results import Localization, read_poses, read_results
from mapping.cameras import is_model, read_camera_list, read_model
from mapping.map import Map
from matching.errors import InputError
from matching.files import PathLike, existing_file
from matching.options import options_as_dict

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]
Poses = Mapping[str, pycolmap.Rigid3d]
Results = Mapping[str, Localization] | Poses | PathLike
GroundTruth = pycolmap.Reconstruction | Poses | PathLike

_MODEL_FILES = {f"{part}.{suffix}" for part in ("cameras", "images") for suffix in ("txt", "bin")}
_MIN_POSES_TO_FIT = 4  # a similarity fits fewer too well to tell anything
_OTHER_FRAME = 10.0  # times smaller errors after a similarity: another frame, not bad poses


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """What is counted as right."""

    # (metres, degrees) of the recalls; both must hold
    thresholds: tuple[tuple[float, float], ...] = (
        (0.05, 0.5),
        (0.25, 2.0),
        (0.5, 5.0),
        (5.0, 10.0),
    )
    # of VCRE precision and AUC; None: a tenth of each photo's diagonal, 90 px at 540 x 720
    max_vcre_px: float | None = None
    max_translation_m: float = 0.25  # of pose precision and AUC, with the next
    max_rotation_deg: float = 5.0
    # False: the truth is known up to scale only, so that distances, recall and VCRE mean nothing
    metric_truth: bool = True
    num_bootstrap: int = 0  # resamplings of the queries for 95 % intervals; 0: none

    def __post_init__(self) -> None:
        if self.num_bootstrap < 0:
            raise ValueError(f"num_bootstrap must be >= 0, got {self.num_bootstrap}")
        if not all(m > 0 and deg > 0 for m, deg in self.thresholds):
            raise ValueError(f"thresholds must be pairs of positive numbers, got {self.thresholds}")
        for name in ("max_vcre_px", "max_translation_m", "max_rotation_deg"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"{name} must be > 0, got {value}")

    @property
    def limits(self) -> Limits:
        """What `benchmarks.summary` needs of them."""
        return Limits(
            thresholds=self.thresholds,
            max_translation_m=self.max_translation_m,
            max_rotation_deg=self.max_rotation_deg,
            metric_truth=self.metric_truth,
        )


def evaluate(
    results: Results,
    ground_truth: GroundTruth,
    *,
    queries: Sequence[str] | PathLike | None = None,
    cameras: Mapping[str, pycolmap.Camera] | PathLike | None = None,
    align_map: Map | GroundTruth | None = None,
    options: EvaluationOptions | None = None,
) -> Report:
    """Score poses against the truth. A query without a pose counts as an infinite error.

    Args:
        results: What `Localizer.localize_all` returned, ``cam_from_world`` by name, or a file:
            ``results.jsonl``, or ``poses.txt`` (a ``results.jsonl`` beside it that holds the same
            poses adds confidences, cameras and failures).
        ground_truth: A COLMAP model (its folder or loaded) or a poses file or dict. A model also
            gives the intrinsics that VCRE needs.
        queries: Names (or a list file) of all queries, those without a pose among them. By
            default the names in the results; for poses alone, which do not tell of failures, all
            names of the truth.
        cameras: Intrinsics of the queries for VCRE, by name or as a list file, if the truth has
            none; else the results' own cameras are taken.
        align_map: Only if given, a similarity from the map's frame to the truth's is fitted to the
            map's own images (never to the queries) and applied first: for maps without metric
            scale. The map, or its poses in any form that the truth may have.
        options: Thresholds.

    Raises:
        AlignmentError: The map cannot be aligned.
        InputError: A file is missing or wrong, or results and truth have no name in common.
    """
    options = options or EvaluationOptions()
    truth, truth_cameras = _read_truth(ground_truth)
    found, ignored = _read_results(results)
    asked, notes = _asked_names(found, truth, queries)
    names = [name for name in asked if name in truth]
    notes = [*ignored, *notes]
    alignment = None
    if align_map is not None:
        alignment = align_poses(_map_poses(align_map), truth)
    cameras = read_camera_list(cameras) if isinstance(cameras, str | os.PathLike) else cameras
    cameras = {
        **{n: r.camera for n, r in found.items() if r.camera is not None},
        **truth_cameras,
        **(cameras or {}),
    }
    errors = _errors(names, found, truth, cameras, alignment)
    if not options.metric_truth:
        spread = _spread(truth)
        notes.append(
            "the ground truth has no metric scale: translation errors are in its own units (its "
            f"cameras spread {spread:.4g} units, RMS, around their centre); recall and VCRE, which "
            "need metres, are left out"
        )
    if alignment is not None:
        notes.append(
            f"aligned to the truth by a similarity fitted to {alignment.num_used} of "
            f"{alignment.num_images} common map images"
        )
        if doubt := alignment.doubt():
            logger.warning(doubt)
            notes.append(doubt)
    elif hint := _frame_hint(found, truth, errors):
        logger.warning(hint)
        notes.append(hint)
    scores = [_query_score(found.get(n), n, errors, i, options) for i, n in enumerate(names)]
    table = ScoreTable.of(scores)
    return Report(
        num_queries=len(names),
        num_localized=sum(score.success for score in scores),
        unscored={
            name: name in found and found[name].cam_from_world is not None
            for name in asked
            if name not in truth
        },
        seconds_per_query=mean_seconds(scores),
        alignment=None if alignment is None else alignment.to_dict(),
        intervals=intervals([table], options),
        options={"evaluation": options_as_dict(options)},
        per_query=scores,
        notes=notes,
        **summarize(table, options.limits),
    )


def intervals(
    tables: Sequence[ScoreTable], options: EvaluationOptions
) -> dict[str, tuple[float, float]]:
    """Bootstrap intervals of all values, queries resampled within each scene; none if not asked."""
    return bootstrap(
        tables,
        lambda resampled: flat(summarize(concatenate(resampled), options.limits)),
        options.num_bootstrap,
    )


def report_without_truth(results: Mapping[str, Localization]) -> Report:
    """A report of what localization said, for queries whose poses nobody knows."""
    scores = [
        QueryScore(
            name=name,
            success=result.success,
            reason=result.reason,
            confidence=result.confidence,
            num_inliers=result.num_inliers,
            num_matches=result.num_matches,
            seconds=_seconds(result),
        )
        for name, result in results.items()
    ]
    return Report(
        num_queries=len(scores),
        num_localized=sum(score.success for score in scores),
        seconds_per_query=mean_seconds(scores),
        per_query=scores,
        notes=["no ground truth: nothing here says whether a pose is right"],
    )


@dataclass(frozen=True, kw_only=True)
class _Found:
    """A pose and what is known about it; plain poses know nothing more."""

    cam_from_world: pycolmap.Rigid3d | None
    camera: pycolmap.Camera | None = None
    result: Localization | None = None


@dataclass(frozen=True, kw_only=True)
class _Errors:
    """Errors per query, (N,), infinite without a pose; the diagonal is NaN without intrinsics."""

    translation: FloatArray
    rotation_deg: FloatArray
    vcre: FloatArray
    diagonal_px: FloatArray


def _frame_hint(found: Mapping[str, _Found], truth: Poses, errors: _Errors) -> str:
    """What to do if the results are right in a frame of their own; empty if they are not.

    Only a hint: a similarity fitted to the queries themselves never enters a score.
    """
    poses = {n: f.cam_from_world for n, f in found.items() if f.cam_from_world is not None}
    known = np.isfinite(errors.translation)
    if not known.any():
        return ""
    median = float(np.median(errors.translation[known]))
    # a single camera is not apart from any other, so that it tells nothing
    if known.sum() < _MIN_POSES_TO_FIT and median > _spread(truth) > 0:
        return (
            f"the poses are off by {median:.3g} (median), more than the cameras of the truth are "
            "apart: if their map has a frame or scale of its own, align it by its own photos "
            "(--align-map MAP)"
        )
    try:
        fit = align_poses(poses, truth)
    except AlignmentError:
        return ""
    if fit.doubt() or median < _OTHER_FRAME * max(fit.rms_translation_m, 0.01 * fit.spread_m):
        return ""
    return (
        f"the poses are off by {median:.3g} (median), but a similarity would bring them to within "
        f"{fit.rms_translation_m:.3g} of the truth: their map has another frame or scale; align it "
        "by its own photos (--align-map MAP)"
    )


def _read_truth(
    ground_truth: GroundTruth, what: str = "ground truth (model or poses file)"
) -> tuple[Poses, Mapping[str, pycolmap.Camera]]:
    if isinstance(ground_truth, str | os.PathLike):
        path = Path(ground_truth)
        if path.is_file() and path.name in _MODEL_FILES:
            raise InputError(f"'{path}' is a part of a COLMAP model: give its folder")
        if path.is_file() and path.suffix == ".jsonl":
            raise InputError(f"'{path}' holds results where the {what} is expected")
        if not path.is_dir():
            return read_poses(existing_file(path, what)), {}
        if not is_model(path) and (path / "poses.txt").is_file():
            raise InputError(f"'{path}' is no COLMAP model; did you mean '{path / 'poses.txt'}'?")
        ground_truth = read_model(path)
    if not isinstance(ground_truth, pycolmap.Reconstruction):
        return ground_truth, {}
    images = [image for image in ground_truth.images.values() if image.has_pose]
    # Copies, because the cameras die with the reconstruction.
    cameras = {i.camera_id: copy.copy(i.camera) for i in images}
    return (
        {image.name: image.cam_from_world() for image in images},
        {image.name: cameras[image.camera_id] for image in images},
    )


def true_poses(ground_truth: GroundTruth) -> Poses:
    """``cam_from_world`` by name, of any form of ground truth.

    Raises:
        InputError: A file is missing or wrong.
    """
    return _read_truth(ground_truth)[0]


def _map_poses(align_map: Map | GroundTruth) -> Poses:
    if isinstance(align_map, Map):
        return _read_truth(align_map.reconstruction)[0]
    if isinstance(align_map, str | os.PathLike) and (Path(align_map) / "map.json").is_file():
        return _read_truth(Map.open(align_map).reconstruction)[0]
    return _read_truth(align_map, "map or COLMAP model to align by")[0]


def _read_results(results: Results) -> tuple[dict[str, _Found], list[str]]:
    """What was found for each name, and notes on what was ignored."""
    notes: list[str] = []
    if isinstance(results, str | os.PathLike):
        file = _results_file(Path(results))
        if file.suffix == ".jsonl":
            results = read_results(file)
        else:
            poses = read_poses(file)
            details, notes = _read_details(file.with_name("results.jsonl"), poses)
            results = details or poses
    found = {
        name: _Found(cam_from_world=r.cam_from_world, camera=r.camera, result=r)
        if isinstance(r, Localization)
        else _Found(cam_from_world=r)
        for name, r in results.items()
    }
    return found, notes


def _results_file(path: Path) -> Path:
    """The file of results or poses; what to give instead where it is something else."""
    if is_model(path) or (path.is_file() and path.name in _MODEL_FILES):
        raise InputError(
            f"'{path}' is a COLMAP model where the results or poses file is expected: the poses "
            "come first, then the ground truth"
        )
    if (path / "poses.txt").is_file():
        raise InputError(
            f"'{path}' is a folder where the results or poses file is expected; did you mean "
            f"'{path / 'poses.txt'}'? (the folder of a benchmark's run: --protocol NAME)"
        )
    return existing_file(path, "results or poses file")


def _read_details(beside: Path, poses: Poses) -> tuple[dict[str, Localization], list[str]]:
    """The results beside a poses file if they are of the same run; else none, and a note."""
    if not beside.is_file():
        return {}, []
    try:
        details = read_results(beside)
    except InputError as error:
        return {}, [f"the results.jsonl beside the poses cannot be read and was ignored: {error}"]
    localized = {n: r.cam_from_world for n, r in details.items() if r.cam_from_world is not None}
    differing = sorted(localized.keys() ^ poses.keys()) or [
        name for name in poses if not _same_pose(localized[name], poses[name])
    ]
    if differing:
        return {}, [
            "the results.jsonl beside the poses belongs to other poses and was ignored (they "
            f"differ in '{differing[0]}')"
        ]
    return details, []


def _same_pose(a: pycolmap.Rigid3d, b: pycolmap.Rigid3d) -> bool:
    """Whether two poses are one, written twice."""
    return np.allclose(a.matrix(), b.matrix(), rtol=1e-9, atol=1e-9)


def _asked_names(
    found: Mapping[str, _Found],
    truth: Poses,
    queries: Sequence[str] | PathLike | None,
) -> tuple[list[str], list[str]]:
    """All queries, those without a truth too, and notes on what is not scored."""
    notes = []
    if queries is not None:
        is_file = isinstance(queries, str | os.PathLike)
        names = list(read_photo_list(queries) if is_file else queries)  # type: ignore[arg-type]
        asked = set(names)
        unasked = [name for name in found if name not in asked]
        if unasked:
            notes.append(
                f"{len(unasked)} results are of no query and were ignored: {_some(unasked)}"
            )
    elif any(f.result is not None for f in found.values()):
        names = list(found)
    else:
        names = sorted(truth)
        notes.append(
            f"a poses file does not tell of failed queries: all {len(names)} images of the ground "
            "truth count as queries"
        )
    unknown = [name for name in names if name not in truth]
    if unknown and len(unknown) == len(names):
        raise InputError(
            f"no query has a pose in the ground truth: queries are named like '{names[0]}', the "
            f"truth's images like '{next(iter(truth), '')}'"
        )
    if unknown:
        notes.append(
            f"{len(unknown)} queries have no ground truth and are not scored: {_some(unknown)}"
        )
    if not names:
        raise InputError("nothing to evaluate: there are no queries")
    return names, notes


def _some(names: Sequence[str]) -> str:
    """The first three of names, and how many more there are."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _errors(
    names: Sequence[str],
    found: Mapping[str, _Found],
    truth: Poses,
    cameras: Mapping[str, pycolmap.Camera],
    alignment: Alignment | None,
) -> _Errors:
    translation, rotation_deg, vcre, diagonal = (np.full(len(names), np.inf) for _ in range(4))
    for i, name in enumerate(names):
        pose = found[name].cam_from_world if name in found else None
        if pose is None:
            continue
        if alignment is not None:
            pose = alignment.apply(pose)
        estimated, true = pose_matrices([pose]), pose_matrices([truth[name]])
        translation[i] = translation_errors(estimated, true)[0]
        rotation_deg[i] = rotation_errors_deg(estimated, true)[0]
        camera = cameras.get(name)
        if camera is None:
            vcre[i] = diagonal[i] = np.nan
            continue
        size = np.array([[camera.width, camera.height]])
        vcre[i] = vcre_px(estimated, true, camera.calibration_matrix()[None], size)[0]
        diagonal[i] = np.hypot(camera.width, camera.height)
    return _Errors(
        translation=translation, rotation_deg=rotation_deg, vcre=vcre, diagonal_px=diagonal
    )


def _query_score(
    found: _Found | None, name: str, errors: _Errors, row: int, options: EvaluationOptions
) -> QueryScore:
    success = found is not None and found.cam_from_world is not None
    result = None if found is None else found.result
    vcre = float(errors.vcre[row])
    limit = options.max_vcre_px or 0.1 * float(errors.diagonal_px[row])
    return QueryScore(
        name=name,
        success=success,
        reason=result.reason if result is not None else "" if success else "no pose given",
        translation_error_m=float(errors.translation[row]),
        rotation_error_deg=float(errors.rotation_deg[row]),
        vcre_px=None if math.isnan(vcre) or not options.metric_truth else vcre,
        vcre_limit_px=limit if math.isfinite(limit) and options.metric_truth else None,
        confidence=None if result is None else result.confidence,
        num_inliers=None if result is None else result.num_inliers,
        num_matches=None if result is None else result.num_matches,
        seconds=None if result is None else _seconds(result),
    )


def _seconds(result: Localization) -> float | None:
    return result.timings_s.get("total")


def mean_seconds(scores: Sequence[QueryScore]) -> float | None:
    """Mean time per query, of those that know theirs."""
    seconds = [score.seconds for score in scores if score.seconds is not None]
    return float(np.mean(seconds)) if seconds else None


def _spread(truth: Poses) -> float:
    centers = np.array([pose.inverse().translation for pose in truth.values()])
    return float(np.sqrt(((centers - centers.mean(axis=0)) ** 2).sum(axis=1).mean()))
