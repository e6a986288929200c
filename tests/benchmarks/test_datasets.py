from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.datasets.colmap_folder import ColmapOptions, read_colmap_folder
from benchmarks.datasets.image_lists import read_photo_list
from benchmarks.report import Report
from benchmarks.run import benchmark_options, run_benchmark
from localize.results import read_results
from matching.errors import InputError
from matching.types import View
from tests.benchmarks.fakes import write_folder
from tests.mapping.fakes import FakeMatcher, FakeWorld


class Place(NamedTuple):
    """A data set in the layout of `benchmark colmap`."""

    folder: Path
    world: FakeWorld


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    """Eight photos of a known world, two of them queries."""
    folder = tmp_path_factory.mktemp("data") / "place"
    world = FakeWorld()
    names = world.write_photos(folder / "images")
    (folder / "sparse_gt").mkdir()
    world.model(names).write_text(folder / "sparse_gt")
    size, params = "640 480", " ".join(map(str, world.camera.params))
    queries = [names[3], names[6]]
    (folder / "query.txt").write_text("".join(f"{n} PINHOLE {size} {params}\n" for n in queries))
    (folder / "map.txt").write_text("".join(f"{n}\n" for n in names.values() if n not in queries))
    return Place(folder, world)


class SlicingMatcher(FakeMatcher):
    """A fake matcher whose views can be cut down to some keypoints, as the localizer does."""

    def at_keypoints(self, view: View, rows: NDArray[np.int64]) -> View:
        arrays = {**view.arrays, "rows": view.arrays["rows"][rows]}
        return replace(super().at_keypoints(view, rows), arrays=arrays)


@pytest.fixture
def matcher(place: Place) -> FakeMatcher:
    return SlicingMatcher(place.world)


# ---------------------------------------------------------------- lists and folders


