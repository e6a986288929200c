"""`benchmark mapfree`: relative poses of every scored frame, the zip for the server, its scores."""

import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.claims import claim_folder
from benchmarks.datasets.mapfree_scene import (
    NUM_SCENES,
    REFERENCE,
    MapfreeScene,
    read_depth,
    read_device_poses,
    read_mapfree_scene,
    scene_folders,
)
from benchmarks.datasets.photo_check import damage
from benchmarks.given_depth import baseline_from_depth, with_length
from benchmarks.jobs import Job
from benchmarks.journal import Journal, Record
from benchmarks.mapfree_confidence import mapfree_confidence
from benchmarks.mapfree_report import MapfreeReport, score_zip
from benchmarks.mapfree_submission import EstimateLine, write_mapfree_zip
from benchmarks.mapfree_track import fuse, query_from_frame
from benchmarks.plan import Check, Count, Plan, measure
from benchmarks.shards import Part, Unit, units_of
from localize.essential import RelativeOptions
from localize.relative import relative_pose
from matching.errors import InputError
from matching.images import read_image
from matching.matcher import Matcher
from matching.options import options_as_dict
from matching.progress import Progress
from matching.types import View

SUBMISSION = "submission.zip"
_PREDICTIONS = "predictions"  # folder of one file per scene


@dataclass(frozen=True, kw_only=True)
class MapfreeOptions:
    """Settings of `benchmark mapfree`."""

    split: Literal["val", "test"] = "val"  # test: only its server knows the truth
    track: Literal["single", "multi"] = "single"  # multi: may use 9 frames and the phone's tracking
    frames: Literal["scored", "all"] = "scored"  # others cost time and change no score
    # kind of given depth maps of the reference photos, `frame_00000.<kind>.png`, that give the
    # scale; None: the matcher's own metric point maps
    depth: str | None = None
    # every pose is kept: the scores rank poses by their confidence
    relative: RelativeOptions = field(default_factory=lambda: RelativeOptions(min_confidence=0))
    num_bootstrap: int = 0  # resamplings of the frames for 95 % intervals; 0: none

    def __post_init__(self) -> None:
        if self.num_bootstrap < 0:
            raise ValueError(f"num_bootstrap must be >= 0, got {self.num_bootstrap}")


