"""`reconstruct_map`: a dense point cloud of a finished map, whose poses stay as they are.

Every photo gets a depth map from the network's point maps of it beside the photos that share most
map points with it. Each of them is laid on the map points that the photo sees, since the network's
scale errs and the map may have any; then the depth maps are fused where photos agree.
"""

import logging
import time
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
from numpy.typing import NDArray

from mapping.dense_export import (
    DEPTHS,
    DenseReconstruction,
    check_point_maps,
    check_target,
    fuse_and_write,
    write_depth,
    write_summary,
)
from mapping.depth_fusion import DepthMap
from mapping.map import Map
from mapping.reconstruct_photos import ReconstructOptions
from mapping.store import ViewCache
from matching.errors import InputError
from matching.files import PathLike, atomic_folder, existing_file, existing_folder
from matching.images import read_image
from matching.matcher import Matcher
from matching.options import options_as_dict
from matching.pointmap import PairGeometry
from matching.preprocess import NetworkFrame
from matching.progress import Progress, silent
from matching.types import View

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

_MIN_POINTS = 10  # map points in a photo that give a depth map its scale
# how far a map point speaks for its surroundings: in spacings of map points, and its limits as a
# share of the longer side. On a facade with 2,600 map points in a photo, the bundled network's
# depths then deviate from other map points by 5.0 % in the median, with a reach of 0.15 by 11.2 %;
# with 260 map points by 7.9 and 11.4 %
_REACH_SPACINGS = 0.7
_MIN_REACH, _MAX_REACH = 0.015, 0.15
_CELLS_PER_REACH = 2.4  # of the grid on which scales are smoothed
_PRIOR_WEIGHT = 0.3  # of the photo's common scale, in map points right at the place
_MAX_DEVIATION = 3.0  # median deviations beyond which a map point is taken for wrong


