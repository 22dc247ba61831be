"""The command `ragcun`: names of commands, of which each imports its own module alone."""

from __future__ import annotations

import inspect
import json
import pkgutil
import sys
import typing
from collections.abc import Callable, Mapping, Sequence
from dataclasses import make_dataclass
from pathlib import Path
from typing import Any, NoReturn

import ragcun
from ragcun.cli.parser import NOTHING, parse_config, run_script
from ragcun.errors import did_you_mean
from ragcun.io import as_json

COMMANDS = {
    "prepare": ("prepare training data: BEIR folders, held-out queries, pairs, hard negatives", "prepare:run"),
    "download msmarco": ("download MS MARCO as pairs with hard negatives", "download:msmarco"),
    "download wikipedia": ("download Wikipedia as passages", "download:wikipedia"),
    "download beir": ("download sets of BEIR", "download:beir"),
    "train": ("train a head or the whole model on pairs, or on a corpus without labels", "train:run"),
    "calibrate": ("fit a linear head to a corpus in closed form, without training", "train:calibrate"),
    "export": ("write the queries' or the documents' side of a checkpoint as a plain model folder", "train:export"),
    "evaluate": ("evaluate a model on BEIR collections, beside its untouched base and baselines", "evaluate:run"),
    "mteb": ("evaluate a model beside its untouched base with mteb", "evaluate:run_mteb"),
    "memorize": ("move document vectors towards their training queries, for an index", "labels:memorize"),
    "overlap": ("measure TREC runs on documents seen and unseen in training", "labels:overlap"),
    "isotropy": ("measure isotropy of a model beside its untouched base, or of a file of vectors", "isotropy:run"),
    "search": ("search a BEIR collection in shards, here or on a Ray cluster; write a TREC run", "search:run"),
    "sweep": ("try the settings of a sweep's YAML file, choose by dev data, and report", "train:sweep"),
    "report": ("write one self-contained HTML page about training runs", "tables:report"),
    "tables comparison": ("compare results of evaluate in one table", "tables:comparison"),
    "tables paper": ("write the tables of a paper: LaTeX, Markdown, CSV", "tables:paper"),
    "tables sizes": ("plot NDCG@10 against the bytes of a vector", "tables:sizes"),
    "tables tradeoff": ("plot NDCG@10 against a measure of isotropy", "tables:tradeoff"),
    "push": ("upload a checkpoint to the model hub", "doctor:push"),
    "doctor": ("show versions, device, cache, and whether the model hub is used", "doctor:doctor"),
    "cache size": ("show the size of the cache of vectors, by base model", "doctor:size"),
    "cache clear": ("delete the cache of vectors", "doctor:clear"),
    "completion": ("print a script by which a shell completes commands and flags", "doctor:completion"),
}
"""What each command does, and the function in `ragcun.cli` that does it.

Its flags are the fields of `options`, which it takes, or else its parameters. It returns what is printed, or that and
the figures that are printed instead with ``--json``.
"""


def load(name: str) -> tuple[Callable[[Any], Any], type[Any]]:
    """Import a command; return its function, and the dataclass of flags that this takes, or its parameters as one."""
    function = pkgutil.resolve_name(f"ragcun.cli.{COMMANDS[name][1]}")
    kinds = typing.get_type_hints(function)
    if "options" in kinds:
        return function, kinds["options"]
    flags = [(each.name, kinds[each.name], each.default) for each in inspect.signature(function).parameters.values()]
    return lambda options: function(**vars(options)), make_dataclass(function.__name__, flags, kw_only=True)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run ``ragcun COMMAND FLAGS``."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if words[:1] == ["--version"]:
        sys.stdout.write(f"ragcun {ragcun.__version__}\n")
        return
    name = next((name for name in (" ".join(words[:1]), " ".join(words[:2])) if name in COMMANDS), None)
    if name is None:
        _no_command(words)
    _run(name, words[len(name.split()) :], f"ragcun {name}")


def script(name: str, defaults: Mapping[str, Any] = NOTHING, aliases: Mapping[str, str] = NOTHING) -> None:
    """Run a command as a script under another name, with defaults and other names of flags (`aliases`) of its own."""
    known = {f"--{alias}": f"--{flag}" for alias, flag in aliases.items()}
    words = [word.partition("=") for word in sys.argv[1:]]
    for flag in known.keys() & {flag for flag, *_ in words}:
        sys.stderr.write(f"{flag} is now called {known[flag]}\n")
    _run(name, ["".join((known.get(flag, flag), *value)) for flag, *value in words], Path(sys.argv[0]).name, defaults)


def _run(name: str, arguments: Sequence[str], program: str, defaults: Mapping[str, Any] = NOTHING) -> None:
    """Parse a command's flags, run it, and print what it returns."""
    summary = COMMANDS[name][0]

    def run() -> None:
        function, config = load(name)
        options = parse_config(config, f"{summary[0].upper()}{summary[1:]}.", arguments, program, defaults)
        made = function(options)
        text, figures = made if isinstance(made, tuple) else (made, {"message": made})
        if "--json" in arguments:
            text = json.dumps(as_json(figures))
        if text:
            sys.stdout.write(text if text.endswith("\n") else f"{text}\n")

    run_script(run, program)


def _no_command(words: Sequence[str]) -> NoReturn:
    """Show the commands, or say which one comes near to what was given."""
    group = [name for name in COMMANDS if words and name.split()[0] == words[0]]
    rest = words[1:] if group else words
    if rest[:1] and rest[0] not in ("-h", "--help"):
        given = " ".join(words[: 2 if group else 1])
        meant = did_you_mean(given, [*COMMANDS, *(name.split()[0] for name in COMMANDS)])
        sys.stderr.write(f"ragcun: error: unknown command {given!r:.60}; {meant}see ragcun --help\n")
        sys.exit(2)
    lines = "".join(f"  {name:<20} {COMMANDS[name][0]}\n" for name in group or COMMANDS)
    overview = f"usage: ragcun COMMAND [--FLAG [VALUE ...] ...]\n\n{lines}\nragcun COMMAND --help shows the flags.\n"
    (sys.stdout if rest else sys.stderr).write(overview)
    sys.exit(0 if rest else 2)


if __name__ == "__main__":
    main()
