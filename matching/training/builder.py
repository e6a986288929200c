"""Places built by hand, primitive by primitive, and rendered on the CPU."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from matching.training.render import camera_center, ray_directions, render_image
from matching.training.sensor import tone_map
from matching.training.textures import TextureBank, paint
from matching.training.world import (
    AXES,
    CELL_JITTER,
    CENTER,
    COS,
    EMISSION,
    GLOSS,
    HALF,
    KIND,
    NUM_FACES,
    NUM_GEOMETRY,
    NUM_MATERIAL,
    OFFSET_U,
    OFFSET_V,
    OVERLAY,
    OVERLAY_SCALE,
    OVERLAY_WEIGHT,
    PARAMS,
    RADIUS,
    SCALE,
    TEXTURE,
    TINT,
    VIEWS,
    Kind,
    Scenes,
    bounding_radius,
)

FloatArray = NDArray[np.floating[Any]]


@dataclass(frozen=True, kw_only=True)
class Rendering:
    """One rendered image with its exact geometry."""

    image: NDArray[np.uint8]  # (H, W, 3) RGB
    depth: NDArray[np.float32]  # (H, W) along the optical axis, metres; 0 where nothing is hit
    ids: NDArray[np.int32]  # (H, W) primitive at the pixel's centre; -1 for the sky
    normals: NDArray[np.float32]  # (H, W, 3) unit, world frame, towards the camera; 0 for the sky
    points: NDArray[np.float32]  # (H, W, 3) world, metres; NaN where nothing is hit


@dataclass(frozen=True, kw_only=True)
class Place:
    """One scene with its textures: the same for the same seed."""

    scenes: Scenes  # B = 1
    bank: TextureBank

    def render(
        self,
        K: FloatArray,
        image_size: tuple[int, int],
        cam_from_world: FloatArray,
        light: torch.Tensor,
        *,
        exposure: float = 1.0,
    ) -> Rendering:
        """Photograph the place.

        Args:
            K: Intrinsics, (3, 3), pixels; centre of the top-left pixel at (0.5, 0.5).
            image_size: (width, height).
            cam_from_world: Pose, (4, 4), OpenCV axes.
            light: From `matching.training.light.light_row`.
            exposure: Factor on the radiance before the tone curve.
        """
        intrinsics = torch.as_tensor(np.asarray(K), dtype=torch.float32)
        pose = torch.as_tensor(np.asarray(cam_from_world), dtype=torch.float32)
        frames = render_image(self.scenes, 0, 0, intrinsics, pose, image_size, light, self.bank)
        width, height = image_size
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        pixels = torch.stack([x, y], -1).float() + 0.5
        depth = frames.depth[0]
        hit = frames.ids[0] >= 0
        points = camera_center(pose) + depth[..., None] * ray_directions(intrinsics, pose, pixels)
        image = tone_map(frames.radiance[0] * exposure)
        return Rendering(
            image=(image * 255 + 0.5).to(torch.uint8).numpy(),
            depth=torch.where(hit, depth, torch.zeros(())).numpy(),
            ids=frames.ids[0].numpy(),
            normals=frames.normals[0].numpy(),
            points=torch.where(hit[..., None], points, torch.full((), torch.nan)).numpy(),
        )


def rotation_from_angles(yaw: float, pitch: float = 0.0, roll: float = 0.0) -> torch.Tensor:
    """world_from_local rotation (3, 3): roll about x, then pitch about y, then yaw about z."""
    cy, sy, cp, sp = math.cos(yaw), math.sin(yaw), math.cos(pitch), math.sin(pitch)
    cr, sr = math.cos(roll), math.sin(roll)
    about_z = torch.tensor([[cy, -sy, 0.0], [sy, cy, 0.0], [0.0, 0.0, 1.0]])
    about_y = torch.tensor([[cp, 0.0, sp], [0.0, 1.0, 0.0], [-sp, 0.0, cp]])
    about_x = torch.tensor([[1.0, 0.0, 0.0], [0.0, cr, -sr], [0.0, sr, cr]])
    return about_z @ about_y @ about_x


class PlaceBuilder:
    """Collects primitives and the textures they use, then makes a `Place`.

    Args:
        seed: Of the textures and of the small variations of materials.
        texture_size: Pixels per side of every texture, a power of two.
    """

    def __init__(self, seed: int, texture_size: int = 512) -> None:
        self.seed = seed
        self.texture_size = texture_size
        self.styles: list[str] = []
        self.generator = torch.Generator().manual_seed(seed)
        self._geometry: list[torch.Tensor] = []
        self._materials: list[torch.Tensor] = []

    def texture(self, style: str) -> int:
        """A new texture of a style (a method name of `painter.Painter`); returns its index."""
        self.styles.append(style)
        return len(self.styles) - 1

    def uniform(self, low: float, high: float) -> float:
        """One random number."""
        return low + (high - low) * float(torch.rand((), generator=self.generator))

    def material(
        self,
        texture: int,
        scale: float = 2.0,
        *,
        tint: tuple[float, float, float] = (1.0, 1.0, 1.0),
        gloss: float = 0.0,
        overlay: int = 0,
        overlay_weight: float = 0.0,
        overlay_scale: float = 7.3,
        emission: float = 0.0,
        cell_jitter: float = 0.0,
        align: bool = False,
    ) -> torch.Tensor:
        """A face's material, (NUM_MATERIAL,).

        Args:
            texture: Index from `texture`.
            scale: Metres per repeat of the texture.
            tint: Linear RGB factor.
            gloss: Reflectance at normal incidence.
            overlay: Second texture that modulates the first, to break its repeats.
            overlay_weight: 0 without it.
            overlay_scale: Metres per repeat of the second texture.
            emission: Glow, in units of the albedo.
            cell_jitter: How far the texture shifts from window to window of a facade.
            align: True puts the middle of the texture at the middle of the face.
        """
        row = torch.zeros(NUM_MATERIAL)
        row[TEXTURE], row[SCALE], row[COS] = texture, scale, 1.0
        row[OFFSET_U] = 0.5 if align else self.uniform(0, 1)
        row[OFFSET_V] = 0.5 if align else self.uniform(0, 1)
        row[TINT], row[GLOSS], row[EMISSION] = torch.tensor(tint), gloss, emission
        row[OVERLAY], row[OVERLAY_SCALE], row[OVERLAY_WEIGHT] = (
            overlay,
            overlay_scale,
            overlay_weight,
        )
        row[CELL_JITTER] = cell_jitter
        return row

    def add(
        self,
        kind: Kind,
        center: Sequence[float],
        half: Sequence[float],
        material: torch.Tensor,
        *,
        yaw: float = 0.0,
        pitch: float = 0.0,
        roll: float = 0.0,
        params: Sequence[float] = (),
        faces: dict[int, torch.Tensor] | None = None,
    ) -> int:
        """Add a primitive; returns its id.

        Args:
            kind: What it is.
            center: World, metres.
            half: Half extents along its own axes, metres.
            material: Of all faces that ``faces`` does not name.
            yaw: Rotation about z, radians; the last of the three to act.
            pitch: About y.
            roll: About x; the first to act.
            params: Shape parameters of the kind.
            faces: Materials of single faces by number.
        """
        row = torch.zeros(NUM_GEOMETRY)
        row[CENTER], row[HALF], row[KIND] = torch.tensor(center), torch.tensor(half), float(kind)
        row[AXES] = rotation_from_angles(yaw, pitch, roll).T.reshape(-1)
        row[PARAMS] = torch.tensor([*params, *[0.0] * (6 - len(params))])
        row[RADIUS] = bounding_radius(row[KIND], row[HALF], row[PARAMS])
        row[VIEWS] = 3.0
        materials = material.expand(NUM_FACES, -1).clone()
        for face, own in (faces or {}).items():
            materials[face] = own
        self._geometry.append(row)
        self._materials.append(materials)
        return len(self._geometry) - 1

    def build(self) -> Place:
        """The place with all that was added."""
        return Place(
            scenes=Scenes(
                geometry=torch.stack(self._geometry)[None],
                materials=torch.stack(self._materials)[None],
            ),
            bank=paint(self.styles, self.texture_size, self.seed),
        )
