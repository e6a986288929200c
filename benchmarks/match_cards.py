"""Match pictures of the HTML report: each query beside the map photo it shares most with."""

import base64
import html
import io
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.number_text import length, number
from benchmarks.plots import draw_matches
from benchmarks.pointmap_pictures import draw_pointmaps
from benchmarks.report import QueryScore
from benchmarks.reprojection_pictures import draw_reprojections
from localize import Localization
from mapping import Map
from matching.errors import InputError
from matching.files import PathLike
from matching.images import read_image
from matching.matcher import Matcher
from matching.progress import Progress
from matching.types import Matches


@dataclass(frozen=True, kw_only=True)
class HtmlReportOptions:
    """What goes into the report; the defaults keep it below 15 MB."""

    max_queries_drawn: int = 24  # with more queries, the failed and the least sure ones are drawn
    max_matches_drawn: int = 120  # per picture
    max_retrieved_drawn: int = 6  # small pictures of retrieved map photos per query
    max_points: int = 20_000  # of the map, in the 3D view
    max_points_reprojected: int = 400  # matches whose map points are drawn in a query
    photo_size_px: int = 640  # longer side of a photo in a match picture
    jpeg_quality: int = 80

    def __post_init__(self) -> None:
        for name in (
            *("max_queries_drawn", "max_matches_drawn", "max_retrieved_drawn"),
            *("max_points", "max_points_reprojected"),
        ):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        if self.photo_size_px < 16:
            raise ValueError(f"photo_size_px must be >= 16, got {self.photo_size_px}")
        if not 1 <= self.jpeg_quality <= 95:
            raise ValueError(f"jpeg_quality must be in 1..95, got {self.jpeg_quality}")


def drawn_queries(
    results: Mapping[str, Localization], options: HtmlReportOptions
) -> list[Localization]:
    """The queries that get a card: all, or those that went wrong or nearly did."""
    if len(results) <= options.max_queries_drawn:
        return list(results.values())
    worst = sorted(results.values(), key=lambda result: (result.success, result.confidence))
    return worst[: options.max_queries_drawn]


def match_cards(
    scene: Map,
    results: Mapping[str, Localization],
    *,
    scores: Mapping[str, QueryScore],
    length_unit: str,
    query_images: PathLike | Mapping[str, PathLike],
    map_images: PathLike | None,
    matcher: Matcher | None,
    options: HtmlReportOptions,
    progress: Progress,
) -> str:
    """The section with a card per photo: its matches, its numbers, what retrieval found.

    Args: see `benchmarks.html_report.write_html_report`; ``scores`` by query name, ``length_unit``
    that of the errors.
    """
    chosen = drawn_queries(results, options)
    note = ""
    if len(chosen) < len(results):
        note = f" Shown are {len(chosen)} of {len(results)} photos: the failed and the least sure."
    cards = []
    thumbnails: dict[str, str | None] = {}
    for result in progress(chosen, "drawing matches", len(chosen)):
        query = (
            query_images.get(result.name)
            if isinstance(query_images, Mapping)
            else Path(query_images) / result.name
        )
        cards.append(
            f'<div class="card" id="{anchor(result.name)}">'
            f"{_card_head(result, scores.get(result.name), length_unit)}"
            f"{_match_picture(scene, result, query, map_images, options)}"
            f"{_reprojections(scene, result, query, options)}"
            f"{_pointmaps(scene, result, query, matcher, options)}"
            f"{_retrieved(scene, result, map_images, options, thumbnails)}</div>"
        )
    return (
        '<h2>Matches</h2><p class="muted">Left the photo, right the map photo that shares most '
        "matches with it. Dots: matches the pose explains, from blue (least sure) to yellow "
        "(surest), green where all are alike; red crosses: matches it rejects. Tap a "
        f"picture for its full size.{note}</p>" + "\n".join(cards)
    )


def _card_head(result: Localization, score: QueryScore | None, unit: str) -> str:
    facts = [f"{result.num_inliers} of {result.num_matches} matches are inliers"]
    if result.success:
        if score is not None and score.rotation_error_deg is not None:
            position = length(score.translation_error_m, unit)
            facts.insert(0, f"off by {position}, {number(score.rotation_error_deg)}°")
        facts.append(f"confidence {result.confidence:.2f}")
    else:
        facts.insert(0, html.escape(result.reason))
    return (
        f'<div class="head"><h3>{html.escape(result.name)}</h3>{badge(result)}'
        f'<span class="muted">{" · ".join(facts)}</span></div>'
    )


def _match_picture(
    scene: Map,
    result: Localization,
    query: PathLike | None,
    map_images: PathLike | None,
    options: HtmlReportOptions,
) -> str:
    photo = _read(scene, query)
    if photo is None:
        return '<p class="muted">The photo cannot be read.</p>'
    best = best_map_photo(scene, result)
    partner = None
    if best is not None and map_images is not None:
        partner = _read(scene, Path(map_images) / best.name)
    if best is None or partner is None:
        why = (
            "No matches to draw."
            if best is None
            else f"The map photo '{best.name}' cannot be read, so no matches are drawn: give the "
            "folder of the map's photos (--map-images)."
        )
        picture = Image.fromarray(photo)
        picture.thumbnail((options.photo_size_px, options.photo_size_px))
        image = _jpeg(picture, f"the photo {result.name}", options.jpeg_quality)
        return f'<div class="alone">{image}<p class="muted">{html.escape(why)}</p></div>'
    picture = draw_matches(
        photo,
        partner,
        best.matches,
        captions=(result.name, best.name),
        max_matches=options.max_matches_drawn,
        inlier_mask=best.inlier_mask,
        photo_size_px=options.photo_size_px,
    )
    alt = f"matches between {result.name} and {best.name}"
    return f'<div class="matches">{_jpeg(picture, alt, options.jpeg_quality)}</div>'


