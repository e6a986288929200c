"""Which photos to match with each other."""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.options import PairMethod, PairOptions
from matching.errors import InputError
from matching.files import PathLike, existing_file, text_lines

Pair = tuple[str, str]

_FRUSTUM_DEPTHS = 6  # sampled distances from a camera
_FRUSTUM_GRID = 4  # sampled pixels per image side
_ROWS_AT_ONCE = 512  # of the matrix of distances
_NEAREST_FACTOR = 10  # only this many times `top_k` nearest cameras are compared


def resolve_method(options: PairOptions, num_images: int, has_poses: bool) -> PairMethod:
    """What ``auto`` means for this many photos."""
    if options.method != "auto":
        return options.method
    if num_images <= options.max_exhaustive:
        return "exhaustive"
    return "poses" if has_poses else "retrieval"


def select_pairs(
    names: Sequence[str],
    options: PairOptions,
    *,
    poses: Mapping[str, tuple[pycolmap.Camera, pycolmap.Rigid3d]] | None = None,
    similar: Callable[[str, int], Sequence[str]] | None = None,
    listed: Sequence[Pair] | None = None,
) -> list[Pair]:
    """Choose the pairs of photos to match.

    Args:
        names: Photos, in the order that counts for ``sequential``.
        options: The method and its settings.
        poses: Camera and cam_from_world per photo, for ``poses``.
        similar: The k photos most similar to one, best first, for ``retrieval``.
        listed: What `read_pairs` gave, for ``file``; pairs of other photos than ``names`` are
            left out.

    Returns:
        Pairs with the earlier name first, each once, sorted by their places in ``names``.

    Raises:
        InputError: The method needs poses that are not given.
    """
    method = resolve_method(options, len(names), poses is not None)
    if method == "exhaustive":
        return exhaustive_pairs(names)
    if method == "sequential":
        return sequential_pairs(names, options.window)
    if method == "file":
        if listed is None:
            raise ValueError("pairs of a file need `listed`")
        usable = set(names)
        return unique_pairs(names, [p for p in listed if usable.issuperset(p)])
    if method == "poses":
        if poses is None:
            raise InputError("pairs.method 'poses' needs known poses: give --known-poses")
        return pairs_from_poses(names, poses, options)
    if similar is None:
        raise ValueError("retrieval pairs need `similar`")
    return unique_pairs(names, [(n, m) for n in names for m in similar(n, options.top_k)])


def unique_pairs(names: Sequence[str], pairs: Sequence[Pair]) -> list[Pair]:
    """Each unordered pair once, without pairs of a photo with itself, ordered by ``names``."""
    place = {name: i for i, name in enumerate(names)}
    indices = {tuple(sorted((place[a], place[b]))) for a, b in pairs if a != b}
    return [(names[i], names[j]) for i, j in sorted(indices)]


def exhaustive_pairs(names: Sequence[str]) -> list[Pair]:
    """Every pair."""
    return [(a, b) for i, a in enumerate(names) for b in names[i + 1 :]]


def sequential_pairs(names: Sequence[str], window: int) -> list[Pair]:
    """Each photo with the following ones, and with those 2, 4, 8 .. windows ahead.

    The far partners let slow walks close loops, as COLMAP's quadratic overlap does.
    """
    offsets = list(range(1, window + 1))
    far = 2 * window
    while far < len(names):
        offsets.append(far)
        far *= 2
    return unique_pairs(
        names, [(names[i], names[i + d]) for d in offsets for i in range(len(names) - d)]
    )


def read_pairs(file: PathLike, names: Sequence[str]) -> list[Pair]:
    """Read pairs of photo names, one pair per line; names with spaces are separated by a tab.

    Raises:
        InputError: The file is no text, or a line does not hold two photos of the map; its number
            is named.
    """
    path = existing_file(file, "pair file")
    known = set(names)
    pairs = []
    for number, line in text_lines(path):
        if not line or line.startswith("#"):
            continue
        words = line.split("\t") if "\t" in line else line.split()
        if len(words) != 2:
            raise InputError(
                f"'{path}' line {number}: expected 'name0 name1' (a tab between names with spaces)"
            )
        name0, name1 = (Path(w.strip()).as_posix() for w in words)
        for name in (name0, name1):
            if name not in known:
                raise InputError(f"'{path}' line {number}: '{name}' is no photo of this map")
        pairs.append((name0, name1))
    return unique_pairs(names, pairs)


