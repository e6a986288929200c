"""The demo end to end: rendered place, own photos, reruns, and folders nobody wishes for."""

import dataclasses
import json
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import Image

from benchmarks import demo, rendered_place
from benchmarks.demo import DemoOptions, DemoResult, run_demo
from benchmarks.rendered_place import PlaceOptions, RenderedPlace, write_rendered_place
from localize import read_poses, read_results
from mapping import read_camera_list, read_model
from matching.errors import InputError
from matching.load import load_matcher
from matching.pointmap import PairGeometry
from matching.progress import silent
from matching.types import View
from tests.benchmarks.fakes import LocalizingMatcher
from tests.benchmarks.test_pointmap_pictures import geometry
from tests.mapping.fakes import FakeWorld

SMALL = PlaceOptions(num_map_photos=8, num_queries=3, image_width=320)  # of `rendered_place`
TINY = PlaceOptions(num_map_photos=2, num_queries=1, image_width=64)
FILES = ("report.html", "report.json", "poses.txt", "results.jsonl")


# ------------------------------------------------------------------------------- rendered place
@pytest.fixture(scope="module")
def rendered(
    rendered_place: RenderedPlace, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, DemoResult]:
    """The real demo with SIFT, the quicker one, on fewer photos that are rendered before."""
    out = tmp_path_factory.mktemp("rendered") / "demo"
    shutil.copytree(rendered_place.folder, out / "place")
    (out / demo._MARKER).write_text("{}")  # as an interrupted demo leaves it
    before = {path: path.stat().st_mtime_ns for path in (out / "place").rglob("*.jpg")}
    result = run_demo(out, matcher=load_matcher("sift"), options=DemoOptions(place=SMALL))
    assert {path: path.stat().st_mtime_ns for path in (out / "place").rglob("*.jpg")} == before
    return out, result


def test_the_demo_localizes_its_queries_to_centimetres(
    rendered: tuple[Path, DemoResult],
) -> None:
    out, result = rendered
    report = result.report
    assert (report.num_queries, report.num_localized) == (3, 3)
    assert report.recall["0.25m_2deg"] == 1.0
    assert report.median_translation_error_m is not None
    assert report.median_translation_error_m < 0.05  # about 1 cm at this size
    assert report.median_vcre_px is not None and report.median_vcre_px < 5
    for word in ("query/query_00.jpg", " cm", " deg", "VCRE", "0.25 m, 2 deg", "report.html"):
        assert word in result.text, word
    saved = json.loads((out / "report.json").read_text())
    assert saved["num_localized"] == 3 and saved["seconds_map"] > 0
    assert saved == {k: v for k, v in result.to_dict().items() if k not in ("files", "seconds")}
    json.dumps(result.to_dict(), allow_nan=False)
    poses = read_poses(out / "poses.txt")
    assert list(poses) == list(read_results(out / "results.jsonl")) == list(_names(out, "query"))
    page = (out / "report.html").read_text()
    assert "exact poses" in page and len(page) < 15e6


def _names(out: Path, kind: str) -> Iterable[str]:
    images = out / "place" / "images"
    return (p.relative_to(images).as_posix() for p in sorted((images / kind).iterdir()))


def test_the_photos_lie_as_the_colmap_benchmark_takes_them(
    rendered: tuple[Path, DemoResult],
) -> None:
    place = rendered[0] / "place"
    map_names = (place / "map.txt").read_text().split()
    cameras = read_camera_list(place / "query.txt")
    truth = read_model(place / "sparse_gt")
    named = {image.name for image in truth.images.values()}
    assert named == {*map_names, *cameras} and len(named) == 11
    camera = cameras["query/query_00.jpg"]
    assert (camera.model.name, camera.width, camera.height) == ("PINHOLE", 320, 240)
    # half the size of the place's own 640 x 480 with a focal length of 540 pixels
    assert list(camera.params) == [270, 270, 160, 120]
    for name in named:
        with Image.open(place / "images" / name) as photo:
            assert photo.size == (320, 240) and photo.format == "JPEG"


