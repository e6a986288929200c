"""The second round finds photos that see the first pose; unreadable photos and given lists."""

import logging
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from localize import Localizer, LocalizerOptions
from localize.groups import best_candidate
from localize.intrinsics import QueryCamera
from localize.lift import LiftOptions, lift_matches
from localize.pnp import PnPOptions
from localize.second_round import photos_in_view, points_in_view
from mapping.retrieval import Retrieved
from matching.errors import DamagedEncodingError, InputError
from matching.matcher import Matcher
from matching.types import Matches, View
from tests.localize.synthetic import (
    FakeMap,
    TruthMatcher,
    join,
    make_camera,
    make_place,
    make_view,
    photo_of,
    pose_errors,
    query_view,
)


@dataclass
class ListedMap(FakeMap):
    """Retrieves what it is told, and cannot read some of its photos."""

    found: list[str] = field(default_factory=list)
    damaged: set[str] = field(default_factory=set)

    def retrieve(self, view: View, matcher: Matcher, top_k: int) -> list[Retrieved]:
        return [Retrieved(name=name, score=1.0) for name in self.found][:top_k]

    def load_view(self, name: str) -> View:
        if name in self.damaged:
            raise InputError(f"'features.h5' is damaged: {name}")
        return super().load_view(name)


def listed(scene: FakeMap, *found: str) -> ListedMap:
    return ListedMap(**vars(scene), found=list(found))


def slow_points_in_view(scene: FakeMap, name: str, pose: Any, camera: Any) -> float:
    """The slow twin of `points_in_view`, one point at a time."""
    total = 0.0
    for number in sorted(set(scene.point3D_ids(name).tolist()) - {-1}):
        point = scene.points[number]
        in_cam = pose * point
        if in_cam[2] <= 0:
            continue
        x, y = camera.img_from_cam(in_cam)
        if not (0 <= x <= camera.width and 0 <= y <= camera.height):
            continue
        rays = [point - p.inverse().translation for p in (pose, scene.cam_from_world(name))]
        cosine = float(np.dot(*rays) / np.prod([np.linalg.norm(ray) for ray in rays]))
        total += max(cosine, 0.0)
    return total


def test_points_in_view_agree_with_the_slow_twin() -> None:
    rng = np.random.default_rng(0)
    scene = make_place(rng, num_images=8)
    camera = make_camera("SIMPLE_RADIAL", 1400.0, extra=(0.1,))
    _, truth = query_view(scene, rng, camera=camera)
    away = scene.poses["place0/0.jpg"].inverse()  # some pose that looks elsewhere
    for pose in (truth, away):
        for name in scene.image_names:
            fast = points_in_view(scene, name, pose, camera)  # type: ignore[arg-type]
            assert fast == pytest.approx(slow_points_in_view(scene, name, pose, camera))
    name = "place0/1.jpg"
    scene.views[name] = make_view(np.zeros((0, 2)), np.zeros(0, np.int64))
    assert points_in_view(scene, name, truth, camera) == 0.0  # type: ignore[arg-type]


def test_the_photos_nearest_to_the_pose_come_first() -> None:
    rng = np.random.default_rng(0)
    scene = join(make_place(rng, num_images=12), make_place(rng, place=1))
    view, _ = query_view(scene, rng, angle=1.5)  # between photos 6 (1.5) and its neighbours
    compared = ["place0/0.jpg", "place0/6.jpg", "place1/0.jpg"]
    views = [scene.load_view(name) for name in compared]
    matches = lift_matches(
        TruthMatcher({}).match_many(view, views),
        [v.keypoints for v in views],
        [scene.point3D_ids(name) for name in compared],
        LiftOptions(),
    )
    camera = QueryCamera(camera=make_camera(), source="given")
    best, _ = best_candidate(scene, matches, compared, camera, PnPOptions(), min_shared_points=5)  # type: ignore[arg-type]
    assert best is not None
    found = photos_in_view(scene, best, compared, 4, min_points=5)  # type: ignore[arg-type]
    # 0.25 rad apart: nobody from the other side, from the other place, or compared already
    assert set(found) == {f"place0/{k}.jpg" for k in (4, 5, 7, 8)}
    assert photos_in_view(scene, best, compared, 4, min_points=10**6) == []  # type: ignore[arg-type]


