"""Checkpoints of every format; files that must not run code; keys that do not fit."""

import argparse
import json
import math
import os
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor

import groundloc
from matching import InputError, load_matcher
from matching.checkpoint import (
    convert_checkpoint,
    parse_constructor,
    read_checkpoint,
    save_checkpoint,
)
from matching.mast3r import Mast3rMatcher, Mast3rOptions
from matching.network import NetworkConfig, PairNetwork, build_network
from tests import golden_adapter
from tests.matching.matcher_suite import textured

# DUSt3R with a linear head, small enough to write in no time
TINY = (
    "AsymmetricCroCo3DStereo(pos_embed='RoPE100', img_size=(64, 64), head_type='linear', "
    "output_mode='pts3d', depth_mode=('exp', -inf, inf), conf_mode=('exp', 1, inf), "
    "enc_embed_dim=16, enc_depth=2, enc_num_heads=2, dec_embed_dim=8, dec_depth=2, "
    "dec_num_heads=2, landscape_only=True)"
)
# the small golden MASt3R as an official file names it
SMALL = (
    "AsymmetricMASt3R(pos_embed='RoPE100', patch_embed_cls='ManyAR_PatchEmbed', img_size=(96, 96),"
    " head_type='catmlp+dpt', output_mode='pts3d+desc24', depth_mode=('exp', -inf, inf), "
    "conf_mode=('exp', 1, inf), enc_embed_dim=192, enc_depth=6, enc_num_heads=3, "
    "dec_embed_dim=128, dec_depth=10, dec_num_heads=4, two_confs=True)"
)


@pytest.fixture
def tiny() -> PairNetwork:
    torch.manual_seed(0)
    return build_network(NetworkConfig.from_arguments(*parse_constructor(TINY))).eval()


def write_pth(path: Path, state: dict[str, Tensor], call: str | None, **more: Any) -> Path:
    """A file as training writes it: a namespace, the weights, and things nobody needs."""
    content: dict[str, Any] = {"model": state, "epoch": 7, "optimizer": {"state": {}}, **more}
    if call is not None:
        content["args"] = argparse.Namespace(model=call, lr=1e-4, output_dir="out")
    torch.save(content, path)
    return path


def same_outputs(a: PairNetwork, b: PairNetwork) -> bool:
    images = torch.linspace(-1, 1, 3 * 32 * 48).reshape(1, 3, 32, 48)
    with torch.no_grad():
        first, second = (network.decode(*[network.encode(images)] * 2)[1] for network in (a, b))
    assert first.pointmap is not None and second.pointmap is not None
    return torch.equal(first.pointmap, second.pointmap)


# --------------------------------------------------------------------------------- the formats


def test_official_file_to_both_other_formats_and_back(tmp_path: Path, tiny: PairNetwork) -> None:
    pth = write_pth(tmp_path / "official.pth", tiny.state_dict(), TINY)
    folder = convert_checkpoint(pth, tmp_path / "folder")
    single = convert_checkpoint(folder, tmp_path / "single.safetensors")
    again = convert_checkpoint(single, tmp_path / "again")
    read = [read_checkpoint(path) for path in (pth, folder, single, again)]
    assert {checkpoint.fingerprint() for checkpoint in read} == {read[0].fingerprint()}
    for checkpoint in read:
        assert not checkpoint.config.landscape_only, "inference takes upright images"
        assert same_outputs(checkpoint.network(), build_like(tiny))
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]


def build_like(network: PairNetwork) -> PairNetwork:
    """The same weights in a network for inference."""
    twin = build_network(network.config.for_inference()).eval()
    twin.load_state_dict(network.state_dict())
    return twin


def test_hub_folder_is_the_published_layout(tmp_path: Path, tiny: PairNetwork) -> None:
    pth = write_pth(tmp_path / "a.pth", tiny.state_dict(), TINY)
    folder = convert_checkpoint(pth, tmp_path / "hub")
    text = (folder / "config.json").read_text()
    values = json.loads(text)
    assert values["depth_mode"] == ["exp", -math.inf, math.inf] and "Infinity" in text
    assert values["img_size"] == [64, 64] and "architecture" not in values
    assert set(load_file(folder / "model.safetensors")) == set(tiny.state_dict())


