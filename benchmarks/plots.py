"""Matches drawn over two photos, with Pillow alone."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from matching.errors import InputError
from matching.files import PathLike, atomic_file
from matching.images import read_image
from matching.matcher import ImageLike
from matching.pointmap import PairGeometry
from matching.types import Matches

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
# Scores run from blue over green to yellow: even in lightness, readable by the colour-blind, and
# apart from the outliers' red, which also differ in their end marks.
_LOW_TO_HIGH = np.array([(59, 110, 255), (34, 197, 240), (74, 222, 128), (253, 231, 60)], float)
_OUTLIER = (255, 56, 92)
_FAINTEST = 0.35  # strength of a match whose score is 0
BACKGROUND = (17, 20, 26)
TEXT = (226, 230, 237)
GAP_PX = 6  # between the two photos
MIN_WIDTH_PX = 640  # of the picture: the legend needs it even under two narrow photos
_DIMMED = 0.8  # photos are darkened a little, so that bright lines stand out on white walls
_SUPERSAMPLING = 2  # lines are drawn this much larger and averaged down: Pillow has no smooth lines


def check_picture_name(path: PathLike) -> str:
    """The ending of a picture that can be written.

    Raises:
        matching.errors.InputError: It is of no known format.
    """
    suffix = Path(path).suffix.lower()
    if suffix not in _FORMATS:
        raise InputError(
            f"'{path}': pictures are written as {', '.join(sorted(_FORMATS))}, not '{suffix}'"
        )
    return suffix


def plot_matches(
    image0: ImageLike,
    image1: ImageLike,
    matches: Matches,
    path: PathLike,
    *,
    max_matches: int = 200,
    inlier_mask: NDArray[np.bool_] | None = None,
    sure_score: float | None = None,
    geometry: PairGeometry | None = None,
    photo_size_px: int = 900,
) -> None:
    """Draw matches over two photos side by side and write the picture.

    Args:
        image0: The left photo: a path or an upright array (H, W, 3) RGB or (H, W) grey, uint8.
        image1: The right photo.
        matches: What to draw, in pixels of the upright photos.
        path: The picture: PNG, JPEG or WebP by its ending.
        max_matches: At most this many are drawn, evenly spread over the ranks, so that the picture
            shows the weak ones as well as the best.
        inlier_mask: (M,) True where a match agrees with the geometry. Outliers are then drawn in
            red with crosses at their ends.
        sure_score: Score above which a match counts as sure, of a matcher whose scores lie in
            [0, 1] (`Matcher.sure_score`): colours then tell the score itself, and what is not sure
            fades. None: colours tell ranks.
        geometry: Point maps of the two photos; their depths and confidences are drawn below.
        photo_size_px: Longer side of each photo in the picture.

    Raises:
        matching.errors.InputError: A photo cannot be read or the ending is of no known format.
    """
    suffix = check_picture_name(path)
    captions = [
        str(Path(image).name) if not isinstance(image, np.ndarray) else f"image {side}"
        for side, image in enumerate((image0, image1))
    ]
    picture = draw_matches(
        read_image(image0),
        read_image(image1),
        matches,
        captions=captions,
        max_matches=max_matches,
        inlier_mask=inlier_mask,
        sure_score=sure_score,
        photo_size_px=photo_size_px,
    )
    if geometry is not None:
        from benchmarks.pointmap_pictures import draw_pointmaps, stack  # draws with this file

        maps = draw_pointmaps(geometry, captions=captions, photo_size_px=photo_size_px)
        picture = stack([picture, maps])
    with atomic_file(path) as temporary:
        picture.save(temporary, format=_FORMATS[suffix], quality=90)


def draw_matches(
    image0: NDArray[np.uint8],
    image1: NDArray[np.uint8],
    matches: Matches,
    *,
    captions: Sequence[str] = ("image 0", "image 1"),
    max_matches: int = 200,
    inlier_mask: NDArray[np.bool_] | None = None,
    sure_score: float | None = None,
    photo_size_px: int = 900,
) -> Image.Image:
    """The picture that `plot_matches` writes.

    Args:
        image0: Left photo, (H0, W0, 3) uint8; upright.
        image1: Right photo, (H1, W1, 3) uint8.
        matches: In pixels of the two photos.
        captions: A name for each photo.
        max_matches: See `plot_matches`.
        inlier_mask: See `plot_matches`.
        sure_score: See `plot_matches`.
        photo_size_px: See `plot_matches`.
    """
    if max_matches < 0:
        raise ValueError(f"max_matches must be >= 0, got {max_matches}")
    if inlier_mask is not None and inlier_mask.shape != (len(matches),):
        raise ValueError(f"inlier_mask must be ({len(matches)},), got {inlier_mask.shape}")
    photos = [fit_photo(image, photo_size_px) for image in (image0, image1)]
    height = max(photo.height for photo in photos)
    offsets = np.array(
        [
            (0, (height - photos[0].height) // 2),
            (photos[0].width + GAP_PX, (height - photos[1].height) // 2),
        ],
        float,
    )
    width = max(photos[0].width + GAP_PX + photos[1].width, MIN_WIDTH_PX)
    canvas = Image.new("RGB", (width, height), BACKGROUND)
    for photo, (x, y) in zip(photos, offsets, strict=True):
        canvas.paste(photo.point(lambda value: value * _DIMMED), (int(x), int(y)))

    rows = evenly_spread(len(matches), max_matches)
    scales = [
        np.array([photo.width / image.shape[1], photo.height / image.shape[0]])
        for photo, image in zip(photos, (image0, image1), strict=True)
    ]
    ends0 = matches.keypoints0[rows] * scales[0] + offsets[0]
    ends1 = matches.keypoints1[rows] * scales[1] + offsets[1]
    inliers = np.ones(len(rows), bool) if inlier_mask is None else inlier_mask[rows]
    colors = score_colors(matches.scores, sure_score)[rows]
    canvas = _draw_lines(canvas, ends0, ends1, colors, inliers)
    return _add_legend(
        canvas, photos[0].width, matches, captions, len(rows), inlier_mask, sure_score
    )


def score_colors(
    scores: NDArray[np.floating], sure_score: float | None = None
) -> NDArray[np.uint8]:
    """RGBA colours from blue (low) to yellow (high), (M, 4).

    Args:
        scores: (M,).
        sure_score: See `plot_matches`: blue and faint at 0, green from here on, yellow at 1. None:
            from the lowest to the highest of the given scores by rank, all of one strength; only
            their order means the same with every matcher: odds, for one, have a few values a
            hundred times as large as all others.
    """
    scores = np.nan_to_num(np.asarray(scores, float))
    if sure_score is None:
        level, strength = _ranks(scores), np.ones(len(scores))
    else:
        scores = scores.clip(0, 1)
        unsure = np.interp(scores, [0, sure_score], [0, 1 / 3])
        level = np.where(
            scores > sure_score, np.interp(scores, [sure_score, 1], [2 / 3, 1]), unsure
        )
        strength = np.interp(scores, [0, sure_score], [_FAINTEST, 1])
    stops = np.linspace(0, 1, len(_LOW_TO_HIGH))
    channels = [np.interp(level, stops, _LOW_TO_HIGH[:, c]) for c in range(3)]
    return np.stack([*channels, 255 * strength], 1).round().astype(np.uint8)


def _ranks(scores: NDArray[np.floating]) -> NDArray[np.floating]:
    """Ranks from 0 to 1, (M,); equal scores have one.

    Scores that are all the same say nothing: they are drawn green, as neither good nor bad.
    """
    values, ranks = np.unique(scores, return_inverse=True)
    return ranks / (len(values) - 1) if len(values) > 1 else np.full(len(ranks), 2 / 3)


def fit_photo(image: NDArray[np.uint8], longer_side_px: int) -> Image.Image:
    """The photo scaled so that its longer side has the given length."""
    photo = Image.fromarray(image).convert("RGB")
    scale = longer_side_px / max(photo.size)
    size = (max(1, round(photo.width * scale)), max(1, round(photo.height * scale)))
    return photo.resize(size, Image.Resampling.LANCZOS, reducing_gap=3.0)


def evenly_spread(count: int, wanted: int) -> NDArray[np.int64]:
    """``wanted`` rows of ``count``, evenly spaced, the first always among them."""
    wanted = min(count, wanted)
    return (np.arange(wanted) * count / max(wanted, 1)).astype(np.int64)


def _draw_lines(
    canvas: Image.Image,
    ends0: NDArray[np.floating],
    ends1: NDArray[np.floating],
    colors: NDArray[np.uint8],
    inliers: NDArray[np.bool_],
) -> Image.Image:
    """Lines with end marks over the canvas; outliers below the inliers."""
    s = _SUPERSAMPLING
    overlay = Image.new("RGBA", (canvas.width * s, canvas.height * s))
    draw = ImageDraw.Draw(overlay)
    radius = 3 * s
    # the best inliers last, so that they lie on top
    order = np.concatenate([np.flatnonzero(~inliers), np.flatnonzero(inliers)[::-1]])
    for row in order:
        a, b = ends0[row] * s, ends1[row] * s
        if inliers[row]:
            *color, alpha = (int(c) for c in colors[row])
            draw.line([*a, *b], fill=(*color, 190 * alpha // 255), width=s + 1)
            for x, y in (a, b):
                draw.ellipse(
                    [x - radius, y - radius, x + radius, y + radius],
                    fill=(*color, alpha),
                    outline=(0, 0, 0, 150 * alpha // 255),
                )
        else:
            draw.line([*a, *b], fill=(*_OUTLIER, 130), width=s)
            for x, y in (a, b):
                for sign in (1, -1):
                    arm = [x - radius, y - sign * radius, x + radius, y + sign * radius]
                    draw.line(arm, fill=(*_OUTLIER, 255), width=s + 1)
    overlay = overlay.resize(canvas.size, Image.Resampling.BOX)
    return Image.alpha_composite(canvas.convert("RGBA"), overlay).convert("RGB")


def _add_legend(
    canvas: Image.Image,
    left_width: int,
    matches: Matches,
    captions: Sequence[str],
    num_drawn: int,
    inlier_mask: NDArray[np.bool_] | None,
    sure_score: float | None,
) -> Image.Image:
    """The canvas with a strip below: names, counts and what the colours mean."""
    font_px = max(11, round(canvas.width / 95))
    font = picture_font("".join(captions), font_px)
    line_px, margin = round(font_px * 1.7), round(font_px * 0.7)
    summary = f"{len(matches)} matches"
    if inlier_mask is not None:
        summary += f", {int(inlier_mask.sum())} inliers"
    if sure_score is not None:
        summary += f", {matches.num_above(sure_score)} sure"
    if num_drawn < len(matches):
        summary += f" ({num_drawn} drawn)"

    picture = Image.new("RGB", (canvas.width, canvas.height + 2 * line_px + margin), BACKGROUND)
    picture.paste(canvas, (0, 0))
    draw = ImageDraw.Draw(picture)
    y: float = canvas.height + margin / 2
    starts = (margin, left_width + GAP_PX + margin)
    rooms = (left_width, canvas.width - left_width - GAP_PX)
    for start, caption, room in zip(starts, captions, rooms, strict=True):
        text = _shortened(caption, font, room - 2 * margin)
        draw.text((start, y + line_px / 2), text, fill=TEXT, font=font, anchor="lm")

    y += 1.5 * line_px
    draw.text((margin, y), summary, fill=TEXT, font=font, anchor="lm")
    x: float = margin + font.getlength(summary) + 3 * margin
    if len(matches):
        low, high = float(np.min(matches.scores)), float(np.max(matches.scores))
        text = f"score, by rank: {low:.3g}"
        if sure_score is not None:
            low, high, text = 0.0, 1.0, f"score, sure above {sure_score:g}: 0"
        if high > low:
            draw.text((x, y), text, fill=TEXT, font=font, anchor="lm")
            x += font.getlength(text) + margin
            bar_px = 8 * font_px
            for step, color in enumerate(score_colors(np.linspace(low, high, bar_px), sure_score)):
                strength = color[3] / 255
                fill = tuple(round(strength * c) for c in color[:3].tolist())
                draw.line([x + step, y - font_px / 2, x + step, y + font_px / 2], fill=fill)
            x += bar_px + margin
            text = f"{high:.3g}"
            draw.text((x, y), text, fill=TEXT, font=font, anchor="lm")
            x += font.getlength(text) + 3 * margin
    if inlier_mask is not None and not inlier_mask.all():
        draw.line([x, y, x + 3 * font_px, y], fill=_OUTLIER, width=2)
        draw.text((x + 3 * font_px + margin, y), "outlier", fill=TEXT, font=font, anchor="lm")
    return picture


def picture_font(text: str, size_px: int) -> Font:
    """Pillow's own font, which knows ASCII only; for other names one of the system, if any."""
    if not text.isascii():
        for name in ("DejaVuSans.ttf", "NotoSans-Regular.ttf", "Arial Unicode.ttf", "arial.ttf"):
            try:
                return ImageFont.truetype(name, size_px)
            except OSError:
                continue
    return ImageFont.load_default(size_px)


def _shortened(text: str, font: Font, room: float) -> str:
    """The text, with its middle replaced by dots if it is wider than the room."""
    short = text
    keep = len(text)
    while keep > 2 and font.getlength(short) > room:
        keep -= 1
        short = text[: keep // 2] + "..." + text[len(text) - (keep - keep // 2) :]
    return short
