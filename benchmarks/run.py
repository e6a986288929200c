"""`run_benchmark`: predictions first, scores second, one data set per call."""

import itertools
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from benchmarks.charts import write_charts
from benchmarks.executor import run_on_ray
from benchmarks.jobs import Job, MatcherSpec
from benchmarks.kinds import Benchmark, Scores
from benchmarks.markdown import to_markdown
from benchmarks.plan import Check, Plan
from benchmarks.registry import benchmark
from benchmarks.shards import WHOLE, Part, Unit
from matching.errors import InputError
from matching.files import PathLike, existing_folder, write_text_atomic
from matching.matcher import Matcher
from matching.options import build_options, options_as_dict
from matching.progress import Progress, silent

Executor = Literal["local", "ray"]

logger = logging.getLogger(__name__)

RUN_FILE = "run.json"  # which benchmark a folder holds the predictions of, with its options


@dataclass(frozen=True, kw_only=True)
class Unfinished:
    """The outcome of a shard while others are missing: predictions, but no scores yet."""

    missing: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"finished": False, "missing": self.missing}

    def to_text(self) -> str:
        """One line for people."""
        return f"this shard is done; {self.missing}. The last shard to end scores them all."


def benchmark_options(name: str, values: Mapping[str, Any]) -> Any:
    """Build the options of a benchmark, so that a wrong one is known before anything is loaded.

    Args:
        name: Of the benchmark, see `benchmarks.registry`.
        values: Option names to values.

    Raises:
        InputError: Unknown benchmark or option, or a refused value.
    """
    return build_options(benchmark(name).options, values)


def run_benchmark(
    name: str,
    root: PathLike,
    out: PathLike,
    *,
    matcher: Matcher | MatcherSpec,
    options: Any = None,
    limit: int | None = None,
    shard: Part = WHOLE,
    executor: Executor = "local",
    progress: Progress = silent,
) -> Any:
    """Run one benchmark and write its predictions and reports to a folder.

    Predictions that are there already are kept: a killed run continues, and a finished one is only
    scored again. They must have been made with the same options, matcher and photos. Several
    processes, each with another shard, may work into one folder; the last one scores.

    Args:
        name: Of the benchmark, see `benchmarks.registry`.
        root: The data set.
        out: Folder for predictions and reports.
        matcher: From `matching.load_matcher`; for Ray, what its workers are to load.
        options: Those of this benchmark, or what `benchmark_options` builds them from.
        limit: At most so many queries of each scene, or pairs.
        shard: Which part of the work this process does.
        executor: ``"ray"`` spreads the shard's work over a Ray cluster.
        progress: Wraps every long loop.

    Returns:
        The report of the benchmark (`benchmarks.report`), or `Unfinished`.

    Raises:
        InputError: Unknown benchmark or option, a malformed data set, or predictions in ``out``
            that other options made.
    """
    kind, job = _job(name, root, out, options, limit)
    if job.out.exists() and not job.out.is_dir():
        raise InputError(f"'{out}' is a file, but a run writes a folder: give another --out")
    if job.out.resolve() == job.root:
        raise InputError(f"'{out}' is the data set itself: give another --out")
    units = kind.units(job, shard)
    job.out.mkdir(parents=True, exist_ok=True)
    _refuse_other_run(job)
    if executor == "ray":
        if isinstance(matcher, Matcher):
            raise InputError("Ray's workers load the matcher themselves: give a MatcherSpec")
        method = matcher.name
        kind.claim(job, matcher.load())
        if kind.prepares:
            whole = [Unit(scene=unit.scene) for unit in units]
            run_on_ray(prepare_unit, job, whole, matcher, split=False, progress=progress)
        run_on_ray(predict_unit, job, units, matcher, split=True, progress=progress)
    else:
        loaded = matcher.load() if isinstance(matcher, MatcherSpec) else matcher
        method = loaded.name
        kind.claim(job, loaded)
        for unit in units:
            kind.predict(job, unit, loaded, progress)
    record = {
        "benchmark": name,
        "method": method,
        "limit": limit,
        "options": options_as_dict(job.options),
    }
    write_text_atomic(job.out / RUN_FILE, json.dumps(record, indent=1) + "\n")
    missing = kind.missing(job)
    return Unfinished(missing=missing) if missing else score_run(kind, job, method, progress)


