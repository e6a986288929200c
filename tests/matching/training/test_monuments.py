"""Monuments: what stands where, and of which stone."""

import pytest
import torch

from matching.training.draft import Draft, Palette
from matching.training.monuments import _windows, monument
from matching.training.stage import Stage
from matching.training.world import AXES, CENTER, HALF, KIND, PARAMS, RADIUS, Kind

# places in the scenes, in the order in which `monument` adds them
BODY, TOP_STEP, BEAM = 1, 9, 18
COLUMNS = slice(10, 18)
FRAMES, ARCHES, DOORS, LEAVES = slice(21, 24), slice(24, 27), slice(27, 30), slice(30, 33)
ROSE = slice(33, 35)
TOWERS, DRUMS, DOMES = slice(35, 37), slice(37, 39), slice(39, 41)
MIDDLE_DRUM = 45
PEDESTALS, FIGURES, HEADS, WINGS = slice(49, 55), slice(55, 61), slice(61, 67), slice(67, 69)


@pytest.fixture(scope="module")
def stage(palette: Palette) -> Stage:
    return monument(Draft(30, torch.Generator().manual_seed(0), palette, 0.1))


def low(geometry: torch.Tensor) -> torch.Tensor:
    return geometry[..., 2] - geometry[..., HALF][..., 2]


def high(geometry: torch.Tensor) -> torch.Tensor:
    return geometry[..., 2] + geometry[..., HALF][..., 2]


def test_parts_stand_on_each_other(stage: Stage) -> None:
    geometry = stage.scenes.geometry
    body = geometry[:, BODY, None]
    near = {"atol": 1e-4, "rtol": 1e-5}
    for upright in (body, geometry[:, TOWERS], geometry[:, WINGS], geometry[:, DOORS]):
        torch.testing.assert_close(low(upright), torch.zeros_like(low(upright)), **near)
    assert (geometry[:, TOWERS, KIND] == Kind.FACADE).all()
    drums, domes, top = geometry[:, DRUMS], geometry[:, DOMES], high(body)
    torch.testing.assert_close(low(drums), high(geometry[:, TOWERS]), **near)
    torch.testing.assert_close(domes[..., 2], high(drums), **near)
    torch.testing.assert_close(low(geometry[:, MIDDLE_DRUM, None]), top, **near)
    columns, beam = geometry[:, COLUMNS], geometry[:, BEAM, None]
    assert (columns[..., KIND] == Kind.CYLINDER).all()
    torch.testing.assert_close(
        low(columns), high(geometry[:, TOP_STEP, None]).expand(30, 8), **near
    )
    torch.testing.assert_close(high(columns), low(beam).expand(30, 8), **near)
    # columns stand on the top step, and pedestals on the roof of the body
    step = geometry[:, TOP_STEP, None]
    edge = step[..., 1] - step[..., HALF][..., 1]
    assert (columns[..., 1] - columns[..., HALF][..., 1] >= edge - 1e-4).all()
    pedestals, figures, heads = (geometry[:, part] for part in (PEDESTALS, FIGURES, HEADS))
    bottom = low(pedestals)
    on_roof = (bottom - top).abs() < 1e-3
    assert (on_roof | (bottom.abs() < 1e-3)).all() and 0.3 < float(on_roof.float().mean()) < 0.7
    beside = pedestals[..., 0].abs() - body[..., HALF][..., 0]
    assert (beside < 0).all()
    # figures reach into what they stand on, and heads into them
    for above, under in ((figures, pedestals), (heads, figures)):
        assert ((low(above) < high(under)) & (low(above) > under[..., 2])).all()


def test_portals_are_in_the_front_under_arches(stage: Stage) -> None:
    geometry = stage.scenes.geometry
    front = geometry[:, BODY, 1] - geometry[:, BODY, HALF][:, 1]
    doors = geometry[:, DOORS]
    for disc, box in ((ARCHES, FRAMES), (LEAVES, DOORS)):
        discs, under = geometry[:, disc], geometry[:, box]
        half = discs[..., HALF]
        # flat along y, as wide as what is under it, round about its top
        torch.testing.assert_close(discs[..., AXES][..., 6:9], torch.eye(3)[1].expand(30, 3, 3))
        assert (discs[..., KIND] == Kind.CYLINDER).all() and (half[..., 2] < 0.3).all()
        torch.testing.assert_close(half[..., 0], half[..., 1])
        torch.testing.assert_close(half[..., 0], under[..., HALF][..., 0])
        torch.testing.assert_close(discs[..., 0], under[..., 0])
        torch.testing.assert_close(discs[..., 2], high(under))
    # doors stand out from their frames, and these from the wall
    frames = geometry[:, FRAMES]
    stands_out = [front[:, None] - (p[..., 1] - p[..., HALF][..., 1]) for p in (frames, doors)]
    assert (stands_out[0] > 0.1).all() and (stands_out[1] > stands_out[0]).all()
    rose = geometry[:, ROSE]
    assert (rose[..., 1] == front[:, None]).all() and (rose[..., 2] > doors[:, :1, 2]).all()
    assert (geometry[:, COLUMNS, 1] < front[:, None]).all()


