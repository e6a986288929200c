"""Rendered queries that are hard to localize, with exact truth: night, zoom, wide baselines.

    python -m benchmarks.hard_place --out RUN sift small
    python -m benchmarks.hard_place --out RUN --queries 8 --set query_intrinsics=unknown sift PATH

The map is that of the demo: 24 photos in sunlight, with their true poses. The queries are taken

* by night: street lamps, underexposed, blurred, noisy, from places near the map's;
* with another lens: from 0.55 to 4.5 times the map's focal length, under another sun;
* from far off the map's places: 35 to 65 degrees between the directions from which the nearest map
  photo and the query look at what is in the middle of the query.

Every matcher maps and localizes the same photos in one run; the table counts a query without a
pose as an infinite error. The folder keeps photos and results, so a second run continues.
"""

import argparse
import logging
import math
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from benchmarks.rendered_place import PhotoPlan, RenderedPlace, write_photos
from benchmarks.report import Report
from benchmarks.run import run_benchmark
from matching.load import load_matcher
from matching.options import parse_assignments
from matching.progress import Progress, silent
from matching.training.builder import FloatArray
from matching.training.cameras import look_at
from matching.training.demo_place import DemoPlace, Shot, demo_place
from matching.training.light import light_row

Kind = Literal["night", "zoom", "wide"]
KINDS: tuple[Kind, ...] = get_args(Kind)

FAILED_M, FAILED_DEG = 0.25, 2.0  # a query farther off than either counts as a failure
_WIDE_DEG = (35.0, 65.0)  # between directions of view of a wide query and of the nearest map photo
_MAX_DRAWS = 4000


@dataclass(frozen=True, kw_only=True)
class HardPlaceOptions:
    """Which photos are rendered."""

    seed: int = 0  # of textures and queries
    kinds: tuple[Kind, ...] = KINDS
    queries_per_kind: int = 24
    map_every: int = 1  # one of so many of the demo's 24 map photos is mapped
    image_width: int = 640  # pixels; photos are 4:3
    night_noise: float = 0.05  # standard deviation, display range 1
    night_blur_px: float = 1.2  # standard deviation

    def __post_init__(self) -> None:
        if not self.kinds or not set(self.kinds) <= set(KINDS):
            raise ValueError(f"kinds must be among {', '.join(KINDS)}, got {self.kinds}")
        if self.queries_per_kind < 1:
            raise ValueError(f"queries_per_kind must be at least 1, got {self.queries_per_kind}")
        if not 1 <= self.map_every <= 12:
            raise ValueError(f"map_every must be in 1..12, got {self.map_every}")
        if self.image_width < 64 or self.image_width % 4:
            raise ValueError(
                f"image_width must be a multiple of 4 from 64 on, got {self.image_width}"
            )
        if not 0 <= self.night_noise < 1:
            raise ValueError(f"night_noise must be in [0, 1), got {self.night_noise}")
        if not self.night_blur_px >= 0:
            raise ValueError(f"night_blur_px must be >= 0, got {self.night_blur_px}")


def write_hard_place(
    folder: Path, options: HardPlaceOptions | None = None, *, progress: Progress = silent
) -> RenderedPlace:
    """Render map photos and queries into a folder as ``groundloc benchmark colmap`` takes them.

    Args:
        folder: Where to; see `benchmarks.rendered_place.RenderedPlace`. Names of queries begin
            with their kind.
        options: Which photos.
        progress: Wraps the loop over the photos.

    Raises:
        InputError: The folder holds something else.
    """
    options = options or HardPlaceOptions()
    map_rows = range(0, 24, options.map_every)
    map_names = [f"map/map_{k:02d}.jpg" for k in map_rows]
    queries = {kind: range(options.queries_per_kind) for kind in options.kinds}
    query_names = [f"query/{kind}_{k:02d}.jpg" for kind, rows in queries.items() for k in rows]

    def plans() -> tuple[DemoPlace, Mapping[str, PhotoPlan]]:
        place = demo_place(options.seed)
        scale = options.image_width / place.image_size[0]
        K = np.diag([scale, scale, 1.0]) @ place.K
        image_size = (options.image_width, round(place.image_size[1] * scale))
        shots = [place.map_shots[k] for k in map_rows]
        planned = {
            name: PhotoPlan(shot=shot, K=K, image_size=image_size)
            for name, shot in zip(map_names, shots, strict=True)
        }
        for kind in options.kinds:
            rng = np.random.default_rng([options.seed, KINDS.index(kind)])
            for k in queries[kind]:
                shot, zoom = _QUERIES[kind](place, shots, k, rng)
                lens = np.diag([zoom, zoom, 1.0])
                lens[:2, 2] = (1 - zoom) * K[:2, 2]  # the principal point stays where it is
                planned[f"query/{kind}_{k:02d}.jpg"] = PhotoPlan(
                    shot=shot,
                    K=lens @ K,
                    image_size=image_size,
                    noise=options.night_noise if kind == "night" else 0.0,
                    blur_px=options.night_blur_px if kind == "night" else 0.0,
                )
        return place, planned

    return write_photos(folder, [*map_names, *query_names], plans, vars(options), progress=progress)


