"""How long the stages of a build took, over all of its runs."""

import json
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TypeVar

from matching.progress import Progress

T = TypeVar("T")

_SECONDS_BETWEEN_NOTES = 2.0  # what a killed run may lose


class StageClock:
    """Wall seconds per stage, noted in a file: a run that continues adds to what was spent before.

    Args:
        file: Where they are noted; those in it are counted on.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._seconds = _read(file)
        self._stage: str | None = None
        self._counted = self._noted = 0.0

    @property
    def seconds(self) -> dict[str, float]:
        """Seconds so far by stage, the running one included."""
        self._count()
        return {stage: round(seconds, 3) for stage, seconds in self._seconds.items()}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Count the block as a stage, however it ends."""
        self._stage = name
        self._counted = self._noted = time.perf_counter()
        self._seconds.setdefault(name, 0.0)
        try:
            yield
        finally:
            self._count()
            self._stage = None
            self._note()

    def watch(self, progress: Progress) -> Progress:
        """The same progress, which also notes the time now and then in case the run is killed."""

        def watched(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
            for item in progress(items, description, total):
                yield item
                if time.perf_counter() - self._noted > _SECONDS_BETWEEN_NOTES:
                    self._count()
                    self._note()

        return watched

    def _count(self) -> None:
        """Add the time since the last count to the running stage."""
        if self._stage is not None:
            now = time.perf_counter()
            self._seconds[self._stage] += now - self._counted
            self._counted = now

    def _note(self) -> None:
        self._noted = time.perf_counter()
        if not self._file.parent.is_dir():
            return  # published or thrown away meanwhile
        # in place, for that is no step of the work; a half-written note is none
        self._file.write_text(json.dumps(self._seconds), encoding="utf-8")


def _read(file: Path) -> dict[str, float]:
    try:
        return {stage: float(value) for stage, value in json.loads(file.read_text()).items()}
    except (FileNotFoundError, ValueError):
        return {}
