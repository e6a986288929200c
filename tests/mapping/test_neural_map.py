"""Maps from a dense matcher on a rendered place with exact truth, without trained weights."""

import shutil
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pycolmap
import pytest
from PIL import Image

from benchmarks.rendered_place import RenderedPlace
from localize import Localizer
from mapping import Map, MapOptions, VerificationOptions, build_map
from matching import InputError
from matching.mast3r import Mast3rMatcher
from tests.matching.patch_network import patch_matcher

REFINED = MapOptions(verification=VerificationOptions(refine_tracks=True))


def make_map(
    place: RenderedPlace, folder: Path, matcher: Mast3rMatcher, options: MapOptions | None = None
) -> Map:
    return build_map(
        place.images,
        folder,
        matcher,
        known_poses=place.folder / "sparse_gt",
        image_names=place.map_names,
        options=options,
    )


@pytest.fixture(scope="module")
def matcher() -> Mast3rMatcher:
    return patch_matcher(long_side_px=160)


@pytest.fixture(scope="module")
def scene(
    rendered_place: RenderedPlace,
    matcher: Mast3rMatcher,
    tmp_path_factory: pytest.TempPathFactory,
) -> Map:
    return make_map(rendered_place, tmp_path_factory.mktemp("neural") / "map", matcher)


def test_keypoints_chosen_once_are_shared(rendered_place: RenderedPlace, scene: Map) -> None:
    values = scene.to_dict()
    assert values["num_registered"] == 8
    assert values["num_points3D"] > 200
    assert values["mean_track_length"] > 3.2
    # a pixel of the network is two of the photo
    assert values["mean_reprojection_error_px"] < 1.1
    for name in scene.image_names:
        view, ids = scene.load_view(name), scene.point3D_ids(name)
        assert len(view.keypoints) == len(ids)
        np.testing.assert_allclose(
            view.keypoints, [p.xy for p in scene.image(name).points2D], atol=1e-4
        )


def test_tracks_are_longer_than_from_new_pixels_for_every_pair(
    rendered_place: RenderedPlace, scene: Map, tmp_path: Path
) -> None:
    """Photos are matched on a grid of seeds of their own in every pair."""
    free = make_map(
        rendered_place, tmp_path / "map", patch_matcher(long_side_px=160, num_keypoints=0)
    )
    lengths = [m.to_dict()["mean_track_length"] for m in (scene, free)]
    assert lengths[0] > lengths[1]


def test_refinement_over_tracks_lowers_the_reprojection_error(
    rendered_place: RenderedPlace, scene: Map, matcher: Mast3rMatcher, tmp_path: Path
) -> None:
    refined = make_map(rendered_place, tmp_path / "map", matcher, REFINED)
    before, after = scene.to_dict(), refined.to_dict()
    assert after["mean_reprojection_error_px"] < before["mean_reprojection_error_px"]
    moved = scene.load_view(scene.image_names[0]), refined.load_view(scene.image_names[0])
    gaps = np.abs(moved[0].keypoints - moved[1].keypoints)
    assert 0 < gaps.max() <= 3.001, "a pixel and a half of the network at most"


def test_encodings_are_in_the_map_and_photos_are_not_read_again(
    rendered_place: RenderedPlace, matcher: Mast3rMatcher, tmp_path: Path
) -> None:
    photos = tmp_path / "photos"
    shutil.copytree(rendered_place.images / "map", photos / "map")
    scene = build_map(
        photos, tmp_path / "map", matcher, known_poses=rendered_place.folder / "sparse_gt"
    )
    shutil.rmtree(photos)
    with h5py.File(scene.path / "features.h5", locking=False) as file:
        for name in scene.image_names:
            arrays = file[f"images/{name}/arrays"]
            assert arrays["tokens"].dtype == np.float16
            assert arrays["descriptors"].dtype == np.int8
    localizer = Localizer(Map.open(scene.path), matcher)
    errors = []
    for name, camera in rendered_place.query_cameras.items():
        result = localizer.localize(rendered_place.images / name, camera)
        assert result.success, result.reason
        assert result.cam_from_world is not None
        truth = next(i for i in rendered_place.truth.images.values() if i.name == name)
        errors.append(
            np.linalg.norm(centre(result.cam_from_world) - centre(truth.cam_from_world()))
        )
    # patches at 160x120 in a hall of 12 m
    assert np.median(errors) < 0.25


