import threading
import time
from collections.abc import Iterator

import pytest
import torch

from localize.stream import in_order, single_threaded_torch


def numbers(count: int, taken: list[int]) -> Iterator[int]:
    for number in range(count):
        taken.append(number)
        yield number


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("count", [0, 1, 20])
def test_results_come_in_order(num_threads: int, count: int) -> None:
    def slow_when_even(number: int) -> int:
        time.sleep(0.004 if number % 2 == 0 else 0)
        return number**2

    found = list(in_order(slow_when_even, numbers(count, []), num_threads))
    assert found == [number**2 for number in range(count)]


@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_no_more_is_taken_than_is_worked_on(num_threads: int) -> None:
    taken: list[int] = []
    stream = in_order(lambda number: number, numbers(50, taken), num_threads)
    for position in range(10):
        assert next(stream) == position
        assert len(taken) <= position + 1 + num_threads
    stream.close()
    assert len(taken) <= 10 + num_threads


def test_calls_run_at_the_same_time() -> None:
    together = threading.Barrier(3, timeout=10)  # raises unless three calls meet
    assert len(list(in_order(lambda _: together.wait(), range(6), 3))) == 6


@pytest.mark.parametrize("num_threads", [1, 3])
def test_an_error_comes_in_its_place(num_threads: int) -> None:
    def fails(number: int) -> int:
        if number == 4:
            raise ZeroDivisionError
        return number

    stream = in_order(fails, range(10), num_threads)
    assert [next(stream) for _ in range(4)] == [0, 1, 2, 3]
    with pytest.raises(ZeroDivisionError):
        next(stream)


def test_torch_has_its_threads_back_afterwards() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    seen: list[int] = []
    try:
        with pytest.raises(ZeroDivisionError), single_threaded_torch():
            threads = in_order(lambda _: torch.get_num_threads(), range(3), 2)
            seen += [torch.get_num_threads(), *threads]
            raise ZeroDivisionError
        assert seen == [1, 1, 1, 1]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_torch_has_its_threads_back_after_the_last_of_several_callers() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    inside, leave = threading.Barrier(3, timeout=10), [threading.Event() for _ in range(2)]
    seen: list[int] = []

    def caller(number: int) -> None:
        with single_threaded_torch():
            inside.wait()
            leave[number].wait(10)
            seen.append(torch.get_num_threads())

    try:
        threads = [threading.Thread(target=caller, args=(number,)) for number in range(2)]
        for thread in threads:
            thread.start()
        inside.wait()
        for thread, event in zip(threads, leave, strict=True):
            event.set()
            thread.join(10)
        assert seen == [1, 1]
        fresh: list[int] = []
        thread = threading.Thread(target=lambda: fresh.append(torch.get_num_threads()))
        thread.start()
        thread.join(10)
        assert fresh == [2] and torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
