"""A groundloc map, and queries matched with it, as the files that hloc goes on from."""

import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from benchmarks.interchange.hloc_lists import write_pairs_list, write_query_list
from localize.queries import Query
from mapping.map import Map
from mapping.store import FeatureFile
from matching.errors import InputError
from matching.files import PathLike, atomic_folder
from matching.hloc_files import (
    IndexMatches,
    LocalFeatures,
    write_features,
    write_global_features,
    write_matches,
)
from matching.images import read_image
from matching.matcher import Matcher
from matching.progress import Progress, silent
from matching.types import Matches, View

FEATURES, GLOBAL_FEATURES = "feats-groundloc.h5", "global-feats-groundloc.h5"
MATCHES, PAIRS = "matches-groundloc.h5", "pairs-db-groundloc.txt"
QUERY_MATCHES, QUERY_PAIRS = "matches-query-groundloc.h5", "pairs-query-groundloc.txt"
QUERY_LIST, MODEL = "queries_with_intrinsics.txt", "sfm"
QUERY_FILES = frozenset({QUERY_MATCHES, QUERY_PAIRS, QUERY_LIST})
HLOC_FILES = QUERY_FILES | {FEATURES, GLOBAL_FEATURES, MATCHES, PAIRS, MODEL}


@dataclass(frozen=True, kw_only=True)
class Exported:
    """What was written: the folder and counts."""

    folder: Path
    num_photos: int
    num_pairs: int
    num_queries: int
    num_without_camera: int  # queries that are not in the list with intrinsics


def export_hloc(
    scene: Map,
    folder: PathLike,
    matcher: Matcher,
    *,
    queries: Sequence[Query] = (),
    top_k: int = 10,
    progress: Progress = silent,
) -> Exported:
    """Write a map as hloc would have left it: features, verified matches, pairs and the model.

    With queries also what ``hloc.localize_sfm`` needs of them: their features (in the same file),
    their matches with the retrieved map photos, the pairs, and the list with intrinsics.

    Args:
        scene: The map.
        folder: New or replaced.
        matcher: The one of the map.
        queries: Photos to localize; those without a camera are left out of the list, and the list
            is if no query has one.
        top_k: Map photos that each is matched with.
        progress: Wraps the loops.

    Raises:
        InputError: More keypoints than hloc's matches can number, or an unreadable query.
    """
    scene.check_matcher(matcher)
    cameras = {q.name: q.camera for q in queries if q.camera is not None}
    with atomic_folder(folder) as temporary:
        found = _match_queries(scene, matcher, queries, top_k, progress)
        views = {name: view for name, (view, _) in found.items()}
        write_features(
            temporary / FEATURES,
            _features(scene, matcher, views, progress),
        )
        stored = FeatureFile(scene.path / "features.h5")
        names = list(scene.image_names)
        write_global_features(
            temporary / GLOBAL_FEATURES,
            {name: stored.global_descriptor(name) for name in names},
            {name: _size(scene.camera(name)) for name in names},
        )
        stored.close()
        counts = {name: len(scene.load_view(name).keypoints) for name in names}
        pairs = _verified(scene, temporary)
        written = write_matches(temporary / MATCHES, iter(pairs), counts)
        partners: dict[str, list[str]] = {}
        for name0, name1, _ in pairs:
            partners.setdefault(name0, []).append(name1)
        write_pairs_list(temporary / PAIRS, partners)
        (temporary / MODEL).mkdir()
        scene.reconstruction.write_binary(temporary / MODEL)
        if queries:
            counts |= {name: len(view.keypoints) for name, view in views.items()}
            each = ((q, n, m) for q, (_, matches) in found.items() for n, m in matches.items())
            write_matches(temporary / QUERY_MATCHES, each, counts)
            write_pairs_list(
                temporary / QUERY_PAIRS, {q: list(matches) for q, (_, matches) in found.items()}
            )
            if cameras:
                write_query_list(temporary / QUERY_LIST, cameras)
    return Exported(
        folder=Path(folder),
        num_photos=len(names),
        num_pairs=written,
        num_queries=len(queries),
        num_without_camera=len(queries) - len(cameras),
    )


