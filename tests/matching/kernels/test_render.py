"""The rendering kernel against the renderer in plain torch."""

import os
import subprocess
import sys

import numpy as np
import pytest
import torch

from matching.training.builder import Place, PlaceBuilder
from matching.training.cameras import look_at
from matching.training.light import light_row, relief_normal
from matching.training.render import BRIGHTNESS_JUMP, SAMPLE_OFFSETS, _differs, render_image
from matching.training.world import COS, RELIEF, SIN, WINDOW, Kind, Scenes

WIDTH, HEIGHT = 18, 14


def place(open_air: bool) -> Place:
    """Every kind of primitive with gloss, overlays, emission, relief and windows that differ."""
    b = PlaceBuilder(1, texture_size=16)
    brick, noise, glass = b.texture("bricks"), b.texture("noisy"), b.texture("glass")
    dull = b.material(brick, 0.7, overlay=noise, overlay_weight=0.5, overlay_scale=1.9)
    shiny = b.material(noise, 0.5, gloss=0.4, tint=(1.2, 0.9, 0.7), emission=0.1)
    dull[RELIEF] = 0.7
    shiny[COS], shiny[SIN], shiny[RELIEF] = 0.8, 0.6, 1.0 if open_air else -0.6
    pane = b.material(glass, 0.5, gloss=0.2, cell_jitter=0.7)
    b.add(Kind.TERRAIN, (0, 0, -2), (30, 30, 2), dull, params=(0.3, 0.2, 0.05, 9, 5, 2)) if (
        open_air
    ) else b.add(Kind.ROOM, (0, 0, 0), (9, 9, 5), dull)
    b.add(Kind.BOX, (1.2, 0, 0), (0.5, 0.4, 0.6), shiny, yaw=0.4)
    b.add(Kind.ELLIPSOID, (-1, 0.5, 0.3), (0.7, 0.5, 0.4), shiny, pitch=0.3)
    b.add(Kind.CYLINDER, (0, -0.6, 0.5), (0.3, 0.4, 0.8), dull, roll=0.3)
    b.add(
        Kind.FACADE, (0, 3, 0.5), (2, 0.6, 2), dull, yaw=0.2, faces={WINDOW: pane},
        params=(0.9, 0.9, 0.3, 0.25, 0.2),
    )  # fmt: skip
    b.add(Kind.PANEL, (0.2, -2, 0), (0.9, 0.8, 0), shiny, roll=1.5, params=(2, 0.3, 0.3))
    leaf = b.material(noise, 0.3, cell_jitter=0.8)
    b.add(Kind.BUSH, (1.5, 0.6, 1.2), (0.7, 0.7, 0.6), leaf, params=(0.25, 0.5, 0.8, 3))
    return b.build()


LIGHTS = (
    light_row(key=(0.3, -0.5, 0.8, 0), haze_density=0.02, clouds=1, cloud_weight=0.5),
    light_row(
        key=(0.5, -2.0, 3.0, 1), key_color=(9, 8, 6), clouds=1,
        lamps=((-2.0, -1.0, 2.0, 3.0, 2.0, 1.0), (2.0, 1.0, 1.0, 0.5, 0.5, 1.0)),
    ),
)  # fmt: skip


def compare_relief(device: str) -> None:
    """Bent normals of all directions, gentle and steep."""
    from tests.matching.kernels.relief_probe import bent

    generator = torch.Generator().manual_seed(0)
    normals = torch.nn.functional.normalize(torch.randn(512, 3, generator=generator), dim=1)
    normals[:6] = torch.cat([torch.eye(3), -torch.eye(3)])
    slopes = 1.5 * torch.randn(512, 2, generator=generator)
    twin = relief_normal(normals, slopes[:, 0], slopes[:, 1])
    torch.testing.assert_close(
        bent(normals.to(device), slopes.to(device)).cpu(), twin, atol=1e-5, rtol=0
    )
    flat = bent(normals.to(device), torch.zeros(512, 2, device=device)).cpu()
    torch.testing.assert_close(flat, normals, atol=1e-6, rtol=0)


