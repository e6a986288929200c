"""Pairs of real photos with known poses, the second of each zoomed: a part of it, enlarged.

    python -m benchmarks.zoomed_pairs ../shared/data/strecha/entry-P10 OUT --zoom 3
    python groundloc.py benchmark pairs OUT --out RUN --set "crop_size=[512,384]"

Which part is drawn for each photo, with its centre anywhere in the middle 60 % of both sides, so
some pairs share nothing. It is cut out of the photo at its full size, so the zoom is one of a lens
as long as it enlarges nothing: ``--long-side`` times the zoom is at most the photo's long side.
"""

import argparse
import json
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.datasets.pair_task import FloatArray, PairsOptions, prepare_photo
from benchmarks.datasets.pairs import FolderPairsOptions, open_pairs
from matching.errors import InputError
from matching.files import atomic_folder

_CENTRES = (0.2, 0.8)  # of the parts, fractions of the photo's sides
_QUALITY = 95  # of the JPEGs


@dataclass(frozen=True, kw_only=True)
class ZoomedPairsOptions:
    """How pairs are zoomed."""

    zoom: float = 3.0  # focal length of the second photo over its own
    gaps: tuple[int, int] = (1, 3)  # places apart in the sorted photos, as in `benchmark pairs`
    long_side_px: int = 1024  # of the photos that are written
    seed: int = 0  # of the parts

    def __post_init__(self) -> None:
        if not self.zoom >= 1:
            raise ValueError(f"zoom must be >= 1, got {self.zoom}")
        if self.long_side_px < 16:
            raise ValueError(f"long_side_px must be at least 16, got {self.long_side_px}")


def write_zoomed_pairs(
    root: Path, out: Path, options: ZoomedPairsOptions | None = None
) -> list[Mapping[str, object]]:
    """Write photos, zoomed photos and ``pairs.json`` into a new folder.

    Args:
        root: Photos with known poses, as ``groundloc benchmark pairs`` takes them.
        out: The new folder.
        options: How to zoom.

    Returns:
        What is in ``pairs.json``.

    Raises:
        InputError: ``out`` exists, pairs without a pose, or what reading the pairs may raise.
    """
    options = options or ZoomedPairsOptions()
    if out.exists():
        raise InputError(f"'{out}' exists: give a new folder")
    found = open_pairs(root, FolderPairsOptions(gaps=options.gaps))
    rng = np.random.default_rng(options.seed)
    centres: dict[str, FloatArray] = {}
    entries: list[Mapping[str, object]] = []
    with atomic_folder(out) as folder:
        images = folder / "images"
        for kind in ("whole", "zoomed"):
            (images / kind).mkdir(parents=True)
        matrices: dict[str, FloatArray] = {}
        for pair in found.pairs:
            if pair.cam1_from_cam0 is None or pair.camera0 is None or pair.camera1 is None:
                raise InputError(f"no known pose of '{pair.image0}' and '{pair.image1}'")
            centres.setdefault(pair.image1, rng.uniform(*_CENTRES, 2))
            names = f"whole/{_flat(pair.image0)}.jpg", f"zoomed/{_flat(pair.image1)}.jpg"
            views = (
                (pair.image0, pair.camera0, 1.0, np.array([0.5, 0.5])),
                (pair.image1, pair.camera1, options.zoom, centres[pair.image1]),
            )
            for name, (image, camera, zoom, centre) in zip(names, views, strict=True):
                if name not in matrices:
                    photo, K = prepare_photo(found.images / image, camera, PairsOptions())
                    part, matrices[name] = zoomed(photo, K, zoom, centre, options.long_side_px)
                    part.save(images / name, quality=_QUALITY)
            entries.append(
                {
                    "image0": names[0],
                    "image1": names[1],
                    "K0": matrices[names[0]].tolist(),
                    "K1": matrices[names[1]].tolist(),
                    "T_0to1": pair.cam1_from_cam0.tolist(),
                }
            )
        (folder / "pairs.json").write_text(json.dumps(entries, indent=1), encoding="utf-8")
    return entries


def zoomed(
    photo: NDArray[np.uint8], K: FloatArray, zoom: float, centre: FloatArray, long_side_px: int
) -> tuple[Image.Image, FloatArray]:
    """The part of a photo that is ``zoom`` times smaller, at a given size.

    Args:
        photo: (H, W, 3).
        K: Its calibration matrix, pixel centres at 0.5, (3, 3).
        zoom: At least 1.
        centre: Of the part, x and y as fractions of the photo's sides; it is moved so far that the
            part lies inside.
        long_side_px: Of the result.

    Returns:
        The part and its calibration matrix.
    """
    sides = np.array([photo.shape[1], photo.shape[0]], float)
    half = sides / zoom / 2
    low = np.clip(centre * sides, half, sides - half) - half
    size = np.maximum(1, np.rint(sides * long_side_px / sides.max())).astype(int)
    part = Image.fromarray(photo).resize(
        (int(size[0]), int(size[1])),
        Image.Resampling.LANCZOS,
        box=(*low.tolist(), *(low + 2 * half).tolist()),
    )
    scale = size / (2 * half)
    lens = np.array(
        [[scale[0], 0, -scale[0] * low[0]], [0, scale[1], -scale[1] * low[1]], [0, 0, 1]]
    )
    return part, lens @ K


def _flat(name: str) -> str:
    """A name without folders, another one for each name."""
    return name.replace("%", "%25").replace("/", "%2F")


def main(arguments: list[str] | None = None) -> None:
    """Write the pairs; the command line of this module."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("photos", type=Path, help="photos with known poses")
    parser.add_argument("out", type=Path, help="new folder")
    parser.add_argument("--zoom", type=float, default=3.0)
    parser.add_argument("--gaps", type=int, nargs=2, default=(1, 3), metavar=("LEAST", "MOST"))
    parser.add_argument("--long-side", type=int, default=1024, help="pixels")
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args(arguments)
    try:
        options = ZoomedPairsOptions(
            zoom=args.zoom, gaps=tuple(args.gaps), long_side_px=args.long_side, seed=args.seed
        )
        entries = write_zoomed_pairs(args.photos, args.out, options)
    except ValueError as error:  # InputError is one
        sys.exit(f"error: {error}")
    sys.stdout.write(f"{len(entries)} pairs in {args.out}\n")


if __name__ == "__main__":
    main()
