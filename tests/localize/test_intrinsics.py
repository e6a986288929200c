from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from localize.intrinsics import camera_for_size, query_camera
from matching.errors import InputError
from tests.localize.synthetic import make_camera


def test_the_given_camera_is_copied() -> None:
    camera = make_camera("OPENCV", extra=(0.1, 0, 0, 0))
    copy = camera_for_size(camera, (800, 600), "q")
    assert copy.params_to_string() == camera.params_to_string()
    copy.params = [1.0] * 8
    assert camera.focal_length_x == 700


def test_the_given_camera_is_scaled_to_the_photo() -> None:
    camera = make_camera("OPENCV", extra=(0.1, 0.01, 0.001, 0))
    half = camera_for_size(camera, (400, 300), "q")
    assert (half.width, half.height) == (400, 300)
    np.testing.assert_allclose(half.params, [350, 350, 200, 150, 0.1, 0.01, 0.001, 0])
    assert (camera.width, camera.height) == (800, 600)


def test_sizes_rounded_to_whole_pixels_are_the_same_shape() -> None:
    camera = make_camera(size=(4032, 3024))
    assert camera_for_size(camera, (1000, 750), "q").width == 1000
    assert camera_for_size(make_camera(size=(1536, 1024)), (683, 455), "q").height == 455


@pytest.mark.parametrize(
    ("size", "message"), [((600, 800), "upright"), ((800, 500), "cropped"), ((100, 100), "cropped")]
)
def test_another_shape_is_refused(size: tuple[int, int], message: str) -> None:
    with pytest.raises(InputError, match=rf"'q\.jpg' is 800x600 .*{size[0]}x{size[1]}.*{message}"):
        camera_for_size(make_camera(), size, "q.jpg")


def test_unusable_parameters_are_refused() -> None:
    camera = make_camera()
    camera.params = [0.0, 400.0, 300.0]
    with pytest.raises(InputError, match="unusable"):
        camera_for_size(camera, (800, 600), "q")
    camera.params = [700.0, float("nan"), 300.0]
    with pytest.raises(InputError, match="unusable"):
        camera_for_size(camera, (800, 600), "q")
    camera.params = [700.0]
    with pytest.raises(InputError, match="unusable"):
        camera_for_size(camera, (800, 600), "q")


def test_panoramas_are_refused() -> None:
    camera = make_camera("EQUIRECTANGULAR")
    with pytest.raises(InputError, match="panoramas"):
        camera_for_size(camera, (800, 600), "q")


def test_focal_length_from_exif(tmp_path: Path) -> None:
    photo = Image.new("RGB", (360, 240))
    exif = Image.Exif()
    exif[0x8769] = {0xA405: 28}  # focal length in a 35 mm film camera
    photo.save(tmp_path / "exif.jpg", exif=exif)
    photo.save(tmp_path / "bare.jpg")
    found = query_camera(tmp_path / "exif.jpg", (360, 240), None, "q")
    assert found.source == "exif"
    # 36 mm is the width of the film, or its diagonal is meant: within 10 %
    assert found.camera.mean_focal_length() == pytest.approx(28 / 36 * 360, rel=0.1)
    bare = query_camera(tmp_path / "bare.jpg", (360, 240), None, "q")
    assert bare.source == "estimated"
    array = query_camera(None, (360, 240), None, "q")
    assert array.source == "estimated"
    assert (array.camera.width, array.camera.height) == (360, 240)


def test_a_given_camera_beats_exif() -> None:
    found = query_camera(None, (400, 300), make_camera(), "q")
    assert found.source == "given"
    assert found.camera.mean_focal_length() == 350


def test_scaled_cameras_are_told_once(caplog: pytest.LogCaptureFixture) -> None:
    camera = make_camera()
    size = camera.width // 4, camera.height // 4  # no other test has it
    for name in ("a", "b"):
        query_camera(None, size, camera, name)
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    assert f"{camera.width}x{camera.height} pixels are scaled" in caplog.text
