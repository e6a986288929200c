"""The one place where pycolmap is made quiet and repeatable.

COLMAP seeds itself from the clock and its threads add up in any order. With these settings and one
thread, two runs of triangulation or incremental SfM over the same database give the same model.
Global SfM has no such setting for all of its steps: its models differ in the last digits.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pycolmap

from mapping.options import ReconstructionOptions, VerificationOptions

SEED = 0

# COLMAP reports every step on stderr as information and warnings; what goes wrong raises in Python
pycolmap.logging.minloglevel = int(pycolmap.logging.Level.ERROR.value)


@contextmanager
def failure_is_expected() -> Iterator[None]:
    """Keep COLMAP from printing that it found no model: the caller sees that and says why."""
    level = pycolmap.logging.minloglevel
    pycolmap.logging.minloglevel = int(pycolmap.logging.Level.FATAL.value)
    try:
        yield
    finally:
        pycolmap.logging.minloglevel = level


def two_view_options(options: VerificationOptions) -> pycolmap.TwoViewGeometryOptions:
    """Seeded options for the geometric verification of a pair."""
    two_view = pycolmap.TwoViewGeometryOptions()
    two_view.min_num_inliers = options.min_inliers
    two_view.ransac.max_error = options.max_error_px
    two_view.ransac.random_seed = SEED
    return two_view


def _set_triangulation(
    target: pycolmap.IncrementalTriangulatorOptions, options: ReconstructionOptions
) -> None:
    target.min_angle = options.min_triangulation_angle_deg
    target.complete_max_reproj_error = options.max_reprojection_error_px
    target.merge_max_reproj_error = options.max_reprojection_error_px
    target.ignore_two_view_tracks = not options.keep_two_view_points
    target.random_seed = SEED


def incremental_options(options: ReconstructionOptions) -> pycolmap.IncrementalPipelineOptions:
    """Seeded options of incremental SfM and of triangulation."""
    pipeline = pycolmap.IncrementalPipelineOptions()
    pipeline.random_seed = SEED
    pipeline.num_threads = options.num_threads
    pipeline.min_model_size = 2
    pipeline.extract_colors = False  # COLMAP's reader ignores the EXIF orientation
    # takes 10 to 20 s for a photo of another place that has some hundred matches by chance, and
    # then may give it a pose that sees no point; on 17 maps of real photos it changed nothing
    pipeline.structure_less_registration_fallback = False
    pipeline.mapper.random_seed = SEED
    pipeline.mapper.num_threads = options.num_threads
    pipeline.mapper.filter_max_reproj_error = options.max_reprojection_error_px
    pipeline.mapper.filter_min_tri_angle = options.min_triangulation_angle_deg
    _set_triangulation(pipeline.triangulation, options)
    return pipeline


def global_options(options: ReconstructionOptions) -> pycolmap.GlobalPipelineOptions:
    """Seeded options of global SfM."""
    pipeline = pycolmap.GlobalPipelineOptions()
    pipeline.random_seed = SEED
    pipeline.num_threads = options.num_threads
    pipeline.min_model_size = 2
    mapper = pipeline.mapper
    mapper.random_seed = SEED
    mapper.num_threads = options.num_threads
    mapper.rotation_averaging.random_seed = SEED
    mapper.global_positioning.random_seed = SEED
    mapper.global_positioning.use_gpu = False
    mapper.bundle_adjustment.ceres.use_gpu = False
    _set_triangulation(mapper.retriangulation, options)
    return pipeline
