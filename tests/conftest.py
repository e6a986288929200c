"""Shared fixtures: the optional data folder, and skips for what a machine does not have."""

from pathlib import Path

import pytest
import torch

SHARED = Path(__file__).resolve().parents[2] / "shared"


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    no_gpu = pytest.mark.skip(reason="needs a CUDA device")
    no_shared = pytest.mark.skip(reason="needs the folder ../shared beside the checkout")
    for item in items:
        if "gpu" in item.keywords and not torch.cuda.is_available():
            item.add_marker(no_gpu)
        if "shared" in item.keywords and not SHARED.is_dir():
            item.add_marker(no_shared)


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder ``../shared`` with golden numbers and real photos; mark such tests `shared`."""
    return SHARED
