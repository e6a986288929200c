"""``--dry-run`` and ``--check``: what a run would do and cost, and whether a download is whole."""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mapping.options import MapOptions
from mapping.pairs import resolve_method
from mapping.store import view_bytes
from matching.files import existing_file
from matching.images import read_image
from matching.matcher import Matcher

_MAX_LISTED = 20  # damaged photos that the terminal lists
_BYTES_PER_MATCH = 24  # rows, score and their share of the database, as measured on maps


@dataclass(frozen=True, kw_only=True)
class Plan:
    """The work of a run, and its cost by two photos of the data set on this machine.

    Attributes:
        num_scenes: Scenes of this shard.
        num_map_photos: Photos to be mapped.
        num_queries: Photos to be localized, or pairs.
        num_map_pairs: Pairs matched for the maps (an upper limit where retrieval chooses them).
        num_query_pairs: Pairs of queries and map photos.
        seconds_per_encoding: Of one photo, measured.
        seconds_per_pair: Of two encoded photos, measured.
        bytes_per_encoding: On the disk, measured; the maps keep these of their photos.
        bytes_per_pair: Of its matches, measured.
    """

    num_scenes: int
    num_map_photos: int
    num_queries: int
    num_map_pairs: int
    num_query_pairs: int
    seconds_per_encoding: float
    seconds_per_pair: float
    bytes_per_encoding: int
    bytes_per_pair: int

    @property
    def hours(self) -> float:
        """Encoding and matching on one worker; reconstruction and pose solving come on top."""
        encodings = self.num_map_photos + self.num_queries
        pairs = self.num_map_pairs + self.num_query_pairs
        return (encodings * self.seconds_per_encoding + pairs * self.seconds_per_pair) / 3600

    @property
    def disk_bytes(self) -> int:
        """Of the maps while they are built: encodings twice (working area and map), matches."""
        encodings = 2 * self.num_map_photos * self.bytes_per_encoding
        return encodings + self.num_map_pairs * self.bytes_per_pair

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**vars(self), "hours": self.hours, "disk_bytes": self.disk_bytes}

    def to_text(self) -> str:
        """A few lines for people."""
        return "\n".join(
            [
                f"scenes        {self.num_scenes}",
                f"photos        {self.num_map_photos} to map, {self.num_queries} to localize",
                f"pairs         {self.num_map_pairs} for the maps, {self.num_query_pairs} with "
                "queries",
                f"time          {_duration(self.hours)} on one worker ("
                f"{self.seconds_per_encoding:.3f} s per photo, {self.seconds_per_pair:.3f} s per "
                "pair, measured on two photos here; reconstruction and poses come on top)",
                f"disk          {_size(self.disk_bytes)}",
            ]
        )


def _duration(hours: float) -> str:
    for unit, seconds in (("h", 3600), ("min", 60)):
        if hours * 3600 >= seconds:
            return f"{hours * 3600 / seconds:.1f} {unit}"
    return f"{hours * 3600:.1f} s"


def _size(num_bytes: float) -> str:
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.1f} MB"


def count_map_pairs(num_photos: int, options: MapOptions, *, has_poses: bool) -> int:
    """Pairs that a map of so many photos matches, at most."""
    every = num_photos * (num_photos - 1) // 2
    pairs = options.pairs
    method = resolve_method(pairs, num_photos, has_poses)
    if method == "exhaustive":
        return every
    if method == "file":
        file = existing_file(str(pairs.file), "pair file")
        return sum(1 for line in file.read_text(encoding="utf-8").splitlines() if line.strip())
    if method == "sequential":
        return min(num_photos * pairs.window, every)
    return min(num_photos * pairs.top_k, every)


def measure(matcher: Matcher, photo0: Path, photo1: Path) -> dict[str, Any]:
    """The measured fields of a `Plan`: two photos encoded and matched, once to warm up."""
    images = [read_image(photo, apply_exif_orientation=False) for photo in (photo0, photo1)]
    views = [matcher.encode_image(image) for image in images]
    matcher.match_views(*views)
    start = time.perf_counter()
    views = [matcher.encode_image(image) for image in images]
    encoded = time.perf_counter()
    matches = matcher.match_views(*views)
    matched = time.perf_counter()
    return {
        "seconds_per_encoding": (encoded - start) / 2,
        "seconds_per_pair": matched - encoded,
        "bytes_per_encoding": sum(map(view_bytes, views)) // 2,
        "bytes_per_pair": _BYTES_PER_MATCH * len(matches),
    }


@dataclass(frozen=True, kw_only=True)
class Count:
    """Something counted in a download, and what its publishers say."""

    what: str
    found: int
    published: int | None = None

    @property
    def agrees(self) -> bool:
        """False only where a published number differs."""
        return self.published is None or self.found == self.published


@dataclass(frozen=True, kw_only=True)
class Check:
    """What ``--check`` found: every file a run needs was there, and so many photos.

    Attributes:
        title: The data set with its version.
        counts: Of photos and scenes.
        damaged: What is wrong with each damaged photo.
        notes: What else to know.
    """

    title: str
    counts: Sequence[Count]
    damaged: Sequence[str] = ()
    notes: Sequence[str] = ()

    @property
    def complete(self) -> bool:
        """Whether no count differs from the published one, and no photo is damaged."""
        return not self.failure

    @property
    def failure(self) -> str:
        """What is wrong in one line; empty if nothing is."""
        differing = [
            f"{count.what} {count.found} (published: {count.published})"
            for count in self.counts
            if not count.agrees
        ]
        parts = [f"not the whole published set: {', '.join(differing)}"] if differing else []
        if self.damaged:
            parts.append(f"{len(self.damaged)} damaged photos, such as: {self.damaged[0]}")
        return "; ".join(parts)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "title": self.title,
            "complete": self.complete,
            "failure": self.failure,
            "counts": [{**vars(count), "agrees": count.agrees} for count in self.counts],
            "damaged": list(self.damaged),
            "notes": list(self.notes),
        }

    def to_text(self) -> str:
        """One line per count."""
        width = max(len(count.what) for count in self.counts)
        lines = [self.title]
        for count in self.counts:
            told = "" if count.published is None else f"  (published: {count.published})"
            wrong = "" if count.agrees else "  DIFFERS"
            lines.append(f"{count.what:<{width}}  {count.found:>7}{told}{wrong}")
        lines += [f"damaged: {what}" for what in self.damaged[:_MAX_LISTED]]
        if len(self.damaged) > _MAX_LISTED:
            lines.append(f"and {len(self.damaged) - _MAX_LISTED} more damaged photos")
        lines += ["all files are there"] if self.complete else []
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])