@pytest.mark.parametrize(("photos", "rounds"), [(0, 1), (3, 2)])
def test_a_doubtful_pose_gets_a_second_round(photos: int, rounds: int) -> None:
    rng = np.random.default_rng(0)
    scene = listed(make_place(rng, num_images=9), "place0/0.jpg")
    view, truth = query_view(scene, rng, angle=0.6, noise_px=1.0)
    poor = scene.views["place0/0.jpg"]  # the only photo that retrieval finds has few keypoints
    rows = rng.permutation(len(poor.keypoints))[:30]
    scene.views["place0/0.jpg"] = make_view(poor.keypoints[rows], poor.arrays["ids"][rows])
    matcher = CountingMatcher({1: view})
    options = LocalizerOptions(second_round_photos=photos, second_round_below=1.0)
    result = Localizer(scene, matcher, options=options).localize(photo_of(1), make_camera())  # type: ignore[arg-type]
    assert matcher.batches == rounds
    assert result.cam_from_world is not None
    assert len(result.retrieved) == 1 + photos
    assert (result.num_inliers > 60) == (rounds == 2)
    assert len(result.scores) == result.num_matches
    assert pose_errors(result.cam_from_world, truth)[0] < (0.03 if rounds == 2 else 0.3)


def test_a_sure_pose_gets_none() -> None:
    rng = np.random.default_rng(0)
    scene = listed(make_place(rng, num_images=9), "place0/1.jpg", "place0/2.jpg")
    view, _ = query_view(scene, rng)
    matcher = CountingMatcher({1: view})
    result = Localizer(scene, matcher).localize(photo_of(1), make_camera())  # type: ignore[arg-type]
    assert result.confidence >= LocalizerOptions().second_round_below
    assert matcher.batches == 1 and len(result.retrieved) == 2


def test_without_a_pose_the_next_retrieved_photos_are_tried() -> None:
    rng = np.random.default_rng(0)
    elsewhere, here = make_place(rng, place=1), make_place(rng)
    names = [*elsewhere.image_names[:2], *here.image_names[:4]]
    scene = listed(join(here, elsewhere), *names)
    view, truth = query_view(scene, rng)
    for photos, found in ((0, []), (3, names[2:5])):
        matcher = CountingMatcher({1: view})
        options = LocalizerOptions(top_k=2, second_round_photos=photos)
        loc = Localizer(scene, matcher, options=options)  # type: ignore[arg-type]
        result = loc.localize(photo_of(1), make_camera())
        assert result.success == bool(photos)
        assert list(result.retrieved) == names[:2] + found
        given = loc.localize(photo_of(1), make_camera(), retrieved=names)
        assert given.retrieved == result.retrieved
    assert result.cam_from_world is not None
    assert pose_errors(result.cam_from_world, truth)[0] < 0.03


def test_the_better_supported_round_is_kept() -> None:
    """The photos of the second round match nothing but noise."""
    rng = np.random.default_rng(0)
    scene = listed(make_place(rng, num_images=6), "place0/1.jpg")
    view, truth = query_view(scene, rng, noise_px=1.0)

    class NoiseInTheSecondRound(CountingMatcher):
        def match_many(self, view: View, others: Any) -> list[Matches]:
            found = super().match_many(view, others)
            if self.batches == 1:
                return found
            noise = np.random.default_rng(0).uniform(0, 600, (len(found[0]), 2))
            return [
                Matches(
                    keypoints0=noise[: len(m)].astype(np.float32),
                    keypoints1=m.keypoints1[::-1],
                    scores=m.scores,
                    indices0=None,
                    indices1=None if m.indices1 is None else m.indices1[::-1],
                )
                for m in found
            ]

    matcher = NoiseInTheSecondRound({1: view})
    options = LocalizerOptions(second_round_photos=1, second_round_below=1.0)
    result = Localizer(scene, matcher, options=options).localize(photo_of(1), make_camera())  # type: ignore[arg-type]
    assert matcher.batches == 2
    assert result.cam_from_world is not None
    assert pose_errors(result.cam_from_world, truth)[0] < 0.05


class CountingMatcher(TruthMatcher):
    """Counts its batches."""

    batches = 0

    def match_many(self, view: View, others: Any) -> list[Matches]:
        self.batches += 1
        return super().match_many(view, others)


def test_an_unreadable_photo_is_skipped_with_one_warning(
    caplog: pytest.LogCaptureFixture,
) -> None:
    rng = np.random.default_rng(0)
    scene = listed(make_place(rng), "place0/0.jpg", "place0/1.jpg", "place0/2.jpg")
    scene.damaged = {"place0/0.jpg"}
    view, truth = query_view(scene, rng)
    options = LocalizerOptions(second_round_photos=0)
    loc = Localizer(scene, TruthMatcher({1: view}), options=options)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        for camera in (make_camera(), None):
            result = loc.localize(photo_of(1), camera)
            assert result.retrieved == ("place0/1.jpg", "place0/2.jpg")
            assert result.cam_from_world is not None
            assert pose_errors(result.cam_from_world, truth)[0] < 0.1
    assert caplog.text.count("place0/0.jpg' is skipped") == 1
    scene.damaged = set(scene.found)
    result = loc.localize(photo_of(1), make_camera())
    assert "none of the 3 retrieved photos can be read" in result.reason


