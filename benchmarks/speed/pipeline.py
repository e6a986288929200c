"""Times and scores the whole pipeline against a SIFT baseline script, in one process.

    python -m benchmarks.speed.pipeline --baseline ../shared/tools/sift_baseline.py --out RUN \\
        ../shared/data/strecha/fountain-P11 ../shared/data/strecha/entry-P10

The scenes are folders as `groundloc benchmark colmap` takes them. Those with a truth are mapped
three ways (poses given, structure from motion with given and with unknown intrinsics), the others
by structure from motion. A truth without metric scale (``--unscaled fox``) gives errors in its own
units, and neither VCRE nor recall. Both sides report wall seconds and CPU seconds of all threads;
the latter compare even if other programs share the cores. ``RUN/pipeline.md`` grows with each
scene.
"""

import argparse
import importlib.util
import json
import platform
import shutil
import statistics
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import poselib
import pycolmap
import torch

from benchmarks.datasets.colmap_folder import read_colmap_folder
from benchmarks.datasets.task import LocalizationTask
from benchmarks.evaluate import EvaluationOptions
from benchmarks.localization import MapSummary, localize_task, map_task, score_task
from benchmarks.options import LocalizationOptions
from benchmarks.report import Report
from mapping.options import ReconstructionOptions
from matching.files import write_text_atomic
from matching.load import load_matcher
from matching.matcher import Matcher

MODES = {  # name: (ours, the baseline's name)
    "given": (LocalizationOptions(map_poses="given"), "gt"),
    "sfm": (LocalizationOptions(map_poses="sfm"), "sfm"),
    "sfm, unknown focal": (
        LocalizationOptions(map_poses="sfm", map_intrinsics="unknown"),
        "sfm-auto",
    ),
}


@dataclass(frozen=True, kw_only=True)
class Row:
    """One scene, one way to map it, one side; times are (wall, CPU) seconds."""

    scene: str
    mode: str
    side: str
    num_queries: int
    num_localized: int
    metric: bool  # the truth's unit is the metre; if not, VCRE and recall are NaN
    translation: float  # in the truth's unit
    rotation_deg: float
    vcre_px: float
    recall: float  # at (5 cm, 0.5 deg)
    map_s: tuple[float, float]
    query_s: tuple[float, float]
    num_registered: int
    num_points: int
    reprojection_px: float


class Clock:
    """Wall and CPU seconds of a block."""

    def __enter__(self) -> "Clock":
        self._start = np.array([time.perf_counter(), time.process_time()])
        return self

    def __exit__(self, *exception: object) -> None:
        wall, cpu = np.array([time.perf_counter(), time.process_time()]) - self._start
        self.seconds = (float(wall), float(cpu))


def run_ours(
    task: LocalizationTask, mode: str, out: Path, matcher: Matcher, *, metric: bool
) -> tuple[Row, Report]:
    """Map and localize from nothing."""
    options = replace(MODES[mode][0], evaluation=EvaluationOptions(metric_truth=metric))
    shutil.rmtree(out, ignore_errors=True)
    with Clock() as mapping:
        scene = map_task(task, out, matcher, options)
    with Clock() as localizing:
        results = localize_task(task, scene, out, matcher, options)
    assert results is not None  # no other process has a part of it
    report = score_task(task, MapSummary.of(scene), results, options.evaluation)
    report.write(out / "report.json")
    assert report.map is not None
    wall, cpu = (seconds / len(results) for seconds in localizing.seconds)
    row = Row(
        scene=task.name,
        mode=mode,
        side=f"groundloc, {matcher.name}",
        num_queries=report.num_queries,
        num_localized=report.num_localized,
        metric=metric,
        translation=_or_nan(report.median_translation_error_m),
        rotation_deg=_or_nan(report.median_rotation_error_deg),
        vcre_px=_or_nan(report.median_vcre_px),
        recall=_or_nan(report.recall.get("0.05m_0.5deg")),
        map_s=mapping.seconds,
        query_s=(wall, cpu),
        num_registered=report.map["num_registered"],
        num_points=report.map["num_points3D"],
        reprojection_px=report.map["mean_reprojection_error_px"],
    )
    return row, report


def run_baseline(
    baseline: ModuleType, root: Path, modes: Sequence[str], threads: int, *, metric: bool
) -> list[Row]:
    """The baseline's own scoring of the same scene."""
    names = {MODES[mode][1]: mode for mode in modes}
    found = baseline.run_scene(root, threads, list(names))
    rows = []
    for name, values in found["modes"].items():
        rows.append(
            Row(
                scene=root.name,
                mode=names[name],
                side="baseline",
                num_queries=found["queries"],
                num_localized=round(values["localized"] * found["queries"]),
                metric=metric,
                translation=values["t_median_m"],
                rotation_deg=values["r_median_deg"],
                vcre_px=values["vcre_median_px"] if metric else np.nan,
                recall=values["recall"][0] if metric else np.nan,
                map_s=tuple(values["map_seconds"]),
                query_s=tuple(values["query_seconds"]),
                num_registered=values["registered"],
                num_points=values.get("points", 0),
                reprojection_px=values.get("mean_reprojection_error", np.nan),
            )
        )
    return rows


def run_baseline_without_truth(baseline: ModuleType, root: Path, threads: int) -> Row:
    """The baseline on a scene that has no truth; it does not time its queries there."""
    found = baseline.run_sfm(root, threads)
    queries = found.get("per_query", [])
    for query in queries:
        print("baseline", query, flush=True)
    return Row(
        scene=root.name,
        mode="sfm, unknown focal",
        side="baseline",
        num_queries=len(queries),
        num_localized=sum(query["localized"] for query in queries),
        metric=False,
        translation=np.nan,
        rotation_deg=np.nan,
        vcre_px=np.nan,
        recall=np.nan,
        map_s=tuple(found["map_seconds"]),
        query_s=(np.nan, np.nan),
        num_registered=found["registered"],
        num_points=found.get("points", 0),
        reprojection_px=found.get("mean_reprojection_error", np.nan),
    )


