"""Results of a run that may be interrupted: the same run, started again, goes on after them."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path

from localize.localizer import Localizer
from localize.queries import Query
from localize.results import RUN, Localization, append_result, camera_to_dict, read_results
from mapping.info import groundloc_version
from matching.errors import InputError
from matching.files import write_text_atomic
from matching.options import options_as_dict


def run_identity(localizer: Localizer, queries: Sequence[Query]) -> str:
    """A hash of all that results depend on: version, map, matcher, options, queries' files.

    The matcher may have been given options of its own, and one that looks features up (`hloc:`)
    tells when its files were written.
    """
    files = []
    for query in queries:
        status = query.path.stat() if query.path.is_file() else None
        files.append(
            [
                query.name,
                None if status is None else [status.st_size, status.st_mtime_ns],
                None if query.camera is None else camera_to_dict(query.camera),
            ]
        )
    parts = [
        groundloc_version(),
        localizer.scene.fingerprint,
        localizer.matcher.describe(),
        options_as_dict(localizer.options),
        files,
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _is_of(results: Path, identity: str) -> bool:
    """Whether all results of a file are of a run."""
    lines = results.read_text(encoding="utf-8").split("\n") if results.is_file() else []
    runs = {json.loads(line).get(RUN) for line in lines if line.strip()}
    return runs == {identity}


class UnfinishedResults:
    """A file that results are appended to as they come.

    Its first line tells which run they are of; results of another run in it are thrown away.

    Args:
        file: Such as ``poses.partial.jsonl``.
        identity: Of the run, see `run_identity`.
        finished: ``results.jsonl``, which may be of the same run: then it has nothing left to do.

    Attributes:
        done: Results of an earlier run by name, without their matches.
    """

    def __init__(self, file: Path, identity: str, finished: Path | None = None) -> None:
        self.file = file
        self.identity = identity
        header = json.dumps({"run": identity})
        self.done: dict[str, Localization] = {}
        # bytes: a killed process may have left half a line, and in it half a letter
        lines = file.read_bytes().split(b"\n") if file.is_file() else [b""]
        kept = lines[1:-1] if lines[0] == header.encode() else []
        for number, line in enumerate(kept, 2):
            try:
                result = Localization.from_dict(json.loads(line))
            except ValueError as error:
                raise InputError(
                    f"'{file}' line {number}: {error}; delete the file to start anew"
                ) from error
            self.done[result.name] = result
        if finished is not None and _is_of(finished, identity):
            self.done = read_results(finished)
        write_text_atomic(file, "".join(f"{line}\n" for line in [header, *map(bytes.decode, kept)]))

    def keep(self, result: Localization) -> None:
        """Add a result; it is on disk on return."""
        append_result(self.file, result)

    def remove(self) -> None:
        """Everything is done and written elsewhere."""
        self.file.unlink(missing_ok=True)
