"""Drafts of batches of scenes: primitives added for all scenes at once, with random materials."""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.nn.functional as F

from matching.training.geometry import Amount, constant
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
    RELIEF,
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
    "wall": (
        *("plain", "plain", "plain", "gradient", "stone", "bricks", "bricks", "tiles", "noisy"),
        *("stains", "stains", "wallpaper", "ornament", "stripes"),
    ),
    "floor": ("tiles", "tiles", "planks", "planks", "cobbles", "stone", "noisy", "plain", "weave"),
    "ceiling": ("plain", "plain", "plain", "gradient", "tiles", "planks", "stains"),
    "ground": ("cobbles", "grass", "grass", "tiles", "stone", "noisy", "bricks", "stains"),
    "object": (
        *("leaves", "leaves", "noisy", "planks", "marks", "plain", "stone", "gradient"),
        *("stains", "ornament", "stripes", "weave"),
    ),
    "picture": ("poster", "poster", "leaves", "marks", "leaves", "ornament", "books"),
    "shelf": ("books",),
    "wood": ("planks", "planks", "plain", "noisy"),
    "metal": ("plain", "plain", "noisy", "stains"),
    "green": ("grass", "grass", "noisy", "leaves"),
    "cloth": ("plain", "plain", "noisy", "gradient", "leaves", "weave", "weave", "wallpaper"),
    "masonry": ("stone", "stains", "stains", "bricks", "ornament", "plain", "noisy"),
    "roof": ("tiles", "bricks", "planks", "plain", "stripes", "stains"),
    "grain": ("noisy", "grass", "stains", "weave", "stone", "leaves", "plain"),
    "glass": ("glass",),
    "view": ("glass", "plain", "gradient", "noisy", "grass", "leaves"),  # out of a window
    "sky": ("noisy", "stone"),
    "bare": ("plain", "plain", "plain", "gradient"),
}


TABLE_COLUMNS = 2048  # of Palette.table
RELIEF_SHARE = 0.6  # of the primitives; on a fifth of these dark is high
# root mean square over a texture of usual contrast seen at half its resolution, metres per metre;
# at a tenth one begins to see it, at one bricks look rough hewn
RELIEF_SLOPES = 0.15, 1.2
# textures of less contrast (near-plain walls) get flatter relief: theirs would be that of 8 bits
SMOOTH = 5.0  # `TextureBank.roughness`
PAINTED = 0.3  # share of the primitives of a colour, dark or bright, of their own
BARE = 0.2  # share of the places where the first texture of most things is next to none
ONE_STONE = 0.2  # share of the places built, and cluttered, mostly of one texture and colour
STONES = ("wall", "masonry", "object", "floor", "roof")  # surfaces that may be of that material
FINE = 0.4  # share of the second textures that are grain, finer than the first


