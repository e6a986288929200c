"""What the tests of benchmarks share: renderings take seconds each."""

import functools
from collections.abc import Callable, Iterator

import pytest

from benchmarks import rendered_place
from benchmarks.miniatures.studio import Studio
from matching.training.demo_place import demo_place
from tests.benchmarks.miniature_sets import Miniature, WholeRun, run_whole, write_miniature


@pytest.fixture(scope="session", autouse=True)
def painted_once() -> Iterator[None]:
    """Textures of the demo's place take seconds to paint, and several tests render some of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(rendered_place, "demo_place", functools.cache(demo_place))
        yield


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


@pytest.fixture(scope="session")
def whole_run(
    miniature: Callable[[str], Miniature], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str], WholeRun]:
    """The finished run of a benchmark on its miniature, made once per session."""
    done: dict[str, WholeRun] = {}

    def run(name: str) -> WholeRun:
        if name not in done:
            done[name] = run_whole(name, miniature(name), tmp_path_factory.mktemp(f"{name}-run"))
        return done[name]

    return run
