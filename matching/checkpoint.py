"""Checkpoints: official ``.pth``, hub folders and ids, safetensors. Nothing in a file ever runs.

A ``.pth`` is unpickled by torch's restricted reader, which builds tensors and plain values and
knows one class beside them, `argparse.Namespace`; the constructor call it holds as text is parsed,
not evaluated.
"""

import argparse
import ast
import hashlib
import json
import math
import pickle
import re
import zipfile
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from matching.errors import InputError
from matching.files import PathLike, atomic_file, atomic_folder, existing_file
from matching.hub import download, is_hub_id
from matching.network import NetworkConfig, PairNetwork, build_network

WEIGHTS_NAME = "model.safetensors"
CONFIG_NAME = "config.json"
_CONFIG_KEY = "groundloc_config"  # in the metadata of a plain safetensors file
_TORCH_SUFFIXES = (".pth", ".pt", ".ckpt")
# the second of the two names that the four convolutions have in official state dicts
_ALIAS = re.compile(r"scratch\.layer_rn\.([0-3])\.")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A network's configuration and weights, checked against each other.

    Attributes:
        config: Configuration for inference (upright images).
        state: Every parameter once by name, in the dtype of the file.
        source: Where it was read from, for messages.
    """

    config: NetworkConfig
    state: Mapping[str, Tensor]
    source: str

    def network(self) -> PairNetwork:
        """A network with these weights, in evaluation mode, float32 on the CPU."""
        network = _empty_network(self.config)
        state = {name: tensor.to(torch.float32) for name, tensor in self.state.items()}
        for name in network.state_dict():
            state.setdefault(name, state[_canonical(name)])
        network.load_state_dict(state, assign=True)
        return network.requires_grad_(False).eval()

    def fingerprint(self) -> str:
        """SHA-256 over configuration and weights; the same in every file format."""

        def digest(name: str) -> bytes:
            tensor = self.state[name].contiguous()
            head = f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode()
            whole = hashlib.sha256(head)
            whole.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
            return whole.digest()

        total = hashlib.sha256(_config_json(self.config, self.config.architecture).encode())
        with ThreadPoolExecutor() as pool:  # hashing releases the interpreter's lock
            for part in pool.map(digest, sorted(self.state)):
                total.update(part)
        return total.hexdigest()


def read_checkpoint(source: PathLike) -> Checkpoint:
    """Read a checkpoint.

    Args:
        source: An official ``.pth``, a hub folder (config.json and model.safetensors), a
            safetensors file (ours, or with its config.json beside it), or a hub id
            ``owner/name`` with an optional ``@revision``.

    Raises:
        InputError: No such file or id, not one of these formats, a pickle that asks for code, an
            unknown network, or weights that do not fit it (every wrong key is named).
        MissingPackageError: A hub id without the package ``huggingface_hub``.
    """
    path = Path(source)
    if not path.exists() and is_hub_id(str(source)):
        return _read_folder(download(str(source), (CONFIG_NAME, WEIGHTS_NAME)), str(source))
    if path.is_dir():
        return _read_folder(path, str(source))
    existing_file(path, "checkpoint")
    if path.suffix in _TORCH_SUFFIXES:
        return _read_torch(path)
    if path.suffix == ".safetensors":
        return _read_safetensors(path)
    raise InputError(
        f"'{path}' is no checkpoint: expected {', '.join(_TORCH_SUFFIXES)}, .safetensors, a folder "
        f"with {CONFIG_NAME}, or a hub id"
    )


def convert_checkpoint(source: PathLike, target: PathLike) -> Path:
    """Rewrite a checkpoint in a format without pickle.

    Args:
        source: Whatever `read_checkpoint` takes.
        target: ``NAME.safetensors`` for one file that knows its configuration, or a name without
            a suffix for a hub folder, which other programs can load too. Replaced if it exists.

    Returns:
        The target.

    Raises:
        InputError: As `read_checkpoint`; or a target of another kind.
    """
    out = Path(target)
    if out.suffix not in ("", ".safetensors"):
        raise InputError(f"'{out}': the target must end in .safetensors or be a folder's name")
    if (
        out.suffix == ""
        and out.is_dir()
        and any(out.iterdir())
        and not (out / CONFIG_NAME).exists()
    ):
        raise InputError(f"'{out}' is a folder of something else; choose another name")
    checkpoint = read_checkpoint(source)
    if out.suffix:
        save_checkpoint(checkpoint.config, checkpoint.state, out)
        return out
    with atomic_folder(out) as folder:
        text = _config_json(checkpoint.config, _hub_architecture(checkpoint.config))
        (folder / CONFIG_NAME).write_text(text, encoding="utf-8")
        save_file(_unshared(checkpoint.state), folder / WEIGHTS_NAME, metadata={"format": "pt"})
    return out


def save_checkpoint(config: NetworkConfig, state: Mapping[str, Tensor], path: PathLike) -> None:
    """Write one safetensors file that `read_checkpoint` takes, through a temporary name.

    Args:
        config: Configuration of the network.
        state: Its state dict, on the CPU, in the dtype to store; a tensor of two names is stored
            once.
        path: The file, named ``*.safetensors``.
    """
    metadata = {"format": "pt", _CONFIG_KEY: _config_json(config, config.architecture)}
    tensors = {name: tensor for name, tensor in state.items() if _canonical(name) == name}
    with atomic_file(path) as temporary:
        save_file(_unshared(tensors), temporary, metadata=metadata)


def parse_constructor(text: str) -> tuple[str, dict[str, Any]]:
    """Parse a constructor call as text, for example ``Net(depth=3, mode=('exp', -inf, inf))``.

    Args:
        text: A call of a plain name with keyword arguments of literals, tuples, lists and
            infinities.

    Returns:
        The name and the keyword arguments.

    Raises:
        InputError: Anything else, which is neither evaluated nor called.
    """
    try:
        tree = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise InputError(f"'{_short(text)}' is no constructor call") from error
    if not isinstance(tree, ast.Call) or not isinstance(tree.func, ast.Name) or tree.args:
        raise InputError(f"'{_short(text)}' is no constructor call with keyword arguments")
    arguments: dict[str, Any] = {}
    for keyword in tree.keywords:
        if keyword.arg is None:
            raise InputError(f"'{_short(text)}' has arguments that are not plain values")
        arguments[keyword.arg] = _literal(keyword.value, text)
    return tree.func.id, arguments


def _literal(node: ast.expr, text: str) -> Any:
    if isinstance(node, ast.Constant):
        return node.value
    if isinstance(node, ast.Name) and node.id == "inf":
        return math.inf
    if isinstance(node, ast.Tuple | ast.List):
        return tuple(_literal(item, text) for item in node.elts)
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub | ast.UAdd):
        value = _literal(node.operand, text)
        if isinstance(value, int | float) and not isinstance(value, bool):
            return -value if isinstance(node.op, ast.USub) else value
    raise InputError(f"'{_short(text)}' has the argument '{ast.unparse(node)}', no plain value")


def _read_torch(path: Path) -> Checkpoint:
    try:
        with torch.serialization.safe_globals([argparse.Namespace]):
            content = torch.load(
                path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path)
            )
    except pickle.UnpicklingError as error:
        wanted = re.search(r"GLOBAL ([\w.]+)", str(error))
        if wanted is None:
            raise InputError(f"'{path}' is damaged or no torch checkpoint") from error
        raise InputError(
            f"'{path}' is refused: loading it would run code ('{wanted.group(1)}'); a checkpoint "
            "may hold tensors and plain values only"
        ) from error
    except (RuntimeError, EOFError, ValueError, LookupError, TypeError, OSError) as error:
        raise InputError(f"'{path}' is damaged or no torch checkpoint") from error
    if not isinstance(content, dict) or not isinstance(content.get("model"), dict):
        raise InputError(f"'{path}' holds no state dict under 'model'")
    call = getattr(content.get("args"), "model", None)
    if not isinstance(call, str):
        raise InputError(f"'{path}' does not say which network it is of ('args.model' is missing)")
    try:
        config = NetworkConfig.from_arguments(*parse_constructor(call))
    except InputError as error:
        raise InputError(f"'{path}': {error}") from error
    return _checked(config, content["model"], str(path))


def _read_safetensors(path: Path) -> Checkpoint:
    state, metadata = _read_tensors(path)
    if _CONFIG_KEY in metadata:
        config = _parse_config(metadata[_CONFIG_KEY], str(path))
    elif (path.parent / CONFIG_NAME).is_file():
        config = _read_config(path.parent / CONFIG_NAME)
    else:
        raise InputError(
            f"'{path}' does not say which network it is of: put its {CONFIG_NAME} beside it"
        )
    return _checked(config, state, str(path))


def _read_folder(folder: Path, source: str) -> Checkpoint:
    for name in (CONFIG_NAME, WEIGHTS_NAME):
        if not (folder / name).is_file():
            raise InputError(f"'{source}' is no checkpoint folder: it has no {name}")
    config = _read_config(folder / CONFIG_NAME)
    return _checked(config, _read_tensors(folder / WEIGHTS_NAME)[0], source)


def _read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except SafetensorError as error:
        raise InputError(f"'{path}' is damaged or no safetensors file: {error}") from error


def _read_config(path: Path) -> NetworkConfig:
    try:
        text = path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"'{path}' is no network configuration") from error
    return _parse_config(text, str(path))


def _parse_config(text: str, source: str) -> NetworkConfig:
    try:
        arguments = json.loads(text)  # Python's dialect: Infinity is a number
    except json.JSONDecodeError as error:
        raise InputError(f"'{source}' has no valid configuration: {error}") from error
    if not isinstance(arguments, dict):
        raise InputError(f"'{source}' has no valid configuration: no mapping")
    # the published folders do not name the class; only MASt3R has descriptors
    descriptors = "desc" in str(arguments.get("output_mode", ""))
    published = "AsymmetricMASt3R" if descriptors else "AsymmetricCroCo3DStereo"
    architecture = str(arguments.pop("architecture", published))
    try:
        return NetworkConfig.from_arguments(architecture, arguments)
    except InputError as error:
        raise InputError(f"'{source}': {error}") from error


def _config_json(config: NetworkConfig, architecture: str | None) -> str:
    arguments = config.for_inference().to_arguments()
    if architecture is not None:
        arguments["architecture"] = architecture
    return json.dumps(arguments, sort_keys=True, indent=1)


def _hub_architecture(config: NetworkConfig) -> str | None:
    """What config.json must name; the published classes are not named there."""
    return config.architecture if config.architecture == "GroundlocSmall" else None


def _canonical(name: str) -> str:
    return _ALIAS.sub(lambda match: f"scratch.layer{int(match.group(1)) + 1}_rn.", name)


def _empty_network(config: NetworkConfig) -> PairNetwork:
    with torch.device("meta"):  # no memory and no time for weights that are replaced anyway
        return build_network(config)


def _checked(config: NetworkConfig, state: Mapping[str, Any], source: str) -> Checkpoint:
    """The checkpoint with every parameter once, or an error that names every wrong key."""
    if config.architecture != "GroundlocSmall" and not any(
        str(name).startswith("dec_blocks2") for name in state
    ):
        # checkpoints from before the decoders were two: both start from the same weights
        doubled = {n.replace("dec_blocks", "dec_blocks2", 1): t for n, t in state.items()}
        state = {**{n: t for n, t in doubled.items() if n.startswith("dec_blocks2")}, **state}
    found: dict[str, Tensor] = {}
    problems = []
    for name, tensor in state.items():
        canonical = _canonical(str(name))
        if not isinstance(tensor, Tensor) or not tensor.is_floating_point():
            problems.append(f"{name} is no floating-point tensor")
        elif canonical not in found:
            found[canonical] = tensor
        elif not (
            found[canonical].data_ptr() == tensor.data_ptr()
            or torch.equal(found[canonical], tensor)
        ):
            problems.append(f"{name} differs from {canonical}, which is the same tensor")
    shapes = {_canonical(n): tuple(t.shape) for n, t in _empty_network(config).state_dict().items()}
    missing = sorted(set(shapes) - set(found))
    unexpected = sorted(set(found) - set(shapes))
    problems += [
        f"{name} is {tuple(found[name].shape)} instead of {shape}"
        for name, shape in shapes.items()
        if name in found and tuple(found[name].shape) != shape
    ]
    if missing:
        problems.append(f"missing: {', '.join(missing)}")
    if unexpected:
        problems.append(f"unexpected: {', '.join(unexpected)}")
    if problems:
        raise InputError(
            f"'{source}' does not fit its network {config.architecture}: {'; '.join(problems)}"
        )
    return Checkpoint(
        config=config.for_inference(), state={n: found[n] for n in shapes}, source=source
    )


def _unshared(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of their own memory, as safetensors stores them."""
    seen: set[int] = set()
    out = {}
    for name, tensor in state.items():
        shared = tensor.data_ptr() in seen and tensor.numel() > 0
        out[name] = tensor.clone() if shared else tensor.contiguous()
        seen.add(tensor.data_ptr())
    return out


def _short(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= 80 else f"{text[:77]}..."