def test_the_building_is_of_the_stone_of_its_body(stage: Stage) -> None:
    materials = stage.scenes.materials
    for part in (slice(4, 19), FRAMES, ARCHES, TOWERS, WINGS):
        assert (materials[:, part] == materials[:, BODY, None]).all()
    assert (materials[:, DOORS] != materials[:, BODY, None]).any()
    # the round top of a door is of its wood
    assert (materials[:, LEAVES] == materials[:, DOORS]).all()


def test_cameras_look_at_all_of_the_building(stage: Stage, palette: Palette) -> None:
    geometry = stage.scenes.geometry
    used = (geometry[..., RADIUS] > 0)[:, BODY : WINGS.stop]
    centers = geometry[:, BODY : WINGS.stop, CENTER]
    # towers and roofs are above the cameras, wings beside them: their middles are looked at
    seen = (stage.targets[:, BODY : WINGS.stop] == centers).all(-1)
    assert float(seen[used].float().mean()) > 0.8
    assert float((centers[..., 2] > stage.high[:, None, 2] + 1.5)[seen & used].float().mean()) > 0.2
    # what is no thing is any point about the building
    other = stage.targets[geometry[..., RADIUS] <= 0]
    body = geometry[:, BODY, HALF]
    assert float(other[:, 1].max()) > 2 and float(other[:, 2].max()) > float(body[:, 2].min())


def test_windows_leave_the_walls_standing(palette: Palette) -> None:
    draft = Draft(200, torch.Generator().manual_seed(0), palette, 0.0)
    wide, tall = draft.log_uniform(3, low=0.4, high=18.0), draft.uniform(3, low=1.5, high=18.0)
    cell_w, cell_h, half_w, half_h, depth = _windows(draft, wide, tall).unbind(-1)
    for cell, wall, most in ((cell_w, wide, 11), (cell_h, tall, 4)):
        number = 1.9 * wall / cell  # a little of the wall is left at both ends
        torch.testing.assert_close(number, number.round(), atol=1e-3, rtol=0)
        assert float(number.min()) >= 1 and float(number.max()) <= most + 0.01
    assert (half_h < 0.5 * cell_h).all() and float((half_w / half_h).median()) < 1
    # recesses of neighbours, or of two walls about a corner, do not meet
    assert (half_w <= 0.5 * cell_w - depth + 1e-5).all()
    assert float(depth.min()) > 0.039 and float(depth.max()) < 0.501
    assert float(half_w.min()) > 0.09


def test_monuments_are_large_and_cameras_look_at_them_from_before(stage: Stage) -> None:
    geometry = stage.scenes.geometry
    used = geometry[..., RADIUS] > 0
    body = geometry[:, 1]  # behind the ground
    assert (body[:, KIND] == Kind.FACADE).all()
    wide, front = body[:, HALF][:, 0], body[:, 1] - body[:, HALF][:, 1]
    assert float(wide.min()) >= 5 and float(wide.max()) > 12
    assert (stage.low < stage.high).all() and (stage.high[:, 1] < front).all()
    assert not stage.indoor.any()
    # most of what is looked at is a part of the building, not of the square
    at_building = stage.targets[..., 1] > front[:, None] - 0.3 * wide[:, None]
    assert float(at_building.float().mean()) > 0.5
    assert int(used.sum(1).min()) > 40
    # windows of two walls do not meet in the corners
    facade = used & (geometry[..., KIND] == Kind.FACADE)
    half, (cell_w, _, half_w, _, depth) = geometry[..., HALF], geometry[..., PARAMS].unbind(-1)[:5]
    assert (depth < half[..., :2].amin(-1))[facade].all()
    for axis in (0, 1):
        columns = torch.floor(2 * half[..., axis] / cell_w.clamp_min(1e-3) + 1e-4)
        edge = 0.5 * (columns - 1) * cell_w + half_w
        clear = (edge <= half[..., axis] - depth + 1e-4) | (columns == 0)
        assert clear[facade].all()
