"""Hits of single primitives against what geometry says."""

import math

import pytest
import torch

from matching.training import raycast
from matching.training.builder import PlaceBuilder
from matching.training.world import NUM_GEOMETRY, NUM_MATERIAL, Kind, Scenes


def cast(
    kind: Kind,
    half: tuple[float, float, float],
    origin: tuple[float, float, float],
    direction: tuple[float, float, float],
    params: tuple[float, ...] = (),
) -> float:
    """Distance of one ray to one primitive at the origin of its own frame."""
    o = tuple(torch.tensor([float(x)]) for x in origin)
    d = tuple(torch.tensor([float(x)]) for x in direction)
    padded = [*params, *[0.0] * (6 - len(params))]
    t = raycast.intersect((o[0], o[1], o[2]), (d[0], d[1], d[2]), int(kind), list(half), padded)
    return float(t[0])


WINDOWS = (2.0, 2.0, 0.5, 0.5, 0.3)  # cells of 2 m, windows of 1 m, 0.3 m deep


@pytest.mark.parametrize(
    ("kind", "half", "origin", "direction", "params", "expected"),
    [
        (Kind.BOX, (1, 2, 3), (-5, 0, 0), (1, 0, 0), (), 4.0),
        (Kind.BOX, (1, 2, 3), (-5, 2.01, 0), (1, 0, 0), (), math.inf),
        (Kind.BOX, (1, 2, 3), (0, 0, 9), (0, 0, -2), (), 3.0),  # t counts in lengths of d
        (Kind.BOX, (1, 2, 3), (5, 0, 0), (1, 0, 0), (), math.inf),  # behind the ray
        (Kind.BOX, (1, 2, 3), (0, 0, 0), (1, 0, 0), (), math.inf),  # from inside
        (Kind.ROOM, (1, 2, 3), (0, 0, 0), (0, 1, 0), (), 2.0),
        (Kind.ROOM, (1, 2, 3), (0.5, 0, 0), (1, 1, 0), (), 0.5),
        (Kind.ELLIPSOID, (1, 2, 3), (0, -7, 0), (0, 1, 0), (), 5.0),
        (Kind.ELLIPSOID, (2, 2, 2), (-5, 1, 0), (1, 0, 0), (), 5 - math.sqrt(3)),
        (Kind.ELLIPSOID, (1, 2, 3), (1.01, -7, 0), (0, 1, 0), (), math.inf),
        (Kind.CYLINDER, (1, 1, 2), (-4, 0, 1.9), (1, 0, 0), (), 3.0),
        (Kind.CYLINDER, (1, 1, 2), (0.5, 0, 5), (0, 0, -1), (), 3.0),  # through a cap
        (Kind.CYLINDER, (1, 1, 2), (-4, 0, 2.1), (1, 0, 0), (), math.inf),
        (Kind.FACADE, (4, 4, 4), (1, -9, 1), (0, 1, 0), WINDOWS, 5.3),  # back of a window
        (Kind.FACADE, (4, 4, 4), (0, -9, 0), (0, 1, 0), WINDOWS, 5.0),  # wall between windows
        # into a window aslant: the jamb at x = 1.5 comes before the back
        (Kind.FACADE, (4, 4, 4), (1.4 - 5, -9, 1), (1, 1, 0), WINDOWS, 5.1),
        (Kind.PANEL, (2, 2, 0), (0.05, 0.3, 3), (0, 0, -1), (1, 1.0, 0.2), 3.0),  # on a bar
        (Kind.PANEL, (2, 2, 0), (0.5, 0.3, 3), (0, 0, -1), (1, 1.0, 0.2), math.inf),  # between
        (Kind.PANEL, (2, 2, 0), (0.5, 0.1, 3), (0, 0, -1), (2, 1.0, 0.2), 3.0),  # on the grid
        (Kind.PANEL, (2, 2, 0), (2.1, 0.3, 3), (0, 0, -1), (), math.inf),
    ],
)
def test_hit(
    kind: Kind,
    half: tuple[float, float, float],
    origin: tuple[float, float, float],
    direction: tuple[float, float, float],
    params: tuple[float, ...],
    expected: float,
) -> None:
    assert cast(kind, half, origin, direction, params) == pytest.approx(expected, abs=1e-5)


def test_terrain_hits_lie_on_the_waves() -> None:
    params = [0.8, 0.3, 0.1, 20.0, 7.0, 3.0]
    generator = torch.Generator().manual_seed(0)
    d = torch.randn(500, 3, generator=generator)
    d[:, 2] = -d[:, 2].abs() - 0.1
    o = (torch.zeros(500), torch.zeros(500), torch.full((500,), 3.0))
    t = raycast.intersect(o, (d[:, 0], d[:, 1], d[:, 2]), Kind.TERRAIN, [80.0, 80.0, 4.0], params)
    hit = torch.isfinite(t)
    assert hit.float().mean() > 0.95
    x, y, z = (t * d[:, 0])[hit], (t * d[:, 1])[hit], 3 + (t * d[:, 2])[hit]
    height = (
        0.8 * torch.sin(2 * math.pi / 20 * (0.8 * x + 0.6 * y))
        + 0.3 * torch.sin(2 * math.pi / 7 * (0.28 * x - 0.96 * y) + 1)
        + 0.1 * torch.sin(2 * math.pi / 3 * (-0.9 * x - 0.436 * y) + 2)
    )
    assert ((z - height).abs() < 1e-3 * t[hit] + 1e-3 + 1e-5).all()


