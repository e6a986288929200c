"""Maps survive being killed, and disks without room, at any moment."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]


def drive(mode: str, folder: Path) -> dict[str, Any]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.mapping.kill_driver", mode, str(folder)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    result = json.loads(done.stdout)
    assert isinstance(result, dict)
    return result


@pytest.mark.parametrize("mode", ["random", "each-step"])
def test_killed_build_finishes_with_the_same_map(tmp_path: Path, mode: str) -> None:
    told = drive(mode, tmp_path)
    assert told["kills"] >= 20
    assert len(told["reference"]) == 1  # a fingerprint, no problems
    assert all(result == told["reference"] for result in told["results"])


@pytest.mark.parametrize("change", ["extend", "overwrite"])
def test_killed_change_leaves_the_old_map_or_the_new_one(tmp_path: Path, change: str) -> None:
    told = drive(change, tmp_path)
    assert told["kills"] >= 10
    assert told["old"] != told["new"]
    assert told["seen"][0] == told["old"]
    assert all(seen in (told["old"], told["new"]) for seen in told["seen"])
    assert told["results"] == [told["new"]]


def test_full_disk_leaves_the_old_map(tmp_path: Path) -> None:
    told = drive("disk-full", tmp_path)
    *failed, last = told["messages"].values()
    assert len(failed) == 6
    assert last == "finished"
    for message in failed:
        assert message.startswith("InputError: the map ")
        assert "could not be written" in message
        assert "\n" not in message
    assert told["results"] != [told["old"]]
