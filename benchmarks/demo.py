"""``groundloc demo``: the whole pipeline on a rendered place, or on the user's own photos."""

import dataclasses
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap

from benchmarks.evaluate import EvaluationOptions, evaluate, report_without_truth
from benchmarks.html_report import write_html_report
from benchmarks.localization import map_statistics
from benchmarks.match_cards import HtmlReportOptions
from benchmarks.rendered_place import PlaceOptions, write_rendered_place
from benchmarks.report import Report
from localize import Localization, Localizer, LocalizerOptions
from localize.results import write_poses_and_results
from mapping import Map, MapOptions, PairOptions, build_map
from matching.errors import InputError
from matching.files import PathLike, existing_folder, write_text_atomic
from matching.images import list_images
from matching.load import load_matcher
from matching.matcher import Matcher
from matching.options import options_as_dict
from matching.progress import Progress, silent

_MARKER = "demo.json"  # says that the demo made a folder and may replace what is in it


@dataclass(frozen=True, kw_only=True)
class DemoOptions:
    """Settings of the demo; the stages' own options are those of the other commands."""

    place: PlaceOptions = field(default_factory=PlaceOptions)
    hold_out_every: int = 4  # of one's own photos, one in so many is localized, not mapped
    # own photos: compare with a reconstruction of all photos, which takes a second mapping run
    reference: bool = True
    map: MapOptions = field(  # of one's own photos
        default_factory=lambda: MapOptions(pairs=PairOptions(max_exhaustive=20, top_k=10))
    )
    localizer: LocalizerOptions = field(default_factory=LocalizerOptions)
    # of the rendered place: few pairs, so that it is over within three minutes on two cores
    place_map: MapOptions = field(
        default_factory=lambda: MapOptions(pairs=PairOptions(max_exhaustive=12, top_k=5))
    )
    place_localizer: LocalizerOptions = field(default_factory=lambda: LocalizerOptions(top_k=3))
    html: HtmlReportOptions = field(default_factory=HtmlReportOptions)

    def __post_init__(self) -> None:
        if self.hold_out_every < 2:
            raise ValueError(f"hold_out_every must be at least 2, got {self.hold_out_every}")


@dataclass(frozen=True, kw_only=True)
class DemoResult:
    """What the demo found and wrote.

    Attributes:
        report: Scores, as in ``report.json``.
        files: What was written, by kind: ``report.html``, ``poses.txt``, ...
        seconds: Wall time of the whole run.
        error_unit: Of the translation errors.
    """

    report: Report
    files: Mapping[str, Path]
    seconds: float
    error_unit: str = "m"

    def to_dict(self) -> dict[str, Any]:
        """The content of ``report.json``, the files and the time, as plain values."""
        files = {name: str(path) for name, path in self.files.items()}
        return {**self.report.to_dict(), "files": files, "seconds": self.seconds}

    @property
    def text(self) -> str:
        """The table for the terminal, and where to look next."""
        page = self.files["report.html"]
        return (
            f"{self.report.to_text(self.error_unit)}\n\n"
            f"Done in {self.seconds:.0f} s. Open {page} in a browser: matches, map and cameras in "
            "3D, every photo.\n"
            f"Localize a photo of yours:  groundloc localize {shlex.quote(str(self.files['map']))} "
            "photo.jpg"
        )


