"""From a hit (primitive, point) to its face, texture coordinates and normal; on any device."""

import math
from typing import NamedTuple

import torch

from matching.training.raycast import hash_cells
from matching.training.world import (
    AXES,
    CENTER,
    HALF,
    KIND,
    PARAMS,
    REVEAL,
    WINDOW,
    Kind,
)

# plain numbers: torch.compile does not trace through enumerations
_ELLIPSOID, _CYLINDER, _FACADE = float(Kind.ELLIPSOID), float(Kind.CYLINDER), float(Kind.FACADE)
_PANEL, _BUSH, _TERRAIN = float(Kind.PANEL), float(Kind.BUSH), float(Kind.TERRAIN)


class Surface(NamedTuple):  # a tuple, so that torch.compile traces through it
    """Where rays hit; all of shape (P, ...)."""

    face: torch.Tensor  # (P,) int64, which material
    u: torch.Tensor  # (P,) metres along the face, to the right as seen from outside
    v: torch.Tensor  # (P,) metres along the face, downwards
    normal: torch.Tensor  # (P, 3) unit, world frame, towards the viewer
    cell: torch.Tensor  # (P,) float in [0, 1): a number of the window or leaf, 0 elsewhere


def _cell_number(i: torch.Tensor, j: torch.Tensor, k: torch.Tensor) -> torch.Tensor:
    h = hash_cells(i.to(torch.int32), j.to(torch.int32), k.to(torch.int32), 1)
    return h.float() * (1.0 / 16777216.0)


def surface_at(rows: torch.Tensor, points: torch.Tensor, directions: torch.Tensor) -> Surface:
    """Face, texture coordinates and normal at hits.

    Args:
        rows: Geometry of the primitive each ray hit, (P, NUM_GEOMETRY).
        points: Hits in the world, (P, 3).
        directions: Ray directions, (P, 3), to turn normals towards the viewer.
    """
    axes = rows[:, AXES].reshape(-1, 3, 3)
    q = torch.einsum("pij,pj->pi", axes, points - rows[:, CENTER])
    d = torch.einsum("pij,pj->pi", axes, directions)
    kind, half, params = rows[:, KIND], rows[:, HALF], rows[:, PARAMS]
    x, y, z = q.unbind(-1)
    hx, hy, hz = half.unbind(-1)

    # the nearest face of a box; for round bodies the dominant direction
    smooth = (kind == _ELLIPSOID) | (kind == _BUSH)
    gap = torch.where(smooth[:, None], -(q / half).abs(), half - q.abs())
    axis_x = (gap[:, 0] <= gap[:, 1]) & (gap[:, 0] <= gap[:, 2])
    axis_y = ~axis_x & (gap[:, 1] <= gap[:, 2])
    flat = (kind == _PANEL) | (kind == _TERRAIN)
    cylinder = kind == _CYLINDER
    radial = (x / hx) ** 2 + (y / hy) ** 2
    wall = cylinder & ((1 - radial.clamp_min(0).sqrt()) * torch.minimum(hx, hy) <= gap[:, 2])
    axis_x = (axis_x & ~flat & ~cylinder) | wall
    axis_y = axis_y & ~flat & ~cylinder
    axis = torch.where(axis_x, 0, torch.where(axis_y, 1, 2))
    along = torch.where(axis_x, x, torch.where(axis_y, y, z))
    sign = torch.where(along >= 0, 1.0, -1.0)
    sign = torch.where(flat | wall, 1.0, sign)
    face = 2 * axis + (sign > 0).long()

    u = torch.where(axis_x, sign * y, torch.where(axis_y, -sign * x, x))
    v = torch.where(axis_x | axis_y, -z, -sign * y)
    u = torch.where(wall, torch.atan2(y, x) * torch.minimum(hx, hy), u)

    zero = torch.zeros_like(x)
    one = torch.ones_like(x)
    normal = torch.stack(
        [
            torch.where(axis_x, sign, zero),
            torch.where(axis_y, sign, zero),
            torch.where(axis_x | axis_y, zero, sign * one),
        ],
        -1,
    )
    gradient = q / (half * half)
    normal = torch.where(smooth[:, None], gradient, normal)
    normal = torch.where(
        wall[:, None], torch.stack([gradient[:, 0], gradient[:, 1], zero], -1), normal
    )
    normal = torch.where((kind == _TERRAIN)[:, None], _terrain_normal(x, y, params), normal)

    cell = zero
    # points inside the box are in a recess; where those of two walls meet, of the nearer wall
    fx = _facade_cell(y, z, hy, hz, params)
    fy = _facade_cell(x, z, hx, hz, params)
    deep = (kind == _FACADE) & (torch.minimum(gap[:, 0], gap[:, 1]) > 2e-4)
    deep = deep & (gap[:, 2] > 2e-4)
    reach = params[:, 4] + 2e-4
    of_x, of_y = fx[4] & (gap[:, 0] <= reach), fy[4] & (gap[:, 1] <= reach)
    in_x = deep & of_x & (~of_y | (gap[:, 0] <= gap[:, 1]))
    cs = torch.where(in_x, fx[0], fy[0])
    cz = torch.where(in_x, fx[1], fy[1])
    s, depth_in = torch.where(in_x, y, x), torch.where(in_x, gap[:, 0], gap[:, 1])
    side = torch.where(in_x, torch.where(x >= 0, 1.0, -1.0), torch.where(y >= 0, 1.0, -1.0))
    rs, rz = s - cs, z - cz
    gap_back = (params[:, 4] - depth_in).abs()
    gap_s, gap_z = (params[:, 2] - rs.abs()).abs(), (params[:, 3] - rz.abs()).abs()
    back = deep & (gap_back <= gap_s) & (gap_back <= gap_z)
    jamb = deep & ~back & (gap_s <= gap_z)
    sill = deep & ~back & ~jamb
    face = torch.where(back, WINDOW, torch.where(deep, REVEAL, face))
    right = torch.where(in_x, side, -side)  # direction of u along s, seen from outside
    u = torch.where(back, rs * right, torch.where(jamb, depth_in, torch.where(sill, rs, u)))
    v = torch.where(back | jamb, -rz, torch.where(sill, depth_in, v))
    n_s = torch.where(rs > 0, -1.0, 1.0)
    n_z = torch.where(rz > 0, -1.0, 1.0)
    n_a = torch.where(back, side, zero)
    n_s = torch.where(jamb, n_s, zero)
    recessed = torch.stack(
        [
            torch.where(in_x, n_a, n_s),
            torch.where(in_x, n_s, n_a),
            torch.where(sill, n_z, zero),
        ],
        -1,
    )
    normal = torch.where(deep[:, None], recessed, normal)
    i, j = torch.where(in_x, fx[2], fy[2]), torch.where(in_x, fx[3], fy[3])
    window = _cell_number(i, j, side + 2.0 * in_x.float())
    cell = torch.where(deep, window, cell)

    leafy = (kind == _BUSH) | ((kind == _PANEL) & (params[:, 0] == 3))
    size = torch.where((kind == _BUSH), params[:, 0], params[:, 1]).clamp_min(1e-4)
    index = torch.floor(q / size[:, None])
    leaf = _cell_number(index[:, 0], index[:, 1], index[:, 2])
    cell = torch.where(leafy, leaf, cell)
    tilt = torch.stack([leaf, (leaf * 7.31) % 1.0, (leaf * 13.7) % 1.0], -1) - 0.5
    normal = torch.nn.functional.normalize(normal, dim=-1)
    normal = torch.where(leafy[:, None], normal + 1.2 * tilt, normal)
    facing = (normal * d).sum(-1, keepdim=True)
    normal = torch.where(facing > 0, -normal, normal)
    normal = torch.nn.functional.normalize(normal, dim=-1)
    return Surface(
        face=face,
        u=u,
        v=v,
        normal=torch.einsum("pij,pi->pj", axes, normal),
        cell=cell,
    )


