"""Photos of one rendered place by any camera: what all miniature data sets are made of.

Rendering takes most of a miniature's time, so the place is rendered once per camera position, as a
wide pinhole image; every photo is resampled from it, whatever its size, shape and distortion.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from PIL import ExifTags, Image

from matching.files import PathLike, atomic_file
from matching.training.demo_place import DemoPlace, demo_place
from matching.training.demo_place import Shot as Viewpoint

FloatArray = NDArray[np.float64]
Kind = Literal["map", "query"]

FOCAL_PX = 262.5  # of the wide renderings: a Kinect's 525 px at 640x480, at half the size
_WIDE_PX = 368  # width and height of the wide renderings: 70 degrees
# of the demo's place, the most central ones first, so that few of them overlap well
_MAP_VIEWPOINTS = (4, 6, 5, 8, 3, 7, 10, 1)
_QUERY_VIEWPOINTS = (9, 8, 5, 4, 1)


@dataclass(frozen=True, kw_only=True)
class Shot:
    """One photo with its exact geometry.

    Attributes:
        image: (H, W, 3) uint8.
        depth: (H, W) float32 metres along the optical axis; 0 where nothing is, and at the edges
            of things, where a sensor sees nothing either.
        camera: What it was taken with.
        cam_from_world: (4, 4) float64.
    """

    image: NDArray[np.uint8]
    depth: NDArray[np.float32]
    camera: pycolmap.Camera
    cam_from_world: FloatArray

    @property
    def rigid(self) -> pycolmap.Rigid3d:
        """The pose as pycolmap has it."""
        return pycolmap.Rigid3d(self.cam_from_world[:3])

    def points_in_cam(self) -> FloatArray:
        """What every pixel's centre sees, camera frame, (H, W, 3); NaN without depth."""
        height, width = self.depth.shape
        rays = np.asarray(self.camera.cam_from_img(pixel_centers(width, height)))
        rays = np.append(rays, np.ones((len(rays), 1)), axis=1).reshape(height, width, 3)
        depth = np.where(self.depth > 0, self.depth, np.nan).astype(np.float64)
        return rays * depth[..., None]


@dataclass(frozen=True, kw_only=True)
class _Wide:
    """A wide rendering."""

    image: torch.Tensor  # (3, H, W) float32, 0..255
    inverse_depth: torch.Tensor  # (H, W) float64, 0 where nothing is
    ids: NDArray[np.int32]  # (H, W)
    cam_from_place: FloatArray


class Studio:
    """Takes photos of the demo's place; each camera position is rendered at its first photo.

    Args:
        seed: Of the place's textures.
    """

    num_map = len(_MAP_VIEWPOINTS)  # camera positions of the map, in daylight, along an arc
    num_queries = len(_QUERY_VIEWPOINTS)  # of queries, in other light

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed
        self._rendered: dict[tuple[Kind, int], _Wide] = {}

    def shot(
        self,
        kind: Kind,
        index: int,
        camera: pycolmap.Camera,
        world_from_place: FloatArray | None = None,
    ) -> Shot:
        """Take a photo.

        Args:
            kind: From a camera position of the map, or of a query.
            index: Which, in 0..num_map - 1 or 0..num_queries - 1.
            camera: Any COLMAP camera whose field of view fits into 70 degrees.
            world_from_place: (4, 4) rigid: where the data set has its origin. None: the place's
                own frame, metres, z up.

        Raises:
            ValueError: The camera sees more than was rendered.
        """
        wide = self._wide(kind, index)
        pixels = pixel_centers(camera.width, camera.height)
        in_wide = FOCAL_PX * np.asarray(camera.cam_from_img(pixels)) + _WIDE_PX / 2
        if in_wide.min() < 0.5 or in_wide.max() > _WIDE_PX - 0.5:
            raise ValueError(f"the camera sees more than 70 degrees: {camera}")
        size = (camera.height, camera.width)
        cam_from_world = wide.cam_from_place
        if world_from_place is not None:
            cam_from_world = cam_from_world @ np.linalg.inv(world_from_place)
        return Shot(
            image=_sample_image(wide.image, in_wide, size),
            depth=_sample_depth(wide, in_wide, size),
            camera=camera,
            cam_from_world=cam_from_world,
        )

    def shots(
        self,
        kind: Kind,
        indices: Sequence[int],
        camera: pycolmap.Camera,
        world_from_place: FloatArray | None = None,
    ) -> list[Shot]:
        """Several photos by one camera."""
        return [self.shot(kind, index, camera, world_from_place) for index in indices]

    @cached_property
    def _place(self) -> DemoPlace:
        return demo_place(self.seed, texture_size=256)

    def _wide(self, kind: Kind, index: int) -> _Wide:
        if (kind, index) not in self._rendered:
            self._rendered[kind, index] = _render(self._place, _viewpoint(self._place, kind, index))
        return self._rendered[kind, index]


def _viewpoint(place: DemoPlace, kind: Kind, index: int) -> Viewpoint:
    if kind == "map":
        return place.map_shots[_MAP_VIEWPOINTS[index]]
    return place.query_shots[_QUERY_VIEWPOINTS[index]]


def _render(place: DemoPlace, viewpoint: Viewpoint) -> _Wide:
    K = np.array([[FOCAL_PX, 0, _WIDE_PX / 2], [0, FOCAL_PX, _WIDE_PX / 2], [0, 0, 1]])
    rendering = place.place.render(
        K, (_WIDE_PX, _WIDE_PX), viewpoint.cam_from_world, viewpoint.light,
        exposure=viewpoint.exposure,
    )  # fmt: skip
    depth = torch.from_numpy(rendering.depth).double()
    return _Wide(
        image=torch.from_numpy(rendering.image).float().permute(2, 0, 1),
        inverse_depth=torch.where(depth > 0, 1 / depth, 0.0),
        ids=rendering.ids,
        cam_from_place=np.asarray(viewpoint.cam_from_world, np.float64),
    )


