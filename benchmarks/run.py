"""`run_benchmark`: predictions first, scores second, one data set per call."""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pycolmap

from benchmarks.datasets.colmap_folder import ColmapOptions, read_colmap_folder
from benchmarks.datasets.pairs import read_pairs
from benchmarks.datasets.task import LocalizationTask
from benchmarks.evaluate import EvaluationOptions, evaluate, report_without_truth
from benchmarks.options import LocalizationOptions
from benchmarks.relative import PairsOptions, match_pairs, score_pairs
from benchmarks.report import PairsReport, Report
from localize.localizer import Localizer
from localize.results import Localization, append_result, write_poses, write_results
from mapping.build import build_map
from mapping.info import groundloc_version
from mapping.map import Map
from matching.errors import InputError
from matching.files import PathLike, write_text_atomic
from matching.matcher import Matcher
from matching.options import build_options, first_difference, options_as_dict
from matching.progress import Progress, silent


def benchmark_options(name: str, values: Mapping[str, Any]) -> ColmapOptions | PairsOptions:
    """Build the options of a benchmark, so that a wrong one is known before anything is loaded.

    Args:
        name: ``"colmap"`` or ``"pairs"``.
        values: Option names to values, see `ColmapOptions` and `PairsOptions`.

    Raises:
        InputError: Unknown benchmark or option, or a refused value.
    """
    return build_options(_benchmark(name).options, values)


def run_benchmark(
    name: str,
    root: PathLike,
    out: PathLike,
    *,
    matcher: Matcher,
    options: ColmapOptions | PairsOptions | Mapping[str, Any] | None = None,
    limit: int | None = None,
    progress: Progress = silent,
) -> Report | PairsReport:
    """Run one benchmark and write its predictions and ``report.json`` to a folder.

    Predictions that are there already are kept: a killed run continues, and a finished one is only
    scored again. They must have been made with the same options, matcher and photos.

    Args:
        name: ``"colmap"`` or ``"pairs"``.
        root: The data set.
        out: Folder for predictions and report.
        matcher: From `matching.load_matcher`.
        options: Those of this benchmark, or what `benchmark_options` builds them from.
        limit: At most so many queries or pairs.
        progress: Wraps every long loop.

    Raises:
        InputError: Unknown benchmark or option, a malformed data set, or predictions in ``out``
            that other options made.
    """
    benchmark = _benchmark(name)
    if options is None or isinstance(options, Mapping):
        options = benchmark_options(name, options or {})
    elif not isinstance(options, benchmark.options):
        raise InputError(
            f"benchmark {name} takes {benchmark.options.__name__}, got {type(options).__name__}"
        )
    if limit is not None and limit < 1:
        raise InputError(f"limit must be at least 1, got {limit}")
    folder = Path(out)
    folder.mkdir(parents=True, exist_ok=True)
    report = benchmark.run(Path(root), folder, matcher, options, limit, progress)
    report.write(folder / "report.json")
    write_text_atomic(folder / "report.txt", report.to_text() + "\n")
    return report


def run_colmap(
    root: Path,
    out: Path,
    matcher: Matcher,
    options: ColmapOptions,
    limit: int | None,
    progress: Progress,
) -> Report:
    """Map, localize and score a folder as `benchmarks.datasets.colmap_folder` reads it."""
    task = read_colmap_folder(root).first_queries(limit)
    return run_localization(task, out, matcher, options, progress=progress)


