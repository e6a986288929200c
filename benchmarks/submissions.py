"""Pose files as visuallocalization.net takes them: written from results, checked before that.

One text file for all scenes and conditions: ``name qw qx qy qz tx ty tz`` per localized query, the
world-to-camera rotation and translation in the frame of the data set's model. A query without a
line counts as not localized, so a failed one is left out.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

import numpy as np
import pycolmap

from localize.results import Localization
from matching.errors import InputError
from matching.files import PathLike, existing_file, text_lines, write_text_atomic


def bare_name(name: str) -> str:
    """``query/day/nexus4/IMG_1.jpg`` -> ``IMG_1.jpg``, the rule of Aachen, InLoc and CMU."""
    return PurePosixPath(name).name


def camera_and_name(name: str) -> str:
    """``dusk/rear/1418235223450115.jpg`` -> ``rear/1418235223450115.jpg``, RobotCar's rule."""
    parts = PurePosixPath(name).parts
    return "/".join(parts[-2:])


@dataclass(frozen=True, kw_only=True)
class SubmissionFormat:
    """How one data set's server wants poses.

    Attributes:
        file_name: Of the submission; ``{method}`` is replaced by the name of the method.
        line_name: Query name, relative to the photo folder, to the name on its line.
    """

    file_name: str
    line_name: Callable[[str], str] = bare_name


@dataclass(frozen=True, kw_only=True)
class Submission:
    """What was written: the file, the queries in it, and those left out because they failed."""

    path: Path
    num_poses: int
    left_out: tuple[str, ...]


def write_submission(
    folder: PathLike,
    method: str,
    results: Mapping[str, Localization],
    submission: SubmissionFormat,
) -> Submission:
    """Write the poses of localized queries for the server; checked before the file appears.

    Args:
        folder: Where the file goes.
        method: Part of the file's name; blanks and slashes become ``_``.
        results: All queries, the failed ones too.
        submission: The data set's rules.

    Raises:
        InputError: Two queries would have the same name on their lines, or no query was localized.
    """
    lines = []
    for name, result in results.items():
        if result.cam_from_world is None:
            continue
        pose = result.cam_from_world
        values = np.concatenate([np.roll(pose.rotation.quat, 1), pose.translation])
        lines.append(f"{submission.line_name(name)} {' '.join(f'{v:.12g}' for v in values)}")
    problems = check_lines(lines, [submission.line_name(name) for name in results])
    if problems:
        raise InputError(f"no submission was written: {'; '.join(problems)}")
    safe = "".join(c if c.isalnum() or c in "-." else "_" for c in method)
    path = Path(folder) / submission.file_name.format(method=safe)
    write_text_atomic(path, "\n".join(lines) + "\n")
    return Submission(
        path=path,
        num_poses=len(lines),
        left_out=tuple(name for name, r in results.items() if r.cam_from_world is None),
    )


def check_submission(path: PathLike, line_names: Sequence[str]) -> list[str]:
    """What the server would refuse or misread in a file; empty if nothing.

    Args:
        path: The text file.
        line_names: Names of all queries as the server wants them.
    """
    file = existing_file(path, "submission")
    lines = [line for _, line in text_lines(file)]
    while lines and not lines[-1]:
        lines.pop()
    return check_lines(lines, line_names)


def check_lines(lines: Sequence[str], line_names: Sequence[str]) -> list[str]:
    """`check_submission` of the lines themselves."""
    problems = []
    known = set(line_names)
    if len(known) < len(line_names):
        twice = next(name for name in line_names if line_names.count(name) > 1)
        problems.append(f"two queries are called '{twice}'")
    if not lines:
        problems.append("no query has a pose")
    seen: set[str] = set()
    for number, line in enumerate(lines, 1):
        problem = _line_problem(line, known, seen)
        if problem:
            problems.append(f"line {number}: {problem}")
    return problems


def _line_problem(line: str, known: set[str], seen: set[str]) -> str:
    name, *fields = line.split(" ")
    if len(fields) != 7:
        return f"expected 'name qw qx qy qz tx ty tz', single blanks, got '{line}'"
    try:
        values = np.array([float(field) for field in fields])
    except ValueError:
        return f"'{line}' holds something that is no number"
    if not np.isfinite(values).all():
        return f"'{name}' has a pose that is not finite"
    if abs(np.linalg.norm(values[:4]) - 1) > 1e-3:
        return f"the quaternion of '{name}' has no unit length"
    if name not in known:
        return f"'{name}' is no query"
    if name in seen:
        return f"'{name}' comes twice"
    seen.add(name)
    return ""


def read_submission_poses(path: PathLike) -> dict[str, pycolmap.Rigid3d]:
    """Poses of such a file by the name on the line.

    Raises:
        InputError: A line is malformed.
    """
    poses: dict[str, pycolmap.Rigid3d] = {}
    for number, line in text_lines(existing_file(path, "submission")):
        if not line:
            continue
        problem = _line_problem(line, {line.split(" ")[0]}, set(poses))
        if problem:
            raise InputError(f"'{path}' line {number}: {problem}")
        name, *fields = line.split(" ")
        values = np.array([float(field) for field in fields])
        rotation = pycolmap.Rotation3d(np.roll(values[:4], -1) / np.linalg.norm(values[:4]))
        poses[name] = pycolmap.Rigid3d(rotation, values[4:])
    return poses
