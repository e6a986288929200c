"""Checkpoints of the model hub through its own client: its cache, offline switch and mirrors."""

import hashlib
import logging
import re
from collections.abc import Sequence
from pathlib import Path

from matching.errors import InputError, MissingPackageError

logger = logging.getLogger(__name__)

_HUB_ID = re.compile(r"(?P<repo>[\w.-]+/[\w.-]+)(@(?P<revision>[\w./-]+))?")


def is_hub_id(text: str) -> bool:
    """Whether a text looks like ``owner/name`` or ``owner/name@revision``, not like a file."""
    known_suffix = Path(text).suffix in (".safetensors", ".pth", ".pt", ".ckpt")
    return _HUB_ID.fullmatch(text) is not None and not text.startswith(".") and not known_suffix


def download(hub_id: str, names: Sequence[str]) -> Path:
    """Fetch files of a hub repository into the client's cache, or find them there.

    What was fetched just now is hashed and compared with the hash that the hub announced; a file
    that differs is removed again.

    Args:
        hub_id: ``owner/name``, optionally ``@`` and a branch, tag or commit.
        names: Files at the top of the repository, the smallest first.

    Returns:
        The folder that holds all of them.

    Raises:
        MissingPackageError: The package ``huggingface_hub`` is not installed.
        InputError: No such repository, file or revision; no network and nothing in the cache; an
            interrupted or damaged download.
    """
    try:
        import huggingface_hub
        from huggingface_hub import errors  # HTTPError there is the base class of its HTTP client
    except ImportError as error:
        raise MissingPackageError("huggingface_hub", "hub", f"the hub id '{hub_id}'") from error
    match = _HUB_ID.fullmatch(hub_id)
    if match is None:
        raise InputError(f"'{hub_id}' is no hub id (owner/name or owner/name@revision)")
    repo, revision = match["repo"], match["revision"]
    folder = Path()
    for name in names:
        cached = huggingface_hub.try_to_load_from_cache(repo, name, revision=revision)
        if not isinstance(cached, str):  # said first: the client tries for half a minute
            logger.info("fetching %s of '%s' from the hub", name, hub_id)
        try:
            path = Path(huggingface_hub.hf_hub_download(repo, name, revision=revision))
        except (OSError, ValueError, errors.HTTPError) as error:  # ValueError: a malformed id
            reason = " ".join(str(error).split())
            raise InputError(
                f"'{hub_id}' is neither a file here nor could {name} be fetched from the hub: "
                f"{reason or type(error).__name__}"
            ) from error
        if str(path) != cached:
            _check_hash(path, hub_id)
        folder = path.parent
    return folder


def _check_hash(path: Path, hub_id: str) -> None:
    """Compare a fetched file with the hash after which the client names it in its cache."""
    blob = path.resolve()
    expected = blob.name
    if re.fullmatch(r"[0-9a-f]{64}", expected):  # large files: SHA-256
        digest = hashlib.sha256()
    elif re.fullmatch(r"[0-9a-f]{40}", expected):  # small ones: git's hash, not for security
        digest = hashlib.sha1(usedforsecurity=False)
        digest.update(f"blob {blob.stat().st_size}\0".encode())
    else:
        return  # a mirror that announces no content hash
    with blob.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    if digest.hexdigest() != expected:
        path.unlink()
        blob.unlink(missing_ok=True)
        raise InputError(
            f"'{hub_id}': {path.name} arrived damaged (its hash is {digest.hexdigest()[:12]}..., "
            f"announced was {expected[:12]}...) and was removed; try again"
        )
