"""The arguments of the command line, and how they become option dataclasses."""

import argparse
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn, TypeVar

if TYPE_CHECKING:
    import pycolmap

    from matching import Matcher

T = TypeVar("T")
Command = Callable[[argparse.Namespace], dict[str, Any]]

EXIT_WRONG_USE = 2

DEFAULT_MATCHER = "small"

_CAMERA = "'PINHOLE 640 480 500 500 320 240' (model, width, height, fx, fy, cx, cy in pixels)"
_LIST = "camera list (a file of lines 'name MODEL W H params...')"


class WrongUseError(Exception):
    """An option or argument that no file could make right; exits with 2."""


class _Parser(argparse.ArgumentParser):
    """One-line errors, as all errors of this command."""

    def error(self, message: str) -> NoReturn:
        if message.startswith("unrecognized") and "--matcher" in message:
            message += ", a map is used with the matcher that made it"
        print(f"error: {message} (see '{self.prog} --help')", file=sys.stderr)
        raise SystemExit(EXIT_WRONG_USE)


def make_parser(run: Mapping[str, Command]) -> argparse.ArgumentParser:
    """The parser of all commands.

    Args:
        run: Command name to the function that runs it; its docstring is the help.

    Returns:
        A parser whose result has the function as ``run``.
    """
    parser = _Parser(
        prog="groundloc",
        description="Photos of a place in, camera poses of new photos out.",
        epilog="Exit codes: 0 done, 1 failed, 2 wrong use. Logs go to stderr, results to stdout.",
    )
    parser.add_argument("--version", action="version", version=f"groundloc {_version()}")
    commands = parser.add_subparsers(
        title="commands", metavar="COMMAND", required=True, parser_class=_Parser
    )

    command = _command(commands, "demo", run["demo"])
    command.add_argument("--out", default="demo", metavar="DIR", help="results (default: demo)")
    command.add_argument(
        "--photos", metavar="DIR", help="use these photos: some are held out and localized"
    )
    _add_matcher(command)

    command = _command(commands, "map", run["map"])
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

    command = _command(commands, "localize", run["localize"])
    command.add_argument("map", metavar="MAP", help="folder of the map")
    command.add_argument("queries", metavar="QUERIES", help="a photo, a folder, or a list of names")
    command.add_argument("--cameras", metavar="LIST", help="lines 'name MODEL W H params...'")
    command.add_argument("--top-k", type=int, metavar="K", help="map photos to match with")
    command.add_argument(
        "--out", metavar="FILE", help="poses.txt; results.jsonl is written beside it"
    )
    command.add_argument("--overwrite", action="store_true", help="replace the files of --out")
    command.add_argument("--report", metavar="DIR", help="write an HTML report with pictures")
    command.add_argument(
        "--map-images", metavar="DIR", help="photos of the map, to draw matches in the report"
    )

    command = _command(commands, "match", run["match"])
    _add_two_images(command)
    command.add_argument("--out", metavar="FILE", help="write keypoints and scores as .npz")
    command.add_argument("--plot", metavar="FILE", help="draw the matches over the photos")
    command.add_argument(
        "--dense", action="store_true", help="every mutual nearest neighbour (neural matchers)"
    )
    _add_matcher(command)

    command = _command(commands, "relative", run["relative"])
    _add_two_images(command)
    for index in (0, 1):
        command.add_argument(
            f"--camera{index}", metavar="'MODEL W H params...'", help="default: EXIF or estimated"
        )
    _add_matcher(command)

    command = _command(commands, "reconstruct", run["reconstruct"])
    command.add_argument("images", metavar="IMAGES", help="folder of photos")
    command.add_argument("out", metavar="OUT", help="folder of the result: model, cloud, depths")
    command.add_argument("--map", metavar="MAP", help="keep the poses and the frame of this map")
    command.add_argument("--cameras", metavar="LIST", help="lines 'name MODEL W H params...'")
    command.add_argument(
        "--pairs",
        metavar="HOW",
        help="exhaustive, retrieval, sequential, or a file of 'name0 name1' lines",
    )
    command.add_argument("--overwrite", action="store_true", help="replace what is in OUT")
    _add_matcher(command)

    command = _command(commands, "evaluate", run["evaluate"])
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
    command.add_argument(
        "--protocol",
        metavar="NAME",
        help="score as this benchmark does: POSES is a run's folder, a poses file or a Map-free "
        "zip, GROUND_TRUTH the data set",
    )
    command.add_argument("--split", metavar="SPLIT", help="of Map-free: val")
    command.add_argument("--out", metavar="FILE", help="write report.json")

    command = _command(commands, "benchmark", run["benchmark"])
    command.add_argument(
        "name",
        metavar="NAME",
        help="mapfree, aachen, inloc, 7scenes, 12scenes, cambridge, cmu, robotcar, megadepth1500, "
        "scannet1500, pairs, colmap or kapture",
    )
    command.add_argument("root", metavar="ROOT", help="the data set's folder")
    command.add_argument("--out", metavar="DIR", help="predictions and reports; a run resumes")
    command.add_argument(
        "--limit", type=int, metavar="N", help="only the first N queries of each scene, or pairs"
    )
    command.add_argument(
        "--shard", default="0/1", metavar="I/N", help="part I (from 0) of N; all into one --out"
    )
    command.add_argument("--check", action="store_true", help="only verify the download")
    command.add_argument("--dry-run", action="store_true", help="only tell pairs, hours and disk")
    command.add_argument(
        "--executor", default="local", metavar="HOW", help="local (default) or ray"
    )
    _add_matcher(command)

    command = _command(commands, "train", run["train"])
    command.set_defaults(device=None)  # a GPU if there is one
    command.add_argument("--out", metavar="DIR", help="checkpoints, logs and weights of the run")
    command.add_argument(
        "--no-resume", action="store_true", help="refuse a folder that holds checkpoints"
    )
    command.add_argument(
        "--show-world", metavar="FILE", help="only render a contact sheet of training pairs"
    )

    command = _command(commands, "weights", run["weights"])
    command.add_argument("action", choices=["convert"], help="the only action")
    command.add_argument("source", metavar="IN", help="official .pth, hub folder or safetensors")
    command.add_argument("target", metavar="OUT", help="NAME.safetensors, or a folder")

    command = _command(commands, "convert", run["convert"])
    command.add_argument(
        "source",
        metavar="SOURCE",
        help="a map (to hloc's files), a kapture folder (to a COLMAP model), results.jsonl or "
        "poses.txt (to hloc's results), or hloc's results (with --names, to poses.txt)",
    )
    command.add_argument("target", metavar="TARGET", help="folder or file to write")
    command.add_argument("--queries", metavar="QUERIES", help="export these with a map")
    command.add_argument("--cameras", metavar="LIST", help="lines 'name MODEL W H params...'")
    command.add_argument("--names", metavar="LIST", help="full names of all queries")
    command.add_argument(
        "--keep-folder", action="store_true", help="hloc's results with the last folder of a name"
    )

    command = _command(commands, "info", run["info"])
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
        help="one option of this command, by the names of its options in Python; may be repeated",
    )
    common.add_argument(
        "--device", default="cpu", type=_device, help="cpu (default), cuda or cuda:N"
    )
    common.add_argument("--json", action="store_true", help="print the result as JSON on stdout")
    common.add_argument("--quiet", action="store_true", help="no progress bars, warnings only")
    return parser


