"""`matching.sift`: the contract of every matcher, and the block-wise search against a plain one."""

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from matching import InputError, load_matcher, sift
from matching.matcher import Matcher
from matching.sift import mutual_ratio_matches
from tests.matching.matcher_suite import MatcherSuite, textured


@pytest.fixture(scope="module")
def matcher() -> Matcher:
    return load_matcher("sift")


class TestSift(MatcherSuite):
    pass


def plain_mutual_ratio_matches(
    descriptors0: np.ndarray, descriptors1: np.ndarray, max_ratio: float
) -> set[tuple[int, int]]:
    """The slow twin: one pair at a time, in float64."""
    found = set()
    if len(descriptors1) < 2:
        return found
    distance = np.linalg.norm(descriptors0[:, None] - descriptors1[None], axis=2)
    for row, values in enumerate(distance):
        column, second = np.argsort(values, kind="stable")[:2]
        if distance[:, column].argmin() == row and values[column] < max_ratio * values[second]:
            found.add((row, int(column)))
    return found


def unit(generator: np.random.Generator, *shape: int) -> np.ndarray:
    values = generator.normal(size=shape)
    return values / np.linalg.norm(values, axis=1, keepdims=True)


@pytest.mark.parametrize(
    "num0, num1",
    [
        (0, 5),
        (5, 0),
        (1, 1),
        (1, 2),
        (2, 1),
        (7, 3),
        (257, 130),
        (131, 401),
        (90, 31),
        (90, 32),
        (90, 33),
    ],
)
@pytest.mark.parametrize("max_ratio", [0.8, 1.0])
def test_blocks_agree_with_plain_search(
    monkeypatch: pytest.MonkeyPatch, num0: int, num1: int, max_ratio: float
) -> None:
    generator = np.random.default_rng(num0 + num1)
    descriptors1 = unit(generator, num1, 16)
    descriptors0 = unit(generator, num0, 16)
    shared = min(num0, num1) // 2  # half of them really correspond
    noisy = descriptors1[:shared] + 0.05 * generator.normal(size=(shared, 16))
    descriptors0[:shared] = noisy / np.linalg.norm(noisy, axis=1, keepdims=True)
    monkeypatch.setattr(sift, "_BLOCK_ROWS", {"cpu": 10})
    tensors = (torch.from_numpy(d).float() for d in (descriptors0, descriptors1))
    rows, columns, ratios = mutual_ratio_matches(*tensors, max_ratio)
    found = set(zip(rows.tolist(), columns.tolist(), strict=True))
    assert found == plain_mutual_ratio_matches(descriptors0, descriptors1, max_ratio)
    assert (ratios < max_ratio).all()
    assert num0 < 100 or len(found) > 0


def test_identical_descriptors_stay_one_to_one() -> None:
    descriptors = torch.eye(4).repeat_interleave(2, 0)  # every row twice
    rows, columns, _ = mutual_ratio_matches(descriptors, torch.eye(4), 0.9)
    assert rows.tolist() == [0, 2, 4, 6] and columns.tolist() == [0, 1, 2, 3]


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
