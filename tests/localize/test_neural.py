"""A neural matcher and maps: weights of another version, encodings that are none of its own."""

import dataclasses
import logging
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING

import h5py
import numpy as np
import pycolmap
import pytest
import torch
from PIL import Image

from localize import Localizer, LocalizerOptions
from mapping import Map, build_map
from matching.errors import InputError
from matching.mast3r import Mast3rMatcher, Mast3rOptions
from matching.network import build_network
from matching.network.small import small_config
from matching.types import View
from tests.localize.synthetic import FakeMap, make_camera, make_place, pose_errors
from tests.matching.patch_network import patch_matcher

if TYPE_CHECKING:
    from benchmarks.rendered_place import RenderedPlace


def tiny_matcher(weights: str = "a", long_side_px: int = 64) -> Mast3rMatcher:
    """A network too small to match anything right, with a given hash of its weights."""
    config = dataclasses.replace(
        small_config(), img_size=(48, 64), enc_depth=1, dec_depth=1, enc_embed_dim=64,
        dec_embed_dim=48, enc_num_heads=1, dec_num_heads=1,
    )  # fmt: skip
    torch.manual_seed(0)
    options = Mast3rOptions(long_side_px=long_side_px)
    return Mast3rMatcher(build_network(config), name="tiny", fingerprint=weights, options=options)


class NeuralMap(FakeMap):
    """Photos encoded by a network, with the keypoints and points of a synthetic place."""

    def retrieve(self, view: View, matcher: object, top_k: int) -> list[SimpleNamespace]:
        return [SimpleNamespace(name=name) for name in self.image_names][:top_k]

    def point3D_ids(self, name: str) -> np.ndarray:  # noqa: N802
        return self.ids[name]

    def check_matcher(self, matcher: object) -> None:
        Map.check_matcher(self, matcher)  # type: ignore[arg-type]


def neural_map(matcher: Mast3rMatcher) -> NeuralMap:
    rng = np.random.default_rng(0)
    place = make_place(rng, num_images=3, camera=make_camera(size=(160, 120), focal=150.0))
    scene = NeuralMap(**vars(place))
    scene.ids = {name: view.arrays["ids"] for name, view in place.views.items()}  # type: ignore[attr-defined]
    for name, view in place.views.items():
        encoded = matcher.encode(rng.integers(0, 256, (120, 160, 3), dtype=np.uint8))
        scene.views[name] = dataclasses.replace(encoded, keypoints=view.keypoints)
    scene.info.matcher = matcher.describe()
    return scene


def test_other_weights_and_options_are_refused_by_name() -> None:
    scene = neural_map(tiny_matcher("a"))
    message = r"'weights_sha256' differs \(the map's is 'a', this one's 'b'\)"
    with pytest.raises(InputError, match=message):
        Localizer(scene, tiny_matcher("b"))  # type: ignore[arg-type]
    with pytest.raises(InputError, match=r"'options\.long_side_px' differs"):
        Localizer(scene, tiny_matcher("a", long_side_px=48))  # type: ignore[arg-type]


def test_a_damaged_encoding_is_skipped_and_the_others_go_on(
    caplog: pytest.LogCaptureFixture,
) -> None:
    matcher = tiny_matcher()
    scene = neural_map(matcher)
    bad = "place0/0.jpg"  # retrieved first: asked for the focal length, too
    whole = scene.views[bad]
    cut = {**whole.arrays, "tokens": whole.arrays["tokens"][:-3]}
    scene.views[bad] = dataclasses.replace(whole, arrays=cut)
    loc = Localizer(scene, matcher, options=LocalizerOptions(second_round_photos=0))  # type: ignore[arg-type]
    query = np.random.default_rng(5).integers(0, 256, (120, 160, 3), dtype=np.uint8)
    with caplog.at_level(logging.WARNING):
        results = [loc.localize(query, camera) for camera in (make_camera(size=(160, 120)), None)]
    for result in results:
        assert result.retrieved == ("place0/1.jpg", "place0/2.jpg")
        assert len(result.scores) == result.num_matches > 0
    assert caplog.text.count(f"'{bad}' is skipped") == 1
    assert [r.camera_source for r in results] == ["given", "pointmap"]


