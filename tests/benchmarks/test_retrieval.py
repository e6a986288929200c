"""Tests of `benchmarks/retrieval.py`: right answers and how they are counted."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from benchmarks.rendered_places import RenderedPlaces
from benchmarks.retrieval import (
    RetrievalTask,
    evaluate_descriptors,
    photo_task,
    rendered_task,
    run_task,
    table,
)
from tests.mapping.fakes import FakeMatcher, FakeWorld

NAMES = [f"{k}.jpg" for k in range(30)]


def test_recall_by_hand() -> None:
    """Map photos at angles 0, 3, 6 .. degrees; queries between them."""

    def at(*degrees: float) -> np.ndarray:
        angles = np.radians(degrees)
        return np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)

    task = RetrievalTask(
        name="arc",
        images=Path(),
        map_names=NAMES,
        answers={
            "first": frozenset({"0.jpg"}),  # the nearest
            "third": frozenset({"2.jpg", "29.jpg"}),  # third nearest, and far beyond 20
            "never": frozenset({"29.jpg"}),
        },
    )
    mapped = at(*(3.0 * k for k in range(30)))
    score = evaluate_descriptors(task, mapped, at(0.1, 0.1, 0.1), describe_ms=1.5)
    assert score.recall == pytest.approx((1 / 3, 2 / 3, 2 / 3, 2 / 3))
    assert score.found == pytest.approx((1 + 0.5 + 0) / 3)
    assert (score.dim, score.describe_ms) == (2, 1.5)
    text = table(task, {"m": {"way": score}})
    assert "3 queries, on average 1.3 right answers" in text
    assert "| m | way | 0.333 | 0.667 | 0.667 | 0.667 | 0.500 | 2 | 1.5 |" in text


def test_rendered_task_takes_the_first_places() -> None:
    places = RenderedPlaces(
        folder=Path("x"),
        map_names=["a/0.jpg", "a/1.jpg", "b/0.jpg"],
        query_cameras={},
        truth=pycolmap.Reconstruction(),
        overlaps={
            "a/q0.jpg": {"a/0.jpg": 0.5, "a/1.jpg": 0.2},
            "a/q1.jpg": {"a/0.jpg": 0.1},  # nothing to find
            "b/q0.jpg": {"b/0.jpg": 0.25},
        },
    )
    assert rendered_task(places).answers == {
        "a/q0.jpg": {"a/0.jpg"},
        "b/q0.jpg": {"b/0.jpg"},
    }
    first = rendered_task(places, 1)
    assert first.map_names == ["a/0.jpg", "a/1.jpg"]
    assert set(first.answers) == {"a/q0.jpg"}


def test_photo_sets_in_one_pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One set with a truth, one without; what overlaps is told by the points."""
    world = FakeWorld()
    for root in (tmp_path / "posed", tmp_path / "bare"):
        (root / "images").mkdir(parents=True)
        of_number = world.write_photos(root / "images")
        names = sorted(of_number.values())
        (root / "map.txt").write_text("".join(f"{n}\n" for n in names[1:]))
        (root / "query.txt").write_text(f"{names[0]}\n")
    (tmp_path / "posed" / "sparse_gt").mkdir()
    world.model(of_number).write_text(tmp_path / "posed" / "sparse_gt")
    matcher = FakeMatcher(world)
    monkeypatch.setattr("benchmarks.retrieval.load_matcher", lambda name, **_: matcher)
    task = photo_task([tmp_path / "posed", tmp_path / "bare"], tmp_path / "work")
    assert len(task.map_names) == 2 * (len(names) - 1)
    assert task.answers[f"bare/images/{names[0]}"] == {f"bare/images/{n}" for n in names[1:]}
    # neighbours on the arc see the same, the far end looks from more than 60 degrees apart
    right = task.answers[f"posed/images/{names[0]}"]
    assert f"posed/images/{names[1]}" in right
    assert f"posed/images/{names[-1]}" not in right
    scores, seconds = run_task(task, matcher, peers=True)
    assert set(scores) == {"VLAD", "mean of whitened tokens"}
    assert seconds > 0
    # both sets hold the same photos, so every second answer is of the other set
    assert scores["VLAD"].recall[1] == 1.0
