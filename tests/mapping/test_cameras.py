"""Tests of `mapping/cameras.py` and `mapping/camera_groups.py`."""

from pathlib import Path

import numpy as np
import pycolmap
import pytest
from PIL import ExifTags, Image

from mapping import ReconstructionOptions, camera_from_image, read_camera_list, read_model
from mapping.camera_groups import assign_cameras
from mapping.cameras import create_camera, parse_camera
from mapping.focal_prior import focal_prior
from matching import InputError
from tests.mapping.fakes import FakeWorld


def write_photo(
    path: Path, size: tuple[int, int], focal_35mm: int = 0, focal_mm: float = 0
) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    exif = Image.Exif()
    tags = exif.get_ifd(ExifTags.IFD.Exif)
    if focal_35mm:
        tags[ExifTags.Base.FocalLengthIn35mmFilm] = focal_35mm
    if focal_mm:
        tags[ExifTags.Base.FocalLength] = focal_mm
    Image.new("RGB", size).save(path, exif=exif)


@pytest.fixture
def model(tmp_path: Path) -> Path:
    """A COLMAP text model of three images, with 2D points in one of them."""
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "cameras.txt").write_text(
        "# Number of cameras: 2\n1 PINHOLE 640 480 600 600 320 240\n"
        "4 SIMPLE_RADIAL 100 80 90 50 40 0.1\n"
    )
    (folder / "images.txt").write_text(
        "# Image list\n# Number of images: 3, mean observations per image: 1\n"
        "1 1 0 0 0 0 0 5 1 a b.jpg\n\n"
        "2 0.5 0.5 0.5 0.5 1 2 3 4 sub/ü.jpg\n10.5 20.5 7 30 40 -1\n"
        "9 2 0 0 0 0 0 1 1 c.jpg\n\n"
    )
    return folder


def test_text_model(model: Path) -> None:
    read = read_model(model)
    images = {i.name: i for i in read.images.values()}
    assert sorted(images) == ["a b.jpg", "c.jpg", "sub/ü.jpg"]
    assert images["sub/ü.jpg"].image_id == 2
    pose = images["sub/ü.jpg"].cam_from_world()
    np.testing.assert_allclose(pose.translation, [1, 2, 3])
    # quaternion (w, x, y, z) = (.5, .5, .5, .5) turns x to y, y to z, z to x
    np.testing.assert_allclose(pose.rotation.matrix() @ [1, 0, 0], [0, 1, 0], atol=1e-12)
    np.testing.assert_allclose(images["c.jpg"].cam_from_world().rotation.quat, [0, 0, 0, 1])
    assert read.camera(4).params.tolist() == [90, 50, 40, 0.1]
    assert read.num_points3D() == 0


def test_text_and_binary_agree(model: Path, tmp_path: Path) -> None:
    text = read_model(model)
    (tmp_path / "bin").mkdir()
    text.write_binary(tmp_path / "bin")
    binary = read_model(tmp_path / "bin")
    for image_id, image in text.images.items():
        other = binary.image(image_id)
        assert (image.name, image.camera_id) == (other.name, other.camera_id)
        assert image.cam_from_world().matrix().tolist() == other.cam_from_world().matrix().tolist()
    for camera_id, camera in text.cameras.items():
        other_camera = binary.camera(camera_id)
        assert camera.params.tolist() == other_camera.params.tolist()
        assert (camera.model, camera.width) == (other_camera.model, other_camera.width)


def test_binary_with_points(tmp_path: Path) -> None:
    options = pycolmap.SyntheticDatasetOptions(num_rigs=1, num_frames_per_rig=3, num_points3D=20)
    truth = pycolmap.synthesize_dataset(options)
    truth.write_binary(tmp_path)
    read = read_model(tmp_path)
    assert {i.name for i in read.images.values()} == {i.name for i in truth.images.values()}