def test_the_written_truth_is_the_one_the_photos_were_rendered_with(
    rendered: tuple[Path, DemoResult],
) -> None:
    place = rendered_place.demo_place(0)
    truth = read_model(rendered[0] / "place" / "sparse_gt")
    shot = place.query_shots[-1]  # the queries are spread over all shots, the last is one
    image = next(i for i in truth.images.values() if i.name == "query/query_02.jpg")
    np.testing.assert_allclose(image.cam_from_world().matrix(), shot.cam_from_world[:3], atol=1e-9)
    K = np.diag([0.25, 0.25, 1]) @ place.K
    small = place.place.render(
        K, (160, 120), shot.cam_from_world, shot.light, exposure=shot.exposure
    )
    with Image.open(rendered[0] / "place" / "images" / "query/query_02.jpg") as photo:
        halved = np.asarray(photo.resize((160, 120), Image.Resampling.BOX), float)
    # another resolution and JPEG; a wrong pose or light would differ by some 40 grey levels
    assert np.abs(halved - small.image).mean() < 12


def test_a_second_run_reuses_photos_and_map(rendered: tuple[Path, DemoResult]) -> None:
    out, first = rendered
    kept = [*(out / "place").rglob("*.*"), out / "map" / "map.json"]
    before = {path: path.stat().st_mtime_ns for path in kept}
    poses = (out / "poses.txt").read_text()
    for name in FILES:
        (out / name).unlink()
    again = run_demo(out, matcher=load_matcher("sift"), options=DemoOptions(place=SMALL))
    assert {path: path.stat().st_mtime_ns for path in kept} == before
    assert (out / "poses.txt").read_text() == poses
    assert again.report.median_vcre_px == first.report.median_vcre_px
    assert all((out / name).is_file() for name in FILES)


def test_an_interrupted_rendering_continues(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rendered_names: list[str] = []

    def interrupt(items: Iterable[str], description: str, total: int | None = None) -> Iterable:
        for item in items:
            if len(rendered_names) == 2:
                raise KeyboardInterrupt
            rendered_names.append(item)
            yield item

    with pytest.raises(KeyboardInterrupt):
        write_rendered_place(tmp_path, TINY, progress=interrupt)
    assert not (tmp_path / "query.txt").exists()
    first = next((tmp_path / "images").rglob("*.jpg"))
    written = first.stat().st_mtime_ns
    place = write_rendered_place(tmp_path, TINY)
    assert first.stat().st_mtime_ns == written
    assert len(place.map_names) == 2 and len(place.query_cameras) == 1
    assert not [p for p in tmp_path.rglob("*") if p.name.endswith(".tmp")]

    # complete: nothing is rendered; a photo that was lost is rendered again, and only that
    def never(seed: int) -> None:
        raise AssertionError("rendered again")

    with monkeypatch.context() as patch:
        patch.setattr(rendered_place, "demo_place", never)
        write_rendered_place(tmp_path, TINY)
    content = first.read_bytes()
    first.unlink()
    write_rendered_place(tmp_path, TINY)
    assert first.read_bytes() == content


def test_the_bar_is_there_before_the_textures_are_painted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []

    def paint(seed: int) -> None:
        steps.append("paint")
        raise KeyboardInterrupt

    def progress(items: Iterable[str], description: str, total: int | None = None) -> Iterable:
        steps.append(f"{description} {total}")
        return items

    monkeypatch.setattr(rendered_place, "demo_place", paint)
    with pytest.raises(KeyboardInterrupt):
        write_rendered_place(tmp_path, TINY, progress=progress)
    assert steps == ["rendering photos 3", "paint"]


def test_photos_of_another_renderer_or_options_are_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_rendered_place(tmp_path, TINY)
    photo = tmp_path / "images" / "map" / "map_00.jpg"
    photo.write_bytes(b"old")
    write_rendered_place(tmp_path, TINY)
    assert photo.read_bytes() == b"old"  # trusted: its renderer is this one
    monkeypatch.setattr(rendered_place, "_renderer_hash", lambda: "another")
    write_rendered_place(tmp_path, TINY)
    with Image.open(photo) as image:
        assert image.size == (64, 48)
    write_rendered_place(tmp_path, dataclasses.replace(TINY, image_width=80))
    with Image.open(photo) as image:
        assert image.size == (80, 60)


def test_a_folder_of_something_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "place").mkdir()
    (tmp_path / "place" / "images").write_text("mine")
    with pytest.raises(InputError, match="no rendered place"):
        write_rendered_place(tmp_path / "place", TINY)
    assert (tmp_path / "place" / "images").read_text() == "mine"
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match=r"file' is a file, but --out takes a folder"):
        run_demo(tmp_path / "file")


