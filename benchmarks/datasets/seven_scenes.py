"""7-Scenes (Shotton et al., CVPR 2013): Kinect sequences of seven rooms, with two ground truths."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import numpy as np
import pycolmap
from numpy.typing import NDArray

from benchmarks.datasets.depth import depth_path, read_depth_mm, surface_of_depth
from benchmarks.datasets.posed_photos import (
    folder_scenes,
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
from matching.images import image_size

FloatArray = NDArray[np.float64]

COUNTS = {
    "chess": SceneCounts(map=4000, queries=2000),
    "fire": SceneCounts(map=2000, queries=2000),
    "heads": SceneCounts(map=1000, queries=1000),
    "office": SceneCounts(map=6000, queries=4000),
    "pumpkin": SceneCounts(map=4000, queries=2000),
    "redkitchen": SceneCounts(map=7000, queries=5000),
    "stairs": SceneCounts(map=2000, queries=1000),
}
# at 640x480, as published: neither is calibrated
COLOR_FOCAL_PX, DEPTH_FOCAL_PX, WIDTH_PX = 525.0, 585.0, 640
# published calibration of a Kinect, as ACE, DSAC* and kapture use it; the authors gave none
COLOR_FROM_DEPTH = np.array(
    [
        [0.99996518, 0.00267651, -0.00790410, -0.02555894],
        [-0.00274093, 0.99996303, -0.00815045, 0.00010110],
        [0.00788199, 0.00817183, 0.99993554, 0.00203183],
        [0, 0, 0, 1],
    ]
)


@dataclass(frozen=True, kw_only=True)
class SevenScenesOptions(LocalizationOptions):
    """Settings of `benchmark 7scenes`."""

    # dslam: KinectFusion's poses of the data set; sfm: the pseudo truth. Rankings differ
    truth: Literal["dslam", "sfm"] = "dslam"
    # of dslam poses, which are the depth camera's: kinect moves them to the colour camera as ACE
    # does; none takes them for the colour camera's
    registration: Literal["kinect", "none"] = "kinect"
    pseudo_truth: str | None = None  # folder of visloc_pseudo_gt_limitations, for sfm
    evaluation: EvaluationOptions = field(
        default_factory=lambda: EvaluationOptions(
            thresholds=((0.01, 1.0), (0.02, 2.0), (0.05, 5.0), (0.1, 5.0))
        )
    )


def open_seven_scenes(root: Path, options: SevenScenesOptions) -> LocalizationDataset:
    """The scenes whose folders are there."""
    scenes = folder_scenes(existing_folder(root, "data set"), list(COUNTS), "7-Scenes")
    if options.truth == "sfm":
        note = "SfM pseudo ground truth with its focal lengths"
    else:
        note = f"D-SLAM truth (KinectFusion), depth-to-colour registration: {options.registration}"
    return LocalizationDataset(
        title=f"7-Scenes, {'SfM' if options.truth == 'sfm' else 'D-SLAM'} truth",
        scenes=scenes,
        read=lambda scene: read_seven_scenes(root, scene, options),
        counts=COUNTS,
        num_scenes=len(COUNTS),
        published=f"7scenes-{options.truth}",
        notes=(note,),
    )


def read_seven_scenes(root: Path, scene: str, options: SevenScenesOptions) -> LocalizationTask:
    """One scene.

    Raises:
        InputError: A file is missing or malformed, or a frame has no pose.
    """
    images = existing_folder(root / scene, "scene of 7-Scenes")
    frames = {split: _frames(images, split) for split in ("train", "test")}
    names = frames["train"] + frames["test"]
    width, height = image_size(images / names[0], apply_exif_orientation=False)
    focal_px = dict.fromkeys(names, COLOR_FOCAL_PX)
    if options.truth == "sfm":
        folder = find_pseudo_truth(root, options.pseudo_truth, "7scenes")
        poses: dict[str, pycolmap.Rigid3d] = {}
        for split in frames:
            truth = read_pseudo_truth(folder, scene, split)
            poses |= truth.poses
            focal_px |= truth.focal_px
        # like in the papers, frames that SfM could not register take no part
        frames = {split: [n for n in listed if n in poses] for split, listed in frames.items()}
        if not all(frames.values()):
            raise InputError(f"'{folder}' has no pose of the frames of '{images}'")
    else:
        poses = {name: _color_pose(images / name, options.registration) for name in names}
    cameras = {
        name: _camera(focal_px[name], (width, height)) for split in frames for name in frames[split]
    }
    map_names = tuple(frames["train"])
    queries = {name: cameras[name] for name in frames["test"]}
    if options.map_points == "depth":
        for name in map_names:
            existing_file(depth_path(images / name, ".depth.png"), "16-bit depth image")
    return LocalizationTask(
        name=scene,
        images=images,
        map_names=map_names,
        query_cameras=queries,
        reference=posed_model({name: (cameras[name], poses[name]) for name in map_names}),
        truth={name: poses[name] for name in cameras},
        surfaces=_surfaces(images, cameras, poses, options.registration, map_names),
        retrieval=published_retrieval(options.retrieval_pairs, queries, map_names, scene=scene),
    )


def _frames(images: Path, split: str) -> list[str]:
    """Colour frames of a split's sequences, which its file calls ``sequence1`` for ``seq-01``."""
    file = existing_file(images / f"{split.capitalize()}Split.txt", "list of sequences")
    frames = []
    for number, line in text_lines(file):
        if not line:
            continue
        digits = line.removeprefix("sequence")
        if digits == line or not digits.isdigit():
            raise InputError(f"'{file}' line {number}: expected 'sequence1', got '{line[:60]}'")
        folder = existing_folder(images / f"seq-{int(digits):02d}", "sequence")
        found = sorted(p.name for p in folder.glob("frame-*.color.png"))
        if not found:
            raise InputError(f"'{folder}' holds no frame-000000.color.png: unpack its .zip")
        frames += [f"{folder.name}/{name}" for name in found]
    if not frames:
        raise InputError(f"'{file}' lists no sequence")
    return frames


