"""Calls of the command line inside the process of the tests."""

import json
from typing import Any

import pytest

import groundloc


class Run:
    """One call of the command line inside this process."""

    def __init__(self, capsys: pytest.CaptureFixture[str], *arguments: object) -> None:
        capsys.readouterr()
        try:
            self.code = groundloc.main([str(a) for a in arguments])
        except SystemExit as stop:  # argparse
            self.code = int(str(stop.code))
        captured = capsys.readouterr()
        self.out, self.err = captured.out, captured.err

    @property
    def json(self) -> dict[str, Any]:
        parsed = json.loads(self.out)
        assert isinstance(parsed, dict)
        return parsed

    @property
    def error(self) -> str:
        """The one error line."""
        lines = [line for line in self.err.splitlines() if line.startswith("error: ")]
        assert len(lines) == 1 and "Traceback" not in self.err, self.err
        return lines[0]
