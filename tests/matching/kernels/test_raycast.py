"""The Triton ray-caster against its twin, interpreted on the CPU and on a GPU."""

import os
import subprocess
import sys

import pytest
import torch

from matching.training import raycast
from matching.training.builder import PlaceBuilder
from matching.training.cameras import look_at
from matching.training.render import camera_center, ray_directions
from matching.training.world import Kind, Scenes

WIDTH, HEIGHT = 18, 13  # no multiples of the kernel's tile


def two_scenes() -> Scenes:
    """Every kind of primitive, once near and once turned."""
    geometry = []
    for scene in range(2):
        b = PlaceBuilder(0, texture_size=4)
        plain = b.material(0)
        b.add(Kind.ROOM, (0, 0, 0), (9, 9, 5), plain) if scene else b.add(
            Kind.TERRAIN, (0, 0, -2), (30, 30, 2), plain, params=(0.3, 0.2, 0.05, 9, 5, 2)
        )
        shapes = (
            (Kind.BOX, (1.2, 0, 0), (0.5, 0.4, 0.6), ()),
            (Kind.ELLIPSOID, (-1, 0.5, 0.3), (0.7, 0.5, 0.4), ()),
            (Kind.CYLINDER, (0, -0.6, 0.5), (0.3, 0.4, 0.8), ()),
            (Kind.FACADE, (0, 3, 0.5), (2, 0.6, 2), (0.9, 0.9, 0.3, 0.25, 0.2)),
            (Kind.PANEL, (0.2, -2.0, 0.0), (0.9, 0.8, 0), (2.0 + scene, 0.3, 0.3, 4)),
            (Kind.BUSH, (1.5, 0.6, 1.2), (0.7, 0.7, 0.6), (0.25, 0.5, 0.8, 3)),
        )
        for k, (kind, center, half, params) in enumerate(shapes):
            b.add(
                kind, center, half, plain, yaw=0.5 * scene + 0.1 * k, pitch=0.4 * scene,
                roll=1.5 if kind == Kind.PANEL else 0.1 * k, params=params,
            )  # fmt: skip
        row = torch.stack(b._geometry)
        row[1, 23] = 1.0  # the box exists in view 0 only
        geometry.append(row)
    stacked = torch.stack(geometry)
    empty = stacked[:, :1].clone()
    empty[..., 22] = -1.0  # an unused slot
    stacked = torch.cat([stacked, empty], 1)
    return Scenes(geometry=stacked, materials=torch.zeros(*stacked.shape[:2], 8, 16))


def compare(device: str) -> None:
    """Depth, ids and shadows of both scenes in both views."""
    from matching.kernels import raycast as kernels

    scenes = two_scenes()
    K = torch.tensor([[19.0, 0, 10.2], [0, 19.0, 9.1], [0, 0, 1]])
    pose = torch.from_numpy(
        look_at(torch.tensor([0.4, -4.5, 0.9]).numpy(), torch.tensor([0.1, 0.0, 0.3]).numpy())
    ).float()
    scene, view = torch.tensor([0, 1, 1]), torch.tensor([0, 0, 1])
    depth, ids = (
        x.cpu()
        for x in kernels.trace(
            scenes.geometry.to(device),
            scene.int().to(device),
            view.int().to(device),
            kernels.pack_cameras(K.expand(3, 3, 3), pose.expand(3, 4, 4)).to(device),
            torch.zeros(1, 2, device=device),
            (WIDTH, HEIGHT),
        )
    )
    depth, ids = depth[:, 0], ids[:, 0]
    y, x = torch.meshgrid(torch.arange(HEIGHT), torch.arange(WIDTH), indexing="ij")
    d = ray_directions(K, pose, torch.stack([x, y], -1).float() + 0.5)
    origin = camera_center(pose)
    keys = torch.tensor([[0.3, 0.5, 0.8, 0.0], [0.5, -1.0, 4.0, 1.0], [-0.6, 0.2, 0.7, 0.0]])
    starts = torch.zeros(3, HEIGHT, WIDTH, 3)
    expected = torch.zeros(3, HEIGHT, WIDTH, dtype=torch.bool)
    active = torch.rand(expected.shape, generator=torch.Generator().manual_seed(0)) < 0.9
    for i in range(3):
        primitives = raycast.Primitives(scenes.geometry[int(scene[i])], int(view[i]))
        t, twin = raycast.trace(primitives, origin, d, raycast.cone_cull(origin, d))
        # the order of roundings differs (fused multiply-adds): a ray along an edge may go to the
        # neighbour, everywhere else both see the same
        same = twin == ids[i]
        assert float(same.float().mean()) > 0.99
        assert len(twin.unique()) >= 5
        hit = same & (twin >= 0)
        torch.testing.assert_close(depth[i][hit], t[hit], rtol=2e-5, atol=1e-5)
        starts[i] = origin + 0.97 * torch.where(twin >= 0, t, 1.0)[..., None] * d
        active[i] &= twin >= 0
        expected[i] = raycast.shadowed(
            primitives, starts[i], torch.full_like(twin, -1), active[i], keys[i]
        )
    dark = torch.empty(3, 1, HEIGHT, WIDTH, dtype=torch.int8, device=device)
    kernels.shadowed(
        scenes.geometry.to(device),
        scene.int().to(device),
        view.int().to(device),
        keys.to(device),
        starts.permute(3, 0, 1, 2)[:, :, None].contiguous().to(device),
        active[:, None].to(torch.int8).to(device),
        dark,
        kernels.CENTERS,
    )
    dark = dark.cpu()[:, 0].bool()
    assert float((dark == expected).float().mean()) > 0.99
    assert 0.03 < float(dark.float().mean()) < 0.9


def test_interpreted_kernel_agrees_with_its_twin() -> None:
    """In a process of its own: Triton decides at import whether it interprets."""
    pytest.importorskip("triton", reason="needs triton: pip install triton")
    done = subprocess.run(
        [sys.executable, "-c", f"import {__name__} as test; test.compare('cpu')"],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.gpu
def test_kernel_agrees_with_its_twin() -> None:
    compare("cuda")
