"""A small world with its photos, and one finished map that tests must not change."""

from dataclasses import dataclass
from pathlib import Path

import pytest

from mapping import Map, build_map
from tests.mapping.fakes import FakeMatcher, FakeWorld


@dataclass(frozen=True)
class Place:
    """A fake world with photos on disk."""

    world: FakeWorld
    photos: Path
    names: dict[int, str]


@pytest.fixture(scope="session")
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    world = FakeWorld()
    photos = tmp_path_factory.mktemp("place") / "photos"
    return Place(world, photos, world.write_photos(photos))


@pytest.fixture(scope="session")
def posed_map(place: Place, tmp_path_factory: pytest.TempPathFactory) -> Map:
    """A map from known poses; read only."""
    return build_map(
        place.photos,
        tmp_path_factory.mktemp("posed") / "map",
        FakeMatcher(place.world),
        known_poses=place.world.model(place.names),
    )
