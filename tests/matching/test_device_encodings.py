from dataclasses import replace
from typing import Any

import pytest
import torch

from matching.device_encodings import DeviceEncodings
from matching.encoded import extra_of
from matching.errors import DamagedEncodingError, InputError
from matching.types import View
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


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The ids of the views, which nobody holds here, whose encodings are sent."""
    views = []

    def recorded(view: View, name: str, device: torch.device) -> torch.Tensor:
        views.append(id(view))
        return extra_of(view, name, device)

    monkeypatch.setattr("matching.device_encodings.extra_of", recorded)
    return views


def test_a_view_with_other_keypoints_is_not_sent_again(sent: list[int]) -> None:
    _, (first, second) = stored(2)
    encodings = kept(10 * BYTES)
    encodings.batch([first, second])
    assert len(sent) == 2
    other = replace(first, keypoints=first.keypoints + 1, arrays=dict(first.arrays))
    encodings.batch([other, second])
    copied = replace(first, arrays=dict(first.arrays) | {"tokens": first.arrays["tokens"].copy()})
    assert len(sent) == 2
    encodings.batch([copied])
    assert len(sent) == 3 and sent[2] == id(copied)


def test_encodings_that_nobody_holds_are_forgotten_first(sent: list[int]) -> None:
    encodings = kept(3 * BYTES)
    _, held = stored(1)
    encodings.batch(held)
    for _ in range(4):  # the encodings of queries, which are gone after their query
        _, (query, _) = stored(2)
        encodings.batch([query])
    assert encodings.num_bytes <= 3 * BYTES
    found = encodings.batch(held)
    assert len(sent) == 1 + 4  # that which is held was not sent again
    torch.testing.assert_close(found.tokens, back(held).tokens)


def test_an_array_that_got_the_number_of_a_gone_one_is_sent() -> None:
    """Python gives the number of a deleted array to the next one: it must not get its encoding."""
    _, (gone, fresh) = stored(2)
    encodings = kept(10 * BYTES)
    encodings.batch([gone])
    tokens = fresh.arrays["tokens"]
    encodings._kept[id(tokens)] = encodings._kept.pop(id(gone.arrays["tokens"]))
    found = encodings.batch([fresh])
    torch.testing.assert_close(found.tokens, back([fresh]).tokens, rtol=0, atol=0)
    assert encodings.num_bytes == BYTES  # the gone one does not count any more


def test_encodings_that_were_used_last_are_kept(sent: list[int]) -> None:
    _, (first, second, third) = stored(3)
    encodings = kept(2 * BYTES)
    for view in (first, second, first, third, first):
        encodings.batch([view])
    assert sent == [id(first), id(second), id(third)]


class CrampedDevice:
    """Memory for so many encodings, those that are kept and those of the batch at hand."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, limit: int) -> None:
        self.limit, self.encodings = limit, kept(10 * BYTES)
        self.at_hand = 0
        stacked = self.encodings._stacked

        def counted(*arguments: Any, keep: bool) -> Any:
            self.at_hand, self.keep = 0, keep
            return stacked(*arguments, keep=keep)

        def cramped(view: View, name: str, device: torch.device) -> torch.Tensor:
            if self.encodings.num_bytes // BYTES + self.at_hand >= self.limit:
                raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 MiB")
            self.at_hand += not self.keep
            return extra_of(view, name, device)

        monkeypatch.setattr(self.encodings, "_stacked", counted)
        monkeypatch.setattr("matching.device_encodings.extra_of", cramped)


def test_out_of_gpu_memory_forgets_what_is_kept(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    _, views = stored(5)
    expected = back(views[2:])
    cramped = CrampedDevice(monkeypatch, limit=3)
    for row in range(3):
        cramped.encodings.batch([views[row]])
    assert cramped.encodings.num_bytes == 3 * BYTES and not caplog.text
    found = cramped.encodings.batch(views[2:])
    torch.testing.assert_close(found.tokens, expected.tokens, rtol=0, atol=0)
    assert "forgetting the encodings" in caplog.text
    assert cramped.encodings.num_bytes == 0  # nor are those kept that hardly fitted
    cramped.encodings.batch(views[:1])
    assert cramped.encodings.num_bytes == BYTES


def test_no_gpu_memory_for_a_batch_is_told_in_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    _, views = stored(5)
    cramped = CrampedDevice(monkeypatch, limit=3)
    match = r"memory of cpu does not do for the encodings of 4 network images of \d+ x \d+: .*--dev"
    with pytest.raises(InputError, match=match) as told:
        cramped.encodings.batch(views[:4])
    assert "\n" not in str(told.value)
    cramped.encodings.batch(views[:3])
    cramped.encodings.clear()
    assert cramped.encodings.num_bytes == 0


def test_damaged_encodings_are_refused_though_kept() -> None:
    _, (view, other) = stored(2)
    encodings = kept(10 * BYTES)
    encodings.batch([view])
    arrays = dict(view.arrays)
    del arrays["skip_step"]
    with pytest.raises(DamagedEncodingError, match="no steps"):
        encodings.batch([other, replace(view, arrays=arrays)])
