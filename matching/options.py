"""Strict building of option dataclasses from YAML files, ``--set`` and plain dicts."""

import dataclasses
import difflib
import json
import re
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import yaml

from matching.errors import InputError
from matching.files import PathLike, existing_file

T = TypeVar("T")

_MAX_OFFERED = 3  # names that a message offers for one that is unknown
_TYPES = {int: "a whole number", float: "a number", bool: "true or false", str: "a text"}
# a number for everybody but YAML 1.1, which wants a dot and a sign in it
_SCIENTIFIC = re.compile(r"[-+]?\d+(\.\d*)?[eE][-+]?\d+")


def build_options(
    cls: type[T], values: Mapping[str, Any], prefix: str = "", base: T | None = None
) -> T:
    """Build an options dataclass from a nested mapping.

    Args:
        cls: A frozen dataclass; fields may be dataclasses themselves.
        values: Field name to value; nested dataclasses take mappings. Missing fields keep their
            defaults; those of a nested dataclass are the ones of the field that holds it.
        prefix: Dotted path of ``cls`` inside the whole configuration, for messages.
        base: What missing fields are taken from; None: the defaults of ``cls``.

    Raises:
        InputError: Unknown key (see `unknown_option`), wrong type or refused value.
    """
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls) if f.init}  # type: ignore[arg-type]
    arguments = {}
    for key, value in values.items():
        if key not in fields:
            raise unknown_option(str(key), sorted(fields), prefix=prefix, nested=option_names(cls))
        default = _default(fields[key]) if base is None else getattr(base, key)
        arguments[key] = _convert(hints[key], value, f"{prefix}{key}", default)
    try:
        if base is None:
            return cls(**arguments)
        return dataclasses.replace(base, **arguments)  # type: ignore[type-var]
    except InputError:
        raise
    except ValueError as error:  # __post_init__ refuses a value and says which
        raise InputError(f"option {prefix}{error}") from error


def unknown_option(
    key: str, known: Sequence[str], *, prefix: str = "", nested: Sequence[str] = ()
) -> InputError:
    """The error for an option that does not exist: the nearest names, and all known ones.

    Args:
        key: What was given.
        known: All names that could have been given in its place; there may be none.
        prefix: Dotted path of the group, for the message.
        nested: Dotted names inside of groups, offered where a last part of them is meant.
    """
    close = difflib.get_close_matches(key, known, n=1)
    if not close:
        candidates = dict.fromkeys([*known, *nested])
        last = {name: name.rpartition(".")[2] for name in candidates}
        best = difflib.get_close_matches(key.rpartition(".")[2], [*last.values()], n=1)
        close = [name for name in candidates if last[name] in best][:_MAX_OFFERED]
    offered = " or ".join(f"'{prefix}{name}'" for name in close)
    hint = f"; did you mean {offered}?" if close else ""
    listed = f"known: {', '.join(known)}" if known else "this command has none"
    return InputError(f"unknown option '{prefix}{key}'{hint} ({listed})")


def option_names(cls: Any) -> list[str]:
    """Dotted names of all options of a dataclass that are no groups themselves."""
    names: list[str] = []
    for name, hint in typing.get_type_hints(cls).items():
        kinds = [kind for kind in (hint, *typing.get_args(hint)) if dataclasses.is_dataclass(kind)]
        inner = [below for kind in kinds for below in option_names(kind)]
        names += [f"{name}.{below}" for below in inner] or [name]
    return names


def _default(field: "dataclasses.Field[Any]") -> Any:
    """The default of a field, None if it has none."""
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return None if field.default is dataclasses.MISSING else field.default


def _convert(hint: Any, value: Any, name: str, default: Any = None, also: str = "") -> Any:
    """Check a YAML value against a type hint; ints pass as floats, lists as tuples.

    Args:
        hint: The type.
        value: What was given.
        name: Of the option, for messages.
        default: The option's default.
        also: What else may be given, for messages.
    """
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        if not isinstance(value, Mapping):
            raise InputError(f"option '{name}' takes a group of options, got {value!r}")
        base = default if type(default) is hint else None
        return build_options(hint, value, prefix=f"{name}.", base=base)
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        if value is None and type(None) in args:
            return None
        errors = []
        for arg in (a for a in args if a is not type(None)):
            try:
                return _convert(arg, value, name, default, " or null" * (type(None) in args))
            except InputError as error:
                errors.append(str(error))
        raise InputError(errors[0])
    if origin is typing.Literal:
        if value not in args:
            raise InputError(
                f"option '{name}' must be one of {', '.join(map(str, args))}, got {value!r}"
            )
        return value
    if origin is tuple:
        nested = typing.get_origin(args[0]) is tuple
        if not _is_list(value) or (nested and not all(map(_is_list, value))):
            wanted = f"a list{' of lists' if nested else ''}{also}"
            written = _as_list(hint, value, name, default)
            raise InputError(f"option '{name}' takes {wanted}, got {value!r}{written}")
        if len(args) == 2 and args[1] is Ellipsis:
            return tuple(_convert(args[0], v, name) for v in value)
        if len(value) != len(args):
            raise InputError(f"option '{name}' takes {len(args)} values, got {value!r}")
        return tuple(_convert(a, v, name) for a, v in zip(args, value, strict=True))
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is float and isinstance(value, str) and _SCIENTIFIC.fullmatch(value):
        return float(value)
    if isinstance(hint, type) and (
        not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool)
    ):
        wanted = _TYPES.get(hint, f"a {hint.__name__}")
        raise InputError(f"option '{name}' takes {wanted}{also}, got {value!r}")
    return value


