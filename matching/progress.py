"""How long loops report progress without the libraries printing anything."""

import sys
from collections.abc import Iterable
from typing import Protocol, TypeVar

from tqdm import tqdm

T = TypeVar("T")


class Progress(Protocol):
    """Wraps the items of a long loop; the command line passes one that draws a bar on stderr."""

    def __call__(
        self, items: Iterable[T], description: str, total: int | None = None
    ) -> Iterable[T]:
        """Yield the items unchanged while reporting how many of ``total`` are done."""
        ...


def bars(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """The progress of the command line: a bar on stderr; none where there is nothing to do."""
    return items if total == 0 else tqdm(items, desc=description, total=total, file=sys.stderr)


def silent(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """The default progress: report nothing."""
    return items