def test_other_weights_or_settings_have_another_fingerprint(
    tmp_path: Path, tiny: PairNetwork
) -> None:
    first = read_checkpoint(write_pth(tmp_path / "a.pth", tiny.state_dict(), TINY))
    state = {name: tensor.clone() for name, tensor in tiny.state_dict().items()}
    state["enc_norm.bias"][3] += 1e-6
    second = read_checkpoint(write_pth(tmp_path / "b.pth", state, TINY))
    call = TINY.replace("'exp', 1, inf", "'exp', 0, inf")
    third = read_checkpoint(write_pth(tmp_path / "c.pth", tiny.state_dict(), call))
    assert len({c.fingerprint() for c in (first, second, third)}) == 3


def test_half_precision_weights_stay_what_they_are(tmp_path: Path, tiny: PairNetwork) -> None:
    half = {name: tensor.half() for name, tensor in tiny.state_dict().items()}
    save_checkpoint(tiny.config, half, tmp_path / "half.safetensors")
    checkpoint = read_checkpoint(tmp_path / "half.safetensors")
    assert {tensor.dtype for tensor in checkpoint.state.values()} == {torch.float16}
    weight = checkpoint.network().decoder_embed.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, half["decoder_embed.weight"].float())


def test_a_file_with_one_decoder_starts_both_from_it(tmp_path: Path, tiny: PairNetwork) -> None:
    state = {n: t for n, t in tiny.state_dict().items() if not n.startswith("dec_blocks2")}
    checkpoint = read_checkpoint(write_pth(tmp_path / "a.pth", state, TINY))
    network = checkpoint.network()
    for first, second in zip(
        network.dec_blocks.parameters(), network.dec_blocks2.parameters(), strict=True
    ):
        assert torch.equal(first, second)
    convert_checkpoint(tmp_path / "a.pth", tmp_path / "a.safetensors")
    assert read_checkpoint(tmp_path / "a.safetensors").fingerprint() == checkpoint.fingerprint()


@pytest.fixture(scope="module")
def golden_formats(
    tmp_path_factory: pytest.TempPathFactory, golden_state: dict[str, Tensor]
) -> dict[str, Path]:
    """The small golden MASt3R as official file, hub folder and safetensors."""
    folder = tmp_path_factory.mktemp("golden")
    pth = write_pth(folder / "official.pth", golden_state, SMALL)
    command = ["weights", "convert", str(pth)]
    assert groundloc.main([*command, str(folder / "hub")]) == 0
    assert groundloc.main([*command, str(folder / "single.safetensors")]) == 0
    return {
        "pth": pth,
        "folder": folder / "hub",
        "safetensors": folder / "single.safetensors",
    }


@pytest.mark.parametrize("kind", ["pth", "folder", "safetensors"])
def test_command_line_matches_with_a_checkpoint_of_each_format(
    golden_formats: dict[str, Path],
    golden_state: dict[str, Tensor],
    tmp_path: Path,
    kind: str,
    capsys: pytest.CaptureFixture[str],
) -> None:
    for name, image in (("a.png", textured(48, 64)), ("b.png", textured(64, 48, seed=1))):
        Image.fromarray(image).save(tmp_path / name)
    capsys.readouterr()
    command = ["match", str(tmp_path / "a.png"), str(tmp_path / "b.png"), "--json"]
    command += ["--matcher", str(golden_formats[kind])]
    for option in ("long_side_px=64", "min_confidence=0"):
        command += ["--set", f"matcher.{option}"]
    assert groundloc.main(command) == 0
    got = json.loads(capsys.readouterr().out)
    # the same from the weights that were never in a file
    matcher = Mast3rMatcher(
        golden_adapter.small_network(golden_state),
        name="golden",
        fingerprint="none",
        options=Mast3rOptions(long_side_px=64, min_confidence=0),
    )
    expected = matcher.match(tmp_path / "a.png", tmp_path / "b.png")
    assert got["num_matches"] == len(expected) > 0
    np.testing.assert_array_equal(got["keypoints0"], expected.keypoints0)
    np.testing.assert_array_equal(got["keypoints1"], expected.keypoints1)


