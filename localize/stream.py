"""Several queries at a time: while the pose of one is computed, the network looks at the next."""

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


@contextmanager
def single_threaded_torch() -> Iterator[None]:
    """Let torch compute on the CPU without threads of its own meanwhile.

    Every thread that calls it would wake as many as there are cores for each small product, and
    these then wait by turning in circles: 4.2 CPU s a query on 32 cores, 0.33 with few threads.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)
