"""The command line: thin functions that parse, call a stage and print its result.

Nothing heavy is imported at the top: ``groundloc --help`` needs neither torch nor pycolmap.
"""

import argparse
import json
import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from groundloc_arguments import (
    DEFAULT_MATCHER,
    EXIT_WRONG_USE,
    WrongUseError,
    build_checked,
    check_inputs,
    check_outputs,
    given_camera,
    given_cameras,
    given_options,
    load_chosen_matcher,
    make_parser,
    matcher_group,
    refuse_leftover,
    set_option,
    set_pairs,
    wrong_use,
)
from groundloc_start import EXIT_INTERRUPTED, interrupt_ends_at_once

if TYPE_CHECKING:
    from localize import Localization, Localizer
    from matching.progress import Progress

logger = logging.getLogger("groundloc")

EXIT_DONE, EXIT_FAILED = 0, 1


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code: 0 done, 1 failed, 2 wrong use."""
    with interrupt_ends_at_once():
        arguments = make_parser(COMMANDS).parse_args(argv)
        _configure_logging(arguments)
    # read by OpenMP and COLMAP when they are loaded: waiting threads sleep instead of spinning
    # (three times the CPU time where cores are shared), and COLMAP keeps its notes to itself
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("GLOG_minloglevel", "2")
    try:
        return _run(arguments)
    except KeyboardInterrupt:
        resumes = arguments.run in (_demo, _map, _benchmark, _train)
        resumes = resumes or (arguments.run is _localize and arguments.out and not arguments.report)
        resumes = resumes or (arguments.run is _reconstruct and not arguments.map)
        hint = "; the same command continues where it was" if resumes else ""
        return _fail(f"interrupted{hint}", EXIT_INTERRUPTED)


def _run(arguments: argparse.Namespace) -> int:
    # heavy imports of the stages happen inside; only what they raise on purpose is caught here
    from matching.errors import InputError

    try:
        with interrupt_ends_at_once():
            check_inputs(arguments)  # what is not there is told before seconds of imports
            # imported by any stage, and not to be interrupted halfway
            import pycolmap  # noqa: F401
            import torch  # noqa: F401
        result = arguments.run(arguments)
        if arguments.json:
            print(json.dumps(result, allow_nan=False))
        failure = result.get("failure")  # of a check that found something
        return _fail(failure, EXIT_FAILED) if failure else EXIT_DONE
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


def _fail(message: str, code: int) -> int:
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return code


# ---------------------------------------------------------------------------------- commands


def _demo(arguments: argparse.Namespace) -> dict[str, Any]:
    """A rendered place, or the user's photos, through the whole pipeline."""
    from benchmarks.demo import DemoOptions, run_demo

    given = given_options(arguments)
    matcher = load_chosen_matcher(arguments, given)
    result = run_demo(
        arguments.out,
        photos=arguments.photos,
        matcher=matcher,
        device=arguments.device,
        options=build_checked(DemoOptions, given),
        progress=_progress(arguments),
    )
    _say(arguments, result.text)
    return result.to_dict()


def _map(arguments: argparse.Namespace) -> dict[str, Any]:
    """Photos to a map on disk."""
    from mapping import MapOptions, build_map

    given = given_options(arguments)
    if arguments.extend:
        return _extend(arguments, given)
    set_pairs(given, arguments.pairs)
    matcher = load_chosen_matcher(arguments, given)
    scene = build_map(
        arguments.images,
        arguments.map,
        matcher,
        options=build_checked(MapOptions, given),
        known_poses=arguments.known_poses,
        cameras=given_cameras(arguments.cameras),
        overwrite=arguments.overwrite,
        progress=_progress(arguments),
    )
    _say(arguments, scene.summary())
    return scene.to_dict()


def _extend(arguments: argparse.Namespace, given: dict[str, Any]) -> dict[str, Any]:
    """New photos into a finished map, with the matcher and the options that made it."""
    from mapping import Map

    if given or arguments.pairs or arguments.overwrite or arguments.matcher != DEFAULT_MATCHER:
        raise WrongUseError(
            "--extend keeps the matcher and the options of the map: leave out --matcher, --config, "
            "--set, --pairs and --overwrite"
        )
    scene = Map.open(arguments.map)
    scene = scene.extend(
        arguments.images,
        scene.load_matcher(device=arguments.device),
        known_poses=arguments.known_poses,
        cameras=given_cameras(arguments.cameras),
        progress=_progress(arguments),
    )
    _say(arguments, scene.summary())
    return scene.to_dict()


