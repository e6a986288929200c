"""`groundloc convert`: maps, kapture folders and poses in the form of another system."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.datasets.image_lists import read_photo_list
from benchmarks.interchange.export import HLOC_FILES, QUERY_FILES, QUERY_LIST, export_hloc
from benchmarks.interchange.hloc_lists import (
    read_hloc_results,
    write_hloc_results,
    write_pairs_list,
)
from benchmarks.interchange.kapture import kapture_model
from benchmarks.submissions import bare_name, camera_and_name
from localize.queries import read_queries
from localize.results import read_poses, read_results
from mapping.map import Map
from mapping.workspace import MAP_FILE
from matching.errors import InputError
from matching.files import PathLike, atomic_folder
from matching.hloc_files import rank, read_global_features
from matching.progress import Progress, silent

_NUM_RETRIEVED = 50  # as hloc's list for Aachen
_COLMAP_FILES = frozenset(
    f"{part}.{ending}"
    for part in ("cameras", "images", "points3D", "rigs", "frames")
    for ending in ("bin", "txt")
)


@dataclass(frozen=True, kw_only=True)
class Converted:
    """What was written where."""

    target: Path
    text: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {"path": str(self.target), "text": self.text}


def convert(
    source: PathLike,
    target: PathLike,
    *,
    queries: PathLike | None = None,
    cameras: PathLike | None = None,
    names: PathLike | None = None,
    keep_folder: bool = False,
    device: str = "cpu",
    progress: Progress = silent,
) -> Converted:
    """Convert by what the source is.

    * A map: a folder with hloc's features, global features, matches, pairs and model; with
      ``queries`` also theirs.
    * A kapture folder with poses: a COLMAP model with its points, for ``--known-poses`` and every
      tool that reads COLMAP.
    * ``results.jsonl`` or ``poses.txt``: hloc's results, bare names, failed queries left out.
    * hloc's results, with ``names``: ``poses.txt`` under the full names.
    * hloc's global features, with ``names``: the list of the 50 most similar other photos of each
      query, a retrieval list for benchmarks.

    Args:
        source: See above.
        target: Folder or file to write; replaced.
        queries: Photos to export with a map, as `Localizer.localize_all` takes them.
        cameras: Their camera list.
        names: List of the full names of all queries, for hloc's results and global features.
        keep_folder: Write the last folder of each name too, as hloc does for data sets whose bare
            names are not unique.
        device: Torch device of the map's matcher.
        progress: Wraps long loops.

    Raises:
        InputError: The source is nothing of these.
    """
    path, out = Path(source), Path(target)
    if (queries is not None or cameras is not None) and not (path / MAP_FILE).is_file():
        raise InputError(f"queries are exported with a map, and '{source}' is none")
    if (path / MAP_FILE).is_file():
        text = _convert_map(path, out, queries, cameras, device, progress)
    elif (path / "sensors").is_dir():
        text = _convert_kapture(path, out)
    elif path.suffix == ".h5" and path.is_file():
        text = _convert_global_features(path, out, names)
    elif path.is_file() and names is not None:
        poses = read_hloc_results(path, list(read_photo_list(names)))
        count = write_hloc_results(out, poses, line_name=lambda name: name)
        text = f"{count} poses under their full names"
    elif path.is_file():
        results = read_results(path) if path.suffix == ".jsonl" else read_poses(path)
        line_name = camera_and_name if keep_folder else bare_name
        count = write_hloc_results(out, results, line_name)
        text = f"{count} poses in hloc's form, {len(results) - count} failed queries left out"
    else:
        raise InputError(
            f"'{source}' is no map, no kapture folder, no results.jsonl and no poses file"
        )
    return Converted(target=out, text=f"wrote '{out}': {text}")


def _convert_map(
    path: Path,
    out: Path,
    queries: PathLike | None,
    cameras: PathLike | None,
    device: str,
    progress: Progress,
) -> str:
    scene = Map.open(path)
    _check_target(out, HLOC_FILES if queries is not None else HLOC_FILES - QUERY_FILES)
    listed = [] if queries is None else read_queries(queries, cameras)
    matcher = scene.load_matcher(device)
    done = export_hloc(scene, out, matcher, queries=listed, progress=progress)
    text = (
        f"{done.num_photos} photos, {done.num_pairs} pairs and {done.num_queries} queries in "
        "hloc's form"
    )
    if done.num_without_camera:
        text += (
            f"; {done.num_without_camera} queries have no camera (--cameras) and are not in "
            f"{QUERY_LIST}, which hloc localizes by"
        )
    return text


def _convert_global_features(path: Path, out: Path, names: PathLike | None) -> str:
    if names is None:
        raise InputError(f"'{path}' holds global features: --names tells which are of queries")
    known = dict(zip(*read_global_features(path), strict=True))
    queries = list(read_photo_list(names))
    missing = [name for name in queries if name not in known]
    if missing:
        raise InputError(f"'{path}' has no global features of '{missing[0]}'")
    asked = {name: known.pop(name) for name in queries}
    if not known:
        raise InputError(f"'{path}' holds no photo that is no query")
    ranked = rank(asked, known, _NUM_RETRIEVED)
    write_pairs_list(out, ranked)
    return f"the {min(_NUM_RETRIEVED, len(known))} most similar photos of {len(ranked)} queries"


def _convert_kapture(path: Path, out: Path) -> str:
    _check_target(out, _COLMAP_FILES)
    model = kapture_model(path)
    with atomic_folder(out) as temporary:
        model.write_binary(temporary)
    return f"a COLMAP model with {model.num_reg_images()} photos and {model.num_points3D()} points"


def _check_target(out: Path, replaceable: frozenset[str]) -> None:
    """Refuse a file, and a folder that holds what the conversion would delete."""
    if out.exists() and not out.is_dir():
        raise InputError(f"'{out}' is a file, but a folder is written")
    others = {p.name for p in out.iterdir()} - replaceable if out.exists() else set()
    if others:
        raise InputError(
            f"'{out}' holds '{min(others)}', which the conversion would delete: give a new or an "
            "empty folder"
        )
