"""Focal lengths of a map's photos from point maps; the rest of the grouping is in test_cameras."""

from pathlib import Path

import pytest
from PIL import Image

from mapping import Map, MapOptions, ReconstructionOptions, build_map
from mapping.camera_groups import remembered_focals
from matching.types import View
from tests.rendered_views import Faults, OracleMatcher, RenderedView, render_views


@pytest.fixture(scope="module")
def views() -> list[RenderedView]:
    """Photos of a rendered place by a lens that is not the common one."""
    rows = [2, 4, 6, 8]
    return render_views(rows, 160, zoom=dict.fromkeys(rows, 2.0))


def test_maps_start_from_the_focal_lengths_of_point_maps(
    views: list[RenderedView], tmp_path: Path
) -> None:
    for number, view in enumerate(views):
        (tmp_path / "photos").mkdir(exist_ok=True)
        Image.fromarray(view.image).save(tmp_path / "photos" / f"{number}.png")
    matcher = OracleMatcher(views, Faults(pixel_noise=0.3, noise=0.05, outliers=0.2))

    def made(pointmap_focal: bool) -> Map:
        settings = ReconstructionOptions(pointmap_focal=pointmap_focal)
        folder = tmp_path / f"map{pointmap_focal}"
        options = MapOptions(reconstruction=settings)
        return build_map(tmp_path / "photos", folder, matcher, options=options)

    told, guessed = made(True), made(False)
    assert told.info.focal_sources == {"pointmap": 4}
    assert (
        "(focal lengths of the photos with a pose from: 4 pointmap; all but given ones refined)"
        in (told.summary())
    )
    assert guessed.info.focal_sources == {"guess": 4}
    true = views[0].K[0, 0]
    off = [abs(m.camera(m.image_names[0]).mean_focal_length() / true - 1) for m in (told, guessed)]
    assert off[0] < 0.02
    assert off[0] < off[1]


def test_an_interrupted_run_does_not_ask_again(views: list[RenderedView], tmp_path: Path) -> None:
    matcher = OracleMatcher(views)
    encoded = {str(number): matcher.encode_image(view.image) for number, view in enumerate(views)}
    asked: list[str] = []

    def load(name: str) -> View:
        asked.append(name)
        return encoded[name]

    file = tmp_path / "focals.json"
    with (
        pytest.raises(KeyboardInterrupt),
        remembered_focals(file, matcher, load) as seen,
    ):
        first = seen("0", "1")
        raise KeyboardInterrupt
    assert first == pytest.approx(views[0].K[0, 0], rel=0.01)
    with remembered_focals(file, matcher, load) as seen:
        assert seen("0", "1") == first
        assert asked == ["0", "1"]
        assert seen("2", "3") == pytest.approx(first, rel=0.01)
