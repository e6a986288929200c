"""The training loop: rendered pairs in, weights out, on the CPU or on the GPUs of one machine.

Several GPUs: start one process for each with torchrun; every one renders its own pairs. Nothing is
random but the batches and the losses' sampling, and both depend on (seed, step, rank) alone: the
state of the data stream is the step, and a run that resumes from a checkpoint sees the same
batches as one that never stopped.
"""

import logging
import math
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from matching.checkpoint import read_checkpoint as read_weights
from matching.checkpoint import save_checkpoint as save_weights
from matching.errors import InputError
from matching.files import PathLike
from matching.network import EVERYTHING
from matching.network.small import SmallNetwork
from matching.options import first_difference, options_as_dict
from matching.training.batch import PairBatch
from matching.training.checkpoints import (
    Checkpoint,
    find_checkpoints,
    read_checkpoint,
    remove_old_checkpoints,
    write_checkpoint,
)
from matching.training.logs import MetricLog
from matching.training.objective import METRIC_NAMES, LossOptions, chance_level, joined_loss
from matching.training.options import PhaseOptions, TrainOptions
from matching.training.samples import sample_correspondences
from matching.training.validate import validate_photos, validate_worlds

logger = logging.getLogger(__name__)

WEIGHTS_NAME = "small.safetensors"

_VALIDATION_STREAM = 1  # second word of the seeds of held-out worlds; the training's is 0
_VALIDATION_BATCH = 16  # pairs
# Options that may differ between a run and its continuation: they change no number of the training
_FREE_OPTIONS = ("max_seconds", "log_every_steps", "checkpoint_every_steps", "keep_checkpoints")


class PairStream(Protocol):
    """Renders batches of pairs; the same arguments give the same batch."""

    def __call__(
        self, seed: int, *, pairs: int, image_size: tuple[int, int], difficulty: float
    ) -> PairBatch:
        """A batch of ``pairs`` pairs of images of ``image_size`` (width, height)."""
        ...


@dataclass(frozen=True, kw_only=True)
class TrainResult:
    """How a training run ended.

    Attributes:
        status: ``finished``, ``out of time`` (resume to go on) or ``diverged``.
        reason: Why, empty when finished.
        step: Optimizer steps done in total.
        checkpoint: The newest good checkpoint, None if there is none yet.
        weights: The averaged weights, float16; None when diverged.
    """

    status: Literal["finished", "out of time", "diverged"]
    reason: str
    step: int
    checkpoint: Path | None
    weights: Path | None


class TrainingModule(nn.Module):
    """Network and loss in one call, as DistributedDataParallel wants it."""

    def __init__(self, network: SmallNetwork, options: LossOptions) -> None:
        super().__init__()
        self.network = network
        self.options = options

    def forward(
        self, batch: PairBatch, correspondences: int, generator: torch.Generator
    ) -> tuple[Tensor, Tensor]:
        """The loss of a batch and its metrics, see `joined_loss`."""
        pairs = len(batch.images)
        images = batch.images.transpose(0, 1).flatten(0, 1).float() * 2 - 1  # view 0s, view 1s
        dtype = torch.bfloat16 if torch.is_autocast_enabled(images.device.type) else torch.float32
        encoding = self.network.encode(images.to(dtype))
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
            )


def train(
    options: TrainOptions,
    out: PathLike,
    *,
    stream: PairStream,
    device: str | None = None,
    resume: bool = True,
) -> TrainResult:
    """Train the small network, or go on with a run.

    Args:
        options: The run.
        out: Its folder: checkpoints, ``train.csv``, ``validation.csv``, ``tensorboard/`` and in
            the end `WEIGHTS_NAME`.
        stream: Renders the pairs on the device.
        device: ``cpu`` or ``cuda``; None: CUDA if there is one. Under torchrun every process takes
            the GPU of its local rank.
        resume: Go on from the newest checkpoint in ``out``; False refuses a folder that has one.

    Returns:
        How it ended. Divergence is no exception: the last good checkpoint is kept and named.

    Raises:
        InputError: The folder holds a run with other options, or a damaged checkpoint.
    """
    with _processes(device) as processes:
        return _Run(options, Path(out), stream, processes, resume).go()


