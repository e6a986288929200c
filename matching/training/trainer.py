"""One step of the training: batch, loss, gradient, update; alone or among several processes.

Nothing is random but the batches and the losses' sampling, and both depend on (seed, step, rank)
alone: the state of the data stream is the step, and a run that resumes from a checkpoint sees the
same batches as one that never stopped.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from matching.checkpoint import read_checkpoint
from matching.errors import InputError
from matching.network import EVERYTHING
from matching.network.small import SmallNetwork
from matching.training.batch import PairBatch
from matching.training.objective import LossOptions, joined_loss
from matching.training.options import PhaseOptions, TrainOptions
from matching.training.samples import sample_correspondences

_TRAINING, _VALIDATION, _SAMPLING, _ORIENTATION, _DIFFICULTY = range(5)  # second words of the seeds


class PairStream(Protocol):
    """Renders batches of pairs; the same arguments give the same batch."""

    def __call__(
        self, seed: int, *, pairs: int, image_size: tuple[int, int], difficulty: float
    ) -> PairBatch:
        """A batch of ``pairs`` pairs of images of ``image_size`` (width, height)."""
        ...


class TrainingModule(nn.Module):
    """Network and loss in one call, as DistributedDataParallel wants it."""

    def __init__(
        self, network: SmallNetwork, options: LossOptions, *, compile: bool = False
    ) -> None:
        super().__init__()
        self.network = network
        self.options = options
        self.compile_loss = compile

    def forward(
        self, batch: PairBatch, correspondences: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch and its metrics, see `joined_loss`."""
        pairs = len(batch.images)
        images = batch.images.transpose(0, 1).flatten(0, 1).float() * 2 - 1  # view 0s, view 1s
        encoding = self.network.encode(images)
        view0, view1 = self.network.decode(
            encoding[:pairs], encoding[pairs:], EVERYTHING, EVERYTHING
        )
        pooled = self.network.global_descriptors(encoding.tokens)
        with torch.autocast(images.device.type, enabled=False):
            return joined_loss(
                view0,
                view1,
                pooled.unflatten(0, (2, pairs)).transpose(0, 1),
                batch,
                sample_correspondences(batch, correspondences, generator=generator),
                self.options,
                generator,
                compile=self.compile_loss,
            )


@dataclass(frozen=True, kw_only=True)
class Processes:
    """This process among those that train together."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this is the one that writes files."""
        return self.rank == 0


@contextmanager
def joined_processes(device: str | None) -> Iterator[Processes]:
    """Join the processes that torchrun started, or be alone.

    Args:
        device: ``cpu`` or ``cuda``; None: CUDA if there is one. Under torchrun every process takes
            the GPU of its local rank.
    """
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield Processes(rank=0, count=1, device=torch.device(kind))
        return
    if kind == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        dist.init_process_group("nccl", device_id=own)
    else:
        own = torch.device(kind)
        dist.init_process_group("gloo")
    try:
        yield Processes(rank=dist.get_rank(), count=dist.get_world_size(), device=own)
    finally:
        dist.destroy_process_group()


@dataclass(frozen=True, kw_only=True)
class _Ahead:
    """A batch that the GPU renders while it trains on another."""

    step: int
    phase: PhaseOptions
    batch: PairBatch
    rendered: torch.cuda.Event


