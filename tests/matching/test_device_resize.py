"""The resizing of a GPU against Pillow's; here in the double precision of the CPU."""

import numpy as np
import pytest
import torch
from PIL import Image

from matching.device_resize import _weights, is_worthwhile, resized_on_device
from matching.preprocess import PatchFit, patch_fit, resized_by_pillow, to_network_tensor

CPU = torch.device("cpu")


def noise(width: int, height: int) -> np.ndarray:
    rng = np.random.default_rng(width * height)
    image = rng.integers(0, 256, (height, width, 3), dtype=np.uint8)
    image[: height // 2] = np.where(image[: height // 2] > 127, 255, 0)  # overshoots on both sides
    return image


@pytest.mark.parametrize(
    "photo_size",
    [
        (1600, 1200),
        (641, 479),
        (333, 700),
        (512, 384),
        (512, 400),
        (300, 225),
        (1031, 1031),
        (20, 16),
    ],
)
@pytest.mark.parametrize("long_side", [512, 224])
def test_the_pixels_are_those_of_pillow(photo_size: tuple[int, int], long_side: int) -> None:
    image = noise(*photo_size)
    fit = patch_fit(photo_size, long_side)
    assert fit is not None
    np.testing.assert_array_equal(
        resized_on_device(image, fit, CPU).numpy(), resized_by_pillow(image, fit)
    )


@pytest.mark.parametrize("kernel", [Image.Resampling.LANCZOS, Image.Resampling.BICUBIC])
def test_both_kernels_both_ways(kernel: Image.Resampling) -> None:
    image = noise(90, 70)
    sizes = ((45, 140), (200, 31), (90, 33), (77, 70), (90, 70), (85, 30), (80, 50), (100, 90))
    for width, height in sizes:
        fit = PatchFit(size=(width, height), box=(3, 2, width - 4, height - 1), kernel=kernel)
        found = resized_on_device(image, fit, CPU).numpy()
        np.testing.assert_array_equal(found, resized_by_pillow(image, fit))


@pytest.mark.filterwarnings("error")
def test_read_only_and_turned_pixels() -> None:
    image = noise(90, 70)
    image.flags.writeable = False
    fit = PatchFit(size=(45, 35), box=(0, 0, 45, 35), kernel=Image.Resampling.LANCZOS)
    for pixels in (image, image[:, ::-1]):
        found = resized_on_device(pixels, fit, CPU).numpy()
        np.testing.assert_array_equal(found, resized_by_pillow(np.ascontiguousarray(pixels), fit))


def test_rows_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("matching.device_resize._CHUNK_BYTES", 8 * 90 * 7)
    image = noise(90, 70)
    fit = PatchFit(size=(45, 35), box=(0, 0, 45, 35), kernel=Image.Resampling.LANCZOS)
    found = resized_on_device(image, fit, CPU).numpy()
    np.testing.assert_array_equal(found, resized_by_pillow(image, fit))


def test_only_gpus_of_fast_double_precision_resize() -> None:
    fast = [(6, 0), (7, 0), (8, 0), (9, 0), (10, 0)]  # P100, V100, A100, H100, B200
    assert all(map(is_worthwhile, fast))
    slow = [(6, 1), (7, 2), (7, 5), (8, 6), (8, 7), (8, 9), (10, 3), (11, 0), (12, 0), (12, 1)]
    assert not any(map(is_worthwhile, slow))


def test_few_weights_are_held() -> None:
    """Those of a photo's two sides, lying or standing, are made once; many sizes do not add up."""
    kernel = Image.Resampling.LANCZOS
    _weights.cache_clear()
    for width, height in ((90, 70), (70, 90), (90, 70)):
        fit = PatchFit(size=(width // 2, height // 2), box=(0, 0, 30, 30), kernel=kernel)
        resized_on_device(noise(width, height), fit, CPU)
    assert _weights.cache_info().misses == 2
    for side in range(100, 110):
        fit = PatchFit(size=(side // 2, side // 2), box=(0, 0, 30, 30), kernel=kernel)
        resized_on_device(noise(side, side), fit, CPU)
    assert _weights.cache_info().currsize <= 4


@pytest.mark.gpu
def test_a_gpu_gives_the_same_network_image() -> None:
    device = torch.device("cuda")
    for photo_size in ((1600, 1200), (4000, 3000), (300, 225)):
        image = noise(*photo_size)
        fit = patch_fit(photo_size, 512)
        assert fit is not None
        fast = to_network_tensor(resized_on_device(image, fit, device)).cpu()
        assert torch.equal(fast, to_network_tensor(resized_by_pillow(image, fit)))
