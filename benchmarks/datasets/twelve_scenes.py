"""12-Scenes (Valentin et al., 3DV 2016): RGB-D sequences of twelve rooms, two ground truths."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.datasets.depth import depth_path, read_depth_mm, surface_of_depth
from benchmarks.datasets.posed_photos import (
    checked_size,
    folder_scenes,
    parse_numbers,
    pose_from_world_from_cam,
    posed_model,
    published_retrieval,
    read_matrix,
)
from benchmarks.datasets.pseudo_truth import find_pseudo_truth, read_pseudo_truth
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask, SceneCounts
from benchmarks.evaluate import EvaluationOptions
from benchmarks.options import LocalizationOptions
from mapping.depth import Surfaces, files_identity
from matching.errors import InputError
from matching.files import existing_file, existing_folder, text_lines

SCENES = (
    "apt1/kitchen", "apt1/living", "apt2/bed", "apt2/kitchen", "apt2/living", "apt2/luke",
    "office1/gates362", "office1/gates381", "office1/lounge", "office1/manolis", "office2/5a",
    "office2/5b",
)  # fmt: skip
NUM_MAP, NUM_QUERIES = 16_989, {"dslam": 5_702, "sfm": 5_782}  # over all scenes, as published
_SEQUENCE = re.compile(r"sequence(\d+)\s+\[frames=(\d+)\]\s+\[start=(\d+)\s*;\s*end=(\d+)\]")


@dataclass(frozen=True, kw_only=True)
class TwelveScenesOptions(LocalizationOptions):
    """Settings of `benchmark 12scenes`."""

    truth: Literal["dslam", "sfm"] = "dslam"  # poses of the data set, or the SfM pseudo truth
    pseudo_truth: str | None = None  # folder of visloc_pseudo_gt_limitations, for sfm
    evaluation: EvaluationOptions = field(
        default_factory=lambda: EvaluationOptions(
            thresholds=((0.01, 1.0), (0.02, 2.0), (0.05, 5.0), (0.1, 5.0))
        )
    )


def open_twelve_scenes(root: Path, options: TwelveScenesOptions) -> LocalizationDataset:
    """The scenes whose folders are there."""
    scenes = folder_scenes(existing_folder(root, "data set"), SCENES, "12-Scenes")
    is_sfm = options.truth == "sfm"
    return LocalizationDataset(
        title=f"12-Scenes, {'SfM' if is_sfm else 'D-SLAM'} truth",
        scenes=scenes,
        read=lambda scene: read_twelve_scenes(root, scene, options),
        total=SceneCounts(map=NUM_MAP if is_sfm else None, queries=NUM_QUERIES[options.truth]),
        num_scenes=len(SCENES),
        published=f"12scenes-{options.truth}",
    )


def read_twelve_scenes(root: Path, scene: str, options: TwelveScenesOptions) -> LocalizationTask:
    """One scene; frames whose pose file says INF take no part.

    Raises:
        InputError: A file is missing or malformed.
    """
    folder = existing_folder(root / scene, "scene of 12-Scenes")
    images = existing_folder(folder / "data", "folder of frames")
    camera = _read_info(folder / "info.txt")
    names = sorted(p.name for p in images.glob("frame-*.color.jpg"))
    if not names:
        raise InputError(f"'{images}' holds no frame-000000.color.jpg")
    checked_size(images / names[0], camera)
    last_query = _last_query_frame(folder / "split.txt")
    splits = {"test": [n for n in names if _number(n) <= last_query]}
    splits["train"] = [n for n in names if _number(n) > last_query]
    focal_px: dict[str, float] = {}
    poses: dict[str, pycolmap.Rigid3d] = {}
    if options.truth == "sfm":
        pgt = find_pseudo_truth(root, options.pseudo_truth, "12scenes")
        for split in splits:
            truth = read_pseudo_truth(pgt, scene.replace("/", "_"), split)
            poses |= truth.poses
            focal_px |= truth.focal_px
    else:
        for name in names:
            pose = _read_pose(depth_path(images / name, ".pose.txt"))
            if pose is not None:
                poses[name] = pose
    splits = {split: [n for n in listed if n in poses] for split, listed in splits.items()}
    if not all(splits.values()):
        raise InputError(f"'{folder}' has no pose of any map frame, or of any query")
    posed = splits["train"] + splits["test"]
    cameras = {name: _with_focal(camera, focal_px.get(name)) for name in posed}
    map_names = tuple(splits["train"])
    queries = {name: cameras[name] for name in splits["test"]}
    if options.map_points == "depth":
        for name in map_names:
            existing_file(depth_path(images / name, ".depth.png"), "16-bit depth image")
    return LocalizationTask(
        name=scene.replace("/", "_"),
        images=images,
        map_names=map_names,
        query_cameras=queries,
        reference=posed_model({name: (cameras[name], poses[name]) for name in map_names}),
        truth={name: poses[name] for name in posed},
        surfaces=_surfaces(images, cameras, poses, map_names),
        retrieval=published_retrieval(
            options.retrieval_pairs, queries, map_names, scene=scene.replace("/", "_")
        ),
    )


def _number(name: str) -> int:
    digits = name.removeprefix("frame-").split(".")[0]
    if not digits.isdigit():
        raise InputError(f"'{name}' is no name like frame-000000.color.jpg")
    return int(digits)


def _last_query_frame(file: Path) -> int:
    """Number of the last frame of the first sequence, which holds the queries."""
    for number, line in text_lines(existing_file(file, "list of sequences")):
        if not line:
            continue
        match = _SEQUENCE.fullmatch(line)
        if match is None or int(match[1]) != 0 or int(match[3]) != 0:
            raise InputError(
                f"'{file}' line {number}: expected 'sequence0 [frames=N]  [start=0 ; end=M]', got "
                f"'{line[:80]}'"
            )
        return int(match[4])
    raise InputError(f"'{file}' is empty")


def _read_info(file: Path) -> pycolmap.Camera:
    """The colour camera of ``info.txt``."""
    values = {
        key.strip(): value.split()
        for _, line in text_lines(existing_file(file, "description of the sensor"))
        for key, separator, value in [line.partition("=")]
        if separator
    }
    wanted = {"m_colorWidth": 1, "m_colorHeight": 1, "m_calibrationColorIntrinsic": 16}
    numbers: dict[str, NDArray[np.float64]] = {}
    for key, count in wanted.items():
        found = parse_numbers(values.get(key, []))
        if found is None or len(found) != count:
            raise InputError(f"'{file}' has no line '{key} = ' with {count} numbers")
        numbers[key] = found
    K = numbers["m_calibrationColorIntrinsic"].reshape(4, 4)[:3, :3]
    # the mean of both focal lengths, as published scores have it
    return pycolmap.Camera(
        model="SIMPLE_PINHOLE",
        width=int(numbers["m_colorWidth"][0]),
        height=int(numbers["m_colorHeight"][0]),
        params=[(K[0, 0] + K[1, 1]) / 2, K[0, 2], K[1, 2]],
    )


def _with_focal(camera: pycolmap.Camera, focal_px: float | None) -> pycolmap.Camera:
    if focal_px is None:
        return camera
    own = pycolmap.Camera(camera.todict())
    own.focal_length = focal_px
    return own


def _read_pose(file: Path) -> pycolmap.Rigid3d | None:
    """cam_from_world, or None for the frames that were lost (INF)."""
    world_from_cam = read_matrix(file, (4, 4))
    if not np.isfinite(world_from_cam).all():
        return None
    return pose_from_world_from_cam(world_from_cam, f"'{file}'")


def _surfaces(
    images: Path,
    cameras: Mapping[str, pycolmap.Camera],
    poses: Mapping[str, pycolmap.Rigid3d],
    map_names: Sequence[str],
) -> Surfaces:
    """Depth is aligned to the colour image and has its own size: the heights tell the scale."""

    def surface(name: str) -> NDArray[np.float32]:
        depth = read_depth_mm(depth_path(images / name, ".depth.png"))
        camera = cameras[name]
        color_K = camera.calibration_matrix()
        scale = depth.shape[0] / camera.height
        depth_K = np.diag([scale, scale, 1.0]) @ color_K
        # 1296x968 and 640x480 differ in shape by half a percent: both are centred
        depth_K[0, 2] += (depth.shape[1] - scale * camera.width) / 2
        world_from_color = np.eye(4)
        world_from_color[:3] = poses[name].inverse().matrix()
        size = (camera.width, camera.height)
        return surface_of_depth(depth, depth_K, color_K, size, np.eye(4), world_from_color)

    files = [depth_path(images / name, ".depth.png") for name in map_names]
    return Surfaces(read=surface, identity=files_identity(files))
