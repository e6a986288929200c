"""A dense reconstruction on disk: COLMAP model, point cloud, depth maps."""

import json
from collections import Counter, OrderedDict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.alignment_check import AlignmentCheck
from mapping.depth_fusion import CloudPart, DepthMap, FusionOptions, fuse
from mapping.ply import write_ply
from matching.errors import InputError
from matching.files import PathLike, check_writable
from matching.matcher import Matcher
from matching.preprocess import NetworkFrame
from matching.progress import Progress

SUMMARY = "reconstruct.json"
CLOUD = "points.ply"
DEPTHS = "depth.h5"
SPARSE = "sparse"

_CACHED_DEPTHS = 32  # depth maps in memory: a photo and its neighbours
_MAX_MODEL_POINTS = 100_000  # of the COLMAP model: COLMAP keeps every track in memory


@dataclass(frozen=True, kw_only=True)
class DenseReconstruction:
    """What `reconstruct` made.

    Attributes:
        path: Folder with ``sparse/`` (COLMAP model, binary), ``points.ply``, ``depth.h5`` and
            ``reconstruct.json``.
        num_images: Photos with a pose and depths.
        not_registered: Other photos to the reason.
        num_pairs: Pairs that the network looked at.
        num_points: Points of the cloud.
        metric: Whether the world is in metres by the network's word; otherwise its unit is that of
            the map, or any.
        error: How little the pairs agree, see `mapping.global_alignment.Alignment`; None for a map.
        check: What matches say about the poses; None for a map.
        camera_sources: Photo to where its focal length is from: ``given`` ones stay, the others are
            starts of the alignment (``exif``, ``exif+pointmap``, ``pointmap``); empty for a map.
        seconds: By stage.
        matcher: What predicted the point maps.
        options: How it was made.
    """

    path: Path
    num_images: int
    not_registered: Mapping[str, str]
    num_pairs: int
    num_points: int
    metric: bool
    error: float | None
    seconds: Mapping[str, float]
    matcher: Mapping[str, Any]
    options: Mapping[str, Any] = field(default_factory=dict)
    check: AlignmentCheck | None = None
    camera_sources: Mapping[str, str] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        check = None if self.check is None else asdict(self.check)
        return {**vars(self), "path": str(self.path), "check": check}

    def summary(self) -> str:
        """A few lines for people."""
        unit = "the unit of the map" if self.error is None else "any unit"
        unit = "metres by the network's word" if self.metric else unit
        lines = [
            f"reconstruction '{self.path}' with {self.matcher['name']}",
            f"  photos   {self.num_images} with a pose, {len(self.not_registered)} without, "
            f"{self.num_pairs} pairs",
            f"  points   {self.num_points} in {CLOUD}, in {unit}",
            f"  seconds  {', '.join(f'{stage} {s:.1f}' for stage, s in self.seconds.items())}",
        ]
        if self.error is not None:
            lines.insert(3, f"  pairs    agree within {self.error:.1%} of the mean depth")
        if self.check is not None:
            lines.insert(4, f"  check    {self.check.summary()}")
        if self.camera_sources:
            counts = Counter(self.camera_sources.values())
            told = ", ".join(f"{count} {source}" for source, count in sorted(counts.items()))
            lines.insert(5, f"  cameras  focal lengths from: {told}")
        lines += [f"  no pose: {name}: {why}" for name, why in self.not_registered.items()]
        return "\n".join(lines)


def check_point_maps(matcher: Matcher) -> None:
    """Refuse a matcher without point maps before the work.

    Raises:
        InputError: It has none.
    """
    if not matcher.has_point_maps:
        raise InputError(
            f"{matcher.name} predicts no point maps: choose a neural matcher with --matcher"
        )


