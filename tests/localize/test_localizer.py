import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import pytest
from PIL import Image

from localize import Localization, Localizer, LocalizerOptions
from localize.pnp import PnPOptions
from matching.errors import InputError
from matching.matcher import ImageLike
from matching.types import View
from tests.localize.synthetic import (
    IMAGE_SIZE,
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


def localizer(scene: FakeMap, views: dict[int, View], **matcher: Any) -> Localizer:
    return Localizer(scene, TruthMatcher(views, **matcher))  # type: ignore[arg-type]


@pytest.mark.parametrize("indexed", [True, False])
@pytest.mark.parametrize("outliers", [0.0, 0.8])
@pytest.mark.parametrize("known", [True, False])
def test_the_pose_is_found(scene: FakeMap, indexed: bool, outliers: float, known: bool) -> None:
    view, truth = query_view(scene, np.random.default_rng(1))
    result = localizer(scene, {1: view}, outliers=outliers, indexed=indexed).localize(
        photo_of(1), make_camera() if known else None, name="here"
    )
    assert result.success, result.reason
    assert result.name == "here"
    assert result.camera_source == ("given" if known else "map")
    assert result.camera is not None and result.cam_from_world is not None
    assert result.camera.mean_focal_length() == pytest.approx(700, rel=0.02)
    distance, angle = pose_errors(result.cam_from_world, truth)
    assert distance < 0.02
    assert angle < 0.15
    assert 12 <= result.num_inliers <= result.num_matches
    assert result.num_inliers == result.inlier_mask.sum()
    assert result.num_matches == len(result.points2D) == len(result.points3D_ids)
    assert 0 < result.confidence < 1
    assert result.covariance is not None and result.covariance.shape == (6, 6)
    assert len(result.retrieved) == 6
    steps = {"encode", "retrieve", "match", "lift", "pose", "total"}
    assert set(result.timings_s) == (steps if known else steps | {"focal"})
    seconds = sum(v for k, v in result.timings_s.items() if k != "total")
    assert result.timings_s["total"] == pytest.approx(seconds)


def test_a_pose_below_the_least_confidence_is_a_failure(scene: FakeMap) -> None:
    view, _ = query_view(scene, np.random.default_rng(1))
    matcher = TruthMatcher({1: view}, outliers=0.5)
    sure = Localizer(scene, matcher).localize(photo_of(1), make_camera())  # type: ignore[arg-type]
    assert sure.success and 0.05 < sure.confidence < 0.999
    options = LocalizerOptions(min_confidence=0.999)
    strict = Localizer(scene, matcher, options=options)  # type: ignore[arg-type]
    result = strict.localize(photo_of(1), make_camera())
    assert not result.success and result.cam_from_world is None and result.confidence == 0
    assert "hardly better than chance" in result.reason
    assert result.num_inliers == sure.num_inliers
    with pytest.raises(ValueError, match="min_confidence"):
        LocalizerOptions(min_confidence=1.5)


def test_keypoints_without_map_points_are_not_matched() -> None:
    rng = np.random.default_rng(0)
    scene = make_place(rng)
    view, truth = query_view(scene, rng)
    for name, seen in scene.views.items():
        bare = rng.random(len(seen.keypoints)) < 0.4
        bare |= name.endswith("0.jpg")  # a photo that sees no map point at all
        ids = np.where(bare, -1, seen.arrays["ids"])
        scene.views[name] = make_view(seen.keypoints, ids, looks=seen.arrays["looks"])
    result = localizer(scene, {1: view}, outliers=0.3).localize(photo_of(1), make_camera())
    assert result.cam_from_world is not None
    assert pose_errors(result.cam_from_world, truth)[0] < 0.02
    assert (result.points3D_ids >= 0).all()


def test_the_covariance_covers_the_error(scene: FakeMap) -> None:
    distances = []
    for seed in range(20):
        view, truth = query_view(scene, np.random.default_rng(seed), angle=0.1 + 0.05 * seed)
        result = localizer(scene, {1: view}).localize(photo_of(1), make_camera())
        assert result.cam_from_world is not None and result.covariance is not None
        turn = (result.cam_from_world.rotation * truth.rotation.inverse()).quat
        shift = result.cam_from_world.translation - truth.translation
        error = np.concatenate([2 * turn[:3] * np.sign(turn[3]), shift])
        distances.append(error @ np.linalg.solve(result.covariance, error))
    # six on average for six parameters; the mean of 20 is known to 13 %
    assert 3.5 < np.mean(distances) < 9


def test_the_given_camera_is_scaled(scene: FakeMap) -> None:
    small = make_camera("OPENCV", 350.0, (400, 300), (0.05, 0, 0, 0))
    view, truth = query_view(scene, np.random.default_rng(1), camera=small)
    loc = localizer(scene, {1: view})
    full = make_camera("OPENCV", 700.0, (800, 600), (0.05, 0, 0, 0))
    result = loc.localize(photo_of(1, (400, 300)), full)
    assert result.cam_from_world is not None and result.camera is not None
    assert pose_errors(result.cam_from_world, truth)[0] < 0.03
    assert (result.camera.width, result.camera.height) == (400, 300)
    with pytest.raises(InputError, match="upright"):
        loc.localize(photo_of(1, (400, 300)), make_camera(size=(600, 800)))


def test_a_portrait_query_in_a_landscape_map(scene: FakeMap) -> None:
    portrait = make_camera(size=(600, 900))
    view, truth = query_view(scene, np.random.default_rng(1), camera=portrait)
    for camera in (portrait, None):
        result = localizer(scene, {1: view}).localize(photo_of(1, (600, 900)), camera)
        assert result.cam_from_world is not None
        assert pose_errors(result.cam_from_world, truth)[0] < 0.1


def test_failures_are_results(scene: FakeMap) -> None:
    rng = np.random.default_rng(0)
    view, _ = query_view(scene, rng)
    few = np.arange(9)
    noise = rng.uniform(0, 1, (400, 2)) * IMAGE_SIZE
    views = {
        1: make_view(view.keypoints[few], view.arrays["ids"][few]),
        2: make_view(noise, rng.permutation(600)[:400]),  # right looks at wrong pixels
        3: make_view(np.full((50, 2), 100.0), view.arrays["ids"][:50]),
    }
    loc = localizer(scene, views)
    reasons = {
        0: "no retrieved image",
        1: "too few matches with map points: 9 < 12",
        2: "too few inliers",
        3: "inliers",
    }
    for number, reason in reasons.items():
        for camera in (make_camera(), None):
            result = loc.localize(photo_of(number), camera)
            assert not result.success
            assert reason in result.reason
            assert result.cam_from_world is None
            assert result.covariance is None
            assert result.confidence == 0
            assert result.timings_s["total"] > 0


@pytest.mark.parametrize("size", [(1, 1), (1, 600), (800, 600)])
def test_tiny_and_black_photos_fail_with_a_reason(scene: FakeMap, size: tuple[int, int]) -> None:
    result = localizer(scene, {}).localize(photo_of(0, size))
    assert not result.success
    assert "nothing to recognize" in result.reason


def test_two_look_alike_places_halve_the_confidence(scene: FakeMap) -> None:
    rng = np.random.default_rng(0)
    two = join(make_place(rng), make_place(rng, place=1, looks_like=0))
    one = join(make_place(rng), make_place(rng, place=1))
    view, _ = query_view(two, rng)
    options = LocalizerOptions(top_k=12)
    unsure, sure = (
        Localizer(place, TruthMatcher({1: view}), options=options).localize(  # type: ignore[arg-type]
            photo_of(1), make_camera()
        )
        for place in (two, one)
    )
    assert sure.success and unsure.success
    assert unsure.confidence < 0.6 * sure.confidence


def test_confidence_ranks_right_above_wrong(scene: FakeMap) -> None:
    """Area under the ROC curve over right poses and the luckiest wrong ones."""
    options = LocalizerOptions(pnp=PnPOptions(min_inliers=4, max_iterations=4000))
    right, wrong = [], []
    for seed in range(30):
        rng = np.random.default_rng(seed)
        view, truth = query_view(scene, rng, angle=rng.uniform(0, 1.2), noise_px=1.0)
        if seed % 2:  # few matches, most of them wrong, against the structured chance of a crowd
            rows = rng.permutation(len(view.keypoints))[: rng.integers(40, 300)]
            view = make_view(view.keypoints[rows], view.arrays["ids"][rows])
        else:  # every match wrong; half of the keypoints crowd
            pixels = rng.uniform(0, 1, view.keypoints.shape) * IMAGE_SIZE
            crowd = rng.random(len(pixels)) < 0.5
            pixels[crowd] = rng.normal(300, 15, (crowd.sum(), 2))
            view = make_view(pixels, view.arrays["ids"])
        outliers = 0.7 if seed % 2 else 0.0
        loc = Localizer(scene, TruthMatcher({1: view}, outliers), options=options)  # type: ignore[arg-type]
        result = loc.localize(photo_of(1), make_camera() if seed % 4 < 2 else None)
        good = (
            result.cam_from_world is not None and pose_errors(result.cam_from_world, truth)[0] < 0.5
        )
        (right if good else wrong).append(result.confidence)
    assert min(len(right), len(wrong)) >= 10
    above = np.array(right)[:, None] - np.array(wrong)[None]
    assert (above > 0).mean() + 0.5 * (above == 0).mean() > 0.99


class QuickMatcher(TruthMatcher):
    """Its quick encoding keeps every third keypoint; counts what is encoded in full."""

    full_encodings = 0

    def quick(self) -> TruthMatcher:
        return TruthMatcher(
            {
                n: self.at_keypoints(v, np.arange(0, len(v.keypoints), 3))
                for n, v in self.queries.items()
            }
        )

    def encode_image(self, image: np.ndarray) -> View:
        self.full_encodings += 1
        return super().encode_image(image)


@pytest.mark.parametrize(("enough", "full_encodings"), [(0, 2), (150, 0), (500, 2)])
def test_the_full_encoding_follows_a_doubtful_quick_one(
    scene: FakeMap, folder: Path, enough: int, full_encodings: int
) -> None:
    view, truth = query_view(scene, np.random.default_rng(1))
    matcher = QuickMatcher({1: view})
    options = LocalizerOptions(quick_min_inliers=enough)
    loc = Localizer(scene, matcher, options=options)  # type: ignore[arg-type]
    alone = loc.localize(folder / "one.png", make_camera())
    listed = loc.localize_all([folder / "one.png"], {str(folder / "one.png"): make_camera()})
    assert matcher.full_encodings == full_encodings
    for result in (alone, *listed.values()):
        assert result.cam_from_world is not None
        assert pose_errors(result.cam_from_world, truth)[0] < 0.02
        assert (result.num_matches > 500) == (full_encodings > 0)


def test_a_failed_quick_attempt_is_repeated(scene: FakeMap) -> None:
    view, _ = query_view(scene, np.random.default_rng(1))
    few = make_view(view.keypoints[:30], view.arrays["ids"][:30])
    matcher = QuickMatcher({1: few})  # the quick encoding has 10 keypoints, too few
    assert Localizer(scene, matcher).localize(photo_of(1), make_camera()).success  # type: ignore[arg-type]
    black = Localizer(scene, matcher).localize(photo_of(0))  # type: ignore[arg-type]
    assert "no retrieved image" in black.reason
    fewer = QuickMatcher({1: make_view(few.keypoints[:9], few.arrays["ids"][:9])})
    result = Localizer(scene, fewer).localize(photo_of(1), make_camera())  # type: ignore[arg-type]
    assert "too few matches with map points: 9 < 12" in result.reason


class SmallerMatcher(TruthMatcher):
    """It sees a tenth of the keypoints at once, and all of them made smaller."""

    def smaller(self) -> TruthMatcher:
        return TruthMatcher(self.queries)

    def encode_image(self, image: np.ndarray) -> View:
        view = super().encode_image(image)
        return self.at_keypoints(view, np.arange(0, len(view.keypoints), 10))


@pytest.mark.parametrize(
    # the last one is more than either look is sure of
    ("below", "much"),
    [(0.0, False), (0.3, False), (0.8, True), (1.0, False)],
)
def test_a_query_of_little_confidence_is_looked_at_once_more_made_smaller(
    scene: FakeMap, folder: Path, below: float, much: bool
) -> None:
    view, truth = query_view(scene, np.random.default_rng(1))
    matcher = SmallerMatcher({1: view})
    options = LocalizerOptions(smaller_below=below)
    loc = Localizer(scene, matcher, options=options)  # type: ignore[arg-type]
    alone = loc.localize(folder / "one.png", make_camera())
    listed = loc.localize_all([folder / "one.png"], {str(folder / "one.png"): make_camera()})
    for result in (alone, *listed.values()):
        assert result.cam_from_world is not None and 0.3 < result.confidence < 1
        assert pose_errors(result.cam_from_world, truth)[0] < 0.05
        assert (result.num_matches > 500) == much


def test_the_last_look_is_at_the_photos_asked_for_and_has_two_rounds(scene: FakeMap) -> None:
    view, _ = query_view(scene, np.random.default_rng(1))
    matcher = SmallerMatcher({1: view})
    asked = list(scene.image_names)[:2]

    def localized(below: float, **options: float) -> Localization:
        chosen = LocalizerOptions(smaller_below=below, **options)  # type: ignore[arg-type]
        loc = Localizer(scene, matcher, options=chosen)  # type: ignore[arg-type]
        return loc.localize(photo_of(1), make_camera(), retrieved=asked)

    first, last = localized(0.0), localized(0.8)
    assert set(last.retrieved) == set(asked) and last.num_matches > first.num_matches
    again = localized(first.confidence)
    assert again.num_matches == first.num_matches, "only poses of less confidence"
    with patch.object(Localizer, "_round", autospec=True, side_effect=Localizer._round) as rounds:
        localized(0.8, second_round_below=1.0)
    assert rounds.call_count == 4


class BlindMadeSmaller(TruthMatcher):
    """It sees nothing in photos made smaller."""

    def smaller(self) -> TruthMatcher:
        return TruthMatcher({})


def test_the_reason_of_a_failure_is_that_of_the_photo_as_it_is(scene: FakeMap) -> None:
    view, _ = query_view(scene, np.random.default_rng(1))
    few = make_view(view.keypoints[:6], view.arrays["ids"][:6])
    loc = Localizer(scene, BlindMadeSmaller({1: few}))  # type: ignore[arg-type]
    result = loc.localize(photo_of(1), make_camera())
    assert "too few matches with map points: 6 < 12" in result.reason and result.retrieved


def test_a_query_without_a_pose_is_looked_at_once_more(scene: FakeMap) -> None:
    view, _ = query_view(scene, np.random.default_rng(1))
    few = make_view(view.keypoints[:60], view.arrays["ids"][:60])
    for below, success in ((0.0, False), (0.3, True)):
        options = LocalizerOptions(smaller_below=below)
        loc = Localizer(scene, SmallerMatcher({1: few}), options=options)  # type: ignore[arg-type]
        result = loc.localize(photo_of(1), make_camera())
        assert result.success == success, result.reason
        assert "no retrieved image" in loc.localize(photo_of(0)).reason


def test_the_same_query_gives_the_same_result(scene: FakeMap) -> None:
    view, _ = query_view(scene, np.random.default_rng(1))
    loc = localizer(scene, {1: view}, outliers=0.6)
    for camera in (make_camera(), None):
        first, second = (loc.localize(photo_of(1), camera).to_dict() for _ in range(2))
        del first["timings_s"], second["timings_s"]
        assert first == second


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Query 1 and 2, a black photo, a broken and an empty file."""
    for number, name in ((1, "one.png"), (2, "sub dir/zwei ß.png"), (0, "black.png")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(photo_of(number)).save(tmp_path / name)
    (tmp_path / "broken.jpg").write_bytes(b"\xff\xd8\xff\xe0 nothing")
    (tmp_path / "empty.png").touch()
    return tmp_path


def test_a_folder_with_bad_photos(scene: FakeMap, folder: Path) -> None:
    rng = np.random.default_rng(0)
    views = {n: query_view(scene, rng, angle=0.2 * n)[0] for n in (1, 2)}
    loc = localizer(scene, views)
    seen: list[str] = []

    def progress(items: Any, description: str, total: int | None = None) -> Iterator[Any]:
        assert total == 5
        for item in items:
            seen.append(item.name)
            yield item

    results = loc.localize_all(folder, {"one.png": make_camera()}, progress=progress)
    names = ["black.png", "broken.jpg", "empty.png", "one.png", "sub dir/zwei ß.png"]
    assert list(results) == seen == names
    assert [r.success for r in results.values()] == [False, False, False, True, True]
    assert "broken.jpg" in results["broken.jpg"].reason
    assert "0 bytes" in results["empty.png"].reason
    assert results["one.png"].camera_source == "given"
    assert results["sub dir/zwei ß.png"].camera_source == "map"
    single = loc.localize(folder / "one.png", make_camera())
    assert single.cam_from_world is not None
    both = results["one.png"].cam_from_world
    assert both is not None and (single.cam_from_world.matrix() == both.matrix()).all()


def test_results_are_handed_on_before_the_batch_is_over(scene: FakeMap, folder: Path) -> None:
    view, _ = query_view(scene, np.random.default_rng(1))
    loc = localizer(scene, {1: view, 2: view})
    kept: list[Localization] = []

    def killed(items: Any, description: str, total: int | None = None) -> Iterator[Any]:
        for number, item in enumerate(items):
            if number == 4:
                raise KeyboardInterrupt
            yield item

    with pytest.raises(KeyboardInterrupt):
        loc.localize_all(folder, on_result=kept.append, progress=killed)
    assert [r.name for r in kept] == ["black.png", "broken.jpg", "empty.png", "one.png"]
    assert [r.success for r in kept] == [False, False, False, True]
    results = loc.localize_all(folder, on_result=kept.append)
    assert kept[4:] == list(results.values())


def test_a_photo_that_goes_away_meanwhile_keeps_its_quick_result(
    scene: FakeMap, folder: Path
) -> None:
    """The quick encoding left doubts, but the photo is not there to be read again."""
    view, _ = query_view(scene, np.random.default_rng(1))

    class Vanishing(QuickMatcher):
        def encode_bare(self, image: ImageLike) -> View:
            raise InputError(f"no photo '{image}'")

    names = ["one.png", "sub dir/zwei ß.png"]
    matcher = Vanishing({1: view, 2: view})
    results = Localizer(scene, matcher).localize_all([folder / n for n in names])  # type: ignore[arg-type]
    assert [r.success for r in results.values()] == [True, True]
    assert all(0 < r.num_inliers < 500 for r in results.values())


@pytest.mark.parametrize("upright", [True, False])
def test_queries_are_read_as_the_map_reads_its_photos(tmp_path: Path, upright: bool) -> None:
    rng = np.random.default_rng(0)
    scene = make_place(rng)
    scene.info.options["apply_exif_orientation"] = upright
    camera = make_camera(size=(600, 800) if upright else (800, 600))
    view, truth = query_view(scene, rng, camera=camera)
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned a quarter
    Image.fromarray(photo_of(1)).save(tmp_path / "one.png", exif=exif)
    (tmp_path / "broken.png").write_bytes(b"nothing")
    loc = localizer(scene, {1: view})
    results = loc.localize_all(tmp_path, {"one.png": camera})
    for result in (results["one.png"], loc.localize(tmp_path / "one.png", camera)):
        assert result.cam_from_world is not None, result.reason
        assert pose_errors(result.cam_from_world, truth)[0] < 0.03
    assert "broken.png" in results["broken.png"].reason


def test_a_camera_that_does_not_fit_fails_alone(scene: FakeMap, folder: Path) -> None:
    rng = np.random.default_rng(0)
    loc = localizer(scene, {n: query_view(scene, rng)[0] for n in (1, 2)})
    cameras = {"one.png": make_camera(size=(600, 800)), "sub dir/zwei ß.png": make_camera()}
    paths = folder / "query.txt"
    paths.write_text("one.png\nsub dir/zwei ß.png\nmissing.png\n", encoding="utf-8")
    results = loc.localize_all(paths, cameras)
    assert [r.success for r in results.values()] == [False, True, False]
    assert "upright" in results["one.png"].reason
    assert "missing.png" in results["missing.png"].reason


def test_missing_cameras_are_logged(
    scene: FakeMap, folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        localizer(scene, {}).localize_all(folder, {"one.png": make_camera()})
    assert "4 photos without a given camera" in caplog.text


def test_a_name_that_no_line_can_hold_fails_alone(scene: FakeMap, folder: Path) -> None:
    (folder / "one.png").rename(folder / "#one.png")
    rng = np.random.default_rng(0)
    views = {n: query_view(scene, rng, angle=0.2 * n)[0] for n in (1, 2)}
    results = localizer(scene, views).localize_all(folder)
    assert "rename" in results["#one.png"].reason
    assert results["sub dir/zwei ß.png"].success


def test_no_queries_are_refused(scene: FakeMap, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no photos"):
        localizer(scene, {}).localize_all(tmp_path)


def test_a_missing_photo_raises(scene: FakeMap, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no image .*nothing\.jpg"):
        localizer(scene, {}).localize(tmp_path / "nothing.jpg")


def test_bad_options_are_refused() -> None:
    with pytest.raises(ValueError, match="top_k"):
        LocalizerOptions(top_k=0)
    with pytest.raises(ValueError, match="min_shared_points"):
        LocalizerOptions(min_shared_points=0)