def _localize(arguments: argparse.Namespace) -> dict[str, Any]:
    """Poses of query photos against a map."""
    from localize import Localizer, LocalizerOptions, poses_text
    from localize.queries import read_queries
    from localize.results import results_beside, write_poses_and_results
    from localize.unfinished import UnfinishedResults, run_identity
    from matching.errors import InputError

    given = given_options(arguments)
    if arguments.top_k is not None:
        set_option(given, "top_k", arguments.top_k)
    options = build_checked(LocalizerOptions, given)
    out = None if arguments.out is None else Path(arguments.out)
    if out is not None and out.name == "results.jsonl":
        raise WrongUseError("--out is the poses file; results.jsonl is written beside it")
    localizer = Localizer(arguments.map, device=arguments.device, options=options)
    asked = read_queries(arguments.queries, arguments.cameras)
    if out is not None:
        names = (query.name for query in asked)
        results_file = results_beside(out, names, overwrite=arguments.overwrite)
    check_outputs(out, arguments.report and Path(arguments.report) / "report.html")
    # what is done so far survives a kill; `results.jsonl` replaces it in the end
    unfinished = None
    if out is not None:
        unfinished = UnfinishedResults(
            out.with_name(f"{out.stem}.partial.jsonl"),
            run_identity(localizer, asked),
            finished=None if arguments.overwrite else results_file,
        )
    # a report draws matches, which are not kept: it needs all queries again
    done = unfinished.done if unfinished is not None and arguments.report is None else {}
    if done:
        again = " (--overwrite does it again)" if len(done) == len(asked) else ""
        logger.info("%d queries were localized before%s", len(done), again)
    results = localizer.localize_all(
        arguments.queries,
        cameras=arguments.cameras,
        done=done,
        on_result=None if unfinished is None else unfinished.keep,
        progress=_progress(arguments),
    )
    if out is not None and unfinished is not None:
        write_poses_and_results(out, results_file, results, run=unfinished.identity)
        unfinished.remove()
        _wrote(out, results_file)
    elif not arguments.json:
        print(poses_text(results), end="")
    if arguments.report is not None:
        _write_report(arguments, localizer, results)
    failed = {name: r.reason for name, r in results.items() if not r.success}
    summary = f"localized {len(results) - len(failed)} / {len(results)}"
    if failed:
        summary += f" ({'; '.join(f'{name}: {reason}' for name, reason in failed.items())})"
    if arguments.out is not None:
        _say(arguments, summary)
    else:
        logger.info(summary)
    if all(result.camera is None for result in results.values()):  # unreadable, or misfits
        raise InputError(f"no query photo can be used ({next(iter(failed.items()))[1]})")
    return {
        "num_queries": len(results),
        "num_localized": len(results) - len(failed),
        "results": [result.to_dict() for result in results.values()],
    }


def _wrote(*paths: str | Path) -> None:
    """Tell where results are."""
    logger.info("wrote %s", " and ".join(f"'{path}'" for path in paths))


def _write_report(
    arguments: argparse.Namespace, localizer: "Localizer", results: "dict[str, Localization]"
) -> None:
    from benchmarks.html_report import write_html_report
    from localize.queries import read_queries

    file = Path(arguments.report) / "report.html"
    write_html_report(
        file,
        localizer.scene,
        results,
        query_images={
            query.name: query.path for query in read_queries(arguments.queries, arguments.cameras)
        },
        map_images=arguments.map_images,
        matcher=localizer.matcher,
        progress=_progress(arguments),
    )
    _wrote(file)


def _match(arguments: argparse.Namespace) -> dict[str, Any]:
    """Matches between two photos."""
    from matching.match_files import write_matches
    from matching.match_report import MatchReport

    given = given_options(arguments)
    check_outputs(arguments.out, picture=arguments.plot)
    if arguments.dense:
        if arguments.matcher == "sift":
            raise WrongUseError("--dense needs a neural matcher (--matcher), SIFT is sparse")
        set_option(given, "matcher.dense", True)
    refuse_leftover(given, arguments.matcher)
    matcher = load_chosen_matcher(arguments, given)
    paths = arguments.image0, arguments.image1
    views = matcher.encode(paths[0]), matcher.encode(paths[1])
    matches = matcher.match_views(*views)
    if arguments.out is not None:
        write_matches(arguments.out, matches, views[0].image_size, views[1].image_size)
        _wrote(arguments.out)
    if arguments.plot is not None:
        from benchmarks.plots import plot_matches

        geometry, sure = matcher.predict(*views), matcher.sure_score
        plot_matches(*paths, matches, arguments.plot, geometry=geometry, sure_score=sure)
        _wrote(arguments.plot)
    report = MatchReport(matches=matches, matcher=matcher)
    _say(arguments, report.summary(), report.doubt())
    return report.to_dict()


def _reconstruct(arguments: argparse.Namespace) -> dict[str, Any]:
    """Photos to poses and a dense cloud without SfM; with --map, the dense cloud of a map."""
    from mapping.reconstruct_scene import ReconstructOptions, reconstruct

    given = given_options(arguments)
    set_pairs(given, arguments.pairs)
    matcher = load_chosen_matcher(arguments, given)
    made = reconstruct(
        arguments.images,
        arguments.out,
        matcher,
        scene=arguments.map,
        options=build_checked(ReconstructOptions, given),
        cameras=given_cameras(arguments.cameras),
        overwrite=arguments.overwrite,
        progress=_progress(arguments),
    )
    _say(arguments, made.summary())
    return made.to_dict()


