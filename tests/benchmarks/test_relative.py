"""`benchmarks.relative`: pairs are matched once, and scored by known poses."""

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.datasets import pairs
from benchmarks.datasets.pair_task import ImagePair, PairSet, PairsOptions
from benchmarks.datasets.pairs import FolderPairsOptions, open_pairs
from benchmarks.kinds import PairsBenchmark
from benchmarks.protocols import evaluate_protocol
from benchmarks.registry import BENCHMARKS
from benchmarks.relative import match_pairs, score_pairs
from benchmarks.report import PairsReport
from benchmarks.run import benchmark_options, run_benchmark
from matching.errors import InputError
from matching.matcher import Matcher
from matching.types import Matches, View
from tests.benchmarks.fakes import write_folder
from tests.mapping.fakes import FakeDenseMatcher, FakeMatcher, FakeWorld


@pytest.fixture(scope="module")
def world() -> FakeWorld:
    return FakeWorld()


@pytest.fixture(scope="module")
def place(world: FakeWorld, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight photos of a known world."""
    folder = tmp_path_factory.mktemp("data") / "place"
    names = world.write_photos(folder / "images")
    (folder / "sparse_gt").mkdir()
    world.model(names).write_text(folder / "sparse_gt")
    return folder


@pytest.mark.parametrize("kind", [FakeMatcher, FakeDenseMatcher])
def test_pairs_benchmark_scores_any_matcher(
    world: FakeWorld, place: Path, kind: type[FakeMatcher], tmp_path: Path
) -> None:
    matcher = kind(world)
    options: dict[str, Any] = {"gaps": [1, 1]}
    report = run_benchmark("pairs", place, tmp_path, matcher=matcher, options=options, limit=3)
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
        place,
        tmp_path,
        matcher=matcher,
        options=benchmark_options("pairs", options),
        limit=3,
        progress=progress,
    )
    assert loops == [("match", 3), ("relative poses", 3)]
    assert (matcher.num_encoded, matcher.num_matched) == done
    assert isinstance(again, PairsReport) and again.median_inliers < report.median_inliers
    # from the predictions alone, as many pairs as the run had
    alone = evaluate_protocol("pairs", tmp_path, place)
    assert isinstance(alone, PairsReport) and alone.num_pairs == 3
    assert alone.auc_deg == again.auc_deg
    options["crop_size"] = [64, 64]
    with pytest.raises(InputError, match=r"another 'options\.crop_size'"):
        run_benchmark("pairs", place, tmp_path, matcher=matcher, options=options, limit=3)


def test_fewer_pairs_than_published_are_told(
    world: FakeWorld, place: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def published(root: Path, options: FolderPairsOptions) -> PairSet:
        return replace(open_pairs(root, options), num_published=1500)

    kind = PairsBenchmark(options=FolderPairsOptions, open=published)
    monkeypatch.setitem(BENCHMARKS, "published", kind)
    report = run_benchmark("published", place, tmp_path, matcher=FakeMatcher(world), limit=2)
    assert "2 pairs, where 1500 are published" in report.notes


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
    options = FolderPairsOptions(gaps=(1, 1))
    pair_set = open_pairs(root, options)
    match_pairs(pair_set, tmp_path / "m", FixedMatches(Matches.empty()), options)
    report = score_pairs(pair_set, tmp_path / "m", options)
    assert (report.num_pairs, report.num_estimated) == (2, 0)
    assert report.auc_deg == {"5": 0.0, "10": 0.0, "20": 0.0}
    assert report.precision_2px == 0.0 and report.median_error_deg == np.inf
    assert report.per_pair[0].reason == "no pose from 0 matches"
    whole = (tmp_path / "m" / "000001.npz").read_bytes()
    for damaged in (b"broken", whole[:-30], whole[:40]):
        (tmp_path / "m" / "000001.npz").write_bytes(damaged)
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
    options = FolderPairsOptions(max_matches=50)
    pair_set = open_pairs(root, options)
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


class RecordingMatcher(FakeMatcher):
    """Notes how many photos each call matches."""

    calls: list[int]

    def match_many(self, view: View, others: Sequence[View]) -> list[Matches]:
        self.calls.append(len(others))
        return [self.match_views(view, other) for other in others]


def test_pairs_with_the_same_first_photo_are_matched_together(
    world: FakeWorld, place: Path, tmp_path: Path
) -> None:
    options = FolderPairsOptions(gaps=(1, 3))
    pair_set = open_pairs(place, options)
    matcher = RecordingMatcher(world)
    matcher.calls = []
    match_pairs(pair_set, tmp_path / "all", matcher, options)
    assert matcher.calls == [3, 3, 3, 3, 3, 2, 1]  # eight photos
    together = score_pairs(pair_set, tmp_path / "all", options)
    # one by one, in parts, a part of them twice: the same
    for numbers in ([0], [1, 17], [17, 2], range(len(pair_set.pairs))):
        match_pairs(pair_set, tmp_path / "parts", matcher, options, numbers=list(numbers))
    apart = score_pairs(pair_set, tmp_path / "parts", options)
    assert [s.to_dict() for s in apart.per_pair] == [s.to_dict() for s in together.per_pair]


def test_a_sweep_reports_the_scores_under_other_thresholds(
    world: FakeWorld, place: Path, tmp_path: Path
) -> None:
    options = FolderPairsOptions(gaps=(1, 1), sweep_px=(0.5, 3.0))
    pair_set = open_pairs(place, options)
    pair_set = replace(pair_set, pairs=pair_set.pairs[:2])
    match_pairs(pair_set, tmp_path / "m", FakeMatcher(world), options)
    report = score_pairs(pair_set, tmp_path / "m", options)
    (note,) = [note for note in report.notes if "by RANSAC's threshold" in note]
    found = dict(part.split(" px ") for part in note.partition(": ")[2].split(", "))
    assert list(found) == ["0.5", "1.5", "3"]
    plain = score_pairs(pair_set, tmp_path / "m", replace(options, max_error_px=3.0))
    assert plain.auc_deg is not None
    assert found["3"] == "/".join(f"{area:.3f}" for area in plain.auc_deg.values())


def test_a_wrong_sign_or_axis_in_the_truth_shows(
    world: FakeWorld, place: Path, tmp_path: Path
) -> None:
    """The score itself must tell inverse poses and other camera axes from right ones."""
    options = PairsOptions()
    pair_set = open_pairs(place, FolderPairsOptions(gaps=(2, 2)))
    match_pairs(pair_set, tmp_path / "m", FakeMatcher(world), options)

    def auc(pairs: PairSet) -> float:
        report = score_pairs(pairs, tmp_path / "m", options)
        assert report.auc_deg is not None
        return report.auc_deg["20"]

    def changed(change: Any) -> PairSet:
        pairs = tuple(
            replace(pair, cam1_from_cam0=change(pair.cam1_from_cam0)) for pair in pair_set.pairs
        )
        return replace(pair_set, pairs=pairs)

    opengl = np.diag([1.0, -1, -1, 1])
    assert auc(pair_set) > 0.9
    assert auc(changed(np.linalg.inv)) < 0.5
    assert auc(changed(lambda pose: opengl @ pose @ opengl)) < 0.5


def test_photos_without_a_truth_get_one_from_motion(
    world: FakeWorld, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Photos alone: the truth is made of them once, and kept beside the predictions."""
    root, truth = tmp_path / "photos", tmp_path / "run" / "truth"
    world.write_photos(root)
    with pytest.raises(InputError, match="pseudo_truth=NEW_FOLDER"):
        open_pairs(root, FolderPairsOptions())
    makers: list[FakeMatcher] = []

    def load(name: str) -> FakeMatcher:
        assert name == "sift"
        makers.append(FakeMatcher(world))
        return makers[-1]

    monkeypatch.setattr(pairs, "load_matcher", load)
    options = FolderPairsOptions(gaps=(1, 7), pseudo_truth=str(truth))
    report = run_benchmark(
        "pairs", root, tmp_path / "run", matcher=FakeMatcher(world), options=options
    )
    assert isinstance(report, PairsReport) and report.num_pairs == 28
    assert report.auc_deg is not None and report.auc_deg["10"] > 0.9
    assert any("pseudo truth" in note and "8 of 8 registered" in note for note in report.notes)
    assert sum(maker.num_encoded for maker in makers) == 8  # made once, opened after
    with pytest.raises(ValueError, match="either ground_truth or pseudo_truth"):
        FolderPairsOptions(ground_truth="a", pseudo_truth="b")
