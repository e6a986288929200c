"""Relief of surfaces: normals bent by their texture, and what the light makes of them."""

import math
from typing import Any

import numpy as np
import pytest
import torch

from matching.training.builder import FloatArray, Place, PlaceBuilder
from matching.training.cameras import look_at
from matching.training.light import RELIEF_GAIN, STEEPEST_RELIEF, light_row, relief_normal
from matching.training.render import render_image
from matching.training.surface import surface_at
from matching.training.world import RELIEF, Kind

K = np.array([[60.0, 0, 32.0], [0, 60.0, 24.0], [0, 0, 1]])
SIZE = (64, 48)
POSE = look_at(np.array([0.0, -4.0, 0.0]), np.zeros(3))
DARK: dict[str, Any] = {
    "sky": (0.0, 0.0, 0.0),
    "horizon": (0.0, 0.0, 0.0),
    "ground": (0.0, 0.0, 0.0),
}


def wall(relief: float, style: str = "cobbles", gloss: float = 0.0) -> Place:
    """A wall across the view, its face towards -y."""
    b = PlaceBuilder(4, texture_size=64)
    material = b.material(b.texture(style), 3.0, gloss=gloss)
    material[RELIEF] = relief
    b.add(Kind.BOX, (0, 0.5, 0), (9, 0.5, 9), material)
    return b.build()


def photo(place: Place, x: float, y: float = -0.5, **light: Any) -> FloatArray:
    row = light_row(key=(x, y, 0.3, 0.0), **light)
    return place.render(K, SIZE, POSE, row).image.mean(-1).astype(float)


def correlation(a: FloatArray, b: FloatArray) -> float:
    return float(np.corrcoef(a.reshape(-1), b.reshape(-1))[0, 1])


@pytest.mark.parametrize("yaw", [0.0, 0.7, 2.5])
def test_slopes_are_along_u_and_v_of_a_box(yaw: float) -> None:
    b = PlaceBuilder(0, texture_size=8)
    material = b.material(b.texture("plain"))
    b.add(Kind.BOX, (0.3, 0.2, 0.1), (1.0, 0.8, 0.9), material, yaw=yaw)
    geometry = b.build().scenes.geometry[0, 0]
    half, axes = geometry[12:15], geometry[3:12].reshape(3, 3)
    # points on the upright faces, and on top and bottom where these lie along the world's x
    local = torch.cat([torch.eye(3), -torch.eye(3)]) * half
    local = local + torch.tensor([0.1, -0.2, 0.05]) * (local == 0)
    if yaw:
        local = local[[0, 1, 3, 4]]
    points = geometry[0:3] + local @ axes
    rows, inward = geometry.expand(len(points), -1), geometry[0:3] - points
    here = surface_at(rows, points, inward)
    zero, rise, step = torch.zeros(len(points)), torch.full((len(points),), 0.4), 0.01
    for slope_u, slope_v in ((rise, zero), (zero, rise)):
        bent = relief_normal(here.normal, slope_u, slope_v)
        torch.testing.assert_close(bent.norm(dim=1), torch.ones(len(points)))
        # it leans away from where the height grows, by the slope
        downhill = bent / (bent * here.normal).sum(1, keepdim=True) - here.normal
        there = surface_at(rows, points - downhill * (step / 0.4), inward)
        expected = step * (slope_u > 0), step * (slope_v > 0)
        torch.testing.assert_close(there.u - here.u, expected[0], atol=1e-5, rtol=0)
        torch.testing.assert_close(there.v - here.v, expected[1], atol=1e-5, rtol=0)


