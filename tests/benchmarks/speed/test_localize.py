"""The timing script runs, on a network too small to match anything, and accounts for its time."""

import dataclasses
import json
import re
from pathlib import Path

import pytest
import torch

from benchmarks.speed import localize as speed
from benchmarks.speed.network import random_network
from matching.network import NetworkConfig, PairNetwork
from matching.network.small import small_config


def test_made_up_photos_are_localized_and_every_millisecond_is_accounted_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    tiny = dataclasses.replace(
        small_config(), img_size=(48, 64), enc_depth=1, dec_depth=1, enc_embed_dim=64,
        dec_embed_dim=48, enc_num_heads=1, dec_num_heads=1,
    )  # fmt: skip

    def network(config: NetworkConfig, device: str) -> PairNetwork:
        return random_network(tiny, device)

    monkeypatch.setattr(speed, "random_network", network)
    monkeypatch.setattr(speed, "PHOTO_SIZE", (320, 240))
    monkeypatch.setattr(speed, "FOCAL", 300.0)
    out = tmp_path / "times.json"
    arguments = ["--top-k", "3", "--queries", "4", "--map-photos", "5", "--warmup", "1"]
    threads = torch.get_num_threads()
    speed.main([*arguments, "--threads", "1", "--out", str(out)])
    torch.set_num_threads(threads)
    text = capsys.readouterr().out
    assert "4 of 4 localized" in text
    steps = re.findall(r"^\| (.+) \| ([\d.]+) \| ([\d.]+) \|$", text, re.M)
    assert len(steps) == 12
    medians = {name: float(median) for name, median, _ in steps}
    assert all(value >= 0 for value in medians.values())
    assert medians["decode"] > 0 and medians["pose"] > 0
    whole = medians.pop("in all, wall")
    del medians["in all, CPU"]
    # medians of parts do not add up exactly to the median of the whole
    assert sum(medians.values()) == pytest.approx(whole, rel=0.5)
    written = json.loads(out.read_text())
    assert len(written["timings_s"]) == 4 and written["stream"]["queries_per_s"] > 0
    assert "stream of 8" in text


def test_the_steps_of_the_cpu_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def network(config: NetworkConfig, device: str) -> PairNetwork:
        assert config.enc_depth == config.dec_depth == 1 and config.enc_embed_dim == 1024
        narrow = dataclasses.replace(
            config, img_size=(64, 64), enc_embed_dim=64, dec_embed_dim=48, enc_num_heads=1,
            dec_num_heads=1,
        )  # fmt: skip
        return random_network(narrow, device)

    monkeypatch.setattr(speed, "random_network", network)
    monkeypatch.setattr(speed, "PHOTO_SIZE", (320, 240))
    monkeypatch.setattr(speed, "FOCAL", 300.0)
    speed.main(["--without-network", "--top-k", "3", "--queries", "2", "--map-photos", "4"])
    text = capsys.readouterr().out
    assert "2 of 2 localized" in text and "stream of 4" in text
    steps = dict(re.findall(r"^\| (.+) \| ([\d.]+) \| [\d.]+ \|$", text, re.M))
    assert float(steps["decode"]) == 0 < float(steps["pose"])


@pytest.mark.parametrize("real", [["--matcher", "small"], ["--place", "somewhere"]])
def test_real_places_need_the_network(real: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        speed.main(["--without-network", *real])
    assert "made-up photos" in capsys.readouterr().err


def test_a_clock_counts_time_inside_a_step_once() -> None:
    class Nested:
        def outer(self) -> int:
            return self.inner() + sum(range(1000))

        def inner(self) -> int:
            return sum(range(200_000))

    nested = Nested()
    clock = speed.Clock("cpu")
    clock.patch(nested, "outer", "outer")
    clock.patch(nested, "inner", "inner")
    assert nested.outer() == sum(range(200_000)) + sum(range(1000))
    assert clock.steps["outer"][0] < clock.steps["inner"][0]
