"""Training batches: exact geometry, visible correspondences, determinism."""

from pathlib import Path

import pytest
import torch
from PIL import Image

from matching.training.batch import PairBatch, PairWorld
from matching.training.cameras import FOCAL_WIDTHS, MAX_ZOOM, draw_camera_pairs
from matching.training.contact_sheet import contact_sheet
from matching.training.draft import RELIEF_SLOPES, SMOOTH, Draft, Palette
from matching.training.furnish import add_cables, add_chairs, add_roof, add_sofas, add_tables
from matching.training.indoors import room
from matching.training.light import CLOUDS, NUM_LIGHT
from matching.training.lighting import draw_lights
from matching.training.monuments import monument
from matching.training.overlap import draw_overlapping, overlap
from matching.training.render import depth_images
from matching.training.scenes import draw_stage
from matching.training.stage import SLOTS
from matching.training.world import (
    AXES,
    EMISSION,
    HALF,
    KIND,
    NUM_GEOMETRY,
    OVERLAY_SCALE,
    OVERLAY_WEIGHT,
    PARAMS,
    RADIUS,
    RELIEF,
    SCALE,
    TEXTURE,
    TINT,
    VIEWS,
    WINDOW,
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


@pytest.fixture(scope="module")
def palette() -> Palette:
    return Palette.paint(0, per_style=1, size=8, device="cpu")


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


def test_parts_of_a_thing_are_of_one_material_and_stand_on_the_floor(palette: Palette) -> None:
    draft = Draft(20, torch.Generator().manual_seed(0), palette, 0.0)
    corner = torch.full((20, 2), 2.0)
    tops = add_tables(draft, 2, -corner, corner)
    add_chairs(draft, 1, -corner, corner)
    add_sofas(draft, 1, -corner, corner)
    geometry, materials = draft.finish(24)
    tables, chair, sofa = slice(0, 10), slice(10, 16), slice(16, 20)
    for first, parts in ((0, slice(0, 10, 2)), (1, slice(1, 10, 2)), (10, chair), (16, sofa)):
        assert (materials[:, parts] == materials[:, first, None]).all()
    assert (materials[:, 0] != materials[:, 1]).any() and (
        materials[:, 10] != materials[:, 16]
    ).any()
    low = geometry[..., 2] - geometry[..., HALF][..., 2]
    high = geometry[..., 2] + geometry[..., HALF][..., 2]
    torch.testing.assert_close(high[:, tables].amax(1), tops[..., 2].amax(1))
    for thing in (tables, chair, sofa):
        torch.testing.assert_close(low[:, thing].amin(1), torch.zeros(20), atol=1e-6, rtol=0)
    # the parts stay together
    for thing, reach in ((chair, 0.5), (sofa, 1.9)):
        centers = geometry[:, thing, :2]
        assert float((centers - centers[:, :1]).norm(dim=-1).max()) < reach


def test_some_things_are_painted_dark_or_in_strong_colours(palette: Palette) -> None:
    stage = draw_stage(40, torch.Generator().manual_seed(0), palette, difficulty=1.0)
    tint = stage.scenes.materials[stage.scenes.geometry[..., RADIUS] > 0][:, 0, TINT]
    dark, strong = tint.mean(1) < 0.4, tint.amax(1) / tint.amin(1) > 1.6
    assert 0.05 < float(dark.float().mean()) < 0.3
    assert 0.05 < float(strong.float().mean()) < 0.2


def test_some_places_are_bare_and_some_of_one_stone() -> None:
    palette = Palette.paint(0, per_style=8, size=8, device="cpu")
    stage = draw_stage(60, torch.Generator().manual_seed(0), palette, difficulty=1.0)
    bare_row = palette.table[palette.names.index("bare")]
    bare, one = [], []
    for geometry, materials in zip(stage.scenes.geometry, stage.scenes.materials, strict=True):
        texture = materials[geometry[:, RADIUS] > 0][:, 0, TEXTURE]
        bare.append(float(torch.isin(texture, bare_row.float()).float().mean()))
        one.append(float(texture.unique(return_counts=True)[1].max() / len(texture)))
    assert 0.1 < float((torch.tensor(bare) > 0.6).float().mean()) < 0.35
    # monuments are of one stone by themselves, for a half of their parts
    assert 0.12 < float((torch.tensor(one) > 0.4).float().mean()) < 0.4


def test_second_textures_are_coarser_or_finer_than_the_first(palette: Palette) -> None:
    stage = draw_stage(40, torch.Generator().manual_seed(0), palette, difficulty=1.0)
    material = stage.scenes.materials[stage.scenes.geometry[..., RADIUS] > 0][:, 0]
    over = material[material[:, OVERLAY_WEIGHT] > 0]
    ratio = over[:, OVERLAY_SCALE] / over[:, SCALE]
    assert float(ratio.min()) > 0.059 and float(ratio.max()) < 5.6
    assert not ((ratio > 0.41) & (ratio < 1.8)).any()
    assert 0.3 < float((ratio < 1).float().mean()) < 0.5


def test_windows_of_rooms_shine_and_screens_too(palette: Palette) -> None:
    stage = room(Draft(40, torch.Generator().manual_seed(0), palette, 0.0))
    used = stage.scenes.geometry[..., RADIUS] > 0
    glow = stage.scenes.materials[..., 0, EMISSION]
    bright = ((glow > 0.19) & used).sum(1).float()
    assert 1.5 < float(bright.mean()) < 6 and float(glow.max()) > 3
    # what was not told shines seldom
    draft = Draft(40, torch.Generator().manual_seed(0), palette, 0.0)
    add_chairs(draft, 3, torch.zeros(40, 2), torch.ones(40, 2))
    _, materials = draft.finish(18)
    assert float((materials[..., 0, EMISSION] > 0).float().mean()) < 0.1


@pytest.mark.parametrize("along_y", [False, True])
def test_roofs_meet_in_a_ridge_over_the_middle_of_the_house(
    palette: Palette, along_y: bool
) -> None:
    draft = Draft(20, torch.Generator().manual_seed(0), palette, 0.0)
    top = torch.tensor([1.0, 2.0, 5.0]).expand(20, 1, 3)
    half = torch.tensor([4.0, 3.0]).expand(20, 1, 2)
    add_roof(draft, top, half, torch.ones(20, 1) > 0, along_y=along_y)
    geometry, materials = draft.finish(2)
    assert (materials[:, 0] == materials[:, 1]).all()
    span = 0 if along_y else 1  # the axis the slabs lean along
    # the inner edge of both slabs: from the middle towards the ridge, along their own axis
    for slab, side in ((0, -1.0), (1, 1.0)):
        axes = geometry[:, slab, AXES].reshape(20, 3, 3)
        down = axes[:, span] * torch.sign(axes[:, span, span])[:, None] * side
        center, size = geometry[:, slab, :3], geometry[:, slab, HALF]
        assert (down[:, 2] < 0).all()  # outwards is downwards
        # how far along the slab the house's middle lies, and how high the slab is there
        reach = (center[:, span] - top[:, 0, span]).abs() / down[:, span].abs()
        ridge = center - reach[:, None] * down
        assert (reach < size[:, span]).all()
        torch.testing.assert_close(ridge[:, span], top[:, 0, span])
        assert (ridge[:, 2] > 5.5).all()
        # at the wall the roof lies on the house's top
        wall = center + reach[:, None] * down
        torch.testing.assert_close(wall[:, 2], torch.full((20,), 5.0), atol=1e-4, rtol=0)


def test_cables_are_level_and_thin(palette: Palette) -> None:
    draft = Draft(50, torch.Generator().manual_seed(0), palette, 0.0)
    low = torch.tensor([-2.0, -2.0, 1.0]).expand(50, 3)
    add_cables(draft, 4, low, low + 3, longest=6.0)
    geometry, _ = draft.finish(4)
    axes = geometry[..., AXES].reshape(50, 4, 3, 3)
    torch.testing.assert_close(axes[:, :, 2, 2], torch.zeros(50, 4), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(axes), torch.ones(50, 4))
    half = geometry[..., HALF]
    assert float(half[..., :2].max()) <= 0.025 and float(half[..., 2].max()) <= 3.0
    assert ((geometry[..., :3] >= low[:, None]) & (geometry[..., :3] <= low[:, None] + 3)).all()


def test_monuments_are_large_and_cameras_look_at_them_from_before(palette: Palette) -> None:
    stage = monument(Draft(30, torch.Generator().manual_seed(0), palette, 0.1))
    geometry = stage.scenes.geometry
    used = geometry[..., RADIUS] > 0
    body = geometry[:, 1]  # behind the ground
    assert (body[:, KIND] == Kind.FACADE).all()
    wide, front = body[:, HALF][:, 0], body[:, 1] - body[:, HALF][:, 1]
    assert float(wide.min()) >= 5 and float(wide.max()) > 12
    assert (stage.low < stage.high).all() and (stage.high[:, 1] < front).all()
    assert not stage.indoor.any()
    # most of what is looked at is a part of the building, not of the square
    at_building = stage.targets[..., 1] > front[:, None] - 0.3 * wide[:, None]
    assert float(at_building.float().mean()) > 0.5
    assert int(used.sum(1).min()) > 40
    # windows of two walls do not meet in the corners
    facade = used & (geometry[..., KIND] == Kind.FACADE)
    depth = geometry[..., PARAMS][..., 4]
    assert (depth < geometry[..., HALF][..., :2].amin(-1))[facade].all()


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
