"""Batches replayed from a CUDA graph against batches drawn launch by launch."""

import pytest
import torch

from matching.training.batch import PairBatch, PairWorld


def worlds() -> tuple[PairWorld, PairWorld]:
    plain = PairWorld("cuda", textures_per_style=2, texture_size=64)
    return plain, PairWorld("cuda", textures_per_style=2, texture_size=64, recorded=True)


def equal(first: PairBatch, second: PairBatch) -> bool:
    return all(
        torch.equal(own.nan_to_num(0, 0, 0), vars(second)[name].nan_to_num(0, 0, 0))
        for name, own in vars(first).items()
    )


@pytest.mark.gpu
def test_a_replay_is_what_the_seed_and_difficulty_draw() -> None:
    plain, recorded = worlds()
    for size in ((64, 48), (48, 64)):
        for seed, difficulty in ((1, 0.2), (2, 1.0), (1, 0.2)):
            first, second = (
                world(seed, pairs=8, image_size=size, difficulty=difficulty)
                for world in (plain, recorded)
            )
            assert equal(first, second)


@pytest.mark.gpu
def test_batches_keep_their_content_when_others_are_drawn() -> None:
    _, recorded = worlds()
    first = recorded(1, pairs=4, image_size=(64, 48))
    kept = first.images.clone()
    other = recorded(2, pairs=4, image_size=(64, 48))
    assert torch.equal(first.images, kept)
    assert not torch.equal(first.images, other.images)


def test_the_cpu_has_nothing_to_record() -> None:
    world = PairWorld("cpu", textures_per_style=1, texture_size=16, recorded=True)
    assert not world.recorded
