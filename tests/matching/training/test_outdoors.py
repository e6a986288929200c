"""What streets are built of."""

import pytest
import torch

from matching.training.draft import Draft, Palette
from matching.training.outdoors import street
from matching.training.stage import Stage
from matching.training.world import AXES, HALF, KIND, RADIUS, Kind


@pytest.fixture(scope="module")
def streets(palette: Palette) -> Stage:
    return street(Draft(30, torch.Generator().manual_seed(0), palette, 0.0))


@pytest.mark.parametrize("first", [1, 23])  # place of the houses of one side, and of the other
def test_roofs_lie_on_the_houses_of_streets(streets: Stage, first: int) -> None:
    geometry = streets.scenes.geometry
    houses = geometry[:, first : first + 3]
    slabs = geometry[:, first + 3 : first + 9].reshape(30, 2, 3, -1)
    assert (houses[..., KIND] == Kind.FACADE).all() and (slabs[..., KIND] == Kind.BOX).all()
    assert 0.3 < float((slabs[..., RADIUS] > 0).float().mean()) < 0.7
    top = houses[..., 2] + houses[..., HALF][..., 2]
    middle = slabs.mean(1)
    torch.testing.assert_close(middle[..., :2], houses[..., :2])
    assert ((middle[..., 2] > top + 0.1) & (middle[..., 2] < top + 3)).all()
    # the ridge runs along the street
    over = slabs[:, 0, :, HALF][..., 0] - houses[..., HALF][..., 0]
    assert ((over > 0.04) & (over < 0.41)).all()
    half = houses[..., HALF][..., 1]
    torch.testing.assert_close((slabs[:, 0, :, 1] - houses[..., 1]).abs(), 0.5 * half)


def test_cables_hang_over_streets(streets: Stage) -> None:
    geometry = streets.scenes.geometry
    level = geometry[..., AXES].reshape(*geometry.shape[:2], 3, 3)[:, :, 2, 2].abs() < 1e-6
    cable = (geometry[..., KIND] == Kind.CYLINDER) & level & (geometry[..., RADIUS] > 0)
    assert 1.5 < float(cable.sum(1).float().mean()) < 3.5
    high = geometry[..., 2][cable]
    assert float(high.min()) >= 2.5 and float(high.max()) <= 8
