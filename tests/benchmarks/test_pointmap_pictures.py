"""Pictures of point maps and of reprojections."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.plots import plot_matches
from benchmarks.pointmap_pictures import draw_pointmaps, stack, told_apart, value_colors
from matching.pointmap import PairGeometry
from matching.preprocess import NetworkFrame
from matching.types import Matches


def geometry(
    size0: tuple[int, int], size1: tuple[int, int], *, metric: bool = True
) -> PairGeometry:
    """Slanted planes, the first row of each behind the camera."""
    maps, confidences, frames = [], [], []
    for width, height in (size0, size1):
        points = np.ones((height, width, 3), np.float32)
        points[..., 2] = 2 + np.arange(width) / 10
        points[0, :, 2] = -1
        maps.append(points)
        confidences.append(np.linspace(1, 9, width * height).reshape(height, width))
        frames.append(NetworkFrame(image_size=(width, height), scale=(1, 1), offset=(0, 0)))
    confidence = tuple(c.astype(np.float32) for c in confidences)
    return PairGeometry(
        frames=(frames[0], frames[1]),
        image_sizes=(size0, size1),
        in_camera0=(maps[0], maps[1]),
        confidence_in_camera0=(confidence[0], confidence[1]),
        in_camera1=(maps[0], maps[1]),
        confidence_in_camera1=(confidence[0], confidence[1]),
        metric=metric,
    )


def test_depths_and_confidences_side_by_side() -> None:
    picture = draw_pointmaps(geometry((80, 60), (60, 80)), photo_size_px=320)
    pixels = np.asarray(picture)
    assert picture.width >= 640 and picture.height > 2 * 320
    # a landscape map beside a portrait one: near is darker than far, behind the camera is grey
    top = (320 - 240) // 2
    row = pixels[top + 120, :320].astype(int).sum(1)
    assert row[10] < row[300]
    assert (np.ptp(pixels[top, 5:300].astype(int), axis=1) < 10).all()


def test_differences_that_mean_nothing_are_not_drawn() -> None:
    planes = geometry((80, 60), (80, 60))
    rough = np.linspace(1, 1.00001, 4800, dtype=np.float32).reshape(60, 80)
    even = np.ones((60, 80), np.float32)
    drawn = [
        np.asarray(
            draw_pointmaps(
                dataclasses.replace(
                    planes, confidence_in_camera0=(c, c), confidence_in_camera1=(c, c)
                ),
                photo_size_px=320,
            )
        )
        for c in (rough, even)
    ]
    assert np.abs(drawn[0].astype(int) - drawn[1]).max() < 10


def test_values_become_colours() -> None:
    colors = value_colors(np.array([0.0, 1.0, 2.0, np.nan, 9.0]), 0.0, 2.0)
    assert colors.dtype == np.uint8
    assert colors[0].sum() < colors[1].sum() < colors[2].sum()
    assert (colors[4] == colors[2]).all()
    assert np.ptp(colors[3]) < 10
    assert value_colors(np.zeros((2, 2)), 1.0, 1.0).shape == (2, 2, 3)


@pytest.mark.parametrize(
    ("low", "high", "texts"),
    [
        (5.6, 21.81, ("5.6", "21.8")),
        (1.00012, 1.00234, ("1", "1.002")),
        (2.0, 2.0, ("2", "2")),
    ],
)
def test_ends_of_a_scale_are_told_apart(low: float, high: float, texts: tuple[str, str]) -> None:
    assert told_apart(low, high) == texts


def test_stacked_pictures_keep_their_sizes() -> None:
    red, blue = Image.new("RGB", (4, 3), (255, 0, 0)), Image.new("RGB", (6, 2), (0, 0, 255))
    stacked = stack([red, blue])
    assert stacked.size == (6, 5)
    assert stacked.getpixel((0, 0)) == (255, 0, 0) and stacked.getpixel((5, 4)) == (0, 0, 255)


@pytest.mark.parametrize("with_maps", [False, True])
def test_match_pictures_have_point_maps_below(tmp_path: Path, with_maps: bool) -> None:
    image = np.full((60, 80, 3), 90, np.uint8)
    path = tmp_path / "plot.png"
    seen = geometry((80, 60), (80, 60), metric=False) if with_maps else None
    plot_matches(image, image, Matches.empty(), path, geometry=seen, photo_size_px=320)
    height = Image.open(path).height
    assert (height > 3 * 240) == with_maps
