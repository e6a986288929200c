"""Painters of textures: seamless, and of the structure they are named for."""

import pytest
import torch

from matching.training.draft import SURFACES
from matching.training.painter import Painter

STYLES = sorted({style for styles in SURFACES.values() for style in styles})


@pytest.mark.parametrize("style", STYLES)
def test_styles_are_seamless_and_follow_their_seed(style: str) -> None:
    def make(seed: int) -> torch.Tensor:
        image = getattr(Painter(64, torch.Generator().manual_seed(seed)), style)()
        return torch.as_tensor(image).expand(3, 64, 64)

    image = make(1)
    assert torch.isfinite(image).all() and torch.equal(image, make(1))
    assert not torch.equal(image, make(2))
    # the step over the border is not larger than steps elsewhere; pictures and pages have an edge
    if style not in ("marks", "poster", "glass", "books"):
        for axis in (1, 2):
            inner = (image.narrow(axis, 1, 63) - image.narrow(axis, 0, 63)).abs()
            steps = inner.amax(dim=(0, 3 - axis)) if axis == 1 else inner.amax(dim=(0, 1))
            border = (image.select(axis, 0) - image.select(axis, 63)).abs().max()
            assert float(border) <= 1.5 * float(steps.max()) + 0.02


def painted(style: str, seed: int, size: int = 64) -> torch.Tensor:
    """Brightness of a texture, (S, S)."""
    image = getattr(Painter(size, torch.Generator().manual_seed(seed)), style)()
    return torch.as_tensor(image).mean(0)


def stripedness(image: torch.Tensor) -> tuple[float, float]:
    """How much the means of neighbouring columns differ, and those of rows."""
    return float(image.mean(0).diff().std()), float(image.mean(1).diff().std())


@pytest.mark.parametrize("size", [8, 16])
@pytest.mark.parametrize("style", STYLES)
def test_small_textures_are_finite_too(style: str, size: int) -> None:
    for seed in range(2):
        assert torch.isfinite(painted(style, seed, size)).all()


def test_stains_run_down() -> None:
    means = [stripedness(painted("stains", seed)) for seed in range(12)]
    columns, rows = (sum(side) for side in zip(*means, strict=True))
    assert columns > 1.15 * rows  # what else there is has no direction


def test_stripes_are_upright_or_level() -> None:
    upright = []
    for seed in range(12):
        columns, rows = stripedness(painted("stripes", seed))
        assert max(columns, rows) > 2 * min(columns, rows)
        upright.append(columns > rows)
    assert 4 <= sum(upright) < 12


def test_the_last_stripe_goes_over_into_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Painter, "noise", lambda self, *_: torch.zeros(self.size, self.size))
    for seed in range(12):
        image = painted("stripes", seed, 128)
        colors = image[0] if len(image[0].unique()) > 1 else image[:, 0]
        starts = (colors != colors.roll(1)).nonzero()[:, 0]
        widths = (starts.roll(-1) - starts - 1) % 128 + 1
        for color in colors.unique():
            own = widths[colors[starts] == color]
            assert int(own.max() - own.min()) <= 1


def test_cloth_is_of_whole_threads(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Painter, "noise", lambda self, *_: torch.zeros(self.size, self.size))
    monkeypatch.setattr(Painter, "colors", lambda _, count, *__: torch.full((count, 3, 1, 1), 0.5))
    for seed in range(4):
        image = painted("weave", seed)
        assert 0.37 < float(image.min()) < 0.4 and 0.47 < float(image.max()) <= 0.5
        for same in (image.flip(0), image.flip(1), image.mT):
            torch.testing.assert_close(image, same, atol=1e-4, rtol=0)


def test_checks_of_cloth_are_of_both_threads() -> None:
    images = [painted("weave", seed) for seed in range(16)]
    columns = sum(float(image.mean(0).std()) for image in images)
    assert 0.7 < columns / sum(float(image.mean(1).std()) for image in images) < 1.4


def test_ornaments_are_mirrored_and_repeated() -> None:
    painter = Painter(64, torch.Generator().manual_seed(0))
    field = painter.noise(1.5)
    for n in (1, 2, 4):
        motif = painter._mirrored(field, n)
        assert torch.equal(motif, motif.flip(0)) and torch.equal(motif, motif.flip(1))
        assert torch.equal(motif, motif.roll(64 // n, 0))
        assert torch.equal(motif, motif.roll(64 // n, 1))
        assert n == 1 or not torch.equal(motif, motif.roll(64 // n // 2, 0))


def test_wallpaper_shows_the_same_in_every_cell() -> None:
    repeats = []
    for seed in range(8):
        image = painted("wallpaper", seed)
        n = max(n for n in (1, 2, 4) if torch.equal(image, image.roll(64 // n, 0)))
        assert torch.equal(image, image.roll(64 // n, 1))
        repeats.append(n)
    assert set(repeats) == {1, 2, 4}


def test_books_stand_on_their_boards() -> None:
    for seed in range(6):
        image = painted("books", seed)
        contrast = image.std(1) / image.mean(1)
        # above the books of the topmost shelf there is air
        assert float(contrast[0]) < 0.15 < 0.5 * float(contrast.max())