def test_a_map_made_with_one_format_serves_the_others(golden_formats: dict[str, Path]) -> None:
    prints = {load_matcher(str(path)).fingerprint for path in golden_formats.values()}
    assert len(prints) == 1


def test_a_shared_tensor_may_have_either_name_or_both(
    tmp_path: Path, golden_formats: dict[str, Path]
) -> None:
    stored = load_file(golden_formats["folder"] / "model.safetensors")
    assert not any("layer_rn." in name for name in stored), "stored once"
    expected = read_checkpoint(golden_formats["pth"]).fingerprint()
    other = {
        name.replace("layer1_rn.", "layer_rn.0.") if "layer1_rn" in name else name: tensor
        for name, tensor in stored.items()
    }
    text = (golden_formats["folder"] / "config.json").read_text()
    (tmp_path / "config.json").write_text(text)
    save_file(other, tmp_path / "model.safetensors")
    assert read_checkpoint(tmp_path).fingerprint() == expected
    twin = "downstream_head1.dpt.scratch.layer_rn.0.weight"
    both = {**other, twin.replace("layer_rn.0", "layer1_rn"): other[twin] + 1}
    save_file(both, tmp_path / "model.safetensors")
    with pytest.raises(InputError, match=r"differs from .*layer1_rn"):
        read_checkpoint(tmp_path)


# ------------------------------------------------------------------------------ no code is run


