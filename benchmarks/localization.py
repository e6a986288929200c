"""Predictions of localization benchmarks: a map per scene, a pose per query, all on disk.

Of a scene stay ``map/``, ``results.jsonl``, ``poses.txt``, ``options.json`` (what made them) and
``scene.json`` (what scores need to know of the map, so that they can be made without it).
"""

import fcntl
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pycolmap

from benchmarks.align import AlignmentError, align_poses
from benchmarks.claims import claim_folder
from benchmarks.datasets.task import LocalizationTask
from benchmarks.evaluate import EvaluationOptions, evaluate, report_without_truth, true_poses
from benchmarks.journal import Journal
from benchmarks.options import LocalizationOptions
from benchmarks.report import Report
from benchmarks.shards import WHOLE, Part
from localize.localizer import Localizer
from localize.results import Localization, write_poses
from mapping.build import OtherMapError, build_map
from mapping.map import Map
from matching.errors import InputError
from matching.files import existing_file, write_text_atomic
from matching.matcher import Matcher
from matching.options import options_as_dict
from matching.progress import Progress, silent

RESULTS = "results"  # stem of the files of a scene's predictions


def map_task(
    task: LocalizationTask,
    folder: Path,
    matcher: Matcher,
    options: LocalizationOptions,
    *,
    progress: Progress = silent,
) -> Map:
    """Build the map of a task in ``folder/map``, from given poses or from motion.

    Processes that share the folder wait for the one that builds it.
    """
    given = options.map_poses == "given" or (
        options.map_poses == "auto" and task.reference is not None
    )
    if given and task.reference is None:
        raise InputError(f"{task.name} has no model with poses: use map_poses=sfm")
    depth: dict[str, Any] = {}
    if options.map_points == "depth":
        if task.surfaces is None or not given:
            raise InputError(f"{task.name} gives no depth with poses: use map_points=triangulated")
        depth["surfaces"] = task.surfaces
    known_intrinsics = not given and options.map_intrinsics == "given"
    with _one_at_a_time(folder / ".map.lock"):
        try:
            return build_map(
                task.images,
                folder / "map",
                matcher,
                # COLMAP and all published data sets mean the pixels as stored.
                options=replace(options.map, apply_exif_orientation=False),
                # read while others wait: they find it kept
                known_poses=task.known_poses() if given else None,
                image_names=task.map_names,
                cameras=(task.map_cameras() or None) if known_intrinsics else None,
                progress=progress,
                **depth,
            )
        except OtherMapError as error:
            raise InputError(
                f"{error.what}: give another --out folder, or delete '{folder}' to start anew"
            ) from error


def localize_task(
    task: LocalizationTask,
    scene: Map,
    folder: Path,
    matcher: Matcher,
    options: LocalizationOptions,
    *,
    part: Part = WHOLE,
    progress: Progress = silent,
) -> dict[str, Localization] | None:
    """Localize a part of the queries of a task; those that ``folder`` has results for are kept.

    Args:
        task: The scene.
        scene: Its map.
        folder: Each result is appended to a file here as it comes; ``results.jsonl`` and
            ``poses.txt`` are written when no query is missing any more.
        matcher: The one of the map.
        options: Settings.
        part: Which of the queries.
        progress: Wraps the loop.

    Returns:
        A result for every query, or None while other parts are missing.

    Raises:
        InputError: The folder holds predictions that other options made.
    """
    cameras = task.query_cameras
    if options.query_intrinsics == "unknown":
        cameras = dict.fromkeys(cameras)
    grown = claim_folder(
        folder,
        {
            "localizer": _plain(options.localizer),
            "query_intrinsics": options.query_intrinsics,
            "retrieval_pairs": None if task.retrieval is None else _digest(task.retrieval),
            "matcher": matcher.describe(),
            "map": scene.fingerprint,
            "queries": list(cameras),
        },
        growing="queries",
    )
    if grown:
        (folder / "poses.txt").unlink(missing_ok=True)
    journal = Journal(folder, RESULTS, part)
    journal.cut()
    done = journal.records()
    missing = [name for name in part.of(list(cameras)) if name not in done]
    if missing:
        paths = {str(task.images / name): name for name in missing}
        known = {path: camera for path, n in paths.items() if (camera := cameras[n]) is not None}
        listed: dict[str, Any] = {}
        if task.retrieval is not None:
            found = task.retrieval
            listed["retrieved"] = {p: found[n] for p, n in paths.items() if n in found}
        localizer = Localizer(scene, matcher, options=options.localizer)
        localizer.localize_all(
            list(paths),
            known or None,
            on_result=lambda r: journal.append(replace(r, name=paths[r.name]).to_dict()),
            progress=progress,
            **listed,
        )
    records = journal.join(list(cameras))
    if records is None:
        return None
    results = {name: Localization.from_dict(record) for name, record in records.items()}
    if not (folder / "poses.txt").exists():
        write_poses(folder / "poses.txt", results)
    return results


