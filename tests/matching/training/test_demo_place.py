"""The demo's street corner."""

import numpy as np

from matching.training.builder import Rendering
from matching.training.demo_place import DemoPlace, Shot, demo_place
from matching.training.world import RELIEF


def render(demo: DemoPlace, shot: Shot, size: tuple[int, int]) -> Rendering:
    """A small version of one of the photos."""
    K = demo.K.copy()
    K[:2] *= size[0] / demo.image_size[0]
    return demo.place.render(K, size, shot.cam_from_world, shot.light, exposure=shot.exposure)


def test_shots_see_the_place_from_many_sides() -> None:
    demo = demo_place(0, texture_size=16)
    assert len(demo.map_shots) == 24 and len(demo.query_shots) == 12
    names = [shot.name for shot in demo.map_shots + demo.query_shots]
    assert len(set(names)) == 36
    # smooth, unlike the training world: results on its photos stay comparable
    assert not demo.place.scenes.materials[..., RELIEF].any()
    centers = np.array(
        [-s.cam_from_world[:3, :3].T @ s.cam_from_world[:3, 3] for s in demo.map_shots]
    )
    assert np.ptp(centers[:, 0]) > 5 and np.ptp(centers[:, 2]) > 0.3
    day = demo.map_shots[0].light
    assert all((s.light == day).all() for s in demo.map_shots)
    assert not any((s.light == day).all() for s in demo.query_shots)
    # no camera stands in a wall or looks at one close by
    for shot in (demo.map_shots + demo.query_shots)[::3]:
        r = render(demo, shot, (40, 30))
        hit = r.ids >= 0
        assert hit.mean() > 0.6 and len(np.unique(r.ids)) > 8
        assert np.percentile(r.depth[hit], 5) > 1.0


def test_same_seed_same_photo() -> None:
    images = []
    for seed in (5, 5, 6):
        demo = demo_place(seed, texture_size=16)
        images.append(render(demo, demo.query_shots[3], (64, 48)).image)
    np.testing.assert_array_equal(images[0], images[1])
    assert not np.array_equal(images[0], images[2])


def test_photos_have_the_promised_size() -> None:
    demo = demo_place(0, texture_size=16)
    r = demo.render(demo.map_shots[0])
    assert r.image.shape == (480, 640, 3) and r.image.std() > 20
