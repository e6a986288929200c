"""Poses against the truth: metrics, data sets and the runner."""

from benchmarks.evaluate import EvaluationOptions, evaluate
from benchmarks.report import PairsReport, Report
from benchmarks.run import benchmark_options, run_benchmark

__all__ = [
    "EvaluationOptions",
    "PairsReport",
    "Report",
    "benchmark_options",
    "evaluate",
    "run_benchmark",
]
