"""Views of the rendered demo place, and a matcher that knows their exact geometry.

The network is replaced by an oracle, so that a test proves what is done with predictions.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from matching.matcher import Matcher
from matching.pointmap import PairGeometry
from matching.preprocess import NetworkFrame
from matching.training.demo_place import demo_place
from matching.types import Matches, View

FloatArray = NDArray[np.float64]

_SAME_SURFACE = 0.01  # relative difference of depths


@dataclass(frozen=True, kw_only=True)
class RenderedView:
    """A photo with its exact camera and geometry."""

    image: NDArray[np.uint8]  # (H, W, 3)
    depth: FloatArray  # (H, W), metres; 0 for the sky
    K: FloatArray  # (3, 3)
    cam_from_world: FloatArray  # (4, 4)

    @property
    def image_size(self) -> tuple[int, int]:
        return self.image.shape[1], self.image.shape[0]

    @property
    def camera(self) -> pycolmap.Camera:
        width, height = self.image_size
        K = self.K
        params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
        return pycolmap.Camera(model="PINHOLE", width=width, height=height, params=params)

    def own_points(self) -> FloatArray:
        """Points of all pixels in this camera, (H, W, 3); the sky is 100 m off."""
        height, width = self.depth.shape
        y, x = np.mgrid[:height, :width] + 0.5
        rays = np.stack([x, y, np.ones_like(x)], -1) @ np.linalg.inv(self.K).T
        return rays * np.where(self.depth > 0, self.depth, 100.0)[..., None]


def render_views(rows: list[int], width: int, zoom: dict[int, float] | None = None) -> list[Any]:
    """Photos of the demo place from its map shots ``rows``, some with a longer lens."""
    demo = demo_place(0, texture_size=64)  # only the geometry counts
    scale = width / demo.image_size[0]
    size = (width, round(demo.image_size[1] * scale))
    views = []
    for row in rows:
        shot = demo.map_shots[row]
        K = np.diag([scale, scale, 1.0]) @ demo.K
        K[:2, :2] *= (zoom or {}).get(row, 1.0)
        seen = demo.place.render(K, size, shot.cam_from_world, shot.light, exposure=shot.exposure)
        views.append(
            RenderedView(
                image=seen.image,
                depth=seen.depth.astype(np.float64),
                K=K,
                cam_from_world=np.asarray(shot.cam_from_world, np.float64),
            )
        )
    return views


def relative(view0: RenderedView, view1: RenderedView) -> FloatArray:
    """cam1_from_cam0, (4, 4)."""
    return view1.cam_from_world @ np.linalg.inv(view0.cam_from_world)


@dataclass(frozen=True, kw_only=True)
class Faults:
    """How far the oracle's answers are from the truth."""

    noise: float = 0.0  # standard deviation of points along each axis, relative to the distance
    pixel_noise: float = 0.0  # of matches, pixels
    outliers: float = 0.0  # share of matches that are wrong
    scales: float = 0.0  # standard deviation of the logarithm of each pass's scale
    metric: bool = True  # whether the oracle claims to know the unit
    focal: float = 1.0  # points are bent as if the focal length were this many times the true one


class OracleMatcher(Matcher):
    """Knows the views it is shown; matches and point maps are exact but for the given faults."""

    has_point_maps = True

    def __init__(self, views: list[RenderedView], faults: Faults | None = None) -> None:
        self.name, self.fingerprint = "oracle", "0"
        self.views = views
        self.faults = faults or Faults()
        self._rows = {view.image.tobytes(): row for row, view in enumerate(views)}

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        row = self._rows.get(image.tobytes(), -1)
        return View(
            image_size=(image.shape[1], image.shape[0]),
            keypoints=np.zeros((0, 2), np.float32),
            arrays={"row": np.array([row])},
        )

    def match_views(self, view0: View, view1: View) -> Matches:
        rows = [int(v.arrays["row"][0]) for v in (view0, view1)]
        if min(rows) < 0:
            return Matches.empty()
        a, b = (self.views[row] for row in rows)
        rng = np.random.default_rng([*rows, 1])
        height, width = a.depth.shape
        y, x = (v.ravel() for v in np.mgrid[1:height:3, 1:width:3])
        x, y = x[a.depth[y, x] > 0], y[a.depth[y, x] > 0]
        points = a.own_points()[y, x] @ relative(a, b)[:3, :3].T + relative(a, b)[:3, 3]
        with np.errstate(divide="ignore", invalid="ignore"):
            there = (points @ b.K.T)[:, :2] / points[:, 2:]
        inside = (points[:, 2] > 0) & (there > 0).all(1) & (there < b.image_size).all(1)
        x, y, there, points = x[inside], y[inside], there[inside], points[inside]
        seen = b.depth[there[:, 1].astype(int), there[:, 0].astype(int)]
        same = np.abs(seen - points[:, 2]) < _SAME_SURFACE * points[:, 2]
        here, there = np.column_stack([x, y])[same] + 0.5, there[same]
        there = there + rng.normal(0, self.faults.pixel_noise, there.shape)
        wrong = rng.random(len(there)) < self.faults.outliers
        there[wrong] = rng.uniform(0, b.image_size, (int(wrong.sum()), 2))
        order = rng.permutation(len(here))
        return Matches(
            keypoints0=here[order].astype(np.float32),
            keypoints1=there[order].astype(np.float32),
            scores=np.linspace(1, 0.5, len(here), dtype=np.float32),
        )

    def predict(self, view0: View, view1: View) -> PairGeometry | None:
        rows = [int(v.arrays["row"][0]) for v in (view0, view1)]
        if min(rows) < 0:
            return None
        views = [self.views[row] for row in rows]
        rng = np.random.default_rng(rows)
        passes: list[tuple[list[Any], list[Any]]] = []
        for target in views:
            scale = np.exp(rng.normal(0, self.faults.scales))
            points, confidences = [], []
            for view in views:
                own = view.own_points()
                distance = np.linalg.norm(own, axis=-1, keepdims=True)
                own = own + self.faults.noise * distance * rng.standard_normal(own.shape)
                own[..., :2] /= self.faults.focal
                moved = relative(view, target)
                points.append(scale * (own @ moved[:3, :3].T + moved[:3, 3]))
                # the sky is unsure, what the other camera does not see less sure
                confidences.append(np.where(view.depth > 0, 10.0, 1.0))
            passes.append((points, confidences))
        frames = [
            NetworkFrame(image_size=view.image_size, scale=(1.0, 1.0), offset=(0.0, 0.0))
            for view in views
        ]
        arrays = [tuple(np.asarray(a, np.float32) for a in part) for p in passes for part in p]
        return PairGeometry(
            frames=(frames[0], frames[1]),
            image_sizes=(views[0].image_size, views[1].image_size),
            in_camera0=arrays[0],
            confidence_in_camera0=arrays[1],
            in_camera1=arrays[2],
            confidence_in_camera1=arrays[3],
            metric=self.faults.metric,
        )

    def focal_px(self, view: View, others: Sequence[View] = ()) -> float | None:
        seen = self.predict(view, next(iter(others), view))
        return None if seen is None else seen.focal_px(0)

    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        """Photos of one place look alike in proportion to how close their cameras are."""
        row = int(view.arrays["row"][0])
        if row < 0:
            return np.zeros((0, 3), np.float32)
        pose = self.views[row].cam_from_world
        direction = pose[2, :3].astype(np.float32)
        return direction[None]