def _reprojections(
    scene: Map, result: Localization, query: PathLike | None, options: HtmlReportOptions
) -> str:
    """The query with the map points that its pose projects into it."""
    photo = _read(scene, query) if result.success else None
    picture = None
    if photo is not None:
        picture = draw_reprojections(
            photo,
            scene,
            result,
            max_points=options.max_points_reprojected,
            photo_size_px=options.photo_size_px,
        )
    if picture is None:
        return ""
    image = _jpeg(picture, f"reprojections in {result.name}", options.jpeg_quality)
    return _details("Map points as the pose projects them", image)


def _pointmaps(
    scene: Map,
    result: Localization,
    query: PathLike | None,
    matcher: Matcher | None,
    options: HtmlReportOptions,
) -> str:
    """What the network sees in the query and in the map photo that shares most with it."""
    best = None if matcher is None else best_map_photo(scene, result)
    photo = None if best is None else _read(scene, query)
    if matcher is None or best is None or photo is None:
        return ""
    seen = matcher.predict(matcher.encode_image(photo), scene.load_view(best.name))
    if seen is None:
        return ""
    picture = draw_pointmaps(
        seen, captions=(result.name, best.name), photo_size_px=options.photo_size_px
    )
    image = _jpeg(picture, f"point maps of {result.name} and {best.name}", options.jpeg_quality)
    return _details("Point maps of both photos", image)


def _details(text: str, image: str) -> str:
    return f'<details><summary>{text}</summary><div class="matches">{image}</div></details>'


@dataclass(frozen=True, kw_only=True)
class MapPhoto:
    """A map photo with the query's matches that have an observation in it."""

    name: str
    matches: Matches
    inlier_mask: NDArray[np.bool_]


def best_map_photo(scene: Map, result: Localization) -> MapPhoto | None:
    """The retrieved map photo that observes most of the inliers (then: of the matches)."""
    best: MapPhoto | None = None
    scores = np.asarray(result.scores, np.float32)
    if len(scores) != len(result.points3D_ids):  # results read from a file have none
        scores = np.ones(len(result.points3D_ids), np.float32)
    for name in result.retrieved:
        point_ids = scene.point3D_ids(name)
        rows_with_point = np.flatnonzero(point_ids >= 0)
        order = rows_with_point[np.argsort(point_ids[rows_with_point], kind="stable")]
        places = np.searchsorted(point_ids[order], result.points3D_ids)
        seen = places < len(order)
        seen[seen] = point_ids[order[places[seen]]] == result.points3D_ids[seen]
        if not seen.any():
            continue
        mask = result.inlier_mask[seen]
        if best is not None and (mask.sum(), len(mask)) <= (
            best.inlier_mask.sum(),
            len(best.inlier_mask),
        ):
            continue
        rows = order[places[seen]]
        best = MapPhoto(
            name=name,
            matches=Matches(
                keypoints0=result.points2D[seen].astype(np.float32),
                keypoints1=scene.load_view(name).keypoints[rows].astype(np.float32),
                scores=scores[seen],
            ),
            inlier_mask=mask,
        )
    return best


def _retrieved(
    scene: Map,
    result: Localization,
    map_images: PathLike | None,
    options: HtmlReportOptions,
    thumbnails: dict[str, str | None],
) -> str:
    """Small pictures of the map photos that retrieval found; each is encoded once."""
    if map_images is None or not result.retrieved:
        return ""
    parts = []
    for rank, name in enumerate(result.retrieved[: options.max_retrieved_drawn], start=1):
        if name not in thumbnails:
            photo = _read(scene, Path(map_images) / name)
            thumbnails[name] = None
            if photo is not None:
                picture = Image.fromarray(photo)
                picture.thumbnail((236, 236))  # twice the size it is shown in, for dense screens
                thumbnails[name] = _jpeg(picture, f"map photo {name}", options.jpeg_quality)
        if thumbnails[name] is not None:
            caption = f"{rank}. {html.escape(name)}"
            parts.append(f"<figure>{thumbnails[name]}<figcaption>{caption}</figcaption></figure>")
    if not parts:
        return ""
    more = len(result.retrieved) - options.max_retrieved_drawn
    text = "Retrieved map photos, best first" + (f" (and {more} more)" if more > 0 else "")
    return f'<details><summary>{text}</summary><div class="thumbs">{"".join(parts)}</div></details>'


def badge(result: Localization) -> str:
    if result.success:
        return '<span class="badge good">localized</span>'
    return '<span class="badge bad">not localized</span>'


def anchor(name: str) -> str:
    return "photo-" + base64.urlsafe_b64encode(name.encode()).decode().rstrip("=")


def _read(scene: Map, path: PathLike | None) -> NDArray[np.uint8] | None:
    """A photo, turned as localization turned it; None if it cannot be read.

    A photo that has moved since is no reason to fail a run that is otherwise done.
    """
    if path is None:
        return None
    upright = bool(scene.info.options["apply_exif_orientation"])
    try:
        return read_image(path, apply_exif_orientation=upright)
    except InputError:
        return None


def _jpeg(picture: Image.Image, alt: str, quality: int) -> str:
    """An <img> element that holds the picture itself."""
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=quality, optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode()
    return (
        f'<img src="data:image/jpeg;base64,{data}" width="{picture.width}" '
        f'height="{picture.height}" alt="{html.escape(alt)}" decoding="async">'
    )
