"""What a process needs to know to work on its part of a benchmark; small enough to send around."""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from matching.load import load_matcher
from matching.matcher import Matcher


@dataclass(frozen=True, kw_only=True)
class MatcherSpec:
    """A matcher that a worker loads for itself, see `matching.load_matcher`."""

    name: str
    device: str = "cpu"
    options: str = "{}"  # JSON: a mapping could not be a key

    def load(self) -> Matcher:
        """The matcher; a process loads it once."""
        if self not in _LOADED:
            _LOADED.clear()  # one matcher fills a GPU
            _LOADED[self] = load_matcher(
                self.name, device=self.device, options=json.loads(self.options)
            )
        return _LOADED[self]


_LOADED: dict[MatcherSpec, Matcher] = {}


@dataclass(frozen=True, kw_only=True)
class Job:
    """One run of a benchmark.

    Attributes:
        name: Of the benchmark.
        root: The data set.
        out: Predictions and reports; the null device where nothing is to be written.
        options: Those of the benchmark.
        limit: At most so many queries of each scene (or pairs).
    """

    name: str
    root: Path
    out: Path
    options: Any
    limit: int | None = None

    @property
    def keeps(self) -> bool:
        """Whether anything may be written."""
        return self.out != Path(os.devnull)
