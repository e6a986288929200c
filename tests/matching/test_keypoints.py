"""Tests of `matching/keypoints.py` on pictures with known corners."""

import numpy as np
import pytest
import torch
from torch import Tensor

from matching.keypoints import choose_keypoints, corner_response
from matching.preprocess import to_network_tensor
from tests.matching.matcher_suite import textured


def photo(height: int = 168, width: int = 224, seed: int = 0) -> Tensor:
    return to_network_tensor(textured(height, width, seed=seed))


def nearest(points: Tensor, targets: Tensor) -> Tensor:
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(points, targets, compute_mode=exact).min(1).values


def test_every_corner_of_squares_is_found() -> None:
    """Bright squares on dark ground, drawn eight times as large and shrunken."""
    corners = []
    large = np.zeros((8 * 120, 8 * 160), np.float32)
    for row in range(3):
        for column in range(4):
            x0, y0 = 8 * (15 + 37 * column) + 3 * row, 8 * (14 + 36 * row) + 2 * column
            large[y0 : y0 + 130, x0 : x0 + 130] = 1
            corners += [(x0 + dx, y0 + dy) for dx in (0, 130) for dy in (0, 130)]
    small = torch.from_numpy(large.reshape(120, 8, 160, 8).mean((1, 3)))
    points = choose_keypoints(small.expand(3, -1, -1), number=48)
    assert len(points) == len(corners) == 48
    # the strongest response lies a little inside a corner, the same way in every photo
    assert nearest(torch.tensor(corners) / 8, points).max() < 1.6
    assert nearest(points, torch.tensor(corners) / 8).max() < 1.6


def test_the_same_places_are_chosen_in_a_shifted_picture() -> None:
    whole = photo(200, 260, seed=3)
    first, second = whole[:, 10:178, 20:240], whole[:, 17:185, 31:251]
    points = choose_keypoints(first, number=300)
    shifted = choose_keypoints(second, number=300) + torch.tensor([11.0, 7.0])
    inner = (points > 15).all(1) & (points < torch.tensor([205, 155])).all(1)
    # at the borders, and where squares of the image are cut elsewhere, choices differ
    assert (nearest(points[inner], shifted) < 0.05).float().mean() > 0.75


def test_no_more_than_asked_best_first_apart_and_inside() -> None:
    image = photo()
    every = choose_keypoints(image, number=10_000)
    some = choose_keypoints(image, number=150)
    assert len(some) == 150 < len(every)
    assert nearest(some, every).max() == 0
    assert (every > 3).all() and (every < torch.tensor([221, 165])).all()
    pixels = (every - 0.5).round()
    apart = (pixels[:, None] - pixels[None]).abs().amax(-1) + 99 * torch.eye(len(every))
    assert apart.min() >= 2, "a peak of its 5 x 5 pixels, moved by half a pixel at most"
    torch.testing.assert_close(choose_keypoints(image, number=150), some, rtol=0, atol=0)


def test_faint_texture_gets_its_share() -> None:
    image = photo()
    image[:, :, 112:] *= 0.1
    points = choose_keypoints(image, number=200)
    faint = (points[:, 0] > 112).float().mean()
    assert faint > 0.3
    # by the response alone all of the best would lie in the other half
    response = corner_response(image)
    assert response[:, :112].median() > 50 * response[:, 112:].median()


def test_unsure_places_are_left_out() -> None:
    confidence = torch.ones(21, 28)
    confidence[:, :14] = 0
    points = choose_keypoints(photo(), confidence, number=300)
    assert len(points) > 100 and points[:, 0].min() > 100


@pytest.mark.parametrize("size", [(3, 3), (16, 400), (15, 15)])
def test_pictures_without_room_or_texture(size: tuple[int, int]) -> None:
    assert len(choose_keypoints(torch.zeros(3, *size), number=50)) == 0
    assert len(choose_keypoints(torch.rand(3, *size), number=0)) == 0
    found = choose_keypoints(torch.rand(3, *size), number=50)
    assert found.shape[1:] == (2,) and len(found) <= 50


def test_second_moments_against_numpy() -> None:
    """The response is the smaller eigenvalue of the smoothed second moments."""
    image = photo(40, 52)
    plain = image.double().numpy()
    padded = np.pad(plain, ((0, 0), (1, 1), (1, 1)), mode="edge")
    gx = (padded[:, 1:-1, 2:] - padded[:, 1:-1, :-2]) / 2
    gy = (padded[:, 2:, 1:-1] - padded[:, :-2, 1:-1]) / 2
    steps = np.arange(-4, 5)
    kernel = np.exp(-(steps**2) / (2 * 1.2**2))
    window = np.outer(kernel, kernel) / kernel.sum() ** 2
    response = corner_response(image)
    for y, x in ((10, 10), (20, 33), (31, 40)):
        patch = slice(y - 4, y + 5), slice(x - 4, x + 5)
        moments = [
            [(window * (a[:, *patch] * b[:, *patch]).sum(0)).sum() for a in (gx, gy)]
            for b in (gx, gy)
        ]
        assert response[y, x].item() == pytest.approx(np.linalg.eigvalsh(moments)[0], rel=1e-3)
