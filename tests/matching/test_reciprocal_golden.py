"""The published scheme's answers, pair by pair (`tests/data/make_golden_reciprocal.py`)."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from matching.reciprocal import iterated_matches, nearest_neighbours, seeded_matches
from tests.data.make_golden_reciprocal import checksum
from tests.matching.descriptor_fields import chain_pair, golden_pair, golden_seeds

GOLDEN = json.loads(
    (Path(__file__).resolve().parents[1] / "data" / "golden_reciprocal.json").read_text()
)
DEVICES = ["cpu", pytest.param("cuda", marks=pytest.mark.gpu)]


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", GOLDEN["runs"])
def test_published_scheme(name: str, device: str) -> None:
    run: dict[str, Any] = GOLDEN["runs"][name]
    maps = chain_pair() if run.get("chain") else golden_pair()
    desc0, desc1 = (desc.to(device) for desc in maps[:: -1 if run.get("swapped") else 1])
    if run.get("seeds"):
        # The published function merges equal seeds and sorts them.
        height, width = desc0.shape[:2]
        xy0 = golden_seeds((height, width))
        (found,) = seeded_matches([desc0], [desc1], [xy0], pixel_tol=run["pixel_tol"])
        order = np.unique((xy0[:, 1] * width + xy0[:, 0]).numpy(), return_index=True)[1]
        order = order[found.kept.cpu().numpy()[order]]
        xy0, xy1 = xy0[order], found.xy1.cpu()[order]
    else:
        xy0, xy1 = iterated_matches(desc0, desc1, step=run["subsample"])
    pairs = torch.cat([xy0.cpu(), xy1.cpu()], 1).numpy()
    assert len(pairs) == run["count"]
    assert pairs[:12].tolist() == run["first"]
    assert checksum(pairs) == run["checksum"]


@pytest.mark.parametrize("device", DEVICES)
def test_dense(device: str) -> None:
    desc0, desc1 = (desc.to(device) for desc in golden_pair())
    found = nearest_neighbours(desc0, desc1)
    rows0, rows1 = found.mutual()
    for name, values in (
        ("nn_1to2", found.index01),
        ("nn_2to1", found.index10),
        ("reciprocal_idx1", rows0),
        ("reciprocal_idx2", rows1),
    ):
        assert checksum(values.cpu().numpy()) == GOLDEN["dense"][name]["checksum"]
