"""Which map photos to match once there is a first pose: those that see what the camera sees."""

from collections import Counter
from collections.abc import Sequence

import numpy as np
import pycolmap
from numpy.typing import NDArray

from localize.groups import Candidate
from mapping.map import Map

_LOOKED_AT = 4  # neighbours of the first round's photos that are looked at, per photo wanted


def photos_in_view(
    scene: Map, pose: Candidate, compared: Sequence[str], count: int, *, min_points: int
) -> list[str]:
    """Map photos that see the same as a camera at an estimated pose and were not compared yet.

    Only neighbours of the compared photos that gave inliers are looked at, so the time does not
    grow with the map. They are ranked by the map points that they saw and that lie in the frustum
    of the estimated camera, each counted by the cosine between both directions of view: a photo
    from the other side shows the same point but not the same picture.

    Args:
        scene: The map.
        pose: The first pose.
        compared: Names of the photos already compared; ``pose.matches.images`` are its rows.
        count: How many photos at most.
        min_points: Points, so counted, with which a photo is worth comparing.

    Returns:
        Names, most points first.
    """
    supporting = np.unique(pose.matches.images[pose.pose.inlier_mask])
    shared: Counter[str] = Counter()
    for row in supporting.tolist():
        shared.update(scene.covisible(compared[row]))
    for name in compared:
        shared.pop(name, None)
    points = {
        name: points_in_view(scene, name, pose.pose.cam_from_world, pose.pose.camera)
        for name, _ in shared.most_common(_LOOKED_AT * count)
    }
    worth = [name for name, seen in points.items() if seen >= min_points]
    return sorted(worth, key=lambda name: -points[name])[:count]


def points_in_view(
    scene: Map, name: str, cam_from_world: pycolmap.Rigid3d, camera: pycolmap.Camera
) -> float:
    """Points that a map photo sees inside another camera's frustum, see `photos_in_view`."""
    ids = scene.point3D_ids(name)
    points = scene.points3D(np.unique(ids[ids >= 0]))
    in_cam = np.asarray(cam_from_world * points)
    front = in_cam[:, 2] > 0
    points, in_cam = points[front], in_cam[front]
    if not len(points):
        return 0.0
    pixels = np.asarray(camera.img_from_cam(in_cam))
    # a distortion model may have no image, NaN, for a ray far outside the photo
    inside = ((pixels >= 0) & (pixels <= (camera.width, camera.height))).all(1)
    centres = [p.inverse().translation for p in (cam_from_world, scene.cam_from_world(name))]
    rays0, rays1 = (_directions(points[inside] - centre) for centre in centres)
    return float(np.maximum((rays0 * rays1).sum(1), 0).sum())


def _directions(vectors: NDArray[np.float64]) -> NDArray[np.float64]:
    return vectors / np.maximum(np.linalg.norm(vectors, axis=1, keepdims=True), 1e-12)
