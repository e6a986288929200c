import errno
import os
from pathlib import Path

import numpy as np
import pycolmap
import pytest

from localize.results import (
    Localization,
    append_result,
    poses_text,
    read_poses,
    read_results,
    results_beside,
    unwritable_name,
    write_poses,
    write_poses_and_results,
    write_results,
)
from matching.errors import InputError
from tests.localize.synthetic import look_at, make_camera

NAMES = ["a.jpg", "sub/b c.jpg", "Straße 7 1.5 2.jpg", "日本/1.jpg", "../up.jpg", "1 2 3 4 5 6 7 8"]


def random_result(name: str, seed: int) -> Localization:
    rng = np.random.default_rng(seed)
    root = rng.normal(size=(6, 6))
    return Localization(
        name=name,
        success=True,
        cam_from_world=look_at(rng.normal(5, 1, 3), rng.normal(0, 1, 3)),
        camera=make_camera("OPENCV", extra=rng.normal(0, 0.01, 4)),
        camera_source="exif",
        num_inliers=20,
        num_matches=31,
        confidence=float(rng.random()),
        covariance=root @ root.T,
        retrieved=("x.jpg", "y z.jpg"),
        timings_s={"match": 0.25, "total": 0.5},
    )


def failure(name: str) -> Localization:
    return Localization(name=name, success=False, reason="too few inliers: 7 of 40 < 12")


def test_poses_come_back_exactly(tmp_path: Path) -> None:
    results = [random_result(n, i) for i, n in enumerate(NAMES)]
    write_poses(tmp_path / "poses.txt", [*results, failure("failed.jpg")])
    poses = read_poses(tmp_path / "poses.txt")
    assert (tmp_path / "poses.txt").read_text(encoding="utf-8") == poses_text(results)
    assert list(poses) == NAMES  # the failed query is left out
    for result in results:
        assert result.cam_from_world is not None
        pose = poses[result.name]
        # written with all digits, so the same doubles
        assert (pose.translation == result.cam_from_world.translation).all()
        assert (pose.rotation.quat == result.cam_from_world.rotation.quat).all()


def test_poses_are_written_in_colmap_order(tmp_path: Path) -> None:
    pose = pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([1.0, 0, 0, 0])), np.array([1.0, 2, 3]))
    result = Localization(name="q", success=True, cam_from_world=pose)
    write_poses(tmp_path / "poses.txt", {"q": result})
    words = (tmp_path / "poses.txt").read_text().split()
    assert words[0] == "q"
    np.testing.assert_array_equal(np.array(words[1:], float), [0, 1, 0, 0, 1, 2, 3])


def test_no_poses_give_an_empty_file(tmp_path: Path) -> None:
    write_poses(tmp_path / "poses.txt", [failure("a.jpg")])
    assert read_poses(tmp_path / "poses.txt") == {}


def test_read_poses_skips_comments_and_normalizes(tmp_path: Path) -> None:
    file = tmp_path / "poses.txt"
    file.write_text("# a comment\n\nq.jpg 2 0 0 0 1 2 3\r\n")
    pose = read_poses(file)["q.jpg"]
    np.testing.assert_allclose(pose.rotation.quat, [0, 0, 0, 1])


@pytest.mark.parametrize(
    "line",
    [
        "q.jpg 1 0 0 0 1 2",
        "1 0 0 0 1 2 3",
        "q.jpg 1 0 0 0 1 2 x",
        "q.jpg 1 0 0 0 1 2 nan",
        "q.jpg 0 0 0 0 1 2 3",
        "ok.jpg 1 0 0 0 1 2 3",
    ],
)
def test_wrong_pose_lines_are_named(tmp_path: Path, line: str) -> None:
    file = tmp_path / "poses.txt"
    file.write_text(f"ok.jpg 1 0 0 0 1 2 3\n\n{line}\n")
    with pytest.raises(InputError, match=r"poses\.txt:3"):
        read_poses(file)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    for read in (read_poses, read_results):
        with pytest.raises(InputError, match=r"nothing\.txt"):
            read(tmp_path / "nothing.txt")


def test_binary_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "poses.txt").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match="UTF-8"):
        read_poses(tmp_path / "poses.txt")


