"""What localization returns, and its files: ``poses.txt`` and ``results.jsonl``."""

import json
import math
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import pycolmap
from numpy.typing import NDArray

from matching.errors import InputError
from matching.files import PathLike, atomic_file, existing_file, sync_file, write_text_atomic

CameraSource = Literal["given", "map", "exif", "pointmap", "exif+pointmap", "estimated"]


@dataclass(frozen=True, kw_only=True)
class Localization:
    """Where one query photo was taken, or why that is not known.

    Attributes:
        name: The query's name: its path relative to the query folder, or what the caller gave.
        success: Whether there is a pose.
        reason: Why there is none; empty on success.
        cam_from_world: The pose, OpenCV axes, in the map's unit. None without success.
        camera: The camera the pose holds for: the given one scaled to the photo, the map's, or one
            whose focal length was refined with the pose. Pixel centre of the top-left pixel
            (0.5, 0.5).
        camera_source: What was assumed of the camera before the pose: "given"; that it is the one
            of the map photos of its size ("map"), if it explains nearly as much as a fitted one;
            its focal length from "exif", from the matcher's point maps ("pointmap"), from both, or,
            "estimated", common ones and those of the map's cameras. All but the first two are
            refined.
        num_inliers: 2D-3D matches within the error limit of the pose.
        num_matches: 2D-3D matches given to RANSAC.
        confidence: In [0, 1], larger is surer; 0 without success (`localize.confidence`).
        covariance: (6, 6) float64 of the error (w, v) that turns the true pose (R, t) into
            (Exp(w) R, t + v): w is a rotation vector in radians, v a shift of the translation in
            the map's unit, both in the axes of the camera. It holds for the given 3D points: the
            map's own errors are not in it. With a refined focal length, that is marginalized out.
        retrieved: Names of the map photos that were compared, best first.
        points2D: The matches given to RANSAC, (M, 2) pixels of the upright photo.
        points3D_ids: Their map points, (M,).
        inlier_mask: Which of them the pose explains, (M,).
        scores: How sure the matcher is of them, (M,); only comparable within a query.
        timings_s: Seconds per step.
    """

    name: str
    success: bool
    reason: str = ""
    cam_from_world: pycolmap.Rigid3d | None = None
    camera: pycolmap.Camera | None = None
    camera_source: CameraSource = "estimated"
    num_inliers: int = 0
    num_matches: int = 0
    confidence: float = 0.0
    covariance: NDArray[np.float64] | None = None
    retrieved: tuple[str, ...] = ()
    points2D: NDArray[np.float64] = field(default_factory=lambda: np.zeros((0, 2)))
    points3D_ids: NDArray[np.int64] = field(default_factory=lambda: np.zeros(0, np.int64))
    inlier_mask: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, np.bool_))
    scores: NDArray[np.float32] = field(default_factory=lambda: np.zeros(0, np.float32))
    timings_s: Mapping[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.success != (self.cam_from_world is not None) or self.success == bool(self.reason):
            raise ValueError("a success needs a pose and no reason, a failure a reason and no pose")

    def to_dict(self) -> dict[str, Any]:
        """The object written to ``results.jsonl``: everything but the matches themselves."""
        pose = self.cam_from_world
        return {
            "name": self.name,
            "success": self.success,
            "reason": self.reason,
            "quat_wxyz": None if pose is None else _quat_wxyz(pose).tolist(),
            "translation": None if pose is None else pose.translation.tolist(),
            "num_inliers": self.num_inliers,
            "num_matches": self.num_matches,
            "confidence": self.confidence,
            "focal_length_px": None if self.camera is None else self.camera.mean_focal_length(),
            "camera": None if self.camera is None else camera_to_dict(self.camera),
            "camera_source": self.camera_source,
            "covariance": None if self.covariance is None else self.covariance.tolist(),
            "retrieved": list(self.retrieved),
            "timings_s": dict(self.timings_s),
        }

    @staticmethod
    def from_dict(values: Mapping[str, Any]) -> "Localization":
        """The result of an object as `to_dict` makes it (without the matches).

        Raises:
            ValueError: No object, or a field is missing or holds something else than `to_dict`
                writes.
        """
        if not isinstance(values, Mapping):
            raise ValueError(f"expected an object, got {str(values)[:40]!r}")
        missing = sorted(set(_FIELDS) - set(values))
        if missing:
            raise ValueError(f"no field '{missing[0]}'")
        for key, kinds in _FIELDS.items():
            if not isinstance(values[key], kinds):
                raise ValueError(f"field '{key}' holds {values[key]!r}")
        if values["camera_source"] not in get_args(CameraSource):
            raise ValueError(f"field 'camera_source' holds {values['camera_source']!r}")
        pose = None
        if values["success"]:
            numbers = _numbers([values["quat_wxyz"], values["translation"]], (4, 3))
            pose = _rigid3d(np.concatenate(numbers))
        covariance = values["covariance"]
        if covariance is not None:
            covariance = np.stack(_numbers(covariance, (6,) * 6))
        return Localization(
            name=values["name"],
            success=values["success"],
            reason=values["reason"],
            cam_from_world=pose,
            camera=None if values["camera"] is None else _camera_from_dict(values["camera"]),
            camera_source=values["camera_source"],
            num_inliers=values["num_inliers"],
            num_matches=values["num_matches"],
            confidence=float(values["confidence"]),
            covariance=covariance,
            retrieved=tuple(map(str, values["retrieved"])),
            timings_s={str(k): float(v) for k, v in values["timings_s"].items()},
        )


RUN = "run"  # key of a line in `results.jsonl` that tells what its result depends on
_FIELDS: dict[str, Any] = {
    "name": str,
    "success": bool,
    "reason": str,
    "quat_wxyz": list | None,
    "translation": list | None,
    "num_inliers": int,
    "num_matches": int,
    "confidence": int | float,
    "camera": dict | None,
    "camera_source": str,
    "covariance": list | None,
    "retrieved": list,
    "timings_s": dict,
}


def poses_text(results: Mapping[str, Localization] | Iterable[Localization]) -> str:
    """The text of ``poses.txt``: ``name qw qx qy qz tx ty tz`` (cam_from_world), localized only.

    Numbers are written so that reading gives the same doubles.

    Raises:
        InputError: A name that a line cannot hold, see `unwritable_name`.
    """
    lines = []
    for result in _as_list(results):
        if result.cam_from_world is None:
            continue
        problem = unwritable_name(result.name)
        if problem:
            raise InputError(problem)
        numbers = [*_quat_wxyz(result.cam_from_world), *result.cam_from_world.translation]
        lines.append(" ".join([result.name, *(repr(float(n)) for n in numbers)]) + "\n")
    return "".join(lines)


def write_poses(
    path: PathLike, results: Mapping[str, Localization] | Iterable[Localization]
) -> None:
    """Write `poses_text` to a file."""
    write_text_atomic(path, poses_text(results))


def results_beside(poses: Path, names: Iterable[str], *, overwrite: bool = False) -> Path:
    """Where ``results.jsonl`` goes that belongs to a poses file.

    Args:
        poses: The poses file, which will be written with it. Both may be there from an earlier run.
        names: Queries whose results will be written.
        overwrite: Whether results of other queries, or those that belong to another poses file, may
            be replaced.

    Raises:
        InputError: Such results are there, or what is no results file.
    """
    path = poses.with_name("results.jsonl")
    if not path.exists():
        return path
    existing_file(path, "results file")
    if overwrite:
        return path
    elsewhere = "give --out in another folder, or overwrite it (--overwrite)"
    try:
        found = read_results(path)
    except InputError as error:
        raise InputError(f"{error}: {elsewhere}") from error
    # whatever is there in place of poses: it may be no UTF-8
    beside = poses.read_text(encoding="utf-8", errors="replace") if poses.is_file() else None
    if poses_text(found) != beside:
        raise InputError(
            f"'{path}' holds the results of another poses file than '{poses}': {elsewhere}"
        )
    others = sorted(found.keys() - set(names))
    if others:
        raise InputError(
            f"'{path}' holds results of other photos ({len(others)}, such as '{others[0]}'): "
            f"{elsewhere}"
        )
    return path


def read_poses(path: PathLike) -> dict[str, pycolmap.Rigid3d]:
    """Read ``name qw qx qy qz tx ty tz`` lines as cam_from_world by name.

    The name is everything before the last seven fields, so it may hold blanks. Empty lines and
    lines that start with ``#`` are skipped; quaternions are normalized.

    Raises:
        InputError: A missing file; with file and line: too few fields, something else than finite
            numbers, a zero quaternion, a name given twice.
    """
    poses: dict[str, pycolmap.Rigid3d] = {}
    for where, line in _lines(path, "poses file"):
        if line.startswith("#"):
            continue
        name, *fields = line.rsplit(maxsplit=7)
        if len(fields) != 7:
            raise InputError(
                f"{where}: expected 'name qw qx qy qz tx ty tz', got {len(fields) + 1} fields"
            )
        if name in poses:
            raise InputError(f"{where}: '{name}' is given twice")
        try:
            poses[name] = _rigid3d(np.array([float(f) for f in fields]))
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
    return poses


def write_results(
    path: PathLike, results: Mapping[str, Localization] | Iterable[Localization]
) -> None:
    """Write every result, localized or not, as a line of JSON (`Localization.to_dict`)."""
    write_text_atomic(path, "".join(_json_line(r) for r in _as_list(results)))


def write_poses_and_results(
    poses: PathLike,
    results_file: PathLike,
    results: Mapping[str, Localization] | Iterable[Localization],
    *,
    run: str | None = None,
) -> None:
    """Write ``poses.txt`` and ``results.jsonl`` together.

    Args:
        poses: The poses file.
        results_file: `results_beside` it.
        results: What goes there.
        run: What the results depend on (`localize.unfinished.run_identity`), written with each of
            them, so that the same run started again knows that they are its own.

    A process killed at any time leaves nothing that speaks of two runs: old results go before new
    poses come, so that `results_beside` has no other poses to find beside them. They do not go
    before all that is new is on the disk, and they come back if the new poses cannot be put in
    place.
    """
    found, old = _as_list(results), Path(results_file)
    with atomic_file(results_file) as new_results:
        aside = new_results.with_suffix(".old")
        try:
            with atomic_file(poses) as new_poses:
                new_poses.write_text(poses_text(found), encoding="utf-8")
                lines = [_json_line(result, run) for result in found]
                new_results.write_text("".join(lines), encoding="utf-8")
                for file in (new_poses, new_results):
                    sync_file(file)
                if old.is_file():
                    old.rename(aside)
            aside.unlink(missing_ok=True)
        finally:
            if aside.exists():
                aside.rename(old)


def append_result(path: PathLike, result: Localization) -> None:
    """Append one result to a file as `write_results` writes it; it is on disk on return."""
    with Path(path).open("a", encoding="utf-8") as file:
        file.write(_json_line(result))
        file.flush()
        os.fsync(file.fileno())


def read_results(path: PathLike) -> dict[str, Localization]:
    """Read ``results.jsonl`` by name, in the file's order; the matches are not in the file.

    Raises:
        InputError: A missing file; with file and line: no JSON, a missing or wrong field, a name
            given twice.
    """
    results: dict[str, Localization] = {}
    for where, line in _lines(path, "results file"):
        try:
            result = Localization.from_dict(json.loads(line))
        except ValueError as error:
            raise InputError(f"{where}: {error}") from error
        if result.name in results:
            raise InputError(f"{where}: '{result.name}' is given twice")
        results[result.name] = result
    return results


def unwritable_name(name: str) -> str:
    """Why a line of ``poses.txt`` cannot hold a name; empty if it can.

    Blanks at both ends are cut from lines, lines that start with ``#`` are comments, and bytes of a
    file's name that are no UTF-8 are none of a text either.
    """
    kept = name.encode("utf-8", "replace").decode("utf-8").strip()
    if not name or name != kept or "\n" in name or "\r" in name or name.startswith("#"):
        return f"the name {name!r} cannot be written to a poses file: rename the photo"
    return ""


def _as_list(results: Mapping[str, Localization] | Iterable[Localization]) -> list[Localization]:
    return list(results.values() if isinstance(results, Mapping) else results)


def _json_line(result: Localization, run: str | None = None) -> str:
    values = result.to_dict() if run is None else {**result.to_dict(), RUN: run}
    line = json.dumps(values, ensure_ascii=False) + "\n"
    # names of files may hold bytes that are no UTF-8: JSON writes them as it writes any letter
    return line.encode("utf-8", "backslashreplace").decode("utf-8")


def _lines(path: PathLike, what: str) -> Iterable[tuple[str, str]]:
    """(file:line, stripped text) of each line that is not empty."""
    file = existing_file(path, what)
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise InputError(f"'{file}' is no UTF-8 text") from error
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{file}:{number}", line.strip()


def _quat_wxyz(pose: pycolmap.Rigid3d) -> NDArray[np.float64]:
    return np.roll(pose.rotation.quat, 1)


def _rigid3d(numbers: NDArray[np.float64]) -> pycolmap.Rigid3d:
    """A pose from (qw, qx, qy, qz, tx, ty, tz)."""
    if not np.isfinite(numbers).all():
        raise ValueError("the pose holds a number that is not finite")
    norm = float(np.linalg.norm(numbers[:4]))
    if norm < 1e-6:
        raise ValueError("the quaternion is zero")
    # a quaternion that was written with norm 1 comes back bit for bit
    quat_wxyz = numbers[:4] if math.isclose(norm, 1, abs_tol=1e-12) else numbers[:4] / norm
    return pycolmap.Rigid3d(pycolmap.Rotation3d(np.roll(quat_wxyz, -1)), numbers[4:])


def _numbers(rows: Any, lengths: tuple[int, ...]) -> list[NDArray[np.float64]]:
    if not isinstance(rows, list) or [len(r) if isinstance(r, list) else -1 for r in rows] != list(
        lengths
    ):
        raise ValueError(f"expected rows of {lengths} numbers, got {rows!r}")
    try:
        return [np.array(row, dtype=np.float64) for row in rows]
    except TypeError as error:
        raise ValueError(f"expected numbers, got {rows!r}") from error


def camera_to_dict(camera: pycolmap.Camera) -> dict[str, Any]:
    """Model, size and parameters as plain values."""
    return {
        "model": camera.model_name,
        "width": camera.width,
        "height": camera.height,
        "params": camera.params.tolist(),
    }


def _camera_from_dict(values: Mapping[str, Any]) -> pycolmap.Camera:
    try:
        camera = pycolmap.Camera(
            model=values["model"],
            width=values["width"],
            height=values["height"],
            params=values["params"],
        )
    except (KeyError, TypeError, ValueError, RuntimeError, AttributeError) as error:
        raise ValueError(f"field 'camera' holds {values!r}") from error
    if not camera.verify_params():
        raise ValueError(f"field 'camera' has the wrong number of params: {values!r}")
    return camera
