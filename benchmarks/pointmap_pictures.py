"""Pictures of what a network says about two photos: depths and how sure it is of them."""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.plots import BACKGROUND, GAP_PX, MIN_WIDTH_PX, TEXT, picture_font
from matching.pointmap import PairGeometry

FloatArray = NDArray[np.float64]

# near to far and unsure to sure: lightness grows evenly, and the colour-blind see the order too
_STOPS = np.array(
    [(48, 18, 59), (71, 80, 196), (38, 150, 190), (72, 200, 120), (190, 222, 60), (253, 231, 37)],
    float,
)
_UNKNOWN = (60, 60, 66)  # no point before the camera
_LEAST_SPAN = 1e-3  # of logarithms: values that differ by less are drawn as equal


def draw_pointmaps(
    geometry: PairGeometry,
    *,
    captions: Sequence[str] = ("image 0", "image 1"),
    photo_size_px: int = 900,
) -> Image.Image:
    """Depth maps of two photos side by side, below them their confidences.

    Args:
        geometry: Point maps of both photos.
        captions: A name for each photo.
        photo_size_px: Longer side of each map in the picture.
    """
    depths = [geometry.depth(view).astype(np.float64) for view in (0, 1)]
    confidences = [
        np.asarray(c, np.float64)
        for c in (geometry.confidence_in_camera0[0], geometry.confidence_in_camera1[1])
    ]
    unit = " m" if geometry.metric else ""
    rows = [
        _row(
            [np.log(np.where(d > 0, d, np.nan)) for d in depths],
            [f"depth of {caption}" for caption in captions],
            photo_size_px,
            unit,
        ),
        _row(
            [np.log(np.maximum(c, 1e-9)) for c in confidences],
            [f"confidence of {caption}" for caption in captions],
            photo_size_px,
        ),
    ]
    return stack(rows)


def stack(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures below each other."""
    width = max(picture.width for picture in pictures)
    canvas = Image.new("RGB", (width, sum(p.height for p in pictures)), BACKGROUND)
    y = 0
    for picture in pictures:
        canvas.paste(picture, (0, y))
        y += picture.height
    return canvas


def value_colors(values: FloatArray, low: float, high: float) -> NDArray[np.uint8]:
    """RGB colours of values (...,) from dark (low) to bright (high); grey where not finite."""
    level = np.clip((values - low) / max(high - low, 1e-12), 0, 1)
    known = np.isfinite(values)
    level = np.where(known, level, 0.0)
    stops = np.linspace(0, 1, len(_STOPS))
    colors = np.stack([np.interp(level, stops, _STOPS[:, c]) for c in range(3)], -1)
    return np.where(known[..., None], colors, np.array(_UNKNOWN)).round().astype(np.uint8)


def _row(
    maps: Sequence[FloatArray], captions: Sequence[str], size_px: int, unit: str = ""
) -> Image.Image:
    """Two maps of logarithms on one scale of colours, with captions and the scale below."""
    finite = np.concatenate([m[np.isfinite(m)] for m in maps])
    low, high = np.percentile(finite, [2, 98]) if len(finite) else (0.0, 1.0)
    high = max(high, low + _LEAST_SPAN)
    pictures = []
    for values in maps:
        picture = Image.fromarray(value_colors(values, float(low), float(high)))
        scale = size_px / max(picture.size)
        size = (max(1, round(picture.width * scale)), max(1, round(picture.height * scale)))
        pictures.append(picture.resize(size, Image.Resampling.BILINEAR))
    height = max(picture.height for picture in pictures)
    width = max(pictures[0].width + GAP_PX + pictures[1].width, MIN_WIDTH_PX)
    font_px = max(11, round(width / 95))
    font = picture_font("".join(captions), font_px)
    line_px, margin = round(font_px * 1.7), round(font_px * 0.7)
    canvas = Image.new("RGB", (width, height + 2 * line_px + margin), BACKGROUND)
    draw = ImageDraw.Draw(canvas)
    x = 0
    for picture, caption in zip(pictures, captions, strict=True):
        canvas.paste(picture, (x, (height - picture.height) // 2))
        middle = height + margin / 2 + line_px / 2
        draw.text((x + margin, middle), caption, fill=TEXT, font=font, anchor="lm")
        x += picture.width + GAP_PX
    middle = height + margin / 2 + 1.5 * line_px
    ends = told_apart(float(np.exp(low)), float(np.exp(high)))
    draw.text((margin, middle), ends[0] + unit, fill=TEXT, font=font, anchor="lm")
    start = margin + font.getlength(ends[0] + unit) + margin
    bar_px = 10 * font_px
    colors = value_colors(np.arange(bar_px, dtype=float), 0, bar_px - 1)
    for step, color in enumerate(colors):
        place = [start + step, middle - font_px / 2, start + step, middle + font_px / 2]
        draw.line(place, fill=tuple(int(c) for c in color))
    end = start + bar_px + margin
    draw.text((end, middle), ends[1] + unit, fill=TEXT, font=font, anchor="lm")
    return canvas


def told_apart(low: float, high: float) -> tuple[str, str]:
    """Both numbers with three digits, or as many more as it takes to tell them apart."""
    for digits in range(3, 8):
        texts = f"{low:.{digits}g}", f"{high:.{digits}g}"
        if texts[0] != texts[1]:
            break
    return texts
