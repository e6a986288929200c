"""The hard queries are what they are said to be, and the table counts what it says."""

import functools
import math
from pathlib import Path

import numpy as np
import pytest

from benchmarks import hard_place
from benchmarks.datasets.colmap_folder import read_colmap_folder
from benchmarks.hard_place import HardPlaceOptions, table, write_hard_place
from benchmarks.report import QueryScore, Report
from matching.training.demo_place import demo_place

OPTIONS = HardPlaceOptions(queries_per_kind=2, map_every=12, image_width=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("hard") / "place"
    with pytest.MonkeyPatch.context() as patch:
        small = functools.partial(demo_place, texture_size=64)  # painting takes most of the time
        patch.setattr(hard_place, "demo_place", small)
        write_hard_place(root, OPTIONS)
    return root


def test_the_folder_is_a_benchmark(folder: Path) -> None:
    task = read_colmap_folder(folder)
    assert list(task.map_names) == ["map/map_00.jpg", "map/map_12.jpg"]
    assert list(task.query_cameras) == [
        f"query/{kind}_0{k}.jpg" for kind in ("night", "zoom", "wide") for k in range(2)
    ]
    assert all((task.images / name).is_file() for name in task.query_cameras)


def test_photos_that_are_there_are_kept(folder: Path) -> None:
    photo = folder / "images" / "query" / "wide_00.jpg"
    before = photo.stat().st_mtime_ns
    place = write_hard_place(folder, OPTIONS)  # with textures of another size, were it rendered
    assert photo.stat().st_mtime_ns == before
    assert len(place.query_cameras) == 6


def test_zoomed_queries_have_another_lens(folder: Path) -> None:
    place = write_hard_place(folder, OPTIONS)
    ratios = {
        name: camera.mean_focal_length() / 54.0 for name, camera in place.query_cameras.items()
    }
    for name, ratio in ratios.items():
        assert (2 <= ratio <= 4.5) if "zoom" in name else ratio == pytest.approx(1)
        camera = place.query_cameras[name]
        np.testing.assert_allclose(camera.params[2:], [32, 24])  # principal point in the middle


def test_wide_queries_look_from_far_off(folder: Path) -> None:
    place = write_hard_place(folder, OPTIONS)
    images = {image.name: image for image in place.truth.images.values()}
    maps = [images[name] for name in place.map_names]
    for k in range(2):
        query = images[f"query/wide_0{k}.jpg"]
        world_from_cam = query.cam_from_world().inverse()
        centre = world_from_cam.translation
        # somewhere along the middle ray lies what both see; the angle at it is the wide one
        angles = []
        for distance in np.linspace(4, 18, 57):
            aim = world_from_cam * np.array([0.0, 0.0, distance])
            ray = _unit(centre - aim)
            seen = [m for m in maps if _sees(m.cam_from_world() * aim)]
            others = [_unit(m.projection_center() - aim) for m in seen]
            angles += [min(math.degrees(math.acos(ray @ o)) for o in others)] if others else []
        assert max(angles) > hard_place._WIDE_DEG[0]


def _unit(vector: np.ndarray) -> np.ndarray:
    return vector / np.linalg.norm(vector)


def _sees(in_cam: np.ndarray) -> bool:
    """Whether a map photo of 64x48 pixels and a focal length of 54 shows a point."""
    x, y = 54 * in_cam[:2] / in_cam[2]
    return bool(in_cam[2] > 0 and abs(x) <= 32 and abs(y) <= 24)


def test_the_table_counts_failures() -> None:
    def score(name: str, metres: float, success: bool = True) -> QueryScore:
        return QueryScore(
            name=f"query/{name}.jpg",
            success=success,
            translation_error_m=metres,
            rotation_error_deg=metres,
        )

    scores = [
        score("night_00", 0.01),
        score("night_01", 0.3),  # farther off than a quarter of a metre
        score("wide_00", math.inf, success=False),
    ]
    report = Report(num_queries=3, num_localized=2, seconds_per_query=1.5, per_query=scores)
    night, wide, everything = table({"weights/small.safetensors": report}).splitlines()[2:]
    assert night.startswith("| night | small | 2 of 2 | 1 | 15.50 cm, 0.155 deg | 0.50 0.50 1.00")
    assert wide.startswith("| wide | small | 0 of 1 | 1 | inf cm, inf deg | 0.00 0.00 0.00")
    assert everything.startswith("| all | small | 2 of 3 | 2 | 30.00 cm")


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("kinds", ("night", "fog")),
        ("kinds", ()),
        ("queries_per_kind", 0),
        ("map_every", 13),
        ("image_width", 30),
        ("night_noise", 1.0),
        ("night_blur_px", -1.0),
    ],
)
def test_bad_options_are_refused(name: str, value: object) -> None:
    with pytest.raises(ValueError, match=name):
        HardPlaceOptions(**{name: value})  # type: ignore[arg-type]
