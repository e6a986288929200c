"""A small place without photos: known points and cameras behind the interfaces of map and matcher.

Views carry the number of the point that each keypoint sees, so the matcher knows the truth and
spoils as many matches as a test asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.retrieval import Retrieved
from matching.matcher import Matcher
from matching.types import Matches, View

IMAGE_SIZE = (800, 600)


def make_camera(
    model: str = "SIMPLE_PINHOLE",
    focal: float = 700.0,
    size: tuple[int, int] = IMAGE_SIZE,
    extra: Sequence[float] = (),
) -> pycolmap.Camera:
    camera = pycolmap.Camera.create_from_model_name(1, model, focal, *size)
    params = np.array(camera.params)
    params[camera.extra_params_idxs()[: len(extra)]] = list(extra)
    camera.params = params.tolist()
    return camera


def look_at(centre: Sequence[float], target: Sequence[float]) -> pycolmap.Rigid3d:
    """cam_from_world of an upright camera (world z up) at ``centre``."""
    forward = np.subtract(target, centre).astype(float)
    forward /= np.linalg.norm(forward)
    right = np.cross(forward, [0.0, 0.0, 1.0])
    right /= np.linalg.norm(right)
    rotation = np.stack([right, np.cross(forward, right), forward])
    return pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ np.asarray(centre, float))


def pose_errors(estimate: pycolmap.Rigid3d, truth: pycolmap.Rigid3d) -> tuple[float, float]:
    """Distance of the centres and angle in degrees."""
    difference = estimate * truth.inverse()
    centres = [p.inverse().translation for p in (estimate, truth)]
    return float(np.linalg.norm(centres[0] - centres[1])), float(
        np.degrees(difference.rotation.angle())
    )


def observe(
    points: NDArray[np.float64],
    cam_from_world: pycolmap.Rigid3d,
    camera: pycolmap.Camera,
    rng: np.random.Generator,
    noise_px: float = 0.5,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Noisy pixels of the points inside the photo, and their rows."""
    in_cam = cam_from_world * points
    rows = np.flatnonzero(in_cam[:, 2] > 0.1)
    pixels = np.asarray(camera.img_from_cam(in_cam[rows]))
    inside = ((pixels > 0) & (pixels < (camera.width, camera.height))).all(1)
    return pixels[inside] + rng.normal(0, noise_px, (inside.sum(), 2)), rows[inside]


@dataclass
class FakeMap:
    """The part of `mapping.Map` that localization uses, over any number of separate places."""

    views: dict[str, View]
    poses: dict[str, pycolmap.Rigid3d]
    camera_of: dict[str, pycolmap.Camera]
    points: NDArray[np.float64]
    place_of: dict[str, int]
    path: str = "fake"
    info: Any = field(
        default_factory=lambda: SimpleNamespace(
            matcher={"name": "truth", "fingerprint": "0"}, options={"apply_exif_orientation": True}
        )
    )

    @property
    def image_names(self) -> list[str]:
        return sorted(self.views)

    def check_matcher(self, matcher: Matcher) -> None:
        assert matcher.describe() == self.info.matcher

    def load_view(self, name: str) -> View:
        return self.views[name]

    def point3D_ids(self, name: str) -> NDArray[np.int64]:  # noqa: N802
        return self.views[name].arrays["ids"]

    def points3D(self, ids: NDArray[np.int64]) -> NDArray[np.float64]:  # noqa: N802
        return self.points[ids]

    def camera(self, name: str) -> pycolmap.Camera:
        return self.camera_of[name]

    def cam_from_world(self, name: str) -> pycolmap.Rigid3d:
        return self.poses[name]

    def covisible(self, name: str) -> dict[str, int]:
        own = self.point3D_ids(name)
        shared = {n: int(np.isin(self.point3D_ids(n), own).sum()) for n in self.views if n != name}
        return {n: count for n, count in shared.items() if count}

    def retrieve(self, view: View, matcher: Matcher, top_k: int) -> list[Retrieved]:
        if len(view.keypoints) == 0:
            return []
        looks = [
            Retrieved(name=n, score=float(np.isin(v.arrays["looks"], view.arrays["looks"]).sum()))
            for n, v in self.views.items()
        ]
        return sorted(looks, key=lambda r: -r.score)[:top_k]