def seed_runs(options: LocalizationOptions, folder: Path) -> Iterator[tuple[Path, Any]]:
    """Folder and options of the run with each RANSAC seed; the first is in the folder itself."""
    for number in range(options.num_seeds):
        seeded = replace(
            options.localizer,
            pnp=replace(options.localizer.pnp, seed=options.localizer.pnp.seed + number),
        )
        run_folder = folder if number == 0 else folder / f"seed-{number}"
        run_folder.mkdir(parents=True, exist_ok=True)
        yield run_folder, replace(options, localizer=seeded)


@dataclass(frozen=True, kw_only=True)
class MapSummary:
    """What scores need to know of a map.

    Attributes:
        known_poses: Whether its poses were given; else it has a frame of its own.
        known_intrinsics: Whether its intrinsics were given.
        seconds: It took to build.
        statistics: See `map_statistics`.
        options: Those of the map.
        matcher: What it was made with.
        poses: ``cam_from_map`` of its photos if they were not given.
    """

    known_poses: bool
    known_intrinsics: bool
    seconds: float
    statistics: Mapping[str, Any]
    options: Mapping[str, Any]
    matcher: Mapping[str, Any]
    poses: Mapping[str, pycolmap.Rigid3d]

    @staticmethod
    def of(scene: Map) -> "MapSummary":
        """That of an open map."""
        given = scene.info.known_poses
        return MapSummary(
            known_poses=given,
            known_intrinsics=given or bool(scene.info.inputs.get("cameras")),
            seconds=sum(scene.info.seconds.values()),
            statistics=map_statistics(scene),
            options=scene.info.options,
            matcher=scene.info.matcher,
            poses={} if given else {n: scene.cam_from_world(n) for n in scene.image_names},
        )

    def write(self, folder: Path) -> None:
        """Write ``scene.json``."""
        values = {
            **vars(self),
            "poses": {name: pose.matrix().tolist() for name, pose in self.poses.items()},
        }
        text = json.dumps(values, indent=1, ensure_ascii=False)
        write_text_atomic(folder / "scene.json", text + "\n")

    @staticmethod
    def read(folder: Path) -> "MapSummary":
        """Read ``scene.json``.

        Raises:
            InputError: It is missing or damaged.
        """
        file = existing_file(folder / "scene.json", "scene summary")
        try:
            values = json.loads(file.read_text(encoding="utf-8"))
            poses = {name: pycolmap.Rigid3d(m) for name, m in values["poses"].items()}
            return MapSummary(**{**values, "poses": poses})
        except (ValueError, TypeError, KeyError) as error:
            raise InputError(f"'{file}' is damaged: run the benchmark again") from error


def score_task(
    task: LocalizationTask,
    summary: MapSummary,
    results: Mapping[str, Localization],
    options: EvaluationOptions,
) -> Report:
    """Score the results of a task; without a truth, report what localization said.

    A map from motion is aligned to the truth by its own photos.
    """
    notes = []
    if not summary.known_poses:
        intrinsics = "given" if summary.known_intrinsics else "unknown"
        notes.append(f"poses of the map by structure from motion, {intrinsics} intrinsics")
    align_to = None if summary.known_poses else summary.poses
    if task.truth is None or not results:
        report = report_without_truth(results)
    else:
        cameras = {n: c for n, c in task.query_cameras.items() if c is not None}
        found: Mapping[str, Localization] = results
        try:
            if align_to is not None:
                align_poses(align_to, true_poses(task.truth))
        except AlignmentError as error:  # a map that came out wrong is a result, and a bad one
            notes.append(f"{error}; all queries count as failed")
            found, align_to = {}, None
        report = evaluate(
            found,
            task.truth,
            queries=list(results),
            cameras=cameras,
            align_map=align_to,
            options=options,
        )
    return report.with_run(
        seconds_map=summary.seconds,
        map_statistics=summary.statistics,
        options={"map": summary.options, "matcher": summary.matcher},
        notes=notes,
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


def _digest(retrieval: Mapping[str, Any]) -> str:
    """What a retrieval list says, wherever it lies."""
    listed = sorted((query, list(found)) for query, found in retrieval.items())
    return hashlib.sha256(repr(listed).encode()).hexdigest()


@contextmanager
def _one_at_a_time(file: Path) -> Iterator[None]:
    """Hold a lock that other processes wait for; a killed process frees it."""
    file.parent.mkdir(parents=True, exist_ok=True)
    with file.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


def _plain(options: Any) -> dict[str, Any]:
    """Options as they come back from JSON."""
    values: dict[str, Any] = json.loads(json.dumps(options_as_dict(options)))
    return values
