import numpy as np
import pytest

from benchmarks.report import QueryScore
from benchmarks.summary import Limits, ScoreTable, bootstrap, concatenate, flat, mean_of, summarize

LIMITS = Limits(
    thresholds=((0.05, 5.0), (0.25, 2.0)),
    max_translation_m=0.25,
    max_rotation_deg=5.0,
    metric_truth=True,
)


def score(name: str, metres: float, degrees: float = 1.0, confidence: float = 0.5) -> QueryScore:
    return QueryScore(
        name=name,
        success=np.isfinite(metres),
        translation_error_m=metres,
        rotation_error_deg=degrees if np.isfinite(metres) else np.inf,
        vcre_px=metres * 100,
        vcre_limit_px=10.0,
        confidence=confidence,
    )


def test_failures_stay_in_every_denominator() -> None:
    scores = [score("a", 0.01), score("b", 0.2), score("c", np.inf), score("d", np.inf)]
    values = summarize(ScoreTable.of(scores), LIMITS)
    assert values["recall"] == {"0.05m_5deg": 0.25, "0.25m_2deg": 0.5}
    assert values["median_translation_error_m"] == np.inf
    assert values["mean_translation_error_m"] == pytest.approx(0.105)
    assert values["vcre_precision"] == 0.25 and values["pose_precision"] == 0.5


def test_queries_without_truth_are_not_counted_and_none_gives_nothing() -> None:
    unknown = QueryScore(name="x", success=True)
    assert summarize(ScoreTable.of([unknown]), LIMITS) == {}
    values = summarize(ScoreTable.of([unknown, score("a", 0.01)]), LIMITS)
    assert values["recall"]["0.05m_5deg"] == 1.0


def test_the_mean_of_scenes_is_not_the_mean_of_frames() -> None:
    many = summarize(ScoreTable.of([score(str(i), 0.01) for i in range(9)]), LIMITS)
    few = summarize(ScoreTable.of([score("z", 1.0)]), LIMITS)
    mean = mean_of([many, few])
    assert mean["recall.0.05m_5deg"] == 0.5
    assert mean["median_translation_error_m"] == pytest.approx(0.505)
    assert flat({"a": {"b": 1.0, "c": None}, "d": 2}) == {"a.b": 1.0}


def test_bootstrap_intervals_cover_the_value_as_often_as_they_say() -> None:
    """Coin tosses: the 95 % interval of the share holds the true share about 95 times in 100."""
    rng = np.random.default_rng(1)
    covered = 0
    for _ in range(100):
        scores = [score(str(i), 0.01 if rng.random() < 0.7 else 1.0) for i in range(120)]
        ends = bootstrap(
            [ScoreTable.of(scores)],
            lambda t: {"r": float((concatenate(t).translation < 0.05).mean())},
            200,
        )
        covered += ends["r"][0] <= 0.7 <= ends["r"][1]
    assert 85 <= covered <= 100


def test_bootstrap_keeps_scenes_apart_and_infinite_ends_infinite() -> None:
    good = ScoreTable.of([score(str(i), 0.01) for i in range(5)])
    bad = ScoreTable.of([score(str(i), np.inf) for i in range(5)])
    ends = bootstrap([good, bad], lambda t: flat(summarize(concatenate(t), LIMITS)), 50)
    # each scene keeps its size: always half of the queries are right
    assert ends["recall.0.05m_5deg"] == (0.5, 0.5)
    mixed = ScoreTable.of([score("a", 0.01), score("b", np.inf), score("c", 0.02)])
    ends = bootstrap([mixed], lambda t: flat(summarize(concatenate(t), LIMITS)), 200)
    assert ends["median_translation_error_m"][1] == np.inf
    assert ends["median_translation_error_m"][0] >= 0.01
