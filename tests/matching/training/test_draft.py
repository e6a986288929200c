"""Materials of drafts: who wears what."""

import pytest
import torch

from matching.training import draft as draft_module
from matching.training.draft import (
    RELIEF_SLOPES,
    SMOOTH,
    STONES,
    SURFACES,
    Draft,
    Palette,
)
from matching.training.scenes import draw_stage
from matching.training.textures import TextureBank
from matching.training.world import (
    EMISSION,
    OVERLAY,
    OVERLAY_SCALE,
    OVERLAY_WEIGHT,
    RADIUS,
    RELIEF,
    SCALE,
    TEXTURE,
    TINT,
    WINDOW,
    Kind,
)


@pytest.fixture
def blank_paint(monkeypatch: pytest.MonkeyPatch) -> None:
    """For palettes of many textures of which only the numbers count."""

    def paint(styles: list[str], size: int, seed: int) -> TextureBank:
        return TextureBank.from_images(torch.zeros(len(styles), 3, size, size))

    monkeypatch.setattr(draft_module, "paint", paint)


def boxes(draft: Draft, surfaces: list[str], number: int = 4) -> torch.Tensor:
    """Materials of so many boxes of each surface, (B, len(surfaces), number, ...)."""
    ones = torch.ones(draft.count, number, 3)
    for surface in surfaces:
        draft.add(Kind.BOX, ones, ones, surface)
    _, materials = draft.finish(len(surfaces) * number)
    return materials.reshape(draft.count, len(surfaces), number, *materials.shape[2:])


def test_things_wear_their_own_material_or_that_of_others(palette: Palette) -> None:
    draft = Draft(3, torch.Generator().manual_seed(0), palette, 0.0)
    ones = torch.ones(3, 2, 3)
    alone = draft.add(Kind.BOX, ones, ones, "wall")
    same = draft.add(Kind.BOX, ones, ones, "roof", like=alone)
    last = draft.add(Kind.BOX, ones, ones, "wall", of=alone + 1)
    _, materials = draft.finish(6)
    assert (alone, same, last) == (0, 2, 4)
    first, second = materials[:, 0], materials[:, 1]
    assert (first != second).flatten(1).any(1).all()
    for k, expected in enumerate((first, second, first, second, second, second)):
        assert torch.equal(materials[:, k], expected)


def test_things_shine_as_they_are_told(palette: Palette) -> None:
    draft = Draft(50, torch.Generator().manual_seed(0), palette, 0.0)
    ones = torch.ones(50, 10, 3)
    for told in (0.0, 2.5):
        draft.add(Kind.BOX, ones, ones, "object", glow=torch.full((50, 10), told))
    draft.add(Kind.BOX, ones, ones, "object")
    glow = draft.finish(30)[1][..., EMISSION]
    assert (glow[:, :10] == 0).all() and (glow[:, 10:20] == 2.5).all()
    assert 0.01 < float((glow[:, 20:, 0] > 0).float().mean()) < 0.06


