"""A palette of small textures, painted once."""

import pytest

from matching.training.draft import Palette


@pytest.fixture(scope="session")
def palette() -> Palette:
    return Palette.paint(0, per_style=1, size=8, device="cpu")
