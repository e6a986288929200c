"""How often retrieval finds a map photo that sees what the query sees, for matchers side by side.

Run: python -m benchmarks.retrieval [--places FOLDER] [--num-places 50]
     [--photos ROOT ... --workspace FOLDER] [--matchers sift small] [--device cuda] [--peers]

``--places`` is a folder of `benchmarks.rendered_places`; ``--photos`` are folders laid out as
``groundloc benchmark colmap`` takes them, with a truth. ``--peers`` also describes photos in the
simpler ways that a map does not offer.
"""

import argparse
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks.datasets.colmap_folder import read_colmap_folder, read_truth
from benchmarks.rendered_places import RenderedPlaces, read_rendered_places
from mapping import Map, MapOptions, PairOptions, RetrievalOptions, build_map
from mapping.retrieval import build_index, search, train_describer
from matching import load_matcher
from matching.errors import InputError
from matching.mast3r import Mast3rMatcher
from matching.matcher import Matcher
from matching.network.small import SmallNetwork
from matching.types import View

FloatArray = NDArray[np.float32]

RANKS = (1, 5, 10, 20)
MIN_OVERLAP = 0.25  # share of each other's surface that makes a map photo a right answer
_MAX_ANGLE_DEG = 60.0  # between two viewing directions of photos that show the same
_TRUTH_FEATURES, _TRUTH_PARTNERS = 2048, 8  # of SIFT, for the points of posed photos
_WHITENED_DIM = 256  # of tokens before their mean is taken


@dataclass(frozen=True, kw_only=True)
class RetrievalTask:
    """Queries and their right answers.

    Attributes:
        name: Of the task, for the table.
        images: Folder of all photos.
        map_names: Photos to find.
        answers: Query to the map photos that see the same; queries without any are left out.
    """

    name: str
    images: Path
    map_names: Sequence[str]
    answers: Mapping[str, frozenset[str]]


@dataclass(frozen=True, kw_only=True)
class RetrievalScore:
    """What came of a task.

    Attributes:
        recall: For each of `RANKS` the share of queries with a right answer among so many.
        found: Share of the right answers among the first 20, or of 20 if there are more.
        dim: Length of a descriptor.
        describe_ms: Time to describe a photo once it is encoded, learning left out.
    """

    recall: tuple[float, ...]
    found: float
    dim: int
    describe_ms: float


def rendered_task(places: RenderedPlaces, num_places: int | None = None) -> RetrievalTask:
    """The first places of a rendered set: right are photos with an overlap of `MIN_OVERLAP`."""
    folders = list(dict.fromkeys(name.split("/")[0] for name in places.map_names))
    chosen = set(folders[:num_places])
    answers = {
        query: frozenset(name for name, share in shares.items() if share >= MIN_OVERLAP)
        for query, shares in places.overlaps.items()
        if query.split("/")[0] in chosen
    }
    map_names = [name for name in places.map_names if name.split("/")[0] in chosen]
    return RetrievalTask(
        name=f"{len(chosen)} rendered places, {len(map_names)} map photos",
        images=places.images,
        map_names=map_names,
        answers={query: right for query, right in answers.items() if right},
    )


def evaluate_descriptors(
    task: RetrievalTask, mapped: FloatArray, queries: FloatArray, describe_ms: float
) -> RetrievalScore:
    """Search every query among the map photos and count right answers.

    Args:
        task: The task.
        mapped: Unit descriptors of its map photos, (N, G).
        queries: Of its queries in the order of ``task.answers``, (Q, G).
        describe_ms: Goes into the result.
    """
    index = build_index(mapped, RetrievalOptions())
    hits = np.zeros((len(queries), len(RANKS)), bool)
    found = np.zeros(len(queries))
    for row, right in enumerate(task.answers.values()):
        names = [r.name for r in search(index, task.map_names, queries[row], max(RANKS))]
        hits[row] = [bool(right & set(names[:rank])) for rank in RANKS]
        found[row] = len(right & set(names)) / min(max(RANKS), len(right))
    return RetrievalScore(
        recall=tuple(hits.mean(0).tolist()),
        found=float(found.mean()),
        dim=mapped.shape[1],
        describe_ms=describe_ms,
    )


