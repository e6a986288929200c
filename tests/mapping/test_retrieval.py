"""Tests of `mapping/retrieval.py`."""

import numpy as np
import pytest

from mapping import RetrievalOptions
from mapping.retrieval import (
    GlobalDescriber,
    build_index,
    describe_photos,
    search,
    similar_photos,
    train_describer,
)
from matching.types import View

DIM = 32


def places(num_places: int, photos_of_each: int, seed: int = 0) -> list[np.ndarray]:
    """Local descriptors of photos; those of one place share most, all share some."""
    random = np.random.default_rng(seed)
    common = random.normal(size=(200, DIM))
    photos = []
    for _ in range(num_places):
        own = random.normal(size=(100, DIM))
        for _ in range(photos_of_each):
            rows = np.concatenate([
                own[random.choice(100, 60, replace=False)],
                common[random.choice(200, 60, replace=False)],
            ])  # fmt: skip
            rows = rows + 0.2 * random.normal(size=rows.shape)
            unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
            photos.append(unit.astype(np.float32))
    return photos


def describe(photos: list[np.ndarray], options: RetrievalOptions) -> tuple:
    describer = train_describer(len(photos), lambda i: photos[i], options)
    return describer, np.array([describer.describe(p) for p in photos])


def recall(photos: list[np.ndarray], photos_of_each: int, options: RetrievalOptions) -> float:
    """Share of the photos whose best other photo is of the same place."""
    _, descriptors = describe(photos, options)
    names = [str(i) for i in range(len(photos))]
    index = build_index(descriptors, options)
    right = 0
    for i, descriptor in enumerate(descriptors):
        found = [r for r in search(index, names, descriptor, 2) if r.name != str(i)]
        right += int(found[0].name) // photos_of_each == i // photos_of_each
    return right / len(photos)


@pytest.mark.parametrize("num_places", [2, 10, 60])
def test_photos_of_the_same_place_are_found(num_places: int) -> None:
    # 60 places are enough photos for the whitening to be learned
    options = RetrievalOptions(num_clusters=16, global_dim=64)
    assert recall(places(num_places, 4), 4, options) > 0.95


def test_whitening_starts_with_enough_photos() -> None:
    options = RetrievalOptions(num_clusters=16, global_dim=32)
    few, _ = describe(places(5, 4), options)
    many, descriptors = describe(places(40, 4), options)
    assert len(few.global_mean) == 0
    assert few.dim == 16 * DIM
    assert many.dim == descriptors.shape[1] == 32
    np.testing.assert_allclose(np.linalg.norm(descriptors, axis=1), 1, atol=1e-5)


def aggregate_slowly(describer: GlobalDescriber, local: np.ndarray) -> np.ndarray:
    """VLAD as the papers define it, one descriptor at a time."""
    reduced = (local - describer.local_mean) @ describer.local_projection
    reduced = reduced / np.linalg.norm(reduced, axis=1, keepdims=True)
    cells = np.zeros(describer.centroids.shape)
    for row in reduced:
        word = np.argmin(((describer.centroids - row) ** 2).sum(1))
        cells[word] += row - describer.centroids[word]
    for cell in cells:
        norm = np.linalg.norm(cell)
        cell /= norm if norm > 0 else 1
    vector = np.sign(cells) * np.sqrt(np.abs(cells))
    return vector.ravel() / np.linalg.norm(vector)


def test_aggregation_agrees_with_the_slow_way() -> None:
    photos = places(3, 2)
    describer, descriptors = describe(photos, RetrievalOptions(num_clusters=8))
    for local, fast in zip(photos, descriptors, strict=True):
        np.testing.assert_allclose(fast, aggregate_slowly(describer, local), atol=1e-5)


def test_repeatable() -> None:
    photos = places(40, 4)
    options = RetrievalOptions(num_clusters=16, global_dim=32)
    first, again = describe(photos, options), describe(photos, options)
    np.testing.assert_array_equal(first[1], again[1])
    restored = GlobalDescriber(**first[0].arrays())
    np.testing.assert_array_equal(restored.describe(photos[3]), first[1][3])


@pytest.mark.parametrize("counts", [[0, 0], [1, 1], [0, 40], [3, 0, 2]])
def test_photos_with_few_descriptors(counts: list[int]) -> None:
    random = np.random.default_rng(0)
    photos = []
    for count in counts:
        rows = random.normal(size=(count, DIM)).astype(np.float32)
        photos.append(rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-9))
    _, descriptors = describe(photos, RetrievalOptions())
    assert descriptors.shape[0] == len(counts)
    assert np.isfinite(descriptors).all()
    index = build_index(descriptors, RetrievalOptions())
    names = [str(i) for i in range(len(counts))]
    for count, descriptor in zip(counts, descriptors, strict=True):
        assert (search(index, names, descriptor, 5) == []) == (count == 0 or sum(counts) == 0)


