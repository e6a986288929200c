import json
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.datasets.colmap_folder import ColmapOptions, read_colmap_folder
from benchmarks.datasets.image_lists import read_photo_list
from benchmarks.datasets.pairs import ImagePair, cover_and_crop, prepare_photo, read_pairs
from benchmarks.relative import PairsOptions, match_pairs, score_pairs
from benchmarks.report import PairsReport, Report
from benchmarks.run import benchmark_options, run_benchmark
from localize.results import read_results
from matching.errors import InputError
from matching.matcher import Matcher
from matching.types import Matches, View
from tests.mapping.fakes import FakeDenseMatcher, FakeMatcher, FakeWorld


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


def write_folder(root: Path, names: Sequence[str]) -> Path:
    """Photos on a line with truth, three of four in the map."""
    (root / "images").mkdir(parents=True)
    (root / "sparse_gt").mkdir()
    (root / "sparse_gt" / "cameras.txt").write_text("1 PINHOLE 40 30 50 50 20 15\n")
    lines = []
    for i, name in enumerate(names):
        Image.fromarray(np.full((30, 40, 3), 100, np.uint8)).save(root / "images" / name)
        lines.append(f"{i + 1} 1 0 0 0 {-i} 0 0 1 {name}\n\n")
    (root / "sparse_gt" / "images.txt").write_text("".join(lines))
    (root / "map.txt").write_text("\n".join(names[1:]) + "\n")
    (root / "query.txt").write_text(f"{names[0]} PINHOLE 40 30 50 50 20 15\n")
    return root


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


def test_pairs_are_made_by_gap_with_their_true_poses(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", [f"{i}.png" for i in range(4)])
    pairs = read_pairs(root, gaps=(2, 3)).pairs
    assert [(p.image0, p.image1) for p in pairs] == [
        ("0.png", "2.png"),
        ("0.png", "3.png"),
        ("1.png", "3.png"),
    ]
    truth = pairs[1].cam1_from_cam0
    assert truth is not None
    np.testing.assert_allclose(truth[:3, 3], (-3, 0, 0), atol=1e-12)
    with pytest.raises(InputError, match="no pair of photos 7 to 9 places apart"):
        read_pairs(root, gaps=(7, 9))


def test_listed_pairs_are_read_and_checked(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ["a.png", "b.png"])
    K = [[50, 0, 20], [0, 50, 15], [0, 0, 1]]
    entry = {"image0": "a.png", "image1": "b.png", "K0": K, "K1": K, "T_0to1": np.eye(4).tolist()}
    file = root / "pairs.json"
    own = {**entry, "image1": "a.png"}
    file.write_text(json.dumps([entry, own, {**entry, "T_0to1": None, "K0": None}]))
    pairs = read_pairs(root).pairs
    assert len(pairs) == 2 and pairs[1].cam1_from_cam0 is None and pairs[1].camera0 is None
    assert pairs[0].camera0 is not None and pairs[0].camera0.width == 40
    for bad, message in (
        ({"K0": [[1]]}, "entry 0: K0 must be 3x3"),
        ({"K1": None}, "entry 0: T_0to1 needs K0 and K1"),
        ({"rot0": 1}, "turned photos"),
        ({"image1": 5}, "no 'image1'"),
    ):
        file.write_text(json.dumps([{**entry, **bad}]))
        with pytest.raises(InputError, match=message):
            read_pairs(root)
    file.write_text("[")
    with pytest.raises(InputError, match="no valid JSON"):
        read_pairs(root)


# ---------------------------------------------------------------- photos as a protocol wants them


def checkers(width: int, height: int) -> NDArray[np.uint8]:
    """A smooth pattern whose brightness tells x, in red, and y, in green."""
    x = np.linspace(20, 230, width)[None, :].repeat(height, 0)
    y = np.linspace(20, 230, height)[:, None].repeat(width, 1)
    return np.stack([x, y, np.full_like(x, 90)], axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (101, 33), (200, 150)])
def test_covering_and_cropping_keeps_pixels_and_calibration_together(
    size: tuple[int, int],
) -> None:
    image = checkers(200, 150)
    K = np.array([[180.0, 0, 97], [0, 175, 80], [0, 0, 1]])
    framed, new_K = cover_and_crop(image, K, size)
    assert framed.shape == (size[1], size[0], 3)
    # A ray that meets the framed photo meets the original one at a pixel of the same colour.
    for u, v in ((0.3, 0.4), (0.5, 0.5), (0.8, 0.7)):
        pixel = np.array([u * size[0], v * size[1], 1])
        original = K @ np.linalg.inv(new_K) @ pixel
        colour = image[int(original[1]), int(original[0])].astype(int)
        found = framed[int(pixel[1]), int(pixel[0])].astype(int)
        # One pixel of the smaller photo is up to three of the larger, 1 grey level each.
        assert np.abs(colour - found).max() <= 5
    assert new_K[0, 0] / new_K[1, 1] == pytest.approx(180 / 175)


