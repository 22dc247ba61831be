"""Dataclass fields that are command-line flags and YAML settings: declared once, converted and checked in one place."""

from __future__ import annotations

import dataclasses
import difflib
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

from ragcun.errors import InputError
from ragcun.io import read_text

Config = TypeVar("Config")
Choices = tuple[str, ...] | str | Callable[[], Iterable[str]]
NAMES: dict[str, Callable[[], Iterable[str]]] = {}
"""By kind, a function that reads the names beside what they name; `ragcun.plugins` fills it."""
FLAGS = "flags"
"""Source of a configuration that comes from no file."""
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")
BOUNDS: dict[str, Callable[[Any, Any], bool]] = {
    "at least": lambda value, bound: value >= bound,
    "at most": lambda value, bound: value <= bound,
    "below": lambda value, bound: value < bound,
}


def flag(
    default: Any,
    help: str,
    *,
    bare: Any = None,
    off: Any = None,
    choices: Choices = (),
    metavar: str | None = None,
    at_least: float | None = None,
    at_most: float | None = None,
    below: float | None = None,
    short: str | None = None,
    count: int | None = None,
    positional: bool = False,
) -> Any:
    """Declare a dataclass field that is also a command-line flag.

    Args:
        default: the field's default; `dataclasses.MISSING` demands a value.
        help: one line for ``--help``.
        bare: what the flag means when no value or ``True`` follows it; None demands a value.
        off: what ``False`` and ``--no_…`` mean; None knows neither. A boolean's are True and False.
        choices: the values allowed, a function that returns them, or the kind of name they are, in `NAMES`.
        metavar: what ``--help`` shows for the value (default: by type).
        at_least: lower bound of a number, or of each of several.
        at_most: upper bound.
        below: upper bound that is itself too large.
        short: a further name of the flag.
        count: how many values a tuple has (default: one or more).
        positional: the values of a tuple stand on the command line without the flag's name.
    """
    if isinstance(default, bool):
        bare, off = True, False
    bounds = {"at least": at_least, "at most": at_most, "below": below}
    metadata = {"help": help, "bare": bare, "off": off, "choices": choices, "metavar": metavar, "short": short}
    metadata |= {"count": count, "positional": positional}
    metadata["bounds"] = {name: bound for name, bound in bounds.items() if bound is not None}
    return dataclasses.field(default=default, metadata=metadata)


def flags_of(config: type[Any]) -> dict[str, dataclasses.Field[Any]]:
    """Return the fields of a dataclass that are flags, by name."""
    return {field.name: field for field in dataclasses.fields(config) if "bare" in field.metadata}


