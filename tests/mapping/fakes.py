"""A world of points, photos of it as flat pictures, and matchers that know the truth.

A photo is a small picture whose colour says which camera took it; the fake matchers look the
camera up and project the points. So the whole offline stage runs in a second, with exact truth.
"""

import hashlib
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image

from matching.matcher import Matcher
from matching.types import Matches, View

SIZE = (640, 480)
FOCAL = 600.0
BLACK = 0  # number of a photo that shows nothing


class FakeWorld:
    """Cameras on an arc around a cloud of points.

    Attributes:
        points: (P, 3) in the world.
        poses: Number of a photo (from 1) to its cam_from_world.
        camera: The camera of all photos, PINHOLE.
    """

    def __init__(self, num_images: int = 8, num_points: int = 400, seed: int = 0) -> None:
        random = np.random.default_rng(seed)
        self.points = random.uniform((-2, -1.5, -1), (2, 1.5, 1), (num_points, 3))
        self.camera = pycolmap.Camera.create_from_model_name(1, "PINHOLE", FOCAL, *SIZE)
        self.camera.has_prior_focal_length = True
        self.poses: dict[int, pycolmap.Rigid3d] = {}
        for i in range(num_images):
            angle = np.radians(-40 + 80 * i / max(1, num_images - 1))
            centre = np.array([6 * np.sin(angle), 0.3 * np.sin(3.0 * i), -6 * np.cos(angle)])
            forward = -centre / np.linalg.norm(centre)
            right = np.cross([0, 1, 0], forward)
            right /= np.linalg.norm(right)
            rotation = np.stack([right, np.cross(forward, right), forward])
            self.poses[i + 1] = pycolmap.Rigid3d(pycolmap.Rotation3d(rotation), -rotation @ centre)

    def project(self, number: int) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
        """Pixels (N, 2) and rows of `points` (N,) that a photo sees."""
        if number not in self.poses:
            return np.zeros((0, 2)), np.zeros(0, np.int64)
        pixels = self.camera.img_from_cam(self.poses[number] * self.points)
        seen = (pixels >= 0).all(1) & (pixels < SIZE).all(1)
        return pixels[seen], np.flatnonzero(seen)

    def write_photos(self, folder: Path, names: dict[int, str] | None = None) -> dict[int, str]:
        """Write photos as PNG; returns number to name (default ``0001.png`` ...)."""
        names = names or {i: f"{i:04d}.png" for i in self.poses}
        for number, name in names.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", SIZE, (number, 100, 100)).save(folder / name, compress_level=1)
        return names

    def model(self, names: dict[int, str]) -> pycolmap.Reconstruction:
        """The true cameras and poses."""
        model = pycolmap.Reconstruction()
        model.add_camera_with_trivial_rig(self.camera)
        for number, name in names.items():
            model.add_image_with_trivial_frame(
                pycolmap.Image(name=name, camera_id=1, image_id=number), self.poses[number]
            )
        return model

    def centre_error(self, scene: pycolmap.Reconstruction, names: dict[int, str]) -> float:
        """Largest distance of camera centres to the truth after a similarity alignment."""
        numbers = {name: number for number, name in names.items()}
        images = [scene.image(i) for i in scene.reg_image_ids()]
        found = np.array([i.projection_center() for i in images])
        true = np.array([self.poses[numbers[i.name]].inverse().translation for i in images])
        world_from_map = pycolmap.estimate_sim3d(found, true)
        return float(np.abs(world_from_map * found - true).max())


