"""Depth maps of posed photos to one point cloud: what other photos contradict is left out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap
from numpy.typing import NDArray

from matching.preprocess import NetworkFrame
from matching.progress import Progress, silent

FloatArray = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class FusionOptions:
    """Settings of `fuse`."""

    min_consistent: int = 1  # other photos that have to see a point where its own photo does
    max_depth_difference: float = 0.05  # relative difference of depths that agree
    min_confidence: float = 0.0  # of a depth, in the unit of the depth maps' confidence
    max_points: int = 4_000_000  # more are thinned out evenly

    def __post_init__(self) -> None:
        if self.min_consistent < 0:
            raise ValueError(f"min_consistent must be >= 0, got {self.min_consistent}")
        if not self.max_depth_difference > 0:
            raise ValueError(f"max_depth_difference must be > 0, got {self.max_depth_difference}")
        if self.max_points < 1:
            raise ValueError(f"max_points must be at least 1, got {self.max_points}")


@dataclass(frozen=True, kw_only=True)
class DepthMap:
    """A photo with its depths.

    Attributes:
        camera: Of the photo.
        cam_from_world: Its pose.
        frame: Where the depth map lies in the photo.
        depth: (h, w) float32, in the unit of the world; 0 or NaN where it is unknown.
        confidence: (h, w) float32.
    """

    camera: pycolmap.Camera
    cam_from_world: pycolmap.Rigid3d
    frame: NetworkFrame
    depth: NDArray[np.float32]
    confidence: NDArray[np.float32]

    def pixels(self, flat: NDArray[np.int64]) -> FloatArray:
        """Centres of pixels of the depth map in the photo, (M, 2), by their flat numbers (M,)."""
        width = self.depth.shape[1]
        return self.frame.to_photo(np.column_stack([flat % width, flat // width]) + 0.5)

    def world_points(self, flat: NDArray[np.int64]) -> FloatArray:
        """Points that pixels see, (M, 3); NaN where the depth is unknown."""
        depth = self.depth.reshape(-1)[flat].astype(np.float64)
        rays = np.asarray(self.camera.cam_from_img(self.pixels(flat)))
        in_cam = np.column_stack([rays, np.ones(len(rays))])
        in_cam = in_cam * np.where(depth > 0, depth, np.nan)[:, None]
        return np.asarray(self.cam_from_world.inverse() * in_cam)

    def look_up(self, points: FloatArray) -> tuple[NDArray[np.int64], FloatArray, FloatArray]:
        """Where the depth map sees points of the world.

        Args:
            points: (M, 3).

        Returns:
            The flat pixel that a point falls on, (M,), -1 outside; the point's own depth in this
            camera, (M,); and its position in the photo, (M, 2).
        """
        in_cam = np.asarray(self.cam_from_world * points)
        depth = in_cam[:, 2]
        positions = np.full((len(points), 2), -1.0)
        front = depth > 0  # not NaN
        positions[front] = np.asarray(self.camera.img_from_cam(in_cam[front]))
        positions = np.where(np.isfinite(positions), positions, -1.0).clip(-1e6, 1e6)
        nearest, inside = self.frame.nearest_pixels(positions)
        flat = nearest[:, 1] * self.depth.shape[1] + nearest[:, 0]
        return np.where(inside & front, flat, -1), depth, positions


@dataclass(frozen=True, kw_only=True)
class CloudPart:
    """Points that one photo contributed to a cloud.

    Attributes:
        view: The photo's place.
        points: World, (M, 3) float64.
        normals: Unit vectors towards the camera, (M, 3) float32.
        pixels: Where the photo sees them, (M, 2).
        confidence: (M,) float32.
        others: Per other photo that sees some of them: its place, rows of the points, positions in
            it (K, 2).
    """

    view: int
    points: FloatArray
    normals: NDArray[np.float32]
    pixels: FloatArray
    confidence: NDArray[np.float32]
    others: list[tuple[int, NDArray[np.int64], FloatArray]]

    def select(self, rows: NDArray[np.int64]) -> "CloudPart":
        """Some of the points, ``rows`` sorted."""
        others = []
        for view, seen, positions in self.others:
            kept = np.isin(seen, rows)
            others.append((view, np.searchsorted(rows, seen[kept]), positions[kept]))
        return CloudPart(
            view=self.view,
            points=self.points[rows],
            normals=self.normals[rows],
            pixels=self.pixels[rows],
            confidence=self.confidence[rows],
            others=others,
        )


def fuse(
    load: Callable[[int], DepthMap],
    neighbours: Sequence[Sequence[int]],
    options: FusionOptions,
    *,
    progress: Progress = silent,
) -> list[CloudPart]:
    """Points that enough photos agree on, each once.

    A pixel's point is kept if at least ``min_consistent`` neighbours have about its depth where it
    projects to them, and more of them than have a surface clearly behind it: those would see
    through it. It is the mean of the agreeing depths, and the pixels it was seen at are used up.

    Args:
        load: The depth map of a photo by its place.
        neighbours: Per photo the places of those that may see the same.
        options: Settings.
        progress: Wraps the loop over the photos.
    """
    used: dict[int, NDArray[np.bool_]] = {}
    parts = []
    share = max(1, options.max_points // max(len(neighbours), 1))
    for view in progress(range(len(neighbours)), "fusing depth maps", len(neighbours)):
        part = _fuse_one(view, load, neighbours[view], used, options)
        if len(part.points) > share:  # a fixed share each: no photo has to wait for the others
            rows = np.arange(share) * len(part.points) // share
            part = part.select(rows)
        parts.append(part)
    return parts


def _fuse_one(
    view: int,
    load: Callable[[int], DepthMap],
    neighbours: Sequence[int],
    used: dict[int, NDArray[np.bool_]],
    options: FusionOptions,
) -> CloudPart:
    own = load(view)
    size = own.depth.size
    free = ~used.pop(view, np.zeros(size, np.bool_))
    rows = np.flatnonzero(free & (own.confidence.reshape(-1) >= options.min_confidence))
    points = own.world_points(rows)
    finite = np.isfinite(points).all(1)
    rows, points = rows[finite], points[finite]
    agree, behind = np.zeros(len(rows), np.int64), np.zeros(len(rows), np.int64)
    sums = points.copy()
    sightings = []
    for other_view in neighbours:
        other = load(other_view)
        flat, depth, positions = other.look_up(points)
        seen = other.depth.reshape(-1)[np.maximum(flat, 0)].astype(np.float64)
        known = (flat >= 0) & (seen > 0)
        with np.errstate(divide="ignore", invalid="ignore"):
            difference = np.where(known, seen / depth - 1, np.nan)
            same = np.abs(difference) < options.max_depth_difference
            behind += difference > 2 * options.max_depth_difference
        agree += same
        sums[same] += other.world_points(flat[same])
        sightings.append((other_view, same, flat, positions))
    kept = (agree >= options.min_consistent) & (behind <= agree)
    merged = sums[kept] / (1 + agree[kept])[:, None]
    number = np.cumsum(kept) - 1
    others = []
    for other_view, same, flat, positions in sightings:
        both = same & kept
        if other_view > view:  # the earlier ones have had their turn
            marks = used.setdefault(other_view, np.zeros(load(other_view).depth.size, np.bool_))
            marks[flat[both]] = True
        if both.any():
            others.append((other_view, number[both], positions[both]))
    chosen = rows[kept]
    return CloudPart(
        view=view,
        points=merged,
        normals=_normals(own)[chosen],
        pixels=own.pixels(chosen),
        confidence=own.confidence.reshape(-1)[chosen],
        others=others,
    )


def _normals(view: DepthMap) -> NDArray[np.float32]:
    """Normals of the surface through neighbouring pixels, towards the camera, (h * w, 3)."""
    height, width = view.depth.shape
    points = view.world_points(np.arange(view.depth.size)).reshape(height, width, 3)
    points = np.pad(points, ((1, 1), (1, 1), (0, 0)), mode="edge")
    with np.errstate(invalid="ignore"):
        right = points[1:-1, 2:] - points[1:-1, :-2]
        down = points[2:, 1:-1] - points[:-2, 1:-1]
        normal = np.cross(down, right)
        centre = view.cam_from_world.inverse().translation
        away = (normal * (centre - points[1:-1, 1:-1])).sum(-1) < 0
        normal[away] *= -1
        length = np.linalg.norm(normal, axis=-1, keepdims=True)
        unit = np.where(length > 0, normal / length, 0.0)
    return unit.reshape(-1, 3).astype(np.float32)
