"""The HTML report of a localization run: one file with figures, matches and a table per query."""

import html
import json
import math
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pycolmap

from benchmarks import figures
from benchmarks.html_page import figure_place, page
from benchmarks.match_cards import (
    HtmlReportOptions,
    anchor,
    badge,
    drawn_queries,
    match_cards,
)
from benchmarks.number_text import length, number, seconds_text, threshold
from benchmarks.report import QueryScore, Report
from localize import Localization
from mapping import Map
from matching.files import PathLike, write_text_atomic
from matching.matcher import Matcher
from matching.progress import Progress, silent


def write_html_report(
    path: PathLike,
    scene: Map,
    results: Mapping[str, Localization],
    *,
    query_images: PathLike | Mapping[str, PathLike],
    map_images: PathLike | None = None,
    report: Report | None = None,
    truth: Mapping[str, pycolmap.Rigid3d] | None = None,
    title: str = "Localization report",
    notes: Sequence[str] = (),
    length_unit: str | None = None,
    error_unit: str = "m",
    truth_name: str = "the truth",
    matcher: Matcher | None = None,
    options: HtmlReportOptions | None = None,
    progress: Progress = silent,
) -> None:
    """Write the report as one HTML file that needs nothing beside it, not even a network.

    Args:
        path: The file to write.
        scene: The map the queries were localized in.
        results: By query name, as `Localizer.localize_all` returns them.
        query_images: Folder the query names are relative to, or the file of each query.
        map_images: Folder of the map's photos. Without it, or where a photo is missing, no matches
            are drawn.
        report: Scores against a truth; without it the report has no errors.
        truth: True cam_from_world by query name in the map's frame, drawn in the 3D view.
        title: Heading.
        notes: Sentences below the heading, before the report's own notes.
        length_unit: Unit of the map; None means metres for a map with given poses, ``map units``
            for one whose scale is arbitrary.
        error_unit: Unit of the report's translation errors.
        truth_name: What the poses were compared with, if it was not the truth.
        matcher: What made the map; one that predicts point maps has them drawn.
        options: What to draw, see `HtmlReportOptions`.
        progress: Wraps the loop over the drawn queries.

    Raises:
        OSError: The file cannot be written.
    """
    options = options or HtmlReportOptions()
    unit = length_unit or ("m" if scene.info.known_poses else "map units")
    if report is not None and report.median_rotation_error_deg is None:
        report = None  # scored without a truth: it says no more than the results
    scores = {} if report is None else {score.name: score for score in report.per_query}
    estimated = {n: r.cam_from_world for n, r in results.items() if r.cam_from_world is not None}
    drawings = {
        "figure-map": figures.map_figure(
            scene, estimated, truth=truth, length_unit=unit, max_points=options.max_points
        )
    }
    body = [
        _heading(title, scene, results, [*notes, *(report.notes if report else ())]),
        _tiles(results, report, error_unit),
        "<h2>Map and cameras</h2>",
        '<p class="muted">Drag to turn, scroll or pinch to zoom, tap a name in the legend to hide '
        "it. Every pyramid is a camera: its tip is where it stood, its base the photo.</p>",
        f'<div class="card">{figure_place("figure-map", is_3d=True)}</div>',
    ]
    if report is not None:
        drawings |= _error_figures(report, error_unit)
        body.append(_accuracy(report, truth_name))
    body.append(_query_table(results, scores, error_unit, options, report))
    body.append(
        match_cards(
            scene,
            results,
            scores=scores,
            length_unit=error_unit,
            query_images=query_images,
            map_images=map_images,
            matcher=matcher,
            options=options,
            progress=progress,
        )
    )
    if any(result.timings_s for result in results.values()):
        drawings["figure-time"] = figures.timing_figure([r.timings_s for r in results.values()])
        body.append("<h2>Time</h2>" + _time_sentence(scene, results))
        body.append(f'<div class="card">{figure_place("figure-time", height_px=280)}</div>')
    body.append(_options_section(scene, report))
    write_text_atomic(path, page(title, "\n".join(body), drawings))


