"""Times the neural engine: encode, pairs, one query against stored encodings.

    python benchmarks/speed/network.py --device cuda --matcher naver/MASt3R_...
    python benchmarks/speed/network.py --device cpu --threads 2 --repeats 3

Without ``--matcher`` the network is MASt3R ViT-L with seeded random weights: time does not depend
on their values. Accuracy of half precision does; it is reported for whatever weights are used.
Each row also gives the time that the arithmetic alone would take at the rate of a large matrix
product of the same precision, measured in the same run.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch
from torch.utils.flop_counter import FlopCounterMode

from matching.checkpoint import read_checkpoint
from matching.network import EVERYTHING, Encoding, NetworkConfig, PairNetwork, Want, build_network
from matching.network.engine import Engine, EngineOptions

DESCRIPTORS = Want(descriptors=True)
NUM_MAPPED = 20  # stored encodings that a query meets
BATCH = 16  # pairs of the batched row


@dataclass(frozen=True)
class Row:
    """One measurement; times are per pair or per image where the name says so."""

    name: str
    milliseconds: float
    spread: float  # half the distance between the quartiles, milliseconds
    teraflop: float
    peak_gigabytes: float


def vitl_config() -> NetworkConfig:
    """MASt3R ViT-L as published."""
    return NetworkConfig(
        architecture="AsymmetricMASt3R",
        img_size=(512, 512),
        head_type="catmlp+dpt",
        output_mode="pts3d+desc24",
        two_confs=True,
        desc_conf_mode=("exp", 0.0, float("inf")),
        landscape_only=False,
    )


def random_network(config: NetworkConfig, device: str) -> PairNetwork:
    """A network with seeded weights of the usual scale."""
    with torch.device("meta"):
        network = build_network(config)
    network = network.to_empty(device=device)
    generator = torch.Generator(device).manual_seed(0)
    with torch.no_grad():
        for name, parameter in network.named_parameters():
            if parameter.ndim == 1:
                parameter.fill_(1.0 if "norm" in name and name.endswith("weight") else 0.0)
            else:
                fan_in = parameter[0].numel()
                parameter.normal_(0, fan_in**-0.5, generator=generator)
    return network.eval()


def textured_images(number: int, height: int, width: int, device: str) -> torch.Tensor:
    """Smooth random patterns with noise, (number, 3, height, width) in [-1, 1]."""
    generator = torch.Generator().manual_seed(1)
    images = torch.zeros(number, 3, height, width)
    for cells in (4, 16, 64):
        coarse = torch.rand(number, 3, cells, cells, generator=generator) - 0.5
        images += torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic")
    images += 0.1 * torch.rand(images.shape, generator=generator)
    return images.clamp(-1, 1).to(device)


def matrix_rate(device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of a large matrix product on random data."""
    size = 8192 if device.startswith("cuda") else 2048
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    seconds = statistics.median(_seconds(lambda: a @ b, 10, device))
    return 2 * size**3 / seconds / 1e12


def _seconds(function: Callable[[], object], repeats: int, device: str) -> list[float]:
    times = []
    for _ in range(repeats):
        _synchronize(device)
        start = time.perf_counter()
        function()
        _synchronize(device)
        times.append(time.perf_counter() - start)
    return times


def _synchronize(device: str) -> None:
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def measure(
    name: str,
    function: Callable[[], object],
    repeats: int,
    device: str,
    *,
    per: int = 1,
    others: int = 0,
) -> Row:
    """Warm up, time, and measure the peak memory less ``others`` bytes of other networks."""
    for _ in range(3 if device.startswith("cuda") else 1):
        function()
    peak = 0.0
    if device.startswith("cuda"):
        _synchronize(device)
        torch.cuda.reset_peak_memory_stats()
    times = _seconds(function, repeats, device)
    if device.startswith("cuda"):
        peak = (torch.cuda.max_memory_allocated() - others) / 1e9
    first, middle, last = statistics.quantiles(times, n=4) if len(times) > 1 else [times[0]] * 3
    return Row(name, middle * 1e3 / per, (last - first) / 2 * 1e3 / per, 0.0, peak)


