"""Furniture, roofs and cables of drafts."""

import pytest
import torch

from matching.training.draft import Draft, Palette
from matching.training.furnish import (
    add_cables,
    add_chairs,
    add_roof,
    add_sofas,
    add_tables,
    add_trees,
)
from matching.training.world import AXES, HALF, KIND, PARAMS, RADIUS, Kind


def test_parts_of_a_thing_are_of_one_material_and_stand_on_the_floor(palette: Palette) -> None:
    draft = Draft(20, torch.Generator().manual_seed(0), palette, 0.0)
    corner = torch.full((20, 2), 2.0)
    tops = add_tables(draft, 2, -corner, corner)
    add_chairs(draft, 1, -corner, corner)
    add_sofas(draft, 1, -corner, corner)
    geometry, materials = draft.finish(24)
    tables, chair, sofa = slice(0, 10), slice(10, 16), slice(16, 20)
    for first, parts in ((0, slice(0, 10, 2)), (1, slice(1, 10, 2)), (10, chair), (16, sofa)):
        assert (materials[:, parts] == materials[:, first, None]).all()
    assert (materials[:, 0] != materials[:, 1]).any() and (
        materials[:, 10] != materials[:, 16]
    ).any()
    low = geometry[..., 2] - geometry[..., HALF][..., 2]
    high = geometry[..., 2] + geometry[..., HALF][..., 2]
    torch.testing.assert_close(high[:, tables].amax(1), tops[..., 2].amax(1))
    for thing in (tables, chair, sofa):
        torch.testing.assert_close(low[:, thing].amin(1), torch.zeros(20), atol=1e-6, rtol=0)
    # the parts stay together
    for thing, reach in ((chair, 0.5), (sofa, 1.9)):
        centers = geometry[:, thing, :2]
        assert float((centers - centers[:, :1]).norm(dim=-1).max()) < reach


def test_trees_stand_on_the_ground_and_carry_two_shells_of_leaves(palette: Palette) -> None:
    draft = Draft(10, torch.Generator().manual_seed(0), palette, 0.0)
    foot = torch.randn(10, 2, 3)
    ones = torch.ones(10, 2)
    keep = torch.arange(2).expand(10, 2) > 0
    add_trees(
        draft, foot, 0.1 * ones, 3 * ones, 2 * ones, 0.2 * ones, fill=0.8, seed=5.0, keep=keep
    )
    geometry, _ = draft.finish(6)
    trunk, *shells = geometry.split(2, 1)
    assert (trunk[..., KIND] == Kind.CYLINDER).all()
    half = trunk[..., HALF]
    torch.testing.assert_close(trunk[..., :2], foot[..., :2])
    torch.testing.assert_close(trunk[..., 2] - half[..., 2], foot[..., 2])
    top = trunk[..., 2] + half[..., 2]
    torch.testing.assert_close(top, foot[..., 2] + 3)
    for number, (shell, radius) in enumerate(zip(shells, (2.0, 1.5), strict=True)):
        assert (shell[..., KIND] == Kind.BUSH).all() and (shell[..., HALF] == radius).all()
        torch.testing.assert_close(shell[..., :2], foot[..., :2])
        assert (shell[..., 2] - radius < top).all()  # around the trunk
        leaf = torch.tensor([0.2, 0.52, 0.8, 5.0 + number]).expand(10, 2, 4)
        torch.testing.assert_close(shell[..., PARAMS][..., :4], leaf)
    for part in (trunk, *shells):
        assert torch.equal(part[..., RADIUS] > 0, keep)


@pytest.mark.parametrize("along_y", [False, True])
def test_roofs_meet_in_a_ridge_over_the_middle_of_the_house(
    palette: Palette, along_y: bool
) -> None:
    draft = Draft(20, torch.Generator().manual_seed(0), palette, 0.0)
    top = torch.tensor([1.0, 2.0, 5.0]).expand(20, 1, 3)
    half = torch.tensor([4.0, 3.0]).expand(20, 1, 2)
    add_roof(draft, top, half, torch.ones(20, 1) > 0, along_y=along_y)
    geometry, materials = draft.finish(2)
    assert (materials[:, 0] == materials[:, 1]).all()
    span = 0 if along_y else 1  # the axis the slabs lean along
    # the inner edge of both slabs: from the middle towards the ridge, along their own axis
    for slab, side in ((0, -1.0), (1, 1.0)):
        axes = geometry[:, slab, AXES].reshape(20, 3, 3)
        down = axes[:, span] * torch.sign(axes[:, span, span])[:, None] * side
        center, size = geometry[:, slab, :3], geometry[:, slab, HALF]
        assert (down[:, 2] < 0).all()  # outwards is downwards
        # half way between the wall and the ridge
        out = side * (center[:, span] - top[:, 0, span])
        torch.testing.assert_close(out, 0.5 * half[:, 0, span])
        # how far along the slab the house's middle lies, and how high the slab is there
        reach = (center[:, span] - top[:, 0, span]).abs() / down[:, span].abs()
        ridge = center - reach[:, None] * down
        assert (reach < size[:, span]).all()
        torch.testing.assert_close(ridge[:, span], top[:, 0, span])
        assert (ridge[:, 2] > 5.5).all()
        # at the wall the roof lies on the house's top
        wall = center + reach[:, None] * down
        torch.testing.assert_close(wall[:, 2], torch.full((20,), 5.0), atol=1e-4, rtol=0)
        # and over its ends, by the eaves
        over = size[:, 1 - span] - half[0, 0, 1 - span]
        assert (over > 0.04).all() and (over < 0.41).all()
        assert (center[:, 1 - span] == top[:, 0, 1 - span]).all()


def test_roofs_can_be_left_out(palette: Palette) -> None:
    draft = Draft(5, torch.Generator().manual_seed(0), palette, 0.0)
    keep = torch.tensor([True, False]).expand(5, 2)
    add_roof(draft, torch.zeros(5, 2, 3), torch.ones(5, 2, 2), keep)
    geometry, _ = draft.finish(4)
    assert torch.equal(geometry[..., RADIUS] > 0, torch.cat([keep, keep], 1))


def test_cables_are_level_and_thin(palette: Palette) -> None:
    draft = Draft(50, torch.Generator().manual_seed(0), palette, 0.0)
    low = torch.tensor([-2.0, -2.0, 1.0]).expand(50, 3)
    add_cables(draft, 4, low, low + 3, longest=6.0)
    geometry, _ = draft.finish(4)
    axes = geometry[..., AXES].reshape(50, 4, 3, 3)
    torch.testing.assert_close(axes[:, :, 2, 2], torch.zeros(50, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(50, 4))
    half = geometry[..., HALF]
    assert float(half[..., :2].max()) <= 0.025 and float(half[..., 2].max()) <= 3.0
    # their length runs along local z, and that along a wall or askew
    long = axes[:, :, 2, :2].abs()
    torch.testing.assert_close(long.norm(dim=-1), torch.ones(50, 4))
    assert float(half[..., 2].min()) >= 0.3
    straight = long.amax(-1) > 0.9999
    assert 0.45 < float(straight.float().mean()) < 0.75
    assert 0.3 < float((long[..., 0] > 0.9999)[straight].float().mean()) < 0.7
    assert ((geometry[..., :3] >= low[:, None]) & (geometry[..., :3] <= low[:, None] + 3)).all()
