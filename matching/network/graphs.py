"""CUDA graphs: a recorded sequence of launches replayed in one call."""

from collections import Counter
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class _Recording:
    graph: torch.cuda.CUDAGraph
    inputs: tuple[Any, ...]
    outputs: Any


class GraphCache:
    """Records a function the second time that it is called with the same shapes.

    The first call of a shape runs plainly, which also warms the kernels up, so that shapes seen
    once cost nothing extra. When the cache is full, a shape takes the place of another only once
    it was called more than twice as often, so that many shapes in turn do not record for ever.
    Recordings share one memory pool; results are copied out of it.

    Args:
        max_recordings: Recordings kept.
    """

    def __init__(self, max_recordings: int = 8) -> None:
        self.max_recordings = max_recordings
        self._calls: Counter[Hashable] = Counter()
        self._recordings: dict[Hashable, _Recording] = {}
        self._pool: Any = None

    def run(self, key: Hashable, function: Callable[..., Any], *inputs: Any) -> Any:
        """``function(*inputs)``, replayed if possible.

        Args:
            key: Whatever the result depends on besides shapes and contents of the tensors.
            function: Launches kernels only: no synchronisation, no Python state. Returns tensors,
                objects with a ``map`` method over their tensors, or tuples of these.
            inputs: The same kinds of things, on the GPU.
        """
        given = _tensors(inputs)
        key = (key, *((tuple(t.shape), t.dtype) for t in given))
        self._calls[key] += 1
        with torch.cuda.device(given[0].device):  # streams and graphs belong to one GPU
            if key not in self._recordings:
                if not self._make_room(key):
                    return function(*inputs)
                self._recordings[key] = self._record(function, inputs)
            recording = self._recordings[key]
            for mine, tensor in zip(_tensors(recording.inputs), given, strict=True):
                mine.copy_(tensor)
            recording.graph.replay()
            return _map(recording.outputs, torch.clone)

    def clear(self) -> None:
        """Give up all recordings and the memory they hold."""
        self._recordings.clear()
        self._pool = None

    def _make_room(self, key: Hashable) -> bool:
        """Whether a shape may be recorded now; if so there is room for it."""
        if self._calls[key] < 2:
            return False
        if len(self._recordings) >= self.max_recordings:
            rarest = min(self._recordings, key=lambda other: self._calls[other])
            if self._calls[key] <= 2 * self._calls[rarest]:
                return False
            del self._recordings[rarest]
        return True

    def _record(self, function: Callable[..., Any], inputs: tuple[Any, ...]) -> _Recording:
        held = _map(inputs, lambda t: t.clone(memory_format=torch.contiguous_format))
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            function(*held)  # library handles of a stream may not be made while recording
        torch.cuda.current_stream().wait_stream(stream)
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=self._pool):
            outputs = function(*held)
        return _Recording(graph, held, outputs)


def _map(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    if isinstance(value, Tensor):
        return function(value)
    if isinstance(value, tuple):
        return tuple(_map(item, function) for item in value)
    return value.map(function)


def _tensors(value: Any) -> list[Tensor]:
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    _map(value, keep)
    return found
