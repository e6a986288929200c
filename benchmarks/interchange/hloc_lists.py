"""hloc's text files: pairs, queries, results."""

from collections.abc import Callable, Mapping, Sequence

import numpy as np
import pycolmap

from localize.results import Localization
from matching.errors import InputError
from matching.files import PathLike, existing_file, text_lines, write_text_atomic

Poses = Mapping[str, pycolmap.Rigid3d]


def read_pairs_list(file: PathLike) -> dict[str, list[str]]:
    """Read ``name0 name1`` lines, or kapture's ``name0, name1, score`` lines.

    Returns:
        Partners by first name, in the order of the file; with scores, the highest first.

    Raises:
        InputError: A malformed line, or none.
    """
    path = existing_file(file, "pairs file")
    pairs: dict[str, list[tuple[float, str]]] = {}
    for number, line in text_lines(path):
        if not line or line.startswith("#"):
            continue
        words = [w.strip() for w in line.split(",")] if "," in line else line.split()
        score = 0.0
        try:
            if len(words) == 3:
                score = float(words[2])
        except ValueError:
            words = []
        if len(words) not in (2, 3) or not all(words):
            raise InputError(
                f"'{path}' line {number}: expected 'name0 name1' or 'name0, name1, score', got "
                f"'{line[:100]}'"
            )
        pairs.setdefault(words[0], []).append((-score, words[1]))
    if not pairs:
        raise InputError(f"'{path}' holds no pair")
    # a stable sort: files without scores keep their order
    return {
        name: list(dict.fromkeys(n for _, n in sorted(found, key=lambda pair: pair[0])))
        for name, found in pairs.items()
    }


def write_pairs_list(file: PathLike, pairs: Mapping[str, Sequence[str]]) -> None:
    """Write ``name0 name1`` lines as hloc does, without an end of line after the last.

    Raises:
        InputError: A name holds a blank, which hloc cannot read.
    """
    lines = []
    for name0, others in pairs.items():
        for name1 in others:
            _check_blanks(name0, name1)
            lines.append(f"{name0} {name1}")
    write_text_atomic(file, "\n".join(lines))


def write_query_list(file: PathLike, cameras: Mapping[str, pycolmap.Camera]) -> None:
    """Write ``name MODEL W H params...`` lines, which `mapping.cameras.read_camera_list` reads."""
    lines = []
    for name, camera in cameras.items():
        _check_blanks(name)
        params = " ".join(repr(value) for value in camera.params.tolist())  # exact and short
        lines.append(f"{name} {camera.model.name} {camera.width} {camera.height} {params}\n")
    write_text_atomic(file, "".join(lines))


def read_hloc_results(file: PathLike, names: Sequence[str]) -> dict[str, pycolmap.Rigid3d]:
    """Read hloc's results under the full names of the queries.

    hloc writes the last part of a name, or the last two parts with ``prepend_camera_name``. A query
    that it could not localize has the pose of its best retrieved photo there: nothing in the file
    tells, so such poses are scored as they are.

    Args:
        file: ``name qw qx qy qz tx ty tz`` lines, world to camera.
        names: All queries, relative to the photo folder.

    Raises:
        InputError: A malformed line, or a name that is no query or fits several.
    """
    path = existing_file(file, "results file")
    by_ending: dict[str, list[str]] = {}
    for name in names:
        parts = name.split("/")
        for start in range(len(parts)):
            by_ending.setdefault("/".join(parts[start:]), []).append(name)
    poses: dict[str, pycolmap.Rigid3d] = {}
    for number, line in text_lines(path):
        if not line or line.startswith("#"):
            continue
        where = f"'{path}' line {number}"
        name, *words = line.split()
        try:
            values = np.array([float(word) for word in words])
        except ValueError:
            values = np.zeros(0)
        norm = np.linalg.norm(values[:4]) if len(values) == 7 else 0.0
        if not np.isfinite(values).all() or not norm > 1e-6:
            raise InputError(f"{where}: expected 'name qw qx qy qz tx ty tz', got '{line[:100]}'")
        candidates = by_ending.get(name, [])
        if len(candidates) != 1:
            what = "no query" if not candidates else f"the name of {len(candidates)} queries"
            raise InputError(f"{where}: '{name}' is {what}")
        if candidates[0] in poses:
            raise InputError(f"{where}: '{name}' comes twice")
        rotation = pycolmap.Rotation3d(np.roll(values[:4], -1) / norm)
        poses[candidates[0]] = pycolmap.Rigid3d(rotation, values[4:])
    return poses


def write_hloc_results(
    file: PathLike, results: Mapping[str, Localization] | Poses, line_name: Callable[[str], str]
) -> int:
    """Write the poses of localized queries in hloc's form; failed ones are left out.

    Args:
        file: ``name qw qx qy qz tx ty tz`` lines.
        results: What was found, or poses, by full name.
        line_name: `benchmarks.submissions.bare_name`, or `camera_and_name` for data sets whose
            bare names are not unique.

    Returns:
        How many poses were written.

    Raises:
        InputError: Two queries would have the same name.
    """
    lines: dict[str, str] = {}
    for name, result in results.items():
        pose = result.cam_from_world if isinstance(result, Localization) else result
        if pose is None:
            continue
        short = line_name(name)
        _check_blanks(short)
        if short in lines:
            raise InputError(f"two queries would be called '{short}': keep more of their names")
        values = np.concatenate([np.roll(pose.rotation.quat, 1), pose.translation])
        lines[short] = f"{short} {' '.join(f'{value:.12g}' for value in values)}\n"
    write_text_atomic(file, "".join(lines.values()))
    return len(lines)


def _check_blanks(*names: str) -> None:
    for name in names:
        if len(name.split()) != 1:
            raise InputError(f"'{name}' holds a blank, but hloc's lists are separated by blanks")
