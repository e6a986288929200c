"""A miniature of ScanNet-1500 in the three layouts that `benchmarks.datasets.scannet1500` reads."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.miniatures.studio import Shot, Studio, numbers, world_frame, write_photo

FloatArray = NDArray[np.float64]
Layout = Literal["loftr", "superglue", "gluefactory"]

# camera positions of each room's frames
_ROOMS = {(707, 0): (1, 2, 3), (806, 1): (2, 4)}
_COLOR = pycolmap.Camera(  # about ScanNet's own, its principal point as far from the middle
    model="PINHOLE", width=1296, height=968, params=[1165.7, 1169.3, 641.1, 492.6]
)


@dataclass(frozen=True, kw_only=True)
class _Pair:
    """Two frames of one room; ``room`` is (scene, scan)."""

    room: tuple[int, int]
    frame0: int
    frame1: int
    cam1_from_cam0: FloatArray


def write_scannet1500(root: Path, studio: Studio, layout: Layout = "loftr") -> None:
    """Write frames, intrinsics and pairs.

    Args:
        root: A new folder.
        studio: Takes the photos.
        layout: ``"loftr"``: index files beside frames that are stretched to 640x480 already and
            have poses; ``"superglue"``: one list for frames as recorded, 1296x968;
            ``"gluefactory"``: one list for stretched frames.
    """
    pairs = []
    for number, (room, positions) in enumerate(_ROOMS.items()):
        frame = world_frame(40.0 + 70 * number, 25.0, (1.0, -2.0, 0.5 + number))
        camera = _COLOR if layout == "superglue" else _stretched()
        shots = studio.shots("map", positions, camera, frame)
        images = root / "images" if layout == "gluefactory" else root
        folder = images / "scene{:04d}_{:02d}".format(*room)
        for place, shot in enumerate(shots):
            write_photo(folder / "color" / f"{_frame(place)}.jpg", shot.image)
            if layout == "loftr":
                pose = "\n".join(numbers(*row) for row in np.linalg.inv(shot.cam_from_world))
                (folder / "pose").mkdir(exist_ok=True)
                (folder / "pose" / f"{_frame(place)}.txt").write_text(pose + "\n")
        pairs += _pairs_of(room, shots)
    if layout == "loftr":
        _write_loftr(root / "scannet_test_1500", pairs)
    elif layout == "superglue":
        _write_superglue(root / "scannet_test_pairs_with_gt.txt", pairs)
    else:
        _write_gluefactory(root / "pairs_calibrated.txt", pairs)


def _frame(place: int) -> int:
    """Frames have gaps."""
    return 15 * place


def _stretched() -> pycolmap.Camera:
    camera = pycolmap.Camera(_COLOR.todict())
    camera.rescale(640, 480)
    return camera


def _pairs_of(room: tuple[int, int], shots: Sequence[Shot]) -> list[_Pair]:
    return [
        _Pair(
            room=room,
            frame0=_frame(a),
            frame1=_frame(b),
            cam1_from_cam0=shots[b].cam_from_world @ np.linalg.inv(shots[a].cam_from_world),
        )
        for a in range(len(shots))
        for b in range(a + 1, len(shots))
    ]


def _write_loftr(index: Path, pairs: Sequence[_Pair]) -> None:
    index.mkdir(parents=True)
    names = [(*pair.room, pair.frame0, pair.frame1) for pair in pairs]
    np.savez(
        index / "test.npz",
        name=np.array(names, np.uint16),
        rel_pose=np.array([pair.cam1_from_cam0[:3].ravel() for pair in pairs]),
    )
    K = _stretched().calibration_matrix()
    rooms: dict[str, Any] = {"scene{:04d}_{:02d}".format(*room): K for room in _ROOMS}
    np.savez(index / "intrinsics.npz", **rooms)


def _write_superglue(file: Path, pairs: Sequence[_Pair]) -> None:
    K = _COLOR.calibration_matrix()
    file.write_text(
        "".join(
            "{0}/sens/frame-{1:06d}.color.jpg {0}/sens/frame-{2:06d}.color.jpg 0 0 {3}\n".format(
                "scans_test/scene{:04d}_{:02d}".format(*pair.room),
                pair.frame0,
                pair.frame1,
                numbers(K, K, pair.cam1_from_cam0),
            )
            for pair in pairs
        )
    )


def _write_gluefactory(file: Path, pairs: Sequence[_Pair]) -> None:
    K = _stretched().calibration_matrix()
    file.write_text(
        "".join(
            "{0}/color/{1}.jpg {0}/color/{2}.jpg {3}\n".format(
                "scene{:04d}_{:02d}".format(*pair.room),
                pair.frame0,
                pair.frame1,
                numbers(K, K, pair.cam1_from_cam0[:3, :3], pair.cam1_from_cam0[:3, 3]),
            )
            for pair in pairs
        )
    )