def test_photo_lists_with_and_without_cameras(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text("# photos\n\nb c.jpg\na.jpg\n")
    assert read_photo_list(file) == {"b c.jpg": None, "a.jpg": None}
    file.write_text("b c.jpg PINHOLE 4 3 5 5 2 1.5\n")
    camera = read_photo_list(file)["b c.jpg"]
    assert camera is not None and camera.params.tolist() == [5, 5, 2, 1.5]
    file.write_text("a.jpg\nb.jpg\na.jpg\n")
    with pytest.raises(InputError, match=r"list\.txt' line 3: 'a\.jpg' is listed twice"):
        read_photo_list(file)
    file.write_text("# nothing\n")
    with pytest.raises(InputError, match="lists no photo"):
        read_photo_list(file)


def test_colmap_folder_is_read_and_checked(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", [f"{i}.png" for i in range(4)])
    task = read_colmap_folder(root)
    assert (task.name, task.map_names) == ("set", ("1.png", "2.png", "3.png"))
    assert list(task.query_cameras) == ["0.png"] and task.truth is not None
    assert set(task.map_cameras()) == set(task.map_names)
    (root / "map.txt").write_text("0.png\n1.png\n")
    with pytest.raises(InputError, match=r"'0\.png' is listed as map photo and as query"):
        read_colmap_folder(root)
    (root / "map.txt").write_text("1.png\n9.png\n")
    with pytest.raises(InputError, match=r"no photo '.*9\.png'"):
        read_colmap_folder(root)
    (root / "map.txt").unlink()
    with pytest.raises(InputError, match=r"no list of photos '.*map\.txt'"):
        read_colmap_folder(root)


# ---------------------------------------------------------------- runs


def test_colmap_benchmark_localizes_scores_and_does_not_repeat_itself(
    place: Place, matcher: FakeMatcher, tmp_path: Path
) -> None:
    out = tmp_path / "run"
    report = run_benchmark("colmap", place.folder, out, matcher=matcher)
    assert isinstance(report, Report)
    assert (report.num_queries, report.num_localized) == (2, 2)
    assert report.alignment is None and report.recall["0.05m_0.5deg"] == 1.0
    assert report.median_vcre_px is not None and report.median_vcre_px < 5
    assert report.map is not None and report.map["num_registered"] == 6
    written = {path.name for path in out.iterdir() if not path.name.startswith(".")}
    predictions = {"poses.txt", "results.jsonl", "options.json", "scene.json", "run.json", "map"}
    reports = {"report.json", "report.txt", "report.md"}
    charts = {"translation_errors.png", "rotation_errors.png", "confidence.png"}
    assert written == predictions | reports | charts

    done = matcher.num_encoded, matcher.num_matched
    again = run_benchmark("colmap", place.folder, out, matcher=matcher)
    assert (matcher.num_encoded, matcher.num_matched) == done
    assert again.to_dict()["per_query"] == report.to_dict()["per_query"]
    # Thresholds belong to the scores, not to the predictions.
    options: dict[str, Any] = {"evaluation": {"thresholds": [[1e-9, 1e-9]]}}
    strict = run_benchmark("colmap", place.folder, out, matcher=matcher, options=options)
    assert isinstance(strict, Report) and strict.recall == {"1e-09m_1e-09deg": 0.0}
    assert (matcher.num_encoded, matcher.num_matched) == done
    options = {"localizer": {"top_k": 3}}
    with pytest.raises(InputError, match=r"another 'localizer\.top_k'"):
        run_benchmark("colmap", place.folder, out, matcher=matcher, options=options)


def test_a_killed_run_continues_after_its_last_whole_result(
    place: Place, matcher: FakeMatcher, tmp_path: Path
) -> None:
    run_benchmark("colmap", place.folder, tmp_path, matcher=matcher)
    results = (tmp_path / "results.jsonl").read_text().splitlines(keepends=True)
    expected = read_results(tmp_path / "results.jsonl")
    (tmp_path / "results.jsonl").unlink()
    (tmp_path / "poses.txt").unlink()
    (tmp_path / "results.partial.jsonl").write_text(results[0] + results[1][:40])
    matcher.num_encoded = 0

    def killed(items: Iterable[Any], description: str, total: int | None = None) -> Iterator[Any]:
        for item in items:
            yield item
            if description == "localize":
                raise KeyboardInterrupt

    # killed again, after one more result: the half line before it is gone
    with pytest.raises(KeyboardInterrupt):
        run_benchmark("colmap", place.folder, tmp_path, matcher=matcher, progress=killed)
    assert list(read_results(tmp_path / "results.partial.jsonl")) == list(expected)
    run_benchmark("colmap", place.folder, tmp_path, matcher=matcher)
    assert matcher.num_encoded == 1
    found = read_results(tmp_path / "results.jsonl")
    assert list(found) == list(expected)
    for name, result in found.items():
        a, b = result.cam_from_world, expected[name].cam_from_world
        assert a is not None and b is not None
        np.testing.assert_array_equal(a.matrix(), b.matrix())
    assert not (tmp_path / "results.partial.jsonl").exists()


@pytest.mark.parametrize("intrinsics", ["given", "unknown"])
def test_a_map_from_motion_is_aligned_and_says_so(
    place: Place, matcher: FakeMatcher, tmp_path: Path, intrinsics: str
) -> None:
    options = {"map_poses": "sfm", "map_intrinsics": intrinsics}
    report = run_benchmark(
        "colmap", place.folder, tmp_path, matcher=matcher, options=options, limit=1
    )
    assert isinstance(report, Report) and report.num_queries == 1
    assert report.alignment is not None and report.alignment["num_images"] == 6
    assert report.recall["0.25m_2deg"] == 1.0
    note = f"structure from motion, {intrinsics} intrinsics"
    assert any(note in text for text in report.notes)


def test_without_truth_a_run_reports_what_is_known(
    place: Place, matcher: FakeMatcher, tmp_path: Path
) -> None:
    root = tmp_path / "bare"
    root.mkdir()
    for name in ("map.txt", "query.txt"):
        (root / name).write_bytes((place.folder / name).read_bytes())
    (root / "images").symlink_to(place.folder / "images")
    options: dict[str, Any] = {"map_poses": "given"}
    with pytest.raises(InputError, match="use map_poses=sfm"):
        run_benchmark("colmap", root, tmp_path / "x", matcher=matcher, options=options)
    options = {"query_intrinsics": "unknown"}
    report = run_benchmark(
        "colmap", root, tmp_path / "run", matcher=matcher, options=options, limit=1
    )
    assert isinstance(report, Report)
    assert report.num_localized == 1 and report.median_translation_error_m is None
    assert any("no ground truth" in note for note in report.notes)


def test_options_and_names_are_checked(place: Place, matcher: FakeMatcher) -> None:
    with pytest.raises(InputError, match=r"unknown benchmark 'colmpa'; did you mean 'colmap'"):
        run_benchmark("colmpa", place.folder, place.folder / "x", matcher=matcher)
    with pytest.raises(InputError, match="limit must be at least 1"):
        run_benchmark("pairs", place.folder, place.folder / "x", matcher=matcher, limit=0)
    for options, message in (
        ({"gaps": [3, 1]}, "gaps must be"),
        ({"crop_size": [8, 8]}, "crop_size"),
        ({"max_error_px": 0}, "max_error_px"),
        ({"gap": 1}, "did you mean 'gaps'"),
    ):
        with pytest.raises(InputError, match=message):
            run_benchmark(
                "pairs", place.folder, place.folder / "x", matcher=matcher, options=options
            )
        with pytest.raises(InputError, match=message):
            benchmark_options("pairs", options)
    with pytest.raises(InputError, match="unknown benchmark 'pair'"):
        benchmark_options("pair", {})
    with pytest.raises(InputError, match="pairs takes FolderPairsOptions, got ColmapOptions"):
        run_benchmark(
            "pairs", place.folder, place.folder / "x", matcher=matcher, options=ColmapOptions()
        )
    assert not (place.folder / "x").exists()
