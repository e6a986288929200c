"""Time of reciprocal matching beside what one would otherwise use, in one process.

python -m benchmarks.speed.reciprocal [--device cuda] [--size 512x384] [--parts dense]

The maps are smooth random fields (24 channels, waves of 9 to 60 pixels) with noise, the second one
warped: the recipe of the golden numbers. "Published" is the method of MASt3R written again from its
description: products in blocks of 8192 x 8192, maxima along both sides of each block.
"""

import argparse
import importlib
import importlib.util
import platform
import statistics
import time
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor

from matching.reciprocal import (
    iterated_matches,
    nearest_neighbours,
    nearest_neighbours_many,
    seeded_matches,
)

Seconds = list[float]


def descriptor_maps(width: int, height: int, device: str, seed: int = 0) -> tuple[Tensor, Tensor]:
    """Two (H, W, 24) unit-norm maps of one smooth field, the second warped, noise 0.25."""
    rng = torch.Generator().manual_seed(seed)
    length = 9 + 51 * torch.rand(24, 3, generator=rng)
    angle = 2 * torch.pi * torch.rand(24, 3, generator=rng)
    phase = (2 * torch.pi * torch.rand(24, 3, generator=rng)).to(device)
    fx = (2 * torch.pi / length * angle.cos()).to(device)
    fy = (2 * torch.pi / length * angle.sin()).to(device)
    y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    maps = []
    for view in range(2):
        u, v = x.to(device, torch.float32), y.to(device, torch.float32)
        if view == 1:
            u, v = (
                0.80 * u + 0.05 * v - 5.0 + 2.0 * torch.sin(v / 25.0),
                -0.04 * u + 0.82 * v + 3.0 + 1.5 * torch.cos(u / 30.0),
            )
        field = torch.zeros(height, width, 24, device=device)
        for wave in range(3):
            field += torch.sin(
                fx[:, wave] * u[..., None] + fy[:, wave] * v[..., None] + phase[:, wave]
            )
        field += 0.25 * torch.randn(height, width, 24, generator=rng).to(device)
        maps.append(torch.nn.functional.normalize(field, dim=-1))
    return maps[0], maps[1]


def blocked_nearest(desc0: Tensor, desc1: Tensor, block: int) -> tuple[Tensor, Tensor]:
    """Nearest neighbours both ways from square block products, in the type of the inputs."""
    best = [d.new_full((len(d),), -torch.inf) for d in (desc0, desc1)]
    index = [torch.zeros(len(d), dtype=torch.int64, device=d.device) for d in (desc0, desc1)]
    for i in range(0, len(desc0), block):
        rows = slice(i, i + block)
        for j in range(0, len(desc1), block):
            columns = slice(j, j + block)
            product = desc0[rows] @ desc1[columns].T
            for side, (part, offset) in enumerate(((rows, j), (columns, i))):
                value, place = product.max(1 - side)
                better = value > best[side][part]
                best[side][part] = torch.where(better, value, best[side][part])
                index[side][part] = torch.where(better, place + offset, index[side][part])
    return index[0], index[1]


def published_search(queries: Tensor, candidates: Tensor, block: int = 8192) -> Tensor:
    """Nearest candidate of each query, blocks of candidates one after the other."""
    best = queries.new_full((len(queries),), -torch.inf)
    index = torch.zeros(len(queries), dtype=torch.int64, device=queries.device)
    for i in range(0, len(queries), block):
        rows = slice(i, i + block)
        for j in range(0, len(candidates), block):
            value, place = (queries[rows] @ candidates[j : j + block].T).max(1)
            better = value > best[rows]
            best[rows] = torch.where(better, value, best[rows])
            index[rows] = torch.where(better, place + j, index[rows])
    return index


class BlockedSearch:
    """The published search by products in blocks."""

    def __init__(self, candidates: Tensor) -> None:
        self.candidates = candidates

    def __call__(self, queries: Tensor) -> Tensor:
        return published_search(queries, self.candidates)


class TreeSearch:
    """The published search on CPUs: a k-d tree, which orders unit vectors as products do."""

    def __init__(self, candidates: Tensor) -> None:
        tree = importlib.import_module("scipy.spatial").cKDTree
        self.tree = tree(candidates.numpy())

    def __call__(self, queries: Tensor) -> Tensor:
        return torch.from_numpy(self.tree.query(queries.numpy())[1])