def test_only_what_is_built_is_of_the_one_stone(
    palette: Palette, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(draft_module, "ONE_STONE", 1.0)
    monkeypatch.setattr(draft_module, "BARE", 0.0)
    surfaces = list(SURFACES)
    materials = boxes(Draft(30, torch.Generator().manual_seed(0), palette, 0.0), surfaces, 10)
    masonry = palette.table[palette.names.index("masonry")].float()
    for k, surface in enumerate(surfaces):
        # others may wear the stone's texture by chance, there is one a style, but not its colour
        tint = materials[:, k, :, 0, TINT]
        alike = (tint / tint.median(1, keepdim=True).values).log().abs().amax(-1) < 0.1
        assert bool(alike.float().mean() > 0.6) == (surface in STONES), surface
        if surface in STONES:
            texture = materials[:, k, :, 0, TEXTURE]
            common = texture.mode(1).values
            assert torch.isin(common, masonry).all() and len(common.unique()) > 2
            assert 0.6 < float((texture == common[:, None]).float().mean()) < 0.9


def test_every_texture_is_worn_somewhere(blank_paint: None) -> None:
    """Tables have columns for as many textures as training paints (`matching.training.train`)."""
    palette = Palette.paint(0, per_style=80, size=1, device="cpu")
    assert len(palette.table.unique()) == palette.bank.count > 80 * 15
    for surface, row in zip(palette.names, palette.table, strict=True):
        # three times as many pictures; of the surfaces of most styles, some show only a part
        styles = set(SURFACES[surface]) - {"leaves", "poster"}
        assert len(row.unique()) >= 80 * len(styles), surface


def test_most_surfaces_have_relief_and_no_window_has(palette: Palette) -> None:
    stage = draw_stage(40, torch.Generator().manual_seed(0), palette, difficulty=1.0)
    material = stage.scenes.materials[stage.scenes.geometry[..., RADIUS] > 0]
    assert not material[:, WINDOW, RELIEF].any()
    relief, texture = material[:, :WINDOW, RELIEF], material[:, :WINDOW, TEXTURE].long()
    raised = relief != 0
    assert 0.55 < float(raised.float().mean()) < 0.65
    assert 0.15 < float((relief[raised] < 0).float().mean()) < 0.25
    slopes = (relief.abs() * palette.roughness[texture])[raised]
    assert RELIEF_SLOPES[0] * 0.999 <= float(slopes.min()) < 1.2 * RELIEF_SLOPES[0]
    assert 0.8 * RELIEF_SLOPES[1] < float(slopes.max()) <= RELIEF_SLOPES[1] * 1.001
    assert float(palette.roughness.min()) >= SMOOTH
    assert len(palette.roughness) == palette.bank.count


def test_some_things_are_painted_dark_or_in_strong_colours(palette: Palette) -> None:
    stage = draw_stage(40, torch.Generator().manual_seed(0), palette, difficulty=1.0)
    tint = stage.scenes.materials[stage.scenes.geometry[..., RADIUS] > 0][:, 0, TINT]
    dark, strong = tint.mean(1) < 0.4, tint.amax(1) / tint.amin(1) > 1.6
    assert 0.05 < float(dark.float().mean()) < 0.3
    assert 0.05 < float(strong.float().mean()) < 0.2


def test_some_places_are_bare_and_some_of_one_stone(blank_paint: None) -> None:
    palette = Palette.paint(0, per_style=8, size=1, device="cpu")
    stage = draw_stage(200, torch.Generator().manual_seed(0), palette, difficulty=1.0)
    bare_row = palette.table[palette.names.index("bare")]
    bare, one, layered = [], [], []
    for geometry, materials in zip(stage.scenes.geometry, stage.scenes.materials, strict=True):
        material = materials[geometry[:, RADIUS] > 0][:, 0]
        texture = material[:, TEXTURE]
        plain = torch.isin(texture, bare_row.float())
        bare.append(float(plain.float().mean()))
        layered.append(float((material[plain, OVERLAY_WEIGHT] > 0).float().mean()))
        one.append(float(texture.unique(return_counts=True)[1].max() / len(texture)))
    assert 0.1 < float((torch.tensor(bare) > 0.6).float().mean()) < 0.35
    # no second texture covers what should be bare
    places = torch.tensor(bare) > 0.6
    means = [float(torch.tensor(layered)[some].nanmean()) for some in (places, ~places)]
    assert means[0] < 0.3 and means[1] > 0.5
    # monuments are of one stone by themselves: a third of these
    assert 0.12 < float((torch.tensor(one) > 0.3).float().mean()) < 0.25


def test_second_textures_are_coarser_or_finer_than_the_first(palette: Palette) -> None:
    stage = draw_stage(40, torch.Generator().manual_seed(0), palette, difficulty=1.0)
    material = stage.scenes.materials[stage.scenes.geometry[..., RADIUS] > 0][:, 0]
    over = material[material[:, OVERLAY_WEIGHT] > 0]
    ratio = over[:, OVERLAY_SCALE] / over[:, SCALE]
    assert float(ratio.min()) > 0.059 and float(ratio.max()) < 5.6
    assert not ((ratio > 0.41) & (ratio < 1.8)).any()
    for surface, some in (("grain", ratio < 1), ("object", ratio > 1)):
        row = palette.table[palette.names.index(surface)].float()
        assert torch.isin(over[some, OVERLAY], row).all(), surface
    assert 0.3 < float((ratio < 1).float().mean()) < 0.5
