"""What ``groundloc benchmark`` and ``groundloc evaluate --protocol`` do with their arguments."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, get_args

from benchmarks.jobs import MatcherSpec
from benchmarks.kinds import Scores
from benchmarks.mapfree import MapfreeBenchmark
from benchmarks.mapfree_report import MapfreeReport
from benchmarks.plan import Check, Plan
from benchmarks.protocols import evaluate_protocol
from benchmarks.registry import benchmark
from benchmarks.run import (
    Executor,
    Unfinished,
    benchmark_options,
    check_benchmark,
    check_limit,
    plan_benchmark,
    run_benchmark,
)
from benchmarks.shards import Part
from matching.errors import InputError
from matching.files import PathLike
from matching.progress import Progress, silent


@dataclass(frozen=True, kw_only=True)
class BenchmarkCall:
    """A benchmark with everything about it that can be wrong use: known before any file is read."""

    name: str
    options: Any
    matcher: MatcherSpec
    shard: Part
    executor: Executor
    limit: int | None = None
    out: str | None = None
    check: bool = False
    dry_run: bool = False

    @staticmethod
    def of(
        name: str,
        given: Mapping[str, Any],
        *,
        matcher: str = "sift",
        device: str = "cpu",
        shard: str = "0/1",
        executor: str = "local",
        limit: int | None = None,
        out: str | None = None,
        check: bool = False,
        dry_run: bool = False,
    ) -> "BenchmarkCall":
        """Check the arguments of a call.

        Args:
            name: Of the benchmark.
            given: Its options, and those of the matcher as the group ``matcher``.
            matcher: What `matching.load_matcher` takes.
            device: Torch device; with Ray, ``cuda`` gives each worker a GPU of its own.
            shard: ``I/N``.
            executor: ``local`` or ``ray``.
            limit: At most so many queries of each scene, or pairs.
            out: Folder for predictions and reports; needed to run.
            check: Only verify the download.
            dry_run: Only plan the run.

        Raises:
            InputError: Something is wrong with them.
        """
        own = dict(given)
        of_matcher = own.pop("matcher", {})
        if not isinstance(of_matcher, Mapping):
            raise InputError(
                f"'matcher' is a group of options such as matcher.max_ratio=0.7, got {of_matcher!r}"
                f"; the matcher itself is chosen with --matcher {of_matcher}"
            )
        if executor not in get_args(Executor):
            raise InputError(f"--executor is one of {', '.join(get_args(Executor))}")
        call = BenchmarkCall(
            name=name,
            options=benchmark_options(name, own),
            matcher=MatcherSpec(
                name=matcher, device=device, options=json.dumps(of_matcher, sort_keys=True)
            ),
            shard=Part.parse(shard),
            executor="ray" if executor == "ray" else "local",
            limit=limit,
            out=out,
            check=check,
            dry_run=dry_run,
        )
        check_limit(limit)
        if check and dry_run:
            raise InputError("--check verifies the download, --dry-run plans a run: give one")
        if out is None and not (check or dry_run):
            raise InputError("a run needs a folder for its predictions: give --out DIR")
        return call

    def run(
        self, root: PathLike, *, progress: Progress = silent
    ) -> Scores | Unfinished | Check | Plan:
        """Run the benchmark on the data set, check the download, or plan the run."""
        if self.check:
            return check_benchmark(
                self.name, root, self.out, options=self.options, progress=progress
            )
        if self.dry_run or self.out is None:
            return plan_benchmark(
                self.name,
                root,
                matcher=self.matcher,
                options=self.options,
                limit=self.limit,
                shard=self.shard,
            )
        result: Scores | Unfinished = run_benchmark(
            self.name,
            root,
            self.out,
            matcher=self.matcher,
            options=self.options,
            limit=self.limit,
            shard=self.shard,
            executor=self.executor,
            progress=progress,
        )
        return result


@dataclass(frozen=True, kw_only=True)
class EvaluateCall:
    """Scores by a benchmark's rules, with everything about them that can be wrong use."""

    protocol: str
    options: Mapping[str, Any]

    @staticmethod
    def of(protocol: str, given: Mapping[str, Any], *, split: str | None = None) -> "EvaluateCall":
        """Check the arguments of a call.

        Args:
            protocol: Name of the benchmark.
            given: Its options.
            split: Of Map-free.

        Raises:
            InputError: Something is wrong with them.
        """
        options = dict(given)
        kind = benchmark(protocol)
        if split is not None:
            if not isinstance(kind, MapfreeBenchmark):
                raise InputError(f"protocol {protocol} has no splits: leave out --split")
            options["split"] = split
        benchmark_options(protocol, options)
        return EvaluateCall(protocol=protocol, options=options)

    def run(self, predictions: PathLike, root: PathLike, *, progress: Progress = silent) -> Scores:
        """Score predictions, see `benchmarks.protocols.evaluate_protocol`."""
        report = evaluate_protocol(
            self.protocol, predictions, root, options=self.options, progress=progress
        )
        if isinstance(report, MapfreeReport) and report.scores is not None:
            return report.scores  # the official values alone, as the official script prints them
        return report