def test_photos_are_undistorted_before_matching(tmp_path: Path) -> None:
    camera = pycolmap.Camera(
        model="OPENCV", width=200, height=150, params=[180, 175, 97, 80, 0.06, -0.08, 0.001, -0.001]
    )
    image = checkers(200, 150)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    pinhole, K = prepare_photo(path, camera, None)
    for ray in ((0.0, 0.0), (0.3, 0.2), (-0.25, 0.3)):
        distorted = camera.img_from_cam(np.array([*ray, 1.0]))
        straight = K @ np.array([*ray, 1.0])
        colour = image[int(distorted[1]), int(distorted[0])].astype(int)
        assert np.abs(colour - pinhole[int(straight[1]), int(straight[0])]).max() <= 3
    turned = pycolmap.Camera(model="PINHOLE", width=150, height=200, params=[180, 180, 75, 100])
    with pytest.raises(InputError, match="has 200x150 pixels, but its camera 150x200"):
        prepare_photo(path, turned, None)


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
    written = {path.name for path in out.iterdir()}
    files = {"poses.txt", "results.jsonl", "report.json", "report.txt", "options.json", "map"}
    assert written == files

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


@pytest.mark.parametrize("kind", [FakeMatcher, FakeDenseMatcher])
def test_pairs_benchmark_scores_any_matcher(
    place: Place, kind: type[FakeMatcher], tmp_path: Path
) -> None:
    matcher = kind(place.world)
    options: dict[str, Any] = {"gaps": [1, 1]}
    report = run_benchmark(
        "pairs", place.folder, tmp_path, matcher=matcher, options=options, limit=3
    )
    assert isinstance(report, PairsReport)
    assert report.num_pairs == 3 and report.auc_deg is not None
    assert report.auc_deg["5"] > 0.8 and report.precision_2px is not None
    assert report.precision_2px > 0.8
    done = matcher.num_encoded, matcher.num_matched
    assert done == (4, 3)  # each photo once
    # Another RANSAC threshold scores the same matches.
    options["max_error_px"] = 0.2
    loops: list[tuple[str, int | None]] = []

    def progress(items: Iterable[Any], description: str, total: int | None = None) -> Iterable[Any]:
        loops.append((description, total))
        return items

    again = run_benchmark(
        "pairs",
        place.folder,
        tmp_path,
        matcher=matcher,
        options=benchmark_options("pairs", options),
        limit=3,
        progress=progress,
    )
    assert loops == [("match", 3), ("relative poses", 3)]
    assert (matcher.num_encoded, matcher.num_matched) == done
    assert isinstance(again, PairsReport) and again.median_inliers < report.median_inliers
    options["crop_size"] = [64, 64]
    with pytest.raises(InputError, match=r"another 'options\.crop_size'"):
        run_benchmark("pairs", place.folder, tmp_path, matcher=matcher, options=options, limit=3)


class FixedMatches(Matcher):
    """Gives the same matches for every pair."""

    name, fingerprint = "fixed", "0"

    def __init__(self, matches: Matches) -> None:
        self.matches = matches

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        size = (image.shape[1], image.shape[0])
        return View(image_size=size, keypoints=np.zeros((0, 2), np.float32))

    def match_views(self, view0: View, view1: View) -> Matches:
        return self.matches

    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        return np.zeros((0, 1), np.float32)


def test_pairs_without_matches_fail_and_stay_in_the_denominator(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ["a.png", "b.png", "c.png"])
    pair_set = read_pairs(root, gaps=(1, 1))
    options = PairsOptions(gaps=(1, 1))
    match_pairs(pair_set, tmp_path / "m", FixedMatches(Matches.empty()), options)
    report = score_pairs(pair_set, tmp_path / "m", options)
    assert (report.num_pairs, report.num_estimated) == (2, 0)
    assert report.auc_deg == {"5": 0.0, "10": 0.0, "20": 0.0}
    assert report.precision_2px == 0.0 and report.median_error_deg == np.inf
    assert report.per_pair[0].reason == "no pose from 0 matches"
    (tmp_path / "m" / "000001.npz").write_bytes(b"broken")
    with pytest.raises(InputError, match=r"000001\.npz' is damaged"):
        score_pairs(pair_set, tmp_path / "m", options)


def test_exact_matches_give_the_exact_pose(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ["a.png", "b.png"])
    K = np.array([[50.0, 0, 20], [0, 50, 15], [0, 0, 1]])
    points = np.random.default_rng(0).uniform((-1, -1, 5), (2, 1, 9), (60, 3))
    keypoints = []
    for shift in (0.0, -1.0):
        uvw = (points + np.array([shift, 0, 0])) @ K.T
        keypoints.append((uvw[:, :2] / uvw[:, 2:]).astype(np.float32))
    matches = Matches(
        keypoints0=keypoints[0], keypoints1=keypoints[1], scores=np.ones(60, np.float32)
    )
    options = PairsOptions(max_matches=50)
    pair_set = read_pairs(root)
    match_pairs(pair_set, tmp_path / "m", FixedMatches(matches), options)
    report = score_pairs(pair_set, tmp_path / "m", options)
    assert report.median_matches == 50 and report.precision_2px == 1.0
    assert report.median_error_deg is not None and report.median_error_deg < 1e-3
    # A pair nobody knows the truth of is matched, not scored.
    unknown = replace(
        pair_set, pairs=tuple(replace(pair, cam1_from_cam0=None) for pair in pair_set.pairs)
    )
    report = score_pairs(unknown, tmp_path / "m", options)
    assert report.auc_deg is None and report.num_estimated == 1
    assert isinstance(pair_set.pairs[0], ImagePair)


def test_options_and_names_are_checked(place: Place, matcher: FakeMatcher) -> None:
    with pytest.raises(InputError, match=r"unknown benchmark 'colmpa' \(known: colmap, pairs\)"):
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
    with pytest.raises(InputError, match="pairs takes PairsOptions, got ColmapOptions"):
        run_benchmark(
            "pairs", place.folder, place.folder / "x", matcher=matcher, options=ColmapOptions()
        )
    assert not (place.folder / "x").exists()
