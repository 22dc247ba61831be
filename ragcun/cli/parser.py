"""What all commands share: a parser made from a dataclass, YAML under flags, and one sentence for wrong input."""

from __future__ import annotations

import argparse
import dataclasses
import logging
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ragcun.errors import InputError
from ragcun.io import REMEDIES
from ragcun.options import FLAGS, choices_of, converters, flags_of, from_mapping, read_yaml
from ragcun.plugins import load_file

Config = TypeVar("Config")
NOTHING: Mapping[str, Any] = types.MappingProxyType({})
NOISY = ("httpx2", "sentence_transformers", "accelerate", "datasets", "faiss", "bm25s", "filelock")
METAVARS = {"int": "N", "float": "X", "bool": "{true,false}", "str": "NAME", "Path": "FILE"}
ENDINGS = {"_dir": "DIR", "_file": "FILE", "_data": "PATH", "_path": "DIR"}
logger = logging.getLogger(__name__)


class ArgumentParser(argparse.ArgumentParser):
    """A parser that takes flags only in full, and answers a wrong one with a sentence instead of a page of usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def parse_config(
    config: type[Config],
    description: str | None,
    arguments: Sequence[str] | None = None,
    defaults: Mapping[str, Any] = NOTHING,
    aliases: Mapping[str, str] = NOTHING,
    prog: str | None = None,
) -> Config:
    """Parse flags, the YAML file of ``--config`` under them, and a command's own defaults under both.

    `aliases` are further names of flags, each with the field that it sets.
    """
    parser = ArgumentParser(description=description, prog=prog, usage=_usage(config))
    if "config" not in flags_of(config):
        parser.add_argument("--config", metavar="FILE", help="YAML file of settings; flags override it")
    parser.add_argument("--plugins", nargs="+", metavar="FILE", help="Python files with own losses or systems")
    words = list(sys.argv[1:] if arguments is None else arguments)
    first = ArgumentParser(add_help=False)
    first.add_argument("--plugins", nargs="+", default=[])
    for plugin in first.parse_known_args(words)[0].plugins:  # before other flags, as they may add choices
        load_file(plugin)
    add_flags(parser, config, defaults, aliases)
    flags = vars(parser.parse_args(words))
    flags.pop("plugins")
    file = None if "config" in flags_of(config) else flags.pop("config")
    for alias, name in aliases.items():
        if any(word.split("=")[0] == f"--{alias}" for word in words):
            logger.info("--%s is now called --%s", alias, name)
    return from_mapping(config, {**defaults, **(read_yaml(file) if file else {}), **flags}, file or FLAGS)


def _usage(config: type[Any]) -> str:
    places = [field for field in flags_of(config).values() if field.metadata["positional"]]
    needed = {field.metadata["metavar"]: field.default is dataclasses.MISSING for field in places}
    shown = [f"{place} ..." if needed[place] else f"[{place} ...]" for place in needed]
    return " ".join(["%(prog)s", *shown, "[--FLAG [VALUE ...] ...]"])


def add_flags(
    parser: argparse.ArgumentParser,
    config: type[Any],
    defaults: Mapping[str, Any] = NOTHING,
    aliases: Mapping[str, str] = NOTHING,
) -> None:
    """Add a flag for each field of a dataclass, in a group for each ``title`` of the classes it is composed of."""
    convert, fields, groups = converters(config), flags_of(config), dict[str | None, Any]()
    for part in reversed(config.__mro__):
        own = [fields.pop(name) for name in vars(part).get("__annotations__", {}) if name in fields]
        title = vars(part).get("title")
        if own and title not in groups:
            groups[title] = parser.add_argument_group(title) if title else parser
        for field in own:
            group = groups[title]
            also = [alias for alias, target in aliases.items() if target == field.name]
            _add_flag(group, field, convert[field.name], defaults.get(field.name, field.default), also)


def _add_flag(
    group: Any, field: dataclasses.Field[Any], convert: Callable[[Any], Any], default: Any, aliases: list[str]
) -> None:
    name, metadata = field.name, field.metadata
    required = default is dataclasses.MISSING
    text = metadata["help"]
    if not (required or default is None or default == ()):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{text.split(' (default: ')[0]} (default: {shown})"
    options: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "metavar": _metavar(field, convert)}
    options |= {"help": text.replace("%", "%%"), "type": _argparse_type(convert)}
    if metadata["bare"] is not None:
        options |= {"nargs": "?", "const": metadata["bare"]}
    if convert.__name__.startswith("several "):
        options |= {"nargs": metadata["count"] or "+", "type": str}
    if metadata["positional"]:
        del options["dest"]
        group.add_argument(name, **options | {"nargs": "+" if required else "*"})
        return
    names = [f"--{one}" for one in (name, metadata["short"]) if one]
    group.add_argument(*names, **options)
    hidden: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    if aliases:
        group.add_argument(*(f"--{alias}" for alias in aliases), **(options | hidden))
    if metadata["off"] is not None:
        group.add_argument(f"--no_{name}", action="store_const", const=metadata["off"], **hidden)


def _metavar(field: dataclasses.Field[Any], convert: Callable[[Any], Any]) -> str:
    choices = choices_of(field)
    if choices or field.metadata["metavar"]:
        return field.metadata["metavar"] or "{" + ",".join(choices) + "}"
    for ending, metavar in ENDINGS.items():
        if field.name.endswith(ending):
            return metavar
    return METAVARS[convert.__name__.removeprefix("several ")]


def _argparse_type(convert: Callable[[Any], Any]) -> Callable[[str], Any]:
    """Let argparse show why a value does not fit; it hides the reason of a ValueError."""

    def parse(text: str) -> Any:
        try:
            return convert(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"{text!r} is not possible: {error}") from error

    return parse


def run_script(main: Callable[[], None], program: str | None = None) -> None:
    """Run a command: wrong input gives one sentence on stderr and exit code 2, never a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "true")
    program = program or Path(sys.argv[0]).name
    try:
        main()
    except (InputError, OSError) as error:
        sys.stderr.write(f"{program}: error: {_sentence(error)}\n")
        sys.exit(2)
    except KeyboardInterrupt:
        sys.stderr.write(f"{program}: interrupted\n")
        sys.exit(130)


def _sentence(error: InputError | OSError) -> str:
    """Say in one line what went wrong; of the operating system's own errors also where, and what to do."""
    text = str(error)
    if isinstance(error, OSError) and error.errno is not None and error.strerror:
        where = "" if error.filename is None else f"{error.filename}: "
        text = f"{where}{error.strerror}; {REMEDIES.get(error.errno, 'check the path and its permissions')}"
    return " ".join(text.split()).encode(errors="backslashreplace").decode()
