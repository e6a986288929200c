"""Parts of a benchmark that processes work on apart from each other."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

from matching.errors import InputError

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Every ``count``-th item, from item ``index`` (counted from 0) on."""

    index: int = 0
    count: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ValueError(
                f"part I/N needs 0 <= I < N (I counts from 0), got {self.index}/{self.count}"
            )

    @staticmethod
    def parse(text: str) -> "Part":
        """The part that ``--shard I/N`` means.

        Raises:
            InputError: The text is something else.
        """
        first, _, second = text.partition("/")
        try:
            return Part(index=int(first), count=int(second))
        except ValueError as error:
            raise InputError(
                f"--shard takes I/N with 0 <= I < N, such as 0/4, got '{text}'"
            ) from error

    def of(self, items: Sequence[T]) -> list[T]:
        """The items of this part, in order."""
        return list(items[self.index :: self.count])

    @property
    def label(self) -> str:
        """For file names; empty if the part is the whole."""
        return "" if self.count == 1 else f".{self.index}-of-{self.count}"


WHOLE = Part()


@dataclass(frozen=True, kw_only=True)
class Unit:
    """What one worker does at a time: a part of the queries of one scene."""

    scene: str
    part: Part = WHOLE


def units_of(scenes: Sequence[str], shard: Part) -> list[Unit]:
    """The work of one shard.

    With at least as many scenes as shards each scene belongs to one shard, so that no map is made
    or loaded twice; with fewer, every shard takes a part of each scene's queries.
    """
    if len(scenes) >= shard.count:
        return [Unit(scene=scene) for scene in shard.of(scenes)]
    return [Unit(scene=scene, part=shard) for scene in scenes]


def split_units(units: Sequence[Unit], num_workers: int) -> list[Unit]:
    """The same work cut smaller, if there are fewer units than workers."""
    pieces = -(-num_workers // max(len(units), 1))
    if pieces == 1:
        return list(units)
    return [
        Unit(
            scene=unit.scene,
            # every (count * pieces)-th item from each of the part's first items on
            part=Part(
                index=unit.part.index + piece * unit.part.count, count=unit.part.count * pieces
            ),
        )
        for unit in units
        for piece in range(pieces)
    ]
