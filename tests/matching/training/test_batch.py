"""Training batches: exact geometry, visible correspondences, determinism."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from matching.training.batch import PairBatch, PairWorld
from matching.training.cameras import FOCAL_WIDTHS, MAX_ZOOM, draw_camera_pairs
from matching.training.contact_sheet import contact_sheet
from matching.training.draft import Palette
from matching.training.light import CLOUDS, NUM_LIGHT
from matching.training.lighting import draw_lights
from matching.training.overlap import draw_overlapping, overlap
from matching.training.render import depth_images
from matching.training.scenes import (
    LAND_SHARE,
    MONUMENT_SHARE,
    ROOM_SHARE,
    STREET_SHARE,
    draw_stage,
)
from matching.training.stage import SLOTS
from matching.training.world import (
    HALF,
    KIND,
    NUM_GEOMETRY,
    RADIUS,
    VIEWS,
    Kind,
)

SIZE = (48, 32)


@pytest.fixture(scope="module")
def world() -> PairWorld:
    return PairWorld("cpu", textures_per_style=1, texture_size=16, correspondences=200)


@pytest.fixture(scope="module")
def batch(world: PairWorld) -> PairBatch:
    return world(11, pairs=7, image_size=SIZE)


def test_shapes_and_ranges(batch: PairBatch) -> None:
    width, height = SIZE
    assert batch.images.shape == (7, 2, 3, height, width) and batch.images.dtype == torch.float32
    assert float(batch.images.min()) >= 0 and float(batch.images.max()) <= 1
    assert batch.pointmaps.shape == (7, 2, height, width, 3)
    assert torch.isfinite(batch.pointmaps).all()
    assert batch.valid.shape == (7, 2, height, width) and batch.valid.dtype == torch.bool
    assert (batch.pointmaps[batch.valid][:, 2] > 0).all()
    assert batch.pixels0.shape == batch.pixels1.shape == (7, 200, 2)
    for pixels in (batch.pixels0, batch.pixels1):
        assert (pixels >= 0).all()
        assert (pixels[..., 0] < width).all() and (pixels[..., 1] < height).all()
    # real correspondences come first
    assert (batch.visible[:, :-1] | ~batch.visible[:, 1:]).all()


def test_correspondences_are_the_same_point(batch: PairBatch) -> None:
    row = torch.arange(7)[:, None]
    (x0, y0), (x1, y1) = batch.pixels0.unbind(-1), batch.pixels1.unbind(-1)
    seen = batch.visible
    assert 0.2 < float(seen.float().mean()) < 1
    p0 = batch.pointmaps[row, 0, y0, x0]
    p1 = batch.pointmaps[row, 1, y1, x1]
    pose = batch.cam1_from_cam0
    moved = p0 @ pose[:, :3, :3].transpose(1, 2) + pose[:, None, :3, 3]
    projected = moved @ batch.K[:, 1].transpose(1, 2)
    pixels = projected[..., :2] / projected[..., 2:]
    centre = batch.pixels1.float() + 0.5
    assert float((pixels - centre).abs()[seen].max()) <= 0.5 + 1e-3
    # the point of the other pixel lies within a pixel's width or a slanted face's depth
    distance = (moved - p1).norm(dim=-1) / p1[..., 2].clamp_min(0.1)
    assert float(distance[seen].max()) < 0.06
    assert float(distance[seen].median()) < 0.02


def test_point_maps_belong_to_their_pixels(batch: PairBatch) -> None:
    y, x = torch.meshgrid(torch.arange(SIZE[1]), torch.arange(SIZE[0]), indexing="ij")
    projected = batch.pointmaps @ batch.K[:, :, None].transpose(-1, -2)
    for axis, index in ((0, x), (1, y)):
        pixels = projected[..., axis] / projected[..., 2]
        expected = (index + 0.5).expand_as(pixels)
        torch.testing.assert_close(pixels[batch.valid], expected[batch.valid], atol=1e-2, rtol=1e-4)


def test_batches_follow_their_seed_alone(world: PairWorld) -> None:
    small = {"pairs": 2, "image_size": (24, 16), "difficulty": 0.5}
    first = world(3, **small)  # type: ignore[arg-type]
    world(4, **small)  # type: ignore[arg-type]
    again = world(3, **small)  # type: ignore[arg-type]
    other = world(2**62 + 1, **small)  # type: ignore[arg-type]
    for name in ("images", "pointmaps", "valid", "K", "cam1_from_cam0", "pixels0", "visible"):
        assert torch.equal(getattr(first, name), getattr(again, name)), name
    assert not torch.equal(first.images, other.images)


def test_portrait_and_one_pair(world: PairWorld) -> None:
    batch = world(1, pairs=1, image_size=(17, 30))
    assert batch.images.shape == (1, 2, 3, 30, 17)


def test_wrong_wishes_are_refused(world: PairWorld) -> None:
    with pytest.raises(ValueError, match="difficulty"):
        world(0, pairs=1, image_size=SIZE, difficulty=1.5)
    with pytest.raises(ValueError, match="pairs >= 1"):
        world(0, pairs=0, image_size=SIZE)


def test_places_hold_every_kind(palette: Palette) -> None:
    stage = draw_stage(40, torch.Generator().manual_seed(0), palette, difficulty=1.0)
    geometry = stage.scenes.geometry
    assert geometry.shape == (40, SLOTS, NUM_GEOMETRY)
    assert torch.isfinite(geometry).all() and torch.isfinite(stage.scenes.materials).all()
    used = geometry[..., RADIUS] > 0
    assert {int(k) for k in geometry[..., KIND][used].unique()} == {int(k) for k in Kind}
    assert float(used.sum(1).float().min()) > 30
    # some things exist in one view only, and each view has some of its own
    alone = geometry[..., VIEWS][used]
    assert 0.005 < float((alone == 1).float().mean()) < 0.1
    assert 0.005 < float((alone == 2).float().mean()) < 0.1
    assert (stage.low < stage.high).all()
    assert 0 < int(stage.indoor.sum()) < 40
    textures = stage.scenes.materials[..., 0]
    assert float(textures.min()) >= 0 and float(textures.max()) < palette.bank.count
    easy = draw_stage(9, torch.Generator().manual_seed(0), palette, difficulty=0.0)
    assert (easy.scenes.geometry[..., VIEWS][easy.scenes.geometry[..., RADIUS] > 0] == 3).all()


def test_a_batch_holds_all_sorts_of_places(palette: Palette) -> None:
    stage = draw_stage(50, torch.Generator().manual_seed(0), palette, difficulty=0.5)
    geometry = stage.scenes.geometry
    first, second = geometry[:, 0, KIND], geometry[:, 1, KIND]
    ground = geometry[:, 0, HALF][:, 0] * (first == Kind.BOX)
    assert int((ground == 150).sum()) == round(MONUMENT_SHARE * 50)
    assert int((ground == 60).sum()) == round(STREET_SHARE * 50)
    assert int((first == Kind.TERRAIN).sum()) == round(LAND_SHARE * 50)
    halls = first == Kind.ROOM
    assert int((halls & (second == Kind.BOX)).sum()) >= round(ROOM_SHARE * 50)
    assert torch.equal(halls, stage.indoor)


@pytest.mark.parametrize("count", [1, 2, 5])
def test_small_batches_of_places(palette: Palette, count: int) -> None:
    stage = draw_stage(count, torch.Generator().manual_seed(0), palette, difficulty=0.5)
    assert len(stage.scenes.geometry) == len(stage.low) == len(stage.indoor) == count


def test_cameras_stay_inside_and_vary() -> None:
    low, high = torch.tensor([[-4.0, -3, 0.5]]), torch.tensor([[4.0, 3, 2.5]])
    low, high = low.expand(400, 3), high.expand(400, 3)
    targets = low[:, None] + (high - low)[:, None] * torch.rand(400, 5, 3)
    generator = torch.Generator().manual_seed(0)
    cameras = draw_camera_pairs(low, high, targets, (60, 80), generator, difficulty=1.0)
    rotation = cameras.cam_from_world[..., :3, :3]
    unit = rotation @ rotation.transpose(-1, -2)
    torch.testing.assert_close(unit, torch.eye(3).expand(400, 2, 3, 3), atol=1e-4, rtol=0)
    assert (torch.linalg.det(rotation) > 0.99).all()
    centers = -(rotation.transpose(-1, -2) @ cameras.cam_from_world[..., :3, 3:])[..., 0]
    assert (centers > low[:, None] - 1e-3).all() and (centers < high[:, None] + 1e-3).all()
    focal = cameras.K[..., 0, 0] / 80
    assert float(focal.min()) >= FOCAL_WIDTHS[0] and float(focal.max()) <= FOCAL_WIDTHS[1]
    ratio = (focal[:, 0] / focal[:, 1]).log().abs().exp()
    assert 1.8 < float(ratio.max()) <= MAX_ZOOM + 1e-4
    down_in_image = rotation[..., 1, 2]  # how much the image's y axis points to the world's z
    assert float((down_in_image > 0).float().mean()) > 0.01  # some hang upside down
    assert float((down_in_image < -0.5).float().mean()) > 0.7
    easy = draw_camera_pairs(low, high, targets, (60, 80), generator, difficulty=0.0)
    assert torch.equal(easy.K[:, 0], easy.K[:, 1])


def test_hard_pairs_look_at_different_things_now_and_then() -> None:
    low, high = torch.tensor([-1.0, -1, 0]).expand(400, 3), torch.tensor([1.0, 1, 1]).expand(400, 3)
    targets = torch.tensor([[-50.0, 0, 0.5], [50.0, 0, 0.5]]).expand(400, 2, 3)
    for difficulty, least, most in ((1.0, 0.04, 0.2), (0.0, 0.0, 0.0)):
        generator = torch.Generator().manual_seed(0)
        cameras = draw_camera_pairs(low, high, targets, (60, 80), generator, difficulty=difficulty)
        sides = cameras.cam_from_world[:, :, 2, 0] > 0  # along world x
        assert least <= float((sides[:, 0] != sides[:, 1]).float().mean()) <= most


def test_overlaps_reach_from_slivers_to_most(palette: Palette) -> None:
    generator = torch.Generator().manual_seed(3)
    stage = draw_stage(48, generator, palette, difficulty=1.0)
    cameras = draw_overlapping(stage, (24, 18), generator, difficulty=1.0)
    scene, view = torch.arange(48).repeat_interleave(2), torch.arange(2).repeat(48)
    K, poses = cameras.K, cameras.cam_from_world
    depth = depth_images(stage.scenes, scene, view, K.flatten(0, 1), poses.flatten(0, 1), (24, 18))
    seen = overlap(depth.reshape(48, 2, 18, 24), K, poses)
    assert float(seen.min()) < 0.02 and float(seen.max()) > 0.5
    assert 0.08 < float((seen < 0.1).float().mean()) < 0.4


def test_lights_vary_and_mostly_agree_within_a_pair(palette: Palette) -> None:
    low, high = torch.zeros(300, 3), torch.full((300, 3), 4.0)
    indoor = torch.arange(300) % 2 == 0
    generator = torch.Generator().manual_seed(0)
    lights = draw_lights(low, high, indoor, palette, generator, difficulty=1.0)
    assert lights.shape == (300, 2, NUM_LIGHT) and torch.isfinite(lights).all()
    same = (lights[:, 0] == lights[:, 1]).all(1).float().mean()
    assert 0.25 < float(same) < 0.7
    lamp = lights[:, 0, 3] == 1
    assert 0.1 < float(lamp.float().mean()) < 0.9
    torch.testing.assert_close(lights[:, 0, :3][~lamp].norm(dim=1), torch.ones(int((~lamp).sum())))
    assert (lights[..., CLOUDS] < palette.bank.count).all()
    easy = draw_lights(low, high, indoor, palette, generator, difficulty=0.0)
    assert torch.equal(easy[:, 0], easy[:, 1])


def test_overlap_of_known_views() -> None:
    """A wall at 2 m, seen by two cameras half an image apart: half is shared."""
    K = torch.tensor([[20.0, 0, 10], [0, 20, 8], [0, 0, 1]]).expand(3, 2, 3, 3)
    poses = torch.eye(4).expand(3, 2, 4, 4).clone()
    for pair, shift in enumerate((0.0, 1.0, 5.0)):  # 2 m * 20 px / 20 px = 2 m wide image
        poses[pair, 1, 0, 3] = -shift
    seen = overlap(torch.full((3, 2, 16, 20), 2.0), K, poses)
    torch.testing.assert_close(seen, torch.tensor([1.0, 0.5, 0.0]), atol=0.051, rtol=0)


def test_contact_sheet(tmp_path: Path) -> None:
    path = tmp_path / "sheet.png"
    contact_sheet(path, seed=1, count=3, image_size=(32, 24), texture_size=16)
    with Image.open(path) as sheet:
        assert sheet.size[0] > 3 * 64 and sheet.size[1] >= 24
        assert len(sheet.getcolors(maxcolors=1 << 20) or []) > 500
