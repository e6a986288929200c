"""Training logs: CSV that survives a resume, and TensorBoard where it is installed."""

import csv
import importlib.util
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matching.files import PathLike, write_text_atomic

logger = logging.getLogger(__name__)


class MetricLog:
    """Appends rows of numbers to ``<name>.csv`` and to TensorBoard.

    A run that resumes at a step drops the rows behind that step first, so that the file reads as
    if the run had never stopped.

    Args:
        folder: The run's folder.
        name: Of the file, and the prefix in TensorBoard.
        resume_step: Rows of larger steps are dropped.
    """

    def __init__(self, folder: PathLike, name: str, *, resume_step: int = 0) -> None:
        self.path = Path(folder) / f"{name}.csv"
        self._name = name
        self._columns: list[str] | None = None
        self._board: Any = None
        if self.path.is_file():
            self._drop_rows_after(resume_step)
        if importlib.util.find_spec("tensorboard") is not None:
            from torch.utils.tensorboard import SummaryWriter

            self._board = SummaryWriter(str(Path(folder) / "tensorboard"), purge_step=resume_step)

    def write(self, step: int, values: Mapping[str, float]) -> None:
        """Add a row; all rows of a log have the same columns."""
        row = {"step": step, **values}
        if self._columns is None:
            self._columns = list(row)
            if not self.path.is_file():
                with self.path.open("w", newline="", encoding="utf-8") as file:
                    csv.writer(file).writerow(self._columns)
        if list(row) != self._columns:
            raise ValueError(f"the log has the columns {self._columns}, got {list(row)}")
        with self.path.open("a", newline="", encoding="utf-8") as file:
            csv.writer(file).writerow(
                [f"{v:.6g}" if isinstance(v, float) else v for v in row.values()]
            )
        if self._board is not None:
            for name, value in values.items():
                self._board.add_scalar(f"{self._name}/{name}", value, step)
            self._board.flush()

    def close(self) -> None:
        """Close TensorBoard's file."""
        if self._board is not None:
            self._board.close()

    def _drop_rows_after(self, step: int) -> None:
        with self.path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.reader(file))
        if not rows:
            self.path.unlink()
            return
        self._columns = rows[0]
        kept = [row for row in rows[1:] if row and row[0].isdigit() and int(row[0]) <= step]
        text = "".join(",".join(row) + "\r\n" for row in [rows[0], *kept])
        write_text_atomic(self.path, text)
