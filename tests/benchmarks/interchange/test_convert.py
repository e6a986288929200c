"""Either system goes on from the other's files."""

import json
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import pycolmap
import pytest

from benchmarks.interchange.convert import convert
from benchmarks.interchange.export import (
    FEATURES,
    MATCHES,
    MODEL,
    PAIRS,
    QUERY_LIST,
    QUERY_MATCHES,
    QUERY_PAIRS,
)
from benchmarks.interchange.hloc_lists import read_pairs_list
from benchmarks.interchange.kapture import kapture_model, read_kapture
from benchmarks.rendered_place import RenderedPlace
from groundloc import main
from localize import Localizer, read_poses
from mapping import Map, MapOptions, build_map
from mapping.options import PairOptions
from matching.errors import InputError
from matching.hloc_files import write_global_features
from matching.load import load_matcher
from tests.benchmarks.miniature_sets import Miniature


@pytest.fixture(scope="module")
def exported(
    rendered_place: RenderedPlace, rendered_map: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """hloc's files of the rendered map and its queries."""
    folder = tmp_path_factory.mktemp("hloc") / "files"
    result = convert(rendered_map, folder, queries=rendered_place.images / "query")
    assert "8 photos" in result.text and "3 queries" in result.text
    assert "3 queries have no camera (--cameras)" in result.text
    return folder


def test_exported_files_are_hlocs(exported: Path, rendered_map: Path) -> None:
    scene = Map.open(rendered_map)
    name = scene.image_names[0]
    with h5py.File(exported / FEATURES) as file:
        keypoints = file[name]["keypoints"][()]
        np.testing.assert_allclose(keypoints + 0.5, scene.load_view(name).keypoints, atol=1e-4)
        assert file[name]["descriptors"].shape == (128, len(keypoints))
    model = pycolmap.Reconstruction(exported / MODEL)
    image = model.find_image_with_name(name)
    # hloc takes row i of the features for 2D point i of the model
    np.testing.assert_allclose([p.xy for p in image.points2D], keypoints + 0.5, atol=1e-3)
    pairs = read_pairs_list(exported / PAIRS)
    with h5py.File(exported / MATCHES) as file:
        for name0, others in pairs.items():
            for name1 in others:
                rows = file[name0.replace("/", "-")][name1.replace("/", "-")]["matches0"][()]
                assert (rows >= 0).sum() >= 15 and rows.dtype == np.int16


def test_map_and_poses_from_hlocs_files(
    exported: Path, rendered_place: RenderedPlace, tmp_path: Path
) -> None:
    """The whole way back: hloc's features, matches, pairs and model give the same poses."""
    matcher = load_matcher(
        f"hloc:{exported / FEATURES},{exported / MATCHES},{exported / QUERY_MATCHES}"
    )
    scene = build_map(
        rendered_place.images,
        tmp_path / "map",
        matcher,
        options=MapOptions(pairs=PairOptions(method="file", file=str(exported / PAIRS))),
        known_poses=exported / MODEL,
        image_names=rendered_place.map_names,
    )
    assert len(scene.image_names) == 8
    retrieved = read_pairs_list(exported / QUERY_PAIRS)
    # the queries were exported from their own folder, so that is where their names begin
    paths = {f"{rendered_place.images}/query/{name}": name for name in retrieved}
    results = Localizer(scene.path).localize_all(
        list(paths),
        {p: rendered_place.query_cameras[f"query/{name}"] for p, name in paths.items()},
        retrieved={path: retrieved[name] for path, name in paths.items()},
    )
    for path, name in paths.items():
        truth = rendered_place.truth.find_image_with_name(f"query/{name}").cam_from_world()
        found = results[path].cam_from_world
        assert found is not None, results[path].reason
        gap = found.inverse().translation - truth.inverse().translation
        assert np.linalg.norm(gap) < 0.05


def test_results_in_hlocs_form_and_back(tmp_path: Path) -> None:
    names = ("query/day/a.jpg", "query/night/b.jpg")
    given = {
        name: pycolmap.Rigid3d(pycolmap.Rotation3d(np.array([0, 0.6, 0, 0.8])), np.array([k, 2, 3]))
        for k, name in enumerate(names)
    }
    lines = [
        f"{n} {' '.join(map(str, [*np.roll(p.rotation.quat, 1), *p.translation]))}\n"
        for n, p in given.items()
    ]
    (tmp_path / "poses.txt").write_text("".join(lines))
    convert(tmp_path / "poses.txt", tmp_path / "hloc.txt")
    assert [line.split()[0] for line in (tmp_path / "hloc.txt").open()] == ["a.jpg", "b.jpg"]
    (tmp_path / "names.txt").write_text("".join(f"{name}\n" for name in names))
    convert(tmp_path / "hloc.txt", tmp_path / "back.txt", names=tmp_path / "names.txt")
    for name, pose in read_poses(tmp_path / "back.txt").items():
        np.testing.assert_allclose(pose.matrix(), given[name].matrix(), atol=1e-9)


def test_global_features_become_a_retrieval_list(tmp_path: Path) -> None:
    given = {"q/1.jpg": [0.0, 1.0], "db/1.jpg": [1.0, 0.0], "db/2.jpg": [0.6, 0.8]}
    write_global_features(
        tmp_path / "global.h5",
        {n: np.array(v, np.float32) for n, v in given.items()},
        dict.fromkeys(given, (64, 48)),
    )
    (tmp_path / "queries.txt").write_text("q/1.jpg\n")
    convert(tmp_path / "global.h5", tmp_path / "pairs.txt", names=tmp_path / "queries.txt")
    assert read_pairs_list(tmp_path / "pairs.txt") == {"q/1.jpg": ["db/2.jpg", "db/1.jpg"]}
    (tmp_path / "queries.txt").write_text("q/2.jpg\n")
    with pytest.raises(InputError, match=r"no global features of 'q/2\.jpg'"):
        convert(tmp_path / "global.h5", tmp_path / "pairs.txt", names=tmp_path / "queries.txt")
    with pytest.raises(InputError, match="--names tells"):
        convert(tmp_path / "global.h5", tmp_path / "pairs.txt")


def test_kapture_map_becomes_a_model(miniature: Callable[[str], Miniature], tmp_path: Path) -> None:
    mini = miniature("kapture")
    result = convert(mini.root / "mapping", tmp_path / "model")
    assert "6 photos" in result.text
    model = pycolmap.Reconstruction(tmp_path / "model")
    prefix = "mapping/sensors/records_data/"
    for image in model.images.values():
        truth = mini.map_photos[prefix + image.name]
        np.testing.assert_allclose(image.cam_from_world().matrix(), truth.matrix(), atol=1e-9)
    # keypoints are exact projections: a shift of half a pixel would show
    assert model.num_points3D() > 100 and model.compute_mean_reprojection_error() < 1e-3
    first = next(iter(model.points3D.values()))
    np.testing.assert_array_equal(first.color, [9, 8, 7])
    assert kapture_model(mini.root / "query").num_points3D() == 0


def test_kapture_of_another_version_and_broken_rows(tmp_path: Path) -> None:
    sensors = tmp_path / "sensors"
    sensors.mkdir()
    (sensors / "sensors.txt").write_text(
        "# kapture format: 1.1\nc, , camera, SIMPLE_PINHOLE, 64, 48, 50, 32, 24\n"
        "u, unknown, camera, UNKNOWN_CAMERA, 64, 48\n"
        "d, depth, depth, SIMPLE_PINHOLE, 4, 4, 1, 2, 2\n"
    )
    (sensors / "records_camera.txt").write_text("0, c, a.jpg\n1, u, b/c.jpg\n")
    (sensors / "trajectories.txt").write_text("0, c, 1, 0, 0, 0, 1, 2, 3\n1, u, , , , , , , \n")
    photos = read_kapture(tmp_path)
    camera, pose = photos["a.jpg"].camera, photos["a.jpg"].cam_from_world
    assert camera is not None and camera.focal_length == 50 and pose is not None
    np.testing.assert_array_equal(pose.translation, [1, 2, 3])  # world to device, as it is
    assert photos["b/c.jpg"].camera is None and photos["b/c.jpg"].cam_from_world is None
    for file, text, message in (
        ("records_camera.txt", "0, x, a.jpg\n", "no camera 'x'"),
        ("records_camera.txt", "0, c, a.jpg\n1, c, a.jpg\n", "line 2.*comes twice"),
        ("trajectories.txt", "0, c, 1, 0, 0, 0, 1, 2, y\n", "line 1"),
        ("sensors.txt", "# kapture format: 2.0\n", "format 2.0"),
        ("sensors.txt", "c, , camera, SIMPLE_PINHOLE, wide, 48, 50, 32, 24\n", "line 1"),
    ):
        before = (sensors / file).read_text()
        (sensors / file).write_text(text)
        with pytest.raises(InputError, match=message):
            read_kapture(tmp_path)
        (sensors / file).write_text(before)


def test_files_of_queries_are_not_dropped(exported: Path, rendered_map: Path) -> None:
    before = sorted(path.name for path in exported.iterdir())
    assert QUERY_LIST not in before, "no empty list"
    with pytest.raises(InputError, match=r"holds 'matches-query.*, which the conversion would del"):
        convert(rendered_map, exported)
    assert sorted(path.name for path in exported.iterdir()) == before


def test_nothing_is_deleted_and_nothing_misread(tmp_path: Path, rendered_map: Path) -> None:
    (tmp_path / "photos").mkdir()
    (tmp_path / "photos" / "mine.jpg").write_bytes(b"x")
    with pytest.raises(InputError, match=r"holds 'mine.jpg', which the conversion would delete"):
        convert(rendered_map, tmp_path / "photos")
    with pytest.raises(InputError, match="no map, no kapture folder"):
        convert(tmp_path / "photos", tmp_path / "out")
    with pytest.raises(InputError, match="queries are exported with a map"):
        convert(tmp_path / "photos", tmp_path / "out", queries=tmp_path)
    assert (tmp_path / "photos" / "mine.jpg").exists()


def test_command_line(
    rendered_map: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["convert", str(rendered_map), str(tmp_path / "hloc"), "--json", "--quiet"]
    assert main(arguments) == 0
    assert json.loads(capsys.readouterr().out)["path"] == str(tmp_path / "hloc")
    assert main(arguments) == 0  # an earlier export is replaced
    assert (tmp_path / "hloc" / PAIRS).is_file()
    assert not (tmp_path / "hloc" / QUERY_PAIRS).exists()
