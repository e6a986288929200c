"""What made the predictions in a folder (``options.json``): nothing else is added to them."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mapping.info import groundloc_version
from matching.errors import InputError
from matching.files import existing_file, write_text_atomic
from matching.options import first_difference

_CLAIM = "options.json"


def claim_folder(folder: Path, made_by: Mapping[str, Any], *, growing: str = "") -> bool:
    """Note what makes the predictions, or check that it is the same.

    Args:
        folder: Of the predictions.
        made_by: Plain values for JSON.
        growing: The field that lists what is predicted. A list that begins with the noted one takes
            its place: a run with a limit goes on without it, or with a higher one.

    Returns:
        Whether the list has grown, so that what was written of all predictions is not of all now.

    Raises:
        InputError: The folder holds predictions made otherwise; the field that differs is named.
    """
    made_by = json.loads(json.dumps({"groundloc_version": groundloc_version(), **made_by}))
    if not (folder / _CLAIM).exists():
        _write(folder, made_by)
        return False
    noted = read_claim(folder)
    before, now = noted.get(growing, []), made_by.get(growing, [])
    field_name = first_difference({**noted, growing: None}, {**made_by, growing: None})
    if field_name is not None:
        raise InputError(
            f"'{folder}' holds predictions made with another '{field_name}': "
            "give another --out folder"
        )
    if before[: len(now)] == now and len(now) < len(before):
        raise InputError(
            f"'{folder}' holds predictions of {len(before)} {growing}, this run asks for the first "
            f"{len(now)}: leave out --limit, or give another --out folder"
        )
    if now[: len(before)] != before:
        raise InputError(
            f"'{folder}' holds predictions of other {growing}: give another --out folder"
        )
    if len(now) > len(before):
        _write(folder, made_by)
    return len(now) > len(before)


def _write(folder: Path, made_by: Mapping[str, Any]) -> None:
    text = json.dumps(made_by, indent=1, ensure_ascii=False)
    write_text_atomic(folder / _CLAIM, text + "\n")


def read_claim(folder: Path) -> dict[str, Any]:
    """What `claim_folder` noted.

    Raises:
        InputError: There is nothing, or it is damaged.
    """
    file = existing_file(folder / _CLAIM, "record of what made the predictions")
    try:
        claim: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"'{file}' is damaged: give another --out folder") from error
    return claim
