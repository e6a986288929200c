"""The dense cloud of a map with given poses, with an oracle for the network."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from PIL import Image

from mapping import Map, build_map
from mapping.depth_fusion import FusionOptions
from mapping.reconstruct_map import depth_correction, reconstruct_map
from mapping.reconstruct_photos import ReconstructOptions
from matching import load_matcher
from matching.errors import InputError
from matching.pointmap import PairGeometry
from matching.preprocess import NetworkFrame
from matching.types import View
from tests.mapping.clouds import read_ply
from tests.mapping.test_reconstruct_photos import surface_distance
from tests.rendered_views import Faults, OracleMatcher, RenderedView, render_views


@pytest.fixture(scope="module")
def views() -> list[RenderedView]:
    return render_views([2, 4, 6, 8], 120)


@pytest.fixture(scope="module")
def scene(views: list[RenderedView], tmp_path_factory: pytest.TempPathFactory) -> Map:
    """A map with the true poses, its unit half a metre."""
    root = tmp_path_factory.mktemp("dense")
    (root / "photos").mkdir()
    model = pycolmap.Reconstruction()
    for number, view in enumerate(views, start=1):
        Image.fromarray(view.image).save(root / "photos" / f"{number}.png")
        camera = view.camera
        camera.camera_id = number
        model.add_camera_with_trivial_rig(camera)
        pose = view.cam_from_world[:3].copy()
        pose[:, 3] *= 2
        image = pycolmap.Image(name=f"{number}.png", camera_id=number, image_id=number)
        model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose))
    return build_map(
        root / "photos", root / "map", OracleMatcher(views, Faults()), known_poses=model
    )


def run(scene: Map, out: Path, matcher: Any, **settings: Any) -> Any:
    photos = scene.path.parent / "photos"
    return reconstruct_map(scene, photos, out, matcher, options=ReconstructOptions(**settings))


def half_metres(cloud: np.ndarray) -> np.ndarray:
    return np.column_stack([cloud["x"], cloud["y"], cloud["z"]]) / 2


def test_the_cloud_lies_on_the_surfaces_in_the_frame_of_the_map(
    scene: Map, views: list[RenderedView], tmp_path: Path
) -> None:
    made = run(scene, tmp_path / "out", OracleMatcher(views, Faults(scales=0.5)))
    assert made.num_images == 4 and not made.metric and made.error is None
    cloud = read_ply(tmp_path / "out" / "points.ply")
    assert len(cloud) == made.num_points > 2000
    distance = surface_distance(half_metres(cloud), views)
    assert np.median(distance) < 0.01
    assert np.mean(distance < 0.05) > 0.95
    model = pycolmap.Reconstruction(tmp_path / "out" / "sparse")
    for image in model.images.values():
        same = scene.cam_from_world(image.name)
        np.testing.assert_allclose(image.cam_from_world().matrix(), same.matrix(), atol=1e-12)
    assert model.compute_mean_reprojection_error() < 1
    assert "unit of the map" in made.summary()


def test_noise_is_averaged_and_contradictions_left_out(
    scene: Map, views: list[RenderedView], tmp_path: Path
) -> None:
    noisy = OracleMatcher(views, Faults(noise=0.04))
    clouds = {}
    for needed in (0, 2):
        out = tmp_path / f"out{needed}"
        run(scene, out, noisy, fusion=FusionOptions(min_consistent=needed))
        clouds[needed] = read_ply(out / "points.ply")
    assert len(clouds[2]) < len(clouds[0])
    medians = {n: np.median(surface_distance(half_metres(c), views)) for n, c in clouds.items()}
    assert medians[2] < medians[0] < 0.04


def test_another_matcher_than_the_map_s_encodes_the_photos(
    scene: Map, views: list[RenderedView], tmp_path: Path
) -> None:
    other = OracleMatcher(views)
    other.fingerprint = "1"
    photos = scene.path.parent / "photos"
    made = reconstruct_map(scene, photos, tmp_path / "out", other)
    assert made.num_points > 2000
    with pytest.raises(InputError, match=r"'.*1\.png'"):
        reconstruct_map(scene, tmp_path, tmp_path / "none", other)
    assert not (tmp_path / "none").exists()


def test_photos_without_a_depth_map_are_listed(
    scene: Map, views: list[RenderedView], tmp_path: Path
) -> None:
    class Blind(OracleMatcher):
        """Has no point maps of pairs with photo 4."""

        def predict(self, view0: View, view1: View) -> PairGeometry | None:
            last = scene.load_view("4.png").arrays
            for view in (view0, view1):
                if all(np.array_equal(view.arrays[name], last[name]) for name in last):
                    return None
            return super().predict(view0, view1)

    made = run(scene, tmp_path / "out", Blind(views, Faults()))
    assert made.num_images == 3
    assert "map points" in made.not_registered["4.png"]


def test_photos_that_lack_for_colours_stay_grey(
    scene: Map,
    views: list[RenderedView],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    matcher, photos = OracleMatcher(views), tmp_path / "photos"
    photos.mkdir()
    with (
        monkeypatch.context() as patch,
        pytest.raises(InputError, match=r"photo of the map '.*1\."),
    ):
        patch.setattr(matcher, "predict", None)  # a wrong folder is told before the work
        reconstruct_map(scene, photos, tmp_path / "out", matcher)
    shutil.copytree(scene.path.parent / "photos", photos, dirs_exist_ok=True)
    (photos / "1.png").unlink()
    (photos / "2.png").write_bytes((photos / "2.png").read_bytes()[:300])
    reconstruct_map(scene, photos, tmp_path / "out", matcher)
    assert "1.png" in caplog.text and "2.png" in caplog.text and "3.png" not in caplog.text
    cloud = read_ply(tmp_path / "out" / "points.ply")
    grey = (cloud["red"] == 128) & (cloud["green"] == 128) & (cloud["blue"] == 128)
    assert 0.2 < grey.mean() < 0.95


def test_a_matcher_without_point_maps_is_refused(scene: Map, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="sift predicts no point maps"):
        run(scene, tmp_path / "out", load_matcher("sift"))
    assert not (tmp_path / "out").exists()


def test_no_photo_with_a_depth_map(
    scene: Map, views: list[RenderedView], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    matcher = OracleMatcher(views)
    monkeypatch.setattr(matcher, "predict", lambda *_: None)
    with pytest.raises(
        InputError, match=r"no photo .* depth map, such as '1\.png': its point maps"
    ):
        run(scene, tmp_path / "out", matcher)
    assert not (tmp_path / "out").exists()


def test_depths_are_laid_on_the_known_ones() -> None:
    height, width = 40, 60
    y, x = np.mgrid[:height, :width]
    truth = 4 + 0.02 * x + 0.03 * y
    wrong = truth * np.exp(0.7 + 0.004 * (x - 30) - 0.003 * (y - 20))  # a common and a slow error
    frame = NetworkFrame(image_size=(width, height), scale=(2.0, 2.0), offset=(0.0, 0.0))
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, (width, height), (300, 2))
    known = truth[pixels[:, 1], pixels[:, 0]]
    known[:40] *= 3  # wrong map points
    found = depth_correction(wrong.astype(np.float32), frame, (pixels + 0.5) * 2, known)
    assert found is not None
    error = np.abs(np.log(wrong) + found - np.log(truth))
    assert np.median(error) < 0.03
    common = np.abs(np.log(wrong) - 0.7 - np.log(truth))
    assert np.median(error) < np.median(common)
    few = depth_correction(wrong.astype(np.float32), frame, (pixels[:9] + 0.5) * 2, known[:9])
    assert few is None
    nothing = depth_correction(
        np.zeros((height, width), np.float32), frame, (pixels + 0.5) * 2, known
    )
    assert nothing is None


def test_many_known_depths_correct_details_and_few_do_not_overfit() -> None:
    height, width = 120, 160
    y, x = np.mgrid[:height, :width]
    truth = np.full((height, width), 8.0)
    wrong = truth * np.exp(0.1 * np.sin(x / 9) * np.cos(y / 9))  # waves of a third of the width
    frame = NetworkFrame(image_size=(width, height), scale=(1.0, 1.0), offset=(0.0, 0.0))
    rng = np.random.default_rng(0)
    errors = []
    for number in (3000, 300, 30):
        pixels = rng.integers(0, (width, height), (number, 2))
        known = truth[pixels[:, 1], pixels[:, 0]] * np.exp(rng.normal(0, 0.01, number))
        found = depth_correction(wrong.astype(np.float32), frame, pixels + 0.5, known)
        assert found is not None
        errors.append(float(np.median(np.abs(np.log(wrong) + found - np.log(truth)))))
    unchanged = float(np.median(np.abs(np.log(wrong) - np.log(truth))))
    assert errors[0] < 0.2 * unchanged and errors[1] < 0.6 * unchanged
    assert errors[2] < 1.2 * unchanged