def _relative(arguments: argparse.Namespace) -> dict[str, Any]:
    """The pose of photo 1 relative to photo 0."""
    from localize import RelativeOptions, relative_pose

    given = given_options(arguments)
    matcher = load_chosen_matcher(arguments, given)
    result = relative_pose(
        arguments.image0,
        arguments.image1,
        matcher=matcher,
        camera0=given_camera(arguments.camera0, "--camera0"),
        camera1=given_camera(arguments.camera1, "--camera1"),
        options=build_checked(RelativeOptions, given),
    )
    _say(arguments, result.summary(), result.doubt())
    return result.to_dict()


def _evaluate(arguments: argparse.Namespace) -> dict[str, Any]:
    """Predicted poses against ground truth."""
    from benchmarks import EvaluationOptions, evaluate
    from benchmarks.commands import EvaluateCall, Scores

    given, files = given_options(arguments), (arguments.poses, arguments.ground_truth)
    check_outputs(arguments.out)
    report: Scores
    if arguments.protocol is not None:
        with wrong_use():
            call = EvaluateCall.of(arguments.protocol, given, split=arguments.split)
        report = call.run(*files, progress=_progress(arguments))
    else:
        report = evaluate(
            *files,
            queries=arguments.queries,
            cameras=arguments.cameras,
            align_map=arguments.align_map,
            options=build_checked(EvaluationOptions, given),
        )
    if arguments.out is not None:
        report.write(arguments.out)
        _wrote(arguments.out)
    _say(arguments, report.to_text())
    return report.to_dict()


def _benchmark(arguments: argparse.Namespace) -> dict[str, Any]:
    """A benchmark on a data set."""
    from benchmarks.commands import BenchmarkCall

    given = given_options(arguments)
    matcher_group(arguments.matcher, given)
    with wrong_use():
        call = BenchmarkCall.of(
            arguments.name,
            given,
            matcher=arguments.matcher,
            device=arguments.device,
            shard=arguments.shard,
            executor=arguments.executor,
            limit=arguments.limit,
            out=arguments.out,
            check=arguments.check,
            dry_run=arguments.dry_run,
        )
    result = call.run(arguments.root, progress=_progress(arguments))
    _say(arguments, result.to_text())
    return result.to_dict()


def _train(arguments: argparse.Namespace) -> dict[str, Any]:
    """Train a matcher on worlds (configs/train_small.yaml); torchrun starts a process per GPU."""
    if arguments.show_world is not None:
        check_outputs(picture=arguments.show_world)
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

    options = build_checked(TrainOptions, given_options(arguments))
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

    refuse_leftover(given_options(arguments))
    path = convert_checkpoint(arguments.source, arguments.target)
    _say(arguments, f"wrote {path}")
    return {"path": str(path)}


def _convert(arguments: argparse.Namespace) -> dict[str, Any]:
    """Maps, kapture folders and poses in the form of another system."""
    from benchmarks.interchange.convert import convert

    refuse_leftover(given_options(arguments))
    result = convert(
        arguments.source,
        arguments.target,
        queries=arguments.queries,
        cameras=arguments.cameras,
        names=arguments.names,
        keep_folder=arguments.keep_folder,
        device=arguments.device,
        progress=_progress(arguments),
    )
    _say(arguments, result.text)
    return result.to_dict()


def _info(arguments: argparse.Namespace) -> dict[str, Any]:
    """What a map holds."""
    from mapping import Map
    from mapping.info import DamagedMapError

    refuse_leftover(given_options(arguments))
    scene = Map.open(arguments.map)
    _say(arguments, scene.summary())
    if not arguments.check:
        return scene.to_dict()
    problems = scene.check()
    if not problems:
        _say(arguments, "every file is as it was written")
    failure = str(DamagedMapError("; ".join(problems))) if problems else ""
    return {**scene.to_dict(), "problems": problems, "failure": failure}


# ------------------------------------------------------------------------------------- output


def _say(arguments: argparse.Namespace, text: str, doubt: str = "") -> None:
    """A result for people, and what speaks against it; with --json stdout holds the JSON alone."""
    if not arguments.json:
        print(text)
    if doubt:
        logger.warning(doubt)


def _progress(arguments: argparse.Namespace) -> "Progress":
    from matching.progress import bars, silent

    return silent if arguments.quiet else bars


def _configure_logging(arguments: argparse.Namespace) -> None:
    logging.basicConfig(
        stream=sys.stderr,
        format="%(levelname)s: %(message)s",
        level=logging.WARNING if arguments.quiet else logging.INFO,
    )
    for library in ("faiss", "torch"):  # how they were compiled, what they cached
        logging.getLogger(library).setLevel(logging.WARNING)
    logging.getLogger("huggingface_hub").propagate = False  # it has a handler of its own


COMMANDS = {
    "demo": _demo,
    "map": _map,
    "localize": _localize,
    "match": _match,
    "relative": _relative,
    "reconstruct": _reconstruct,
    "evaluate": _evaluate,
    "benchmark": _benchmark,
    "convert": _convert,
    "info": _info,
    "train": _train,
    "weights": _weights,
}

if __name__ == "__main__":
    sys.exit(main())