def _size(camera: pycolmap.Camera) -> tuple[int, int]:
    return camera.width, camera.height


def _features(
    scene: Map, matcher: Matcher, queries: Mapping[str, View], progress: Progress
) -> Iterator[tuple[str, LocalFeatures]]:
    for name in progress(scene.image_names, "writing features", len(scene.image_names)):
        yield name, _of_view(scene.load_view(name), matcher)
    for name, view in queries.items():
        yield name, _of_view(view, matcher)


def _of_view(view: View, matcher: Matcher) -> LocalFeatures:
    descriptors = matcher.local_descriptors(view)
    if len(descriptors) != len(view.keypoints):  # a dense matcher describes a grid, not keypoints
        descriptors = np.zeros((len(view.keypoints), 0), np.float32)
    return LocalFeatures(
        image_size=view.image_size, keypoints=view.keypoints, descriptors=descriptors
    )


def _verified(scene: Map, scratch: Path) -> list[tuple[str, str, IndexMatches]]:
    """The verified matches of the map's database."""
    pairs = []
    with tempfile.TemporaryDirectory(dir=scratch, suffix=".tmp") as folder:
        # COLMAP writes into every database it opens, and the map's must stay as it is
        copy = shutil.copyfile(scene.path / "database.db", Path(folder) / "database.db")
        with pycolmap.Database.open(copy) as database:
            names = {image.image_id: image.name for image in database.read_all_images()}
            for pair_id, geometry in zip(*database.read_two_view_geometries(), strict=True):
                first, second = pycolmap.pair_id_to_image_pair(pair_id)
                rows = np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2)
                found = IndexMatches(rows=rows, scores=np.ones(len(rows), np.float32))
                if len(rows) and {names[first], names[second]} <= set(scene.image_names):
                    pairs.append((names[first], names[second], found))
    return sorted(pairs, key=lambda pair: pair[:2])


def _match_queries(
    scene: Map, matcher: Matcher, queries: Sequence[Query], top_k: int, progress: Progress
) -> dict[str, tuple[View, dict[str, IndexMatches]]]:
    """View with keypoints of each query, and its matches by map photo, best photo first."""
    upright = bool(scene.info.options["apply_exif_orientation"])
    found = {}
    for query in progress(queries, "matching queries", len(queries)):
        if query.name in scene.image_names:
            raise InputError(f"'{query.name}' is a photo of the map and a query")
        from_file = upright or matcher.reads_files
        image = query.path if from_file else read_image(query.path, apply_exif_orientation=False)
        view = matcher.encode(image)
        names = [retrieved.name for retrieved in scene.retrieve(view, matcher, top_k)]
        matches = matcher.match_many(view, [scene.load_view(name) for name in names])
        view, rows = _with_rows(view, matches)
        found[query.name] = (view, dict(zip(names, rows, strict=True)))
    return found


def _with_rows(view: View, matches: Sequence[Matches]) -> tuple[View, list[IndexMatches]]:
    """Matches as rows on both sides; free pixels of the query become its keypoints."""
    rows0 = [found.indices0 for found in matches]
    if any(rows is None for rows in rows0):
        pixels = np.concatenate([found.keypoints0 for found in matches])
        keypoints, inverse = np.unique(pixels, axis=0, return_inverse=True)
        view = View(image_size=view.image_size, keypoints=keypoints, arrays=view.arrays)
        ends = np.cumsum([len(found) for found in matches])[:-1]
        rows0 = list(np.split(inverse.reshape(-1).astype(np.int64), ends))
    indexed = []
    for found, first in zip(matches, rows0, strict=True):
        if first is None or found.indices1 is None:
            raise InputError("matches with free pixels in the map's photos have no place in hloc")
        good = (first >= 0) & (found.indices1 >= 0)
        rows = np.stack([first[good], found.indices1[good]], axis=1)
        indexed.append(IndexMatches(rows=rows, scores=found.scores[good]))
    return view, indexed
