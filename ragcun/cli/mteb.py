"""What ``scripts/evaluate_mteb.py`` does: its flags, the evaluation in mteb, and what is written."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragcun.cli.parser import ArgumentParser
from ragcun.errors import InputError

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from sentence_transformers import SentenceTransformer

FORMAT = 1


@dataclass(frozen=True)
class Entrant:
    """A model that is evaluated.

    Attributes:
        title: what the table calls it.
        name: what mteb calls it.
        model: the model.
    """

    title: str
    name: str
    model: SentenceTransformer


def parse_mteb(description: str | None) -> argparse.Namespace:
    """Parse the flags of `evaluate_in_mteb`."""
    parser = ArgumentParser(description=description)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model_path", metavar="DIR", help="checkpoint folder; its untouched base is evaluated too")
    model.add_argument("--model", metavar="NAME", help="hub name, folder, minilm, or contriever")
    tasks = parser.add_mutually_exclusive_group(required=True)
    tasks.add_argument("--tasks", nargs="+", metavar="TASK", help="retrieval tasks of mteb, which fetches their data")
    tasks.add_argument("--datasets", nargs="+", metavar="NAME", help="BEIR folders in --data_dir, or all")
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="folder of BEIR collections (default: data)")
    parser.add_argument("--split", help="judgments to use (default: test, or what a task of mteb has)")
    place = "folder to write: MODEL.json, MODEL.md and mteb's cache of results (default: %(default)s)"
    parser.add_argument("--output_dir", type=Path, default=Path("results/mteb"), metavar="DIR", help=place)
    parser.add_argument("--batch_size", type=int, default=32, help="texts encoded at a time (default: 32)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    return parser.parse_args()


def evaluate_in_mteb(flags: argparse.Namespace) -> str:
    """Evaluate a model beside its untouched base in mteb, write figures and table, and say what and where they are.

    Raises:
        InputError: mteb, a model, a task or a collection is missing or wrong.
    """
    from ragcun.retrieval.mteb import evaluate_task, require_mteb

    require_mteb()
    _check(flags)
    logging.getLogger("mteb").setLevel(logging.WARNING)
    entrants = _entrants(flags)
    figures: dict[str, dict[str, Any]] = {each.name: {} for each in entrants}
    for title, task in _tasks(flags):
        for each in entrants:
            scores = evaluate_task(each.model, task, flags.output_dir, flags.batch_size)
            figures[each.name][title] = {"task": task.metadata.name, **scores}
    return _write(flags, entrants, figures)


def _check(flags: argparse.Namespace) -> None:
    if flags.batch_size < 1:
        raise InputError(f"--batch_size must be at least 1, got {flags.batch_size}; give a larger number")
    if flags.output_dir.exists() and not flags.output_dir.is_dir():
        raise InputError(f"--output_dir {flags.output_dir} is a file; name a folder")
    spec = flags.model_path or flags.model
    if spec == "bm25" or spec.endswith(".json"):
        raise InputError(f"{spec} has no embeddings; name a checkpoint or an embedding model")


def _entrants(flags: argparse.Namespace) -> list[Entrant]:
    """Return the model as its folder holds it and its untouched base; of a published model that one alone."""
    from ragcun.embeddings.hub import load_sentence_transformer
    from ragcun.models.checkpoint import has_text_model, is_checkpoint
    from ragcun.retrieval.mteb import name_for_mteb, published_model
    from ragcun.retrieval.systems import EncodingOptions, open_system

    spec = flags.model_path or flags.model
    if is_checkpoint(spec) and not has_text_model(spec):
        raise InputError(f"checkpoint {spec} has no text model, and mteb gives texts; use evaluate_beir.py --vectors")
    system = open_system(spec, EncodingOptions(batch_size=flags.batch_size, device=flags.device))
    shown: Any = system.untouched_base or system.retriever
    base = shown.encoder.cache.base
    loaded = [(base.name, published_model(base))]
    if system.untouched_base is not None:
        loaded.append((spec, load_sentence_transformer(spec, spec, flags.device)))
    titles = [f"{base.name} (untouched)" if len(loaded) > 1 else spec, spec]
    return [
        Entrant(title, name_for_mteb(model, known), model)
        for title, (known, model) in zip(titles, loaded, strict=False)
    ]


def _tasks(flags: argparse.Namespace) -> Iterator[tuple[str, AbsTask]]:
    """Yield the title of each task and the task; collections are read when their turn comes."""
    from ragcun.data.beir_sets import find_sets
    from ragcun.retrieval.mteb import collection_task, find_task

    if flags.tasks:
        yield from [(name, find_task(name, flags.split)) for name in dict.fromkeys(flags.tasks)]
        return
    for folder in find_sets(flags.data_dir, flags.datasets, flags.split):
        yield folder.name, collection_task(folder.load())


def _write(flags: argparse.Namespace, entrants: list[Entrant], figures: dict[str, dict[str, Any]]) -> str:
    import importlib.metadata

    from ragcun.io import write_json, write_text
    from ragcun.training.run_dir import environment

    *bases, model = entrants
    manifest = environment(flags.device or "auto") | {"mteb": importlib.metadata.version("mteb")}
    results = {"format": FORMAT, **_part(model, figures)}
    results["untouched_base"] = _part(bases[0], figures) if bases else None
    output = flags.output_dir / f"{model.name.removeprefix('ragcun/')}.json"
    table = _table(entrants, figures)
    write_json(output, {**results, "manifest": manifest})
    write_text(output.with_suffix(".md"), table)
    return f"{table}\ntable: {output.with_suffix('.md')}, figures: {output}, mteb's own files: {flags.output_dir}"


def _part(entrant: Entrant, figures: dict[str, dict[str, Any]]) -> dict[str, Any]:
    distance = entrant.model.similarity_fn_name
    return {"model": entrant.title, "name": entrant.name, "distance": distance, "tasks": figures[entrant.name]}


def _table(entrants: list[Entrant], figures: dict[str, dict[str, Any]]) -> str:
    """Lay out the main score of every model on every task, and their mean where there are several."""
    from ragcun.reporting.tables import markdown_table

    tasks = figures[entrants[0].name]
    header = [
        "system",
        *(title if each["metric"] == "ndcg_at_10" else f"{title} ({each['metric']})" for title, each in tasks.items()),
    ]
    rows = []
    for entrant in entrants:
        values = [scores["main_score"] for scores in figures[entrant.name].values()]
        means = [sum(values) / len(values)] if len(values) > 1 else []
        rows.append([entrant.title, *(f"{value:.4f}" for value in [*values, *means])])
    return "NDCG@10 as mteb computes it\n\n" + markdown_table([*header, *(["mean"] if len(tasks) > 1 else [])], rows)
