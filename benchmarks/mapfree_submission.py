"""The zip that the Map-free server takes: written by the official reader's rules, checked first."""

import zipfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import pycolmap

from benchmarks.datasets.mapfree import frame_number, parse_pose
from matching.errors import InputError
from matching.files import PathLike, atomic_file, existing_file

# The same bytes for the same estimates: zip files hold the time otherwise.
_DATE = (1980, 1, 1, 0, 0, 0)


@dataclass(frozen=True, kw_only=True)
class EstimateLine:
    """One estimated pose: ``name`` such as ``seq1/frame_00005.jpg``, metres, surer is larger."""

    name: str
    cam_from_world: pycolmap.Rigid3d
    confidence: float

    def text(self) -> str:
        """The line of the submission."""
        pose = self.cam_from_world
        numbers = [*np.roll(pose.rotation.quat, 1), *pose.translation, self.confidence]
        return " ".join([self.name, *(f"{number:.9f}" for number in numbers)])


def write_mapfree_zip(path: PathLike, scenes: Mapping[str, Sequence[EstimateLine]]) -> None:
    """Write a submission; it appears only if `zip_problems` finds nothing in it.

    Args:
        path: The zip.
        scenes: Every scene of the split to its estimates. A failed frame is left out; a scene
            without any estimate is still there, with an empty file: one that is absent is charged
            with five times its frames.

    Raises:
        InputError: The server would refuse or misread something.
    """
    texts = {
        scene: "".join(line.text() + "\n" for line in lines) for scene, lines in scenes.items()
    }
    problems = [
        f"{scene} {problem}" for scene, text in texts.items() for problem in text_problems(text)
    ]
    if problems:
        raise InputError(f"no submission was written: {'; '.join(problems[:5])}")
    with atomic_file(path) as temporary, zipfile.ZipFile(temporary, "w") as archive:
        for scene, text in sorted(texts.items()):
            member = zipfile.ZipInfo(f"pose_{scene}.txt", _DATE)
            member.compress_type = zipfile.ZIP_DEFLATED
            member.external_attr = 0o644 << 16
            archive.writestr(member, text)


def zip_problems(path: PathLike, scenes: Collection[str]) -> list[str]:
    """What the official reader would refuse, ignore or charge in a submission; empty if nothing.

    Args:
        path: The zip.
        scenes: Names of all scenes of the split.
    """
    file = existing_file(path, "submission")
    problems = []
    found = set()
    try:
        with zipfile.ZipFile(file) as archive:
            for member in archive.namelist():
                scene = member.removeprefix("pose_").removesuffix(".txt")
                if member != f"pose_{scene}.txt" or scene not in scenes:
                    problems.append(f"'{member}' is no 'pose_<scene>.txt' of a scene")
                    continue
                found.add(scene)
                try:
                    text = archive.read(member).decode("utf-8")
                except UnicodeDecodeError:
                    problems.append(f"{scene} is not UTF-8 text")
                    continue
                problems += [f"{scene} {problem}" for problem in text_problems(text)]
    except zipfile.BadZipFile:
        return [f"'{file}' is no zip file"]
    absent = [scene for scene in sorted(scenes) if scene not in found]
    return problems + [f"{scene} is absent: charged with five times its frames" for scene in absent]


def text_problems(text: str) -> list[str]:
    """`zip_problems` of the text of one scene."""
    problems = []
    seen: set[int] = set()
    for number, line in enumerate(text.splitlines(), 1):
        problem = _line_problem(line, seen)
        if problem:
            problems.append(f"line {number}: {problem}")
    return problems


def _line_problem(line: str, seen: set[int]) -> str:
    name, *fields = line.split(" ")
    if len(fields) != 8:
        return f"expected 'seq1/frame_00000.jpg' and 8 numbers, single blanks, got '{line}'"
    try:
        values = [float(field) for field in fields]
    except ValueError:
        return f"'{line}' holds something that is no number"
    frame = frame_number(name)
    if frame is None or not name.startswith("seq1/"):
        return f"'{name}' is no 'seq1/frame_NNNNN.jpg'"
    if frame in seen:
        return f"frame {frame:05d} comes twice"
    seen.add(frame)
    if parse_pose(values[:7]) is None or not np.isfinite(values[7]):
        return f"'{name}' has no finite pose and confidence"
    if values[7] < 0:
        return f"'{name}' has a negative confidence, which voids the whole submission"
    return ""
