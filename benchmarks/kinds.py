"""The two usual kinds of benchmarks: photos against maps, and pairs of photos.

Each kind tells the runner what its units of work are, predicts one of them, and scores them all.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

from benchmarks.claims import claim_folder, read_claim
from benchmarks.datasets.pair_task import PairSet, PairsOptions
from benchmarks.datasets.photo_check import damage
from benchmarks.datasets.task import LocalizationDataset, LocalizationTask, SceneCounts
from benchmarks.jobs import Job
from benchmarks.localization import MapSummary, localize_task, map_task, seed_runs
from benchmarks.options import LocalizationOptions
from benchmarks.pair_scores import score_all_seeds
from benchmarks.plan import Check, Count, Plan, count_map_pairs, measure
from benchmarks.relative import match_pairs
from benchmarks.scores import read_predictions, scene_folder, score_localization
from benchmarks.shards import Part, Unit, units_of
from mapping.map import Map
from matching.errors import InputError
from matching.matcher import Matcher
from matching.options import options_as_dict
from matching.progress import Progress


class Scores(Protocol):
    """A report: `benchmarks.report.Report`, `PairsReport` or that of a data set of its own kind."""

    def to_dict(self) -> dict[str, Any]:
        """The content of ``report.json``."""
        ...

    def to_text(self) -> str:
        """For the terminal."""
        ...

    def write(self, path: Path) -> None:
        """Write ``report.json``."""
        ...


class Benchmark(Protocol):
    """What the runner asks of a benchmark."""

    @property
    def options(self) -> type[Any]:
        """The dataclass of its options."""
        ...

    def units(self, job: Job, shard: Part) -> list[Unit]:
        """The work of a shard."""
        ...

    def claim(self, job: Job, matcher: Matcher) -> None:
        """Check that predictions in the run's folder were made with the same options."""
        ...

    @property
    def prepares(self) -> bool:
        """Whether the parts of a unit share something that `prepare` makes: a scene's map."""
        ...

    def prepare(self, job: Job, unit: Unit, matcher: Matcher, progress: Progress) -> None:
        """Make what the parts of a unit share; `predict` would make it too."""
        ...

    def predict(self, job: Job, unit: Unit, matcher: Matcher, progress: Progress) -> None:
        """Work on one unit; what is on disk already is kept."""
        ...

    def missing(self, job: Job) -> str:
        """What is not predicted yet, for people; empty if nothing."""
        ...

    def score(self, job: Job, method: str, progress: Progress) -> Scores:
        """Score the predictions."""
        ...

    def plan(self, job: Job, shard: Part, matcher: Matcher) -> Plan:
        """Count the work of a shard and measure its parts."""
        ...

    def check(self, job: Job, progress: Progress) -> Check:
        """Read everything, strictly, and count."""
        ...


@dataclass(frozen=True, kw_only=True)
class LocalizationBenchmark:
    """Photos against maps: its options, and the reader that opens a data set with them."""

    options: type[LocalizationOptions]
    open: Callable[[Path, Any], LocalizationDataset]
    # option that names a file of what the reader computes once; in the run's folder if it is None
    kept: str = ""
    prepares: bool = True

    def units(self, job: Job, shard: Part) -> list[Unit]:
        return units_of(self._dataset(job).scenes, shard)

    def claim(self, job: Job, matcher: Matcher) -> None:
        pass  # each scene's folder is claimed when its map is known

    def prepare(self, job: Job, unit: Unit, matcher: Matcher, progress: Progress) -> None:
        self._map(job, unit.scene, matcher, progress)

    def predict(self, job: Job, unit: Unit, matcher: Matcher, progress: Progress) -> None:
        task, scene = self._map(job, unit.scene, matcher, progress)
        folder = self._folder(job, unit.scene)
        for run_folder, options in seed_runs(job.options, folder):
            localize_task(
                task, scene, run_folder, matcher, options, part=unit.part, progress=progress
            )

    def missing(self, job: Job) -> str:
        for scene in self._dataset(job).scenes:
            for folder, _ in seed_runs(job.options, self._folder(job, scene)):
                if not (folder / "options.json").exists():
                    return f"scene {scene} has no predictions yet"
                try:
                    read_predictions(folder)
                except InputError as error:
                    return str(error)
        return ""

    def score(self, job: Job, method: str, progress: Progress) -> Scores:
        return score_localization(
            self._dataset(job), job.out, job.options, method=method, progress=progress
        )

    def plan(self, job: Job, shard: Part, matcher: Matcher) -> Plan:
        dataset, options = self._dataset(job), job.options
        units = self.units(job, shard)
        num_map, num_queries, num_map_pairs, num_query_pairs = 0, 0, 0, 0
        photos: list[Path] = []
        for unit in units:
            task = dataset.read(unit.scene).first_queries(job.limit)
            posed = options.map_poses != "sfm" and task.reference is not None
            num_map += len(task.map_names)
            asked = len(unit.part.of(list(task.query_cameras)))
            num_queries += asked
            num_query_pairs += asked * min(options.localizer.top_k, len(task.map_names))
            num_map_pairs += count_map_pairs(len(task.map_names), options.map, has_poses=posed)
            photos = photos or [task.images / name for name in task.map_names[:2]]
        if len(photos) < 2:
            raise InputError(f"{dataset.title}: a map needs 2 photos")
        return Plan(
            num_scenes=len(units),
            num_map_photos=num_map,
            num_queries=num_queries,
            num_map_pairs=num_map_pairs,
            num_query_pairs=num_query_pairs * options.num_seeds,
            **measure(matcher, *photos),
        )

    def check(self, job: Job, progress: Progress) -> Check:
        dataset = self._dataset(job)
        counts = []
        damaged: list[str] = []
        num_map = num_queries = 0
        for name in progress(dataset.scenes, "check", total=len(dataset.scenes)):
            task = dataset.read(name)
            task.known_poses()
            damaged += _damaged(task.images, [*task.map_names, *task.query_cameras], progress)
            map_photos = len(task.map_names) + task.num_unused
            num_map += map_photos
            num_queries += len(task.query_cameras)
            published = dataset.counts.get(name, SceneCounts())
            counts.append(Count(what=f"{name} map", found=map_photos, published=published.map))
            counts.append(
                Count(
                    what=f"{name} queries",
                    found=len(task.query_cameras),
                    published=published.queries,
                )
            )
        if dataset.num_scenes is not None:
            scenes = Count(what="scenes", found=len(dataset.scenes), published=dataset.num_scenes)
            counts.append(scenes)
        if dataset.total != SceneCounts():
            total = dataset.total
            counts.append(Count(what="all maps", found=num_map, published=total.map))
            counts.append(Count(what="all queries", found=num_queries, published=total.queries))
        absent = [name for name in dataset.counts if name not in dataset.scenes]
        notes = [*dataset.notes, *([f"scenes not there: {', '.join(absent)}"] if absent else [])]
        return Check(title=dataset.title, counts=counts, damaged=damaged, notes=notes)

    def _map(
        self, job: Job, name: str, matcher: Matcher, progress: Progress
    ) -> tuple[LocalizationTask, Map]:
        """A scene and its map, which is made if it is not there."""
        task, folder = self._dataset(job).read(name), self._folder(job, name)
        folder.mkdir(parents=True, exist_ok=True)
        scene = map_task(task, folder, matcher, job.options, progress=progress)
        MapSummary.of(scene).write(folder)
        return task.first_queries(job.limit), scene

    def _dataset(self, job: Job) -> LocalizationDataset:
        options = job.options
        if self.kept and getattr(options, self.kept) is None and job.keeps:
            options = replace(options, **{self.kept: str(job.out / f"{self.kept}.jsonl")})
        return self.open(job.root, options)

    def _folder(self, job: Job, scene: str) -> Path:
        return scene_folder(job.out, self._dataset(job), scene)


