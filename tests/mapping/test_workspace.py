"""Tests of `mapping/workspace.py`."""

import fcntl
import os
import shutil
from pathlib import Path

import pytest

from mapping import Map, build_map
from mapping.workspace import locked_workspace
from matching import InputError
from tests.mapping.conftest import Place
from tests.mapping.fakes import FakeMatcher


def test_second_process_is_refused(tmp_path: Path) -> None:
    with locked_workspace(tmp_path / "map"):
        # locks belong to open files, so the same process stands for another one
        with (
            pytest.raises(InputError, match=rf"another process \({os.getpid()}\)"),
            locked_workspace(tmp_path / "map"),
        ):
            pass
        assert (tmp_path / "map" / ".lock").exists()
    assert not (tmp_path / "map").exists()  # nothing came of it


def test_lock_of_a_dead_process_is_free(tmp_path: Path) -> None:
    (tmp_path / ".lock").write_text("999999")  # the file stays when a process is killed
    with locked_workspace(tmp_path):
        pass


def test_second_build_is_refused_and_the_first_goes_on(place: Place, tmp_path: Path) -> None:
    path = tmp_path / "map"
    scene = build_map(place.photos, path, FakeMatcher(place.world))
    with (path / ".lock").open("w") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        for change in (
            lambda: build_map(place.photos, path, FakeMatcher(place.world), overwrite=True),
            lambda: scene.extend(place.photos, FakeMatcher(place.world)),
        ):
            with pytest.raises(InputError, match="another process"):
                change()
        assert Map.open(path).check() == []  # reading goes on


def test_folder_with_other_things_is_refused(place: Place, tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match=r"thesis\.tex.*no map"):
        build_map(place.photos, tmp_path, FakeMatcher(place.world))
    with pytest.raises(InputError, match="is a file"):
        build_map(place.photos, tmp_path / "thesis.tex", FakeMatcher(place.world))
    with pytest.raises(InputError, match="cannot write"):
        build_map(place.photos, tmp_path / "thesis.tex" / "map", FakeMatcher(place.world))
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_reserve(tmp_path: Path) -> None:
    with locked_workspace(tmp_path / "map") as workspace:
        workspace.begin({})
        workspace.reserve(1000)
        with pytest.raises(OSError, match=r"too large|No space"):
            workspace.reserve(2**62)
        assert not list(workspace.build.glob("*.tmp"))


def test_other_inputs_throw_stages_away_but_not_encodings(tmp_path: Path) -> None:
    with locked_workspace(tmp_path / "map") as workspace:
        workspace.begin({"a": 1})
        (workspace.stages / "x").write_text("x")
        (workspace.views / "y").write_text("y")
        workspace.begin({"a": 1})
        assert (workspace.stages / "x").exists()
        workspace.begin({"a": 2})
        assert not (workspace.stages / "x").exists()
        assert (workspace.views / "y").exists()


def test_an_error_beside_a_map_keeps_what_was_computed(tmp_path: Path) -> None:
    path = tmp_path / "map"
    path.mkdir()
    (path / "map.json").write_text("{}")

    def fail(*, after_encoding: bool) -> None:
        with locked_workspace(path) as workspace:
            workspace.begin({"a": 1})
            if after_encoding:
                (workspace.views / "y").write_text("hours of work")
            raise InputError("the depth of a photo is missing")

    with pytest.raises(InputError, match="depth"):
        fail(after_encoding=False)
    assert not (path / ".build").exists()  # nothing to go on with
    for again in (True, False):
        with pytest.raises(InputError, match="depth"):
            fail(after_encoding=again)
        assert (path / ".build" / "views" / "y").exists()


@pytest.mark.parametrize("step", ["begin", "publish", "discard"])
def test_killed_deletion_leaves_no_stages_to_continue(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    def killed(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with locked_workspace(tmp_path / "map") as workspace:
        workspace.begin({"a": 1})
        (workspace.stages / "x").write_text("part of what was there")
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr(shutil, "rmtree", killed)
            if step == "begin":
                workspace.begin({"a": 2})
            elif step == "publish":
                workspace.publish('{"files": {}}')
            else:
                workspace.discard()
        assert (workspace.stages / "x").exists()
        workspace.begin({"a": 1})
        assert not (workspace.stages / "x").exists()
