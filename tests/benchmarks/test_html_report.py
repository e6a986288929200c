"""The HTML report: one file, offline, every query with its numbers, names from anywhere."""

import base64
import dataclasses
import io
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import plotly.graph_objects as go
import pycolmap
import pytest
from PIL import Image

from benchmarks import evaluate
from benchmarks.figures import error_figure, map_figure, timing_figure
from benchmarks.html_report import write_html_report
from benchmarks.match_cards import HtmlReportOptions, best_map_photo, drawn_queries
from benchmarks.number_text import length, number, seconds_text, threshold
from benchmarks.reprojection_pictures import draw_reprojections
from localize import Localization, Localizer
from mapping import Map, build_map
from matching.pointmap import PairGeometry
from matching.types import View
from tests.benchmarks.fakes import LocalizingMatcher
from tests.benchmarks.test_pointmap_pictures import geometry
from tests.mapping.fakes import FakeWorld

ODD_NAME = 'a <b>&"é ü.png'
BLACK = "black.png"


@dataclass(frozen=True)
class Run:
    """A localization run over a small world with known truth."""

    world: FakeWorld
    photos: Path
    scene: Map
    results: dict[str, Localization]
    truth: dict[str, pycolmap.Rigid3d]


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Run:
    world = FakeWorld(num_images=6)
    folder = tmp_path_factory.mktemp("report")
    photos = folder / "photos"
    names = world.write_photos(photos)
    names[3] = ODD_NAME
    (photos / "0003.png").rename(photos / ODD_NAME)
    world.write_photos(photos, {0: BLACK})
    matcher = LocalizingMatcher(world)
    queries = {3: ODD_NAME, 5: "0005.png"}
    model = world.model({n: name for n, name in names.items() if n not in queries})
    mapped = [image.name for image in model.images.values()]
    scene = build_map(
        photos, folder / "map", matcher, known_poses=model, image_names=sorted(mapped)
    )
    localizer = Localizer(scene, matcher)
    results = {
        name: localizer.localize(photos / name, world.camera, name=name)
        for name in [*queries.values(), BLACK]
    }
    truth = {name: world.poses[n] for n, name in queries.items()}
    return Run(world, photos, scene, results, truth | {BLACK: world.poses[1]})


class Page(HTMLParser):
    """Collects what a test asks of a page, and refuses elements that are not closed in order."""

    VOID = frozenset({"meta", "img", "br"})

    def __init__(self, text: str) -> None:
        super().__init__()
        self.stack: list[str] = []
        self.links: list[str] = []
        self.ids: list[str] = []
        self.pictures: list[Image.Image] = []
        self.rows: list[list[str]] = []
        self.scripts: list[str] = []
        self.feed(text)
        self.close()
        assert not self.stack

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        if tag not in self.VOID:
            self.stack.append(tag)
        self.links += [v or "" for k, v in attrs if k in ("src", "href", "data", "action")]
        if "id" in values:
            self.ids.append(values["id"] or "")
        if tag == "tr":
            self.rows.append([])
        if tag in ("td", "th"):
            self.rows[-1].append("")
        source = values.get("src")
        if tag == "img" and source is not None:
            data = base64.b64decode(source.removeprefix("data:image/jpeg;base64,"), validate=True)
            picture = Image.open(io.BytesIO(data))
            picture.load()
            assert f"{picture.width} {picture.height}" == f"{values['width']} {values['height']}"
            self.pictures.append(picture)

    def handle_endtag(self, tag: str) -> None:
        assert self.stack.pop() == tag

    def handle_data(self, data: str) -> None:
        if {"td", "th"} & set(self.stack):
            self.rows[-1][-1] += data
        if self.stack and self.stack[-1] == "script":
            self.scripts.append(data)

    def figures(self) -> dict[str, dict]:
        found = re.search(r"const FIGURES = (\{.*?\});\n", "".join(self.scripts), re.DOTALL)
        assert found is not None
        figures: dict[str, dict] = json.loads(found[1])
        return figures


