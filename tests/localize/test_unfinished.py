"""Tests of `localize/unfinished.py`; the command line's tests interrupt whole runs."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from localize.intrinsics import QueryCamera
from localize.localizer import Localizer
from localize.options import LocalizerOptions
from localize.queries import Query
from localize.results import write_poses_and_results
from localize.solve import failed
from localize.unfinished import UnfinishedResults, run_identity
from matching.errors import InputError


class Scene:
    fingerprint = "f"


class Files:
    """A matcher that looks things up in files."""

    written = 1

    def describe(self) -> dict[str, object]:
        return {"name": "hloc:features.h5", "files": {"features.h5": [10, self.written]}}


def localizer(**options: float) -> Localizer:
    made = Localizer.__new__(Localizer)
    made.matcher = Files()
    made.scene = Scene()
    made.options = LocalizerOptions(**options)
    return made


def query(path: Path, focal_px: float | None) -> Query:
    camera = None
    if focal_px is not None:
        camera = pycolmap.Camera(
            model="SIMPLE_RADIAL", width=4000, height=3000, params=[focal_px, 2000, 1500, 0.01]
        )
    return Query(name=path.name, path=path, camera=camera)


def test_everything_that_results_depend_on_changes_the_identity(tmp_path: Path) -> None:
    photo = tmp_path / "a.jpg"
    photo.write_bytes(b"1")
    focal = 3217.123456789
    seen = {
        run_identity(localizer(), [query(photo, focal)]),
        run_identity(localizer(), [query(photo, float(np.nextafter(focal, 4000)))]),
        run_identity(localizer(), [query(photo, None)]),
        run_identity(localizer(top_k=3), [query(photo, focal)]),
        run_identity(localizer(), [query(tmp_path / "gone.jpg", None)]),
    }
    assert len(seen) == 5
    assert run_identity(localizer(), [query(photo, focal)]) in seen
    rewritten = localizer()
    rewritten.matcher.written = 2
    assert run_identity(rewritten, [query(photo, focal)]) not in seen
    photo.write_bytes(b"22")
    assert run_identity(localizer(), [query(photo, focal)]) not in seen


def test_results_of_another_run_are_thrown_away(tmp_path: Path) -> None:
    file = tmp_path / "poses.partial.jsonl"
    for line in (b"no result", b"3", b"{}", b"\xff"):
        UnfinishedResults(file, "first")
        with file.open("ab") as opened:
            opened.write(line + b"\n")
        with pytest.raises(InputError, match=r"line 2.*delete the file"):
            UnfinishedResults(file, "first")
        file.unlink()
    UnfinishedResults(file, "first")
    assert UnfinishedResults(file, "second").done == {}
    assert len(file.read_text().splitlines()) == 1


def test_a_finished_run_is_known_by_its_results(tmp_path: Path) -> None:
    poses, finished = tmp_path / "poses.txt", tmp_path / "results.jsonl"
    partial = tmp_path / "poses.partial.jsonl"
    camera = pycolmap.Camera(model="SIMPLE_PINHOLE", width=4, height=3, params=[5, 2, 1.5])
    known = QueryCamera(camera=camera, source="given")
    made = [failed(name, "dark", known, {}) for name in ("a\u2028b.jpg", "c.jpg")]

    def done(run: str) -> list[str]:
        return list(UnfinishedResults(partial, run, finished).done)

    assert done("first") == []  # there is no such file
    write_poses_and_results(poses, finished, made, run="first")
    names = [result.name for result in made]
    assert (done("first"), done("second")) == (names, [])
    text = finished.read_text(encoding="utf-8")
    for edited in (text.rstrip("\n"), text + "\n\n", text.replace("\n", "\n\n")):
        finished.write_text(edited, encoding="utf-8")
        assert (done("first"), done("second")) == (names, [])
    mixed = [text.split("\n")[0], text.split("\n")[1].replace('"first"', '"second"')]
    finished.write_text("\n".join(mixed), encoding="utf-8")
    assert done("first") == done("second") == []
    write_poses_and_results(poses, finished, made)  # of another program
    assert done("first") == []


def test_half_a_letter_is_forgotten(tmp_path: Path) -> None:
    file = tmp_path / "poses.partial.jsonl"
    query_camera = QueryCamera(
        camera=pycolmap.Camera(model="SIMPLE_PINHOLE", width=4, height=3, params=[5, 2, 1.5]),
        source="given",
    )
    UnfinishedResults(file, "run").keep(failed("Z\u00fcrich.jpg", "dark", query_camera, {}))
    whole = file.read_bytes()
    file.write_bytes(whole + '{"name": "Z\u00fc'.encode()[:-1])
    assert list(UnfinishedResults(file, "run").done) == ["Z\u00fcrich.jpg"]
    assert file.read_bytes() == whole