@pytest.mark.parametrize("line", range(3, 9))
def test_missing_line_of_images(model: Path, line: int) -> None:
    lines = (model / "images.txt").read_text().split("\n")
    del lines[line - 1]
    (model / "images.txt").write_text("\n".join(lines))
    if line == 8:  # the empty points of the last image: nothing is lost
        assert read_model(model).num_images() == 3
        return
    with pytest.raises(InputError, match=r"images\.txt'"):
        read_model(model)


@pytest.mark.parametrize("line", [2, 3])
def test_missing_line_of_cameras(model: Path, line: int) -> None:
    lines = (model / "cameras.txt").read_text().split("\n")
    del lines[line - 1]
    (model / "cameras.txt").write_text("\n".join(lines))
    with pytest.raises(InputError, match=r"announces 2 cameras but holds 1"):
        read_model(model)
    (model / "cameras.txt").write_text("\n".join(lines[1:]))  # nothing announced
    with pytest.raises(InputError, match=r"images\.txt' line \d: .*cameras\.txt does not list"):
        read_model(model)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("1 1 0 0 0 0 0 5 1 a b.jpg", "1 1 0 0 0 0 5 1 a b.jpg", "line 3: expected 'IMAGE_ID"),
        ("1 1 0 0 0 0 0 5 1 a b.jpg", "1 0 0 0 0 0 0 5 1 a b.jpg", "no valid pose"),
        ("1 1 0 0 0 0 0 5 1 a b.jpg", "1 1 0 0 0 nan 0 5 1 a b.jpg", "no valid pose"),
        ("c.jpg", "a b.jpg", "'a b.jpg' comes twice"),
        ("9 2 0", "1 2 0", "image 1 'c.jpg' comes twice"),
        ("10.5 20.5 7 30", "10.5 20.5 7", "line 6: expected the 2D points of 'sub/ü.jpg'"),
    ],
)
def test_wrong_images(model: Path, old: str, new: str, message: str) -> None:
    text = (model / "images.txt").read_text()
    assert old in text
    (model / "images.txt").write_text(text.replace(old, new))
    with pytest.raises(InputError, match=message):
        read_model(model)


def test_truncated_binary_is_refused_everywhere(model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "bin"
    folder.mkdir()
    read_model(model).write_binary(folder)
    for name in ("cameras.bin", "images.bin"):
        data = (folder / name).read_bytes()
        for size in range(0, len(data), 7):
            (folder / name).write_bytes(data[:size])
            with pytest.raises(InputError, match=name):
                read_model(folder)
        (folder / name).write_bytes(data + b"x")
        with pytest.raises(InputError, match=f"{name}' goes on"):
            read_model(folder)
        (folder / name).write_bytes(data)
    assert read_model(folder).num_images() == 3


def test_no_model(tmp_path: Path, model: Path) -> None:
    with pytest.raises(InputError, match="neither images"):
        read_model(tmp_path)
    with pytest.raises(InputError, match="did you mean"):
        read_model(tmp_path / "modl")
    (model / "cameras.txt").unlink()
    with pytest.raises(InputError, match=r"cameras\.txt"):
        read_model(model)


def test_camera_list(tmp_path: Path) -> None:
    file = tmp_path / "list.txt"
    file.write_text(
        "# a comment\na.jpg PINHOLE 640 480 600 601 320 240\n\n"
        "a b/ü c.jpg SIMPLE_RADIAL 10 20 30 5 10 0.1\n"
    )
    cameras = read_camera_list(file)
    assert list(cameras) == ["a.jpg", "a b/ü c.jpg"]
    assert cameras["a.jpg"].params.tolist() == [600, 601, 320, 240]
    assert (cameras["a b/ü c.jpg"].width, cameras["a b/ü c.jpg"].height) == (10, 20)
    assert parse_camera("PINHOLE 640 480 600 601 320 240").params.tolist()[1] == 601


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("b.jpg", "expected 'name MODEL"),
        ("b.jpg NIKON 640 480 600", "expected 'name MODEL"),
        ("b.jpg PINHOLE 640 480 600", "PINHOLE takes 4 parameters"),
        (
            "b.jpg PINHOLE 640 480 600 600 320 x",
            r"'x' is not a number: expected 'PINHOLE WIDTH HEIGHT fx fy cx cy'",
        ),
        ("b.jpg PINHOLE 640", "the size of the photo is missing: expected 'PINHOLE WIDTH"),
        ("b.jpg PINHOLE 640.5 480 600 600 320 240", "'640.5' is not a whole number of pixels"),
        ("b.jpg PINHOLE 0 480 600 600 320 240", "image size 0x480"),
        ("b.jpg PINHOLE 640 480 -600 600 320 240", "no camera"),
        ("b.jpg PINHOLE 640 480 inf 600 320 240", "no camera"),
        ("b.jpg PINHOLE 640 480 4.2 4.2 320 240", "focal length of 4.2 pixels is impossible"),
        ("b.jpg PINHOLE 640 480 9e5 9e5 320 240", "focal length of 900000 pixels is impossible"),
        ("a.jpg PINHOLE 640 480 600 600 320 240", "'a.jpg' is listed twice"),
    ],
)
def test_wrong_camera_list(tmp_path: Path, line: str, message: str) -> None:
    file = tmp_path / "list.txt"
    file.write_text(f"a.jpg PINHOLE 640 480 600 600 320 240\n{line}\n")
    with pytest.raises(InputError, match=rf"list\.txt' line 2: .*{message}"):
        read_camera_list(file)