def run_pairs(
    root: Path,
    out: Path,
    matcher: Matcher,
    options: PairsOptions,
    limit: int | None,
    progress: Progress,
) -> PairsReport:
    """Match the pairs that `benchmarks.datasets.pairs` reads, and score their relative poses."""
    pair_set = read_pairs(root, gaps=options.gaps, ground_truth=options.ground_truth)
    pair_set = replace(pair_set, pairs=pair_set.pairs[:limit])
    predicting = options_as_dict(options)
    for scoring in ("max_error_px", "seed"):  # matches serve any of them
        del predicting[scoring]
    pairs = [[pair.image0, pair.image1] for pair in pair_set.pairs]
    claim_folder(out, {"options": predicting, "matcher": matcher.describe(), "pairs": pairs})
    match_pairs(pair_set, out / "matches", matcher, options, progress=progress)
    report = score_pairs(pair_set, out / "matches", options, progress=progress)
    return replace(report, options={**report.options, "matcher": matcher.describe()})


@dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A kind of data set: its options, and the function that runs it."""

    options: type[Any]
    run: Callable[[Path, Path, Matcher, Any, int | None, Progress], Report | PairsReport]


# A further data set is a reader and one line here.
BENCHMARKS = {
    "colmap": Benchmark(options=ColmapOptions, run=run_colmap),
    "pairs": Benchmark(options=PairsOptions, run=run_pairs),
}


def _benchmark(name: str) -> Benchmark:
    if name not in BENCHMARKS:
        raise InputError(f"unknown benchmark '{name}' (known: {', '.join(BENCHMARKS)})")
    return BENCHMARKS[name]


def run_localization(
    task: LocalizationTask,
    out: Path,
    matcher: Matcher,
    options: LocalizationOptions,
    *,
    progress: Progress = silent,
) -> Report:
    """Map the task's map photos, localize its queries, score them if there is a truth.

    ``out`` receives ``map/``, ``poses.txt``, ``results.jsonl`` and ``options.json``.
    """
    scene = map_task(task, out, matcher, options, progress=progress)
    results = localize_task(task, scene, out, matcher, options, progress=progress)
    report = score_task(task, scene, results, options.evaluation)
    return replace(report, options={**report.options, "localizer": _plain(options.localizer)})


def map_task(
    task: LocalizationTask,
    out: Path,
    matcher: Matcher,
    options: LocalizationOptions,
    *,
    progress: Progress = silent,
) -> Map:
    """Build the map of a task in ``out/map``, from given poses or from motion."""
    given = options.map_poses == "given" or (
        options.map_poses == "auto" and task.reference is not None
    )
    if given and task.reference is None:
        raise InputError(f"{task.name} has no model with poses: use map_poses=sfm")
    known_intrinsics = not given and options.map_intrinsics == "given"
    return build_map(
        task.images,
        out / "map",
        matcher,
        # COLMAP and all published data sets mean the pixels as stored.
        options=replace(options.map, apply_exif_orientation=False),
        known_poses=task.reference if given else None,
        image_names=task.map_names,
        cameras=(task.map_cameras() or None) if known_intrinsics else None,
        progress=progress,
    )


def localize_task(
    task: LocalizationTask,
    scene: Map,
    out: Path,
    matcher: Matcher,
    options: LocalizationOptions,
    *,
    progress: Progress = silent,
) -> dict[str, Localization]:
    """Localize the queries of a task; writes ``poses.txt`` and ``results.jsonl`` to ``out``."""
    cameras = task.query_cameras
    if options.query_intrinsics == "unknown":
        cameras = dict.fromkeys(cameras)
    claim_folder(
        out,
        {
            "localizer": _plain(options.localizer),
            "query_intrinsics": options.query_intrinsics,
            "matcher": matcher.describe(),
            "map": scene.fingerprint,
            "queries": list(cameras),
        },
    )
    localizer = Localizer(scene, matcher, options=options.localizer)
    return localize_resumably(localizer, task.images, cameras, out, progress=progress)


def score_task(
    task: LocalizationTask,
    scene: Map,
    results: Mapping[str, Localization],
    options: EvaluationOptions,
) -> Report:
    """Score the results of a task; without a truth, report what localization said.

    A map from motion is aligned to the truth by its own photos.
    """
    notes = []
    if not scene.info.known_poses:
        intrinsics = "given" if scene.info.inputs.get("cameras") else "unknown"
        notes.append(f"poses of the map by structure from motion, {intrinsics} intrinsics")
    if task.truth is None:
        report = report_without_truth(results)
    else:
        report = evaluate(
            results,
            task.truth,
            queries=list(task.query_cameras),
            align_map=None if scene.info.known_poses else scene,
            options=options,
        )
    return report.with_run(
        seconds_map=sum(scene.info.seconds.values()),
        map_statistics=map_statistics(scene),
        options={"map": scene.info.options, "matcher": scene.info.matcher},
        notes=notes,
    )


def localize_resumably(
    localizer: Localizer,
    images: Path,
    cameras: Mapping[str, pycolmap.Camera | None],
    out: Path,
    *,
    progress: Progress = silent,
) -> dict[str, Localization]:
    """Localize the queries that ``out`` has no result for; write all results when done.

    Each result is appended to ``results.partial.jsonl`` as it comes, so that a killed run loses
    only the query it was at.

    Args:
        localizer: Holds the map.
        images: Folder that the names are relative to.
        cameras: Camera or None of each query, in order.
        out: Folder for ``poses.txt`` and ``results.jsonl``.
        progress: Wraps the loop.

    Returns:
        A result for every query.
    """
    partial = out / "results.partial.jsonl"
    done = _read_partial(partial) | _read_partial(out / "results.jsonl")
    missing = [name for name in cameras if name not in done]
    if missing:
        write_results(partial, done)  # without the half line that a killed run may have left
        paths = {str(images / name): name for name in missing}
        known = {path: camera for path, n in paths.items() if (camera := cameras[n]) is not None}

        def keep(result: Localization) -> None:
            named = replace(result, name=paths[result.name])
            done[named.name] = named
            append_result(partial, named)

        localizer.localize_all(list(paths), known or None, on_result=keep, progress=progress)
    results = {name: done[name] for name in cameras}
    if missing or not (out / "results.jsonl").exists():
        write_poses(out / "poses.txt", results)
        write_results(out / "results.jsonl", results)
    partial.unlink(missing_ok=True)
    return results


def claim_folder(out: Path, made_by: Mapping[str, Any]) -> None:
    """Note in ``options.json`` what makes the predictions, or check that it is the same.

    Raises:
        InputError: The folder holds predictions made otherwise; the field that differs is named.
    """
    made_by = {"groundloc_version": groundloc_version(), **made_by}
    file = out / "options.json"
    if not file.exists():
        write_text_atomic(file, json.dumps(made_by, indent=1, ensure_ascii=False) + "\n")
        return
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{file}' is damaged: give another --out folder") from error
    field_name = first_difference(before, json.loads(json.dumps(made_by)))
    if field_name is not None:
        raise InputError(
            f"'{out}' holds predictions made with another '{field_name}': give another --out folder"
        )


def map_statistics(scene: Map) -> dict[str, Any]:
    """What a report says of the map."""
    model = scene.reconstruction
    return {
        "num_images": len(scene.info.images),
        "num_registered": len(scene.image_names),
        "num_points3D": model.num_points3D(),
        "mean_reprojection_error_px": model.compute_mean_reprojection_error(),
        "mean_track_length": model.compute_mean_track_length(),
        "not_registered": dict(scene.info.not_registered),
    }


def _plain(options: Any) -> dict[str, Any]:
    """Options as they come back from JSON."""
    values: dict[str, Any] = json.loads(json.dumps(options_as_dict(options)))
    return values


def _read_partial(file: Path) -> dict[str, Localization]:
    """Results of a run that may have been killed in the middle of a line."""
    if not file.exists():
        return {}
    complete = file.read_text(encoding="utf-8").rpartition("\n")[0]
    results = {}
    for line in complete.splitlines():
        result = Localization.from_dict(json.loads(line))
        results[result.name] = result
    return results
