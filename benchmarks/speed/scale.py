"""How localization depends on the number of photos in the map: time per step, memory, bytes.

    python -m benchmarks.speed.scale OUT --sizes 50 500 5000 [--matcher sift] [--real 50]

The map photos are ray-cast views of places that are each a painted wall with the ground before it,
20 photos per place, 256x192: painting and casting 5,000 takes a few minutes, and they are encoded,
matched, triangulated with their known poses and indexed as any photos are. Every map holds the
first N of them, and the same queries, new views of the first places, are localized in all maps,
each in a process of its own that has nothing else in memory.

With ``--real`` only that many photos are real and all others are made up (`padded_map`): it shows
what depends on the size of the files, in a fraction of the time.

Times are medians over the queries, each the best of three rounds, with warm files; "first" is the
first query after opening.
"""

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image, ImageDraw

from benchmarks.line_chart import Chart, Line, draw_chart
from benchmarks.speed.padded_map import pad_map
from localize import Localizer, LocalizerOptions
from mapping import Map, MapOptions, PairOptions, build_map
from matching import load_matcher
from matching.files import atomic_file, atomic_folder, write_text_atomic
from matching.training.cameras import look_at

FloatArray = NDArray[np.floating[Any]]

SIZE = (256, 192)  # width, height in pixels
FOCAL = 220.0
PHOTOS_PER_PLACE = 20
NUM_QUERIES = 12
ROUNDS = 3
_SPACING_M = 300.0
_WALL_M = (14.0, 7.0)  # width, height; the ground reaches as far before it
_TEXELS_PER_M = 40
_PARTNERS = 4  # following photos of the place that each is matched with
STEPS = ("encode", "retrieve", "match", "lift", "pose")


# ---------------------------------------------------------------- the photos