def photo_task(roots: Sequence[Path], workspace: Path) -> RetrievalTask:
    """All photos of several sets in one pool.

    The truth of a posed set: two photos show the same if at least `MIN_OVERLAP` of the points that
    one sees project into the other and are looked at from less than 60 degrees apart, both ways;
    the points are triangulated from SIFT matches of all photos with the true poses. A set without
    a truth shows one thing: all its map photos are right.

    Args:
        roots: Folders of one parent, which becomes the photo folder.
        workspace: Where the maps for the truth are made.
    """
    parents = {root.resolve().parent for root in roots}
    common = Path(*_common_parts([parent.parts for parent in parents]))
    map_names: list[str] = []
    answers: dict[str, frozenset[str]] = {}
    for root in roots:
        task = read_colmap_folder(root)
        below = task.images.resolve().relative_to(common).as_posix()
        queries = list(task.query_cameras)
        map_names += [f"{below}/{name}" for name in task.map_names]
        truth = read_truth(root)
        if truth is None:
            right = {query: set(task.map_names) for query in queries}
        else:
            scene = build_map(
                task.images,
                workspace / task.name,
                load_matcher("sift", options={"max_num_features": _TRUTH_FEATURES}),
                options=MapOptions(pairs=PairOptions(method="poses", top_k=_TRUTH_PARTNERS)),
                known_poses=truth,
                image_names=[*task.map_names, *queries],
            )
            right = {
                query: {m for m in task.map_names if _overlap(scene, query, m) >= MIN_OVERLAP}
                for query in queries
            }
        for query, names in right.items():
            if names:
                answers[f"{below}/{query}"] = frozenset(f"{below}/{name}" for name in names)
    return RetrievalTask(
        name=f"{len(roots)} sets of photos, {len(map_names)} map photos",
        images=common,
        map_names=map_names,
        answers=answers,
    )


def _common_parts(paths: Sequence[tuple[str, ...]]) -> list[str]:
    parts = []
    for column in zip(*paths, strict=False):
        if len(set(column)) > 1:
            break
        parts.append(column[0])
    return parts


def _overlap(scene: Map, name0: str, name1: str) -> float:
    """Share of the points of each photo that the other looks at too, the smaller of both ways."""
    if name0 not in scene.image_names or name1 not in scene.image_names:
        return 0.0
    return min(_share_seen(scene, name0, name1), _share_seen(scene, name1, name0))


def _share_seen(scene: Map, seen_by: str, other: str) -> float:
    ids = scene.point3D_ids(seen_by)
    points = scene.points3D(ids[ids >= 0])
    if not len(points):
        return 0.0
    rays = [points - scene.cam_from_world(n).inverse().translation for n in (seen_by, other)]
    lengths = [np.linalg.norm(ray, axis=1) for ray in rays]
    cosines = (rays[0] * rays[1]).sum(1) / np.maximum(lengths[0] * lengths[1], 1e-12)
    in_camera = scene.cam_from_world(other) * points
    ahead = in_camera[:, 2] > 0
    camera = scene.camera(other)
    pixels = np.full((len(points), 2), -1.0)
    pixels[ahead] = np.asarray(camera.img_from_cam(in_camera[ahead])).reshape(-1, 2)
    inside = (pixels >= 0).all(1) & (pixels < (camera.width, camera.height)).all(1)
    return float((inside & (cosines > np.cos(np.radians(_MAX_ANGLE_DEG)))).mean())


@dataclass(frozen=True)
class _Encoded:
    """What retrieval needs of a photo; float16, or thousands would not fit into memory."""

    local: NDArray[np.float16]  # (N, D) unit rows
    of_head: FloatArray | None  # (G,) by the network's own head, if it has one


def run_task(
    task: RetrievalTask, matcher: Matcher, *, peers: bool
) -> tuple[dict[str, RetrievalScore], float]:
    """Encode all photos of a task, describe them in every way, score each.

    Returns:
        Way to its score, the map's own first, and the seconds of encoding a photo.
    """
    names = [*task.map_names, *task.answers]
    start = time.perf_counter()
    encoded = []
    for view in matcher.encode_many(task.images / name for name in names):
        if isinstance(view, InputError):
            raise view
        encoded.append(_encoded(view, matcher))
    seconds = (time.perf_counter() - start) / len(names)
    count = len(task.map_names)
    ways = {"VLAD": _by_vlad(encoded, count)}
    if peers:
        ways["mean of whitened tokens"] = _by_mean(encoded, count)
        if all(photo.of_head is not None for photo in encoded):
            head = np.array([photo.of_head for photo in encoded])
            ways["the network's head"] = (head, float("nan"))
    scores = {
        way: evaluate_descriptors(task, rows[:count], rows[count:], milliseconds)
        for way, (rows, milliseconds) in ways.items()
    }
    return scores, seconds


