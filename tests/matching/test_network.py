"""The network family against golden numbers, and the engine against plain calls of the network."""

import hashlib
import importlib
import json
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from matching import InputError
from matching.network import (
    EVERYTHING,
    NOTHING,
    Encoding,
    PairNetwork,
    Prediction,
    Want,
    build_network,
)
from matching.network.blocks import Rope, grid_positions, rope_table, rotate
from matching.network.engine import Engine, EngineOptions
from tests import golden_adapter
from tests.golden_adapter import revived
from tests.golden_rule import golden_images

GOLDEN = json.loads(
    (Path(__file__).parents[1] / "data" / "golden_network.json").read_text(encoding="utf-8")
)
CASES = {case["name"]: case for case in GOLDEN["mast3r_small"]}
# of max |a - reference| / max |reference|; two float32 implementations differ by up to 1.4e-5
TOLERANCE = 1e-4


# ------------------------------------------------------------------------------- golden numbers


@pytest.mark.parametrize("name", CASES)
def test_golden_outputs(name: str, golden_state: dict[str, Tensor]) -> None:
    case = CASES[name]
    config = revived({**GOLDEN["configs"]["mast3r_small"], **case["overrides"]})
    images = [torch.from_numpy(golden_images(case[f"seeds{i}"], *case[f"hw{i}"])) for i in (1, 2)]
    shapes = [torch.tensor(case[f"true_shape{i}"]) for i in (1, 2)]
    with torch.no_grad():
        out = golden_adapter.impl(config, golden_state, *images, *shapes)
    for key, want in case["outputs"].items():
        got = out[key].numpy()
        assert list(got.shape) == want["shape"], key
        part = got[tuple(slice(start, None, step) for start, step in want["sub"])]
        error = np.abs(part.reshape(-1)[:: want["step"]] - want["values"]).max() / want["scale"]
        assert error < TOLERANCE, (key, error)


@pytest.mark.parametrize("model", GOLDEN["keys"])
def test_names_and_shapes_are_the_published_ones(model: str) -> None:
    keys = list(golden_adapter.keys(revived(GOLDEN["configs"][model])))
    lines = sorted(f"{name} {shape}" for name, shape in keys)
    assert len(lines) == GOLDEN["keys"][model]["number"]
    digest = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    assert digest == GOLDEN["keys"][model]["sha256"]