def check_target(out: PathLike, *, overwrite: bool) -> Path:
    """The folder to write, refused before the work if it holds something.

    Args:
        out: New or empty folder.
        overwrite: Whether it may be that of an earlier reconstruction, too.

    Raises:
        InputError: It is a file, not empty, or has no name; or the folder that it will be in cannot
            be made or written.
    """
    target = Path(out)
    if target.name in ("", ".."):  # what is renamed into place needs a name
        raise InputError(f"'{out}' has no name of its own: give the folder by its name")
    if target.exists() and not target.is_dir():
        raise InputError(f"'{out}' is a file, but a reconstruction is written into a folder")
    if target.is_dir() and any(target.iterdir()) and not (target / SUMMARY).is_file():
        raise InputError(f"'{out}' is not empty and no reconstruction: give a new folder")
    if (target / SUMMARY).is_file() and not overwrite:
        raise InputError(
            f"'{out}' holds a reconstruction: overwrite it (--overwrite), or give another folder"
        )
    check_writable(target.with_name(f".{target.name}.tmp"))  # it is written beside, then renamed
    return target


def write_depth(file: h5py.File, name: str, view: DepthMap) -> None:
    """Store a depth map: ``/<name>/depth``, ``confidence`` and attributes to use them alone."""
    group = file.create_group(name)
    group.create_dataset("depth", data=view.depth, compression="lzf", shuffle=True)
    # confidences of this family are 1 + exp(x), which may be more than half precision holds
    confidence = np.minimum(view.confidence, np.finfo(np.float16).max).astype(np.float16)
    group.create_dataset("confidence", data=confidence, compression="lzf", shuffle=True)
    group.attrs["scale"], group.attrs["offset"] = view.frame.scale, view.frame.offset
    group.attrs["photo_size"] = (view.camera.width, view.camera.height)


def read_depth(
    file: h5py.File, name: str, camera: pycolmap.Camera, cam_from_world: pycolmap.Rigid3d
) -> DepthMap:
    """The depth map of a photo as `write_depth` stored it."""
    group = file[name]
    depth = group["depth"][()]
    scale, offset = group.attrs["scale"], group.attrs["offset"]
    return DepthMap(
        camera=camera,
        cam_from_world=cam_from_world,
        frame=NetworkFrame(
            image_size=(depth.shape[1], depth.shape[0]),
            scale=(float(scale[0]), float(scale[1])),
            offset=(float(offset[0]), float(offset[1])),
        ),
        depth=depth,
        confidence=group["confidence"][()].astype(np.float32),
    )


def fuse_and_write(
    folder: Path,
    names: Sequence[str],
    cameras: Sequence[pycolmap.Camera],
    poses: Sequence[pycolmap.Rigid3d],
    partners: Sequence[Sequence[int]],
    options: FusionOptions,
    *,
    read_photo: Callable[[int], NDArray[np.uint8] | None],
    progress: Progress,
) -> int:
    """Fuse the depth maps of ``depth.h5`` into ``points.ply`` and ``sparse/``.

    Args:
        folder: Holds ``depth.h5``.
        names: Photos with a depth map.
        cameras: Theirs.
        poses: Their cam_from_world.
        partners: Per photo the places of photos that may see the same.
        options: Settings.
        read_photo: The photo at a place, for colours; None leaves its points grey.
        progress: Wraps the loops.

    Returns:
        The number of points.
    """
    with h5py.File(folder / DEPTHS, "r") as file:
        recent: OrderedDict[int, DepthMap] = OrderedDict()

        def load(row: int) -> DepthMap:
            if row in recent:
                recent.move_to_end(row)
                return recent[row]
            recent[row] = read_depth(file, names[row], cameras[row], poses[row])
            if len(recent) > _CACHED_DEPTHS:
                recent.popitem(last=False)
            return recent[row]

        parts = fuse(load, partners, options, progress=progress)
    colors = color_of(parts, read_photo)
    write_model(folder, names, cameras, poses, parts, colors)
    return write_cloud(folder, parts, colors)


