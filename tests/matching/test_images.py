"""`matching.images`: every kind of file becomes upright RGB, every bad one a clear error."""

import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image

from matching import images
from matching.errors import InputError
from matching.images import StoredPhoto, exif_tags, image_size, list_images, read_image


def gradient(height: int = 40, width: int = 60) -> np.ndarray:
    """A smooth colour image, (H, W, 3) uint8: survives lossy formats, differs in every corner."""
    y, x = np.mgrid[0:height, 0:width]
    return np.stack([x * 255 // width, y * 255 // height, (x + y) % 256], 2).astype(np.uint8)


@pytest.mark.parametrize("suffix, tolerance", [("png", 0), ("tif", 0), ("webp", 12), ("jpg", 12)])
def test_reads_common_formats(tmp_path: Path, suffix: str, tolerance: int) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(gradient()).save(path, quality=95)
    read = read_image(path)
    assert read.dtype == np.uint8 and read.shape == (40, 60, 3) and read.flags.c_contiguous
    assert np.abs(read.astype(int) - gradient()).max() <= tolerance
    assert image_size(path) == (60, 40)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_applies_every_exif_orientation(tmp_path: Path, orientation: int) -> None:
    upright = gradient()
    # how the sensor stored it: the inverse of what the viewer must do (EXIF 2.3, tag 0x0112)
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "a.png"
    Image.fromarray(np.ascontiguousarray(stored)).save(path, exif=exif)
    np.testing.assert_array_equal(read_image(path), upright)
    assert image_size(path) == (60, 40)
    np.testing.assert_array_equal(read_image(path, apply_exif_orientation=False), stored)


def test_grey_palette_alpha_cmyk(tmp_path: Path) -> None:
    rgb = Image.fromarray(gradient())
    grey = np.asarray(rgb.convert("L"))
    rgb.convert("L").save(tmp_path / "grey.png")
    np.testing.assert_array_equal(read_image(tmp_path / "grey.png"), np.dstack([grey] * 3))
    rgb.convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(read_image(tmp_path / "bits.png"))) == {0, 255}
    palette = rgb.convert("P", palette=Image.Palette.ADAPTIVE)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(
        read_image(tmp_path / "palette.png"), np.asarray(palette.convert("RGB"))
    )
    rgb.convert("CMYK").save(tmp_path / "cmyk.jpg", quality=95)
    assert np.abs(read_image(tmp_path / "cmyk.jpg").astype(int) - gradient()).max() <= 16
    alpha = np.dstack([gradient(), np.full((40, 60), 255, np.uint8)])
    alpha[:10, :, 3] = 0
    Image.fromarray(alpha).save(tmp_path / "alpha.png")
    read = read_image(tmp_path / "alpha.png")
    assert (read[:10] == 255).all()  # transparent shows white
    np.testing.assert_array_equal(read[10:], gradient()[10:])


def test_16_bit_grey(tmp_path: Path) -> None:
    values = np.linspace(0, 65535, 60 * 40).reshape(40, 60).astype(np.uint16)
    for suffix in ("png", "tif"):
        Image.fromarray(values).save(tmp_path / f"a.{suffix}")
        read = read_image(tmp_path / f"a.{suffix}")
        np.testing.assert_allclose(read[:, :, 0], values / 257.0, atol=0.51)
    np.testing.assert_array_equal(read_image(values), read)  # arrays convert as files do


def test_arrays_are_checked() -> None:
    np.testing.assert_array_equal(read_image(gradient()), gradient())
    assert read_image(np.zeros((4, 5), np.uint8)).shape == (4, 5, 3)
    for bad in (np.zeros((4, 5, 4), np.uint8), np.zeros((0, 5, 3), np.uint8), np.zeros((4, 5))):
        with pytest.raises(InputError, match="an image array must be"):
            read_image(bad)


def _bad_files(folder: Path) -> dict[str, str]:
    """Names of bad files made in the folder, with a word their error must contain."""
    Image.fromarray(gradient(200, 300)).save(folder / "whole.jpg")
    whole = (folder / "whole.jpg").read_bytes()
    (folder / "whole.jpg").unlink()
    (folder / "truncated.jpg").write_bytes(whole[: len(whole) // 2])
    (folder / "empty.png").write_bytes(b"")
    (folder / "text.jpg").write_text("not an image")
    (folder / "vector.png").write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n")

    def chunk(kind: bytes, data: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + crc

    header = struct.pack(">IIBBBBB", 20_000, 10_001, 8, 0, 0, 0, 0)
    data = chunk(b"IDAT", zlib.compress(b"0" * 1000))
    (folder / "huge.png").write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + data)
    Image.fromarray(np.zeros((4, 4), np.float32)).save(folder / "float.tif")
    return {
        "truncated.jpg": "damaged",
        "empty.png": "empty",
        "text.jpg": "no readable image",
        "vector.png": "no readable image",
        "huge.png": "megapixels",
        "float.tif": "floating-point",
    }


def test_bad_files_are_clear_errors(tmp_path: Path) -> None:
    for name, word in _bad_files(tmp_path).items():
        with pytest.raises(InputError, match=word) as error:
            read_image(tmp_path / name)
        assert name in str(error.value) and "\n" not in str(error.value)


def test_200_megapixels_are_allowed_by_the_header_check(tmp_path: Path) -> None:
    # Pillow's own limit is lower; a photo just under ours must not be refused for its size
    Image.new("1", (20_000, 9_999)).save(tmp_path / "a.png")
    limit = Image.MAX_IMAGE_PIXELS
    assert image_size(tmp_path / "a.png") == (20_000, 9_999)
    assert limit == Image.MAX_IMAGE_PIXELS
    assert images.MAX_PIXELS == 200_000_000


def test_missing_file_suggests_a_name(tmp_path: Path) -> None:
    Image.fromarray(gradient()).save(tmp_path / "photo.png")
    with pytest.raises(InputError, match=r"did you mean .*photo\.png"):
        read_image(tmp_path / "phto.png")
    with pytest.raises(InputError, match="is a folder"):
        read_image(tmp_path)


def test_list_images_says_what_it_cannot_read(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for name in ("a.jpg", "b.HEIC", "notes.txt"):
        (tmp_path / name).write_bytes(b"x")
    assert list_images(tmp_path) == ["a.jpg"]
    assert "1 files" in caplog.text and "b.HEIC" in caplog.text and "notes" not in caplog.text
    assert list_images(tmp_path) == ["a.jpg"]
    assert len(caplog.records) == 1, "once, though several stages list a folder"


def test_list_images(tmp_path: Path) -> None:
    for name in ("b.JPG", "sub folder/ä.png", ".hidden.jpg", ".git/c.png", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    assert list_images(tmp_path) == ["b.JPG", "sub folder/ä.png"]
    with pytest.raises(InputError, match="no image folder"):
        list_images(tmp_path / "none")
    empty = tmp_path / "empty"
    empty.mkdir()
    with pytest.raises(InputError, match="no photos in"):
        list_images(empty)


def test_list_images_follows_links_once(tmp_path: Path) -> None:
    for name in ("a.png", "sub/b.png"):
        (tmp_path / "photos" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "photos" / name).touch()
    (tmp_path / "more").mkdir()
    (tmp_path / "more" / "c.png").touch()
    for link, target in {"x": ".", "sub/up": "..", "a sub": "sub", "more": "../more"}.items():
        (tmp_path / "photos" / link).symlink_to(target)
    (tmp_path / "more" / "back").symlink_to(tmp_path / "photos")
    assert list_images(tmp_path / "photos") == ["a.png", "more/c.png", "sub/b.png"]
    (tmp_path / "link").symlink_to("photos")
    assert list_images(tmp_path / "link") == ["a.png", "more/c.png", "sub/b.png"]


# no TIFF header; and a block that ends within its first entry, of which Pillow warns
DAMAGED_EXIF = [b"Exif\0\0no TIFF header", b"Exif\0\0II*\0\x08\0\0\0\x05\0\x12\x01"]


@pytest.mark.parametrize("exif", DAMAGED_EXIF)
@pytest.mark.parametrize("suffix", ["png", "webp", "jpg"])
def test_damaged_exif_is_no_exif(
    tmp_path: Path, suffix: str, exif: bytes, recwarn: pytest.WarningsRecorder
) -> None:
    path = tmp_path / f"a.{suffix}"
    Image.fromarray(gradient()).save(path, exif=exif)
    assert exif_tags(path) == {}
    assert image_size(path) == (60, 40)
    assert read_image(path).shape == (40, 60, 3)
    assert [str(w.message) for w in recwarn] == []


def test_exif_tags(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.FocalLengthIn35mmFilm] = 28
    Image.fromarray(gradient()).save(tmp_path / "a.jpg", exif=exif)
    assert exif_tags(tmp_path / "a.jpg") == {ExifTags.Base.FocalLengthIn35mmFilm: 28}
    (tmp_path / "b.jpg").write_text("no image")
    assert exif_tags(tmp_path / "b.jpg") == exif_tags(tmp_path / "none.jpg") == {}


def test_a_stored_photo_is_a_path_that_is_read_as_it_is_stored(tmp_path: Path) -> None:
    path = tmp_path / "turned.png"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.arange(2 * 3 * 3, dtype=np.uint8).reshape(2, 3, 3)).save(path, exif=exif)
    stored = StoredPhoto(str(path))
    assert read_image(path).shape == (3, 2, 3) and read_image(stored).shape == (2, 3, 3)
    np.testing.assert_array_equal(
        read_image(stored), read_image(path, apply_exif_orientation=False)
    )
    assert Path(stored) == path and str(stored) == str(path)
    with pytest.raises(InputError, match="missing"):
        read_image(StoredPhoto(str(tmp_path / "missing.png")))
