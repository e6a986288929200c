"""The commands about two photos: `match` and `relative`."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import benchmarks.plots
from benchmarks.rendered_place import RenderedPlace
from mapping.cameras import parse_camera

SIFT = ("--matcher", "sift")  # the quicker one


def test_match_and_relative(
    run: Any, rendered_place: RenderedPlace, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    pair = [rendered_place.images / "map" / f"map_0{i}.jpg" for i in (0, 1)]
    npz, plot = tmp_path / "matches.npz", tmp_path / "matches.png"
    drawn: list[object] = []
    with pytest.MonkeyPatch.context() as patch:
        draw = benchmarks.plots.draw_matches
        patch.setattr(
            benchmarks.plots,
            "draw_matches",
            lambda *a, captions, sure_score, **k: (
                drawn.extend([*captions, sure_score])
                or draw(*a, captions=captions, sure_score=sure_score, **k)
            ),
        )
        matched = run("match", *pair, *SIFT, "--out", npz, "--plot", plot)
    assert matched.code == 0 and drawn == ["map_00.jpg", "map_01.jpg", 0.3]
    with np.load(npz) as stored:
        count = len(stored["scores"])
        assert stored["keypoints0"].shape == stored["keypoints1"].shape == (count, 2)
        assert stored["image_size0"].tolist() == [320, 240]
        sure = int((stored["scores"] > 0.3).sum())
    told = f"{count} matches with sift, {sure} of them sure (score above 0.3)\n"
    assert matched.out == told and count > 50 and sure > 25
    assert {f"wrote '{npz}'", f"wrote '{plot}'"} <= set(caplog.messages)
    assert Image.open(plot).size[0] >= 320

    noise = tmp_path / "noise.png"
    Image.effect_noise((320, 240), 60).convert("RGB").save(noise)
    assert "WARNING" not in {record.levelname for record in caplog.records}
    unlike = run("match", pair[0], noise, *SIFT, "--json", "--quiet")
    assert unlike.code == 0 and unlike.json["num_sure"] < 25
    warned = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert len(warned) == 1
    assert warned[0].startswith(f"only {unlike.json['num_sure']} matches are sure")

    camera = rendered_place.query_cameras["query/query_00.jpg"]
    text = " ".join(["PINHOLE", "320", "240", *map(str, camera.params)])
    relative = run("relative", *pair, *SIFT, "--camera0", text, "--camera1", text, "--json")
    assert relative.code == 0 and relative.json["success"] and not relative.json["metric"]
    assert relative.json["camera_sources"] == ["given", "given"]
    assert relative.json["confidence"] > 0.45 and "confidence" not in caplog.text
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("localize.relative._DOUBTFUL", 1.0)
        half = run("relative", *pair, *SIFT, "--camera1", text, "--quiet")
    assert half.code == 0 and "the confidence is low" in caplog.records[-1].getMessage()
    assert caplog.records[-1].levelname == "WARNING"
    assert (
        "px (no EXIF: a common one, or what fits the matches), " in half.out
        and " px (given)\n" in half.out
    )
    metric = run("relative", *pair, "--camera0", text, "--camera1", text)  # by default
    assert metric.code == 0 and "(m as the network guesses them: its scale may be" in metric.out
    wrong = run("relative", *pair, "--camera0", "PINHOLE 320 240 300")
    assert wrong.code == 2 and wrong.error.startswith("error: --camera0: camera 'PINHOLE 320 240 ")
    shown = wrong.error.partition("one that works: '")[2].partition("'")[0]
    assert parse_camera(shown).model_name == "PINHOLE"
