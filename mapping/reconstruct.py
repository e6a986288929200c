"""Verified matches -> cameras and points: triangulation, incremental or global SfM (COLMAP's)."""

import json
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pycolmap

from mapping.colmap import failure_is_expected, global_options, incremental_options
from mapping.database import posed_reconstruction, verified_matches
from mapping.options import ReconstructionOptions
from mapping.settle import MIN_POINTS_OF_POSE, settle
from matching.errors import InputError
from matching.files import atomic_folder
from matching.images import read_image
from matching.progress import Progress, silent

logger = logging.getLogger(__name__)

# names in the working area; of the folder only the model becomes part of the map
SPARSE = "sparse"
REASONS = "not_registered.json"

_WEAK_SHARE = 0.05  # of the points of a usual photo; the worst of real sets have a fourth
_MIN_PHOTOS_OF_CAMERA = 5  # with fewer, a principal point follows the noise
_MAX_PRINCIPAL_OFFSET = 0.1  # plausible distance from the middle, relative to the photo


@dataclass(frozen=True, kw_only=True)
class ReconstructionResult:
    """The model of a map.

    Attributes:
        model: Cameras, poses and points.
        not_registered: Photo of the database without a pose to the reason.
    """

    model: pycolmap.Reconstruction
    not_registered: dict[str, str]


def triangulate(
    database: Path,
    poses: Mapping[str, pycolmap.Rigid3d],
    options: ReconstructionOptions,
    start: pycolmap.Reconstruction | None = None,
) -> ReconstructionResult:
    """Points from known poses, which stay exactly as they are.

    Args:
        database: Verified database.
        poses: Photo to cam_from_world.
        options: Thresholds.
        start: A model with the database's ids whose points are kept and continued; the posed
            photos of ``poses`` are in it already.

    Raises:
        InputError: Not one point could be triangulated.
    """
    model = posed_reconstruction(database, poses) if start is None else start
    pipeline = incremental_options(options)
    if len(poses) == 2:
        pipeline.triangulation.ignore_two_view_tracks = False
    with tempfile.TemporaryDirectory(dir=database.parent, suffix=".tmp") as output:
        model = pycolmap.triangulate_points(
            model,
            database,
            Path(output),
            Path(output),
            clear_points=start is None,
            options=pipeline,
            refine_intrinsics=False,
        )
    if model.num_points3D() == 0:
        raise InputError(
            "no 3D point could be triangulated: the known poses do not fit the photos, or the "
            "photos do not overlap"
        )
    return ReconstructionResult(model=model, not_registered={})


def structure_from_motion(
    database: Path,
    options: ReconstructionOptions,
    *,
    calibrated: Set[str] = frozenset(),
    start: pycolmap.Reconstruction | None = None,
    progress: Progress = silent,
) -> ReconstructionResult:
    """Poses and points from matches alone; the largest connected model counts.

    The same database gives the same incremental model; global models differ in the last digits.

    Args:
        database: Verified database.
        options: Method and thresholds.
        calibrated: Photos whose camera is given and stays as it is.
        start: A model with the database's ids whose poses and cameras stay as they are; only the
            other photos are registered.
        progress: Wraps the loop over registered photos.

    Raises:
        InputError: Not even two photos could be reconstructed.
    """
    with pycolmap.Database.open(database) as opened:
        images = opened.read_all_images()
        uncalibrated = any(image.name not in calibrated for image in images)
    fixed = {image.camera_id for image in images if image.name in calibrated}
    with (
        tempfile.TemporaryDirectory(dir=database.parent, suffix=".tmp") as work,
        failure_is_expected(),
    ):
        if start is not None:
            models = _continue(database, Path(work), options, start, fixed, len(images), progress)
        elif options.method == "global":
            models = _global(database, Path(work), options, fixed, uncalibrated)
        else:
            models = _incremental(database, Path(work), options, fixed, len(images), progress)
    if not models and start is not None:
        models = [start]  # not one more photo could be registered
    if not models:
        raise InputError(
            "no two photos could be reconstructed: too few matches between them, or too little "
            f"movement of the camera ({_matched_summary(database)})"
        )
    order = sorted(models, key=lambda m: (-m.num_reg_images(), -m.num_points3D()))
    best = order[0]
    if start is None and options.refine_principal_point:
        best = refine_principal_points(best, fixed, options)
    kept = set() if start is None else {start.image(i).name for i in start.reg_image_ids()}
    doubtful = take_out_doubtful(best, kept)
    if best.num_reg_images() < 2:
        name, reason = next(iter(doubtful.items()))
        raise InputError(f"no two photos could be reconstructed ('{name}': {reason})")
    _warn_of_weak(best, kept)
    reasons = _reasons(database, [i.name for i in images if i.name not in doubtful], order)
    return ReconstructionResult(model=best, not_registered={**reasons, **doubtful})


