"""`matching.sift`: the contract of every matcher, and photos encoded on several threads."""

import errno
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from matching import InputError, load_matcher, sift
from matching.matcher import Matcher
from matching.sift import SiftMatcher, SiftOptions
from tests.matching.matcher_suite import MatcherSuite, textured


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return load_matcher("sift")


class TestSift(MatcherSuite):
    pass


def test_encode_many_keeps_order_and_reports_bad_photos(tmp_path: Path, matcher: Matcher) -> None:
    sizes = [(80, 120), (90, 100), (64, 64)]
    paths = []
    for index, size in enumerate(sizes):
        paths.append(tmp_path / f"{index}.png")
        Image.fromarray(textured(*size, seed=index)).save(paths[-1])
    paths.insert(1, tmp_path / "bad.png")
    paths[1].write_text("no image")
    results = list(matcher.encode_many(paths))
    error = results.pop(1)
    assert isinstance(error, InputError) and "bad.png" in str(error)
    for result, path, (height, width) in zip(results, [paths[0], *paths[2:]], sizes, strict=True):
        assert not isinstance(result, InputError) and result.image_size == (width, height)
        np.testing.assert_array_equal(result.keypoints, matcher.encode(path).keypoints)


@pytest.mark.parametrize("first_octave", [-1, 0])
def test_many_photos_are_encoded_bit_by_bit_as_one(first_octave: int, tmp_path: Path) -> None:
    photos = [
        textured(151, 203, seed=1),
        np.zeros((40, 30, 3), np.uint8),
        textured(1, 1),
        textured(420, 260, seed=2),  # scaled down
        textured(64, 300, seed=3)[..., 0],  # grey
    ]
    options = SiftOptions(max_image_size_px=310, max_num_features=400, num_threads=2)
    matcher = SiftMatcher(options, first_octave=first_octave)
    path = tmp_path / "turned.jpg"
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(textured(90, 140, seed=4)).save(path, exif=exif)
    for photo, many in zip([*photos, path], matcher.encode_many([*photos, path]), strict=True):
        one = matcher.encode(photo)
        assert not isinstance(many, InputError) and many.image_size == one.image_size
        assert (len(one.keypoints) > 20) == (photo is not photos[1] and photo is not photos[2])
        assert many.keypoints.dtype == np.float32
        np.testing.assert_array_equal(many.keypoints, one.keypoints)
        for name, values in one.arrays.items():
            np.testing.assert_array_equal(many.arrays[name], values)
            assert many.arrays[name].dtype == values.dtype


def test_without_room_for_files_photos_are_encoded_in_memory(
    monkeypatch: pytest.MonkeyPatch, matcher: Matcher
) -> None:
    def full(file: Path, num_bytes: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    photo = textured(100, 120)
    expected = matcher.encode(photo)
    monkeypatch.setattr(sift, "reserve_space", full)
    (view,) = matcher.encode_many([photo])
    assert not isinstance(view, InputError)
    np.testing.assert_array_equal(view.keypoints, expected.keypoints)


def test_photos_are_encoded_beside_the_interpreter(tmp_path: Path, matcher: Matcher) -> None:
    """While a photo is encoded, other threads run: they must not wait for it to end."""
    steps, done = 0, threading.Event()

    def count() -> None:
        nonlocal steps
        while not done.wait(0.001):
            steps += 1

    counter = threading.Thread(target=count)
    photo = textured(300, 500)
    with tempfile.TemporaryDirectory() as folder:
        counter.start()
        matcher._extract_from_file(photo, Path(folder))  # type: ignore[attr-defined]
        done.set()
        counter.join()
    assert steps > 10  # with the interpreter held: none or one


def test_large_photos_are_scaled_down_and_keypoints_back_up(matcher: Matcher) -> None:
    photo = textured(240, 401, seed=7)
    small = load_matcher("sift", options={"max_image_size_px": 200})
    view = small.encode(photo)
    assert view.image_size == (401, 240) and view.keypoints.max() > 250
    matches = small.match_views(view, matcher.encode(photo))
    error = np.linalg.norm(matches.keypoints0 - matches.keypoints1, axis=1)
    # half the resolution: half a pixel of the small photo
    assert len(matches) > 30 and np.median(error) < 1.0
    offset = np.median(matches.keypoints0 - matches.keypoints1, axis=0)
    np.testing.assert_allclose(offset, 0, atol=0.2)  # 0.5 with a wrong pixel centre


def test_fingerprint_follows_what_is_stored() -> None:
    plain = load_matcher("sift").fingerprint
    assert load_matcher("sift", options={"max_ratio": 0.7}).fingerprint == plain
    assert load_matcher("sift", options={"max_num_features": 100}).fingerprint != plain


def test_describe_makes_the_same_matcher_again() -> None:
    matcher = load_matcher("sift", options={"max_num_features": 77, "max_ratio": 0.9})
    described = matcher.describe()
    again = load_matcher(described["name"], options=described["options"])
    assert again.describe() == described and described["options"]["max_ratio"] == 0.9


def test_load_matcher_errors() -> None:
    with pytest.raises(InputError, match="unknown matcher 'sfit'"):
        load_matcher("sfit")
    with pytest.raises(InputError, match=r"did you mean 'matcher\.max_ratio'"):
        load_matcher("sift", options={"max_rato": 0.7})
    with pytest.raises(InputError, match="max_ratio must be in"):
        load_matcher("sift", options={"max_ratio": 1.5})
    with pytest.raises(InputError, match="unknown device"):
        load_matcher("sift", device="toaster")


def test_quick_encodings_match_full_ones(matcher: Matcher) -> None:
    image = textured(300, 400)
    full, quick = matcher, matcher.quick()
    assert quick is not None
    assert quick.fingerprint != full.fingerprint  # its views must never enter a map
    assert quick.quick() is None
    view, small = full.encode_image(image), quick.encode_image(image)
    assert 0 < len(small.keypoints) < len(view.keypoints)
    matches = full.match_views(small, view)
    # the larger blobs of the full encoding come back where they are
    assert len(matches) > 0.5 * len(small.keypoints)
    distances = np.linalg.norm(matches.keypoints0 - matches.keypoints1, axis=1)
    assert np.median(distances) < 0.1
