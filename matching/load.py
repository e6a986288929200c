"""`load_matcher`: from a name to a ready matcher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matching.bundled import BUNDLED, bundled_weights
from matching.errors import InputError
from matching.matcher import Matcher
from matching.options import build_options


def load_matcher(
    name: str, *, device: str = "cpu", options: Mapping[str, Any] | None = None
) -> Matcher:
    """Load a matcher.

    Args:
        name: ``"sift"``, a bundled model, the path of a checkpoint (official .pth, safetensors or
            a hub folder), a hub id such as ``"naver/MASt3R_ViTLarge_..."``, or hloc's files,
            ``"hloc:FEATS.h5,MATCHES.h5"``.
        device: Torch device for the matcher's arithmetic, ``"cpu"`` or ``"cuda"``.
        options: The matcher's own options by name: `matching.sift.SiftOptions` or
            `matching.mast3r.Mast3rOptions`.

    Raises:
        InputError: Unknown name, option or device, or a checkpoint that cannot be used.
    """
    check_device(device)
    built = matcher_options(name, options or {})
    if name == "sift":
        from matching.sift import SiftMatcher

        return SiftMatcher(built, device=device)
    if name.startswith("hloc:"):
        from matching.hloc_matcher import HlocMatcher

        return HlocMatcher.load(name)
    from matching.mast3r import Mast3rMatcher

    weights = bundled_weights(name) if name in BUNDLED else name
    return Mast3rMatcher.load(weights, device=device, options=built, name=name)


def matcher_options(name: str, values: Mapping[str, Any]) -> Any:
    """The options of a matcher, checked without loading it.

    Args:
        name: As for `load_matcher`.
        values: Option names to values.

    Returns:
        `matching.sift.SiftOptions` or `matching.mast3r.Mast3rOptions`; None for hloc's files.

    Raises:
        InputError: An unknown name or option, or a refused value.
    """
    if name.startswith("hloc:"):
        if values:
            raise InputError(f"hloc's files have no options, got {', '.join(values)}")
        return None
    if name not in ("sift", *BUNDLED) and "/" not in name and not Path(name).exists():
        raise InputError(
            f"unknown matcher '{name}' (known: {', '.join(known_matchers())}, the path of a "
            "checkpoint, or a hub id 'owner/name')"
        )
    return build_options(options_class(name), values, prefix="matcher.")


def options_class(name: str) -> type[Any]:
    """The dataclass of a matcher's options; hloc's files have none."""
    if name == "sift":
        from matching.sift import SiftOptions

        return SiftOptions
    from matching.mast3r import Mast3rOptions

    return Mast3rOptions


def known_matchers() -> list[str]:
    """Names of the matchers that come with the package."""
    return ["sift", *(name for name, path in BUNDLED.items() if path.exists())]


def check_device(device: str) -> None:
    """Raise `InputError` unless torch can use the device here."""
    import torch

    try:
        kind = torch.device(device).type
    except RuntimeError as error:
        raise InputError(f"unknown device '{device}' (known: cpu, cuda, cuda:N)") from error
    if kind == "cuda" and not torch.cuda.is_available():
        raise InputError(f"device '{device}': torch sees no CUDA GPU here; use --device cpu")
    if kind not in ("cpu", "cuda"):
        raise InputError(f"device '{device}' is not supported (known: cpu, cuda, cuda:N)")
