"""hloc's HDF5 files, byte by byte as hloc writes and reads them."""

import json
import os
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from matching.errors import InputError
from matching.hloc_files import (
    FeatureReader,
    IndexMatches,
    LocalFeatures,
    rank,
    read_global_features,
    read_matches,
    write_features,
    write_global_features,
    write_matches,
)
from matching.hloc_matcher import HlocMatcher, contents_hash
from matching.load import load_matcher


def write_like_hloc(path: Path) -> None:
    """Features as `hloc.extract_features` stores them: (0, 0) is the first pixel's centre."""
    with h5py.File(path, "w") as file:
        group = file.create_group("db/1.jpg")
        group["keypoints"] = np.array([[0.0, 0.0], [99.25, 49.0]], np.float16)
        group["keypoints"].attrs["uncertainty"] = 2.0
        group["descriptors"] = np.arange(6, dtype=np.float16).reshape(3, 2)  # (D, N)
        group["scores"] = np.array([0.5, 0.25], np.float16)
        group["image_size"] = np.array([100, 50])
        dense = file.create_group("query/night/2.jpg")
        dense["keypoints"] = np.array([[7.0, 8.0]], np.float32)
        dense["score"] = np.array([0.5], np.float32)


def test_pixels_of_hloc_move_by_half(tmp_path: Path) -> None:
    write_like_hloc(tmp_path / "feats.h5")
    reader = FeatureReader(tmp_path / "feats.h5")
    assert reader.names == ("db/1.jpg", "query/night/2.jpg")
    found = reader.read("db/1.jpg")
    np.testing.assert_array_equal(found.keypoints, [[0.5, 0.5], [99.75, 49.5]])
    assert found.image_size == (100, 50) and found.uncertainty_px == 2.0
    assert found.descriptors is not None and found.scores is not None
    np.testing.assert_array_equal(found.descriptors, [[0, 2, 4], [1, 3, 5]])
    np.testing.assert_array_equal(found.scores, [0.5, 0.25])
    dense = reader.read("query/night/2.jpg")
    assert dense.image_size is None and dense.descriptors is None
    np.testing.assert_array_equal(dense.scores, [0.5])