def score_run(kind: Benchmark, job: Job, method: str, progress: Progress = silent) -> Scores:
    """Score the predictions of a run and write ``report.json``, ``.txt``, ``.md`` and plots."""
    report = kind.score(job, method, progress)
    report.write(job.out / "report.json")
    write_text_atomic(job.out / "report.txt", report.to_text() + "\n")
    pictures = write_charts(report, job.out)
    write_text_atomic(job.out / "report.md", to_markdown(report, job.name, method, pictures))
    logger.info(
        "wrote '%s', with report.json, report.txt and %d charts beside it",
        job.out / "report.md",
        len(pictures),
    )
    return report


def plan_benchmark(
    name: str,
    root: PathLike,
    *,
    matcher: Matcher | MatcherSpec,
    options: Any = None,
    limit: int | None = None,
    shard: Part = WHOLE,
) -> Plan:
    """What a run would do and cost; nothing is written."""
    kind, job = _job(name, root, os.devnull, options, limit)
    loaded = matcher.load() if isinstance(matcher, MatcherSpec) else matcher
    return kind.plan(job, shard, loaded)


def check_benchmark(
    name: str,
    root: PathLike,
    out: PathLike | None = None,
    *,
    options: Any = None,
    progress: Progress = silent,
) -> Check:
    """Read a whole download, strictly, and count its photos against the published numbers.

    Args:
        name: See `run_benchmark`.
        root: The same.
        out: Folder of a run, which keeps what the data set's reader computes of its files and what
            the run would compute again; where it is there already, it is not computed. None keeps
            nothing.
        options: Settings.
        progress: Wraps the loops.

    Raises:
        InputError: A file is missing or malformed.
    """
    kind, job = _job(name, root, os.devnull if out is None else out, options, None)
    return kind.check(job, progress)


def prepare_unit(job: Job, unit: Unit, matcher: MatcherSpec) -> None:
    """`Benchmark.prepare` in a worker."""
    benchmark(job.name).prepare(job, unit, matcher.load(), silent)


def predict_unit(job: Job, unit: Unit, matcher: MatcherSpec) -> None:
    """`Benchmark.predict` in a worker."""
    benchmark(job.name).predict(job, unit, matcher.load(), silent)


def _job(
    name: str, root: PathLike, out: PathLike, options: Any, limit: int | None
) -> tuple[Benchmark, Job]:
    kind = benchmark(name)
    if options is None or isinstance(options, Mapping):
        options = benchmark_options(name, options or {})
    elif not isinstance(options, kind.options):
        raise InputError(
            f"benchmark {name} takes {kind.options.__name__}, got {type(options).__name__}"
        )
    check_limit(limit)
    # Absolute: workers of a cluster run in folders of their own.
    root, out = existing_folder(root, "data set").resolve(), Path(out).absolute()
    job = Job(name=name, root=root, out=out, options=options, limit=limit)
    _check_root(kind, job)
    return kind, job


def read_run(folder: Path) -> dict[str, Any]:
    """What `run_benchmark` noted of the run in a folder: benchmark, method, limit, options.

    Raises:
        InputError: There is nothing, or it is damaged.
    """
    file = folder / RUN_FILE
    if not file.is_file():
        raise InputError(f"'{folder}' holds no run of a benchmark: it has no {RUN_FILE}")
    try:
        record: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
        _ = record["benchmark"], record["method"], record["options"]
    except (ValueError, TypeError, KeyError) as error:
        raise InputError(f"'{file}' is damaged: delete it and run the benchmark again") from error
    return record


def _refuse_other_run(job: Job) -> None:
    """Predictions of two benchmarks in one folder would overwrite each other's reports."""
    if (job.out / RUN_FILE).exists() and (other := read_run(job.out)["benchmark"]) != job.name:
        raise InputError(f"'{job.out}' holds a run of benchmark {other}: give another --out folder")


def check_limit(limit: int | None) -> None:
    """Raise `InputError` unless a limit lets something through."""
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")


def _check_root(kind: Benchmark, job: Job) -> None:
    """Refuse a root that holds no such data set; if the folder above or one below does, say so."""
    try:
        kind.units(job, WHOLE)
    except InputError as error:
        below = (path for path in sorted(job.root.iterdir()) if path.is_dir())
        for folder in (job.root.parent, job.root.parent.parent, *itertools.islice(below, 50)):
            try:
                kind.units(replace(job, root=folder), WHOLE)
            except (InputError, OSError):  # no such data set, or one that may not be read
                continue
            raise InputError(f"{error}; did you mean '{folder}'?") from error
        raise