class Trainer:
    """Network, optimizer and averaged weights, and the step that moves them.

    Args:
        options: The run.
        stream: Renders the pairs on the device.
        processes: This process and its device; None: alone, on ``device``.
        device: Only without ``processes``.
    """

    def __init__(
        self,
        options: TrainOptions,
        stream: PairStream,
        *,
        processes: Processes | None = None,
        device: str = "cpu",
    ) -> None:
        self.options, self.stream = options, stream
        self.processes = processes or Processes(rank=0, count=1, device=torch.device(device))
        self.device = self.processes.device
        torch.manual_seed(options.seed)  # initial weights, equal on all processes
        network = SmallNetwork(options.network.config())
        if options.initial_weights:
            network.load_state_dict(_initial_state(options))
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.names = [name for name, _ in self.network.named_parameters()]
        self.parameters = list(self.network.parameters())
        self.ema = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = _optimizer(self.parameters, options, fused=self.device.type == "cuda")
        self.step = 0
        self.rate_factor = 1.0  # on the learning rate of the options, for ends set by the clock
        self._ahead: _Ahead | None = None
        on_gpu = self.device.type == "cuda"
        self._side = torch.cuda.Stream(self.device) if on_gpu else None
        self.bfloat16 = options.precision == "bfloat16" or (
            options.precision == "auto" and self.device.type == "cuda"
        )
        compile = options.compile and self.device.type == "cuda"
        if compile:
            _compile(self.network)
        self._module: nn.Module = TrainingModule(self.network, options.loss, compile=compile)
        if self.processes.count > 1:
            self._module = DistributedDataParallel(self._module, gradient_as_bucket_view=True)

    def render(self, phase: PhaseOptions, progress: float, *, step: int | None = None) -> PairBatch:
        """The batch of a step, by default the present one."""
        step = self.step if step is None else step
        seed, rank = self.options.seed, self.processes.rank
        # all processes agree on the orientation, so that none waits for a larger image
        turn = np.random.default_rng(_seed(seed, _ORIENTATION, step, 0)).random()
        ease = np.random.default_rng(_seed(seed, _DIFFICULTY, step, rank)).random() * phase.easing
        first, last = phase.difficulty
        return self.stream(
            _seed(seed, _TRAINING, step, rank),
            pairs=phase.pairs,
            image_size=phase.image_size[::-1] if turn < phase.portrait else phase.image_size,
            difficulty=(first + (last - first) * progress) * (1 - ease),
        )

    def render_held_out(self, start: int, *, pairs: int, image_size: tuple[int, int]) -> PairBatch:
        """A batch that no training step sees; ``start`` numbers them."""
        seed = _seed(self.options.seed, _VALIDATION, start, 0)
        return self.stream(seed, pairs=pairs, image_size=image_size, difficulty=1.0)

    def loss(self, phase: PhaseOptions, batch: PairBatch) -> tuple[Tensor, Tensor]:
        """The loss of a batch and its metrics, see `joined_loss`."""
        generator = torch.Generator(self.device).manual_seed(
            _seed(self.options.seed, _SAMPLING, self.step, self.processes.rank)
        )
        with (
            torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16),
            nullcontext() if phase.compile else torch.compiler.set_stance("force_eager"),
        ):
            loss, metrics = self._module(batch, phase.correspondences, generator)
        return loss, metrics

    def take_step(self, phase: PhaseOptions, progress: float) -> Tensor:
        """One optimizer step.

        Returns:
            The metrics and the norm of the gradient, one vector on the device.
        """
        for group in self.optimizer.param_groups:
            group["lr"] = self.options.learning_rate_at(self.step) * self.rate_factor
        loss, metrics = self.loss(phase, self._next_batch(phase, progress))
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, self.options.clip_norm)
        self.optimizer.step()
        self.step += 1
        # early averages would remember the random start: the window grows with the steps
        decay = min(self.options.ema_decay, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - decay)
        return torch.cat([metrics, norm.detach()[None]])

    def _next_batch(self, phase: PhaseOptions, progress: float) -> PairBatch:
        """The batch of the present step; that of the next one starts beside it, on a GPU."""
        if self._side is None:
            return self.render(phase, progress)
        ahead, self._ahead = self._ahead, None
        if ahead is None or (ahead.step, ahead.phase) != (self.step, phase):
            ahead = self._start(self._side, self.step, phase, progress)
        if self.step + 1 < self.options.total_steps:
            self._ahead = self._start(
                self._side, self.step + 1, *self.options.phase_at(self.step + 1)
            )
        stream = torch.cuda.current_stream(self.device)
        stream.wait_event(ahead.rendered)
        for tensor in vars(ahead.batch).values():
            tensor.record_stream(stream)
        return ahead.batch

    def _start(
        self, side: torch.cuda.Stream, step: int, phase: PhaseOptions, progress: float
    ) -> "_Ahead":
        with torch.cuda.stream(side):
            batch = self.render(phase, progress, step=step)
            rendered = torch.cuda.Event()
            rendered.record()
        return _Ahead(step=step, phase=phase, batch=batch, rendered=rendered)

    @contextmanager
    def averaged_weights(self) -> Iterator[SmallNetwork]:
        """The network in evaluation mode with the averaged weights, for a while."""
        parameters = [parameter.detach() for parameter in self.parameters]
        own = [parameter.clone() for parameter in parameters]
        torch._foreach_copy_(parameters, self.ema)
        self.network.eval()
        try:
            # compiled once more for other batches and modes, it would cost more than it saves
            with torch.compiler.set_stance("force_eager"):
                yield self.network
        finally:
            self.network.train()
            torch._foreach_copy_(parameters, own)

    def state(self) -> dict[str, Tensor]:
        """All tensors that `load_state` needs to go on bit for bit (the CPU) or nearly (GPUs)."""
        tensors: dict[str, Tensor] = {}
        for name, parameter, average in zip(self.names, self.parameters, self.ema, strict=True):
            tensors[f"model.{name}"] = parameter
            tensors[f"ema.{name}"] = average
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value
        return tensors

    def load_state(self, step: int, tensors: Mapping[str, Tensor]) -> None:
        """Go back to the state behind a step."""
        for name, parameter, average in zip(self.names, self.parameters, self.ema, strict=True):
            with torch.no_grad():
                parameter.copy_(tensors[f"model.{name}"])
                average.copy_(tensors[f"ema.{name}"])
            moments = {
                # same memory layout as the parameter, so that sums add up in the same order
                key: torch.empty_like(parameter).copy_(tensors[f"optimizer.{key}.{name}"])
                for key in ("exp_avg", "exp_avg_sq")
            }
            # the fused optimizer counts its steps on the GPU, the other one on the CPU
            count = tensors[f"optimizer.step.{name}"].to(self.device)
            self.optimizer.state[parameter] = {"step": count, **moments}
        self.step = step


