"""Options of a training run, as ``configs/train_small.yaml`` sets them."""

from dataclasses import dataclass, field, replace
from typing import Literal

from matching.network.config import NetworkConfig
from matching.network.small import small_config
from matching.training.objective import LossOptions


@dataclass(frozen=True, kw_only=True)
class NetworkOptions:
    """Size of the small network; the defaults are the bundled model's."""

    encoder_width: int = 256  # channels
    encoder_depth: int = 6  # blocks
    encoder_heads: int = 4
    decoder_width: int = 192
    decoder_depth: int = 6
    decoder_heads: int = 3

    def config(self) -> NetworkConfig:
        """The network's configuration; refuses sizes that do not fit together."""
        return replace(
            small_config(),
            enc_embed_dim=self.encoder_width,
            enc_depth=self.encoder_depth,
            enc_num_heads=self.encoder_heads,
            dec_embed_dim=self.decoder_width,
            dec_depth=self.decoder_depth,
            dec_num_heads=self.decoder_heads,
            metres_per_unit=1.0,  # worlds are in metres, and a loss of its own learns them
        )

    def __post_init__(self) -> None:
        self.config()


@dataclass(frozen=True, kw_only=True)
class PhaseOptions:
    """A stretch of the training at one image size."""

    steps: int = 1000
    image_size: tuple[int, int] = (256, 192)  # width, height in pixels, landscape
    portrait: float = 0.25  # share of steps with width and height exchanged
    pairs: int = 96  # per GPU and step
    correspondences: int = 1024  # per pair
    difficulty: tuple[float, float] = (1.0, 1.0)  # of the world, at the first and last step, 0-1
    # every process and step draws its own difficulty between (1 - easing) times that and that
    easing: float = 0.0
    learning_rate_scale: float = 1.0
    compile: bool = True  # where the run's `compile` is; a short phase ends before it pays

    def __post_init__(self) -> None:
        for name in ("steps", "pairs", "correspondences"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if any(side < 32 or side % 16 for side in self.image_size):
            raise ValueError(f"image_size must be multiples of 16 from 32, got {self.image_size}")
        if not 0 <= self.portrait <= 1:
            raise ValueError(f"portrait must be in [0, 1], got {self.portrait}")
        if not all(0 <= value <= 1 for value in self.difficulty):
            raise ValueError(f"difficulty must be in [0, 1], got {self.difficulty}")
        if not 0 <= self.easing <= 1:
            raise ValueError(f"easing must be in [0, 1], got {self.easing}")
        if not self.learning_rate_scale > 0:
            raise ValueError(f"learning_rate_scale must be > 0, got {self.learning_rate_scale}")


@dataclass(frozen=True, kw_only=True)
class ValidationOptions:
    """What is measured while training."""

    every_steps: int = 2000  # 0: never
    pairs: int = 64  # of the held-out worlds
    image_size: tuple[int, int] = (512, 384)  # width, height in pixels
    max_matches: int = 3000  # best mutual matches that are scored
    folders: tuple[str, ...] = ()  # posed photos: images/ and sparse_gt/ (COLMAP text model)
    max_gap: int = 3  # photos of a folder that are at most this far apart in name order are pairs

    def __post_init__(self) -> None:
        for name in ("pairs", "max_matches", "max_gap"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if self.every_steps < 0:
            raise ValueError(f"every_steps must be >= 0, got {self.every_steps}")
        if any(side < 32 or side % 16 for side in self.image_size):
            raise ValueError(f"image_size must be multiples of 16 from 32, got {self.image_size}")


@dataclass(frozen=True, kw_only=True)
class TrainOptions:
    """A training run from its seed to its weights."""

    seed: int = 0
    network: NetworkOptions = field(default_factory=NetworkOptions)
    loss: LossOptions = field(default_factory=LossOptions)
    phases: tuple[PhaseOptions, ...] = (PhaseOptions(),)
    validation: ValidationOptions = field(default_factory=ValidationOptions)
    # painted by each process before its first step, which takes a minute; the fewer, the sooner
    # they are known by heart
    textures_per_style: int = 80
    initial_weights: str = ""  # a model to start from; empty: from nothing
    learning_rate: float = 6e-4  # peak, AdamW
    weight_decay: float = 0.05  # of matrices; vectors have none
    betas: tuple[float, float] = (0.9, 0.95)
    warmup_steps: int = 300  # linear from zero
    decay_steps: int = 2000  # linear to zero at the end
    decay_seconds: float = 0.0  # linear to zero over the last of max_seconds; 0: by steps alone
    clip_norm: float = 1.0  # largest norm of the whole gradient
    ema_decay: float = 0.999  # of the averaged weights, which are what is exported
    precision: Literal["auto", "float32", "bfloat16"] = "auto"  # auto: bfloat16 on CUDA
    compile: bool = True  # torch.compile on CUDA
    log_every_steps: int = 50
    checkpoint_every_steps: int = 1000
    keep_checkpoints: int = 2
    max_seconds: float | None = None  # stop with a checkpoint after this time, resume later

    def __post_init__(self) -> None:
        if not self.phases:
            raise ValueError("phases must hold at least one phase")
        for name in ("learning_rate", "clip_norm"):
            if not getattr(self, name) > 0:
                raise ValueError(f"{name} must be > 0, got {getattr(self, name)}")
        for name in ("weight_decay", "warmup_steps", "decay_steps", "decay_seconds", "seed"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must be >= 0, got {getattr(self, name)}")
        for name in (
            *("log_every_steps", "checkpoint_every_steps", "keep_checkpoints"),
            "textures_per_style",
        ):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} must be >= 1, got {getattr(self, name)}")
        if not 0 <= self.ema_decay < 1:
            raise ValueError(f"ema_decay must be in [0, 1), got {self.ema_decay}")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas must be in [0, 1), got {self.betas}")
        if self.max_seconds is not None and not self.max_seconds > 0:
            raise ValueError(f"max_seconds must be > 0 or null, got {self.max_seconds}")
        if self.decay_seconds and self.max_seconds is None:
            raise ValueError("decay_seconds needs max_seconds")

    @property
    def total_steps(self) -> int:
        """Steps of all phases."""
        return sum(phase.steps for phase in self.phases)

    def phase_at(self, step: int) -> tuple[PhaseOptions, float]:
        """The phase that a step (from 0) belongs to, and how far it has gone, in [0, 1)."""
        for phase in self.phases:
            if step < phase.steps:
                return phase, step / phase.steps
            step -= phase.steps
        raise ValueError(f"step is {step} steps behind the end of the last phase")

    def learning_rate_at(self, step: int) -> float:
        """Warm-up, constant with the phase's scale, linear decay."""
        phase, _ = self.phase_at(step)
        warmup = min(1.0, (step + 1) / self.warmup_steps) if self.warmup_steps else 1.0
        left = self.total_steps - step
        decay = min(1.0, left / self.decay_steps) if self.decay_steps else 1.0
        return self.learning_rate * phase.learning_rate_scale * warmup * decay

    def learning_rate_factor(self, elapsed_s: float) -> float:
        """What `decay_seconds` makes of the learning rate after this time."""
        if not self.decay_seconds or self.max_seconds is None:
            return 1.0
        return min(1.0, max(0.0, (self.max_seconds - elapsed_s) / self.decay_seconds))
