"""Which confidence ranks metric relative poses best, on rendered pairs with exact truth.

python -m benchmarks.ranking --matcher sift --photos DIR [--pairs 80] [--depth-error 0.15]

Pairs are drawn from the procedural worlds the way training draws them, with seeds that no training
uses; they are kept in DIR. Poses are relative poses by the essential matrix with known cameras;
their length comes from a depth map of photo 0: the rendered one, wrong by one factor per photo,
whose logarithm has the standard deviation ``--depth-error``, as the depth that a network guesses
from one photo is. The score is Map-free's AUC: average precision over the share of answered pairs,
for a VCRE below a tenth of the diagonal, and for 25 cm and 5 degrees.
"""

import argparse
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.given_depth import baseline_from_depth, with_length
from benchmarks.mapfree_confidence import mapfree_confidence
from benchmarks.metric_relative import DIFFICULTY, SEED, TEXTURE_SEED, RenderedPair
from benchmarks.metrics import (
    average_precision,
    rotation_errors_deg,
    translation_errors,
    vcre_px,
)
from localize.confidence import spread_inliers
from localize.essential import RelativeOptions, undistorted_rays
from localize.relative import RelativePose, relative_pose
from matching import load_matcher
from matching.files import atomic_file
from matching.training.batch import PairWorld

FloatArray = NDArray[np.float64]

