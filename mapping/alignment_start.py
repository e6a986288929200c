"""Where global alignment starts: a maximum spanning tree of confident pairs, put together."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

FloatArray = NDArray[np.float64]

_ROBUST_ROUNDS = 10  # reweighted least squares settles within a few


@dataclass(frozen=True, kw_only=True)
class AlignmentEdge:
    """The network's answer for an ordered pair: points of both photos in the first one's camera.

    Attributes:
        views: Places of the two photos.
        points: Of the grid pixels of both, each (P, 3) float32; photos with fewer pixels than P are
            padded.
        weights: How much each point counts, each (P,) float32; 0 for padding.
    """

    views: tuple[int, int]
    points: tuple[NDArray[np.float32], NDArray[np.float32]]
    weights: tuple[NDArray[np.float32], NDArray[np.float32]]

    @property
    def quality(self) -> float:
        """Product of the mean weights of both photos: high where both see the same, clearly."""
        return float(self.weights[0].mean() * self.weights[1].mean())


@dataclass(frozen=True, kw_only=True)
class Similarity:
    """``x -> scale * rotation @ x + translation``."""

    scale: float
    rotation: FloatArray  # (3, 3)
    translation: FloatArray  # (3,)

    def __call__(self, points: NDArray[np.floating]) -> FloatArray:
        """Map points, (..., 3)."""
        return self.scale * (points.astype(np.float64) @ self.rotation.T) + self.translation


@dataclass(frozen=True, kw_only=True)
class AlignmentStart:
    """A first guess of everything for the photos of one connected component.

    Attributes:
        views: Places of the photos that are connected, in the order they were attached.
        edges: Those of the given edges that join them.
        world_from_edge: Per edge.
        best_edge: Per photo of ``views`` the number (in ``edges``) of the best edge whose first
            view it is, whose frame is thus that of its camera.
    """

    views: list[int]
    edges: list[AlignmentEdge]
    world_from_edge: list[Similarity]
    best_edge: dict[int, int]


def start_alignment(num_views: int, edges: Sequence[AlignmentEdge]) -> AlignmentStart:
    """Put the largest connected component together along its maximum spanning tree.

    DUSt3R's initialization (Wang et al. 2024, section 3.3): the surest pair defines the world; the
    others follow along the tree, each by the similarity that lays the points of the known photo on
    those already placed.

    Args:
        num_views: Photos.
        edges: Both orders of every pair.
    """
    tree = _spanning_tree(num_views, edges)
    component = _largest_component(num_views, tree)
    inside = [edge for edge in edges if component.issuperset(edge.views)]
    if not inside:
        return AlignmentStart(views=[], edges=[], world_from_edge=[], best_edge={})
    first = max(inside, key=lambda edge: edge.quality)
    placed: dict[int, tuple[FloatArray, NDArray[np.float32]]] = {
        view: (points.astype(np.float64), weights)
        for view, points, weights in zip(first.views, first.points, first.weights, strict=True)
    }
    branches = sorted(
        (edge for edge in tree if component.issuperset(edge.views)), key=lambda e: -e.quality
    )
    while len(placed) < len(component):
        edge = next(e for e in branches if len(placed.keys() & set(e.views)) == 1)
        known = 0 if edge.views[0] in placed else 1
        world_points, known_weights = placed[edge.views[known]]
        world_from_edge = fit_similarity(
            edge.points[known], world_points, edge.weights[known] * known_weights
        )
        new = edge.views[1 - known]
        placed[new] = (world_from_edge(edge.points[1 - known]), edge.weights[1 - known])
    best_edge: dict[int, int] = {}
    world_from_edges = []
    for number, edge in enumerate(inside):
        targets = [placed[view] for view in edge.views]
        world_from_edges.append(
            fit_similarity(
                np.concatenate(edge.points),
                np.concatenate([points for points, _ in targets]),
                np.concatenate([w * t[1] for w, t in zip(edge.weights, targets, strict=True)]),
            )
        )
        view = edge.views[0]
        if view not in best_edge or edge.quality > inside[best_edge[view]].quality:
            best_edge[view] = number
    return AlignmentStart(
        views=list(placed), edges=inside, world_from_edge=world_from_edges, best_edge=best_edge
    )


def fit_similarity(
    source: NDArray[np.floating], target: NDArray[np.floating], weights: NDArray[np.floating]
) -> Similarity:
    """The similarity that brings points closest to others, in the sum of distances.

    Weighted closed form (Umeyama, PAMI 1991), reweighted by one over the distances.

    Args:
        source: (M, 3).
        target: (M, 3).
        weights: (M,), at least 0.
    """
    x, y = source.astype(np.float64), target.astype(np.float64)
    usable = np.isfinite(x).all(1) & np.isfinite(y).all(1)
    if (weights[usable] > 0).any():
        usable &= weights > 0
    if not usable.any():
        return Similarity(scale=1.0, rotation=np.eye(3), translation=np.zeros(3))
    x, y, given = x[usable], y[usable], np.maximum(weights[usable].astype(np.float64), 1e-9)
    current = given
    for _ in range(_ROBUST_ROUNDS):
        fitted = _closed_form(x, y, current / current.sum())
        distance = np.linalg.norm(fitted(x) - y, axis=1)
        floor = 1e-3 * max(float(np.median(distance)), 1e-9)
        current = given / np.maximum(distance, floor)
    return fitted


def _closed_form(x: FloatArray, y: FloatArray, weights: FloatArray) -> Similarity:
    centre_x, centre_y = weights @ x, weights @ y
    a, b = x - centre_x, y - centre_y
    u, singular, vt = np.linalg.svd((b * weights[:, None]).T @ a)
    sign = np.array([1.0, 1.0, np.sign(np.linalg.det(u @ vt))])
    rotation = (u * sign) @ vt
    variance = float(weights @ (a**2).sum(1))
    scale = float(singular @ sign) / variance if variance > 0 else 1.0
    scale = max(scale, 1e-6)  # points without any agreement must not collapse the world
    return Similarity(
        scale=scale, rotation=rotation, translation=centre_y - scale * (rotation @ centre_x)
    )


def _spanning_tree(num_views: int, edges: Sequence[AlignmentEdge]) -> list[AlignmentEdge]:
    """The maximum spanning forest (Kruskal), ties in the given order."""
    parent = list(range(num_views))

    def root(view: int) -> int:
        while parent[view] != view:
            parent[view] = parent[parent[view]]
            view = parent[view]
        return view

    tree = []
    for edge in sorted(edges, key=lambda e: -e.quality):
        a, b = root(edge.views[0]), root(edge.views[1])
        if a != b:
            parent[a] = b
            tree.append(edge)
    return tree


def _largest_component(num_views: int, tree: Sequence[AlignmentEdge]) -> set[int]:
    groups = [{view} for view in range(num_views)]
    for edge in tree:
        joined = groups[edge.views[0]] | groups[edge.views[1]]
        for view in joined:
            groups[view] = joined
    return max(groups, key=len)
