"""The one configuration of the network family: MASt3R, DUSt3R and groundloc's own small model."""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

from matching.errors import InputError

Architecture = Literal["AsymmetricMASt3R", "AsymmetricCroCo3DStereo", "GroundlocSmall"]
ActivationMode = tuple[str, float, float]

# Keyword arguments of the published constructors that change nothing in inference or have one
# supported value. They are accepted in checkpoints with these values only (None: any value).
_FIXED_ARGUMENTS: Mapping[str, Any] = {
    "desc_mode": "norm",
    "mlp_ratio": 4,
    "norm_im2_in_dec": True,
    "freeze": None,
    "mask_ratio": None,
}


@dataclass(frozen=True, kw_only=True)
class NetworkConfig:
    """What a network computes; the field names are those of the published checkpoints.

    Attributes:
        architecture: Class named in the checkpoint. MASt3R has point maps and descriptors, CroCo3D
            (DUSt3R) point maps only, GroundlocSmall is `matching.network.small`.
        img_size: (height, width) the network was trained for; only its larger side is used, as the
            long side of the images that a matcher feeds in, pixels.
        patch_size: Side of a patch, pixels; image sides are multiples of it.
        pos_embed: "RoPE" followed by the base of the rotary frequencies.
        patch_embed_cls: "ManyAR_PatchEmbed" restores portrait images that are stored transposed
            (only with ``landscape_only``), "PatchEmbedDust3R" takes images as they are.
        enc_embed_dim, enc_depth, enc_num_heads: Encoder width, blocks, attention heads.
        dec_embed_dim, dec_depth, dec_num_heads: The same of each of the two decoders.
        head_type: "dpt" or "linear" point maps, "catmlp+dpt" with descriptors from an MLP,
            "small" the heads of groundloc's own model.
        output_mode: "pts3d", or "pts3d+desc24" with the number of descriptor channels.
        depth_mode: ("exp", -inf, inf): points are scaled by expm1 of their norm.
        conf_mode: ("exp", low, high) or ("sigmoid", low, high) of the confidence.
        desc_conf_mode: The same of the descriptors' confidence; None means ``conf_mode``.
        two_confs: The descriptors have a confidence of their own.
        landscape_only: Batches are stored in landscape layout, portrait images transposed
            (training); False takes every image upright (inference).
        metres_per_unit: Metres in the unit of the point maps; None where that is any (DUSt3R, and
            networks trained on scale-normalised points). Not in published checkpoints: MASt3R's
            unit is the metre.
    """

    architecture: Architecture
    img_size: tuple[int, int] = (224, 224)
    patch_size: int = 16
    pos_embed: str = "RoPE100"
    patch_embed_cls: Literal["PatchEmbedDust3R", "ManyAR_PatchEmbed"] = "PatchEmbedDust3R"
    enc_embed_dim: int = 1024
    enc_depth: int = 24
    enc_num_heads: int = 16
    dec_embed_dim: int = 768
    dec_depth: int = 12
    dec_num_heads: int = 12
    head_type: Literal["linear", "dpt", "catmlp+dpt", "small"] = "linear"
    output_mode: str = "pts3d"
    depth_mode: ActivationMode = ("exp", -math.inf, math.inf)
    conf_mode: ActivationMode = ("exp", 1.0, math.inf)
    desc_conf_mode: ActivationMode | None = None
    two_confs: bool = False
    landscape_only: bool = True
    metres_per_unit: float | None = None

    def __post_init__(self) -> None:
        for name in (
            *("patch_size", "enc_embed_dim", "enc_depth", "enc_num_heads"),
            *("dec_embed_dim", "dec_depth", "dec_num_heads"),
        ):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} must be > 0, got {getattr(self, name)}")
        for width, heads in (
            (self.enc_embed_dim, self.enc_num_heads),
            (self.dec_embed_dim, self.dec_num_heads),
        ):
            if width % (4 * heads):
                raise InputError(
                    f"a width of {width} does not divide into {heads} heads of a multiple of 4"
                )
        if not re.fullmatch(r"RoPE\d+(\.\d+)?", self.pos_embed):
            raise InputError(f"pos_embed must be 'RoPE' and a number, got '{self.pos_embed}'")
        if not re.fullmatch(r"pts3d(\+desc\d+)?", self.output_mode):
            raise InputError(
                f"output_mode must be 'pts3d' or 'pts3d+desc24', got '{self.output_mode}'"
            )
        if self.head_type == "catmlp+dpt" and self.desc_dim == 0:
            raise InputError("head_type 'catmlp+dpt' needs an output_mode like 'pts3d+desc24'")
        if self.head_type in ("dpt", "catmlp+dpt") and self.dec_depth <= 9:
            raise InputError(f"DPT heads need more than 9 decoder blocks, got {self.dec_depth}")
        if self.metres_per_unit is not None and not self.metres_per_unit > 0:
            raise InputError(f"metres_per_unit must be > 0, got {self.metres_per_unit}")
        if self.depth_mode != ("exp", -math.inf, math.inf):
            raise InputError(f"depth_mode must be ('exp', -inf, inf), got {self.depth_mode}")
        for mode in (self.conf_mode, self.desc_conf_mode):
            if mode is not None and mode[0] not in ("exp", "sigmoid"):
                raise InputError(f"a confidence mode must be 'exp' or 'sigmoid', got {mode}")

    @property
    def rope_base(self) -> float:
        """Base of the rotary embedding's frequencies."""
        return float(self.pos_embed.removeprefix("RoPE"))

    @property
    def desc_dim(self) -> int:
        """Number of descriptor channels; 0 without descriptors."""
        _, _, number = self.output_mode.partition("+desc")
        return int(number or 0)

    @property
    def long_side(self) -> int:
        """Long side of the images the network was trained for, pixels."""
        return max(self.img_size)

    @property
    def point_unit_m(self) -> float | None:
        """Metres in the unit of the point maps; None where it is any."""
        if self.architecture == "AsymmetricMASt3R":
            return 1.0 if self.metres_per_unit is None else self.metres_per_unit
        return self.metres_per_unit

    def for_inference(self) -> "NetworkConfig":
        """The same network fed with upright images; no parameter depends on the difference."""
        return replace(self, patch_embed_cls="PatchEmbedDust3R", landscape_only=False)

    @staticmethod
    def from_arguments(architecture: str, arguments: Mapping[str, Any]) -> "NetworkConfig":
        """The configuration of a published constructor's keyword arguments.

        Args:
            architecture: The constructor's name.
            arguments: Its keyword arguments, plain values; lists stand for tuples.

        Raises:
            InputError: An unknown class or argument, or a value that is not supported.
        """
        known = ("AsymmetricMASt3R", "AsymmetricCroCo3DStereo", "GroundlocSmall")
        if architecture not in known:
            raise InputError(
                f"the checkpoint is of class '{architecture}'; known are {', '.join(known)}"
            )
        names = {field.name for field in fields(NetworkConfig)} - {"architecture"}
        values: dict[str, Any] = {}
        for name, value in arguments.items():
            value = _tuples(value)
            if name in names:
                values[name] = value
            elif name not in _FIXED_ARGUMENTS:
                raise InputError(f"the checkpoint has the unknown setting {name}={value!r}")
            elif _FIXED_ARGUMENTS[name] not in (None, value):
                raise InputError(
                    f"the checkpoint has {name}={value!r}; "
                    f"only {_FIXED_ARGUMENTS[name]!r} is supported"
                )
        if isinstance(values.get("img_size"), int):
            values["img_size"] = (values["img_size"], values["img_size"])
        for name in ("depth_mode", "conf_mode", "desc_conf_mode"):
            if values.get(name) is not None:
                kind, low, high = values[name]
                values[name] = (str(kind), float(low), float(high))
        try:
            return NetworkConfig(architecture=architecture, **values)  # type: ignore[arg-type]
        except TypeError as error:
            raise InputError(f"the checkpoint's settings do not fit together: {error}") from error

    def to_arguments(self) -> dict[str, Any]:
        """Keyword arguments for the published constructor, as `from_arguments` takes them."""
        values = asdict(self)
        del values["architecture"]
        if self.metres_per_unit is None:  # as published constructors do not know it
            del values["metres_per_unit"]
        if self.architecture == "AsymmetricCroCo3DStereo":  # its constructor has no descriptors
            del values["desc_conf_mode"], values["two_confs"]
        return values


def _tuples(value: Any) -> Any:
    return tuple(map(_tuples, value)) if isinstance(value, list | tuple) else value
