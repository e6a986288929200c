"""Which shapes are recorded; that replays are right is tested on GPUs in `test_network`."""

from contextlib import nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor

from matching.network.graphs import GraphCache


class FakeGraph:
    """Stands for a recording: replaying runs the function on the held inputs again."""

    def __init__(self, cache: "FakeCache", function: Any, inputs: tuple[Any, ...]) -> None:
        self.graph, self.inputs = self, tuple(tensor.clone() for tensor in inputs)
        self.cache, self.function = cache, function
        self.outputs = function(*self.inputs).clone()

    def replay(self) -> None:
        self.cache.replays += 1
        self.outputs.copy_(self.function(*self.inputs))


class FakeCache(GraphCache):
    """Counts instead of recording."""

    recorded = replays = 0

    def _record(self, function: Any, inputs: tuple[Any, ...]) -> Any:
        self.recorded += 1
        return FakeGraph(self, function, inputs)


@pytest.fixture
def cache(monkeypatch: pytest.MonkeyPatch) -> FakeCache:
    monkeypatch.setattr(torch.cuda, "device", lambda device: nullcontext())
    return FakeCache(max_recordings=2)


def call(cache: FakeCache, size: int, value: float) -> Tensor:
    result = cache.run("double", lambda x: 2 * x, torch.full((size,), value))
    assert result.tolist() == [2 * value] * size
    return result


def test_the_second_call_of_a_shape_records_and_later_ones_replay(cache: FakeCache) -> None:
    results = [call(cache, 3, value) for value in (1.0, 2.0, 3.0, 4.0)]
    assert (cache.recorded, cache.replays) == (1, 3)
    assert [float(r[0]) for r in results] == [2, 4, 6, 8], "results are copies"


def test_shapes_seen_once_are_never_recorded(cache: FakeCache) -> None:
    for size in range(1, 30):
        call(cache, size, 1.0)
    assert cache.recorded == 0


def test_many_shapes_in_turn_do_not_record_for_ever(cache: FakeCache) -> None:
    for _ in range(50):
        for size in (1, 2, 3, 4, 5):
            call(cache, size, 1.0)
    assert cache.recorded == 2
    for _ in range(120):  # a shape that takes over gets its recording
        call(cache, 9, 1.0)
    assert cache.recorded == 3