def choices_of(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Return the values that a field allows; none where it allows all, or where nothing has filled `NAMES`."""
    choices = field.metadata["choices"]
    if isinstance(choices, str):
        choices = NAMES.get(choices, tuple)
    return tuple(choices()) if callable(choices) else choices


def check_bounds(options: Any) -> None:
    """Compare the fields of a dataclass with their bounds, which NaN is not within; `InputError` says which is not."""
    for name, field in flags_of(type(options)).items():
        value = getattr(options, name)
        for number in value if isinstance(value, tuple) else (value,):
            for relation, bound in field.metadata["bounds"].items():
                if number is not None and not BOUNDS[relation](number, bound):
                    raise InputError(f"--{name} must be {relation} {bound}, got {number}")


def check_one_of(options: Any, *names: str, needed: bool = True) -> None:
    """Refuse, by `InputError`, fields that exclude each other and, where one is needed, that all are missing."""
    given = [f"--{name}" for name in names if getattr(options, name)]
    if len(given) > 1:
        raise InputError(f"{given[0]} and {given[1]} contradict each other; give one of them")
    if needed and not given:
        raise InputError(f"{' or '.join(f'--{name}' for name in names)} is missing; give one of them")


def converters(config: type[Any]) -> dict[str, Callable[[Any], Any]]:
    """Return, by field, what turns a flag's or YAML value into the field's type, or raises ``ValueError``.

    Its ``__name__`` is the type, or "several " and the type.
    """
    hints = typing.get_type_hints(config)
    return {name: _converter(field, hints[name]) for name, field in flags_of(config).items()}


def _converter(field: dataclasses.Field[Any], hint: Any) -> Callable[[Any], Any]:
    several = typing.get_origin(hint) is tuple
    inner = typing.get_args(hint) if several or typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    kind = next(one for one in inner if one is not type(None))
    kind = str if typing.get_origin(kind) is typing.Literal else kind
    switch, count = {"true": field.metadata["bare"], "false": field.metadata["off"]}, field.metadata["count"]

    def convert_one(value: Any) -> Any:
        value = _to_bool(value) if kind is bool else _to_number_or_text(value, kind)
        choices = choices_of(field)
        if choices and value not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return value

    def convert(value: Any) -> Any:
        if several:
            values = value if isinstance(value, (list, tuple)) else str(value).split()
            if count not in (None, len(values)):
                raise ValueError(f"{count} values are needed")
            return tuple(map(convert_one, values))
        word = str(value).lower()
        if kind is not bool and switch.get(word) is not None:
            value = switch[word]
        if value is None or (type(None) in inner and word in ("none", "null")):
            if type(None) in inner:
                return None
            raise ValueError("a value is needed")
        return convert_one(value)

    convert.__name__ = f"several {kind.__name__}" if several else kind.__name__
    return convert


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    text = str(value).lower()
    if text not in TRUE + FALSE:
        raise ValueError("must be True or False")
    return text in TRUE


def _to_number_or_text(value: Any, kind: type) -> Any:
    if isinstance(value, (bool, list, dict)):
        raise ValueError(f"must be one {kind.__name__}")
    if kind is int and isinstance(value, float) and not value.is_integer():
        raise ValueError("must be a whole number")
    try:
        return kind(str(value) if kind is Path else value)
    except ValueError as error:
        raise ValueError(f"must be {'a whole number' if kind is int else 'a number'}") from error


def from_mapping(config: type[Config], values: Mapping[str, Any], source: str) -> Config:
    """Build a configuration; `InputError` names an unknown setting, a value that does not fit, or a missing one."""
    fields, convert, converted = flags_of(config), converters(config), {}
    for name, value in values.items():
        if name not in fields:
            near = difflib.get_close_matches(name, fields, n=1)
            raise InputError(
                f"{source}: unknown setting {name!r:.60}" + (f"; did you mean {near[0]!r}?" if near else "")
            )
        try:
            converted[name] = convert[name](value)
        except ValueError as error:
            raise InputError(f"{source}: {name} = {value!r:.60} is not possible: {error}") from error
    for name, field in fields.items():
        if field.default is dataclasses.MISSING and name not in converted:
            where = "" if source == FLAGS else f"{source}: "
            raise InputError(f"{where}--{name} is missing: {field.metadata['help']}")
    try:
        return config(**converted)
    except ValueError as error:
        if source == FLAGS and isinstance(error, InputError):
            raise
        raise InputError(f"{source}: {error}") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of settings; `InputError` names the line that is not YAML or gives a name twice."""
    import yaml

    class Loader(yaml.SafeLoader):
        """Refuses a name that is given twice; plain YAML readers keep the last without a word."""

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            names = [key.value for key, _ in node.value if isinstance(key.value, str)]
            for key, _ in node.value:
                if names.count(key.value) > 1:
                    problem = f"{key.value!r:.60} is given twice"
                    raise yaml.constructor.ConstructorError(problem=problem, problem_mark=key.start_mark)
            return super().construct_mapping(node, deep)

    text = read_text(path)
    try:
        values = Loader(text).get_single_data()
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        deep = "nested too deeply" if isinstance(error, RecursionError) else None
        reason = deep or getattr(error, "problem", None) or "cannot be read"
        raise InputError(f"{path}{where}: not valid YAML ({reason}); fix that line") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path}: expected names and values ('epochs: 3'), got {type(values).__name__}")
    return values
