"""Predictions kept as they come, one JSON object per line; a killed run loses only the last one.

Each process that works on a scene appends to a file of its own, so that several can share a folder.
When every query is there, the files are joined to one in the order of the list.
"""

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.shards import WHOLE, Part
from matching.errors import InputError
from matching.files import write_text_atomic

Record = Mapping[str, Any]


class Journal:
    """The predictions of one scene, by query name (each record's ``name``).

    Args:
        folder: Holds ``<stem>.jsonl``, the joined file, and ``<stem>.partial*.jsonl``.
        stem: Of the file names.
        part: Which part of the queries this process works on.
    """

    def __init__(self, folder: Path, stem: str, part: Part = WHOLE) -> None:
        self.joined = folder / f"{stem}.jsonl"
        self._pattern = f"{stem}.partial*.jsonl"
        self._own = folder / f"{stem}.partial{part.label}.jsonl"

    def records(self) -> dict[str, Record]:
        """All predictions of all processes so far."""
        found: dict[str, Record] = {}
        # The joined file last: a process that joins writes it before it removes the others.
        for file in [*sorted(self.joined.parent.glob(self._pattern)), self.joined]:
            found.update(_read(file))
        return found

    def append(self, record: Record) -> None:
        """Add a prediction; it is on disk on return."""
        line = json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n"
        with self._own.open("a", encoding="utf-8") as file:
            file.write(line)
            file.flush()
            os.fsync(file.fileno())

    def cut(self) -> None:
        """Remove the half line that a killed process may have left at the end of its file."""
        if not self._own.exists():
            return
        data = self._own.read_bytes()
        whole = _whole_lines(data)
        if whole != data:
            write_text_atomic(self._own, whole.decode("utf-8"))

    def join(self, names: Sequence[str]) -> dict[str, Record] | None:
        """All predictions in the order of the names, in one file; None while some are missing.

        The file keeps those of other names too, behind them: of a run without this one's limit.
        """
        found = self.records()
        if any(name not in found for name in names):
            return None
        records = {name: found[name] for name in names}
        parts = sorted(self.joined.parent.glob(self._pattern))
        if parts or not self.joined.exists():
            everything = {**records, **found}
            text = "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in everything.values())
            write_text_atomic(self.joined, text)
        for part in parts:
            part.unlink(missing_ok=True)
        return records


def _read(file: Path) -> dict[str, Record]:
    """The whole lines of a file; none if another process has just joined and removed it."""
    try:
        data = file.read_bytes()
    except FileNotFoundError:
        return {}
    records: dict[str, Record] = {}
    for number, line in enumerate(_whole_lines(data).split(b"\n")[:-1], 1):
        try:
            record = json.loads(line)
            records[record["name"]] = record
        except (ValueError, KeyError, TypeError) as error:
            raise InputError(
                f"'{file}' line {number} is no prediction: delete the line to predict it again"
            ) from error
    return records


def _whole_lines(data: bytes) -> bytes:
    """All up to the last end of line. Bytes: a killed process may leave half a letter, too."""
    return data[: data.rfind(b"\n") + 1]
