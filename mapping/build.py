"""`build_map`: photos in, a map on disk out; a killed run continues where it was."""

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import CancelledError, Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from threading import Event
from typing import Any, TypeVar

import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.camera_groups import assign_cameras, remembered_focals
from mapping.cameras import check_camera_model
from mapping.database import database_bytes, posed_reconstruction, verify_pairs, write_database
from mapping.depth import Surfaces, points_from_surfaces
from mapping.finish import Descriptors, finish_map
from mapping.info import DamagedMapError, identity_difference, image_identity, map_identity
from mapping.inputs import (
    Poses,
    given_cameras,
    hash_inputs,
    read_known_poses,
    usable_photos,
)
from mapping.map import Map
from mapping.options import MapOptions, ReconstructionOptions
from mapping.pair_matches import EarlyMatches, match_pairs
from mapping.pairs import Pair, read_pairs, resolve_method, select_pairs
from mapping.photos import (
    Photo,
    PhotoSet,
    encode_photos,
    find_photos,
    recognize_copies,
    too_few_photos,
    view_key,
)
from mapping.reconstruct import (
    SPARSE,
    ReconstructionResult,
    color_points,
    read_result,
    result_bytes,
    structure_from_motion,
    triangulate,
    write_result,
)
from mapping.refine_tracks import database_keypoints, refine_database
from mapping.retrieval import GlobalDescriber, describe_photos, similar_photos
from mapping.stage_clock import StageClock
from mapping.store import (
    ViewCache,
    features_bytes,
    named_views,
    read_view,
    view_bytes,
    write_features,
)
from mapping.tracks import share_keypoints
from mapping.workspace import Workspace, locked_workspace
from matching.errors import InputError
from matching.files import PathLike
from matching.matcher import Matcher
from matching.options import options_as_dict
from matching.progress import Progress, silent
from matching.types import View

logger = logging.getLogger(__name__)

T = TypeVar("T")


def build_map(
    images: PathLike,
    map_path: PathLike,
    matcher: Matcher,
    *,
    options: MapOptions | None = None,
    known_poses: PathLike | pycolmap.Reconstruction | None = None,
    image_names: Sequence[str] | None = None,
    cameras: Mapping[str, pycolmap.Camera] | None = None,
    surfaces: Surfaces | None = None,
    overwrite: bool = False,
    progress: Progress = silent,
) -> Map:
    """Make a map of a place from photos of it.

    Everything is written below ``map_path``. A run that was killed continues where it was when it
    is started again with the same arguments, and gives the same map (but for the last digits with
    global SfM or several threads). A finished map with the same photos and options is opened.

    Args:
        images: Photo folder.
        map_path: Folder of the map: new, empty, or that of an unfinished or finished map.
        matcher: From `matching.load_matcher`.
        options: Settings of all stages.
        known_poses: A COLMAP model (folder, text or binary) with the poses and cameras of the
            photos; its points are not used. Poses stay exactly as they are, so the map has the
            model's world and scale. None: structure from motion, in a world of its own.
        image_names: Only these photos, relative to ``images``; None takes all below it.
        cameras: Photo to known intrinsics, kept as they are; without ``known_poses`` only.
        surfaces: Given depth: the map's points are taken from it instead of triangulated; with
            ``known_poses`` only.
        overwrite: Replace a finished map that was made from other photos or options. The old map
            stays until the new one is complete.
        progress: Wraps every long loop.

    Returns:
        The map, open. Photos it could not use are in ``info.not_registered`` with the reason.

    Raises:
        InputError: Bad arguments, no usable photo, nothing to reconstruct, another process at
            work on the map, or a disk that cannot be written.
    """
    options = options or MapOptions()
    check_camera_model(options.reconstruction.camera_model)
    if options.apply_exif_orientation is None:
        options = replace(options, apply_exif_orientation=known_poses is None)
    if known_poses is not None and cameras is not None:
        raise InputError("known poses bring their cameras: give either known_poses or cameras")
    if surfaces is not None and known_poses is None:
        raise InputError("given depth needs the poses of the photos: give known_poses as well")
    found = find_photos(images, image_names)
    poses = None if known_poses is None else read_known_poses(known_poses, list(found.photos))
    given = given_cameras(cameras, found.photos, images)
    listed = None
    if options.pairs.file is not None:
        listed = read_pairs(options.pairs.file, sorted([*found.photos, *found.bad]))
    inputs = hash_inputs(poses, given, listed)
    if surfaces is not None:
        inputs["surfaces"] = surfaces.identity
    identity = map_identity(
        options_as_dict(options),
        matcher.describe(),
        inputs,
        found.photos.values(),
    )
    with locked_workspace(map_path) as workspace:
        finished = _finished_map(workspace, identity, found, overwrite=overwrite, progress=progress)
        if finished is not None:
            return finished
        if not overwrite:
            _refuse_other_matcher(workspace, matcher)
        workspace.begin(identity)
        build = _Build(workspace, Path(images), matcher, options, inputs, surfaces, progress)
        return build.run(found, poses, given, listed)


