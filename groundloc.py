"""The command line: thin functions that parse, call a stage and print its result.

Nothing heavy is imported at the top: ``groundloc --help`` needs neither torch nor pycolmap.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    import pycolmap

    from localize import Localization, Localizer
    from mapping import Map
    from matching import Matcher
    from matching.progress import Progress

T = TypeVar("T")
logger = logging.getLogger("groundloc")

EXIT_DONE, EXIT_FAILED, EXIT_WRONG_USE, EXIT_INTERRUPTED = 0, 1, 2, 130


class WrongUseError(Exception):
    """An option or argument that no file could make right; exits with 2."""


class _Parser(argparse.ArgumentParser):
    """One-line errors, as all errors of this command."""

    def error(self, message: str) -> NoReturn:
        print(f"error: {message} (see '{self.prog} --help')", file=sys.stderr)
        raise SystemExit(EXIT_WRONG_USE)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong use."""
    arguments = _parser().parse_args(argv)
    _configure_logging(arguments)
    # read by OpenMP and COLMAP when they are loaded: waiting threads sleep instead of spinning
    # (three times the CPU time where cores are shared), and COLMAP keeps its notes to itself
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GLOG_minloglevel", "2")
    # heavy imports of the stages happen inside; only what they raise on purpose is caught here
    from matching.errors import InputError

    try:
        result = arguments.run(arguments)
        if result is not None and arguments.json:
            print(json.dumps(result, allow_nan=False))
        return EXIT_DONE
    except WrongUseError as error:
        return _fail(str(error), EXIT_WRONG_USE)
    except InputError as error:
        return _fail(str(error), EXIT_FAILED)
    except BrokenPipeError:
        # the reader of stdout went away (`groundloc ... | head`): no output left to write
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_FAILED
    except OSError as error:
        if error.strerror is None:
            raise
        where = f"'{error.filename}': " if error.filename else ""
        return _fail(f"{where}{error.strerror}", EXIT_FAILED)
    except KeyboardInterrupt:
        return _fail("interrupted; the same command continues what is complete", EXIT_INTERRUPTED)


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


# ---------------------------------------------------------------------------------- commands


def _demo(arguments: argparse.Namespace) -> dict[str, Any]:
    """A rendered place, or the user's photos, through the whole pipeline."""
    from benchmarks.demo import DemoOptions, run_demo

    given = _given_options(arguments)
    matcher = _matcher(arguments, given)
    result = run_demo(
        arguments.out,
        photos=arguments.photos,
        matcher=matcher,
        device=arguments.device,
        options=_build(DemoOptions, given),
        progress=_progress(arguments),
    )
    _say(arguments, result.text)
    return result.to_dict()


def _map(arguments: argparse.Namespace) -> dict[str, Any]:
    """Photos to a map on disk."""
    from typing import get_args

    from mapping import MapOptions, build_map
    from mapping.options import PairMethod

    given = _given_options(arguments)
    if arguments.extend:
        return _extend(arguments, given)
    if arguments.pairs in get_args(PairMethod):
        _set(given, "pairs.method", arguments.pairs)
    elif arguments.pairs is not None:
        _set(given, "pairs.method", "file")
        _set(given, "pairs.file", arguments.pairs)
    matcher = _matcher(arguments, given)
    scene = build_map(
        arguments.images,
        arguments.map,
        matcher,
        options=_build(MapOptions, given),
        known_poses=arguments.known_poses,
        cameras=_camera_list(arguments.cameras),
        overwrite=arguments.overwrite,
        progress=_progress(arguments),
    )
    _say(arguments, scene.summary())
    return scene.to_dict()


