"""How fast `small` trains and infers, and where the time goes.

    PYTHONPATH=. python benchmarks/speed/training.py [--device cuda] [--out speed.json]

Per image size: rendering, forward with loss, backward, and the whole step of the training loop, as
written and with torch.compile, in pairs per second; then inference of one pair and of a batch. The
peer is the loop itself without compilation, in the same process.
"""

import argparse
import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from matching.network import EVERYTHING, Want
from matching.network.engine import Engine, EngineOptions
from matching.network.small import SmallNetwork, small_config
from matching.training.batch import PairBatch
from matching.training.options import PhaseOptions, TrainOptions
from matching.training.trainer import PairStream, Trainer


def seconds(function: Callable[[], Any], device: torch.device, *, repeats: int) -> float:
    """Median time of a call that is waited for."""

    def wait() -> None:
        if device.type == "cuda":
            torch.cuda.synchronize(device)

    times = []
    for _ in range(repeats + 1):
        wait()
        start = time.perf_counter()
        function()
        wait()
        times.append(time.perf_counter() - start)
    return statistics.median(times[1:])


def training_speed(
    stream: PairStream,
    device: str,
    phases: tuple[PhaseOptions, ...],
    *,
    compile: bool,
    repeats: int = 8,
) -> list[dict[str, Any]]:
    """Time the parts of a step for each phase."""
    options = TrainOptions(phases=phases, compile=compile, warmup_steps=0, decay_steps=0)
    trainer = Trainer(options, stream, device=device)
    rows = []
    for phase in phases:
        start = time.perf_counter()
        trainer.take_step(phase, 1.0)
        if trainer.device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        first = time.perf_counter() - start
        batch = trainer.render(phase, 1.0)
        parts: dict[str, Callable[[], Any]] = {
            "render": partial(trainer.render, phase, 1.0),
            "forward": partial(trainer.loss, phase, batch),
            "forward_backward": partial(_forward_backward, trainer, phase, batch),
            "step": partial(trainer.take_step, phase, 1.0),
        }
        times = {
            name: seconds(part, trainer.device, repeats=repeats) for name, part in parts.items()
        }
        row = {
            "image_size": phase.image_size,
            "pairs": phase.pairs,
            "compile": compile,
            "first_step_s": first,
            **{f"{name}_ms": 1000 * value for name, value in times.items()},
            "pairs_per_second": phase.pairs / times["step"],
        }
        if trainer.device.type == "cuda":
            row["peak_gb"] = torch.cuda.max_memory_allocated() / 1e9
        rows.append(row)
        print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return rows


def _forward_backward(trainer: Trainer, phase: PhaseOptions, batch: PairBatch) -> None:
    trainer.loss(phase, batch)[0].backward()


def _infer(engine: Engine, images: torch.Tensor, want: Want) -> None:
    engine.decode(engine.encode(images[0]), engine.encode(images[1]), want, want)


def inference_speed(device: str, batches: tuple[int, ...], *, repeats: int) -> list[dict[str, Any]]:
    """Time whole pairs at 512x384: everything, and descriptors only."""
    graphs = "graphs" if device.startswith("cuda") else "none"
    rows = []
    for acceleration in sorted({"none", graphs}):
        network = SmallNetwork(small_config())
        options = EngineOptions(acceleration=acceleration)  # type: ignore[arg-type]
        engine = Engine(network, device=device, options=options)
        for batch in batches:
            images = torch.rand(2, batch, 3, 384, 512, device=device) * 2 - 1
            for name, want in (("everything", EVERYTHING), ("descriptors", Want(descriptors=True))):
                run = partial(_infer, engine, images, want)
                run()
                took = seconds(run, engine.device, repeats=repeats)
                row = {
                    "outputs": name,
                    "acceleration": acceleration,
                    "pairs": batch,
                    "ms_per_pair": 1000 * took / batch,
                }
                rows.append(row)
                print(row, flush=True)
    return rows


def main(stream: PairStream | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--pairs", type=int, default=128, help="per step at 256x192")
    parser.add_argument("--no-compile", action="store_true")
    parser.add_argument("--out", help="write the numbers as JSON")
    arguments = parser.parse_args()
    on_gpu = arguments.device.startswith("cuda")
    if stream is None:
        from matching.training.batch import PairWorld

        stream = PairWorld(arguments.device, recorded=True)
    small = PhaseOptions(pairs=arguments.pairs if on_gpu else 1, correspondences=1024)
    large = replace(
        small, image_size=(512, 384), pairs=max(1, small.pairs // 4), correspondences=2048
    )
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name() if on_gpu else "cpu",
        "torch": torch.__version__,
        "training": [],
    }
    for compile in (False, True)[: 2 if on_gpu and not arguments.no_compile else 1]:
        report["training"] += training_speed(
            stream, arguments.device, (small, large), compile=compile, repeats=8 if on_gpu else 1
        )
    report["inference"] = inference_speed(
        arguments.device, (1, 16) if on_gpu else (1,), repeats=10 if on_gpu else 3
    )
    if arguments.out:
        Path(arguments.out).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")
    json.dump(report["training"], sys.stdout)


if __name__ == "__main__":
    main()
