"""What is averaged from the errors of queries, for all of them, a scene, a condition or a resample.

Failures stay in every denominator, as infinite errors.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.metrics import average_precision, recall_within
from benchmarks.report import QueryScore

FloatArray = NDArray[np.float64]
Thresholds = Sequence[tuple[float, float]]

INTERVAL_PERCENT = 95  # of the bootstrap's intervals


@dataclass(frozen=True, kw_only=True)
class ScoreTable:
    """Errors per query as columns, (N,): infinite without a pose, NaN where the truth is silent."""

    translation: FloatArray
    rotation_deg: FloatArray
    vcre: FloatArray
    vcre_limit: FloatArray
    confidence: FloatArray
    answered: NDArray[np.bool_]

    @staticmethod
    def of(scores: Sequence[QueryScore]) -> "ScoreTable":
        """The columns of some queries."""

        def column(name: str) -> FloatArray:
            values = (getattr(score, name) for score in scores)
            return np.array([np.nan if v is None else v for v in values], np.float64)

        return ScoreTable(
            translation=column("translation_error_m"),
            rotation_deg=column("rotation_error_deg"),
            vcre=column("vcre_px"),
            vcre_limit=column("vcre_limit_px"),
            # Poses without a confidence are one block: the AUC is then the precision.
            confidence=np.nan_to_num(column("confidence")),
            answered=np.array([score.success for score in scores], bool),
        )

    def rows(self, rows: NDArray[np.integer]) -> "ScoreTable":
        """Some of the queries, also several times."""
        return ScoreTable(**{name: column[rows] for name, column in vars(self).items()})


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What counts as right, see `benchmarks.evaluate.EvaluationOptions`."""

    thresholds: Thresholds
    max_translation_m: float
    max_rotation_deg: float
    metric_truth: bool


def summarize(table: ScoreTable, limits: Limits) -> dict[str, Any]:
    """The values of `benchmarks.report.Report` that follow from the errors; none without truth."""
    known = ~np.isnan(table.translation)
    if not known.any():
        return {}
    translation, rotation = table.translation[known], table.rotation_deg[known]
    values: dict[str, Any] = {
        "median_translation_error_m": float(np.median(translation)),
        "median_rotation_error_deg": float(np.median(rotation)),
        "mean_translation_error_m": _finite_mean(translation),
        "mean_rotation_error_deg": _finite_mean(rotation),
    }
    if not limits.metric_truth:
        return values
    values["recall"] = {
        f"{m:g}m_{deg:g}deg": recall_within(translation, rotation, m, deg)
        for m, deg in limits.thresholds
    }
    values["pose_precision"], values["pose_auc"] = _precision_and_auc(
        table,
        known,
        (table.translation < limits.max_translation_m)
        & (table.rotation_deg < limits.max_rotation_deg),
    )
    if not np.isnan(table.vcre[known]).any():
        values["median_vcre_px"] = float(np.median(table.vcre[known]))
        values["vcre_precision"], values["vcre_auc"] = _precision_and_auc(
            table, known, table.vcre < table.vcre_limit
        )
    return values


def flat(values: Mapping[str, Any]) -> dict[str, float]:
    """Single numbers by dotted name, ``recall.0.25m_2deg``; None is left out."""
    result: dict[str, float] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            result.update({f"{key}.{k}": v for k, v in flat(value).items()})
        elif isinstance(value, float):
            result[key] = value
    return result


def mean_of(groups: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """The plain mean over scenes of each value that all of them have; infinite if one is."""
    flats = [flat(group) for group in groups]
    common = [key for key in flats[0] if all(key in values for values in flats)] if flats else []
    return {key: float(np.mean([values[key] for values in flats])) for key in common}


def bootstrap(
    tables: Sequence[ScoreTable],
    value_of: Callable[[Sequence[ScoreTable]], Mapping[str, float]],
    num_resamples: int,
    seed: int = 0,
) -> dict[str, tuple[float, float]]:
    """Percentile intervals of values under resampling of the queries within each scene.

    Efron's bootstrap: it tells how far a value would move with other queries of the same scenes,
    not with other scenes.

    Args:
        tables: One per scene.
        value_of: Maps (resampled) tables to values by name.
        num_resamples: Drawn with replacement, each as large as the scene.
        seed: Of the draws.

    Returns:
        Lower and upper end of the 95 % interval by name; values that are infinite in more than a
        fortieth of the resamples have an infinite end.
    """
    rng = np.random.default_rng(seed)
    draws: dict[str, list[float]] = {}
    for _ in range(num_resamples):
        resampled = [
            table.rows(rng.integers(0, len(table.answered), len(table.answered)))
            for table in tables
        ]
        for key, value in value_of(resampled).items():
            draws.setdefault(key, []).append(value)
    return percentile_intervals({k: v for k, v in draws.items() if len(v) == num_resamples})


def percentile_intervals(
    draws: Mapping[str, Sequence[float]],
) -> dict[str, tuple[float, float]]:
    """Ends of the 95 % interval of resampled values by name; NaN draws are left out."""
    tail = (100 - INTERVAL_PERCENT) / 200
    intervals = {}
    for key, values in draws.items():
        known = np.array(values)[~np.isnan(values)]
        if len(known):
            # "lower" and "higher" pick one of the draws: nothing is interpolated to infinity
            intervals[key] = (
                float(np.quantile(known, tail, method="lower")),
                float(np.quantile(known, 1 - tail, method="higher")),
            )
    return intervals


def concatenate(tables: Sequence[ScoreTable]) -> ScoreTable:
    """The queries of several scenes."""
    names = [*vars(tables[0])]
    return ScoreTable(**{n: np.concatenate([getattr(t, n) for t in tables]) for n in names})


def _precision_and_auc(
    table: ScoreTable, known: NDArray[np.bool_], accepted: NDArray[np.bool_]
) -> tuple[float, float]:
    scored = table.answered & known
    return float(accepted[known].mean()), average_precision(
        table.confidence[scored], accepted[scored], int(known.sum())
    )


def _finite_mean(values: FloatArray) -> float | None:
    finite = values[np.isfinite(values)]
    return float(finite.mean()) if len(finite) else None
