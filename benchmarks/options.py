"""Options of every localization benchmark; a data set's own are a subclass beside its reader."""

from dataclasses import dataclass, field
from typing import Literal

from benchmarks.evaluate import EvaluationOptions
from localize.localizer import LocalizerOptions
from mapping.options import MapOptions


@dataclass(frozen=True, kw_only=True)
class LocalizationOptions:
    """How a scene is mapped, localized and scored."""

    # given: the data set's poses and cameras of the map's photos; sfm: structure from motion, then
    # aligned to the truth by the map's photos; auto: given where there are some
    map_poses: Literal["auto", "given", "sfm"] = "auto"
    # of a map with given poses: triangulated from our own matches, or taken from the given depth
    map_points: Literal["triangulated", "depth"] = "triangulated"
    map_intrinsics: Literal["given", "unknown"] = "given"  # of the map's photos, for sfm
    query_intrinsics: Literal["given", "unknown"] = "given"  # given: those of the data set
    # hloc's list of 'query map' lines, best first; a path relative to where the command runs, with
    # {scene} for the name of the scene where each has its own; None: our own retrieval
    retrieval_pairs: str | None = None
    num_seeds: int = 1  # runs of RANSAC, with seeds localizer.pnp.seed, + 1, ...
    map: MapOptions = field(default_factory=MapOptions)
    localizer: LocalizerOptions = field(default_factory=LocalizerOptions)
    evaluation: EvaluationOptions = field(default_factory=EvaluationOptions)

    def __post_init__(self) -> None:
        if self.num_seeds < 1:
            raise ValueError(f"num_seeds must be at least 1, got {self.num_seeds}")
        if self.map_points == "depth" and self.map_poses == "sfm":
            raise ValueError("map_points 'depth' needs given poses, map_poses is 'sfm'")
