"""The command `reconstruct`, with an oracle in place of the network."""

import json
from pathlib import Path

import pycolmap
import pytest
from PIL import Image

import groundloc
from groundloc_arguments import make_parser
from tests.rendered_views import Faults, OracleMatcher, RenderedView, render_views


@pytest.fixture(scope="module")
def views() -> list[RenderedView]:
    return render_views([2, 4, 6], 120)


@pytest.fixture
def photos(views: list[RenderedView], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number, view in enumerate(views):
        Image.fromarray(view.image).save(folder / f"{number}.png")
    oracle = OracleMatcher(views, Faults())
    monkeypatch.setattr(groundloc, "load_chosen_matcher", lambda *_: oracle)
    return folder


def test_photos_and_then_a_map_of_them(
    photos: Path, views: list[RenderedView], capsys: pytest.CaptureFixture[str]
) -> None:
    out = photos.parent / "scene"
    arguments = ["reconstruct", photos, out, "--set", "alignment.num_iterations=20"]
    assert groundloc.main([*map(str, arguments), "--json", "--quiet"]) == 0
    made = json.loads(capsys.readouterr().out)
    assert made["num_images"] == 3 and made["num_points"] > 1000
    sparse = pycolmap.Reconstruction(out / "sparse")
    assert sparse.num_reg_images() == 3
    mapped = ["map", photos, photos.parent / "map", "--known-poses", out / "sparse", "--quiet"]
    assert groundloc.main([*map(str, mapped)]) == 0
    capsys.readouterr()
    dense = ["reconstruct", photos, out, "--map", photos.parent / "map", "--quiet"]
    before = {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert groundloc.main([*map(str, dense)]) == 1
    assert f"'{out}' holds a reconstruction: overwrite it" in capsys.readouterr().err
    assert before == {file: file.stat().st_mtime_ns for file in out.iterdir()}
    assert groundloc.main([*map(str, dense), "--overwrite"]) == 0
    assert "in the unit of the map" in capsys.readouterr().out


def test_wrong_use_is_one_line(photos: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = str(photos.parent / "scene")
    assert groundloc.main(["reconstruct", str(photos), out, "--set", "fusion.max_point=3"]) == 2
    assert "did you mean 'fusion.max_points'" in capsys.readouterr().err
    assert groundloc.main(["reconstruct", "none", out]) == 1
    assert "no photo folder 'none'" in capsys.readouterr().err
    assert groundloc.main(["reconstruct", str(photos), str(photos)]) == 1
    assert "no reconstruction" in capsys.readouterr().err
    assert groundloc.main(["reconstruct", str(photos), out, "--pairs", "nine.txt"]) == 1
    assert "nine.txt" in capsys.readouterr().err


def test_the_default_matcher_has_point_maps() -> None:
    arguments = make_parser(groundloc.COMMANDS).parse_args(["reconstruct", "photos", "out"])
    assert arguments.matcher == "small"
