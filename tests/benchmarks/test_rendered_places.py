"""Tests of `benchmarks/rendered_places.py` on tiny photos."""

import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.colmap_folder import read_colmap_folder
from benchmarks.rendered_places import (
    SPACING_M,
    PlacesOptions,
    read_rendered_places,
    write_rendered_places,
)
from matching import InputError

OPTIONS = PlacesOptions(num_places=1, map_photos=3, queries=2, image_width=64)


def contents(folder: Path) -> dict[str, bytes]:
    return {p.relative_to(folder).as_posix(): p.read_bytes() for p in folder.rglob("*.jpg")}


@pytest.fixture(scope="module")
def one_place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("places")
    write_rendered_places(folder, OPTIONS)
    return folder


def test_photos_and_truth(one_place: Path) -> None:
    places = read_rendered_places(one_place)
    assert places.map_names == [f"place_0000/map_{k:03d}.jpg" for k in range(3)]
    assert list(places.query_cameras) == [f"place_0000/query_{k:03d}.jpg" for k in range(2)]
    task = read_colmap_folder(one_place)  # as `groundloc benchmark colmap` reads it
    assert list(task.map_names) == places.map_names
    for name in [*places.map_names, *places.query_cameras]:
        photo = np.asarray(Image.open(places.images / name))
        assert photo.shape == (48, 64, 3)
        assert photo.std() > 3
    model = places.truth
    assert {model.image(i).name for i in model.reg_image_ids()} == {
        *places.map_names, *places.query_cameras
    }  # fmt: skip
    for query, shares in places.overlaps.items():
        assert query in places.query_cameras
        assert set(shares) <= set(places.map_names)
        assert all(0 < share <= 1 for share in shares.values())
    # every query was drawn together with a map photo that shows some of the same
    assert all(places.overlaps.values())


def test_more_places_keep_the_first_and_lie_apart(one_place: Path, tmp_path: Path) -> None:
    shutil.copytree(one_place, tmp_path / "p")
    first = contents(one_place)
    more = write_rendered_places(tmp_path / "p", replace(OPTIONS, num_places=2))
    assert {n: b for n, b in contents(tmp_path / "p").items() if n in first} == first
    assert len(more.map_names) == 6
    model = more.truth
    centres = {
        model.image(i).name: model.image(i).projection_center() for i in model.reg_image_ids()
    }
    for name, centre in centres.items():
        place = int(name[6:10])
        assert np.linalg.norm(centre[:2] - [0, SPACING_M * place]) < 50


def test_interrupted_rendering_goes_on(one_place: Path, tmp_path: Path) -> None:
    shutil.copytree(one_place, tmp_path / "p")
    shutil.rmtree(tmp_path / "p" / "images")
    (tmp_path / "p" / "query.txt").unlink()
    with pytest.raises(InputError, match="no complete rendered places"):
        read_rendered_places(tmp_path / "p")
    again = write_rendered_places(tmp_path / "p", OPTIONS)
    assert contents(tmp_path / "p") == contents(one_place)
    assert again.overlaps == read_rendered_places(one_place).overlaps


def test_folders_of_others_are_left_alone(one_place: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="other options"):
        write_rendered_places(one_place, replace(OPTIONS, seed=1))
    (tmp_path / "thesis.tex").write_text("precious")
    with pytest.raises(InputError, match="is not empty"):
        write_rendered_places(tmp_path, OPTIONS)


@pytest.mark.parametrize(
    "wrong", [{"num_places": 0}, {"queries": 9}, {"image_width": 66}, {"jpeg_quality": 0}]
)
def test_wrong_options(wrong: dict) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(OPTIONS, **wrong)
