"""`matching.options`: strict building of dataclasses."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from matching.errors import InputError
from matching.options import (
    build_options,
    first_difference,
    merge_options,
    option_names,
    options_as_dict,
    parse_assignments,
    read_options_file,
    unknown_option,
)


@dataclass(frozen=True, kw_only=True)
class Inner:
    size_px: int = 3
    limits: tuple[float, ...] = (1.0, 2.0)
    window: tuple[int, int] | None = None


@dataclass(frozen=True, kw_only=True)
class Lists:
    limits: tuple[float, ...] = (1.0, 2.0)
    window: tuple[int, int] | None = None
    pairs: tuple[tuple[int, int], ...] = ((1, 2),)
    groups: tuple[Inner, ...] = (Inner(),)


@dataclass(frozen=True, kw_only=True)
class Outer:
    mode: Literal["fast", "slow"] = "fast"
    ratio: float = 0.5
    verbose: bool = False
    inner: Inner = field(default_factory=Inner)

    def __post_init__(self) -> None:
        if not 0 < self.ratio <= 1:
            raise ValueError(f"ratio must be in (0, 1], got {self.ratio}")


def test_builds_nested_options() -> None:
    built = build_options(
        Outer, {"ratio": 1, "inner": {"limits": [3, 4.5], "window": [1, 2]}, "mode": "slow"}
    )
    assert built == Outer(mode="slow", ratio=1.0, inner=Inner(limits=(3.0, 4.5), window=(1, 2)))
    assert isinstance(built.ratio, float)
    assert build_options(Outer, {}) == Outer()


@pytest.mark.parametrize(
    "values, message",
    [
        ({"rato": 1.0}, "unknown option 'rato'; did you mean 'ratio'"),
        ({"inner": {"sizepx": 1}}, r"unknown option 'inner\.sizepx'"),
        ({"ratio": "much"}, "'ratio' takes a number, got 'much'"),
        ({"ratio": 2.0}, "ratio must be in"),
        ({"mode": "medium"}, "'mode' must be one of fast, slow"),
        ({"verbose": 1}, "'verbose' takes true or false, got 1"),
        ({"inner": 5}, "'inner' takes a group of options"),
        ({"inner": {"size_px": True}}, r"'inner\.size_px' takes a whole number, got True"),
        ({"inner": {"window": [1]}}, r"'inner\.window' takes 2 values"),
        ({"inner": {"limits": "abc"}}, r"'inner\.limits' takes a list"),
    ],
)
def test_refuses(values: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        build_options(Outer, values)


@pytest.mark.parametrize(
    "assignment, message",
    [
        ("limits=5,6", "takes a list, got '5,6': write limits=[5,6]"),
        ("limits=5", "takes a list, got 5: write limits=[5]"),
        ("limits=5x6", "takes a list, got '5x6': write it as in limits=[1.0,2.0]"),
        ("window=5,6", "takes a list or null, got '5,6': write window=[5,6]"),
        ("window=5x6", "takes a list or null, got '5x6'"),
        ("pairs=5,6", "takes a list of lists, got '5,6': write pairs=[[5,6]]"),
        ("pairs=[5,6]", "takes a list of lists, got [5, 6]: write pairs=[[5,6]]"),
        ("groups.size_px=4", "takes a list, got {'size_px': 4}: write groups=[{\"size_px\": 4}]"),
        ("groups=4", "takes a list, got 4"),
    ],
)
def test_lists_are_written_for_who_forgot_the_brackets(assignment: str, message: str) -> None:
    with pytest.raises(InputError) as refused:
        build_options(Lists, parse_assignments([assignment]))
    name = assignment.split("=")[0].split(".")[0]
    assert str(refused.value) == f"option '{name}' {message}"
    written = message.rpartition(" ")[2] if "write" in message else None
    if written is not None and "size_px" not in message:  # what is told works
        build_options(Lists, parse_assignments([written]))


def test_null_is_offered_where_it_can_be_given_only() -> None:
    @dataclass(frozen=True, kw_only=True)
    class Either:
        one: int | tuple[int, ...] = 3
        none: int | None = 3

    for name, wanted in (("one", "a whole number, got"), ("none", "a whole number or null, got")):
        with pytest.raises(InputError, match=f"'{name}' takes {wanted}"):
            build_options(Either, {name: "x"})


def test_numbers_that_yaml_takes_for_text() -> None:
    assert build_options(Outer, parse_assignments(["ratio=1e-4"])).ratio == 1e-4
    signed = build_options(Lists, parse_assignments(["limits=[-1e-4,1.5e3,+2E2]"]))
    assert signed.limits == (-1e-4, 1.5e3, 2e2)
    for text in ("1e", "e4", "1e-4x", "1e4e4"):
        with pytest.raises(InputError, match="takes a number, got"):
            build_options(Outer, parse_assignments([f"ratio={text}"]))


def test_unknown_names_are_met_with_the_nearest() -> None:
    of_inner = ("size_px", "limits", "window")
    assert option_names(Inner) == list(of_inner)
    assert option_names(Special) == [f"{g}.{n}" for g in ("inner", "perhaps") for n in of_inner]
    for values, message in (
        ({"size": 3}, "'size'; did you mean 'inner.size_px' or 'perhaps.size_px'? (known: inner, "),
        ({"iner": 3}, "'iner'; did you mean 'inner'? (known: inner, perhaps)"),
        ({"inner": {"sizepx": 3}}, "'inner.sizepx'; did you mean 'inner.size_px'? (known: limits"),
        ({"quite": 3}, "'quite' (known: inner, perhaps)"),
    ):
        with pytest.raises(InputError) as refused:
            build_options(Special, values)
        assert message in str(refused.value)
    assert str(unknown_option("a.size", [])) == "unknown option 'a.size' (this command has none)"


def test_assignments() -> None:
    parsed = parse_assignments(["a.b=1", "a.c=[1, 2]", "d=no", "a.b=2"])
    assert parsed == {"a": {"b": 2, "c": [1, 2]}, "d": False}
    for bad, message in (
        ("ab", "key.sub=value"),
        ("=1", "key.sub=value"),
        ("a=[", "no YAML"),
        ("a=2020-13-45", "no YAML"),
    ):
        with pytest.raises(InputError, match=message):
            parse_assignments([bad])
    with pytest.raises(InputError, match="already set"):
        parse_assignments(["a=1", "a.b=2"])


def test_files(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_text("ratio: 0.25\ninner:\n  size_px: 7\n")
    values = read_options_file(tmp_path / "a.yaml")
    assert build_options(Outer, values).inner.size_px == 7
    (tmp_path / "empty.yaml").write_text("# nothing\n")
    assert read_options_file(tmp_path / "empty.yaml") == {}
    for name, text, message in (
        ("list.yaml", "- 1\n", "must hold 'option: value'"),
        ("bad.yaml", "a: [", "no valid YAML"),
        ("date.yaml", "a: 2020-13-45", "no valid YAML: month"),
        ("code.yaml", "a: !!python/object/apply:os.system ['true']", "no valid YAML"),
    ):
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_options_file(tmp_path / name)
    with pytest.raises(InputError, match="no options file"):
        read_options_file(tmp_path / "none.yaml")


def test_merge_and_difference() -> None:
    merged = merge_options({"a": {"b": 1, "c": 2}, "d": 3}, {"a": {"b": 5}, "e": 6})
    assert merged == {"a": {"b": 5, "c": 2}, "d": 3, "e": 6}
    assert first_difference(merged, merged) is None
    assert first_difference({"a": {"b": 1}}, {"a": {"b": 2}}) == "a.b"
    assert first_difference({"a": 1}, {"a": 1, "z": 2}) == "z"
    for old, new, differing in (
        ({"a": {}}, {"a": {"b": 1}}, None),
        ({"a": {}}, {"a": {"b": 2}}, "a.b"),  # not its default
        ({}, {"a": {"b": 1, "c": [3]}}, None),  # a whole group
        ({"a": {"b": 1}}, {"a": {}}, "a.b"),  # taken away
        ({"a": {}}, {"a": {"z": 1}}, "a.z"),
        ({"a": None}, {"a": {"b": 1}}, "a"),
    ):
        assert first_difference(old, new, defaults={"a": {"b": 1, "c": [3]}}) == differing
    plain = options_as_dict(Outer())
    assert plain["inner"]["limits"] == [1.0, 2.0]
    assert build_options(Outer, plain) == Outer()


@dataclass(frozen=True, kw_only=True)
class Special:
    """A group whose defaults are not those of its class."""

    inner: Inner = field(default_factory=lambda: Inner(size_px=9, limits=(5.0,)))
    perhaps: Inner | None = field(default_factory=lambda: Inner(size_px=8))


@dataclass(frozen=True, kw_only=True)
class Outermost:
    special: Special = field(
        default_factory=lambda: Special(inner=Inner(size_px=11, limits=(6.0,)))
    )


def test_a_group_that_is_set_in_part_keeps_its_own_defaults() -> None:
    built = build_options(Special, {"inner": {"window": [1, 2]}, "perhaps": {"limits": [3]}})
    assert built.inner == Inner(size_px=9, limits=(5.0,), window=(1, 2))
    assert built.perhaps == Inner(size_px=8, limits=(3.0,))
    assert build_options(Special, {"perhaps": None}).perhaps is None
    deep = build_options(Outermost, {"special": {"inner": {"size_px": 4}}})
    assert deep.special.inner == Inner(size_px=4, limits=(6.0,))
    assert deep.special.perhaps == Inner(size_px=8)
