"""A sheet of rendered pairs, for a person to look at the training world."""

from pathlib import Path

import numpy as np
import torch
from PIL import Image, ImageDraw

from matching.files import PathLike, atomic_file
from matching.progress import Progress, silent
from matching.training.batch import PairBatch, PairWorld

PAIRS_PER_ROW = 4
LINKS = 12  # correspondences drawn per pair
GAP = 6  # pixels between pairs


def contact_sheet(
    path: PathLike,
    seed: int = 0,
    count: int = 24,
    device: torch.device | str = "cpu",
    *,
    image_size: tuple[int, int] = (256, 192),
    texture_size: int = 256,
    difficulty: float = 1.0,
    links: bool = True,
    progress: Progress = silent,
) -> None:
    """Render pairs of the training world and write them as one image.

    Args:
        path: PNG or JPEG to write.
        seed: Of textures and batches.
        count: Pairs.
        device: Where to render; on the CPU a pair of 256x192 takes about a second.
        image_size: (width, height) of each image.
        texture_size: Pixels per side of the textures, a power of two.
        difficulty: 0 to 1.
        links: Draw some correspondences.
        progress: Callback.
    """
    on_gpu = torch.device(device).type == "cuda"
    per_style = 8 if on_gpu else 3
    world = PairWorld(
        device, texture_seed=seed, textures_per_style=per_style, texture_size=texture_size
    )
    batch = world(seed, pairs=count, image_size=image_size, difficulty=difficulty)
    rows = -(-count // PAIRS_PER_ROW)
    width, height = image_size
    columns = min(count, PAIRS_PER_ROW)
    sheet = Image.new(
        "RGB", (columns * (2 * width + GAP) + GAP, rows * (height + GAP) + GAP), (24, 24, 24)
    )
    for k in progress(range(count), "drawing", count):
        # families of scenes follow each other in a batch: deal them over the sheet
        row, column = k % rows, k // rows
        if column < columns:
            tile = _pair_image(batch, k, links)
            sheet.paste(tile, (GAP + column * (2 * width + GAP), GAP + row * (height + GAP)))
    target = Path(path)
    with atomic_file(target) as temporary:
        sheet.save(
            temporary, format=Image.registered_extensions().get(target.suffix.lower(), "PNG")
        )


def _pair_image(batch: PairBatch, k: int, links: bool) -> Image.Image:
    images = batch.images[k].float().cpu().permute(0, 2, 3, 1).numpy()
    width = images.shape[2]
    both = np.concatenate([images[0], images[1]], axis=1)
    tile = Image.fromarray((both * 255 + 0.5).astype(np.uint8))
    if links:
        draw = ImageDraw.Draw(tile)
        visible = batch.visible[k].nonzero()[:, 0][:LINKS].tolist()
        for number, n in enumerate(visible):
            x0, y0 = batch.pixels0[k, n].tolist()
            x1, y1 = batch.pixels1[k, n].tolist()
            color = tuple(int(c) for c in (255 * _hue(number / LINKS)))
            for x, y in ((x0, y0), (x1 + width, y1)):
                draw.ellipse((x - 3, y - 3, x + 3, y + 3), outline=color, width=2)
    return tile


def _hue(h: float) -> np.ndarray:
    return np.clip(np.abs((h * 6 + np.array([0.0, 4.0, 2.0])) % 6 - 3) - 1, 0, 1)