def published_scheme(
    desc0: Tensor,
    desc1: Tensor,
    step: int,
    search: Callable[[Tensor], Callable[[Tensor], Tensor]] = BlockedSearch,
    rounds: int = 10,
) -> Tensor:
    """The published walk from a grid of seeds; the pixels of image 0 that it ends in."""
    height, width = desc0.shape[:2]
    flat0, flat1 = desc0.flatten(0, 1), desc1.flatten(0, 1)
    search0, search1 = search(flat0), search(flat1)
    y = torch.arange(step // 2, height, step, device=desc0.device)
    x = torch.arange(step // 2, width, step, device=desc0.device)
    here = (y[:, None] * width + x).flatten()
    there = torch.full_like(here, -1)
    walking = torch.ones_like(here, dtype=torch.bool)
    for _ in range(rounds):
        rows = walking.nonzero()[:, 0]
        if not len(rows):
            break
        new_there = search1(flat0[here[rows]])
        same = new_there == there[rows]
        there[rows] = new_there
        walking[rows[same]] = False
        rows, new_there = rows[~same], new_there[~same]
        new_here = search0(flat1[new_there])
        walking[rows[new_here == here[rows]]] = False
        here[rows] = new_here
    return here[~walking].unique()


def published_seeds(desc0: Tensor, desc1: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Neighbours of given rows of map 0, and where the way back ends."""
    flat0, flat1 = desc0.flatten(0, 1), desc1.flatten(0, 1)
    there = published_search(flat0[rows], flat1)
    return there, published_search(flat1[there], flat0)


def faiss_nearest(desc0: Tensor, desc1: Tensor) -> tuple[Tensor, Tensor] | None:
    """Exact search of FAISS both ways, on the GPU if that build is installed."""
    if importlib.util.find_spec("faiss") is None:
        return None
    import faiss

    found = []
    on_gpu = desc0.is_cuda
    if on_gpu and not hasattr(faiss, "StandardGpuResources"):
        return None
    for queries, candidates in ((desc0, desc1), (desc1, desc0)):
        index: faiss.Index = faiss.IndexFlatIP(queries.shape[1])
        if on_gpu:
            index = faiss.index_cpu_to_gpu(faiss.StandardGpuResources(), 0, index)
        index.add(candidates.cpu().numpy())
        found.append(torch.from_numpy(index.search(queries.cpu().numpy(), 1)[1][:, 0]))
    return found[0], found[1]


def keops_nearest(desc0: Tensor, desc1: Tensor) -> tuple[Tensor, Tensor] | None:
    """Exact search of KeOps both ways."""
    if importlib.util.find_spec("pykeops") is None:
        return None
    LazyTensor = importlib.import_module("pykeops.torch").LazyTensor

    similarity = LazyTensor(desc0[:, None, :]) | LazyTensor(desc1[None, :, :])
    return similarity.argmax(1)[:, 0], similarity.argmax(0)[:, 0]


def mutual_pairs(desc0: Tensor, desc1: Tensor) -> tuple[Tensor, Tensor]:
    """The dense answer and its mutual pairs."""
    return nearest_neighbours(desc0, desc1).mutual()


def measure(run: Callable[[], object], device: str, repeats: int, warmup: int = 2) -> Seconds:
    """Seconds of each repetition, after warming up: of the wall clock on a GPU, of all cores on a
    CPU (other work on a machine stretches the wall clock, and much more so with several threads).
    """
    clock = time.perf_counter if device == "cuda" else time.process_time
    seconds = []
    for repeat in range(warmup + repeats):
        if device == "cuda":
            torch.cuda.synchronize()
        start = clock()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        if repeat >= warmup:
            seconds.append(clock() - start)
    return seconds


class Table:
    """Rows of a Markdown table, printed as they come."""

    def __init__(self) -> None:
        print("| what | median ms | min ms | times ours | |")
        print("| --- | ---: | ---: | ---: | --- |", flush=True)
        self.ours = 0.0

    def row(self, what: str, seconds: Seconds, note: str = "", *, ours: bool = False) -> None:
        """One measurement; ``ours`` sets what the following rows are compared with."""
        median = statistics.median(seconds) * 1e3
        if ours:
            self.ours = median
        ratio = "1" if ours else f"{median / self.ours:.1f}"
        print(
            f"| {what} | {median:.3f} | {min(seconds) * 1e3:.3f} | {ratio} | {note} |", flush=True
        )


def agreement(found: tuple[Tensor, Tensor], exact: tuple[Tensor, Tensor]) -> str:
    """Share of indices that equal the exact ones."""
    same = sum(int((a.to(b.device) == b).sum()) for a, b in zip(found, exact, strict=True))
    return f"{100 * same / sum(map(len, exact)):.3f} % of the indices exact"


def dense(table: Table, desc0: Tensor, desc1: Tensor, device: str, repeats: int) -> None:
    """The dense answer and its peers."""
    size = f"{desc0.shape[1]}x{desc0.shape[0]}"
    found = nearest_neighbours(desc0, desc1)
    exact = found.index01, found.index10
    note = f"{len(found.mutual()[0])} mutual pairs"
    seconds = measure(lambda: nearest_neighbours(desc0, desc1).mutual(), device, repeats)
    table.row(f"dense both ways, {size}, ours", seconds, note, ours=True)
    seconds = measure(
        lambda: nearest_neighbours(desc0, desc1, second_best_px=8.0),
        device,
        max(1, repeats // 4),
        1,
    )
    table.row("the same with second-best similarities", seconds)
    flat0, flat1 = desc0.flatten(0, 1), desc1.flatten(0, 1)
    peers: list[tuple[str, bool, torch.dtype]] = [("torch blocks, float32", False, torch.float32)]
    if device == "cuda":
        peers.append(("torch blocks, TF32 (published)", True, torch.float32))
        peers.append(("torch blocks, float16", False, torch.float16))
    block = 8192 if device == "cuda" else 1024
    for name, tf32, dtype in peers:
        torch.backends.cuda.matmul.allow_tf32 = tf32
        typed0, typed1 = flat0.to(dtype), flat1.to(dtype)
        seconds = measure(partial(blocked_nearest, typed0, typed1, block), device, 2, 1)
        table.row(name, seconds, agreement(blocked_nearest(typed0, typed1, block), exact))
    torch.backends.cuda.matmul.allow_tf32 = False
    for name, peer in (("FAISS flat index", faiss_nearest), ("KeOps", keops_nearest)):
        result = peer(flat0, flat1)
        if result is None:
            print(f"| {name} | not installed | | | |")
            continue
        table.row(
            name, measure(partial(peer, flat0, flat1), device, 2, 0), agreement(result, exact)
        )


def seeded(table: Table, desc0: Tensor, desc1: Tensor, device: str, repeats: int) -> None:
    """Given seeds and the walk from a grid, and the published ways."""
    height, width = desc0.shape[:2]
    rng = torch.Generator().manual_seed(1)
    for count, pairs in ((2000, 1), (2000, 20), (12288, 1)):
        rows = torch.randperm(height * width, generator=rng)[:count]
        xy = torch.stack([rows % width, rows // width], 1)
        maps0, maps1 = ([d.clone() for _ in range(pairs)] for d in (desc0, desc1))
        run = partial(seeded_matches, maps0, maps1, [xy] * pairs, pixel_tol=5)
        kept = int(run()[0].kept.sum())
        label = f"{count} seeds with return check, {pairs} pair{'s' * (pairs > 1)}, ours"
        table.row(label, measure(run, device, repeats), f"{kept} kept", ours=True)
        if pairs == 1:
            asked = rows.to(device)
            seconds = measure(
                partial(published_seeds, desc0, desc1, asked), device, max(2, repeats // 4)
            )
            table.row("published way", seconds)
    step = 8
    found = iterated_matches(desc0, desc1, step=step)[0]
    walk = partial(iterated_matches, desc0, desc1, step=step)
    seeds = (height // step) * (width // step)
    label = f"iterated scheme, {seeds} seeds, ours"
    table.row(label, measure(walk, device, repeats), f"{len(found)} matches", ours=True)
    seconds = measure(lambda: published_scheme(desc0, desc1, step), device, max(2, repeats // 4), 1)
    note = f"{len(published_scheme(desc0, desc1, step))} matches"
    table.row("published way, float32 blocks", seconds, note)
    if device == "cpu" and importlib.util.find_spec("scipy") is not None:
        tree = partial(published_scheme, desc0, desc1, step, TreeSearch)
        table.row("published way, k-d tree", measure(tree, device, 1, 0), f"{len(tree())} matches")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--size", default="512x384", help="width x height of both maps")
    parser.add_argument("--repeats", type=int, default=20)
    parser.add_argument("--threads", type=int, default=1, help="on the CPU")
    parser.add_argument("--parts", nargs="+", default=["dense", "seeded", "sizes"])
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    width, height = map(int, options.size.split("x"))
    on_gpu = options.device == "cuda"
    name = (
        torch.cuda.get_device_name()
        if on_gpu
        else f"{platform.processor()}, {options.threads} threads"
    )
    print(f"{name}; torch {torch.__version__}; {time.strftime('%Y-%m-%d')}\n")
    desc0, desc1 = descriptor_maps(width, height, options.device)
    table = Table()
    if "dense" in options.parts:
        dense(table, desc0, desc1, options.device, options.repeats)
        if on_gpu:
            maps0, maps1 = [desc0] * 20, [desc1] * 20
            seconds = measure(lambda: nearest_neighbours_many(maps0, maps1), "cuda", 3)
            per_pair = [s / 20 for s in seconds]
            table.row("dense, 20 pairs, per pair, ours", per_pair, ours=True)
    if "seeded" in options.parts:
        seeded(table, desc0, desc1, options.device, options.repeats)
    if "sizes" in options.parts:
        sizes = ((224, 224), (320, 240), (512, 384), (640, 480), (1024, 768))
        for width, height in sizes if on_gpu else sizes[:2]:
            maps = descriptor_maps(width, height, options.device)
            seconds = measure(
                partial(mutual_pairs, *maps), options.device, max(2, options.repeats // 4)
            )
            table.row(f"dense both ways, {width}x{height}", seconds, ours=True)


if __name__ == "__main__":
    main()
