"""`mapping.database`: verification in steps that a progress bar can follow."""

import shutil
import sqlite3
from collections.abc import Iterable, Iterator
from contextlib import closing
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest
from numpy.typing import NDArray

from mapping import database
from mapping.colmap import two_view_options
from mapping.database import (
    MapCameras,
    posed_reconstruction,
    verify_pairs,
    write_database,
    write_matches,
)
from mapping.options import VerificationOptions
from mapping.pairs import Pair

NUM_PHOTOS, NUM_POINTS = 6, 60
POSES = {
    f"{i:02d}.jpg": pycolmap.Rigid3d(
        pycolmap.Rotation3d(np.array([0, 0.02 * i, 0])), np.array([-0.2 * i, 0.01 * i, 0])
    )
    for i in range(NUM_PHOTOS)
}


def write(path: Path, num_points: int = NUM_POINTS) -> dict[Pair, NDArray[np.int64]]:
    """Photos on a line; returns matches of all their pairs, a third of them wrong."""
    rng = np.random.default_rng(0)
    points = rng.uniform((-3, -2, 5), (3, 2, 9), (num_points, 3))
    camera = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[500, 500, 320, 240])
    cameras = MapCameras(cameras=[camera], camera_of=dict.fromkeys(POSES, 0))
    keypoints = {}
    for name, pose in POSES.items():
        seen = camera.img_from_cam(np.array([pose * point for point in points]))
        keypoints[name] = (seen + rng.normal(0, 0.3, seen.shape)).astype(np.float32)
    matches = {}
    for pair in combinations(POSES, 2):
        rows = np.stack([np.arange(num_points)] * 2, axis=1)
        rows[::3, 1] = rng.permutation(num_points)[: len(rows[::3])]
        matches[pair] = rows
    write_database(path, cameras, keypoints)
    return matches


def rows_of(path: Path, query: str) -> list[Any]:
    """What another SQLite reads; of a copy, as two of them in one process spoil a database."""
    copy = shutil.copyfile(path, path.with_suffix(".copy"))
    with closing(sqlite3.connect(copy)) as connection:
        return connection.execute(query).fetchall()


def geometries(path: Path) -> list[Any]:
    return rows_of(path, "SELECT * FROM two_view_geometries ORDER BY pair_id")


class Counter:
    """A progress that notes what it was told."""

    def __init__(self) -> None:
        self.total: int | None = None
        self.count = 0

    def __call__(
        self, items: Iterable[Any], description: str, total: int | None = None
    ) -> Iterator[Any]:
        self.total = total
        for item in items:
            self.count += 1
            yield item


@pytest.mark.parametrize("posed", [False, True])
def test_every_pair_is_counted_and_parts_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, posed: bool
) -> None:
    whole = tmp_path / "whole.db"
    matches = write(whole)
    write_matches(whole, matches.items())
    two_view = two_view_options(VerificationOptions())
    if posed:
        model = posed_reconstruction(whole, POSES)
        pycolmap.guided_geometric_verification(model, whole, two_view_geometry_options=two_view)
    else:
        pycolmap.geometric_verification(whole, two_view_geometry_options=two_view)
    expected = geometries(whole)
    # the right matches of a pair survive, wrong ones do not
    assert len(expected) == len(matches)
    assert 0.5 * NUM_POINTS < expected[0][1] < 0.75 * NUM_POINTS

    monkeypatch.setattr(database, "_MIN_PAIRS_OF_PART", 4)
    path = tmp_path / "parts.db"
    write(path)
    counter = Counter()
    known = posed_reconstruction(path, POSES) if posed else None
    first, *others = matches
    verify_pairs(path, {first: matches[first]}, VerificationOptions(), known, progress=counter)
    assert counter.total == counter.count == 1 and len(geometries(path)) == 1
    verify_pairs(
        path, {pair: matches[pair] for pair in others}, VerificationOptions(), known,
        progress=counter,
    )  # fmt: skip
    assert (counter.total, counter.count) == (len(others), len(matches))
    assert geometries(path) == expected
    assert rows_of(path, "PRAGMA integrity_check") == [("ok",)]


def test_pairs_without_matches_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    write(path)
    names = list(POSES)
    none = np.zeros((0, 2), np.int64)
    verify_pairs(path, {(names[0], names[1]): none}, VerificationOptions())
    verify_pairs(path, {}, VerificationOptions())
    assert geometries(path) == []
