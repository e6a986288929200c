"""What the README shows works: its Python runs, its commands parse, its files exist."""

import re
import shlex
from pathlib import Path

import pytest
from PIL import Image

import groundloc
import matching
from groundloc_arguments import make_parser
from tests.benchmarks.fakes import LocalizingMatcher
from tests.mapping.fakes import FakeWorld

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


def test_the_python_runs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (code,) = blocks("python")
    world = FakeWorld(num_images=9)
    names = {n: f"{n}.png" for n in world.poses if n not in (4, 7)}
    world.write_photos(tmp_path / "photos", names)
    world.write_photos(tmp_path / "queries", {4: "4.png", 7: "7.png"})
    world.write_photos(tmp_path, {1: "a.png", 2: "b.png", 4: "query.png"})
    for name in ("a", "b", "query"):
        # the photos' colours tell the fake matcher what they show: JPEG would change them
        Image.open(tmp_path / f"{name}.png").save(tmp_path / f"{name}.jpg", format="PNG")
    truth = world.model({n: f"{n}.png" for n in world.poses})
    (tmp_path / "ground_truth").mkdir()
    truth.write_text(tmp_path / "ground_truth")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(matching, "load_matcher", lambda name, device: LocalizingMatcher(world))
    values: dict = {}
    exec(compile(code, "README.md", "exec"), values)  # the README is ours
    assert values["result"].success and len(values["results"]) == 2
    assert "localized          2 of 2" in capsys.readouterr().out


def commands() -> list[str]:
    lines = [line for block in blocks("console") for line in block.splitlines()]
    return [line[2:] for line in lines if line.startswith("$ groundloc ")]


@pytest.mark.parametrize("command", commands())
def test_the_commands_parse(command: str) -> None:
    words = shlex.split(command, comments=True)[1:]
    assert make_parser(groundloc.COMMANDS).parse_args(words).run is not None


def test_every_command_is_in_the_overview() -> None:
    overview = next(block for block in blocks("text") if "groundloc demo" in block)
    named = set(re.findall(r"^groundloc (\w+)", overview, re.MULTILINE))
    usage = make_parser(groundloc.COMMANDS).format_help()
    known = set(re.findall(r"^    (\w+)\s", usage, re.MULTILINE))
    assert known
    assert named == known


def test_make_targets_and_files_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    for target in re.findall(r"\$ make (\w+)", README):
        assert f"\n{target}:" in makefile
    assert (ROOT / "LICENSE").is_file()
