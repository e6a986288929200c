"""The command that writes a miniature."""

import importlib
from pathlib import Path

import pytest

from benchmarks.miniatures import __main__ as command
from benchmarks.miniatures.studio import Studio
from benchmarks.registry import BENCHMARKS


def test_every_benchmark_has_a_miniature() -> None:
    assert set(command.MODULES) == set(BENCHMARKS)
    for module in command.MODULES.values():
        assert callable(
            getattr(importlib.import_module(f"benchmarks.miniatures.{module}"), f"write_{module}")
        )


def test_command_writes_into_empty_folders_only(
    studio: Studio,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "Studio", lambda: studio)
    assert command.main(["12scenes", str(tmp_path / "new")]) == 0
    assert (tmp_path / "new/apt1/kitchen/data/frame-000000.color.jpg").is_file()
    assert "groundloc benchmark 12scenes" in capsys.readouterr().out
    with pytest.raises(SystemExit):
        command.main(["12scenes", str(tmp_path / "new")])
    assert "is not empty" in capsys.readouterr().err
