"""The console script: Ctrl-C ends it with one line from its first import on."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

EXIT_INTERRUPTED = 130


def run() -> int:
    """Run the command line and return its exit code."""
    with interrupt_ends_at_once():
        from groundloc import main
    return main()


@contextmanager
def interrupt_ends_at_once() -> Iterator[None]:
    """Ctrl-C inside ends the process there and then: for imports, while nothing is written yet.

    The exception that Python raises instead shows a traceback as long as nobody catches it, and
    inside torch's import it aborts the process.
    """
    ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler
    if not ours or threading.current_thread() is not threading.main_thread():
        yield  # the signal is ignored, or whose program this is has a handler
        return
    signal.signal(signal.SIGINT, _end)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, signal.default_int_handler)


def _end(number: int, frame: FrameType | None) -> None:
    os.write(2, b"error: interrupted\n")
    os._exit(EXIT_INTERRUPTED)
