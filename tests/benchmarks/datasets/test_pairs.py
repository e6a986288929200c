"""Pairs by gap and from a list, and their photos as a protocol frames them."""

import json
from pathlib import Path

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray
from PIL import Image

from benchmarks.datasets.pair_task import PairsOptions, cover_and_crop, prepare_photo
from benchmarks.datasets.pairs import FolderPairsOptions, open_pairs
from matching.errors import InputError
from tests.benchmarks.fakes import write_folder


def test_pairs_are_made_by_gap_with_their_true_poses(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", [f"{i}.png" for i in range(4)])
    pairs = open_pairs(root, FolderPairsOptions(gaps=(2, 3))).pairs
    assert [(p.image0, p.image1) for p in pairs] == [
        ("0.png", "2.png"),
        ("0.png", "3.png"),
        ("1.png", "3.png"),
    ]
    truth = pairs[1].cam1_from_cam0
    assert truth is not None
    np.testing.assert_allclose(truth[:3, 3], (-3, 0, 0), atol=1e-12)
    with pytest.raises(InputError, match="no pair of photos 7 to 9 places apart"):
        open_pairs(root, FolderPairsOptions(gaps=(7, 9)))


def test_listed_pairs_are_read_and_checked(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "set", ["a.png", "b.png"])
    K = [[50, 0, 20], [0, 50, 15], [0, 0, 1]]
    entry = {"image0": "a.png", "image1": "b.png", "K0": K, "K1": K, "T_0to1": np.eye(4).tolist()}
    file = root / "pairs.json"
    own = {**entry, "image1": "a.png"}
    file.write_text(json.dumps([entry, own, {**entry, "T_0to1": None, "K0": None}]))
    pairs = open_pairs(root, FolderPairsOptions()).pairs
    assert len(pairs) == 2 and pairs[1].cam1_from_cam0 is None and pairs[1].camera0 is None
    assert pairs[0].camera0 is not None and pairs[0].camera0.width == 40
    for bad, message in (
        ({"K0": [[1]]}, "entry 0: K0 must be 3x3"),
        ({"K1": None}, "entry 0: T_0to1 needs K0 and K1"),
        ({"rot0": 1}, "turned photos"),
        ({"image1": 5}, "no 'image1'"),
    ):
        file.write_text(json.dumps([{**entry, **bad}]))
        with pytest.raises(InputError, match=message):
            open_pairs(root, FolderPairsOptions())
    file.write_text("[")
    with pytest.raises(InputError, match="no valid JSON"):
        open_pairs(root, FolderPairsOptions())


# ---------------------------------------------------------------- photos as a protocol wants them


def checkers(width: int, height: int) -> NDArray[np.uint8]:
    """A smooth pattern whose brightness tells x, in red, and y, in green."""
    x = np.linspace(20, 230, width)[None, :].repeat(height, 0)
    y = np.linspace(20, 230, height)[:, None].repeat(width, 1)
    return np.stack([x, y, np.full_like(x, 90)], axis=-1).round().astype(np.uint8)


@pytest.mark.parametrize("size", [(64, 48), (48, 64), (101, 33), (200, 150)])
def test_covering_and_cropping_keeps_pixels_and_calibration_together(
    size: tuple[int, int],
) -> None:
    image = checkers(200, 150)
    K = np.array([[180.0, 0, 97], [0, 175, 80], [0, 0, 1]])
    framed, new_K = cover_and_crop(image, K, size)
    assert framed.shape == (size[1], size[0], 3)
    # A ray that meets the framed photo meets the original one at a pixel of the same colour.
    for u, v in ((0.3, 0.4), (0.5, 0.5), (0.8, 0.7)):
        pixel = np.array([u * size[0], v * size[1], 1])
        original = K @ np.linalg.inv(new_K) @ pixel
        colour = image[int(original[1]), int(original[0])].astype(int)
        found = framed[int(pixel[1]), int(pixel[0])].astype(int)
        # One pixel of the smaller photo is up to three of the larger, 1 grey level each.
        assert np.abs(colour - found).max() <= 5
    assert new_K[0, 0] / new_K[1, 1] == pytest.approx(180 / 175)


def test_photos_are_undistorted_before_matching(tmp_path: Path) -> None:
    camera = pycolmap.Camera(
        model="OPENCV", width=200, height=150, params=[180, 175, 97, 80, 0.06, -0.08, 0.001, -0.001]
    )
    image = checkers(200, 150)
    path = tmp_path / "a.png"
    Image.fromarray(image).save(path)
    pinhole, K = prepare_photo(path, camera, PairsOptions())
    for ray in ((0.0, 0.0), (0.3, 0.2), (-0.25, 0.3)):
        distorted = camera.img_from_cam(np.array([*ray, 1.0]))
        straight = K @ np.array([*ray, 1.0])
        colour = image[int(distorted[1]), int(distorted[0])].astype(int)
        assert np.abs(colour - pinhole[int(straight[1]), int(straight[0])]).max() <= 3
    turned = pycolmap.Camera(model="PINHOLE", width=150, height=200, params=[180, 180, 75, 100])
    with pytest.raises(InputError, match="has 200x150 pixels, but its camera 150x200"):
        prepare_photo(path, turned, PairsOptions())


def test_portrait_photos_are_cropped_to_the_turned_frame(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(checkers(108, 192)).save(path)
    camera = pycolmap.Camera(model="PINHOLE", width=108, height=192, params=[150, 150, 50, 90])
    for crop_size in ((64, 48), (48, 64)):
        image, K = prepare_photo(path, camera, PairsOptions(crop_size=crop_size))
        if crop_size == (64, 48):  # what landscape photos are cropped to: turned
            assert image.shape == (64, 48, 3)
        assert K[0, 0] == pytest.approx(K[1, 1])


@pytest.mark.parametrize("long_side_px", [100, 333])
def test_scaling_keeps_pixels_and_calibration_together(tmp_path: Path, long_side_px: int) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(checkers(200, 151)).save(path)
    camera = pycolmap.Camera(model="PINHOLE", width=200, height=151, params=[180, 175, 97, 80])
    image, K = prepare_photo(path, camera, PairsOptions(long_side_px=long_side_px))
    height = round(151 * long_side_px / 200)
    assert image.shape == (height, long_side_px, 3)
    # the corner of the photo stays the corner, each axis scaled by what it was rounded to
    expected = np.diag([long_side_px / 200, height / 151, 1]) @ camera.calibration_matrix()
    np.testing.assert_allclose(K, expected, rtol=1e-12)


def test_photos_are_stretched_to_the_size_their_cameras_mean(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.fromarray(checkers(140, 97)).save(path)
    camera = pycolmap.Camera(model="PINHOLE", width=64, height=48, params=[60, 60, 32, 24])
    image, K = prepare_photo(path, camera, PairsOptions(), (64, 48))
    assert image.shape == (48, 64, 3) and K[0, 2] == 32
    original = checkers(140, 97)
    for u, v in ((0.2, 0.3), (0.7, 0.6)):
        a = image[int(v * 48), int(u * 64)].astype(int)
        b = original[int(v * 97), int(u * 140)].astype(int)
        assert np.abs(a - b).max() <= 5
    with pytest.raises(InputError, match="has 140x97 pixels, but its camera 64x48"):
        prepare_photo(path, camera, PairsOptions())
