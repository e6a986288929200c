"""How well the ways to a relative pose in metres do, on rendered pairs with exact truth.

python -m benchmarks.metric_relative --matcher small --photos DIR [--pairs 80] [--width 512]

Pairs are drawn from the procedural worlds the way training draws them, with seeds that no training
uses. Rendered photos are kept in DIR. Every second pair also gives one of two photos of different
places, which have no relative pose: its confidence must be low. Matches and point maps of a pair
are computed once for all ways.
"""

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.metrics import (
    average_precision,
    relative_pose_errors_deg,
    rotation_errors_deg,
    translation_errors,
    vcre_px,
)
from localize.relative import RelativeOptions, RelativePose, relative_pose
from matching import Matcher, load_matcher
from matching.files import atomic_file
from matching.pointmap import PairGeometry
from matching.training.batch import PairWorld
from matching.types import Matches, View

FloatArray = NDArray[np.float64]

SEED = 5_000_000  # training and its validation count from small numbers
TEXTURE_SEED = 977
DIFFICULTY = 0.8
WAYS = {
    "essential": RelativeOptions(min_confidence=0, method="essential"),
    "reference": RelativeOptions(min_confidence=0, method="reference"),
    "reference, PnP alone": RelativeOptions(min_confidence=0, method="reference", refine=False),
    "pointmap": RelativeOptions(min_confidence=0, method="pointmap"),
    "pointmap, PnP alone": RelativeOptions(min_confidence=0, method="pointmap", refine=False),
}
KNOWN = {"both": (True, True), "photo 0": (True, False), "none": (False, False)}


@dataclass(frozen=True, kw_only=True)
class RenderedPair:
    """Two photos and the truth."""

    images: NDArray[np.uint8]  # (2, H, W, 3)
    K: FloatArray  # (2, 3, 3)
    cam1_from_cam0: FloatArray  # (4, 4); of two places: NaN

    @property
    def cameras(self) -> list[pycolmap.Camera]:
        height, width = self.images.shape[1:3]
        return [
            pycolmap.Camera(
                model="PINHOLE",
                width=width,
                height=height,
                params=[K[0, 0], K[1, 1], K[0, 2], K[1, 2]],
            )
            for K in self.K
        ]


class Remembering:
    """A matcher's answers for the pair in hand, so that every way gets the same ones."""

    def __init__(self, matcher: Matcher) -> None:
        self._matcher = matcher
        self.name = matcher.name
        self._answers: tuple[Matches, PairGeometry | None] | None = None

    def look_at(self, view0: View, view1: View) -> None:
        """Match and predict once."""
        matches = self._matcher.match_views(view0, view1)
        self._answers = (matches, self._matcher.predict(view0, view1))

    def match_views(self, view0: View, view1: View) -> Matches:
        assert self._answers is not None
        return self._answers[0]

    def predict(self, view0: View, view1: View) -> PairGeometry | None:
        assert self._answers is not None
        return self._answers[1]

    def pixel_px(self, view: View) -> float:
        return self._matcher.pixel_px(view)