def _sample_image(
    image: torch.Tensor, in_wide: FloatArray, size: tuple[int, int]
) -> NDArray[np.uint8]:
    """Bicubic samples at pixel positions (H * W, 2), as an image."""
    grid = torch.from_numpy(in_wide).float().reshape(1, *size, 2) / _WIDE_PX * 2 - 1
    sampled = torch.nn.functional.grid_sample(
        image[None], grid, mode="bicubic", padding_mode="border", align_corners=False
    )
    return (sampled[0].permute(1, 2, 0) + 0.5).clamp(0, 255).to(torch.uint8).numpy()


def _sample_depth(wide: _Wide, in_wide: FloatArray, size: tuple[int, int]) -> NDArray[np.float32]:
    """Depth at pixel positions: bilinear in 1 / depth, which is exact on planes."""
    corner = np.floor(in_wide - 0.5).astype(int).clip(0, _WIDE_PX - 2)
    part = in_wide - 0.5 - corner
    inverse = wide.inverse_depth.numpy()
    total = np.zeros(len(in_wide))
    same = np.ones(len(in_wide), bool)
    x, y = corner.T
    for dx, dy in ((0, 0), (1, 0), (0, 1), (1, 1)):
        weight = np.abs(1 - dx - part[:, 0]) * np.abs(1 - dy - part[:, 1])
        total += weight * inverse[y + dy, x + dx]
        same &= wide.ids[y + dy, x + dx] == wide.ids[y, x]
        same &= inverse[y + dy, x + dx] > 0
    depth = np.zeros(len(in_wide))
    depth[same] = 1 / total[same]
    return depth.astype(np.float32).reshape(size)


def pixel_centers(width: int, height: int) -> FloatArray:
    """Centres of all pixels, row by row, (H * W, 2); the top-left one is (0.5, 0.5)."""
    x, y = np.meshgrid(np.arange(width) + 0.5, np.arange(height) + 0.5)
    return np.stack([x.ravel(), y.ravel()], axis=1)


def pinhole(width: int, height: int, focal_px: float) -> pycolmap.Camera:
    """A camera without distortion, its principal point in the middle."""
    return pycolmap.Camera(
        model="SIMPLE_PINHOLE",
        width=width,
        height=height,
        params=[focal_px, width / 2, height / 2],
    )


def world_frame(yaw_deg: float, tilt_deg: float, origin: Sequence[float]) -> FloatArray:
    """A world_from_place (4, 4) that is nobody's default, so that mixed-up axes show.

    Args:
        yaw_deg: Rotation about the place's vertical.
        tilt_deg: Rotation about the world's x axis, applied after.
        origin: Of the place in the world, metres.
    """
    yaw, tilt = np.radians([yaw_deg, tilt_deg])
    about_z = np.array([[np.cos(yaw), -np.sin(yaw), 0], [np.sin(yaw), np.cos(yaw), 0], [0, 0, 1.0]])
    about_x = np.array(
        [[1.0, 0, 0], [0, np.cos(tilt), -np.sin(tilt)], [0, np.sin(tilt), np.cos(tilt)]]
    )
    world_from_place = np.eye(4)
    world_from_place[:3, :3] = about_x @ about_z
    world_from_place[:3, 3] = origin
    return world_from_place


def write_photo(
    path: PathLike, image: NDArray[Any], *, exif_orientation: int | None = None
) -> None:
    """Write an image in the format of its file name: JPEG at full colour resolution, or PNG.

    Args:
        path: The file; folders are made.
        image: (H, W, 3) uint8, or (H, W) uint16 as 16-bit PNG (depth).
        exif_orientation: An EXIF tag that readers of benchmarks must not follow.
    """
    kind = {".jpg": "JPEG", ".jpeg": "JPEG", ".png": "PNG"}[Path(path).suffix.lower()]
    quality: dict[str, Any] = {"quality": 95, "subsampling": 0} if kind == "JPEG" else {}
    if exif_orientation is not None:
        quality["exif"] = Image.Exif()
        quality["exif"][ExifTags.Base.Orientation] = exif_orientation
    with atomic_file(path) as temporary:
        Image.fromarray(image).save(temporary, format=kind, **quality)


def quat_wxyz(cam_from_world: FloatArray) -> FloatArray:
    """The rotation of a pose as qw qx qy qz."""
    return np.roll(pycolmap.Rigid3d(cam_from_world[:3]).rotation.quat, 1)


def camera_center(cam_from_world: FloatArray) -> FloatArray:
    """Where the camera stands in the world."""
    return -cam_from_world[:3, :3].T @ cam_from_world[:3, 3]


def numbers(*values: Any) -> str:
    """Numbers and arrays of them, separated by blanks, exact to the last digit that matters."""
    return " ".join(f"{value:.12g}" for value in np.concatenate([np.ravel(v) for v in values]))


def depth_png(depth_m: NDArray[np.float32], invalid: int) -> NDArray[np.uint16]:
    """Depth as 16-bit millimetres.

    Args:
        depth_m: (H, W), 0 unknown.
        invalid: What stands for unknown in the data set: 0 or 65535.
    """
    return np.where(depth_m > 0, np.round(depth_m * 1000), invalid).astype(np.uint16)


def matrix_text(matrix: NDArray[Any], separator: str = " ") -> str:
    """A matrix, one row per line."""
    return "".join(separator.join(f"{value:.12g}" for value in row) + "\n" for row in matrix)
