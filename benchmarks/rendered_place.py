"""The demo's photos: a place rendered by groundloc, on disk with its exact truth."""

import hashlib
import json
import shutil
import zlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pycolmap
from numpy.typing import NDArray
from PIL import Image, ImageFilter

import matching.training
from mapping.cameras import read_camera_list, read_model
from matching.errors import InputError
from matching.files import PathLike, atomic_file, atomic_folder, write_text_atomic
from matching.progress import Progress, silent
from matching.training.builder import FloatArray
from matching.training.demo_place import DemoPlace, Shot, demo_place


@dataclass(frozen=True, kw_only=True)
class PlaceOptions:
    """Which photos of the rendered place are taken."""

    seed: int = 0  # of the textures
    num_map_photos: int = 24  # at most 24
    num_queries: int = 12  # at most 12
    image_width: int = 640  # pixels; photos are 4:3
    jpeg_quality: int = 92

    def __post_init__(self) -> None:
        if not 2 <= self.num_map_photos <= 24:
            raise ValueError(f"num_map_photos must be in 2..24, got {self.num_map_photos}")
        if not 1 <= self.num_queries <= 12:
            raise ValueError(f"num_queries must be in 1..12, got {self.num_queries}")
        if self.image_width < 64 or self.image_width % 4:
            raise ValueError(
                f"image_width must be a multiple of 4 from 64 on, got {self.image_width}"
            )
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be in 1..100, got {self.jpeg_quality}")


@dataclass(frozen=True, kw_only=True)
class RenderedPlace:
    """Photos on disk, laid out as ``groundloc benchmark colmap`` takes them.

    Attributes:
        folder: Holds ``images/map``, ``images/query``, ``sparse_gt`` (COLMAP model of the true
            cameras of all photos), ``map.txt`` (names) and ``query.txt`` (names and cameras).
        map_names: Names of the map's photos, relative to ``images``.
        query_cameras: Camera of each query by name.
        truth: The COLMAP model, loaded.
    """

    folder: Path
    map_names: list[str]
    query_cameras: dict[str, pycolmap.Camera]
    truth: pycolmap.Reconstruction

    @property
    def images(self) -> Path:
        """Folder of all photos."""
        return self.folder / "images"


@dataclass(frozen=True, kw_only=True)
class PhotoPlan:
    """One photo to be rendered.

    Attributes:
        shot: Pose, light and exposure.
        K: Intrinsics, (3, 3) pixels.
        image_size: (width, height).
        noise: Standard deviation of the sensor's noise, of a display range of 1.
        blur_px: Standard deviation of a Gaussian blur: hands that shake, a lens out of focus.
    """

    shot: Shot
    K: FloatArray
    image_size: tuple[int, int]
    noise: float = 0.0
    blur_px: float = 0.0


def write_rendered_place(
    folder: PathLike, options: PlaceOptions | None = None, *, progress: Progress = silent
) -> RenderedPlace:
    """Render the place's photos into a folder, with their truth beside them.

    Photos that an earlier, perhaps interrupted, run of the same version has rendered are kept.

    Args:
        folder: Where to; see `RenderedPlace`.
        options: Which photos.
        progress: Wraps the loop over the photos.

    Raises:
        InputError: The folder holds something else.
    """
    options = options or PlaceOptions()

    def plans() -> tuple[DemoPlace, dict[str, PhotoPlan]]:
        place = demo_place(options.seed)  # seconds of painting
        K, image_size = _camera(place, options)
        return place, {
            name: PhotoPlan(shot=shot, K=K, image_size=image_size)
            for name, shot in _shots(place, options).items()
        }

    return write_photos(
        folder,
        [
            *(f"map/map_{k:02d}.jpg" for k in range(options.num_map_photos)),
            *(f"query/query_{k:02d}.jpg" for k in range(options.num_queries)),
        ],
        plans,
        vars(options),
        jpeg_quality=options.jpeg_quality,
        progress=progress,
    )


