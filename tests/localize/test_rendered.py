"""Every option of localization on a rendered place with exact truth."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pycolmap
import pytest

from localize import Localization, Localizer, LocalizerOptions
from localize.lift import LiftOptions
from localize.pnp import PnPOptions
from mapping import Map
from matching.sift import SiftMatcher
from matching.types import View
from tests.localize.synthetic import pose_errors

if TYPE_CHECKING:
    from benchmarks.rendered_place import RenderedPlace


@pytest.fixture(scope="module")
def scene(rendered_map: Path) -> Map:
    return Map.open(rendered_map)


class SeesFocalLengths(SiftMatcher):
    """SIFT with a network's sense for focal lengths, off by a factor."""

    def __init__(self, true_px: float, factor: float) -> None:
        super().__init__()
        self.told_px = true_px * factor
        self.partners: list[int] = []

    def focal_px(self, view: View, others: Sequence[View] = ()) -> float | None:
        self.partners.append(len(others))
        return self.told_px


def errors(place: "RenderedPlace", name: str, result: Localization) -> tuple[float, float]:
    truth = next(i for i in place.truth.images.values() if i.name == name)
    assert result.cam_from_world is not None, result.reason
    return pose_errors(result.cam_from_world, truth.cam_from_world())


QUERIES = [f"query/query_{k:02d}.jpg" for k in range(3)]


def localize(
    place: "RenderedPlace",
    scene: Map,
    name: str,
    matcher: SiftMatcher | None = None,
    *,
    known: bool = True,
    **options: Any,
) -> Localization:
    loc = Localizer(scene, matcher or SiftMatcher(), options=LocalizerOptions(**options))
    camera = place.query_cameras[name] if known else None
    return loc.localize(place.images / name, camera, name=name)


@pytest.mark.parametrize("name", QUERIES)
def test_a_second_round_makes_up_for_a_retrieval_of_one(
    rendered_place: "RenderedPlace", scene: Map, name: str
) -> None:
    shared = {"top_k": 1, "second_round_below": 1.0, "min_confidence": 0.0}
    first = localize(rendered_place, scene, name, second_round_photos=0, **shared)
    second = localize(rendered_place, scene, name, second_round_photos=3, **shared)
    assert len(first.retrieved) == 1 and 1 <= len(second.retrieved) <= 4
    assert second.retrieved[0] == first.retrieved[0]
    assert second.num_inliers >= first.num_inliers
    if len(second.retrieved) == 4:
        assert second.num_inliers > first.num_inliers
        assert errors(rendered_place, name, second)[0] < 0.25


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"pnp": PnPOptions(progressive_sampling=False)},
        {"lift": LiftOptions(merge_distance_px=0)},
        {"top_k": 2},
        {"quick_min_inliers": 0},
        {"num_threads": 2},
        {"min_confidence": 0.0},
        {"min_shared_points": 1},
    ],
)
def test_options_keep_the_pose(
    rendered_place: "RenderedPlace", scene: Map, options: dict[str, Any]
) -> None:
    result = localize(rendered_place, scene, QUERIES[0], **options)
    metres, degrees = errors(rendered_place, QUERIES[0], result)
    assert metres < 0.1 and degrees < 0.5


@pytest.mark.parametrize("factor", [0.7, 1.0, 1.4])
def test_a_query_without_intrinsics_says_what_was_assumed(
    rendered_place: "RenderedPlace", scene: Map, factor: float
) -> None:
    name = QUERIES[0]
    true_px = rendered_place.query_cameras[name].mean_focal_length()
    matcher = SeesFocalLengths(true_px, factor)
    assumed = {}
    two = {"top_k": 2, "second_round_photos": 0}  # too few to tell that all have one camera
    for used in (True, False):
        result = localize(
            rendered_place, scene, name, matcher, known=False, pointmap_focal=used, **two
        )
        assert result.camera is not None
        assumed[used] = result.camera_source
        assert result.camera.mean_focal_length() == pytest.approx(true_px, rel=0.05)
        assert errors(rendered_place, name, result)[0] < 0.3
    assert assumed == {True: "pointmap", False: "estimated"}
    assert set(matcher.partners) == {1}  # together with the best retrieved photo
    # classical features tell no focal length, and the query is localized all the same
    sift = localize(rendered_place, scene, name, known=False, **two)
    assert sift.success and sift.camera_source == "estimated"
    # photos of the map that share a camera tell more than any of them
    sure = localize(rendered_place, scene, name, known=False)
    assert sure.success and sure.camera_source == "map"
    assert errors(rendered_place, name, sure)[0] < 0.1


def test_a_given_camera_is_not_asked_for(rendered_place: "RenderedPlace", scene: Map) -> None:
    matcher = SeesFocalLengths(500.0, 2.0)
    result = localize(rendered_place, scene, QUERIES[1], matcher)
    assert result.success and result.camera_source == "given" and matcher.partners == []
    assert isinstance(result.camera, pycolmap.Camera)
    assert result.camera.params_to_string() == (
        rendered_place.query_cameras[QUERIES[1]].params_to_string()
    )
