"""Line charts as PNG, with Pillow alone: for reports that are read where nothing runs."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

FloatArray = NDArray[np.float64]
Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

# Apart for the colour-blind too (Wong, "Points of view: Color blindness", Nature Methods 2011).
_COLORS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
_SIZE = (960, 600)
_LEFT, _RIGHT, _TOP, _BOTTOM = 90, 30, 56, 74
_SCALE = 2  # drawn larger and averaged down: Pillow has no smooth lines
_INK, _GRID = "#30353d", "#e3e6ea"


@dataclass(frozen=True, kw_only=True)
class Line:
    """One curve: x rising, y from 0 to the top of its chart."""

    label: str
    x: FloatArray
    y: FloatArray


@dataclass(frozen=True, kw_only=True)
class Chart:
    """Shares or amounts over something.

    Attributes:
        title: Above the frame.
        x_label: With its unit.
        y_label: Of the share or the amount.
        lines: At most seven are told apart.
        log_x: Whether the x axis is logarithmic.
        marks: Places on the x axis to mark with a dashed line: thresholds.
        y_top: Upper end of the y axis, for amounts; None for shares.
    """

    title: str
    x_label: str
    y_label: str
    lines: Sequence[Line]
    log_x: bool = False
    marks: Sequence[float] = ()
    y_top: float | None = None


def draw_chart(chart: Chart) -> Image.Image:
    """The picture of a chart, 960 x 600."""
    canvas = Image.new("RGB", (_SIZE[0] * _SCALE, _SIZE[1] * _SCALE), "white")
    draw = ImageDraw.Draw(canvas)
    small, large = (ImageFont.load_default(size * _SCALE) for size in (17, 20))
    low, high = _range(chart)
    box = [v * _SCALE for v in (_LEFT, _TOP, _SIZE[0] - _RIGHT, _SIZE[1] - _BOTTOM)]

    def place_x(x: FloatArray | float) -> FloatArray:
        values = np.log10(np.maximum(x, 1e-300)) if chart.log_x else np.asarray(x, float)
        return box[0] + (values - low) / (high - low) * (box[2] - box[0])

    def place_y(y: FloatArray | float) -> FloatArray:
        return box[3] - np.asarray(y, float) / (chart.y_top or 1.0) * (box[3] - box[1])

    levels = _ticks(0.0, chart.y_top, False) if chart.y_top else np.linspace(0, 1, 6).tolist()
    for value in levels:
        level = float(place_y(value))
        text = f"{value:g}" if chart.y_top else f"{value:.0%}"
        draw.line([box[0], level, box[2], level], fill=_GRID, width=_SCALE)
        draw.text((box[0] - 10 * _SCALE, level), text, fill=_INK, font=small, anchor="rm")
    for tick in _ticks(low, high, chart.log_x):
        x = float(place_x(tick))
        draw.line([x, box[1], x, box[3]], fill=_GRID, width=_SCALE)
        draw.text((x, box[3] + 8 * _SCALE), f"{tick:g}", fill=_INK, font=small, anchor="mt")
    for mark in chart.marks:
        x = float(place_x(mark))
        if box[0] <= x <= box[2]:
            for dash in range(int(box[1]), int(box[3]), 12 * _SCALE):
                draw.line([x, dash, x, dash + 6 * _SCALE], fill="#8a929c", width=_SCALE)
    draw.rectangle(box, outline=_INK, width=_SCALE)
    for number, line in enumerate(chart.lines):
        color = _COLORS[number % len(_COLORS)]
        inside = np.isfinite(line.x)
        xs = np.clip(place_x(line.x[inside]), box[0], box[2])
        points = np.stack([xs, place_y(line.y[inside])], axis=1)
        if len(points) > 1:
            draw.line([tuple(p) for p in points], fill=color, width=3 * _SCALE, joint="curve")
    _legend(draw, chart, small, box)
    draw.text((box[0], 16 * _SCALE), chart.title, fill=_INK, font=large)
    middle = (box[0] + box[2]) / 2
    draw.text((middle, box[3] + 38 * _SCALE), chart.x_label, fill=_INK, font=small, anchor="mt")
    draw.text((box[2], 20 * _SCALE), chart.y_label, fill=_INK, font=small, anchor="rt")
    return canvas.resize(_SIZE, Image.Resampling.LANCZOS)


def _range(chart: Chart) -> tuple[float, float]:
    """Ends of the x axis, as exponents of ten if it is logarithmic."""
    values = np.concatenate([np.zeros(0), *(line.x for line in chart.lines)])
    values = values[np.isfinite(values) & ((values > 0) | (not chart.log_x))]
    if not chart.log_x:
        return 0.0, float(np.max(values, initial=1.0))
    ends = [*values, *chart.marks] or [1.0]
    low, high = math.floor(math.log10(min(ends))), math.ceil(math.log10(max(ends)))
    return float(low), float(max(high, low + 1))


def _ticks(low: float, high: float, log_x: bool) -> list[float]:
    if log_x:
        apart = max(1, math.ceil((high - low) / 8))
        return [10.0**e for e in range(int(low), int(high) + 1, apart)]
    raw = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(f * power for f in (1, 2, 5, 10) if f * power >= raw * 0.999)
    return [float(t) for t in np.arange(low, high + step / 1e6, step)]


def _legend(draw: ImageDraw.ImageDraw, chart: Chart, font: Font, box: list[int]) -> None:
    if len(chart.lines) < 2:
        return
    height = 24 * _SCALE
    width = max(draw.textlength(line.label, font=font) for line in chart.lines) + 52 * _SCALE
    # rising shares leave the lower right free; amounts are given a top with room below it
    left, bottom = box[2] - width - 10 * _SCALE, box[3] - 10 * _SCALE
    if chart.y_top:
        bottom = box[1] + height * len(chart.lines) + 16 * _SCALE
    top = bottom - height * len(chart.lines) - 6 * _SCALE
    draw.rectangle([left, top, box[2] - 10 * _SCALE, bottom], fill="white", outline=_GRID)
    for number, line in enumerate(chart.lines):
        y = top + (number + 0.6) * height
        color = _COLORS[number % len(_COLORS)]
        draw.line([left + 10 * _SCALE, y, left + 38 * _SCALE, y], fill=color, width=4 * _SCALE)
        draw.text((left + 46 * _SCALE, y), line.label, fill=_INK, font=font, anchor="lm")
