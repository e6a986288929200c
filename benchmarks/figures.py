"""Interactive figures of a map and of localization results (plotly)."""

import html
import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import plotly.graph_objects as go
import pycolmap
from numpy.typing import NDArray

from mapping import Map

FloatArray = NDArray[np.float64]

# Colours that hold on white and on near-black; blue/orange/magenta differ for the colour-blind too.
MAP_COLOR = "#6b7a90"
ESTIMATE_COLOR = "#2f7df6"
TRUTH_COLOR = "#f59e0b"
FAILURE_COLOR = "#e5484d"
POINT_COLOR = "#94a3b8"
GRID_COLOR = "rgba(128,128,128,0.25)"
# ticks of a logarithmic axis within a power of ten: the first that give enough of them are taken
_LOG_STEPS = ((1,), (1, 2, 5), (1, 1.5, 2, 3, 5, 7), (1, 1.2, 1.4, 1.6, 1.8, 2, 2.5, 3, 4, 5, 6, 8))
_MIN_TICKS, _MAX_TICKS = 3, 7
GRID_COLOR_3D = "#a3adba"  # WebGL axes ignore transparency


def map_figure(
    scene: Map,
    estimated: Mapping[str, pycolmap.Rigid3d],
    *,
    truth: Mapping[str, pycolmap.Rigid3d] | None = None,
    length_unit: str = "m",
    max_points: int = 20_000,
) -> go.Figure:
    """The map's points, its cameras and the queries' cameras in 3D.

    Args:
        scene: The map.
        estimated: cam_from_world of the localized queries.
        truth: True cam_from_world of the queries, drawn as well if known; queries without an
            estimate stand out.
        length_unit: Unit of the axes: ``m``, or ``map units`` where the scale is arbitrary.
        max_points: More points than this are thinned out evenly.
    """
    truth = truth or {}
    map_poses = {name: scene.cam_from_world(name) for name in scene.image_names}
    centres = _centres([*map_poses.values(), *estimated.values(), *truth.values()])
    points, colors = _points_of(scene.reconstruction, max_points)
    near = _near(points, centres)
    size = _frustum_size(_centres(map_poses.values()))

    figure = go.Figure()
    figure.add_trace(
        go.Scatter3d(
            x=points[near, 0].astype(np.float32),
            y=points[near, 1].astype(np.float32),
            z=points[near, 2].astype(np.float32),
            mode="markers",
            marker={
                "size": 1.8,
                "color": POINT_COLOR if colors is None else [colors[i] for i in np.where(near)[0]],
            },
            name=f"points ({scene.reconstruction.num_points3D():,})",
            hoverinfo="skip",
        )
    )
    groups = [
        (f"map photos ({len(map_poses)})", map_poses, MAP_COLOR, 1.5),
        (
            f"queries, true pose ({len(set(truth) & set(estimated))})",
            {name: truth[name] for name in truth if name in estimated},
            TRUTH_COLOR,
            2.5,
        ),
        (f"queries, estimated pose ({len(estimated)})", estimated, ESTIMATE_COLOR, 2.5),
        (
            f"queries not localized, true pose ({len(set(truth) - set(estimated))})",
            {name: truth[name] for name in truth if name not in estimated},
            FAILURE_COLOR,
            3,
        ),
    ]
    for label, poses, color, width in groups:
        if poses:
            # true cameras are drawn larger, or the estimates on top of them would hide them
            larger = 1.5 if color == TRUTH_COLOR else 1.0
            figure.add_traces(_cameras(label, poses, size * larger, color, width))
    figure.update_layout(
        scene={
            "aspectmode": "data",
            "dragmode": "orbit",
            "camera": _viewpoint(list(map_poses.values()), points[near]),
            **{
                f"{axis}axis": {
                    "title": {"text": f"{axis} ({length_unit})"},
                    "showbackground": False,
                    "gridcolor": GRID_COLOR_3D,
                    "zerolinecolor": GRID_COLOR_3D,
                    "showspikes": False,
                }
                for axis in "xyz"
            },
        },
        margin={"l": 0, "r": 0, "t": 0, "b": 0},
        legend={"orientation": "h", "yanchor": "top", "y": -0.02, "x": 0, "itemsizing": "constant"},
    )
    return figure


