"""`reconstruct_photos`: photos to poses and a dense cloud by global alignment, without SfM.

For scenes where structure from motion finds too little: few photos, little overlap, no texture. The
network's point maps of pairs carry the geometry, see `mapping.global_alignment`.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import h5py
import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray

from mapping.alignment_check import AlignmentCheck, check_pair, evenly
from mapping.alignment_start import AlignmentEdge
from mapping.cameras import camera_from_image, create_camera
from mapping.dense_export import (
    DEPTHS,
    DenseReconstruction,
    check_point_maps,
    check_target,
    fuse_and_write,
    write_depth,
    write_summary,
)
from mapping.depth_fusion import DepthMap, FusionOptions
from mapping.global_alignment import Alignment, AlignmentOptions, AlignmentView, align
from mapping.inputs import given_cameras
from mapping.options import PairOptions, RetrievalOptions
from mapping.pairs import Pair, read_pairs, resolve_method, select_pairs
from mapping.photos import encode_photos, find_photos, too_few_photos, view_key
from mapping.retrieval import describe_photos, similar_photos
from mapping.store import ViewCache, read_view
from mapping.workspace import locked_folder
from matching.errors import InputError
from matching.files import PathLike, atomic_folder
from matching.images import read_image
from matching.matcher import Matcher
from matching.options import options_as_dict
from matching.pointmap import PairGeometry
from matching.preprocess import NetworkFrame
from matching.progress import Progress, silent

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

_CHECKED_PAIRS = 60  # whose matches are asked about the poses: each takes as long as its prediction
_BYTES_PER_POINT = 16  # three coordinates and a weight


@dataclass(frozen=True, kw_only=True)
class ReconstructOptions:
    """Settings of `reconstruct_photos` and of `mapping.reconstruct_map.reconstruct_map`."""

    pairs: PairOptions = field(default_factory=lambda: PairOptions(max_exhaustive=16, top_k=6))
    alignment: AlignmentOptions = field(default_factory=AlignmentOptions)
    fusion: FusionOptions = field(default_factory=FusionOptions)
    # of the point maps that are aligned together; where all their pixels take more, every second,
    # third .. pixel of every second, third .. row is taken
    max_memory_mb: int = 512
    grid_step_px: int = 4  # at least this step, network pixels: neighbours say the same
    # share of the pairs whose matches may contradict the aligned poses; where more do, the point
    # maps are too poor for poses, and nothing is written. 1 writes whatever comes out
    max_contradicted: float = 0.5
    apply_exif_orientation: bool = True  # turn photos as their EXIF says

    def __post_init__(self) -> None:
        if self.max_memory_mb < 1 or self.grid_step_px < 1:
            raise ValueError(
                f"max_memory_mb and grid_step_px must be at least 1, got {self.max_memory_mb} and "
                f"{self.grid_step_px}"
            )
        if not 0 <= self.max_contradicted <= 1:
            raise ValueError(f"max_contradicted must be in [0, 1], got {self.max_contradicted}")


def reconstruct_photos(
    images: PathLike,
    out: PathLike,
    matcher: Matcher,
    *,
    options: ReconstructOptions | None = None,
    image_names: Sequence[str] | None = None,
    cameras: Mapping[str, pycolmap.Camera] | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> DenseReconstruction:
    """Reconstruct a scene from photos by global alignment of point maps.

    ``out`` appears whole or not at all. A run that is killed or fails leaves its encodings beside
    it, in a folder ``.<out>.work``: the same call goes on with them, and so does one with other
    options. They go when a reconstruction is complete, or refused as its matches contradict it.

    Args:
        images: Folder of photos.
        out: New or empty folder.
        matcher: One that predicts point maps.
        options: Settings.
        image_names: Only these photos; None takes all.
        cameras: Known intrinsics by photo; they stay as they are.
        overwrite: Replace an earlier reconstruction in ``out``, when the new one is complete.
        progress: Wraps the loops.

    Returns:
        What was made; see `DenseReconstruction`.

    Raises:
        InputError: No photos, cameras or pairs of other photos, a matcher without point maps, no
            pair with any points, matches that contradict the poses, or another process at work.
    """
    options = options or ReconstructOptions()
    target = check_target(out, overwrite=overwrite)
    check_point_maps(matcher)
    work = target.with_name(f".{target.name}.work")
    scene = _Photos(images, work, matcher, options, image_names, cameras, progress)
    with locked_folder(work, f"the reconstruction '{target}'", keep_empty=False):
        try:
            made = _reconstruct(scene, target)
        except InputError:
            if any(work.glob("*.npz")):
                logger.info("what is encoded stays in '%s' for a run with other options", work)
            raise
        for file in work.iterdir():
            if file.suffix in (".npz", ".tmp"):  # of a killed run
                file.unlink()
    return made


def _reconstruct(scene: "_Photos", target: Path) -> DenseReconstruction:
    """All stages."""
    with scene.timed("encode"):
        scene.encode()
    with scene.timed("pairs"):
        pairs = scene.choose_pairs()
        edges = scene.predict(pairs)
    with scene.timed("align"):
        start = scene.start_views(edges)
        alignment = align(start, edges, scene.options.alignment, progress=scene.progress)
    if len(alignment.views) < 2:
        raise InputError("no two photos share anything that the network sees")
    with scene.timed("check"):
        check = scene.check(alignment, pairs)
    with atomic_folder(target) as folder:
        with scene.timed("depth"):
            scene.write_depths(folder / DEPTHS, alignment, edges)
        return scene.export(folder, target, alignment, edges, len(pairs), check)


class _Photos:
    """The photos of a run with what is known of them so far."""

    def __init__(
        self,
        images: PathLike,
        work: Path,
        matcher: Matcher,
        options: ReconstructOptions,
        image_names: Sequence[str] | None,
        cameras: Mapping[str, pycolmap.Camera] | None,
        progress: Progress,
    ) -> None:
        self.found = found = find_photos(images, image_names)
        self.bad = dict(found.bad)
        self.photos = found.photos
        self.matcher, self.options, self.progress = matcher, options, progress
        self.given = given_cameras(cameras, found.photos, images)
        pair_file = options.pairs.file
        everything = sorted([*found.photos, *found.bad])
        self.listed = None if pair_file is None else read_pairs(pair_file, everything)
        self.work = work
        self.seconds: dict[str, float] = {}
        self.names: list[str] = []
        self.step = 1
        self.seen_focals: dict[str, list[float]] = {}
        self.camera_sources: dict[str, str] = {}

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.seconds[stage] = time.perf_counter() - start

    def encode(self) -> None:
        """Encode the photos that are not encoded yet."""
        upright = self.options.apply_exif_orientation
        keys = {
            name: view_key(photo, self.matcher, apply_exif_orientation=upright)
            for name, photo in self.photos.items()
        }
        unreadable = encode_photos(
            list(self.photos.values()),
            list(keys.values()),
            self.matcher,
            self.work,
            apply_exif_orientation=upright,
            progress=self.progress,
            with_keypoints=False,
        )
        self.bad.update(sorted(unreadable.items()))
        self.keys = {name: key for name, key in keys.items() if name not in self.bad}
        self.names = sorted(self.keys)
        if len(self.names) < 2:
            self.forget()
            raise InputError(too_few_photos("reconstruction", self.names, self.found, self.bad))
        self.views: ViewCache[str] = ViewCache(lambda n: read_view(self._view_file(self.keys[n])))

    def forget(self) -> None:
        """Throw the encodings of these photos away: no other call is to go on with them."""
        for key in self.keys.values():
            self._view_file(key).unlink(missing_ok=True)

    def _view_file(self, key: str) -> Path:
        return self.work / f"{key}.npz"

    def choose_pairs(self) -> list[Pair]:
        """Pairs of photos that the network looks at together."""
        chosen = self.options.pairs
        similar: Callable[[str, int], Sequence[str]] | None = None
        if resolve_method(chosen, len(self.names), has_poses=False) == "retrieval":
            settings = RetrievalOptions()
            _, descriptors = describe_photos(self.names, self.views, self.matcher, settings)
            similar = similar_photos(self.names, descriptors, settings)
        pairs = select_pairs(self.names, chosen, similar=similar, listed=self.listed)
        if not pairs and similar is not None:  # which finds some for whatever is not blank
            raise InputError(self._without_texture(*self.names[:2]))
        if not pairs:
            raise InputError(f"pairs.method '{chosen.method}' leaves no pair of usable photos")
        return pairs

    def predict(self, pairs: Sequence[Pair]) -> list[AlignmentEdge]:
        """Point maps of all pairs in both orders, thinned to a grid."""
        place = {name: row for row, name in enumerate(self.names)}
        edges: list[AlignmentEdge] = []
        self.frames: dict[str, NetworkFrame] = {}
        for a, b in self.progress(pairs, "predicting point maps", len(pairs)):
            seen = self.matcher.predict(self.views(a), self.views(b))
            if seen is None:
                continue  # one of them is blank
            if not edges:
                self.step = self._grid_step(seen, len(pairs))
                self.metric = seen.metric
            edges += self._edges(seen, (place[a], place[b]))
            for number, name in enumerate((a, b)):
                self.frames[name] = seen.frames[number]
                self.seen_focals.setdefault(name, []).append(seen.focal_px(number))
        if not edges:
            raise InputError(self._without_texture(*pairs[0]))
        widest = max(len(edge.points[0]) for edge in edges)
        return [_padded(edge, widest) for edge in edges]

    @staticmethod
    def _without_texture(a: str, b: str) -> str:
        return (
            f"no pair of photos shows any texture in both, such as '{a}' and '{b}': photos of one "
            "colour, or of hardly any pixels, cannot be reconstructed"
        )

    def _grid_step(self, seen: PairGeometry, num_pairs: int) -> int:
        pixels = max(seen.depth(view).size for view in (0, 1))
        wanted = 4 * num_pairs * pixels * _BYTES_PER_POINT / (self.options.max_memory_mb * 2**20)
        return max(self.options.grid_step_px, int(np.ceil(np.sqrt(wanted))))

    def _edges(self, seen: PairGeometry, places: tuple[int, int]) -> list[AlignmentEdge]:
        result = []
        for order, maps, confidences in (
            ((0, 1), seen.in_camera0, seen.confidence_in_camera0),
            ((1, 0), seen.in_camera1, seen.confidence_in_camera1),
        ):
            points = [self._grid(maps[n]).reshape(-1, 3) for n in order]
            # the confidences as they are (eq. 5): their logarithms would leave next to nothing of a
            # network whose confidences hardly differ
            weights = [self._grid(confidences[n]).ravel().astype(np.float32) for n in order]
            result.append(
                AlignmentEdge(
                    views=(places[order[0]], places[order[1]]),
                    points=(points[0].copy(), points[1].copy()),
                    weights=(weights[0], weights[1]),
                )
            )
        return result

    def _grid(self, values: NDArray[np.float32]) -> NDArray[np.float32]:
        start = self.step // 2
        return values[start :: self.step, start :: self.step]

    def camera(self, name: str, focal_px: float | None = None) -> pycolmap.Camera:
        """The given camera, or one with the focal length that EXIF and point maps tell."""
        size = self.views(name).image_size
        if name in self.given:
            self.camera_sources[name] = "given"
            camera = pycolmap.Camera(self.given[name].todict())
            if (camera.width, camera.height) != size:
                raise InputError(
                    f"the camera given for '{name}' is {camera.width}x{camera.height} but the "
                    f"photo is {size[0]}x{size[1]}"
                )
            return camera
        if focal_px is None:
            seen = float(np.median(self.seen_focals[name]))
            guess = camera_from_image(self.photos[name].path, size, pointmap_px=seen)
            # the descent finds the focal length that the points have; EXIF is a better start
            focal_px = guess.camera.mean_focal_length() if guess.source != "pointmap" else seen
            self.camera_sources[name] = guess.source
        return create_camera("SIMPLE_PINHOLE", focal_px, *size)

    def start_views(self, edges: Sequence[AlignmentEdge]) -> list[AlignmentView]:
        """What the alignment starts from, for every photo."""
        widest = len(edges[0].points[0])
        groups: dict[tuple[int, int], int] = {}
        result = []
        for name in self.names:
            if name not in self.frames:
                result.append(AlignmentView(rays=np.zeros((widest, 2)), focal_px=1.0))
                continue
            camera, frame = self.camera(name), self.frames[name]
            rays = np.zeros((widest, 2))
            pixels = self._grid_pixels(frame)
            rays[: len(pixels)] = np.asarray(camera.cam_from_img(frame.to_photo(pixels)))
            result.append(
                AlignmentView(
                    rays=rays,
                    focal_px=camera.mean_focal_length(),
                    fixed_focal=name in self.given,
                    group=groups.setdefault((camera.width, camera.height), len(groups)),
                )
            )
        return result

    def _grid_pixels(self, frame: NetworkFrame) -> FloatArray:
        width, height = frame.image_size
        start = self.step // 2
        y, x = np.mgrid[start : height : self.step, start : width : self.step].reshape(2, -1)
        return np.column_stack([x, y]) + 0.5

    def check(self, alignment: Alignment, pairs: Sequence[Pair]) -> AlignmentCheck:
        """Ask the matches of some pairs about the poses.

        Raises:
            InputError: Too many of them contradict.
        """
        aligned = {self.names[view]: found for view, found in alignment.views.items()}
        known = evenly([p for p in pairs if p[0] in aligned and p[1] in aligned], _CHECKED_PAIRS)
        checked = []
        for a, b in self.progress(known, "checking poses", len(known)):
            from_world = np.linalg.inv(aligned[b].world_from_cam)
            checked.append(
                check_pair(
                    self.matcher.match_views(self.views(a), self.views(b)),
                    (self.camera(a, aligned[a].focal_px), self.camera(b, aligned[b].focal_px)),
                    pycolmap.Rigid3d((from_world @ aligned[a].world_from_cam)[:3]),
                    pixel_px=max(self.matcher.pixel_px(self.views(name)) for name in (a, b)),
                )
            )
        check = AlignmentCheck.of(checked)
        if check.num_contradicted > self.options.max_contradicted * len(check.errors):
            self.forget()  # a small part of the work, and most such runs are not repeated
            raise InputError(
                f"the point maps of {self.matcher.name} are too poor for poses: {check.summary()}; "
                "make a map (groundloc map) and give it (--map), use a network with better point "
                "maps, or allow it (max_contradicted=1)"
            )
        return check

    def write_depths(
        self, path: Path, alignment: Alignment, edges: Sequence[AlignmentEdge]
    ) -> None:
        """Depth maps at the network's resolution: of the best pair, bent to what was aligned."""
        order = sorted(alignment.views)
        with h5py.File(path, "w") as file:
            for view in self.progress(order, "writing depth maps", len(order)):
                name = self.names[view]
                partner = self.names[edges[alignment.best_edge[view]].views[1]]
                seen = self.matcher.predict(self.views(name), self.views(partner))
                assert seen is not None  # it was predicted before
                aligned = alignment.views[view]
                grid = self._grid(seen.depth(0))
                with np.errstate(divide="ignore", invalid="ignore"):
                    ratio = np.log(aligned.depth[: grid.size].reshape(grid.shape) / grid)
                depth = _bent(seen.depth(0), ratio, self.step)
                pose = np.linalg.inv(aligned.world_from_cam)[:3]
                write_depth(
                    file,
                    name,
                    DepthMap(
                        camera=self.camera(name, aligned.focal_px),
                        cam_from_world=pycolmap.Rigid3d(pose),
                        frame=self.frames[name],
                        depth=depth,
                        confidence=seen.confidence_in_camera0[0],
                    ),
                )

    def export(
        self,
        folder: Path,
        target: Path,
        alignment: Alignment,
        edges: Sequence[AlignmentEdge],
        num_pairs: int,
        check: AlignmentCheck,
    ) -> DenseReconstruction:
        """Fuse the depth maps and write the cloud, the model and the summary."""
        order = sorted(alignment.views)
        names = [self.names[view] for view in order]
        cameras = [
            self.camera(n, alignment.views[v].focal_px) for n, v in zip(names, order, strict=True)
        ]
        poses = [
            pycolmap.Rigid3d(np.linalg.inv(alignment.views[view].world_from_cam)[:3])
            for view in order
        ]
        place = {view: row for row, view in enumerate(order)}
        partners: list[list[int]] = [[] for _ in order]
        for edge in edges:
            if edge.views[0] in place and edge.views[1] in place:
                partners[place[edge.views[0]]].append(place[edge.views[1]])
        with self.timed("fuse"):
            num_points = fuse_and_write(
                folder,
                names,
                cameras,
                poses,
                partners,
                self.options.fusion,
                read_photo=lambda row: read_image(
                    self.photos[names[row]].path,
                    apply_exif_orientation=self.options.apply_exif_orientation,
                ),
                progress=self.progress,
            )
        alone = "the network sees nothing that it shares with the other photos"
        missing = {name: alone for name in self.names if name not in set(names)}
        made = DenseReconstruction(
            path=target,
            num_images=len(names),
            not_registered={**self.bad, **missing},
            num_pairs=num_pairs,
            num_points=num_points,
            metric=self.metric,
            error=alignment.error,
            check=check,
            camera_sources={name: self.camera_sources[name] for name in names},
            seconds=dict(self.seconds),
            matcher=self.matcher.describe(),
            options=options_as_dict(self.options),
        )
        write_summary(folder, made)
        return made


