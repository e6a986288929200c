"""Many rendered places with look-alikes, far apart in one world: what retrieval has to tell apart.

Every place has photos for a map and queries in other light. Places share textures, and more than
a third of them are twins of another one: the same building with most of its things exchanged. The
truth is exact: poses, and for every query how much of its surface each map photo sees.

Run: python -m benchmarks.rendered_places FOLDER [--num-places 200] [--device cuda]
"""

import argparse
import json
import sys
from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path

import numpy as np
import pycolmap
import torch
from numpy.typing import NDArray
from PIL import Image

from mapping.cameras import read_camera_list, read_model
from matching.errors import InputError
from matching.files import PathLike, atomic_file, atomic_folder, write_text_atomic
from matching.progress import Progress, silent
from matching.training.draft import Palette
from matching.training.lighting import draw_lights
from matching.training.overlap import draw_overlapping, overlap
from matching.training.render import depth_images, render_images
from matching.training.scenes import draw_stage
from matching.training.sensor import develop
from matching.training.stage import Stage
from matching.training.world import RADIUS, Scenes

SPACING_M = 300.0  # between places: no camera sees another place
_BASES, _TWINS = 16, 9  # places are drawn in blocks of this many, the same whatever is asked for
_EXCHANGED = 0.7  # share of a twin's things that are another place's
_THING_M = 2.0  # larger primitives belong to the building and stay
_PROBE = (32, 24)  # (width, height) of the depth maps that overlap is computed on
_MAP_FOCAL = 0.85  # of all map photos, in image widths
_WAITING = 8  # places being written while the next ones are rendered
_SECOND_VISIT = 0.3  # share of a place's map photos that were taken in another light


