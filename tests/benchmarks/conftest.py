"""What the tests of benchmarks share: renderings take seconds each."""

import pytest

from benchmarks.miniatures.studio import Studio


@pytest.fixture(scope="session")
def studio() -> Studio:
    """Takes photos of one rendered place; each camera position is rendered once per session."""
    return Studio()
