"""Drawing of batches recorded as CUDA graphs, replayed with other seeds.

A batch takes thousands of small kernels; launched one by one from Python they keep the host busy
for longer than the GPU needs to run them. All shapes and loops of a draw are fixed by the number of
pairs and the image size: its launches are recorded once and replayed in one call.
"""

from collections.abc import Callable

import torch

Draw = Callable[[torch.Generator, torch.Tensor], dict[str, torch.Tensor]]


class Recording:
    """A function of random numbers, recorded.

    Args:
        draw: Makes tensors from a generator and a difficulty (0-dimensional float32), both on the
            device. Must not wait for the GPU, and must launch the same kernels each time.
        device: A CUDA device.
    """

    def __init__(self, draw: Draw, device: torch.device) -> None:
        self._generator = torch.Generator(device)
        self._difficulty = torch.zeros((), device=device)
        stream = torch.cuda.Stream(device)
        stream.wait_stream(torch.cuda.current_stream(device))
        with torch.cuda.stream(stream):
            draw(self._generator, self._difficulty)  # compiles kernels and makes constants
        stream.synchronize()
        self._graph = torch.cuda.CUDAGraph()
        self._graph.register_generator_state(self._generator)
        # other threads (NCCL's watchdog) may ask the GPU for events meanwhile
        with torch.cuda.graph(self._graph, stream=stream, capture_error_mode="thread_local"):
            self._result = draw(self._generator, self._difficulty)
        self._copied = torch.cuda.Event()

    def __call__(self, seed: int, difficulty: float) -> dict[str, torch.Tensor]:
        """What ``draw`` makes of the seed, in tensors of their own, on the current stream."""
        # the last replay's results may still be read on another stream
        torch.cuda.current_stream().wait_event(self._copied)
        self._generator.manual_seed(seed)
        self._difficulty.fill_(difficulty)
        self._graph.replay()
        result = {name: tensor.clone() for name, tensor in self._result.items()}
        self._copied.record()
        return result
