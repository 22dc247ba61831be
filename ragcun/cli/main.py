"""The command `ragcun`: names of commands, of which each imports its own module alone."""

from __future__ import annotations

import difflib
import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

import ragcun
from ragcun.cli.parser import NOTHING, parse_config, run_script


class Command(NamedTuple):
    """A command: what it does, and the module of `ragcun.cli` with its options and the function that takes them."""

    summary: str
    module: str
    options: str = "Options"
    run: str = "run"


COMMANDS = {
    "prepare": Command("prepare training data: BEIR folders, held-out queries, pairs, hard negatives", "prepare"),
    "download msmarco": Command(
        "download MS MARCO as pairs with hard negatives", "download", "MsmarcoOptions", "msmarco"
    ),
    "download wikipedia": Command("download Wikipedia as passages", "download", "WikiOptions", "wikipedia"),
    "download beir": Command("download sets of BEIR", "download", "BeirOptions", "beir"),
    "train": Command("train a head or the whole model on pairs, or on a corpus without labels", "train", "TrainConfig"),
    "calibrate": Command("fit a linear head to a corpus in closed form, without training", "calibrate"),
    "evaluate": Command("evaluate a model on BEIR collections, beside its untouched base and baselines", "evaluate"),
    "mteb": Command("evaluate a model beside its untouched base with mteb", "evaluate", "MtebOptions", "run_mteb"),
    "memorize": Command(
        "move document vectors towards their training queries; for an index", "labels", "MemorizeOptions", "memorize"
    ),
    "overlap": Command(
        "measure TREC runs on documents seen and unseen in training", "labels", "OverlapOptions", "overlap"
    ),
    "isotropy": Command("measure isotropy of a model beside its untouched base, or of a file of vectors", "isotropy"),
    "search": Command("search a BEIR collection in shards, here or on a Ray cluster; write a TREC run", "search"),
    "sweep": Command("try the settings of a sweep's YAML file, choose by dev data, and report", "sweep"),
    "report": Command("write one self-contained HTML page about training runs", "tables", "ReportOptions", "report"),
    "tables comparison": Command(
        "compare results of evaluate in one table", "tables", "ComparisonOptions", "comparison"
    ),
    "tables paper": Command("write the tables of a paper: LaTeX, Markdown, CSV", "tables", "PaperOptions", "paper"),
    "tables sizes": Command("plot NDCG@10 against the bytes of a vector", "tables", "SizesOptions", "sizes"),
    "tables tradeoff": Command("plot NDCG@10 against a measure of isotropy", "tables", "TradeoffOptions", "tradeoff"),
}


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
    """Run a command as a script under another name, with defaults and names of flags of its own."""
    _run(name, sys.argv[1:], Path(sys.argv[0]).name, defaults, aliases)


def _run(name: str, arguments: Sequence[str], program: str, *own: Mapping[str, Any]) -> None:
    """Parse a command's flags, run it, and print what it returns."""
    command = COMMANDS[name]
    description = f"{command.summary[0].upper()}{command.summary[1:]}."

    def run() -> None:
        module = importlib.import_module(f"ragcun.cli.{command.module}")
        options = parse_config(getattr(module, command.options), description, arguments, program, *own)
        if text := getattr(module, command.run)(options):
            sys.stdout.write(text if text.endswith("\n") else f"{text}\n")

    run_script(run, program)


def _no_command(words: Sequence[str]) -> NoReturn:
    """Show the commands, or say which one comes near to what was given."""
    group = [name for name in COMMANDS if words and name.split()[0] == words[0]]
    rest = words[1:] if group else words
    if rest[:1] and rest[0] not in ("-h", "--help"):
        given = " ".join(words[: 2 if group else 1])
        near = difflib.get_close_matches(given, [*COMMANDS, *(name.split()[0] for name in COMMANDS)], n=1)
        meant = f"did you mean {near[0]!r}? " if near else ""
        sys.stderr.write(f"ragcun: error: unknown command {given!r:.60}; {meant}see ragcun --help\n")
        sys.exit(2)
    lines = "".join(f"  {name:<20} {COMMANDS[name].summary}\n" for name in group or COMMANDS)
    overview = f"usage: ragcun COMMAND [--FLAG [VALUE ...] ...]\n\n{lines}\nragcun COMMAND --help shows the flags.\n"
    (sys.stdout if rest else sys.stderr).write(overview)
    sys.exit(0 if rest else 2)


if __name__ == "__main__":
    main()
