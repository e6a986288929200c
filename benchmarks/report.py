"""What a benchmark reports: ``report.json`` for machines, a table for people."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from matching.files import PathLike, write_text_atomic

_MAX_LISTED = 60  # queries that the terminal still lists one by one


@dataclass(frozen=True, kw_only=True)
class QueryScore:
    """One query: what localization said, and the errors against the truth.

    Errors are infinite for a query that was not localized, and None where the truth does not tell
    (no truth at all, no intrinsics for VCRE, no metric scale).
    """

    name: str
    success: bool
    reason: str = ""
    translation_error_m: float | None = None
    rotation_error_deg: float | None = None
    vcre_px: float | None = None
    vcre_limit_px: float | None = None
    confidence: float | None = None
    num_inliers: int | None = None
    num_matches: int | None = None
    seconds: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; infinite errors become null."""
        return {key: _plain(value) for key, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class Report:
    """Scores of localized queries. Failures stay in every denominator, as infinite errors.

    Attributes:
        num_queries: Queries scored.
        num_localized: Those with a pose, right or wrong.
        unscored: Further queries that were asked, but whose true poses are not known here, to
            whether they were localized; no value tells of them. Empty where no query has a known
            truth: then all of them are counted above.
        median_translation_error_m: Over all queries; infinite if half of them failed. None
            without ground truth, here and below.
        median_rotation_error_deg: The same for the rotation.
        median_vcre_px: The same for VCRE; also None where the truth lacks intrinsics or scale.
        mean_translation_error_m: Over the localized queries only: one failure would make the mean
            infinite.
        mean_rotation_error_deg: The same for the rotation.
        recall: Share of all queries within both thresholds, keys such as ``"0.25m_2deg"``; empty
            without a metric truth.
        vcre_precision: Share of all queries with a VCRE below the threshold.
        vcre_auc: Average precision over the confidence for that threshold (Map-free's AUC).
        pose_precision: Share of all queries below the pose thresholds of the options.
        pose_auc: Average precision over the confidence for those.
        seconds_map: Building the map took so long, in this run or the one that built it.
        seconds_per_query: Mean over the queries.
        alignment: How the map was brought into the truth's frame, if it was.
        map: Statistics of the map, if known: images, registered images, points, ...
        options: What produced the results.
        title: The data set with its version, if it is a known one.
        groups: Of a data set with several scenes or conditions: ``"scene"`` and ``"condition"`` to
            name to the values of that part, keys as here.
        mean_of_scenes: Plain mean over the scenes of each value, keys such as
            ``"recall.0.25m_2deg"``: what papers print for data sets of several scenes.
        intervals: Bootstrap 95 % interval of each value, queries resampled within their scenes.
        seeds: Each value under the several seeds of RANSAC, if there were several; the values above
            are those of the first.
        submission: The file for the server, the poses in it and the queries left out.
        published: Key of the published rows to compare with (`benchmarks.published`), or "".
        per_query: One score per query, by name.
        notes: What a reader must know to read the figures right.
    """

    num_queries: int
    num_localized: int
    unscored: Mapping[str, bool] = field(default_factory=dict)
    median_translation_error_m: float | None = None
    median_rotation_error_deg: float | None = None
    median_vcre_px: float | None = None
    mean_translation_error_m: float | None = None
    mean_rotation_error_deg: float | None = None
    recall: Mapping[str, float] = field(default_factory=dict)
    vcre_precision: float | None = None
    vcre_auc: float | None = None
    pose_precision: float | None = None
    pose_auc: float | None = None
    seconds_map: float | None = None
    seconds_per_query: float | None = None
    alignment: Mapping[str, Any] | None = None
    map: Mapping[str, Any] | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    groups: Mapping[str, Mapping[str, Mapping[str, Any]]] = field(default_factory=dict)
    mean_of_scenes: Mapping[str, float] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seeds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    submission: Mapping[str, Any] | None = None
    published: str = ""
    per_query: Sequence[QueryScore] = ()
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """The content of ``report.json``; infinite values become null."""
        values = {key: _plain(value) for key, value in vars(self).items() if key != "per_query"}
        return {**values, "per_query": [score.to_dict() for score in self.per_query]}

    def write(self, path: PathLike) -> None:
        """Write ``report.json``."""
        _write(self, path)

    def to_text(self, unit: str = "units") -> str:
        """A table for the terminal: one line per query if they are few, then the summary.

        Args:
            unit: Of the translation errors where the truth has no metric scale.
        """
        rows = [("query", "error", "", "VCRE", "inliers", "confidence", "")]
        for score in self.per_query if len(self.per_query) <= _MAX_LISTED else ():
            rows.append(
                (
                    score.name,
                    self._length(score.translation_error_m, unit) if score.success else "-",
                    _number(score.rotation_error_deg, " deg", 3) if score.success else "-",
                    _number(score.vcre_px, " px", 2) if score.success else "-",
                    _fraction(score.num_inliers, score.num_matches),
                    _number(score.confidence, "", 2),
                    score.reason,
                )
            )
        listed = [_table(rows), ""] if len(rows) > 1 else []
        listed += [self.title] if self.title else []
        lines = [*listed, f"localized          {self.num_localized} of {self.num_queries}"]
        if self.unscored:
            without = f"{sum(self.unscored.values())} of {len(self.unscored)}"
            lines.append(f"without truth      {without} localized, not scored")
        if self.median_translation_error_m is not None:
            lines += [
                f"median error       {self._length(self.median_translation_error_m, unit)}, "
                f"{_number(self.median_rotation_error_deg, ' deg', 3)}",
                f"mean of localized  {self._length(self.mean_translation_error_m, unit)}, "
                f"{_number(self.mean_rotation_error_deg, ' deg', 3)}",
            ]
        for key, share in self.recall.items():
            limits = key.replace("m_", " m, ").replace("deg", " deg")
            lines.append(f"within {limits:<16}{share:6.1%}")
        if self.vcre_precision is not None:
            lines.append(
                f"VCRE               median {_number(self.median_vcre_px, ' px', 2)}, "
                f"precision {self.vcre_precision:.3f}, AUC {_number(self.vcre_auc, '', 3)}"
            )
        if self.map is not None:
            lines.append("map                " + _map_text(self.map))
        if self.seconds_map is not None:
            lines.append(f"seconds            {self.seconds_map:.1f} for the map")
        if self.seconds_per_query is not None:
            lines.append(f"seconds            {self.seconds_per_query:.2f} per query")
        for kind, groups in self.groups.items():
            lines += ["", _table(group_rows(kind, groups, self.mean_of_scenes))]
        if self.submission is not None:
            lines.append(
                f"submission         {self.submission['path']}: {self.submission['num_poses']} "
                f"poses, {len(self.submission['left_out'])} failed queries left out"
            )
        return "\n".join(lines + [f"note: {note}" for note in self.notes])

    def _length(self, value: float | None, unit: str) -> str:
        evaluation = self.options.get("evaluation", {})
        if not evaluation.get("metric_truth", True):
            return _number(value, f" {unit}", 4)
        if value is None or not math.isfinite(value) or value >= 1:
            return _number(value, " m", 2)
        return f"{value * 100:.2f} cm"

    def with_run(
        self,
        *,
        seconds_map: float | None,
        map_statistics: Mapping[str, Any] | None,
        options: Mapping[str, Any],
        notes: Sequence[str] = (),
    ) -> "Report":
        """The same scores with what only the run knows: the map, its time and its options."""
        return replace(
            self,
            seconds_map=seconds_map,
            map=map_statistics,
            options={**self.options, **options},
            notes=[*self.notes, *notes],
        )


@dataclass(frozen=True, kw_only=True)
class PairScore:
    """One image pair; errors are infinite if no pose was found, None without ground truth."""

    image0: str
    image1: str
    num_matches: int
    num_inliers: int
    success: bool
    reason: str = ""
    rotation_error_deg: float | None = None
    translation_error_deg: float | None = None
    precision_2px: float | None = None

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values; infinite errors become null."""
        return {key: _plain(value) for key, value in vars(self).items()}


@dataclass(frozen=True, kw_only=True)
class PairsReport:
    """Relative poses of image pairs. Failures stay in the denominator, as infinite errors.

    Attributes:
        num_pairs: Pairs scored.
        num_estimated: Those with a pose, right or wrong.
        auc_deg: Area under the recall over max(rotation, translation angle) up to 5, 10 and 20
            degrees, keys ``"5"``, ``"10"``, ``"20"``; None without ground truth, here and below.
        median_error_deg: Median of that larger angle over all pairs.
        precision_2px: Share of the matches within 2 px of the true epipolar line, mean over the
            pairs; a pair without matches counts 0.
        median_matches: Over all pairs.
        median_inliers: Over all pairs.
        seconds_per_pair: Matching two encoded images took so long, mean; kept with the matches.
        options: What produced the results.
        title: The data set, if it is a known one.
        published: Key of the published rows to compare with (`benchmarks.published`), or "".
        groups: Scene or overlap band to its number of pairs and their AUC.
        intervals: Bootstrap 95 % interval of each AUC.
        seeds: Each AUC under the several seeds of RANSAC, if there were several.
        per_pair: One score per pair.
        notes: What a reader must know to read the figures right.
    """

    num_pairs: int
    num_estimated: int
    auc_deg: Mapping[str, float] | None = None
    median_error_deg: float | None = None
    precision_2px: float | None = None
    median_matches: float
    median_inliers: float
    seconds_per_pair: float | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    title: str = ""
    published: str = ""
    groups: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    seeds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    per_pair: Sequence[PairScore] = ()
    notes: Sequence[str] = ()

    def to_dict(self) -> dict[str, Any]:
        """The content of ``report.json``; infinite values become null."""
        values = {key: _plain(value) for key, value in vars(self).items() if key != "per_pair"}
        return {**values, "per_pair": [score.to_dict() for score in self.per_pair]}

    def write(self, path: PathLike) -> None:
        """Write ``report.json``."""
        _write(self, path)

    def to_text(self) -> str:
        """The summary for the terminal."""
        lines = [
            *([self.title] if self.title else []),
            f"pairs              {self.num_pairs}, {self.num_estimated} with a pose",
            f"matches            median {self.median_matches:g}, inliers {self.median_inliers:g}",
        ]
        if self.auc_deg is not None:
            areas = "  ".join(f"{value:.3f}" for value in self.auc_deg.values())
            limits = " / ".join(self.auc_deg)
            lines.append(f"AUC at {limits} deg  {areas}")
            lines.append(f"median error       {_number(self.median_error_deg, ' deg', 3)}")
        for name, values in self.groups.items():
            areas = "  ".join(f"{value:.3f}" for value in values["auc_deg"].values())
            lines.append(f"  {name:<16} {areas}  ({values['num_pairs']} pairs)")
        if self.precision_2px is not None:
            lines.append(f"within 2 px        {self.precision_2px:.3f} of the matches")
        if self.seconds_per_pair is not None:
            lines.append(f"seconds            {self.seconds_per_pair:.2f} per pair")
        return "\n".join(lines + [f"note: {note}" for note in self.notes])


def group_rows(
    kind: str, groups: Mapping[str, Mapping[str, Any]], mean_of_scenes: Mapping[str, float]
) -> list[list[str]]:
    """Header and rows of a table of scenes or conditions, the mean of the scenes last.

    Args:
        kind: ``"scene"`` or ``"condition"``.
        groups: See `Report.groups`.
        mean_of_scenes: See `Report.mean_of_scenes`.
    """
    recalls = list(next((v["recall"] for v in groups.values() if v.get("recall")), {}))
    header = [kind, "localized", "median", "", *(key.replace("_", " ") for key in recalls)]

    def row(name: str, localized: str, median: tuple[Any, Any], recall: list[Any]) -> list[str]:
        metres, degrees = median
        return [
            name,
            localized,
            _number(None if metres is None else metres * 100, " cm", 2),
            _number(degrees, " deg", 3),
            *("-" if share is None else f"{share:.1%}" for share in recall),
        ]

    rows = [header]
    for name, values in groups.items():
        medians = (
            values.get("median_translation_error_m"),
            values.get("median_rotation_error_deg"),
        )
        localized = f"{values['num_localized']} of {values['num_queries']}"
        if values.get("num_unscored"):
            without = f"{values['num_unscored_localized']} of {values['num_unscored']}"
            localized += f" (without truth: {without})"
        recall = values.get("recall", {})
        rows.append(row(name, localized, medians, [recall.get(key) for key in recalls]))
    if kind == "scene" and mean_of_scenes:
        medians = (
            mean_of_scenes.get("median_translation_error_m"),
            mean_of_scenes.get("median_rotation_error_deg"),
        )
        shares = [mean_of_scenes.get(f"recall.{key}") for key in recalls]
        rows.append(row("mean of scenes", "", medians, shares))
    return rows


def _write(report: Report | PairsReport, path: PathLike) -> None:
    text = json.dumps(report.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    write_text_atomic(Path(path), text + "\n")


def _plain(value: Any) -> Any:
    """JSON has no infinity: null stands for it, as for NaN."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): _plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    return value


def _map_text(statistics: Mapping[str, Any]) -> str:
    parts = [
        f"{statistics['num_registered']} of {statistics['num_images']} photos",
        f"{statistics['num_points3D']} points",
        f"{statistics['mean_reprojection_error_px']:.2f} px",
        f"track length {statistics['mean_track_length']:.2f}",
    ]
    return ", ".join(parts)


def _number(value: float | None, unit: str, digits: int) -> str:
    if value is None or math.isnan(value):
        return "-"
    return "failed" if math.isinf(value) else f"{value:.{digits}f}{unit}"


def _fraction(part: int | None, whole: int | None) -> str:
    return "-" if part is None else f"{part}" if whole is None else f"{part}/{whole}"


def _table(rows: Sequence[Sequence[str]]) -> str:
    widths = [max(len(row[i]) for row in rows) for i in range(len(rows[0]))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()
        for row in rows
    )
