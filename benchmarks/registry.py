"""All benchmarks by the name that `groundloc benchmark` takes.

A further data set is a reader (`benchmarks.datasets`) and one line here.
"""

from benchmarks.datasets.colmap_folder import ColmapOptions, open_colmap
from benchmarks.datasets.pairs import FolderPairsOptions, open_pairs
from benchmarks.kinds import Benchmark, LocalizationBenchmark, PairsBenchmark
from matching.errors import InputError

BENCHMARKS: dict[str, Benchmark] = {
    "colmap": LocalizationBenchmark(options=ColmapOptions, open=open_colmap),
    "pairs": PairsBenchmark(options=FolderPairsOptions, open=open_pairs),
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        InputError: There is none; the known ones are listed.
    """
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark '{name}' (known: {', '.join(sorted(BENCHMARKS))})")
    return BENCHMARKS[name]
