"""Options of the offline stage, nested as the stages are; defaults beside their units."""

from dataclasses import dataclass, field, replace
from typing import Literal

PairMethod = Literal["auto", "exhaustive", "retrieval", "sequential", "poses", "file"]
CameraMode = Literal["auto", "single", "per_folder", "per_image"]
SfmMethod = Literal["incremental", "global"]

# networks place matches to about 0.4 of the pixels they see (facades and rendered rooms)
_MATCHER_PIXELS = 1.5


def _at_least(options: object, **limits: float) -> None:
    for name, limit in limits.items():
        value = getattr(options, name)
        if not value >= limit:
            raise ValueError(f"{name} must be at least {limit}, got {value}")


@dataclass(frozen=True, kw_only=True)
class PairOptions:
    """Which photos are matched with each other."""

    # auto: every pair up to `max_exhaustive` photos; beyond that from known poses if there are
    # some, else by retrieval
    method: PairMethod = "auto"
    max_exhaustive: int = 50  # photos up to which `auto` matches every pair (1,225 pairs)
    top_k: int = 20  # partners per photo for `retrieval` and `poses`
    window: int = 10  # following photos (by name) per photo for `sequential`
    file: str | None = None  # lines `name0 name1`, for `file`
    # poses: photos whose viewing directions differ by more than this share no surface
    max_view_angle_deg: float = 75.0

    def __post_init__(self) -> None:
        _at_least(self, max_exhaustive=2, top_k=1, window=1)
        if (self.method == "file") != (self.file is not None):
            raise ValueError(
                f"method 'file' and a pair file go together, got {self.method}, {self.file}"
            )
        if not 0 < self.max_view_angle_deg <= 180:
            raise ValueError(
                f"max_view_angle_deg must be in (0, 180], got {self.max_view_angle_deg}"
            )


@dataclass(frozen=True, kw_only=True)
class RetrievalOptions:
    """Global descriptors of photos and the index over them."""

    num_clusters: int = 64  # visual words of the vocabulary (fewer on tiny maps)
    local_dim: int = 64  # local descriptors are reduced to this many whitened dimensions
    global_dim: int = 1024  # dimensions kept of the aggregated descriptor (fewer on small maps)
    num_training_descriptors: int = 50_000  # sampled over all photos for the vocabulary
    max_exact: int = 50_000  # photos up to which the index is exact; an IVF index beyond
    num_probes: int = 32  # inverted lists visited per query of an IVF index

    def __post_init__(self) -> None:
        _at_least(self, num_clusters=1, local_dim=1, global_dim=1, num_training_descriptors=1)
        _at_least(self, max_exact=1, num_probes=1)


@dataclass(frozen=True, kw_only=True)
class VerificationOptions:
    """Which matches of a pair survive, and how free pixels become keypoints."""

    # largest distance of a match to its epipolar line; 1.5 pixels of what the matcher saw if that
    # is more, as for large photos that a network sees shrunken
    max_error_px: float = 4.0
    min_inliers: int = 15  # pairs with fewer consistent matches are dropped
    min_score: float = 0.0  # matches scored lower by the matcher are ignored
    # free pixels of a photo closer than this to a keypoint, or to each other, become one keypoint;
    # in pixels of the size the matcher saw (only matchers that match free pixels)
    merge_radius_px: float = 1.0
    # move such keypoints, between pixels, to where all verified matches of their tracks agree: it
    # lowered reprojection errors by 2 to 9 %, but made no pose better (benchmarks/results)
    refine_tracks: bool = False

    def __post_init__(self) -> None:
        _at_least(self, min_inliers=1)
        for name in ("max_error_px", "merge_radius_px"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")


@dataclass(frozen=True, kw_only=True)
class ReconstructionOptions:
    """From verified matches to cameras and points."""

    method: SfmMethod = "incremental"  # of pycolmap; only used without known poses
    camera_model: str = "SIMPLE_RADIAL"  # of photos whose intrinsics are not given
    camera_mode: CameraMode = "auto"  # which photos share unknown intrinsics
    # blend focal lengths from a network's point maps into those that SfM starts from: on photos
    # without EXIF, all ten of a set were registered with any seed, else with two of five
    pointmap_focal: bool = True
    min_triangulation_angle_deg: float = 1.5  # points seen under a smaller angle are dropped
    # observations further off are dropped; 1.5 pixels of what the matcher saw if that is more
    max_reprojection_error_px: float = 4.0
    keep_two_view_points: bool = False  # points seen by two photos only
    # of cameras whose intrinsics are not given and that took at least 5 photos of the map
    refine_principal_point: bool = True
    # more threads are faster on large maps, but then the last digits differ from run to run; with
    # global SfM they always do
    num_threads: int = 1

    def __post_init__(self) -> None:
        if not 0 <= self.min_triangulation_angle_deg < 90:
            raise ValueError(
                "min_triangulation_angle_deg must be in [0, 90), got "
                f"{self.min_triangulation_angle_deg}"
            )
        if not self.max_reprojection_error_px > 0:
            raise ValueError(
                f"max_reprojection_error_px must be > 0, got {self.max_reprojection_error_px}"
            )
        if self.num_threads == 0 or self.num_threads < -1:
            raise ValueError(f"num_threads must be positive, or -1 for all, got {self.num_threads}")


@dataclass(frozen=True, kw_only=True)
class MapOptions:
    """All options of `mapping.build_map`."""

    pairs: PairOptions = field(default_factory=PairOptions)
    retrieval: RetrievalOptions = field(default_factory=RetrievalOptions)
    verification: VerificationOptions = field(default_factory=VerificationOptions)
    reconstruction: ReconstructionOptions = field(default_factory=ReconstructionOptions)
    # turn photos as their EXIF orientation says; None: not with known poses, as COLMAP models mean
    # the stored pixels, else yes. A finished map's options say which of the two it was.
    apply_exif_orientation: bool | None = None

    def at_pixel(self, pixel_px: float) -> "MapOptions":
        """The options for photos of which the matcher saw pixels of this size, in photo pixels."""
        least = _MATCHER_PIXELS * pixel_px
        verification, reconstruction = self.verification, self.reconstruction
        return replace(
            self,
            verification=replace(verification, max_error_px=max(verification.max_error_px, least)),
            reconstruction=replace(
                reconstruction,
                max_reprojection_error_px=max(reconstruction.max_reprojection_error_px, least),
            ),
        )
