"""Inputs of the golden losses, drawn by the formulas of their makers from a stated seed."""

from typing import Any

import numpy as np
import torch
from torch import Tensor


def golden_loss_batch(
    seed: int, *, batch: int = 3, height: int = 24, width: int = 32, count: int = 64, dim: int = 24
) -> tuple[dict[str, Tensor], ...]:
    """Two targets and two predictions; the order of the draws is part of the fixture."""
    random = np.random.Generator(np.random.PCG64(seed))
    targets: list[dict[str, Any]] = []
    predictions: list[dict[str, Any]] = []
    for view in range(2):
        v, u = np.mgrid[0:height, 0:width].astype(np.float64)
        z = 4.0 + random.uniform(0, 2, (batch, 1, 1)) * np.sin(u / 7.0 + view)
        z = z + 0.3 * random.standard_normal((batch, height, width))
        points = np.stack([(u - width / 2) * z / 30.0, (v - height / 2) * z / 30.0, z], -1)
        angle = random.uniform(-0.5, 0.5, batch)
        pose = np.tile(np.eye(4), (batch, 1, 1))
        pose[:, 0, 0] = pose[:, 2, 2] = np.cos(angle)
        pose[:, 0, 2], pose[:, 2, 0] = np.sin(angle), -np.sin(angle)
        pose[:, :3, 3] = random.uniform(-1, 1, (batch, 3))
        world = np.einsum("bij,bhwj->bhwi", pose[:, :3, :3], points) + pose[:, None, None, :3, 3]
        valid = random.uniform(0, 1, (batch, height, width)) < 0.8
        sky = random.uniform(0, 1, (batch, height, width)) < 0.1
        metric = np.arange(batch) % 2 == 0
        targets.append(
            {
                "camera_pose": pose.astype(np.float32),
                "pts3d": world.astype(np.float32),
                "valid_mask": valid,
                "sky_mask": sky,
                "is_metric_scale": metric,
            }
        )
        predicted = points * random.uniform(0.8, 1.2, (batch, 1, 1, 1))
        predicted = predicted + 0.2 * random.standard_normal(points.shape)
        desc = random.standard_normal((batch, height, width, dim))
        desc /= np.sqrt((desc**2).sum(-1, keepdims=True))
        conf = 1 + np.exp(0.5 * random.standard_normal((batch, height, width)))
        desc_conf = np.exp(0.5 * random.standard_normal((batch, height, width)))
        predictions.append(
            {
                "pts3d" if view == 0 else "pts3d_in_other_view": predicted.astype(np.float32),
                "desc": desc.astype(np.float32),
                "conf": conf.astype(np.float32),
                "desc_conf": desc_conf.astype(np.float32),
            }
        )
    corres = [
        np.stack(
            [random.integers(0, width, (batch, count)), random.integers(0, height, (batch, count))],
            -1,
        )
        for _ in range(2)
    ]
    real = random.uniform(0, 1, (batch, count)) < 0.6
    for view in range(2):
        targets[view]["corres"], targets[view]["valid_corres"] = corres[view], real
    items = np.arange(batch)[:, None]
    desc0, desc1 = predictions[0]["desc"], predictions[1]["desc"]
    (x0, y0), (x1, y1) = corres[0].transpose(2, 0, 1), corres[1].transpose(2, 0, 1)
    similar = desc0[items, y0, x0] + 0.15 * random.standard_normal((batch, count, dim))
    similar /= np.sqrt((similar**2).sum(-1, keepdims=True))
    desc1[items, y1, x1] = np.where(real[..., None], similar, desc1[items, y1, x1])
    return tuple(
        {name: torch.from_numpy(np.ascontiguousarray(value)) for name, value in part.items()}
        for part in (*targets, *predictions)
    )
