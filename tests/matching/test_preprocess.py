"""Photos at network size: the published pixels, and the way back."""

import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from matching import InputError
from matching.images import read_image
from matching.preprocess import (
    NetworkFrame,
    fit_to_patches,
    fit_to_trained_size,
    to_network_tensor,
)
from tests.golden_rule import pattern_image

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "data" / "golden_network.json").read_text(encoding="utf-8")
)


@pytest.mark.parametrize("case", GOLDEN["load_images"], ids=lambda case: case["name"])
def test_published_loading_to_the_pixel(tmp_path: Path, case: dict[str, Any]) -> None:
    path = tmp_path / "photo.png"
    exif = Image.Exif()
    if case["exif_orientation"]:
        exif[0x0112] = case["exif_orientation"]
    Image.fromarray(pattern_image(case["W"], case["H"])).save(path, exif=exif)
    fitted = fit_to_patches(
        read_image(path),
        case["size"],
        patch_size=case["patch_size"],
        square_ok=case["square_ok"],
    )
    assert fitted is not None
    values = to_network_tensor(fitted[0])
    assert list(values.shape) == case["out_shape"]
    pixels = ((values.double() * 0.5 + 0.5) * 255).round().to(torch.uint8)
    assert zlib.crc32(pixels.contiguous().numpy().data) == case["crc32_u8_chw"]


@pytest.mark.parametrize("case", GOLDEN["visloc"], ids=lambda case: case["name"])
def test_published_resize_of_localization(case: dict[str, Any]) -> None:
    image = to_network_tensor(pattern_image(case["W"], case["H"]))
    resized, frame = fit_to_trained_size(image, case["maxdim"])
    assert list(resized.shape) == case["out_shape"]
    assert frame.image_size == (resized.shape[2], resized.shape[1])
    got = resized[:, 2::37, 3::41].reshape(-1)[::7].numpy()
    np.testing.assert_allclose(got, case["px_antialias"], atol=1e-5)
    corners = np.array([[0, 0], [frame.image_size[0], frame.image_size[1]]])
    to_orig = np.array(case["to_orig"])
    np.testing.assert_allclose(
        frame.to_photo(corners), corners @ to_orig[:2, :2].T + to_orig[:2, 2], atol=1e-9
    )


@pytest.mark.parametrize("size", [(640, 480), (480, 640), (500, 333), (37, 41), (640, 640)])
@pytest.mark.parametrize("way", ["patches", "trained"])
def test_what_is_seen_at_a_network_pixel_is_there_in_the_photo(
    size: tuple[int, int], way: str
) -> None:
    """A photo that shows its own coordinates comes back with those of its frame."""
    width, height = size
    x, y = np.meshgrid((np.arange(width) + 0.5) / width, (np.arange(height) + 0.5) / height)
    ramp = np.stack((x, y, np.zeros_like(x)), -1)
    if way == "trained":
        image = torch.from_numpy(ramp).permute(2, 0, 1).float()
        resized, frame = fit_to_trained_size(image, 512)
        seen = resized.permute(1, 2, 0).numpy() * [width, height, 1]
        tolerance = 0.6  # the published transforms lose half a pixel where a crop is odd
    else:
        fitted = fit_to_patches((ramp * 255).round().astype(np.uint8), 512)
        assert fitted is not None
        seen = fitted[0] / 255 * [width, height, 1]
        frame = fitted[1]
        tolerance = 1.5 * max(size) / 255  # bytes, rounded twice and spread by the filter
    network_width, network_height = frame.image_size
    columns, rows = np.meshgrid(np.arange(network_width), np.arange(network_height))
    centres = np.stack((columns, rows), -1).reshape(-1, 2) + 0.5
    error = np.abs(frame.to_photo(centres) - seen[..., :2].reshape(-1, 2))
    inner = ((centres > 8) & (centres < np.array(frame.image_size) - 8)).all(1)
    assert error[inner].max() < tolerance
    np.testing.assert_allclose(frame.to_network(frame.to_photo(centres)), centres, atol=1e-9)


@pytest.mark.parametrize("shape", [(1, 1), (1, 900), (20, 900), (5000, 100)])
def test_strips_thinner_than_a_patch_give_nothing(shape: tuple[int, int]) -> None:
    fitted = fit_to_patches(np.zeros((*shape, 3), np.uint8), 512)
    if shape == (1, 1):  # becomes a grey square
        assert fitted is not None and fitted[1].image_size == (512, 384)
    else:
        assert fitted is None


def test_unknown_sizes_of_the_training_are_refused() -> None:
    with pytest.raises(InputError, match="long side of 300"):
        fit_to_trained_size(torch.zeros(3, 40, 60), 300)


def test_nearest_pixels() -> None:
    frame = NetworkFrame(image_size=(8, 4), scale=(2.0, 2.0), offset=(10.0, 0.0))
    points = np.array([[10.0, 0.0], [11.0, 1.0], [25.9, 7.9], [26.2, 3.0], [9.0, 3.0], [12, 2]])
    pixels, inside = frame.nearest_pixels(points)
    # the first lies on the corner, half a pixel off the centre: a tie goes to the even pixel
    assert pixels.tolist() == [[0, 0], [0, 0], [7, 3], [8, 1], [-1, 1], [0, 0]]
    assert inside.tolist() == [True, True, True, False, False, True]
    empty, none = frame.nearest_pixels(np.zeros((0, 2)))
    assert empty.shape == (0, 2) and none.shape == (0,)


def test_intrinsics_of_the_network_image() -> None:
    frame = NetworkFrame(image_size=(8, 4), scale=(2.0, 3.0), offset=(10.0, 6.0))
    K = np.array([[100.0, 0, 18], [0, 120.0, 12], [0, 0, 1]])
    ray = np.array([0.1, -0.2, 1])
    in_photo, in_network = K @ ray, frame.camera_matrix(K) @ ray
    np.testing.assert_allclose(frame.to_network(in_photo[None, :2])[0], in_network[:2])
