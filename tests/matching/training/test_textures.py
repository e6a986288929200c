"""Procedural textures and their mip-mapped sampling."""

import pytest
import torch
import torch.nn.functional as F

from matching.training.draft import SURFACES, Palette
from matching.training.textures import TextureBank, paint


def test_mip_levels_are_means_and_sampling_is_trilinear() -> None:
    images = torch.rand(3, 3, 8, 8, generator=torch.Generator().manual_seed(0))
    bank = TextureBank.from_images(images)
    assert bank.num_levels == 4 and len(bank.texels) == 3 * (64 + 16 + 4 + 1)
    index = torch.arange(3)
    centre = torch.full((3,), 2.5 / 8)  # texel 2's centre, in repeats
    exact = bank.sample(index, centre, centre + 1 / 8, torch.zeros(3))
    torch.testing.assert_close(exact, images[:, :, 3, 2], atol=8e-3, rtol=0)  # 8 bits of a root
    top = bank.sample(index, centre, centre, torch.full((3,), 9.0))
    torch.testing.assert_close(top, images.mean((2, 3)), atol=1e-2, rtol=0)
    half = F.avg_pool2d(images, 2)
    quarter_turn = torch.full((3,), 1.5 / 4)
    exact = bank.sample(index, quarter_turn, quarter_turn, torch.ones(3))
    torch.testing.assert_close(exact, half[:, :, 1, 1], atol=8e-3, rtol=0)


def test_sampling_repeats() -> None:
    bank = paint(["noisy", "bricks"], 16, 0)
    generator = torch.Generator().manual_seed(1)
    u, v, lod = (torch.rand(50, generator=generator) for _ in range(3))
    index = (torch.rand(50, generator=generator) * 2).long()
    once = bank.sample(index, u, v, 3 * lod)
    again = bank.sample(index, u - 3, v + 5, 3 * lod)
    torch.testing.assert_close(once, again, atol=1e-4, rtol=0)


def test_slopes_are_derivatives_of_the_brightness() -> None:
    bank = paint(["noisy", "bricks"], 16, 0)
    generator = torch.Generator().manual_seed(1)
    u, v, lod = (torch.rand(60, generator=generator) * 3 - 1 for _ in range(3))
    lod = 1.5 * lod  # finer than the finest too, and no level of one texel
    index = (torch.rand(60, generator=generator) * 2).long()
    step = 1e-3

    def brightness(du: float, dv: float) -> torch.Tensor:
        return bank.sample(index, u + du, v + dv, lod)[:, 1].sqrt()

    slope = bank.slope(index, u, v, lod)
    assert slope.shape == (60, 2) and float(slope.std()) > 0.3
    for axis, (du, dv) in enumerate(((step, 0.0), (0.0, step))):
        rise = (brightness(du, dv) - brightness(-du, -dv)) / (2 * step)
        right = (rise - slope[:, axis]).abs() < 2e-3 + 1e-3 * slope[:, axis].abs()
        # between the two points the next texel may begin
        assert float(right.float().mean()) > 0.9


def test_roughness_is_the_size_of_the_slopes() -> None:
    bank = paint(["plain", "bricks", "grass"], 32, 0)
    rough = bank.roughness()
    assert rough.shape == (3,) and float(rough[0]) < 0.3 * float(rough[1:].min())
    axis = torch.arange(16) / 16 + 1 / 32  # texels' centres of the second finest level
    v, u = (grid.reshape(-1) for grid in torch.meshgrid(axis, axis, indexing="ij"))
    for k in range(3):
        slope = bank.slope(torch.full_like(u, k), u, v, torch.ones_like(u))
        torch.testing.assert_close(slope.square().sum(1).mean().sqrt(), rough[k], rtol=1e-4, atol=0)
    assert float(TextureBank.from_images(torch.ones(1, 3, 1, 1)).roughness()) == 0


def test_minified_texture_is_smooth() -> None:
    """A texture seen from far off keeps its mean and loses its grain: no aliasing."""
    bank = paint(["bricks"], 64, 3)
    u = torch.linspace(0, 40, 500)
    zero = torch.zeros(500)
    near = bank.sample(zero, u, u * 0.7, zero)
    far = bank.sample(zero, u, u * 0.7, zero + 5)
    assert float(far.std(0).max()) < 0.35 * float(near.std(0).max())
    torch.testing.assert_close(far.mean(0), near.mean(0), atol=0.06, rtol=0)


def test_bad_banks_are_refused() -> None:
    with pytest.raises(ValueError, match="power of 2"):
        TextureBank.from_images(torch.zeros(1, 3, 12, 12))
    with pytest.raises(ValueError, match="no texture style 'velvet'"):
        paint(["velvet"], 8, 0)


def test_palette_knows_every_surface() -> None:
    palette = Palette.paint(0, per_style=1, size=8, device="cpu")
    assert palette.names == tuple(SURFACES)
    assert int(palette.table.min()) >= 0 and int(palette.table.max()) < palette.bank.count
    assert len(palette.table.unique()) == palette.bank.count  # no texture is painted in vain
