"""`groundloc benchmark` and `groundloc evaluate --protocol` as typed."""

import json
from pathlib import Path
from typing import Any

import pytest

import groundloc
from tests.benchmarks.test_mapfree import GOLDEN, unpack


@pytest.fixture(scope="module")
def cases() -> dict[str, Any]:
    document: dict[str, Any] = json.loads(GOLDEN.read_text(encoding="utf-8"))
    return dict(document["cases"])


@pytest.mark.parametrize("name", ["mapfree_case1", "mapfree_case2", "mapfree_case4_perfect"])
def test_the_official_values_are_printed_and_nothing_else(
    name: str, cases: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = unpack(cases[name], tmp_path)
    report = tmp_path / "report.json"
    arguments = ["evaluate", submission, tmp_path, "--protocol", "mapfree", "--split", "val"]
    arguments += ["--json", "--out", report]
    assert groundloc.main([str(a) for a in arguments]) == 0
    values = json.loads(capsys.readouterr().out)
    expected = cases[name]["expected"]
    assert list(values) == list(expected)
    for key, value in expected.items():
        assert values[key] == pytest.approx(value, abs=2e-8), key
    stored = json.loads(report.read_text())
    assert {key: stored[key] for key in values} == values and "scenes" in stored


def test_a_voided_submission_fails_with_the_reason(
    cases: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    submission = unpack(cases["mapfree_case3_rejected"], tmp_path)
    code = groundloc.main(["evaluate", str(submission), str(tmp_path), "--protocol", "mapfree"])
    error = capsys.readouterr().err.splitlines()[-1]
    assert code == 1 and error.startswith("error: scene s00460, frame 000")
    assert "confidence is negative" in error


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["benchmark", "mapfree", ".", "--out", "x", "--shard", "4/4"], 2, "--shard takes I/N"),
        (["benchmark", "mapfree", ".", "--out", "x", "--executor", "slurm"], 2, "local, ray"),
        (["benchmark", "mapfree", ".", "--set", "split=train"], 2, "one of val, test"),
        (
            ["benchmark", "aachn", ".", "--out", "x"],
            2,
            "unknown benchmark 'aachn'; did you mean 'aachen'? (known: 12sc",
        ),
        (["benchmark", "mapfree", ".", "--set", "matcher=sift"], 2, "chosen with --matcher sift"),
        (["benchmark", "mapfree", "."], 2, "give --out DIR"),
        (["benchmark", "mapfree", ".", "--out", "x", "--limit", "0"], 2, "limit must be at least"),
        (["benchmark", "mapfree", ".", "--check", "--dry-run"], 2, "give one"),
        (["benchmark", "mapfree", "nowhere", "--check"], 1, "no data set 'nowhere'"),
        (["evaluate", "a.txt", ".", "--protocol", "aachn"], 2, "did you mean 'aachen'?"),
        (["evaluate", "a", ".", "--protocol", "cmu", "--set", "num_seed=2"], 2, "'num_seeds'"),
        (["evaluate", "a", ".", "--protocol", "cmu", "--queries", "q"], 2, "leave out --queries"),
        (["evaluate", "a", ".", "--split", "val"], 2, "leave out --split"),
        (["evaluate", "a.txt", ".", "--protocol", "pairs"], 1, "takes the folder of a run"),
        (["evaluate", "a", ".", "--protocol", "cmu", "--split", "val"], 2, "has no splits"),
        (["evaluate", ".", ".", "--protocol", "cmu"], 1, "holds no run of a benchmark"),
    ],
)
def test_wrong_use_is_one_line(
    arguments: list[str], code: int, message: str, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    assert groundloc.main(arguments) == code
    error = capsys.readouterr().err
    assert error.startswith("error: ") and error.count("\n") == 1 and message in error
    assert list(tmp_path.iterdir()) == []


def test_a_check_that_finds_a_difference_fails_and_says_which(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "val" / "s00460"
    names = ["seq0/frame_00000.jpg", "seq1/frame_00000.jpg"]
    for name in names:  # a check counts photos, it does not decode them
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"\xff\xd8\xff\xd9")
    (folder / "intrinsics.txt").write_text("".join(f"{n} 50 50 24 32 48 64\n" for n in names))
    for file in ("poses.txt", "poses_device.txt"):
        (folder / file).write_text("".join(f"{name} 1 0 0 0 0 0 0\n" for name in names))
    arguments = ["benchmark", "mapfree", str(tmp_path), "--check", "--quiet"]
    assert groundloc.main(arguments) == 1
    output = capsys.readouterr()
    assert "scenes" in output.out and "DIFFERS" in output.out
    assert output.err == "error: not the whole published set: scenes 1 (published: 65)\n"
    assert groundloc.main([*arguments, "--json"]) == 1
    output = capsys.readouterr()
    check = json.loads(output.out)  # the counts stay readable for machines
    assert check["complete"] is False and check["failure"] in output.err
