"""What all scripts share: flags made from a dataclass, YAML under flags, and one sentence for wrong input."""

from __future__ import annotations

import argparse
import dataclasses
import difflib
import logging
import os
import sys
import types
import typing
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ragcun.errors import InputError
from ragcun.io import REMEDIES, read_text

Config = TypeVar("Config")
NOTHING: Mapping[str, Any] = types.MappingProxyType({})
FLAGS = "flags"
"""What a configuration comes from where no file is named."""
SEVERAL = "several values"
TRUE, FALSE = ("true", "yes", "on", "1"), ("false", "no", "off", "0")


def flag(default: Any, help: str, *, bare: Any = None, off: Any = None, choices: tuple[str, ...] = ()) -> Any:
    """Declare a dataclass field that is also a command-line flag.

    Args:
        default: the field's default.
        help: one line for ``--help``.
        bare: what the flag means when no value or ``True`` follows it; None demands a value.
        off: what ``False`` and the flag ``--no_…`` mean; None knows neither. A boolean's are True and False.
        choices: the values allowed.
    """
    if isinstance(default, bool):
        bare, off = True, False
    metadata = {"help": help, "bare": bare, "off": off, "choices": choices}
    return dataclasses.field(default=default, metadata=metadata)


class ArgumentParser(argparse.ArgumentParser):
    """A parser that takes flags only in full, and answers a wrong one with a sentence instead of a page of usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def add_flags(
    parser: argparse.ArgumentParser,
    config: type[Any],
    defaults: Mapping[str, Any] = NOTHING,
    aliases: Mapping[str, str] = NOTHING,
) -> None:
    """Add one flag for each field of a dataclass; booleans parse as ``--x``, ``--x False`` and ``--no_x``.

    Args:
        parser: what the flags are added to.
        config: the dataclass.
        defaults: defaults, by field, that are shown instead of the dataclass's own.
        aliases: further flags, each with the field that it sets.
    """
    fields = {field.name: field for field in dataclasses.fields(config)}
    for name, convert in converters(config).items():
        field, bare = fields[name], fields[name].metadata["bare"]
        default = defaults.get(name, field.default)
        shown = "" if default is dataclasses.MISSING else f" (default: {default})"
        options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "metavar": _metavar(field)}
        options |= {"help": field.metadata["help"].replace("%", "%%") + shown, "type": _argparse_type(convert)}
        if bare is not None:
            options |= {"nargs": "?", "const": bare}
        if convert.__name__ == SEVERAL:
            options |= {"nargs": "+", "type": str}
        also = [f"--{alias}" for alias, target in aliases.items() if target == name]
        parser.add_argument(f"--{name}", *also, **options)
        if field.metadata["off"] is not None:
            parser.add_argument(
                f"--no_{name}",
                dest=name,
                action="store_const",
                const=field.metadata["off"],
                default=argparse.SUPPRESS,
                help=argparse.SUPPRESS,
            )


def converters(config: type[Any]) -> dict[str, Callable[[Any], Any]]:
    """Return, by field, the function that turns a flag's or a YAML file's value into the field's type.

    It raises ``ValueError`` for a value that does not fit.
    """
    hints = typing.get_type_hints(config)
    return {field.name: _converter(field, hints[field.name]) for field in dataclasses.fields(config) if field.metadata}


def _converter(field: dataclasses.Field[Any], hint: Any) -> Callable[[Any], Any]:
    if typing.get_origin(hint) is tuple:
        return _list_converter(typing.get_args(hint)[0])
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    optional = type(None) in options
    kind = next(option for option in options if option is not type(None))
    choices, switch = field.metadata["choices"], {True: field.metadata["bare"], False: field.metadata["off"]}

    def convert(value: Any) -> Any:
        word = str(value).lower()
        if kind is not bool and word in ("true", "false") and switch[word == "true"] is not None:
            value = switch[word == "true"]
        if value is None or (optional and word in ("none", "null")):
            if optional:
                return None
            raise ValueError("a value is needed")
        converted = _to_bool(value) if kind is bool else _to_number_or_text(value, kind)
        if choices and converted not in choices:
            raise ValueError(f"must be one of {', '.join(choices)}")
        return converted

    convert.__name__ = kind.__name__
    return convert


def _list_converter(kind: type) -> Callable[[Any], Any]:
    """Return a converter of several values: a YAML list, or what stands between blanks."""

    def convert(value: Any) -> Any:
        values = value if isinstance(value, (list, tuple)) else str(value).split()
        return tuple(_to_number_or_text(one, kind) for one in values)

    convert.__name__ = SEVERAL
    return convert


def _argparse_type(convert: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Let argparse show why a value does not fit; it hides the reason of a ValueError."""

    def parse(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not possible: {error}") from error

    return parse


def from_mapping(config: type[Config], values: Mapping[str, Any], source: str) -> Config:
    """Build a configuration from named values.

    Raises:
        InputError: a name is unknown (with the nearest known one), a value does not fit, or a needed one is missing.
    """
    fields = {field.name: field for field in dataclasses.fields(config)}  # type: ignore[arg-type]
    convert = converters(config)
    converted = {}
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
            raise InputError(f"{source}: --{name} is missing: {field.metadata['help']}")
    try:
        return config(**converted)
    except InputError as error:
        if source == FLAGS:
            raise
        raise InputError(f"{source}: {error}") from error
    except ValueError as error:
        raise InputError(f"{source}: {error}") from error


def read_yaml(path: str | Path) -> dict[str, Any]:
    """Read a YAML file of settings.

    Raises:
        InputError: the file is missing, is not YAML (with the line), or does not hold names and values.
    """
    import yaml

    text = read_text(path)
    try:
        values = yaml.safe_load(text)
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        mark = getattr(error, "problem_mark", None)
        where = f", line {mark.line + 1}" if mark else ""
        deep = "nested too deeply" if isinstance(error, RecursionError) else None
        reason = deep or getattr(error, "problem", None) or "cannot be read"
        raise InputError(f"{path}{where}: not valid YAML ({reason}); mend that line") from error
    if values is None:
        return {}
    if not isinstance(values, dict) or not all(isinstance(name, str) for name in values):
        raise InputError(f"{path}: expected names and values ('epochs: 3'), got {type(values).__name__}")
    return values


def parse_config(
    config: type[Config],
    description: str,
    arguments: list[str] | None = None,
    defaults: Mapping[str, Any] = NOTHING,
    aliases: Mapping[str, str] = NOTHING,
) -> Config:
    """Parse flags, the YAML file of ``--config`` under them, and a script's own defaults under both.

    Args:
        config: the dataclass whose fields are the flags.
        description: what ``--help`` says first.
        arguments: the command line; None takes the process's own.
        defaults: defaults, by field, that replace the dataclass's own.
        aliases: further flags, each with the field that it sets.
    """
    parser = ArgumentParser(description=description)
    parser.add_argument("--config", metavar="FILE", help="YAML file of settings; flags override it")
    add_flags(parser, config, defaults, aliases)
    flags = vars(parser.parse_args(arguments))
    file = flags.pop("config")
    return from_mapping(config, {**defaults, **(read_yaml(file) if file else {}), **flags}, file or FLAGS)


def run_script(main: Callable[[], None]) -> None:
    """Run a script's main function: wrong input gives one sentence on stderr and exit code 2, never a traceback."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(logging.Formatter("%(message)s"))
    logging.basicConfig(level=logging.INFO, handlers=[handler])
    for name in ("httpx2", "sentence_transformers", "accelerate", "datasets", "faiss", "bm25s", "filelock"):
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    try:
        main()
    except (InputError, OSError) as error:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: error: {_sentence(error)}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"{Path(sys.argv[0]).name}: interrupted\n")
        sys.exit(130)


def _sentence(error: InputError | OSError) -> str:
    """Say in one line what went wrong; of the operating system's own errors also where, and what to do."""
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        text = f"{where}{error.strerror}; {REMEDIES.get(error.errno, 'check the path and its permissions')}"
    return " ".join(text.split()).encode(errors="backslashreplace").decode()


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
        return kind(value)
    except ValueError as error:
        raise ValueError(f"must be {'a whole number' if kind is int else 'a number'}") from error


def _metavar(field: dataclasses.Field[Any]) -> str:
    choices = field.metadata["choices"]
    return "{" + ",".join(choices) + "}" if choices else field.name.rsplit("_", 1)[-1].upper()
