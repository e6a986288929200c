"""Shared fixtures: the optional data folder, and skips for what a machine does not have."""

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

# OpenMP's threads spin while they wait, which multiplies the time of tests on shared cores
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

import torch

if TYPE_CHECKING:
    from benchmarks.rendered_place import RenderedPlace

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    no_shared = pytest.mark.skip(reason="needs the folder ../shared beside the checkout")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "shared" in item.keywords and not SHARED.is_dir():
            item.add_marker(no_shared)


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str]) -> Any:
    """Calls the command line: ``run("info", folder)``."""
    from tests.cli_run import Run

    return lambda *arguments: Run(capsys, *arguments)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``../shared`` with golden numbers and real photos; mark such tests `shared`."""
    return SHARED


@pytest.fixture(scope="session")
def rendered_place(tmp_path_factory: pytest.TempPathFactory) -> "RenderedPlace":
    """A small rendered place with exact truth: 8 map photos and 3 queries of 320x240."""
    from benchmarks.rendered_place import PlaceOptions, write_rendered_place

    return write_rendered_place(
        tmp_path_factory.mktemp("rendered") / "place",
        PlaceOptions(num_map_photos=8, num_queries=3, image_width=320),
    )


@pytest.fixture(scope="session")
def rendered_map(rendered_place: "RenderedPlace", tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a SIFT map of `rendered_place` with its true poses; tests must not change it."""
    from mapping import build_map
    from matching import load_matcher

    folder = tmp_path_factory.mktemp("rendered_map") / "map"
    build_map(
        rendered_place.images,
        folder,
        load_matcher("sift"),
        known_poses=rendered_place.folder / "sparse_gt",
        image_names=rendered_place.map_names,
    )
    return folder
