"""`load_matcher`: from a name to a ready matcher."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matching.errors import InputError
from matching.matcher import Matcher
from matching.options import build_options

BUNDLED = {"small": Path(__file__).parent / "weights" / "small.safetensors"}


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
    options = options or {}
    if name == "sift":
        from matching.sift import SiftMatcher, SiftOptions

        return SiftMatcher(build_options(SiftOptions, options, prefix="matcher."), device=device)
    if name.startswith("hloc:"):
        from matching.hloc_matcher import HlocMatcher

        if options:
            raise InputError(f"hloc's files have no options, got {', '.join(options)}")
        return HlocMatcher.load(name)
    if name not in BUNDLED and "/" not in name and not Path(name).exists():
        raise InputError(
            f"unknown matcher '{name}' (known: {', '.join(known_matchers())}, the path of a "
            "checkpoint, or a hub id 'owner/name')"
        )
    from matching.mast3r import Mast3rMatcher, Mast3rOptions

    return Mast3rMatcher.load(
        BUNDLED.get(name, name),
        device=device,
        options=build_options(Mast3rOptions, options, prefix="matcher."),
        name=name,
    )


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