def teraflop(engine: Engine, function: Callable[[], object], per: int = 1) -> float:
    """Multiplications and additions of matrix products and convolutions, from their shapes."""
    counter = FlopCounterMode(display=False)
    with counter:
        function()
    return counter.get_total_flops() / 1e12 / per


def run_engine(
    engine: Engine,
    images: torch.Tensor,
    repeats: int,
    device: str,
    *,
    batched: bool,
    others: int,
) -> list[Row]:
    """All rows of one engine."""
    stored = engine.encode(images[:NUM_MAPPED]).map(lambda tensor: tensor.half())
    query = stored[:1]

    def pair() -> object:
        both = engine.encode(images[:2])
        return engine.decode(both[:1], both[1:], EVERYTHING, EVERYTHING)

    def batch() -> object:
        encoding = engine.encode(images)
        return engine.decode(encoding[:BATCH], encoding[BATCH:], EVERYTHING, EVERYTHING)

    def one_against_many() -> None:
        for _ in engine.decode_batches(query, stored, DESCRIPTORS, DESCRIPTORS):
            pass

    jobs: list[tuple[str, Callable[[], object], int]] = [
        ("encode one image", lambda: engine.encode(images[:1]), 1),
        ("one pair, everything", pair, 1),
        (f"one query against {NUM_MAPPED}, descriptors", one_against_many, 1),
    ]
    if batched:
        jobs.append((f"pair in a batch of {BATCH}, everything", batch, BATCH))
    rows = []
    for name, function, per in jobs:
        row = measure(name, function, repeats, device, per=per, others=others)
        rows.append(row)
        print(
            f"  {row.name:42} {row.milliseconds:9.2f} ms  {row.peak_gigabytes:6.2f} GB", flush=True
        )
    return rows


def count_work(engine: Engine, images: torch.Tensor) -> dict[str, float]:
    """TFLOP of each row."""
    encoding = engine.encode(images[:2])
    one = teraflop(engine, lambda: engine.encode(images[:1]))
    first, second = encoding[:1], encoding[1:]
    everything = teraflop(engine, lambda: engine.decode(first, second))
    matching = teraflop(engine, lambda: engine.decode(first, second, DESCRIPTORS, DESCRIPTORS))
    return {
        "encode one image": one,
        "one pair, everything": 2 * one + everything,
        f"one query against {NUM_MAPPED}, descriptors": NUM_MAPPED * matching,
        f"pair in a batch of {BATCH}, everything": 2 * one + everything,
    }


def accuracy(reference: Engine, engine: Engine, images: torch.Tensor) -> str:
    """Cosine of descriptors and relative error of points against float32."""
    texts = []
    want = Want(pointmap=True, descriptors=bool(engine.network.config.desc_dim))
    exact = reference.decode(*_two(reference.encode(images[:2])), want, want)
    fast = engine.decode(*_two(engine.encode(images[:2])), want, want)
    for view, (a, b) in enumerate(zip(exact, fast, strict=True)):
        assert a.pointmap is not None and b.pointmap is not None
        error = (a.pointmap - b.pointmap).norm(dim=-1) / a.pointmap.norm(dim=-1)
        text = (
            f"view {view}: points off by {error.median():.2%} (median), {error.mean():.2%} (mean)"
        )
        if a.descriptors is not None and b.descriptors is not None:
            cosine = (a.descriptors * b.descriptors).sum(-1)
            text += f", descriptors' cosine {cosine.mean():.6f} (mean), {cosine.min():.4f} (least)"
        texts.append(text)
    return "; ".join(texts)


