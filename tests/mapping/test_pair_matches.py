"""Tests of `mapping/pair_matches.py`."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from mapping.pair_matches import EarlyMatches, match_pairs
from matching.progress import silent
from matching.types import Matches, View
from tests.mapping.fakes import FakeMatcher, FakeWorld


def view(number: int) -> View:
    return View(image_size=(1, 1), keypoints=np.full((9, 2), number, np.float32))


class CountingMatcher(FakeMatcher):
    """Matches that tell which photos they are of, of every kind of rows."""

    def __init__(self, **description: Any) -> None:
        super().__init__(FakeWorld(num_images=2))
        self.batches: list[int] = []
        self.description = description

    def describe(self) -> dict[str, Any]:
        return {**super().describe(), **self.description}

    def match_many(self, first: View, others: Sequence[View]) -> list[Matches]:
        self.batches.append(len(others))
        return [matches_of(int(first.keypoints[0, 0]), int(o.keypoints[0, 0])) for o in others]


def matches_of(first: int, second: int) -> Matches:
    """Five matches; rows on no side, on both with free ends, or on the second only."""
    pixels = np.arange(10, dtype=np.float32).reshape(5, 2)
    rows0 = np.array([3, -1, 4, -1, 0])
    kind = (first + second) % 3
    return Matches(
        keypoints0=pixels + first,
        keypoints1=pixels + 100 * second,
        scores=np.linspace(1, 0.2, 5, dtype=np.float32) / (first + second),
        indices0=rows0 if kind == 1 else None,
        indices1={0: None, 1: np.where(rows0 < 0, 7, -1), 2: np.arange(5)}[kind],
    )


def run(matcher: CountingMatcher, pairs: Iterable[tuple[str, str]], cache: Path) -> Any:
    keys = {str(number): f"key {number}" for number in range(60)}
    return match_pairs(
        list(pairs), lambda name: view(int(name)), keys, matcher, cache, progress=silent
    )


@pytest.fixture
def pairs() -> list[tuple[str, str]]:
    """More partners of a photo than a file holds, and more files than are kept open."""
    many = [("1", str(number)) for number in range(2, 40)]
    return [*many, *((str(number), str(number + 1)) for number in range(2, 12))]


def test_everything_is_read_back(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    stored = run(CountingMatcher(), pairs, tmp_path)
    assert list(stored) == pairs and len(stored) == len(pairs)
    for pair in [*pairs, *pairs[::-1]]:
        expected = matches_of(*map(int, pair))
        found = stored[pair]
        np.testing.assert_array_equal(found.scores, expected.scores)
        for side in ("0", "1"):
            rows, pixels = (
                getattr(expected, f"indices{side}"),
                getattr(expected, f"keypoints{side}"),
            )
            read = getattr(found, f"indices{side}")
            assert (read is None) == (rows is None)
            if rows is not None:
                np.testing.assert_array_equal(read, rows)
                pixels = np.where(rows[:, None] < 0, pixels, np.nan)
            np.testing.assert_array_equal(getattr(found, f"keypoints{side}"), pixels)


def test_few_files_are_in_memory(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    stored = run(CountingMatcher(), pairs, tmp_path)
    for _, matches in stored.items():
        assert len(matches) == 5
        assert len(stored._batches) <= 4
    assert len({id(stored[pairs[0]]) for _ in range(3)}) == 1, "read once while it is in memory"


def test_pairs_are_matched_once(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    first = CountingMatcher()
    run(first, pairs, tmp_path)
    assert first.batches[:3] == [16, 16, 6] and len(first.batches) == 13
    again = CountingMatcher()
    stored = run(again, pairs[:20] + pairs[38:], tmp_path)
    assert again.batches == [4], "only the batch that has other partners"
    assert len(stored) == 30


def test_other_options_match_again(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    run(CountingMatcher(options={"max_ratio": 0.8}), pairs[:5], tmp_path)
    other = CountingMatcher(options={"max_ratio": 0.7})
    run(other, pairs[:5], tmp_path)
    assert other.batches == [5]


def test_early_matches_are_found_later(pairs: list[tuple[str, str]], tmp_path: Path) -> None:
    keys = {str(number): f"key {number}" for number in range(60)}
    known: set[str] = set()

    def load(name: str) -> View:
        assert name in known, "not encoded yet"
        return view(int(name))

    early = CountingMatcher()
    matches = EarlyMatches(pairs, load, keys, early, tmp_path)
    for name in [str(number) for number in range(40, 0, -1) if number != 30]:  # 30 is unreadable
        known.add(name)
        matches.encoded(name)
    assert sorted(early.batches) == [1] * 10 + [6, 16], "all but the batch with photo 30"
    later = CountingMatcher()
    stored = run(later, [pair for pair in pairs if "30" not in pair], tmp_path)
    # the partners that follow photo 30 moved to other batches
    assert later.batches == [16, 5] and len(stored) == len(pairs) - 1


def test_no_pairs(tmp_path: Path) -> None:
    assert len(run(CountingMatcher(), [], tmp_path)) == 0
