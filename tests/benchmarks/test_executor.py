"""A run on a local Ray cluster whose workers are killed while they work."""

import builtins
import json
import os
import shutil
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.executor import import_ray
from benchmarks.jobs import MatcherSpec
from benchmarks.mapfree_report import MapfreeReport
from benchmarks.miniatures import robotcar
from benchmarks.run import Unfinished, run_benchmark
from benchmarks.shards import Part
from matching.errors import InputError
from tests.benchmarks.miniature_sets import SIFT, Miniature, WholeRun

NUM_FRAMES = 50
SCENES = ("s00460", "s00461")


def write_noise(root: Path) -> None:
    """Map-free scenes of noise: nothing matches, and every frame is tried."""
    rng = np.random.default_rng(0)
    for scene in SCENES:
        folder = root / "val" / scene
        names = ["seq0/frame_00000.jpg", *(f"seq1/frame_{i:05d}.jpg" for i in range(NUM_FRAMES))]
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (64, 48, 3), np.uint8)).save(folder / name)
        text = "".join(f"{name} 50 50 24 32 48 64\n" for name in names)
        (folder / "intrinsics.txt").write_text(text)
        (folder / "poses.txt").write_text("".join(f"{name} 1 0 0 0 0 0 0\n" for name in names))


def workers() -> list[int]:
    """Processes below this one that work on a unit."""
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            title = (entry / "cmdline").read_bytes()
            if title.startswith(b"ray::predict_unit") and _is_ours(int(entry.name)):
                found.append(int(entry.name))
        except (FileNotFoundError, ProcessLookupError):
            continue
    return found


def _is_ours(pid: int) -> bool:
    while pid > 1:
        if pid == os.getpid():
            return True
        pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    return False


class Killer(threading.Thread):
    """Kills two workers, each while a scene is half predicted; looks for doubled predictions."""

    def __init__(self, predictions: Path) -> None:
        super().__init__()
        self.predictions = predictions
        self.killed: list[int] = []
        self.doubled: set[str] = set()
        self.stopped = threading.Event()

    def run(self) -> None:
        while not self.stopped.wait(0.03):
            for scene in SCENES:
                files = list(self.predictions.glob(f"{scene}.partial*.jsonl"))
                try:
                    lines = [line for file in files for line in file.read_text().splitlines()]
                except FileNotFoundError:  # just joined
                    continue
                names = [line.split('"')[3] for line in lines if line.endswith("}")]
                self.doubled |= {name for name in names if names.count(name) > 1}
                alive = [pid for pid in workers() if pid not in self.killed]
                if 2 <= len(names) < NUM_FRAMES // 2 and len(self.killed) < 2 and alive:
                    os.kill(alive[0], signal.SIGKILL)
                    self.killed.append(alive[0])


@pytest.fixture(scope="module")
def cluster() -> Iterator[None]:
    """A Ray cluster of two workers on this machine."""
    ray = pytest.importorskip("ray", reason="Ray is not installed: pip install 'groundloc[ray]'")
    own_print = builtins.print
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        configure_logging=False,
        log_to_driver=False,
        object_store_memory=100 * 1024**2,
    )
    yield
    ray.shutdown()
    builtins.print = own_print  # Ray puts its own there


def results_of(out: Path) -> list[dict[str, Any]]:
    """Every result of a run on RobotCar, without its times."""
    lines = (out / robotcar.PLACE / "results.jsonl").read_text().splitlines()
    results = [json.loads(line) for line in lines]
    for result in results:
        del result["timings_s"]
    return results


def unlocalized(run: WholeRun, out: Path) -> Path:
    """A run whose map is made."""
    made = Path(robotcar.PLACE) / "map"
    shutil.copytree(run.out / made, out / made)
    return out


def test_shards_give_what_one_process_gives(
    miniature: Callable[[str], Miniature], whole_run: Callable[[str], WholeRun], tmp_path: Path
) -> None:
    run, root = whole_run("robotcar"), miniature("robotcar").root
    out = unlocalized(run, tmp_path / "out")
    for index in (0, 1):
        report = run_benchmark(
            "robotcar",
            root,
            out,
            matcher=SIFT,
            options=run.options,
            shard=Part(index=index, count=2),
        )
        assert isinstance(report, Unfinished) == (index == 0)
    assert results_of(out) == results_of(run.out)
    submission = "RobotCar_eval_sift.txt"
    assert (out / submission).read_bytes() == (run.out / submission).read_bytes()
    assert report.recall == run.report.recall and report.unscored == run.report.unscored


def test_ray_gives_what_one_process_gives(
    cluster: None,
    miniature: Callable[[str], Miniature],
    whole_run: Callable[[str], WholeRun],
    tmp_path: Path,
) -> None:
    run, root = whole_run("robotcar"), miniature("robotcar").root
    out = unlocalized(run, tmp_path / "out")
    options = json.dumps({"max_num_features": SIFT.options.max_num_features})
    report = run_benchmark(
        "robotcar",
        root,
        out,
        matcher=MatcherSpec(name="sift", options=options),
        options=run.options,
        executor="ray",
    )
    assert results_of(out) == results_of(run.out)
    assert report.recall == run.report.recall and report.unscored == run.report.unscored


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="finds workers in /proc")
def test_nothing_is_lost_or_doubled_when_workers_are_killed(cluster: None, tmp_path: Path) -> None:
    write_noise(tmp_path / "data")
    out = tmp_path / "out"
    killer = Killer(out / "predictions")
    killer.start()
    try:
        report = run_benchmark(
            "mapfree",
            tmp_path / "data",
            out,
            matcher=MatcherSpec(name="sift"),
            options={"frames": "all"},
            executor="ray",
        )
    finally:
        killer.stopped.set()
        killer.join()
    assert len(killer.killed) == 2 and killer.doubled == set()
    assert isinstance(report, MapfreeReport)
    for scene in SCENES:
        lines = (out / "predictions" / f"{scene}.jsonl").read_text().splitlines()
        assert len(lines) == NUM_FRAMES
        assert len({line.split('"')[3] for line in lines}) == NUM_FRAMES
    assert not list((out / "predictions").glob("*.partial*"))
    assert len(report.left_out) == NUM_FRAMES * len(SCENES)


def test_a_matcher_that_cannot_be_sent_and_a_missing_ray_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(InputError, match=r"pip install 'groundloc\[ray\]'"):
        import_ray()
    write_noise(tmp_path)
    matcher = MatcherSpec(name="sift").load()
    with pytest.raises(InputError, match="give a MatcherSpec"):
        run_benchmark("mapfree", tmp_path, tmp_path / "out", matcher=matcher, executor="ray")
