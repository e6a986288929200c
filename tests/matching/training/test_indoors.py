"""What rooms are furnished with."""

import pytest
import torch

from matching.training.draft import Draft, Palette
from matching.training.furnish import add_chairs
from matching.training.indoors import room
from matching.training.stage import Stage
from matching.training.world import AXES, CENTER, EMISSION, HALF, KIND, PARAMS, RADIUS, Kind

# places in the scenes, in the order in which `room` adds them
CEILING, PICTURES, VIEWS_OUT = 2, slice(4, 12), slice(12, 15)
SHELVES, BOOKS = slice(19, 21), slice(21, 23)


@pytest.fixture(scope="module")
def rooms(palette: Palette) -> Stage:
    return room(Draft(40, torch.Generator().manual_seed(0), palette, 0.0))


def test_ceilings_hang_over_rooms(rooms: Stage) -> None:
    geometry = rooms.scenes.geometry
    assert (geometry[:, 0, KIND] == Kind.ROOM).all()
    walls, ceiling = geometry[:, 0], geometry[:, CEILING]
    torch.testing.assert_close(ceiling[:, 2], walls[:, 2] + walls[:, HALF][:, 2])
    assert torch.equal(ceiling[:, HALF][:, :2], walls[:, HALF][:, :2])
    assert 0.55 < float((ceiling[:, RADIUS] > 0).float().mean()) < 0.95


def test_books_stand_in_their_shelves(rooms: Stage) -> None:
    shelves, books = rooms.scenes.geometry[:, SHELVES], rooms.scenes.geometry[:, BOOKS]
    assert (shelves[..., KIND] == Kind.FACADE).all() and (books[..., KIND] == Kind.BOX).all()
    assert torch.equal(shelves[..., CENTER], books[..., CENTER])
    assert (books[..., HALF] <= shelves[..., HALF]).all()
    ratio = books[..., HALF] / shelves[..., HALF]
    torch.testing.assert_close(ratio[..., :2].amin(-1), torch.full((40, 2), 0.4))
    assert 0.3 < float((books[..., RADIUS] > 0).float().mean()) < 0.7
    # only the long sides have compartments: those of two sides would meet about a corner
    thin, long = shelves[..., HALF][..., :2].amin(-1), shelves[..., HALF][..., :2].amax(-1)
    cell = shelves[..., PARAMS][..., 0]
    assert (cell > 2 * thin).all() and (cell < 2 * long).all()


def test_things_on_the_walls_are_looked_at(rooms: Stage) -> None:
    pictures = rooms.scenes.geometry[:, PICTURES, CENTER]
    beyond = (pictures < rooms.low[:, None]) | (pictures > rooms.high[:, None])
    assert beyond.any(-1).float().mean() > 0.7  # where no camera stands
    assert torch.equal(rooms.targets[:, PICTURES], pictures)


def test_cables_run_through_rooms(rooms: Stage) -> None:
    geometry = rooms.scenes.geometry
    level = geometry[..., AXES].reshape(*geometry.shape[:2], 3, 3)[:, :, 2, 2].abs() < 1e-6
    cable = (geometry[..., KIND] == Kind.CYLINDER) & level & (geometry[..., RADIUS] > 0)
    cable = cable & (geometry[..., HALF][..., 0] <= 0.025)
    assert 1 < float(cable.sum(1).float().mean()) < 3


def test_windows_of_rooms_shine_and_screens_too(rooms: Stage, palette: Palette) -> None:
    used = rooms.scenes.geometry[..., RADIUS] > 0
    glow = rooms.scenes.materials[..., 0, EMISSION]
    bright = ((glow > 0.19) & used).sum(1).float()
    assert 1.5 < float(bright.mean()) < 6 and float(glow.max()) > 3
    # a window is bright or does not shine, and screens alike; a picture shines by chance only
    out = glow[:, VIEWS_OUT]
    assert ((out == 0) | (out > 0.19)).all() and 0.4 < float((out > 0).float().mean()) < 0.8
    assert float((glow[:, PICTURES] > 0).float().mean()) < 0.1
    screen = used & (rooms.scenes.geometry[..., HALF][..., 1] == 0.015)
    assert 30 < int(screen.sum()) <= 80
    assert 0.3 < float((glow[screen] > 0.19).float().mean()) < 0.7
    # what was not told shines seldom
    draft = Draft(40, torch.Generator().manual_seed(0), palette, 0.0)
    add_chairs(draft, 3, torch.zeros(40, 2), torch.ones(40, 2))
    _, materials = draft.finish(18)
    assert float((materials[..., 0, EMISSION] > 0).float().mean()) < 0.1