def write(run: Run, folder: Path, **arguments: object) -> tuple[str, Page]:
    """The page without its scripts, and what is in it."""
    values: dict = {
        "query_images": run.photos,
        "map_images": run.photos,
        "report": evaluate(run.results, run.truth),
        "truth": run.truth,
        **arguments,
    }
    results = values.pop("results", run.results)
    write_html_report(folder / "report.html", run.scene, results, **values)
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text.partition("<script>")[0], Page(text)


def test_the_page_stands_alone_and_is_small(run: Run, tmp_path: Path) -> None:
    _, page = write(run, tmp_path, title='<script>alert("x")</script>')
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]
    assert len(text.encode()) < 15e6
    assert all(link.startswith(("data:image/", "#")) for link in page.links)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(page.ids)
    assert text.count("<script>") == 2  # plotly.js and ours; none came in through the title
    assert text.count("plotly.js v") == 1
    figures = page.figures()
    assert set(figures) <= set(page.ids) and "figure-map" in figures
    assert len(set(page.ids)) == len(page.ids)


def test_every_query_has_its_numbers(run: Run, tmp_path: Path) -> None:
    report = evaluate(run.results, run.truth)
    text, page = write(run, tmp_path, report=report)
    table = {row[0]: row for row in page.rows if len(row) > 5}
    header = table.pop("photo")
    assert list(table) == list(run.results)
    for score in report.per_query:
        row = dict(zip(header, table[score.name], strict=True))
        result = run.results[score.name]
        assert row["result"] == ("localized" if result.success else "not localized")
        assert row["inliers"] == str(result.num_inliers)
        if result.success:
            shown = float(row["position error (cm)"])
            assert score.translation_error_m is not None
            assert shown == pytest.approx(100 * score.translation_error_m, rel=0.01, abs=1e-4)
        else:
            assert row["position error (cm)"] == row["VCRE (px)"] == "–"
    reasons = {row[0]: row[1] for row in page.rows if len(row) == 2}
    assert reasons[BLACK] == run.results[BLACK].reason != ""
    assert "2 of 3 photos localized in a map of 4 photos" in text
    # every localized photo beside the map photo it matches, and the failed one alone
    assert sum(picture.width > picture.height * 2 for picture in page.pictures) == 2


def test_lines_join_the_same_point_of_the_place(run: Run) -> None:
    result = run.results[ODD_NAME]
    best = best_map_photo(run.scene, result)
    assert best is not None and best.inlier_mask.sum() > 50
    inliers = best.matches.select(best.inlier_mask)
    (number,) = [n for n, pose in run.world.poses.items() if _same(pose, run.scene, best.name)]
    pixels0, rows0 = run.world.project(3)
    pixels1, rows1 = run.world.project(number)
    row0 = rows0[np.linalg.norm(inliers.keypoints0[:, None] - pixels0[None], axis=2).argmin(1)]
    row1 = rows1[np.linalg.norm(inliers.keypoints1[:, None] - pixels1[None], axis=2).argmin(1)]
    assert (row0 == row1).mean() > 0.95  # two points may lie closer than the noise
    # no other retrieved photo observes more of the inliers
    others = [dataclasses.replace(result, retrieved=(name,)) for name in result.retrieved]
    counts = [0 if b is None else b.inlier_mask.sum() for b in map_best(run.scene, others)]
    assert best.inlier_mask.sum() == max(counts)


def map_best(scene: Map, results: list[Localization]) -> list:
    return [best_map_photo(scene, result) for result in results]


def _same(pose: pycolmap.Rigid3d, scene: Map, name: str) -> bool:
    return np.allclose(pose.matrix(), scene.cam_from_world(name).matrix())