def _two(encoding: Encoding) -> tuple[Encoding, Encoding]:
    return encoding[:1], encoding[1:]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--matcher", help="checkpoint; default: MASt3R ViT-L, random weights")
    parser.add_argument("--size", default="512x384", help="of the images, WIDTHxHEIGHT")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=0, help="CPU threads; 0: torch's default")
    parser.add_argument(
        "--engines",
        default="bfloat16/none,bfloat16/graphs,bfloat16/compile",
        help="precision/acceleration, comma-separated; on CPUs always float32/none",
    )
    parser.add_argument("--float32", action="store_true", help="also time plain float32 on the GPU")
    parser.add_argument("--profile", action="store_true", help="print the longest kernels")
    parser.add_argument("--out", type=Path, help="also write the numbers as JSON")
    args = parser.parse_args()
    if args.threads:
        torch.set_num_threads(args.threads)
    width, height = map(int, args.size.split("x"))
    on_gpu = args.device.startswith("cuda")
    images = textured_images(2 * BATCH if on_gpu else NUM_MAPPED, height, width, args.device)

    def network() -> PairNetwork:
        if args.matcher:
            return read_checkpoint(args.matcher).network()
        return random_network(vitl_config(), args.device)

    where = torch.cuda.get_device_name() if on_gpu else f"{torch.get_num_threads()} threads"
    print(f"{where}, torch {torch.__version__}, Python {platform.python_version()}, {args.size}")
    engines = args.engines.split(",") if on_gpu else ["float32/none"]
    if args.float32 and on_gpu:
        engines.insert(0, "float32/none")
    reference = Engine(network(), device=args.device, options=EngineOptions(precision="float32"))
    work = count_work(reference, images)
    results = {}
    for spec in engines:
        precision, acceleration = spec.split("/")
        options = EngineOptions(precision=precision, acceleration=acceleration)  # type: ignore[arg-type]
        others = torch.cuda.memory_allocated() if on_gpu and spec != "float32/none" else 0
        start = time.perf_counter()
        engine = (
            reference
            if spec == "float32/none"
            else Engine(network(), device=args.device, options=options)
        )
        rate = matrix_rate(args.device, engine.dtype)
        print(f"{spec}: a large matrix product runs at {rate:.3g} TFLOP/s", flush=True)
        rows = run_engine(engine, images, args.repeats, args.device, batched=on_gpu, others=others)
        rows = [replace(row, teraflop=work[row.name]) for row in rows]
        print(f"  with warm-up {time.perf_counter() - start:.0f} s in all")
        print("| what | ms | spread | TFLOP | limit, ms | times the limit | peak, GB |")
        print("| --- | ---: | ---: | ---: | ---: | ---: | ---: |")
        for row in rows:
            limit = row.teraflop / rate * 1e3
            print(
                f"| {row.name} | {row.milliseconds:.2f} | {row.spread:.2f} | {row.teraflop:.2f} "
                f"| {limit:.2f} | {row.milliseconds / limit:.1f} | {row.peak_gigabytes:.2f} |"
            )
        if engine is not reference:
            print(f"  against float32: {accuracy(reference, engine, images)}")
        if args.profile and on_gpu:
            profile(engine, images)
        results[spec] = {"matrix_tflops": rate, "rows": [vars(row) for row in rows]}
        if engine is not reference:
            del engine
    if args.out:
        args.out.write_text(json.dumps(results, indent=1) + "\n")


def profile(engine: Engine, images: torch.Tensor) -> None:
    """Where the time of one query against many, and of a pair, goes."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as torch_profile

    stored = engine.encode(images[:NUM_MAPPED])
    for name, function in (
        ("encode one", lambda: engine.encode(images[:1])),
        ("one pair", lambda: engine.decode(stored[:1], stored[1:2])),
        (
            "one against many",
            lambda: list(engine.decode_batches(stored[:1], stored, DESCRIPTORS, DESCRIPTORS)),
        ),
    ):
        function()
        with torch_profile(activities=[ProfilerActivity.CUDA]) as recorded:
            function()
            torch.cuda.synchronize()
        table = recorded.key_averages().table(
            sort_by="cuda_time_total", row_limit=14, max_name_column_width=70
        )
        kept = [" ".join(line.split()) for line in table.splitlines() if line.strip("- ")]
        print(f"{name}:")
        print("\n".join(kept))


if __name__ == "__main__":
    main()
