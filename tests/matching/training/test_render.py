"""Images of small places: geometry, light, supersampling, determinism."""

import math

import numpy as np
import pytest
import torch

from matching.training.builder import Place, PlaceBuilder
from matching.training.cameras import look_at
from matching.training.light import light_row
from matching.training.render import render_image
from matching.training.world import Kind

K = np.array([[60.0, 0, 32.0], [0, 60.0, 24.0], [0, 0, 1]])
SIZE = (64, 48)


def small_place(seed: int = 0) -> Place:
    b = PlaceBuilder(seed, texture_size=32)
    ground = b.material(b.texture("noisy"), 2.0)
    body = b.material(b.texture("bricks"), 1.0)
    b.add(Kind.BOX, (0, 0, -0.1), (20, 20, 0.1), ground)
    b.add(Kind.BOX, (0, 0, 0.5), (0.5, 0.5, 0.5), body, yaw=0.6)
    b.add(Kind.ELLIPSOID, (1.3, 0.2, 0.6), (0.6, 0.6, 0.6), body)
    b.add(Kind.CYLINDER, (-1.3, 0.4, 0.7), (0.4, 0.4, 0.7), body)
    return b.build()


POSE = look_at(np.array([0.4, -5.0, 1.8]), np.array([0.0, 0.0, 0.5]))
POSE_ASIDE = look_at(np.array([2.1, -4.2, 1.4]), np.array([0.0, 0.0, 0.5]), roll=0.2)


def test_points_project_to_their_pixels_at_their_depth() -> None:
    r = small_place().render(K, SIZE, POSE, light_row())
    assert r.image.shape == (48, 64, 3) and r.image.dtype == np.uint8
    assert r.depth.dtype == np.float32 and r.ids.dtype == np.int32
    hit = r.ids >= 0
    assert 0.3 < hit.mean() < 1  # there is sky too
    assert not r.depth[~hit].any() and np.isnan(r.points[~hit]).all()
    assert not r.normals[~hit].any()
    in_camera = r.points[hit] @ POSE[:3, :3].T + POSE[:3, 3]
    y, x = np.nonzero(hit)
    projected = in_camera @ K.T
    np.testing.assert_allclose(in_camera[:, 2], r.depth[hit], rtol=1e-5)
    np.testing.assert_allclose(projected[:, 0] / projected[:, 2], x + 0.5, atol=2e-3)
    np.testing.assert_allclose(projected[:, 1] / projected[:, 2], y + 0.5, atol=2e-3)


def test_points_lie_on_their_primitives_with_outward_normals() -> None:
    r = small_place().render(K, SIZE, POSE, light_row())
    assert set(np.unique(r.ids)) == {-1, 0, 1, 2, 3}
    ground = r.ids == 0
    np.testing.assert_allclose(r.points[ground][:, 2], 0, atol=2e-5)
    np.testing.assert_allclose(
        r.normals[ground], np.tile([0, 0, 1.0], (ground.sum(), 1)), atol=1e-6
    )
    offset = r.points[r.ids == 2] - [1.3, 0.2, 0.6]
    np.testing.assert_allclose(np.linalg.norm(offset, axis=1), 0.6, atol=2e-5)
    np.testing.assert_allclose(r.normals[r.ids == 2], offset / 0.6, atol=1e-4)
    side = (r.ids == 3) & (r.points[..., 2] < 1.39)
    offset = r.points[side] - [-1.3, 0.4, 0]
    np.testing.assert_allclose(np.hypot(offset[:, 0], offset[:, 1]), 0.4, atol=2e-5)
    np.testing.assert_allclose(r.normals[side][:, :2], offset[:, :2] / 0.4, atol=1e-4)
    center = -POSE[:3, :3].T @ POSE[:3, 3]
    hit = r.ids >= 0
    assert ((r.points[hit] - center) * r.normals[hit]).sum(1).max() < 1e-4


