"""Matching the chosen pairs, each once, resumable."""

import hashlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapping.pairs import Pair
from matching.files import atomic_file
from matching.matcher import Matcher
from matching.progress import Progress
from matching.types import Matches, View

_BATCH = 16  # partners matched in one call, and stored in one file


def match_pairs(
    pairs: Sequence[Pair],
    load: Callable[[str], View],
    keys: Mapping[str, str],
    matcher: Matcher,
    cache: Path,
    *,
    progress: Progress,
) -> dict[Pair, Matches]:
    """Match pairs of photos, reading from ``cache`` what was matched before.

    Args:
        pairs: Pairs of names; those with the same first photo stand together.
        load: The encoded photo of a name.
        keys: Name to what identifies its encoding.
        matcher: Matches.
        cache: Folder of the matches.
        progress: Wraps the loop over batches of pairs.

    Returns:
        Pair to its matches. Where matches are rows of keypoints, their pixels are left out (NaN):
        they take most of the memory and the rows say it all.
    """
    batches = _batches(pairs)
    results: dict[Pair, Matches] = {}
    for first, partners in progress(batches, "matching photos", len(batches)):
        text = "\n".join([matcher.fingerprint, keys[first], *(keys[p] for p in partners)])
        file = cache / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
        if not file.exists():
            found = matcher.match_many(load(first), [load(p) for p in partners])
            _write(file, found)
        for partner, matches in zip(partners, _read(file, len(partners)), strict=True):
            results[first, partner] = matches
    return results


def _batches(pairs: Sequence[Pair]) -> list[tuple[str, list[str]]]:
    partners: dict[str, list[str]] = {}
    for first, second in pairs:
        partners.setdefault(first, []).append(second)
    return [
        (first, others[start : start + _BATCH])
        for first, others in partners.items()
        for start in range(0, len(others), _BATCH)
    ]


def _write(file: Path, found: Sequence[Matches]) -> None:
    """The matches of a batch, without the pixels that rows stand for."""
    arrays: dict[str, Any] = {}
    for i, matches in enumerate(found):
        arrays[f"{i}/scores"] = matches.scores
        for side in ("0", "1"):
            indices = getattr(matches, f"indices{side}")
            if indices is None:
                arrays[f"{i}/keypoints{side}"] = getattr(matches, f"keypoints{side}")
            else:
                arrays[f"{i}/indices{side}"] = indices.astype(np.int32)
    with atomic_file(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **arrays)


def _read(file: Path, count: int) -> list[Matches]:
    results = []
    with np.load(file, allow_pickle=False) as stored:
        for i in range(count):
            values = {"scores": stored[f"{i}/scores"]}
            for side in ("0", "1"):
                if f"{i}/indices{side}" in stored:
                    rows = stored[f"{i}/indices{side}"].astype(np.int64)
                    values[f"indices{side}"] = rows
                    nowhere = np.full((1, 2), np.nan, np.float32)
                    values[f"keypoints{side}"] = np.broadcast_to(nowhere, (len(rows), 2))
                else:
                    values[f"keypoints{side}"] = stored[f"{i}/keypoints{side}"]
            results.append(Matches(**values))
    return results
