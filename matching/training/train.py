"""The training loop: rendered pairs in, weights out, on the CPU or on the GPUs of one machine.

Several GPUs: start one process for each with torchrun; every one renders its own pairs.
"""

import logging
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import torch.distributed as dist
from torch import Tensor

from matching.checkpoint import save_checkpoint as save_weights
from matching.errors import InputError
from matching.files import PathLike
from matching.options import first_difference, options_as_dict
from matching.training.batch import PairWorld
from matching.training.checkpoints import (
    Checkpoint,
    find_checkpoints,
    read_checkpoint,
    remove_old_checkpoints,
    write_checkpoint,
)
from matching.training.logs import MetricLog
from matching.training.objective import METRIC_NAMES, chance_level
from matching.training.options import TrainOptions
from matching.training.trainer import PairStream, Trainer, joined_processes
from matching.training.validate import validate_photos, validate_worlds

logger = logging.getLogger(__name__)

Status = Literal["finished", "out of time", "diverged"]

WEIGHTS_NAME = "small.safetensors"

_VALIDATION_BATCH = 16  # pairs
# options whose absence in an earlier version's checkpoint means this; others came with a new loss
_ALWAYS_SO = {"textures_per_style": 80}
_MAX_PROCESSES = 1024  # so that no process of one run paints the textures of one of the next
# Options that may differ between a run and its continuation: they change no batch, and no number
# but by rounding and by the clock
_FREE_OPTIONS = (
    "compile",
    "max_seconds",
    "decay_seconds",
    "log_every_steps",
    "checkpoint_every_steps",
    "keep_checkpoints",
    "validation",
)


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

    status: Status
    reason: str
    step: int
    checkpoint: Path | None
    weights: Path | None


def train(
    options: TrainOptions,
    out: PathLike,
    *,
    stream: PairStream | None = None,
    device: str | None = None,
    resume: bool = True,
) -> TrainResult:
    """Train the small network, or go on with a run.

    Args:
        options: The run.
        out: Its folder: checkpoints, ``train.csv``, ``validation.csv``, ``tensorboard/`` and in
            the end `WEIGHTS_NAME`.
        stream: Renders the pairs on the device; None: `PairWorld`.
        device: ``cpu`` or ``cuda``; None: CUDA if there is one. Under torchrun every process takes
            the GPU of its local rank.
        resume: Go on from the newest checkpoint in ``out``; False refuses a folder that has one.

    Returns:
        How it ended. Divergence is no exception: the last good checkpoint is kept and named.

    Raises:
        InputError: The folder holds a run with other options, or a damaged checkpoint.
    """
    with joined_processes(device) as processes:
        # before minutes of painting
        checkpoint = _checkpoint_to_resume(options, Path(out), processes.count, resume)
        if processes.device.type == "cuda":
            # sums of similarities bear the rounding; the network runs in bfloat16 anyway
            torch.set_float32_matmul_precision("high")
        if stream is None:
            if processes.first:
                logger.info(
                    "painting %d textures of each style for the worlds", options.textures_per_style
                )
            # textures of one seed are so few that they would be learned by heart
            stream = PairWorld(
                processes.device,
                texture_seed=options.seed * _MAX_PROCESSES + processes.rank,
                textures_per_style=options.textures_per_style,
                correspondences=1024,
                recorded=True,
            )
        trainer = Trainer(options, stream, processes=processes)
        return _Run(options, Path(out), trainer, checkpoint).go()


def _checkpoint_to_resume(
    options: TrainOptions, out: Path, num_processes: int, resume: bool
) -> Checkpoint | None:
    """The newest checkpoint of a folder, if it holds any; refuses those of another run."""
    found = find_checkpoints(out)
    if not found:
        return None
    if not resume:
        raise InputError(f"'{out}' already holds a run; resume it or choose another folder")
    checkpoint = read_checkpoint(found[-1])
    old = {**checkpoint.values["options"], **dict.fromkeys(_FREE_OPTIONS)}
    new = {**options_as_dict(options), **dict.fromkeys(_FREE_OPTIONS)}
    difference = first_difference(old, new, defaults=_ALWAYS_SO)
    if difference is not None:
        raise InputError(f"'{out}' holds a run with another '{difference}'; choose another folder")
    if checkpoint.values["processes"] != num_processes:
        raise InputError(
            f"'{out}' was trained by {checkpoint.values['processes']} processes; "
            f"{num_processes} would see other batches"
        )
    return checkpoint