@dataclass(frozen=True, kw_only=True)
class PairsBenchmark:
    """Relative poses of photo pairs: its options, and the reader that opens a data set."""

    options: type[PairsOptions]
    open: Callable[[Path, Any], PairSet]
    prepares: bool = False

    def units(self, job: Job, shard: Part) -> list[Unit]:
        return [Unit(scene="pairs", part=shard)]

    def claim(self, job: Job, matcher: Matcher) -> None:
        predicting = options_as_dict(job.options)
        for scoring in job.options.SCORING:  # matches serve any of them
            predicting.pop(scoring, None)
        pairs = [[pair.image0, pair.image1] for pair in self._pair_set(job).pairs]
        made_by = {"options": predicting, "matcher": matcher.describe(), "pairs": pairs}
        claim_folder(job.out, made_by, growing="pairs")

    def prepare(self, job: Job, unit: Unit, matcher: Matcher, progress: Progress) -> None:
        pass  # pairs share nothing

    def predict(self, job: Job, unit: Unit, matcher: Matcher, progress: Progress) -> None:
        pair_set = self._pair_set(job)
        numbers = unit.part.of(range(len(pair_set.pairs)))
        match_pairs(
            pair_set, job.out / "matches", matcher, job.options, numbers=numbers, progress=progress
        )

    def missing(self, job: Job) -> str:
        number = len(self._pair_set(job).pairs)
        done = sum(1 for _ in (job.out / "matches").glob("[0-9]*.npz"))
        return f"{number - done} of {number} pairs are not matched yet" if done < number else ""

    def score(self, job: Job, method: str, progress: Progress) -> Scores:
        pair_set = self._pair_set(job)
        report = score_all_seeds(pair_set, job.out / "matches", job.options, progress=progress)
        matcher = read_claim(job.out)["matcher"]
        notes = list(report.notes)
        published = pair_set.num_published
        if published is not None and len(pair_set.pairs) != published:
            notes.append(f"{len(pair_set.pairs)} pairs, where {published} are published")
        return replace(report, options={**report.options, "matcher": matcher}, notes=notes)

    def plan(self, job: Job, shard: Part, matcher: Matcher) -> Plan:
        pair_set = self._pair_set(job)
        pairs: Sequence[Any] = shard.of(pair_set.pairs)
        names = {name for pair in pairs for name in (pair.image0, pair.image1)}
        photos = [pair_set.images / n for n in (pair_set.pairs[0].image0, pair_set.pairs[0].image1)]
        return Plan(
            num_scenes=1,
            num_map_photos=0,
            num_queries=len(names),
            num_map_pairs=0,
            num_query_pairs=len(pairs),
            **measure(matcher, *photos),
        )

    def check(self, job: Job, progress: Progress) -> Check:
        pair_set = self.open(job.root, job.options)
        names = {name for pair in pair_set.pairs for name in (pair.image0, pair.image1)}
        counts = [
            Count(what="pairs", found=len(pair_set.pairs), published=pair_set.num_published),
            Count(what="photos", found=len(names)),
        ]
        damaged = _damaged(pair_set.images, sorted(names), progress)
        return Check(title=pair_set.title, counts=counts, damaged=damaged)

    def _pair_set(self, job: Job) -> PairSet:
        pair_set = self.open(job.root, job.options)
        return replace(pair_set, pairs=pair_set.pairs[: job.limit])


def _damaged(folder: Path, names: Sequence[str], progress: Progress) -> list[str]:
    """What is wrong with the photos, one line each."""
    found = (damage(folder / name) for name in progress(names, "photos", total=len(names)))
    return [what for what in found if what]
