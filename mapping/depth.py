"""Map points from given depth: every keypoint is lifted to the surface that its photo sees there.

Nothing is triangulated. Laser scans (InLoc) and depth cameras (7-Scenes) know surfaces where photos
hardly overlap, and so does every keypoint that only one photo sees.
"""

import hashlib
import itertools
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.database import posed_reconstruction
from mapping.reconstruct import ReconstructionResult
from matching.errors import InputError
from matching.progress import Progress, silent

FloatArray = NDArray[np.float64]
IntArray = NDArray[np.int64]

# points farther apart than this times their distance from the camera lie on different surfaces:
# neighbours in the grid, or the two ends of a match
MAX_GAP = 0.05
_THREADS = 8  # surfaces being read; each in memory may be a picture of 2 million points


@dataclass(frozen=True, kw_only=True)
class Surfaces:
    """Given depth: what each pixel of a photo sees.

    Attributes:
        read: Photo to the world point of each pixel of a grid over it, (H, W, 3) float32, NaN where
            nothing is known; the grid may be smaller than the photo. Several threads call it.
        identity: Any text that differs where the depth does, such as `files_identity` of the files
            that it is read from: a map made with another one counts as another map. To read all
            depth only to compare it would take longer than the rest of opening a map.
    """

    read: Callable[[str], NDArray[np.float32]]
    identity: str

    def __call__(self, name: str) -> NDArray[np.float32]:
        """The surface that a photo sees."""
        return self.read(name)


def files_identity(files: Iterable[Path], *settings: str) -> str:
    """Hash of files' names and sizes and of what else decides how they are read.

    Times are left out: a copy of a data set is the same. Depth is stored compressed, so that other
    depth hardly ever has the same size to the byte. A file that is missing now is no error before
    it is read.
    """
    digest = hashlib.sha256(repr(settings).encode())
    for file in files:
        size = file.stat().st_size if file.is_file() else None
        digest.update(repr((file.name, size)).encode())
    return digest.hexdigest()


def points_from_surfaces(
    database: Path,
    poses: Mapping[str, pycolmap.Rigid3d],
    surfaces: Callable[[str], NDArray[np.float32]],
    *,
    progress: Progress = silent,
) -> ReconstructionResult:
    """A model whose points are the given surfaces at the keypoints; poses stay as they are.

    Keypoints that verified matches join become one point, their mean, where their surfaces agree.
    A keypoint without a surface joins the points it is matched with.

    Args:
        database: Verified database.
        poses: Photo to cam_from_world.
        surfaces: Of each of these photos, see `Surfaces`; several threads call it.
        progress: Wraps the loop over photos.

    Raises:
        InputError: Not one keypoint lies on a surface, or a grid has no (H, W, 3) numbers.
    """
    model = posed_reconstruction(database, poses)
    images = sorted(model.images.values(), key=lambda image: image.image_id)
    starts: dict[int, int] = {}  # photo to the place of its first keypoint among all
    lifted: list[FloatArray] = []
    reach: list[FloatArray] = []
    count = 0
    with pycolmap.Database.open(database) as opened:
        ahead = zip(images, _ahead([image.name for image in images], surfaces), strict=True)
        for image, surface in progress(ahead, "lifting keypoints", len(images)):
            keypoints = np.asarray(opened.read_keypoints(image.image_id), np.float64)[:, :2]
            image.points2D = pycolmap.Point2DList([pycolmap.Point2D(xy) for xy in keypoints])
            camera = model.camera(image.camera_id)
            center = image.cam_from_world().inverse().translation
            size = (camera.width, camera.height)
            points = lift_keypoints(surface, keypoints, size, center)
            starts[image.image_id], count = count, count + len(keypoints)
            lifted.append(points)
            reach.append(np.linalg.norm(points - center, axis=1))
        pair_ids, geometries = opened.read_two_view_geometries()
    xyz, distance = np.concatenate(lifted), np.concatenate(reach)
    if not np.isfinite(distance).any():
        raise InputError("no keypoint lies on a given surface: the depth does not fit the photos")
    edges = []
    for pair_id, geometry in zip(pair_ids, geometries, strict=True):
        id0, id1 = pycolmap.pair_id_to_image_pair(pair_id)
        rows = np.asarray(geometry.inlier_matches, np.int64).reshape(-1, 2)
        if id0 in starts and id1 in starts:
            edges.append(rows + np.array([starts[id0], starts[id1]]))
    labels = join(np.concatenate(edges) if edges else np.zeros((0, 2), np.int64), xyz, distance)
    _add_points(model, starts, labels, xyz)
    model.update_point_3d_errors()
    return ReconstructionResult(model=model, not_registered={})


