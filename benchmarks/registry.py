"""All benchmarks by the name that `groundloc benchmark` takes.

A further data set is a reader (`benchmarks.datasets`) and one line here.
"""

from benchmarks.datasets.aachen import AachenOptions, open_aachen
from benchmarks.datasets.cambridge import CambridgeOptions, open_cambridge
from benchmarks.datasets.colmap_folder import ColmapOptions, open_colmap
from benchmarks.datasets.megadepth1500 import MegadepthOptions, open_megadepth1500
from benchmarks.datasets.pairs import FolderPairsOptions, open_pairs
from benchmarks.datasets.scannet1500 import ScannetOptions, open_scannet1500
from benchmarks.datasets.seven_scenes import SevenScenesOptions, open_seven_scenes
from benchmarks.datasets.twelve_scenes import TwelveScenesOptions, open_twelve_scenes
from benchmarks.kinds import Benchmark, LocalizationBenchmark, PairsBenchmark
from matching.errors import InputError

BENCHMARKS: dict[str, Benchmark] = {
    "12scenes": LocalizationBenchmark(options=TwelveScenesOptions, open=open_twelve_scenes),
    "7scenes": LocalizationBenchmark(options=SevenScenesOptions, open=open_seven_scenes),
    "aachen": LocalizationBenchmark(options=AachenOptions, open=open_aachen),
    "cambridge": LocalizationBenchmark(options=CambridgeOptions, open=open_cambridge),
    "colmap": LocalizationBenchmark(options=ColmapOptions, open=open_colmap),
    "megadepth1500": PairsBenchmark(options=MegadepthOptions, open=open_megadepth1500),
    "pairs": PairsBenchmark(options=FolderPairsOptions, open=open_pairs),
    "scannet1500": PairsBenchmark(options=ScannetOptions, open=open_scannet1500),
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        InputError: There is none; the known ones are listed.
    """
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark '{name}' (known: {', '.join(sorted(BENCHMARKS))})")
    return BENCHMARKS[name]
