"""A real map, padded to any number of photos with made-up ones that no query is ever matched with.

Opening a map and looking things up in it takes what its files hold, not what the photos show. The
made-up photos have as many keypoints, points and covisible photos as real ones, encodings as large,
far from the real place, and random global descriptors of 1,024 dimensions, as large maps have.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from mapping import Map
from mapping.finish import finish_map
from mapping.info import MapImage
from mapping.options import RetrievalOptions
from mapping.reconstruct import SPARSE, ReconstructionResult
from mapping.store import write_features
from mapping.workspace import locked_workspace
from matching.matcher import Matcher
from matching.options import build_options
from matching.types import View

_OFFSET_M = 1000.0  # between copies of the real map's geometry


def pad_map(source: Map, matcher: Matcher, target: Path, size: int) -> Map:
    """Write a map of ``size`` photos, the first of which are those of the source.

    Args:
        source: A small real map.
        matcher: What made it.
        target: Folder of the new map.
        size: At least the number of photos of the source.

    Returns:
        The new map, open. Its database is that of the source: localization does not read it.
    """
    real = source.image_names
    if size < len(real):
        raise ValueError(f"the source has {len(real)} photos, cannot pad it to {size}")
    made_up = [f"~{number:06d}.jpg" for number in range(size - len(real))]  # sorted behind all
    random = np.random.default_rng(0)
    aggregated = source.describer
    dim = RetrievalOptions().global_dim
    if not len(aggregated.global_mean) and aggregated.dim > dim:
        # a random projection keeps angles (Johnson and Lindenstrauss 1984)
        projection = random.normal(0, dim**-0.5, (aggregated.dim, dim)).astype(np.float32)
        mean = np.zeros(aggregated.dim, np.float32)
        aggregated = replace(aggregated, global_mean=mean, global_projection=projection)
    descriptors: dict[str, NDArray[np.float32]] = {
        name: aggregated.describe(matcher.local_descriptors(source.load_view(name)))
        for name in real
    }
    noise = random.normal(size=(len(made_up), aggregated.dim)).astype(np.float32)
    noise /= np.linalg.norm(noise, axis=1, keepdims=True)
    descriptors.update(zip(made_up, noise, strict=True))

    def view_of(number: int) -> View:
        """A real photo's encoding with its bytes shuffled."""
        view = source.load_view(real[number % len(real)])
        mixed = {
            name: values if values.ndim < 2 else random.permuted(values, axis=0)
            for name, values in view.arrays.items()
        }
        return replace(view, arrays=mixed)

    views = [(name, source.load_view(name)) for name in real]
    with locked_workspace(target) as workspace:
        workspace.begin({"padded": source.fingerprint, "size": size})
        write_features(
            workspace.stages / "features.h5",
            (
                *((name, view, descriptors[name]) for name, view in views),
                *((name, view_of(k), descriptors[name]) for k, name in enumerate(made_up)),
            ),
            aggregated,
        )
        model = _padded_model(source, made_up)
        (workspace.stages / SPARSE).mkdir()
        model.write_binary(workspace.stages / SPARSE)
        database = (source.path / "database.db").read_bytes()
        (workspace.stages / "database.db").write_bytes(database)
        info = source.info
        images = [
            MapImage(name=name, size_bytes=0, mtime_ns=0, sha256="", registered=True)
            for name in (*real, *made_up)
        ]
        details = {
            name: getattr(info, name)
            for name in ("options", "matcher", "known_poses", "inputs", "num_pairs", "seconds")
        }
        return finish_map(
            workspace,
            ReconstructionResult(model=model, not_registered={}),
            images,
            descriptors,
            build_options(RetrievalOptions, info.options["retrieval"]),
            details,
        )


def _padded_model(source: Map, made_up: list[str]) -> pycolmap.Reconstruction:
    """The source's model, and copies of it side by side for the made-up photos."""
    model = pycolmap.Reconstruction(source.path / SPARSE)
    points = [(p.xyz, [(e.image_id, e.point2D_idx) for e in p.track.elements])
              for p in model.points3D.values()]  # fmt: skip
    originals = [source.image(name) for name in source.image_names]
    next_id = max(i.image_id for i in originals) + 1
    for start in range(0, len(made_up), len(originals)):
        shift = np.array([_OFFSET_M * (1 + start // len(originals)), 0, 0])
        number_of: dict[int, int] = {}
        for name, original in zip(made_up[start : start + len(originals)], originals, strict=False):
            pose = original.cam_from_world()
            moved = pycolmap.Rigid3d(pose.rotation, pose.translation - pose.rotation * shift)
            image = pycolmap.Image(name=name, camera_id=original.camera_id, image_id=next_id)
            image.points2D = pycolmap.Point2DList(
                [pycolmap.Point2D(p.xy) for p in original.points2D]
            )
            model.add_image_with_trivial_frame(image, moved)
            number_of[original.image_id] = next_id
            next_id += 1
        for xyz, elements in points:
            track = pycolmap.Track()
            for image_id, row in elements:
                if image_id in number_of:
                    track.add_element(number_of[image_id], row)
            if track.length() > 1:
                model.add_point3D(xyz + shift, track)
    return model
