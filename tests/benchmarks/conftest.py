"""What the tests of benchmarks share: renderings take seconds each."""

from collections.abc import Callable

import pytest

from benchmarks.miniatures.studio import Studio
from tests.benchmarks.miniature_sets import Miniature, write_miniature


@pytest.fixture(scope="session")
def studio() -> Studio:
    """Takes photos of one rendered place; each camera position is rendered once per session."""
    return Studio()


@pytest.fixture(scope="session")
def miniature(
    studio: Studio, tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], Miniature]:
    """The miniature of a benchmark, written once per session; tests must not change it."""
    written: dict[str, Miniature] = {}

    def write(name: str) -> Miniature:
        if name not in written:
            written[name] = write_miniature(name, tmp_path_factory.mktemp(name), studio)
        return written[name]

    return write