@dataclass(frozen=True, kw_only=True)
class _Processes:
    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        return self.rank == 0


@contextmanager
def _processes(device: str | None) -> Iterator[_Processes]:
    """This process among those that torchrun started, or alone."""
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    if "WORLD_SIZE" not in os.environ or dist.is_initialized():
        yield _Processes(rank=0, count=1, device=torch.device(kind))
        return
    if kind == "cuda":
        own = torch.device("cuda", int(os.environ["LOCAL_RANK"]))
        torch.cuda.set_device(own)
        dist.init_process_group("nccl", device_id=own)
    else:
        own = torch.device(kind)
        dist.init_process_group("gloo")
    try:
        yield _Processes(rank=dist.get_rank(), count=dist.get_world_size(), device=own)
    finally:
        dist.destroy_process_group()


class _Run:
    """The state of a run between its steps."""

    def __init__(
        self,
        options: TrainOptions,
        out: Path,
        stream: PairStream,
        processes: _Processes,
        resume: bool,
    ) -> None:
        self.options, self.out, self.stream, self.processes = options, out, stream, processes
        self.device = processes.device
        torch.manual_seed(options.seed)  # initial weights, equal on all processes
        network = SmallNetwork(options.network.config())
        if options.initial_weights:
            network.load_state_dict(_initial_state(options))
        self.network = network.to(self.device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.module = TrainingModule(self.network, options.loss)
        self.names = [name for name, _ in self.network.named_parameters()]
        self.parameters = list(self.network.parameters())
        self.ema = [parameter.detach().clone() for parameter in self.parameters]
        self.optimizer = _optimizer(self.parameters, options, fused=self.device.type == "cuda")
        self.step = 0
        self.seconds_before = 0.0
        self.lowest_matching = math.inf  # over log intervals, in units of chance
        self.checkpoint: Path | None = None
        found = find_checkpoints(out)
        if found:
            if not resume:
                raise InputError(f"'{out}' already holds a run; resume it or choose another folder")
            self._restore(found[-1])
        self.bfloat16 = options.precision == "bfloat16" or (
            options.precision == "auto" and self.device.type == "cuda"
        )
        if options.compile and self.device.type == "cuda":
            _compile(self.network)
        self.trained: nn.Module = self.module
        if processes.count > 1:
            self.trained = DistributedDataParallel(self.module, gradient_as_bucket_view=True)

    def go(self) -> TrainResult:
        options = self.options
        start = time.perf_counter()
        logs = self._open_logs()
        sums = torch.zeros(len(METRIC_NAMES) + 1, device=self.device)
        counted, interval_start = 0, time.perf_counter()
        status: Literal["finished", "out of time", "diverged"] = "finished"
        reason = ""
        while self.step < options.total_steps:
            sums += self._take_step()
            counted += 1
            last = self.step == options.total_steps
            due = self.step % options.checkpoint_every_steps == 0 or last
            if due or self.step % options.log_every_steps == 0:
                # one vector, averaged over the processes: all of them decide the same
                elapsed = time.perf_counter() - start
                means = self._averaged(sums / counted, elapsed)
                interval = time.perf_counter() - interval_start
                self._log(logs, means, counted, interval, elapsed)
                reason = self._divergence(means)
                if reason:
                    status = "diverged"
                    break
                sums.zero_()
                counted, interval_start = 0, time.perf_counter()
                if options.max_seconds is not None and means["elapsed_s"] > options.max_seconds:
                    status, reason = "out of time", f"{options.max_seconds:g} s are over"
            every = options.validation.every_steps
            if every and (self.step % every == 0 or last) and status == "finished":
                self._validate(logs)
                interval_start = time.perf_counter()
            if due or status != "finished":
                self._save(self.seconds_before + time.perf_counter() - start)
            if status != "finished":
                break
        weights = None if status == "diverged" else self._export()
        for log in logs.values():
            log.close()
        return TrainResult(
            status=status,
            reason=reason,
            step=self.step,
            checkpoint=self.checkpoint,
            weights=weights,
        )

    def _take_step(self) -> Tensor:
        """One optimizer step; returns the metrics and the gradient's norm, on the device."""
        options = self.options
        phase, progress = options.phase_at(self.step)
        batch = self._batch(phase, progress)
        generator = torch.Generator(self.device).manual_seed(
            _seed(options.seed, 2, self.step, self.processes.rank)
        )
        for group in self.optimizer.param_groups:
            group["lr"] = options.learning_rate_at(self.step)
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.bfloat16):
            loss, metrics = self.trained(batch, phase.correspondences, generator)
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(self.parameters, options.clip_norm)
        self.optimizer.step()
        self.step += 1
        # early averages would remember the random start: the window grows with the steps
        decay = min(options.ema_decay, self.step / (self.step + 10))
        with torch.no_grad():
            torch._foreach_lerp_(self.ema, self.parameters, 1 - decay)
        return torch.cat([metrics, norm.detach()[None]])

    def _batch(self, phase: PhaseOptions, progress: float) -> PairBatch:
        seed = _seed(self.options.seed, 0, self.step, self.processes.rank)
        # all processes agree on the orientation, so that none waits for a larger image
        turn = np.random.default_rng(_seed(self.options.seed, 3, self.step, 0)).random()
        first, last = phase.difficulty
        return self.stream(
            seed,
            pairs=phase.pairs,
            image_size=phase.image_size[::-1] if turn < phase.portrait else phase.image_size,
            difficulty=first + (last - first) * progress,
        )

    def _averaged(self, means: Tensor, elapsed_s: float) -> dict[str, float]:
        vector = torch.cat([means, means.new_tensor([elapsed_s])])
        if self.processes.count > 1:
            dist.all_reduce(vector)
            vector /= self.processes.count
        names = (*METRIC_NAMES, "gradient_norm", "elapsed_s")
        return dict(zip(names, vector.tolist(), strict=True))

    def _divergence(self, means: Mapping[str, float]) -> str:
        """Why the run must stop, or nothing."""
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(means[name]):
                return f"{name} is {means[name]} before step {self.step}"
        phase, _ = self.options.phase_at(self.step - 1)
        relative = means["matching"] / chance_level(phase.correspondences)
        self.lowest_matching = min(self.lowest_matching, relative)
        if self.lowest_matching < 0.5 and relative > 0.9:
            return (
                f"the matching loss fell back to chance before step {self.step}: "
                f"{means['matching']:.2f} nats"
            )
        return ""

    def _open_logs(self) -> dict[str, MetricLog]:
        if not self.processes.first:
            return {}
        self.out.mkdir(parents=True, exist_ok=True)
        return {
            name: MetricLog(self.out, name, resume_step=self.step)
            for name in ("train", "validation")
        }

    def _log(
        self,
        logs: Mapping[str, MetricLog],
        means: Mapping[str, float],
        steps: int,
        seconds: float,
        elapsed_s: float,
    ) -> None:
        if not self.processes.first:
            return
        phase, progress = self.options.phase_at(self.step - 1)
        first, last = phase.difficulty
        row = {
            **means,
            "elapsed_s": self.seconds_before + elapsed_s,
            "learning_rate": self.options.learning_rate_at(self.step - 1),
            "difficulty": first + (last - first) * progress,
            "width": float(phase.image_size[0]),
            "pairs_per_second": steps * phase.pairs * self.processes.count / seconds,
        }
        logs["train"].write(self.step, row)
        logger.info("step %d %s", self.step, " ".join(f"{k} {v:.4g}" for k, v in row.items()))

    def _validate(self, logs: Mapping[str, MetricLog]) -> None:
        if not self.processes.first:
            return  # the others wait for rank 0 at the next gradient
        options = self.options.validation
        batches = (
            self.stream(
                _seed(self.options.seed, _VALIDATION_STREAM, start, 0),
                pairs=min(_VALIDATION_BATCH, options.pairs - start),
                image_size=options.image_size,
                difficulty=1.0,
            )
            for start in range(0, options.pairs, _VALIDATION_BATCH)
        )
        with _weights(self.network, self.ema):
            self.network.eval()
            row = validate_worlds(self.network, batches, options)
            for folder in options.folders:
                photos = validate_photos(self.network, folder, options)
                row.update({f"{Path(folder).name}_{k}": v for k, v in photos.items()})
            self.network.train()
        logs["validation"].write(self.step, row)
        logger.info("validation %d %s", self.step, row)

    def _save(self, seconds: float) -> None:
        if not self.processes.first:
            return
        tensors: dict[str, Tensor] = {}
        for name, parameter, average in zip(self.names, self.parameters, self.ema, strict=True):
            tensors[f"model.{name}"] = parameter
            tensors[f"ema.{name}"] = average
            for key, value in self.optimizer.state[parameter].items():
                tensors[f"optimizer.{key}.{name}"] = value
        values = {
            "options": options_as_dict(self.options),
            "processes": self.processes.count,
            "seconds": seconds,
            "lowest_matching": self.lowest_matching,
        }
        checkpoint = Checkpoint(step=self.step, tensors=tensors, values=values)
        self.checkpoint = write_checkpoint(self.out, checkpoint)
        remove_old_checkpoints(self.out, self.options.keep_checkpoints)

    def _restore(self, path: Path) -> None:
        checkpoint = read_checkpoint(path)
        old = {**checkpoint.values["options"], **dict.fromkeys(_FREE_OPTIONS)}
        new = {**options_as_dict(self.options), **dict.fromkeys(_FREE_OPTIONS)}
        difference = first_difference(old, new)
        if difference is not None:
            raise InputError(
                f"'{self.out}' holds a run with another '{difference}'; choose another folder"
            )
        if checkpoint.values["processes"] != self.processes.count:
            raise InputError(
                f"'{self.out}' was trained by {checkpoint.values['processes']} processes; "
                f"{self.processes.count} would see other batches"
            )
        tensors = checkpoint.tensors
        for name, parameter, average in zip(self.names, self.parameters, self.ema, strict=True):
            with torch.no_grad():
                parameter.copy_(tensors[f"model.{name}"])
                average.copy_(tensors[f"ema.{name}"])
            state: dict[str, Tensor] = {}
            for key in ("step", "exp_avg", "exp_avg_sq"):
                value = tensors[f"optimizer.{key}.{name}"]
                if key == "step":  # the fused optimizer counts on the device, the other one here
                    device = self.device if self.device.type == "cuda" else torch.device("cpu")
                    state[key] = value.to(device)
                else:
                    # same memory layout as the parameter, so that sums add up in the same order
                    state[key] = torch.empty_like(parameter).copy_(value)
            self.optimizer.state[parameter] = state
        self.step = checkpoint.step
        self.seconds_before = float(checkpoint.values["seconds"])
        self.lowest_matching = float(checkpoint.values["lowest_matching"])
        self.checkpoint = path

    def _export(self) -> Path:
        path = self.out / WEIGHTS_NAME
        if self.processes.first:
            state = {n: t.half().cpu() for n, t in zip(self.names, self.ema, strict=True)}
            save_weights(self.network.config, state, path)
        return path


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
    checkpoint = read_weights(options.initial_weights)
    if checkpoint.config != options.network.config():
        raise InputError(
            f"'{options.initial_weights}' is of another network than the options' network"
        )
    return {name: tensor.float() for name, tensor in checkpoint.state.items()}


def _compile(network: SmallNetwork) -> None:
    """Compile the repeated parts, each once: far quicker than the whole at once."""
    network.stem.compile(dynamic=False)
    network.head.compile(dynamic=False)
    for block in (*network.enc_blocks, *network.dec_blocks):
        block.compile(dynamic=False)


@contextmanager
def _weights(network: nn.Module, values: list[Tensor]) -> Iterator[None]:
    """Other weights in the network for a while."""
    parameters = [parameter.detach() for parameter in network.parameters()]
    own = [parameter.clone() for parameter in parameters]
    torch._foreach_copy_(parameters, values)
    try:
        yield
    finally:
        torch._foreach_copy_(parameters, own)
