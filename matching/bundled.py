"""Weights that come with the package, checked before they are used."""

import hashlib
import json
from pathlib import Path

from matching.errors import InputError

_FOLDER = Path(__file__).parent / "weights"

BUNDLED = {"small": _FOLDER / "small.safetensors"}


def bundled_weights(name: str) -> Path:
    """The file of a bundled model, its content compared with its card.

    Beside the weights lies a JSON file of the same name with their SHA-256, what they were trained
    with, and when.

    Args:
        name: A key of `BUNDLED`.

    Raises:
        InputError: Weights or card are missing or damaged, or do not belong together.
    """
    file = BUNDLED[name]
    card = file.with_suffix(".json")
    try:
        expected = json.loads(card.read_text(encoding="utf-8"))["sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"'{card}' is missing or damaged: install groundloc again") from error
    try:
        with file.open("rb") as stream:
            digest = hashlib.file_digest(stream, "sha256").hexdigest()
    except OSError as error:
        raise InputError(f"'{file}' is missing: install groundloc again") from error
    if digest != expected:
        raise InputError(
            f"'{file}' is damaged (its SHA-256 is not that of {card.name}): install groundloc again"
        )
    return file