def _finished_map(
    workspace: Workspace,
    identity: dict[str, Any],
    found: PhotoSet,
    *,
    overwrite: bool,
    progress: Progress,
) -> Map | None:
    """The map in the folder if it is up to date; None if it is to be made."""
    if not workspace.has_map:
        return None
    try:
        finished = Map.open(workspace.map_path)
    except InputError as error:
        if overwrite:
            return None
        what = error.what if isinstance(error, DamagedMapError) else str(error)
        raise OtherMapError(what, "overwrite the map (--overwrite)") from error
    photos = recognize_copies(found.photos, finished.info.images, progress)
    identity = {**identity, "images": image_identity(photos.values())}
    field = identity_difference(finished.info.identity(), identity)
    if field is None:
        workspace.discard()
        logger.info("the map '%s' is up to date", workspace.map_path)
        return finished
    if overwrite:
        return None
    what, remedy = f"another '{field}'", "overwrite it (--overwrite), or give another folder"
    if field == "matcher.name":
        name = finished.info.matcher["name"]
        what = f"the matcher '{name}', not with '{identity['matcher']['name']}'"
        remedy = f"take that (--matcher {name}), {remedy}"
    if field.startswith("images."):
        name, how = field.removeprefix("images."), "has changed"
        if all(name != image.name for image in finished.info.images):
            how, remedy = "is new", f"extend it by new photos (--extend), {remedy}"
        elif name not in photos:
            how = "is no longer there"
        what = f"other photos ('{name}' {how})"
    raise OtherMapError(f"the map '{workspace.map_path}' was made with {what}", remedy)


def _refuse_other_matcher(workspace: Workspace, matcher: Matcher) -> None:
    """Hours of encoding by one matcher do not end because another one is named by mistake."""
    begun = (workspace.unfinished or {}).get("matcher")
    if begun is None or begun["fingerprint"] == matcher.fingerprint:
        return
    by = f"the matcher '{begun['name']}'"
    if begun["name"] == matcher.name:
        by = f"other weights or encoding options of {by}"
    raise OtherMapError(
        f"'{workspace.map_path}' holds an unfinished map by {by}",
        "go on with that, overwrite it (--overwrite), or give another folder",
    )


class OtherMapError(InputError):
    """The folder of the map holds another one.

    Args:
        what: The map, and in what it differs or why it cannot be read.
        remedy: What `build_map`'s caller can do; callers that cannot say their own.
    """

    def __init__(self, what: str, remedy: str) -> None:
        super().__init__(f"{what}: {remedy}")
        self.what = what


