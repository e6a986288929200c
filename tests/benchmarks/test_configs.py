"""Every preset of a benchmark is made of options that exist, and differs from the defaults."""

from pathlib import Path

import pytest

from benchmarks.registry import BENCHMARKS
from benchmarks.run import benchmark_options
from matching.mast3r import Mast3rOptions
from matching.options import build_options, first_difference, options_as_dict, read_options_file

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = [file for file in sorted(CONFIGS.glob("*.yaml")) if not file.stem.startswith("train_")]


@pytest.mark.parametrize("file", PRESETS, ids=lambda file: file.stem)
def test_a_preset_builds_its_benchmarks_options(file: Path) -> None:
    values = read_options_file(file)
    matcher = values.pop("matcher", {})
    assert (
        first_difference(
            options_as_dict(build_options(Mast3rOptions, matcher)), options_as_dict(Mast3rOptions())
        )
        or not matcher
    )
    name = file.stem.removesuffix("_mast3r")
    assert name in BENCHMARKS and bool(matcher) == file.stem.endswith("_mast3r")
    options = benchmark_options(name, values)
    default = benchmark_options(name, {})
    assert first_difference(options_as_dict(options), options_as_dict(default)) is not None
    assert f"benchmark {name} " in file.read_text()
