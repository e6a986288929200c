"""`Localizer`: holds a map open and tells where photos were taken."""

import logging
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field, replace
from operator import attrgetter

import numpy as np
import pycolmap
from numpy.typing import NDArray

from localize.intrinsics import (
    QueryCamera,
    map_camera,
    query_camera,
    turned_map_cameras,
    with_pointmap_focal,
)
from localize.lift import lift_matches
from localize.options import LocalizerOptions
from localize.queries import Cameras, Query, read_queries
from localize.results import Localization, unwritable_name
from localize.second_round import photos_in_view
from localize.solve import Solved, failed, most_exact, simpler, solve
from localize.stream import in_order, single_threaded_torch
from mapping.map import Map
from matching.errors import DamagedEncodingError, InputError
from matching.files import PathLike
from matching.images import StoredPhoto
from matching.matcher import ImageLike, Matcher
from matching.progress import Progress, silent
from matching.types import Matches, View

logger = logging.getLogger(__name__)


class Localizer:
    """Localizes any number of photos in one map; nothing about a query enters the map.

    Args:
        scene: The map, or its folder.
        matcher: The matcher that the map was made with; loaded by the name in the map if None.
        device: Torch device of a matcher loaded here.
        options: Settings.

    Raises:
        matching.errors.InputError: No map there, a damaged one, or one made with another matcher.
    """

    def __init__(
        self,
        scene: Map | PathLike,
        matcher: Matcher | None = None,
        *,
        device: str = "cpu",
        options: LocalizerOptions | None = None,
    ) -> None:
        self.scene = Map.open(scene) if isinstance(scene, str | os.PathLike) else scene
        self.matcher = matcher or self.scene.load_matcher(device)
        self.scene.check_matcher(self.matcher)
        self.options = options or LocalizerOptions()
        self._upright = bool(self.scene.info.options["apply_exif_orientation"])
        self._quick = self.matcher.quick() if self.options.quick_min_inliers > 0 else None
        self._smaller = self.matcher.smaller() if self.options.smaller_below > 0 else None
        self._unreadable: set[str] = set()

    def localize(
        self,
        image: ImageLike,
        camera: pycolmap.Camera | None = None,
        *,
        name: str | None = None,
        retrieved: Sequence[str] | None = None,
    ) -> Localization:
        """Find the pose of one photo.

        Args:
            image: A path, or an array, upright if the map's photos are: (H, W, 3) RGB or (H, W)
                grey, uint8.
            camera: Intrinsics, for this photo's size or a scaled one. Without them they are those
                of the map photos of its size, or of its size turned, if these share a camera that
                fits, or else the focal length comes from EXIF, point maps or the map's cameras and
                is refined with the pose.
            name: The name in the result; by default the path, or "query" for an array.
            retrieved: Map photos to compare it with, best first, for example of a published list,
                instead of the map's own retrieval; only as many as the options ask for are read,
                unknown and repeated names are skipped.

        Returns:
            The pose, or a result with ``success`` False and the reason.

        Raises:
            matching.errors.InputError: No readable image, or a camera that does not fit it.
        """
        path = None if isinstance(image, np.ndarray) else image
        name = name or ("query" if path is None else str(path))
        timings: dict[str, float] = {}
        with self._threads_of_torch():
            with _timed(timings, "encode"):
                view = (self._quick or self.matcher).encode_bare(self._photo(image))
            known = query_camera(path, view.image_size, camera, name)
            result = self._localize_view(
                view, known, name, timings, retrieved, last=self._quick is None
            )
            return self._without_doubt(result, image, known, timings, retrieved)

    def localize_all(
        self,
        images: PathLike | Sequence[PathLike],
        cameras: Cameras = None,
        *,
        retrieved: Mapping[str, Sequence[str]] | None = None,
        done: Mapping[str, Localization] | None = None,
        on_result: Callable[[Localization], None] | None = None,
        progress: Progress = silent,
    ) -> dict[str, Localization]:
        """Find the poses of many photos.

        Args:
            images: A photo, a folder, a list file or several paths, see
                `localize.queries.read_queries`.
            cameras: Camera by name, or a list file ``name MODEL WIDTH HEIGHT PARAMS...``.
            retrieved: Map photos to compare each query with by its name, see `localize`; queries
                that are not in it use the map's own retrieval.
            done: Results of an earlier run by name: these queries are not localized again.
            on_result: Called with each new result as soon as it is there, for example to keep it on
                disk (`localize.results.append_result`).
            progress: Called around the loop over the photos.

        Returns:
            A result for every query by name, in the order of the list. A photo that cannot be
            read, or whose camera does not fit, fails with that reason; the others go on.

        Raises:
            matching.errors.InputError: Nothing to localize, a name twice, a wrong list.
        """
        asked = read_queries(images, cameras)
        without = [q.name for q in asked if q.camera is None]
        if 0 < len(without) < len(asked):
            logger.warning("%d photos without a given camera, e.g. %s", len(without), without[0])
        found = {q.name: done[q.name] for q in asked if done is not None and q.name in done}
        queries = [q for q in asked if q.name not in found]
        views = (self._quick or self.matcher).encode_many(self._photo(q.path) for q in queries)

        def encoded() -> Iterator[_Encoded]:
            for query in queries:
                timings: dict[str, float] = {}
                with _timed(timings, "encode"):  # what is not hidden behind earlier queries
                    view = next(views)
                given = None if retrieved is None else retrieved.get(query.name)
                yield _Encoded(query=query, view=view, timings=timings, given=given)

        threads = self.options.num_threads or self.matcher.num_streams
        stream = in_order(self._localize_query, encoded(), threads)
        with self._threads_of_torch():
            try:
                for query in progress(queries, "localize", total=len(queries)):
                    found[query.name] = next(stream)
                    if on_result is not None:
                        on_result(found[query.name])
            finally:
                stream.close()
        return {query.name: found[query.name] for query in asked}

    def _threads_of_torch(self) -> AbstractContextManager[None]:
        """None on the CPU while the matcher, which then wants several streams, has a GPU."""
        return single_threaded_torch() if self.matcher.num_streams > 1 else nullcontext()

    def _localize_query(self, encoded: "_Encoded") -> Localization:
        """The pose of one of many photos; what is wrong with the photo is a reason, no error."""
        query, view, timings = encoded.query, encoded.view, encoded.timings
        try:
            if isinstance(view, InputError):
                raise view
            if problem := unwritable_name(query.name):
                raise InputError(problem)
            camera = query_camera(query.path, view.image_size, query.camera, query.name)
        except InputError as error:
            return failed(query.name, str(error), None, timings)
        result = self._localize_view(
            view, camera, query.name, timings, encoded.given, last=self._quick is None
        )
        return self._without_doubt(result, query.path, camera, timings, encoded.given)

    def _without_doubt(
        self,
        result: Localization,
        image: ImageLike,
        camera: QueryCamera,
        timings: dict[str, float],
        given: Sequence[str] | None,
    ) -> Localization:
        """The result, or that of another encoding where the first one left doubts."""
        sure = result.success and result.num_inliers >= self.options.quick_min_inliers
        if self._quick is not None and not sure:
            full = self._again(self.matcher, result, image, camera, timings, given)
            result = max(full, result, key=attrgetter("confidence"))
        if self._smaller is not None and result.confidence < self.options.smaller_below:
            smaller = self._again(self._smaller, result, image, camera, timings, given)
            # a second try at chance: only a pose that would have needed none is believed
            if smaller.confidence >= self.options.smaller_below:
                result = smaller
        return result

    def _again(
        self,
        matcher: Matcher,
        result: Localization,
        image: ImageLike,
        camera: QueryCamera,
        timings: dict[str, float],
        given: Sequence[str] | None,
    ) -> Localization:
        """The result with the encoding of another matcher; the given one if it cannot be made."""
        try:
            with _timed(timings, "encode"):
                view = matcher.encode_bare(self._photo(image))
        except InputError as error:  # readable a moment ago: removed or replaced meanwhile
            logger.warning("'%s' was looked at only once: %s", result.name, error)
            return result
        return self._localize_view(view, camera, result.name, timings, given, last=True)

    def _photo(self, image: ImageLike) -> ImageLike:
        """The photo, read as the map read its own: upright, or as it is stored."""
        if self._upright or self.matcher.reads_files or isinstance(image, np.ndarray):
            return image
        return StoredPhoto(os.fspath(image))

    def _localize_view(
        self,
        view: View,
        camera: QueryCamera,
        name: str,
        timings: dict[str, float],
        given: Sequence[str] | None,
        *,
        last: bool,
    ) -> Localization:
        """Two rounds: against the retrieved photos; if that leaves doubts, against more.

        Those are photos that see the first pose, or the next retrieved ones where no pose was
        found. An encoding that is not the ``last`` one to be tried gets one round only.
        """
        options = self.options.at_pixel(self.matcher.pixel_px(view), view.image_size)
        with _timed(timings, "retrieve"):
            names, next_best = self._retrieved(view, given)
        compared: list[_Compared] = []
        if options.pointmap_focal and camera.source != "given" and names:
            with _timed(timings, "focal"):
                camera = with_pointmap_focal(camera, self._focal_px(view, names[0]))
        solved = self._round(view, camera, name, names, compared, options, timings)
        sure = solved.result.confidence >= options.second_round_below
        if sure or not last:
            return solved.result
        more = next_best
        if solved.best is not None and solved.result.success:
            with _timed(timings, "retrieve"):
                more = photos_in_view(
                    self.scene,
                    solved.best,
                    [c.name for c in compared],
                    options.second_round_photos,
                    min_points=options.min_shared_points,
                )
        if not more:
            return solved.result
        again = self._round(view, camera, name, more, compared, options, timings)
        return max(solved, again, key=lambda s: s.rank).result

    def _focal_px(self, view: View, name: str) -> float | None:
        """What the matcher thinks of the focal length, looking at the best map photo too."""
        best = self._observed(name)
        if best is not None:
            try:
                return self.matcher.focal_px(view, [best.view])
            except DamagedEncodingError as error:
                self._skip(name, error)
        return self.matcher.focal_px(view)

    def _retrieved(self, view: View, given: Sequence[str] | None) -> tuple[list[str], list[str]]:
        """The most similar map photos, and those that follow them."""
        top_k, more = self.options.top_k, self.options.second_round_photos
        if given is None:
            names = [r.name for r in self.scene.retrieve(view, self.matcher, top_k + more)]
        else:
            known = set(self.scene.image_names)
            names = [name for name in dict.fromkeys(given) if name in known]
        return names[:top_k], names[top_k : top_k + more]

    def _round(
        self,
        view: View,
        camera: QueryCamera,
        name: str,
        photos: Sequence[str],
        compared: "list[_Compared]",
        options: LocalizerOptions,
        timings: dict[str, float],
    ) -> Solved:
        """Match more photos of the map and solve with all that were compared so far.

        ``compared`` is extended.
        """
        with _timed(timings, "match"):
            observed = [o for n in photos if (o := self._observed(n)) is not None]
            compared += self._matched(view, observed)
        if not compared:
            reason = (
                f"none of the {len(photos)} retrieved photos can be read from the map"
                if photos
                else "no retrieved image: nothing to recognize in the photo"
            )
            return Solved(result=failed(name, reason, camera, timings))
        with _timed(timings, "lift"):
            correspondences = lift_matches(
                [c.matches for c in compared],
                [c.view.keypoints for c in compared],
                [c.ids for c in compared],
                options.lift,
            )
        with _timed(timings, "pose"):
            names = tuple(c.name for c in compared)
            solved = solve(self.scene, correspondences, camera, name, names, options, timings)
            shared = map_camera(self.scene, names, camera)
            turned = turned_map_cameras(self.scene, names, camera) if shared is None else []
            tried = [
                solve(self.scene, correspondences, known, name, names, options, timings)
                for known in ([shared] if shared is not None else turned)
            ]
            return simpler(solved, most_exact(tried)) if tried else solved

    def _observed(self, name: str) -> "_Compared | None":
        """A map photo with only those keypoints that see a map point, and these points.

        The others cannot give a 2D-3D match: leaving them out made matching 2.5 times faster at the
        same accuracy (SIFT on photos of 12,000 keypoints).
        """
        ids = self.scene.point3D_ids(name)
        rows = np.flatnonzero(ids >= 0)
        try:
            view = self.scene.load_view(name)
        except InputError as error:
            self._skip(name, error)
            return None
        return _Compared(name=name, view=self.matcher.at_keypoints(view, rows), ids=ids[rows])

    def _matched(self, view: View, observed: "Sequence[_Compared]") -> "list[_Compared]":
        """The map photos with their matches, all in one batch; without damaged ones."""
        try:
            found = self.matcher.match_many(view, [o.view for o in observed])
            return [replace(o, matches=m) for o, m in zip(observed, found, strict=True)]
        except DamagedEncodingError as error:  # which one?
            if len(observed) <= 1:
                for damaged in observed:
                    self._skip(damaged.name, error)
                return []
        return [match for one in observed for match in self._matched(view, [one])]

    def _skip(self, name: str, error: InputError) -> None:
        """Warn of a damaged map photo, once and not with every query."""
        if name not in self._unreadable:
            self._unreadable.add(name)
            logger.warning("map photo '%s' is skipped: %s", name, error)


@dataclass(frozen=True, kw_only=True)
class _Encoded:
    """One of many queries on its way."""

    query: Query
    view: View | InputError
    timings: dict[str, float]
    given: Sequence[str] | None  # map photos to compare it with


@dataclass(frozen=True, kw_only=True)
class _Compared:
    """A map photo with the keypoints that see map points, and its matches with the query."""

    name: str
    view: View
    ids: NDArray[np.int64]
    matches: Matches = field(default_factory=Matches.empty)


@contextmanager
def _timed(timings: dict[str, float], step: str) -> Iterator[None]:
    start = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - start
        timings[step] = timings.get(step, 0.0) + seconds
        timings["total"] = timings.get("total", 0.0) + seconds