def _ahead(
    names: Sequence[str], surfaces: Callable[[str], NDArray[np.float32]]
) -> Iterator[NDArray[np.float32]]:
    """Surfaces in order, a few of them read ahead: a laser scan takes a second to unpack."""
    with ThreadPoolExecutor(_THREADS) as pool:
        waiting: deque[Future[NDArray[np.float32]]] = deque()
        for name in names:
            waiting.append(pool.submit(surfaces, name))
            if len(waiting) > _THREADS:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()


def lift_keypoints(
    surface: NDArray[np.floating],
    keypoints: FloatArray,
    image_size: tuple[int, int],
    center: FloatArray,
) -> FloatArray:
    """Surface points at pixels: bilinear on smooth surfaces, else that of the nearest grid pixel.

    Args:
        surface: World points, (H, W, 3), NaN unknown. Its grid covers the whole photo.
        keypoints: Pixels of the photo, (N, 2), centre of the top-left pixel at (0.5, 0.5).
        image_size: (width, height) of the photo.
        center: Of the camera, (3,).

    Returns:
        (N, 3), NaN where nothing is known.

    Raises:
        InputError: The surface has another shape.
    """
    if surface.ndim != 3 or surface.shape[2] != 3 or 0 in surface.shape:
        raise InputError(f"a surface must be (H, W, 3) world points, got {surface.shape}")
    height, width = surface.shape[:2]
    in_grid = keypoints * (width / image_size[0], height / image_size[1])
    nearest = np.floor(in_grid).astype(int).clip(0, (width - 1, height - 1))
    points = surface[nearest[:, 1], nearest[:, 0]].astype(np.float64)
    corner = np.floor(in_grid - 0.5).astype(int)
    part = in_grid - 0.5 - corner
    corners, weights = [], []
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        x, y = (corner + np.array([dx, dy])).clip(0, (width - 1, height - 1)).T
        corners.append(surface[y, x].astype(np.float64))
        weights.append(np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1]))
    four, weight = np.stack(corners), np.stack(weights)
    gap = np.linalg.norm(four - points, axis=-1).max(axis=0)  # NaN if one of the four is
    smooth = gap <= MAX_GAP * np.linalg.norm(points - center, axis=1)
    points[smooth] = (weight[..., None] * four).sum(axis=0)[smooth]
    return points


def join(edges: IntArray, xyz: FloatArray, distance: FloatArray) -> IntArray:
    """Which keypoints see the same point: those connected by matches whose ends agree.

    Args:
        edges: Matched keypoints, (E, 2).
        xyz: Their points, (N, 3), NaN unknown.
        distance: Of the points from their cameras, (N,).

    Returns:
        (N,): the least number among the connected keypoints.
    """
    first, second = edges.T
    gap = np.linalg.norm(xyz[first] - xyz[second], axis=1)
    unknown = np.isnan(distance)
    agree = gap <= MAX_GAP * np.minimum(distance[first], distance[second])
    # of a keypoint without a surface the first match decides, or it would join what differs
    labels = np.arange(len(xyz))
    first, second, half = first[agree], second[agree], edges[unknown[first] ^ unknown[second]]
    while True:
        least = np.minimum(labels[first], labels[second])
        before = labels.copy()
        np.minimum.at(labels, first, least)
        np.minimum.at(labels, second, least)
        labels = labels[labels]
        if (labels == before).all():
            break
    blind = np.where(unknown[half[:, 0]], half[:, 0], half[:, 1])
    seen = np.where(unknown[half[:, 0]], half[:, 1], half[:, 0])
    blind, rows = np.unique(blind, return_index=True)
    labels[blind] = labels[seen[rows]]
    return labels


def _add_points(
    model: pycolmap.Reconstruction, starts: Mapping[int, int], labels: IntArray, xyz: FloatArray
) -> None:
    """One point for each label with a surface, at the mean of its keypoints' surfaces."""
    ids = np.array(list(starts), np.int64)
    begins = np.array(list(starts.values()), np.int64)
    order = np.argsort(labels, kind="stable")
    bounds = np.flatnonzero(np.diff(labels[order], prepend=-1, append=-1))
    known = np.asarray(np.isfinite(xyz).all(axis=1))
    owner = np.searchsorted(begins, np.arange(len(labels)), side="right") - 1
    for begin, end in itertools.pairwise(bounds.tolist()):
        rows = order[begin:end]
        seen = rows[known[rows]]
        if len(seen) == 0:
            continue
        track = pycolmap.Track(
            [
                pycolmap.TrackElement(int(ids[owner[row]]), int(row - begins[owner[row]]))
                for row in rows
            ]
        )
        model.add_point3D(xyz[seen].mean(axis=0), track)
