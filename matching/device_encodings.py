"""Stored encodings on their way to the device of the network."""

import logging
import threading
import weakref
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from numpy.typing import NDArray
from torch import Tensor

from matching.encoded import checked_names, extra_of, frame_of
from matching.errors import InputError
from matching.network import Encoding
from matching.types import View

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class _Kept:
    """Tensors of one encoding on the device, and the array in main memory that they are of."""

    source: "weakref.ref[NDArray[Any]]"
    tensors: dict[str, Tensor]

    @property
    def num_bytes(self) -> int:
        return sum(tensor.numel() * tensor.element_size() for tensor in self.tensors.values())


class DeviceEncodings:
    """Batches of stored encodings; a GPU keeps those that were used last.

    A query meets photos of the map that the query before has met, and their way to the GPU takes
    longer than many a step there. Encodings are known by their array of tokens, which must not
    change; those whose array is gone from main memory are the first to be forgotten.

    Args:
        device: Where the batches are wanted.
        num_channels: Of the network's tokens.
        patch_size: Of the network, pixels.
        max_bytes: Of the encodings kept; 0 keeps none.

    Attributes:
        num_bytes: What is kept takes on the device.
    """

    def __init__(
        self, device: torch.device, *, num_channels: int, patch_size: int, max_bytes: int
    ) -> None:
        self.device = device
        self._num_channels, self._patch_size = num_channels, patch_size
        self._max_bytes = max_bytes
        self.num_bytes = 0
        self._kept: OrderedDict[int, _Kept] = OrderedDict()
        self._lock = threading.Lock()

    def batch(self, views: Sequence[View]) -> Encoding:
        """The encodings of views of one network size.

        Args:
            views: Encoded photos, none of them blank.

        Raises:
            DamagedEncodingError: Arrays that no such network made.
            InputError: The GPU's memory does not do, even with nothing kept.
        """
        names = checked_names(views, num_channels=self._num_channels, patch_size=self._patch_size)
        try:
            return self._stacked(views, names, keep=self._max_bytes > 0)
        except torch.OutOfMemoryError:
            pass  # not in the handler: there, the error keeps tensors alive
        logger.warning("out of GPU memory: forgetting the encodings kept there")
        self.clear()
        try:
            return self._stacked(views, names, keep=False)
        except torch.OutOfMemoryError as error:
            width, height = frame_of(views[0]).image_size
            raise InputError(
                f"the memory of {self.device} does not do for the encodings of {len(views)} network"
                f" images of {width} x {height}: free it, or take a smaller matcher.long_side_px, "
                "or --device cpu"
            ) from error

    def clear(self) -> None:
        """Forget what is kept."""
        with self._lock:
            self._kept.clear()
            self.num_bytes = 0

    def _stacked(self, views: Sequence[View], names: Sequence[str], *, keep: bool) -> Encoding:
        with self._lock:
            parts = [self._tensors(view, names, keep) for view in views]
        stacked = {name: torch.stack([part[name] for part in parts]) for name in parts[0]}
        return Encoding(
            tokens=stacked.pop("tokens"), image_size=frame_of(views[0]).image_size, extras=stacked
        )

    def _tensors(self, view: View, names: Sequence[str], keep: bool) -> dict[str, Tensor]:
        source = view.arrays["tokens"]
        kept = self._kept.get(id(source))
        if kept is not None and kept.source() is source:
            self._kept.move_to_end(id(source))
            return kept.tensors
        # without waiting: pageable memory is read before the call returns. Kept, it has to be a
        # copy on any device: else it would keep its source in main memory
        tokens = torch.from_numpy(source).to(self.device, non_blocking=True, copy=keep)
        tensors = {"tokens": tokens} | {n: extra_of(view, n, self.device) for n in names}
        if keep:
            self._keep(id(source), _Kept(weakref.ref(source), tensors))
        return tensors

    def _keep(self, key: int, fresh: _Kept) -> None:
        self._forget(key)  # of an array that is gone, whose number was given again
        self._kept[key] = fresh
        self.num_bytes += fresh.num_bytes
        if self.num_bytes > self._max_bytes:
            for gone in [key for key, kept in self._kept.items() if kept.source() is None]:
                self._forget(gone)
        while self.num_bytes > self._max_bytes and self._kept:
            self._forget(next(iter(self._kept)))

    def _forget(self, key: int) -> None:
        kept = self._kept.pop(key, None)
        if kept is not None:
            self.num_bytes -= kept.num_bytes
