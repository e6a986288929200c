"""All benchmarks by the name that `groundloc benchmark` takes.

A further data set is a reader (`benchmarks.datasets`) and one line here.
"""

import difflib

from benchmarks.datasets.aachen import AachenOptions, open_aachen
from benchmarks.datasets.cambridge import CambridgeOptions, open_cambridge
from benchmarks.datasets.cmu import CmuOptions, open_cmu
from benchmarks.datasets.colmap_folder import ColmapOptions, open_colmap
from benchmarks.datasets.inloc import InlocOptions, open_inloc
from benchmarks.datasets.kapture import KaptureOptions, open_kapture
from benchmarks.datasets.megadepth1500 import MegadepthOptions, open_megadepth1500
from benchmarks.datasets.pairs import FolderPairsOptions, open_pairs
from benchmarks.datasets.robotcar import RobotcarOptions, open_robotcar
from benchmarks.datasets.scannet1500 import ScannetOptions, open_scannet1500
from benchmarks.datasets.seven_scenes import SevenScenesOptions, open_seven_scenes
from benchmarks.datasets.twelve_scenes import TwelveScenesOptions, open_twelve_scenes
from benchmarks.kinds import Benchmark, LocalizationBenchmark, PairsBenchmark
from benchmarks.mapfree import MapfreeBenchmark
from matching.errors import InputError

BENCHMARKS: dict[str, Benchmark] = {
    "12scenes": LocalizationBenchmark(options=TwelveScenesOptions, open=open_twelve_scenes),
    "7scenes": LocalizationBenchmark(options=SevenScenesOptions, open=open_seven_scenes),
    "aachen": LocalizationBenchmark(options=AachenOptions, open=open_aachen),
    "cambridge": LocalizationBenchmark(options=CambridgeOptions, open=open_cambridge),
    "cmu": LocalizationBenchmark(options=CmuOptions, open=open_cmu),
    "colmap": LocalizationBenchmark(options=ColmapOptions, open=open_colmap),
    "inloc": LocalizationBenchmark(options=InlocOptions, open=open_inloc, kept="cutout_poses"),
    "kapture": LocalizationBenchmark(options=KaptureOptions, open=open_kapture),
    "mapfree": MapfreeBenchmark(),
    "megadepth1500": PairsBenchmark(options=MegadepthOptions, open=open_megadepth1500),
    "pairs": PairsBenchmark(options=FolderPairsOptions, open=open_pairs),
    "robotcar": LocalizationBenchmark(options=RobotcarOptions, open=open_robotcar),
    "scannet1500": PairsBenchmark(options=ScannetOptions, open=open_scannet1500),
}


def benchmark(name: str) -> Benchmark:
    """The benchmark of a name.

    Raises:
        InputError: There is none; the nearest is offered, and the known ones are listed.
    """
    if name not in BENCHMARKS:
        close = difflib.get_close_matches(name.lower(), BENCHMARKS, n=1)
        hint = f"; did you mean '{close[0]}'?" if close else ""
        raise InputError(
            f"unknown benchmark '{name}'{hint} (known: {', '.join(sorted(BENCHMARKS))})"
        )
    return BENCHMARKS[name]