def _padded(edge: AlignmentEdge, length: int) -> AlignmentEdge:
    points, weights = [], []
    for p, w in zip(edge.points, edge.weights, strict=True):
        points.append(np.pad(p, ((0, length - len(p)), (0, 0))))
        weights.append(np.pad(w, (0, length - len(w))))
    return AlignmentEdge(
        views=edge.views, points=(points[0], points[1]), weights=(weights[0], weights[1])
    )


def _bent(
    depth: NDArray[np.float32], log_ratio: NDArray[np.floating], step: int
) -> NDArray[np.float32]:
    """A depth map times a ratio that is known on a grid, bilinear in between."""
    usual = np.nanmedian(log_ratio) if np.isfinite(log_ratio).any() else 0.0
    filled = np.where(np.isfinite(log_ratio), log_ratio, usual)
    height, width = depth.shape
    start = step // 2
    y = (np.arange(height) - start) / step
    x = (np.arange(width) - start) / step
    rows, columns = filled.shape
    gy, gx = np.meshgrid(
        2 * y.clip(0, rows - 1) / max(rows - 1, 1) - 1,
        2 * x.clip(0, columns - 1) / max(columns - 1, 1) - 1,
        indexing="ij",
    )
    grid = torch.from_numpy(np.stack([gx, gy], -1)).float()[None]
    source = torch.from_numpy(filled).float()[None, None]
    field = torch.nn.functional.grid_sample(source, grid, align_corners=True)[0, 0].numpy()
    return np.where(depth > 0, depth * np.exp(field), 0.0).astype(np.float32)