def _color_pose(color: Path, registration: str) -> pycolmap.Rigid3d:
    """cam_from_world of the colour camera from ``frame-000000.pose.txt``."""
    file = depth_path(color, ".pose.txt")
    world_from_depth = read_matrix(file, (4, 4))
    if not np.isfinite(world_from_depth).all():
        raise InputError(f"'{file}' holds a number that is not finite")
    world_from_color = world_from_depth @ np.linalg.inv(_color_from_depth(registration))
    return pose_from_world_from_cam(world_from_color, f"'{file}'")


def _color_from_depth(registration: str) -> FloatArray:
    return COLOR_FROM_DEPTH if registration == "kinect" else np.eye(4)


def _camera(focal_px: float, size: tuple[int, int]) -> pycolmap.Camera:
    """Intrinsics hold for 640 pixels; copies of the data set at another size scale them."""
    scale = size[0] / WIDTH_PX
    return pycolmap.Camera(
        model="SIMPLE_PINHOLE",
        width=size[0],
        height=size[1],
        params=[focal_px * scale, size[0] / 2, size[1] / 2],
    )


def _surfaces(
    images: Path,
    cameras: Mapping[str, pycolmap.Camera],
    poses: Mapping[str, pycolmap.Rigid3d],
    registration: str,
    map_names: Sequence[str],
) -> Surfaces:
    def surface(name: str) -> NDArray[np.float32]:
        depth = read_depth_mm(depth_path(images / name, ".depth.png"))
        camera = cameras[name]
        scale = depth.shape[1] / WIDTH_PX
        depth_K = np.diag([scale, scale, 1.0]) @ np.array(
            [[DEPTH_FOCAL_PX, 0, 320], [0, DEPTH_FOCAL_PX, 240], [0, 0, 1]]
        )
        world_from_color = np.eye(4)
        world_from_color[:3] = poses[name].inverse().matrix()
        return surface_of_depth(
            depth,
            depth_K,
            camera.calibration_matrix(),
            (camera.width, camera.height),
            _color_from_depth(registration),
            world_from_color,
        )

    files = [depth_path(images / name, ".depth.png") for name in map_names]
    return Surfaces(read=surface, identity=files_identity(files, registration))