def table(rows: Sequence[Row]) -> str:
    """Accuracy and times of both sides, and how many times faster ours is."""
    lines = [
        "| set | map | side | localized | median error | median VCRE | recall 5 cm, 0.5 deg "
        "| registered, points, px | map, wall / CPU s | query, wall / CPU s |",
        "|" + " --- |" * 10,
    ]
    for row in rows:
        cm = f"{row.translation * 100:.2f} cm"
        translation = cm if row.metric else f"{row.translation:.4f} units"
        lines.append(
            f"| {row.scene} | {row.mode} | {row.side} | {row.num_localized} of {row.num_queries} "
            f"| {translation}, {row.rotation_deg:.3f} deg | {row.vcre_px:.2f} px "
            f"| {row.recall:.2f} | {row.num_registered}, {row.num_points}, "
            f"{row.reprojection_px:.2f} | {row.map_s[0]:.1f} / {row.map_s[1]:.1f} "
            f"| {row.query_s[0]:.2f} / {row.query_s[1]:.2f} |".replace("nan", "-")
        )
    peers = {(r.scene, r.mode): r for r in rows if r.side == "baseline"}
    pairs = [
        (r, peers[r.scene, r.mode])
        for r in rows
        if (r.scene, r.mode) in peers and r.side != "baseline"
    ]
    for what in ("map_s", "query_s"):
        for kind, name in enumerate(("wall", "CPU")):
            ratios = [getattr(b, what)[kind] / getattr(a, what)[kind] for a, b in pairs]
            ratios = [ratio for ratio in ratios if np.isfinite(ratio)]
            if ratios:
                lines.append(
                    f"\nbaseline / ours, {what.removesuffix('_s')}, {name} seconds: "
                    f"median {statistics.median(ratios):.1f}, from {min(ratios):.1f} "
                    f"to {max(ratios):.1f}"
                )
    return "\n".join(lines)


def environment(threads: int) -> str:
    """Date, machine, versions and commit of a run."""
    git = subprocess.run(
        ["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    model = [
        line.split(":", 1)[1].strip()
        for line in Path("/proc/cpuinfo").read_text().splitlines()
        if line.startswith("model name")
    ]
    return (
        f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC, commit {git.stdout.strip() or 'unknown'}, "
        f"{len(model)} cores of {model[0] if model else platform.processor()}, {threads} threads "
        "for torch and for reading and encoding photos, "
        f"{ReconstructionOptions().num_threads} for COLMAP, "
        f"Python {platform.python_version()}, torch {torch.__version__}, "
        f"pycolmap {pycolmap.__version__}, poselib {poselib.__version__}"
    )


def load_threaded(name: str, threads: int) -> Matcher:
    """A matcher that uses so many threads; SIFT encodes photos in a pool of its own."""
    torch.set_num_threads(threads)
    return load_matcher(name, options={"num_threads": threads} if name == "sift" else None)


def _or_nan(value: float | None) -> float:
    return float("nan") if value is None else value


def _load(script: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("sift_baseline", script)
    if spec is None or spec.loader is None:
        raise SystemExit(f"no Python script '{script}'")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def main() -> None:
    """Run the scenes and print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenes", nargs="+", type=Path)
    parser.add_argument("--baseline", type=Path, help="the baseline script; left out: ours alone")
    parser.add_argument("--out", type=Path, required=True, help="folder of our maps and reports")
    parser.add_argument("--modes", nargs="+", choices=MODES, default=list(MODES))
    parser.add_argument("--matcher", default="sift")
    parser.add_argument("--threads", type=int, default=2, help="of torch, SIFT and the baseline")
    parser.add_argument(
        "--unscaled", nargs="+", default=[], metavar="NAME", help="scenes whose truth has no metres"
    )
    arguments = parser.parse_args()
    unknown = set(arguments.unscaled) - {scene.name for scene in arguments.scenes}
    if unknown:
        parser.error(f"--unscaled names no scene: {', '.join(sorted(unknown))}")
    matcher = load_threaded(arguments.matcher, arguments.threads)
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR.value)
    baseline = None if arguments.baseline is None else _load(arguments.baseline)
    measured = environment(arguments.threads)  # now: the code in memory is that of this commit
    rows: list[Row] = []
    for scene in arguments.scenes:
        task = read_colmap_folder(scene)
        metric = scene.name not in arguments.unscaled
        modes = arguments.modes if task.truth is not None else ["sfm, unknown focal"]
        for mode in modes:
            out = arguments.out / f"{task.name}_{list(MODES).index(mode)}"
            row, report = run_ours(task, mode, out, matcher, metric=metric)
            rows.append(row)
            print(f"{task.name}, {mode}\n{report.to_text()}\n", flush=True)
        if baseline is not None and task.truth is not None:
            rows += run_baseline(baseline, scene, modes, arguments.threads, metric=metric)
        elif baseline is not None:
            rows.append(run_baseline_without_truth(baseline, scene, arguments.threads))
        values: list[dict[str, Any]] = [vars(row) for row in rows]
        text = f"{measured}\n\n{table(rows)}\n"
        write_text_atomic(arguments.out / "pipeline.json", json.dumps(values, indent=1) + "\n")
        write_text_atomic(arguments.out / "pipeline.md", text)
    print(text)


if __name__ == "__main__":
    main()