def run_demo(
    out: PathLike,
    *,
    photos: PathLike | None = None,
    matcher: Matcher | None = None,
    device: str = "cpu",
    options: DemoOptions | None = None,
    progress: Progress = silent,
) -> DemoResult:
    """Map a place, localize photos in it, score the poses and write a report.

    Without ``photos`` the place is rendered, so the truth is exact: the map gets the poses of its
    photos, the queries' poses serve only for scoring. With ``photos``, some of them are held out;
    the map is made of the others by structure from motion and the held-out ones are localized in
    it. Their true poses are unknown: they are compared with a structure from motion of *all*
    photos, which is agreement of two methods and no proof.

    Everything goes below ``out``: ``report.html``, ``report.json``, ``poses.txt``,
    ``results.jsonl``, ``map/`` and the rendered photos in ``place/``. A second run into the same
    folder reuses what is up to date, and a run that was interrupted continues.

    Args:
        out: Output folder: a new or empty one, or that of an earlier demo.
        photos: Folder of one's own photos.
        matcher: From `matching.load_matcher`; the bundled network if None.
        device: Torch device of a matcher loaded here.
        options: Settings.
        progress: Wraps every long loop.

    Raises:
        InputError: Too few photos, none that can be mapped, or ``out`` holds something that the
            demo did not make.
    """
    options = options or DemoOptions()
    if photos is None:
        options = dataclasses.replace(
            options, map=options.place_map, localizer=options.place_localizer
        )
    root = Path(out)
    if root.exists() and not root.is_dir():
        raise InputError(f"'{out}' is a file, but --out takes a folder")
    if root.is_dir() and not (root / _MARKER).is_file() and any(root.iterdir()):
        raise InputError(
            f"'{out}' is not empty and was not made by the demo, which would replace files in it: "
            "give --out a new folder"
        )
    matcher = matcher or load_matcher("small", device=device)
    start = time.perf_counter()
    if photos is None:
        run = _rendered(root, matcher, options, progress)
    else:
        run = _own_photos(existing_folder(photos, "photo folder"), root, matcher, options, progress)
    report = dataclasses.replace(
        run.report,
        seconds_map=sum(run.scene.info.seconds.values()),
        map=map_statistics(run.scene),
        options={
            **run.report.options,
            "map": run.scene.info.options,
            "localizer": options_as_dict(options.localizer),
            "matcher": matcher.describe(),
        },
        notes=[*run.notes, *run.report.notes],
    )
    files = {
        "poses.txt": root / "poses.txt",
        "results.jsonl": root / "results.jsonl",
        "report.json": root / "report.json",
        "report.html": root / "report.html",
        "map": root / "map",
    }
    write_poses_and_results(files["poses.txt"], files["results.jsonl"], run.results)
    report.write(files["report.json"])
    write_html_report(
        files["report.html"],
        run.scene,
        run.results,
        query_images=run.images,
        map_images=run.images,
        report=report,
        truth=run.truth,
        title=run.title,
        error_unit=run.error_unit,
        truth_name=run.truth_name,
        matcher=matcher,
        options=options.html,
        progress=progress,
    )
    return DemoResult(
        report=report,
        files=files,
        seconds=time.perf_counter() - start,
        error_unit=run.error_unit,
    )


@dataclass(frozen=True, kw_only=True)
class _Run:
    """What either kind of demo hands to the reports."""

    scene: Map
    results: Mapping[str, Localization]
    images: Path
    report: Report
    title: str
    notes: Sequence[str]
    truth: Mapping[str, pycolmap.Rigid3d] | None = None
    error_unit: str = "m"
    truth_name: str = "the truth"


def _rendered(root: Path, matcher: Matcher, options: DemoOptions, progress: Progress) -> _Run:
    _claim(root)
    place = write_rendered_place(root / "place", options.place, progress=progress)
    scene = build_map(
        place.images,
        root / "map",
        matcher,
        options=options.map,
        known_poses=place.truth,
        image_names=place.map_names,
        overwrite=True,
        progress=progress,
    )
    results = _localize(
        scene,
        matcher,
        place.images,
        list(place.query_cameras),
        place.query_cameras,
        options,
        progress,
    )
    truth = {image.name: image.cam_from_world() for image in place.truth.images.values()}
    return _Run(
        scene=scene,
        results=results,
        images=place.images,
        report=evaluate(results, place.truth),
        title="groundloc demo",
        notes=[
            f"A place rendered by groundloc: the map is made of {len(place.map_names)} photos with "
            f"known cameras and poses; {len(results)} photos in other light are localized in it "
            "with known cameras, and scored against their exact poses.",
        ],
        truth={name: truth[name] for name in results},
    )


