"""Nothing is added to predictions that something else made."""

from pathlib import Path

import pytest

from benchmarks.claims import claim_folder, read_claim
from matching.errors import InputError


def test_only_the_list_may_grow(tmp_path: Path) -> None:
    made_by = {"options": {"top_k": (1, 2)}, "queries": ["a", "b"]}
    assert not claim_folder(tmp_path, made_by, growing="queries")
    assert not claim_folder(tmp_path, made_by, growing="queries")
    assert claim_folder(tmp_path, {**made_by, "queries": ["a", "b", "c"]}, growing="queries")
    assert read_claim(tmp_path)["queries"] == ["a", "b", "c"]
    for queries, told in (
        (["a", "b"], "of 3 queries, this run asks for the first 2: leave out --limit"),
        (["a", "x", "c", "d"], "predictions of other queries: give another --out"),
        (["x"], "predictions of other queries"),
    ):
        with pytest.raises(InputError, match=told):
            claim_folder(tmp_path, {**made_by, "queries": queries}, growing="queries")
    other = {"options": {"top_k": (1, 3)}, "queries": ["a", "b", "c", "d"]}
    with pytest.raises(InputError, match=r"made with another 'options\.top_k': give another --out"):
        claim_folder(tmp_path, other, growing="queries")
    assert read_claim(tmp_path)["queries"] == ["a", "b", "c"]
    (tmp_path / "options.json").write_text("{")
    with pytest.raises(InputError, match=r"options\.json' is damaged"):
        claim_folder(tmp_path, made_by)
