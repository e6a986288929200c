"""Tests of `mapping/colmap.py`."""

from mapping.colmap import SEED, incremental_options
from mapping.options import ReconstructionOptions


def test_incremental_sfm_is_repeatable_and_registers_by_points_only() -> None:
    options = ReconstructionOptions(max_reprojection_error_px=3.0, keep_two_view_points=True)
    pipeline = incremental_options(options)
    assert pipeline.random_seed == pipeline.mapper.random_seed == SEED
    assert pipeline.triangulation.random_seed == SEED and pipeline.num_threads == 1
    assert not pipeline.structure_less_registration_fallback
    assert pipeline.mapper.filter_max_reproj_error == 3.0
    assert not pipeline.triangulation.ignore_two_view_tracks