def rendered_pairs(folder: Path, count: int, width: int) -> Iterator[RenderedPair]:
    """The pairs, rendered where the folder does not hold them."""
    world: PairWorld | None = None
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        file = folder / f"{width}_{number:03d}.npz"
        if not file.exists():
            world = world or PairWorld("cpu", texture_seed=TEXTURE_SEED, textures_per_style=8)
            size = (width, width * 3 // 4)
            batch = world(SEED + number, pairs=1, image_size=size, difficulty=DIFFICULTY)
            with atomic_file(file) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(
                    stream,
                    images=(batch.images[0].permute(0, 2, 3, 1).float().numpy() * 255 + 0.5).astype(
                        np.uint8
                    ),
                    K=batch.K[0].numpy(),
                    T=batch.cam1_from_cam0[0].numpy(),
                )
        with np.load(file) as arrays:
            yield RenderedPair(
                images=arrays["images"],
                K=arrays["K"].astype(np.float64),
                cam1_from_cam0=arrays["T"].astype(np.float64),
            )


def with_strangers(pairs: Iterator[RenderedPair]) -> Iterator[RenderedPair]:
    """After every second pair one of its photo 0 and the photo 1 of the pair before."""
    previous: RenderedPair | None = None
    for number, pair in enumerate(pairs):
        yield pair
        if number % 2 and previous is not None:
            yield RenderedPair(
                images=np.stack([pair.images[0], previous.images[1]]),
                K=np.stack([pair.K[0], previous.K[1]]),
                cam1_from_cam0=np.full((4, 4), np.nan),
            )
        previous = pair


def ranking_auc(confidence: FloatArray, right: NDArray[np.bool_]) -> float:
    """Probability that a right pose has a higher confidence than a wrong one (area under ROC)."""
    good, bad = confidence[right], confidence[~right]
    if not len(good) or not len(bad):
        return float("nan")
    higher = (good[:, None] > bad).mean() + 0.5 * (good[:, None] == bad).mean()
    return float(higher)


def row(name: str, results: list[RelativePose], pairs: list[RenderedPair]) -> str:
    """One line of the table."""
    true = [n for n, pair in enumerate(pairs) if np.isfinite(pair.cam1_from_cam0).all()]
    truth = np.stack([pairs[n].cam1_from_cam0 for n in true])
    estimates = [results[n].cam1_from_cam0 for n in true]
    found = np.array([e is not None for e in estimates])
    poses = np.stack([np.eye(4) if e is None else e for e in estimates])
    size = pairs[0].images.shape[2:0:-1]

    def failed_is_infinite(errors: FloatArray) -> FloatArray:
        return np.where(found, errors, np.inf)

    metres = failed_is_infinite(translation_errors(poses, truth))
    turn = failed_is_infinite(rotation_errors_deg(poses, truth))
    _, direction = relative_pose_errors_deg(poses, truth)
    direction = failed_is_infinite(direction)
    K = np.stack([pairs[n].K[1] for n in true])
    sizes = np.tile(size, (len(true), 1))
    pixels = failed_is_infinite(vcre_px(poses, truth, K, sizes))
    lengths = [
        abs(np.log(np.linalg.norm(p[:3, 3]) / np.linalg.norm(t[:3, 3])))
        for p, t, ok in zip(poses, truth, found, strict=True)
        if ok and np.linalg.norm(p[:3, 3]) > 0
    ]
    confidence = np.array([result.confidence for result in results])
    right = np.zeros(len(results), bool)
    right[true] = (turn < 5) & (direction < 10)
    limit = 0.1 * np.hypot(*size)
    accepted = pixels < limit
    precision = average_precision(confidence[true][found], accepted[found], len(true))
    cells = [
        f"{np.median(metres):.2f}",
        f"{np.median(turn):.2f}",
        f"{np.median(direction):.1f}",
        f"{np.median(np.expm1(lengths)):.0%}" if lengths else "–",
        f"{np.median(pixels):.0f}",
        f"{(metres < 0.25).mean() * 100:.0f} %" if len(metres) else "–",
        f"{right[true].mean():.0%}",
        f"{accepted.mean():.2f} / {precision:.2f}",
        f"{ranking_auc(confidence, right):.3f}",
        f"{ranking_auc(confidence[true], right[true]):.3f}",
    ]
    return f"| {name} | " + " | ".join(cells) + " |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matcher", default="small")
    parser.add_argument("--photos", required=True, type=Path, help="folder of rendered photos")
    parser.add_argument("--pairs", type=int, default=80)
    parser.add_argument("--width", type=int, default=512, help="of the photos, pixels")
    parser.add_argument(
        "--unknown", nargs="*", default=["essential", "reference", "pointmap"],
        help="ways that are also measured with unknown cameras",
    )  # fmt: skip
    parser.add_argument("--max-error-px", type=float, nargs="*", default=[], help="also try these")
    arguments = parser.parse_args()
    matcher = load_matcher(arguments.matcher)
    remembering = Remembering(matcher)
    ways = {"essential": WAYS["essential"]} if matcher.name == "sift" else dict(WAYS)
    for error in arguments.max_error_px:
        ways[f"essential, {error:g} px"] = RelativeOptions(min_confidence=0, max_error_px=error)
    results: dict[tuple[str, str], list[RelativePose]] = {}
    pairs: list[RenderedPair] = []
    for pair in with_strangers(rendered_pairs(arguments.photos, arguments.pairs, arguments.width)):
        pairs.append(pair)
        views = [matcher.encode(image) for image in pair.images]
        remembering.look_at(*views)
        for known, given in KNOWN.items():
            camera0, camera1 = (
                camera if is_given else None
                for camera, is_given in zip(pair.cameras, given, strict=True)
            )
            for way, options in ways.items():
                if known != "both" and way not in arguments.unknown:
                    continue
                pose = relative_pose(
                    *views,
                    matcher=remembering,  # type: ignore[arg-type]  # the part of one that is used
                    camera0=camera0,
                    camera1=camera1,
                    options=options,
                )
                results.setdefault((known, way), []).append(pose)
        sys.stderr.write(f"\r{len(pairs)} pairs")
        sys.stderr.flush()
    sys.stderr.write("\n")
    lines = [
        "| cameras known, way | median m | deg | direction deg | length off by | VCRE px | "
        "within 0.25 m | within 5 and 10 deg | VCRE precision / AUC | "
        "ranking | without strangers |",
        "| --- |" + " ---: |" * 10,
    ]
    lines += [row(f"{k}: {w}", poses, pairs) for (k, w), poses in results.items()]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