@dataclass(frozen=True, kw_only=True)
class MapfreeBenchmark:
    """The scenes of a split, one reference photo each."""

    options: type[MapfreeOptions] = MapfreeOptions
    prepares: bool = False  # a worker encodes the reference again: less than one pair takes

    def units(self, job: Job, shard: Part) -> list[Unit]:
        return units_of([f.name for f in scene_folders(job.root, job.options.split)], shard)

    def claim(self, job: Job, matcher: Matcher) -> None:
        predicting = options_as_dict(job.options)
        del predicting["num_bootstrap"]
        # a run with another limit goes on: each scene's frames are told by their names
        made_by = {"options": predicting, "matcher": matcher.describe()}
        claim_folder(job.out, made_by)
        (job.out / _PREDICTIONS).mkdir(exist_ok=True)

    def prepare(self, job: Job, unit: Unit, matcher: Matcher, progress: Progress) -> None:
        pass

    def predict(self, job: Job, unit: Unit, matcher: Matcher, progress: Progress) -> None:
        scene = self._scene(job, unit.scene)
        journal = Journal(job.out / _PREDICTIONS, unit.scene, unit.part)
        journal.cut()
        done = journal.records()
        frames = _frames(scene, job)
        missing = [name for name in unit.part.of(frames) if name not in done]
        if missing:
            predictor = _Predictor(scene, matcher, job.options)
            views = matcher.encode_many(_stored(scene.folder / name) for name in missing)
            for name in progress(missing, unit.scene, total=len(missing)):
                start = time.perf_counter()
                record = predictor.predict(name, next(views))
                journal.append({**record, "seconds": time.perf_counter() - start})
        journal.join(frames)

    def missing(self, job: Job) -> str:
        for folder in scene_folders(job.root, job.options.split):
            done = Journal(job.out / _PREDICTIONS, folder.name).records()
            frames = _frames(read_mapfree_scene(folder), job)
            left = [name for name in frames if name not in done]
            if left:
                return f"scene {folder.name} has no prediction yet for {len(left)} frames"
        return ""

    def score(self, job: Job, method: str, progress: Progress) -> MapfreeReport:
        estimates: dict[str, list[EstimateLine]] = {}
        failed: dict[str, str] = {}
        seconds = []
        folders = scene_folders(job.root, job.options.split)
        for folder in progress(folders, "submission", total=len(folders)):
            scene = read_mapfree_scene(folder)
            records = Journal(job.out / _PREDICTIONS, folder.name).records()
            seconds += [record["seconds"] for record in records.values()]
            if job.options.track == "multi":
                lines, reasons = _fused(scene, records, job.limit)
            else:
                lines, reasons = _single(_frames(scene, job), records)
            estimates[scene.folder.name] = lines
            failed.update({f"{scene.folder.name}/{name}": why for name, why in reasons.items()})
        path = job.out / SUBMISSION
        write_mapfree_zip(path, estimates)
        report = MapfreeReport(
            split=job.options.split,
            track=job.options.track,
            num_estimates=sum(map(len, estimates.values())),
            left_out=failed,
            submission=path.name,
            seconds_per_frame=float(np.mean(seconds)) if seconds else None,
            options={"mapfree": options_as_dict(job.options)},
            notes=_notes(job),
        )
        if job.options.split == "test":
            return report
        scored = score_zip(
            path,
            job.root,
            split=job.options.split,
            track=job.options.track,
            num_bootstrap=job.options.num_bootstrap,
        )
        return report.with_scores(scored)

    def plan(self, job: Job, shard: Part, matcher: Matcher) -> Plan:
        units = self.units(job, shard)
        scenes = [self._scene(job, unit.scene) for unit in units]
        frames = [
            unit.part.of(_frames(scene, job)) for unit, scene in zip(units, scenes, strict=True)
        ]
        num_frames = sum(map(len, frames))
        first = scenes[0]
        return Plan(
            num_scenes=len(units),
            num_map_photos=len(units),
            num_queries=num_frames,
            num_map_pairs=0,
            num_query_pairs=num_frames,
            **{
                **measure(matcher, first.folder / REFERENCE, first.folder / first.names[0]),
                "bytes_per_encoding": 0,  # nothing of it is kept
            },
        )

    def check(self, job: Job, progress: Progress) -> Check:
        split = job.options.split
        folders = scene_folders(job.root, split)
        photos = queries = 0
        damaged: list[str] = []
        for folder in progress(folders, "check", total=len(folders)):
            scene = read_mapfree_scene(folder)
            read_device_poses(scene)
            if job.options.depth is not None:
                read_depth(scene, REFERENCE, job.options.depth)
            found = (damage(scene.folder / name) for name in (REFERENCE, *scene.names))
            damaged += [what for what in found if what]
            photos += 1 + len(scene.names)
            queries += len(scene.scored)
        counts = [
            Count(what="scenes", found=len(folders), published=NUM_SCENES[split]),
            Count(what="photos", found=photos),
            Count(what="frames scored by the single-frame track", found=queries),
        ]
        return Check(title=f"Map-free, {split}", counts=counts, damaged=damaged)

    def _scene(self, job: Job, name: str) -> MapfreeScene:
        return read_mapfree_scene(job.root / job.options.split / name)