def _standpoint(rng: np.random.Generator) -> FloatArray:
    """A place in front of the corner, about where the map's photos were taken."""
    angle = math.radians(rng.uniform(-50, 8))
    distance = rng.uniform(7.8, 11.5)
    return np.array(
        [2.4 + distance * math.sin(angle), 7.0 - distance * math.cos(angle), rng.uniform(1.5, 2.2)]
    )


def _sun(place: DemoPlace, rng: np.random.Generator) -> Any:
    """Another sun than the map's, behind the camera or to its right."""
    azimuth = rng.uniform(-0.4, 1.0)
    return light_row(
        key=(math.sin(azimuth), -math.cos(azimuth), rng.uniform(0.35, 1.0), 0.0),
        clouds=int(place.map_shots[0].light[38]),
        cloud_weight=0.3,
    )


def _night(
    place: DemoPlace, map_shots: list[Shot], number: int, rng: np.random.Generator
) -> tuple[Shot, float]:
    lamp = [(4.6, 3.6, 3.55), (-7.9, 1.0, 3.55)]
    near = number % 2  # which of the two street lamps throws shadows
    light = light_row(
        key=(*lamp[near], 1.0),
        key_color=(9.0, 7.2, 4.5),
        sky=(0.05, 0.06, 0.1),
        horizon=(0.06, 0.06, 0.09),
        ground=(0.03, 0.03, 0.035),
        lamps=((*lamp[1 - near], *((9.0, 7.0, 4.2) if number % 4 < 2 else (0.0, 0.0, 0.0))),),
        clouds=int(place.map_shots[0].light[38]),
    )
    target = np.array([1.0 + 3.2 * rng.normal(), 7.5, 2.0 + 0.4 * rng.normal()])
    pose = look_at(_standpoint(rng), target, roll=float(rng.normal(0, 0.05)))
    name = f"night_{number:02d}"
    return Shot(name=name, cam_from_world=pose, light=light, exposure=rng.uniform(0.4, 1.2)), 1.0


def _zoom(
    place: DemoPlace, map_shots: list[Shot], number: int, rng: np.random.Generator
) -> tuple[Shot, float]:
    zoom = 0.55 if number % 6 == 5 else float(np.exp(rng.uniform(math.log(2.0), math.log(4.5))))
    target = np.array([rng.uniform(-7, 5), 8.0, rng.uniform(1.2, 3.6)])
    pose = look_at(_standpoint(rng), target, roll=float(rng.normal(0, 0.08)))
    shot = Shot(name=f"zoom_{number:02d}", cam_from_world=pose, light=_sun(place, rng))
    return shot, zoom


def _wide(
    place: DemoPlace, map_shots: list[Shot], number: int, rng: np.random.Generator
) -> tuple[Shot, float]:
    """Draw standpoints until one has a free view of something that the map saw from afar."""
    light = _sun(place, rng)
    centres = np.array([np.linalg.inv(shot.cam_from_world)[:3, 3] for shot in map_shots])
    K, size = np.diag([0.1, 0.1, 1.0]) @ place.K, (64, 48)
    for _ in range(_MAX_DRAWS):
        position = np.array([rng.uniform(-9, 6), rng.uniform(-3.5, 7.5), rng.uniform(1.3, 4.5)])
        target = np.array([rng.uniform(-8, 6.5), rng.uniform(2.0, 9.0), rng.uniform(1.0, 3.5)])
        angles = [
            _angle_deg(position - target, centre - target)
            for centre, shot in zip(centres, map_shots, strict=True)
            if _in_photo(shot, place, target)  # what hides it is not looked at
        ]
        if not angles or not _WIDE_DEG[0] <= min(angles) <= _WIDE_DEG[1]:
            continue
        pose = look_at(position, target, roll=float(rng.normal(0, 0.05)))
        seen = place.place.render(K, size, pose, light)
        middle = seen.depth[12:36, 16:48]
        nothing_near = ((seen.depth > 1.5) | (seen.depth == 0)).all()
        if nothing_near and abs(np.median(middle) - np.linalg.norm(target - position)) < 2:
            return Shot(name=f"wide_{number:02d}", cam_from_world=pose, light=light), 1.0
    raise RuntimeError("no standpoint of a wide baseline found")