def _is_list(value: Any) -> bool:
    return isinstance(value, Sequence) and not isinstance(value, str)


def _as_list(hint: Any, value: Any, name: str, default: Any) -> str:
    """How to write the list that was meant, or else one that works; empty if none is known."""
    text = (
        value if isinstance(value, str) else json.dumps(value, default=str, separators=(",", ": "))
    )
    for written in (f"[{text}]", f"[[{text}]]"):
        try:
            _convert(hint, yaml.safe_load(written), name)
        except (ValueError, yaml.YAMLError):
            continue
        return f": write {name}={written}"
    if not default or not _is_list(default) or dataclasses.is_dataclass(default[0]):
        return ""
    return f": write it as in {name}={json.dumps(default, separators=(',', ':'))}"


def read_options_file(path: PathLike) -> dict[str, Any]:
    """Read a YAML file of options as a nested dict.

    Raises:
        InputError: The file is missing, no YAML, or not a mapping at the top.
    """
    file = existing_file(path, "options file")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:  # such as bytes that are no text
        raise InputError(f"'{file}' is no valid YAML: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise InputError(f"'{file}' must hold 'option: value' lines, got a {type(values).__name__}")
    return values


def parse_assignments(assignments: Sequence[str]) -> dict[str, Any]:
    """Parse ``key.sub=value`` strings (values are YAML) to a nested dict; later ones win.

    Raises:
        InputError: An assignment without ``=`` or with an unreadable value.
    """
    values: dict[str, Any] = {}
    for assignment in assignments:
        key, separator, text = assignment.partition("=")
        if not separator or not key.strip():
            raise InputError(f"--set takes key.sub=value, got '{assignment}'")
        try:
            value = yaml.safe_load(text)
        except (yaml.YAMLError, ValueError) as error:  # such as a date in the 13th month
            raise InputError(f"--set {key}: '{text}' is no YAML value") from error
        group = values
        *parents, last = key.strip().split(".")
        for parent in parents:
            group = group.setdefault(parent, {})
            if not isinstance(group, dict):
                raise InputError(f"--set {key}: '{parent}' is already set to a value")
        group[last] = value
    return values


def merge_options(base: Mapping[str, Any], override: Mapping[str, Any]) -> dict[str, Any]:
    """Nested merge of two option mappings; ``override`` wins."""
    merged = dict(base)
    for key, value in override.items():
        if isinstance(value, Mapping) and isinstance(merged.get(key), Mapping):
            merged[key] = merge_options(merged[key], value)
        else:
            merged[key] = value
    return merged


def options_as_dict(options: Any) -> dict[str, Any]:
    """The options as plain JSON values (tuples become lists, paths strings)."""

    def plain(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {k: plain(v) for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v) for v in value]
        return str(value) if isinstance(value, Path) else value

    result = plain(dataclasses.asdict(options))
    assert isinstance(result, dict)
    return result


def first_difference(old: Any, new: Any, name: str = "", defaults: Any = None) -> str | None:
    """The dotted name of the first field in which two nested plain values differ, or None.

    Args:
        old: What was stored.
        new: What is asked for.
        name: Dotted path of both inside the whole.
        defaults: Nested defaults of options. One that ``old`` does not have, because an earlier
            version wrote it, is no difference where ``new`` has its default.
    """
    if isinstance(old, Mapping) and isinstance(new, Mapping):
        defaults = defaults if isinstance(defaults, Mapping) else {}
        for key in sorted(set(old) | set(new), key=str):
            child = f"{name}.{key}" if name else str(key)
            if key not in old and key in defaults and new[key] == defaults[key]:
                continue
            if key not in old or key not in new:
                return child
            found = first_difference(old[key], new[key], child, defaults.get(key))
            if found is not None:
                return found
        return None
    return None if old == new else name
