"""Where the units of a benchmark are worked on: in this process, or on a Ray cluster.

Ray does the scheduling; this file only says what a unit needs and what to do when a worker dies.
All workers write into the run's folder, so on several machines it must be on a shared file system.
"""

import logging
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from benchmarks.jobs import Job, MatcherSpec
from benchmarks.shards import Unit, split_units
from matching.errors import InputError
from matching.progress import Progress

logger = logging.getLogger(__name__)

Work = Callable[[Job, Unit, MatcherSpec], None]

_MAX_RETRIES = 5  # of a unit whose worker died; what it had done is on disk


def run_on_ray(
    work: Work,
    job: Job,
    units: Sequence[Unit],
    matcher: MatcherSpec,
    *,
    split: bool,
    progress: Progress,
) -> None:
    """Work on all units, as many at a time as the cluster has GPUs (or CPUs).

    Connects to the cluster that the environment names (``RAY_ADDRESS``), or starts one on this
    machine. A unit whose worker or machine dies is started again elsewhere and goes on where its
    predictions end. An `InputError` of a unit stops the run.

    Args:
        work: A function of a module: workers import it.
        job: The run.
        units: What to do.
        matcher: Loaded once by each worker, on a GPU of its own if its device is one.
        split: Whether units may be cut into smaller ones to keep all workers busy.
        progress: Wraps the loop over finished units.

    Raises:
        InputError: Ray is not installed, or what a unit raised.
    """
    ray = import_ray()
    own = not ray.is_initialized()
    if own:
        ray.init(log_to_driver=False, include_dashboard=False, configure_logging=False)
    try:
        gpus = 1 if matcher.device.startswith("cuda") else 0
        slots = int(ray.cluster_resources().get("GPU" if gpus else "CPU", 0))
        if slots == 0:
            raise InputError(f"the Ray cluster has no {'GPU' if gpus else 'CPU'}")
        if split:
            units = split_units(units, slots)
        # Ray shows each worker its own GPU as number 0.
        spec = MatcherSpec(
            name=matcher.name, device="cuda" if gpus else "cpu", options=matcher.options
        )
        remote = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=_MAX_RETRIES)(work)
        waiting = [remote.remote(job, unit, spec) for unit in units]
        for _ in progress(_as_they_finish(ray, waiting), "units", total=len(waiting)):
            pass
    finally:
        if own:
            ray.shutdown()


def import_ray() -> Any:
    """The package ray.

    Raises:
        InputError: It is not installed.
    """
    try:
        import ray
    except ImportError as error:
        raise InputError("--executor ray needs Ray: pip install 'groundloc[ray]'") from error
    return ray


def _as_they_finish(ray: Any, waiting: list[Any]) -> Iterator[None]:
    while waiting:
        done, waiting = ray.wait(waiting)
        for reference in done:
            try:
                ray.get(reference)
            except ray.exceptions.RayTaskError as error:
                for other in waiting:
                    ray.cancel(other, force=True)
                if isinstance(error.cause, InputError):
                    raise InputError(str(error.cause)) from error
                raise
            yield None