def test_without_truth_or_map_photos_the_page_says_less(run: Run, tmp_path: Path) -> None:
    text, page = write(run, tmp_path, report=None, truth=None, map_images=tmp_path / "moved")
    assert "Accuracy" not in text and "position error" not in text
    assert set(page.figures()) == {"figure-map", "figure-time"}
    # the photos alone, and what needs no map photo: reprojections in the two that were localized
    assert len(page.pictures) == 3 + 2
    assert text.count("Map points as the pose projects them") == 2
    assert "cannot be read, so no matches are drawn" in text
    write(run, tmp_path, map_images=None, query_images={})  # photos of nothing at hand


def test_matches_have_their_confidence_and_the_network_its_say(run: Run, tmp_path: Path) -> None:
    best = best_map_photo(run.scene, run.results[ODD_NAME])
    assert best is not None and np.ptp(best.matches.scores) > 0
    stored = dataclasses.replace(run.results[ODD_NAME], scores=np.zeros(0, np.float32))
    unscored = best_map_photo(run.scene, stored)
    assert unscored is not None and (unscored.matches.scores == 1).all()

    class Seeing(LocalizingMatcher):
        def predict(self, view0: View, view1: View) -> PairGeometry:
            return geometry((64, 48), (64, 48))

    plain, page = write(run, tmp_path)
    text, with_maps = write(run, tmp_path, matcher=Seeing(run.world))
    assert text.count("Point maps of both photos") == 2  # of the two that were localized
    assert len(with_maps.pictures) == len(page.pictures) + 2
    assert "Point maps" not in plain


def test_reprojections_are_drawn_where_the_points_project(run: Run) -> None:
    result = run.results[ODD_NAME]
    photo = np.full((480, 640, 3), 128, np.uint8)
    picture = draw_reprojections(photo, run.scene, result, photo_size_px=640)
    assert picture is not None
    green = (np.asarray(picture)[:480].astype(int) @ [-1, 2, -1]) > 100
    marked = result.points2D[result.inlier_mask].astype(int)
    assert green[marked[:, 1].clip(0, 479), marked[:, 0].clip(0, 639)].mean() > 0.5
    few = draw_reprojections(photo, run.scene, result, max_points=1, photo_size_px=640)
    assert few is not None
    assert (np.asarray(few)[:480].astype(int) @ [-1, 2, -1] > 100).sum() < green.sum() / 10
    assert draw_reprojections(photo, run.scene, run.results[BLACK]) is None


@pytest.mark.parametrize(
    "errors", [[1.2], [0.03] * 3, [0.047, 0.06, 0.063, 0.14], [0.002, 0.5, 300], [1.04, 4.1]]
)
def test_axes_of_few_queries_have_ticks_apart(errors: list[float]) -> None:
    axis = error_figure(errors, "error", "cm").layout.xaxis
    low, high = axis.range
    assert 10**low < min(errors) and max(errors) < 10**high
    places = np.log10(axis.tickvals)
    assert 2 <= len(places) <= 7
    assert low <= places.min() and places.max() <= high
    assert np.diff(places).min() > 0.06 * (high - low)
    assert [float(text) for text in axis.ticktext] == pytest.approx(list(axis.tickvals))


def test_no_queries_and_one_that_is_no_photo(run: Run, tmp_path: Path) -> None:
    _, page = write(run, tmp_path, results={}, report=None, truth=None)
    assert "figure-map" in page.figures()
    (tmp_path / "bad.png").write_bytes(b"")
    failed = Localization(name="bad.png", success=False, reason="'bad.png' is empty (0 bytes)")
    text, _ = write(run, tmp_path, results={"bad.png": failed}, report=None, query_images=tmp_path)
    assert "The photo cannot be read" in text and "is empty (0 bytes)" in text


def test_of_many_queries_the_worst_are_drawn(run: Run, tmp_path: Path) -> None:
    good = run.results["0005.png"]
    results = {
        f"{k}.png": dataclasses.replace(good, name=f"{k}.png", confidence=k / 50) for k in range(50)
    }
    results[BLACK] = run.results[BLACK]
    options = HtmlReportOptions(max_queries_drawn=3)
    names = [result.name for result in drawn_queries(results, options)]
    assert names == [BLACK, "0.png", "1.png"]
    files = {name: run.photos / (BLACK if name == BLACK else "0005.png") for name in results}
    text, page = write(
        run, tmp_path, results=results, report=None, query_images=files, options=options
    )
    assert sum(name.startswith("photo-") for name in page.ids) == 3
    assert len([row for row in page.rows if len(row) > 5]) == 1 + 51
    assert "3 of 51 photos" in text


