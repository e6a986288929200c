"""Map-free visual relocalization: its files, its submissions and its eight official values.

The official script's behaviour is reproduced to the digit (tests hold its output), with one
exception: where it gives up without a word (a negative confidence), an error says why.
"""

import logging
import math
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.metrics import (
    average_precision,
    rotation_errors_deg,
    translation_errors,
    vcre_px,
)
from matching.errors import InputError
from matching.files import PathLike, existing_file, existing_folder, text_lines

logger = logging.getLogger(__name__)

FloatArray = NDArray[np.float64]

Track = Literal["single", "multi"]

SCORED_EVERY = 5  # single-frame track: entries 0, 5, 10, ... of poses.txt
MULTI_EVERY = 10  # multi-frame track: queries 9, 19, 29, ... in the order of their numbers
MAX_TRANSLATION_M = 0.25
MAX_ROTATION_DEG = 5.0
MAX_VCRE_PX = 90.0  # a tenth of the diagonal of 540 x 720


@dataclass(frozen=True, kw_only=True)
class Scene:
    """Truth of one scene, keyed by frame number (the folder of a frame is ignored, as officially).

    Attributes:
        name: Such as ``s00460``.
        cam_from_world: Frame number to (4, 4), metres; in the order of ``poses.txt``.
        K: Frame number to (3, 3), pixels.
        image_size: (width, height) of the last line of ``intrinsics.txt``.
        queries: Numbers of the frames of ``seq1``.
    """

    name: str
    cam_from_world: Mapping[int, FloatArray]
    K: Mapping[int, FloatArray]
    image_size: tuple[int, int]
    queries: tuple[int, ...]

    def scored_frames(self, track: Track = "single") -> list[int]:
        """Numbers of the frames that a track scores; one of the multi-frame track has 9 before."""
        if track == "single":
            return list(self.cam_from_world)[::SCORED_EVERY]
        return sorted(self.queries)[MULTI_EVERY - 1 :: MULTI_EVERY]


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """One line of a submission: ``cam_from_world`` (4, 4) in metres and its confidence."""

    cam_from_world: FloatArray
    confidence: float


@dataclass(frozen=True, kw_only=True)
class SceneErrors:
    """Errors of the scored frames of one scene that have an estimate.

    Attributes:
        frames: Frame numbers, (n,).
        translation_m: Distances of the camera centres, (n,), metres.
        rotation_deg: Rotation angles, (n,), degrees.
        vcre_px: Virtual correspondence reprojection errors, (n,), pixels.
        confidence: (n,).
        num_failures: Frames charged as failed: the scored ones without an estimate, or every entry
            of ``poses.txt`` if the submission leaves the scene out.
    """

    frames: NDArray[np.int64]
    translation_m: FloatArray
    rotation_deg: FloatArray
    vcre_px: FloatArray
    confidence: FloatArray
    num_failures: int


def read_scene(folder: PathLike) -> Scene:
    """Read ``poses.txt`` and ``intrinsics.txt`` of a scene.

    Raises:
        InputError: A file is missing, a line is malformed, or a frame has no intrinsics.
    """
    scene = existing_folder(folder, "Map-free scene")
    K: dict[int, FloatArray] = {}
    image_size = (0, 0)
    for name, values, where in read_lines(scene / "intrinsics.txt", 6):
        frame = _number(name)
        fx, fy, cx, cy, width, height = values
        if not all(map(math.isfinite, values)):
            raise InputError(f"{where}: the intrinsics are not finite")
        # The official reader keeps K in single precision; VCRE follows it to the digit.
        K[frame] = np.array([[fx, 0, cx], [0, fy, cy], [0, 0, 1]], np.float32).astype(np.float64)
        image_size = (int(width), int(height))
    poses: dict[int, FloatArray] = {}
    queries = []
    for name, values, where in read_lines(scene / "poses.txt", 7):
        pose = parse_pose(values)
        if pose is None:
            raise InputError(
                f"{where}: no valid pose (the test split holds no truth: submit to its server)"
            )
        poses[_number(name)] = pose
        if name.startswith("seq1/"):
            queries.append(_number(name))
    missing = [frame for frame in poses if frame not in K]
    if missing:
        raise InputError(f"'{scene / 'intrinsics.txt'}' has no line for frame {missing[0]:05d}")
    return Scene(
        name=scene.name, cam_from_world=poses, K=K, image_size=image_size, queries=tuple(queries)
    )