@pytest.mark.parametrize("name", ["", " a", "a\nb", "#a", "stra\udcdfe.jpg"])
def test_names_that_would_not_come_back_are_refused(tmp_path: Path, name: str) -> None:
    file = tmp_path / "poses.txt"
    file.write_text("old")
    with pytest.raises(InputError, match="rename"):
        write_poses(file, [random_result("ok.jpg", 0), random_result(name, 1)])
    assert unwritable_name(name) and not unwritable_name("ok # 1.jpg")
    assert file.read_text() == "old"  # nothing half-written
    assert list(tmp_path.iterdir()) == [file]


def test_results_come_back(tmp_path: Path) -> None:
    results = [random_result(n, i) for i, n in enumerate(NAMES)] + [failure("failed.jpg")]
    results.append(failure("stra\udcdfe.jpg"))  # as Python reads the bytes of a name in Latin-1
    file = tmp_path / "results.jsonl"
    write_results(file, results)
    back = read_results(file)
    assert [r.to_dict() for r in back.values()] == [r.to_dict() for r in results]
    first, again = results[0], back[NAMES[0]]
    assert first.covariance is not None and again.covariance is not None
    assert (first.covariance == again.covariance).all()
    assert again.camera is not None and first.camera is not None
    assert again.camera.params_to_string() == first.camera.params_to_string()
    write_results(tmp_path / "again.jsonl", back)
    assert (tmp_path / "again.jsonl").read_text() == file.read_text()


def test_results_of_other_photos_are_not_replaced_unasked(tmp_path: Path) -> None:
    poses, results = tmp_path / "poses.txt", tmp_path / "results.jsonl"
    write_poses_and_results(poses, results, [random_result("a.jpg", 0), failure("b.jpg")])
    with pytest.raises(InputError, match=r"other photos \(1, such as 'b\.jpg'\).*--overwrite"):
        results_beside(poses, ["a.jpg"])
    assert results_beside(poses, ["a.jpg"], overwrite=True) == results
    assert results_beside(poses, ["c.jpg", "b.jpg", "a.jpg"]) == results
    assert results_beside(tmp_path / "new" / "poses.txt", []) == tmp_path / "new" / "results.jsonl"


def test_whatever_is_in_the_place_of_results_is_told_before_the_work(tmp_path: Path) -> None:
    poses, results = tmp_path / "poses.txt", tmp_path / "results.jsonl"
    write_poses_and_results(poses, results, [random_result("a.jpg", 0)])
    poses.write_bytes("straße.jpg 1 0 0 0 0 0 0\n".encode("latin-1"))
    with pytest.raises(InputError, match=r"another poses file.*--overwrite"):
        results_beside(poses, ["a.jpg"])
    results.write_text('{"name": ')  # half a line
    with pytest.raises(InputError, match=r"results\.jsonl:1: .*--overwrite"):
        results_beside(poses, ["a.jpg"])
    assert results_beside(poses, ["a.jpg"], overwrite=True) == results
    results.unlink()
    results.mkdir()
    for overwrite in (False, True):
        with pytest.raises(InputError, match="is a folder"):
            results_beside(poses, ["a.jpg"], overwrite=overwrite)
    with pytest.raises(OSError, match="directory"):
        write_poses_and_results(poses, results, [random_result("a.jpg", 0)])
    assert sorted(tmp_path.iterdir()) == [poses, results] and results.is_dir()


def test_a_kill_while_files_are_written_asks_for_no_overwriting(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poses, results = tmp_path / "poses.txt", tmp_path / "results.jsonl"
    write_poses_and_results(poses, results, [random_result("a.jpg", 0)])
    replace, moved = Path.replace, list[Path]()

    def killed_at_the_second(self: Path, target: Path) -> Path:
        moved.append(target)
        if len(moved) == 2:
            raise KeyboardInterrupt
        return replace(self, target)

    new = [random_result("a.jpg", 1), failure("b.jpg")]
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Path, "replace", killed_at_the_second)
        write_poses_and_results(poses, results, new)
    assert moved == [poses, results] and poses.read_text() == poses_text(new)
    assert results_beside(poses, ["a.jpg", "b.jpg"]) == results
    write_poses_and_results(poses, results, new)
    assert list(read_results(results)) == ["a.jpg", "b.jpg"]
    assert results_beside(poses, ["a.jpg", "b.jpg"]) == results
    # nothing goes where the new poses cannot be written
    with pytest.raises(InputError, match="rename"):
        write_poses_and_results(poses, results, [random_result("#", 0)])
    assert list(read_results(results)) == ["a.jpg", "b.jpg"] and len(read_poses(poses)) == 1


