"""Training checkpoints: a folder of small files that is complete or not there.

``checkpoint-00001200/`` holds ``state.json`` and ``part-000.safetensors``, ``part-001...``, none
above `MAX_PART_BYTES`, so that a checkpoint passes through stores that refuse large files. Tensors
larger than a part are cut. Every part's SHA-256 is in ``state.json``; the folder gets its name only
when all of it is written.
"""

import json
import re
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from matching.errors import InputError
from matching.files import PathLike, atomic_folder, existing_folder, sha256_of_file

MAX_PART_BYTES = 15_000_000

_FORMAT = 1
_HEADER_BYTES = 200  # safetensors' own bookkeeping per tensor, rounded up
_NAME = re.compile(r"checkpoint-(\d{8})")


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """All that a training run needs to go on as if it had never stopped.

    Attributes:
        step: Optimizer steps done.
        tensors: By name: ``model.*`` weights, ``ema.*`` averaged weights, ``optimizer.*`` moments.
        values: Plain JSON values: options, counters of the loop.
    """

    step: int
    tensors: Mapping[str, Tensor]
    values: Mapping[str, Any]


def write_checkpoint(
    folder: PathLike, checkpoint: Checkpoint, *, max_part_bytes: int = MAX_PART_BYTES
) -> Path:
    """Write ``folder/checkpoint-<step>``; it appears only when complete.

    Args:
        folder: The run's folder.
        checkpoint: What to write.
        max_part_bytes: No file is larger.

    Returns:
        The checkpoint's folder.
    """
    target = Path(folder) / f"checkpoint-{checkpoint.step:08d}"
    parts: dict[str, str] = {}
    with atomic_folder(target) as temporary:
        for number, tensors in enumerate(_parts(checkpoint.tensors, max_part_bytes)):
            name = f"part-{number:03d}.safetensors"
            save_file(tensors, temporary / name)
            parts[name] = sha256_of_file(temporary / name)
        state = {
            "format": _FORMAT,
            "step": checkpoint.step,
            "parts": parts,
            "values": dict(checkpoint.values),
        }
        (temporary / "state.json").write_text(json.dumps(state, indent=1), encoding="utf-8")
    return target


def read_checkpoint(path: PathLike) -> Checkpoint:
    """Read a checkpoint's folder.

    Raises:
        InputError: The folder is missing, incomplete, damaged or of another format; names the file.
    """
    folder = existing_folder(path, "checkpoint folder")
    state_file = folder / "state.json"
    try:
        state = json.loads(state_file.read_text(encoding="utf-8"))
        if state["format"] != _FORMAT:
            raise InputError(
                f"'{state_file}' has format {state['format']}, this version reads {_FORMAT}"
            )
        step, parts, values = int(state["step"]), dict(state["parts"]), dict(state["values"])
    except FileNotFoundError as error:
        raise InputError(f"'{folder}' is no checkpoint: it has no state.json") from error
    except (json.JSONDecodeError, UnicodeDecodeError, KeyError, TypeError) as error:
        raise InputError(f"'{state_file}' is damaged: {error!r}") from error
    pieces: dict[str, Tensor] = {}
    for name, digest in parts.items():
        file = folder / name
        if not file.is_file():
            raise InputError(f"the checkpoint '{folder}' lacks its file {name}")
        if sha256_of_file(file) != digest:
            raise InputError(f"'{file}' is damaged: its SHA-256 is not the one in state.json")
        try:
            pieces.update(load_file(file))
        except SafetensorError as error:
            raise InputError(f"'{file}' is no safetensors file: {error}") from error
    return Checkpoint(step=step, tensors=_joined(pieces), values=values)


def find_checkpoints(folder: PathLike) -> list[Path]:
    """The checkpoints in a run's folder, oldest first."""
    root = Path(folder)
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if _NAME.fullmatch(path.name))


def remove_old_checkpoints(folder: PathLike, keep: int) -> None:
    """Delete all but the newest ``keep`` checkpoints of a run."""
    for path in find_checkpoints(folder)[:-keep]:
        shutil.rmtree(path)


def _parts(tensors: Mapping[str, Tensor], max_bytes: int) -> Iterator[dict[str, Tensor]]:
    """Group tensors to parts of at most ``max_bytes``, cutting those that are larger."""
    part: dict[str, Tensor] = {}
    size = 0
    for name, piece in _pieces(tensors, max_bytes - _HEADER_BYTES - 8):
        bytes_needed = piece.numel() * piece.element_size() + _HEADER_BYTES + len(name)
        if part and size + bytes_needed > max_bytes:
            yield part
            part, size = {}, 0
        part[name] = piece
        size += bytes_needed
    yield part


def _pieces(tensors: Mapping[str, Tensor], max_bytes: int) -> Iterator[tuple[str, Tensor]]:
    for name, tensor in tensors.items():
        tensor = tensor.detach().cpu().contiguous()
        room = max(1, (max_bytes - len(name)) // tensor.element_size())
        if tensor.numel() <= room:
            yield name, tensor.clone()  # clone: safetensors refuses tensors that share memory
            continue
        shape = "x".join(map(str, tensor.shape))
        for number, piece in enumerate(tensor.flatten().split(room)):
            yield f"{name}#{number:04d}#{shape}", piece.clone()


def _joined(pieces: Mapping[str, Tensor]) -> dict[str, Tensor]:
    whole = {name: piece for name, piece in pieces.items() if "#" not in name}
    cut: dict[tuple[str, str], dict[str, Tensor]] = {}
    for name, piece in pieces.items():
        if "#" in name:
            base, number, shape = name.split("#")
            cut.setdefault((base, shape), {})[number] = piece
    for (base, shape), numbered in cut.items():
        flat = torch.cat([numbered[number] for number in sorted(numbered)])
        whole[base] = flat.view([int(side) for side in shape.split("x")])
    return whole
