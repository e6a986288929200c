"""Scores of pairs by group, over several RANSAC seeds, and how far resampling moves them."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from benchmarks.datasets.pair_task import PairSet, PairsOptions
from benchmarks.metrics import pose_auc
from benchmarks.relative import AUC_THRESHOLDS_DEG, score_pairs
from benchmarks.report import PairScore, PairsReport
from benchmarks.summary import percentile_intervals
from matching.progress import Progress, silent

FloatArray = NDArray[np.float64]


def score_all_seeds(
    pair_set: PairSet, folder: Path, options: PairsOptions, *, progress: Progress = silent
) -> PairsReport:
    """`benchmarks.relative.score_pairs` with what the options ask for beside it.

    Args:
        pair_set: The pairs.
        folder: Of their matches.
        options: Of RANSAC; the report is that of the first seed.
        progress: Wraps the loop over the pairs.

    Raises:
        InputError: The matches of a pair are missing or damaged.
    """
    reports = [
        score_pairs(
            pair_set, folder, replace(options, seed=options.seed + number), progress=progress
        )
        for number in range(options.num_seeds)
    ]
    report = replace(reports[0], title=pair_set.title, published=pair_set.published)
    if report.auc_deg is None:
        return report
    seeds = {}
    if options.num_seeds > 1:
        seeds = {key: [(r.auc_deg or {})[key] for r in reports] for key in report.auc_deg}
    names = list(dict.fromkeys(pair.group for pair in pair_set.pairs if pair.group))
    groups = {}
    for name in names:
        own = [
            score
            for pair, score in zip(pair_set.pairs, report.per_pair, strict=True)
            if pair.group == name and score.rotation_error_deg is not None
        ]
        groups[name] = {"num_pairs": len(own), "auc_deg": _areas(_errors(own))}
    known = [score for score in report.per_pair if score.rotation_error_deg is not None]
    return replace(
        report,
        groups=groups if len(names) > 1 else {},
        seeds=seeds,
        intervals=_intervals(_errors(known), options.num_bootstrap),
    )


def _errors(scores: Sequence[PairScore]) -> FloatArray:
    """The larger of both angles, (N,)."""
    angles = [(s.rotation_error_deg, s.translation_error_deg) for s in scores]
    return np.array(angles, np.float64).reshape(-1, 2).max(axis=1, initial=0.0)


def _areas(errors: FloatArray) -> dict[str, float]:
    areas = pose_auc(errors, AUC_THRESHOLDS_DEG)
    return {str(limit): area for limit, area in zip(AUC_THRESHOLDS_DEG, areas, strict=True)}


def _intervals(errors: FloatArray, num_resamples: int) -> dict[str, tuple[float, float]]:
    rng = np.random.default_rng(0)
    draws: dict[str, list[float]] = {}
    for _ in range(num_resamples):
        for key, area in _areas(rng.choice(errors, len(errors))).items():
            draws.setdefault(key, []).append(area)
    return percentile_intervals(draws)
