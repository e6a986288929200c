"""Light of an image and shading of hits: sun or lamp with shadows, sky, haze, gloss, relief."""

import math

import torch
import torch.nn.functional as F

from matching.training.surface import Surface
from matching.training.textures import TextureBank
from matching.training.world import (
    CELL_JITTER,
    COS,
    EMISSION,
    GLOSS,
    OFFSET_U,
    OFFSET_V,
    OVERLAY,
    OVERLAY_SCALE,
    OVERLAY_WEIGHT,
    RELIEF,
    SCALE,
    SIN,
    TEXTURE,
    TINT,
)

# columns of a light, one row of NUM_LIGHT numbers per image; colours are linear RGB
KEY = slice(0, 4)  # the light with shadows, homogeneous: w = 0 direction to it, w = 1 position
KEY_COLOR = slice(4, 7)
SKY = slice(7, 10)  # light from the zenith
HORIZON = slice(10, 13)
GROUND = slice(13, 16)  # light from below
HAZE = slice(16, 19)
HAZE_DENSITY = 19  # 1 / m
LAMPS = slice(20, 38)  # three lamps without shadows: position, colour
CLOUDS = 38  # texture of clouds and reflections
CLOUD_WEIGHT = 39
NUM_LIGHT = 40
NUM_LAMPS = 3

STEEPEST_RELIEF = 1.5  # metres per metre along u or v: 56 degrees
RELIEF_GAIN = 3.0  # at most this much more key light on a bump than on the face without relief


def light_row(
    *,
    key: tuple[float, float, float, float] = (0.4, 0.3, 0.8, 0.0),
    key_color: tuple[float, float, float] = (1.7, 1.55, 1.35),
    sky: tuple[float, float, float] = (0.26, 0.38, 0.6),
    horizon: tuple[float, float, float] = (0.55, 0.65, 0.75),
    ground: tuple[float, float, float] = (0.2, 0.18, 0.16),
    haze: tuple[float, float, float] = (0.7, 0.75, 0.8),
    haze_density: float = 0.0,
    lamps: tuple[tuple[float, ...], ...] = (),
    clouds: int = 0,
    cloud_weight: float = 0.0,
) -> torch.Tensor:
    """Light of one image as a row of numbers.

    Args:
        key: Direction towards the sun (w = 0) or position of a lamp in metres (w = 1).
        key_color: Its radiance; a lamp's falls off with the squared distance.
        sky: Colour of the zenith, which also lights upward faces.
        horizon: Colour at the horizon.
        ground: Light that comes from below.
        haze: Colour into which distance fades.
        haze_density: 1 / m.
        lamps: Up to three of (x, y, z, r, g, b), without shadows.
        clouds: Texture for clouds and mirrored surroundings.
        cloud_weight: 0 for a clear sky.
    """
    if len(lamps) > NUM_LAMPS:
        raise ValueError(f"at most {NUM_LAMPS} lamps, got {len(lamps)}")
    row = torch.zeros(NUM_LIGHT)
    for columns, values in (
        (KEY, key),
        (KEY_COLOR, key_color),
        (SKY, sky),
        (HORIZON, horizon),
        (GROUND, ground),
        (HAZE, haze),
    ):
        row[columns] = torch.tensor(values)
    if key[3] == 0:
        row[0:3] = F.normalize(row[0:3], dim=0)
    row[HAZE_DENSITY], row[CLOUDS], row[CLOUD_WEIGHT] = haze_density, clouds, cloud_weight
    for k, lamp in enumerate(lamps):
        row[20 + 6 * k : 26 + 6 * k] = torch.tensor(lamp)
    return row