_QUERIES: dict[
    Kind, Callable[[DemoPlace, list[Shot], int, np.random.Generator], tuple[Shot, float]]
] = {"night": _night, "zoom": _zoom, "wide": _wide}


def _angle_deg(a: FloatArray, b: FloatArray) -> float:
    cosine = float(a @ b / (np.linalg.norm(a) * np.linalg.norm(b)))
    return math.degrees(math.acos(np.clip(cosine, -1, 1)))


def _in_photo(shot: Shot, place: DemoPlace, point: FloatArray) -> bool:
    """Whether a point projects into a photo of the map."""
    in_cam = shot.cam_from_world[:3, :3] @ point + shot.cam_from_world[:3, 3]
    if in_cam[2] <= 0:
        return False
    x, y = (place.K @ in_cam)[:2] / in_cam[2]
    return bool(0 <= x < place.image_size[0] and 0 <= y < place.image_size[1])


def run_hard_place(
    out: Path,
    matchers: list[str],
    options: HardPlaceOptions | None = None,
    *,
    device: str = "cpu",
    benchmark: Mapping[str, Any] | None = None,
    progress: Progress = silent,
) -> dict[str, Report]:
    """Render, then map and localize with each matcher.

    Args:
        out: Folder for ``place/`` and one folder per matcher.
        matchers: As `matching.load_matcher` takes them.
        options: Which photos.
        device: Torch device of the matchers.
        benchmark: Options of ``groundloc benchmark colmap``.
        progress: Wraps every long loop.

    Returns:
        A report per matcher.
    """
    place = write_hard_place(out / "place", options, progress=progress)
    reports = {}
    for name in matchers:
        report = run_benchmark(
            "colmap",
            place.folder,
            out / Path(name).stem,
            matcher=load_matcher(name, device=device),
            options=benchmark or {},
            progress=progress,
        )
        assert isinstance(report, Report)
        reports[name] = report
    return reports


def table(reports: Mapping[str, Report]) -> str:
    """A markdown table: one row per kind of query and matcher."""
    lines = [
        "| queries | matcher | localized | failures | median error | "
        "recall (5 cm, 0.5 deg), (25 cm, 2 deg), (50 cm, 5 deg) | s per query |",
        "| --- | --- | --- | --- | --- | --- | --- |",
    ]
    kinds = [
        k for k in KINDS if any(f"/{k}_" in q.name for r in reports.values() for q in r.per_query)
    ]
    for kind in [*kinds, "all"]:
        for matcher, report in reports.items():
            rows = [q for q in report.per_query if kind == "all" or f"/{kind}_" in q.name]
            metres = np.array([q.translation_error_m for q in rows])
            degrees = np.array([q.rotation_error_deg for q in rows])
            recalls = [
                float(np.mean((metres < m) & (degrees < deg)))
                for m, deg in ((0.05, 0.5), (FAILED_M, FAILED_DEG), (0.5, 5.0))
            ]
            failures = sum((metres >= FAILED_M) | (degrees >= FAILED_DEG))
            lines.append(
                f"| {kind} | {Path(matcher).stem} | {sum(q.success for q in rows)} of {len(rows)} "
                f"| {failures} | {100 * np.median(metres):.2f} cm, {np.median(degrees):.3f} deg | "
                + " ".join(f"{r:.2f}" for r in recalls)
                + f" | {report.seconds_per_query:.2f} |"
            )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """Render, run and print the table; the command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("matchers", nargs="+", help="sift, small, or the path of a checkpoint")
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--kinds", default=",".join(KINDS), help="of queries, comma-separated")
    parser.add_argument("--queries", type=int, default=24, help="of each kind")
    parser.add_argument("--map-every", type=int, default=1, help="map one of so many photos")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--set", action="append", default=[], help="option of benchmark colmap")
    args = parser.parse_args(arguments)
    logging.basicConfig(format="%(message)s", level=logging.WARNING)
    options = HardPlaceOptions(
        seed=args.seed,
        kinds=tuple(args.kinds.split(",")),
        queries_per_kind=args.queries,
        map_every=args.map_every,
    )
    reports = run_hard_place(
        args.out,
        args.matchers,
        options,
        device=args.device,
        benchmark=parse_assignments(args.set),
        progress=_printed,
    )
    sys.stdout.write(table(reports) + "\n")


def _printed(items: Any, description: str, total: int | None = None) -> Any:
    """Says on stderr that a loop begins."""
    sys.stderr.write(f"{description} {total or ''}\n")
    return items


if __name__ == "__main__":
    main()