_STEP = 1e-6  # of the numerical derivatives
_NOISE_PX = 1.0  # of a keypoint; its value changes no ranking by covariance alone


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A pose with what may tell how good it is, and its errors."""

    result: RelativePose
    length: float
    spread: float
    size: tuple[int, int]
    metres: float
    degrees: float
    pixels: float

    @property
    def scores(self) -> NDArray[np.float32]:
        return self.result.matches.scores[self.result.inlier_mask]

    @property
    def support(self) -> float:
        matches, mask = self.result.matches, self.result.inlier_mask
        return spread_inliers(matches.keypoints0.astype(np.float64), mask, self.size)


CANDIDATES: dict[str, Callable[[Answer], float]] = {
    "the same for all": lambda a: 0.0,
    "number of inliers": lambda a: a.result.num_inliers,
    "share of inliers": lambda a: a.result.num_inliers / a.result.num_matches,
    "mean score of the inliers": lambda a: float(a.scores.mean()),
    "sum of the scores of the inliers": lambda a: float(a.scores.sum()),
    "inliers, crowds counted less": lambda a: a.support,
    "covariance of the pose": lambda a: -position_std(a.result),
    "covariance times the length": lambda a: -a.length * position_std(a.result),
    "agreement about the length": lambda a: -a.spread,
    "evidence (`RelativePose.confidence`)": lambda a: a.result.confidence,
    "short baselines first": lambda a: -a.length,
    "evidence, nearness (`mapfree_confidence`)": lambda a: mapfree_confidence(
        a.result, a.length, a.spread
    ),
    "evidence, nearness by the length alone": lambda a: mapfree_confidence(
        a.result, a.length, None
    ),
    "truth (the best possible)": lambda a: -a.pixels,
}


def position_std(result: RelativePose) -> float:
    """Standard deviation of the direction of the translation, radians, by the inliers' geometry.

    The inverse of the normal matrix of the Sampson errors over rotation (3) and direction (2).
    """
    assert result.cam1_from_cam0 is not None
    mask = result.inlier_mask
    rays0, rays1 = (
        undistorted_rays(camera, pixels[mask].astype(np.float64))
        for camera, pixels in (
            (result.camera0, result.matches.keypoints0),
            (result.camera1, result.matches.keypoints1),
        )
    )
    rotation = result.cam1_from_cam0[:3, :3]
    direction = result.cam1_from_cam0[:3, 3] / np.linalg.norm(result.cam1_from_cam0[:3, 3])
    across = np.linalg.svd(direction[None])[2][1:]  # (2, 3), orthogonal to the direction

    def errors(parameters: FloatArray) -> FloatArray:
        turned = pycolmap.Rotation3d(parameters[:3]).matrix() @ rotation
        return _sampson(turned, direction + parameters[3:] @ across, rays0, rays1)

    jacobian = np.stack([(errors(s) - errors(-s)) / (2 * _STEP) for s in np.eye(5) * _STEP], axis=1)
    focal = (result.camera0.mean_focal_length() + result.camera1.mean_focal_length()) / 2
    covariance = np.linalg.pinv(jacobian.T @ jacobian) * (_NOISE_PX / focal) ** 2
    return float(np.sqrt(np.trace(covariance[3:, 3:])))


def _sampson(
    rotation: FloatArray, translation: FloatArray, rays0: FloatArray, rays1: FloatArray
) -> FloatArray:
    """Signed Sampson errors, (M,), in units of the focal length."""
    x, y, z = translation
    essential = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]]) @ rotation
    ones = np.ones((len(rays0), 1))
    lines1 = np.append(rays0, ones, axis=1) @ essential.T
    lines0 = np.append(rays1, ones, axis=1) @ essential
    algebraic = np.einsum("ij,ij->i", np.append(rays1, ones, axis=1), lines1)
    return algebraic / np.sqrt((lines0[:, :2] ** 2).sum(1) + (lines1[:, :2] ** 2).sum(1))


def pairs_with_depth(
    folder: Path, count: int, width: int
) -> Iterator[tuple[RenderedPair, NDArray[np.float32]]]:
    """Pairs and the depth of photo 0, rendered where the folder does not hold them."""
    world: PairWorld | None = None
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        file = folder / f"depth_{width}_{number:03d}.npz"
        if not file.exists():
            world = world or PairWorld("cpu", texture_seed=TEXTURE_SEED, textures_per_style=8)
            size = (width, width * 3 // 4)
            batch = world(SEED + number, pairs=1, image_size=size, difficulty=DIFFICULTY)
            images = batch.images[0].permute(0, 2, 3, 1).float().numpy() * 255 + 0.5
            with atomic_file(file) as temporary, temporary.open("wb") as stream:
                np.savez_compressed(
                    stream,
                    images=images.astype(np.uint8),
                    K=batch.K[0].numpy(),
                    T=batch.cam1_from_cam0[0].numpy(),
                    depth=batch.pointmaps[0, :, ..., 2].numpy().astype(np.float16),
                    valid=batch.valid[0].numpy(),
                )
        with np.load(file) as arrays:
            pair = RenderedPair(
                images=arrays["images"],
                K=arrays["K"].astype(np.float64),
                cam1_from_cam0=arrays["T"].astype(np.float64),
            )
            depth = np.where(arrays["valid"][0], arrays["depth"][0], 0).astype(np.float32)
        yield pair, depth


def answer(pair: RenderedPair, result: RelativePose, depth0: NDArray[np.float32]) -> Answer | None:
    """The answer to a pair; None without a metric pose."""
    baseline = baseline_from_depth(result, depth0)
    if result.cam1_from_cam0 is None or baseline is None:
        return None
    pose = with_length(result.cam1_from_cam0, baseline.length)
    estimated, truth = pose[None], pair.cam1_from_cam0[None]
    height, width = pair.images.shape[1:3]
    sizes = np.array([[width, height]])
    return Answer(
        result=result,
        length=baseline.length,
        spread=baseline.spread,
        size=(width, height),
        metres=float(translation_errors(estimated, truth)[0]),
        degrees=float(rotation_errors_deg(estimated, truth)[0]),
        pixels=float(vcre_px(estimated, truth, pair.K[1:], sizes)[0]),
    )


def table(answers: list[Answer], num_pairs: int) -> list[str]:
    """AUC of every candidate."""
    limit = 0.1 * np.hypot(*answers[0].size)
    near = np.array([a.pixels < limit for a in answers])
    right = np.array([a.metres < 0.25 and a.degrees < 5 for a in answers])
    lines = [
        f"{num_pairs} pairs, {len(answers)} answered; VCRE < {limit:.0f} px: "
        f"{near.sum() / num_pairs:.3f}; 25 cm and 5 deg: {right.sum() / num_pairs:.3f}",
        "",
        "| confidence | AUC, VCRE | AUC, pose |",
        "| --- | ---: | ---: |",
    ]
    for name, candidate in CANDIDATES.items():
        confidence = np.array([candidate(a) for a in answers], np.float64)
        areas = [average_precision(confidence, accepted, num_pairs) for accepted in (near, right)]
        lines.append(f"| {name} | {areas[0]:.3f} | {areas[1]:.3f} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--matcher", default="sift")
    parser.add_argument("--photos", required=True, type=Path, help="folder of rendered pairs")
    parser.add_argument("--pairs", type=int, default=80)
    parser.add_argument("--width", type=int, default=512, help="of the photos, pixels")
    parser.add_argument("--depth-error", type=float, default=0.15)
    arguments = parser.parse_args()
    matcher = load_matcher(arguments.matcher)
    rng = np.random.default_rng(0)
    answers = []
    for pair, depth in pairs_with_depth(arguments.photos, arguments.pairs, arguments.width):
        views = [matcher.encode_image(image) for image in pair.images]
        camera0, camera1 = pair.cameras
        result = relative_pose(
            *views,
            matcher=matcher,
            camera0=camera0,
            camera1=camera1,
            options=RelativeOptions(min_confidence=0),
        )
        wrong = np.float32(np.exp(rng.normal(0, arguments.depth_error)))
        answers.append(answer(pair, result, depth * wrong))
        sys.stderr.write(f"\r{len(answers)} pairs")
    sys.stderr.write("\n")
    known = [a for a in answers if a is not None]
    sys.stdout.write("\n".join(table(known, len(answers))) + "\n")


if __name__ == "__main__":
    main()