def toward_key(light: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Unit direction to the key light and its falloff, at points (P, 3) with lights (P, L)."""
    w = light[:, 3:4]
    offset = light[:, 0:3] - w * points
    squared = (offset * offset).sum(-1, keepdim=True)
    falloff = torch.where(w > 0, 1.0 / (0.3 + squared), torch.ones_like(w))
    return offset * torch.rsqrt(squared.clamp_min(1e-12)), falloff


def sky_lod(bank: TextureBank) -> float:
    """Mip level of clouds and reflections: as if all textures had 128 pixels."""
    return max(0.0, math.log2(bank.size / 128))


def sky_color(light: torch.Tensor, direction: torch.Tensor, bank: TextureBank) -> torch.Tensor:
    """Radiance from a unit direction (P, 3): gradient, sun disc, clouds; ground from below."""
    up = direction[:, 2:3]
    blend = up.clamp(0, 1).sqrt()
    color = light[:, HORIZON] * (1 - blend) + light[:, SKY] * blend
    flat = 1.0 / (up.abs() + 0.15)
    clouds = bank.sample(
        light[:, CLOUDS],
        direction[:, 0] * flat[:, 0] * 0.2,
        direction[:, 1] * flat[:, 0] * 0.2,
        torch.full_like(up[:, 0], sky_lod(bank)),
    )
    cover = light[:, CLOUD_WEIGHT : CLOUD_WEIGHT + 1]
    color = color * (1 + cover * (4 * clouds - 1)).clamp_min(0.05)
    below = light[:, GROUND] * (0.5 + 1.5 * clouds)
    mix = (up * 6 + 0.5).clamp(0, 1)
    return below + (color - below) * mix


def albedo(
    material: torch.Tensor, surface: Surface, footprint: torch.Tensor, bank: TextureBank
) -> torch.Tensor:
    """Texture colour at hits, linear, (P, 3).

    Args:
        material: (P, NUM_MATERIAL) of the faces hit.
        surface: The hits.
        footprint: Size of a pixel on the surface, metres, (P,).
        bank: The textures.
    """
    jitter = surface.cell * material[:, CELL_JITTER]
    color = bank.sample(*_first_texture(material, surface, footprint, bank))
    layered = (material[:, OVERLAY_WEIGHT] > 0).nonzero()[:, 0]
    top = material[layered]
    over = top[:, OVERLAY_SCALE]
    second = bank.sample(
        top[:, OVERLAY],
        surface.u[layered] / over + top[:, OFFSET_V],
        surface.v[layered] / over + top[:, OFFSET_U],
        torch.log2((footprint[layered] / over * bank.size).clamp_min(1e-3)),
    )
    weight = top[:, OVERLAY_WEIGHT : OVERLAY_WEIGHT + 1]
    color[layered] *= 1 - weight + 2.2 * weight * second.sqrt()
    vary = 1 + 0.5 * (jitter[:, None] > 0).float() * (surface.cell[:, None] - 0.5)
    return color * material[:, TINT] * vary


def _first_texture(
    material: torch.Tensor, surface: Surface, footprint: torch.Tensor, bank: TextureBank
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Index, coordinates in repeats and mip level of the texture at hits, (P,) each."""
    scale = material[:, SCALE]
    jitter = surface.cell * material[:, CELL_JITTER]
    u = (surface.u * material[:, COS] - surface.v * material[:, SIN]) / scale
    v = (surface.u * material[:, SIN] + surface.v * material[:, COS]) / scale
    u, v = u + material[:, OFFSET_U] + jitter, v + material[:, OFFSET_V] + jitter * 1.618
    lod = torch.log2((footprint / scale * bank.size).clamp_min(1e-3))
    return material[:, TEXTURE], u, v, lod


def shading_normal(
    material: torch.Tensor, surface: Surface, footprint: torch.Tensor, bank: TextureBank
) -> torch.Tensor:
    """Normals that the light falls on: of the surface, bent where its material has relief.

    Args:
        material: (P, NUM_MATERIAL) of the faces hit.
        surface: The hits.
        footprint: Size of a pixel on the surface, metres, (P,).
        bank: The textures.

    Returns:
        Unit, world frame, (P, 3).
    """
    raised = (material[:, RELIEF] != 0).nonzero()[:, 0]
    own = material[raised]
    part = Surface(*(column[raised] for column in surface))
    slope = own[:, RELIEF, None] * bank.slope(*_first_texture(own, part, footprint[raised], bank))
    c, s = own[:, COS], own[:, SIN]
    # from the texture's axes back to the surface's
    du, dv = slope[:, 0] * c + slope[:, 1] * s, slope[:, 1] * c - slope[:, 0] * s
    normal = surface.normal.clone()
    normal[raised] = relief_normal(part.normal, du, dv)
    return normal


def relief_normal(
    normal: torch.Tensor, slope_u: torch.Tensor, slope_v: torch.Tensor
) -> torch.Tensor:
    """Bend normals by the slope of a height above the surface.

    The directions of u and v follow from the normal alone. On the outer faces of upright
    primitives they are those of `Surface`; on others, such as the walls of a room, they may be
    mirrored or turned, but alike for every camera.

    Args:
        normal: Unit, world frame, (P, 3).
        slope_u: Metres of height per metre to the right, (P,).
        slope_v: Metres of height per metre downwards, (P,).

    Returns:
        Unit, world frame, (P, 3).
    """
    du = slope_u.clamp(-STEEPEST_RELIEF, STEEPEST_RELIEF)[:, None]
    dv = slope_v.clamp(-STEEPEST_RELIEF, STEEPEST_RELIEF)[:, None]
    nx, ny, nz = normal.unbind(-1)
    # u is level on what stands upright, and along the world's x on what lies
    upright = torch.stack([-ny, nx, torch.zeros_like(nz)], -1)
    level = torch.stack([1 - nx * nx, -nx * ny, -nx * nz], -1)
    right = torch.where((nz.abs() > 0.75)[:, None], level, upright)
    right = right * torch.rsqrt((right * right).sum(-1, keepdim=True).clamp_min(1e-12))
    down = torch.linalg.cross(right, normal)
    return (normal - du * right - dv * down) * torch.rsqrt(1 + du * du + dv * dv)


def shade(
    light: torch.Tensor,
    material: torch.Tensor,
    surface: Surface,
    points: torch.Tensor,
    view_direction: torch.Tensor,
    distance: torch.Tensor,
    hit: torch.Tensor,
    lit: torch.Tensor,
    footprint: torch.Tensor,
    bank: TextureBank,
) -> torch.Tensor:
    """Linear radiance towards the camera.

    Args:
        light: Row of each hit's image, (P, NUM_LIGHT).
        material: (P, NUM_MATERIAL).
        surface: Faces, texture coordinates, normals.
        points: World, metres, (P, 3).
        view_direction: Unit, from the camera, (P, 3).
        distance: Metres from the camera, (P,).
        hit: False where the ray goes to the sky; the other arguments mean nothing there.
        lit: False in the key light's shadow, (P,) bool.
        footprint: Size of a pixel on the surface, metres, (P,).
        bank: Textures.

    Returns:
        (P, 3) float32.
    """
    base = albedo(material, surface, footprint, bank)
    normal = shading_normal(material, surface, footprint, bank)
    to_key, falloff = toward_key(light, points)
    # relief does not catch the light behind the face: there no shadow is known
    smooth = (surface.normal * to_key).sum(-1, keepdim=True)
    lit = lit & ((smooth[:, 0] > 0) | (material[:, RELIEF] == 0))
    key = light[:, KEY_COLOR] * falloff * lit[:, None].float()
    # bumps stand in each other's shadow where the light grazes: without it round bodies would
    # end in a hard edge of lit bumps
    cosine = torch.minimum((normal * to_key).sum(-1, keepdim=True), RELIEF_GAIN * smooth)
    diffuse = key * cosine.clamp_min(0)
    upward = 0.5 + 0.5 * normal[:, 2:3]
    ambient = light[:, GROUND] * (1 - upward) + light[:, SKY] * upward
    # walls see half of the horizon: keeps upright faces of different directions apart
    ambient = ambient + 0.25 * light[:, HORIZON] * (1 - normal[:, 2:3] ** 2) * (
        1 + 0.35 * normal[:, 0:1] + 0.2 * normal[:, 1:2]
    )
    for k in range(NUM_LAMPS):
        start = 20 + 6 * k
        offset = light[:, start : start + 3] - points
        squared = (offset * offset).sum(-1, keepdim=True)
        cosine = (normal * offset).sum(-1, keepdim=True) * torch.rsqrt(squared + 1e-6)
        diffuse = diffuse + light[:, start + 3 : start + 6] * cosine.clamp_min(0) / (0.3 + squared)
    emission = material[:, EMISSION : EMISSION + 1]
    color = base * (diffuse + ambient + emission)
    facing = -(normal * view_direction).sum(-1, keepdim=True)
    mirror = view_direction + 2 * facing * normal
    gloss = material[:, GLOSS : GLOSS + 1]
    fresnel = gloss + (1 - gloss) * gloss.sqrt() * (1 - facing.clamp(0, 1)) ** 5
    # one look into the sky serves both: mirrored at hits, direct elsewhere
    looking = torch.where(hit[:, None], mirror, view_direction)
    reflecting = (~hit | (gloss[:, 0] > 0)).nonzero()[:, 0]
    around = torch.zeros_like(color)
    around[reflecting] = sky_color(light[reflecting], looking[reflecting], bank)
    glint = key * (mirror * to_key).sum(-1, keepdim=True).clamp_min(0) ** 60 * 4
    color = color * (1 - fresnel) + fresnel * (around + glint)
    density = light[:, HAZE_DENSITY : HAZE_DENSITY + 1]
    clear = torch.exp(-density * distance[:, None])
    color = color * clear + light[:, HAZE] * (1 - clear)
    return torch.where(hit[:, None], color, around)
