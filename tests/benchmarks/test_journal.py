from pathlib import Path

import pytest

from benchmarks.journal import Journal
from benchmarks.shards import Part
from matching.errors import InputError

NAMES = ["a", "b", "c"]


def record(name: str, value: int = 0) -> dict[str, object]:
    return {"name": name, "value": value}


def test_a_half_line_is_forgotten_and_written_over(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "results")
    journal.append(record("a"))
    file = tmp_path / "results.partial.jsonl"
    file.write_text(file.read_text() + '{"name": "b", "va')
    assert list(journal.records()) == ["a"]
    journal.cut()
    journal.append(record("b", 2))
    assert journal.records() == {"a": record("a"), "b": record("b", 2)}
    assert len(file.read_text().splitlines()) == 2


def test_parts_are_joined_in_the_order_of_the_list(tmp_path: Path) -> None:
    parts = [Journal(tmp_path, "results", Part(index=i, count=2)) for i in range(2)]
    parts[1].append(record("b"))
    parts[0].append(record("c"))
    assert parts[0].join(NAMES) is None and not (tmp_path / "results.jsonl").exists()
    parts[0].append(record("a"))
    joined = parts[1].join(NAMES)
    assert joined is not None and list(joined) == NAMES
    assert [file.name for file in tmp_path.iterdir()] == ["results.jsonl"]
    # another process that comes late finds the same, and leaves the file as it is
    text = (tmp_path / "results.jsonl").read_bytes()
    assert list(parts[0].join(NAMES) or ()) == NAMES
    assert (tmp_path / "results.jsonl").read_bytes() == text


def test_predictions_of_a_higher_limit_are_kept(tmp_path: Path) -> None:
    for name in reversed(NAMES):
        Journal(tmp_path, "results").append(record(name))
    assert list(Journal(tmp_path, "results").join(NAMES[:2]) or ()) == NAMES[:2]
    assert list(Journal(tmp_path, "results").records()) == NAMES
    Journal(tmp_path, "results").append(record("d"))
    assert list(Journal(tmp_path, "results").join([*NAMES, "d"]) or ()) == [*NAMES, "d"]


def test_damage_in_the_middle_is_named(tmp_path: Path) -> None:
    (tmp_path / "results.jsonl").write_text('{"name": "a"}\nnonsense\n{"name": "b"}\n')
    with pytest.raises(InputError, match=r"results\.jsonl' line 2 is no prediction"):
        Journal(tmp_path, "results").records()


def test_other_stems_in_the_folder_are_not_mixed_in(tmp_path: Path) -> None:
    Journal(tmp_path, "s1").append(record("a"))
    assert Journal(tmp_path, "s10").records() == {}


def test_half_a_letter_is_forgotten_too(tmp_path: Path) -> None:
    journal = Journal(tmp_path, "results")
    journal.append(record("a\u2028b"))  # a separator of lines that is none in JSON
    file = tmp_path / "results.partial.jsonl"
    file.write_bytes(file.read_bytes() + '{"name": "Zürich'.encode()[:-4])
    assert list(journal.records()) == ["a\u2028b"]
    journal.cut()
    journal.append(record("Zürich"))
    assert list(journal.records()) == ["a\u2028b", "Zürich"]