def test_features_come_back_as_they_were(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    given = {
        "a/b/c.jpg": LocalFeatures(
            image_size=(4032, 3024),
            keypoints=rng.uniform(0, 4032, (50, 2)).astype(np.float32),
            descriptors=rng.normal(size=(50, 8)).astype(np.float32),
            scores=rng.uniform(size=50).astype(np.float32),
        ),
        "none.jpg": LocalFeatures(
            image_size=(3, 2),
            keypoints=np.zeros((0, 2), np.float32),
            descriptors=np.zeros((0, 8), np.float32),
        ),
    }
    assert write_features(tmp_path / "feats.h5", iter(given.items())) == 2
    with h5py.File(tmp_path / "feats.h5") as file:
        stored = file["a"]["b"]["c.jpg"]
        assert stored["descriptors"].shape == (8, 50)
        # half precision would move points beyond x = 1024 by whole pixels
        assert stored["keypoints"].dtype == np.float32
        expected = given["a/b/c.jpg"].keypoints - 0.5
        np.testing.assert_allclose(stored["keypoints"][()], expected, atol=1e-4)
    reader = FeatureReader(tmp_path / "feats.h5")
    for name, features in given.items():
        found = reader.read(name)
        np.testing.assert_allclose(found.keypoints, features.keypoints, atol=3e-4)
        np.testing.assert_array_equal(found.descriptors, features.descriptors)
        assert found.image_size == features.image_size


def test_matches_in_todays_and_older_groups_and_both_orders(tmp_path: Path) -> None:
    path = tmp_path / "matches.h5"
    with h5py.File(path, "w") as file:
        nested = file.create_group("query-night-2.jpg/db-1.jpg")
        nested["matches0"] = np.array([-1, 4, 0], np.int16)
        nested["matching_scores0"] = np.array([0, 0.25, 0.5], np.float16)
        old = file.create_group("db-1.jpg_db-3.jpg")
        old["matches0"] = np.array([2, -1], np.int32)  # dense matchers: int32, no scores
    found = read_matches(path, "query/night/2.jpg", "db/1.jpg")
    assert found is not None
    np.testing.assert_array_equal(found.rows, [[2, 0], [1, 4]])  # the surest first
    np.testing.assert_array_equal(found.scores, [0.5, 0.25])
    swapped = read_matches(path, "db/1.jpg", "query/night/2.jpg")
    assert swapped is not None
    np.testing.assert_array_equal(swapped.rows, [[0, 2], [4, 1]])
    old_matches = read_matches(path, "db/3.jpg", "db/1.jpg")
    assert old_matches is not None
    np.testing.assert_array_equal(old_matches.rows, [[2, 0]])
    assert read_matches(path, "db/3.jpg", "db/2.jpg") is None


def test_matches_come_back_as_they_were(tmp_path: Path) -> None:
    rows = np.array([[3, 1], [0, 2], [3, 0]])
    given = IndexMatches(rows=rows, scores=np.array([0.75, 0.5, 0.25], np.float32))
    pairs = iter([("q/x.jpg", "db/y.jpg", given)])
    path = tmp_path / "matches.h5"
    assert write_matches(path, pairs, {"q/x.jpg": 5, "db/y.jpg": 3}) == 1
    with h5py.File(path) as file:
        stored = file["q-x.jpg"]["db-y.jpg"]
        assert stored["matches0"].dtype == np.int16 and stored["matches0"].shape == (5,)
        assert stored["matching_scores0"].dtype == np.float16
    found = read_matches(path, "q/x.jpg", "db/y.jpg")
    assert found is not None
    np.testing.assert_array_equal(found.rows, rows[:2])  # of two for one keypoint the better
    np.testing.assert_array_equal(found.scores, [0.75, 0.5])
    with pytest.raises(InputError, match="32767"):
        write_matches(path, iter([("a", "b", given)]), {"a": 40_000, "b": 3})
    assert read_matches(path, "q/x.jpg", "db/y.jpg") is not None  # the old file is still whole


def test_global_features_rank_by_dot_product(tmp_path: Path) -> None:
    given = {"db/1.jpg": np.array([1.0, 0.0]), "db/2.jpg": np.array([0.6, 0.8])}
    sizes = {"db/1.jpg": (64, 48), "db/2.jpg": (48, 64)}
    write_global_features(
        tmp_path / "g.h5", {n: v.astype(np.float32) for n, v in given.items()}, sizes
    )
    with h5py.File(tmp_path / "g.h5") as file:  # as hloc writes them
        assert {n: tuple(file[n]["image_size"][()]) for n in sizes} == sizes
    names, descriptors = read_global_features(tmp_path / "g.h5")
    assert names == ["db/1.jpg", "db/2.jpg"] and descriptors.shape == (2, 2)
    database = dict(zip(names, descriptors, strict=True))
    ranked = rank({"q": np.array([0.0, 1.0], np.float32)}, database, top_k=2)
    assert ranked == {"q": ["db/2.jpg", "db/1.jpg"]}


def test_wrong_files_are_named(tmp_path: Path) -> None:
    (tmp_path / "text.h5").write_text("no HDF5")
    with h5py.File(tmp_path / "empty.h5", "w") as file:
        file.create_group("db/1.jpg")
    for name, message in (("missing.h5", "missing.h5"), ("text.h5", "no readable HDF5")):
        with pytest.raises(InputError, match=message):
            FeatureReader(tmp_path / name)
    with pytest.raises(InputError, match="no feature file of hloc"):
        FeatureReader(tmp_path / "empty.h5")
    with pytest.raises(InputError, match="global_descriptor"):
        read_global_features(tmp_path / "empty.h5")
    write_like_hloc(tmp_path / "feats.h5")
    with pytest.raises(InputError, match=r"no features of 'db/9.jpg': it names 'db/1.jpg'"):
        FeatureReader(tmp_path / "feats.h5").read("db/9.jpg")


def test_matcher_of_files(tmp_path: Path) -> None:
    """Names are endings of paths, and a view with fewer keypoints keeps their matches."""
    rng = np.random.default_rng(1)
    features = {
        name: LocalFeatures(
            image_size=(64, 48),
            keypoints=rng.uniform(0, 48, (count, 2)).astype(np.float32),
            descriptors=rng.normal(size=(count, 4)).astype(np.float32),
        )
        for name, count in (("db/1.jpg", 6), ("db/2.jpg", 4), ("1.jpg", 1))
    }
    write_features(tmp_path / "feats.h5", iter(features.items()))
    rows = np.array([[5, 0], [2, 3], [0, 1]])
    pair = ("db/2.jpg", "db/1.jpg", IndexMatches(rows=rows[:, ::-1], scores=np.ones(3, np.float32)))
    write_matches(tmp_path / "matches.h5", iter([pair]), {"db/1.jpg": 6, "db/2.jpg": 4})
    matcher = load_matcher(f"hloc:{tmp_path}/feats.h5,{tmp_path}/matches.h5")
    assert isinstance(matcher, HlocMatcher) and matcher.reads_files
    view0, view1 = (matcher.encode(f"/photos/db/{k}.jpg") for k in (1, 2))
    np.testing.assert_allclose(view0.keypoints, features["db/1.jpg"].keypoints, atol=1e-5)
    found = matcher.match_views(view0, view1)
    assert {tuple(r) for r in np.stack([found.indices0, found.indices1], 1)} == {
        tuple(r) for r in rows
    }
    kept = np.array([2, 5, 1])
    fewer = matcher.match_views(matcher.at_keypoints(view0, kept), view1)
    assert fewer.indices0 is not None and fewer.indices1 is not None
    pairs = {(int(kept[i]), int(j)) for i, j in zip(fewer.indices0, fewer.indices1, strict=True)}
    assert pairs == {(5, 0), (2, 3)}
    np.testing.assert_allclose(np.linalg.norm(matcher.local_descriptors(view0), axis=1), 1)
    other = matcher.encode("elsewhere/1.jpg")
    assert len(matcher.match_views(view0, other)) == 0
    described = matcher.describe()
    assert json.loads(json.dumps(described)) == described
    assert load_matcher(matcher.name).describe() == described
    for file in ("feats.h5", "matches.h5"):  # copied to another machine: the same files
        os.utime(tmp_path / file, (1, 1))
    assert load_matcher(matcher.name).describe() == described
    write_matches(tmp_path / "matches.h5", iter([]), {})
    again = load_matcher(matcher.name)
    assert again.fingerprint == matcher.fingerprint and again.describe() != described
    with pytest.raises(InputError, match="an array has none"):
        matcher.encode(np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"no features of 'x.jpg'"):
        matcher.encode("x.jpg")
    with pytest.raises(InputError, match="give features and matches"):
        load_matcher(f"hloc:{tmp_path}/feats.h5")


def test_features_written_anew_are_not_taken_for_those_of_the_map(tmp_path: Path) -> None:
    """Rows of matches mean the keypoints of the file; a map keeps those that it was made of."""

    def write(*names: str, seed: int) -> None:
        made = np.random.default_rng(seed)
        features = {
            name: LocalFeatures(
                image_size=(64, 48),
                keypoints=made.uniform(0, 48, (5, 2)).astype(np.float32),
                descriptors=made.normal(size=(5, 4)).astype(np.float32),
            )
            for name in names
        }
        write_features(tmp_path / "feats.h5", iter(features.items()))

    write("a.jpg", "b.jpg", seed=0)
    rows = IndexMatches(rows=np.array([[0, 1]]), scores=np.ones(1, np.float32))
    write_matches(
        tmp_path / "matches.h5", iter([("a.jpg", "b.jpg", rows)]), {"a.jpg": 5, "b.jpg": 5}
    )
    name = f"hloc:{tmp_path}/feats.h5,{tmp_path}/matches.h5"
    first = load_matcher(name)
    of_map = [first.encode(photo) for photo in ("a.jpg", "b.jpg")]
    write("a.jpg", "b.jpg", "query.jpg", seed=0)  # a query came to the file
    assert len(load_matcher(name).match_views(*of_map)) == 1
    write("a.jpg", "b.jpg", seed=1)
    other = load_matcher(name)
    assert other.fingerprint == first.fingerprint
    with pytest.raises(InputError, match=r"other keypoints of 'a\.jpg' than those that the map"):
        other.match_views(*of_map)


def test_large_files_are_known_by_pieces_of_them(tmp_path: Path) -> None:
    path = tmp_path / "large.h5"
    data = bytearray(np.random.default_rng(0).bytes(200 * 2**10))
    path.write_bytes(data)
    before = contents_hash(path)
    assert before == contents_hash(path)
    for place in (0, 100 * 2**10, len(data) - 1):
        changed = bytearray(data)
        changed[place] ^= 1
        path.write_bytes(changed)
        assert contents_hash(path) != before
    path.write_bytes(data + b"0")
    assert contents_hash(path) != before


def test_files_of_dense_matchers_have_places_only(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """What hloc's match_dense leaves: no descriptors, no sizes, a 'score', int32 matches."""
    Image.new("RGB", (64, 48)).save(tmp_path / "a.jpg")
    Image.new("RGB", (48, 64)).save(tmp_path / "b.jpg")
    with h5py.File(tmp_path / "feats.h5", "w") as file:
        for name in ("a.jpg", "b.jpg"):
            group = file.create_group(name)
            group["keypoints"] = np.arange(8, dtype=np.float32).reshape(4, 2)
            group["score"] = np.ones(4, np.float32)
    with h5py.File(tmp_path / "matches.h5", "w") as file:
        group = file.create_group("a.jpg/b.jpg")
        group["matches0"] = np.array([2, -1, 0], np.int32)  # may be shorter than the keypoints
        group["matching_scores0"] = np.array([0.5, 0, 0.9], np.float16)
        group["keypoints0"] = group["keypoints1"] = np.zeros((7, 2), np.float32)
    matcher = load_matcher(f"hloc:{tmp_path}/feats.h5,{tmp_path}/matches.h5")
    assert "has no descriptors" in caplog.text and "retrieval_pairs" in caplog.text
    views = [matcher.encode(tmp_path / name) for name in ("a.jpg", "b.jpg")]
    assert [view.image_size for view in views] == [(64, 48), (48, 64)]
    found = matcher.match_views(*views)
    assert found.indices0 is not None and found.indices1 is not None
    assert found.indices0.tolist() == [2, 0] and found.indices1.tolist() == [0, 2]
    assert matcher.local_descriptors(views[0]).size == 0
    kept = matcher.at_keypoints(views[0], np.array([2]))
    assert len(matcher.match_views(kept, views[1])) == 1
