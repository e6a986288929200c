"""Which charts go with a report: how errors are distributed, and whether the confidence ranks."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.line_chart import Chart, FloatArray, Line, draw_chart
from benchmarks.report import PairsReport, QueryScore, Report
from matching.files import atomic_file

_MAX_LINES = 6


def write_charts(report: Any, folder: Path) -> list[str]:
    """Write the charts of a report as PNG; returns their names. None without a truth."""
    names = []
    for name, chart in charts_of(report).items():
        with atomic_file(folder / f"{name}.png") as temporary:
            draw_chart(chart).save(temporary, format="PNG", optimize=True)
        names.append(f"{name}.png")
    return names


def charts_of(report: Any) -> dict[str, Chart]:
    """Charts by file name."""
    if isinstance(report, PairsReport):
        return _pair_charts(report)
    if isinstance(report, Report):
        return _localization_charts(report)
    charts: dict[str, Chart] = report.charts()
    return charts


def share_below(errors: FloatArray) -> tuple[FloatArray, FloatArray]:
    """Stairs over the sorted finite errors: the share of all, failures included, at most each."""
    finite = np.sort(errors[np.isfinite(errors)])
    steps = np.arange(len(finite) + 1) / max(len(errors), 1)
    return np.repeat(finite, 2), np.stack([steps[:-1], steps[1:]], axis=1).ravel()


def precision_over_answers(
    confidence: FloatArray, accepted: NDArray[np.bool_], num_total: int
) -> tuple[FloatArray, FloatArray]:
    """Share of all queries answered, surest first, and the share of right ones among those.

    The area under it is the AUC of the Map-free benchmark but for ties.
    """
    order = np.argsort(-confidence, kind="stable")
    answered = np.arange(1, len(order) + 1)
    return answered / max(num_total, 1), np.cumsum(accepted[order]) / np.maximum(answered, 1)


def _localization_charts(report: Report) -> dict[str, Chart]:
    if report.median_translation_error_m is None:
        return {}
    groups = _groups(report)
    metric = bool(report.recall)
    unit = "m" if metric else "units of the truth"
    limits = [tuple(map(_leading_number, key.split("_"))) for key in report.recall]
    charts = {
        "translation_errors": Chart(
            title="Position errors",
            x_label=f"error, {unit}",
            y_label="share of all queries",
            lines=[_error_line(label, scores, "translation_error_m") for label, scores in groups],
            log_x=True,
            marks=[limit[0] for limit in limits],
        ),
        "rotation_errors": Chart(
            title="Rotation errors",
            x_label="error, degrees",
            y_label="share of all queries",
            lines=[_error_line(label, scores, "rotation_error_deg") for label, scores in groups],
            log_x=True,
            marks=[limit[1] for limit in limits],
        ),
    }
    if metric and any(score.confidence for score in report.per_query):
        lines = []
        for metres, degrees in limits:
            answered = [score for score in report.per_query if score.success]
            right = [
                (s.translation_error_m or 0) < metres and (s.rotation_error_deg or 0) < degrees
                for s in answered
            ]
            confidence = np.array([s.confidence or 0.0 for s in answered])
            x, y = precision_over_answers(confidence, np.array(right, bool), report.num_queries)
            lines.append(Line(label=f"{metres:g} m, {degrees:g} deg", x=x, y=y))
        charts["confidence"] = Chart(
            title="Does the confidence rank?",
            x_label="share of the queries answered, surest first",
            y_label="right among them",
            lines=lines[:_MAX_LINES],
        )
    return charts


def _pair_charts(report: PairsReport) -> dict[str, Chart]:
    if report.auc_deg is None:
        return {}
    known = [s for s in report.per_pair if s.rotation_error_deg is not None]
    errors = np.array([max(s.rotation_error_deg or 0, s.translation_error_deg or 0) for s in known])
    x, y = share_below(errors)
    chart = Chart(
        title="Relative poses",
        x_label="larger of rotation and translation angle, degrees",
        y_label="share of all pairs",
        lines=[Line(label="all", x=np.maximum(x, 1e-3), y=y)],
        log_x=True,
        marks=[float(limit) for limit in report.auc_deg],
    )
    return {"pose_errors": chart}


def _groups(report: Report) -> list[tuple[str, Sequence[QueryScore]]]:
    """All queries, and those of each scene if there are few."""
    groups: list[tuple[str, Sequence[QueryScore]]] = [("all", report.per_query)]
    scenes = report.groups.get("scene", {})
    if 1 < len(scenes) < _MAX_LINES:
        for scene in scenes:
            own = [s for s in report.per_query if s.name.startswith(f"{scene}/")]
            groups.append((scene, own))
    return groups


def _error_line(label: str, scores: Sequence[QueryScore], field: str) -> Line:
    errors = np.array([getattr(score, field) for score in scores], np.float64)
    x, y = share_below(errors)
    return Line(label=label, x=np.maximum(x, 1e-5), y=y)


def _leading_number(text: str) -> float:
    return float(text.rstrip("mdeg"))