def test_focal_length_from_exif(tmp_path: Path) -> None:
    write_photo(tmp_path / "a.jpg", (600, 400), focal_35mm=28)
    guess = camera_from_image(tmp_path / "a.jpg", (600, 400))
    # a film frame is 36 x 24 mm; this photo has its shape
    assert guess.camera.mean_focal_length() == pytest.approx(28 / 36 * 600)
    assert (guess.source, guess.camera.has_prior_focal_length) == ("exif", True)
    turned = camera_from_image(tmp_path / "a.jpg", (400, 600)).camera
    assert turned.mean_focal_length() == pytest.approx(28 / 36 * 600)
    assert turned.params.tolist()[1:3] == [200, 300]
    write_photo(tmp_path / "b.webp", (600, 400))
    write_photo(tmp_path / "c.jpg", (600, 400), focal_mm=5)  # of an unknown sensor
    for name in ("b.webp", "c.jpg"):
        guess = camera_from_image(tmp_path / name, (600, 400))
        assert (guess.source, guess.camera.mean_focal_length()) == ("guess", 720)
    with pytest.raises(InputError, match="unknown camera model 'X'"):
        create_camera("X", 1, 1, 1)


@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_damaged_exif_gives_a_guess(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.new("RGB", (600, 400)).save(path, exif=b"Exif\0\0no TIFF header")
    assert camera_from_image(path, (600, 400)).source == "guess"


def cameras_of(
    tmp_path: Path, photos: dict[str, tuple[tuple[int, int], int]], mode: str
) -> dict[str, int]:
    for name, (size, focal) in photos.items():
        write_photo(tmp_path / name, size, focal_35mm=focal)
    options = ReconstructionOptions(camera_mode=mode)  # type: ignore[arg-type]
    sizes = {name: size for name, (size, _) in photos.items()}
    cameras, bad = assign_cameras(sizes, tmp_path, {}, options)
    assert bad == {}
    return dict(cameras.camera_of)


def test_which_photos_share_a_camera(tmp_path: Path) -> None:
    video = {f"video/{i}.jpg": ((64, 48), 0) for i in range(3)}
    internet = {f"net/{i}.jpg": ((64 + i % 2, 48), 0) for i in range(3)}
    phone = {"phone/1.jpg": ((64, 48), 28), "phone/2.jpg": ((64, 48), 28),
             "phone/zoom.jpg": ((64, 48), 56)}  # fmt: skip
    found = cameras_of(tmp_path, video | internet | phone, "auto")
    assert len({found[n] for n in video}) == 1
    assert len({found[n] for n in internet}) == 3
    assert found["phone/1.jpg"] == found["phone/2.jpg"] != found["phone/zoom.jpg"]
    assert len(set(found.values())) == 1 + 3 + 2
    assert len(set(cameras_of(tmp_path, video, "per_image").values())) == 3
    assert len(set(cameras_of(tmp_path, video | phone, "per_folder").values())) == 2
    assert len(set(cameras_of(tmp_path, video | phone, "single").values())) == 1
    with pytest.raises(InputError, match="another size"):
        cameras_of(tmp_path, internet, "single")


def test_a_stray_photo_does_not_part_the_others(tmp_path: Path) -> None:
    photos = {f"{i}.jpg": ((48, 64) if i % 3 == 0 else (64, 48), 0) for i in range(8)}
    stray = {"stray.jpg": ((50, 50), 0), "with_exif.jpg": ((30, 20), 28)}
    found = cameras_of(tmp_path, photos | stray, "auto")
    upright = {found[f"{i}.jpg"] for i in (0, 3, 6)}
    lying = {found[f"{i}.jpg"] for i in (1, 2, 4, 5, 7)}
    assert len(upright) == len(lying) == 1 and upright != lying
    assert len(set(found.values())) == 4
    strays = {f"stray{i}.jpg": ((50 + i, 50), 0) for i in range(3)}  # three of eleven
    assert len(set(cameras_of(tmp_path, photos | strays, "auto").values())) == 11


def test_given_cameras(tmp_path: Path) -> None:
    given = FakeWorld().camera
    sizes = {"a.jpg": (640, 480), "b.jpg": (640, 480), "c.jpg": (480, 640)}
    cameras, bad = assign_cameras(
        sizes, tmp_path, dict.fromkeys(sizes, given), ReconstructionOptions()
    )
    assert dict(cameras.camera_of) == {"a.jpg": 0, "b.jpg": 0}
    assert [camera.has_prior_focal_length for camera in cameras.cameras] == [True]
    assert bad == {
        "c.jpg": "it has 480x640 pixels, but its camera is for 640x480: the option "
        "apply_exif_orientation says whether photos are turned"
    }
    assert cameras.focal_sources == {"a.jpg": "given", "b.jpg": "given"}


def test_focal_lengths_from_point_maps(tmp_path: Path) -> None:
    """A few photos of each camera are asked, EXIF is blended in, given cameras are left alone."""
    focal_35mm = {"exif/a.jpg": 35, "exif/b.jpg": 35}
    focal_35mm |= {f"video/{i}.jpg": 0 for i in range(9)} | {"given.jpg": 0}
    for name, focal in focal_35mm.items():
        write_photo(tmp_path / name, (640, 480), focal_35mm=focal)
    asked: dict[str, str] = {}

    def focal_px(name: str, other: str) -> float | None:
        asked[name] = other
        # one photo sees nothing, one is far off
        return {"video/0.jpg": None, "video/2.jpg": 5000.0}.get(name, 500.0)

    given = {"given.jpg": FakeWorld().camera}
    cameras, bad = assign_cameras(
        dict.fromkeys(focal_35mm, (640, 480)), tmp_path, given, ReconstructionOptions(),
        focal_px=focal_px,
    )  # fmt: skip
    assert bad == {} and "given.jpg" not in asked
    assert len([n for n in asked if n.startswith("video/")]) <= 5
    assert asked["video/0.jpg"] == "video/1.jpg" and asked["exif/a.jpg"] == "exif/b.jpg"
    focal = {
        name: cameras.cameras[row].mean_focal_length() for name, row in cameras.camera_of.items()
    }
    assert focal["given.jpg"] == given["given.jpg"].mean_focal_length()
    assert focal["video/0.jpg"] == focal["video/8.jpg"]
    expected = focal_prior((640, 480), pointmap_px=500.0).focal_px
    assert focal["video/0.jpg"] == pytest.approx(expected)
    exif_px = camera_from_image(tmp_path / "exif/a.jpg", (640, 480)).camera.mean_focal_length()
    assert 500 < focal["exif/a.jpg"] < exif_px
    sources = cameras.focal_sources
    assert (sources["given.jpg"], sources["video/8.jpg"]) == ("given", "pointmap")
    assert sources["exif/b.jpg"] == "exif+pointmap"