def test_a_file_that_cannot_be_written_keeps_the_old_one(run: Run, tmp_path: Path) -> None:
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OSError, match=r"report\.html"):
        write(run, tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["report.html"]


def test_the_map_figure_shows_every_camera_and_few_points(run: Run) -> None:
    estimated = _poses(run.results)
    figure = map_figure(run.scene, estimated, truth=run.truth, max_points=100)
    traces = {trace.name: trace for trace in figure.data if trace.mode != "lines"}
    assert len(traces["map photos (4)"].x) == 4
    assert len(traces["queries, estimated pose (2)"].x) == 2
    assert list(traces["queries not localized, true pose (1)"].text) == [BLACK]
    centre = run.truth["0005.png"].inverse().translation
    row = list(traces["queries, estimated pose (2)"].text).index("0005.png")
    shown = [traces["queries, estimated pose (2)"][axis][row] for axis in "xyz"]
    np.testing.assert_allclose(shown, centre, atol=0.05)
    assert traces["queries, estimated pose (2)"].text[1 - row] == "a &lt;b&gt;&amp;&quot;é ü.png"
    points = figure.data[0]
    assert 30 < len(points.x) <= 100
    axis = figure.layout.scene.xaxis.title.text
    assert axis == "x (m)"
    # up in the picture is against gravity, here the -y axis of the cameras
    assert figure.layout.scene.camera.up.y < -0.9


def _poses(results: Mapping[str, Localization]) -> dict[str, pycolmap.Rigid3d]:
    return {n: r.cam_from_world for n, r in results.items() if r.cam_from_world is not None}


@pytest.mark.parametrize(
    ("errors", "heights"),
    [([0.3, 0.1, np.inf, 0.2], [25, 50, 75]), ([np.inf], []), ([], []), ([0.0, 2.0], [50, 100])],
)
def test_the_error_curve_counts_failures(errors: list[float], heights: list[float]) -> None:
    figure = error_figure(errors, "position error", "cm")
    assert isinstance(figure, go.Figure)
    np.testing.assert_allclose(figure.data[0].y, heights)
    assert (np.diff(figure.data[0].x) >= 0).all()
    assert figure.layout.xaxis.title.text == "position error (cm)"


def test_times_are_means_per_step_without_the_total() -> None:
    figure = timing_figure([{"encode": 1.0, "pose": 0.5, "total": 1.5}, {"encode": 2.0}])
    assert dict(zip(figure.data[0].y, figure.data[0].x, strict=True)) == {
        "pose": 0.5,
        "encode": 1.5,
    }


def test_numbers_are_short_and_carry_units() -> None:
    assert [number(v) for v in (0, 0.012345, 1.2345, 123.456, 1e6, None, np.inf)] == [
        "0",
        "0.0123",
        "1.23",
        "123",
        "1000000",
        "–",
        "–",
    ]
    assert length(0.00341, "m") == "0.341 cm" and length(12.3, "m") == "12.3 m"
    assert length(0.5, "map units") == "0.500 map units" and length(None, "m") == "–"
    assert threshold("0.05m_0.5deg") == "5 cm, 0.5°" and threshold("5m_10deg") == "5 m, 10°"
    assert threshold("odd") == "odd"
    assert seconds_text(12.34) == "12.3 s" and seconds_text(600) == "10.0 min"


@pytest.mark.parametrize(
    "wrong",
    [{"max_queries_drawn": -1}, {"photo_size_px": 2}, {"jpeg_quality": 0}, {"jpeg_quality": 100}],
)
def test_wrong_options_are_refused(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        HtmlReportOptions(**wrong)