def error_figure(errors: Sequence[float], quantity: str, unit: str) -> go.Figure:
    """Share of the queries with an error below each value.

    Args:
        errors: One per query, infinite for a failed one.
        quantity: What the errors are of, for the axis.
        unit: Their unit.
    """
    values = np.asarray(errors, float)
    finite = np.sort(values[np.isfinite(values)])
    share = 100 * np.arange(1, len(finite) + 1) / max(len(values), 1)
    figure = go.Figure(
        go.Scatter(
            x=finite,
            y=share,
            mode="lines+markers" if len(finite) <= 100 else "lines",
            line={"shape": "hv", "color": ESTIMATE_COLOR, "width": 2.5},
            hovertemplate=f"%{{y:.0f}} % of the queries within %{{x:.3g}} {unit}<extra></extra>",
        )
    )
    axis: dict[str, Any] = {"title": {"text": f"{quantity} ({unit})"}, "gridcolor": GRID_COLOR}
    if len(finite) and finite[0] > 0:
        axis |= {"type": "log"} | _log_axis(float(finite[0]), float(finite[-1]))
    figure.update_xaxes(**axis)
    figure.update_yaxes(
        title={"text": "share of queries"},
        range=[0, 104],
        ticksuffix=" %",
        gridcolor=GRID_COLOR,
        zeroline=False,
    )
    figure.update_layout(margin={"l": 62, "r": 12, "t": 10, "b": 48})
    return figure


def timing_figure(timings_s: Sequence[Mapping[str, float]]) -> go.Figure:
    """Mean seconds that each step of a query took.

    Args:
        timings_s: ``Localization.timings_s`` of the queries.
    """
    steps: dict[str, list[float]] = {}
    for timing in timings_s:
        for step, seconds in timing.items():
            steps.setdefault(step, []).append(seconds)
    means = {step: float(np.mean(values)) for step, values in steps.items() if step != "total"}
    names = list(means)[::-1]  # plotly draws the first bar at the bottom
    figure = go.Figure(
        go.Bar(
            x=[means[name] for name in names],
            y=names,
            orientation="h",
            marker={"color": ESTIMATE_COLOR},
            text=[f"{means[name]:.3f} s" for name in names],
            textposition="auto",
            hoverinfo="skip",
        )
    )
    figure.update_xaxes(title={"text": "mean time per query (s)"}, rangemode="tozero")
    figure.update_xaxes(gridcolor=GRID_COLOR)
    figure.update_layout(margin={"l": 90, "r": 20, "t": 10, "b": 48}, bargap=0.35)
    return figure


