"""What all commands share: a parser made from a dataclass, YAML under flags, and one sentence for wrong input."""

from __future__ import annotations

import argparse
import importlib.util
import logging
import os
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from dataclasses import MISSING
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from ragcun.errors import InputError
from ragcun.io import REMEDIES
from ragcun.options import FLAGS, Setting, choices_of, flags_of, from_mapping, read_config, settings_of

Config = TypeVar("Config")
NOTHING: Mapping[str, Any] = types.MappingProxyType({})
NOISY = ("httpx2", "sentence_transformers", "accelerate", "datasets", "faiss", "bm25s", "filelock")
METAVARS = {int: "N", float: "X", bool: "{true,false}", str: "NAME", Path: "FILE"}
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
    program: str | None = None,
    defaults: Mapping[str, Any] = NOTHING,
    aliases: Mapping[str, str] = NOTHING,
) -> Config:
    """Parse flags, the YAML file of ``--config`` under them, and a command's own defaults under both.

    `aliases` are further names of flags, each with the field that it sets.
    """
    words = list(sys.argv[1:] if arguments is None else arguments)
    plugins = ArgumentParser(add_help=False, prog=program)
    plugins.add_argument("--plugins", nargs="+", metavar="FILE", help="Python files with own losses or systems")
    for plugin in plugins.parse_known_args(words)[0].plugins or ():  # before other flags, as they may add choices
        _import(plugin)
    settings = settings_of(config)
    places = [field for field in flags_of(config).values() if field.metadata["positional"]]
    shown = "".join("{} ... " if one.default is MISSING else "[{} ...] " for one in places)
    usage = f"%(prog)s {shown.format(*(one.metadata['metavar'] for one in places))}[--FLAG [VALUE ...] ...]"
    parser = ArgumentParser(description=description, prog=program, usage=usage, parents=[plugins])
    if "config" not in settings:
        parser.add_argument(
            "--config", metavar="FILE", help="YAML file of settings, or a packaged one's name; flags override it"
        )
    groups: dict[str, Any] = {"": parser}
    for part in reversed(config.__mro__):  # a group for each ``title`` of the classes that it is composed of
        own = [settings[name] for name in vars(part).get("__annotations__", {}) if name in settings]
        for setting in own:
            title = vars(part).get("title", "")
            groups[title] = groups.get(title) or parser.add_argument_group(title)
            name = setting.field.name
            also = [alias for alias, target in aliases.items() if target == name]
            _add_flag(groups[title], settings.pop(name), defaults.get(name, setting.field.default), also)
    flags = vars(parser.parse_args(words))
    flags.pop("plugins")
    file = None if "config" in flags_of(config) else flags.pop("config")
    for alias, name in aliases.items():
        if any(word.split("=")[0] == f"--{alias}" for word in words):
            logger.info("--%s is now called --%s", alias, name)
    made = from_mapping(config, {**defaults, **(read_config(file) if file else {}), **flags}, file or FLAGS)
    if hasattr(config, "given"):
        vars(made)["given"] = frozenset(flags) | ({"config"} if file or defaults else set())
    return made


def _import(path: str) -> None:
    """Import a user's file, which registers losses or systems, unless it was imported before."""
    file = Path(path).resolve()
    name = f"ragcun_plugin_{file.stem}"
    if getattr(sys.modules.get(name), "__file__", None) == str(file):
        return
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None or not file.is_file():
        raise InputError(f"{path}: no such Python file; --plugins takes files that register losses or systems")
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)


def _add_flag(group: Any, setting: Setting, default: Any, aliases: Sequence[str]) -> None:
    name, metadata, (bare, off) = setting.field.name, setting.field.metadata, setting.switch
    text = metadata["help"]
    if not (default is MISSING or default is None or default == ()):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{text.split(' (default: ')[0]} (default: {shown})"
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "metavar": _metavar(setting)}
    options |= {"help": text.replace("%", "%%"), "type": _argparse_type(setting.convert)}
    if setting.count is not None:
        options |= {"nargs": setting.count if bare is None else "*", "type": str}
    elif bare is not None:
        options |= {"nargs": "?", "const": bare}
    if metadata["positional"]:
        group.add_argument(name, **options | {"nargs": "+" if default is MISSING else "*"})
        return
    options["dest"] = name
    group.add_argument(*(f"--{one}" for one in (name, metadata["short"]) if one), **options)
    hidden: dict[str, Any] = {"dest": name, "default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
    if aliases:
        group.add_argument(*(f"--{alias}" for alias in aliases), **(options | hidden))
    if off is not None:
        group.add_argument(f"--no_{name}", action="store_const", const=off, **hidden)


def _metavar(setting: Setting) -> str:
    choices, given = choices_of(setting.field), setting.field.metadata["metavar"]
    if choices or given:
        return given or "{" + ",".join(choices) + "}"
    by_name = [metavar for ending, metavar in ENDINGS.items() if setting.field.name.endswith(ending)]
    return by_name[0] if by_name else METAVARS[setting.kind]


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
