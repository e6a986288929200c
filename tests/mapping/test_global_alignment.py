"""Global alignment of exact and of noisy point maps of a rendered place."""

from collections.abc import Sequence

import numpy as np
import pycolmap
import pytest

from mapping.alignment_start import AlignmentEdge, fit_similarity, start_alignment
from mapping.global_alignment import Alignment, AlignmentOptions, AlignmentView, align
from tests.rendered_views import Faults, OracleMatcher, RenderedView, render_views

STEP = 4  # every fourth pixel of every fourth row


@pytest.fixture(scope="module")
def views() -> list[RenderedView]:
    return [*render_views([2, 4, 6], 120), *render_views([8, 15], 120, zoom={15: 1.4})]


def edges_of(
    views: list[RenderedView], faults: Faults, pairs: Sequence[tuple[int, int]] = ()
) -> list[AlignmentEdge]:
    oracle = OracleMatcher(views, faults)
    encoded = [oracle.encode(view.image) for view in views]
    edges = []
    for a, b in pairs or [(k, n) for k in range(len(views)) for n in range(k)]:
        seen = oracle.predict(encoded[a], encoded[b])
        assert seen is not None
        for order, maps, confidence in (
            ((a, b), seen.in_camera0, seen.confidence_in_camera0),
            ((b, a), seen.in_camera1[::-1], seen.confidence_in_camera1[::-1]),
        ):
            edges.append(
                AlignmentEdge(
                    views=order,
                    points=tuple(m[::STEP, ::STEP].reshape(-1, 3) for m in maps),  # type: ignore[arg-type]
                    weights=tuple(np.log(c[::STEP, ::STEP]).ravel() for c in confidence),  # type: ignore[arg-type]
                )
            )
    return edges


def start_views(
    views: list[RenderedView], *, focal: float = 1.0, known: bool = False
) -> list[AlignmentView]:
    """Photos whose focal length is believed to be ``focal`` times the true one."""
    result = []
    for view in views:
        rays = view.own_points()[::STEP, ::STEP].reshape(-1, 3)
        rays = rays[:, :2] / rays[:, 2:] / focal
        result.append(AlignmentView(rays=rays, focal_px=view.K[0, 0] * focal, fixed_focal=known))
    return result


def errors(found: Alignment, views: list[RenderedView]) -> tuple[float, float, float, float]:
    """Largest error of a centre (m) and of a rotation (deg), of focal lengths and depths (ratio).

    The world is first moved and scaled to the truth by the centres; a common factor of all depths
    of a photo does not count.
    """
    order = sorted(found.views)
    truth = [np.linalg.inv(views[n].cam_from_world) for n in order]
    poses = [found.views[n].world_from_cam for n in order]
    similarity = fit_similarity(
        np.array([p[:3, 3] for p in poses]),
        np.array([t[:3, 3] for t in truth]),
        np.ones(len(order)),
    )
    centres, angles, focals, depths = [], [], [], []
    for n, pose, true in zip(order, poses, truth, strict=True):
        centres.append(np.linalg.norm(similarity(pose[None, :3, 3])[0] - true[:3, 3]))
        turn = pycolmap.Rotation3d(similarity.rotation @ pose[:3, :3] @ true[:3, :3].T)
        angles.append(np.degrees(turn.angle()))
        focals.append(abs(np.log(found.views[n].focal_px / views[n].K[0, 0])))
        depth = views[n].depth[::STEP, ::STEP].ravel()
        ratio = np.log(found.views[n].depth[depth > 0] / depth[depth > 0])
        depths.append(np.median(np.abs(ratio - np.median(ratio))))
    return float(max(centres)), float(max(angles)), float(max(focals)), float(max(depths))


def test_exact_point_maps_give_the_scene(views: list[RenderedView]) -> None:
    found = align(
        start_views(views), edges_of(views, Faults()), AlignmentOptions(num_iterations=60)
    )
    assert sorted(found.views) == list(range(len(views)))
    centre, angle, focal, depth = errors(found, views)
    assert centre < 0.05
    assert angle < 0.3
    assert focal < 0.01
    assert depth < 0.01


def test_scales_of_the_pairs_are_found_and_their_product_kept(views: list[RenderedView]) -> None:
    edges = edges_of(views, Faults(scales=0.4))
    found = align(start_views(views), edges, AlignmentOptions(num_iterations=100))
    centre, angle, focal, _ = errors(found, views)
    assert centre < 0.05
    assert angle < 0.3
    assert focal < 0.02
    # the world has the geometric mean of the scales of the pairs
    depth = np.concatenate([view.depth[::STEP, ::STEP].ravel() for view in views])
    here = np.concatenate([found.views[n].depth for n in range(len(views))])
    seen = [
        np.median(
            np.log(e.points[0][:, 2] / views[e.views[0]].own_points()[::STEP, ::STEP, 2].ravel())
        )
        for e in edges
    ]
    world = np.median(np.log(here[depth > 0] / depth[depth > 0]))
    assert world == pytest.approx(np.mean(seen), abs=0.03)