class _Run:
    """A run's folder and its decisions between the steps."""

    def __init__(
        self, options: TrainOptions, out: Path, trainer: Trainer, checkpoint: Checkpoint | None
    ) -> None:
        self.options, self.out, self.trainer = options, out, trainer
        self.seconds_before = 0.0
        self.lowest_matching = math.inf  # over log intervals, in units of chance
        self.checkpoint: Path | None = None
        if checkpoint is not None:
            self._restore(checkpoint)

    def go(self) -> TrainResult:
        options, trainer = self.options, self.trainer
        start = interval_start = time.perf_counter()
        logs = self._open_logs()
        sums = torch.zeros(len(METRIC_NAMES) + 1, device=trainer.device)
        counted = 0
        status: Status = "finished"
        reason = ""
        while trainer.step < options.total_steps:
            phase, progress = options.phase_at(trainer.step)
            sums += trainer.take_step(phase, progress)
            counted += 1
            last = trainer.step == options.total_steps
            due = trainer.step % options.checkpoint_every_steps == 0 or last
            if due or trainer.step % options.log_every_steps == 0:
                # one vector, averaged over the processes: all of them decide the same
                elapsed = time.perf_counter() - start
                means = self._averaged(sums / counted, elapsed)
                interval = time.perf_counter() - interval_start
                self._log(logs, means, counted * phase.pairs / interval, elapsed)
                reason = self._divergence(means)
                if reason:
                    status = "diverged"
                    break
                # all processes agree on it, for they averaged it
                trainer.rate_factor = options.learning_rate_factor(means["elapsed_s"])
                sums.zero_()
                counted, interval_start = 0, time.perf_counter()
                if options.max_seconds is not None and means["elapsed_s"] > options.max_seconds:
                    status, reason = "out of time", f"{options.max_seconds:g} s are over"
            if due or status != "finished":
                self._save(self.seconds_before + time.perf_counter() - start)
            # after the checkpoint: on a CPU it takes long enough to be interrupted
            every = options.validation.every_steps
            if every and (trainer.step % every == 0 or last) and status == "finished":
                self._validate(logs)
                interval_start = time.perf_counter()
            if status != "finished":
                break
        weights = None if status == "diverged" else self._export()
        for log in logs.values():
            log.close()
        return TrainResult(
            status=status,
            reason=reason,
            step=trainer.step,
            checkpoint=self.checkpoint,
            weights=weights,
        )

    def _averaged(self, means: Tensor, elapsed_s: float) -> dict[str, float]:
        vector = torch.cat([means, means.new_tensor([elapsed_s])])
        if self.trainer.processes.count > 1:
            dist.all_reduce(vector)
            vector /= self.trainer.processes.count
        names = (*METRIC_NAMES, "gradient_norm", "elapsed_s")
        return dict(zip(names, vector.tolist(), strict=True))

    def _divergence(self, means: Mapping[str, float]) -> str:
        """Why the run must stop, or nothing."""
        step = self.trainer.step
        for name in ("loss", "gradient_norm"):
            if not math.isfinite(means[name]):
                return f"{name} is {means[name]} before step {step}"
        phase, _ = self.options.phase_at(step - 1)
        relative = means["matching"] / chance_level(phase.correspondences)
        self.lowest_matching = min(self.lowest_matching, relative)
        if self.lowest_matching < 0.5 and relative > 0.9:
            return (
                f"the matching loss fell back to chance before step {step}: "
                f"{means['matching']:.2f} nats"
            )
        return ""

    def _open_logs(self) -> dict[str, MetricLog]:
        if not self.trainer.processes.first:
            return {}
        self.out.mkdir(parents=True, exist_ok=True)
        return {
            name: MetricLog(self.out, name, resume_step=self.trainer.step)
            for name in ("train", "validation")
        }

    def _log(
        self,
        logs: Mapping[str, MetricLog],
        means: Mapping[str, float],
        pairs_per_second: float,
        elapsed_s: float,
    ) -> None:
        if not self.trainer.processes.first:
            return
        step = self.trainer.step
        phase, progress = self.options.phase_at(step - 1)
        first, last = phase.difficulty
        row = {
            **means,
            "elapsed_s": self.seconds_before + elapsed_s,
            "learning_rate": self.options.learning_rate_at(step - 1) * self.trainer.rate_factor,
            "difficulty": first + (last - first) * progress,
            "width": float(phase.image_size[0]),
            "pairs_per_second": pairs_per_second * self.trainer.processes.count,
        }
        logs["train"].write(step, row)
        logger.info("step %d %s", step, " ".join(f"{k} {v:.4g}" for k, v in row.items()))

    def _validate(self, logs: Mapping[str, MetricLog]) -> None:
        if not self.trainer.processes.first:
            return  # the others wait for rank 0 at the next gradient
        options = self.options.validation
        logger.info("validating on %d pairs of %dx%d", options.pairs, *options.image_size)
        batches = (
            self.trainer.render_held_out(
                start,
                pairs=min(_VALIDATION_BATCH, options.pairs - start),
                image_size=options.image_size,
            )
            for start in range(0, options.pairs, _VALIDATION_BATCH)
        )
        with self.trainer.averaged_weights() as network:
            row = validate_worlds(network, batches, options)
            for folder in options.folders:
                photos = validate_photos(network, folder, options)
                row.update({f"{Path(folder).name}_{k}": v for k, v in photos.items()})
        logs["validation"].write(self.trainer.step, row)
        logger.info("validation %d %s", self.trainer.step, row)

    def _save(self, seconds: float) -> None:
        if not self.trainer.processes.first:
            return
        values = {
            "options": options_as_dict(self.options),
            "processes": self.trainer.processes.count,
            "seconds": seconds,
            "lowest_matching": self.lowest_matching,
        }
        checkpoint = Checkpoint(step=self.trainer.step, tensors=self.trainer.state(), values=values)
        self.checkpoint = write_checkpoint(self.out, checkpoint)
        self._export()
        remove_old_checkpoints(self.out, self.options.keep_checkpoints)

    def _restore(self, checkpoint: Checkpoint) -> None:
        self.trainer.load_state(checkpoint.step, checkpoint.tensors)
        self.seconds_before = float(checkpoint.values["seconds"])
        self.lowest_matching = float(checkpoint.values["lowest_matching"])
        self.checkpoint = find_checkpoints(self.out)[-1]
        if self.trainer.processes.first:
            logger.info("going on from step %d", checkpoint.step)

    def _export(self) -> Path:
        trainer, path = self.trainer, self.out / WEIGHTS_NAME
        if trainer.processes.first:
            averages = zip(trainer.names, trainer.ema, strict=True)
            save_weights(trainer.network.config, {n: t.half().cpu() for n, t in averages}, path)
        return path
