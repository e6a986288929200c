"""hloc's text files."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from benchmarks.interchange.hloc_lists import (
    read_hloc_results,
    read_pairs_list,
    write_hloc_results,
    write_pairs_list,
    write_query_list,
)
from benchmarks.submissions import bare_name, camera_and_name
from mapping.cameras import read_camera_list
from matching.errors import InputError

NAMES = ("seq-01/frame-000000.color.png", "seq-02/frame-000000.color.png", "query/a.jpg")


def pose(seed: int) -> pycolmap.Rigid3d:
    values = np.random.default_rng(seed).normal(size=7)
    return pycolmap.Rigid3d(
        pycolmap.Rotation3d(values[:4] / np.linalg.norm(values[:4])), values[4:]
    )


def test_pairs_keep_their_order_and_have_no_last_line_end(tmp_path: Path) -> None:
    pairs = {"q/1.jpg": ["db/9.jpg", "db/2.jpg"], "q/2.jpg": ["db/2.jpg"]}
    write_pairs_list(tmp_path / "pairs.txt", pairs)
    text = (tmp_path / "pairs.txt").read_text()
    assert text == "q/1.jpg db/9.jpg\nq/1.jpg db/2.jpg\nq/2.jpg db/2.jpg"
    assert read_pairs_list(tmp_path / "pairs.txt") == pairs
    with pytest.raises(InputError, match="holds a blank"):
        write_pairs_list(tmp_path / "pairs.txt", {"a b.jpg": ["c.jpg"]})


def test_kapture_pairs_are_sorted_by_score(tmp_path: Path) -> None:
    file = tmp_path / "pairs.txt"
    file.write_text(
        "# query, map, score\nq.jpg, a.jpg, 0.1\nq.jpg, b.jpg, 0.7\nq.jpg, c.jpg, 0.3\n"
    )
    assert read_pairs_list(file) == {"q.jpg": ["b.jpg", "c.jpg", "a.jpg"]}


@pytest.mark.parametrize("line", ["a.jpg", "a.jpg, b.jpg, much", "a b c d"])
def test_odd_pairs_are_named(tmp_path: Path, line: str) -> None:
    (tmp_path / "pairs.txt").write_text(f"a.jpg b.jpg\n{line}\n")
    with pytest.raises(InputError, match="line 2"):
        read_pairs_list(tmp_path / "pairs.txt")


def test_query_lists_come_back(tmp_path: Path) -> None:
    camera = pycolmap.Camera(
        model="SIMPLE_RADIAL", width=1600, height=1200, params=[1469.2, 800.1, 600.3, -0.0353]
    )
    write_query_list(tmp_path / "queries.txt", {"query/day/1.jpg": camera})
    found = read_camera_list(tmp_path / "queries.txt")["query/day/1.jpg"]
    assert found.model == camera.model and (found.width, found.height) == (1600, 1200)
    np.testing.assert_array_equal(found.params, camera.params)


def test_results_under_short_and_full_names(tmp_path: Path) -> None:
    poses = {name: pose(k) for k, name in enumerate(NAMES)}
    with pytest.raises(InputError, match=r"two queries would be called 'frame-000000\.color\.png'"):
        write_hloc_results(tmp_path / "r.txt", poses, bare_name)
    assert write_hloc_results(tmp_path / "r.txt", poses, camera_and_name) == 3
    found = read_hloc_results(tmp_path / "r.txt", NAMES)
    for name in NAMES:
        np.testing.assert_allclose(found[name].matrix(), poses[name].matrix(), atol=1e-10)
    # w comes first, and it is world to camera
    word = (tmp_path / "r.txt").read_text().splitlines()[0].split()
    assert float(word[1]) == pytest.approx(poses[NAMES[0]].rotation.quat[3])
    assert float(word[5]) == pytest.approx(poses[NAMES[0]].translation[0])
    for line, message in (
        ("frame-000000.color.png 1 0 0 0 0 0 0", "the name of 2 queries"),
        ("b.jpg 1 0 0 0 0 0 0", "is no query"),
        ("a.jpg 0 0 0 0 0 0 0", "expected 'name qw"),
        ("a.jpg 1 0 0 0 0 0 nan", "expected 'name qw"),
    ):
        (tmp_path / "r.txt").write_text(line + "\n")
        with pytest.raises(InputError, match=message):
            read_hloc_results(tmp_path / "r.txt", NAMES)