def _device(text: str) -> str:
    """The name of a device, which this machine need not have."""
    if not re.fullmatch(r"cpu|cuda(:\d+)?", text):
        raise argparse.ArgumentTypeError(f"unknown device '{text}' (known: cpu, cuda, cuda:N)")
    return text


def _add_matcher(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--matcher",
        default=DEFAULT_MATCHER,
        metavar="M",
        help="small (the bundled network), sift, the path of a MASt3R or DUSt3R checkpoint, or a "
        f"hub id; default: {DEFAULT_MATCHER}",
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


@contextmanager
def wrong_use() -> Iterator[None]:
    """What is wrong with the arguments of a call, before any file is read, exits with 2."""
    from matching.errors import InputError

    try:
        yield
    except InputError as error:
        raise WrongUseError(str(error)) from error


def given_options(arguments: argparse.Namespace) -> dict[str, Any]:
    """What --config and --set give, --set last."""
    from matching.options import merge_options, parse_assignments, read_options_file

    with wrong_use():
        given = read_options_file(arguments.config) if arguments.config is not None else {}
        return merge_options(given, parse_assignments(arguments.set))


def set_option(given: dict[str, Any], key: str, value: Any) -> None:
    """Let a flag override the same option of --config."""
    *groups, last = key.split(".")
    for group in groups:
        given = given.setdefault(group, {})
        if not isinstance(given, dict):
            raise WrongUseError(f"option '{group}' takes a group of options, got {given!r}")
    given[last] = value


def set_pairs(given: dict[str, Any], how: str | None) -> None:
    """What --pairs says: a method, or a file of pairs."""
    from typing import get_args

    from mapping.options import PairMethod

    if how in get_args(PairMethod):
        set_option(given, "pairs.method", how)
    elif how is not None:
        set_option(given, "pairs.method", "file")
        set_option(given, "pairs.file", how)


def build_checked(cls: type[T], given: Mapping[str, Any]) -> T:
    """Build an options dataclass; what the user got wrong is wrong use."""
    from matching.options import build_options

    with wrong_use():
        return build_options(cls, given)


def load_chosen_matcher(arguments: argparse.Namespace, given: dict[str, Any]) -> "Matcher":
    """The matcher of --matcher; its options are the group ``matcher`` of the given ones."""
    from matching import load_matcher

    options = matcher_group(arguments.matcher, given)
    given.pop("matcher", None)
    return load_matcher(arguments.matcher, device=arguments.device, options=options)


def matcher_group(matcher: str, given: Mapping[str, Any]) -> dict[str, Any]:
    """The group ``matcher`` of the given options; what the user got wrong in it is wrong use."""
    from matching.load import matcher_options

    options = given.get("matcher", {})
    if not isinstance(options, dict):
        raise WrongUseError(
            f"'matcher' is a group of options such as matcher.max_ratio=0.7, got {options!r}; "
            f"the matcher itself is chosen with --matcher {options}"
        )
    with wrong_use():
        matcher_options(matcher, options)
    return options


def refuse_without_effect(arguments: argparse.Namespace) -> None:
    """Flags of evaluate that its other way of scoring would ignore without a word."""
    if arguments.protocol is None and arguments.split is not None:
        raise WrongUseError("without --protocol there are no splits: leave out --split")
    for name in ("queries", "cameras", "align_map"):
        if arguments.protocol is not None and getattr(arguments, name) is not None:
            flag = f"--{name.replace('_', '-')}"
            raise WrongUseError(f"with --protocol the data set tells all: leave out {flag}")


def check_inputs(arguments: argparse.Namespace) -> None:
    """Fail at once where flags clash or what is named is not there; the stages look closer."""
    from mapping.info import read_info
    from mapping.workspace import is_half_published
    from matching.files import existing_file, existing_folder

    named = {key: value for key, value in vars(arguments).items() if value is not None}
    if "protocol" in vars(arguments):
        refuse_without_effect(arguments)
    if "protocol" in named:  # wrong use of a data set's options comes before what is not there
        return
    folders = {"images": "photo folder", "photos": "photo folder", "map_images": "photo folder"}
    folders["known_poses"] = "COLMAP model folder"
    files = {"image0": "image", "image1": "image", "cameras": _LIST}
    either = {"queries": "photo, folder or list of queries", "poses": "results or poses file"}
    either["ground_truth"] = "ground truth (model or poses file)"
    either["align_map"] = "map or COLMAP model to align by"
    for key, value in named.items():
        if key in folders:
            existing_folder(value, folders[key])
        elif key in files or (key in either and not Path(value).exists()):
            existing_file(value, {**files, **either}[key])
    # `map` makes one, all others (--extend among them) need a finished one
    if "map" in named and named.get("extend", True):
        folder = existing_folder(named["map"], "map")
        if not is_half_published(folder):
            read_info(folder)


def check_outputs(*files: str | Path | None, picture: str | None = None) -> None:
    """Fail before the work, not after it, where a file cannot be written; None is no file."""
    from matching.files import check_writable

    if picture is not None:
        from benchmarks.plots import check_picture_name

        with wrong_use():
            check_picture_name(picture)
    for file in (*files, picture):
        if file is not None:
            check_writable(file)


def refuse_leftover(given: Mapping[str, Any], matcher: str | None = None) -> None:
    """Options that a command does not have must not be ignored without a word.

    Args:
        given: From `given_options`.
        matcher: Whose options are the only ones of the command, as the group ``matcher``; None
            where a command has no options.
    """
    from matching.load import options_class
    from matching.options import option_names, unknown_option

    known: list[str] = []
    if matcher is not None:
        matcher_group(matcher, given)
        if not matcher.startswith("hloc:"):
            known = [f"matcher.{name}" for name in sorted(option_names(options_class(matcher)))]
    unknown = [key for key in given if key != "matcher" or matcher is None]
    if unknown:
        raise WrongUseError(str(unknown_option(unknown[0], known)))


def given_camera(text: str | None, option: str) -> "pycolmap.Camera | None":
    """The camera that an option describes."""
    from matching.errors import InputError

    if text is None:
        return None
    from mapping.cameras import parse_camera

    try:
        return parse_camera(text)
    except InputError as error:
        raise WrongUseError(f"{option}: {error}; one that works: {_CAMERA}") from error


def given_cameras(path: str | None) -> "dict[str, pycolmap.Camera] | None":
    """The cameras of a list file."""
    if path is None:
        return None
    from mapping.cameras import read_camera_list

    return read_camera_list(path)