class _Build:
    """One run of `build_map`: the stages, each reusing what an earlier run completed."""

    def __init__(
        self,
        workspace: Workspace,
        images: Path,
        matcher: Matcher,
        options: MapOptions,
        inputs: dict[str, Any],
        surfaces: Surfaces | None,
        progress: Progress,
    ) -> None:
        self.workspace = workspace
        self.stages = workspace.stages
        self.images = images
        self.matcher = matcher
        self.options = options
        self.inputs = inputs
        self.surfaces = surfaces
        self.clock = StageClock(self.stages / "seconds.json")
        self.progress = self.clock.watch(progress)

    def run(
        self,
        found: PhotoSet,
        poses: Poses | None,
        given: Mapping[str, Any],
        listed: Sequence[Pair] | None,
    ) -> Map:
        """All stages."""
        bad = dict(found.bad)
        intrinsics = given if poses is None else {n: c for n, (c, _) in poses.items()}
        photos, unusable = usable_photos(
            found.photos,
            {} if self.matcher.reads_files else intrinsics,
            posed_only=poses is not None and not self.matcher.reads_files,
            apply_exif_orientation=bool(self.options.apply_exif_orientation),
        )
        bad.update(unusable)
        if unusable:
            self.refuse_too_few([photo.name for photo in photos], found, bad)
        with self.timed("encode"):
            keys, views = self.encode(photos, bad, poses, listed)
        sizes: dict[str, tuple[int, int]] = {}
        keypoints: dict[str, NDArray[np.float32]] = {}
        num_bytes: dict[str, int] = {}
        pixel_px: dict[str, float] = {}
        for name in keys:  # read once: on large maps the views do not fit into memory
            view = views(name)
            sizes[name], keypoints[name] = view.image_size, view.keypoints
            num_bytes[name], pixel_px[name] = view_bytes(view), self.matcher.pixel_px(view)
        if poses is not None:
            for name in [n for n in sizes if n not in poses]:
                bad[name] = "the known poses do not hold it"
                del sizes[name]
        settings = self.options.reconstruction
        focals = self.stages / "focals.json"
        with remembered_focals(focals, self.matcher, views) as seen_focal:
            cameras, misfits = assign_cameras(
                *(sizes, self.images, intrinsics, settings),
                focal_px=seen_focal if settings.pointmap_focal and poses is None else None,
            )
        bad.update(misfits)
        names = sorted(cameras.camera_of)
        self.refuse_too_few(names, found, bad)
        by_retrieval = (
            resolve_method(self.options.pairs, len(names), poses is not None) == "retrieval"
        )
        described: tuple[GlobalDescriber, Descriptors] | None = None
        if by_retrieval:
            with self.timed("describe"):
                described = describe_photos(names, views, self.matcher, self.options.retrieval)
        with self.timed("match"):
            pairs = select_pairs(
                names,
                self.options.pairs,
                poses=poses,
                similar=None
                if described is None
                else similar_photos(names, described[1], self.options.retrieval),
                listed=listed,
            )
            matches = match_pairs(
                pairs, views, keys, self.matcher, self.workspace.matches, progress=self.progress
            )
            shared = share_keypoints(
                {name: keypoints[name] for name in names},
                matches,
                merge_radius_px=self.options.verification.merge_radius_px,
                min_score=self.options.verification.min_score,
                pixel_px=pixel_px,
                scratch=self.workspace.build,
            )
        seen = self.options.at_pixel(float(np.median([pixel_px[name] for name in names])))
        database = self.stages / "database.db"
        cam_from_world = None if poses is None else {n: poses[n][1] for n in names}
        with self.timed("verify"):
            if not database.exists():
                self.workspace.reserve(database_bytes(shared.keypoints, shared.matches))
                temporary = self.stages / "database.tmp.db"
                write_database(temporary, cameras, shared.keypoints)
                posed = None
                if cam_from_world is not None:
                    posed = posed_reconstruction(temporary, cam_from_world)
                verify_pairs(
                    temporary,
                    shared.matches,
                    seen.verification,
                    posed,
                    progress=self.progress,
                )
                if self.options.verification.refine_tracks:
                    refine_database(temporary, shared.matches, pixel_px=pixel_px, num_fixed={})
                temporary.replace(database)
            final = database_keypoints(database, names)
        features = self.stages / "features.h5"
        num_keypoints = sum(len(points) for points in final.values())
        num_view_bytes = sum(num_bytes[name] for name in names)
        self.workspace.reserve(
            result_bytes(num_keypoints) + features_bytes(len(names), num_view_bytes)
        )

        def store(views: Callable[[str], View]) -> Descriptors:
            describer, descriptors = described or describe_photos(
                names, views, self.matcher, self.options.retrieval
            )
            if not features.exists():
                write_features(features, named_views(names, views, final, descriptors), describer)
            return descriptors

        with self.aside(store, views) as stored:
            with self.timed("reconstruct"):
                result = self.reconstruct(
                    database, cam_from_world, set(intrinsics), seen.reconstruction
                )
            with self.timed("store"):
                descriptors = stored.result()
        return finish_map(
            self.workspace,
            ReconstructionResult(
                model=result.model, not_registered={**bad, **result.not_registered}
            ),
            list(found.photos.values()),
            descriptors,
            self.options.retrieval,
            {
                "options": options_as_dict(self.options),
                "matcher": self.matcher.describe(),
                "known_poses": poses is not None,
                "focal_sources": dict(
                    Counter(
                        cameras.focal_sources[name]
                        for name in names
                        if name not in result.not_registered
                    )
                ),
                "inputs": self.inputs,
                "num_pairs": len(pairs),
                "seconds": self.clock.seconds,
            },
        )

    def refuse_too_few(self, names: Sequence[str], found: PhotoSet, bad: Mapping[str, str]) -> None:
        """Raise an `InputError` if the good photos make no map."""
        if len(names) < 2:
            self.workspace.discard()  # nothing worth continuing
            raise InputError(too_few_photos("map", names, found, bad))

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        """Count the wall time of a stage, and tell it."""
        with self.clock.stage(stage):
            yield
        logger.info("%s: %.1f s", stage, self.clock.seconds[stage])

    def encode(
        self,
        photos: Sequence[Photo],
        bad: dict[str, str],
        poses: Poses | None,
        listed: Sequence[Pair] | None,
    ) -> tuple[dict[str, str], ViewCache[str]]:
        """Encode all photos; adds those that cannot be read to ``bad``.

        Returns:
            The key of each good photo, and all views by name.
        """
        upright = bool(self.options.apply_exif_orientation)
        keys = {p.name: view_key(p, self.matcher, apply_exif_orientation=upright) for p in photos}
        views: ViewCache[str] = ViewCache(
            lambda name: read_view(self.workspace.views / f"{keys[name]}.npz")
        )
        early = None
        if self.matcher.encodes_aside:
            # of a pair the second photo by name comes first, so that all partners of a photo are
            # there when it is
            photos = sorted(photos, key=lambda photo: photo.name, reverse=True)
            pairs = self.likely_pairs(sorted(keys), poses, listed)
            early = EarlyMatches(pairs, views, keys, self.matcher, self.workspace.matches)
        unreadable = encode_photos(
            photos,
            [keys[photo.name] for photo in photos],
            self.matcher,
            self.workspace.views,
            apply_exif_orientation=upright,
            progress=self.progress,
            encoded=None if early is None else early.encoded,
        )
        bad.update(sorted(unreadable.items()))
        return {name: key for name, key in keys.items() if name not in bad}, views

    def likely_pairs(
        self, names: Sequence[str], poses: Poses | None, listed: Sequence[Pair] | None
    ) -> list[Pair]:
        """The pairs to match if all photos are good, as far as they are cheap to tell."""
        usable = [name for name in names if poses is None or name in poses]
        method = resolve_method(self.options.pairs, len(usable), poses is not None)
        if method in ("retrieval", "poses"):
            return []
        return select_pairs(usable, self.options.pairs, poses=poses, similar=None, listed=listed)

    @contextmanager
    def aside(
        self, work: Callable[[Callable[[str], View]], T], views: Callable[[str], View]
    ) -> Iterator[Future[T]]:
        """Do something with views on a thread of its own while the block runs.

        COLMAP leaves Python alone while it works, and a core or more with it. If the block fails,
        the work ends at its next view.
        """
        stop = Event()

        def load(name: str) -> View:
            if stop.is_set():
                raise CancelledError
            return views(name)

        with ThreadPoolExecutor(1) as pool:
            future = pool.submit(work, load)
            done = False
            try:
                yield future
                done = True
            finally:
                if not done:
                    stop.set()

    def reconstruct(
        self,
        database: Path,
        poses: Mapping[str, pycolmap.Rigid3d] | None,
        calibrated: set[str],
        options: ReconstructionOptions,
    ) -> ReconstructionResult:
        """The model with coloured points, from an earlier run if that completed it."""
        sparse = self.stages / SPARSE
        if sparse.exists():
            return read_result(sparse)
        if poses is not None and self.surfaces is not None:
            result = points_from_surfaces(database, poses, self.surfaces, progress=self.progress)
        elif poses is not None:
            result = triangulate(database, poses, options)
        else:
            result = structure_from_motion(
                database, options, calibrated=calibrated, progress=self.progress
            )
        color_points(
            result.model,
            self.images,
            None,
            apply_exif_orientation=bool(self.options.apply_exif_orientation),
        )
        write_result(result, sparse)
        return result