def _seed(seed: int, purpose: int, step: int, rank: int) -> int:
    """A seed of 63 bits for one use of randomness, unlike those of all other uses."""
    words = np.random.SeedSequence([seed, purpose, step, rank]).generate_state(2, np.uint64)
    return int(words[0] >> np.uint64(1))


def _optimizer(
    parameters: list[nn.Parameter], options: TrainOptions, *, fused: bool
) -> torch.optim.AdamW:
    matrices = [p for p in parameters if p.ndim > 1]
    vectors = [p for p in parameters if p.ndim <= 1]
    groups: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": options.weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(groups, lr=options.learning_rate, betas=options.betas, fused=fused)


def _initial_state(options: TrainOptions) -> Mapping[str, Tensor]:
    checkpoint = read_checkpoint(options.initial_weights)
    # the unit of the point maps changes no layer
    config = replace(checkpoint.config, metres_per_unit=1.0)
    if config != options.network.config():
        raise InputError(
            f"'{options.initial_weights}' is of another network than the options' network"
        )
    return {name: tensor.float() for name, tensor in checkpoint.state.items()}


def _compile(network: SmallNetwork) -> None:
    """Compile the repeated parts, each once: far quicker than the whole at once."""
    # the parts are smaller than a bucket of gradients: nothing is gained by cutting them further
    torch._dynamo.config.optimize_ddp = False
    network.stem.compile(dynamic=False)
    network.outputs = torch.compile(network.outputs, dynamic=False)  # type: ignore[method-assign]
    for block in (*network.enc_blocks, *network.dec_blocks):
        block.compile(dynamic=False)