def damage(features: Path, name: str) -> None:
    """Flip one byte in the middle of a photo's encoding."""
    with h5py.File(features, "r", locking=False) as file:
        stored = file[f"images/{name}/arrays/tokens"].id
        place = stored.get_chunk_info(0)
    content = bytearray(features.read_bytes())
    content[place.byte_offset + place.size // 2] ^= 0xFF
    features.write_bytes(bytes(content))


def test_a_map_with_a_damaged_photo_goes_on_and_its_check_names_it(
    rendered_place: "RenderedPlace", tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    matcher = patch_matcher(long_side_px=160)
    names = rendered_place.map_names[:5]
    folder = build_map(
        rendered_place.images,
        tmp_path / "map",
        matcher,
        known_poses=rendered_place.folder / "sparse_gt",
        image_names=names,
    ).path
    damage(folder / "features.h5", names[2])
    scene = Map.open(folder)
    problems = scene.check()
    assert any(names[2] in problem for problem in problems)
    assert not any(names[0] in problem for problem in problems)
    options = LocalizerOptions(min_confidence=0.0, second_round_photos=0)
    loc = Localizer(scene, matcher, options=options)
    with caplog.at_level(logging.WARNING):
        results = [
            loc.localize(rendered_place.images / name, camera)
            for name, camera in rendered_place.query_cameras.items()
        ]
    assert all(set(r.retrieved) == set(names) - {names[2]} for r in results)
    assert any(r.success for r in results)
    assert caplog.text.count(f"'{names[2]}' is skipped") == 1


@pytest.fixture(scope="module")
def patch_map(rendered_place: "RenderedPlace", tmp_path_factory: pytest.TempPathFactory) -> Map:
    """A map of the rendered place by patches of photos of 160 pixels."""
    return build_map(
        rendered_place.images,
        tmp_path_factory.mktemp("patches") / "map",
        patch_matcher(long_side_px=320),
        known_poses=rendered_place.folder / "sparse_gt",
        image_names=rendered_place.map_names,
    )


def test_a_neural_query_without_intrinsics(rendered_place: "RenderedPlace", patch_map: Map) -> None:
    """This network has no point maps: what the map's cameras tell has to do."""
    name, camera = next(iter(rendered_place.query_cameras.items()))
    loc = Localizer(patch_map, patch_matcher(long_side_px=320))
    result = loc.localize(rendered_place.images / name)
    assert result.success, result.reason
    assert result.camera is not None and result.camera_source == "map"
    assert result.camera.mean_focal_length() == pytest.approx(camera.mean_focal_length(), rel=0.2)


def test_a_zoomed_query_is_seen_smaller(rendered_place: "RenderedPlace", patch_map: Map) -> None:
    """Patches match at one scale only: the map's photos show things half as large."""
    matcher = patch_matcher(long_side_px=320)
    truths = {i.name: i.cam_from_world() for i in rendered_place.truth.images.values()}
    near: dict[float, int] = {0.0: 0, 0.1: 0}
    for name, camera in rendered_place.query_cameras.items():
        photo = Image.open(rendered_place.images / name)
        width, height = photo.size
        part = (width // 4, height // 4, width // 4 * 3, height // 4 * 3)
        zoomed = np.array(photo.resize(photo.size, Image.Resampling.BICUBIC, box=part))
        focal_x, focal_y, x, y = camera.params.tolist()
        lens = pycolmap.Camera(
            model=camera.model,
            width=width,
            height=height,
            params=[2 * focal_x, 2 * focal_y, 2 * (x - part[0]), 2 * (y - part[1])],
        )
        for smaller_below in near:
            options = LocalizerOptions(smaller_below=smaller_below, min_confidence=0.05)
            result = Localizer(patch_map, matcher, options=options).localize(zoomed, lens)
            if result.cam_from_world is not None:
                metres, degrees = pose_errors(result.cam_from_world, truths[name])
                near[smaller_below] += metres < 0.2 and degrees < 1
    assert near == {0.0: 0, 0.1: 3}
