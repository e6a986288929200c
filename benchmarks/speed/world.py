"""Throughput of the training world on one GPU, and its agreement with the CPU twin.

Run: PYTHONPATH=. python benchmarks/speed/world.py [--pairs 96] [--sheet sheet.png]
"""

import argparse
import time
from collections.abc import Callable

import torch

from matching.kernels import raycast as kernels
from matching.training.batch import PairWorld, make_batch
from matching.training.contact_sheet import contact_sheet
from matching.training.lighting import draw_lights
from matching.training.overlap import draw_overlapping
from matching.training.render import SAMPLE_OFFSETS, render_image, render_images
from matching.training.scenes import draw_stage
from matching.training.sensor import develop


def _milliseconds(action: Callable[[], object], repeats: int = 10) -> float:
    """Median time of a call with the GPU drained after each."""
    for _ in range(2):
        action()
    times = []
    for _ in range(repeats):
        torch.cuda.synchronize()
        start = time.perf_counter()
        action()
        torch.cuda.synchronize()
        times.append(1e3 * (time.perf_counter() - start))
    return sorted(times)[len(times) // 2]


def compare_with_twin(world: PairWorld, image_size: tuple[int, int]) -> None:
    """Render the same scenes with both and print how far they differ."""
    generator = torch.Generator(world.device).manual_seed(7)
    stage = draw_stage(7, generator, world.palette, difficulty=1.0)
    cameras = draw_overlapping(stage, image_size, generator, difficulty=1.0)
    lights = draw_lights(
        stage.low, stage.high, stage.indoor, world.palette, generator, difficulty=1.0
    )
    scene = torch.arange(7, device=world.device)
    view = torch.ones_like(scene)
    K, poses, rows = cameras.K[:, 1], cameras.cam_from_world[:, 1], lights[:, 1]
    bank = world.palette.bank
    fast = render_images(stage.scenes, scene, view, K, poses, image_size, rows, bank)
    scenes, cpu_bank = stage.scenes.to("cpu"), bank.to("cpu")
    for i in range(7):
        slow = render_image(
            scenes, i, 1, K[i].cpu(), poses[i].cpu(), image_size, rows[i].cpu(), cpu_bank
        )
        ids = fast.ids[i].cpu()
        same = ids == slow.ids[0]
        both = same & (ids >= 0)
        depth = ((fast.depth[i].cpu() - slow.depth[0]).abs() / slow.depth[0])[both]
        light = (fast.radiance[i].cpu() - slow.radiance[0]).abs()
        print(
            f"scene {i}: ids differ {1 - float(same.float().mean()):.2e}, "
            f"depth max {float(depth.max()) if len(depth) else 0:.1e} relative, "
            f"radiance median {float(light.median()):.1e} mean {float(light.mean()):.1e}"
        )


def main() -> None:
    """Print a table of milliseconds per batch and microseconds per pair."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=96)
    parser.add_argument("--size", type=int, nargs=2, default=(256, 192))
    parser.add_argument("--textures", type=int, default=8, help="per style")
    parser.add_argument("--sheet", help="write a contact sheet there")
    arguments = parser.parse_args()
    size, pairs = (arguments.size[0], arguments.size[1]), arguments.pairs
    device = torch.device("cuda")
    print(torch.cuda.get_device_name(), "torch", torch.__version__, "pairs", pairs, "size", size)
    start = time.perf_counter()
    world = PairWorld(device, textures_per_style=arguments.textures)
    print(f"painted {world.palette.bank.count} textures in {time.perf_counter() - start:.1f} s")
    start = time.perf_counter()
    compare_with_twin(world, (128, 96))
    print(f"compared in {time.perf_counter() - start:.1f} s")

    start = time.perf_counter()
    world(0, pairs=pairs, image_size=size)
    torch.cuda.synchronize()
    print(f"first batch (compiles) {time.perf_counter() - start:.1f} s")
    generator = torch.Generator(device).manual_seed(0)
    stage = draw_stage(pairs, generator, world.palette, difficulty=1.0)
    cameras = draw_overlapping(stage, size, generator, difficulty=1.0)
    lights = draw_lights(
        stage.low, stage.high, stage.indoor, world.palette, generator, difficulty=1.0
    )
    scene = torch.arange(pairs, device=device).repeat_interleave(2)
    view = torch.arange(2, device=device).repeat(pairs)
    K, poses, rows = (
        cameras.K.flatten(0, 1),
        cameras.cam_from_world.flatten(0, 1),
        lights.flatten(0, 1),
    )
    frames = render_images(stage.scenes, scene, view, K, poses, size, rows, world.palette.bank)
    radiance = frames.radiance.permute(0, 3, 1, 2)
    photos = develop(radiance, generator, difficulty=1.0).reshape(pairs, 2, 3, size[1], size[0])
    depth = frames.depth.reshape(pairs, 2, size[1], size[0])
    offsets = torch.tensor(SAMPLE_OFFSETS, device=device)
    packed = kernels.pack_cameras(K, poses)
    steps: dict[str, Callable[[], object]] = {
        "draw scenes": lambda: draw_stage(pairs, generator, world.palette, difficulty=1.0),
        "choose cameras": lambda: draw_overlapping(stage, size, generator, difficulty=1.0),
        "trace (5 samples everywhere)": lambda: kernels.trace(
            stage.scenes.geometry, scene.int(), view.int(), packed, offsets, size
        ),
        "trace + shadows + shading": lambda: render_images(
            stage.scenes, scene, view, K, poses, size, rows, world.palette.bank
        ),
        "sensor": lambda: develop(radiance, generator, difficulty=1.0),
        "correspondences": lambda: make_batch(photos, depth, cameras, generator, 512),
        "whole batch": lambda: world(1, pairs=pairs, image_size=size),
    }
    for name, action in steps.items():
        value = _milliseconds(action)
        print(f"{name:28s} {value:8.2f} ms  {1e3 * value / pairs:8.1f} us per pair")
    print(f"peak memory {torch.cuda.max_memory_allocated() / 2**30:.2f} GiB")
    visible = world(2, pairs=pairs, image_size=size).visible.float().mean(1)
    print(
        f"correspondences found: mean {visible.mean():.2f}, "
        f"pairs with none {(visible == 0).float().mean():.3f}"
    )
    if arguments.sheet:
        contact_sheet(arguments.sheet, 3, 40, device)


if __name__ == "__main__":
    main()