def test_a_photo_that_the_matcher_refuses_is_skipped(caplog: pytest.LogCaptureFixture) -> None:
    rng = np.random.default_rng(0)
    names = [f"place0/{k}.jpg" for k in range(4)]
    scene = listed(make_place(rng), *names)
    view, _ = query_view(scene, rng)
    refused = scene.load_view(names[2]).keypoints

    class Refusing(TruthMatcher):
        def match_many(self, view: View, others: Any) -> list[Matches]:
            if any(np.array_equal(other.keypoints, refused) for other in others):
                raise DamagedEncodingError("an encoding is damaged")
            return super().match_many(view, others)

    options = LocalizerOptions(second_round_photos=0)
    loc = Localizer(scene, Refusing({1: view}), options=options)  # type: ignore[arg-type]
    with caplog.at_level(logging.WARNING):
        result = loc.localize(photo_of(1), make_camera())
    assert result.success and result.retrieved == tuple(n for n in names if n != names[2])
    assert "place0/2.jpg' is skipped: an encoding is damaged" in caplog.text


def test_a_matcher_that_cannot_go_on_ends_with_its_error(tmp_path: Path) -> None:
    """Memory that does not do is no damage of a photo."""
    rng = np.random.default_rng(0)
    scene = make_place(rng)
    view, _ = query_view(scene, rng)

    class OutOfMemory(TruthMatcher):
        def match_many(self, view: View, others: Any) -> list[Matches]:
            raise InputError("the memory of cuda:0 does not do for a network image of 512 x 384")

    Image.fromarray(photo_of(1)).save(tmp_path / "a.png")
    loc = Localizer(scene, OutOfMemory({1: view}))  # type: ignore[arg-type]
    with pytest.raises(InputError, match="the memory of cuda:0"):
        loc.localize(photo_of(1), make_camera())
    for threads in (1, 2):
        options = LocalizerOptions(num_threads=threads)
        loc = Localizer(scene, OutOfMemory({1: view}), options=options)  # type: ignore[arg-type]
        with pytest.raises(InputError, match="the memory of cuda:0"):
            loc.localize_all(tmp_path)


def test_given_photos_replace_the_retrieval(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scene = listed(make_place(rng))  # retrieves nothing itself
    view, _ = query_view(scene, rng)
    options = LocalizerOptions(top_k=2, second_round_photos=0)
    loc = Localizer(scene, TruthMatcher({1: view}), options=options)  # type: ignore[arg-type]
    given = ["place0/3.jpg", "unknown.jpg", "place0/3.jpg", "place0/1.jpg", "place0/2.jpg"]
    result = loc.localize(photo_of(1), make_camera(), retrieved=given)
    assert result.success and result.retrieved == ("place0/3.jpg", "place0/1.jpg")
    for name in ("a.png", "b.png"):
        Image.fromarray(photo_of(1)).save(tmp_path / name)
    results = loc.localize_all(tmp_path, retrieved={"a.png": given})
    assert results["a.png"].retrieved == ("place0/3.jpg", "place0/1.jpg")
    assert "no retrieved image" in results["b.png"].reason


def test_a_stream_gives_the_same_results(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    scene = make_place(rng)
    views = {n: query_view(scene, rng, angle=0.2 * n)[0] for n in range(1, 7)}
    for number in range(8):
        Image.fromarray(photo_of(number)).save(tmp_path / f"{number}.png")
    found = []
    for threads in (1, 3):
        options = LocalizerOptions(num_threads=threads)
        loc = Localizer(scene, TruthMatcher(views, 0.5), options=options)  # type: ignore[arg-type]
        results = loc.localize_all(tmp_path)
        assert list(results) == [f"{n}.png" for n in range(8)]
        found.append([{**r.to_dict(), "timings_s": None} for r in results.values()])
    # products on several threads at a time are rounded differently in covariances
    for one, other in zip(*found, strict=True):
        for name in ("covariance", "confidence"):
            first, second = one.pop(name), other.pop(name)
            if first is not None:
                np.testing.assert_allclose(first, second, rtol=1e-6, atol=1e-15)
    assert found[0] == found[1]
    assert sum(r["success"] for r in found[0]) == 6


def test_bad_options_are_refused() -> None:
    for name, value in (
        ("second_round_photos", -1),
        ("second_round_below", 1.1),
        ("smaller_below", -0.1),
        ("num_threads", -1),
    ):
        with pytest.raises(ValueError, match=name):
            LocalizerOptions(**{name: value})
