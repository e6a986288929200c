from dataclasses import replace

import pytest
import torch

from matching.device_encodings import DeviceEncodings
from matching.errors import DamagedEncodingError
from tests.matching.test_encoded import CHANNELS, COUNT, back, stored

BYTES = COUNT * CHANNELS * 2 + 5 * 12 * 16 * 2  # tokens and skip of a view on the device


def kept(max_bytes: int) -> DeviceEncodings:
    device = torch.device("cpu")
    return DeviceEncodings(device, num_channels=CHANNELS, patch_size=16, max_bytes=max_bytes)


@pytest.mark.parametrize("num_kept", [0, 1, 2, 5])
def test_what_is_kept_is_what_is_sent(num_kept: int) -> None:
    """Any batches in turn give what a fresh transfer gives, and the bound holds."""
    _, views = stored(5)
    encodings = kept(num_kept * BYTES)
    for rows in ([0, 1, 2], [2, 1], [4], [3, 3, 0], [0, 1, 2, 3, 4], [1]):
        chosen = [views[row] for row in rows]
        found, expected = encodings.batch(chosen), back(chosen)
        torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=0)
        torch.testing.assert_close(found.extras["skip"], expected.extras["skip"], rtol=0, atol=0)
        assert found.image_size == expected.image_size
        assert encodings.num_bytes <= num_kept * BYTES
    assert encodings.num_bytes == num_kept * BYTES


def test_a_view_with_other_keypoints_is_not_sent_again(monkeypatch: pytest.MonkeyPatch) -> None:
    _, (first, second) = stored(2)
    encodings = kept(10 * BYTES)
    encodings.batch([first, second])

    def sent(*_: object) -> torch.Tensor:
        raise AssertionError("an encoding was sent again")

    monkeypatch.setattr("matching.device_encodings.extra_of", sent)
    other = replace(first, keypoints=first.keypoints + 1, arrays=dict(first.arrays))
    encodings.batch([other, second])
    copied = replace(first, arrays=dict(first.arrays) | {"tokens": first.arrays["tokens"].copy()})
    with pytest.raises(AssertionError, match="again"):
        encodings.batch([copied])


def test_encodings_that_nobody_holds_are_forgotten_first() -> None:
    encodings = kept(3 * BYTES)
    _, held = stored(1)
    encodings.batch(held)
    for _ in range(4):  # the encodings of queries, which are gone after their query
        _, (query, _) = stored(2)
        encodings.batch([query])
    assert encodings.num_bytes <= 3 * BYTES
    assert encodings.keeps(held[0]) and not encodings.keeps(stored(1)[1][0])
    torch.testing.assert_close(encodings.batch(held).tokens, back(held).tokens)


def test_damaged_encodings_are_refused_though_kept() -> None:
    _, (view, _) = stored(2)
    encodings = kept(10 * BYTES)
    encodings.batch([view])
    arrays = dict(view.arrays)
    del arrays["skip_step"]
    with pytest.raises(DamagedEncodingError, match="no steps"):
        encodings.batch([replace(view, arrays=arrays)])