def test_descent_improves_on_the_tree_with_noisy_point_maps(views: list[RenderedView]) -> None:
    edges = edges_of(views, Faults(noise=0.05, scales=0.2, focal=1.05))
    results = [
        align(start_views(views, focal=1.05), edges, AlignmentOptions(num_iterations=steps))
        for steps in (0, 150)
    ]
    assert results[1].error < results[0].error
    before, after = (errors(found, views) for found in results)
    assert after[0] < 0.15 and after[1] < 1
    assert after[3] < before[3]  # depths average over pairs


def test_given_focal_lengths_stay(views: list[RenderedView]) -> None:
    edges = edges_of(views, Faults(noise=0.03, focal=1.1))
    found = align(start_views(views, known=True), edges, AlignmentOptions(num_iterations=60))
    for number, view in enumerate(views):
        assert found.views[number].focal_px == pytest.approx(view.K[0, 0], rel=1e-12)
    assert errors(found, views)[0] < 0.3


def test_a_shared_focal_length(views: list[RenderedView]) -> None:
    same = views[:4]
    started = [
        AlignmentView(rays=v.rays / factor, focal_px=v.focal_px * factor)
        for v, factor in zip(start_views(same), (0.9, 1.0, 1.1, 1.2), strict=True)
    ]
    found = align(
        started,
        edges_of(same, Faults(noise=0.02)),
        AlignmentOptions(num_iterations=100, shared_focal=True),
    )
    focals = {view.focal_px for view in found.views.values()}
    assert len(focals) == 1
    assert focals.pop() == pytest.approx(same[0].K[0, 0], rel=0.03)


def test_the_largest_connected_part_is_aligned(views: list[RenderedView]) -> None:
    edges = edges_of(views, Faults(), [(0, 1), (1, 2), (3, 4)])
    found = align(start_views(views), edges, AlignmentOptions(num_iterations=0))
    assert sorted(found.views) == [0, 1, 2]
    assert errors(found, views)[0] < 0.05
    nothing = align(start_views(views), [], AlignmentOptions())
    assert nothing.views == {}


def test_the_same_input_gives_the_same_alignment(views: list[RenderedView]) -> None:
    edges = edges_of(views[:3], Faults(noise=0.05))
    first, second = (
        align(start_views(views[:3]), edges, AlignmentOptions(num_iterations=10)) for _ in range(2)
    )
    for n in range(3):
        np.testing.assert_array_equal(first.views[n].depth, second.views[n].depth)
        np.testing.assert_array_equal(first.views[n].world_from_cam, second.views[n].world_from_cam)


def test_points_that_are_not_finite_do_not_count(views: list[RenderedView]) -> None:
    edges = edges_of(views[:3], Faults())
    for edge in edges:
        edge.points[0][::7] = np.nan
        edge.weights[0][::7] = 0
    found = align(start_views(views[:3]), edges, AlignmentOptions(num_iterations=0))
    assert errors(found, views)[0] < 0.05


def test_the_tree_prefers_the_surest_pairs(views: list[RenderedView]) -> None:
    edges = edges_of(views[:3], Faults())
    weak = [
        AlignmentEdge(views=e.views, points=e.points, weights=(e.weights[0] / 9, e.weights[1] / 9))
        if 0 in e.views and 2 in e.views
        else e
        for e in edges
    ]
    start = start_alignment(3, weak)
    assert len(start.views) == 3 and len(start.edges) == 6
    assert {start.edges[start.best_edge[v]].views for v in (0, 2)} == {(0, 1), (2, 1)}


def test_fit_similarity_finds_it_despite_outliers() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(200, 3))
    rotation = pycolmap.Rotation3d(np.array([0.2, -0.4, 0.4, 0.8])).matrix()
    y = 2.5 * x @ rotation.T + [1, 2, 3]
    exact = fit_similarity(x, y, np.ones(200))
    assert exact.scale == pytest.approx(2.5, rel=1e-9)
    np.testing.assert_allclose(exact.rotation, rotation, atol=1e-9)
    y[:30] += rng.normal(0, 3, (30, 3))
    found = fit_similarity(x, y, np.ones(200))
    np.testing.assert_allclose(found(x), 2.5 * x @ rotation.T + [1, 2, 3], atol=0.1)
    without = fit_similarity(x, y, (np.arange(200) >= 30).astype(float))
    np.testing.assert_allclose(without(x[30:]), y[30:], atol=1e-6)
    assert fit_similarity(x, y, np.zeros(200)).scale > 0
    assert fit_similarity(np.full((4, 3), np.nan), np.ones((4, 3)), np.ones(4)).scale == 1


@pytest.mark.parametrize("values", [{"num_iterations": -1}, {"learning_rate": 0.0}])
def test_bad_options_are_refused(values: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(values))):
        AlignmentOptions(**values)  # type: ignore[arg-type]
