"""Dataclass fields that are command-line flags and YAML settings: declared once, converted and checked in one place."""

from __future__ import annotations

import dataclasses
import functools
import importlib.metadata
import pkgutil
import types
import typing
from collections.abc import Callable, Mapping
from operator import ge, gt, le, lt
from pathlib import Path
from typing import Any, TypeVar

from ragcun.errors import InputError, did_you_mean
from ragcun.io import read_text

Config = TypeVar("Config")
CONFIGS = Path(__file__).with_name("configs")
"""The configurations that ``--config`` knows by name: notes, strategies/smart_hybrid, ..."""
KINDS = {bool: "True or False", int: "a whole number", float: "a number", str: "one text", Path: "one path"}
BOOLEANS = dict.fromkeys(("true", "yes", "on", "1"), True) | dict.fromkeys(("false", "no", "off", "0"), False)
BOUNDS: dict[str, Callable[[Any, Any], bool]] = {"at_least": ge, "at_most": le, "above": gt, "below": lt}


def flag(
    default: Any,
    help: str,
    *,
    bare: Any = None,
    off: Any = None,
    choices: Any = (),
    metavar: str | None = None,
    short: str | None = None,
    positional: bool = False,
    **bounds: float,
) -> Any:
    """Declare a dataclass field that is also a command-line flag; the default `dataclasses.MISSING` demands a value.

    `bare` is what the flag means without a value, and `off` what ``False`` and ``--no_…`` mean; a boolean has both.
    `choices` are the values allowed, their ``Literal``, or ``module:NAME`` of what holds them; `short` is a further
    name, `bounds` are of `BOUNDS`. The values of a `positional` tuple stand on the command line without a name.
    """
    metadata = {"help": help, "bare": bare, "off": off, "choices": choices, "metavar": metavar, "short": short}
    return dataclasses.field(default=default, metadata=metadata | {"positional": positional, "bounds": bounds})


@functools.cache
def load_plugins() -> None:
    """Import the modules that installed packages name as entry points: they register losses and systems."""
    for entry in importlib.metadata.entry_points(group="ragcun.plugins"):
        entry.load()


