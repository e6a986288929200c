"""All benchmarks by the name that `groundloc benchmark` takes.

A further data set is a reader (`benchmarks.datasets`) and one line here.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.datasets.colmap_folder import ColmapOptions, open_colmap
from benchmarks.datasets.pairs import PairSet, read_pairs
from benchmarks.datasets.task import LocalizationDataset
from benchmarks.options import LocalizationOptions
from benchmarks.relative import PairsOptions
from matching.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LocalizationBenchmark:
    """Photos against maps: its options, and the reader that opens a data set with them."""

    options: type[LocalizationOptions]
    open: Callable[[Path, Any], LocalizationDataset]


@dataclass(frozen=True, kw_only=True)
class PairsBenchmark:
    """Relative poses of photo pairs: its options, and the reader that opens a data set with them."""

    options: type[PairsOptions]
    open: Callable[[Path, Any], PairSet]


Benchmark = LocalizationBenchmark | PairsBenchmark


def _open_pairs(root: Path, options: PairsOptions) -> PairSet:
    return read_pairs(root, gaps=options.gaps, ground_truth=options.ground_truth)


BENCHMARKS: dict[str, Benchmark] = {
    "colmap": LocalizationBenchmark(options=ColmapOptions, open=open_colmap),
    "pairs": PairsBenchmark(options=PairsOptions, open=_open_pairs),
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        InputError: There is none; the known ones are listed.
    """
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark '{name}' (known: {', '.join(sorted(BENCHMARKS))})")
    return BENCHMARKS[name]