@pytest.mark.parametrize("own_photos", [False, True])
def test_a_folder_that_no_demo_made_is_not_touched(tmp_path: Path, own_photos: bool) -> None:
    """``--out .`` must not replace a map that happens to be named as the demo names its own."""
    world = FakeWorld(num_images=9)
    world.write_photos(tmp_path / "photos")
    (tmp_path / "map").mkdir()
    (tmp_path / "map" / "map.json").write_text("mine")
    before = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")}
    with pytest.raises(InputError, match=r"not made by the demo.*give --out a new folder"):
        run_demo(
            tmp_path,
            photos=tmp_path / "photos" if own_photos else None,
            matcher=LocalizingMatcher(world),
            options=DemoOptions(place=TINY),
        )
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*")} == before


# ----------------------------------------------------------------------------------- own photos
@pytest.fixture(scope="module")
def world() -> FakeWorld:
    return FakeWorld(num_images=9)


def test_own_photos_are_held_out_and_compared(world: FakeWorld, tmp_path: Path) -> None:
    photos, out = tmp_path / "my photos", tmp_path / "out"
    world.write_photos(photos)

    class Seeing(LocalizingMatcher):
        def predict(self, view0: View, view1: View) -> PairGeometry:
            return geometry((64, 48), (64, 48))

    result = run_demo(out, photos=photos, matcher=Seeing(world))
    report = result.report
    held_out = ["0003.png", "0007.png"]
    assert [score.name for score in report.per_query] == held_out
    mapped = json.loads((out / "map" / "map.json").read_text())["images"]
    assert not set(held_out) & set(mapped) and len(mapped) == 7
    assert report.num_localized == 2
    assert not report.recall  # no metres, so no recall
    # in percent of the cameras' spread and in degrees; the noise is 0.2 pixels
    assert all(0 < (s.translation_error_m or 0) < 1 for s in report.per_query)
    # each of both structures from motion finds its own principal point: a pixel of 600 is 0.1 deg
    assert all((s.rotation_error_deg or 9) < 0.3 for s in report.per_query)
    page = (out / "report.html").read_text()
    assert "Agreement with a structure from motion of all photos" in page
    assert "They show agreement, not truth" in page
    assert page.count("Point maps of both photos") == 2
    assert list(read_poses(out / "poses.txt")) == held_out