def _heading(
    title: str, scene: Map, results: Mapping[str, Localization], notes: Sequence[str]
) -> str:
    localized = sum(result.success for result in results.values())
    reconstruction = scene.reconstruction
    lead = (
        f"{localized} of {len(results)} photos localized in a map of {len(scene.image_names)} "
        f"photos and {reconstruction.num_points3D():,} points."
    )
    version = scene.info.groundloc_version
    tool = "groundloc" if version == "unknown" else f"groundloc {html.escape(version)}"
    made = datetime.now(UTC).strftime("%Y-%m-%d %H:%M UTC")
    return "\n".join(
        [
            f"<h1>{html.escape(title)}</h1>",
            f'<p class="lead">{lead}</p>',
            *(f"<p>{html.escape(_sentence(note))}</p>" for note in notes),
            f'<p class="muted">{tool} · matcher '
            f"{html.escape(str(scene.info.matcher['name']))} · {made}</p>",
        ]
    )


def _tiles(results: Mapping[str, Localization], report: Report | None, unit: str) -> str:
    tiles = [(f"{sum(r.success for r in results.values())} / {len(results)}", "photos localized")]
    if report is not None:
        tiles += [
            (length(report.median_translation_error_m, unit), "median position error"),
            (number(report.median_rotation_error_deg) + "°", "median rotation error"),
        ]
        if report.median_vcre_px is not None:
            tiles.append((number(report.median_vcre_px) + " px", "median VCRE"))
    elif results:
        inliers = [r.num_inliers for r in results.values()]
        tiles.append((f"{np.median(inliers):.0f}", "median inliers"))
        confidence = [r.confidence for r in results.values()]
        tiles.append((f"{np.median(confidence):.2f}", "median confidence"))
    seconds = [_total_seconds(r) for r in results.values() if r.timings_s]
    if seconds:
        tiles.append((seconds_text(float(np.mean(seconds))), "per photo"))
    cells = "".join(
        f'<div class="card tile"><b>{v}</b><span>{what}</span></div>' for v, what in tiles
    )
    return f'<div class="tiles">{cells}</div>'


def _error_figures(report: Report, unit: str) -> dict[str, Any]:
    factor, shown = (100.0, "cm") if unit == "m" else (1.0, unit)
    translation = [_known(score.translation_error_m) * factor for score in report.per_query]
    rotation = [_known(score.rotation_error_deg) for score in report.per_query]
    return {
        "figure-translation": figures.error_figure(translation, "position error", shown),
        "figure-rotation": figures.error_figure(rotation, "rotation error", "deg"),
    }


def _accuracy(report: Report, truth_name: str) -> str:
    name = html.escape(truth_name)
    heading = "Accuracy" if truth_name == "the truth" else f"Agreement with {name}"
    recalls = ""
    if report.recall:
        cells = "".join(
            f'<div class="card tile"><b>{100 * share:.1f} %</b><span>within {threshold(key)}'
            "</span></div>"
            for key, share in report.recall.items()
        )
        recalls = f'<div class="tiles">{cells}</div>'
    vcre = ""
    if report.median_vcre_px is not None:
        vcre = (
            " VCRE is how far, on average, virtual points 1.8 to 3.6 m before the true camera land "
            "from their pixels when the estimated camera projects them."
        )
    return (
        f"<h2>{heading}</h2>"
        '<p class="muted">Share of all photos whose camera is within a position and a rotation '
        f"error of {name}. A photo without a pose counts as wrong.{vcre}</p>{recalls}"
        f'<div class="pair"><div class="card">{figure_place("figure-translation")}</div>'
        f'<div class="card">{figure_place("figure-rotation")}</div></div>'
    )