def _log_axis(low: float, high: float) -> dict[str, Any]:
    """Range and ticks, written out as plain numbers; plotly would shorten 0.2, 0.5, 1 to 2, 5, 1.

    The range is a factor of two at least, so that one query or a few alike ones have an axis too.
    """
    middle = (math.log10(low) + math.log10(high)) / 2
    half = 0.54 * max(math.log10(high / low), math.log10(2))
    first, last = 10 ** (middle - half), 10 ** (middle + half)
    powers = range(math.floor(math.log10(first)), math.ceil(math.log10(last)) + 1)
    values: list[float] = []
    for steps in _LOG_STEPS:
        values = [step * 10.0**power for power in powers for step in steps]
        values = [value for value in values if first <= value <= last]
        if len(values) >= _MIN_TICKS:
            break
    values = values[:: -(-len(values) // _MAX_TICKS)]  # labels must not run into each other
    return {
        "range": [middle - half, middle + half],
        "tickvals": values,
        "ticktext": [f"{value:.6g}" for value in values],
    }


def _centres(poses: Any) -> FloatArray:
    """Camera centres in the world, (N, 3)."""
    return np.array([pose.inverse().translation for pose in poses], float).reshape(-1, 3)


def _points_of(
    reconstruction: pycolmap.Reconstruction, max_points: int
) -> tuple[FloatArray, list[str] | None]:
    """Positions (N, 3) and CSS colours, None if the map holds no colours; thinned evenly."""
    ids = sorted(reconstruction.point3D_ids())
    step = max(1, -(-len(ids) // max_points))
    chosen = [reconstruction.point3D(i) for i in ids[::step]]
    xyz = np.array([point.xyz for point in chosen], float).reshape(-1, 3)
    rgb = np.array([point.color for point in chosen], int).reshape(-1, 3)
    if not rgb.any():
        return xyz, None
    return xyz, [f"#{r:02x}{g:02x}{b:02x}" for r, g, b in rgb]


def _near(points: FloatArray, centres: FloatArray) -> NDArray[np.bool_]:
    """Points within a generous box round the cameras and the bulk of the points.

    A few badly conditioned points far away would otherwise shrink the place to a dot.
    """
    if not len(points):
        return np.zeros(0, bool)
    low, high = np.percentile(points, [5, 95], axis=0)
    if len(centres):
        low, high = np.minimum(low, centres.min(0)), np.maximum(high, centres.max(0))
    margin = 0.15 * (high - low).max()
    inside: NDArray[np.bool_] = ((points >= low - margin) & (points <= high + margin)).all(1)
    return inside


def _frustum_size(centres: FloatArray) -> float:
    """Depth of a drawn camera: half the typical distance to the next camera."""
    if len(centres) < 2:
        return 0.1
    distances = np.linalg.norm(centres[:, None] - centres[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    extent = float(np.ptp(centres, axis=0).max())
    typical = float(np.median(distances.min(1)))
    return float(np.clip(0.5 * typical, 0.02 * extent, 0.1 * extent)) or 0.1


def _cameras(
    label: str, poses: Mapping[str, pycolmap.Rigid3d], size: float, color: str, width: float
) -> list[go.Scatter3d]:
    """Frusta of the cameras as one line trace, and markers at the centres that tell the names."""
    corners = size * np.array(
        [(-0.6, -0.45, 1), (0.6, -0.45, 1), (0.6, 0.45, 1), (-0.6, 0.45, 1)], float
    )
    up = size * np.array([(-0.2, -0.45, 1), (0, -0.65, 1), (0.2, -0.45, 1)], float)
    gap = np.full((1, 3), np.nan)
    lines = []
    for pose in poses.values():
        world_from_cam = pose.inverse()
        centre = world_from_cam.translation[None]
        c = corners @ world_from_cam.rotation.matrix().T + centre
        roof = up @ world_from_cam.rotation.matrix().T + centre
        spokes = [part for i in range(4) for part in (centre, c[i : i + 1], gap)]
        lines += [*spokes, c, c[:1], gap, roof, gap]
    path = np.concatenate(lines).astype(np.float32)
    centres = _centres(poses.values())
    return [
        go.Scatter3d(
            x=path[:, 0],
            y=path[:, 1],
            z=path[:, 2],
            mode="lines",
            line={"color": color, "width": width},
            name=label,
            legendgroup=label,
            hoverinfo="skip",
        ),
        go.Scatter3d(
            x=centres[:, 0],
            y=centres[:, 1],
            z=centres[:, 2],
            mode="markers",
            marker={"size": 3, "color": color},
            text=[html.escape(name) for name in poses],
            hovertemplate="%{text}<br>%{x:.3f}, %{y:.3f}, %{z:.3f}<extra></extra>",
            name=label,
            legendgroup=label,
            showlegend=False,
        ),
    ]


def _viewpoint(poses: Sequence[pycolmap.Rigid3d], points: FloatArray) -> dict[str, Any]:
    """A look at the place from behind and above its cameras, their up being up."""
    if not poses:
        return {}
    axes = np.array([pose.inverse().rotation.matrix() for pose in poses])  # columns x, y, z
    up = -axes[:, :, 1].mean(0)
    up = up / np.linalg.norm(up) if np.linalg.norm(up) > 1e-6 else np.array([0.0, 0.0, 1.0])
    forward = axes[:, :, 2].mean(0)
    forward = forward - up * (forward @ up)
    if np.linalg.norm(forward) < 0.2:  # cameras look all round: any side is as good
        forward = axes[0, :, 2] - up * (axes[0, :, 2] @ up)
    norm = np.linalg.norm(forward)
    forward = forward / norm if norm > 1e-6 else axes[0, :, 0]
    # far enough off that the axes' titles, beyond the corners of the box, are in the picture
    eye = -1.95 * forward + 0.5 * np.cross(forward, up) + 1.0 * up
    return {
        "up": dict(zip("xyz", up.tolist(), strict=True)),
        "eye": dict(zip("xyz", eye.tolist(), strict=True)),
        # the near axis with its title is at the bottom, above is the sky
        "center": dict(zip("xyz", (-0.3 * up).tolist(), strict=True)),
    }