class FakeMatcher(Matcher):
    """Keypoints at true projections with noise, plus some that match nothing."""

    def __init__(self, world: FakeWorld, noise_px: float = 0.2) -> None:
        self.world = world
        self.noise_px = noise_px
        self.name = "fake"
        self.fingerprint = hashlib.sha256(f"fake {noise_px}".encode()).hexdigest()
        self.num_encoded = 0
        self.num_matched = 0

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        self.num_encoded += 1
        number = int(image[0, 0, 0])
        pixels, rows = self.world.project(number)
        random = np.random.default_rng(number)
        pixels = pixels + random.normal(0, self.noise_px, pixels.shape)
        if len(rows):  # keypoints without a partner
            pixels = np.concatenate([pixels, random.uniform((0, 0), SIZE, (50, 2))])
            rows = np.concatenate([rows, np.full(50, -1)])
        return View(
            image_size=(image.shape[1], image.shape[0]),
            keypoints=pixels.astype(np.float32),
            arrays={"rows": rows, "number": np.array([number])},
        )

    def match_views(self, view0: View, view1: View) -> Matches:
        self.num_matched += 1
        rows0, rows1 = view0.arrays["rows"], view1.arrays["rows"]
        common = np.intersect1d(rows0[rows0 >= 0], rows1[rows1 >= 0])
        indices0 = np.array([np.flatnonzero(rows0 == r)[0] for r in common], np.int64)
        indices1 = np.array([np.flatnonzero(rows1 == r)[0] for r in common], np.int64)
        # every tenth match is wrong
        indices1[::10] = np.roll(indices1[::10], 1)
        return Matches(
            keypoints0=view0.keypoints[indices0],
            keypoints1=view1.keypoints[indices1],
            scores=np.linspace(1, 0.5, len(common), dtype=np.float32),
            indices0=indices0,
            indices1=indices1,
        )

    def local_descriptors(self, view: View) -> NDArray[np.float32]:
        """Of the points on the camera's own side, so that neighbours look most alike."""
        number = int(view.arrays["number"][0])
        _, rows = self.world.project(number)
        if len(rows):
            side = self.world.poses[number].inverse().translation[0] / 2
            rows = rows[np.abs(self.world.points[rows, 0] - side) < 1]
        table = np.random.default_rng(99).normal(size=(len(self.world.points), 16))
        descriptors = table[rows]
        return (descriptors / np.linalg.norm(descriptors, axis=1, keepdims=True)).astype(np.float32)


class FakeDenseMatcher(FakeMatcher):
    """Free pixels that differ a little from pair to pair; rows where a view has keypoints."""

    def __init__(self, world: FakeWorld, noise_px: float = 0.2) -> None:
        super().__init__(world, noise_px)
        self.name = "fake-dense"

    def encode_image(self, image: NDArray[np.uint8]) -> View:
        view = super().encode_image(image)
        return View(
            image_size=view.image_size,
            keypoints=np.zeros((0, 2), np.float32),
            arrays={"number": view.arrays["number"]},
        )

    def match_views(self, view0: View, view1: View) -> Matches:
        self.num_matched += 1
        numbers = [int(v.arrays["number"][0]) for v in (view0, view1)]
        random = np.random.default_rng(numbers)
        (pixels0, rows0), (pixels1, rows1) = map(self.world.project, numbers)
        common, at0, at1 = np.intersect1d(rows0, rows1, return_indices=True)
        sides: list[dict[str, Any]] = []
        keep = np.ones(len(common), bool)
        for view, pixels in ((view0, pixels0[at0]), (view1, pixels1[at1])):
            noisy = (pixels + random.normal(0, self.noise_px, pixels.shape)).astype(np.float32)
            side: dict[str, Any] = {"keypoints": noisy, "indices": None}
            if len(view.keypoints) and len(common):
                distances = np.linalg.norm(view.keypoints[None] - noisy[:, None], axis=2)
                keep &= distances.min(1) < 2
                side["indices"] = distances.argmin(1)
                side["keypoints"] = view.keypoints[side["indices"]]
            sides.append(side)
        matches = Matches(
            keypoints0=sides[0]["keypoints"],
            keypoints1=sides[1]["keypoints"],
            scores=np.linspace(1, 0.5, len(common), dtype=np.float32),
            indices0=sides[0]["indices"],
            indices1=sides[1]["indices"],
        )
        return matches.select(keep)