def _incremental(
    database: Path,
    work: Path,
    options: ReconstructionOptions,
    fixed: Set[int],
    num_images: int,
    progress: Progress,
) -> list[pycolmap.Reconstruction]:
    pipeline = incremental_options(options)
    pipeline.constant_cameras = set(fixed)
    if num_images == 2:
        pipeline.triangulation.ignore_two_view_tracks = False
    with _ticking(progress, num_images) as tick:
        models = pycolmap.incremental_mapping(
            database, work, work, options=pipeline, next_image_callback=tick
        )
    return list(models.values())


def _continue(
    database: Path,
    work: Path,
    options: ReconstructionOptions,
    start: pycolmap.Reconstruction,
    fixed: Set[int],
    num_images: int,
    progress: Progress,
) -> list[pycolmap.Reconstruction]:
    """Register the photos that a model lacks; its poses and cameras and given ones are fixed."""
    pipeline = incremental_options(options)
    pipeline.fix_existing_frames = True
    pipeline.constant_cameras = {int(c) for c in start.cameras} | fixed
    pipeline.multiple_models = False
    given, output = work / "given", work / "output"
    given.mkdir()
    output.mkdir()
    start.write_binary(given)
    with _ticking(progress, num_images - start.num_reg_images()) as tick:
        models = pycolmap.incremental_mapping(
            database,
            work,
            output,
            options=pipeline,
            input_path=given,
            next_image_callback=tick,
        )
    for model in models.values():
        settle(model, start, pipeline.constant_cameras, options)
    return list(models.values())


@contextmanager
def _ticking(progress: Progress, num_images: int) -> Iterator[Callable[[], None]]:
    """Turns COLMAP's callback per registered photo into steps of a progress loop.

    The first two photos have none, nor have those that no pose is found for: the loop ends with the
    block.
    """
    steps = iter(progress(range(num_images), "registering photos", num_images))

    def tick() -> None:
        next(steps, None)

    yield tick
    for _ in steps:
        pass


def _global(
    database: Path,
    work: Path,
    options: ReconstructionOptions,
    fixed: Set[int],
    uncalibrated: bool,
) -> list[pycolmap.Reconstruction]:
    if uncalibrated and fixed:
        raise InputError(
            "global SfM needs the intrinsics of all photos or of none: use "
            "reconstruction.method=incremental"
        )
    if uncalibrated:
        # global SfM needs focal lengths before it knows any pose; they are written into a copy, as
        # a run that continues after a kill must find the database as it was
        database = Path(shutil.copyfile(database, work / "calibrated.db"))
        pycolmap.calibrate_view_graph(database)
    pipeline = global_options(options)
    adjustment = pipeline.mapper.bundle_adjustment
    adjustment.refine_focal_length = adjustment.refine_extra_params = uncalibrated
    return list(pycolmap.global_mapping(database, work, work, options=pipeline).values())


def refine_principal_points(
    model: pycolmap.Reconstruction, fixed: Set[int], options: ReconstructionOptions
) -> pycolmap.Reconstruction:
    """Bundle adjustment of everything, the principal points of well-observed cameras included.

    COLMAP leaves principal points in the middle of the photos, and focal length and poses take up
    the error. Seven photos by one camera are enough to find it: on photos with known poses the
    camera centres of the map come 2-3 times closer to the truth.

    Args:
        model: From structure from motion.
        fixed: Cameras whose intrinsics are given.
        options: Number of threads.

    Returns:
        The refined model, or the given one if no camera took photos enough, or if the result is
        no plausible camera (some motions do not determine a principal point).
    """
    photos_of = Counter(model.image(i).camera_id for i in model.reg_image_ids())
    refined = {
        camera_id
        for camera_id, count in photos_of.items()
        if count >= _MIN_PHOTOS_OF_CAMERA and camera_id not in fixed
    }
    if not refined:
        return model
    result = pycolmap.Reconstruction(model)
    adjustment = pycolmap.BundleAdjustmentOptions()
    adjustment.refine_principal_point = True
    adjustment.print_summary = False
    adjustment.ceres.loss_function_type = pycolmap.LossFunctionType.SOFT_L1
    adjustment.ceres.solver_options.num_threads = options.num_threads
    adjustment.ceres.solver_options.function_tolerance = 1e-8
    config = pycolmap.BundleAdjustmentConfig()
    for image_id in result.reg_image_ids():
        config.add_image(image_id)
    for camera_id in photos_of:
        if camera_id not in refined:
            config.set_constant_cam_intrinsics(camera_id)
    config.fix_gauge(pycolmap.BundleAdjustmentGauge.TWO_CAMS_FROM_WORLD)
    pycolmap.create_default_bundle_adjuster(adjustment, config, result).solve()
    result.update_point_3d_errors()
    for camera_id in refined:
        camera = result.camera(camera_id)
        size = np.array([camera.width, camera.height])
        offset = np.abs([camera.principal_point_x, camera.principal_point_y] - size / 2)
        if not (offset < _MAX_PRINCIPAL_OFFSET * size).all():
            return model
    return result


