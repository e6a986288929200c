"""Adding photos to a finished map without building it again.

Poses, cameras and points of the map stay as they are; new photos are matched, registered and
triangulated against them. The old map stays in place until the new one is complete.
"""

import logging
import shutil
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping.camera_groups import assign_cameras, remembered_focals
from mapping.cameras import camera_from_image
from mapping.database import (
    database_bytes,
    database_names,
    posed_reconstruction,
    verify_pairs,
    write_database,
)
from mapping.finish import finish_map
from mapping.info import image_identity
from mapping.inputs import Poses, given_cameras, hash_inputs, read_known_poses
from mapping.map import Map
from mapping.options import MapOptions, ReconstructionOptions
from mapping.pair_matches import match_pairs
from mapping.pairs import Pair, unique_pairs
from mapping.photos import (
    Photo,
    PhotoSet,
    encode_photos,
    find_photos,
    recognize_copies,
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
from mapping.retrieval import similar_photos
from mapping.stage_clock import StageClock
from mapping.store import (
    FEATURES,
    FIRST_PART,
    FeatureFile,
    ViewCache,
    extend_features,
    features_bytes,
    is_feature_part,
    named_views,
    read_view,
    view_bytes,
)
from mapping.tracks import share_keypoints
from mapping.workspace import Workspace, locked_workspace
from matching.errors import InputError
from matching.files import PathLike
from matching.matcher import Matcher
from matching.options import build_options, options_as_dict
from matching.progress import Progress, silent
from matching.types import View

logger = logging.getLogger(__name__)

# focal lengths of EXIF and map may differ this much, relative, and still be one camera
_MAX_FOCAL_DIFFERENCE = 0.15


def extend_map(
    scene: Map,
    images: PathLike,
    matcher: Matcher,
    *,
    image_names: Sequence[str] | None = None,
    known_poses: PathLike | pycolmap.Reconstruction | None = None,
    cameras: Mapping[str, pycolmap.Camera] | None = None,
    progress: Progress = silent,
) -> Map:
    """Add photos to a map.

    Args:
        scene: The map; on disk it is replaced by the extended one, the object keeps the old one.
        images: Folder of the new photos; photos of the map in it are left alone.
        matcher: The one that made the map.
        image_names: Only these photos of the folder.
        known_poses: A COLMAP model in the map's world with poses and cameras of new photos; new
            photos that it does not hold are registered by their matches.
        cameras: New photo to known intrinsics.
        progress: Wraps every long loop.

    Returns:
        The extended map, open. New photos without a pose are in ``info.not_registered``.

    Raises:
        InputError: Another matcher, no usable photo, a photo that is in the map with other
            content, another process at work on the map, or a disk that cannot be written.
    """
    with locked_workspace(scene.path) as workspace:
        current = Map.open(scene.path)  # another process may have extended it meanwhile
        current.check_matcher(matcher)
        found = find_photos(images, image_names)
        new = _new_photos(current, found, progress)
        if not new and not found.bad:
            workspace.discard()
            _tell_unchanged(current, images)
            return current
        poses = {} if known_poses is None else read_known_poses(known_poses, list(new))
        given = {n: c for n, (c, _) in poses.items()}
        listed = given_cameras(cameras, found.photos, images)
        given.update({n: c for n, c in listed.items() if n in new and n not in given})
        workspace.begin(
            {
                "extends": current.fingerprint,
                "matcher": matcher.describe(),  # how it matches counts, not the encodings alone
                "images": image_identity(new.values()),
                "inputs": hash_inputs(poses, given),
            }
        )
        extension = _Extension(current, workspace, Path(images), matcher, progress)
        with extension.clock.stage("extend"):
            return extension.run(new, dict(found.bad), poses, given)


def _tell_unchanged(scene: Map, images: PathLike) -> None:
    logger.info("nothing to add: the map '%s' knows all photos of '%s'", scene.path, images)


def _new_photos(scene: Map, found: PhotoSet, progress: Progress) -> dict[str, Photo]:
    """Photos that the map has not encoded yet."""
    of_map = image_identity(scene.info.images)
    same = image_identity(recognize_copies(found.photos, scene.info.images, progress).values())
    encoded = set(database_names(scene.path / "database.db"))
    new = {}
    for name, photo in found.photos.items():
        if name not in encoded:
            new[name] = photo
        elif same[name] != of_map[name]:
            raise InputError(
                f"'{photo.path}' has another content than the photo '{name}' of the map: rename it"
            )
    return new


class _Extension:
    """One run of `extend_map`."""

    def __init__(
        self,
        scene: Map,
        workspace: Workspace,
        images: Path,
        matcher: Matcher,
        progress: Progress,
    ) -> None:
        self.scene = scene
        self.workspace = workspace
        self.images = images
        self.matcher = matcher
        self.clock = StageClock(workspace.stages / "seconds.json")
        self.progress = self.clock.watch(progress)
        self.options = build_options(MapOptions, scene.info.options)
        self.old = database_names(scene.path / "database.db")
        self.features = FeatureFile(scene.path / "features.h5")

    def run(
        self,
        new: dict[str, Photo],
        bad: dict[str, str],
        poses: Poses,
        given: Mapping[str, pycolmap.Camera],
    ) -> Map:
        """All stages."""
        views, keys = self.encode(new, bad)
        sizes = {name: views(name).image_size for name in new if name not in bad}
        shared_with = self.cameras_of_map({n: s for n, s in sizes.items() if n not in given})
        settings = self.options.reconstruction
        focals = self.workspace.stages / "focals.json"
        with remembered_focals(focals, self.matcher, views) as seen_focal:
            cameras, misfits = assign_cameras(
                {n: s for n, s in sizes.items() if n not in shared_with},
                *(self.images, given, settings),
                focal_px=seen_focal if settings.pointmap_focal else None,
            )
        bad.update(misfits)
        names = sorted({*cameras.camera_of, *shared_with})
        if not names:
            self.workspace.discard()
            if set(bad) <= set(self.scene.info.not_registered):
                _tell_unchanged(self.scene, self.images)
                return self.scene  # only photos that the map could not use before either
            name, reason = next(iter(sorted(bad.items())))
            raise InputError(f"no new photo can be used ('{name}': {reason})")
        descriptors = {name: self.features.global_descriptor(name) for name in self.old}
        for name in names:
            local = self.matcher.local_descriptors(views(name))
            descriptors[name] = self.scene.describer.describe(local)
        pairs = self.select_pairs(names, descriptors)
        matches = match_pairs(
            pairs, views, keys, self.matcher, self.workspace.matches, progress=self.progress
        )
        before = {n: views(n).keypoints for n in {n for pair in pairs for n in pair}.union(names)}
        pixel_px = {name: self.matcher.pixel_px(views(name)) for name in before}
        shared = share_keypoints(
            before,
            matches,
            merge_radius_px=self.options.verification.merge_radius_px,
            min_score=self.options.verification.min_score,
            pixel_px=pixel_px,
            scratch=self.workspace.build,
        )
        changed = {
            name: points
            for name, points in sorted(shared.keypoints.items())
            if name in names or len(points) != len(before[name])
        }
        known = {name: poses[name][1] for name in names if name in poses}
        seen = self.options.at_pixel(float(np.median([pixel_px[name] for name in names])))
        database = self.workspace.stages / "database.db"
        if not database.exists():
            size = (self.scene.path / "database.db").stat().st_size
            self.workspace.reserve(size + database_bytes(changed, shared.matches))
            temporary = database.with_name("database.tmp.db")
            shutil.copyfile(self.scene.path / "database.db", temporary)
            write_database(temporary, cameras, changed, shared_with)
            # with all poses known, matches are checked against them; else against each other
            posed = self.start(temporary, changed, known) if len(known) == len(names) else None
            verify_pairs(
                temporary, shared.matches, seen.verification, posed, progress=self.progress
            )
            if self.options.verification.refine_tracks:
                fixed = {n: len(points) for n, points in before.items() if n not in names}
                refine_database(temporary, shared.matches, pixel_px=pixel_px, num_fixed=fixed)
            temporary.replace(database)
        changed = database_keypoints(database, list(changed))
        result = self.reconstruct(database, changed, known, names, set(given), seen.reconstruction)
        info = self.scene.info
        sources = [
            cameras.focal_sources.get(name, "map")
            for name in names
            if name not in result.not_registered
        ]
        kept = [file for file in info.files if is_feature_part(file.name)]
        if not kept:
            (first,) = (file for file in info.files if file.name == FEATURES)
            kept = [replace(first, name=FIRST_PART)]
        if not (self.workspace.stages / FEATURES).exists():
            num_bytes = sum(view_bytes(views(name)) for name in names)
            num_bytes += sum(points.nbytes for points in changed.values())
            num_links = len(self.old) + len(names)
            self.workspace.reserve(features_bytes(len(changed), num_bytes) + 1024 * num_links)
            extend_features(
                self.scene.path / FEATURES,
                self.workspace.stages,
                self.old,
                list(changed),
                named_views(list(changed), views, changed, descriptors),
            )
        encoded = {*self.old, *names}
        earlier = {n: reason for n, reason in info.not_registered.items() if n not in encoded}
        return finish_map(
            self.workspace,
            ReconstructionResult(
                model=result.model, not_registered={**earlier, **bad, **result.not_registered}
            ),
            [*(i for i in info.images if i.name not in new), *new.values()],
            descriptors,
            self.options.retrieval,
            {
                "options": options_as_dict(self.options),
                "matcher": info.matcher,
                "known_poses": info.known_poses,
                "focal_sources": dict(Counter(info.focal_sources) + Counter(sources)),
                "inputs": info.inputs,
                "num_pairs": info.num_pairs + len(pairs),
                "seconds": {
                    **info.seconds,
                    "extend": info.seconds.get("extend", 0.0) + self.clock.seconds["extend"],
                },
            },
            kept,
        )

    def encode(
        self, new: dict[str, Photo], bad: dict[str, str]
    ) -> tuple[ViewCache[str], dict[str, str]]:
        """Views of all photos by name, and what identifies each; adds to ``bad``."""
        upright = bool(self.options.apply_exif_orientation)
        keys = {
            name: view_key(photo, self.matcher, apply_exif_orientation=upright)
            for name, photo in new.items()
        }
        bad.update(
            encode_photos(
                list(new.values()),
                list(keys.values()),
                self.matcher,
                self.workspace.views,
                apply_exif_orientation=upright,
                progress=self.progress,
            )
        )

        def load(name: str) -> View:
            if name in new:
                return read_view(self.workspace.views / f"{keys[name]}.npz")
            return self.features.view(name)

        old_keys = {name: f"{self.scene.fingerprint} {name}" for name in self.old}
        return ViewCache(load), {**old_keys, **keys}

    def cameras_of_map(self, sizes: Mapping[str, tuple[int, int]]) -> dict[str, int]:
        """New photo to the number of the map's camera that took it, as far as that is clear.

        Clear is: all photos of its folder in the map have its size and share one camera, and its
        EXIF block does not speak of another focal length.
        """
        model = self.scene.reconstruction
        of_folder: dict[str, list[int]] = {}
        for name in self.scene.image_names:
            folder = name.rpartition("/")[0]
            of_folder.setdefault(folder, []).append(self.scene.image(name).camera_id)
        found = {}
        for name, size in sizes.items():
            ids = of_folder.get(name.rpartition("/")[0], [])
            if len(ids) < 2 or len(set(ids)) > 1:
                continue
            camera = model.camera(ids[0])
            guess = camera_from_image(self.images / name, size)
            ratio = guess.camera.mean_focal_length() / camera.mean_focal_length()
            agrees = guess.source == "guess" or abs(ratio - 1) < _MAX_FOCAL_DIFFERENCE
            if (camera.width, camera.height) == size and agrees:
                found[name] = ids[0]
        return found

    def select_pairs(
        self, names: Sequence[str], descriptors: dict[str, NDArray[np.float32]]
    ) -> list[Pair]:
        """Pairs with a new photo first: all on small maps, else the most similar ones."""
        everything = [*names, *self.old]
        if len(everything) <= self.options.pairs.max_exhaustive:
            return [(a, b) for i, a in enumerate(names) for b in everything[i + 1 :]]
        similar = similar_photos(everything, descriptors, self.options.retrieval)
        return unique_pairs(
            everything, [(n, m) for n in names for m in similar(n, self.options.pairs.top_k)]
        )

    def start(
        self,
        database: Path,
        changed: Mapping[str, NDArray[np.float32]],
        known: Mapping[str, pycolmap.Rigid3d],
    ) -> pycolmap.Reconstruction:
        """The map's model with the photos of known poses and the keypoints that were added."""
        model = pycolmap.Reconstruction(self.scene.path / SPARSE)
        for image in list(model.images.values()):
            added = changed.get(image.name, np.zeros((0, 2)))[image.num_points2D() :]
            for x, y in added.tolist():
                image.points2D.append(pycolmap.Point2D(np.array([x, y])))
        posed = posed_reconstruction(database, known)
        for image in posed.images.values():
            if not model.exists_camera(image.camera_id):
                model.add_camera_with_trivial_rig(posed.camera(image.camera_id))
            bare = pycolmap.Image(
                name=image.name, camera_id=image.camera_id, image_id=image.image_id
            )
            model.add_image_with_trivial_frame(bare, known[image.name])
        return model

    def reconstruct(
        self,
        database: Path,
        changed: Mapping[str, NDArray[np.float32]],
        known: Mapping[str, pycolmap.Rigid3d],
        names: Sequence[str],
        calibrated: set[str],
        options: ReconstructionOptions,
    ) -> ReconstructionResult:
        """The map's model with the new photos in it."""
        sparse = self.workspace.stages / SPARSE
        if sparse.exists():
            return read_result(sparse)
        num_keypoints = sum(len(points) for points in changed.values())
        num_old = sum(i.num_points2D() for i in self.scene.reconstruction.images.values())
        self.workspace.reserve(result_bytes(num_keypoints + num_old))
        model = self.start(database, changed, known)
        if known:
            model = triangulate(database, known, options, start=model).model
        result = structure_from_motion(
            database, options, calibrated=calibrated, start=model, progress=self.progress
        )
        color_points(
            result.model,
            self.images,
            names,
            apply_exif_orientation=bool(self.options.apply_exif_orientation),
        )
        write_result(result, sparse)
        return result
