"""What the matches of two photos say, for people and as plain values."""

from dataclasses import dataclass
from typing import Any

from matching.matcher import Matcher
from matching.types import Matches

# Of 79 pairs of real photos, those of different places had at most 18 sure matches with SIFT and
# one with `small`; pairs of one place whose pose was right, as far as known, had 35 and 141 or more
_FEW_SURE = 25


@dataclass(frozen=True, kw_only=True)
class MatchReport:
    """The matches of one pair.

    Attributes:
        matches: The matches, best first.
        matcher: What found them.
    """

    matches: Matches
    matcher: Matcher

    @property
    def num_sure(self) -> int | None:
        """How many matches are sure; None with a matcher whose scores do not tell."""
        least = self.matcher.sure_score
        return None if least is None else self.matches.num_above(least)

    def summary(self) -> str:
        """One line for people."""
        text = f"{len(self.matches)} matches with {self.matcher.name}"
        if self.num_sure is None:
            return text
        return f"{text}, {self.num_sure} of them sure (score above {self.matcher.sure_score:g})"

    def doubt(self) -> str:
        """Why the matches may mean nothing; empty without a reason."""
        if self.num_sure is None or self.num_sure >= _FEW_SURE:
            return ""
        if 0 < self.num_sure == len(self.matches):  # no more were asked for
            return ""
        return (
            f"only {self.num_sure} matches are sure, where photos of one place have {_FEW_SURE} or "
            "more: these two show nothing in common, or are too unlike (zoom, turn)"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "matcher": self.matcher.describe(),
            "num_matches": len(self.matches),
            "num_sure": self.num_sure,
            "keypoints0": self.matches.keypoints0.tolist(),
            "keypoints1": self.matches.keypoints1.tolist(),
            "scores": self.matches.scores.tolist(),
        }
