"""How long loops report progress without the libraries printing anything."""

from collections.abc import Iterable
from typing import Protocol, TypeVar

T = TypeVar("T")


class Progress(Protocol):
    """Wraps the items of a long loop; the command line passes one that draws a bar on stderr."""

    def __call__(
        self, items: Iterable[T], description: str, total: int | None = None
    ) -> Iterable[T]:
        """Yield the items unchanged while reporting how many of ``total`` are done."""
        ...


def silent(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
    """The default progress: report nothing."""
    return items