def read_submission(path: PathLike) -> dict[str, dict[int, Estimate]]:
    """Read a submission zip by the official rules.

    Lines that the official reader ignores (wrong number of blank-separated fields, NaN or infinity,
    a zero quaternion, an unreadable frame number) are ignored here too, each with a warning in the
    log; the last of several lines for a frame counts.

    Args:
        path: Zip with ``pose_<scene>.txt`` files at its root.

    Returns:
        Scene name to frame number to estimate.

    Raises:
        InputError: No zip, no pose file at its root, or a file that is not UTF-8.
    """
    file = existing_file(path, "submission")
    estimates: dict[str, dict[int, Estimate]] = {}
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                if not (member.startswith("pose_") and member.endswith(".txt")):
                    continue
                text = archive.read(member).decode("utf-8")
                scene = member.removeprefix("pose_").removesuffix(".txt")
                estimates[scene] = _parse_estimates(text, member)
    except zipfile.BadZipFile as error:
        raise InputError(f"'{file}' is no zip file") from error
    except UnicodeDecodeError as error:
        raise InputError(f"'{file}': '{member}' is not UTF-8 text") from error
    if not estimates:
        raise InputError(f"'{file}' has no pose_<scene>.txt at its root")
    return estimates


def score_submission(
    submission: PathLike, root: PathLike, *, split: str = "val", track: Track = "single"
) -> dict[str, SceneErrors]:
    """Errors of a submission against the truth of a split.

    Args:
        submission: The zip.
        root: Folder of the data set, with ``<split>/<scene>/``.
        split: ``val`` (the truth of ``test`` is not public).
        track: Which frames count. The official script knows ``single`` only.

    Raises:
        InputError: Bad files, or a scored frame with a negative confidence.
    """
    folder = existing_folder(Path(root) / split, f"Map-free split '{split}'")
    estimates = read_submission(submission)
    errors: dict[str, SceneErrors] = {}
    for scene_folder in sorted(p for p in folder.iterdir() if p.is_dir()):
        scene = read_scene(scene_folder)
        if scene.name not in estimates:
            logger.warning("submission has no scene %s: all its frames count as failed", scene.name)
        errors[scene.name] = score_scene(scene, estimates.get(scene.name), track)
    if not errors:
        raise InputError(f"'{folder}' holds no scene")
    unknown = sorted(set(estimates) - set(errors))
    if unknown:
        logger.warning("submission has scenes outside %s: %s", split, ", ".join(unknown))
    return errors


def score_scene(
    scene: Scene, estimates: Mapping[int, Estimate] | None, track: Track = "single"
) -> SceneErrors:
    """Errors of the scored frames of one scene; None means that the scene was left out.

    Raises:
        InputError: A scored frame has a negative confidence.
    """
    if estimates is None:
        return _scene_errors(scene, {}, [], len(scene.cam_from_world))
    scored = scene.scored_frames(track)
    frames = [frame for frame in scored if frame in estimates]
    negative = [frame for frame in frames if estimates[frame].confidence < 0]
    if negative:
        raise InputError(
            f"scene {scene.name}, frame {negative[0]:05d}: confidence is negative; "
            "it must be 0 or more, and the official script gives no result at all for such a file"
        )
    return _scene_errors(scene, estimates, frames, len(scored) - len(frames))


def aggregate(scenes: Mapping[str, SceneErrors]) -> dict[str, float]:
    """The eight official values, under their official keys.

    Medians are taken per scene over the frames with an estimate and averaged over the scenes that
    have one; precision and AUC are taken over all frames, failures included.
    """
    answered = [s for s in scenes.values() if len(s.frames)]
    num_estimates = sum(len(s.frames) for s in answered)
    num_total = num_estimates + sum(s.num_failures for s in scenes.values())

    def all_of(name: str) -> FloatArray:
        return np.concatenate([np.zeros(0), *(getattr(s, name) for s in answered)])

    def mean_of_medians(name: str) -> float:
        medians = [float(np.median(getattr(s, name))) for s in answered]
        return float(np.mean(medians)) if medians else math.nan

    translation_m, rotation_deg = all_of("translation_m"), all_of("rotation_deg")
    confidence = all_of("confidence")
    good_pose = (translation_m < MAX_TRANSLATION_M) & (rotation_deg < MAX_ROTATION_DEG)
    good_vcre = all_of("vcre_px") < MAX_VCRE_PX
    pose = f"Pose Error < ({MAX_TRANSLATION_M * 100}cm, {MAX_ROTATION_DEG:g}deg)"
    vcre = f"VCRE < {MAX_VCRE_PX:g}px"

    def share(count: float) -> float:
        return float(count) / num_total if num_total else math.nan

    return {
        "Average Median Translation Error": mean_of_medians("translation_m"),
        "Average Median Rotation Error": mean_of_medians("rotation_deg"),
        "Average Median Reprojection Error": mean_of_medians("vcre_px"),
        f"Precision @ {pose}": share(good_pose.sum()),
        f"AUC @ {pose}": average_precision(confidence, good_pose, num_total),
        f"Precision @ {vcre}": share(good_vcre.sum()),
        f"AUC @ {vcre}": average_precision(confidence, good_vcre, num_total),
        "Estimates for % of frames": share(num_estimates),
    }


