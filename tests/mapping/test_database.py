"""`mapping.database`: verification in steps that a progress bar can follow."""

import sqlite3
import time
from collections.abc import Iterable, Iterator
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
import pytest

from mapping import database
from mapping.database import MapCameras, posed_reconstruction, verify_pairs, write_database
from mapping.options import VerificationOptions

NUM_PHOTOS, NUM_POINTS = 6, 60
POSES = {
    f"{i:02d}.jpg": pycolmap.Rigid3d(
        pycolmap.Rotation3d(np.array([0, 0.02 * i, 0])), np.array([-0.2 * i, 0.01 * i, 0])
    )
    for i in range(NUM_PHOTOS)
}


def write(path: Path, num_points: int = NUM_POINTS) -> int:
    """All pairs of photos on a line, a third of their matches wrong; returns their number."""
    rng = np.random.default_rng(0)
    points = rng.uniform((-3, -2, 5), (3, 2, 9), (num_points, 3))
    camera = pycolmap.Camera(model="PINHOLE", width=640, height=480, params=[500, 500, 320, 240])
    cameras = MapCameras(cameras=[camera], camera_of=dict.fromkeys(POSES, 0), fixed=frozenset({0}))
    keypoints = {}
    for name, pose in POSES.items():
        seen = camera.img_from_cam(np.array([pose * point for point in points]))
        keypoints[name] = (seen + rng.normal(0, 0.3, seen.shape)).astype(np.float32)
    matches = {}
    for pair in combinations(POSES, 2):
        rows = np.stack([np.arange(num_points)] * 2, axis=1)
        rows[::3, 1] = rng.permutation(num_points)[: len(rows[::3])]
        matches[pair] = rows
    write_database(path, cameras, keypoints, matches)
    return len(matches)


def geometries(path: Path) -> list[Any]:
    with sqlite3.connect(path) as connection:
        return connection.execute("SELECT * FROM two_view_geometries ORDER BY pair_id").fetchall()


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
def test_every_pair_is_counted_and_steps_change_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, posed: bool
) -> None:
    found = []
    for at_a_time in (1000, 4):
        monkeypatch.setattr(database, "_VERIFIED_AT_A_TIME", at_a_time)
        path = tmp_path / f"{at_a_time}.db"
        number = write(path)
        counter = Counter()
        model = posed_reconstruction(path, POSES) if posed else None
        verify_pairs(path, VerificationOptions(), model, progress=counter)
        assert counter.total == counter.count == number
        found.append(geometries(path))
        # verified ones are left alone
        again = Counter()
        verify_pairs(path, VerificationOptions(), model, progress=again)
        assert (again.total, again.count) == (0, 0) and geometries(path) == found[-1]
    assert found[0] == found[1] and len(found[0]) == number
    # the right matches of the two photos furthest apart survive, wrong ones do not
    assert 0.5 * NUM_POINTS < found[0][0][1] < 0.75 * NUM_POINTS


def test_an_interrupt_stops_the_verification(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "_VERIFIED_AT_A_TIME", 2)
    monkeypatch.setattr(database, "_SECONDS_PER_LOOK", 0.01)
    path = tmp_path / "a.db"
    number = write(path, num_points=1500)

    def interrupted(items: Iterable[Any], *_: Any) -> Iterator[Any]:
        for item in items:
            yield item
            raise KeyboardInterrupt

    start = time.perf_counter()
    with pytest.raises(KeyboardInterrupt):
        verify_pairs(path, VerificationOptions(), progress=interrupted)
    seconds = time.perf_counter() - start
    assert 0 < len(geometries(path)) < number, seconds
