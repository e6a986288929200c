"""Times localization from JPEG bytes to the pose, and says where each millisecond goes.

    python -m benchmarks.speed.localize --device cuda --top-k 20
    python -m benchmarks.speed.localize --matcher small --place RUN/place --top-k 5 --threads 2
    python -m benchmarks.speed.localize --without-network --top-k 20 --threads 1

Without ``--matcher`` the network is MASt3R ViT-L with seeded random weights: its time does not
depend on their values. Without ``--place`` the photos are noise of the asked size, 1600x1200, and
the geometry is made up: the network runs as always, then its matches are replaced by true ones of
known points, of which as many as asked are spoilt, so that poses have real work to do. With
``--place`` (a folder as ``groundloc benchmark colmap`` takes it, for example of
``benchmarks.hard_place``) everything is real. ``--without-network`` leaves out what only a GPU does
fast, decoding and nearest neighbours, and encodes with a single block: the steps of the CPU at
their full size on any computer.

Printed are medians over the queries, one query at a time, per step; each step waits for the GPU to
finish, which costs a little. Then all queries in one stream, as `Localizer.localize_all` works:
photos are read and poses computed while the network is busy.
"""

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from PIL import Image

from benchmarks.datasets.colmap_folder import photo_folder, read_truth
from benchmarks.datasets.image_lists import read_photo_list
from benchmarks.speed.network import random_network, vitl_config
from localize import Localization, Localizer, LocalizerOptions
from localize import localizer as localizer_module
from mapping import Map, build_map
from matching.errors import InputError
from matching.load import load_matcher
from matching.mast3r import Mast3rMatcher, Mast3rOptions
from matching.matcher import ImageLike, Matcher
from matching.network.engine import EngineOptions
from matching.options import options_as_dict
from matching.types import Matches, View

PHOTO_SIZE = (1600, 1200)  # of made-up photos
FOCAL = 1500.0
NUM_POINTS = 6000
NOISE_PX = 1.0
CORNER = (0, 0, 32, 32)  # of a made-up photo, whose colour is its number


class Clock:
    """Wall and CPU milliseconds of named steps; the GPU is waited for at both ends of each."""

    def __init__(self, device: str) -> None:
        self.on_gpu = device.startswith("cuda")
        self.steps: dict[str, list[float]] = defaultdict(list)
        self._running: list[float] = []  # time of the steps inside the step that is running

    def patch(self, owner: Any, method: str, step: str) -> None:
        """Time a method under the name of a step; steps within steps count once, inside."""
        function = getattr(owner, method)

        def timed(*args: Any, **kwargs: Any) -> Any:
            self._wait()
            start = time.perf_counter()
            self._running.append(0.0)
            result = function(*args, **kwargs)
            if isinstance(result, Iterator):
                result = iter(list(result))  # a generator works when it is asked
            self._wait()
            whole = (time.perf_counter() - start) * 1e3
            self.steps[step].append(whole - self._running.pop())
            if self._running:
                self._running[-1] += whole
            return result

        setattr(owner, method, timed)

    def _wait(self) -> None:
        if self.on_gpu:
            torch.cuda.synchronize()