def _own_photos(
    photos: Path, root: Path, matcher: Matcher, options: DemoOptions, progress: Progress
) -> _Run:
    names = [name for name in list_images(photos) if not _is_inside(photos / name, root)]
    if len(names) < 3:
        raise InputError(
            f"'{photos}' has {len(names)} photo{'s' * (len(names) != 1)}, the demo needs at least "
            "3 overlapping ones (two for a map, one to localize), better 10 or more"
        )
    _claim(root)
    held_out = names[2 :: options.hold_out_every]
    mapped = names.copy()
    del mapped[2 :: options.hold_out_every]
    scene = build_map(
        photos,
        root / "map",
        matcher,
        options=options.map,
        image_names=mapped,
        overwrite=True,
        progress=progress,
    )
    results = _localize(scene, matcher, photos, held_out, None, options, progress)
    notes = [
        f"{len(held_out)} of {len(names)} photos were held out; the map is a structure from motion "
        f"of the others, of which it could use {len(scene.image_names)} of {len(mapped)}. Its "
        "scale is arbitrary."
    ]
    run = _Run(
        scene=scene,
        results=results,
        images=photos,
        report=report_without_truth(results),
        title=f"groundloc on {photos.resolve().name}",
        notes=notes,
    )
    if not options.reference:
        return run
    try:
        reference = build_map(
            photos,
            root / "reference",
            matcher,
            options=options.map,
            image_names=names,
            overwrite=True,
            progress=progress,
        )
        poses = _scaled_poses(reference)
        agreement = evaluate(
            results,
            poses,
            queries=held_out,
            align_map=scene,
            options=EvaluationOptions(metric_truth=False),
        )
    except InputError as error:
        note = f"There is no structure from motion of all photos to compare with: {error}."
        return dataclasses.replace(run, notes=[*notes, note])
    notes.append(
        "True poses are not known: errors are differences to a structure from motion of all "
        "photos, aligned by the map's photos. They show agreement, not truth. Positions are in "
        "percent of the RMS distance of the cameras from their centre."
    )
    unscored = [name for name in held_out if name not in poses]
    if unscored:
        notes.append(
            f"The structure from motion of all photos could not use {len(unscored)} of the "
            f"held-out ones, which are not compared: {', '.join(unscored)}."
        )
    return dataclasses.replace(
        run,
        # its own notes say the same in general words
        report=dataclasses.replace(agreement, notes=[]),
        error_unit="%",
        truth_name="a structure from motion of all photos",
        notes=notes,
    )


def _claim(root: Path) -> None:
    """Mark a folder, found empty or marked, as the demo's own."""
    text = "This folder was made by groundloc demo; the next demo may replace what is in it."
    write_text_atomic(root / _MARKER, json.dumps({"note": text}, indent=1) + "\n")


def _localize(
    scene: Map,
    matcher: Matcher,
    images: Path,
    names: Sequence[str],
    cameras: Mapping[str, pycolmap.Camera] | None,
    options: DemoOptions,
    progress: Progress,
) -> dict[str, Localization]:
    """Results by the photos' names instead of their paths."""
    localizer = Localizer(scene, matcher, options=options.localizer)
    paths = {str(images / name): name for name in names}
    by_path = localizer.localize_all(
        list(paths),
        None if cameras is None else {path: cameras[name] for path, name in paths.items()},
        progress=progress,
    )
    return {
        paths[path]: dataclasses.replace(result, name=paths[path])
        for path, result in by_path.items()
    }


def _scaled_poses(reference: Map) -> dict[str, pycolmap.Rigid3d]:
    """Poses in a unit of 1 % of the cameras' RMS distance from their centre."""
    poses = {name: reference.cam_from_world(name) for name in reference.image_names}
    centres = np.array([pose.inverse().translation for pose in poses.values()])
    spread = float(np.sqrt(((centres - centres.mean(0)) ** 2).sum(1).mean()))
    if not spread > 0:
        raise InputError("all photos were taken from one place")
    return {
        name: pycolmap.Rigid3d(pose.rotation, pose.translation * (100 / spread))
        for name, pose in poses.items()
    }


def _is_inside(path: Path, folder: Path) -> bool:
    """Whether a photo lies in the demo's own output, which may be below the photo folder."""
    return path.resolve().is_relative_to(folder.resolve())