def centre(cam_from_world: object) -> np.ndarray:
    matrix = cam_from_world.matrix()  # type: ignore[attr-defined]
    centre: np.ndarray = -matrix[:3, :3].T @ matrix[:3, 3]
    return centre


def test_other_weights_are_refused_by_their_hash(scene: Map) -> None:
    other = patch_matcher("newer", long_side_px=160, max_matches=7)
    with pytest.raises(InputError, match=r"'weights_sha256' differs .*'patches', .*'newer'"):
        scene.check_matcher(other)
    finer = patch_matcher(long_side_px=320)
    earlier = {k: v for k, v in scene.info.matcher["options"].items() if k != "dense"}
    matcher = {**scene.info.matcher, "options": earlier}
    for of_map in (scene, Map(scene.path, replace(scene.info, matcher=matcher))):
        with pytest.raises(InputError, match=r"'options\.long_side_px' differs .* 160, .* 320"):
            of_map.check_matcher(finer)
    scene.check_matcher(patch_matcher(long_side_px=160, pixel_tol_px=3.0))


def test_limits_of_errors_grow_with_the_pixels_that_the_matcher_saw() -> None:
    options = MapOptions(verification=VerificationOptions(max_error_px=5.0))
    assert options.at_pixel(1.0) == options
    large = options.at_pixel(8.0)  # 12 megapixels seen at 512
    assert large.verification.max_error_px == large.reconstruction.max_reprojection_error_px == 12
    middle = options.at_pixel(3.0)
    assert middle.verification.max_error_px == 5.0
    assert middle.reconstruction.max_reprojection_error_px == 4.5


def test_a_photo_seen_much_smaller_than_it_is(
    rendered_place: RenderedPlace, scene: Map, tmp_path: Path
) -> None:
    """Photos four times as large, of which the network sees as little as before."""
    for name in rendered_place.map_names:
        target = tmp_path / "large" / name
        target.parent.mkdir(parents=True, exist_ok=True)
        with Image.open(rendered_place.images / name) as photo:
            photo.resize((1280, 960), Image.Resampling.BICUBIC).save(target, quality=95)
    poses = pycolmap.Reconstruction(rendered_place.folder / "sparse_gt")
    poses.camera(1).rescale(4.0)
    large = build_map(
        tmp_path / "large", tmp_path / "map", patch_matcher(long_side_px=160), known_poses=poses
    )
    # with the limits of small photos two of three matches would be lost
    assert large.to_dict()["num_points3D"] > 0.7 * scene.to_dict()["num_points3D"]


def test_new_photos_leave_the_keypoints_of_the_map_alone(
    rendered_place: RenderedPlace, matcher: Mast3rMatcher, tmp_path: Path
) -> None:
    poses = rendered_place.folder / "sparse_gt"
    first, more = rendered_place.map_names[:5], rendered_place.map_names[5:]
    old = build_map(
        rendered_place.images,
        tmp_path / "map",
        matcher,
        known_poses=poses,
        image_names=first,
        options=REFINED,
    )
    before = {name: old.load_view(name).keypoints for name in first}
    new = old.extend(rendered_place.images, matcher, names=more, known_poses=poses)
    assert set(new.image_names) == {*first, *more}
    added = 0
    for name, keypoints in before.items():
        after = new.load_view(name).keypoints
        np.testing.assert_array_equal(after[: len(keypoints)], keypoints)
        added += len(after) - len(keypoints)
    assert added > 0
    assert new.to_dict()["num_points3D"] > old.to_dict()["num_points3D"]


def test_coarse_to_fine_sees_more(
    rendered_place: RenderedPlace, scene: Map, tmp_path: Path
) -> None:
    matcher = patch_matcher(long_side_px=160, coarse_to_fine=True, fine_side_px=320)
    names = rendered_place.map_names[::2]
    fine = build_map(
        rendered_place.images,
        tmp_path / "map",
        matcher,
        known_poses=rendered_place.folder / "sparse_gt",
        image_names=names,
    )
    coarse = build_map(
        rendered_place.images,
        tmp_path / "coarse",
        patch_matcher(long_side_px=160),
        known_poses=rendered_place.folder / "sparse_gt",
        image_names=names,
    )
    first, second = fine.to_dict(), coarse.to_dict()
    assert first["num_points3D"] > 1.5 * second["num_points3D"]
    assert first["mean_reprojection_error_px"] < second["mean_reprojection_error_px"]
    assert fine.load_view(names[0]).arrays["pixels"].shape == (240, 320, 3)
