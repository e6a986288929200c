"""Tests of `mapping/pairs.py`."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest

from mapping import PairOptions
from mapping.pairs import (
    exhaustive_pairs,
    pairs_from_poses,
    read_pairs,
    resolve_method,
    select_pairs,
    sequential_pairs,
    unique_pairs,
)
from matching import InputError

NAMES = [f"{i}.jpg" for i in range(6)]


def walk(num_images: int, turn_deg: float = 0.0) -> dict:
    """Cameras side by side, one unit apart, looking along +z; every second one may be turned."""
    camera = pycolmap.Camera.create_from_model_name(1, "PINHOLE", 500.0, 640, 480)
    poses = {}
    for i in range(num_images):
        angle = np.radians(turn_deg * (i % 2))
        rotation = pycolmap.Rotation3d(np.array([0, np.sin(angle / 2), 0, np.cos(angle / 2)]))
        centre = np.array([float(i), 0, 0])
        poses[f"{i}.jpg"] = (camera, pycolmap.Rigid3d(rotation, -(rotation * centre)))
    return poses


def test_methods_of_auto() -> None:
    options = PairOptions(max_exhaustive=10)
    assert resolve_method(options, 10, True) == "exhaustive"
    assert resolve_method(options, 11, True) == "poses"
    assert resolve_method(options, 11, False) == "retrieval"
    assert resolve_method(PairOptions(method="sequential"), 3, True) == "sequential"


@pytest.mark.parametrize("count", [0, 1, 2, 7])
def test_exhaustive(count: int) -> None:
    names = [str(i) for i in range(count)]
    pairs = exhaustive_pairs(names)
    assert len(pairs) == len(set(pairs)) == count * (count - 1) // 2


def test_sequential() -> None:
    names = [str(i) for i in range(20)]
    pairs = sequential_pairs(names, 2)
    offsets = {int(b) - int(a) for a, b in pairs}
    assert offsets == {1, 2, 4, 8, 16}
    assert len(pairs) == sum(20 - d for d in offsets)
    assert sequential_pairs(["a"], 3) == []


def test_unique() -> None:
    found = unique_pairs(NAMES, [("1.jpg", "0.jpg"), ("0.jpg", "1.jpg"), ("2.jpg", "2.jpg")])
    assert found == [("0.jpg", "1.jpg")]


def test_retrieval() -> None:
    ranked = {n: [m for m in NAMES if m != n] for n in NAMES}
    options = PairOptions(method="retrieval", top_k=1)
    found = select_pairs(NAMES, options, similar=lambda n, k: ranked[n][:k])
    assert found == [("0.jpg", n) for n in NAMES[1:]]


def test_file(tmp_path: Path) -> None:
    names = ["a.jpg", "sub/b c.jpg", "d.jpg"]
    file = tmp_path / "pairs.txt"
    file.write_text("# comment\nd.jpg a.jpg\na.jpg\tsub/b c.jpg\n\na.jpg d.jpg")
    assert read_pairs(file, names) == [("a.jpg", "sub/b c.jpg"), ("a.jpg", "d.jpg")]
    options = PairOptions(method="file", file=str(file))
    assert len(select_pairs(names, options, listed=read_pairs(file, names))) == 2
    file.write_bytes(b"\xef\xbb\xbfa.jpg d.jpg\r\n")  # written by a Windows editor
    assert read_pairs(file, names) == [("a.jpg", "d.jpg")]
    file.write_bytes(b"\x89PNG\xff\n")
    with pytest.raises(InputError, match=r"pairs\.txt' is no UTF-8 text"):
        read_pairs(file, names)
    for line, message in (("a.jpg", "expected 'name0 name1'"), ("a.jpg x.jpg", "'x.jpg' is no")):
        file.write_text(f"a.jpg d.jpg\n{line}\n")
        with pytest.raises(InputError, match=f"line 2: {message}"):
            read_pairs(file, names)


def test_poses_prefer_neighbours() -> None:
    poses = walk(30)
    found = pairs_from_poses(list(poses), poses, PairOptions(top_k=4))
    for i in range(30):
        partners = [p for p in found if f"{i}.jpg" in p]
        assert len(partners) >= 4
        distances = [abs(int(a[:-4]) - int(b[:-4])) for a, b in partners]
        assert max(distances) <= 4
        assert 1 in distances


def test_poses_skip_cameras_that_look_elsewhere() -> None:
    poses = walk(10, turn_deg=180)
    found = pairs_from_poses(list(poses), poses, PairOptions(top_k=9))
    assert found
    assert all((int(a[:-4]) - int(b[:-4])) % 2 == 0 for a, b in found)
    # away from each other by less than the limit, but frustums that never meet
    apart = walk(2, turn_deg=-74)
    assert pairs_from_poses(list(apart), apart, PairOptions()) == []
    assert pairs_from_poses(list(apart), walk(2, turn_deg=74), PairOptions()) != []  # inwards


def scattered(num_images: int, seed: int, origin: float) -> dict:
    """Cameras of two kinds anywhere in groups far apart, looking anywhere near the horizon."""
    random = np.random.default_rng(seed)
    kinds = [
        pycolmap.Camera.create_from_model_name(1, "PINHOLE", 500.0, 640, 480),
        pycolmap.Camera(
            camera_id=2, model="OPENCV", width=300, height=400,
            params=[280, 281, 150, 200, -0.05, 0.01, 0, 0],
        ),
    ]  # fmt: skip
    poses = {}
    for i in range(num_images):
        quaternion = np.append(0.2 * random.normal(size=3), 1)
        quaternion[1] += random.normal()
        rotation = pycolmap.Rotation3d(quaternion / np.linalg.norm(quaternion))
        centre = origin + 200.0 * (i // 20) + random.uniform(-5, 5, 3)
        poses[f"{i}.jpg"] = (kinds[i % 2], pycolmap.Rigid3d(rotation, -(rotation * centre)))
    return poses


def slow_pairs_from_poses(poses: dict, options: PairOptions) -> list:
    """One camera and one point at a time."""
    names = list(poses)
    centres = {n: pose.inverse().translation for n, (_, pose) in poses.items()}
    far = {n: sorted((np.linalg.norm(centres[n] - centres[m]), names.index(m)) for m in names)
           for n in names}  # fmt: skip
    spacing = np.median([next((d for d, _ in far[n] if d > 1e-6), 1.0) for n in names])
    near = {n: far[n][: 10 * options.top_k + 1] for n in names}

    def share(name: str, other: str) -> float:
        (camera, pose), (other_camera, other_pose) = poses[name], poses[other]
        size = (other_camera.width, other_camera.height)
        inside = 0
        for depth in np.geomspace(spacing, max(2 * near[name][-1][0], 10 * spacing), 6):
            for x in (np.arange(4) + 0.5) / 4 * camera.width:
                for y in (np.arange(4) + 0.5) / 4 * camera.height:
                    ray = np.append(camera.cam_from_img(np.array([[x, y]]))[0], 1)
                    point = other_pose * (pose.inverse() * (depth * ray))
                    if point[2] > 0:
                        pixel = other_camera.img_from_cam(point[None])[0]
                        inside += bool((pixel >= 0).all() and (pixel <= size).all())
        return inside / 96

    pairs = set()
    for name, (_, pose) in poses.items():
        overlaps = []
        for other in (names[i] for _, i in near[name] if names[i] != name):
            cosine = pose.rotation.matrix()[2] @ poses[other][1].rotation.matrix()[2]
            if cosine >= np.cos(np.radians(options.max_view_angle_deg)):
                overlap = min(share(name, other), share(other, name)) * (1 + cosine) / 2
                overlaps.append((-overlap, names.index(other)))
        best = [i for overlap, i in sorted(overlaps)[: options.top_k] if overlap < 0]
        pairs |= {tuple(sorted((names.index(name), i))) for i in best}
    return [(names[i], names[j]) for i, j in sorted(pairs)]


@pytest.mark.parametrize(("num_images", "origin"), [(2, 0.0), (13, 0.0), (35, 0.0), (12, 1e6)])
def test_poses_agree_with_the_slow_way(
    monkeypatch: pytest.MonkeyPatch, num_images: int, origin: float
) -> None:
    monkeypatch.setattr("mapping.pairs._ROWS_AT_ONCE", 7)
    poses = scattered(num_images, num_images, origin)
    options = PairOptions(top_k=2)  # 21 nearest cameras are compared
    found = pairs_from_poses(list(poses), poses, options)
    assert found == slow_pairs_from_poses(poses, options)
    assert (len(found) > num_images // 2) or num_images == 2


def test_poses_do_not_pair_places_far_apart() -> None:
    """Cameras that look the same way from far behind see all that another one sees."""
    poses = walk(120)
    for i, (name, (camera, pose)) in enumerate(poses.items()):
        centre = np.array([float(i % 12), 0, 500.0 * (i // 12)])
        poses[name] = (camera, pycolmap.Rigid3d(pose.rotation, -(pose.rotation * centre)))
    found = pairs_from_poses(list(poses), poses, PairOptions(top_k=8))
    within = [int(a[:-4]) // 12 == int(b[:-4]) // 12 for a, b in found]
    assert len(found) > 400
    assert np.mean(within) > 0.95


def test_poses_of_one_place_and_none() -> None:
    camera, pose = walk(1)["0.jpg"]
    same = dict.fromkeys(NAMES, (camera, pose))
    assert len(pairs_from_poses(NAMES, same, PairOptions())) == 15
    assert pairs_from_poses(["0.jpg"], same, PairOptions()) == []
    with pytest.raises(InputError, match="needs known poses"):
        select_pairs(NAMES, PairOptions(method="poses"))


@pytest.mark.parametrize("wrong", [{"top_k": 0}, {"window": 0}, {"method": "file"}, {"file": "x"},
                                   {"max_view_angle_deg": 0}, {"max_exhaustive": 1}])  # fmt: skip
def test_wrong_options(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        PairOptions(**wrong)