@dataclass(frozen=True, kw_only=True)
class Palette:
    """Textures sorted by the surfaces that may wear them."""

    bank: TextureBank
    names: tuple[str, ...]  # of the surfaces
    table: torch.Tensor  # (len(names), TABLE_COLUMNS) int64: textures of each, cycled
    roughness: torch.Tensor  # (T,) `TextureBank.roughness`, at least SMOOTH

    @staticmethod
    def paint(seed: int, *, per_style: int, size: int, device: torch.device | str) -> "Palette":
        """Paint ``per_style`` textures of every style, three times as many pictures.

        Args:
            seed: Of all textures.
            per_style: Textures of each style.
            size: Pixels per side, a power of two.
            device: Where the textures live; they are painted on the CPU.
        """
        styles: list[str] = []
        for style in sorted({style for wears in SURFACES.values() for style in wears}):
            styles += [style] * per_style * (3 if style in ("leaves", "poster") else 1)
        names = tuple(SURFACES)
        table = []
        for wears in SURFACES.values():
            # each style as often as it is named, whatever the number of its textures
            members = [[k for k, s in enumerate(styles) if s == style] for style in wears]
            turns = (members[c % len(members)] for c in range(TABLE_COLUMNS))
            table.append([own[c // len(members) % len(own)] for c, own in enumerate(turns)])
        bank = paint(styles, size, seed)
        return Palette(
            bank=bank.to(device),
            names=names,
            table=torch.tensor(table, device=device),
            roughness=bank.roughness().clamp_min(SMOOTH).to(device),
        )


class _Part(NamedTuple):
    """n primitives of each scene; columns of the geometry before they are packed."""

    kind: torch.Tensor  # (B, n)
    center: torch.Tensor  # (B, n, 3)
    half: torch.Tensor  # (B, n, 3)
    rotation: torch.Tensor  # (B, n, 3, 3) world_from_local
    params: torch.Tensor  # (B, n, 6)
    keep: torch.Tensor  # (B, n) 0 or 1
    scale: torch.Tensor  # (B, n) metres per repeat of the texture, 0 = by the size
    glow: torch.Tensor  # (B, n) emission, < 0 = by chance


class Draft:
    """A batch of scenes under construction.

    Args:
        count: Number of scenes, B.
        generator: Source of all draws; its device is the scenes' device.
        palette: Textures to wear.
        one_view: Probability that a piece of clutter exists in only one of the two views.
    """

    def __init__(
        self, count: int, generator: torch.Generator, palette: Palette, one_view: Amount
    ) -> None:
        self.count = count
        self.generator = generator
        self.palette = palette
        self.one_view = one_view
        self.device = generator.device
        self._parts: list[_Part] = []
        self._surfaces: list[str] = []
        self._clutter: list[bool] = []
        self._wearers: list[int] = []  # whose materials each primitive wears, most often its own

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
        like: int | None = None,
        of: int | None = None,
        glow: torch.Tensor | None = None,
    ) -> int:
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
            like: What an earlier call returned: these n primitives wear the materials of those n,
                as the parts of one thing do.
            of: What an earlier call returned: all n wear the material of that one primitive. A
                material of another comes with its ``texture_m`` and ``glow``.
            glow: How much each shines by itself in units of its albedo, (B, n); default: a few do.

        Returns:
            The place of the first of the n in the scenes.
        """
        number = center.shape[1]
        first = len(self._surfaces)
        shape = (self.count, number)
        if rotation is None:
            angle = torch.zeros(shape, device=self.device) if yaw is None else yaw
            rotation = yaw_rotation(angle)
        if not isinstance(kind, torch.Tensor):
            kind = torch.full(shape, float(kind), device=self.device)
        if params is None:
            params = torch.zeros((*shape, 6), device=self.device)
        self._parts.append(
            _Part(
                kind=kind.float(),
                center=center.expand(*shape, 3),
                half=half.expand(*shape, 3),
                rotation=rotation.expand(*shape, 3, 3),
                params=F.pad(params, (0, 6 - params.shape[-1])).expand(*shape, 6),
                keep=torch.ones(shape, device=self.device) if keep is None else keep.float(),
                scale=torch.zeros(shape, device=self.device) if texture_m is None else texture_m,
                glow=torch.full(shape, -1.0, device=self.device) if glow is None else glow,
            )
        )
        self._surfaces += [surface] * number
        self._clutter += [clutter] * number
        leader = first if like is None else like
        self._wearers += range(leader, leader + number) if of is None else [of] * number
        return first

    def finish(self, slots: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Geometry (B, slots, ...) and materials (B, slots, ...), padded with empty slots."""
        number = len(self._surfaces)
        if number > slots:
            raise ValueError(f"{number} primitives do not fit into {slots} slots")
        part = _Part(*(torch.cat(columns, 1) for columns in zip(*self._parts, strict=True)))
        shape = (self.count, number)
        half = part.half.clamp_min(1e-3)
        geometry = torch.zeros((self.count, slots, NUM_GEOMETRY), device=self.device)
        filled = geometry[:, :number]
        filled[..., CENTER], filled[..., HALF], filled[..., KIND] = part.center, half, part.kind
        filled[..., AXES] = part.rotation.transpose(-1, -2).reshape(*shape, 9)
        filled[..., PARAMS] = part.params
        radius = bounding_radius(part.kind, half, part.params)
        filled[..., RADIUS] = torch.where(part.keep > 0, radius, -1.0)
        geometry[:, number:, RADIUS] = -1.0
        loose = constant(tuple(float(c) for c in self._clutter), self.device)
        alone = 1.0 + self.chance(0.5, number).float()
        filled[..., VIEWS] = torch.where(self.uniform(number) < self.one_view * loose, alone, 3.0)
        materials = torch.zeros((self.count, slots, NUM_FACES, NUM_MATERIAL), device=self.device)
        self._wear(materials[:, :number], half, part)
        wearers = constant(tuple(float(w) for w in self._wearers), self.device).long()
        materials[:, :number] = materials[:, wearers]
        return geometry, materials

    def _wear(self, material: torch.Tensor, half: torch.Tensor, part: _Part) -> None:
        """Fill in random materials of n primitives, (B, n, NUM_FACES, NUM_MATERIAL)."""
        n = half.shape[1]
        texture = self._textures(self._surfaces, NUM_FACES)
        bare = self.chance(BARE, 1, 1) & self.chance(0.75, n, 1)
        texture = torch.where(bare, self._textures(["bare"] * n, NUM_FACES), texture)
        alike = self.chance(0.55, n, 1)
        texture = torch.where(alike, texture[..., :1], texture)
        may = constant(tuple(float(s in STONES) for s in self._surfaces), self.device) > 0
        stone = self.chance(ONE_STONE, 1, 1) & self.chance(0.7, n, 1) & may[:, None]
        texture = torch.where(stone, self._textures(["masonry"], 1), texture)
        texture[..., WINDOW] = self._textures(["glass"] * n, 1)[..., 0]
        texture[..., REVEAL] = texture[..., 0]
        material[..., TEXTURE] = texture
        size = half.mean(-1).clamp(0.05, 6.0)
        fitting = (size * self.log_uniform(n, low=0.6, high=3.2)).clamp_min(0.12)
        texture_m = torch.where(part.scale > 0, part.scale, fitting)
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
        # paint: things are black or white or red whatever their texture
        painted = self.chance(PAINTED, n, 1, 1)
        level = torch.where(painted, self.log_uniform(n, 1, 1, low=0.08, high=1.6), level)
        strong = self.log_uniform(n, 1, 3, low=0.35, high=1.4)
        hue = torch.where(painted & self.chance(0.5, n, 1, 1), strong, hue)
        tint = level * hue
        common = self.log_uniform(1, 1, 1, low=0.5, high=1.4) * (1 + 0.1 * self.uniform(1, 1, 3))
        tint = torch.where(stone[..., None], common * (1 + 0.06 * (hue - 1)), tint)
        material[..., TINT] = tint
        material[..., GLOSS] = self.uniform(n, 1) ** 2 * 0.3 * self.chance(0.3, n, 1)
        material[..., WINDOW, GLOSS] = self.uniform(n, low=0.03, high=0.35)
        # a second texture: large, against repeats, or fine, what is seen from near
        fine = self.chance(FINE, n, 1)
        grain, large = (self._textures([s] * n, NUM_FACES) for s in ("grain", "object"))
        material[..., OVERLAY] = torch.where(fine, grain, large)
        wide, narrow = (
            self.uniform(n, 1, low=1.9, high=5.5),
            self.log_uniform(n, 1, low=0.06, high=0.4),
        )
        material[..., OVERLAY_SCALE] = scale * torch.where(fine, narrow, wide)
        layered = self.chance(0.6, n, 1) & ~bare
        material[..., OVERLAY_WEIGHT] = self.uniform(n, 1, high=0.7) * layered
        by_chance = self.uniform(n) * self.chance(0.03, n)
        material[..., EMISSION] = torch.where(part.glow < 0, by_chance, part.glow)[..., None]
        material[..., CELL_JITTER] = self.uniform(n, 1) * self.chance(0.5, n, 1)
        low, high = RELIEF_SLOPES
        slope = self.log_uniform(n, 1, low=low, high=high) * self.chance(RELIEF_SHARE, n, 1)
        slope = torch.where(self.chance(0.2, n, 1), -slope, slope)
        material[..., RELIEF] = slope / self.palette.roughness[texture.long()]
        material[..., WINDOW, RELIEF] = 0.0

    def _textures(self, surfaces: list[str], faces: int) -> torch.Tensor:
        """Random textures for n primitives' surfaces, (B, n, faces) float."""
        names = self.palette.names
        rows = constant(tuple(float(names.index(s)) for s in surfaces), self.device).long()
        draws = (self.uniform(len(surfaces), faces) * self.palette.table.shape[1]).long()
        return self.palette.table[rows[:, None], draws].float()


def yaw_rotation(yaw: torch.Tensor) -> torch.Tensor:
    """world_from_local rotations about z, (..., 3, 3)."""
    c, s, zero, one = yaw.cos(), yaw.sin(), torch.zeros_like(yaw), torch.ones_like(yaw)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(*yaw.shape, 3, 3)


def random_rotation(draft: Draft, *shape: int) -> torch.Tensor:
    """Rotations uniform over all, (B, *shape, 3, 3)."""
    size = (draft.count, *shape, 4)
    quaternion = torch.randn(size, generator=draft.generator, device=draft.device)
    w, x, y, z = F.normalize(quaternion, dim=-1).unbind(-1)
    return torch.stack(
        [
            1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y),
            2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x),
            2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y),
        ],
        -1,
    ).reshape(*w.shape, 3, 3)  # fmt: skip