def test_two_views_see_the_same_surface() -> None:
    """Points of one view fall, in the other, on pixels of that depth unless they are hidden."""
    place = small_place()
    a = place.render(K, SIZE, POSE, light_row())
    b = place.render(K, SIZE, POSE_ASIDE, light_row())
    points = a.points[a.ids >= 0] @ POSE_ASIDE[:3, :3].T + POSE_ASIDE[:3, 3]
    pixels = points @ K.T
    x = np.floor(pixels[:, 0] / pixels[:, 2]).astype(int)
    y = np.floor(pixels[:, 1] / pixels[:, 2]).astype(int)
    inside = (x >= 0) & (x < 64) & (y >= 0) & (y < 48)
    seen = b.depth[y[inside], x[inside]]
    error = seen / points[inside, 2] - 1
    # in front of the point there may be something, behind it nothing (but for pixels at edges)
    assert (np.abs(error) < 0.03).mean() > 0.7
    assert (error > 0.2).mean() < 0.03


def test_facades_have_recessed_windows() -> None:
    b = PlaceBuilder(0, texture_size=8)
    wall = b.material(b.texture("plain"))
    b.add(Kind.FACADE, (0, 2, 2), (2, 1, 2), wall, params=(1.0, 1.0, 0.25, 0.25, 0.2))
    pose = look_at(np.array([0.3, -4.0, 2.1]), np.array([0.0, 1.0, 2.0]))
    r = b.build().render(K, SIZE, pose, light_row())
    y, ahead = r.points[..., 1], r.normals[..., 1] < -0.99
    wall_hits, back = np.abs(y - 1.0) < 1e-4, np.abs(y - 1.2) < 1e-4
    assert back.sum() > 50 and wall_hits.sum() > 200
    assert ahead[back].all() and ahead[wall_hits].all()
    jamb = (y > 1.001) & (y < 1.199)
    assert jamb.sum() > 10 and not ahead[jamb].any()
    x = r.points[..., 0][back]
    assert (np.abs(x - np.floor(x) - 0.5) < 0.2501).all()  # windows in the middle of their cells


def test_shelves_with_thin_sides_have_right_normals() -> None:
    """Compartments that begin 2 cm from the corner and are deeper than that."""
    b = PlaceBuilder(0, texture_size=8)
    wood = b.material(b.texture("plain"))
    b.add(Kind.FACADE, (0, 0, 1), (1, 0.2, 1), wood, params=(1.0, 1.0, 0.48, 0.48, 0.18))
    pose = look_at(np.array([0.6, -3.0, 1.4]), np.array([0.0, 0.0, 1.0]))
    r = b.build().render(K, SIZE, pose, light_row())
    x, y, z = np.moveaxis(r.points, -1, 0)
    inside = (r.ids == 0) & (y > -0.199) & (np.abs(x) < 0.999) & (z < 1.999)
    back = inside & (np.abs(y + 0.02) < 1e-4)
    assert back.sum() > 200
    np.testing.assert_allclose(r.normals[back], np.tile([0, -1.0, 0], (back.sum(), 1)), atol=1e-6)
    sides = inside & ~back & (np.abs(np.abs(np.abs(x) - 0.5) - 0.48) < 1e-4)
    assert sides.sum() > 10 and np.abs(r.normals[sides][:, 0]).min() > 0.99
    boards = inside & ~back & ~sides
    assert boards.sum() > 5 and np.abs(r.normals[boards][:, 2]).min() > 0.99


def test_sun_casts_a_shadow_where_geometry_puts_it() -> None:
    b = PlaceBuilder(0, texture_size=8)
    white = b.material(b.texture("plain"), 50.0)
    b.add(Kind.BOX, (0, 0, -0.1), (20, 20, 0.1), white)
    b.add(Kind.BOX, (0, 0, 2.0), (0.5, 0.5, 0.05), white)  # a slab that floats at 2 m
    dark = light_row(
        key=(1, 0, 1, 0), sky=(0, 0, 0), horizon=(0, 0, 0), ground=(0, 0, 0), key_color=(2, 2, 2)
    )
    pose = look_at(np.array([-2.0, -6.0, 4.0]), np.array([-2.0, 0.0, 0.0]))
    r = b.build().render(K, SIZE, pose, dark)
    ground = r.ids == 0
    x, y = r.points[..., 0], r.points[..., 1]
    # the sun stands at 45 degrees over +x: the shadow lies 2 m towards -x
    inside = ground & (np.abs(x + 2) < 0.45) & (np.abs(y) < 0.4)
    outside = ground & ((np.abs(x + 2) > 0.7) | (np.abs(y) > 0.65))
    assert inside.sum() > 10
    assert r.image[inside].max() < 5 and r.image[outside].min() > 60


