"""Procedural places: a batch of scenes made of a few kinds of primitives, packed in two tensors.

World frame: metres, z up. A scene is a list of primitives; each has a pose, half extents, a few
shape parameters, and up to eight faces with a material each. The same tensors feed the ray-caster
on the CPU (`matching.training.raycast`) and the Triton kernel (`matching.kernels.raycast`).
"""

from dataclasses import dataclass
from enum import IntEnum

import torch

NUM_FACES = 8  # 0-5: -x +x -y +y -z +z; 6: back of a recess (window); 7: sides of a recess
WINDOW, REVEAL = 6, 7

# columns of Scenes.geometry
CENTER = slice(0, 3)
AXES = slice(3, 12)  # rows: local axes in the world, local = AXES @ (world - center)
HALF = slice(12, 15)  # half extents or semi-axes
KIND = 15
PARAMS = slice(16, 22)
RADIUS = 22  # of the bounding sphere around the centre; < 0 for an unused slot
VIEWS = 23  # bit 0: present in view 0, bit 1: present in view 1
NUM_GEOMETRY = 24

# columns of Scenes.materials
TEXTURE, SCALE, OFFSET_U, OFFSET_V, COS, SIN = range(6)  # SCALE: metres per texture repeat
TINT = slice(6, 9)  # linear RGB factor on the texture's albedo
GLOSS = 9  # reflectance at normal incidence, 0 = matt
# a second texture, that the first is multiplied with: larger, against repeats, or grain
OVERLAY, OVERLAY_SCALE, OVERLAY_WEIGHT = 10, 11, 12
EMISSION = 13  # glowing, in units of the albedo
CELL_JITTER = 14  # texture offset that differs per window of a facade
# the surface's height is RELIEF * SCALE * brightness of the first texture (its stored green), in
# metres along the normal: bends the normals that the light falls on, not the geometry; 0 = smooth
RELIEF = 15
NUM_MATERIAL = 16


class Kind(IntEnum):
    """What a primitive is; local axes x, y, z, half extents hx, hy, hz.

    FACADE is a box whose four upright faces carry a grid of rectangular recesses (windows):
    PARAMS = cell width, cell height, half width and half height of a recess, depth (less than the
    half extents; recesses of two walls must not meet at the corner).
    PANEL is the rectangle z = 0 with a cut-out pattern: PARAMS = pattern (0 solid, 1 bars, 2 grid,
    3 leaves), period, filled fraction, hash seed.
    BUSH is an ellipsoid shell that exists only inside leaves: PARAMS = leaf size, leaf radius
    relative to it, filled fraction, hash seed.
    TERRAIN is the surface z = sum of three sines over x, y: PARAMS = three amplitudes, three
    wavelengths.
    """

    BOX = 0
    ELLIPSOID = 1
    ROOM = 2  # a box seen from inside
    CYLINDER = 3  # elliptic, around z
    FACADE = 4
    PANEL = 5
    BUSH = 6
    TERRAIN = 7


@dataclass(frozen=True, kw_only=True)
class Scenes:
    """B scenes of up to N primitives each.

    Attributes:
        geometry: (B, N, NUM_GEOMETRY) float32, columns as named above.
        materials: (B, N, NUM_FACES, NUM_MATERIAL) float32, columns as named above.
    """

    geometry: torch.Tensor
    materials: torch.Tensor

    def __post_init__(self) -> None:
        shape = tuple(self.geometry.shape)
        if len(shape) != 3 or shape[2] != NUM_GEOMETRY:
            raise ValueError(f"geometry must be (B, N, {NUM_GEOMETRY}), got {shape}")
        if tuple(self.materials.shape) != (*shape[:2], NUM_FACES, NUM_MATERIAL):
            raise ValueError(
                f"materials must be {(*shape[:2], NUM_FACES, NUM_MATERIAL)}, "
                f"got {tuple(self.materials.shape)}"
            )

    def to(self, device: torch.device | str) -> "Scenes":
        """The same scenes on another device."""
        return Scenes(
            geometry=self.geometry.to(device, non_blocking=True),
            materials=self.materials.to(device, non_blocking=True),
        )


def bounding_radius(kind: torch.Tensor, half: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
    """Radius of a sphere around the centre that holds the primitive.

    Args:
        kind: `Kind` values, (...).
        half: Half extents, (..., 3).
        params: (..., 6).

    Returns:
        (...) float32. Ellipsoids and bushes are bounded by their longest semi-axis, the others by
        the half diagonal; terrain by a sphere that no ray misses.
    """
    diagonal = half.norm(dim=-1)
    round_kind = (kind == Kind.ELLIPSOID) | (kind == Kind.BUSH)
    radius = torch.where(round_kind, half.amax(-1), diagonal)
    radius = torch.where(kind == Kind.PANEL, half[..., :2].norm(dim=-1), radius)
    return torch.where(kind == Kind.TERRAIN, torch.full_like(radius, 1e6), radius * 1.001 + 1e-4)