def write_photos(
    folder: PathLike,
    names: Sequence[str],
    make_plans: Callable[[], tuple[DemoPlace, Mapping[str, PhotoPlan]]],
    options: Mapping[str, Any],
    *,
    jpeg_quality: int = 92,
    progress: Progress = silent,
) -> RenderedPlace:
    """Render photos of a place into a folder, as `write_rendered_place` does for the demo's.

    Args:
        folder: Where to; see `RenderedPlace`.
        names: Of all photos: ``map/...`` and ``query/...``.
        make_plans: The place and the plan of each of the names; called only if something has to
            be rendered.
        options: What the plans depend on, as plain JSON values: with others the photos are
            rendered anew.
        jpeg_quality: Of the photos.
        progress: Wraps the loop over the photos.

    Raises:
        InputError: The folder holds something else.
    """
    root = Path(folder)
    marker = root / "place.json"
    identity = {"renderer": _renderer_hash(), "options": json.loads(json.dumps(dict(options)))}
    if root.exists() and not marker.is_file() and any(root.iterdir()):
        raise InputError(f"'{root}' is not empty and no rendered place: give another --out")
    if _identity(marker) != identity:
        shutil.rmtree(root / "images", ignore_errors=True)
        (root / "query.txt").unlink(missing_ok=True)
        write_text_atomic(marker, json.dumps(identity, indent=1) + "\n")
    missing = [name for name in names if not (root / "images" / name).is_file()]
    # query.txt is written last: where it is, the truth is complete
    if missing or not (root / "query.txt").is_file():
        photos = progress(missing, "rendering photos", len(missing))
        place, plans = make_plans()  # a bar made before shows already
        for name in photos:
            image = _render(place, plans[name], seed=zlib.crc32(name.encode()))
            with atomic_file(root / "images" / name) as temporary:
                # full colour resolution: halved, it would blur the coloured textures
                Image.fromarray(image).save(
                    temporary, format="JPEG", quality=jpeg_quality, subsampling=0
                )
        _write_truth(root, {name: plans[name] for name in names})
    truth = read_model(root / "sparse_gt")
    return RenderedPlace(
        folder=root,
        map_names=[name for name in names if name.startswith("map/")],
        query_cameras=read_camera_list(root / "query.txt"),
        truth=truth,
    )


def _renderer_hash() -> str:
    """Hash of the renderer's source, so that photos of another version are made anew."""
    source = Path(matching.training.__file__).parent
    digest = hashlib.sha256()
    for file in sorted(source.glob("*.py")):
        digest.update(file.read_bytes())
    return digest.hexdigest()


def _identity(marker: Path) -> object:
    try:
        return json.loads(marker.read_text(encoding="utf-8"))
    except (FileNotFoundError, ValueError):
        return None


def _evenly(shots: Sequence[Shot], count: int) -> list[Shot]:
    """``count`` of the shots, spread over all of them."""
    rows = np.linspace(0, len(shots) - 1, count).round().astype(int)
    return [shots[row] for row in rows]


def _shots(place: DemoPlace, options: PlaceOptions) -> dict[str, Shot]:
    """The shots by file name."""
    map_shots = _evenly(place.map_shots, options.num_map_photos)
    query_shots = _evenly(place.query_shots, options.num_queries)
    return {
        **{f"map/map_{k:02d}.jpg": shot for k, shot in enumerate(map_shots)},
        **{f"query/query_{k:02d}.jpg": shot for k, shot in enumerate(query_shots)},
    }


def _camera(place: DemoPlace, options: PlaceOptions) -> tuple[np.ndarray, tuple[int, int]]:
    """The place's camera at the asked size."""
    scale = options.image_width / place.image_size[0]
    height = round(place.image_size[1] * scale)
    # centre of the top-left pixel at (0.5, 0.5): a resize is a plain multiplication
    return np.diag([scale, scale, 1.0]) @ place.K, (options.image_width, height)


def _render(place: DemoPlace, plan: PhotoPlan, *, seed: int) -> NDArray[np.uint8]:
    shot = plan.shot
    image = place.place.render(
        plan.K, plan.image_size, shot.cam_from_world, shot.light, exposure=shot.exposure
    ).image
    if plan.blur_px:
        blurred = Image.fromarray(image).filter(ImageFilter.GaussianBlur(plan.blur_px))
        image = np.asarray(blurred)
    if plan.noise:
        noise = np.random.default_rng(seed).normal(0, 255 * plan.noise, image.shape)
        image = np.clip(image + noise + 0.5, 0, 255).astype(np.uint8)
    return image


def _write_truth(root: Path, plans: Mapping[str, PhotoPlan]) -> None:
    model = pycolmap.Reconstruction()
    words: dict[str, str] = {}
    camera_ids: dict[str, int] = {}
    for number, (name, plan) in enumerate(plans.items(), start=1):
        (width, height), K = plan.image_size, plan.K
        params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
        words[name] = " ".join(["PINHOLE", f"{width} {height}", *(f"{v:.12g}" for v in params)])
        if words[name] not in camera_ids:
            camera_ids[words[name]] = len(camera_ids) + 1
            model.add_camera_with_trivial_rig(
                pycolmap.Camera(
                    camera_id=camera_ids[words[name]],
                    model="PINHOLE",
                    width=width,
                    height=height,
                    params=params,
                )
            )
        image = pycolmap.Image(name=name, camera_id=camera_ids[words[name]], image_id=number)
        pose = pycolmap.Rigid3d(np.asarray(plan.shot.cam_from_world, float)[:3])
        model.add_image_with_trivial_frame(image, pose)
    with atomic_folder(root / "sparse_gt") as temporary:
        model.write_text(temporary)
    write_text_atomic(
        root / "map.txt", "".join(f"{name}\n" for name in plans if name.startswith("map/"))
    )
    write_text_atomic(
        root / "query.txt",
        "".join(f"{n} {words[n]}\n" for n in plans if n.startswith("query/")),
    )