def compare(device: str) -> None:
    """Radiance, depth, ids and normals of two places in two lights."""
    from matching.kernels import raycast, render

    K = torch.tensor([[19.0, 0, 9.7], [0, 19.0, 8.2], [0, 0, 1]])
    pose = torch.from_numpy(look_at(np.array([0.4, -4.5, 0.9]), np.array([0.1, 0.0, 0.3]))).float()
    for open_air, light in zip((True, False), LIGHTS, strict=True):
        own = place(open_air)
        one = torch.zeros(1, dtype=torch.int32, device=device)
        radiance, depth, ids, normals = (
            x.cpu()
            for x in render.render(
                own.scenes.geometry.to(device), own.scenes.materials.to(device), one, one,
                raycast.pack_cameras(K[None], pose[None]).to(device), light[None].to(device),
                torch.tensor(SAMPLE_OFFSETS[:1], device=device),
                own.bank.texels.to(device).view(torch.int32)[:, 0], own.bank.size, own.bank.count,
                0.0, (WIDTH, HEIGHT),
            )
        )  # fmt: skip
        radiance, normals = radiance.permute(0, 2, 3, 1), normals.permute(1, 2, 3, 0)
        normals = torch.where(ids[..., None] >= 0, normals, 0.0)
        twin = render_image(
            own.scenes, 0, 0, K, pose, (WIDTH, HEIGHT), light, own.bank, antialias=False
        )
        same = twin.ids == ids
        assert float(same.float().mean()) > 0.99
        hit = same & (ids >= 0)
        assert len(ids.unique()) >= 6
        torch.testing.assert_close(depth[hit], twin.depth[hit], rtol=2e-5, atol=1e-5)
        # rays along an edge of a face, a texel or a shadow may fall on the other side of it
        turned = (normals - twin.normals).abs().amax(-1)[same]
        assert float((turned > 1e-3).float().mean()) < 0.02
        error = ((radiance - twin.radiance).abs() / (0.05 + twin.radiance)).amax(-1)[same]
        assert float((error > 0.02).float().mean()) < 0.03
        assert float(error.median()) < 1e-3
        assert float(twin.radiance.std()) > 0.05
        # the relief shows in what was compared
        smooth = own.scenes.materials.clone()
        smooth[..., RELIEF] = 0.0
        without = render_image(
            Scenes(geometry=own.scenes.geometry, materials=smooth), 0, 0, K, pose, (WIDTH, HEIGHT),
            light, own.bank, antialias=False,
        )  # fmt: skip
        change = ((without.radiance - twin.radiance).abs() / (0.05 + twin.radiance)).amax(-1)
        assert float((change > 0.05).float().mean()) > 0.15