def _query_table(
    results: Mapping[str, Localization],
    scores: Mapping[str, QueryScore],
    unit: str,
    options: HtmlReportOptions,
    report: Report | None,
) -> str:
    factor, shown = (100.0, "cm") if unit == "m" else (1.0, unit)
    heads = ["photo", "result"]
    if scores:
        heads += [f"position error ({shown})", "rotation error (deg)"]
    has_vcre = report is not None and report.median_vcre_px is not None
    if has_vcre:
        heads.append("VCRE (px)")
    heads += ["inliers", "matches", "confidence", "focal length (px)", "time (s)"]
    rows = []
    drawn = {result.name for result in drawn_queries(results, options)}
    for name, result in results.items():
        shown_name = html.escape(name)
        if name in drawn:
            shown_name = f'<a href="#{anchor(name)}">{shown_name}</a>'
        cells = [
            f"<td>{shown_name}</td>",
            f'<td class="text" data-value="{int(result.success)}">{badge(result)}</td>',
        ]
        if scores:
            score = scores.get(name)
            cells += [
                _cell(None if score is None else _known(score.translation_error_m) * factor),
                _cell(None if score is None else score.rotation_error_deg),
            ]
            if has_vcre:
                cells.append(_cell(None if score is None else score.vcre_px))
        focal = None if result.camera is None else result.camera.mean_focal_length()
        cells += [
            _cell(result.num_inliers, f"{result.num_inliers}"),
            _cell(result.num_matches, f"{result.num_matches}"),
            _cell(result.confidence, f"{result.confidence:.3f}"),
            _cell(focal, f"{focal:.1f} ({result.camera_source})" if focal is not None else "–"),
            _cell(_total_seconds(result)),
        ]
        rows.append(f"<tr>{''.join(cells)}</tr>")
    head = "".join(f"<th{' class=text' if h == 'result' else ''}>{h}</th>" for h in heads)
    return (
        '<h2>Photos</h2><p class="muted">Tap a column to sort by it, a name to see its matches.</p>'
        '<div class="card scroll"><table class="sortable">'
        f"<thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table></div>"
        + _failures(results)
    )


def _failures(results: Mapping[str, Localization]) -> str:
    failed = [result for result in results.values() if not result.success]
    if not failed:
        return ""
    rows = "".join(
        f"<tr><td>{html.escape(r.name)}</td><td class='wrap'>{html.escape(r.reason)}</td></tr>"
        for r in failed
    )
    return (
        '<h2>Not localized</h2><div class="card scroll"><table class="narrow"><thead><tr>'
        f'<th>photo</th><th class="text">reason</th></tr></thead><tbody>{rows}</tbody></table>'
        "</div>"
    )


def _time_sentence(scene: Map, results: Mapping[str, Localization]) -> str:
    seconds = [_total_seconds(r) for r in results.values() if r.timings_s]
    return (
        f'<p class="muted">Building the map took {seconds_text(sum(scene.info.seconds.values()))} '
        f"({len(scene.image_names)} photos), a query {seconds_text(float(np.mean(seconds)))} on "
        f"average and {seconds_text(max(seconds))} at most.</p>"
    )


def _options_section(scene: Map, report: Report | None) -> str:
    values: dict[str, Any] = {"map": scene.info.options, "matcher": scene.info.matcher}
    if report is not None:
        values |= report.options
    text = json.dumps(values, indent=2, ensure_ascii=False, default=str)
    return (
        "<h2>Settings</h2><details class='card'><summary>Options of every stage</summary>"
        f"<pre>{html.escape(text)}</pre></details>"
    )


def _total_seconds(result: Localization) -> float:
    return result.timings_s.get("total", sum(result.timings_s.values()))


def _cell(value: float | None, text: str | None = None) -> str:
    """A table cell that sorts by the number; what has no value sorts last."""
    key = "Infinity" if value is None or not math.isfinite(value) else f"{value:.9g}"
    shown = number(value) if text is None else text
    return f'<td data-value="{key}">{shown}</td>'


def _sentence(note: str) -> str:
    """A note as a sentence."""
    return note[:1].upper() + note[1:] + ("" if note.endswith((".", "!", "?")) else ".")


def _known(error: float | None) -> float:
    """The error, infinite where there is none."""
    return math.inf if error is None else error
