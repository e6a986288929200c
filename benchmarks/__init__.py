"""Poses against the truth: metrics, data sets and the runner."""

from benchmarks.evaluate import EvaluationOptions, evaluate
from benchmarks.report import PairsReport, Report

__all__ = ["EvaluationOptions", "PairsReport", "Report", "evaluate"]