def test_inverted_index_agrees_with_the_exact_one() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(3000, 16)).astype(np.float32)
    rows /= np.linalg.norm(rows, axis=1, keepdims=True)
    names = [str(i) for i in range(len(rows))]
    exact = build_index(rows, RetrievalOptions())
    inverted = build_index(rows, RetrievalOptions(max_exact=1000, num_probes=1000))
    assert type(exact).__name__ == "IndexFlatIP"
    assert type(inverted).__name__ == "IndexIVFFlat"
    some = build_index(rows, RetrievalOptions(max_exact=1000, num_probes=32))
    same = 0
    for row in rows[:50]:
        wanted = search(exact, names, row, 5)
        assert [r.name for r in search(inverted, names, row, 5)] == [r.name for r in wanted]
        same += search(some, names, row, 1)[0].name == wanted[0].name
    assert same == 50  # the nearest list always holds the row itself


def test_search_limits() -> None:
    index = build_index(np.eye(3, dtype=np.float32), RetrievalOptions())
    found = search(index, ["a", "b", "c"], np.array([1, 0.5, 0], np.float32), 9)
    assert [(r.name, r.score) for r in found] == [("a", 1), ("b", 0.5), ("c", 0)]
    with pytest.raises(ValueError, match="top_k"):
        search(index, ["a", "b", "c"], np.ones(3, np.float32), 0)


@pytest.mark.parametrize("count", [1, 2, 40, 90])
def test_all_partners_at_once_are_those_of_one_search_each(count: int) -> None:
    photos = places(count, 1)
    photos[count // 2] = photos[0][:0]  # nothing to describe
    _, descriptors = describe(photos, RetrievalOptions())
    names = [f"{i}.jpg" for i in range(count)]
    by_name = dict(zip(names, descriptors, strict=True))
    similar = similar_photos(names, by_name, RetrievalOptions())
    index = build_index(descriptors, RetrievalOptions())
    for name, descriptor in by_name.items():
        for top_k in (3, 1, 100):
            found = [r.name for r in search(index, names, descriptor, top_k + 1)]
            assert similar(name, top_k) == [n for n in found if n != name][:top_k]


def test_components_can_all_be_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    """With all components of equal variance, all photos of a map would be equally similar."""
    photos = places(40, 4)
    one_place = np.kron(np.eye(40, dtype=bool), np.ones((4, 4), bool))
    margins = []
    for shrinkage in (0.0, 1.0):
        monkeypatch.setattr("mapping.retrieval._SHRINKAGE", shrinkage)
        _, descriptors = describe(photos, RetrievalOptions(num_clusters=16))
        assert descriptors.shape == (160, 159)
        similarity = descriptors @ descriptors.T
        same = similarity[one_place & ~np.eye(160, dtype=bool)]
        margins.append(same.mean() - similarity[~one_place].mean())
    assert abs(margins[0]) < 0.01
    assert margins[1] > 0.08


class _Views:
    """Local descriptors behind the interfaces of views and a matcher."""

    def __init__(self, photos: list[np.ndarray]) -> None:
        self.photos = photos
        self.asked: list[int] = []

    def __call__(self, name: str) -> View:
        self.asked.append(int(name))
        return View(
            image_size=(1, 1),
            keypoints=np.zeros((0, 2), np.float32),
            arrays={"local": self.photos[int(name)]},
        )

    def local_descriptors(self, view: View) -> np.ndarray:
        return view.arrays["local"]


@pytest.mark.parametrize("count", [3, 70, 200])
def test_describing_a_map_is_learning_and_describing_each(
    monkeypatch: pytest.MonkeyPatch, count: int
) -> None:
    monkeypatch.setattr("mapping.retrieval._MAX_PHOTOS_TO_LEARN", 100)
    photos = places(count, 1)
    views = _Views(photos)
    names = [str(i) for i in range(count)]
    describer, descriptors = describe_photos(names, views, views, RetrievalOptions())  # type: ignore[arg-type]
    again, expected = describe(photos, RetrievalOptions())
    for name, array in again.arrays().items():
        np.testing.assert_array_equal(array, describer.arrays()[name])
    np.testing.assert_array_equal(np.array(list(descriptors.values())), expected)
    assert max(views.asked.count(i) for i in range(count)) <= 2
