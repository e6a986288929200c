"""Where to draw the line between poses and guesses: confidences of right and of wrong poses.

    python -m benchmarks.confidence --run hard RUN/sift/results.jsonl RUN/place/sparse_gt 0.25 \
        --run fountain OUT/results.jsonl ../shared/data/strecha/fountain-P11/sparse_gt 0.25 \
        --foreign elsewhere OTHER/results.jsonl

The results have to be made with ``localizer.min_confidence=0``, or weak poses are not among them.
``--run`` takes a name, results, their truth and the largest distance (in the truth's unit) of a
right pose, which must also be within 5 degrees. ``--foreign`` takes results of photos that were
not taken in the mapped place: all their poses are wrong.
"""

import argparse
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from benchmarks.evaluate import EvaluationOptions, evaluate
from localize.results import read_results
from matching.files import PathLike

MAX_DEG = 5.0
THRESHOLDS = (0.0, 0.01, 0.02, 0.03, 0.05, 0.07, 0.1, 0.15, 0.2, 0.3, 0.5)


@dataclass(frozen=True, kw_only=True)
class Confidences:
    """What localization was sure of.

    Attributes:
        right: Confidences of right poses.
        wrong: Confidences of wrong poses.
        num_without: Queries without a pose.
    """

    right: Sequence[float] = ()
    wrong: Sequence[float] = ()
    num_without: int = 0

    @staticmethod
    def joined(parts: "Sequence[Confidences]") -> "Confidences":
        """Those of several runs together."""
        return Confidences(
            right=[c for part in parts for c in part.right],
            wrong=[c for part in parts for c in part.wrong],
            num_without=sum(part.num_without for part in parts),
        )

    @property
    def ranking(self) -> float:
        """Probability that a right pose has more confidence than a wrong one; NaN without both."""
        if not self.right or not self.wrong:
            return float("nan")
        above = np.array(self.right)[:, None] - np.array(self.wrong)[None]
        return float((above > 0).mean() + 0.5 * (above == 0).mean())

    def kept(self, threshold: float) -> tuple[int, int]:
        """Right and wrong poses of at least a confidence."""
        right, wrong = (sum(c >= threshold for c in part) for part in (self.right, self.wrong))
        return right, wrong


def of_run(results: PathLike, truth: PathLike, max_distance: float) -> Confidences:
    """Compare results with their truth.

    Args:
        results: ``results.jsonl``.
        truth: COLMAP model or poses file.
        max_distance: Of a right pose, in the truth's unit.
    """
    report = evaluate(results, truth, options=EvaluationOptions(metric_truth=True))
    right: list[float] = []
    wrong: list[float] = []
    for score in report.per_query:
        if not score.success or score.confidence is None:
            continue
        close = (score.translation_error_m or 0) < max_distance
        good = close and (score.rotation_error_deg or 0) < MAX_DEG
        (right if good else wrong).append(score.confidence)
    without = sum(not score.success for score in report.per_query)
    return Confidences(right=right, wrong=wrong, num_without=without)


def of_foreign(results: PathLike) -> Confidences:
    """Results of photos of another place."""
    found = read_results(results).values()
    return Confidences(
        wrong=[r.confidence for r in found if r.success],
        num_without=sum(not r.success for r in found),
    )


def table(runs: Mapping[str, Confidences]) -> str:
    """Two markdown tables: each run, and what thresholds keep of all of them."""
    lines = [
        "| run | right poses, least and median confidence | wrong poses, median and largest | "
        "without a pose | right above wrong |",
        "| --- | --- | --- | ---: | ---: |",
    ]
    everything = Confidences.joined(list(runs.values()))
    for name, run in [*runs.items(), ("all", everything)]:
        right = f"{len(run.right)}"
        if run.right:
            right += f": {min(run.right):.3f}, {np.median(run.right):.3f}"
        wrong = f"{len(run.wrong)}"
        if run.wrong:
            wrong += f": {np.median(run.wrong):.3f}, {max(run.wrong):.3f}"
        lines.append(f"| {name} | {right} | {wrong} | {run.num_without} | {run.ranking:.3f} |")
    lines += [
        "",
        "| least confidence | right poses kept | wrong poses kept |",
        "| ---: | ---: | ---: |",
    ]
    for threshold in THRESHOLDS:
        right_kept, wrong_kept = everything.kept(threshold)
        lines.append(
            f"| {threshold:g} | {right_kept} of {len(everything.right)} "
            f"| {wrong_kept} of {len(everything.wrong)} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    """The command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument(
        "--run", nargs=4, action="append", default=[],
        metavar=("NAME", "RESULTS", "TRUTH", "DISTANCE"),
    )  # fmt: skip
    parser.add_argument(
        "--foreign", nargs=2, action="append", default=[], metavar=("NAME", "RESULTS")
    )
    args = parser.parse_args(arguments)
    runs = {name: of_run(r, truth, float(limit)) for name, r, truth, limit in args.run}
    runs |= {name: of_foreign(results) for name, results in args.foreign}
    sys.stdout.write(table(runs) + "\n")


if __name__ == "__main__":
    main()
