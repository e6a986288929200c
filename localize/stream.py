"""Several queries at a time: while the pose of one is computed, the network looks at the next."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

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