@pytest.mark.parametrize("number", [1, 2])
def test_a_full_disk_costs_no_old_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int
) -> None:
    poses, results = tmp_path / "poses.txt", tmp_path / "results.jsonl"
    old = [random_result("a.jpg", 0)]
    write_poses_and_results(poses, results, old)
    fsync, synced = os.fsync, list[int]()

    def full_at_last(descriptor: int) -> None:
        synced.append(descriptor)
        if len(synced) == number:
            raise OSError(errno.ENOSPC, "No space left on device")
        fsync(descriptor)

    with monkeypatch.context() as patch, pytest.raises(OSError, match="No space"):
        patch.setattr(os, "fsync", full_at_last)
        write_poses_and_results(poses, results, [random_result("b.jpg", 1)])
    assert sorted(tmp_path.iterdir()) == [poses, results]
    assert poses.read_text() == poses_text(old) == poses_text(read_results(results))


def test_poses_that_cannot_be_replaced_cost_no_old_results(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    poses, results = tmp_path / "poses.txt", tmp_path / "results.jsonl"
    old = [random_result("a.jpg", 0)]
    write_poses_and_results(poses, results, old)

    def protected(self: Path, target: Path) -> Path:
        assert target == poses and not results.exists()  # which a kill would leave as it is now
        raise PermissionError(errno.EPERM, "Operation not permitted", str(target))

    with monkeypatch.context() as patch, pytest.raises(PermissionError):
        patch.setattr(Path, "replace", protected)
        write_poses_and_results(poses, results, [random_result("b.jpg", 1)])
    assert sorted(tmp_path.iterdir()) == [poses, results]
    assert poses.read_text() == poses_text(old) == poses_text(read_results(results))


def test_results_appended_one_by_one_make_the_same_file(tmp_path: Path) -> None:
    results = [random_result(n, i) for i, n in enumerate(NAMES)] + [failure("failed.jpg")]
    write_results(tmp_path / "at once.jsonl", results)
    for count, result in enumerate(results, start=1):
        append_result(tmp_path / "results.jsonl", result)
        assert len(read_results(tmp_path / "results.jsonl")) == count
    assert (tmp_path / "results.jsonl").read_text() == (tmp_path / "at once.jsonl").read_text()


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ('"success": true, ', "", "success"),
        ('"confidence": ', '"confidence": "high", "x": ', "confidence"),
        ('"num_inliers": 20', '"num_inliers": 2.5', "num_inliers"),
        ('"model": "OPENCV"', '"model": "BOX"', "camera"),
        ('"model": "OPENCV"', '"model": "PINHOLE"', "camera"),
        ('"camera_source": "exif"', '"camera_source": "magic"', "camera_source"),
        ('"translation": [', '"translation": [1.0, ', "numbers"),
        ('"success": true', '"success": false', "failure"),
        ("{", "[", ""),
        ("}", "", ""),
    ],
)
def test_wrong_results_are_named(tmp_path: Path, old: str, new: str, message: str) -> None:
    file = tmp_path / "results.jsonl"
    write_results(file, [random_result("a.jpg", 0), random_result("b.jpg", 1)])
    first, second = file.read_text().splitlines()
    assert old in second
    file.write_text(f"{first}\n{second.replace(old, new, 1)}\n")
    with pytest.raises(InputError, match=rf"results\.jsonl:2: .*{message}"):
        read_results(file)


def test_a_result_given_twice_is_named(tmp_path: Path) -> None:
    file = tmp_path / "results.jsonl"
    write_results(file, [random_result("a.jpg", 0), random_result("a.jpg", 1)])
    with pytest.raises(InputError, match=r"results\.jsonl:2: 'a\.jpg' is given twice"):
        read_results(file)


def test_success_and_reason_exclude_each_other() -> None:
    with pytest.raises(ValueError, match="reason"):
        Localization(name="q", success=False)
    with pytest.raises(ValueError, match="pose"):
        Localization(name="q", success=True)
