"""Correspondences drawn from the geometry of a batch, and places without one."""

import dataclasses

import pytest
import torch

from matching.training.batch import PairBatch
from matching.training.samples import project, sample_correspondences
from tests.matching.training.planes import plane_pairs


@pytest.mark.parametrize("source", [0, 1])
def test_projection_is_that_of_the_plane(source: int) -> None:
    batch = plane_pairs(3, pairs=2, image_size=(64, 48), difficulty=0.5)
    pixels = torch.stack(torch.meshgrid(torch.arange(64), torch.arange(48), indexing="xy"), -1)
    pixels = pixels.reshape(1, -1, 2).expand(2, -1, -1)
    positions, visible = project(batch, source, pixels)
    assert 0.3 < float(visible.float().mean()) < 1
    # there and back again, from the nearest pixel: at most the rounding away
    nearest = positions.round().long().clamp_min(0).minimum(torch.tensor([63, 47]))
    back, seen = project(batch, 1 - source, nearest)
    both = visible & seen
    assert float((back - pixels).norm(dim=-1)[both].max()) < 1.5
    # the plane hides nothing: what projects into the other image is seen there
    inside = ((positions > 0) & (positions < torch.tensor([63, 47]))).all(-1)
    assert bool(visible[inside].all()) and not bool(visible[~inside & ~visible].any())


def test_samples_are_true_dense_and_reproducible() -> None:
    batch = plane_pairs(4, pairs=3, image_size=(64, 48), difficulty=0.5)
    samples = [
        sample_correspondences(batch, 256, generator=torch.Generator().manual_seed(seed))
        for seed in (1, 1, 2)
    ]
    assert torch.equal(samples[0].positions0, samples[1].positions0)
    assert not torch.equal(samples[0].positions0, samples[2].positions0)
    first = samples[0]
    assert first.visible.shape == (3, 256) and float(first.visible.float().mean()) > 0.5
    whole0 = (first.positions0 == first.positions0.round()).all(-1)
    assert bool(whole0[:, :128].all())  # the first half starts in image 0
    back, _ = project(batch, 0, first.positions0[:, :128].long())
    close = first.visible[:, :128]
    torch.testing.assert_close(back[close], first.positions1[:, :128][close])
    gaps = torch.cdist(first.positions0[:, :128], first.positions0[:, :128])
    neighbours = gaps + 1e3 * (gaps == 0)
    assert float((neighbours.min(-1).values <= 2).float().mean()) > 0.4  # windows


def test_no_place_is_drawn_twice_and_unseen_ones_fill_up() -> None:
    batch = plane_pairs(4, pairs=2, image_size=(64, 48), difficulty=0.5)
    cells = torch.randperm(64 * 48, generator=torch.Generator().manual_seed(0))[:300]
    listed = torch.stack([cells % 64, cells // 64], -1).expand(2, 300, 2)
    given = dataclasses.replace(batch, pixels0=listed, pixels1=listed)
    for num_visible in (300, 10):
        visible = (torch.arange(300) < num_visible).expand(2, 300)
        samples = sample_correspondences(
            dataclasses.replace(given, visible=visible),
            256,
            generator=torch.Generator().manual_seed(1),
        )
        half = 128
        spread = half - 256 // 6 // 16 * 16 - 256 // 6  # without windows and random places
        for pair in range(2):
            own = torch.cat(
                [samples.positions0[pair, :spread], samples.positions1[pair, half:][:spread]]
            )
            assert len(own.unique(dim=0)) == 2 * spread
            first = {tuple(row) for row in listed[pair, :num_visible].tolist()}
            drawn = {tuple(row) for row in own.long().tolist()}
            assert len(first & drawn) == min(num_visible, 2 * spread)


def test_samples_survive_pairs_without_overlap() -> None:
    batch = plane_pairs(5, pairs=2, image_size=(48, 32))
    blind = dataclasses.replace(batch, visible=torch.zeros_like(batch.visible))
    apart = torch.eye(4).repeat(2, 1, 1)
    apart[:, 2, 3] = -100.0  # everything lies behind camera 1
    samples = sample_correspondences(dataclasses.replace(blind, cam1_from_cam0=apart), 64)
    assert not bool(samples.visible.any())
    assert bool(samples.unmatched0[:, : samples.visible.shape[1] // 2].all())
    assert torch.isfinite(samples.positions1).all()


def test_only_what_surely_has_no_partner_is_unmatched() -> None:
    batch = plane_pairs(4, pairs=3, image_size=(64, 48), difficulty=0.5)

    def draw(batch: PairBatch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(1)
        samples = sample_correspondences(batch, 256, generator=generator)
        half = samples.visible.shape[1] // 2
        assert not samples.unmatched0[:, half:].any() and not samples.unmatched1[:, :half].any()
        alone = torch.cat([samples.unmatched0[:, :half], samples.unmatched1[:, half:]], 1)
        return samples.visible, alone, samples.positions1[:, :half]

    visible, alone, positions1 = draw(batch)
    assert bool((visible ^ alone).all()) and bool(alone.any())  # a plane hides nothing
    half = visible.shape[1] // 2
    bounds = torch.tensor([63.0, 47.0])
    inside = ((positions1.round() >= 0) & (positions1.round() <= bounds)).all(-1)
    assert torch.equal(alone[:, :half], ~inside)
    # image 1 sees something nearer, that hides all of image 0, or through where it should be
    for ratio in (0.5, 0.75, 1.4, 2.0):
        maps = batch.pointmaps.clone()
        maps[:, 1] *= ratio
        visible, alone, _ = draw(dataclasses.replace(batch, pointmaps=maps))
        assert not bool(visible[:, :half].any()) and bool(alone[:, :half].all())
    # by a tenth: neither the same surface nor surely another
    for ratio in (0.9, 1.1):
        maps = batch.pointmaps.clone()
        maps[:, 1] *= ratio
        visible, alone, _ = draw(dataclasses.replace(batch, pointmaps=maps))
        assert not bool(visible[:, :half].any()) and torch.equal(alone[:, :half], ~inside)
    # image 0 shows the sky
    valid = batch.valid.clone()
    valid[:, 0] = False
    visible, alone, _ = draw(dataclasses.replace(batch, valid=valid))
    assert bool(alone[:, :half].all())
    # image 1 shows the sky where image 0 shows a thing: it is not there
    valid = batch.valid.clone()
    valid[:, 1] = False
    visible, alone, _ = draw(dataclasses.replace(batch, valid=valid))
    assert not bool(visible.any()) and bool(alone.all())
    # the surface is seen in every other column alone, as of a thin thing: it may be the same
    maps = batch.pointmaps.clone()
    maps[:, 1, :, ::2] *= 2.0
    visible, alone, _ = draw(dataclasses.replace(batch, pointmaps=maps))
    assert bool((~visible[:, :half] & inside).any()) and torch.equal(alone[:, :half], ~inside)


def test_places_are_real_in_the_image_they_start_in_and_where_they_are_seen() -> None:
    batch = plane_pairs(4, pairs=3, image_size=(64, 48), difficulty=0.5)
    samples = sample_correspondences(batch, 256, generator=torch.Generator().manual_seed(1))
    half = samples.visible.shape[1] // 2
    assert bool(samples.real0[:, :half].all()) and bool(samples.real1[:, half:].all())
    assert torch.equal(samples.real1[:, :half], samples.visible[:, :half])
    assert torch.equal(samples.real0[:, half:], samples.visible[:, half:])
    assert not bool(samples.visible.all())