def _extend(arguments: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    """New photos into a finished map, with the matcher and the options that made it."""
    from mapping import Map

    if given or arguments.pairs or arguments.overwrite or arguments.matcher != "sift":
        raise WrongUseError(
            "--extend keeps the matcher and the options of the map: leave out --matcher, --config, "
            "--set, --pairs and --overwrite"
        )
    scene = Map.open(arguments.map)
    scene = scene.extend(
        arguments.images,
        scene.load_matcher(device=arguments.device),
        known_poses=arguments.known_poses,
        cameras=_camera_list(arguments.cameras),
        progress=_progress(arguments),
    )
    _say(arguments, scene.summary())
    return scene.to_dict()


def _localize(arguments: argparse.Namespace) -> dict[str, Any]:
    """Poses of query photos against a map."""
    from localize import Localizer, LocalizerOptions, poses_text, write_poses, write_results
    from matching.errors import InputError

    given = _given_options(arguments)
    if arguments.top_k is not None:
        _set(given, "top_k", arguments.top_k)
    options = _build(LocalizerOptions, given)
    localizer = Localizer(arguments.map, device=arguments.device, options=options)
    queries = Path(arguments.queries)
    if not queries.exists():
        raise InputError(f"no query photo, folder or list '{queries}'")
    results = localizer.localize_all(
        queries, cameras=arguments.cameras, progress=_progress(arguments)
    )
    if arguments.report is not None:
        _write_report(arguments, localizer, results)
    if arguments.out is not None:
        write_poses(arguments.out, results)
        write_results(Path(arguments.out).with_name("results.jsonl"), results)
    elif not arguments.json:
        print(poses_text(results), end="")
    failed = {name: r.reason for name, r in results.items() if not r.success}
    summary = f"localized {len(results) - len(failed)} / {len(results)}"
    if failed:
        summary += f" ({'; '.join(f'{name}: {reason}' for name, reason in failed.items())})"
    if arguments.out is not None:
        _say(arguments, summary)
    else:
        logger.info(summary)
    return {
        "num_queries": len(results),
        "num_localized": len(results) - len(failed),
        "results": [result.to_dict() for result in results.values()],
    }


def _write_report(
    arguments: argparse.Namespace, localizer: "Localizer", results: "dict[str, Localization]"
) -> None:
    from benchmarks.html_report import write_html_report
    from localize.queries import read_queries

    write_html_report(
        Path(arguments.report) / "report.html",
        localizer.scene,
        results,
        query_images={
            query.name: query.path for query in read_queries(arguments.queries, arguments.cameras)
        },
        map_images=arguments.map_images,
        progress=_progress(arguments),
    )


def _match(arguments: argparse.Namespace) -> dict[str, Any]:
    """Matches between two photos."""
    import numpy as np

    from matching.files import atomic_file
    from matching.images import read_image

    given = _given_options(arguments)
    if arguments.dense:
        if arguments.matcher == "sift":
            raise WrongUseError("--dense needs a neural matcher (--matcher), SIFT is sparse")
        _set(given, "matcher.dense", True)
    matcher = _matcher(arguments, given)
    image0, image1 = read_image(arguments.image0), read_image(arguments.image1)
    matches = matcher.match(image0, image1)
    if arguments.out is not None:
        with atomic_file(arguments.out) as temporary, temporary.open("wb") as file:
            np.savez(
                file,
                keypoints0=matches.keypoints0,
                keypoints1=matches.keypoints1,
                scores=matches.scores,
                image_size0=np.array(image0.shape[1::-1]),
                image_size1=np.array(image1.shape[1::-1]),
            )
    if arguments.plot is not None:
        from benchmarks.plots import plot_matches

        plot_matches(image0, image1, matches, arguments.plot)
    _say(arguments, f"{len(matches)} matches with {matcher.name}")
    return {
        "matcher": matcher.describe(),
        "num_matches": len(matches),
        "keypoints0": matches.keypoints0.tolist(),
        "keypoints1": matches.keypoints1.tolist(),
        "scores": matches.scores.tolist(),
    }


def _relative(arguments: argparse.Namespace) -> dict[str, Any]:
    """The pose of photo 1 relative to photo 0."""
    from localize import RelativeOptions, relative_pose

    given = _given_options(arguments)
    matcher = _matcher(arguments, given)
    result = relative_pose(
        arguments.image0,
        arguments.image1,
        matcher=matcher,
        camera0=_camera(arguments.camera0, "--camera0"),
        camera1=_camera(arguments.camera1, "--camera1"),
        options=_build(RelativeOptions, given),
    )
    _say(arguments, result.summary())
    return result.to_dict()


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Predicted poses against ground truth."""
    from benchmarks import EvaluationOptions, evaluate

    options = _build(EvaluationOptions, _given_options(arguments))
    report = evaluate(
        arguments.poses,
        arguments.ground_truth,
        queries=arguments.queries,
        cameras=arguments.cameras,
        align_map=_alignment(arguments.align_map),
        options=options,
    )
    if arguments.out is not None:
        report.write(arguments.out)
    _say(arguments, report.to_text())
    return report.to_dict()


def _benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """A benchmark on a data set."""
    from benchmarks.run import run_benchmark

    given = _given_options(arguments)
    matcher = _matcher(arguments, given)
    report = run_benchmark(
        arguments.name,
        arguments.root,
        arguments.out,
        matcher=matcher,
        options=given,
        limit=arguments.limit,
        progress=_progress(arguments),
    )
    _say(arguments, report.to_text())
    return report.to_dict()


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a matcher on procedural worlds; torchrun starts one process per GPU."""
    if arguments.show_world is not None:
        from matching.training.contact_sheet import contact_sheet

        contact_sheet(
            arguments.show_world, device=arguments.device or "cpu", progress=_progress(arguments)
        )
        _say(arguments, f"wrote {arguments.show_world}")
        return {"path": arguments.show_world}
    if arguments.out is None:
        raise WrongUseError("train needs --out DIR for the run, or --show-world FILE")
    from matching.errors import InputError
    from matching.training.options import TrainOptions
    from matching.training.train import train

    options = _build(TrainOptions, _given_options(arguments))
    result = train(options, arguments.out, device=arguments.device, resume=not arguments.no_resume)
    if result.status == "diverged":
        raise InputError(
            f"the training diverged at step {result.step}: {result.reason}; the last good "
            f"checkpoint is {result.checkpoint}"
        )
    if os.environ.get("RANK", "0") == "0":  # of the processes that torchrun starts, one speaks
        _say(arguments, f"{result.status} after {result.step} steps; weights: {result.weights}")
    return {
        "status": result.status,
        "step": result.step,
        "checkpoint": None if result.checkpoint is None else str(result.checkpoint),
        "weights": None if result.weights is None else str(result.weights),
    }


def _weights(arguments: argparse.Namespace) -> dict[str, Any]:
    """Convert a checkpoint to safetensors; nothing in it is ever executed."""
    from matching.checkpoint import convert_checkpoint

    path = convert_checkpoint(arguments.source, arguments.target)
    _say(arguments, f"wrote {path}")
    return {"path": str(path)}


def _info(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a map holds."""
    from mapping import Map
    from matching.errors import InputError

    scene = Map.open(arguments.map)
    _say(arguments, scene.summary())
    if not arguments.check:
        return scene.to_dict()
    problems = scene.check()
    if problems:
        raise InputError("; ".join(problems))
    _say(arguments, "every file is as it was written")
    return {**scene.to_dict(), "problems": problems}


# ------------------------------------------------------------------------- arguments, options


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(
        prog="groundloc",
        description="Photos of a place in, camera poses of new photos out.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong use. Logs go to stderr, results to stdout.",
    )
    parser.add_argument("--version", action="version", version=f"groundloc {_version()}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )

    command = _command(commands, "demo", _demo)
    command.add_argument("--out", default="demo", metavar="DIR", help="results (default: demo)")
    command.add_argument(
        "--photos", metavar="DIR", help="use these photos: some are held out and localized"
    )
    _add_matcher(command)

    command = _command(commands, "map", _map)
    command.add_argument("images", metavar="IMAGES", help="folder of photos")
    command.add_argument("map", metavar="MAP", help="folder of the map; an unfinished one resumes")
    command.add_argument(
        "--known-poses", metavar="MODEL", help="COLMAP model whose cameras and poses are kept"
    )
    command.add_argument("--cameras", metavar="LIST", help="lines 'name MODEL W H params...'")
    command.add_argument(
        "--pairs",
        metavar="HOW",
        help="exhaustive, retrieval, sequential, poses, or a file of 'name0 name1' lines "
        "(default: by the number of photos)",
    )
    command.add_argument(
        "--overwrite", action="store_true", help="replace a map made with other options"
    )
    command.add_argument(
        "--extend", action="store_true", help="add the folder's new photos to a finished map"
    )
    _add_matcher(command)

    command = _command(commands, "localize", _localize)
    command.add_argument("map", metavar="MAP", help="folder of the map")
    command.add_argument("queries", metavar="QUERIES", help="a photo, a folder, or a list of names")
    command.add_argument("--cameras", metavar="LIST", help="lines 'name MODEL W H params...'")
    command.add_argument("--top-k", type=int, metavar="K", help="map photos to match with")
    command.add_argument(
        "--out", metavar="FILE", help="poses.txt; results.jsonl is written beside it"
    )
    command.add_argument("--report", metavar="DIR", help="write an HTML report with pictures")
    command.add_argument(
        "--map-images", metavar="DIR", help="photos of the map, to draw matches in the report"
    )

    command = _command(commands, "match", _match)
    _add_two_images(command)
    command.add_argument("--out", metavar="FILE", help="write keypoints and scores as .npz")
    command.add_argument("--plot", metavar="FILE", help="draw the matches over the photos")
    command.add_argument(
        "--dense", action="store_true", help="every mutual nearest neighbour (neural matchers)"
    )
    _add_matcher(command)

    command = _command(commands, "relative", _relative)
    _add_two_images(command)
    for index in (0, 1):
        command.add_argument(
            f"--camera{index}", metavar="'MODEL W H params...'", help="default: EXIF or estimated"
        )
    _add_matcher(command)

    command = _command(commands, "evaluate", _evaluate)
    command.add_argument(
        "poses", metavar="POSES", help="poses.txt; results.jsonl beside it is used"
    )
    command.add_argument("ground_truth", metavar="GROUND_TRUTH", help="COLMAP model or poses file")
    command.add_argument("--queries", metavar="LIST", help="all names; those not in POSES failed")
    command.add_argument("--cameras", metavar="LIST", help="intrinsics of the queries, for VCRE")
    command.add_argument(
        "--align-map",
        metavar="MAP",
        help="first fit a similarity from the photos of this map (or COLMAP model) to the truth",
    )
    command.add_argument("--out", metavar="FILE", help="write report.json")

    command = _command(commands, "benchmark", _benchmark)
    command.add_argument("name", metavar="NAME", help="colmap or pairs")
    command.add_argument("root", metavar="ROOT", help="the data set's folder")
    command.add_argument("--out", required=True, metavar="DIR", help="predictions and report")
    command.add_argument("--limit", type=int, metavar="N", help="only the first N queries or pairs")
    _add_matcher(command)

    command = _command(commands, "train", _train)
    command.set_defaults(device=None)  # a GPU if there is one
    command.add_argument("--out", metavar="DIR", help="checkpoints, logs and weights of the run")
    command.add_argument(
        "--no-resume", action="store_true", help="refuse a folder that holds checkpoints"
    )
    command.add_argument(
        "--show-world", metavar="FILE", help="only render a contact sheet of training pairs"
    )

    command = _command(commands, "weights", _weights)
    command.add_argument("action", choices=["convert"], help="the only action")
    command.add_argument("source", metavar="IN", help="official .pth, hub folder or safetensors")
    command.add_argument("target", metavar="OUT", help="NAME.safetensors, or a folder")

    command = _command(commands, "info", _info)
    command.add_argument("map", metavar="MAP", help="folder of the map")
    command.add_argument("--check", action="store_true", help="verify every byte of every file")
    return parser


def _command(commands: Any, name: str, run: Any) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=run.__doc__.splitlines()[0], description=run.__doc__
    )
    parser.set_defaults(run=run)
    common = parser.add_argument_group("options of every command")
    common.add_argument("--config", metavar="FILE", help="YAML file of options")
    common.add_argument(
        "--set",
        action="append",
        default=[],
        metavar="KEY=VALUE",
        help="one option, such as pnp.max_error_px=4; may be repeated",
    )
    common.add_argument("--device", default="cpu", help="cpu (default), cuda or cuda:N")
    common.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    common.add_argument("--quiet", action="store_true", help="no progress bars, warnings only")
    return parser


def _add_matcher(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--matcher",
        default="sift",
        metavar="M",
        help="sift (default), the path of a MASt3R or DUSt3R checkpoint, or a hub id",
    )


def _add_two_images(command: argparse.ArgumentParser) -> None:
    command.add_argument("image0", metavar="IMAGE0")
    command.add_argument("image1", metavar="IMAGE1")


def _version() -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("groundloc")
    except PackageNotFoundError:  # run from a checkout that is not installed
        return "(not installed)"


def _given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What --config and --set give, --set last."""
    from matching.errors import InputError
    from matching.options import merge_options, parse_assignments, read_options_file

    try:
        given = read_options_file(arguments.config) if arguments.config is not None else {}
        return merge_options(given, parse_assignments(arguments.set))
    except InputError as error:
        raise WrongUseError(str(error)) from error


def _set(given: dict[str, Any], key: str, value: Any) -> None:
    """Let a flag override the same option of --config."""
    *groups, last = key.split(".")
    for group in groups:
        given = given.setdefault(group, {})
        if not isinstance(given, dict):
            raise WrongUseError(f"option '{group}' takes a group of options, got {given!r}")
    given[last] = value


def _build(cls: type[T], given: dict[str, Any]) -> T:
    from matching.errors import InputError
    from matching.options import build_options

    try:
        return build_options(cls, given)
    except InputError as error:
        raise WrongUseError(str(error)) from error


def _matcher(arguments: argparse.Namespace, given: dict[str, Any]) -> "Matcher":
    """The matcher of --matcher; its options are the group ``matcher`` of the given ones."""
    from matching import load_matcher

    options = given.pop("matcher", {})
    if not isinstance(options, dict):
        raise WrongUseError(
            f"'matcher' is a group of options such as matcher.max_ratio=0.7, got {options!r}; "
            f"the matcher itself is chosen with --matcher {options}"
        )
    return load_matcher(arguments.matcher, device=arguments.device, options=options)


def _alignment(path: str | None) -> "Map | str | None":
    """The map to align by; a path that is no map is taken for a COLMAP model or a poses file."""
    if path is None or not (Path(path) / "map.json").is_file():
        return path
    from mapping import Map

    return Map.open(path)


def _camera(text: str | None, option: str) -> "pycolmap.Camera | None":
    from matching.errors import InputError

    if text is None:
        return None
    from mapping.cameras import parse_camera

    try:
        return parse_camera(text)
    except InputError as error:
        raise WrongUseError(f"{option}: {error}") from error


def _camera_list(path: str | None) -> "dict[str, pycolmap.Camera] | None":
    if path is None:
        return None
    from mapping.cameras import read_camera_list

    return read_camera_list(path)


# ------------------------------------------------------------------------------------- output


def _say(arguments: argparse.Namespace, text: str) -> None:
    """A result for people; with --json stdout holds the JSON alone."""
    if not arguments.json:
        print(text)


def _progress(arguments: argparse.Namespace) -> "Progress":
    def bar(items: Iterable[T], description: str, total: int | None = None) -> Iterable[T]:
        from tqdm import tqdm

        return tqdm(items, desc=description, total=total, file=sys.stderr, disable=arguments.quiet)

    return bar


def _configure_logging(arguments: argparse.Namespace) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        format="%(levelname)s: %(message)s",
        level=logging.WARNING if arguments.quiet else logging.INFO,
    )
    logging.getLogger("faiss").setLevel(logging.WARNING)  # it reports how it was compiled


if __name__ == "__main__":
    sys.exit(main())
