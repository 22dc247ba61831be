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
from ragcun.options import Setting, choices_of, convert_all, from_mapping, read_config, settings_of

Config = TypeVar("Config")
NOTHING: Mapping[str, Any] = types.MappingProxyType({})
COMMON = {"quiet": "show warnings and the result, no progress", "json": "print the result as one JSON object"}
"""Switches of every command."""
NOISY = ("httpx", "httpx2", "sentence_transformers", "accelerate", "datasets", "faiss", "filelock")
METAVARS = {int: "N", float: "X", bool: "{true,false}", str: "NAME", Path: "FILE"}
ENDINGS = {"_dir": "DIR", "_file": "FILE", "_data": "PATH", "_path": "DIR"}


class ArgumentParser(argparse.ArgumentParser):
    """A parser that answers a wrong flag with a sentence instead of a page of usage."""

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit with code 2."""
        self.exit(2, f"{self.prog}: error: {message}; see {self.prog} --help\n")


def parse_config(
    config: type[Config],
    description: str | None,
    words: Sequence[str],
    program: str | None = None,
    defaults: Mapping[str, Any] = NOTHING,
) -> Config:
    """Parse flags, the YAML file of ``--config`` under them, and a command's own defaults under both."""
    common = ArgumentParser(add_help=False, prog=program, allow_abbrev=False)
    common.add_argument("--plugins", nargs="+", metavar="FILE", help="Python files that register losses or systems")
    for name, text in COMMON.items():
        common.add_argument(f"--{name}", action="store_true", help=text)
    known = common.parse_known_args(words)[0]
    if known.quiet:
        logging.getLogger().setLevel(logging.WARNING)
        os.environ["TQDM_DISABLE"] = "1"
    for plugin in known.plugins or ():  # before other flags, as they may add choices
        _import(plugin)
    settings = settings_of(config)
    places = [one.field for one in settings.values() if one.field.metadata["positional"]]
    shown = "".join("{} ... " if one.default is MISSING else "[{} ...] " for one in places)
    usage = f"%(prog)s {shown.format(*(one.metadata['metavar'] for one in places))}[--FLAG [VALUE ...] ...]"
    parser = ArgumentParser(program, usage, description, parents=[common], allow_abbrev=False)
    reads_file = "config" not in settings
    if reads_file:
        parser.add_argument("--config", metavar="FILE", help="YAML settings, or a packaged name; flags override them")
    _add_flags(parser, config, defaults)
    flags = {name: value for name, value in vars(parser.parse_args(words)).items() if name not in vars(known)}
    file = flags.pop("config") if reads_file else None
    given = convert_all(config, flags)  # first, so that what is wrong in them is not said of the file
    made = from_mapping(config, {**defaults, **(read_config(file) if file else {}), **given}, file or "")
    if Path(output := getattr(made, "output_dir", None) or "").is_file():
        raise InputError(f"--output_dir {output} is a file; name a folder")
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


def _add_flags(parser: ArgumentParser, config: type[Any], defaults: Mapping[str, Any]) -> None:
    """Add all flags, in a group for each ``title`` of the classes that the dataclass is composed of."""
    settings = settings_of(config)
    groups: dict[str, Any] = {"": parser}
    for part in reversed(config.__mro__):
        title = getattr(part, "title", "")
        for name in [name for name in vars(part).get("__annotations__", {}) if name in settings]:
            groups[title] = groups.get(title) or parser.add_argument_group(title)
            setting = settings.pop(name)
            _add_flag(groups[title], setting, defaults.get(name, setting.field.default))


def _add_flag(group: Any, setting: Setting, default: Any) -> None:
    name, metadata = setting.field.name, setting.field.metadata
    text = metadata["help"]
    if default not in (MISSING, None, ()):
        shown = " ".join(map(str, default)) if isinstance(default, tuple) else default
        text = f"{text.split(' (default: ')[0]} (default: {shown})"
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "metavar": _metavar(setting)}
    options["help"] = text.replace("%", "%%")
    if setting.count is not None:
        options["nargs"] = setting.count if setting.bare is None else "*"
    elif setting.bare is not None:
        options |= {"nargs": "?", "const": setting.bare}
    if metadata["positional"]:
        group.add_argument(name, **options | {"nargs": "+" if default is MISSING else "*"})
        return
    group.add_argument(*(f"--{one}" for one in (name, metadata["short"]) if one), **options)
    if setting.off is not None:
        hidden: dict[str, Any] = {"default": argparse.SUPPRESS, "help": argparse.SUPPRESS}
        group.add_argument(f"--no_{name}", dest=name, action="store_const", const=setting.off, **hidden)


def _metavar(setting: Setting) -> str:
    choices, given = choices_of(setting.field), setting.field.metadata["metavar"]
    if choices or given:
        return given or "{" + ",".join(choices) + "}"
    by_name = (metavar for ending, metavar in ENDINGS.items() if setting.field.name.endswith(ending))
    return next(by_name, METAVARS[setting.kind])


def run_script(main: Callable[[], None], program: str | None = None) -> None:
    """Run a command: wrong input gives one sentence on stderr and exit code 2, never a traceback."""
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for name in NOISY:
        logging.getLogger(name).setLevel(logging.WARNING)
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.stderr.isatty():
        os.environ.setdefault("TQDM_DISABLE", "1")  # tqdm reads it when it is imported
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
