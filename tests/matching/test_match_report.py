"""`matching.match_report`: how many matches are sure, and what too few mean."""

import json

import numpy as np
import pytest

from matching.match_report import MatchReport
from matching.matcher import Matcher
from matching.sift import SiftMatcher
from matching.types import Matches


class RankingMatcher(SiftMatcher):
    """Its scores say nothing but which match is better."""

    sure_score = None


def report(scores: list[float], matcher: Matcher | None = None) -> MatchReport:
    points = np.zeros((len(scores), 2), np.float32)
    matches = Matches(keypoints0=points, keypoints1=points, scores=np.float32(scores))
    return MatchReport(matches=matches, matcher=matcher or SiftMatcher())


@pytest.mark.parametrize(
    ("scores", "sure", "doubtful"),
    [
        ([], 0, True),
        ([0.2] * 1000, 0, True),
        ([0.9] * 24 + [0.3] * 100, 24, True),  # the limit itself is not above it
        ([0.9] * 25 + [0.2] * 100, 25, False),
        ([0.9] * 10, 10, False),  # as with max_matches: no others were asked for
    ],
)
def test_few_sure_matches_are_doubted(scores: list[float], sure: int, doubtful: bool) -> None:
    told = report(scores)
    assert told.num_sure == sure
    assert f"{len(scores)} matches with sift, {sure} of them sure" in told.summary()
    doubt = told.doubt()
    assert doubt.startswith(f"only {sure} matches are sure") if doubtful else doubt == ""
    values = json.loads(json.dumps(told.to_dict()))
    assert (values["num_matches"], values["num_sure"]) == (len(scores), sure)
    assert len(values["keypoints0"]) == len(values["scores"]) == len(scores)


def test_scores_that_only_rank_are_not_judged() -> None:
    told = report([0.2] * 3, RankingMatcher())
    assert (told.num_sure, told.summary(), told.doubt()) == (None, "3 matches with sift", "")
    assert told.to_dict()["num_sure"] is None