def compare_edges(device: str) -> None:
    """Four more samples where the twin takes them, and in the rest of those tiles."""
    from matching.kernels import raycast, render

    K = torch.tensor([[19.0, 0, 9.7], [0, 19.0, 8.2], [0, 0, 1]])
    pose = torch.from_numpy(look_at(np.array([0.4, -4.5, 0.9]), np.array([0.1, 0.0, 0.3]))).float()
    b = PlaceBuilder(0, texture_size=16)
    b.add(Kind.ROOM, (0, 0, 0), (9, 9, 5), b.material(b.texture("gradient"), 9.0))
    b.add(Kind.BOX, (-0.9, 0, 0.6), (0.5, 0.4, 0.5), b.material(b.texture("bricks")), yaw=0.4)
    own = b.build()
    one = torch.zeros(1, dtype=torch.int32, device=device)

    def image(samples: int) -> torch.Tensor:
        result = render.render(
            own.scenes.geometry.to(device), own.scenes.materials.to(device), one, one,
            raycast.pack_cameras(K[None], pose[None]).to(device), LIGHTS[0][None].to(device),
            torch.tensor(SAMPLE_OFFSETS[:samples], device=device),
            own.bank.texels.to(device).view(torch.int32)[:, 0], own.bank.size, own.bank.count,
            0.0, (WIDTH, HEIGHT),
        )  # fmt: skip
        return result[0].cpu().permute(0, 2, 3, 1)

    def twin(antialias: bool) -> torch.Tensor:
        return render_image(
            own.scenes, 0, 0, K, pose, (WIDTH, HEIGHT), LIGHTS[0], own.bank, antialias=antialias
        ).radiance

    centers, averaged = image(1), image(5)
    plain, smooth = twin(False), twin(True)
    edges = ((smooth - plain).abs() > 1e-6).any(-1)
    edges[:, -1], edges[:, :, -1] = False, False  # the twin looks over the border
    assert 0.02 < float(edges.float().mean()) < 0.8
    error = ((averaged - smooth).abs() / (0.05 + smooth)).amax(-1)[edges]
    assert float((error > 0.03).float().mean()) < 0.06
    assert float(error.median()) < 2e-3
    touched = ((averaged - centers).abs() > 0).any(-1)
    tiles = torch.nn.functional.max_pool2d(touched.float(), 8, ceil_mode=True)
    wanted = torch.nn.functional.max_pool2d(edges.float(), 8, ceil_mode=True)
    assert (tiles >= wanted).all() and not tiles[..., 2].any()
    with pytest.raises(ValueError, match="1 or 5 samples"):
        image(3)


def compare_rough(device: str) -> None:
    """Tiles with one pixel unlike its neighbours, or beside one: by part, by light, by the sky."""
    from matching.kernels import raycast, render

    width, height, count = 21, 17, 12
    rng = np.random.default_rng(0)
    ids = torch.full((count, 5, height, width), 3, dtype=torch.int32)
    parts = torch.full((count, 5, height, width), 29.0)
    radiance = torch.full((count, 3, height, width), 0.5)
    ids[:, 1:], parts[:, 1:] = -1, torch.from_numpy(rng.random((count, 4, height, width))).float()
    for i in range(count):
        x, y = (7, 8, 15, 16, 20, 0)[i % 6], (7, 3, 16, 8, 15, 0)[i % 6]
        if i % 4 == 0:
            parts[i, 0, y, x] = 30.0
        elif i % 4 == 1:
            ids[i, 0, y, x] = -1
        else:  # a jump, and what is none
            radiance[i, :, y, x] *= 2.0 if i % 4 == 2 else 1.7
    layers = raycast.AROUND
    grid = raycast.tile_grid((width, height), count, layers)
    found = torch.empty((count, grid[0]), dtype=torch.int8, device=device)
    render._rough_kernel[grid](
        ids.to(device), parts.to(device), radiance.to(device), found, width, height, 5,
        JUMP=BRIGHTNESS_JUMP, TILE=layers.tile,
    )  # fmt: skip
    seen = torch.where(ids[:, 0] < 0, -1.0, parts[:, 0])[..., None]
    seen = torch.cat([seen, radiance.permute(0, 2, 3, 1)], -1)
    rough = torch.stack([_differs(image) for image in seen]).float()
    tiles = torch.nn.functional.max_pool2d(rough, layers.tile, ceil_mode=True)
    assert found.cpu().tolist() == tiles.flatten(1).int().tolist()
    assert 0.1 < float(tiles.mean()) < 0.5


def test_interpreted_kernel_agrees_with_its_twin() -> None:
    """In a process of its own: Triton decides at import whether it interprets."""
    pytest.importorskip("triton", reason="needs triton: pip install triton")
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            f"import {__name__} as test; test.compare_relief('cpu'); test.compare('cpu'); "
            "test.compare_edges('cpu'); test.compare_rough('cpu')",
        ],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
def test_kernel_agrees_with_its_twin() -> None:
    compare_relief("cuda")
    compare("cuda")
    compare_edges("cuda")
    compare_rough("cuda")