def write_photos(folder: Path, num_photos: int) -> None:
    """Render the first so many map photos and the queries, as far as they are not there."""
    for place in range(-(-num_photos // PHOTOS_PER_PLACE)):
        target = folder / f"place_{place:04d}"
        if not target.is_dir():
            wall, ground = _painting(2 * place), _painting(2 * place + 1)
            with atomic_folder(target) as temporary:
                for k, pose in enumerate(_poses(place)):
                    photo = _photo(pose, wall, ground)
                    Image.fromarray(photo).save(temporary / f"{k:02d}.jpg", quality=92)


def photo_names(num_photos: int) -> list[str]:
    """The first photos of the map, place by place."""
    places = (divmod(k, PHOTOS_PER_PLACE) for k in range(num_photos))
    return [f"place_{place:04d}/{k:02d}.jpg" for place, k in places]


def query_names() -> list[str]:
    """Photos of the first two places that belong to no map."""
    half = NUM_QUERIES // 2
    return [f"place_{k // half:04d}/{PHOTOS_PER_PLACE + k % half:02d}.jpg" for k in range(2 * half)]


def camera() -> pycolmap.Camera:
    """The camera of all photos."""
    params = [FOCAL, FOCAL, SIZE[0] / 2, SIZE[1] / 2]
    return pycolmap.Camera(
        camera_id=1, model="PINHOLE", width=SIZE[0], height=SIZE[1], params=params
    )


def _poses(place: int) -> list[FloatArray]:
    """cam_from_place of the map photos of a place on an arc, then of its queries."""
    random = np.random.default_rng([place, 1])
    poses = []
    for k in range(PHOTOS_PER_PLACE + NUM_QUERIES // 2):
        along = k if k < PHOTOS_PER_PLACE else (k - PHOTOS_PER_PLACE) * 3.1 + 1.3
        angle = np.radians(-40 + 80 * along / PHOTOS_PER_PLACE)
        distance = random.uniform(6, 8)
        position = [distance * np.sin(angle), -distance * np.cos(angle), random.uniform(1.2, 2.4)]
        target = [random.uniform(-2, 2), 0, random.uniform(1.2, 2.5)]
        poses.append(look_at(np.array(position), np.array(target)))
    return poses


def world_from_place(place: int) -> FloatArray:
    """Where a place lies."""
    matrix = np.eye(4)
    matrix[:2, 3] = _SPACING_M * np.array(divmod(place, 100))
    return matrix


def _painting(seed: int) -> NDArray[np.uint8]:
    """A wall or a ground that is like no other one, (H, W, 3)."""
    random = np.random.default_rng([seed, 2])
    width, height = (round(side * _TEXELS_PER_M) for side in _WALL_M)
    rough = random.integers(60, 200, (height // 24, width // 24, 3), dtype=np.uint8)
    picture = Image.fromarray(rough).resize((width, height), Image.Resampling.BICUBIC)
    draw = ImageDraw.Draw(picture)
    for _ in range(260):
        x, y = random.uniform(0, width), random.uniform(0, height)
        w, h = random.uniform(4, 50, 2)
        fill = tuple(random.integers(0, 256, 3).tolist())
        if random.random() < 0.5:
            draw.rectangle([x, y, x + w, y + h], fill=fill)
        else:
            draw.ellipse([x, y, x + w, y + h], fill=fill)
    return np.array(picture)


def _photo(
    cam_from_place: FloatArray, wall: NDArray[np.uint8], ground: NDArray[np.uint8]
) -> NDArray[np.uint8]:
    """A view of the wall (y = 0) and the ground (z = 0) before it, (H, W, 3)."""
    rotation, translation = cam_from_place[:3, :3], cam_from_place[:3, 3]
    centre = -rotation.T @ translation
    x, y = np.meshgrid(np.arange(SIZE[0]) + 0.5, np.arange(SIZE[1]) + 0.5)
    rays = np.stack([(x - SIZE[0] / 2) / FOCAL, (y - SIZE[1] / 2) / FOCAL, np.ones_like(x)], -1)
    rays = rays @ rotation  # (H, W, 3) in the place
    photo = np.full((SIZE[1], SIZE[0], 3), 170, np.uint8)  # sky
    nearest = np.full((SIZE[1], SIZE[0]), np.inf)
    for plane, (axis, up, painting) in enumerate(((1, 2, wall), (2, 1, ground))):
        with np.errstate(divide="ignore", invalid="ignore"):
            depth = -centre[axis] / rays[..., axis]
        points = centre + depth[..., None] * rays
        column = (points[..., 0] + _WALL_M[0] / 2) * _TEXELS_PER_M
        row = (points[..., up] if plane == 0 else -points[..., up]) * _TEXELS_PER_M
        hit = (depth > 0) & (depth < nearest) & (column >= 0) & (row >= 0)
        hit &= (column < painting.shape[1] - 1) & (row < painting.shape[0] - 1)
        nearest[hit] = depth[hit]
        photo[hit] = _between_texels(painting, column[hit], row[hit])
    return photo


def _between_texels(
    painting: NDArray[np.uint8], column: FloatArray, row: FloatArray
) -> NDArray[np.uint8]:
    x, y = column.astype(int), row.astype(int)
    u, v = (column - x)[:, None], (row - y)[:, None]
    top = painting[y, x] * (1 - u) + painting[y, x + 1] * u
    bottom = painting[y + 1, x] * (1 - u) + painting[y + 1, x + 1] * u
    mixed: NDArray[np.uint8] = (top * (1 - v) + bottom * v).astype(np.uint8)
    return mixed


# ---------------------------------------------------------------- the maps


def make_map(
    photos: Path, target: Path, size: int, matcher_name: str, matcher_options: dict[str, Any]
) -> None:
    """A map of the first so many photos with known poses, unless it is there."""
    names = photo_names(size)
    model = pycolmap.Reconstruction()
    model.add_camera_with_trivial_rig(camera())
    poses = {p: _poses(p) for p in range(-(-size // PHOTOS_PER_PLACE))}
    for number, name in enumerate(names):
        place, k = divmod(number, PHOTOS_PER_PLACE)
        pose = poses[place][k] @ np.linalg.inv(world_from_place(place))
        image = pycolmap.Image(name=name, camera_id=1, image_id=number + 1)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose[:3]))
    lines = [
        f"{name} {names[number + step]}\n"
        for number, name in enumerate(names)
        for step in range(1, _PARTNERS + 1)
        if number % PHOTOS_PER_PLACE + step < PHOTOS_PER_PLACE and number + step < size
    ]
    pairs = target.with_suffix(".pairs.txt")
    write_text_atomic(pairs, "".join(lines))
    build_map(
        photos,
        target,
        load_matcher(matcher_name, options=matcher_options),
        options=MapOptions(pairs=PairOptions(method="file", file=str(pairs))),
        known_poses=model,
        image_names=names,
        overwrite=True,
    )


# ---------------------------------------------------------------- measuring


@dataclass(frozen=True, kw_only=True)
class Measurement:
    """What one process found on one map; times in seconds, memory and sizes in bytes."""

    size: int  # photos
    open_s: float
    first_s: float  # the first query
    steps_s: dict[str, float]
    total_s: float
    matcher_bytes: int  # memory before the map is opened
    open_bytes: int  # memory with the map open
    peak_bytes: int  # largest memory while localizing
    file_bytes: dict[str, int]
    num_points3D: int
    num_queries: int
    num_localized: int
    num_wrong: int  # localized further than 10 cm or 1 degree off


def measure(photos: Path, map_path: Path, top_k: int) -> Measurement:
    """Open a map and localize the queries; to be run in a fresh process."""
    info = json.loads((map_path / "map.json").read_text())["matcher"]
    matcher = load_matcher(info["name"], options=info.get("options"))
    matcher.encode(photos / query_names()[0])  # loads what is loaded at first use
    before = _memory("VmRSS")
    start = time.perf_counter()
    scene = Map.open(map_path)
    localizer = Localizer(scene, matcher, options=LocalizerOptions(top_k=top_k))
    open_s = time.perf_counter() - start
    opened = _memory("VmRSS")
    names = query_names()
    start = time.perf_counter()
    localizer.localize(photos / names[0], camera())
    first_s = time.perf_counter() - start
    rounds = []
    for _ in range(ROUNDS):
        rounds.append([localizer.localize(photos / name, camera()) for name in names])
    last = list(zip(names, rounds[-1], strict=True))
    # seconds of (rounds, queries, steps): the best round is the one least disturbed by others
    spent = np.array([[[r.timings_s.get(s, 0.0) for s in (*STEPS, "total")] for r in results]
                      for results in rounds]).min(0)  # fmt: skip
    peak = _memory("VmHWM")
    for _ in range(ROUNDS):
        start = time.perf_counter()
        Map.open(map_path)
        open_s = min(open_s, time.perf_counter() - start)
    return Measurement(
        size=len(scene.image_names),
        open_s=open_s,
        first_s=first_s,
        steps_s=dict(zip(STEPS, np.median(spent, 0).tolist(), strict=False)),
        total_s=float(np.median(spent[:, -1])),
        matcher_bytes=before,
        open_bytes=opened,
        peak_bytes=peak,
        file_bytes={f.name: f.size_bytes for f in scene.info.files},
        num_points3D=scene.info.num_points3D,
        num_queries=len(names),
        num_localized=sum(r.success for _, r in last),
        num_wrong=sum(not _is_right(name, r.cam_from_world) for name, r in last if r.success),
    )


def _is_right(name: str, found: Any) -> bool:
    place, k = int(name[6:10]), int(name[11:13])
    true = _poses(place)[k] @ np.linalg.inv(world_from_place(place))
    pose = np.eye(4)
    pose[:3] = found.matrix()
    error = pose @ np.linalg.inv(true)
    centre = np.linalg.norm(np.linalg.inv(pose)[:3, 3] - np.linalg.inv(true)[:3, 3])
    angle = np.degrees(np.arccos(np.clip((np.trace(error[:3, :3]) - 1) / 2, -1, 1)))
    return bool(centre < 0.1 and angle < 1)


def _memory(field: str) -> int:
    """Memory of this process in bytes; VmRSS is what it has now, VmHWM the most it had."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return 1024 * int(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no {field}")


# ---------------------------------------------------------------- the report


def table(rows: Sequence[Measurement]) -> str:
    """All measurements as a Markdown table, one column per map."""
    lines = [
        "| photos in the map | " + " | ".join(f"{row.size:,}" for row in rows) + " |",
        "| --- |" + " ---: |" * len(rows),
    ]

    def add(label: str, value: Callable[[Measurement], str]) -> None:
        lines.append(f"| {label} | " + " | ".join(value(row) for row in rows) + " |")

    add("open the map, ms", lambda r: f"{1e3 * r.open_s:.0f}")
    add("first query, ms", lambda r: f"{1e3 * r.first_s:.0f}")
    for step in STEPS:
        add(f"{step}, ms", partial(_step_ms, step))
    add("query, ms", lambda r: f"{1e3 * r.total_s:.0f}")
    add("memory before opening, MiB", lambda r: f"{r.matcher_bytes / 2**20:.0f}")
    add("memory of the open map, MiB", lambda r: f"{(r.open_bytes - r.matcher_bytes) / 2**20:.1f}")
    add("peak memory while localizing, MiB", lambda r: f"{r.peak_bytes / 2**20:.0f}")
    add("3D points", lambda r: f"{r.num_points3D:,}")
    add("map, MiB", lambda r: f"{sum(r.file_bytes.values()) / 2**20:.1f}")
    add("map per photo, KiB", lambda r: f"{sum(r.file_bytes.values()) / r.size / 1024:.0f}")
    for kind in ("features.h5", "observations.h5", "retrieval.faiss", "database.db", "sparse/"):
        add(f"- {kind} per photo, KiB", partial(_kib_per_photo, kind))
    add("queries localized", lambda r: f"{r.num_localized} of {r.num_queries}")
    add("- of them wrong", lambda r: f"{r.num_wrong}")
    return "\n".join(lines)


def _step_ms(step: str, row: Measurement) -> str:
    return f"{1e3 * row.steps_s[step]:.1f}"


def _kib_per_photo(kind: str, row: Measurement) -> str:
    size = sum(b for name, b in row.file_bytes.items() if name.startswith(kind))
    return f"{size / row.size / 1024:.1f}"


def charts(rows: Sequence[Measurement]) -> dict[str, Chart]:
    """Time and memory over the size of the map."""
    sizes = np.array([row.size for row in rows], float)

    def chart(title: str, label: str, lines: dict[str, list[float]]) -> Chart:
        top = 1.7 * max(max(values) for values in lines.values())
        curves = [Line(label=n, x=sizes, y=np.array(values)) for n, values in lines.items()]
        return Chart(
            title=title, x_label="photos in the map", y_label=label, lines=curves, log_x=True,
            y_top=top,
        )  # fmt: skip

    times = {step: [1e3 * row.steps_s[step] for row in rows] for step in STEPS}
    times["open the map"] = [1e3 * row.open_s for row in rows]
    memory = {
        "peak while localizing": [row.peak_bytes / 2**20 for row in rows],
        "map open": [row.open_bytes / 2**20 for row in rows],
        "before opening": [row.matcher_bytes / 2**20 for row in rows],
    }
    return {
        "scale_time": chart("Time per query and step", "milliseconds", times),
        "scale_memory": chart("Memory of the process", "MiB", memory),
    }


def main() -> None:
    """Make what is missing, measure each map in a fresh process, print one table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("out", type=Path, help="folder of photos, maps and charts; kept")
    parser.add_argument("--sizes", type=int, nargs="+", default=[50, 500, 5000])
    parser.add_argument("--matcher", default="sift")
    parser.add_argument("--matcher-options", type=json.loads, default={}, help="JSON")
    parser.add_argument("--top-k", type=int, default=10)
    parser.add_argument("--real", type=int, help="real photos per map; left out: all are")
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    photos = arguments.out / "photos"
    if arguments.measure is not None:
        print(json.dumps(vars(measure(photos, arguments.measure, arguments.top_k))))
        return
    sizes = sorted(arguments.sizes)
    write_photos(photos, max(2 * PHOTOS_PER_PLACE, arguments.real or sizes[-1]))
    rows = []
    for size in sizes:
        stem = Path(arguments.matcher).stem
        target = arguments.out / f"{stem}_{size}"
        start = time.perf_counter()
        if arguments.real is None:
            make_map(photos, target, size, arguments.matcher, arguments.matcher_options)
        else:
            real, target = arguments.out / f"{stem}_{arguments.real}", target.with_suffix(".padded")
            make_map(photos, real, arguments.real, arguments.matcher, arguments.matcher_options)
            if not (target / "map.json").is_file():
                source = Map.open(real)
                pad_map(source, source.load_matcher(), target, size)
        print(f"{size} photos mapped in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        command = [sys.executable, "-m", "benchmarks.speed.scale", str(arguments.out)]
        child = subprocess.run(
            [*command, "--measure", str(target), "--top-k", str(arguments.top_k)],
            capture_output=True,
            text=True,
            check=True,
        )
        rows.append(Measurement(**json.loads(child.stdout.splitlines()[-1])))
    print(table(rows))
    for name, chart in charts(rows).items():
        with atomic_file(arguments.out / f"{name}.png") as temporary:
            draw_chart(chart).save(temporary, format="PNG", optimize=True)


if __name__ == "__main__":
    main()