class MadeUpPlace:
    """Points in a box seen by cameras on an arc; photos of noise stand for what they see."""

    def __init__(self, folder: Path, num_map: int, num_queries: int, outliers: float) -> None:
        self.folder, self.outliers = folder, outliers
        rng = np.random.default_rng(0)
        self.points = rng.uniform((-8, -3, -2), (8, 3, 2), (NUM_POINTS, 3))
        width, height = PHOTO_SIZE
        self.camera = pycolmap.Camera.create_from_model_name(1, "PINHOLE", FOCAL, width, height)
        self.map_names = [f"map/{k:03d}.jpg" for k in range(num_map)]
        self.query_names = [f"query/{k:03d}.jpg" for k in range(num_queries)]
        self.poses = {}
        for names, offset in ((self.map_names, 0.0), (self.query_names, 0.013)):
            for k, name in enumerate(names):
                self.poses[name] = _on_arc(-0.6 + 1.2 * k / max(len(names) - 1, 1) + offset)
        noise = rng.integers(0, 256, (2 * height // 8, 2 * width // 8, 3), dtype=np.uint8)
        for name in self.poses:
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            y, x = (int(rng.integers(0, n)) for n in (height // 8, width // 8))
            crop = noise[y : y + height // 8, x : x + width // 8]
            photo = Image.fromarray(crop).resize(PHOTO_SIZE, Image.Resampling.BICUBIC)
            number = int(path.stem)
            is_query = name.startswith("query/")
            photo.paste((number // 16 * 16 + 8, number % 16 * 16 + 8, 255 * is_query), CORNER)
            photo.save(path, quality=92)

    def name_of(self, image: ImageLike) -> str:
        """Which photo a path or its pixels are: the colour of a corner is its number."""
        if not isinstance(image, np.ndarray):
            path = Path(image)
            return f"{path.parent.name}/{path.name}"
        tens, ones, is_query = image[8:24, 8:24].reshape(-1, 3).mean(0)
        number = int(tens // 16 * 16 + ones // 16)
        return f"{'query' if is_query > 128 else 'map'}/{number:03d}.jpg"

    def truth(self) -> pycolmap.Reconstruction:
        """Cameras and poses of all photos."""
        model = pycolmap.Reconstruction()
        model.add_camera_with_trivial_rig(self.camera)
        for number, (name, pose) in enumerate(self.poses.items(), start=1):
            image = pycolmap.Image(name=name, camera_id=1, image_id=number)
            model.add_image_with_trivial_frame(image, pose)
        return model

    def observe(self, name: str) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Exact pixels of the points in a photo, and their numbers."""
        pixels = np.asarray(self.camera.img_from_cam(self.poses[name] * self.points))
        seen = np.flatnonzero(((pixels > 0) & (pixels < PHOTO_SIZE)).all(1))
        return pixels[seen], seen


def _on_arc(angle: float) -> pycolmap.Rigid3d:
    centre = np.array([14 * np.sin(angle), 0.3, -14 * np.cos(angle)])
    forward = -centre / np.linalg.norm(centre)
    right = np.cross([0.0, 1.0, 0.0], forward)
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ centre)


class MadeUpMatches(Matcher):
    """A network that does its work, and matches of a `MadeUpPlace` in place of what it found."""

    def __init__(
        self, network: Mast3rMatcher, place: MadeUpPlace, num_keypoints: int, *, decode: bool = True
    ) -> None:
        self.network, self.place, self.num_keypoints = network, place, num_keypoints
        self.decode = decode
        self.name, self.fingerprint = network.name, network.fingerprint
        self.num_streams = network.num_streams
        self.building = False
        # by id; the views are kept, so that no other gets the id
        self._rows: dict[int, tuple[View, NDArray[np.int64]]] = {}
        self._queries: dict[int, tuple[View, str]] = {}
        # by query and points of the map photo, since making them up takes time of its own
        self._made_up: dict[tuple[str, bytes], Matches] = {}

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        return self.network.encode_bare(image)

    def encode(self, image: ImageLike) -> View:
        view = super().encode(image)
        self._queries[id(view)] = (view, self.place.name_of(image))
        return view

    def encode_many(self, images: Iterable[ImageLike]) -> Iterator[View | InputError]:
        names: list[str] = []

        def noted() -> Iterator[ImageLike]:
            for image in images:
                names.append(self.place.name_of(image))
                yield image

        for number, view in enumerate(self.network.encode_many(noted())):
            assert isinstance(view, View)
            self._queries[id(view)] = (view, names[number])
            yield view

    def encode_for_map(self, images: Iterable[ImageLike]) -> Iterator[View | InputError]:
        photos = list(images)
        for photo, view in zip(photos, self.network.encode_many(photos), strict=True):
            assert isinstance(view, View)
            pixels, ids = self.place.observe(self.place.name_of(photo))
            kept = np.random.default_rng(1).permutation(len(ids))[: self.num_keypoints]
            keypoints = pixels[kept].astype(np.float32)
            yield replace(view, keypoints=keypoints, arrays={**view.arrays, "ids": ids[kept]})

    def at_keypoints(self, view: View, rows: NDArray[np.int64]) -> View:
        arrays = {name: array for name, array in view.arrays.items() if name != "ids"}
        chosen = View(image_size=view.image_size, keypoints=view.keypoints[rows], arrays=arrays)
        self._rows[id(chosen)] = (chosen, view.arrays["ids"][rows])
        return chosen

    def match_views(self, view0: View, view1: View) -> Matches:
        return self.match_many(view0, [view1])[0]

    def match_many(self, view: View, others: Sequence[View]) -> list[Matches]:
        if self.building:
            return [_between(view, other) for other in others]
        if self.decode:
            self.network.match_many(view, others)
        return [self._with_query(view, other) for other in others]

    def _with_query(self, view: View, other: View) -> Matches:
        """True matches at the map photo's keypoints, some of them spoilt."""
        name, ids_there = self._queries[id(view)][1], self._rows[id(other)][1]
        key = name, ids_there.tobytes()
        if key not in self._made_up:
            pixels, ids = self.place.observe(name)
            _, at0, at1 = np.intersect1d(ids, ids_there, return_indices=True)
            rng = np.random.default_rng(len(at0))
            points0 = pixels[at0] + rng.normal(0, NOISE_PX, (len(at0), 2))
            wrong = rng.random(len(at0)) < self.place.outliers
            points0[wrong] = rng.uniform((0, 0), PHOTO_SIZE, (int(wrong.sum()), 2))
            self._made_up[key] = Matches(
                keypoints0=points0.astype(np.float32),
                keypoints1=other.keypoints[at1],
                scores=np.linspace(1, 0.5, len(at0), dtype=np.float32),
                indices1=at1.astype(np.int64),
            )
        return self._made_up[key]

    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        return self.network.local_descriptors(view)


def _between(view0: View, view1: View) -> Matches:
    """Matches of two photos of a made-up map."""
    _, at0, at1 = np.intersect1d(view0.arrays["ids"], view1.arrays["ids"], return_indices=True)
    return Matches(
        keypoints0=view0.keypoints[at0],
        keypoints1=view1.keypoints[at1],
        scores=np.ones(len(at0), np.float32),
        indices0=at0.astype(np.int64),
        indices1=at1.astype(np.int64),
    )


def network_matcher(args: argparse.Namespace) -> Mast3rMatcher:
    """The matcher asked for, or ViT-L with random weights."""
    engine = EngineOptions(acceleration=args.acceleration, cache_mb=args.cache_mb)
    if not args.matcher:
        options = Mast3rOptions(engine=engine)
        config = vitl_config()
        if args.without_network:
            config = replace(
                config,
                head_type="linear",
                output_mode="pts3d",
                two_confs=False,
                enc_depth=1,
                dec_depth=1,
            )
        network = random_network(config, args.device)
        return Mast3rMatcher(
            network, name="random", fingerprint="0", device=args.device, options=options
        )
    matcher = load_matcher(
        args.matcher, device=args.device, options={"engine": options_as_dict(engine)}
    )
    assert isinstance(matcher, Mast3rMatcher)
    return matcher


def prepare(
    args: argparse.Namespace, work: Path
) -> tuple[Map, Matcher, Mast3rMatcher, list[Path], list[pycolmap.Camera]]:
    """The map, its matcher, the network behind that, and the queries with their cameras."""
    network = network_matcher(args)
    if args.place:
        names = read_photo_list(args.place / "query.txt")
        chosen = list(names)[:: max(1, len(names) // args.queries)][: args.queries]
        images = photo_folder(args.place)
        truth = read_truth(args.place)
        if truth is None:
            raise InputError(f"'{args.place}' has no sparse_gt")
        scene = build_map(
            images,
            args.map or work / "map",
            network,
            known_poses=truth,
            image_names=list(read_photo_list(args.place / "map.txt")),
        )
        cameras = [camera for n in chosen if (camera := names[n]) is not None]
        return scene, network, network, [images / n for n in chosen], cameras
    place = MadeUpPlace(work / "images", args.map_photos, args.queries, args.outliers)
    matcher = MadeUpMatches(network, place, args.keypoints, decode=not args.without_network)
    matcher.building = True
    scene = build_map(
        work / "images",
        work / "map",
        matcher,
        known_poses=place.truth(),
        image_names=place.map_names,
    )
    matcher.building = False
    queries = [work / "images" / name for name in place.query_names]
    return scene, matcher, network, queries, [place.camera] * len(queries)


def one_at_a_time(
    localizer: Localizer,
    network: Mast3rMatcher,
    queries: Sequence[Path],
    cameras: Sequence[pycolmap.Camera],
    device: str,
) -> list[Localization]:
    """Print a table of the steps of single queries."""
    clock = Clock(device)
    patches: list[tuple[Any, str, str]] = [
        (network, "_prepare", "resize the photo to the network"),
        (network, "_encode_prepared", "encode"),
        (localizer.scene, "retrieve", "retrieve"),
        (localizer, "_observed", "map encodings from disk"),
        (network, "_encoding", "encodings to the device"),
        (network.engine, "_decode", "decode"),
        (network, "_match_many", "nearest neighbours, return check, glue"),
        (localizer_module, "lift_matches", "lift to 3D"),
        (localizer_module, "solve", "pose"),
    ]
    before = [(owner, name, getattr(owner, name)) for owner, name, _ in patches]
    for owner, method, step in patches:
        clock.patch(owner, method, step)
    wall, cpu, results = [], [], []
    per_query: dict[str, list[float]] = defaultdict(list)
    for query, camera in zip(queries, cameras, strict=True):
        clock.steps.clear()
        start, start_cpu = time.perf_counter(), time.process_time()
        results.append(localizer.localize(query, camera))
        wall.append((time.perf_counter() - start) * 1e3)
        cpu.append((time.process_time() - start_cpu) * 1e3)
        for _, _, step in patches:
            per_query[step].append(sum(clock.steps.get(step, [0.0])))
        rest = wall[-1] - sum(map(sum, clock.steps.values()))
        per_query["read the JPEG, everything else"].append(rest)
    for owner, method, function in before:
        setattr(owner, method, function)
    print("| step of one query | median ms | largest ms |")
    print("| --- | ---: | ---: |")
    for step, values in [*per_query.items(), ("in all, wall", wall), ("in all, CPU", cpu)]:
        print(f"| {step} | {statistics.median(values):.1f} | {max(values):.1f} |")
    print(
        f"{sum(r.success for r in results)} of {len(results)} localized, median "
        f"{statistics.median(r.num_matches for r in results):.0f} 2D-3D matches, "
        f"{statistics.median(r.num_inliers for r in results):.0f} inliers"
    )
    return results


def stream(
    localizer: Localizer, queries: Sequence[Path], cameras: Sequence[pycolmap.Camera], work: Path
) -> dict[str, float]:
    """Print the rate of all queries in one stream, twice their number for a steady state."""
    names: dict[str, pycolmap.Camera] = {}
    for turn in range(2):
        for query, camera in zip(queries, cameras, strict=True):
            # the made-up matches know a photo by its folder and name
            link = work / f"stream{turn}" / query.parent.name / query.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.exists():
                os.link(query, link) if _same_disk(query, work) else link.symlink_to(query)
            names[str(link)] = camera
    start, start_cpu = time.perf_counter(), time.process_time()
    results = localizer.localize_all(list(names), names)
    wall, cpu = time.perf_counter() - start, time.process_time() - start_cpu
    row = {"queries_per_s": len(results) / wall, "cpu_s_per_query": cpu / len(results)}
    print(
        f"stream of {len(results)}: {row['queries_per_s']:.2f} queries/s wall, "
        f"{1e3 * wall / len(results):.1f} ms each, {row['cpu_s_per_query']:.3f} CPU s each"
    )
    return row


def _same_disk(path: Path, folder: Path) -> bool:
    return path.stat().st_dev == folder.stat().st_dev


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--matcher", help="small or a checkpoint; default: ViT-L, random weights")
    parser.add_argument("--place", type=Path, help="rendered place; default: made-up photos")
    parser.add_argument("--map", type=Path, help="keep the map of --place here")
    parser.add_argument("--top-k", type=int, default=20)
    parser.add_argument("--second-round", action="store_true", help="also time second rounds")
    parser.add_argument("--queries", type=int, default=24)
    parser.add_argument("--map-photos", type=int, default=40)
    parser.add_argument("--keypoints", type=int, default=1500, help="of each made-up map photo")
    parser.add_argument("--outliers", type=float, default=0.5, help="share of spoilt matches")
    parser.add_argument(
        "--warmup", type=int, default=3, help="queries of --place before the clock starts"
    )
    parser.add_argument(
        "--without-network", action="store_true", help="the CPU's steps only, of made-up photos"
    )
    parser.add_argument("--threads", type=int, default=0, help="of torch; 0: its default")
    parser.add_argument(
        "--acceleration", default="auto", choices=["auto", "none", "graphs", "compile"]
    )
    parser.add_argument(
        "--cache-mb",
        type=int,
        default=EngineOptions().cache_mb,
        help="encodings kept on the GPU; 0: every query sends those of its photos anew",
    )
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    args = parser.parse_args(arguments)
    if args.without_network and (args.matcher or args.place):
        parser.error("--without-network is for made-up photos: give no --matcher and no --place")
    if args.threads:
        torch.set_num_threads(args.threads)
    on_gpu = args.device.startswith("cuda")
    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    print(
        f"{where}, torch {torch.__version__}, Python {platform.python_version()}, "
        f"{args.matcher or 'ViT-L with random weights'}, top {args.top_k}"
    )
    with tempfile.TemporaryDirectory() as temporary:
        work = Path(temporary)
        start = time.perf_counter()
        scene, matcher, network, queries, cameras = prepare(args, work)
        options = LocalizerOptions(top_k=args.top_k)
        if not args.second_round:
            options = replace(options, second_round_photos=0)
        localizer = Localizer(scene, matcher, options=options)
        print(f"map of {len(scene.image_names)} photos, {time.perf_counter() - start:.1f} s")
        # made-up matches are made on the way, all of them before the clock starts
        warmup = args.warmup if args.place else len(queries)
        for query, camera in zip(queries[:warmup], cameras, strict=False):
            localizer.localize(query, camera)
        results = one_at_a_time(localizer, network, queries, cameras, args.device)
        row = stream(localizer, queries, cameras, work)
    if args.out:
        seconds = [dict(r.timings_s) for r in results]
        args.out.write_text(json.dumps({"stream": row, "timings_s": seconds}, indent=1) + "\n")


if __name__ == "__main__":
    main()
