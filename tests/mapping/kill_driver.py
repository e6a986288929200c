"""Kills map builds at many moments; run as ``python -m tests.mapping.kill_driver MODE FOLDER``.

Imports once and forks a child per build, so that a build costs a second and not ten. The parent
runs no numerical code itself: threads of numerical libraries do not survive a fork. Prints one
JSON object.
"""

import json
import os
import random
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mapping.extend  # noqa: F401 (before the forks)
from mapping import Map, build_map
from tests.mapping.fakes import FakeMatcher, FakeWorld

WORLD = FakeWorld(num_images=5, num_points=120)
NEW = ["0002.png", "0005.png"]


def build(root: Path, path: Path, overwrite: bool = False) -> Map:
    return build_map(root / "photos", path, FakeMatcher(WORLD), overwrite=overwrite)


def build_part(root: Path, path: Path) -> Map:
    names = sorted(p.name for p in (root / "photos").iterdir() if p.name not in NEW)
    return build_map(root / "photos", path, FakeMatcher(WORLD), image_names=names)


def fork(work: Callable[[], object]) -> int:
    """Run in a child; its exit status is 0 if nothing was raised."""
    pid = os.fork()
    if pid:
        return pid
    try:
        work()
    except BaseException:  # noqa: BLE001 (the child must not return)
        traceback.print_exc()
        os._exit(1)
    os._exit(0)


def run(work: Callable[[], object]) -> int:
    """Exit code of a child, negative for the signal that killed it."""
    return os.waitstatus_to_exitcode(os.waitpid(fork(work), 0)[1])


def die_after_rename() -> None:
    """Kill this process right after it has renamed a file or folder: every step ends so."""
    for name in ("replace", "rename"):
        original = getattr(Path, name)

        def renamed(self: Path, target: Path, original: Any = original) -> None:
            original(self, target)
            os.kill(os.getpid(), signal.SIGKILL)

        setattr(Path, name, renamed)


def result_of(path: Path) -> dict[str, str]:
    """Fingerprint and problems of a finished map, found by a child."""
    file = path.with_suffix(".result")

    def write() -> None:
        scene = Map.open(path)
        file.write_text(json.dumps([scene.fingerprint, *scene.check()]))

    assert run(write) == 0
    return json.loads(file.read_text())


def random_moments(root: Path) -> dict[str, object]:
    """20 kills at random moments; whenever a build finishes first, a new one is begun."""
    start = time.monotonic()
    assert run(lambda: build(root, root / "reference")) == 0
    seconds = time.monotonic() - start
    chance = random.Random(1)
    kills = finished = 0
    results = []
    path = root / "map0"
    while kills < 20:
        pid = fork(lambda path=path: build(root, path))
        time.sleep(chance.uniform(0, seconds))
        os.kill(pid, signal.SIGKILL)
        code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
        if code == -signal.SIGKILL:
            kills += 1
            continue
        assert code == 0
        results.append(result_of(path))
        finished += 1
        path = root / f"map{finished}"
    assert run(lambda: build(root, path)) == 0
    results.append(result_of(path))
    return {"kills": kills, "reference": result_of(root / "reference"), "results": results}


def each_step(root: Path) -> dict[str, object]:
    """Every run dies after one more step is complete, until one finishes."""
    assert run(lambda: build(root, root / "reference")) == 0
    path = root / "map"

    def work() -> None:
        die_after_rename()
        build(root, path)

    kills = 0
    while (code := run(work)) == -signal.SIGKILL:
        kills += 1
    assert code == 0
    return {
        "kills": kills,
        "reference": result_of(root / "reference"),
        "results": [result_of(path)],
    }


def each_step_of_a_change(root: Path, change: str) -> dict[str, object]:
    """As `each_step` for extending or replacing a map: it is always the old or the new one."""

    def work(path: Path) -> Map:
        if change == "overwrite":
            return build(root, path, overwrite=True)
        return Map.open(path).extend(root / "photos", FakeMatcher(WORLD))

    path, reference = root / "map", root / "reference"
    for folder in (path, reference):
        assert run(lambda folder=folder: build_part(root, folder)) == 0
    old = result_of(path)
    assert run(lambda: work(reference)) == 0
    new = result_of(reference)
    seen = []

    def dying() -> None:
        die_after_rename()
        work(path)

    kills = 0
    while (code := run(dying)) == -signal.SIGKILL:
        kills += 1
        seen.append(result_of(path))
    assert code == 0
    return {"kills": kills, "old": old, "new": new, "seen": seen, "results": [result_of(path)]}


def disk_full(root: Path) -> dict[str, object]:
    """Builds with a limit on file sizes (what a full disk looks like) over an old map."""
    path = root / "map"
    assert run(lambda: build_part(root, path)) == 0
    old = result_of(path)
    messages = {}
    for limit in (10, 5_000, 50_000, 200_000, 1_500_000, 3_000_000, 20_000_000):
        readable, writable = os.pipe()  # a pipe has no size limit

        def limited(limit: int = limit, writable: int = writable) -> None:
            resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
            try:
                build(root, path, overwrite=True)
                message = "finished"
            except Exception as error:  # noqa: BLE001 (whatever it is, the test looks at it)
                message = f"{type(error).__name__}: {error}"
            os.write(writable, message.encode())

        code = run(limited)
        os.close(writable)
        messages[limit] = os.read(readable, 10_000).decode() or f"exit code {code}"
        os.close(readable)
        if messages[limit] != "finished":
            assert result_of(path) == old
    assert run(lambda: build(root, path, overwrite=True)) == 0
    return {"messages": messages, "old": old, "results": [result_of(path)]}


def main() -> None:
    mode, folder = sys.argv[1], Path(sys.argv[2])
    WORLD.write_photos(folder / "photos")
    modes: dict[str, Callable[[Path], dict[str, object]]] = {
        "random": random_moments,
        "each-step": each_step,
        "extend": lambda root: each_step_of_a_change(root, "extend"),
        "overwrite": lambda root: each_step_of_a_change(root, "overwrite"),
        "disk-full": disk_full,
    }
    print(json.dumps(modes[mode](folder)))


if __name__ == "__main__":
    main()