def _encoded(view: View, matcher: Matcher) -> _Encoded:
    of_head = None
    network = matcher.engine.network if isinstance(matcher, Mast3rMatcher) else None
    if isinstance(network, SmallNetwork) and len(view.arrays["tokens"]):
        tokens = torch.from_numpy(np.asarray(view.arrays["tokens"]))[None]
        with torch.no_grad():
            device = next(network.parameters()).device
            of_head = network.global_descriptors(tokens.to(device))[0].cpu().numpy()
    return _Encoded(matcher.local_descriptors(view).astype(np.float16), of_head)


def _by_vlad(encoded: Sequence[_Encoded], num_mapped: int) -> tuple[FloatArray, float]:
    """As maps do it: learned on the map's photos, applied to all."""

    def local_of(i: int) -> FloatArray:
        return encoded[i].local.astype(np.float32)

    describer = train_describer(num_mapped, local_of, RetrievalOptions())
    start = time.perf_counter()
    rows = np.array([describer.describe(local_of(i)) for i in range(len(encoded))])
    return rows, 1e3 * (time.perf_counter() - start) / len(encoded)


def _by_mean(encoded: Sequence[_Encoded], num_mapped: int) -> tuple[FloatArray, float]:
    """The mean of whitened local descriptors."""
    sample = np.concatenate([photo.local[::16] for photo in encoded[:num_mapped]]).astype(float)
    mean = sample.mean(0)
    values, vectors = np.linalg.eigh(np.cov(sample.T))
    best = slice(-min(_WHITENED_DIM, len(values)), None)
    projection = vectors[:, best] / np.sqrt(np.maximum(values[best], 1e-4 * values[-1]))
    start = time.perf_counter()
    rows = np.zeros((len(encoded), projection.shape[1]), np.float32)
    for row, photo in zip(rows, encoded, strict=True):
        if len(photo.local):
            pooled = (photo.local.mean(0, dtype=np.float64) - mean) @ projection
            row[:] = pooled / max(float(np.linalg.norm(pooled)), 1e-12)
    return rows, 1e3 * (time.perf_counter() - start) / len(encoded)


def table(task: RetrievalTask, rows: Mapping[str, Mapping[str, RetrievalScore]]) -> str:
    """Scores of matchers and ways as a Markdown table."""
    ranks = " | ".join(f"R@{rank}" for rank in RANKS)
    lines = [
        f"{task.name}; {len(task.answers)} queries, on average "
        f"{np.mean([len(right) for right in task.answers.values()]):.1f} right answers",
        "",
        f"| matcher | described by | {ranks} | right among 20 | dimensions | ms per photo |",
        "| --- | --- |" + " ---: |" * (len(RANKS) + 3),
    ]
    for matcher, scores in rows.items():
        for way, score in scores.items():
            recalls = " | ".join(f"{value:.3f}" for value in score.recall)
            lines.append(
                f"| {matcher} | {way} | {recalls} | {score.found:.3f} | {score.dim} | "
                f"{score.describe_ms:.1f} |"
            )
    return "\n".join(lines)


def main() -> None:
    """Run the tasks and write one table for each to stdout."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--places", type=Path)
    parser.add_argument("--num-places", type=int, help="only the first ones")
    parser.add_argument("--photos", type=Path, nargs="+", default=[])
    parser.add_argument("--workspace", type=Path, help="for the truth of --photos")
    parser.add_argument("--matchers", nargs="+", default=["sift", "small"])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--peers", action="store_true")
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    tasks = []
    if arguments.places is not None:
        tasks.append(rendered_task(read_rendered_places(arguments.places), arguments.num_places))
    if arguments.photos:
        if arguments.workspace is None:
            parser.error("--photos needs --workspace")
        tasks.append(photo_task(arguments.photos, arguments.workspace))
    for task in tasks:
        rows = {}
        for name in arguments.matchers:
            matcher = load_matcher(name, device=arguments.device)
            rows[Path(name).stem], seconds = run_task(task, matcher, peers=arguments.peers)
            sys.stderr.write(f"{name}: encoded in {1e3 * seconds:.1f} ms per photo\n")
        sys.stdout.write(f"{table(task, rows)}\n\n")


if __name__ == "__main__":
    main()
