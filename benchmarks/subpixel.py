"""What subpixel refinement gains: matches of rendered photos against their exact geometry.

python -m benchmarks.subpixel [--pairs 6] [--width 320]

The photos are those of the demo's place. To measure the refinement and not a network, descriptors
are plain: the 24 lowest DCT coefficients (without the mean) of 7 x 7 grey patches, unit norm. All
mutual nearest neighbours within 3 pixels of the truth are compared; the same matches every time.
"""

import argparse
import sys

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from matching.peaks import displacements
from matching.reciprocal import nearest_neighbours
from matching.training.builder import FloatArray, Rendering
from matching.training.demo_place import demo_place

PATCH = 7
COEFFICIENTS = 24
GROSS_PX = 3.0  # farther from the truth than this is a wrong match, not an inaccurate one


def patch_descriptors(image: NDArray[np.uint8]) -> Tensor:
    """(H, W, 24) unit descriptors of grey patches; zero within half a patch of the border."""
    grey = torch.from_numpy(image.astype(np.float32).mean(-1))[None, None]
    patches = torch.nn.functional.unfold(grey, PATCH)[0].T  # (h * w, 49)
    k = torch.arange(PATCH, dtype=torch.float32)
    basis = torch.cos(torch.pi * (k + 0.5) * k[:, None] / PATCH)
    both = torch.einsum("ux,vy->uvxy", basis, basis).reshape(PATCH * PATCH, -1)
    order = torch.argsort((k[:, None] + k).flatten(), stable=True)[1 : COEFFICIENTS + 1]
    descriptors = torch.nn.functional.normalize(patches @ both[order].T, dim=-1)
    margin = PATCH // 2
    height, width = image.shape[:2]
    inner = descriptors.view(height - 2 * margin, width - 2 * margin, -1)
    return torch.nn.functional.pad(inner, (0, 0, margin, margin, margin, margin))


def flow(
    view0: Rendering, view1: Rendering, K: FloatArray, cam_from_world: FloatArray
) -> NDArray[np.float64]:
    """Pixel of image 1 that shows what each pixel centre of image 0 shows; NaN if it is hidden."""
    points = view0.points.reshape(-1, 3).astype(np.float64)
    in_camera = points @ cam_from_world[:3, :3].T + cam_from_world[:3, 3]
    with np.errstate(invalid="ignore", divide="ignore"):
        projected = in_camera @ K.T
        pixels = projected[:, :2] / projected[:, 2:]
        height, width = view1.depth.shape
        inside = ((pixels >= 0) & (pixels < [width, height])).all(1) & (in_camera[:, 2] > 0)
        column, row = np.where(inside[:, None], pixels, 0).astype(int).T
        seen = np.abs(view1.depth[row, column] - in_camera[:, 2]) < 0.02 * in_camera[:, 2]
    pixels[~(inside & seen)] = np.nan
    return pixels.reshape(*view0.depth.shape, 2)


def interpolate(field: NDArray[np.float64], positions: NDArray[np.float64]) -> NDArray[np.float64]:
    """A field on pixel centres (H, W, 2) at positions (M, 2); NaN across edges."""
    low = np.floor(positions - 0.5).astype(int)
    weight = positions - 0.5 - low
    low = np.clip(low, 0, np.array(field.shape[1::-1]) - 2)
    total = np.zeros((len(positions), 2))
    corners = []
    for dx in (0, 1):
        for dy in (0, 1):
            corner = field[low[:, 1] + dy, low[:, 0] + dx]
            corners.append(corner)
            factor = (weight[:, 0] if dx else 1 - weight[:, 0]) * (
                weight[:, 1] if dy else 1 - weight[:, 1]
            )
            total += factor[:, None] * corner
    spread = np.ptp(np.stack(corners), axis=0).max(1)
    total[~(spread < 4)] = np.nan
    return total


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=int, default=6, help="at most 12")
    parser.add_argument("--width", type=int, default=320, help="of the photos, pixels")
    options = parser.parse_args()
    demo = demo_place()
    scale = options.width / demo.image_size[0]
    K = demo.K * [[scale], [scale], [1.0]]
    image_size = (options.width, round(demo.image_size[1] * scale))
    errors: dict[str, list[NDArray[np.float64]]] = {}
    for number in range(options.pairs):
        shots = demo.map_shots[2 * number], demo.map_shots[2 * number + 1]  # about a metre apart
        views = [
            demo.place.render(K, image_size, shot.cam_from_world, shot.light) for shot in shots
        ]
        truth = flow(views[0], views[1], K, shots[1].cam_from_world)
        desc0, desc1 = (patch_descriptors(view.image) for view in views)
        rows0, rows1 = nearest_neighbours(desc0, desc1).mutual()
        xy0, xy1 = (torch.stack([r % image_size[0], r // image_size[0]], 1) for r in (rows0, rows1))
        gap = (xy1 + 0.5).numpy() - truth[xy0[:, 1], xy0[:, 0]]
        right = torch.from_numpy(np.linalg.norm(gap, axis=1) < GROSS_PX)
        xy0, xy1 = xy0[right], xy1[right]
        offset0, offset1 = displacements(desc0, desc1, xy0, xy1)
        ways = {
            "pixel centres": (0.0, 0.0),
            "image 1 moved": (0.0, 1.0),
            "both moved in full": (1.0, 1.0),
            "refine_subpixel: both moved by half": (0.5, 0.5),
        }
        for way, (share0, share1) in ways.items():
            moved0 = (xy0 + 0.5 + share0 * offset0).numpy().astype(np.float64)
            moved1 = (xy1 + 0.5 + share1 * offset1).numpy().astype(np.float64)
            errors.setdefault(way, []).append(
                np.linalg.norm(moved1 - interpolate(truth, moved0), axis=1)
            )
    known = ~np.isnan(np.stack([np.concatenate(parts) for parts in errors.values()])).any(0)
    lines = [
        f"{known.sum()} matches of {options.pairs} pairs at {image_size[0]}x{image_size[1]}",
        "",
        "| positions | median error px | mean px | within 0.25 px | within 0.5 px |",
        "| --- | ---: | ---: | ---: | ---: |",
    ]
    for way, parts in errors.items():
        error = np.concatenate(parts)[known]
        shares = " | ".join(f"{100 * (error < limit).mean():.1f} %" for limit in (0.25, 0.5))
        lines.append(f"| {way} | {np.median(error):.3f} | {error.mean():.3f} | {shares} |")
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
