"""The report of a Map-free run or submission: the eight official values, scene by scene."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from benchmarks.charts import precision_over_answers, share_below
from benchmarks.datasets.mapfree import (
    MAX_ROTATION_DEG,
    MAX_TRANSLATION_M,
    MAX_VCRE_PX,
    SceneErrors,
    aggregate,
    score_submission,
)
from benchmarks.line_chart import Chart, Line
from benchmarks.markdown import table
from benchmarks.summary import percentile_intervals
from matching.files import PathLike, write_text_atomic

Track = Literal["single", "multi"]

_SHORT = ("median m", "median deg", "median px", "pose", "pose AUC", "VCRE", "VCRE AUC", "answered")


@dataclass(frozen=True, kw_only=True)
class MapfreeScores:
    """Scores of a submission.

    Attributes:
        official: The eight values under the official keys.
        scenes: Errors per scene.
        intervals: Bootstrap 95 % interval of each value, frames resampled within their scenes.
    """

    official: Mapping[str, float]
    scenes: Mapping[str, SceneErrors]
    intervals: Mapping[str, tuple[float, float]] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """The eight official values, as the official script prints them; NaN becomes null."""
        return {key: _plain(value) for key, value in self.official.items()}

    def to_text(self) -> str:
        """One line per value, with its interval if there is one."""
        width = max(map(len, self.official))
        lines = []
        for key, value in self.official.items():
            ends = self.intervals.get(key)
            interval = "" if ends is None else f"   (95 %: {ends[0]:.4f} .. {ends[1]:.4f})"
            lines.append(f"{key:<{width}}  {value:.4f}{interval}")
        return "\n".join(lines)

    def write(self, path: PathLike) -> None:
        """Write the official values, the intervals and every scene as JSON."""
        _write(path, {**self.to_dict(), **self.details()})

    def details(self) -> dict[str, Any]:
        """What stands beside the official values in ``report.json``."""
        scenes = {
            name: {key: _plain(value) for key, value in aggregate({name: errors}).items()}
            for name, errors in self.scenes.items()
        }
        return {
            "scenes": scenes,
            "intervals": {k: [_plain(end) for end in ends] for k, ends in self.intervals.items()},
        }


def score_zip(
    submission: PathLike,
    root: PathLike,
    *,
    split: str = "val",
    track: Track = "single",
    num_bootstrap: int = 0,
) -> MapfreeScores:
    """Score a submission as the official script does.

    Args:
        submission: The zip.
        root: The data set.
        split: With public truth.
        track: Which frames count; the official script knows the single-frame track only.
        num_bootstrap: Resamplings for intervals; 0: none.

    Raises:
        matching.errors.InputError: Bad files, or a scored frame with a negative confidence.
    """
    scenes = score_submission(submission, root, split=split, track=track)
    return MapfreeScores(
        official=aggregate(scenes),
        scenes=scenes,
        intervals=_intervals(list(scenes.values()), num_bootstrap),
    )


@dataclass(frozen=True, kw_only=True)
class MapfreeReport:
    """A run: what was submitted and, where the truth is known, its scores.

    Attributes:
        split: Of the data set.
        track: Single frame or multi frame.
        num_estimates: Poses in the submission.
        left_out: Failed frames and why; they are not in the submission.
        submission: Its file name.
        seconds_per_frame: Mean, encoding of the frame not counted where it is done ahead.
        scores: None without truth.
        options: Those of the run.
        notes: What a reader must know to read the figures right.
    """

    split: str
    track: Track
    num_estimates: int
    left_out: Mapping[str, str]
    submission: str
    seconds_per_frame: float | None = None
    scores: MapfreeScores | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def title(self) -> str:
        """As reports print it."""
        return f"Map-free, {self.split}, {self.track}-frame track"

    @property
    def published(self) -> str:
        """Key of the published rows; none were found for the multi-frame track."""
        return f"mapfree-{self.split}" if self.track == "single" else ""

    def with_scores(self, scores: MapfreeScores) -> "MapfreeReport":
        """The same run, scored."""
        return replace(self, scores=scores)

    def to_dict(self) -> dict[str, Any]:
        """The content of ``report.json``; the official values at its top level."""
        scored = {} if self.scores is None else {**self.scores.to_dict(), **self.scores.details()}
        own = {
            "title": self.title,
            "num_estimates": self.num_estimates,
            "num_left_out": len(self.left_out),
            "left_out": dict(self.left_out),
            "submission": self.submission,
            "seconds_per_frame": self.seconds_per_frame,
            "options": dict(self.options),
            "notes": list(self.notes),
        }
        return {**scored, **own}

    def to_text(self) -> str:
        """The official values and what was left out."""
        lines = [self.title]
        if self.scores is not None:
            lines.append(self.scores.to_text())
        lines.append(
            f"submission {self.submission}: {self.num_estimates} poses, {len(self.left_out)} "
            "failed frames left out"
        )
        if self.split == "test":
            lines.append("the truth of the test split is on its server: submit the zip there")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])

    def write(self, path: PathLike) -> None:
        """Write ``report.json``."""
        _write(path, self.to_dict())

    def markdown_tables(self) -> list[str]:
        """The tables of ``report.md``."""
        lines = [
            f"Submission `{self.submission}`: {self.num_estimates} poses, {len(self.left_out)} "
            "failed frames left out.",
            "",
        ]
        if self.scores is None:
            return lines
        rows = [["scene", *_SHORT]]
        for name, errors in self.scores.scenes.items():
            rows.append([name, *(f"{v:.3f}" for v in aggregate({name: errors}).values())])
        rows.append(["**all**", *(f"**{v:.3f}**" for v in self.scores.official.values())])
        return [*lines, *table(rows)]

    def published_cells(self) -> tuple[str, ...]:
        """Our values in the order of the published columns."""
        if self.scores is None:
            return ()
        metres, degrees, pixels, pose, pose_auc, vcre, vcre_auc, _ = self.scores.official.values()
        return (
            f"{pixels:.1f}",
            f"{100 * vcre:.1f}",
            f"{vcre_auc:.3f}",
            f"{metres:.2f}",
            f"{degrees:.1f}",
            f"{100 * pose:.1f}",
            f"{pose_auc:.3f}",
        )

    def charts(self) -> dict[str, Chart]:
        """Distribution of the errors, and precision over the confidence."""
        if self.scores is None:
            return {}
        errors = _joined(list(self.scores.scenes.values()))
        total = len(errors.frames) + errors.num_failures
        padded = np.append(errors.vcre_px, np.full(errors.num_failures, np.inf))
        x, y = share_below(padded)
        accepted = {
            f"VCRE < {MAX_VCRE_PX:g} px": errors.vcre_px < MAX_VCRE_PX,
            f"pose < {MAX_TRANSLATION_M:g} m, {MAX_ROTATION_DEG:g} deg": (
                errors.translation_m < MAX_TRANSLATION_M
            )
            & (errors.rotation_deg < MAX_ROTATION_DEG),
        }
        lines = []
        for label, right in accepted.items():
            share, precision = precision_over_answers(errors.confidence, right, total)
            lines.append(Line(label=label, x=share, y=precision))
        return {
            "vcre_errors": Chart(
                title="Virtual correspondence reprojection errors",
                x_label="error, pixels",
                y_label="share of all frames",
                lines=[Line(label="all", x=np.maximum(x, 1e-2), y=y)],
                log_x=True,
                marks=[MAX_VCRE_PX],
            ),
            "confidence": Chart(
                title="Does the confidence rank?",
                x_label="share of the frames answered, surest first",
                y_label="right among them",
                lines=lines,
            ),
        }


def _joined(scenes: Sequence[SceneErrors]) -> SceneErrors:
    names = ("frames", "translation_m", "rotation_deg", "vcre_px", "confidence")
    return SceneErrors(
        **{name: np.concatenate([getattr(s, name) for s in scenes]) for name in names},
        num_failures=sum(s.num_failures for s in scenes),
    )


def _intervals(scenes: Sequence[SceneErrors], num_resamples: int) -> dict[str, tuple[float, float]]:
    """As `benchmarks.summary.bootstrap`: frames drawn again within each scene, failures too."""
    rng = np.random.default_rng(0)
    draws: dict[str, list[float]] = {}
    for _ in range(num_resamples):
        resampled = {}
        for number, errors in enumerate(scenes):
            count = len(errors.frames)
            rows = rng.integers(0, max(count + errors.num_failures, 1), count + errors.num_failures)
            kept = rows[rows < count]
            resampled[str(number)] = SceneErrors(
                frames=errors.frames[kept],
                translation_m=errors.translation_m[kept],
                rotation_deg=errors.rotation_deg[kept],
                vcre_px=errors.vcre_px[kept],
                confidence=errors.confidence[kept],
                num_failures=len(rows) - len(kept),
            )
        for key, value in aggregate(resampled).items():
            draws.setdefault(key, []).append(value)
    return percentile_intervals(draws)


def _plain(value: float) -> float | None:
    return value if math.isfinite(value) else None


def _write(path: PathLike, values: Mapping[str, Any]) -> None:
    write_text_atomic(Path(path), json.dumps(values, indent=1, ensure_ascii=False) + "\n")
