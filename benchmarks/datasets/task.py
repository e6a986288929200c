"""What every localization data set is turned into: one map and its queries."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pycolmap

from matching.errors import InputError


@dataclass(frozen=True, kw_only=True)
class LocalizationTask:
    """Photos to map and photos to localize.

    Attributes:
        name: For messages and folders.
        images: Folder that all names are relative to.
        map_names: Photos of the map.
        query_cameras: Camera of each query in the order of the list, None where it is not known.
        truth: Poses and cameras of map photos and queries, or None. A runner may hand out those of
            the map's photos, never those of the queries.
    """

    name: str
    images: Path
    map_names: tuple[str, ...]
    query_cameras: Mapping[str, pycolmap.Camera | None]
    truth: pycolmap.Reconstruction | None

    def __post_init__(self) -> None:
        both = sorted(set(self.map_names) & set(self.query_cameras))
        if both:
            raise InputError(f"{self.name}: '{both[0]}' is listed as map photo and as query")
        for name in (*self.map_names, *self.query_cameras):
            if not (self.images / name).is_file():
                raise InputError(f"{self.name}: no photo '{self.images / name}'")

    def first_queries(self, limit: int | None) -> "LocalizationTask":
        """The same task with at most ``limit`` queries."""
        return LocalizationTask(
            name=self.name,
            images=self.images,
            map_names=self.map_names,
            query_cameras=dict(list(self.query_cameras.items())[:limit]),
            truth=self.truth,
        )

    def map_cameras(self) -> dict[str, pycolmap.Camera]:
        """Intrinsics of the map's photos from the truth; it must outlive them."""
        truth = self.truth
        if truth is None:
            return {}
        cameras = {}
        for name in self.map_names:
            image = truth.find_image_with_name(name)
            if image is not None:
                cameras[name] = truth.camera(image.camera_id)
        return cameras