class TruthMatcher(Matcher):
    """Matches keypoints by what they look like; a share of the matches is spoilt at random."""

    def __init__(self, views: dict[int, View], outliers: float = 0.0, indexed: bool = True) -> None:
        self.name, self.fingerprint = "truth", "0"
        self.queries = views
        self.outliers = outliers
        self.indexed = indexed

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        view = self.queries.get(int(image[0, 0, 0]))
        height, width = image.shape[:2]
        return view or make_view(np.zeros((0, 2)), np.zeros(0, np.int64), (width, height))

    def match_views(self, view0: View, view1: View) -> Matches:
        _, rows0, rows1 = np.intersect1d(
            view0.arrays["looks"], view1.arrays["looks"], return_indices=True
        )
        rng = np.random.default_rng(len(rows0))
        wrong = rng.random(len(rows0)) < self.outliers
        rows1 = rows1.copy()
        rows1[wrong] = rng.integers(0, max(len(view1.keypoints), 1), wrong.sum())
        return Matches(
            keypoints0=view0.keypoints[rows0],
            keypoints1=view1.keypoints[rows1],
            scores=np.linspace(1, 0.5, len(rows0), dtype=np.float32),
            indices0=rows0.astype(np.int64) if self.indexed else None,
            indices1=rows1.astype(np.int64) if self.indexed else None,
        )

    def at_keypoints(self, view: View, rows: NDArray[np.int64]) -> View:
        return make_view(
            view.keypoints[rows],
            view.arrays["ids"][rows],
            view.image_size,
            view.arrays["looks"][rows],
        )

    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        return np.ones((len(view.keypoints), 1), np.float32)


def make_view(
    pixels: NDArray[np.float64],
    ids: NDArray[np.int64],
    size: tuple[int, int] = IMAGE_SIZE,
    looks: NDArray[np.int64] | None = None,
) -> View:
    return View(
        image_size=size,
        keypoints=pixels.astype(np.float32),
        arrays={"ids": ids, "looks": ids if looks is None else looks},
    )


def make_place(
    rng: np.random.Generator,
    num_points: int = 600,
    num_images: int = 6,
    *,
    camera: pycolmap.Camera | None = None,
    place: int = 0,
    looks_like: int | None = None,
) -> FakeMap:
    """A cloud of points above the origin, shifted by 100 per place, seen from a ring of cameras."""
    camera = camera or make_camera()
    # the same cloud for every place with the same look
    shape = np.random.default_rng(1000 + (place if looks_like is None else looks_like))
    points = shape.uniform(-2, 2, (num_points, 3)) + np.array([100.0 * place, 0, 0])
    first_id = place * num_points
    first_look = (place if looks_like is None else looks_like) * num_points
    scene = FakeMap({}, {}, {}, points, {})
    for k in range(num_images):
        angle = 0.25 * k
        offset = np.array([7 * np.cos(angle), 7 * np.sin(angle), 1.0])
        pose = look_at(points.mean(0) + offset, points.mean(0))
        pixels, rows = observe(points, pose, camera, rng)
        name = f"place{place}/{k}.jpg"
        scene.views[name] = make_view(
            pixels, rows + first_id, (camera.width, camera.height), rows + first_look
        )
        scene.poses[name], scene.camera_of[name] = pose, camera
        scene.place_of[name] = place
    return scene


def join(*places: FakeMap) -> FakeMap:
    """One map of several places."""
    joined = FakeMap({}, {}, {}, np.concatenate([p.points for p in places]), {})
    for place in places:
        joined.views |= place.views
        joined.poses |= place.poses
        joined.camera_of |= place.camera_of
        joined.place_of |= place.place_of
    return joined


def query_view(
    scene: FakeMap,
    rng: np.random.Generator,
    *,
    place: int = 0,
    angle: float = 0.4,
    camera: pycolmap.Camera | None = None,
    noise_px: float = 0.5,
    looks_like: int | None = None,
) -> tuple[View, pycolmap.Rigid3d]:
    """A query's encoding and its true pose."""
    camera = camera or make_camera()
    num_points = len(scene.points) // len(set(scene.place_of.values()))
    points = scene.points[place * num_points : (place + 1) * num_points]
    centre = points.mean(0)
    offset = np.array([6.5 * np.cos(angle), 6.5 * np.sin(angle), 0.5])
    pose = look_at(centre + offset, centre)
    pixels, rows = observe(points, pose, camera, rng, noise_px)
    looks = rows + num_points * (place if looks_like is None else looks_like)
    return make_view(pixels, rows, (camera.width, camera.height), looks), pose


def photo_of(number: int, size: tuple[int, int] = IMAGE_SIZE) -> NDArray[np.uint8]:
    """The array that `TruthMatcher` encodes as query ``number``."""
    return np.full((size[1], size[0], 3), number, np.uint8)