def _scene_errors(
    scene: Scene, estimates: Mapping[int, Estimate], frames: list[int], num_failures: int
) -> SceneErrors:
    def stack(matrices: list[FloatArray], size: int) -> FloatArray:
        return np.array(matrices, np.float64).reshape(-1, size, size)

    estimated = stack([estimates[frame].cam_from_world for frame in frames], 4)
    truth = stack([scene.cam_from_world[frame] for frame in frames], 4)
    K = stack([scene.K[frame] for frame in frames], 3)
    sizes = np.tile(np.array(scene.image_size, np.int64), (len(frames), 1))
    return SceneErrors(
        frames=np.array(frames, np.int64),
        translation_m=translation_errors(estimated, truth),
        rotation_deg=rotation_errors_deg(estimated, truth),
        vcre_px=vcre_px(estimated, truth, K, sizes),
        confidence=np.array([estimates[frame].confidence for frame in frames], np.float64),
        num_failures=num_failures,
    )


def read_lines(path: Path, num_values: int) -> Iterator[tuple[str, list[float], str]]:
    """Name, values and place of each line of a scene's file; comments and blanks are skipped.

    Raises:
        InputError: The file is missing, or a line is malformed.
    """
    file = existing_file(path, "Map-free file")
    for number, line in text_lines(file):
        if not line or "#" in line:
            continue
        name, *fields = line.split()
        where = f"{file}:{number}"
        values = _floats(fields)
        if frame_number(name) is None or values is None or len(values) != num_values:
            raise InputError(
                f"{where}: expected 'seq1/frame_00000.jpg' and {num_values} numbers, got '{line}'"
            )
        yield name, values, where


def _parse_estimates(text: str, member: str) -> dict[int, Estimate]:
    estimates: dict[int, Estimate] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        name, *fields = line.strip().split(" ")  # single blanks only, as the official reader
        if "#" in name:
            continue
        frame, values = frame_number(name), _floats(fields)
        pose = parse_pose(values[:7]) if values is not None and len(values) == 8 else None
        if frame is None or values is None or pose is None or not math.isfinite(values[7]):
            logger.warning(
                "%s:%d ignored: expected 'seq1/frame_00000.jpg qw qx qy qz tx ty tz confidence', "
                "single blanks, finite numbers, a non-zero quaternion",
                member,
                number,
            )
            continue
        estimates[frame] = Estimate(cam_from_world=pose, confidence=values[7])
    return estimates


def _number(name: str) -> int:
    number = frame_number(name)
    assert number is not None  # `read_lines` gives no other names
    return number


def frame_number(name: str) -> int | None:
    """The five digits before the four characters of the ending."""
    digits = name[-9:-4]
    return int(digits) if len(digits) == 5 and digits.isascii() and digits.isdigit() else None


def _floats(fields: list[str]) -> list[float] | None:
    try:
        return [float(field) for field in fields]
    except ValueError:
        return None


def parse_pose(values: list[float]) -> FloatArray | None:
    """(4, 4) from qw qx qy qz tx ty tz, the quaternion of any length; None if there is no pose."""
    quat_wxyz, translation = np.array(values[:4]), np.array(values[4:])
    norm = float(np.linalg.norm(quat_wxyz))
    if not (np.isfinite(values).all() and norm > 0):
        return None
    cam_from_world = np.eye(4)
    cam_from_world[:3, :3] = pycolmap.Rotation3d(np.roll(quat_wxyz / norm, -1)).matrix()
    cam_from_world[:3, 3] = translation
    return cam_from_world
