"""The camera of the map's photos, tried for queries of their size or of it turned."""

from dataclasses import replace

import numpy as np
import pycolmap
import pytest

from localize import Localizer
from localize.intrinsics import (
    map_camera,
    query_camera,
    turned_map_cameras,
    with_pointmap_focal,
)
from mapping.cameras import with_focal_length
from matching.types import View
from tests.localize.synthetic import (
    FakeMap,
    TruthMatcher,
    make_camera,
    photo_of,
    pose_errors,
    query_view,
)


def localizer(scene: FakeMap, view: View, outliers: float = 0.0) -> Localizer:
    return Localizer(scene, TruthMatcher({1: view}, outliers))  # type: ignore[arg-type]


@pytest.mark.parametrize("focal", [500.0, 680.0, 700.0, 720.0, 950.0])
def test_the_cameras_of_the_map_are_used_where_they_fit(scene: FakeMap, focal: float) -> None:
    """Another lens gives photos of the same size too: then the focal length is found."""
    own = focal == 700.0
    view, truth = query_view(scene, np.random.default_rng(1), camera=make_camera(focal=focal))
    result = localizer(scene, view).localize(photo_of(1), name="here")
    assert result.success, result.reason
    assert result.camera is not None and result.cam_from_world is not None
    assert result.camera_source == ("map" if own else "estimated")
    assert result.camera.mean_focal_length() == pytest.approx(focal, rel=1e-9 if own else 0.02)
    assert pose_errors(result.cam_from_world, truth)[0] < (0.02 if own else 0.15)


def test_the_maps_camera_counts_as_a_given_one(scene: FakeMap) -> None:
    view, _ = query_view(scene, np.random.default_rng(1))
    loc = localizer(scene, view, outliers=0.6)
    own, given = (loc.localize(photo_of(1), c).to_dict() for c in (None, make_camera()))
    for result, source in ((own, "map"), (given, "given")):
        assert result["success"] and result.pop("camera_source") == source
        del result["timings_s"]
    assert own == given


LYING = {
    "SIMPLE_RADIAL": [700.0, 409.0, 288.0, 0.05],
    "PINHOLE": [690.0, 710.0, 409.0, 288.0],
    "OPENCV_FISHEYE": [690.0, 710.0, 409.0, 288.0, 0.02, 0.01, 0.0, 0.0],
    "OPENCV": [690.0, 710.0, 409.0, 288.0, 0.05, 0.0, 0.01, 0.02],
}


def taken_lying(model: str) -> pycolmap.Camera:
    """A camera of `IMAGE_SIZE` whose principal point is not in the middle."""
    camera = make_camera(model)
    camera.params = LYING[model]
    return camera


@pytest.mark.parametrize("model", LYING)
def test_a_turned_camera_sees_turned_pixels(scene: FakeMap, model: str) -> None:
    names, camera = list(scene.camera_of), taken_lying(model)
    other = replace(scene, camera_of=dict.fromkeys(names, camera))
    tall = query_camera(None, (600, 800), None, "q")
    turned = turned_map_cameras(other, names, tall)  # type: ignore[arg-type]
    if model == "OPENCV":  # its distortion is another one when turned
        assert turned == []
        return
    x, y, z = np.random.default_rng(0).uniform((-0.5, -0.4, 1), (0.5, 0.4, 2), (50, 3)).T
    across, down = camera.img_from_cam(np.column_stack([x, y, z])).T
    for known, rays, pixels in (
        (turned[0], (-y, x, z), (600 - down, across)),
        (turned[1], (y, -x, z), (down, 800 - across)),
    ):
        assert known.fixed and (known.camera.width, known.camera.height) == (600, 800)
        seen = known.camera.img_from_cam(np.column_stack(rays))
        np.testing.assert_allclose(seen, np.column_stack(pixels), atol=1e-9)
    lying = query_camera(None, (800, 600), None, "q")
    assert turned_map_cameras(other, names, lying) == []  # type: ignore[arg-type]
    assert turned_map_cameras(other, names[:2], tall) == []  # type: ignore[arg-type]
    middle = turned_map_cameras(scene, names, tall)  # type: ignore[arg-type]
    assert len(middle) == 1  # both ways are one


@pytest.mark.parametrize("way", [0, 1])
@pytest.mark.parametrize("own", [True, False])
def test_a_photo_taken_upright_has_the_maps_camera_turned(
    scene: FakeMap, way: int, own: bool
) -> None:
    other = replace(scene, camera_of=dict.fromkeys(scene.camera_of, taken_lying("SIMPLE_RADIAL")))
    tall = query_camera(None, (600, 800), None, "q")
    camera = turned_map_cameras(other, list(other.camera_of), tall)[way].camera  # type: ignore[arg-type]
    if not own:  # another lens
        camera = with_focal_length(camera, 850.0)
    view, truth = query_view(other, np.random.default_rng(1), camera=camera)
    result = localizer(other, view).localize(photo_of(1, (600, 800)), name="here")
    assert result.camera_source == ("map" if own else "estimated")
    assert result.camera is not None and result.cam_from_world is not None
    if own:
        assert result.camera.params.tolist() == camera.params.tolist()
        assert pose_errors(result.cam_from_world, truth)[0] < 0.02


def test_photos_of_many_cameras_share_none(scene: FakeMap) -> None:
    names = list(scene.camera_of)
    known = query_camera(None, (800, 600), None, "q")
    shared = map_camera(scene, names, known)  # type: ignore[arg-type]
    assert shared is not None and shared.fixed and shared.source == "map"
    assert shared.camera is not scene.camera(names[0])  # which the map keeps for others
    assert map_camera(scene, names[:3], known) is not None  # type: ignore[arg-type]
    assert map_camera(scene, names[:2], known) is None  # type: ignore[arg-type]
    tall = query_camera(None, (600, 800), None, "q")
    assert map_camera(scene, names, tall) is None  # type: ignore[arg-type]
    given = query_camera(None, (800, 600), make_camera(), "q")
    assert map_camera(scene, names, given) is None  # type: ignore[arg-type]
    seen = with_pointmap_focal(known, 3000.0)
    assert map_camera(scene, names, seen) is None  # type: ignore[arg-type]
    other = pycolmap.Camera(make_camera().todict())
    other.camera_id = 2
    mixed = replace(scene, camera_of={**scene.camera_of, names[0]: other})
    assert map_camera(mixed, names, known) is None  # type: ignore[arg-type]


@pytest.mark.parametrize("model", ["OPENCV_FISHEYE", "EQUIRECTANGULAR"])
def test_the_camera_of_fisheyes_is_shared_that_of_panoramas_is_not(
    scene: FakeMap, model: str
) -> None:
    names = list(scene.camera_of)
    wide = make_camera(model, 250.0)
    other = replace(scene, camera_of=dict.fromkeys(names, wide))
    known = query_camera(None, (800, 600), None, "q")
    shared = map_camera(other, names, known)  # type: ignore[arg-type]
    assert (None if shared is None else shared.camera.model_name) == (
        None if wide.is_spherical() else model
    )
    common = with_pointmap_focal(known, known.camera.mean_focal_length())  # seen, not only common
    assert map_camera(other, names, common) is None  # type: ignore[arg-type]
