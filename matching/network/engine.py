"""Inference: encode images in batches, decode stored encodings in batches of bounded memory."""

import logging
import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from operator import itemgetter
from typing import Literal, TypeVar

import torch
from torch import Tensor

from matching.errors import InputError
from matching.network.graphs import GraphCache
from matching.network.model import Encoding, PairNetwork
from matching.network.prediction import EVERYTHING, Prediction, Want

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

_DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
_MAX_BATCH = 64  # sixteen pairs fill the largest GPUs
# peak bytes per image pixel with the outputs: the blocks, the point maps' convolutions at full
# resolution, the descriptors' hidden layer; everything together took 570 in float32 on a GPU
_BLOCK_BYTES, _POINT_BYTES, _DESCRIPTOR_BYTES = 100, 450, 250


@dataclass(frozen=True, kw_only=True)
class EngineOptions:
    """How the network is run; nothing here changes what is computed beyond rounding."""

    # arithmetic of the matrix products; "auto": bfloat16 on GPUs, float32 on CPUs
    precision: Literal["auto", "float32", "bfloat16", "float16"] = "auto"
    # GPUs only: "graphs" replays recorded launches from the second call of a shape on; "compile"
    # also fuses the small operations, compiled once for all sizes in the first calls, in less than
    # a minute; "auto": graphs on GPUs, none on CPUs
    acceleration: Literal["auto", "none", "graphs", "compile"] = "auto"
    max_batch: int = 0  # images or pairs computed at a time; 0: as many as fit in free memory
    # GPUs only: so many megabytes of encodings used last stay on the GPU (ViT-L: 1.6 MB a photo),
    # at most a sixteenth of its memory
    cache_mb: int = 1024

    def __post_init__(self) -> None:
        for name in ("max_batch", "cache_mb"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")


class Engine:
    """Runs a network on one device.

    Encodings may come from anywhere (disk, float16, CPU); predictions stay on the engine's device.

    Args:
        network: The network; it is moved and cast in place.
        device: ``"cpu"``, ``"cuda"`` or ``"cuda:N"``.
        options: How to run it.

    Attributes:
        caches: Functions that empty the caches of others on the device, called where its memory
            runs out.

    Raises:
        InputError: Options that the device cannot serve.
    """

    def __init__(
        self, network: PairNetwork, *, device: str = "cpu", options: EngineOptions | None = None
    ) -> None:
        self.options = options or EngineOptions()
        self.device = torch.device(device)
        on_gpu = self.device.type == "cuda"
        acceleration = self.options.acceleration
        if acceleration == "auto":
            acceleration = "graphs" if on_gpu else "none"
        if acceleration != "none" and not on_gpu:
            raise InputError(
                f"acceleration '{acceleration}' needs a GPU: use --device cuda or acceleration=none"
            )
        precision = self.options.precision
        if precision == "auto":
            precision = "bfloat16" if on_gpu else "float32"
        self.dtype = _DTYPES[precision]
        self.network = network.eval().requires_grad_(False)
        self.network.set_precision(self.dtype)
        self.network.to(self.device)
        if on_gpu:
            for module in self.network.modules():
                if isinstance(module, torch.nn.Conv2d | torch.nn.ConvTranspose2d):
                    module.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if acceleration == "compile":
            for block in self.network.blocks():
                block.compile(dynamic=True)
        self._graphs = GraphCache() if acceleration != "none" else None
        self.caches: list[Callable[[], None]] = []

    @torch.inference_mode()
    def encode(self, images: Tensor) -> Encoding:
        """Encode images of one size.

        Args:
            images: RGB in [-1, 1], (B, 3, H, W) float32; sides are multiples of the patch size.

        Returns:
            Their encodings on the engine's device.
        """
        size = (images.shape[3], images.shape[2])
        parts = self._in_batches(
            len(images), self.max_batch(size), lambda rows: self._encode(images[rows]), (size,)
        )
        return Encoding.concatenate(list(parts))

    @torch.inference_mode()
    def decode(
        self,
        encoding0: Encoding,
        encoding1: Encoding,
        want0: Want = EVERYTHING,
        want1: Want = EVERYTHING,
    ) -> tuple[Prediction, Prediction]:
        """Decode pairs; points of both views are in the camera frame of view 0.

        Args:
            encoding0: First views, B of them, or one that goes with all of ``encoding1``.
            encoding1: Second views, likewise.
            want0: What to compute for view 0.
            want1: What to compute for view 1.
        """
        parts = list(self.decode_batches(encoding0, encoding1, want0, want1))
        firsts, seconds = zip(*parts, strict=True)
        return Prediction.concatenate(list(firsts)), Prediction.concatenate(list(seconds))

    @torch.inference_mode()
    def decode_batches(
        self,
        encoding0: Encoding,
        encoding1: Encoding,
        want0: Want = EVERYTHING,
        want1: Want = EVERYTHING,
    ) -> Iterator[tuple[Prediction, Prediction]]:
        """`decode` in consecutive batches, so that only one batch of outputs exists at a time."""
        batch = max(len(encoding0), len(encoding1))
        step = self.max_batch(encoding0.image_size, encoding1.image_size, want0, want1)

        def decode(rows: slice) -> tuple[Prediction, Prediction]:
            return self._decode(
                encoding0 if len(encoding0) == 1 else encoding0[rows],
                encoding1 if len(encoding1) == 1 else encoding1[rows],
                want0.map(itemgetter(rows)),
                want1.map(itemgetter(rows)),
            )

        sizes = (encoding0.image_size, encoding1.image_size)
        yield from self._in_batches(batch, step, decode, sizes)

    def decode_symmetric(
        self,
        encoding0: Encoding,
        encoding1: Encoding,
        want0: Want = EVERYTHING,
        want1: Want = EVERYTHING,
    ) -> tuple[tuple[Prediction, Prediction], tuple[Prediction, Prediction]]:
        """Decode pairs in both orders, densely.

        Returns:
            Views 0 and 1 with points in camera 0, then views 0 and 1 with points in camera 1.
        """
        batch = max(len(encoding0), len(encoding1))
        if want0.pixels is not None or want1.pixels is not None:
            raise ValueError("the symmetric pass gives dense outputs only")
        both = (encoding0.expand(batch), encoding1.expand(batch))
        if encoding0.image_size != encoding1.image_size or want0 != want1:
            in0 = self.decode(*both, want0, want1)
            view1, view0 = self.decode(*both[::-1], want1, want0)
            return in0, (view0, view1)
        first, second = self.decode(
            Encoding.concatenate(both), Encoding.concatenate(both[::-1]), want0, want1
        )
        return (first[:batch], second[:batch]), (second[batch:], first[batch:])

    def max_batch(
        self,
        size0: tuple[int, int],
        size1: tuple[int, int] | None = None,
        want0: Want | None = None,
        want1: Want | None = None,
    ) -> int:
        """How many images (``size0`` only) or pairs of these sizes to compute at a time."""
        if self.options.max_batch:
            return self.options.max_batch
        if self.device.type == "cpu":
            return 1  # one image fills the cores; more only take memory
        needed = 0
        for size, want in ((size0, want0), (size1, want1)):
            if size is not None:
                per_pixel = _BLOCK_BYTES
                per_pixel += _POINT_BYTES if want is not None and want.pointmap else 0
                per_pixel += _DESCRIPTOR_BYTES if want is not None and want.descriptors else 0
                needed += size[0] * size[1] * per_pixel
        fitting = max(1, min(_MAX_BATCH, free_memory(self.device) // 2 // needed))
        return 1 << (fitting.bit_length() - 1)  # few sizes, so that recorded launches are reused

    def free_caches(self) -> None:
        """Give up all memory of the device that only saves time: its own and `caches`."""
        if self._graphs is not None:
            self._graphs.clear()
        for clear in self.caches:
            clear()
        torch.cuda.empty_cache()

    def _in_batches(
        self,
        count: int,
        step: int,
        compute: Callable[[slice], Result],
        sizes: tuple[tuple[int, int], ...],
    ) -> Iterator[Result]:
        """Compute consecutive rows together; fewer of them once the GPU's memory did not do.

        Args:
            count: Rows in all.
            step: Rows at a time.
            compute: What is computed.
            sizes: (width, height) of the images of a row, for the message.

        Raises:
            InputError: Not even one row fits, without any caches.
        """
        start, freed = 0, False
        while start < count:
            result: Result | None = None
            try:
                result = compute(slice(start, min(start + step, count)))
            except torch.OutOfMemoryError as error:
                if step == 1 and freed:
                    images = " and ".join(f"{width} x {height}" for width, height in sizes)
                    raise InputError(
                        f"the memory of {self.device} does not do for a network image of {images}: "
                        "free it, or take a smaller matcher.long_side_px, or --device cpu"
                    ) from error
            if result is None:  # not in the handler: there, the error keeps tensors alive
                step = max(1, step // 2)
                logger.warning("out of GPU memory: going on with batches of %d", step)
                self.free_caches()
                freed = True
                continue
            yield result
            start += step
            freed = False  # launches were recorded and encodings kept since

    def _encode(self, images: Tensor) -> Encoding:
        images = images.to(self.device)
        if self._graphs is None:
            return self.network.encode(images)
        encoding: Encoding = self._graphs.run("encode", self.network.encode, images)
        return encoding

    def _decode(
        self, encoding0: Encoding, encoding1: Encoding, want0: Want, want1: Want
    ) -> tuple[Prediction, Prediction]:
        encoding0, encoding1 = (e.map(self._move) for e in (encoding0, encoding1))
        want0, want1 = want0.map(self._move), want1.map(self._move)
        at_pixels = want0.pixels is not None or want1.pixels is not None
        if self._graphs is None or at_pixels:  # pixels are sorted with a look at their numbers
            return self.network.decode(encoding0, encoding1, want0, want1)

        def run(first: Encoding, second: Encoding) -> tuple[Prediction, Prediction]:
            return self.network.decode(first, second, want0, want1)

        key = ("decode", encoding0.image_size, encoding1.image_size, want0, want1)
        views: tuple[Prediction, Prediction] = self._graphs.run(key, run, encoding0, encoding1)
        return views

    def _move(self, tensor: Tensor) -> Tensor:
        return tensor.to(self.device, non_blocking=True)


def free_memory(device: torch.device) -> int:
    """Bytes that can still be allocated on a device."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        cached = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return free + cached
    return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