def pairs_from_poses(
    names: Sequence[str],
    poses: Mapping[str, tuple[pycolmap.Camera, pycolmap.Rigid3d]],
    options: PairOptions,
) -> list[Pair]:
    """Photos whose viewing frustums overlap most.

    How far a camera looks is unknown: points are sampled from the distance between neighbouring
    cameras to twice the distance of the farthest camera it is compared with. The overlap of two
    photos is the share of the points in one frustum that project into the other, the smaller of
    both ways (a camera far behind sees all that one in front of it sees), lowered the more they
    look apart.

    Args:
        names: Photos, all with a pose.
        poses: Camera and cam_from_world per photo.
        options: ``top_k`` and ``max_view_angle_deg``.
    """
    count = len(names)
    if count < 2:
        return []
    matrices = np.array([poses[n][1].matrix() for n in names])  # (N, 3, 4)
    rotations, translations = matrices[:, :, :3], matrices[:, :, 3]
    centres = -np.einsum("nji,nj->ni", rotations, translations)  # (N, 3)
    axes = rotations[:, 2]  # (N, 3) viewing directions
    cameras, camera_of = _distinct_cameras([poses[n][0] for n in names])
    rays = [_frustum_rays(camera) for camera in cameras]
    nearest, distances = _nearest_cameras(centres, min(count, _NEAREST_FACTOR * options.top_k + 1))
    spacing = _typical_spacing(distances)
    min_cosine = np.cos(np.radians(options.max_view_angle_deg))
    points = []  # of each frustum, (P, 3) in the world
    for i, camera in enumerate(camera_of.tolist()):
        reach = max(2 * float(distances[i, -1]), 10 * spacing)
        depths = np.geomspace(spacing, reach, _FRUSTUM_DEPTHS)
        own = (rays[camera][None] * depths[:, None, None]).reshape(-1, 3)
        points.append((own - translations[i]) @ rotations[i])
    chosen: list[Pair] = []
    for i, name in enumerate(names):
        cosines = axes[nearest[i]] @ axes[i]
        others = nearest[i][(cosines >= min_cosine) & (nearest[i] != i)]
        shares = np.zeros(len(others))
        for camera in np.unique(camera_of[others]).tolist():
            same = np.flatnonzero(camera_of[others] == camera)
            moved = points[i] @ rotations[others[same]].swapaxes(1, 2)  # (C, P, 3)
            moved += translations[others[same]][:, None]
            back = np.stack([points[k] for k in others[same].tolist()])
            back = back @ rotations[i].T + translations[i]
            shares[same] = np.minimum(
                _share_inside(cameras[camera], moved),
                _share_inside(cameras[camera_of[i]], back),
            )
        overlaps = shares * (1 + axes[others] @ axes[i]) / 2
        # equally good partners stay in the order of the names
        best = np.lexsort((others, -overlaps))[: options.top_k]
        chosen += [(name, names[others[k]]) for k in best.tolist() if overlaps[k] > 0]
    return unique_pairs(names, chosen)


def _distinct_cameras(
    cameras: Sequence[pycolmap.Camera],
) -> tuple[list[pycolmap.Camera], NDArray[np.int64]]:
    """Cameras without repetitions, and the place of each given one among them."""
    places: dict[tuple[str, int, int, bytes], int] = {}
    distinct: list[pycolmap.Camera] = []
    rows = []
    for camera in cameras:
        key = (camera.model.name, camera.width, camera.height, camera.params.tobytes())
        if key not in places:
            places[key] = len(distinct)
            distinct.append(camera)
        rows.append(places[key])
    return distinct, np.array(rows)


def _nearest_cameras(
    centres: NDArray[np.float64], number: int
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """The cameras nearest to each one, itself among them, by ascending distance, (N, number).

    Args:
        centres: (N, 3).
        number: At most N.
    """
    rows, distances = [], []
    centred = centres - centres.mean(0)  # far from the origin squares lose their digits
    squares = (centred**2).sum(1)
    for start in range(0, len(centres), _ROWS_AT_ONCE):
        part = centred[start : start + _ROWS_AT_ONCE]
        squared = squares + (part**2).sum(1)[:, None] - 2 * part @ centred.T
        near = np.argpartition(squared, number - 1, axis=1)[:, :number]
        exact = np.linalg.norm(centred[near] - part[:, None], axis=2)
        order = np.lexsort((near, exact))
        rows.append(np.take_along_axis(near, order, 1))
        distances.append(np.take_along_axis(exact, order, 1))
    return np.concatenate(rows), np.concatenate(distances)


def _typical_spacing(distances: NDArray[np.float64]) -> float:
    """Median distance from a camera to its nearest other one; 1 if all stand at one place.

    Args:
        distances: To the nearest cameras, ascending, (N, n).
    """
    apart = distances > 0
    first = np.take_along_axis(distances, apart.argmax(1)[:, None], 1)[apart.any(1)]
    return float(np.median(first)) if len(first) else 1.0


def _frustum_rays(camera: pycolmap.Camera) -> NDArray[np.float64]:
    """Directions of unit depth through a grid of pixels, (G * G, 3)."""
    steps = (np.arange(_FRUSTUM_GRID) + 0.5) / _FRUSTUM_GRID
    x, y = np.meshgrid(steps * camera.width, steps * camera.height)
    pixels = np.stack([x.ravel(), y.ravel()], axis=1)
    rays = np.asarray(camera.cam_from_img(pixels))  # (G*G, 2)
    rays = rays[np.isfinite(rays).all(axis=1)]
    return np.concatenate([rays, np.ones((len(rays), 1))], axis=1)


def _share_inside(camera: pycolmap.Camera, points: NDArray[np.float64]) -> NDArray[np.float64]:
    """Share of the points in the frames of photos, (C, P, 3), that lie in their view, (C,)."""
    flat = points.reshape(-1, 3)
    inside = flat[:, 2] > 0
    pixels = np.asarray(camera.img_from_cam(flat[inside])).reshape(-1, 2)
    inside[inside] = (pixels >= 0).all(1) & (pixels <= (camera.width, camera.height)).all(1)
    return inside.reshape(points.shape[:2]).mean(1)