@pytest.mark.shared
def test_golden_files_in_full(
    shared: Path, golden_state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Everything but the networks of full size, which are checked below."""
    check = golden_check(shared, monkeypatch)
    # drawn already by the same rule
    arrays = {name: tensor.numpy() for name, tensor in golden_state.items()}
    monkeypatch.setattr(check.gw, "golden_state", lambda manifest: arrays)
    report = check.Report(quiet=True)
    check.check_models(
        *(golden_adapter.impl, ["mast3r_small"], None, report, TOLERANCE, "cpu", "pth")
    )
    check.check_keys(golden_adapter.keys, check.MODELS, report)
    check.check_load_images(golden_adapter.load_images, report)
    check.check_visloc_resize(golden_adapter.visloc_resize, report)
    check.check_rescale_points(golden_adapter.rescale_points, report)
    check.check_focal(golden_adapter.focal, report)
    assert report.n > 500 and report.bad == 0


@pytest.mark.shared
@pytest.mark.skipif(
    "GROUNDLOC_LARGE" not in os.environ,
    reason="takes minutes and 4 GB: set GROUNDLOC_LARGE=1 to check the networks of full size",
)
@pytest.mark.parametrize("model", ["dust3r_linear", "dust3r_vitl_dpt", "mast3r_vitl"])
def test_golden_files_of_large_models(
    shared: Path, model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    check = golden_check(shared, monkeypatch)
    report = check.Report(quiet=True)
    check.check_models(golden_adapter.impl, [model], None, report, TOLERANCE, "cpu", "safetensors")
    assert report.n > 40 and report.bad == 0


def golden_check(shared: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The program of the golden files as a module."""
    monkeypatch.syspath_prepend(str(shared / "golden"))
    return importlib.import_module("check_golden")


# ---------------------------------------------------------------------------- rotary positions


def plain_rotation(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """The slow twin: each pair of channels as one complex number, in float64."""
    quarter = x.shape[-1] // 4
    out = x.double().clone()
    for half, axis in ((0, 0), (1, 1)):
        for j in range(quarter):
            a, b = 2 * half * quarter + j, 2 * half * quarter + quarter + j
            angle = positions[..., axis, None].double() * base ** (-j / quarter)
            turned = torch.complex(x[..., a].double(), x[..., b].double()) * torch.polar(
                torch.ones_like(angle), angle
            )
            out[..., a], out[..., b] = turned.real, turned.imag
    return out


@pytest.mark.parametrize("grid", [(1, 1), (1, 7), (5, 3)])
@pytest.mark.parametrize("head_dim", [4, 12, 64])
def test_rotation_is_the_plain_one(grid: tuple[int, int], head_dim: int) -> None:
    positions = grid_positions(*grid)
    x = torch.randn(2, len(positions), 3, head_dim, generator=torch.Generator().manual_seed(0))
    fast = rotate(x, rope_table(positions, head_dim, 100.0))
    torch.testing.assert_close(
        fast.double(), plain_rotation(x, positions, 100.0), atol=1e-5, rtol=0
    )


def test_rotation_depends_on_differences_only() -> None:
    positions = grid_positions(4, 5)
    g = torch.Generator().manual_seed(0)
    q, k = torch.randn(1, 20, 1, 16, generator=g), torch.randn(1, 20, 1, 16, generator=g)

    def products(rope: Rope) -> Tensor:
        return torch.einsum("bqhd,bkhd->bhqk", rotate(q, rope), rotate(k, rope))

    torch.testing.assert_close(
        products(rope_table(positions, 16, 100.0)),
        products(rope_table(positions + torch.tensor([3, 11]), 16, 100.0)),
        atol=1e-4,
        rtol=0,
    )


# ---------------------------------------------------------------- decoding only what is wanted


@pytest.fixture(scope="module")
def images() -> Tensor:
    return torch.from_numpy(golden_images([11, 12, 13], 48, 80))


@pytest.fixture(scope="module")
def encoded(small_network: PairNetwork, images: Tensor) -> Encoding:
    with torch.no_grad():
        return small_network.encode(images)


@pytest.fixture(scope="module")
def decoded(small_network: PairNetwork, encoded: Encoding) -> tuple[Prediction, Prediction]:
    """View 0 is image 0 three times, view 1 are the images; everything."""
    with torch.no_grad():
        return small_network.decode(encoded[:1], encoded)


def close(a: Tensor | None, b: Tensor | None, tolerance: float = 1e-5) -> bool:
    assert a is not None and b is not None and a.shape == b.shape
    return float((a - b).abs().max()) <= tolerance * float(b.abs().max())


def test_one_query_against_many_equals_pairs_alone(
    small_network: PairNetwork, encoded: Encoding, decoded: tuple[Prediction, Prediction]
) -> None:
    for row in range(3):
        with torch.no_grad():
            alone = small_network.decode(encoded[:1], encoded[row : row + 1])
        for together, single in zip(decoded, alone, strict=True):
            for name in vars(single):
                assert close(getattr(together, name)[row : row + 1], getattr(single, name)), name


@pytest.mark.parametrize(
    ("want0", "want1"),
    [
        (Want(descriptors=True), NOTHING),
        (NOTHING, Want(descriptors=True)),
        (Want(pointmap=True), Want(descriptors=True)),
        (NOTHING, EVERYTHING),
        (NOTHING, NOTHING),
    ],
)
def test_wanted_outputs_equal_those_of_the_full_pass(
    small_network: PairNetwork,
    encoded: Encoding,
    decoded: tuple[Prediction, Prediction],
    want0: Want,
    want1: Want,
) -> None:
    with torch.no_grad():
        part = small_network.decode(encoded[:1], encoded, want0, want1)
    for want, got, full in zip((want0, want1), part, decoded, strict=True):
        for name, wanted in (
            ("pointmap", want.pointmap),
            ("confidence", want.pointmap),
            ("descriptors", want.descriptors),
            ("descriptor_confidence", want.descriptors),
        ):
            if wanted:
                assert close(getattr(got, name), getattr(full, name)), name
            else:
                assert getattr(got, name) is None, name


def test_the_last_block_of_an_unwanted_side_is_not_computed(
    small_network: PairNetwork, encoded: Encoding
) -> None:
    calls: list[str] = []
    hooks = [
        blocks[-1].register_forward_hook(lambda *_, name=name: calls.append(name))
        for name, blocks in (
            ("first", small_network.dec_blocks),
            ("second", small_network.dec_blocks2),
        )
    ]
    with torch.no_grad():
        small_network.decode(encoded[:1], encoded[1:2], Want(descriptors=True), NOTHING)
    for hook in hooks:
        hook.remove()
    assert calls == ["first"]


@pytest.mark.parametrize("number", [0, 1, 37])
def test_descriptors_at_pixels_equal_the_dense_ones(
    small_network: PairNetwork,
    encoded: Encoding,
    decoded: tuple[Prediction, Prediction],
    number: int,
) -> None:
    g = torch.Generator().manual_seed(number)
    x = torch.randint(0, 80, (3, number), generator=g)
    y = torch.randint(0, 48, (3, number), generator=g)
    pixels = torch.stack((x, y), -1)
    with torch.no_grad():
        _, got = small_network.decode(
            encoded[:1], encoded, NOTHING, Want(descriptors=True, pixels=pixels)
        )
    dense = decoded[1]
    assert dense.descriptors is not None and got.descriptors is not None
    rows = torch.arange(3)[:, None]
    assert got.descriptors.shape == (3, number, 24)
    if number:
        assert close(got.descriptors, dense.descriptors[rows, y, x])
        assert dense.descriptor_confidence is not None
        assert close(got.descriptor_confidence, dense.descriptor_confidence[rows, y, x], 1e-4)


def test_descriptors_share_the_confidence_of_points_without_their_own(encoded: Encoding) -> None:
    config = replace(
        golden_adapter.network_config(revived(GOLDEN["configs"]["mast3r_small"])),
        two_confs=False,
    ).for_inference()
    torch.manual_seed(0)
    network = build_network(config).eval()
    pixels = torch.tensor([[[3, 5], [79, 47]]])
    with torch.no_grad():
        full, _ = network.decode(encoded[:1], encoded[1:2])
        got, _ = network.decode(
            encoded[:1], encoded[1:2], Want(descriptors=True, pixels=pixels), NOTHING
        )
    assert full.confidence is not None and full.descriptor_confidence is not None
    assert torch.equal(full.confidence, full.descriptor_confidence)
    expected = full.confidence[0, pixels[0, :, 1], pixels[0, :, 0]]
    assert close(got.descriptor_confidence, expected[None])
    assert got.confidence is None and got.pointmap is None


def test_image_sides_must_be_multiples_of_the_patch(small_network: PairNetwork) -> None:
    with pytest.raises(ValueError, match="multiples of 16"):
        small_network.encode(torch.zeros(1, 3, 40, 64))


# ------------------------------------------------------------------------------------- engine


def engine_of(network: PairNetwork, **options: Any) -> Engine:
    return Engine(network, options=EngineOptions(**options))


def test_batches_of_the_engine_change_nothing(
    small_network: PairNetwork, images: Tensor, decoded: tuple[Prediction, Prediction]
) -> None:
    engine = engine_of(small_network, max_batch=2)
    encoding = engine.encode(images)
    got = engine.decode(encoding[:1], encoding)
    for a, b in zip(got, decoded, strict=True):
        for name in vars(b):
            assert close(getattr(a, name), getattr(b, name)), name
    pixels = torch.tensor([[[1, 2]], [[3, 4]], [[5, 6]]])
    want = Want(descriptors=True, pixels=pixels)
    sparse = engine.decode(encoding[:1], encoding, NOTHING, want)[1]
    assert sparse.descriptors is not None and decoded[1].descriptors is not None
    expected = decoded[1].descriptors[torch.arange(3), pixels[:, 0, 1], pixels[:, 0, 0]]
    assert close(sparse.descriptors[:, 0], expected)


class CrampedNetwork:
    """Runs out of GPU memory above a batch size; counts the batches that it was asked for."""

    def __init__(self, network: PairNetwork, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        self.batches: list[int] = []
        self.limit = limit
        encode, decode = network.encode, network.decode

        def check(batch: int) -> None:
            self.batches.append(batch)
            if batch > self.limit:
                raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

        def cramped_encode(images: Tensor) -> Encoding:
            check(len(images))
            return encode(images)

        def cramped_decode(first: Encoding, second: Encoding, *wants: Want) -> Any:
            check(max(len(first), len(second)))
            return decode(first, second, *wants)

        monkeypatch.setattr(network, "encode", cramped_encode)
        monkeypatch.setattr(network, "decode", cramped_decode)


def test_out_of_gpu_memory_means_smaller_batches(
    small_network: PairNetwork,
    images: Tensor,
    decoded: tuple[Prediction, Prediction],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    engine = engine_of(small_network, max_batch=64)
    cramped = CrampedNetwork(small_network, monkeypatch, limit=1)
    encoding = engine.encode(images)
    assert len(encoding) == len(images) == 3
    assert cramped.batches[0] == 3 and cramped.batches[-3:] == [1, 1, 1]
    assert "going on with batches of" in caplog.text
    got = engine.decode(encoding[:1], encoding)
    for a, b in zip(got, decoded, strict=True):
        for name in vars(b):
            assert close(getattr(a, name), getattr(b, name)), name


def test_caches_are_emptied_before_a_single_pair_is_given_up(
    small_network: PairNetwork, encoded: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small_network, max_batch=1)
    cramped = CrampedNetwork(small_network, monkeypatch, limit=0)

    def free() -> None:
        emptied.append(len(cramped.batches))
        cramped.limit = 1

    emptied: list[int] = []
    engine.caches.append(free)
    points = engine.decode(encoded[:1], encoded)[0].pointmap
    assert points is not None and len(points) == len(encoded) == 3
    assert emptied == [1] and cramped.batches == [1, 1, 1, 1]
    cramped.limit = 0  # they were filled since
    engine.decode(encoded[:1], encoded[:1])
    assert emptied == [1, 5]


def test_caches_are_emptied_as_often_as_they_fill(
    small_network: PairNetwork, encoded: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small_network, max_batch=1)
    decode, tried, emptied = small_network.decode, list[int](), list[int]()

    def full_every_other_time(*arguments: Any) -> Any:
        tried.append(len(tried))
        if len(emptied) < (len(tried) + 1) // 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return decode(*arguments)

    monkeypatch.setattr(small_network, "decode", full_every_other_time)
    engine.caches.append(lambda: emptied.append(len(tried)))
    points = engine.decode(encoded[:1], encoded)[0].pointmap
    assert points is not None and len(points) == 3
    assert len(tried) == 6 and emptied == [1, 3, 5]


def test_no_gpu_memory_for_a_single_pair_is_told_in_one_line(
    small_network: PairNetwork, encoded: Encoding, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small_network, max_batch=2)
    CrampedNetwork(small_network, monkeypatch, limit=0)
    with pytest.raises(InputError, match=r"network image of \d+ x \d+ and .*long_side_px") as told:
        engine.decode(encoded[:1], encoded)
    assert "\n" not in str(told.value)


def test_symmetric_decoding_equals_both_orders(small_network: PairNetwork) -> None:
    engine = engine_of(small_network)
    wide = engine.encode(torch.from_numpy(golden_images([1, 2], 48, 80)))
    tall = engine.encode(torch.from_numpy(golden_images([3], 80, 48)))
    for first, second in ((wide[:1], wide[1:]), (wide[:1], tall)):
        in0, in1 = engine.decode_symmetric(first, second)
        for got, expected in (
            (in0, engine.decode(first, second)),
            (in1[::-1], engine.decode(second, first)),
        ):
            for a, b in zip(got, expected, strict=True):
                assert close(a.pointmap, b.pointmap) and close(a.descriptors, b.descriptors)


def test_encodings_stored_in_half_precision_give_the_same_descriptors(
    small_network: PairNetwork, encoded: Encoding, decoded: tuple[Prediction, Prediction]
) -> None:
    stored = encoded.map(lambda tensor: tensor.half())
    with torch.no_grad():
        got = small_network.decode(stored[:1], stored, *(Want(descriptors=True),) * 2)
    for a, b in zip(got, decoded, strict=True):
        assert a.descriptors is not None and b.descriptors is not None
        # eleven bits of the tokens through peaky attention; 0.99999 was measured
        assert (a.descriptors * b.descriptors).sum(-1).min() > 0.9995


@pytest.mark.parametrize(("precision", "cosine"), [("bfloat16", 0.999), ("float16", 0.9999)])
def test_half_precision_stays_close(
    golden_state: dict[str, Tensor],
    images: Tensor,
    decoded: tuple[Prediction, Prediction],
    precision: str,
    cosine: float,
) -> None:
    engine = engine_of(golden_adapter.small_network(golden_state), precision=precision)
    encoding = engine.encode(images)
    got = engine.decode(encoding[:1], encoding)
    for a, b in zip(got, decoded, strict=True):
        assert a.descriptors is not None and b.descriptors is not None
        assert a.descriptors.dtype == torch.float32
        assert (a.descriptors * b.descriptors).sum(-1).mean() > cosine
        assert a.pointmap is not None and a.pointmap.dtype == torch.float32


def test_recorded_launches_need_a_gpu(small_network: PairNetwork) -> None:
    with pytest.raises(InputError, match="needs a GPU"):
        engine_of(small_network, acceleration="graphs")


def test_a_batch_fits_in_free_memory(
    small_network: PairNetwork, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = engine_of(small_network)
    assert engine.max_batch((512, 384)) == 1  # a CPU is filled by one
    monkeypatch.setattr(engine, "device", torch.device("meta"))
    monkeypatch.setattr("matching.network.engine.free_memory", lambda device: 8_000_000_000)
    everything = engine.max_batch((512, 384), (512, 384), EVERYTHING, EVERYTHING)
    matching = engine.max_batch((512, 384), (512, 384), *(Want(descriptors=True),) * 2)
    assert 1 <= everything < matching <= 64
    assert engine.max_batch((51200, 38400)) == 1


@pytest.mark.gpu
@pytest.mark.parametrize("acceleration", ["none", "graphs"])
def test_gpu_agrees_with_cpu(
    golden_state: dict[str, Tensor],
    images: Tensor,
    decoded: tuple[Prediction, Prediction],
    acceleration: str,
) -> None:
    options = EngineOptions(precision="float32", acceleration=acceleration)  # type: ignore[arg-type]
    engine = Engine(golden_adapter.small_network(golden_state), device="cuda", options=options)
    for _ in range(4):  # plain, recorded, replayed twice
        encoding = engine.encode(images)
        got = engine.decode(encoding[:1], encoding)
        for a, b in zip(got, decoded, strict=True):
            assert a.descriptors is not None and b.descriptors is not None
            # convolutions may use tf32, whose eleven bits the peaky golden attention amplifies
            assert (a.descriptors.cpu() * b.descriptors).sum(-1).mean() > 0.9999
