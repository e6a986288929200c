"""Drafts of batches of scenes: primitives added for all scenes at once, with random materials."""

import math
from dataclasses import dataclass

import torch

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
    REVEAL,
    SCALE,
    SIN,
    TEXTURE,
    TINT,
    VIEWS,
    WINDOW,
    Kind,
    bounding_radius,
)

# which styles of texture a kind of surface may wear; repeated = more often
SURFACES = {
    "wall": ("plain", "plain", "plain", "gradient", "stone", "bricks", "bricks", "tiles", "noisy"),
    "floor": ("tiles", "tiles", "planks", "planks", "cobbles", "stone", "noisy", "plain"),
    "ground": ("cobbles", "grass", "grass", "tiles", "stone", "noisy", "bricks"),
    "object": ("leaves", "leaves", "noisy", "planks", "marks", "plain", "stone", "gradient"),
    "picture": ("poster", "poster", "leaves", "marks", "leaves"),
    "wood": ("planks", "planks", "plain", "noisy"),
    "metal": ("plain", "plain", "noisy"),
    "green": ("grass", "grass", "noisy", "leaves"),
    "glass": ("glass",),
    "sky": ("noisy", "stone"),
}


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Textures sorted by the surfaces that may wear them."""

    bank: TextureBank
    surfaces: dict[str, torch.Tensor]  # name of SURFACES -> texture indices, int64

    @staticmethod
    def paint(seed: int, *, per_style: int, size: int, device: torch.device | str) -> "Palette":
        """Paint ``per_style`` textures of every style, twice as many of the commonest.

        Args:
            seed: Of all textures.
            per_style: Textures of each style.
            size: Pixels per side, a power of two.
            device: Where the textures live; they are painted on the CPU.
        """
        names = sorted({style for styles in SURFACES.values() for style in styles})
        counts = {name: per_style * (3 if name in ("leaves", "poster") else 1) for name in names}
        styles = [name for name in names for _ in range(counts[name])]
        members = {name: [k for k, s in enumerate(styles) if s == name] for name in names}
        surfaces = {
            surface: torch.tensor(
                [members[style][k] for style in wears for k in range(per_style)], device=device
            )
            for surface, wears in SURFACES.items()
        }
        surfaces["object"] = torch.cat(
            [
                surfaces["object"],
                torch.tensor(members["leaves"] + members["poster"], device=device),
            ]
        )
        return Palette(bank=paint(styles, size, seed).to(device), surfaces=surfaces)


class Draft:
    """A batch of scenes under construction.

    Args:
        count: Number of scenes, B.
        generator: Source of all draws; its device is the scenes' device.
        palette: Textures to wear.
        one_view: Probability that a piece of clutter exists in only one of the two views.
    """

    def __init__(
        self, count: int, generator: torch.Generator, palette: Palette, one_view: float
    ) -> None:
        self.count = count
        self.generator = generator
        self.palette = palette
        self.one_view = one_view
        self.device = generator.device
        self._geometry: list[torch.Tensor] = []
        self._materials: list[torch.Tensor] = []

    def uniform(self, *shape: int, low: float = 0.0, high: float = 1.0) -> torch.Tensor:
        """Random numbers in [low, high), (B, *shape)."""
        values = torch.rand(
            (self.count, *shape), generator=self.generator, device=self.generator.device
        )
        return low + (high - low) * values

    def chance(self, probability: float, *shape: int) -> torch.Tensor:
        """Random booleans, (B, *shape)."""
        return self.uniform(*shape) < probability

    def sign(self, *shape: int) -> torch.Tensor:
        """-1 or 1, (B, *shape)."""
        return torch.where(self.chance(0.5, *shape), 1.0, -1.0)

    def log_uniform(self, *shape: int, low: float, high: float) -> torch.Tensor:
        """Random numbers between low and high, uniform in the logarithm, (B, *shape)."""
        return torch.exp(self.uniform(*shape, low=math.log(low), high=math.log(high)))

    def add(
        self,
        kind: Kind | torch.Tensor,
        center: torch.Tensor,
        half: torch.Tensor,
        surface: str,
        *,
        yaw: torch.Tensor | None = None,
        rotation: torch.Tensor | None = None,
        params: torch.Tensor | None = None,
        keep: torch.Tensor | None = None,
        clutter: bool = False,
        texture_m: torch.Tensor | None = None,
    ) -> None:
        """Add n primitives to each scene.

        Args:
            kind: One for all or (B, n).
            center: (B, n, 3) metres.
            half: (B, n, 3) metres.
            surface: Key of `SURFACES`.
            yaw: Rotation about z, (B, n) radians.
            rotation: world_from_local, (B, n, 3, 3), instead of ``yaw``.
            params: (B, n, up to 6).
            keep: False leaves the slot empty, (B, n).
            clutter: True lets a few exist in one view only.
            texture_m: Metres per repeat of the texture, (B, n); default: from the size.
        """
        number = center.shape[1]
        shape = (self.count, number)
        geometry = torch.zeros((*shape, NUM_GEOMETRY), device=self.device)
        geometry[..., CENTER], geometry[..., HALF] = center, half.clamp_min(1e-3)
        kinds = kind if isinstance(kind, torch.Tensor) else torch.full(shape, int(kind))
        geometry[..., KIND] = kinds.to(self.device).float()
        if rotation is None:
            angle = torch.zeros(shape, device=self.device) if yaw is None else yaw
            rotation = yaw_rotation(angle)
        geometry[..., AXES] = rotation.transpose(-1, -2).reshape(*shape, 9)
        if params is not None:
            geometry[..., PARAMS.start : PARAMS.start + params.shape[-1]] = params
        radius = bounding_radius(geometry[..., KIND], geometry[..., HALF], geometry[..., PARAMS])
        geometry[..., RADIUS] = radius if keep is None else torch.where(keep, radius, -1.0)
        views = torch.full(shape, 3.0, device=self.device)
        if clutter:
            alone = 1.0 + self.chance(0.5, number).float()
            views = torch.where(self.chance(self.one_view, number), alone, views)
        geometry[..., VIEWS] = views
        self._geometry.append(geometry)
        self._materials.append(self._wear(surface, half, texture_m))

    def _wear(
        self, surface: str, half: torch.Tensor, texture_m: torch.Tensor | None
    ) -> torch.Tensor:
        """Random materials of n primitives, (B, n, NUM_FACES, NUM_MATERIAL)."""
        n = half.shape[1]
        material = torch.zeros((self.count, n, NUM_FACES, NUM_MATERIAL), device=self.device)
        texture = self._textures(surface, n, NUM_FACES)
        alike = self.chance(0.55, n, 1)
        texture = torch.where(alike, texture[..., :1], texture)
        texture[..., WINDOW] = self._textures("glass", n)
        texture[..., REVEAL] = texture[..., 0]
        material[..., TEXTURE] = texture
        if texture_m is None:
            size = half.mean(-1).clamp(0.05, 6.0)
            texture_m = (size * self.log_uniform(n, low=0.6, high=3.2)).clamp_min(0.12)
        scale = texture_m[..., None].expand(-1, -1, NUM_FACES).clone()
        scale[..., WINDOW] = scale[..., WINDOW] * self.uniform(n, low=0.3, high=1.0)
        material[..., SCALE] = scale
        material[..., OFFSET_U] = self.uniform(n, NUM_FACES)
        material[..., OFFSET_V] = self.uniform(n, NUM_FACES)
        angle = self.uniform(n, 1, low=-0.5, high=0.5) * self.chance(0.2, n, 1)
        angle = angle + 0.5 * math.pi * self.chance(0.15, n, 1)
        material[..., COS], material[..., SIN] = angle.cos(), angle.sin()
        level = self.log_uniform(n, 1, 1, low=0.6, high=1.35)
        hue = 1 + 0.12 * (self.uniform(n, 1, 3) - 0.5) + 0.1 * (self.uniform(n, NUM_FACES, 3) - 0.5)
        material[..., TINT] = level * hue
        gloss = self.uniform(n, 1) ** 2 * 0.3 * self.chance(0.3, n, 1)
        gloss = gloss.expand(-1, -1, NUM_FACES).clone()
        gloss[..., WINDOW] = self.uniform(n, low=0.03, high=0.35)
        material[..., GLOSS] = gloss
        material[..., OVERLAY] = self._textures("object", n, NUM_FACES)
        material[..., OVERLAY_SCALE] = scale * self.uniform(n, 1, low=1.9, high=5.5)
        weight = self.uniform(n, 1, high=0.7) * self.chance(0.5, n, 1)
        material[..., OVERLAY_WEIGHT] = weight
        material[..., EMISSION] = (self.uniform(n, 1) * self.chance(0.03, n, 1)).expand(
            -1, -1, NUM_FACES
        )
        jitter = self.uniform(n, 1) * self.chance(0.5, n, 1)
        material[..., CELL_JITTER] = jitter
        return material

    def _textures(self, surface: str, *shape: int) -> torch.Tensor:
        """Random textures for a surface, (B, *shape) float."""
        choices = self.palette.surfaces[surface]
        index = (self.uniform(*shape) * len(choices)).long().clamp_max(len(choices) - 1)
        return choices[index].float()

    def finish(self, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Geometry (B, slots, ...) and materials (B, slots, ...), padded with empty slots."""
        geometry, materials = torch.cat(self._geometry, 1), torch.cat(self._materials, 1)
        missing = slots - geometry.shape[1]
        if missing < 0:
            raise ValueError(f"{geometry.shape[1]} primitives do not fit into {slots} slots")
        empty = torch.zeros((self.count, missing, NUM_GEOMETRY), device=self.device)
        empty[..., RADIUS] = -1.0
        bare = torch.zeros((self.count, missing, NUM_FACES, NUM_MATERIAL), device=self.device)
        return torch.cat([geometry, empty], 1), torch.cat([materials, bare], 1)


def yaw_rotation(yaw: torch.Tensor) -> torch.Tensor:
    """world_from_local rotations about z, (..., 3, 3)."""
    c, s, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(*yaw.shape, 3, 3)


def random_rotation(draft: Draft, *shape: int) -> torch.Tensor:
    """Rotations uniform over all, (B, *shape, 3, 3)."""
    size = (draft.count, *shape, 4)
    quaternion = torch.randn(size, generator=draft.generator, device=draft.device)
    w, x, y, z = torch.nn.functional.normalize(quaternion, dim=-1).unbind(-1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        -1,
    ).reshape(*w.shape, 3, 3)  # fmt: skip
