"""Several queries at a time: while the pose of one is computed, the network looks at the next."""

import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import torch

Item = TypeVar("Item")
Result = TypeVar("Result")


def in_order(
    function: Callable[[Item], Result], items: Iterable[Item], num_threads: int
) -> Generator[Result, None, None]:
    """Results of a function in the order of its items, computed on several threads.

    Items are taken by the caller's thread, at most ``num_threads`` ahead of the result that is
    yielded, so that a slow consumer bounds what is in memory. With one thread nothing runs ahead.

    Args:
        function: Safe to be called by several threads at a time.
        items: Taken one by one.
        num_threads: How many calls run at a time.

    Yields:
        What the function returned; what it raised is raised here, in order.
    """
    if num_threads == 1:
        yield from map(function, items)
        return
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(num_threads) as pool:
        try:
            for item in items:
                waiting.append(pool.submit(function, item))
                if len(waiting) > num_threads:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:
            for future in waiting:  # the consumer stopped, or a call failed
                future.cancel()


class _TorchThreads:
    """Takes torch's threads away and gives them back to each of several callers when it is done.

    They are counted, so that those are given back that the first of them had. Threads started when
    one caller is done and another is not have them again: torch knows one number for new threads.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._callers = 0
        self._before = 1

    def take(self) -> None:
        with self._lock:
            now = torch.get_num_threads()  # a thread that never asked would take the last set later
            if self._callers == 0:
                self._before = now
            self._callers += 1
        torch.set_num_threads(1)

    def give_back(self) -> None:
        with self._lock:
            self._callers -= 1
            # the number is each thread's own, but new threads start with the last that was set
            torch.set_num_threads(self._before)


_torch_threads = _TorchThreads()


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Let torch compute on the CPU without threads of its own meanwhile.

    Every thread that calls it would wake as many as there are cores for each small product, and
    these then wait by turning in circles: 4.2 CPU s a query on 32 cores, 0.33 with few threads.
    Threads may enter it at the same time.
    """
    _torch_threads.take()
    try:
        yield
    finally:
        _torch_threads.give_back()
