"""Runs of a data set of two scenes with conditions: shards, seeds, plans, checks, protocols."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pycolmap
import pytest

from benchmarks import scores
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask, SceneCounts
from benchmarks.kinds import LocalizationBenchmark
from benchmarks.localization import map_task
from benchmarks.options import LocalizationOptions
from benchmarks.plan import count_map_pairs
from benchmarks.protocols import evaluate_protocol
from benchmarks.registry import BENCHMARKS
from benchmarks.report import Report
from benchmarks.run import Unfinished, check_benchmark, plan_benchmark, run_benchmark
from benchmarks.scores import ScoredScene, score_localization
from benchmarks.shards import Part
from benchmarks.submissions import SubmissionFormat, check_submission
from localize.results import Localization, write_poses
from mapping.options import MapOptions, PairOptions
from matching.errors import InputError
from tests.benchmarks.fakes import LocalizingMatcher
from tests.mapping.fakes import FakeWorld

SCENES = ("hall", "yard")
NUM_MAP, NUM_QUERIES = 6, 3


class TwoScenes:
    """A data set in memory and on disk; counts how many scenes are read, and forgets them."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.world = FakeWorld(num_images=NUM_MAP + NUM_QUERIES)
        self.matcher = LocalizingMatcher(self.world)
        self.num_read = 0
        self.with_truth = True
        for scene in SCENES:
            self.world.write_photos(root / scene, self.names(scene))

    def names(self, scene: str) -> dict[int, str]:
        return {
            i: f"query/{scene}_{i}.png" if i % 3 == 0 else f"db/{i}.png" for i in self.world.poses
        }

    def read(self, scene: str) -> LocalizationTask:
        self.num_read += 1
        names = self.names(scene)
        model = self.world.model(names)
        queries = [name for name in names.values() if name.startswith("query")]
        return LocalizationTask(
            name=scene,
            images=self.root / scene,
            map_names=tuple(name for name in names.values() if name.startswith("db")),
            query_cameras=dict.fromkeys(queries, self.world.camera),
            reference=model,
            truth=model if self.with_truth else None,
            conditions={name: "day" if "_3" in name else "night" for name in queries},
        )

    def open(self, root: Path, options: LocalizationOptions) -> LocalizationDataset:
        return LocalizationDataset(
            title="two scenes",
            scenes=SCENES,
            read=self.read,
            counts={s: SceneCounts(map=NUM_MAP, queries=4) for s in SCENES},
            submission=SubmissionFormat(file_name="Two_eval_{method}.txt"),
            notes=("rendered in a test",),
        )


@pytest.fixture(scope="module")
def two(tmp_path_factory: pytest.TempPathFactory) -> Iterator[TwoScenes]:
    data = TwoScenes(tmp_path_factory.mktemp("two"))
    BENCHMARKS["two"] = LocalizationBenchmark(options=LocalizationOptions, open=data.open)
    yield data
    del BENCHMARKS["two"]