def color_of(
    parts: Sequence[CloudPart], read_photo: Callable[[int], NDArray[np.uint8] | None]
) -> list[NDArray[np.uint8]]:
    """Colours of the points of every part, (M, 3), from the photo that contributed them."""
    colors = []
    for part in parts:
        photo = read_photo(part.view) if len(part.points) else None
        if photo is None:
            colors.append(np.full((len(part.points), 3), 128, np.uint8))
            continue
        height, width = photo.shape[:2]
        x, y = part.pixels.astype(int).clip(0, (width - 1, height - 1)).T
        colors.append(photo[y, x])
    return colors


def write_cloud(
    folder: Path, parts: Sequence[CloudPart], colors: Sequence[NDArray[np.uint8]]
) -> int:
    """Write ``points.ply``; returns how many points it holds."""
    empty = np.zeros((0, 3))
    points = np.concatenate([empty, *(part.points for part in parts)])
    write_ply(
        folder / CLOUD,
        points,
        np.concatenate([empty, *(part.normals for part in parts)]),
        np.concatenate([empty.astype(np.uint8), *colors]),
        np.concatenate([np.zeros(0), *(part.confidence for part in parts)]),
    )
    return len(points)


def write_model(
    folder: Path,
    names: Sequence[str],
    cameras: Sequence[pycolmap.Camera],
    cam_from_world: Sequence[pycolmap.Rigid3d],
    parts: Sequence[CloudPart],
    colors: Sequence[NDArray[np.uint8]],
) -> None:
    """Write the poses and a part of the cloud as a COLMAP model.

    A point's track holds the photos whose depth maps agree about it, at the pixels where it
    projects.

    Args:
        folder: Gets ``sparse/``.
        names: Photos with a pose.
        cameras: Theirs.
        cam_from_world: Their poses.
        parts: Points by photo; ``view`` is a place in ``names``.
        colors: Theirs.
    """
    total = sum(len(part.points) for part in parts)
    step = max(1, -(-total // _MAX_MODEL_POINTS))
    observations: list[list[tuple[float, float]]] = [[] for _ in names]
    tracks = []  # (point, colour, [(view, row in observations[view])])
    for part, part_colors in zip(parts, colors, strict=True):
        chosen = np.arange(0, len(part.points), step)
        sampled = part.select(chosen)
        seen_by: list[list[tuple[int, int]]] = []
        for x, y in sampled.pixels:
            seen_by.append([(part.view, len(observations[part.view]))])
            observations[part.view].append((x, y))
        for other, rows, positions in sampled.others:
            for row, (x, y) in zip(rows, positions, strict=True):
                seen_by[row].append((other, len(observations[other])))
                observations[other].append((x, y))
        tracks += list(zip(sampled.points, part_colors[chosen], seen_by, strict=True))
    model = pycolmap.Reconstruction()
    for number, (name, camera, pose) in enumerate(
        zip(names, cameras, cam_from_world, strict=True), start=1
    ):
        own = pycolmap.Camera(camera.todict())
        own.camera_id = number
        model.add_camera_with_trivial_rig(own)
        points2D = np.array(observations[number - 1], np.float64).reshape(-1, 2)
        image = pycolmap.Image(name=name, keypoints=points2D, camera_id=number, image_id=number)
        model.add_image_with_trivial_frame(image, pose)
    for point, color, seen in tracks:
        track = pycolmap.Track()
        for view, row in seen:
            track.add_element(view + 1, row)
        model.add_point3D(point, track, color)
    model.update_point_3d_errors()
    (folder / SPARSE).mkdir()
    model.write_binary(folder / SPARSE)


def write_summary(folder: Path, made: DenseReconstruction) -> None:
    """Write ``reconstruct.json``."""
    text = json.dumps(made.to_dict(), indent=1, ensure_ascii=False, allow_nan=False)
    (folder / SUMMARY).write_text(text + "\n", encoding="utf-8")
