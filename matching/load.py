"""`load_matcher`: from a name to a ready matcher."""

from collections.abc import Mapping
from typing import Any

from matching.errors import InputError
from matching.matcher import Matcher
from matching.options import build_options


def load_matcher(
    name: str, *, device: str = "cpu", options: Mapping[str, Any] | None = None
) -> Matcher:
    """Load a matcher.

    Args:
        name: ``"sift"``.
        device: Torch device for the matcher's arithmetic, ``"cpu"`` or ``"cuda"``.
        options: The matcher's own options by name, see `matching.sift.SiftOptions`.

    Raises:
        InputError: Unknown name, option or device.
    """
    check_device(device)
    if name == "sift":
        from matching.sift import SiftMatcher, SiftOptions

        return SiftMatcher(
            build_options(SiftOptions, options or {}, prefix="matcher."), device=device
        )
    raise InputError(f"unknown matcher '{name}' (known: sift)")


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
