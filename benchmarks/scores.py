"""Scores of a localization benchmark from its predictions alone, one scene in memory at a time."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.claims import read_claim
from benchmarks.datasets.task import LocalizationDataset
from benchmarks.evaluate import intervals, mean_seconds
from benchmarks.journal import Journal
from benchmarks.localization import RESULTS, MapSummary, score_task, seed_runs
from benchmarks.options import LocalizationOptions
from benchmarks.report import QueryScore, Report
from benchmarks.submissions import write_submission
from benchmarks.summary import ScoreTable, flat, mean_of, summarize
from localize.results import Localization
from matching.errors import InputError
from matching.options import options_as_dict
from matching.progress import Progress, silent


def scene_folder(out: Path, dataset: LocalizationDataset, scene: str) -> Path:
    """Where a scene's predictions lie, see `LocalizationDataset.one_scene`."""
    return out if dataset.one_scene else out / scene


@dataclass(frozen=True, kw_only=True)
class ScoredScene:
    """What stays in memory of a scene that was scored.

    Attributes:
        name: Of the scene.
        report: Its scores, with the first seed of RANSAC.
        conditions: Query to its label.
        results: With the first seed.
        seeds: Scores of the queries with each seed.
        num_left_out: Queries of the scene that a limit left out of the run.
    """

    name: str
    report: Report
    conditions: Mapping[str, str]
    results: Mapping[str, Localization]
    seeds: Sequence[Sequence[QueryScore]]
    num_left_out: int = 0


def score_localization(
    dataset: LocalizationDataset,
    out: Path,
    options: LocalizationOptions,
    *,
    method: str = "groundloc",
    progress: Progress = silent,
) -> Report:
    """Score what `benchmarks.run.run_benchmark` predicted; writes the submission if there is one.

    Args:
        dataset: The opened data set.
        out: Folder of the run.
        options: Thresholds, and where the predictions of several seeds are.
        method: Part of the submission's name.
        progress: Wraps the loop over the scenes.

    Raises:
        InputError: Predictions are missing or damaged.
    """
    scenes = [
        _score_scene(dataset, name, scene_folder(out, dataset, name), options)
        for name in progress(dataset.scenes, "score", total=len(dataset.scenes))
    ]
    report = combine_scenes(dataset, scenes, options)
    report = replace(
        report, options={**report.options, "localizer": options_as_dict(options.localizer)}
    )
    if dataset.submission is None:
        return report
    everything: dict[str, Localization] = {}
    for scene in scenes:
        for name, result in scene.results.items():
            # a query that several scenes list counts as localized if one of them did
            if name not in everything or not everything[name].success:
                everything[name] = result
    if not any(result.success for result in everything.values()):
        return replace(report, notes=[*report.notes, "no submission: no query was localized"])
    written = write_submission(out, method, everything, dataset.submission)
    submission = {
        "path": written.path.name,
        "num_poses": written.num_poses,
        "left_out": list(written.left_out),
    }
    return replace(report, submission=submission)


def combine_scenes(
    dataset: LocalizationDataset, scenes: Sequence[ScoredScene], options: LocalizationOptions
) -> Report:
    """One report of all scenes, with the values of each scene and condition in it."""
    limits = options.evaluation.limits
    # a scene whose truth nobody knows must not thin out the values of the others
    known = [s for s in scenes if s.report.median_translation_error_m is not None]
    scored = known or scenes
    unscored = {} if not known else {s.name: _unscored(s, scored) for s in scenes}
    if len(scenes) == 1:
        report = scenes[0].report
    else:
        report = replace(
            _pooled(scored, options),
            unscored={
                f"{s}/{n}": done for s, names in unscored.items() for n, done in names.items()
            },
            seconds_map=sum(s.report.seconds_map or 0.0 for s in scenes),
        )
    groups = {}
    mean: dict[str, float] = {}
    if len(scenes) > 1:
        groups["scene"] = {
            s.name: _values(s.report.per_query, s.report.unscored.values(), options) for s in scenes
        }
        mean = mean_of([groups["scene"][s.name] for s in scored])
    labels = list(dict.fromkeys(label for s in scenes for label in s.conditions.values()))
    if labels:
        groups["condition"] = {
            label: _values(
                _labelled(scored, label),
                [
                    done
                    for s in scenes
                    for name, done in unscored.get(s.name, {}).items()
                    if s.conditions.get(name) == label
                ],
                options,
            )
            for label in labels
        }
    seeds: dict[str, list[float]] = {}
    if options.num_seeds > 1:
        for k in range(options.num_seeds):
            pooled = [score for s in scored for score in s.seeds[k]]
            for key, value in flat(summarize(ScoreTable.of(pooled), limits)).items():
                seeds.setdefault(key, []).append(value)
    return replace(
        report,
        title=dataset.title,
        published=dataset.published,
        groups=groups,
        mean_of_scenes=mean,
        seeds=seeds,
        notes=[*dataset.notes, *_partial(dataset, scenes, scored), *report.notes],
    )


