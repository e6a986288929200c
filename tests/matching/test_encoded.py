"""Tests of `matching/encoded.py`: what a view stores of an encoding, and what comes back."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch

from matching.device_encodings import DeviceEncodings
from matching.encoded import Prepared, views_of
from matching.errors import DamagedEncodingError
from matching.network import Encoding
from matching.preprocess import NetworkFrame
from matching.types import View

SIZE = (64, 48)
COUNT, CHANNELS = (64 // 16) * (48 // 16), 8


def encoding(batch: int) -> Encoding:
    torch.manual_seed(0)
    skip = torch.randn(batch, 5, 12, 16) * torch.tensor([1e-6, 0.1, 1.0, 30.0, 0.0]).view(5, 1, 1)
    return Encoding(
        tokens=torch.randn(batch, COUNT, CHANNELS), image_size=SIZE, extras={"skip": skip}
    )


def stored(batch: int) -> tuple[Encoding, list[View]]:
    frame = NetworkFrame(image_size=SIZE, scale=(1.0, 1.0), offset=(0.0, 0.0))
    fresh = encoding(batch)
    return fresh, views_of([Prepared(image_size=SIZE, frame=frame)] * batch, fresh)


def back(views: list[View]) -> Encoding:
    plain = DeviceEncodings(torch.device("cpu"), num_channels=CHANNELS, patch_size=16, max_bytes=0)
    return plain.batch(views)


@pytest.mark.parametrize("batch", [1, 3])
def test_encodings_come_back_to_half_a_step(batch: int) -> None:
    fresh, views = stored(batch)
    assert views[0].arrays["skip"].dtype == np.int8
    found = back(views)
    assert found.tokens.dtype == found.extras["skip"].dtype == torch.float16
    torch.testing.assert_close(found.tokens, fresh.tokens.half())
    largest = fresh.extras["skip"].abs().amax((2, 3), keepdim=True)
    off = (found.extras["skip"].float() - fresh.extras["skip"]).abs()
    # half a step of 1/127, and the rounding of half precision, which ends at 6e-8
    assert (off <= largest * (0.5 / 127 + 1e-3) + 6e-8).all()
    assert (found.extras["skip"][:, 4] == 0).all()


def test_encodings_of_maps_made_before_are_read() -> None:
    fresh, (new, _) = stored(2)
    arrays: dict[str, Any] = dict(new.arrays)
    del arrays["skip_step"]
    arrays["skip"] = fresh.extras["skip"][0].half().numpy()
    old = replace(new, arrays=arrays)
    both = back([old, new]).extras["skip"]
    torch.testing.assert_close(both[0], fresh.extras["skip"][0].half())
    torch.testing.assert_close(both[0], both[1], atol=0.5, rtol=0.02)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"skip_step": None}, "'skip' has no steps"),
        ({"skip_step": np.ones(4, np.float32)}, "steps of 'skip'"),
        ({"skip": np.zeros((5, 7, 16), np.int8)}, "'skip' of 64 x 48"),
        ({"skip": None}, "'skip' of 64 x 48 is nothing"),
        ({"tokens": np.zeros((3, CHANNELS), np.float16)}, "tokens"),
    ],
)
def test_damaged_encodings_are_named(change: dict[str, Any], message: str) -> None:
    _, (first, second) = stored(2)
    arrays = {k: v for k, v in {**second.arrays, **change}.items() if v is not None}
    with pytest.raises(DamagedEncodingError, match=message):
        back([first, replace(second, arrays=arrays)])
