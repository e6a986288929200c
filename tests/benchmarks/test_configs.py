"""Every preset of a benchmark is made of options that exist, and differs from the defaults."""

from pathlib import Path

import pytest

from benchmarks.options import LocalizationOptions
from benchmarks.registry import BENCHMARKS
from benchmarks.run import benchmark_options
from matching.mast3r import Mast3rOptions
from matching.options import build_options, first_difference, options_as_dict, read_options_file

CONFIGS = Path(__file__).parents[2] / "configs"
PRESETS = [file for file in sorted(CONFIGS.glob("*.yaml")) if not file.stem.startswith("train_")]


def test_options_of_a_data_set_survive_others_beside_them() -> None:
    """Intervals must not cost the thresholds of the data set, nor one setting the others."""
    for name in ("7scenes", "12scenes", "aachen", "inloc", "cambridge", "cmu", "robotcar"):
        options = benchmark_options(name, {"evaluation": {"num_bootstrap": 7}})
        default = benchmark_options(name, {})
        assert options.evaluation.thresholds == default.evaluation.thresholds
        assert options.evaluation.num_bootstrap == 7
    preset = benchmark_options("7scenes", read_options_file(CONFIGS / "7scenes.yaml"))
    assert (0.05, 5.0) in preset.evaluation.thresholds
    inloc = benchmark_options("inloc", {"localizer": {"min_confidence": 0.0}}).localizer
    assert (inloc.top_k, inloc.pnp.max_error_px) == (40, 48.0)
    # 48 of 4032 pixels, also for a network that sees 512 of them
    assert inloc.at_pixel(4032 / 512, (3024, 4032)).pnp.max_error_px == 48


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
    if isinstance(options, LocalizationOptions):
        # scores count a query without a pose as wrong: to withhold doubtful ones only loses
        assert options.localizer.min_confidence == 0
        # a published limit is of photos, not of what some network sees of them
        own_limit = "pnp" in values.get("localizer", {})
        assert own_limit == (values["localizer"].get("max_error_long_side_px") is not None)
