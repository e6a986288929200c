"""What every localization data set is turned into: scenes, each with one map and its queries."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import pycolmap

from benchmarks.submissions import SubmissionFormat
from mapping.depth import Surfaces
from matching.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LocalizationTask:
    """One scene: photos to map and photos to localize.

    Attributes:
        name: For messages and folders, unique in its data set.
        images: Folder that all names are relative to.
        map_names: Photos of the map.
        query_cameras: Camera of each query in the order of the list, None where it is not known.
        reference: Poses and cameras of the map's photos as the data set gives them, or None. Its
            points are not used. The runner may hand it to the map's construction. A function where
            it takes long to read, see `known_poses`.
        truth: Poses of the queries: a model, or ``cam_from_world`` by name; None where nobody knows
            them. Only scores look at it, never the map or the localization. Poses of map photos in
            it serve to align a map from motion.
        surfaces: Given depth of the map's photos; None without.
        retrieval: Map photos to compare each query with, best first, from a published list; None
            leaves it to our own retrieval. A query that is not in it is retrieved by ourselves.
        conditions: Query to the label that its score is also listed under, such as "night".
        num_unused: Map photos of the data set beside ``map_names``, which ``--check`` counts too.
    """

    name: str
    images: Path
    map_names: tuple[str, ...]
    query_cameras: Mapping[str, pycolmap.Camera | None]
    reference: pycolmap.Reconstruction | Callable[[], pycolmap.Reconstruction] | None = None
    truth: pycolmap.Reconstruction | Mapping[str, pycolmap.Rigid3d] | None = None
    surfaces: Surfaces | None = None
    retrieval: Mapping[str, Sequence[str]] | None = None
    conditions: Mapping[str, str] = field(default_factory=dict)
    num_unused: int = 0

    def __post_init__(self) -> None:
        both = sorted(set(self.map_names) & set(self.query_cameras))
        if both:
            raise InputError(f"{self.name}: '{both[0]}' is listed as map photo and as query")
        for name in (*self.map_names, *self.query_cameras):
            if not (self.images / name).is_file():
                raise InputError(f"{self.name}: no photo '{self.images / name}'")

    def first_queries(self, limit: int | None) -> "LocalizationTask":
        """The same task with at most ``limit`` queries."""
        return self.with_queries(list(self.query_cameras)[:limit])

    def with_queries(self, names: Sequence[str]) -> "LocalizationTask":
        """The same task with only these queries."""
        return replace(self, query_cameras={name: self.query_cameras[name] for name in names})

    def known_poses(self) -> pycolmap.Reconstruction | None:
        """The reference model, read now if that was left for later."""
        return self.reference() if callable(self.reference) else self.reference

    def map_cameras(self) -> dict[str, pycolmap.Camera]:
        """Intrinsics of the map's photos from the reference model; it must outlive them."""
        model = self.known_poses()
        if model is None:
            return {}
        cameras = {}
        for name in self.map_names:
            image = model.find_image_with_name(name)
            if image is not None:
                cameras[name] = model.camera(image.camera_id)
        return cameras


@dataclass(frozen=True, kw_only=True)
class SceneCounts:
    """How many photos the publishers count in a scene; None where they do not say."""

    map: int | None = None
    queries: int | None = None


@dataclass(frozen=True, kw_only=True)
class LocalizationDataset:
    """A data set of scenes, read one by one. Opening it reads no more than names of folders.

    Attributes:
        title: With the version or the kind of truth, as reports print it: "7-Scenes, SfM truth".
        scenes: Their names in the order of the publications.
        read: Reads one scene; strict: a missing or odd file is an `InputError` that says what was
            expected. Whoever runs the benchmark lets go of a scene before it reads the next.
        counts: Published numbers of photos by scene, for ``--check``.
        total: Published numbers over all scenes, where they are not known by scene.
        num_scenes: Published number of scenes; None where there is only one, or nobody says.
        one_scene: Whether it is one scene by nature: its predictions lie in the run's folder
            itself. Where there may be several, each has a folder of its name, also if only one of
            them was downloaded: a run goes on when the others are there.
        published: Key of the published rows to print beside ours (`benchmarks.published`), or "".
        submission: How its server wants poses, or None where scores are made here.
        notes: What a reader of the scores must know: which truth, which registration of depth, ...
    """

    title: str
    scenes: tuple[str, ...]
    read: Callable[[str], LocalizationTask]
    counts: Mapping[str, SceneCounts] = field(default_factory=dict)
    total: SceneCounts = field(default_factory=SceneCounts)
    num_scenes: int | None = None
    one_scene: bool = False
    published: str = ""
    submission: SubmissionFormat | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.scenes:
            raise InputError(f"{self.title}: no scene found")