def _facade_cell(
    s: torch.Tensor, z: torch.Tensor, half_s: torch.Tensor, half_z: torch.Tensor, p: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor, torch.Tensor]:
    """Centre and numbers of the cell of a facade, and whether its window holds the point."""
    width, height = p[:, 0].clamp_min(1e-3), p[:, 1].clamp_min(1e-3)
    columns = torch.floor(2 * half_s / width + 1e-4)
    rows = torch.floor(2 * half_z / height + 1e-4)
    i = torch.floor(s / width + 0.5 * columns)
    j = torch.floor(z / height + 0.5 * rows)
    cs, cz = (i + 0.5 - 0.5 * columns) * width, (j + 0.5 - 0.5 * rows) * height
    inside = (i >= 0) & (i < columns) & (j >= 0) & (j < rows)
    inside = inside & ((s - cs).abs() <= p[:, 2] + 2e-4) & ((z - cz).abs() <= p[:, 3] + 2e-4)
    return cs, cz, i, j, inside


def _terrain_normal(x: torch.Tensor, y: torch.Tensor, params: torch.Tensor) -> torch.Tensor:
    slope_x, slope_y = torch.zeros_like(x), torch.zeros_like(x)
    for k, (cx, cy) in enumerate(((0.8, 0.6), (0.28, -0.96), (-0.9, -0.436))):
        w = 2 * math.pi / params[:, 3 + k].clamp_min(1e-3)
        wave = params[:, k] * w * torch.cos(w * (cx * x + cy * y) + float(k))
        slope_x, slope_y = slope_x + cx * wave, slope_y + cy * wave
    return torch.stack([-slope_x, -slope_y, torch.ones_like(x)], -1)
