"""``ragcun mteb``: a model beside its untouched base, evaluated by mteb."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from ragcun.cli.flags import DEVICE_HELP, CollectionFlags, ModelFlags
from ragcun.errors import InputError
from ragcun.options import check_bounds, check_one_of, flag

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from sentence_transformers import SentenceTransformer

FORMAT = 1


@dataclass(kw_only=True)
class Options(CollectionFlags, ModelFlags):
    """Flags of ``ragcun mteb``."""

    title: ClassVar[str] = "evaluation"
    datasets: tuple[str, ...] = flag((), "folders in --data_dir, sets of BEIR, quick, or all")
    split: str | None = flag(None, "qrels to use (default: test, or what a task of mteb has)")
    tasks: tuple[str, ...] = flag((), "instead of --datasets: retrieval tasks of mteb, which downloads their data")
    output_dir: Path = flag(Path("results/mteb"), "folder to write: MODEL.json, MODEL.md and mteb's cache of results")
    batch_size: int = flag(32, "batch size of the encoder", at_least=1)
    device: str | None = flag(None, DEVICE_HELP)

    def __post_init__(self) -> None:
        check_bounds(self)
        check_one_of(self, "model_path", "model")
        check_one_of(self, "tasks", "datasets")
        self.require_embeddings()
        if self.output_dir.is_file():
            raise InputError(f"--output_dir {self.output_dir} is a file; name a folder")


def run(options: Options) -> str:
    """Evaluate a model beside its untouched base in mteb, write figures and table, and say what and where they are.

    Raises:
        InputError: mteb, a model, a task or a collection is missing or wrong.
    """
    from ragcun.retrieval.mteb import evaluate_task, require_mteb

    require_mteb()
    logging.getLogger("mteb").setLevel(logging.WARNING)
    models = _models(options)
    scores: dict[str, dict[str, Any]] = {title: {} for title in models}
    for name, task in _tasks(options):
        for title, model in models.items():
            scores[title][name] = {
                "task": task.metadata.name,
                **evaluate_task(model, task, options.output_dir, options.batch_size),
            }
    return _write(options, models, scores)


def _models(options: Options) -> dict[str, SentenceTransformer]:
    """Return by title, named for mteb, the untouched base of a checkpoint and the checkpoint; or the one model."""
    from ragcun.embeddings.hub import load_sentence_transformer
    from ragcun.models.checkpoint import has_text_model, is_checkpoint
    from ragcun.retrieval.mteb import name_for_mteb, untouched_model
    from ragcun.retrieval.systems import EncodingOptions, open_system

    spec = options.spec
    if is_checkpoint(spec) and not has_text_model(spec):
        raise InputError(f"checkpoint {spec} has no text model, and mteb gives texts; use evaluate_beir.py --vectors")
    system = open_system(spec, EncodingOptions(batch_size=options.batch_size, device=options.device))
    before: Any = system.untouched_base or system.retriever
    base = before.encoder.cache.base
    title = spec if system.untouched_base is None else f"{base.name} (untouched)"
    models = {title: untouched_model(base)}
    name_for_mteb(models[title], base.name)
    if system.untouched_base is not None:
        models[spec] = load_sentence_transformer(spec, spec, options.device)
        name_for_mteb(models[spec], spec)
    return models


def _tasks(options: Options) -> Iterator[tuple[str, AbsTask]]:
    """Yield the title of each task and the task; collections are read when their turn comes."""
    from ragcun.retrieval.mteb import collection_task, find_task

    if options.tasks:
        yield from [(name, find_task(name, options.split)) for name in dict.fromkeys(options.tasks)]
        return
    for folder in options.collections():
        yield folder.name, collection_task(folder.load())


def _write(options: Options, models: dict[str, SentenceTransformer], scores: dict[str, dict[str, Any]]) -> str:
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
    manifest = environment(options.device or "auto") | {"mteb": importlib.metadata.version("mteb")}
    output = options.output_dir / f"{part['name'].removeprefix('ragcun/')}.json"
    table = _table(scores)
    write_json(output, {"format": FORMAT, **part, "untouched_base": base, "manifest": manifest})
    write_text(output.with_suffix(".md"), table)
    return f"{table}\ntable: {output.with_suffix('.md')}, figures: {output}, mteb's own files: {options.output_dir}"


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
