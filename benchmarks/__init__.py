"""Poses against the truth: metrics, data sets and the runner."""

from benchmarks.evaluate import EvaluationOptions, evaluate
from benchmarks.report import PairsReport, Report
from benchmarks.run import run_benchmark

__all__ = ["EvaluationOptions", "PairsReport", "Report", "evaluate", "run_benchmark"]