def test_supersampling_averages_at_edges_only() -> None:
    place = small_place()
    intrinsics, pose = torch.from_numpy(K).float(), torch.from_numpy(POSE).float()

    def radiance(antialias: bool) -> torch.Tensor:
        return render_image(
            place.scenes, 0, 0, intrinsics, pose, SIZE, light_row(), place.bank, antialias=antialias
        ).radiance[0]

    change = (radiance(True) - radiance(False)).abs().amax(-1) > 1e-6
    assert 0.02 < float(change.float().mean()) < 0.4


def test_mirrored_surroundings_move_with_the_view() -> None:
    """A glossy floor's brightness at a fixed point depends on where it is seen from."""
    values = {}
    for gloss in (0.0, 0.6):
        b = PlaceBuilder(0, texture_size=16)
        b.add(Kind.BOX, (0, 0, -0.1), (9, 9, 0.1), b.material(b.texture("plain"), gloss=gloss))
        place = b.build()
        light = light_row(sky=(0.1, 0.2, 0.9), horizon=(0.9, 0.5, 0.1))
        for height in (0.5, 6.0):
            pose = look_at(np.array([0.0, -4.0, height]), np.zeros(3))
            image = place.render(K, SIZE, pose, light).image
            values[gloss, height] = image[24, 32].astype(float)
    assert np.abs(values[0.0, 0.5] - values[0.0, 6.0]).max() < 6
    assert np.abs(values[0.6, 0.5] - values[0.6, 6.0]).max() > 15


def test_haze_fades_the_distance() -> None:
    place = small_place()
    clear = place.render(K, SIZE, POSE, light_row())
    hazy = place.render(K, SIZE, POSE, light_row(haze_density=0.12, haze=(0.5, 0.5, 0.5)))
    far, near = clear.depth > 8, (clear.depth > 0) & (clear.depth < 5)
    assert hazy.image[far].std() < 0.7 * clear.image[far].std()
    assert hazy.image[near].std() > 0.3 * clear.image[near].std()


def test_same_seed_same_place() -> None:
    first = small_place(3).render(K, SIZE, POSE, light_row())
    second = small_place(3).render(K, SIZE, POSE, light_row())
    other = small_place(4).render(K, SIZE, POSE, light_row())
    np.testing.assert_array_equal(first.image, second.image)
    np.testing.assert_array_equal(first.depth, other.depth)
    assert (first.image != other.image).mean() > 0.3


@pytest.mark.parametrize("size", [(1, 1), (17, 3), (16, 16)])
def test_odd_sizes(size: tuple[int, int]) -> None:
    r = small_place().render(K, size, POSE, light_row())
    assert r.image.shape == (size[1], size[0], 3) and r.depth.shape == (size[1], size[0])


def test_look_at_puts_the_target_on_the_axis() -> None:
    target = np.array([1.0, 2.0, 0.5])
    pose = look_at(np.array([4.0, -1.0, 2.0]), target, roll=0.3)
    in_camera = pose[:3, :3] @ target + pose[:3, 3]
    np.testing.assert_allclose(in_camera, [0, 0, math.sqrt(9 + 9 + 2.25)], atol=1e-12)
    np.testing.assert_allclose(pose[:3, :3] @ pose[:3, :3].T, np.eye(3), atol=1e-12)
    assert np.linalg.det(pose[:3, :3]) > 0
    upright = look_at(np.array([4.0, -1.0, 2.0]), target)
    assert upright[1, 2] < 0 and abs(upright[0, 2]) < 1e-12  # the world's z goes up in the image
    with pytest.raises(ValueError, match="straight above"):
        look_at(np.array([1.0, 2.0, 5.0]), target)


def test_too_many_lamps_are_refused() -> None:
    with pytest.raises(ValueError, match="at most 3 lamps"):
        light_row(lamps=((0.0,) * 6,) * 4)
