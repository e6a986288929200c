"""A place for tests of localization."""

import numpy as np
import pytest

from tests.localize.synthetic import FakeMap, make_place


@pytest.fixture(scope="module")
def scene() -> FakeMap:
    return make_place(np.random.default_rng(0))