def choices_of(field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """Return the values that a field allows, those of plugins among them; none where it allows all."""
    choices = field.metadata["choices"]
    if isinstance(choices, str):
        load_plugins()
        choices = pkgutil.resolve_name(f"ragcun.{choices}")
    return typing.get_args(choices) or tuple(choices)


def check_one_of(options: Any, *names: str, needed: bool = True) -> None:
    """Refuse, by `InputError`, fields that exclude each other and, where one is needed, that all are missing."""
    given = [f"--{name}" for name in names if getattr(options, name)]
    if len(given) > 1:
        raise InputError(f"{given[0]} and {given[1]} contradict each other; give one of them")
    if needed and not given:
        raise InputError(f"{' or '.join(f'--{name}' for name in names)} is missing; give one of them")


def refuse(mistakes: Mapping[str, Any]) -> None:
    """Raise `InputError` with the first message whose condition holds."""
    for message, wrong in mistakes.items():
        if wrong:
            raise InputError(message)


@dataclasses.dataclass(frozen=True)
class Setting:
    """A field that is a flag, the type of its values, whether it may be None, and how many values a tuple has.

    `bare` is what it means without a value, and `off` when it is turned off; None where it has no such meaning.
    """

    field: dataclasses.Field[Any]
    kind: type
    optional: bool
    count: int | str | None
    bare: Any
    off: Any

    def convert(self, value: Any) -> Any:
        """Turn a flag's, YAML or Python value into the field's type, within its bounds, or raise ``ValueError``."""
        value = value.tolist() if hasattr(value, "tolist") else value  # of numpy or torch
        if self.count is not None:
            values = value if isinstance(value, (list, tuple)) else str(value).split()
            if self.bare is not None and (not values or str(values[0]).lower() == "true"):
                values = self.bare
            if self.count not in ("+", len(values)):
                raise ValueError(f"{self.count} values are needed")
            return tuple(map(self._convert_one, values))
        word = str(value).lower()
        if self.optional and (value is None or (word in ("none", "null") and word not in choices_of(self.field))):
            return None
        if value is None:
            raise ValueError("a value is needed")
        switched = {"true": self.bare, "false": self.off}.get(word)
        return self._convert_one(value if switched is None else switched)

    def _convert_one(self, value: Any) -> Any:
        kind = self.kind
        whole = not isinstance(value, float) or value.is_integer()
        try:
            if kind is bool:
                made: Any = BOOLEANS[str(value).lower()]
            elif isinstance(value, (bool, list, dict)) or (kind is int and not whole):
                raise TypeError
            else:
                made = kind(str(value) if kind is Path else value)
        except (KeyError, TypeError, ValueError) as error:
            raise ValueError(f"must be {KINDS[kind]}") from error
        # the default is not looked up, as choices may be in modules that take seconds to import
        if made != self.field.default and (choices := choices_of(self.field)) and made not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        for relation, bound in self.field.metadata["bounds"].items():
            if not BOUNDS[relation](made, bound):  # NaN is not within any
                raise ValueError(f"must be {relation.replace('_', ' ')} {bound}")
        return made


def settings_of(config: type[Any]) -> dict[str, Setting]:
    """Return the fields of a dataclass that are flags, by name."""
    hints, found = typing.get_type_hints(config), {}
    for field in (field for field in dataclasses.fields(config) if "help" in field.metadata):
        hint = hints[field.name]
        origin, kinds = typing.get_origin(hint), typing.get_args(hint)
        kind = kinds[0] if origin in (tuple, typing.Union, types.UnionType) else hint
        kind = str if typing.get_origin(kind) is typing.Literal else kind
        count = None if origin is not tuple else "+" if kinds[-1] is ... else len(kinds)
        switch = (True, False) if kind is bool else (field.metadata["bare"], field.metadata["off"])
        found[field.name] = Setting(field, kind, type(None) in kinds, count, *switch)
    return found


def convert_all(config: type[Any], values: Mapping[str, Any], source: str = "") -> dict[str, Any]:
    """Convert values into the types of their fields; `InputError` names one that is unknown, or not possible."""
    settings, converted, where = settings_of(config), {}, f"{source}: " if source else "--"
    for name, value in values.items():
        if name not in settings:
            raise InputError(f"{where}unknown setting {name!r:.60}; {did_you_mean(name, settings)}".rstrip("; "))
        try:
            converted[name] = settings[name].convert(value)
        except ValueError as error:
            raise InputError(f"{where}{name} = {value!r:.60} is not possible: {error}") from error
    return converted


def settle(config: Any) -> None:
    """Convert a configuration's fields in place (`InputError`: one is not possible)."""
    vars(config).update(convert_all(type(config), {name: getattr(config, name) for name in settings_of(type(config))}))


def from_mapping(config: type[Config], values: Mapping[str, Any], source: str = "") -> Config:
    """Build a configuration from flags or the file `source`; `InputError` names what is wrong or missing."""
    converted, where = convert_all(config, values, source), f"{source}: " if source else ""
    for name, setting in settings_of(config).items():
        if setting.field.default is dataclasses.MISSING and name not in converted:
            raise InputError(f"{where}--{name} is missing: {setting.field.metadata['help']}")
    try:
        return config(**converted)
    except ValueError as error:
        raise InputError(f"{where}{error}") from error


def find_config(name: str | Path) -> Path:
    """Return a file of settings: a path, or the name of a packaged one, with or without ``configs/`` and ``.yaml``."""
    packaged = CONFIGS / f"{str(name).removeprefix('configs/').removesuffix('.yaml')}.yaml"
    if packaged.is_file() and not Path(name).is_file():
        return packaged
    if Path(name).suffix or Path(name).exists():
        return Path(name)
    names = sorted(path.relative_to(CONFIGS).with_suffix("").as_posix() for path in CONFIGS.rglob("*.yaml"))
    raise InputError(f"{name} is neither a file of settings nor a packaged one: {', '.join(names)}")


def read_config(name: str | Path, extended: tuple[Path, ...] = ()) -> dict[str, Any]:
    """Read a file of settings (`find_config`) over those of the configuration that its ``extends`` names."""
    path = find_config(name)
    if path in extended:
        raise InputError(f"{path}: a configuration that extends itself, by {', '.join(map(str, extended))}")
    own = read_yaml(path)
    parent = own.pop("extends", None)
    return own if parent is None else read_config(str(parent), (*extended, path)) | own


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
        unknown = "nested too deeply" if isinstance(error, RecursionError) else "cannot be read"
        reason = getattr(error, "problem", None) or unknown
        raise InputError(f"{path}{where}: not valid YAML ({reason}); fix that line") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path}: expected names and values ('epochs: 3'), got {type(values).__name__}")
    return values
