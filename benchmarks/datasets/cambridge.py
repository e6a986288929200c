"""Cambridge Landmarks (Kendall et al., ICCV 2015): five outdoor scenes with metric scale.

Poses come from ``dataset_{train,test}.txt``, focal lengths from ``reconstruction.nvm``, or both
kinds of intrinsics from Sattler's models as hloc distributes them.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

import pycolmap

from benchmarks.datasets.image_lists import read_photo_list
from benchmarks.datasets.nvm import read_nvm
from benchmarks.datasets.posed_photos import (
    folder_scenes,
    model_photos,
    pose_from_quaternion,
    posed_model,
    published_retrieval,
    read_number_lines,
    simple_camera,
)
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask, SceneCounts
from benchmarks.evaluate import EvaluationOptions
from benchmarks.options import LocalizationOptions
from mapping.cameras import read_model
from matching.errors import InputError
from matching.files import existing_folder
from matching.images import image_size

COUNTS = {
    "GreatCourt": SceneCounts(map=1532, queries=760),
    "KingsCollege": SceneCounts(map=1220, queries=343),
    "OldHospital": SceneCounts(map=895, queries=182),
    "ShopFacade": SceneCounts(map=231, queries=103),
    "StMarysChurch": SceneCounts(map=1487, queries=530),
}
_LINE = "name X Y Z W P Q R"
Intrinsics = Callable[[str], pycolmap.Camera]


@dataclass(frozen=True, kw_only=True)
class CambridgeOptions(LocalizationOptions):
    """Settings of `benchmark cambridge`."""

    # folder CambridgeLandmarks_Colmap_Retriangulated_1024px of hloc: its intrinsics (with radial
    # distortion) are used, scaled to the full photos. None: the NVM's focal lengths, without
    # distortion, as ACE and DSAC* do
    retriangulated: str | None = None
    evaluation: EvaluationOptions = field(
        default_factory=lambda: EvaluationOptions(thresholds=((0.1, 1.0), (0.25, 2.0), (0.5, 5.0)))
    )


def open_cambridge(root: Path, options: CambridgeOptions) -> LocalizationDataset:
    """The scenes whose folders are there."""
    scenes = folder_scenes(existing_folder(root, "data set"), list(COUNTS), "Cambridge")
    source = "NVM focal lengths, no distortion"
    if options.retriangulated is not None:
        source = "intrinsics of the retriangulated 1024 px models"
    return LocalizationDataset(
        title="Cambridge Landmarks",
        scenes=scenes,
        read=lambda scene: read_cambridge(root, scene, options),
        counts=COUNTS,
        num_scenes=len(COUNTS),
        published="cambridge",
        notes=(source,),
    )


def read_cambridge(root: Path, scene: str, options: CambridgeOptions) -> LocalizationTask:
    """One scene.

    Raises:
        InputError: A file is missing or malformed, or a photo has no intrinsics.
    """
    images = existing_folder(root / scene, "Cambridge scene")
    if options.retriangulated is None:
        intrinsics = _nvm_intrinsics(images)
    else:
        intrinsics = _colmap_intrinsics(images, Path(options.retriangulated) / scene)
    photos = {
        split: {
            name: (intrinsics(name), pose_from_quaternion(values[3:], where, center=values[:3]))
            for where, name, values in read_number_lines(
                images / f"dataset_{split}.txt", 7, _LINE, num_header_lines=3
            )
        }
        for split in ("train", "test")
    }
    map_names = tuple(photos["train"])
    queries = {name: camera for name, (camera, _) in photos["test"].items()}
    return LocalizationTask(
        name=scene,
        images=images,
        map_names=map_names,
        query_cameras=queries,
        reference=posed_model(photos["train"]),
        truth={name: pose for name, (_, pose) in (photos["train"] | photos["test"]).items()},
        retrieval=published_retrieval(options.retrieval_pairs, queries, map_names, scene=scene),
    )


def _nvm_intrinsics(images: Path) -> Intrinsics:
    """Focal length per photo; the NVM calls ``frame.png`` on the disk ``frame.jpg``."""
    nvm = images / "reconstruction.nvm"
    focals = {PurePosixPath(name).with_suffix(""): c.focal_px for name, c in read_nvm(nvm).items()}

    def camera(name: str) -> pycolmap.Camera:
        focal = focals.get(PurePosixPath(name).with_suffix(""))
        if focal is None:
            raise InputError(f"'{nvm}' does not hold '{name}' (there with the ending .jpg)")
        return simple_camera(images / name, focal)

    return camera


def _colmap_intrinsics(images: Path, models: Path) -> Intrinsics:
    """Those of ``model_train`` and ``list_query.txt`` (1024 px wide), at the size of the photos."""
    known = {
        n: camera for n, (camera, _) in model_photos(read_model(models / "model_train")).items()
    }
    listed = read_photo_list(models / "list_query.txt")
    known.update({name: given for name, given in listed.items() if given is not None})

    def camera(name: str) -> pycolmap.Camera:
        if name not in known:
            raise InputError(f"'{models}' has no intrinsics of '{name}'")
        width, height = image_size(images / name, apply_exif_orientation=False)
        small = known[name]
        if abs(small.width / width - small.height / height) > 1.0 / min(width, height):
            raise InputError(
                f"'{images / name}' has {width}x{height} pixels, but its camera in '{models}' "
                f"{small.width}x{small.height}: another shape"
            )
        full = pycolmap.Camera(small.todict())
        full.rescale(width, height)
        return full

    return camera
