"""Matching the chosen pairs, each once, resumable; what was found stays on the disk."""

import hashlib
import json
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from mapping.pairs import Pair
from matching.files import atomic_file
from matching.matcher import Matcher
from matching.progress import Progress
from matching.types import Matches, View

Batch = tuple[str, list[str]]  # a photo and its partners

_BATCH = 16  # partners matched in one call, and stored in one file
_OPEN_BATCHES = 4  # files whose matches are kept in memory


class StoredMatches(Mapping[Pair, Matches]):
    """Matches of pairs, read from the files of `match_pairs` whenever they are asked for.

    At a large map's size they do not fit into memory. Ends that are rows of keypoints have no
    pixels (NaN): the rows say it all.

    Args:
        places: Pair to its file and its place in it.
    """

    def __init__(self, places: Mapping[Pair, tuple[Path, int]]) -> None:
        self._places = places
        self._batches: OrderedDict[Path, list[Matches]] = OrderedDict()

    def __getitem__(self, pair: Pair) -> Matches:
        file, place = self._places[pair]
        if file not in self._batches:
            self._batches[file] = _read(file)
            if len(self._batches) > _OPEN_BATCHES:
                self._batches.popitem(last=False)
        self._batches.move_to_end(file)
        return self._batches[file][place]

    def __iter__(self) -> Iterator[Pair]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)


def match_pairs(
    pairs: Sequence[Pair],
    load: Callable[[str], View],
    keys: Mapping[str, str],
    matcher: Matcher,
    cache: Path,
    *,
    progress: Progress,
) -> StoredMatches:
    """Match pairs of photos; those that ``cache`` holds are not matched again.

    Args:
        pairs: Pairs of names; those with the same first photo stand together.
        load: The encoded photo of a name.
        keys: Name to what identifies its encoding.
        matcher: Matches.
        cache: Folder of the matches.
        progress: Wraps the loop over batches of pairs.
    """
    batches = _batches(pairs)
    matching = _Matching(load, keys, matcher, cache)
    places: dict[Pair, tuple[Path, int]] = {}
    for batch in progress(batches, "matching photos", len(batches)):
        file = matching.file_of(batch)
        first, partners = batch
        places |= {(first, partner): (file, place) for place, partner in enumerate(partners)}
    return StoredMatches({pair: places[pair] for pair in pairs})


class EarlyMatches:
    """Matches pairs while other photos are still being encoded, for `match_pairs` to find.

    Where photos are encoded on threads of their own, these need not wait: one idle core is enough.
    What will be matched can only be guessed before all photos are known. A wrong guess costs time,
    no more.

    Args:
        pairs: As `match_pairs` will probably be given.
        load: The encoded photo of a name, of those that `encoded` was told.
        keys: As for `match_pairs`.
        matcher: Matches.
        cache: Folder of the matches.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        load: Callable[[str], View],
        keys: Mapping[str, str],
        matcher: Matcher,
        cache: Path,
    ) -> None:
        self._matching = _Matching(load, keys, matcher, cache)
        self._batches = _batches(pairs)
        self._lacking = [{first, *partners} for first, partners in self._batches]
        self._batches_of: dict[str, list[int]] = {}
        for number, names in enumerate(self._lacking):
            for name in names:
                self._batches_of.setdefault(name, []).append(number)

    def encoded(self, name: str) -> None:
        """A photo is encoded: match the pairs it was the last of."""
        for number in self._batches_of.get(name, []):
            self._lacking[number].discard(name)
            if not self._lacking[number]:
                self._matching.file_of(self._batches[number])


class _Matching:
    """Matches batches of pairs into files, each once; arguments as for `match_pairs`."""

    def __init__(
        self,
        load: Callable[[str], View],
        keys: Mapping[str, str],
        matcher: Matcher,
        cache: Path,
    ) -> None:
        self._load = load
        self._keys = keys
        self._matcher = matcher
        self._cache = cache
        # how it matches counts as well
        self._made_by = json.dumps(matcher.describe(), sort_keys=True)

    def file_of(self, batch: Batch) -> Path:
        """The file with the matches of a batch."""
        first, partners = batch
        text = "\n".join([self._made_by, *(self._keys[name] for name in (first, *partners))])
        file = self._cache / f"{hashlib.sha256(text.encode()).hexdigest()[:32]}.npz"
        if not file.exists():
            views = [self._load(partner) for partner in partners]
            _write(file, self._matcher.match_many(self._load(first), views))
        return file


def _batches(pairs: Sequence[Pair]) -> list[Batch]:
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
    arrays: dict[str, Any] = {"count": np.array(len(found))}
    for i, matches in enumerate(found):
        arrays[f"{i}/scores"] = matches.scores
        for side in ("0", "1"):
            indices = getattr(matches, f"indices{side}")
            pixels = getattr(matches, f"keypoints{side}")
            if indices is None:
                arrays[f"{i}/keypoints{side}"] = pixels
            else:
                arrays[f"{i}/indices{side}"] = indices.astype(np.int32)
                arrays[f"{i}/keypoints{side}"] = pixels[indices < 0]
    with atomic_file(file) as temporary, temporary.open("wb") as opened:
        np.savez(opened, **arrays)


def _read(file: Path) -> list[Matches]:
    results = []
    with np.load(file, allow_pickle=False) as stored:
        for i in range(int(stored["count"])):
            values = {"scores": stored[f"{i}/scores"]}
            for side in ("0", "1"):
                pixels = stored[f"{i}/keypoints{side}"]
                if f"{i}/indices{side}" in stored:
                    rows = stored[f"{i}/indices{side}"].astype(np.int64)
                    values[f"indices{side}"] = rows
                    places = np.full((len(rows), 2), np.nan, np.float32)
                    places[rows < 0] = pixels
                    pixels = places
                values[f"keypoints{side}"] = pixels
            results.append(Matches(**values))
    return results
