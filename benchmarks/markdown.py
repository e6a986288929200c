"""``report.md``: a run's scores as tables beside the published ones, for people."""

from collections.abc import Sequence
from typing import Any

from benchmarks.published import PUBLISHED, Published
from benchmarks.report import PairsReport, Report, group_rows
from mapping.info import groundloc_version


def to_markdown(report: Any, name: str, method: str, pictures: Sequence[str]) -> str:
    """The text of ``report.md``.

    Args:
        report: Of the run.
        name: Of the benchmark.
        method: What to call our row.
        pictures: File names of the charts.
    """
    title = getattr(report, "title", "") or name
    lines = [f"# {title}", "", f"groundloc {groundloc_version()}, matcher {method}", ""]
    if isinstance(report, Report):
        lines += _report_tables(report)
    elif isinstance(report, PairsReport):
        lines += _pairs_tables(report)
    else:
        lines += report.markdown_tables()
    published = PUBLISHED.get(getattr(report, "published", ""))
    if published is not None:
        ours = _our_cells(report, published.columns)
        lines += _published_table(published, f"**groundloc, {method}**", ours)
    for note in report.notes:
        lines.append(f"* {note}")
    for picture in pictures:
        lines += ["", f"![{picture.removesuffix('.png').replace('_', ' ')}]({picture})"]
    return "\n".join(lines) + "\n"


def table(rows: Sequence[Sequence[str]]) -> list[str]:
    """A Markdown table; the first row is the header. Ends with an empty line."""
    lines = [f"| {' | '.join(cell or ' ' for cell in row)} |" for row in rows]
    lines.insert(1, f"|{' --- |' * len(rows[0])}")
    return [*lines, ""]


def _report_tables(report: Report) -> list[str]:
    values: list[tuple[str, str]] = [
        ("localized", f"{report.num_localized} of {report.num_queries}")
    ]
    if report.unscored:
        without = f"{sum(report.unscored.values())} of {len(report.unscored)}"
        values.append(("localized without a known truth, not scored", without))
    lines = []
    if report.median_translation_error_m is not None:
        values.append(
            (
                "median error",
                f"{_number(report.median_translation_error_m, 4)} m, "
                f"{_number(report.median_rotation_error_deg, 3)} deg",
            )
        )
    for key, share in report.recall.items():
        values.append((f"within {key.replace('_', ' ')}", f"{100 * share:.1f} %"))
    if report.vcre_precision is not None:
        values.append(
            (
                "VCRE median, precision, AUC",
                f"{_number(report.median_vcre_px, 1)} px, {report.vcre_precision:.3f}, "
                f"{_number(report.vcre_auc, 3)}",
            )
        )
    for key, ends in report.intervals.items():
        if key.startswith(("median", "recall")):
            values.append((f"95 % interval of {key}", _interval(ends)))
    lines += table([("", ""), *values])
    for kind, groups in report.groups.items():
        lines += table(group_rows(kind, groups, report.mean_of_scenes))
    if report.seeds:
        rows = [("over RANSAC seeds", "lowest", "highest")]
        for key, each in report.seeds.items():
            if key.startswith(("median", "recall")):
                rows.append((key, _number(min(each), 4), _number(max(each), 4)))
        lines += table(rows)
    if report.submission is not None:
        left_out = len(report.submission["left_out"])
        lines += [
            f"Submission `{report.submission['path']}`: {report.submission['num_poses']} poses, "
            f"{left_out} failed queries left out.",
            "",
        ]
    return lines


def _pairs_tables(report: PairsReport) -> list[str]:
    rows = [("", ""), ("pairs", f"{report.num_pairs}, {report.num_estimated} with a pose")]
    for limit, area in (report.auc_deg or {}).items():
        rows.append((f"AUC at {limit} deg", f"{100 * area:.1f} %"))
    for limit, ends in report.intervals.items():
        rows.append((f"95 % interval of the AUC at {limit} deg", _interval(ends)))
    for limit, areas in report.seeds.items():
        rows.append((f"AUC at {limit} deg over RANSAC seeds", _interval((min(areas), max(areas)))))
    rows.append(("matches", f"median {report.median_matches:g}"))
    lines = table(rows)
    if report.groups:
        groups = [["group", "pairs", *(f"AUC at {limit} deg" for limit in report.auc_deg or {})]]
        for name, values in report.groups.items():
            cells = [f"{100 * area:.1f} %" for area in values["auc_deg"].values()]
            groups.append([name, str(values["num_pairs"]), *cells])
        lines += table(groups)
    return lines


def _published_table(published: Published, label: str, ours: Sequence[str]) -> list[str]:
    rows = [("method", *published.columns, "source (grade)")]
    if any(ours):
        rows.append((label, *ours, "this run"))
    rows += [(row.method, *row.cells, f"{row.source} ({row.grade})") for row in published.rows]
    return [
        "## Beside published numbers",
        "",
        *table(rows),
        "Grades: A the authors' own text, B a copy of their table, C a summary, L computed from "
        "published estimates.",
        *(f"* {note}" for note in published.notes),
        "",
    ]


def _interval(ends: tuple[float, float]) -> str:
    return f"{_number(ends[0], 4)} .. {_number(ends[1], 4)}"


def _number(value: float | None, digits: int) -> str:
    return "-" if value is None else f"{value:.{digits}f}"


def _our_cells(report: Any, columns: Sequence[str]) -> tuple[str, ...]:
    """Our values in the columns of a published table; "" for what was not measured."""
    if isinstance(report, PairsReport):
        return ("/".join(f"{100 * area:.1f}" for area in (report.auc_deg or {}).values()),)
    if not isinstance(report, Report):
        cells: tuple[str, ...] = report.published_cells()
        return cells
    scenes = report.groups.get("scene", {})
    mean = report.mean_of_scenes
    medians = {"mean": mean, "mean of medians": mean, **scenes}
    cells = ()
    for column in columns:
        values = medians.get(column, {})
        metres = values.get("median_translation_error_m")
        recall = mean.get("recall.0.05m_5deg") if column == "5 cm 5 deg" else None
        cell = "" if recall is None else f"{100 * recall:.1f}"
        if metres is not None:
            cell = f"{metres * 100:.2f}/{values['median_rotation_error_deg']:.2f}"
        cells += (cell,)
    return cells