@dataclass(frozen=True, kw_only=True)
class PlacesOptions:
    """How many places and photos; fewer places are the first of more."""

    num_places: int = 50
    map_photos: int = 20  # of each place
    queries: int = 5  # of each place
    image_width: int = 320  # pixels; photos are 4:3
    jpeg_quality: int = 90
    seed: int = 0
    device: str = "cpu"  # "cuda" renders thousands in a minute, and draws another world

    def __post_init__(self) -> None:
        if not 1 <= self.jpeg_quality <= 100:
            raise ValueError(f"jpeg_quality must be in 1..100, got {self.jpeg_quality}")
        for name in ("num_places", "map_photos", "queries"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.map_photos < self.queries:
            raise ValueError(
                f"map_photos must be >= queries, got {self.map_photos} and {self.queries}"
            )
        if self.image_width < 64 or self.image_width % 4:
            raise ValueError(
                f"image_width must be a multiple of 4 from 64 on, got {self.image_width}"
            )

    @property
    def image_size(self) -> tuple[int, int]:
        """(width, height) in pixels."""
        return self.image_width, self.image_width * 3 // 4


@dataclass(frozen=True, kw_only=True)
class RenderedPlaces:
    """Photos on disk, laid out as ``groundloc benchmark colmap`` takes them.

    Attributes:
        folder: Holds ``images/PLACE/map_K.jpg`` and ``images/PLACE/query_K.jpg``, ``sparse_gt``,
            ``map.txt`` and ``query.txt``.
        map_names: The map's photos, place by place.
        query_cameras: Camera of each query by name.
        truth: The COLMAP model, loaded.
        overlaps: For each query, the share (0 to 1) of each other's surface that it and a map
            photo see, the smaller of both ways; only of map photos with some.
    """

    folder: Path
    map_names: list[str]
    query_cameras: dict[str, pycolmap.Camera]
    truth: pycolmap.Reconstruction
    overlaps: dict[str, dict[str, float]]

    @property
    def images(self) -> Path:
        """Folder of all photos."""
        return self.folder / "images"


@dataclass(frozen=True)
class _Shots:
    """All photos of one place, map photos first."""

    K: torch.Tensor  # (V, 3, 3)
    cam_from_place: torch.Tensor  # (V, 4, 4)
    overlaps: NDArray[np.float32]  # (queries, map photos)


def write_rendered_places(
    folder: PathLike, options: PlacesOptions | None = None, *, progress: Progress = silent
) -> RenderedPlaces:
    """Render the places' photos into a folder, with their truth beside them.

    An interrupted run continues at the first place that is not complete, and a finished one can be
    extended by more places.

    Args:
        folder: Where to; see `RenderedPlaces`.
        options: How many.
        progress: Wraps the loop over the places.

    Raises:
        InputError: The folder holds something else, or other places.
    """
    options = options or PlacesOptions()
    root = Path(folder)
    marker = root / "places.json"
    complete = (root / "query.txt").is_file()  # written last
    if root.exists() and any(root.iterdir()):
        if not marker.is_file():
            raise InputError(f"'{root}' is not empty and holds no rendered places")
        stored = PlacesOptions(**json.loads(marker.read_text(encoding="utf-8")))
        if replace(stored, num_places=options.num_places) != options:
            raise InputError(f"'{root}' holds places of other options: give another folder")
        complete &= stored == options
    if not complete:
        (root / "query.txt").unlink(missing_ok=True)
        write_text_atomic(marker, json.dumps(vars(options), indent=1) + "\n")
        _render_all(root, options, progress)
    return read_rendered_places(root)


def read_rendered_places(folder: PathLike) -> RenderedPlaces:
    """Read what `write_rendered_places` wrote.

    Raises:
        InputError: The folder holds no complete rendered places.
    """
    root = Path(folder)
    if not (root / "query.txt").is_file():
        raise InputError(f"'{root}' holds no complete rendered places")
    return RenderedPlaces(
        folder=root,
        map_names=(root / "map.txt").read_text(encoding="utf-8").splitlines(),
        query_cameras=read_camera_list(root / "query.txt"),
        truth=read_model(root / "sparse_gt"),
        overlaps=json.loads((root / "overlaps.json").read_text(encoding="utf-8")),
    )


def _render_all(root: Path, options: PlacesOptions, progress: Progress) -> None:
    palette = _palette(options.seed, options.device)
    truth = _Truth(options)
    block: Stage | None = None
    writing: deque[Future[None]] = deque()
    with ThreadPoolExecutor() as pool:
        for place in progress(range(options.num_places), "rendering places", options.num_places):
            row = place % (_BASES + _TWINS)
            if block is None or row == 0:
                block = _draw_block(place, palette, options)
            own = _one(block, row)
            shots = _draw_shots(own, place, options)
            truth.add(place, shots)
            target = root / "images" / _place_name(place)
            if not target.is_dir():
                photos = _photograph(own, shots, place, palette, options)
                writing.append(pool.submit(_write_photos, target, photos, options))
            while len(writing) > _WAITING:
                writing.popleft().result()
        for waiting in writing:
            waiting.result()
    truth.write(root)


@lru_cache(maxsize=1)
def _palette(seed: int, device: str) -> Palette:
    """Few textures of each style, so that places share them."""
    return Palette.paint(seed, per_style=4, size=256, device=device)


def _write_photos(folder: Path, photos: NDArray[np.uint8], options: PlacesOptions) -> None:
    """The photos of a place, all or none."""
    with atomic_folder(folder) as temporary:
        for name, photo in zip(_photo_names(options), photos, strict=True):
            Image.fromarray(photo).save(temporary / name, quality=options.jpeg_quality)


def _place_name(place: int) -> str:
    return f"place_{place:04d}"


def _photo_names(options: PlacesOptions) -> list[str]:
    maps = [f"map_{k:03d}.jpg" for k in range(options.map_photos)]
    return maps + [f"query_{k:03d}.jpg" for k in range(options.queries)]


def _generator(options: PlacesOptions, place: int, purpose: int) -> torch.Generator:
    """Draws that do not depend on how many places are asked for."""
    seed = int(np.random.SeedSequence([options.seed, place, purpose]).generate_state(1)[0])
    return torch.Generator(options.device).manual_seed(seed)


def _draw_block(place: int, palette: Palette, options: PlacesOptions) -> Stage:
    """The places of one block, mixed: some drawn, the others their twins."""
    generator = _generator(options, place, 0)
    bases = draw_stage(_BASES, generator, palette, difficulty=1.0)
    indoor = bases.indoor.tolist()
    # rooms and outdoor places in turns, so that every kind has twins
    order = np.argsort([k % 2 for k in range(_BASES)], kind="stable")
    original = torch.as_tensor(order[:_TWINS], device=options.device)
    donors = [_next_of_kind(int(k), indoor) for k in original]
    geometry = bases.scenes.geometry[original].clone()
    materials = bases.scenes.materials[original].clone()
    given, worn = bases.scenes.geometry[donors], bases.scenes.materials[donors]
    small = (geometry[..., RADIUS] < _THING_M) & (given[..., RADIUS] < _THING_M)
    draw = torch.rand(small.shape, generator=generator, device=options.device)
    exchanged = small & (draw < _EXCHANGED)
    geometry[exchanged], materials[exchanged] = given[exchanged], worn[exchanged]

    def joined(of_bases: torch.Tensor, of_twins: torch.Tensor) -> torch.Tensor:
        mixed = torch.randperm(
            _BASES + _TWINS, generator=torch.Generator().manual_seed(options.seed + place)
        )
        return torch.cat([of_bases, of_twins])[mixed.to(options.device)].contiguous()

    return Stage(
        scenes=Scenes(
            geometry=joined(bases.scenes.geometry, geometry),
            materials=joined(bases.scenes.materials, materials),
        ),
        low=joined(bases.low, bases.low[original]),
        high=joined(bases.high, bases.high[original]),
        targets=joined(bases.targets, bases.targets[original]),
        indoor=joined(bases.indoor, bases.indoor[original]),
    )


def _next_of_kind(base: int, indoor: list[bool]) -> int:
    """A neighbour in the draw, most often of the same kind: its things stand where these do."""
    same = [k for k, inside in enumerate(indoor) if inside == indoor[base] and k != base]
    return min(same, key=lambda k: (abs(k - base), k))


def _one(stage: Stage, row: int) -> Stage:
    part = slice(row, row + 1)
    return Stage(
        scenes=Scenes(geometry=stage.scenes.geometry[part], materials=stage.scenes.materials[part]),
        low=stage.low[part],
        high=stage.high[part],
        targets=stage.targets[part],
        indoor=stage.indoor[part],
    )


def _draw_shots(place: Stage, number: int, options: PlacesOptions) -> _Shots:
    """Cameras of all photos of a place, and which of them see the same surface."""
    generator = _generator(options, number, 1)
    wanted = options.map_photos + options.queries
    pairs = -(-wanted // 2)
    # every query is the other half of a pair with a map photo, the other map photos are pairs
    many = Stage(
        scenes=Scenes(
            geometry=place.scenes.geometry.repeat(pairs, 1, 1),
            materials=place.scenes.materials.repeat(pairs, 1, 1, 1),
        ),
        low=place.low.expand(pairs, -1),
        high=place.high.expand(pairs, -1),
        targets=place.targets.expand(pairs, -1, -1),
        indoor=place.indoor.expand(pairs),
    )
    cameras = draw_overlapping(many, options.image_size, generator, difficulty=0.8)
    order = torch.cat([
        torch.arange(0, 2 * options.queries, 2),
        torch.arange(2 * options.queries, 2 * pairs)[: options.map_photos - options.queries],
        torch.arange(1, 2 * options.queries, 2),
    ]).to(cameras.K.device)  # fmt: skip
    K = cameras.K.flatten(0, 1)[order]
    poses = cameras.cam_from_world.flatten(0, 1)[order]
    K[: options.map_photos] = _map_camera(options).to(K.device)
    shrink = _PROBE[0] / options.image_width
    small = K * torch.tensor([[shrink], [shrink], [1.0]], device=K.device)
    view = _views(options).to(K.device)
    depth = depth_images(place.scenes, torch.zeros_like(view), view, small, poses, _PROBE)
    query, mapped = torch.meshgrid(
        torch.arange(options.map_photos, wanted), torch.arange(options.map_photos), indexing="ij"
    )
    both = torch.stack([query.reshape(-1), mapped.reshape(-1)], 1).to(K.device)
    shares = overlap(depth[both], small[both], poses[both]).reshape(query.shape)
    return _Shots(K, poses, shares.cpu().numpy())


def _views(options: PlacesOptions) -> torch.Tensor:
    """Some things have gone or come between the map's photos (0) and the queries (1)."""
    return torch.tensor([0] * options.map_photos + [1] * options.queries)


def _map_camera(options: PlacesOptions) -> torch.Tensor:
    width, height = options.image_size
    focal = _MAP_FOCAL * width
    return torch.tensor([[focal, 0, width / 2], [0, focal, height / 2], [0, 0, 1]])


def _photograph(
    place: Stage, shots: _Shots, number: int, palette: Palette, options: PlacesOptions
) -> NDArray[np.uint8]:
    """All photos of a place, (V, H, W, 3)."""
    generator = _generator(options, number, 2)

    def lights(many: int) -> torch.Tensor:
        box = (place.low.expand(many, -1), place.high.expand(many, -1), place.indoor.expand(many))
        return draw_lights(*box, palette, generator, difficulty=1.0)[:, 0]

    visits = lights(2)
    second = torch.rand(options.map_photos, generator=generator, device=generator.device)
    of_map = visits[(second < _SECOND_VISIT).long()]
    view = _views(options).to(shots.K.device)
    frames = render_images(
        place.scenes,
        torch.zeros_like(view),
        view,
        shots.K,
        shots.cam_from_place,
        options.image_size,
        torch.cat([of_map, lights(options.queries)]),
        palette.bank,
    )
    photos = develop(frames.radiance.permute(0, 3, 1, 2), generator, difficulty=0.7)
    levels = (photos.clamp(0, 1) * 255 + 0.5).to(torch.uint8)
    return levels.permute(0, 2, 3, 1).cpu().numpy()


class _Truth:
    """Collects the poses of all photos in one world, and the overlaps."""

    def __init__(self, options: PlacesOptions) -> None:
        self.options = options
        self.model = pycolmap.Reconstruction()
        self.map_names: list[str] = []
        self.query_lines: list[str] = []
        self.overlaps: dict[str, dict[str, float]] = {}

    def add(self, place: int, shots: _Shots) -> None:
        """The photos of one place."""
        # on a square grid whose cells do not depend on the number of places
        world_from_place = np.eye(4)
        world_from_place[:2, 3] = SPACING_M * np.array(divmod(place, 100))
        names = [f"{_place_name(place)}/{name}" for name in _photo_names(self.options)]
        maps, queries = names[: self.options.map_photos], names[self.options.map_photos :]
        poses = shots.cam_from_place.cpu().double().numpy() @ np.linalg.inv(world_from_place)
        for name, K, pose in zip(names, shots.K.cpu().double().numpy(), poses, strict=True):
            camera_id = self._camera(name, K)
            image = pycolmap.Image(
                name=name, camera_id=camera_id, image_id=self.model.num_images() + 1
            )
            rotation, _, wrong = np.linalg.svd(pose[:3, :3])
            pose[:3, :3] = rotation @ wrong  # float32 rotations are off by their rounding
            self.model.add_image_with_trivial_frame(image, pycolmap.Rigid3d(pose[:3]))
        self.map_names += maps
        for query, shares in zip(queries, shots.overlaps, strict=True):
            self.overlaps[query] = {
                name: round(float(share), 3)
                for name, share in zip(maps, shares, strict=True)
                if share > 0
            }

    def _camera(self, name: str, K: NDArray[np.float64]) -> int:
        """The map photos share a camera, every query has its own."""
        is_query = "/query_" in name
        if not is_query and self.model.num_cameras():
            return 1
        width, height = self.options.image_size
        number = self.model.num_cameras() + 1
        params = [K[0, 0], K[1, 1], K[0, 2], K[1, 2]]
        camera = pycolmap.Camera(
            camera_id=number, model="PINHOLE", width=width, height=height, params=params
        )
        self.model.add_camera_with_trivial_rig(camera)
        if is_query:
            numbers = " ".join(f"{value:.12g}" for value in params)
            self.query_lines.append(f"{name} PINHOLE {width} {height} {numbers}\n")
        return number

    def write(self, root: Path) -> None:
        """Everything, the list of queries last."""
        with atomic_folder(root / "sparse_gt") as temporary:
            self.model.write_binary(temporary)
        write_text_atomic(root / "overlaps.json", json.dumps(self.overlaps, indent=0) + "\n")
        write_text_atomic(root / "map.txt", "".join(f"{name}\n" for name in self.map_names))
        with atomic_file(root / "query.txt") as temporary:
            temporary.write_text("".join(self.query_lines), encoding="utf-8")


def main() -> None:
    """Render places from the command line; every option of `PlacesOptions` is one here."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path)
    for name, value in vars(PlacesOptions()).items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value)
    arguments = vars(parser.parse_args())
    places = write_rendered_places(arguments.pop("folder"), PlacesOptions(**arguments))
    with_overlap = sum(max(o.values(), default=0) >= 0.25 for o in places.overlaps.values())
    sys.stdout.write(
        f"{len(places.map_names)} map photos and {len(places.query_cameras)} queries, "
        f"{with_overlap} of them with a map photo that shares a quarter of the surface\n"
    )


if __name__ == "__main__":
    main()
