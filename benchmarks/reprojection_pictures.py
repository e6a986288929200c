"""A query photo with the map points that its pose projects into it."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.plots import evenly_spread, fit_photo, picture_font
from localize import Localization
from localize.pnp import reprojection_errors
from mapping import Map

_NEAR, _FAR = (74, 222, 128), (253, 186, 60)  # small and large errors of inliers
_OUTLIER = (255, 56, 92)
_SUPERSAMPLING = 2
_ENLARGED = 10  # how many times longer errors are drawn than they are


def draw_reprojections(
    photo: NDArray[np.uint8],
    scene: Map,
    result: Localization,
    *,
    max_points: int = 400,
    photo_size_px: int = 900,
) -> Image.Image | None:
    """Matched keypoints as dots, their errors as lines towards the projected map points.

    Args:
        photo: The query, upright, (H, W, 3).
        scene: The map.
        result: Of the query.
        max_points: At most so many matches are drawn, evenly spread over them.
        photo_size_px: Longer side of the picture.

    Returns:
        None for a query without a pose or without its matches (results read from a file).
    """
    pose, camera = result.cam_from_world, result.camera
    if pose is None or camera is None or not len(result.points3D_ids):
        return None
    points3D = scene.points3D(result.points3D_ids)
    errors = reprojection_errors(pose, camera, result.points2D, points3D)
    rows = np.flatnonzero(np.isfinite(errors))
    rows = rows[evenly_spread(len(rows), max_points)]
    projected = np.asarray(camera.img_from_cam(np.asarray(pose * points3D[rows])))
    picture = fit_photo(photo, photo_size_px)
    picture = picture.point(lambda value: value * 0.7)
    scale = picture.width / photo.shape[1] * _SUPERSAMPLING
    overlay = Image.new("RGBA", (picture.width * _SUPERSAMPLING, picture.height * _SUPERSAMPLING))
    draw = ImageDraw.Draw(overlay)
    inliers = result.inlier_mask[rows]
    worst = float(errors[rows][inliers].max()) if inliers.any() else 1.0
    for number in np.argsort(inliers, kind="stable"):  # inliers on top
        row, there = rows[number], projected[number]
        x, y = result.points2D[row] * scale
        if inliers[number]:
            level = float(errors[row]) / max(worst, 1e-9)
            color = tuple(round(a + (b - a) * level) for a, b in zip(_NEAR, _FAR, strict=True))
            end = (result.points2D[row] + _ENLARGED * (there - result.points2D[row])) * scale
            draw.line([x, y, *end], fill=(*color, 255), width=_SUPERSAMPLING)
            draw.ellipse([x - 4, y - 4, x + 4, y + 4], fill=(*color, 255))
        else:
            for sign in (1, -1):
                arm = [x - 4, y - sign * 4, x + 4, y + sign * 4]
                draw.line(arm, fill=(*_OUTLIER, 200), width=_SUPERSAMPLING)
    overlay = overlay.resize(picture.size, Image.Resampling.BOX)
    picture = Image.alpha_composite(picture.convert("RGBA"), overlay).convert("RGB")
    median = float(np.median(errors[result.inlier_mask])) if result.inlier_mask.any() else 0.0
    text = (
        f"median error {median:.2f} px, lines {_ENLARGED} times as long as the errors, "
        "crosses: rejected"
    )
    font_px = max(11, round(picture.width / 55))
    font = picture_font(text, font_px)
    canvas = Image.new("RGB", (picture.width, picture.height + 2 * font_px), (17, 20, 26))
    canvas.paste(picture, (0, 0))
    ImageDraw.Draw(canvas).text(
        (font_px, picture.height + font_px), text, fill=(226, 230, 237), font=font, anchor="lm"
    )
    return canvas