def take_out_doubtful(model: pycolmap.Reconstruction, kept: Set[str]) -> dict[str, str]:
    """Take photos out of a model that see too few of its points for their poses to be trusted.

    Args:
        model: Is changed.
        kept: Photos that stay whatever they see.

    Returns:
        Photos taken out to the reason.
    """
    reasons: dict[str, str] = {}
    observations = pycolmap.ObservationManager(model)
    while True:  # points that two photos saw go with one of them
        images = [model.image(i) for i in model.reg_image_ids()]
        worst = min(
            (image for image in images if image.name not in kept),
            key=lambda image: image.num_points3D,
            default=None,
        )
        if worst is None or worst.num_points3D >= MIN_POINTS_OF_POSE:
            return reasons
        reasons[worst.name] = (
            f"its pose is not trusted: it sees {worst.num_points3D} points of the map, fewer than "
            f"{MIN_POINTS_OF_POSE}"
        )
        observations.deregister_frame(worst.frame_id)


def _warn_of_weak(model: pycolmap.Reconstruction, kept: Set[str]) -> None:
    """Name the photos that see next to nothing of what the others see."""
    seen = {model.image(i).name: model.image(i).num_points3D for i in model.reg_image_ids()}
    median = float(np.median(list(seen.values())))
    for name, count in sorted(seen.items()):
        if name not in kept and count < _WEAK_SHARE * median:
            logger.warning(
                "the pose of '%s' rests on %d points, where half of the photos have %d or more: "
                "look whether the photo is what the camera took (uncropped, not stretched)",
                name, count, median,
            )  # fmt: skip


def _reasons(
    database: Path, names: list[str], models: list[pycolmap.Reconstruction]
) -> dict[str, str]:
    """Why photos of the database have no pose in the first of the models."""
    registered = [{m.image(i).name for i in m.reg_image_ids()} for m in models]
    matched = verified_matches(database)
    reasons = {}
    for name in names:
        if name in registered[0]:
            continue
        other = next((r for r in registered[1:] if name in r), None)
        matches, photos = matched[name]
        if other is not None:
            reasons[name] = (
                f"belongs to a separate model of {len(other)} photos that does not connect to the "
                f"largest of {len(registered[0])}"
            )
        elif photos == 0:
            reasons[name] = "no verified matches with any other photo"
        else:
            reasons[name] = (
                f"its pose could not be found from {matches} verified matches with {photos} photos"
            )
    return reasons


def _matched_summary(database: Path) -> str:
    matched = verified_matches(database)
    partners = sum(1 for _, photos in matched.values() if photos)
    return f"{partners} of {len(matched)} photos have verified matches"


def result_bytes(num_keypoints: int) -> int:
    """Upper bound of what a model and COLMAP's copies of it take on the disk."""
    per_keypoint = 24 + 8 + 64  # its place in the image, in a track, and a point of its own
    return 3 * per_keypoint * num_keypoints + 2**20


def write_result(result: ReconstructionResult, sparse: Path) -> None:
    """Write a model and the reasons of the photos it lacks into a folder, all or nothing."""
    with atomic_folder(sparse) as temporary:
        result.model.write_binary(temporary)
        (temporary / REASONS).write_text(json.dumps(result.not_registered), encoding="utf-8")


def read_result(sparse: Path) -> ReconstructionResult:
    """Read what `write_result` wrote."""
    return ReconstructionResult(
        model=pycolmap.Reconstruction(sparse),
        not_registered=json.loads((sparse / REASONS).read_text(encoding="utf-8")),
    )


def color_points(
    model: pycolmap.Reconstruction,
    images: Path,
    names: Sequence[str] | None,
    *,
    apply_exif_orientation: bool,
) -> None:
    """Give points the mean colour of the pixels that see them.

    COLMAP's own way ignores the EXIF orientation, which would colour turned photos wrongly.

    Args:
        model: The model; only points that are black (have no colour yet) get one.
        images: Photo folder.
        names: Photos to take colours from; None takes all of the model.
        apply_exif_orientation: Whether the model's pixels are those of upright photos.
    """
    ids = np.array(
        sorted(i for i, p in model.points3D.items() if not p.color.any()), dtype=np.int64
    )
    sums, counts = np.zeros((len(ids), 3)), np.zeros(len(ids))
    for image_id in model.reg_image_ids():
        image = model.image(image_id)
        if len(ids) == 0 or (names is not None and image.name not in names):
            continue
        pixels = read_image(images / image.name, apply_exif_orientation=apply_exif_orientation)
        height, width = pixels.shape[:2]
        points2D = [p for p in image.points2D if p.has_point3D()]
        seen = np.array([p.point3D_id for p in points2D], dtype=np.int64)
        xy = np.array([p.xy for p in points2D]).reshape(-1, 2)
        rows = np.searchsorted(ids, seen).clip(max=len(ids) - 1)
        wanted = ids[rows] == seen
        rows, xy = rows[wanted], xy[wanted].astype(int).clip(0, (width - 1, height - 1))
        np.add.at(sums, rows, pixels[xy[:, 1], xy[:, 0]])
        np.add.at(counts, rows, 1)
    colors = np.round(sums / np.maximum(counts, 1)[:, None]).astype(np.uint8)
    for point3D_id, color in zip(ids.tolist(), colors, strict=True):
        model.point3D(point3D_id).color = color
