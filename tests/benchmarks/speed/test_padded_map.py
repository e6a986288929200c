"""Tests of `benchmarks/speed/padded_map.py`."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from benchmarks.speed.padded_map import pad_map
from localize import Localizer
from mapping import Map, build_map
from matching.types import View
from tests.mapping.fakes import FakeMatcher, FakeWorld


class CutMatcher(FakeMatcher):
    """Can leave out keypoints, as localization does."""

    def at_keypoints(self, view: View, rows: NDArray[np.int64]) -> View:
        arrays = {**view.arrays, "rows": view.arrays["rows"][rows]}
        return replace(view, keypoints=view.keypoints[rows], arrays=arrays)


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> tuple[FakeWorld, Path, Map]:
    world = FakeWorld()
    photos = tmp_path_factory.mktemp("photos")
    names = world.write_photos(photos)
    folder = tmp_path_factory.mktemp("map") / "real"
    scene = build_map(photos, folder, CutMatcher(world), known_poses=world.model(names))
    return world, photos, scene


@pytest.mark.parametrize("size", [8, 21])
def test_only_the_size_changes(
    source: tuple[FakeWorld, Path, Map], tmp_path: Path, size: int
) -> None:
    world, photos, scene = source
    padded = pad_map(scene, CutMatcher(world), tmp_path / "padded", size)
    assert padded.check() == []
    assert len(padded.image_names) == size
    assert padded.image_names[:8] == scene.image_names
    for number, name in enumerate(padded.image_names):
        like = scene.image_names[number % 8]
        view, real = padded.load_view(name), scene.load_view(like)
        assert len(view.keypoints) == len(real.keypoints) == len(padded.point3D_ids(name))
        assert {n: a.shape for n, a in view.arrays.items()} == {
            n: a.shape for n, a in real.arrays.items()
        }
        ids = padded.point3D_ids(name)
        assert (ids >= 0).any()
        pixels = padded.camera(name).img_from_cam(
            padded.cam_from_world(name) * padded.points3D(ids[ids >= 0])
        )
        assert np.linalg.norm(pixels - view.keypoints[ids >= 0], axis=1).max() < 4
        assert set(padded.covisible(name)) <= set(
            padded.image_names[number - number % 8 : number - number % 8 + 8]
        )
    before = Localizer(scene, CutMatcher(world)).localize(photos / "0003.png", world.camera)
    after = Localizer(padded, CutMatcher(world)).localize(photos / "0003.png", world.camera)
    assert after.success
    assert after.cam_from_world is not None and before.cam_from_world is not None
    np.testing.assert_allclose(
        after.cam_from_world.matrix(), before.cam_from_world.matrix(), atol=1e-2
    )


def test_too_small(source: tuple[FakeWorld, Path, Map], tmp_path: Path) -> None:
    world, _, scene = source
    with pytest.raises(ValueError, match="cannot pad it to 5"):
        pad_map(scene, CutMatcher(world), tmp_path / "padded", 5)