def test_leaves_are_holes_in_a_shell() -> None:
    """Every hit of a bush lies on its ellipsoid, and some rays pass through its gaps."""
    generator = torch.Generator().manual_seed(1)
    o = torch.randn(2000, 3, generator=generator)
    o = 4 * o / o.norm(dim=1, keepdim=True)
    d = -o + 0.3 * torch.randn(2000, 3, generator=generator)
    t = raycast.intersect(
        (o[:, 0], o[:, 1], o[:, 2]), (d[:, 0], d[:, 1], d[:, 2]), Kind.BUSH,
        [1.0, 1.0, 1.0], [0.2, 0.5, 0.7, 3.0, 0.0, 0.0],
    )  # fmt: skip
    hit = torch.isfinite(t)
    assert 0.3 < float(hit.float().mean()) < 0.97
    torch.testing.assert_close(
        (o + t[:, None] * d)[hit].norm(dim=1), torch.ones(int(hit.sum())), atol=1e-4, rtol=0
    )


def primitives() -> raycast.Primitives:
    b = PlaceBuilder(0, texture_size=4)
    plain = b.material(0)
    generator = torch.Generator().manual_seed(2)
    kinds = (Kind.BOX, Kind.ELLIPSOID, Kind.CYLINDER, Kind.FACADE, Kind.PANEL, Kind.BUSH)
    for k in range(30):
        center = (6 * (torch.rand(3, generator=generator) - 0.5)).tolist()
        half = (0.1 + 0.5 * torch.rand(3, generator=generator)).tolist()
        kind = kinds[k % len(kinds)]
        params = {Kind.FACADE: (0.2, 0.2, 0.05, 0.05, 0.03), Kind.PANEL: (1, 0.1, 0.5)}
        own = params.get(kind, (0.1, 0.5, 0.8, 3.0))
        b.add(kind, center, half, plain, yaw=k, pitch=0.3 * k, roll=0.2 * k, params=own)
    return raycast.Primitives(torch.stack(b._geometry), 0)


def everything(count: int) -> raycast.Cull:
    return lambda centers, radii: torch.ones(len(centers), count, dtype=torch.bool)


def test_culling_changes_nothing() -> None:
    scene, origin = primitives(), torch.tensor([0.0, -7.0, 0.5])
    x = torch.linspace(-0.5, 0.5, 48)
    grid = torch.stack(torch.meshgrid(x, x, indexing="xy"), -1)
    d = torch.stack([grid[..., 0], torch.ones(48, 48), grid[..., 1]], -1)
    d = d.reshape(6, 8, 6, 8, 3).transpose(1, 2).reshape(36, 64, 3)
    t, ids = raycast.trace(scene, origin, d, raycast.cone_cull(origin, d))
    t_all, ids_all = raycast.trace(scene, origin, d, everything(36))
    assert torch.equal(ids, ids_all) and torch.equal(t, t_all)
    assert len(ids.unique()) > 10


@pytest.mark.parametrize("key", [(0.4, 0.3, 0.8, 0.0), (1.0, -1.0, 4.0, 1.0)])
def test_shadow_culling_changes_nothing(key: tuple[float, ...]) -> None:
    scene, light = primitives(), torch.tensor(key)
    x = torch.linspace(-3, 3, 32)
    points = torch.stack(torch.meshgrid(x, x, torch.tensor([-2.5]), indexing="xy"), -1)
    points = points.reshape(64, 16, 3)
    active = torch.rand(64, 16, generator=torch.Generator().manual_seed(0)) < 0.8
    ids = torch.full((64, 16), -1, dtype=torch.int32)
    dark = raycast.shadowed(scene, points, ids, active, light)
    alone = raycast.shadowed(
        scene, points.reshape(-1, 1, 3), ids.reshape(-1, 1), active.reshape(-1, 1), light
    )
    assert torch.equal(dark.reshape(-1), alone.reshape(-1))
    assert 0.02 < float(dark.float().mean()) < 0.9
    assert not (dark & ~active).any()


def test_lamp_beyond_a_wall_lights_what_is_before_it() -> None:
    b = PlaceBuilder(0, texture_size=4)
    b.add(Kind.BOX, (0, 0, 2), (1, 1, 0.1), b.material(0))
    scene = raycast.Primitives(torch.stack(b._geometry), 0)
    point, on = torch.tensor([[[0.0, 0.0, 0.0]]]), torch.ones(1, 1, dtype=torch.bool)
    ids = torch.full((1, 1), -1, dtype=torch.int32)
    for height, dark in ((1.5, False), (3.0, True)):
        lamp = torch.tensor([0.0, 0.0, height, 1.0])
        assert bool(raycast.shadowed(scene, point, ids, on, lamp)) is dark


def test_absent_primitives_are_not_hit() -> None:
    b = PlaceBuilder(0, texture_size=4)
    b.add(Kind.BOX, (0, 0, 0), (1, 1, 1), b.material(0))
    row = torch.stack(b._geometry)
    origin, d = torch.tensor([0.0, -5.0, 0.0]), torch.tensor([[[0.0, 1.0, 0.0]]])
    for views, seen in ((1.0, (True, False)), (2.0, (False, True)), (3.0, (True, True))):
        row[0, 23] = views
        for view in (0, 1):
            scene = raycast.Primitives(row, view)
            _, ids = raycast.trace(scene, origin, d, raycast.cone_cull(origin, d))
            assert bool(ids[0, 0] == 0) is seen[view]


def test_scenes_refuse_wrong_shapes() -> None:
    geometry = torch.zeros(2, 3, NUM_GEOMETRY)
    with pytest.raises(ValueError, match="materials must be"):
        Scenes(geometry=geometry, materials=torch.zeros(2, 4, 8, NUM_MATERIAL))
    with pytest.raises(ValueError, match="geometry must be"):
        Scenes(geometry=geometry[0], materials=torch.zeros(2, 3, 8, NUM_MATERIAL))
