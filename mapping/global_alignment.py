"""DUSt3R's global alignment: pairwise point maps of many photos into one frame.

Wang et al., "DUSt3R: Geometric 3D Vision Made Easy", CVPR 2024 (arXiv 2312.14132), section 3.3:
every photo has a pose, a focal length and a depth map, every ordered pair a similarity; what
minimizes

    sum over pairs e, their photos v and pixels i of  C_i |chi_i - sigma_e P_e X_i|        (eq. 5)

(X the network's points, chi those of depth map, focal length and pose, C the confidence) is found
by gradient descent. The product of the scales sigma is held at 1, so the world keeps the unit of
the network.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from torch import Tensor

from mapping.alignment_start import AlignmentEdge, AlignmentStart, start_alignment
from matching.progress import Progress, silent

FloatArray = NDArray[np.float64]

_EDGES_AT_ONCE = 64  # of which intermediate values are held
_MIN_DEPTH = 1e-3  # of the typical depth


@dataclass(frozen=True, kw_only=True)
class AlignmentOptions:
    """Settings of `align`."""

    num_iterations: int = 300  # steps of gradient descent
    learning_rate: float = 0.01  # of the first step, it falls to 0 as half a cosine
    shared_focal: bool = False  # one unknown focal length for all photos of one size

    def __post_init__(self) -> None:
        if self.num_iterations < 0:
            raise ValueError(f"num_iterations must be >= 0, got {self.num_iterations}")
        if not self.learning_rate > 0:
            raise ValueError(f"learning_rate must be > 0, got {self.learning_rate}")


@dataclass(frozen=True, kw_only=True)
class AlignmentView:
    """What is known of a photo before it is aligned.

    Attributes:
        rays: x / z and y / z of its grid pixels in its camera, (P, 2); padded like the edges'.
        focal_px: Focal length that the rays were made with, pixels of the photo.
        fixed_focal: Whether the camera is given.
        group: Photos of one group share an unknown focal length, if that is asked for.
    """

    rays: FloatArray
    focal_px: float
    fixed_focal: bool = False
    group: int = 0


@dataclass(frozen=True, kw_only=True)
class AlignedView:
    """A photo in the common frame.

    Attributes:
        world_from_cam: (4, 4).
        focal_px: Pixels of the photo.
        depth: Of its grid pixels, (P,).
    """

    world_from_cam: FloatArray
    focal_px: float
    depth: FloatArray


@dataclass(frozen=True, kw_only=True)
class Alignment:
    """What `align` found.

    Attributes:
        views: By the photo's place; photos outside of the largest connected part are missing.
        error: Weighted mean distance of eq. 5 over the mean depth: how little the pairs agree.
        best_edge: By the photo's place: the number of the pair (in the given order) whose first
            photo it is and that shows it best.
    """

    views: dict[int, AlignedView]
    error: float
    best_edge: dict[int, int]


def align(
    views: Sequence[AlignmentView],
    edges: Sequence[AlignmentEdge],
    options: AlignmentOptions,
    *,
    progress: Progress = silent,
) -> Alignment:
    """Bring the point maps of pairs into one frame. The same input gives the same result.

    Args:
        views: The photos.
        edges: Point maps of both orders of every pair.
        options: Settings.
        progress: Wraps the loop over the steps.
    """
    start = start_alignment(len(views), edges)
    if not start.views:
        return Alignment(views={}, error=0.0, best_edge={})
    order = sorted(start.views)
    unknowns = _Unknowns([views[n] for n in order], order, start, options.shared_focal)
    rate = options.learning_rate
    descent = torch.optim.Adam(unknowns.parameters, lr=rate, betas=(0.9, 0.9))
    steps = range(options.num_iterations)
    for step in progress(steps, "aligning point maps", len(steps)):
        for group in descent.param_groups:
            group["lr"] = rate * 0.5 * (1 + np.cos(np.pi * step / len(steps)))
        descent.zero_grad()
        unknowns.accumulate_gradient()
        descent.step()
    numbers = {id(edge): number for number, edge in enumerate(edges)}
    return Alignment(
        views=unknowns.aligned(order),
        error=unknowns.error(),
        best_edge={view: numbers[id(start.edges[e])] for view, e in start.best_edge.items()},
    )


class _Unknowns:
    """The parameters of the descent, in units of the typical depth so that one rate fits all."""

    def __init__(
        self, views: list[AlignmentView], order: list[int], start: AlignmentStart, shared: bool
    ) -> None:
        place = {view: row for row, view in enumerate(order)}
        mean_log = float(np.mean([np.log(s.scale) for s in start.world_from_edge]))
        own = [start.edges[start.best_edge[view]].points[0][:, 2] for view in order]
        typical = float(
            np.median([float(np.median(z[z > 0])) for z in own if (z > 0).any()] or [1.0])
        )
        # dividing the world by the mean scale makes the product of the scales 1
        self.unit = typical
        to_world = np.exp(-mean_log) / typical

        def tensor(values: object) -> Tensor:
            return torch.tensor(np.asarray(values, np.float32))

        self.edge_views = torch.tensor([[place[v] for v in e.views] for e in start.edges])
        self.points = torch.from_numpy(
            np.stack([np.stack(e.points) for e in start.edges]).astype(np.float32)
        )
        self.points /= typical
        self.weights = torch.from_numpy(
            np.stack([np.stack(e.weights) for e in start.edges]).astype(np.float32)
        )
        self.weights *= self.points.isfinite().all(-1)
        self.points.nan_to_num_(0, 0, 0)
        self.total_weight = max(float(self.weights.double().sum()), 1e-12)
        self.rays = tensor([view.rays for view in views])
        self.start_focal = np.array([view.focal_px for view in views])
        groups = [
            ("fixed", 0) if v.fixed_focal else ("group", v.group) if shared else ("photo", row)
            for row, v in enumerate(views)
        ]
        names = sorted({g for g in groups if g[0] != "fixed"})
        # the last one stays 0 and belongs to the given cameras
        self.focal_group = torch.tensor([[*names, ("fixed", 0)].index(g) for g in groups])
        if shared:
            self._start_shared(groups, names)
        depths, quats, centres = [], [], []
        for view in order:
            number = start.best_edge[view]
            similarity, edge = start.world_from_edge[number], start.edges[number]
            depth = similarity.scale * edge.points[0][:, 2].astype(np.float64) * to_world
            depths.append(np.log(np.maximum(np.nan_to_num(depth, nan=1.0), _MIN_DEPTH)))
            quats.append(_quat_wxyz(similarity.rotation))
            centres.append(similarity.translation * to_world)
        self.log_depth = tensor(depths)
        self.quats, self.centres = tensor(quats), tensor(centres)
        self.log_focal = torch.zeros(len(names))
        self.edge_quats = tensor([_quat_wxyz(s.rotation) for s in start.world_from_edge])
        self.edge_shift = tensor([s.translation * to_world for s in start.world_from_edge])
        self.edge_log_scale = tensor([np.log(s.scale) - mean_log for s in start.world_from_edge])
        self.parameters = [
            self.log_depth, self.quats, self.centres, self.log_focal,
            self.edge_quats, self.edge_shift, self.edge_log_scale,
        ]  # fmt: skip
        for parameter in self.parameters:
            parameter.requires_grad_(True)

    def _start_shared(self, groups: list[tuple[str, int]], names: list[tuple[str, int]]) -> None:
        """Photos of a group start from the median of their focal lengths."""
        for name in names:
            rows = [row for row, group in enumerate(groups) if group == name]
            focal = float(np.median(self.start_focal[rows]))
            self.rays[rows] *= torch.tensor(self.start_focal[rows] / focal).float()[:, None, None]
            self.start_focal[rows] = focal

    def world_points(self) -> Tensor:
        """The points of all depth maps, (N, P, 3)."""
        change = torch.cat([self.log_focal, self.log_focal.new_zeros(1)])
        change = change.index_select(0, self.focal_group)
        depth = self.log_depth.exp()[..., None]
        rays = self.rays * (-change).exp()[:, None, None]
        in_camera = torch.cat([rays * depth, depth], -1)
        return in_camera @ _rotations(self.quats).mT + self.centres[:, None]

    def _distances(self, world: Tensor, edges: slice) -> Tensor:
        """Sum of the weighted distances of some pairs."""
        log_scale = self.edge_log_scale - self.edge_log_scale.mean()
        rotation = (_rotations(self.edge_quats) * log_scale.exp()[:, None, None])[edges]
        placed = self.points[edges] @ rotation.mT[:, None] + self.edge_shift[edges, None, None]
        # unlike those of an index, the gradients of index_select add up in the same order always
        seen = world.index_select(0, self.edge_views[edges].flatten()).unflatten(0, (-1, 2))
        difference = seen - placed  # (E, 2, P, 3)
        # a tiny constant keeps the gradient finite where they meet
        distance = (difference.square().sum(-1) + 1e-12).sqrt()
        return (self.weights[edges] * distance).sum()

    def _chunks(self) -> list[slice]:
        count = len(self.edge_views)
        return [slice(k, min(k + _EDGES_AT_ONCE, count)) for k in range(0, count, _EDGES_AT_ONCE)]

    def accumulate_gradient(self) -> None:
        """The gradient of eq. 5, a few pairs at a time: memory does not grow with their number."""
        world = self.world_points()
        detached = world.detach().requires_grad_(True)
        for edges in self._chunks():
            (self._distances(detached, edges) / self.total_weight).backward()
        world.backward(detached.grad)

    @torch.no_grad()
    def error(self) -> float:
        """Mean distance over the mean depth."""
        world = self.world_points()
        total = sum(float(self._distances(world, edges)) for edges in self._chunks())
        return total / self.total_weight / float(self.log_depth.exp().mean())

    @torch.no_grad()
    def aligned(self, order: list[int]) -> dict[int, AlignedView]:
        """The photos in the unit of the network."""
        change = torch.cat([self.log_focal, self.log_focal.new_zeros(1)])[self.focal_group]
        focals = self.start_focal * change.double().exp().numpy()
        rotations = _rotations(self.quats.double()).numpy()
        result = {}
        for row, view in enumerate(order):
            world_from_cam = np.eye(4)
            world_from_cam[:3, :3] = rotations[row]
            world_from_cam[:3, 3] = self.centres[row].double().numpy() * self.unit
            depth = self.log_depth[row].double().exp().numpy() * self.unit
            result[view] = AlignedView(
                world_from_cam=world_from_cam, focal_px=float(focals[row]), depth=depth
            )
        return result


def _rotations(quats_wxyz: Tensor) -> Tensor:
    """Rotation matrices (..., 3, 3) of quaternions (..., 4) of any length."""
    w, x, y, z = torch.nn.functional.normalize(quats_wxyz, dim=-1).unbind(-1)
    rows = [
        [1 - 2 * (y * y + z * z), 2 * (x * y - w * z), 2 * (x * z + w * y)],
        [2 * (x * y + w * z), 1 - 2 * (x * x + z * z), 2 * (y * z - w * x)],
        [2 * (x * z - w * y), 2 * (y * z + w * x), 1 - 2 * (x * x + y * y)],
    ]
    return torch.stack([torch.stack(row, -1) for row in rows], -2)


def _quat_wxyz(rotation: FloatArray) -> FloatArray:
    quat_wxyz: FloatArray = np.roll(pycolmap.Rotation3d(rotation).quat, 1)
    return quat_wxyz
