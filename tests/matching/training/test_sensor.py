"""What lens, sensor and JPEG do to an image."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from matching.training.sensor import MOVED, SensorRange, develop, jpeg, jpeg_tables, tone_map


def test_tone_curve_rises_and_stays_in_range() -> None:
    x = torch.linspace(0, 8, 200)
    y = tone_map(x)
    assert float(y.min()) >= 0 and float(y.max()) <= 1
    assert (y[1:] >= y[:-1]).all() and (y[1:] > y[:-1])[:70].all()


@pytest.mark.parametrize("quality", [30, 75, 95])
def test_jpeg_is_what_pillow_does(quality: int) -> None:
    """Up to Pillow's rounding to 8 bits in between."""
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(1, 3, 6, 9, generator=generator)
    image = torch.nn.functional.interpolate(coarse, (43, 70), mode="bicubic").clamp(0, 1)
    bytes_in = (image[0].permute(1, 2, 0) * 255).round().to(torch.uint8).numpy()
    file = io.BytesIO()
    Image.fromarray(bytes_in).save(file, "JPEG", quality=quality, subsampling=0)
    expected = np.asarray(Image.open(file)).astype(float)
    ours = jpeg(
        torch.from_numpy(bytes_in).permute(2, 0, 1)[None].float() / 255,
        torch.tensor([float(quality)]),
        jpeg_tables(torch.device("cpu")),
    )
    difference = np.abs(ours[0].permute(1, 2, 0).numpy() * 255 - expected)
    assert np.mean(difference) < 1.2
    if quality < 95:  # what JPEG does is more than that
        assert np.mean(np.abs(bytes_in - expected)) > 1.5 * np.mean(difference)


def scene(count: int = 6) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    coarse = torch.rand(count, 3, 12, 16, generator=generator) * 2
    return torch.nn.functional.interpolate(coarse, (48, 64))


def test_same_seed_same_photos_and_every_camera_differs() -> None:
    def shoot(seed: int) -> torch.Tensor:
        return develop(scene(), torch.Generator().manual_seed(seed), difficulty=1.0)

    photos = shoot(0)
    assert photos.shape == (6, 3, 48, 64)
    assert float(photos.min()) >= 0 and float(photos.max()) <= 1
    assert torch.equal(photos, shoot(0)) and not torch.equal(photos, shoot(1))
    same = scene(1).expand(8, -1, -1, -1)
    means = develop(same, torch.Generator().manual_seed(2), difficulty=1.0).mean((1, 2, 3))
    assert float(means.std()) > 0.03


def test_some_photos_are_blurred_by_motion() -> None:
    still, moved = (
        develop(
            scene(80),
            torch.Generator().manual_seed(3),
            difficulty=1.0,
            options=SensorRange(motion_px=strength),
        )
        for strength in (0.0, 60.0)
    )
    share = float(((still - moved).abs().amax((1, 2, 3)) > 0.02).float().mean())
    assert 0.6 * MOVED < share < 1.4 * MOVED


def test_difficulty_zero_is_a_good_camera() -> None:
    light = scene()
    easy = develop(light, torch.Generator().manual_seed(0), difficulty=0.0)
    again = develop(light, torch.Generator().manual_seed(5), difficulty=0.0)
    torch.testing.assert_close(easy, again, atol=2e-3, rtol=0)
    hard = develop(light, torch.Generator().manual_seed(0), difficulty=1.0)
    assert float((hard - easy).abs().mean()) > 0.02
    # darker and brighter scenes are exposed alike
    dim = develop(light * 0.1, torch.Generator().manual_seed(0), difficulty=0.0)
    torch.testing.assert_close(dim, easy, atol=0.05, rtol=0)


def test_negative_strengths_are_refused() -> None:
    with pytest.raises(ValueError, match="noise must be >= 0"):
        SensorRange(noise=-1.0)