def test_steep_slopes_are_bounded_and_no_slope_changes_nothing() -> None:
    normal = torch.nn.functional.normalize(
        torch.randn(300, 3, generator=torch.Generator().manual_seed(0)), dim=1
    )
    normal[:4] = torch.tensor([[0.0, 0, 1], [0, 0, -1], [1, 0, 0], [0, -1, 0]])
    zero = torch.zeros(300)
    assert torch.equal(relief_normal(normal, zero, zero), normal)
    bent = relief_normal(normal, zero + 1e6, zero - 1e6)
    assert torch.isfinite(bent).all()
    cosine = 1 / math.sqrt(1 + 2 * STEEPEST_RELIEF**2)
    torch.testing.assert_close((bent * normal).sum(1), zero + cosine, atol=1e-5, rtol=1e-5)


def test_relief_shows_in_the_light_and_not_in_the_geometry() -> None:
    smooth = wall(0.0).render(K, SIZE, POSE, light_row(key=(-1, -0.5, 0.3, 0)))
    rough = wall(0.1).render(K, SIZE, POSE, light_row(key=(-1, -0.5, 0.3, 0)))
    for name in ("depth", "ids", "normals", "points"):
        np.testing.assert_array_equal(getattr(smooth, name), getattr(rough, name))
    assert (np.abs(smooth.image.astype(float) - rough.image).max(-1) > 8).mean() > 0.3


@pytest.mark.parametrize("style", ["bricks", "stone", "cobbles"])
def test_light_from_the_left_and_right_looks_different_on_relief(style: str) -> None:
    smooth, rough = wall(0.0, style), wall(0.08, style)
    left, right = photo(smooth, -1.0), photo(smooth, 1.0)
    assert correlation(left, right) > 0.99
    bent_left, bent_right = photo(rough, -1.0), photo(rough, 1.0)
    assert correlation(bent_left, bent_right) < 0.8
    assert abs(bent_left.mean() / left.mean() - 1) < 0.1
    assert abs(bent_right.mean() / right.mean() - 1) < 0.1


def test_bright_is_high_and_negative_relief_turns_it_round() -> None:
    """A wave of brightness across the wall: its side towards the light is brighter."""
    place = wall(0.0, "plain")
    stored = 0.5 + 0.3 * torch.sin(2 * math.pi * (torch.arange(64) + 0.5) / 64)
    image = (stored * stored).expand(1, 3, 64, 64)
    bank = type(place.bank).from_images(image)
    for relief, side in ((0.2, 1), (-0.2, -1)):
        own = place.scenes.materials.clone()
        own[..., RELIEF] = relief
        waves = Place(
            scenes=type(place.scenes)(geometry=place.scenes.geometry, materials=own), bank=bank
        )
        left, right = photo(waves, -1.0), photo(waves, 1.0)
        row, flat = (left - right).mean(0), photo(Place(scenes=place.scenes, bank=bank), -1.0)
        # where brightness grows to the right, the slope looks to the left
        growing = np.gradient(flat.mean(0))
        assert side * correlation(row, growing) > 0.9


def test_relief_catches_no_light_from_behind_the_face() -> None:
    for gloss in (0.0, 0.4):
        behind = photo(wall(0.3, gloss=gloss), -1.0, y=0.1, **DARK)
        before = photo(wall(0.3, gloss=gloss), -1.0, y=-0.1, **DARK)
        assert behind.max() < 3 and before.max() > 60


def test_grazing_light_fades_on_relief_as_it_does_without() -> None:
    """Bumps stand in each other's shadow: no hard edge where round bodies turn from the light."""
    pose, intrinsics = (torch.from_numpy(x).float() for x in (POSE, K))

    def radiance(relief: float) -> torch.Tensor:
        place, light = wall(relief), light_row(key=(-1, -0.08, 0.1, 0), **DARK)
        return render_image(
            place.scenes, 0, 0, intrinsics, pose, SIZE, light, place.bank, antialias=False
        ).radiance

    gain = radiance(0.15) / radiance(0.0)
    assert float(gain.max()) == pytest.approx(RELIEF_GAIN, rel=1e-3)
    assert float((gain == 0).float().mean()) > 0.2 and 0.7 < float(gain.mean()) < 1.6
