from pathlib import Path

import numpy as np
from PIL import Image

from benchmarks.charts import precision_over_answers, share_below, write_charts
from benchmarks.line_chart import Chart, Line, draw_chart
from benchmarks.markdown import to_markdown
from benchmarks.metrics import average_precision
from benchmarks.published import PUBLISHED
from benchmarks.report import QueryScore, Report


def test_shares_count_failures() -> None:
    x, y = share_below(np.array([0.3, np.inf, 0.1, np.inf]))
    assert x.tolist() == [0.1, 0.1, 0.3, 0.3] and y.tolist() == [0.0, 0.25, 0.25, 0.5]
    x, y = share_below(np.array([np.inf]))
    assert len(x) == len(y) == 0


def test_the_area_under_precision_is_the_auc() -> None:
    rng = np.random.default_rng(0)
    confidence, accepted = rng.random(50), rng.random(50) < 0.6
    x, y = precision_over_answers(confidence, accepted, 70)
    area = float((np.diff(x, prepend=0) * y).sum())
    assert abs(area - average_precision(confidence, accepted, 70)) < 1e-12


def test_a_curve_is_drawn_where_its_values_are() -> None:
    line = Line(label="one", x=np.array([0.0, 1.0]), y=np.array([0.5, 0.5]))
    chart = Chart(title="t", x_label="x", y_label="y", lines=[line])
    pixels = np.asarray(draw_chart(chart)).astype(int)
    blue = (pixels[..., 2] > 150) & (pixels[..., 0] < 60)
    rows, columns = np.nonzero(blue)
    # the middle of the frame, from 56 to 526, all across
    assert abs(rows.mean() - 291) < 2 and np.ptp(columns) > 800
    empty = Chart(title="t", x_label="x", y_label="y", lines=[], log_x=True)
    assert draw_chart(empty).size == (960, 600)


def report() -> Report:
    scores = [
        QueryScore(
            name=f"chess/{i}",
            success=True,
            translation_error_m=0.01 * (i + 1),
            rotation_error_deg=0.1 * (i + 1),
            confidence=1 / (i + 1),
        )
        for i in range(4)
    ]
    group = {
        "num_queries": 4,
        "num_localized": 4,
        "median_translation_error_m": 0.025,
        "median_rotation_error_deg": 0.25,
        "recall": {"0.05m_5deg": 1.0},
    }
    mean = {
        "median_translation_error_m": 0.025,
        "median_rotation_error_deg": 0.25,
        "recall.0.05m_5deg": 1.0,
    }
    return Report(
        num_queries=4,
        num_localized=4,
        median_translation_error_m=0.025,
        median_rotation_error_deg=0.25,
        recall={"0.05m_5deg": 1.0},
        groups={"scene": {"chess": group, "fire": group}},
        mean_of_scenes=mean,
        title="7-Scenes, SfM truth",
        published="7scenes-sfm",
        per_query=scores,
    )


def test_markdown_puts_ours_beside_published_rows_with_their_sources() -> None:
    text = to_markdown(report(), "7scenes", "sift", ["translation_errors.png"])
    ours = next(line for line in text.splitlines() if "**groundloc, sift**" in line)
    cells = [cell.strip() for cell in ours.strip("|").split("|")]
    assert cells[1:4] == ["2.50/0.25", "2.50/0.25", ""] and cells[8:10] == ["2.50/0.25", "100.0"]
    assert "| STDLoc | 0.46/0.15 |" in text and "STDLoc paper (A)" in text
    assert "| mean of scenes |" in text and "](translation_errors.png)" in text
    widths = {line.count("|") for line in text.splitlines() if line.startswith("| STDLoc")}
    assert widths == {ours.count("|")}


def test_charts_of_a_report_are_pictures(tmp_path: Path) -> None:
    names = write_charts(report(), tmp_path)
    assert names == ["translation_errors.png", "rotation_errors.png", "confidence.png"]
    for name in names:
        with Image.open(tmp_path / name) as image:
            assert image.size == (960, 600)
    assert write_charts(Report(num_queries=1, num_localized=1), tmp_path) == []


def test_published_rows_are_whole() -> None:
    for name, table in PUBLISHED.items():
        for row in table.rows:
            assert len(row.cells) == len(table.columns), (name, row)
            assert row.grade in "ABCL" and row.source and row.method