class Trap:
    """Unpickling this would make a folder."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Callable[..., object], tuple[str]]:
        return (os.mkdir, (str(self.path),))


@pytest.mark.parametrize("place", ["args", "model", "elsewhere", "plain pickle"])
def test_a_trapped_file_runs_nothing(tmp_path: Path, tiny: PairNetwork, place: str) -> None:
    sprung = tmp_path / "sprung"
    trap: Any = Trap(sprung)
    path = tmp_path / "trapped.pth"
    if place == "args":
        torch.save({"args": trap, "model": tiny.state_dict()}, path)
    elif place == "model":
        torch.save({"args": argparse.Namespace(model=TINY), "model": {"x": trap}}, path)
    elif place == "elsewhere":
        write_pth(path, tiny.state_dict(), TINY, scaler=trap)
    else:
        path.write_bytes(pickle.dumps(trap, protocol=2))
    with pytest.raises(InputError) as refused:
        read_checkpoint(path)
    assert not sprung.exists()
    message = str(refused.value)
    assert "\n" not in message and "trapped.pth" in message
    assert "would run code ('posix.mkdir')" in message
    pickle.loads(pickle.dumps(trap))  # the trap is a real one: plain pickle springs it
    assert sprung.exists()


@pytest.mark.parametrize(
    "call",
    [
        "__import__('os').mkdir('sprung')",
        "AsymmetricMASt3R(enc_depth=__import__('os').mkdir('sprung'))",
        "AsymmetricMASt3R(enc_depth=(lambda: 3)())",
        "AsymmetricMASt3R(enc_depth=[3 for _ in range(9)])",
        "AsymmetricMASt3R(**{'enc_depth': 3})",
        "AsymmetricMASt3R(3)",
        "AsymmetricMASt3R(enc_depth=x)",
        "AsymmetricMASt3R(enc_depth=3); 4",
        "AsymmetricMASt3R(enc_depth=-'3')",
        "os.AsymmetricMASt3R(enc_depth=3)",
        "AsymmetricMASt3R",
        "(",
        "",
        "(" * 5000,
    ],
)
def test_constructor_texts_that_are_no_plain_calls(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError):
        parse_constructor(call)
    assert not Path("sprung").exists()


def test_constructor_text() -> None:
    text = "Net(a=1, b=-2.5, c=('exp', -inf, inf), d=[True, None], e='x=1, y')"
    assert parse_constructor(text) == (
        "Net",
        {"a": 1, "b": -2.5, "c": ("exp", -math.inf, math.inf), "d": (True, None), "e": "x=1, y"},
    )


# --------------------------------------------------------------------- files that do not fit


def test_every_wrong_key_is_named(tmp_path: Path, tiny: PairNetwork) -> None:
    state = dict(tiny.state_dict())
    del state["enc_norm.weight"], state["dec_blocks2.1.mlp.fc2.bias"]
    state["decoder_embed.weight"] = torch.zeros(8, 15)
    state["enc_blocks.9.norm1.weight"] = torch.zeros(16)
    state["mask_token"] = torch.zeros(1, 1, 8, dtype=torch.int64)
    with pytest.raises(InputError) as wrong:
        read_checkpoint(write_pth(tmp_path / "a.pth", state, TINY))
    for text in (
        "missing: dec_blocks2.1.mlp.fc2.bias, enc_norm.weight",
        "unexpected: enc_blocks.9.norm1.weight",
        "decoder_embed.weight is (8, 15) instead of (8, 16)",
        "mask_token is no floating-point tensor",
    ):
        assert text in str(wrong.value)
    assert "\n" not in str(wrong.value)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (None, "does not say which network"),
        ("Unknown(enc_depth=3)", "of class 'Unknown'"),
        (TINY.replace("head_type", "head_kind"), "unknown setting head_kind"),
        (TINY.replace("enc_depth=2", "enc_depth=0"), "enc_depth must be > 0"),
        (TINY.replace("landscape_only", "desc_mode='raw', landscape_only"), "only 'norm' is"),
        ("print('x')", "no constructor call"),
    ],
)
def test_checkpoints_of_other_networks(
    tmp_path: Path, tiny: PairNetwork, call: str | None, message: str
) -> None:
    path = write_pth(tmp_path / "a.pth", tiny.state_dict(), call)
    with pytest.raises(InputError, match=message) as error:
        read_checkpoint(path)
    assert "a.pth" in str(error.value)


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
@pytest.mark.parametrize("damage", ["empty", "text", "cut"])
def test_damaged_files(tmp_path: Path, tiny: PairNetwork, suffix: str, damage: str) -> None:
    good = write_pth(tmp_path / "good.pth", tiny.state_dict(), TINY)
    if suffix == ".safetensors":
        good = convert_checkpoint(good, tmp_path / "good.safetensors")
    whole = good.read_bytes()
    path = tmp_path / f"bad{suffix}"
    path.write_bytes(
        {"empty": b"", "text": b"not a checkpoint\n" * 9, "cut": whole[: len(whole) // 2]}[damage]
    )
    with pytest.raises(InputError, match="bad") as error:
        read_checkpoint(path)
    assert "\n" not in str(error.value)


def test_places_without_a_checkpoint(tmp_path: Path, tiny: PairNetwork) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(InputError, match=r"has no config\.json"):
        read_checkpoint(tmp_path / "folder")
    (tmp_path / "folder" / "config.json").write_text("{")
    save_file({"x": torch.zeros(1)}, tmp_path / "folder" / "model.safetensors")
    with pytest.raises(InputError, match="no valid configuration"):
        read_checkpoint(tmp_path / "folder")
    (tmp_path / "lonely").mkdir()
    save_file({"x": torch.zeros(1)}, tmp_path / "lonely" / "x.safetensors")
    with pytest.raises(InputError, match=r"put its config\.json beside it"):
        read_checkpoint(tmp_path / "lonely" / "x.safetensors")
    (tmp_path / "x.bin").write_bytes(b"x")
    with pytest.raises(InputError, match="is no checkpoint: expected"):
        read_checkpoint(tmp_path / "x.bin")
    with pytest.raises(InputError, match=r"no checkpoint '.*missing\.pth'"):
        read_checkpoint(tmp_path / "missing.pth")


def test_conversion_leaves_other_things_alone(tmp_path: Path, tiny: PairNetwork) -> None:
    pth = write_pth(tmp_path / "a.pth", tiny.state_dict(), TINY)
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "x.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match="folder of something else"):
        convert_checkpoint(pth, tmp_path / "photos")
    with pytest.raises(InputError, match=r"must end in \.safetensors"):
        convert_checkpoint(pth, tmp_path / "b.pth")
    out = convert_checkpoint(pth, tmp_path / "b.safetensors")
    before = out.read_bytes()
    pth.write_bytes(b"broken")
    with pytest.raises(InputError):
        convert_checkpoint(pth, out)
    assert out.read_bytes() == before
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a.pth", "b.safetensors", "photos"]
