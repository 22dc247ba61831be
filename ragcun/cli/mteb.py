"""What ``scripts/evaluate_mteb.py`` does: its flags, the evaluation in mteb, and what is written."""

from __future__ import annotations

import argparse
import logging
from collections.abc import Iterator
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any

from ragcun.cli.parser import ArgumentParser
from ragcun.errors import InputError

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from sentence_transformers import SentenceTransformer

FORMAT = 1


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
    models = _models(flags)
    scores: dict[str, dict[str, Any]] = {title: {} for title in models}
    for name, task in _tasks(flags):
        for title, model in models.items():
            scores[title][name] = {
                "task": task.metadata.name,
                **evaluate_task(model, task, flags.output_dir, flags.batch_size),
            }
    return _write(flags, models, scores)


def _check(flags: argparse.Namespace) -> None:
    if flags.batch_size < 1:
        raise InputError(f"--batch_size must be at least 1, got {flags.batch_size}; give a larger number")
    if flags.output_dir.exists() and not flags.output_dir.is_dir():
        raise InputError(f"--output_dir {flags.output_dir} is a file; name a folder")
    spec = flags.model_path or flags.model
    if spec == "bm25" or spec.endswith(".json"):
        raise InputError(f"{spec} has no embeddings; name a checkpoint or an embedding model")


def _models(flags: argparse.Namespace) -> dict[str, SentenceTransformer]:
    """Return by title, named for mteb, the untouched base of a checkpoint and the checkpoint; or the one model."""
    from ragcun.embeddings.hub import load_sentence_transformer
    from ragcun.models.checkpoint import has_text_model, is_checkpoint
    from ragcun.retrieval.mteb import name_for_mteb, untouched_model
    from ragcun.retrieval.systems import EncodingOptions, open_system

    spec = flags.model_path or flags.model
    if is_checkpoint(spec) and not has_text_model(spec):
        raise InputError(f"checkpoint {spec} has no text model, and mteb gives texts; use evaluate_beir.py --vectors")
    system = open_system(spec, EncodingOptions(batch_size=flags.batch_size, device=flags.device))
    before: Any = system.untouched_base or system.retriever
    base = before.encoder.cache.base
    title = spec if system.untouched_base is None else f"{base.name} (untouched)"
    models = {title: untouched_model(base)}
    name_for_mteb(models[title], base.name)
    if system.untouched_base is not None:
        models[spec] = load_sentence_transformer(spec, spec, flags.device)
        name_for_mteb(models[spec], spec)
    return models


def _tasks(flags: argparse.Namespace) -> Iterator[tuple[str, AbsTask]]:
    """Yield the title of each task and the task; collections are read when their turn comes."""
    from ragcun.data.beir_sets import find_sets
    from ragcun.retrieval.mteb import collection_task, find_task

    if flags.tasks:
        yield from [(name, find_task(name, flags.split)) for name in dict.fromkeys(flags.tasks)]
        return
    for folder in find_sets(flags.data_dir, flags.datasets, flags.split):
        yield folder.name, collection_task(folder.load())


def _write(flags: argparse.Namespace, models: dict[str, SentenceTransformer], scores: dict[str, dict[str, Any]]) -> str:
    """Write scores and table, and return the table and where they are."""
    import importlib.metadata

    from ragcun.io import write_json, write_text
    from ragcun.training.run_dir import environment

    parts: list[dict[str, Any]] = [
        {
            "model": title,
            "name": model.model_card_data.model_name,
            "distance": model.similarity_fn_name,
            "tasks": scores[title],
        }
        for title, model in models.items()
    ]
    base, part = parts[0] if len(parts) > 1 else None, parts[-1]
    manifest = environment(flags.device or "auto") | {"mteb": importlib.metadata.version("mteb")}
    output = flags.output_dir / f"{part['name'].removeprefix('ragcun/')}.json"
    table = _table(scores)
    write_json(output, {"format": FORMAT, **part, "untouched_base": base, "manifest": manifest})
    write_text(output.with_suffix(".md"), table)
    return f"{table}\ntable: {output.with_suffix('.md')}, figures: {output}, mteb's own files: {flags.output_dir}"


def _table(scores: dict[str, dict[str, Any]]) -> str:
    """Lay out the main score of every model on every task, and their mean where there are several."""
    from ragcun.reporting.tables import markdown_table

    tasks = next(iter(scores.values()))
    metrics = [name if task["metric"] == "ndcg_at_10" else f"{name} ({task['metric']})" for name, task in tasks.items()]
    rows = []
    for title, by_task in scores.items():
        values = [task["main_score"] for task in by_task.values()]
        rows.append([title, *(f"{value:.4f}" for value in [*values, *([fmean(values)] if len(values) > 1 else [])])])
    header = ["system", *metrics, *(["mean"] if len(tasks) > 1 else [])]
    return "NDCG@10 as mteb computes it\n\n" + markdown_table(header, rows)