@pytest.fixture(scope="module")
def out(two: TwoScenes, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run with two seeds and intervals, made by two shards."""
    folder = tmp_path_factory.mktemp("out")
    options = {"num_seeds": 2, "evaluation": {"num_bootstrap": 30}}
    for index in range(2):
        report = run_benchmark(
            "two",
            two.root,
            folder,
            matcher=two.matcher,
            options=options,
            shard=Part(index=index, count=2),
        )
        if index == 0:
            assert isinstance(report, Unfinished) and "yard" in report.missing
            assert not (folder / "report.json").exists()
    return folder


def score_task_of(two: TwoScenes, out: Path, scene: str) -> ScoredScene:
    dataset = two.open(two.root, LocalizationOptions())
    return scores._score_scene(dataset, scene, out / scene, LocalizationOptions())


def test_shards_of_scenes_are_joined_to_one_report(two: TwoScenes, out: Path) -> None:
    report = json.loads((out / "report.json").read_text())
    assert report["num_queries"] == report["num_localized"] == 2 * NUM_QUERIES
    assert report["median_translation_error_m"] < 0.05
    assert {q["name"].split("/")[0] for q in report["per_query"]} == set(SCENES)
    scenes, conditions = report["groups"]["scene"], report["groups"]["condition"]
    assert [scenes[s]["num_queries"] for s in SCENES] == [NUM_QUERIES] * 2
    assert {k: v["num_queries"] for k, v in conditions.items()} == {"day": 2, "night": 4}
    medians = [scenes[s]["median_translation_error_m"] for s in SCENES]
    assert report["mean_of_scenes"]["median_translation_error_m"] == pytest.approx(sum(medians) / 2)
    assert len(report["seeds"]["recall.0.25m_2deg"]) == 2
    low, high = report["intervals"]["median_translation_error_m"]
    assert low <= report["median_translation_error_m"] <= high
    assert "rendered in a test" in report["notes"]
    text = (out / "report.md").read_text()
    assert "| hall |" in text and "| night |" in text and "](confidence.png)" in text


def test_the_submission_is_what_the_checker_takes(two: TwoScenes, out: Path) -> None:
    names = [Path(n).name for s in SCENES for n in two.names(s).values() if n.startswith("query")]
    assert check_submission(out / "Two_eval_fake.txt", names) == []
    assert len((out / "Two_eval_fake.txt").read_text().splitlines()) == 2 * NUM_QUERIES


def test_scores_are_made_again_from_the_predictions_alone(two: TwoScenes, out: Path) -> None:
    before = json.loads((out / "report.json").read_text())
    for scene in SCENES:  # no map is needed
        (out / scene / "map" / "map.json").rename(out / scene / "map" / "hidden")
    encoded = two.matcher.num_encoded
    options = {"evaluation": {"thresholds": [[1e-9, 1e-9], [0.25, 2.0]], "num_bootstrap": 0}}
    report = evaluate_protocol("two", out, two.root, options=options)
    for scene in SCENES:
        (out / scene / "map" / "hidden").rename(out / scene / "map" / "map.json")
    assert isinstance(report, Report) and report.intervals == {}
    assert report.recall == {"1e-09m_1e-09deg": 0.0, "0.25m_2deg": 1.0}
    assert report.median_translation_error_m == before["median_translation_error_m"]
    assert two.matcher.num_encoded == encoded
    with pytest.raises(InputError, match="holds a run of benchmark two, not of colmap"):
        evaluate_protocol("colmap", out, two.root)


def test_poses_of_any_system_are_scored_by_the_protocol(
    two: TwoScenes, out: Path, tmp_path: Path
) -> None:
    file = tmp_path / "poses.txt"
    lines = (out / "Two_eval_fake.txt").read_text().splitlines()
    file.write_text("\n".join(lines[:-1]) + "\n")  # a query without a line failed
    report = evaluate_protocol("two", file, two.root)
    assert isinstance(report, Report)
    assert (report.num_queries, report.num_localized) == (6, 5)
    assert report.recall["0.25m_2deg"] == pytest.approx(5 / 6)
    # world-to-camera read as camera-to-world would show
    wrong = {}
    for line in lines:
        name, *numbers = line.split()
        quat = [float(n) for n in numbers[:4]]
        pose = pycolmap.Rigid3d(
            pycolmap.Rotation3d([*quat[1:], quat[0]]), [float(n) for n in numbers[4:]]
        )
        wrong[name] = pose.inverse()
    text = "".join(
        f"{n} {p.rotation.quat[3]} {' '.join(map(str, [*p.rotation.quat[:3], *p.translation]))}\n"
        for n, p in wrong.items()
    )
    file.write_text(text)
    flipped = evaluate_protocol("two", file, two.root)
    assert isinstance(flipped, Report) and flipped.recall["5m_10deg"] <= 1 / 3
    file.write_text("nobody.jpg 1 0 0 0 0 0 0\n")
    with pytest.raises(InputError, match=r"named like 'nobody\.jpg', queries like 'query/"):
        evaluate_protocol("two", file, two.root)


def test_shards_of_one_scene_share_its_map(two: TwoScenes, tmp_path: Path) -> None:
    one = LocalizationBenchmark(
        options=LocalizationOptions,
        open=lambda root, options: LocalizationDataset(
            title="one", scenes=("hall",), read=two.read, one_scene=True
        ),
    )
    BENCHMARKS["one"] = one
    try:
        for index in (1, 0):
            report: Any = run_benchmark(
                "one",
                two.root,
                tmp_path,
                matcher=two.matcher,
                shard=Part(index=index, count=2),
            )
            if index == 1:
                assert isinstance(report, Unfinished) and "2 of 3 queries" in report.missing
                part = tmp_path / "results.partial.1-of-2.jsonl"
                assert len(part.read_text().splitlines()) == 1
        assert report.num_localized == 3
        whole = run_benchmark("one", two.root, tmp_path / "whole", matcher=two.matcher)
        assert [s.name for s in report.per_query] == [s.name for s in whole.per_query]
        assert report.recall == whole.recall
    finally:
        del BENCHMARKS["one"]


def test_without_truth_a_submission_is_all(two: TwoScenes, tmp_path: Path) -> None:
    two.with_truth = False
    try:
        report = run_benchmark("two", two.root, tmp_path, matcher=two.matcher, limit=1)
        with pytest.raises(InputError, match="on its server"):
            write_poses(tmp_path / "p.txt", {})
            evaluate_protocol("two", tmp_path / "p.txt", two.root)
    finally:
        two.with_truth = True
    assert report.median_translation_error_m is None and report.num_localized == 2
    assert report.submission["num_poses"] == 2 and report.submission["left_out"] == []
    assert report.groups["condition"]["day"] == {"num_queries": 2, "num_localized": 2}


def test_a_map_of_other_options_is_told_with_what_this_command_can_do(
    two: TwoScenes, out: Path
) -> None:
    options = {"num_seeds": 2, "map": {"verification": {"min_inliers": 16}}}
    told = (
        r"map' was made with another 'options.*min_inliers': give another --out folder, or delete"
    )
    with pytest.raises(InputError, match=told) as caught:
        run_benchmark("two", two.root, out, matcher=two.matcher, options=options)
    assert "--extend" not in str(caught.value) and "--overwrite" not in str(caught.value)
    (out / "hall" / "map" / "map.json").rename(out / "hall" / "map" / "hidden")
    (out / "hall" / "map" / "map.json").write_text("{")
    with pytest.raises(InputError, match=r"map\.json.*: give another --out folder, or delete"):
        run_benchmark("two", two.root, out, matcher=two.matcher, options={"num_seeds": 2})
    (out / "hall" / "map" / "hidden").rename(out / "hall" / "map" / "map.json")


def test_a_run_with_a_limit_goes_on_without_it(two: TwoScenes, out: Path, tmp_path: Path) -> None:
    run_benchmark("two", two.root, tmp_path, matcher=two.matcher, limit=1)
    encoded = two.matcher.num_encoded
    report = run_benchmark("two", two.root, tmp_path, matcher=two.matcher)
    assert two.matcher.num_encoded == encoded + 2 * (NUM_QUERIES - 1)
    assert report.num_localized == 2 * NUM_QUERIES
    expected = json.loads((out / "report.json").read_text())
    assert report.median_translation_error_m == expected["median_translation_error_m"]
    for scene in SCENES:
        assert (tmp_path / scene / "poses.txt").read_text() == (
            out / scene / "poses.txt"
        ).read_text()
    with pytest.raises(InputError, match="of 3 queries, this run asks for the first 2"):
        run_benchmark("two", two.root, tmp_path, matcher=two.matcher, limit=2)


def test_folders_that_may_not_be_read_hide_no_error(tmp_path: Path) -> None:
    def read(root: Path, options: LocalizationOptions) -> LocalizationDataset:
        if root == tmp_path:
            raise InputError("no such data set")
        raise PermissionError(13, "Permission denied", str(root))

    (tmp_path / "lost+found").mkdir()
    BENCHMARKS["closed"] = LocalizationBenchmark(options=LocalizationOptions, open=read)
    try:
        with pytest.raises(InputError, match=r"^no such data set$"):
            check_benchmark("closed", tmp_path)
    finally:
        del BENCHMARKS["closed"]


def test_a_folder_takes_one_benchmark(two: TwoScenes, out: Path) -> None:
    BENCHMARKS["too"] = BENCHMARKS["two"]
    try:
        with pytest.raises(InputError, match="holds a run of benchmark two: give another --out"):
            run_benchmark("too", two.root, out, matcher=two.matcher)
    finally:
        del BENCHMARKS["too"]
    with pytest.raises(InputError, match="is the data set itself"):
        run_benchmark("two", two.root, two.root, matcher=two.matcher)
    with pytest.raises(InputError, match="is a file, but a run writes a folder"):
        run_benchmark("two", two.root, out / "run.json", matcher=two.matcher)


def test_a_limited_run_says_so_and_is_scored_again(two: TwoScenes, tmp_path: Path) -> None:
    report = run_benchmark("two", two.root, tmp_path, matcher=two.matcher, limit=1)
    told = "a run with a limit: 4 queries were not asked, and no value tells of them"
    assert report.num_queries == 2 and told in report.notes
    again = evaluate_protocol("two", tmp_path, two.root)
    assert isinstance(again, Report) and again.num_queries == 2 and told in again.notes
    line = (tmp_path / "yard" / "results.jsonl").read_text()
    (tmp_path / "yard" / "results.jsonl").write_text(line.replace('"reason"', '"why"'))
    with pytest.raises(InputError, match=r"a prediction in '.*yard' is damaged: no field 'reason'"):
        evaluate_protocol("two", tmp_path, two.root)
    (tmp_path / "yard" / "results.jsonl").write_text(line.partition("\n")[2])
    with pytest.raises(InputError, match=r"no finished run: .*no prediction yet for 1 of 1"):
        evaluate_protocol("two", tmp_path, two.root)


def test_scenes_without_truth_do_not_thin_out_the_others(
    two: TwoScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(scene: str) -> LocalizationTask:
        task = TwoScenes.read(two, scene)
        return replace(task, truth=None) if scene == "hall" else task

    monkeypatch.setattr(two, "read", read)
    options = {"evaluation": {"num_bootstrap": 5}}
    report = run_benchmark("two", two.root, tmp_path, matcher=two.matcher, options=options)
    assert (report.num_queries, report.num_localized) == (NUM_QUERIES, NUM_QUERIES)
    assert {score.name.split("/")[0] for score in report.per_query} == {"yard"}
    assert report.groups["scene"]["hall"] == {"num_queries": 3, "num_localized": 3}
    yard = report.groups["scene"]["yard"]["median_translation_error_m"]
    assert report.mean_of_scenes["median_translation_error_m"] == yard
    assert len(report.unscored) == NUM_QUERIES and all(report.unscored.values())
    assert {name.split("/")[0] for name in report.unscored} == {"hall"}
    night = report.groups["condition"]["night"]
    assert (night["num_queries"], night["num_unscored"]) == (2, 2)
    assert "without truth      3 of 3 localized, not scored" in report.to_text()
    assert "| night | 2 of 2 (without truth: 2 of 2) |" in (tmp_path / "report.md").read_text()
    assert "median_translation_error_m" in report.intervals
    assert "1 of 2 scenes have no ground truth and are not scored: hall" in report.notes
    assert "| within 0.25m 2deg | 100.0 % |" in (tmp_path / "report.md").read_text()
    # the table of the scenes keeps its columns though the first scene has no values
    assert "0.25m 2deg" in next(
        line for line in report.to_text().splitlines() if line.startswith("scene")
    )
    assert report.submission["num_poses"] == 2 * NUM_QUERIES


def test_a_scene_without_queries_changes_no_value(
    two: TwoScenes, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(scene: str) -> LocalizationTask:
        task = TwoScenes.read(two, scene)
        return task.with_queries([]) if scene == "hall" else task

    monkeypatch.setattr(two, "read", read)
    options = {"evaluation": {"num_bootstrap": 5}}
    report = run_benchmark("two", two.root, tmp_path, matcher=two.matcher, options=options)
    assert report.num_queries == report.num_localized == NUM_QUERIES
    assert report.intervals["median_translation_error_m"][1] < 0.05
    assert report.groups["scene"]["hall"] == {"num_queries": 0, "num_localized": 0}


def test_a_run_goes_on_when_another_scene_was_downloaded(two: TwoScenes, tmp_path: Path) -> None:
    """Where a scene's predictions lie does not depend on how many scenes there are."""
    options = LocalizationOptions()
    first = replace(two.open(two.root, options), scenes=("hall",))
    kind = LocalizationBenchmark(options=LocalizationOptions, open=lambda *_: first)
    BENCHMARKS["growing"] = kind
    try:
        run_benchmark("growing", two.root, tmp_path, matcher=two.matcher)
        BENCHMARKS["growing"] = replace(kind, open=two.open)
        encoded = two.matcher.num_encoded
        report = run_benchmark("growing", two.root, tmp_path, matcher=two.matcher)
    finally:
        del BENCHMARKS["growing"]
    assert report.num_localized == 2 * NUM_QUERIES
    assert two.matcher.num_encoded == encoded + NUM_MAP + NUM_QUERIES  # of the yard alone


def test_a_query_of_two_scenes_is_submitted_if_one_localized_it(
    two: TwoScenes, out: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    dataset = two.open(two.root, LocalizationOptions())
    reports = {s: score_task_of(two, out, s) for s in SCENES}

    def scored(dataset: LocalizationDataset, name: str, *others: Any) -> ScoredScene:
        results = reports[name].results
        query = next(iter(results))
        failed = Localization(name="q.png", success=False, reason="dark")
        same = {"q.png": failed if name == "yard" else results[query]}
        return replace(reports[name], results=same)

    monkeypatch.setattr(scores, "_score_scene", scored)
    report = score_localization(dataset, tmp_path, LocalizationOptions())
    assert report.submission == {"path": "Two_eval_groundloc.txt", "num_poses": 1, "left_out": []}


def test_poses_are_scored_where_the_truth_is_known(
    two: TwoScenes, out: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def read(scene: str) -> LocalizationTask:
        task = TwoScenes.read(two, scene)
        return replace(task, truth=None) if scene == "hall" else task

    monkeypatch.setattr(two, "read", read)
    report = evaluate_protocol("two", out / "Two_eval_fake.txt", two.root)
    assert isinstance(report, Report) and report.num_queries == NUM_QUERIES
    assert report.recall["0.25m_2deg"] == 1
    assert "the truth of hall is on the server: no value tells of them" in report.notes


def test_missing_scenes_are_told(two: TwoScenes, out: Path) -> None:
    dataset = replace(
        two.open(two.root, LocalizationOptions()), num_scenes=3, total=SceneCounts(queries=9)
    )
    kind = LocalizationBenchmark(options=LocalizationOptions, open=lambda root, options: dataset)
    BENCHMARKS["three"] = kind
    try:
        check = check_benchmark("three", two.root)
    finally:
        del BENCHMARKS["three"]
    assert [(c.what, c.found, c.published) for c in check.counts][-3:] == [
        ("scenes", 2, 3),
        ("all maps", 12, None),
        ("all queries", 6, 9),
    ]
    options = LocalizationOptions(num_seeds=2)
    report = score_localization(dataset, out, options)
    assert any(note.startswith("only 2 of the 3 scenes") for note in report.notes)


def test_a_check_counts_against_the_published_numbers(two: TwoScenes) -> None:
    check = check_benchmark("two", two.root)
    assert not check.complete
    assert [(c.what, c.found, c.published) for c in check.counts][:2] == [
        ("hall map", 6, 6),
        ("hall queries", 3, 4),
    ]
    assert "DIFFERS" in check.to_text() and "all files are there" not in check.to_text()
    assert check.failure.startswith("not the whole published set: hall queries 3 (published: 4), ")
    missing = two.root / "yard" / "db" / "1.png"
    hidden = missing.rename(missing.with_suffix(".hidden"))
    with pytest.raises(InputError, match=r"yard: no photo '.*1\.png'"):
        check_benchmark("two", two.root)
    hidden.rename(missing)


def test_a_plan_counts_pairs_and_measures_two_photos(two: TwoScenes) -> None:
    options = {"localizer": {"top_k": 4}, "num_seeds": 2}
    plan = plan_benchmark("two", two.root, matcher=two.matcher, options=options)
    assert (plan.num_scenes, plan.num_map_photos, plan.num_queries) == (2, 12, 6)
    assert plan.num_map_pairs == 2 * 15 and plan.num_query_pairs == 6 * 4 * 2
    assert plan.hours > 0 and plan.disk_bytes > 0 and "on one worker" in plan.to_text()
    shard = plan_benchmark("two", two.root, matcher=two.matcher, shard=Part(index=0, count=4))
    assert (shard.num_scenes, shard.num_queries) == (2, 2)


@pytest.mark.parametrize(
    ("options", "num_photos", "expected"),
    [
        (PairOptions(), 6, 15),
        (PairOptions(), 100, 2000),
        (PairOptions(method="exhaustive"), 100, 4950),
        (PairOptions(method="sequential", window=3), 100, 300),
        (PairOptions(method="retrieval", top_k=500), 20, 190),
    ],
)
def test_map_pairs_are_counted_as_they_are_chosen(
    options: PairOptions, num_photos: int, expected: int
) -> None:
    assert count_map_pairs(num_photos, MapOptions(pairs=options), has_poses=True) == expected


def test_options_that_contradict_the_data_are_named(two: TwoScenes, tmp_path: Path) -> None:
    task = two.read("hall")
    with pytest.raises(InputError, match="gives no depth with poses"):
        map_task(task, tmp_path, two.matcher, LocalizationOptions(map_points="depth"))
    with pytest.raises(ValueError, match="needs given poses"):
        LocalizationOptions(map_points="depth", map_poses="sfm")
