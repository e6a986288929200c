"""MegaDepth-1500 and ScanNet-1500 on miniatures: from published files to scores."""

import pickle
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks.datasets import megadepth1500, scannet1500
from benchmarks.datasets.megadepth1500 import (
    SCENE_FILES,
    SCENE_INFO,
    MegadepthOptions,
    open_megadepth1500,
    read_scene_info,
)
from benchmarks.datasets.pair_task import PairSet, PairsOptions
from benchmarks.datasets.scannet1500 import ScannetOptions, open_scannet1500
from benchmarks.miniatures.megadepth1500 import write_megadepth1500
from benchmarks.miniatures.scannet1500 import write_scannet1500
from benchmarks.miniatures.studio import Studio
from benchmarks.relative import match_pairs, score_pairs
from benchmarks.report import PairsReport
from matching.errors import InputError
from matching.sift import SiftOptions
from tests.benchmarks.fakes import RememberingSift

# small enough for a test; the published size is the default
MEGADEPTH = MegadepthOptions(long_side_px=480, max_error_px=0.5, sweep_px=(1.0,))
SCANNET = ScannetOptions(sweep_px=())


@pytest.fixture(scope="module")
def megadepth(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("megadepth")
    write_megadepth1500(root, studio)
    return root


@pytest.fixture(scope="module")
def scannet(studio: Studio, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("scannet")
    write_scannet1500(root, studio)
    return root


def scored(pair_set: PairSet, options: PairsOptions, folder: Path) -> PairsReport:
    matcher = RememberingSift(SiftOptions(max_num_features=2000))
    match_pairs(pair_set, folder, matcher, options)
    return score_pairs(pair_set, folder, options)


def errors_deg(report: PairsReport) -> np.ndarray:
    return np.array(
        [max(s.rotation_error_deg or 0, s.translation_error_deg or 0) for s in report.per_pair]
    )


def check(report: PairsReport) -> None:
    """What SIFT reaches on photos that are resampled from coarser renderings."""
    errors = errors_deg(report)
    assert errors.max() < 2.0 and np.median(errors) < 0.5
    assert report.precision_2px is not None and report.precision_2px > 0.8


def test_megadepth_from_its_scene_files_to_scores(
    megadepth: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pair_set = open_megadepth1500(megadepth, MEGADEPTH)
    assert [pair.group for pair in pair_set.pairs] == [SCENE_FILES[0], *SCENE_FILES]
    assert (pair_set.title, pair_set.num_published) == ("MegaDepth-1500", 1500)
    report = scored(pair_set, MEGADEPTH, tmp_path)
    check(report)
    assert any("480 px on the long side" in note for note in report.notes)

    # the same matches under a misread convention: this test must be able to fail
    relative = megadepth1500._relative
    for wrong in (
        lambda a, b: relative(b, a),  # the other way round
        lambda a, b: relative(np.linalg.inv(a), np.linalg.inv(b)),  # as camera-to-world
        lambda a, b: np.diag([1, -1, -1, 1]) @ relative(a, b) @ np.diag([1, -1, -1, 1]),  # y up
    ):
        monkeypatch.setattr(megadepth1500, "_relative", wrong)
        misread = score_pairs(open_megadepth1500(megadepth, MEGADEPTH), tmp_path, MEGADEPTH)
        assert np.median(errors_deg(misread)) > 5 and misread.precision_2px is not None
        assert misread.precision_2px < 0.3


def test_scannet_from_its_arrays_to_scores(scannet: Path, tmp_path: Path) -> None:
    pair_set = open_scannet1500(scannet, SCANNET)
    assert [pair.image0 for pair in pair_set.pairs] == [
        "scene0707_00/color/0.jpg",
        "scene0707_00/color/0.jpg",
        "scene0707_00/color/15.jpg",
        "scene0806_01/color/0.jpg",
    ]
    report = scored(pair_set, SCANNET, tmp_path)
    check(report)

    def misread(change: Callable[[np.ndarray], np.ndarray]) -> PairsReport:
        pairs = tuple(
            replace(p, cam1_from_cam0=change(p.cam1_from_cam0))  # type: ignore[arg-type]
            for p in pair_set.pairs
        )
        return score_pairs(replace(pair_set, pairs=pairs), tmp_path, SCANNET)

    assert np.median(errors_deg(misread(np.linalg.inv))) > 5
    # the poses beside the frames are camera-to-world, the list's are not
    frames = scannet / "scene0707_00" / "pose"
    world_from_cam0, world_from_cam1 = (np.loadtxt(frames / f"{n}.txt") for n in (0, 30))
    np.testing.assert_allclose(
        np.linalg.inv(world_from_cam1) @ world_from_cam0,
        pair_set.pairs[1].cam1_from_cam0,  # type: ignore[arg-type]
        atol=1e-9,
    )


@pytest.mark.parametrize("layout", ["superglue", "gluefactory"])
def test_all_layouts_of_scannet_give_the_same_pairs(
    scannet: Path, studio: Studio, tmp_path: Path, layout: Any
) -> None:
    write_scannet1500(tmp_path, studio, layout)
    expected, found = (open_scannet1500(root, SCANNET) for root in (scannet, tmp_path))
    for a, b in zip(expected.pairs, found.pairs, strict=True):
        assert (a.image0, a.image1) == (b.image0, b.image1)
        assert a.camera0 is not None and b.camera0 is not None
        np.testing.assert_allclose(a.camera0.params, b.camera0.params, atol=1e-6)
        np.testing.assert_allclose(a.cam1_from_cam0, b.cam1_from_cam0, atol=1e-9)
    one = replace(found, pairs=found.pairs[2:3])
    assert errors_deg(scored(one, SCANNET, tmp_path / "m"))[0] < 1.0


def test_gluefactorys_layout_of_megadepth_gives_the_same_pairs(
    megadepth: Path, studio: Studio, tmp_path: Path
) -> None:
    write_megadepth1500(tmp_path, studio, "gluefactory")
    expected, found = (open_megadepth1500(root, MEGADEPTH) for root in (megadepth, tmp_path))
    for a, b in zip(expected.pairs, found.pairs, strict=True):
        assert (a.image0, a.image1) == (b.image0, b.image1)
        np.testing.assert_allclose(a.cam1_from_cam0, b.cam1_from_cam0, atol=1e-9)
        assert a.camera1 is not None and b.camera1 is not None
        np.testing.assert_allclose(a.camera1.params, b.camera1.params)


class Harmful:
    """Unpickling this would call a function of the file's choice."""

    def __reduce__(self) -> tuple[Any, ...]:
        return print, ("this must never be printed",)


def test_a_scene_file_never_runs_anything(
    megadepth: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "0015_0.1_0.3.npz"
    for content, message in (
        (pickle.dumps({"image_paths": Harmful()}), "wants to run builtins.print"),
        (pickle.dumps([1, 2]), "expected a dict with image_paths"),
        (b"PK\x03\x04 an archive", "no scene file of LoFTR's list"),
        (b"", "no scene file of LoFTR's list"),
    ):
        file.write_bytes(content)
        with pytest.raises(InputError, match=message):
            read_scene_info(file)
    assert capsys.readouterr().out == ""
    # what numpy 1 and all protocols write is read
    info = dict(read_scene_info(megadepth / SCENE_INFO / f"{SCENE_FILES[0]}.npz"))
    for protocol in (2, 4, 5):
        content = pickle.dumps(info, protocol=protocol)
        file.write_bytes(
            content.replace(b"numpy._core.", b"numpy.core.") if protocol == 2 else content
        )
        again = read_scene_info(file)
        np.testing.assert_array_equal(again["poses"][1], info["poses"][1])


def damaged_copy(root: Path, target: Path) -> Path:
    shutil.copytree(root, target)
    return target


def test_wrong_megadepth_files_are_named(megadepth: Path, tmp_path: Path) -> None:
    root = damaged_copy(megadepth, tmp_path / "set")
    file = root / SCENE_INFO / f"{SCENE_FILES[2]}.npz"
    info = dict(read_scene_info(file))

    def refused(message: str, **changes: Any) -> None:
        file.write_bytes(pickle.dumps({**info, **changes}))
        with pytest.raises(InputError, match=message):
            open_megadepth1500(root, MEGADEPTH)

    name, nowhere = SCENE_FILES[2], "Undistorted_SfM/0022/images/none.jpg"
    large = np.array([[900.0, 0, 500], [0, 900, 400], [0, 0, 1]])
    refused(rf"{name}\.npz' pair 0: expected \(\(i, j\)", pair_infos=[((0, 99), 0.1, [])])
    refused(r"pair 0: the relative pose is no rotation", poses=[2 * np.eye(4)] * 4)
    refused(r"principal point .* of about 1000x", intrinsics=[large] * 4)
    refused(r"pair 0: expected fx 0 cx", intrinsics=[np.eye(3)[::-1]] * 4)
    refused(r"no image '.*0022/images/none\.jpg'", image_paths=[nowhere] * 4)
    file.unlink()
    with pytest.raises(InputError, match=rf"no scene file '.*{name}\.npz'"):
        open_megadepth1500(root, MEGADEPTH)
    with pytest.raises(InputError, match=r"no scene files .*pairs_calibrated\.txt"):
        open_megadepth1500(tmp_path, MEGADEPTH)


def test_wrong_scannet_files_are_named(scannet: Path, tmp_path: Path) -> None:
    root = damaged_copy(scannet, tmp_path / "set")
    index = root / "scannet_test_1500"
    listed = dict(np.load(index / "test.npz"))
    intrinsics = dict(np.load(index / "intrinsics.npz"))

    def refused(message: str, **changes: Any) -> None:
        np.savez(index / "test.npz", **{**listed, **changes})
        with pytest.raises(InputError, match=message):
            open_scannet1500(root, SCANNET)
        np.savez(index / "test.npz", **listed)

    refused(r"expected 'rel_pose' as \(N, 12\)", rel_pose=np.zeros((4, 16)))
    refused("4 names, 3 poses", rel_pose=listed["rel_pose"][:3])
    refused("pair 0: the relative pose is no rotation", rel_pose=np.zeros((4, 12)))
    refused(r"has no 'scene0001_00'", name=np.array([[1, 0, 0, 15]] * 4, np.uint16))
    refused(r"no image '.*scene0707_00/color/16\.jpg'", name=np.array([[707, 0, 0, 16]] * 4))
    np.savez(index / "intrinsics.npz", **{n: K * [[2], [2], [1]] for n, K in intrinsics.items()})
    with pytest.raises(InputError, match="is that of about 1266x977"):
        open_scannet1500(root, SCANNET)
    (index / "intrinsics.npz").unlink()
    with pytest.raises(InputError, match=r"no file '.*intrinsics\.npz'"):
        open_scannet1500(root, SCANNET)
    (index / "test.npz").unlink()
    with pytest.raises(InputError, match=r"no list of pairs .*scannet_test_pairs_with_gt\.txt"):
        open_scannet1500(root, SCANNET)
    line = " ".join(["a.jpg b.jpg 1 0", *["1"] * 34])
    (root / scannet1500.SUPERGLUE_LIST).write_text(line + "\n")
    with pytest.raises(InputError, match="line 1: turned photos are not supported"):
        open_scannet1500(root, SCANNET)
