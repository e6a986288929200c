import numpy as np
import pytest

from localize.groups import best_candidate, covisibility_groups
from localize.intrinsics import QueryCamera
from localize.lift import Correspondences, LiftOptions, lift_matches
from localize.pnp import PnPOptions
from localize.results import CameraSource
from tests.localize.synthetic import (
    FakeMap,
    TruthMatcher,
    join,
    make_camera,
    make_place,
    pose_errors,
    query_view,
)

OPTIONS = PnPOptions()


def neighbours(*edges: tuple[str, str, int]) -> dict[str, dict[str, int]]:
    found: dict[str, dict[str, int]] = {n: {} for n in "abcde"}
    for one, other, shared in edges:
        found[one][other] = found[other][one] = shared
    return found


@pytest.mark.parametrize(
    ("edges", "expected"),
    [
        ((), [[0], [1], [2], [3]]),
        ((("a", "c", 9), ("b", "d", 9)), [[0, 2], [1, 3]]),
        ((("a", "c", 9), ("c", "d", 9), ("d", "b", 9)), [[0, 1, 2, 3]]),
        ((("a", "c", 4), ("b", "d", 5)), [[0], [1, 3], [2]]),
        ((("a", "e", 9), ("e", "b", 9)), [[0], [1], [2], [3]]),  # e is not retrieved
    ],
)
def test_groups_are_the_connected_photos(
    edges: tuple[tuple[str, str, int], ...], expected: list[list[int]]
) -> None:
    assert covisibility_groups("abcd", neighbours(*edges), 5) == expected


def test_no_photos_make_no_groups() -> None:
    assert covisibility_groups([], {}, 5) == []


def lifted(
    scene: FakeMap, matcher: TruthMatcher, query: object, names: list[str]
) -> Correspondences:
    views = [scene.load_view(n) for n in names]
    return lift_matches(
        matcher.match_many(query, views),  # type: ignore[arg-type]
        [v.keypoints for v in views],
        [scene.point3D_ids(n) for n in names],
        LiftOptions(),
    )


def test_look_alike_places_do_not_mix() -> None:
    rng = np.random.default_rng(0)
    # place 1 looks like place 0, and each keypoint matches both
    scene = join(make_place(rng), make_place(rng, place=1, looks_like=0))
    query, truth = query_view(scene, rng)
    names = scene.image_names
    matcher = TruthMatcher({}, outliers=0.3)
    matches = lifted(scene, matcher, query, names)
    # place 1 offers as many matches, but fewer of them fit
    spoilt = (matches.points3D_ids >= 600) & (rng.random(len(matches)) < 0.6)
    matches.points2D[spoilt] += 30
    camera = QueryCamera(camera=make_camera(), source="given")
    best, rivals = best_candidate(
        scene,  # type: ignore[arg-type]
        matches,
        names,
        camera,
        OPTIONS,
        min_shared_points=5,
    )
    assert best is not None
    assert pose_errors(best.pose.cam_from_world, truth)[0] < 0.02
    assert (best.matches.points3D_ids < 600).all()
    (rival,) = rivals
    assert (rival.matches.points3D_ids >= 600).all()
    assert rival.num_explained < best.num_explained


@pytest.mark.parametrize("source", ["given", "map", "estimated"])
def test_parts_of_one_place_are_merged(source: CameraSource) -> None:
    rng = np.random.default_rng(0)
    scene = make_place(rng)
    query, truth = query_view(scene, rng)
    # the second half of the photos sees other points: one place, but nothing shared
    halves = {}
    for row, (name, view) in enumerate(scene.views.items()):
        ids = view.arrays["ids"]
        mine = ids < 350 if row < 3 else ids >= 350
        halves[name] = view.arrays["ids"][mine]
        scene.views[name] = type(view)(
            image_size=view.image_size,
            keypoints=view.keypoints[mine],
            arrays={"ids": ids[mine], "looks": ids[mine]},
        )
    names = scene.image_names
    matches = lifted(scene, TruthMatcher({}, outliers=0.2), query, names)
    camera = QueryCamera(camera=make_camera(), source=source, focal_log_std=0.35)
    best, rivals = best_candidate(scene, matches, names, camera, OPTIONS, min_shared_points=5)  # type: ignore[arg-type]
    assert best is not None
    assert rivals == []
    inliers = best.matches.points3D_ids[best.pose.inlier_mask]
    assert (inliers < 350).sum() > 100
    assert (inliers >= 350).sum() > 100
    assert pose_errors(best.pose.cam_from_world, truth)[0] < 0.02
    focal = best.pose.camera.mean_focal_length()
    assert focal == pytest.approx(700, rel=0.01) and (focal == 700) == camera.fixed


def test_no_matches_give_no_candidate() -> None:
    rng = np.random.default_rng(0)
    scene = make_place(rng)
    none = Correspondences.concatenate([])
    camera = QueryCamera(camera=make_camera(), source="given")
    best, rivals = best_candidate(
        scene, none, scene.image_names, camera, OPTIONS, min_shared_points=5
    )  # type: ignore[arg-type]
    assert best is None
    assert rivals == []


def test_position_uncertainty_is_relative_to_the_depth() -> None:
    rng = np.random.default_rng(0)
    scene = make_place(rng)
    query, _ = query_view(scene, rng)
    names = scene.image_names
    camera = QueryCamera(camera=make_camera(), source="given")
    matches = lifted(scene, TruthMatcher({}), query, names)
    best, _ = best_candidate(scene, matches, names, camera, OPTIONS, min_shared_points=5)  # type: ignore[arg-type]
    assert best is not None
    shift = np.zeros((6, 6))
    shift[3:, 3:] = np.eye(3) * 0.65**2  # a tenth of the distance of 6.5
    assert best.relative_std(shift) == pytest.approx(0.1, rel=0.1)
    turn = np.zeros((6, 6))
    turn[:3, :3] = np.eye(3) * 0.1**2
    # the centre swings with the translation of about 6.5: 0.1 rad either way
    assert best.relative_std(turn) == pytest.approx(0.1, rel=0.1)
    # turning about the centre: R changes, and t with it so that -R^T t stays
    pose = best.pose.cam_from_world
    x, y, z = pose.translation
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    swing = np.vstack([np.eye(3), -cross]) * 0.01  # v = w x t
    assert best.relative_std(swing @ swing.T) == pytest.approx(0.01, rel=0.01)