class _Predictor:
    """Poses of a scene's frames relative to its reference photo, which is encoded once."""

    def __init__(self, scene: MapfreeScene, matcher: Matcher, options: MapfreeOptions) -> None:
        self._scene = scene
        self._matcher = matcher
        self._options = options
        self._reference = matcher.encode_image(_stored(scene.folder / REFERENCE))
        self._depth = None if options.depth is None else read_depth(scene, REFERENCE, options.depth)

    def predict(self, name: str, view: View | InputError) -> dict[str, Any]:
        """What is kept of a frame."""
        if isinstance(view, InputError):
            raise view
        result = relative_pose(
            self._reference,
            view,
            matcher=self._matcher,
            camera0=self._scene.cameras[REFERENCE],
            camera1=self._scene.cameras[name],
            options=self._options.relative,
        )
        pose, reason, spread = result.cam1_from_cam0, result.reason, result.length_spread
        if pose is not None and self._depth is not None:
            baseline = baseline_from_depth(result, self._depth)
            if baseline is None:
                pose, reason = None, "too few matches with a depth to tell the length from"
            else:
                pose, spread = with_length(pose, baseline.length), baseline.spread
        elif pose is not None and not result.metric:
            pose, reason = None, "no metric scale: give depth (option depth) or a metric matcher"
        length = None if pose is None else float(np.linalg.norm(pose[:3, 3]))
        return {
            "name": name,
            "success": pose is not None,
            "reason": reason,
            "cam_from_world": None if pose is None else pose.tolist(),
            "confidence": 0.0 if length is None else mapfree_confidence(result, length, spread),
            "num_inliers": result.num_inliers,
            "num_matches": result.num_matches,
        }


def _stored(photo: Path) -> NDArray[np.uint8]:
    """A photo's pixels as they are stored: that is what its intrinsics mean."""
    return read_image(photo, apply_exif_orientation=False)


def _frames(scene: MapfreeScene, job: Job) -> list[str]:
    """The frames that a track's scores rest on; with a limit, those of the first scored ones."""
    options: MapfreeOptions = job.options
    if options.track == "multi":
        windows = list(scene.windows().values())[: job.limit]
        return list(dict.fromkeys(name for window in windows for name in window))
    names = scene.names if options.frames == "all" else scene.scored
    return list(names[: job.limit])


def _single(
    frames: list[str], records: Mapping[str, Record]
) -> tuple[list[EstimateLine], dict[str, str]]:
    lines, reasons = [], {}
    for name in frames:
        record = records[name]
        if record["success"]:
            lines.append(_line(name, np.array(record["cam_from_world"]), record["confidence"]))
        else:
            reasons[name] = record["reason"]
    return lines, reasons


def _fused(
    scene: MapfreeScene, records: Mapping[str, Record], limit: int | None
) -> tuple[list[EstimateLine], dict[str, str]]:
    device = read_device_poses(scene)
    lines, reasons = [], {}
    for query, window in list(scene.windows().items())[:limit]:
        poses, confidences = [], []
        for name in window:
            record = records[name]
            if not record["success"] or (name not in device and name != query):
                continue
            pose = np.array(record["cam_from_world"])
            poses.append(pose if name == query else query_from_frame(pose, device[name]))
            confidences.append(record["confidence"])
        fused = fuse(poses, confidences)
        if fused is None:
            reasons[query] = f"none of {len(window)} frames: {records[query]['reason']}"
        else:
            lines.append(_line(query, fused.cam_from_world, fused.support / len(window)))
    return lines, reasons


def _line(name: str, cam_from_world: Any, confidence: float) -> EstimateLine:
    pose = pycolmap.Rigid3d(cam_from_world[:3])
    return EstimateLine(name=name, cam_from_world=pose, confidence=confidence)


def _notes(job: Job) -> tuple[str, ...]:
    options: MapfreeOptions = job.options
    notes = []
    if options.track == "multi":
        notes.append(
            "multi-frame track: the official public script scores the single-frame track only; "
            "these scores take the same formulas at the track's own frames"
        )
    if options.depth is not None:
        notes.append(f"scale from the given depth maps '{options.depth}'")
    if job.limit is not None:
        notes.append(f"only the first {job.limit} frames of each scene: the others count as failed")
    return tuple(notes)
