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
    cameras to twice the extent of all of them. The overlap of two photos is the share of the
    points in one frustum that project into the other, lowered the more they look apart.

    Args:
        names: Photos, all with a pose.
        poses: Camera and cam_from_world per photo.
        options: ``top_k`` and ``max_view_angle_deg``.
    """
    count = len(names)
    if count < 2:
        return []
    centres = np.array([poses[n][1].inverse().translation for n in names])  # (N, 3)
    axes = np.array([poses[n][1].rotation.matrix()[2] for n in names])  # (N, 3) viewing directions
    spacing = _typical_spacing(centres)
    extent = float(np.linalg.norm(np.ptp(centres, axis=0)))
    depths = np.geomspace(spacing, max(2 * extent, 10 * spacing), _FRUSTUM_DEPTHS)
    min_cosine = np.cos(np.radians(options.max_view_angle_deg))
    num_nearest = min(count, _NEAREST_FACTOR * options.top_k + 1)
    chosen: list[Pair] = []
    for i, name in enumerate(names):
        camera, cam_from_world = poses[name]
        points = cam_from_world.inverse() * _frustum_points(camera, depths)  # (P, 3) in the world
        cosines = axes @ axes[i]
        distances = np.linalg.norm(centres - centres[i], axis=1)
        near = np.argsort(distances, kind="stable")[:num_nearest]
        overlaps = np.zeros(count)
        for j in near[cosines[near] >= min_cosine].tolist():
            if j != i:
                overlaps[j] = _share_inside(poses[names[j]], points) * (1 + cosines[j]) / 2
        # stable: equally good partners stay in the order of the names
        best = np.argsort(-overlaps, kind="stable")[: options.top_k].tolist()
        chosen += [(name, names[j]) for j in best if overlaps[j] > 0]
    return unique_pairs(names, chosen)


def _typical_spacing(centres: NDArray[np.float64]) -> float:
    """Median distance from a camera to its nearest other one; 1 if all stand at one place."""
    nearest = []
    for i in range(0, len(centres), max(1, len(centres) // 500)):  # a sample is enough
        distances = np.linalg.norm(centres - centres[i], axis=1)
        distances = distances[distances > 0]
        if len(distances):
            nearest.append(distances.min())
    return float(np.median(nearest)) if nearest else 1.0


def _frustum_points(camera: pycolmap.Camera, depths: NDArray[np.float64]) -> NDArray[np.float64]:
    """Points in the camera frame on a grid of pixels at several depths, (P, 3)."""
    steps = (np.arange(_FRUSTUM_GRID) + 0.5) / _FRUSTUM_GRID
    x, y = np.meshgrid(steps * camera.width, steps * camera.height)
    pixels = np.stack([x.ravel(), y.ravel()], axis=1)
    rays = np.asarray(camera.cam_from_img(pixels))  # (G*G, 2)
    rays = rays[np.isfinite(rays).all(axis=1)]
    rays = np.concatenate([rays, np.ones((len(rays), 1))], axis=1)
    return np.concatenate([rays * depth for depth in depths])


def _share_inside(
    posed: tuple[pycolmap.Camera, pycolmap.Rigid3d], points_in_world: NDArray[np.float64]
) -> float:
    """Share of world points (P, 3) that project into a photo."""
    camera, cam_from_world = posed
    points = cam_from_world * points_in_world
    points = points[points[:, 2] > 0]
    if not len(points):
        return 0.0
    pixels = np.asarray(camera.img_from_cam(points)).reshape(-1, 2)
    inside = (pixels >= 0).all(1) & (pixels <= (camera.width, camera.height)).all(1)
    return float(inside.sum()) / len(points_in_world)
