"""The command line's contract: results on stdout, exit codes, one-line errors on stderr."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from benchmarks.rendered_place import RenderedPlace
from localize import Localization
from localize.unfinished import UnfinishedResults

ROOT = Path(__file__).resolve().parents[1]
SIFT = ("--matcher", "sift")  # the quicker one


@pytest.fixture(scope="module")
def photos(rendered_place: RenderedPlace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder as a user has it: map photos, with a bad file among them."""
    folder = tmp_path_factory.mktemp("user") / "my photos"
    shutil.copytree(rendered_place.images / "map", folder)
    (folder / "broken.jpg").write_bytes(b"\xff\xd8\xff")
    return folder


def test_map_then_localize_then_evaluate(
    run: Any, rendered_place: RenderedPlace, rendered_map: Path, tmp_path: Path
) -> None:
    info = run("info", rendered_map, "--check", "--json")
    assert info.code == 0 and info.json["problems"] == []
    assert info.json["num_images"] == len(rendered_place.map_names)

    features = shutil.copytree(rendered_map, tmp_path / "damaged") / "features.h5"
    changed = bytearray(features.read_bytes())
    changed[len(changed) // 2] ^= 255
    features.write_bytes(changed)
    info = run("info", features.parent, "--check", "--json")
    assert info.code == 1 and "features.h5" in info.json["problems"][0]
    assert info.json["problems"][0] in info.error and info.error.endswith("--overwrite)")

    poses = tmp_path / "out" / "poses.txt"
    queries = rendered_place.folder / "query.txt"
    localized = run("localize", rendered_map, queries, "--out", poses, "--report", tmp_path / "r")
    assert localized.code == 0
    assert localized.out.startswith("localized 3 / 3")
    assert len(poses.read_text().splitlines()) == 3
    assert len((tmp_path / "out" / "results.jsonl").read_text().splitlines()) == 3
    assert (tmp_path / "r" / "report.html").stat().st_size > 100_000

    truth = rendered_place.folder / "sparse_gt"
    report = run("evaluate", poses, truth, "--json", "--out", tmp_path / "report.json")
    assert report.code == 0
    assert report.json == json.loads((tmp_path / "report.json").read_text())
    assert report.json["num_localized"] == report.json["num_queries"] == 3
    # 320x240 photos of a courtyard of about 20 m, exact truth
    assert report.json["median_translation_error_m"] < 0.05
    assert report.json["recall"]["0.25m_2deg"] == 1.0
    assert "median error" in run("evaluate", poses, truth).out


def test_localize_prints_poses_without_out(
    run: Any, rendered_place: RenderedPlace, rendered_map: Path
) -> None:
    query = rendered_place.images / "query" / "query_00.jpg"
    printed = run("localize", rendered_map, query, "--quiet")
    assert printed.code == 0
    name, *numbers = printed.out.split()
    assert name.endswith("query_00.jpg") and len(numbers) == 7
    one_round = ["--top-k", 4, "--set", "second_round_photos=0"]
    both = run("localize", rendered_map, query, "--json", *one_round, "--quiet")
    assert both.json["num_localized"] == 1
    assert len(both.json["results"][0]["retrieved"]) == 4


def test_sfm_map_skips_the_bad_photo_and_reports_it(
    run: Any, photos: Path, tmp_path: Path, rendered_place: RenderedPlace
) -> None:
    made = run("map", photos, tmp_path / "map", *SIFT, "--json", "--pairs", "sequential", "--quiet")
    assert made.code == 0, made.err
    assert "broken.jpg" in made.json["not_registered"]
    assert made.json["num_images"] >= 6
    again = run("map", photos, tmp_path / "map", *SIFT, "--pairs", "sequential")
    assert again.code == 0 and "broken.jpg" in again.out
    other = run("map", photos, tmp_path / "map", *SIFT, "--pairs", "exhaustive")
    assert other.code == 1 and "pairs.method" in other.error


def test_extend_a_map_with_known_poses(
    run: Any, rendered_place: RenderedPlace, tmp_path: Path
) -> None:
    first, new = tmp_path / "first", tmp_path / "new"
    for folder, names in ((first, rendered_place.map_names[:5]), (new, rendered_place.map_names)):
        (folder / "map").mkdir(parents=True)
        for name in names:
            shutil.copy2(rendered_place.images / name, folder / name)
    truth, scene = rendered_place.folder / "sparse_gt", tmp_path / "map"
    made = run("map", first, scene, *SIFT, "--known-poses", truth, "--json", "--quiet")
    assert made.code == 0 and made.json["num_images"] == 5
    extended = run("map", new, scene, "--extend", "--known-poses", truth, "--json", "--quiet")
    assert extended.code == 0, extended.err
    assert extended.json["num_images"] == len(rendered_place.map_names)
    again = run("map", new, scene, "--extend", "--json", "--quiet")
    assert again.code == 0 and again.json["num_images"] == len(rendered_place.map_names)


def test_benchmark_colmap_and_pairs(
    run: Any, rendered_place: RenderedPlace, tmp_path: Path
) -> None:
    root = rendered_place.folder
    scored = run(
        *("benchmark", "colmap", root, *SIFT, "--out", tmp_path / "c", "--limit", 2, "--json")
    )
    assert scored.code == 0, scored.err
    assert scored.json["num_queries"] == scored.json["num_localized"] == 2
    assert scored.json["median_translation_error_m"] < 0.05
    aligned = run(
        "evaluate", tmp_path / "c" / "poses.txt", root / "sparse_gt", "--align-map",
        root / "sparse_gt", "--json",
    )  # fmt: skip
    assert aligned.code == 0, aligned.err
    assert aligned.json["median_translation_error_m"] < 0.05
    pairs = run(
        "benchmark", "pairs", root, *SIFT, "--out", tmp_path / "p", "--limit", 3,
        "--set", "gaps=[1,1]", "--json",
    )  # fmt: skip
    assert pairs.code == 0, pairs.err
    assert set(pairs.json["auc_deg"]) == {"5", "10", "20"} and pairs.json["auc_deg"]["10"] > 0.5


def test_demo_on_own_photos(run: Any, photos: Path, tmp_path: Path) -> None:
    shown = run("demo", "--photos", photos, "--out", tmp_path / "demo", *SIFT, "--quiet")
    assert shown.code == 0, shown.err
    assert "localized" in shown.out and (tmp_path / "demo" / "report.html").exists()
    assert " %, " in shown.out and "units" not in shown.out  # as on the page


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        ([], 2, "required"),
        (["mpa"], 2, "mpa"),
        (["map", "photos"], 2, "MAP"),
        (["map", "none", "out"], 1, "no photo folder 'none'"),
        (["map", ".", "out", "--set", "pairs.methd=file"], 2, "did you mean 'pairs.method'"),
        (["map", ".", "out", "--set", "pairs"], 2, "key.sub=value"),
        (["map", ".", "out", "--matcher", "sfit"], 2, "unknown matcher 'sfit'"),
        (["match", "a.jpg", "a.jpg", "--matcher", "sfit"], 2, "unknown matcher 'sfit'"),
        (["map", ".", "out", "--matcher", "none/here.pth"], 1, "none/here.pth"),
        (["map", ".", "out", "--device", "toaster"], 2, "unknown device 'toaster' (known: cpu"),
        (["map", ".", "out", "--config", "none.yaml"], 2, "none.yaml"),
        (["localize", "none", "a.jpg"], 1, "none"),
        (["info", "."], 1, "map.json"),
        (["match", "none.jpg", "none.jpg"], 1, "no image 'none.jpg'"),
        (["match", "a.jpg", "a.jpg", "--dense", *SIFT], 2, "--dense"),
        (["evaluate", "poses.txt", "."], 1, "'.' is no COLMAP model"),
        (["benchmark", "imagenet", ".", "--out", "out"], 2, "imagenet"),
        (["map", ".", "MAP", "--extend", "--overwrite"], 2, "--extend"),
        (["map", ".", "out", "--set", "matcher=sift"], 2, "--matcher sift"),
        (["localize", "MAP", "a.jpg", *SIFT], 2, "--matcher sift, a map is used with the matcher"),
        (["map", ".", "out", "--set", "pairs=3", "--pairs", "exhaustive"], 2, "'pairs'"),
        (["benchmark", "pairs", ".", "--out", "out", "--set", "gap=1"], 2, "did you mean 'gaps'"),
        (["localize", "MAP", "a.jpg", "--out", "results.jsonl"], 2, "--out"),
        (["map", ".", "out", *SIFT, "--set", "matcher.max_rato=0.7"], 2, "'matcher.max_ratio'"),
        (
            ["match", "a.jpg", "a.jpg", *SIFT, "--set", "matcher.max_rato=0.7"],
            2,
            "'matcher.max_ratio'",
        ),
        (
            ["match", "a.jpg", "a.jpg", *SIFT, "--set", "matcher.max_ratio=7"],
            2,
            "max_ratio must be in",
        ),
        (
            ["relative", "a.jpg", "a.jpg", *SIFT, "--set", "matcher.max_rato=1"],
            2,
            "'matcher.max_ratio'",
        ),
        (["demo", *SIFT, "--set", "matcher.max_rato=1"], 2, "'matcher.max_ratio'"),
        (
            ["benchmark", "pairs", ".", *SIFT, "--out", "out", "--set", "matcher.max_rato=1"],
            2,
            "'matcher.max_ratio'",
        ),
        (["relative", "none.jpg", "none.jpg"], 1, "no image 'none.jpg'"),
        (["info", "MAP", "--set", "foo=1"], 2, "unknown option 'foo' (this command has none)"),
        (["match", "a.jpg", "a.jpg", "--set", "foo=1"], 2, "'foo' (known: matcher.border_px, "),
        (
            ["match", "a.jpg", "a.jpg", *SIFT, "--set", "max_rato=0.7"],
            2,
            "unknown option 'max_rato'; did you mean 'matcher.max_ratio'? (known: matcher.",
        ),
        (
            ["map", ".", "out", "--set", "method=global"],
            2,
            "did you mean 'pairs.method' or 'reconstruction.method'? (known: apply_exif_orient",
        ),
        (["train"], 2, "--out"),
        (["train", "--out", "run", "--set", "sed=1"], 2, "did you mean 'seed'"),
        (["weights", "convert", "none.pth", "a.safetensors"], 1, "none.pth"),
        (["convert", "none", "out"], 1, "no map, no kapture folder"),
    ],
)
def test_wrong_use_is_one_line(
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    rendered_map: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("a.jpg", "poses.txt"):
        (tmp_path / name).touch()
    wrong = run(*(str(rendered_map) if argument == "MAP" else argument for argument in arguments))
    assert (wrong.code, wrong.out) == (code, "")
    assert message in wrong.error


NOT_THERE = [
    (["map", "non", "out"], "no photo folder 'non'; did you mean 'none.d'?"),
    (["map", ".", "none", "--extend"], "no map 'none'; did you mean 'none.d'?"),
    (["map", ".", ".", "--extend"], "'.' is no finished map"),
    (["map", ".", "out", "--known-poses", "none"], "no COLMAP model folder 'none'"),
    (["localize", "none", "a.jpg"], "no map 'none'"),
    (["localize", "a.jpg", "a.jpg"], "'a.jpg' is a file where the map is expected"),
    (["match", "a.jpg", "b.jpg"], "no image 'b.jpg'; did you mean 'a.jpg'?"),
    (["relative", "a.jpg", "none.d"], "'none.d' is a folder where the image is expected"),
    (["evaluate", "none", "a.jpg"], "no results or poses file 'none'"),
    (["evaluate", "a.jpg", "none"], "no ground truth (model or poses file) 'none'"),
    (["evaluate", "a.jpg", "a.jpg", "--align-map", "no"], "no map or COLMAP model to align by"),
    (["evaluate", "a.jpg", "a.jpg", "--queries", "no"], "no photo, folder or list of queries"),
    (["info", "none"], "no map 'none'"),
    (["info", "."], "'.' is no finished map"),
    (["reconstruct", "none", "out"], "no photo folder 'none'"),
]


def test_what_is_not_there_is_told_before_torch_is_loaded(tmp_path: Path) -> None:
    (tmp_path / "none.d").mkdir()
    (tmp_path / "a.jpg").touch()
    script = (
        "import json, sys, groundloc\n"
        "for call in json.loads(sys.argv[1]): print(groundloc.main(call))\n"
        "print({'torch', 'pycolmap', 'faiss', 'h5py'} & sys.modules.keys())"
    )
    calls = json.dumps([arguments for arguments, _ in NOT_THERE])
    told = subprocess.run(
        [sys.executable, "-c", script, calls], cwd=tmp_path, capture_output=True, text=True,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
    )  # fmt: skip
    assert told.stdout.splitlines() == ["1"] * len(NOT_THERE) + ["set()"], told.stderr
    for line, (_, message) in zip(told.stderr.splitlines(), NOT_THERE, strict=True):
        assert line.startswith(f"error: {message}")


def test_unwritable_output_is_one_line(run: Any, rendered_map: Path, tmp_path: Path) -> None:
    blocker = tmp_path / "file"
    blocker.write_text("in the way")
    photo = tmp_path / "black.png"
    Image.new("RGB", (64, 48)).save(photo)
    wrong = run("localize", rendered_map, photo, "--out", blocker / "poses.txt")
    assert wrong.code == 1 and "file" in wrong.error
    # the report's folder is tried before the work: no poses were computed or written
    wrong = run(
        "localize", rendered_map, photo, "--out", tmp_path / "p.txt", "--report", blocker / "r"
    )
    assert wrong.code == 1 and not (tmp_path / "p.txt").exists()
    assert not list(tmp_path.glob("*.jsonl"))
    wrong = run("localize", rendered_map, photo, "--out", tmp_path)
    assert wrong.code == 1 and "is a folder" in wrong.error


def test_results_of_another_run_stay(run: Any, rendered_map: Path, tmp_path: Path) -> None:
    photo = tmp_path / "black.png"
    Image.new("RGB", (64, 48)).save(photo)
    call = ["localize", rendered_map, photo, "--out"]
    assert run(*call, tmp_path / "a.txt").code == 0
    of_a = (tmp_path / "results.jsonl").read_text()
    refused = run(*call, tmp_path / "b.txt")
    assert refused.code == 1 and "results.jsonl' holds the results of another" in refused.error
    assert (tmp_path / "results.jsonl").read_text() == of_a
    assert not (tmp_path / "b.txt").exists()
    assert run(*call, tmp_path / "a.txt").code == 0, "its own are replaced"
    (tmp_path / "b.txt").write_text("black.png 1 0 0 0 0 0 0\n")  # not what results.jsonl says
    assert run(*call, tmp_path / "b.txt").code == 1
    assert run(*call, tmp_path / "b.txt", "--overwrite").code == 0
    assert (tmp_path / "b.txt").read_text() == ""


@pytest.mark.parametrize(
    "arguments, code, message",
    [
        (["match", "a.jpg", "a.jpg", "--out", "."], 1, "is a folder"),
        (["match", "a.jpg", "a.jpg", "--plot", "x.gif"], 2, "not '.gif'"),
        (["evaluate", "a.jpg", ".", "--out", "."], 1, "is a folder"),
        (["train", "--show-world", "x.xyz"], 2, "not '.xyz'"),
        (["train", "--show-world", "."], 2, "not ''"),
    ],
)
def test_outputs_are_checked_before_the_work(
    run: Any,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    code: int,
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.jpg").touch()  # which nobody could read
    wrong = run(*arguments)
    assert wrong.code == code and message in wrong.error


def test_failed_queries_are_results(run: Any, rendered_map: Path, tmp_path: Path) -> None:
    folder = tmp_path / "queries"
    folder.mkdir()
    Image.new("RGB", (320, 240)).save(folder / "black.png")
    Image.new("RGB", (1, 1)).save(folder / "dot.png")
    (folder / "text.jpg").write_text("no image")
    failed = run("localize", rendered_map, folder, "--out", tmp_path / "poses.txt")
    assert failed.code == 0 and failed.out.startswith("localized 0 / 3")
    for name in ("black.png", "dot.png", "text.jpg"):
        assert f"{name}: " in failed.out
    assert (tmp_path / "poses.txt").read_text() == ""


def test_no_usable_query_is_a_failure(run: Any, rendered_map: Path, tmp_path: Path) -> None:
    (tmp_path / "text.jpg").write_text("no image")
    failed = run("localize", rendered_map, tmp_path / "text.jpg", "--out", tmp_path / "poses.txt")
    assert failed.code == 1 and "no query photo can be used" in failed.error
    assert "text.jpg" in failed.error
    # what was found out is written all the same
    assert "no readable image" in (tmp_path / "results.jsonl").read_text()


def test_interrupted_localization_goes_on_where_it_was(
    run: Any,
    rendered_place: RenderedPlace,
    rendered_map: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level("INFO")
    poses, kept = tmp_path / "poses.txt", list[str]()
    call = ["localize", rendered_map, rendered_place.folder / "query.txt", "--out", poses]
    keep = UnfinishedResults.keep
    stop_after = 2

    def interrupted(self: UnfinishedResults, result: Localization) -> None:
        keep(self, result)
        kept.append(result.name)
        if len(kept) == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(UnfinishedResults, "keep", interrupted)
    first = run(*call)
    assert first.code == 130 and "the same command continues" in first.error
    partial = tmp_path / "poses.partial.jsonl"
    with partial.open("a") as file:
        file.write('{"name": "half a li')
    second = run(*call)
    assert second.code == 0 and "2 queries were localized before" in caplog.text
    assert len(kept) == 3 and not partial.exists()  # the third query alone
    assert f"wrote '{poses}' and" in caplog.text
    resumed, names = poses.read_text(), list(kept)

    # another option is another run: everything anew, with the same result here
    kept.clear()
    assert run(*call, "--overwrite").code == 130
    stop_after = 99
    kept.clear()
    other = run(*call, "--top-k", 6)
    assert other.code == 0 and sorted(kept) == sorted(names)
    # and one without an interruption gives what the resumed one gave
    kept.clear()
    assert run(*call).code == 0 and len(kept) == 3
    assert poses.read_text() == resumed
    # a finished one is not computed again, unless asked for, or if anything differs
    kept.clear()
    caplog.clear()
    before = (tmp_path / "results.jsonl").read_text()
    again = run(*call)
    assert (again.code, kept) == (0, []) and again.out == "localized 3 / 3\n"
    assert "3 queries were localized before (--overwrite" in caplog.text
    assert (poses.read_text(), (tmp_path / "results.jsonl").read_text()) == (resumed, before)
    assert run(*call, "--overwrite").code == 0 and len(kept) == 3
    kept.clear()
    assert run(*call, "--top-k", 5).code == 0 and len(kept) == 3


def test_help_is_fast_and_names_every_command() -> None:
    start = time.perf_counter()
    shown = subprocess.run(
        [sys.executable, "groundloc.py", "--help"], cwd=ROOT, capture_output=True, text=True
    )
    seconds = time.perf_counter() - start
    assert shown.returncode == 0
    for command in ("demo", "map", "localize", "match", "relative", "evaluate", "info"):
        assert f"  {command} " in shown.stdout
    # 0.1 s measured; the bound is wide because test machines are shared
    assert seconds < 5


@pytest.mark.parametrize("of_map", [False, True])
def test_an_interrupted_reconstruction_goes_on_only_without_a_map(
    run: Any,
    photos: Path,
    rendered_map: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    of_map: bool,
) -> None:
    def interrupted(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("mapping.reconstruct_scene.reconstruct", interrupted)
    of = ["--map", rendered_map] if of_map else []
    found = run("reconstruct", photos, tmp_path / "out", *of)
    assert found.code == 130
    assert ("the same command continues" in found.error) != of_map


def test_interrupt_says_how_to_go_on(photos: Path, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "groundloc.py", "map", str(photos), str(tmp_path / "map"), *SIFT],
        cwd=ROOT,
        # background jobs of shells ignore the signal, and so would their children
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    for line in process.stderr:  # work has begun once something is reported
        if line:
            break
    process.send_signal(signal.SIGINT)
    rest = process.stderr.read()
    assert process.wait(timeout=60) == 130
    assert "Traceback" not in rest and "interrupted" in rest