def reconstruct_map(
    scene: Map,
    images: PathLike,
    out: PathLike,
    matcher: Matcher,
    *,
    options: ReconstructOptions | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> DenseReconstruction:
    """A dense cloud of a map, in its frame and unit.

    Args:
        scene: The map; of any matcher.
        images: Its photos, for colours, and to encode them if another matcher made the map.
        out: New or empty folder. It appears whole or not at all.
        matcher: One that predicts point maps.
        options: ``pairs.top_k`` is the number of photos that each is seen beside.
        overwrite: Replace an earlier reconstruction in ``out``, when the new one is complete.
        progress: Wraps the loops.

    Raises:
        InputError: A matcher without point maps, none of the map's photos in the folder, or a photo
            that has to be encoded and cannot be read. What only lacks for colours stays grey.
    """
    options = options or ReconstructOptions()
    target = check_target(out, overwrite=overwrite)
    check_point_maps(matcher)
    folder = existing_folder(images, "photo folder")
    upright = bool(scene.info.options["apply_exif_orientation"])

    def photo(name: str) -> NDArray[np.uint8]:
        return read_image(folder / name, apply_exif_orientation=upright)

    def colors(row: int) -> NDArray[np.uint8] | None:
        try:
            return photo(names[row])
        except InputError as error:
            logger.warning("the points of '%s' stay grey: %s", names[row], error)
            return None

    same = (scene.info.matcher["name"], scene.info.matcher["fingerprint"]) == (
        matcher.name,
        matcher.fingerprint,
    )
    missing = [name for name in scene.image_names if not (folder / name).is_file()]
    if missing and (not same or len(missing) == len(scene.image_names)):
        existing_file(folder / missing[0], "photo of the map")  # told before the work
    encoded: ViewCache[str] = ViewCache(lambda name: matcher.encode_bare(photo(name)))
    views: Callable[[str], View] = scene.load_view if same else encoded
    seconds: dict[str, float] = {}
    start = time.perf_counter()
    names, skipped = [], {}
    partners = {n: list(scene.covisible(n))[: options.pairs.top_k] for n in scene.image_names}
    for name in scene.image_names:
        num_points = int((scene.point3D_ids(name) >= 0).sum())
        if num_points < _MIN_POINTS:
            skipped[name] = f"it sees only {num_points} map points, too few to scale a depth map"
        elif not partners[name]:
            skipped[name] = "it shares no map points with other photos"
        else:
            names.append(name)
    pairs = sorted({(min(n, m), max(n, m)) for n in names for m in partners[n] if m not in skipped})
    with atomic_folder(target) as temporary:
        with h5py.File(temporary / "sums.h5", "w") as sums:
            for a, b in progress(pairs, "predicting point maps", len(pairs)):
                seen = matcher.predict(views(a), views(b))
                if seen is None:
                    continue
                for number, name in enumerate((a, b)):
                    _add(sums, scene, name, seen, number)
            unseen = "its point maps do not reach enough map points to scale a depth map"
            skipped |= {name: unseen for name in names if name not in sums}
            if not len(sums):
                name, reason = next(iter(skipped.items()))
                raise InputError(
                    f"no photo of the map gets a depth map, such as '{name}': {reason}"
                )
            names = [name for name in names if name in sums]
            with h5py.File(temporary / DEPTHS, "w") as depths:
                for name in names:
                    write_depth(depths, name, _mean_depth(sums, scene, name))
        (temporary / "sums.h5").unlink()
        seconds["depth"] = time.perf_counter() - start
        start = time.perf_counter()
        place = {name: row for row, name in enumerate(names)}
        num_points = fuse_and_write(
            temporary,
            names,
            [scene.camera(name) for name in names],
            [scene.cam_from_world(name) for name in names],
            [[place[m] for m in partners[name] if m in place] for name in names],
            options.fusion,
            read_photo=colors,
            progress=progress,
        )
        seconds["fuse"] = time.perf_counter() - start
        made = DenseReconstruction(
            path=Path(target),
            num_images=len(names),
            not_registered={**scene.info.not_registered, **skipped},
            num_pairs=len(pairs),
            num_points=num_points,
            metric=False,
            error=None,
            seconds=seconds,
            matcher=matcher.describe(),
            options=options_as_dict(options),
        )
        write_summary(temporary, made)
    return made


def _add(sums: h5py.File, scene: Map, name: str, seen: PairGeometry, number: int) -> None:
    """Add a photo's depth map, laid on the map's points, to the sums of its logarithms."""
    depth = seen.depth(number)
    frame = seen.frames[number]
    confidence = (seen.confidence_in_camera0[0], seen.confidence_in_camera1[1])[number]
    ids = scene.point3D_ids(name)
    rows = np.flatnonzero(ids >= 0)
    in_cam = np.asarray(scene.cam_from_world(name) * scene.points3D(ids[rows]))
    keypoints = scene.load_view(name).keypoints[rows]
    log_ratio = depth_correction(depth, frame, keypoints, in_cam[:, 2])
    if log_ratio is None:
        return
    with np.errstate(divide="ignore", invalid="ignore"):
        log_depth = np.where(depth > 0, np.log(depth), np.nan) + log_ratio
    weight = np.where(np.isfinite(log_depth), confidence, 0.0)
    weighted = np.where(weight > 0, weight * log_depth, 0.0)
    if name not in sums:
        group = sums.create_group(name)
        for key in ("weight", "first", "second"):
            group.create_dataset(key, data=np.zeros(depth.shape, np.float32))
        group.attrs["count"] = 0
        group.attrs["frame"] = [*frame.scale, *frame.offset]
    group = sums[name]
    group["weight"][...] += weight.astype(np.float32)
    group["first"][...] += weighted.astype(np.float32)
    with np.errstate(invalid="ignore"):
        second = np.where(weight > 0, weighted * log_depth, 0.0)
    group["second"][...] += second.astype(np.float32)
    group.attrs["count"] += 1


def _mean_depth(sums: h5py.File, scene: Map, name: str) -> DepthMap:
    """The weighted mean of a photo's depth maps; where they disagree it is less sure."""
    group = sums[name]
    weight, first, second = (group[key][()] for key in ("weight", "first", "second"))
    with np.errstate(divide="ignore", invalid="ignore"):
        mean = first / weight
        spread = np.sqrt(np.maximum(second / weight - mean**2, 0))
        confidence = weight / group.attrs["count"] / (1 + 20 * spread)  # half of it at 5 %
    scale_x, scale_y, offset_x, offset_y = group.attrs["frame"]
    known = weight > 0
    return DepthMap(
        camera=scene.camera(name),
        cam_from_world=scene.cam_from_world(name),
        frame=NetworkFrame(
            image_size=(weight.shape[1], weight.shape[0]),
            scale=(float(scale_x), float(scale_y)),
            offset=(float(offset_x), float(offset_y)),
        ),
        depth=np.where(known, np.exp(np.where(known, mean, 0.0)), 0.0).astype(np.float32),
        confidence=np.where(known, confidence, 0.0).astype(np.float32),
    )


def depth_correction(
    depth: NDArray[np.float32],
    frame: NetworkFrame,
    keypoints: NDArray[np.floating],
    true_depths: FloatArray,
) -> NDArray[np.float32] | None:
    """What has to be added to the logarithm of a depth map so that it goes through known depths.

    A network's depth errs by a common factor and by factors that change slowly over the photo: each
    known depth speaks for its surroundings, and where there is none, their median does.

    Args:
        depth: (h, w), not positive where unknown.
        frame: Where it lies in the photo.
        keypoints: Pixels of the photo with a known depth, (M, 2).
        true_depths: Theirs, (M,).

    Returns:
        (h, w) float32; None if fewer than ten depths are usable.
    """
    height, width = depth.shape
    nearest, inside = frame.nearest_pixels(keypoints)
    rows = np.flatnonzero(inside & (true_depths > 0))
    x, y = nearest[rows].T
    seen = depth[y, x].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        votes = np.log(true_depths[rows]) - np.log(seen)
    usable = (seen > 0) & np.isfinite(votes)
    if usable.sum() < _MIN_POINTS:
        return None
    x, y, votes = x[usable], y[usable], votes[usable]
    common = float(np.median(votes))
    deviation = float(np.median(np.abs(votes - common)))
    near = np.abs(votes - common) <= _MAX_DEVIATION * max(deviation, 1e-6)
    x, y, votes = x[near], y[near], votes[near] - common
    longer = max(width, height)
    spacing = np.sqrt(height * width / len(votes))
    reach = np.clip(_REACH_SPACINGS * spacing, _MIN_REACH * longer, _MAX_REACH * longer)
    rows_y = np.linspace(0, height - 1, max(2, round(_CELLS_PER_REACH * height / reach)))
    rows_x = np.linspace(0, width - 1, max(2, round(_CELLS_PER_REACH * width / reach)))
    # Nadaraya-Watson regression; the kernel is a product, so that it is two small matrices
    kernel_y = np.exp(-0.5 * ((rows_y[:, None] - y) / reach) ** 2)
    kernel_x = np.exp(-0.5 * ((rows_x[:, None] - x) / reach) ** 2)
    heap = kernel_y @ kernel_x.T + _PRIOR_WEIGHT
    field = (kernel_y * votes) @ kernel_x.T / heap
    columns = np.stack([np.interp(np.arange(width), rows_x, row) for row in field])
    place = np.interp(np.arange(height), rows_y, np.arange(len(rows_y)))
    low = np.minimum(place.astype(int), len(rows_y) - 2)
    part = (place - low)[:, None]
    smooth = (1 - part) * columns[low] + part * columns[low + 1]
    corrected: NDArray[np.float32] = (common + smooth).astype(np.float32)
    return corrected
