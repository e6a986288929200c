"""`groundloc evaluate --protocol NAME`: scores of predictions that are on disk, by a benchmark."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pycolmap

from benchmarks.datasets.task import LocalizationDataset, LocalizationTask
from benchmarks.evaluate import evaluate
from benchmarks.jobs import Job
from benchmarks.kinds import LocalizationBenchmark, Scores
from benchmarks.mapfree import MapfreeBenchmark
from benchmarks.mapfree_report import score_zip
from benchmarks.options import LocalizationOptions
from benchmarks.registry import benchmark
from benchmarks.run import read_run, score_run
from benchmarks.scores import ScoredScene, combine_scenes
from localize.results import read_poses
from matching.errors import InputError
from matching.files import PathLike, existing_folder
from matching.options import build_options, merge_options
from matching.progress import Progress, silent


def evaluate_protocol(
    name: str,
    predictions: PathLike,
    root: PathLike,
    *,
    options: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> Scores:
    """Score predictions by the rules of a benchmark; nothing is predicted, no map is opened.

    Args:
        name: Of the benchmark, see `benchmarks.registry`.
        predictions: What was predicted: the folder of a run; for ``mapfree`` a submission zip; for
            photos against maps also a poses file (``name qw qx qy qz tx ty tz``, world to camera)
            of any system. A query that is not in it failed.
        root: The data set.
        options: Option names to values; what a run's folder knows of its own options comes first.
        progress: Wraps every long loop.

    Raises:
        InputError: Predictions are missing or malformed.
    """
    kind = benchmark(name)
    folder = Path(root)
    existing_folder(folder, "data set")
    path = Path(predictions)
    if path.is_dir():
        record = _record(path, name)
        given = merge_options(record["options"], options or {})
        built = build_options(kind.options, given)
        job = Job(name=name, root=folder, out=path, options=built, limit=record.get("limit"))
        missing = kind.missing(job)
        if missing:
            raise InputError(f"'{path}' is no finished run: {missing}")
        return score_run(kind, job, record["method"], progress)
    built = build_options(kind.options, options or {})
    if isinstance(kind, MapfreeBenchmark):
        if built.split == "test":
            raise InputError("the truth of Map-free's test split is on its server: submit the zip")
        return score_zip(
            path, folder, split=built.split, track=built.track, num_bootstrap=built.num_bootstrap
        )
    if isinstance(kind, LocalizationBenchmark):
        return _score_poses(kind.open(folder, built), read_poses(path), built, progress)
    raise InputError(f"protocol {name} takes the folder of a run, '{predictions}' is a file")


def _record(folder: Path, name: str) -> dict[str, Any]:
    record = read_run(folder)
    if record["benchmark"] != name:
        raise InputError(
            f"'{folder}' holds a run of benchmark {record['benchmark']}, not of {name}"
        )
    return record


def _score_poses(
    dataset: LocalizationDataset,
    poses: Mapping[str, pycolmap.Rigid3d],
    options: LocalizationOptions,
    progress: Progress,
) -> Scores:
    """Scores of a poses file whose lines may be named as queries are, or as servers want them."""
    scenes = []
    unknown = []
    used = 0
    for scene in progress(dataset.scenes, "score", total=len(dataset.scenes)):
        task = dataset.read(scene)
        if task.truth is None:
            unknown.append(scene)
            continue
        found = _poses_of(task, poses, dataset)
        used += len(found)
        report = evaluate(
            found,
            task.truth,
            queries=list(task.query_cameras),
            cameras={n: c for n, c in task.query_cameras.items() if c is not None},
            options=options.evaluation,
        )
        conditions = {n: c for n, c in task.conditions.items() if n in task.query_cameras}
        scenes.append(
            ScoredScene(
                name=scene,
                report=report,
                conditions=conditions,
                results={},
                seeds=[report.per_query],
            )
        )
    if not scenes:
        raise InputError(f"the truth of {dataset.title} is on its server: submit the poses there")
    if not used:
        raise InputError(
            f"the poses are of no query of {dataset.title}: they are named like "
            f"'{next(iter(poses), '')}', queries like '{scenes[0].report.per_query[0].name}'"
        )
    report = combine_scenes(dataset, scenes, replace(options, num_seeds=1))
    if unknown:
        note = f"the truth of {', '.join(unknown)} is on the server: no value tells of them"
        report = replace(report, notes=[*report.notes, note])
    return report


def _poses_of(
    task: LocalizationTask, poses: Mapping[str, pycolmap.Rigid3d], dataset: LocalizationDataset
) -> dict[str, pycolmap.Rigid3d]:
    """The poses of a scene's queries, by query name."""
    found = {}
    for name in task.query_cameras:
        names = [f"{task.name}/{name}", name]
        if dataset.submission is not None:
            names.append(dataset.submission.line_name(name))
        pose = next((poses[n] for n in names if n in poses), None)
        if pose is not None:
            found[name] = pose
    return found
