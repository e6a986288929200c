"""How good a network is while it trains: on held-out worlds, and on real photos with known poses.

Both match at the network's own descriptor grid with sub-pixel places. The pose accuracy that counts
in the end is measured by ``groundloc benchmark pairs``; this is the cheap view of it.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from matching.descriptor_grid import cells_to_pixels, refine_positions
from matching.files import PathLike, existing_folder
from matching.images import read_image
from matching.network.prediction import Prediction, Want
from matching.network.small import SmallNetwork
from matching.training.batch import PairBatch
from matching.training.options import ValidationOptions

_ROWS_AT_ONCE = 2048  # similarities of so many cells with all others are held at a time
_SAME_SURFACE = 0.02  # relative depth


@dataclass(frozen=True, kw_only=True)
class PosedPhoto:
    """A photo, cropped to the network's size, with its true camera."""

    image: NDArray[np.uint8]  # (H, W, 3)
    K: NDArray[np.float64]  # (3, 3) pixels of the crop, top-left pixel centre at (0.5, 0.5)
    cam_from_world: NDArray[np.float64]  # (4, 4)


@torch.no_grad()
def mutual_matches(
    view0: Prediction, view1: Prediction, item: int, stride: int, max_matches: int
) -> tuple[Tensor, Tensor]:
    """Mutual nearest neighbours between all cells of two descriptor grids, surest first.

    Args:
        view0: Prediction of image 0.
        view1: Prediction of image 1.
        item: Which pair of the batch.
        stride: Pixels per cell.
        max_matches: Of more, those of the largest confidence are kept.

    Returns:
        Pixels in image 0 (cell centres) and in image 1 (between cells), (M, 2) float32 each.
    """
    assert view0.descriptors is not None and view1.descriptors is not None
    assert view0.descriptor_confidence is not None and view1.descriptor_confidence is not None
    grid0, grid1 = view0.descriptors[item], view1.descriptors[item]
    width0, width1 = grid0.shape[1], grid1.shape[1]
    rows0, rows1 = grid0.flatten(0, 1), grid1.flatten(0, 1)
    if rows0.device.type == "cuda":
        # half precision only picks the cell; its place comes from float32 descriptors
        rows0, rows1 = rows0.half(), rows1.half()
    best1 = torch.cat([(part @ rows1.T).argmax(1) for part in rows0.split(_ROWS_AT_ONCE)])
    best0 = torch.cat([(part @ rows0.T).argmax(1) for part in rows1.split(_ROWS_AT_ONCE)])
    index0 = torch.arange(len(best1), device=best1.device)
    index0 = index0[best0[best1] == index0]
    index1 = best1[index0]
    confidence0 = view0.descriptor_confidence[item].flatten()[index0]
    confidence1 = view1.descriptor_confidence[item].flatten()[index1]
    order = (confidence0 * confidence1).argsort(descending=True)[:max_matches]
    index0, index1 = index0[order], index1[order]
    cells0 = torch.stack([index0 % width0, index0 // width0], -1)
    cells1 = torch.stack([index1 % width1, index1 // width1], -1)
    places1 = refine_positions(grid0[cells0[:, 1], cells0[:, 0]], grid1, cells1)
    return cells_to_pixels(cells0, stride), cells_to_pixels(places1, stride)


@torch.no_grad()
def validate_worlds(
    network: SmallNetwork, batches: Iterable[PairBatch], options: ValidationOptions
) -> dict[str, float]:
    """Match rendered pairs and compare with the exact geometry.

    Args:
        network: In evaluation mode.
        batches: Held-out pairs on the network's device.
        options: How many matches count.

    Returns:
        Shares of the matches within 1, 2 and 5 px of the truth (a match without a true partner is
        wrong), matches per pair, median error of those within 5 px, and the share of images whose
        global descriptor finds its partner in the batch.
    """
    errors: list[Tensor] = []
    found: list[Tensor] = []
    num_pairs = 0
    for batch in batches:
        images = batch.images.float() * 2 - 1
        pairs = len(images)
        encoding = network.encode(images.transpose(0, 1).flatten(0, 1))
        pooled = network.global_descriptors(encoding.tokens)
        found.append((pooled[:pairs] @ pooled[pairs:].T).argmax(1).cpu() == torch.arange(pairs))
        want = Want(descriptors=True)
        view0, view1 = network.decode(encoding[:pairs], encoding[pairs:], want, want)
        for item in range(pairs):
            pixels0, pixels1 = mutual_matches(
                view0, view1, item, network.descriptor_stride, options.max_matches
            )
            errors.append(_world_errors(batch, item, pixels0, pixels1).cpu())
        num_pairs += pairs
    error = torch.cat(errors)
    close = error[error < 5]
    return {
        **_shares(error),
        "median_error_px": float(close.median()) if len(close) else math.nan,
        "matches_per_pair": len(error) / num_pairs,
        "retrieval_accuracy": float(torch.cat(found).float().mean()),
    }


@torch.no_grad()
def validate_photos(
    network: SmallNetwork, folder: PathLike, options: ValidationOptions
) -> dict[str, float]:
    """Match pairs of posed photos and compare with their epipolar geometry.

    Args:
        network: In evaluation mode.
        folder: ``images/`` and ``sparse_gt/`` with a COLMAP model of pinhole cameras.
        options: Which pairs, how many matches.

    Returns:
        Shares of the matches within 1, 2 and 5 px of the true epipolar line in image 1, and
        matches per pair.

    Raises:
        matching.errors.InputError: The folder or a photo is missing.
    """
    photos = read_posed_photos(folder, options.image_size)
    device = next(network.parameters()).device
    want = Want(descriptors=True)
    errors = []
    pairs = [
        (i, j)
        for i in range(len(photos))
        for j in range(i + 1, len(photos))
        if j - i <= options.max_gap
    ]
    for i, j in pairs:
        images = torch.from_numpy(np.stack([photos[i].image, photos[j].image])).to(device)
        encoding = network.encode(images.permute(0, 3, 1, 2).float() / 127.5 - 1)
        view0, view1 = network.decode(encoding[:1], encoding[1:], want, want)
        pixels0, pixels1 = mutual_matches(
            view0, view1, 0, network.descriptor_stride, options.max_matches
        )
        errors.append(
            epipolar_errors(photos[i], photos[j], pixels0.cpu().numpy(), pixels1.cpu().numpy())
        )
    error = torch.from_numpy(np.concatenate(errors))
    return {**_shares(error), "matches_per_pair": len(error) / len(pairs)}


def read_posed_photos(folder: PathLike, image_size: tuple[int, int]) -> list[PosedPhoto]:
    """The photos of a folder with their cameras, scaled to cover a size and cropped to its centre.

    Args:
        folder: ``images/`` and ``sparse_gt/`` with a COLMAP model of pinhole cameras.
        image_size: (width, height) in pixels; exchanged for portrait photos.
    """
    import pycolmap  # only here: the training itself runs without it

    root = existing_folder(folder, "folder of posed photos")
    model = pycolmap.Reconstruction(str(existing_folder(root / "sparse_gt", "COLMAP model")))
    photos = []
    for image in sorted(model.images.values(), key=lambda image: image.name):
        pixels = read_image(root / "images" / image.name)
        height, width = pixels.shape[:2]
        target = image_size if width >= height else image_size[::-1]
        K = np.array(model.cameras[image.camera_id].calibration_matrix())
        crop, K = _cover(pixels, K, target)
        cam_from_world = np.eye(4)
        cam_from_world[:3] = image.cam_from_world().matrix()
        photos.append(PosedPhoto(image=crop, K=K, cam_from_world=cam_from_world))
    return photos


def epipolar_errors(
    photo0: PosedPhoto,
    photo1: PosedPhoto,
    pixels0: NDArray[np.float32],
    pixels1: NDArray[np.float32],
) -> NDArray[np.float64]:
    """Distances of matches from the true epipolar lines in image 1, (M,) pixels."""
    cam1_from_cam0 = photo1.cam_from_world @ np.linalg.inv(photo0.cam_from_world)
    x, y, z = cam1_from_cam0[:3, 3]
    cross = np.array([[0, -z, y], [z, 0, -x], [-y, x, 0]])
    essential = cross @ cam1_from_cam0[:3, :3]
    fundamental = np.linalg.inv(photo1.K).T @ essential @ np.linalg.inv(photo0.K)
    ones = np.ones((len(pixels0), 1))
    lines = np.hstack([pixels0, ones]) @ fundamental.T  # (M, 3)
    residual = np.abs((lines * np.hstack([pixels1, ones])).sum(1))
    return residual / np.linalg.norm(lines[:, :2], axis=1).clip(1e-12)


def _shares(error: Tensor) -> dict[str, float]:
    return {f"within_{px}px": float((error < px).float().mean()) for px in (1, 2, 5)}


def _cover(
    pixels: NDArray[np.uint8], K: NDArray[np.float64], size: tuple[int, int]
) -> tuple[NDArray[np.uint8], NDArray[np.float64]]:
    """Scale an image so that it covers ``size`` (width, height), and crop its centre."""
    height, width = pixels.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    scaled = (max(round(width * scale), size[0]), max(round(height * scale), size[1]))
    left, top = (scaled[0] - size[0]) // 2, (scaled[1] - size[1]) // 2
    resized = Image.fromarray(pixels).resize(scaled, Image.Resampling.LANCZOS)
    crop = np.asarray(resized.crop((left, top, left + size[0], top + size[1])))
    affine = np.array([[scaled[0] / width, 0, -left], [0, scaled[1] / height, -top], [0, 0, 1.0]])
    return crop, affine @ K


def _world_errors(batch: PairBatch, item: int, pixels0: Tensor, pixels1: Tensor) -> Tensor:
    """Distance of each match from the true place, infinite where image 1 does not see it."""
    height, width = batch.valid.shape[-2:]
    points0, points1 = batch.pointmaps[item].float()
    # cell centres lie on the corner of four pixels: take their mean where they are one surface
    right, below = pixels0.long().unbind(-1)
    corners = [(below - dy, right - dx) for dy in (0, 1) for dx in (0, 1)]
    near = torch.stack([points0[y.clamp(0, height - 1), x.clamp(0, width - 1)] for y, x in corners])
    valid = torch.stack(
        [batch.valid[item, 0][y.clamp(0, height - 1), x.clamp(0, width - 1)] for y, x in corners]
    ).all(0)
    depth = near[..., 2]
    valid &= depth.amax(0) - depth.amin(0) < _SAME_SURFACE * depth.amin(0)
    cam1_from_cam0 = batch.cam1_from_cam0[item].float()
    points = near.mean(0) @ cam1_from_cam0[:3, :3].T + cam1_from_cam0[:3, 3]
    image = points @ batch.K[item, 1].T
    true1 = image[:, :2] / points[:, 2:].clamp_min(1e-6)
    x, y = true1.floor().nan_to_num(-1).clamp(-1, 1e6).long().unbind(-1)
    inside = (x >= 0) & (y >= 0) & (x < width) & (y < height) & (points[:, 2] > 0)
    seen = points1[y.clamp(0, height - 1), x.clamp(0, width - 1)][:, 2]
    visible = inside & ((seen - points[:, 2]).abs() < _SAME_SURFACE * points[:, 2])
    error = (pixels1 - true1).norm(dim=-1)
    # occluded or out of sight: wrong; where the truth is not defined: not counted
    error = torch.where(visible, error, torch.inf)
    return error[valid]