def read_predictions(folder: Path) -> dict[str, Localization]:
    """The results of one scene in the order of its list.

    Raises:
        InputError: Some are missing or damaged.
    """
    queries = read_claim(folder)["queries"]
    records = Journal(folder, RESULTS).records()
    missing = [name for name in queries if name not in records]
    if missing:
        raise InputError(
            f"'{folder}' has no prediction yet for {len(missing)} of {len(queries)} queries, such "
            f"as '{missing[0]}': run the benchmark to its end first (all of its shards)"
        )
    try:
        return {name: Localization.from_dict(records[name]) for name in queries}
    except ValueError as error:
        raise InputError(f"a prediction in '{folder}' is damaged: {error}") from error


def _partial(
    dataset: LocalizationDataset, scenes: Sequence[ScoredScene], scored: Sequence[ScoredScene]
) -> list[str]:
    """What to say if not all of the data set was scored: published values are those of all."""
    notes = []
    if dataset.num_scenes is not None and len(scenes) < dataset.num_scenes:
        notes.append(
            f"only {len(scenes)} of the {dataset.num_scenes} scenes: means are of these alone, "
            "published ones of all"
        )
    names = {s.name for s in scored}
    silent_scenes = [s.name for s in scenes if s.name not in names]
    if silent_scenes:
        notes.append(
            f"{len(silent_scenes)} of {len(scenes)} scenes have no ground truth and are not "
            f"scored: {', '.join(silent_scenes[:10])}"
        )
    left_out = sum(s.num_left_out for s in scenes)
    if left_out:
        notes.append(
            f"a run with a limit: {left_out} queries were not asked, and no value tells of them"
        )
    return notes


def _score_scene(
    dataset: LocalizationDataset, name: str, folder: Path, options: LocalizationOptions
) -> ScoredScene:
    task = dataset.read(name)
    summary = MapSummary.read(folder)
    reports: list[Report] = []
    first: dict[str, Localization] = {}
    for run_folder, _ in seed_runs(options, folder):
        results = read_predictions(run_folder)
        first = first or results
        reports.append(score_task(task, summary, results, options.evaluation))
    return ScoredScene(
        name=name,
        report=reports[0],
        conditions={n: task.conditions[n] for n in first if n in task.conditions},
        results=first,
        seeds=[report.per_query for report in reports],
        num_left_out=sum(query not in first for query in task.query_cameras),
    )


def _pooled(scenes: Sequence[ScoredScene], options: LocalizationOptions) -> Report:
    """All queries of all scenes in one report."""
    scores = [
        replace(score, name=f"{s.name}/{score.name}")
        for s in scenes
        for score in s.report.per_query
    ]
    notes = [f"{s.name}: {note}" for s in scenes for note in s.report.notes]
    if len({note for s in scenes for note in s.report.notes}) == 1 and len(notes) == len(scenes):
        notes = list(scenes[0].report.notes)  # what holds for every scene is said once
    tables = [ScoreTable.of(s.report.per_query) for s in scenes]
    known = scenes[0].report.median_translation_error_m is not None
    return Report(
        num_queries=len(scores),
        num_localized=sum(score.success for score in scores),
        seconds_per_query=mean_seconds(scores),
        intervals=intervals(tables, options.evaluation) if known else {},
        options=scenes[0].report.options,
        per_query=scores,
        notes=notes,
        **summarize(ScoreTable.of(scores), options.evaluation.limits),
    )


def _unscored(scene: ScoredScene, scored: Sequence[ScoredScene]) -> Mapping[str, bool]:
    """Queries whose truth nobody knows, to whether they were localized."""
    if any(scene is other for other in scored):
        return scene.report.unscored
    return {score.name: score.success for score in scene.report.per_query}


def _values(
    scores: Sequence[QueryScore], unscored: Collection[bool], options: LocalizationOptions
) -> dict[str, Any]:
    """What a table says of some queries, and of those beside them whose truth nobody knows."""
    beside = {"num_unscored": len(unscored), "num_unscored_localized": sum(unscored)}
    return {
        "num_queries": len(scores),
        "num_localized": sum(score.success for score in scores),
        **(beside if unscored else {}),
        **summarize(ScoreTable.of(scores), options.evaluation.limits),
    }


def _labelled(scenes: Sequence[ScoredScene], label: str) -> list[QueryScore]:
    return [
        score
        for s in scenes
        for score in s.report.per_query
        if s.conditions.get(score.name) == label
    ]
