from pathlib import Path

import numpy as np
import pycolmap
import pytest

from benchmarks.submissions import (
    SubmissionFormat,
    bare_name,
    camera_and_name,
    check_submission,
    read_submission_poses,
    write_submission,
)
from localize.results import Localization
from matching.errors import InputError

POSE = pycolmap.Rigid3d(
    pycolmap.Rotation3d(np.array([0.1, -0.2, 1.3])), np.array([724.381, 23.5118, -1e-7])
)


def result(name: str, *, success: bool = True) -> Localization:
    if not success:
        return Localization(name=name, success=False, reason="dark")
    return Localization(name=name, success=True, cam_from_world=POSE)


def test_names_follow_the_rules_of_the_data_sets() -> None:
    assert bare_name("query/day/nexus4/IMG_1.jpg") == "IMG_1.jpg"
    assert camera_and_name("dusk/rear/1418235223450115.jpg") == "rear/1418235223450115.jpg"


def test_failed_queries_are_left_out_and_poses_survive(tmp_path: Path) -> None:
    results = {r.name: r for r in (result("q/a.jpg"), result("q/b.jpg", success=False))}
    form = SubmissionFormat(file_name="Aachen_eval_{method}.txt")
    written = write_submission(tmp_path, "naver/MASt3R ViT", results, form)
    assert written.path == tmp_path / "Aachen_eval_naver_MASt3R_ViT.txt"
    assert (written.num_poses, written.left_out) == (1, ("q/b.jpg",))
    name, *numbers = written.path.read_text().split()
    assert name == "a.jpg"
    # w x y z first, then the world-to-camera translation
    np.testing.assert_allclose(np.array(numbers[:4], float), np.roll(POSE.rotation.quat, 1))
    np.testing.assert_allclose(np.array(numbers[4:], float), POSE.translation)
    assert check_submission(written.path, ["a.jpg", "b.jpg"]) == []
    read = read_submission_poses(written.path)["a.jpg"]
    np.testing.assert_allclose(read.matrix(), POSE.matrix(), atol=1e-9)


def test_two_queries_of_one_name_are_refused_before_writing(tmp_path: Path) -> None:
    results = {r.name: r for r in (result("day/a.jpg"), result("night/a.jpg"))}
    with pytest.raises(InputError, match=r"two queries are called 'a\.jpg'"):
        write_submission(tmp_path, "m", results, SubmissionFormat(file_name="{method}.txt"))
    nothing = {"a.jpg": result("a.jpg", success=False)}
    with pytest.raises(InputError, match="no query has a pose"):
        write_submission(tmp_path, "m", nothing, SubmissionFormat(file_name="{method}.txt"))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("line", "problem"),
    [
        ("a.jpg 1 0 0 0 1 2", "expected 'name qw"),
        ("a.jpg  1 0 0 0 1 2 3", "expected 'name qw"),
        ("a.jpg\t1 0 0 0 1 2 3", "expected 'name qw"),
        ("a.jpg 1 0 0 0 1 2 x", "no number"),
        ("a.jpg 1 0 0 0 1 2 nan", "not finite"),
        ("a.jpg 0.5 0 0 0 1 2 3", "no unit length"),
        ("query/a.jpg 1 0 0 0 1 2 3", "is no query"),
        ("a.jpg 1 0 0 0 1 2 3\na.jpg 1 0 0 0 1 2 3", "comes twice"),
        ("", "no query has a pose"),
    ],
)
def test_the_checker_finds_what_the_server_would_not_take(
    line: str, problem: str, tmp_path: Path
) -> None:
    file = tmp_path / "s.txt"
    file.write_text(line + "\n")
    problems = check_submission(file, ["a.jpg", "b.jpg"])
    assert len(problems) == 1 and problem in problems[0]
