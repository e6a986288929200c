"""A query photo and a map in, a camera pose out."""

from localize.localizer import Localizer
from localize.options import LocalizerOptions
from localize.relative import RelativeOptions, RelativePose, relative_pose
from localize.results import (
    Localization,
    append_result,
    poses_text,
    read_poses,
    read_results,
    write_poses,
    write_results,
)

__all__ = [
    "Localization",
    "Localizer",
    "LocalizerOptions",
    "RelativeOptions",
    "RelativePose",
    "append_result",
    "poses_text",
    "read_poses",
    "read_results",
    "relative_pose",
    "write_poses",
    "write_results",
]