def test_the_comparison_finds_a_wrong_pose(
    world: FakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from localize import Localizer

    honest = Localizer.localize_all

    def spoiled(self: Localizer, *arguments: object, **options: object) -> dict:
        results = honest(self, *arguments, **options)  # type: ignore[arg-type]
        first = next(iter(results))
        shift = pycolmap.Rigid3d(pycolmap.Rotation3d(), [0.0, 0.0, 1.0])
        moved = shift * results[first].cam_from_world
        return results | {first: dataclasses.replace(results[first], cam_from_world=moved)}

    monkeypatch.setattr(Localizer, "localize_all", spoiled)
    photos = tmp_path / "photos"
    world.write_photos(photos)
    result = run_demo(tmp_path / "out", photos=photos, matcher=LocalizingMatcher(world))
    wrong, right = result.report.per_query
    assert (wrong.translation_error_m or 0) > 5 > (right.translation_error_m or 9)


def test_without_a_reference_nothing_is_claimed(world: FakeWorld, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    world.write_photos(photos)
    options = DemoOptions(reference=False)
    result = run_demo(
        tmp_path / "out", photos=photos, matcher=LocalizingMatcher(world), options=options
    )
    assert result.report.median_rotation_error_deg is None
    assert "no ground truth" in result.text and " cm" not in result.text
    assert not (tmp_path / "out" / "reference").exists()


def test_photos_that_share_nothing_or_cannot_be_read(world: FakeWorld, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    names = world.write_photos(photos)
    (photos / names[1]).write_bytes(b"")  # a map photo
    (photos / names[3]).write_bytes(b"no photo")  # a held-out one
    world.write_photos(photos, {0: "9999.png"})  # black
    with Image.open(photos / names[2]) as photo:  # another size
        photo.resize((320, 240)).save(photos / names[2])
    result = run_demo(tmp_path / "out", photos=photos, matcher=LocalizingMatcher(world))
    scores = {score.name: score for score in result.report.per_query}
    results = read_results(tmp_path / "out" / "results.jsonl")
    assert set(results) == {"0003.png", "0007.png"}
    assert not results["0003.png"].success and "0003.png" in results["0003.png"].reason
    assert results["0007.png"].success and scores["0007.png"].success
    assert "could not use 1 of the held-out ones, which are not compared: 0003.png" in result.text
    info = json.loads((tmp_path / "out" / "map" / "map.json").read_text())
    assert {"0001.png", "9999.png"} <= set(info["not_registered"])


@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_photos_are_one_line(world: FakeWorld, tmp_path: Path, count: int) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    if count:
        world.write_photos(photos, {n: f"{n}.png" for n in range(1, count + 1)})
    with pytest.raises(InputError, match="photos") as caught:
        run_demo(tmp_path / "out", photos=photos, matcher=LocalizingMatcher(world))
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


def test_three_photos_are_enough(world: FakeWorld, tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    world.write_photos(photos, {n: f"{n}.png" for n in (4, 5, 6)})
    result = run_demo(tmp_path / "out", photos=photos, matcher=LocalizingMatcher(world))
    assert [score.name for score in result.report.per_query] == ["6.png"]


def test_no_such_folder(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    with pytest.raises(InputError, match=r"imagez.*did you mean.*images"):
        run_demo(tmp_path / "out", photos=tmp_path / "imagez")


def test_pictures_of_an_earlier_demo_below_the_photos_are_no_photos(
    world: FakeWorld, tmp_path: Path
) -> None:
    world.write_photos(tmp_path)
    out = tmp_path / "demo"
    world.write_photos(out / "place" / "images" / "map")
    (out / "demo.json").write_text("{}")
    options = DemoOptions(reference=False, hold_out_every=9)
    result = run_demo(out, photos=tmp_path, matcher=LocalizingMatcher(world), options=options)
    assert [score.name for score in result.report.per_query] == ["0003.png"]
    # another set of photos into the same folder: the old map gives way
    shutil.rmtree(out / "place")
    (tmp_path / "0009.png").unlink()
    time.sleep(0.01)
    run_demo(out, photos=tmp_path, matcher=LocalizingMatcher(world), options=options)
    assert len(json.loads((out / "map" / "map.json").read_text())["images"]) == 7


@pytest.mark.parametrize(
    ("cls", "wrong"),
    [
        (PlaceOptions, {"num_map_photos": 1}),
        (PlaceOptions, {"num_queries": 13}),
        (PlaceOptions, {"image_width": 63}),
        (PlaceOptions, {"jpeg_quality": 0}),
        (DemoOptions, {"hold_out_every": 1}),
    ],
)
def test_wrong_options_are_refused(cls: type, wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        cls(**wrong)


def test_the_default_progress_reports_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(silent([1, 2], "anything")) == [1, 2]
    assert capsys.readouterr() == ("", "")
