"""Zoomed pairs keep the geometry of the pairs they are made of."""

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from PIL import Image

from benchmarks.datasets.pairs import FolderPairsOptions, open_pairs
from benchmarks.zoomed_pairs import ZoomedPairsOptions, main, write_zoomed_pairs, zoomed
from matching.errors import InputError

if TYPE_CHECKING:
    from benchmarks.rendered_place import RenderedPlace


def gradient(width: int, height: int) -> np.ndarray:
    """Red grows with x, green with y, blue with neither."""
    y, x = np.mgrid[:height, :width] + 0.5
    channels = [x / width * 255, y / height * 255, np.full_like(x, 9)]
    return np.stack(channels, -1).astype(np.uint8)


@pytest.mark.parametrize(
    ("size", "zoom", "centre"),
    [((300, 200), 2.5, (0.4, 0.7)), ((200, 300), 1.0, (0.9, 0.1)), ((301, 77), 4.0, (0.0, 1.0))],
)
def test_points_are_where_the_new_calibration_puts_them(
    size: tuple[int, int], zoom: float, centre: tuple[float, float]
) -> None:
    K = np.array([[250.0, 0, 140], [0, 260, 90], [0, 0, 1]])
    photo = gradient(*size)
    part, lens = zoomed(photo, K, zoom, np.array(centre), 240)
    assert max(part.size) == 240
    pixels = np.array(part, float)
    rows, columns = np.array([20, pixels.shape[0] - 21]), np.array([20, pixels.shape[1] - 21])
    for v, u in zip(rows, columns, strict=True):
        x, y, _ = K @ np.linalg.inv(lens) @ (u + 0.5, v + 0.5, 1)
        wanted = np.array([x / size[0], y / size[1]]) * 255
        np.testing.assert_allclose(pixels[v, u, :2], wanted, atol=2)
    assert lens[0, 0] / K[0, 0] == pytest.approx(zoom * 240 / max(size), rel=0.02)


def test_the_pairs_are_those_of_the_folder_with_the_second_photo_zoomed(
    rendered_place: "RenderedPlace", tmp_path: Path
) -> None:
    out = tmp_path / "zoomed"
    main([str(rendered_place.folder), str(out), "--zoom", "2", "--gaps", "1", "1"])
    plain = open_pairs(rendered_place.folder, FolderPairsOptions(gaps=(1, 1)))
    made = open_pairs(out, FolderPairsOptions())
    assert len(made.pairs) == len(plain.pairs) == 10
    for pair, before in zip(made.pairs, plain.pairs, strict=True):
        np.testing.assert_allclose(pair.cam1_from_cam0, before.cam1_from_cam0)
        assert pair.camera0 and pair.camera1 and before.camera0 and before.camera1
        assert Image.open(made.images / pair.image1).size == (1024, 768)
        focal = before.camera0.mean_focal_length() * 1024 / before.camera0.width
        assert pair.camera0.mean_focal_length() == pytest.approx(focal)
        assert pair.camera1.mean_focal_length() == pytest.approx(2 * focal)
    again = write_zoomed_pairs(
        rendered_place.folder, tmp_path / "again", ZoomedPairsOptions(zoom=2, gaps=(1, 1))
    )
    assert json.loads((out / "pairs.json").read_text()) == again, "the same seed, the same parts"


def test_photos_whose_names_differ_by_a_folder_only_stay_apart(tmp_path: Path) -> None:
    names = ("a/b.png", "a_b.png", "a%2Fb.png")
    (tmp_path / "place" / "images" / "a").mkdir(parents=True)
    for name, grey in zip(names, (50, 120, 200), strict=True):
        pixels = np.full((48, 64, 3), grey, np.uint8)
        Image.fromarray(pixels).save(tmp_path / "place" / "images" / name)
    lenses = {
        name: [[focal, 0, 32], [0, focal, 24], [0, 0, 1]]
        for name, focal in zip(names, (60, 70, 80), strict=True)
    }
    pairs: list[dict[str, Any]] = [
        {"image0": a, "image1": b, "K0": lenses[a], "K1": lenses[b], "T_0to1": np.eye(4).tolist()}
        for a in names
        for b in names
        if a != b
    ]
    (tmp_path / "place" / "pairs.json").write_text(json.dumps(pairs))
    made = write_zoomed_pairs(
        tmp_path / "place", tmp_path / "out", ZoomedPairsOptions(long_side_px=32)
    )
    greys = dict(zip(names, (50, 120, 200), strict=True))
    for before, entry in zip(pairs, made, strict=True):
        focal0, focal1 = (np.array(entry[f"K{i}"])[0, 0] for i in (0, 1))
        assert focal0 == pytest.approx(before["K0"][0][0] / 2)
        assert focal1 == pytest.approx(before["K1"][0][0] / 2 * 3)
        for key in ("image0", "image1"):
            with Image.open(tmp_path / "out" / "images" / str(entry[key])) as photo:
                assert abs(np.array(photo).mean() - greys[str(before[key])]) < 2
    main([str(tmp_path / "place"), str(tmp_path / "other"), "--seed", "1", "--long-side", "32"])
    other = json.loads((tmp_path / "other" / "pairs.json").read_text())
    assert [entry["K0"] for entry in other] == [entry["K0"] for entry in made]
    assert all(a["K1"] != b["K1"] for a, b in zip(made, other, strict=True)), "other parts"
    assert len({entry["image0"] for entry in made} | {entry["image1"] for entry in made}) == 6


def test_what_cannot_be_zoomed_is_refused(rendered_place: "RenderedPlace", tmp_path: Path) -> None:
    with pytest.raises(InputError, match="exists"):
        write_zoomed_pairs(rendered_place.folder, tmp_path)
    for name in ("a.jpg", "b.jpg"):
        (tmp_path / name).write_bytes(b"")
    unknown = [{"image0": "a.jpg", "image1": "b.jpg"}]
    (tmp_path / "pairs.json").write_text(json.dumps(unknown))
    with pytest.raises(InputError, match=r"no known pose of 'a\.jpg' and 'b\.jpg'"):
        write_zoomed_pairs(tmp_path, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    for name, value in (("zoom", 0.5), ("long_side_px", 3)):
        with pytest.raises(ValueError, match=f"{name} must be"):
            ZoomedPairsOptions(**{name: value})  # type: ignore[arg-type]
    with pytest.raises(SystemExit, match="nowhere"):
        main([str(tmp_path / "nowhere"), str(tmp_path / "out")])
