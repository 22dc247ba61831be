"""``ragcun evaluate`` and ``ragcun mteb``: a model beside its baselines on BEIR collections or on tasks of mteb."""

from __future__ import annotations

import logging
import shlex
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING, Any, ClassVar

from ragcun.cli.flags import EncodingFlags, HybridFlags, ModelFlags, RankedFlags
from ragcun.config import DEVICE_HELP, Distance, Precision
from ragcun.errors import InputError, require_package
from ragcun.options import check_one_of, flag

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from sentence_transformers import SentenceTransformer

    from ragcun.data.beir_sets import CollectionFolder
    from ragcun.results import Results
    from ragcun.retrieval.memory import Labels
    from ragcun.retrieval.systems import Retriever, System

MTEB_FORMAT = 1
SIMPLE = "simple"


@dataclass(kw_only=True)
class Options(EncodingFlags, HybridFlags, RankedFlags, ModelFlags):
    """Flags of ``ragcun evaluate``."""

    title: ClassVar[str] = "evaluation"
    output_file: str = flag("results/beir.json", "results, as JSON; a report and run files beside it", short="output")
    resume: bool = flag(False, "keep the sets already in --output_file and evaluate the others")
    baseline: tuple[str, ...] = flag((), "compare with bm25, models, results files, runs (.trec); simple: see docs")
    memory: bool = flag(False, "also evaluate model and base with documents moved towards training queries")
    distance: Distance | None = flag(None, "distance of the model (default: its own)", choices=Distance)
    base_model: str | None = flag(None, "fail unless the checkpoint has this base")
    use_predictor: bool | None = flag(None, "embed queries with the checkpoint's predictor (default: as trained)")
    vectors: str | None = flag(None, "vectors of the sets (or DIR/NAME), for a checkpoint without texts", metavar="DIR")
    precision: Precision = flag("float32", "precision of document vectors; queries stay float32", choices=Precision)
    truncate_dim: int | None = flag(None, "keep the first N dimensions of the vectors (default: all)", at_least=1)
    seed: int = flag(0, "seed of the randomisation test", at_least=0)
    update_card: bool = flag(False, "write the table into the checkpoint's model card")

    def __post_init__(self) -> None:
        check_one_of(self, "model_path", "model")
        self.require_hybrid()
        if SIMPLE in self.baseline or self.memory:
            self.require_embeddings()
        if self.vectors and self.model_path is None:
            raise InputError("--vectors needs a checkpoint in --model_path; leave it out")


def run(options: Options) -> tuple[str, dict[str, Any]]:
    """Evaluate a model beside its baselines, write results and report, and return the table and where they are."""
    from ragcun.embeddings.hub import BEST_MODEL
    from ragcun.environment import environment
    from ragcun.io import write_text
    from ragcun.reporting.tables import results_table
    from ragcun.retrieval.benchmark import run_benchmark
    from ragcun.retrieval.runs import runs_folder

    folders = options.collections()
    model, baselines, labels = _open(options, folders)
    output = Path(options.output_file)
    page = output.with_suffix(".md")
    used = {name: getattr(options, name) for name in ("data_dir", "base_dtype", "base_backend", "use_predictor")}
    manifest = environment(options.device or "auto") | used
    how: dict[str, Any] = {"seed": options.seed, "resume": options.resume}
    how["remembered"] = labels.seen if options.memory or SIMPLE in options.baseline else None
    how["report"] = lambda found: write_text(page, results_table(found) + _choices(found))
    results = run_benchmark(model, baselines, folders, output, manifest, **how)
    table = results_table(results)
    if options.update_card:
        from ragcun.training.summary import write_scores

        write_scores(model.retriever.name, table)
    text = f"{table}{_choices(results)}\nreport: {page}, figures: {output}, run files: {runs_folder(output)}"
    trained = Path(model.retriever.name)
    if trained.name == BEST_MODEL:
        text += f"\nnext: {shlex.join(['ragcun', 'report', str(trained.parent), '--results', str(output)])}"
    return text, results.to_dict()


def _open(options: Options, folders: Sequence[CollectionFolder]) -> tuple[System, list[System], Labels]:
    """Return the model, what it is tested against, and the labels that this uses."""
    from ragcun.data.beir import all_queries
    from ragcun.embeddings.hub import model_folder
    from ragcun.retrieval.memory import Labels
    from ragcun.retrieval.systems import System, given_vectors, open_system

    encoding, spec = options.encoding(), model_folder(options.spec)
    if options.vectors:
        others = {each.name: all_queries(each.path) for each in folders}  # some of them are dev queries
        given = given_vectors(options.vectors, spec, [folder.load() for folder in folders], others)
        encoding = replace(encoding, vectors=given)
    small = replace(encoding, precision=options.precision, truncate_dim=options.truncate_dim)
    model = open_system(spec, replace(small, use_predictor=options.use_predictor), options.distance)
    found = model.untouched_base.name if model.untouched_base is not None else "no other model"
    if options.base_model not in (None, found):
        raise InputError(f"--base_model {options.base_model}: the base of {spec} is {found}; leave the flag out")
    labels = Labels({each.name: each.path for each in folders})
    specs = ["bm25" if each == SIMPLE else each for each in (*options.baseline, *options.hybrid)]
    opened = {each: open_system(each, encoding).retriever for each in specs}
    rows = [opened[each] for each in specs[: len(options.baseline)]]
    rows += _combined(options, model, opened, labels)
    different = {(each.name, str(each.size)): each for each in rows}.values()
    return model, [*model.companions, *(System(each, model.distance) for each in different)], labels


def _combined(options: Options, model: System, opened: Mapping[str, Retriever], labels: Labels) -> Iterator[Retriever]:
    """Yield the untouched base and the model with memory, and fused with others; or what ``simple`` has of these."""
    from ragcun.data.overlap import SEEN, read_seen
    from ragcun.retrieval.hybrid import HybridRetriever
    from ragcun.retrieval.memory import AppendedQueries, MovedDocuments
    from ragcun.retrieval.systems import DenseRetriever

    appended, name = AppendedQueries(labels=labels), model.retriever.name
    others: list[Retriever] = [opened[each] for each in options.hybrid]
    remembering = [appended if each is opened.get("bm25") else each for each in others]
    of_model: frozenset[str] | None = frozenset()
    if model.trained:  # `run_benchmark` warns where it is unknown
        of_model = read_seen(name) if (Path(name) / SEEN).is_file() else None
    seen_by: list[tuple[Retriever, frozenset[str] | None]] = [(model.retriever, of_model)]
    if model.untouched_base is not None:
        seen_by.insert(0, (model.untouched_base, frozenset()))
    fused = partial(HybridRetriever, weight=options.hybrid_weight, method=options.fusion)
    feedback = None if options.feedback == 0 else (options.feedback, options.feedback_weight)
    for first, seen in seen_by:
        simple = SIMPLE in options.baseline and first is seen_by[0][0]
        hybrid = partial(fused, dev=partial(labels.dev, seen=seen), trained=seen != frozenset())
        if simple:
            yield hybrid((first, opened["bm25"]))
        if others:
            yield hybrid((first, *others))
        if not isinstance(first, DenseRetriever):
            continue
        if others and feedback:
            yield hybrid((first, *others), feedback=feedback)
        if simple or options.memory:
            yield (moved := MovedDocuments.of(first, labels, seen))
            if options.memory and others:
                yield hybrid((moved, *remembering), feedback=feedback)
    if SIMPLE in options.baseline:
        yield appended


def _choices(results: Results) -> str:
    from ragcun.reporting.tables import choices

    return "".join(["\n", *(f"- {line}\n" for line in lines)]) if (lines := choices(results)) else ""


@dataclass(kw_only=True)
class MtebOptions(RankedFlags, ModelFlags):
    """Flags of ``ragcun mteb``."""

    title: ClassVar[str] = "evaluation"
    datasets: tuple[str, ...] = flag((), "folders in --data_dir, sets of BEIR, quick, or all")
    split: str | None = flag(None, "qrels to use (default: test, or the split of the mteb task)")
    tasks: tuple[str, ...] = flag((), "instead of --datasets: retrieval tasks of mteb, which downloads their data")
    output_dir: Path = flag(Path("results/mteb"), "folder to write: MODEL.json, MODEL.md and mteb's cache of results")
    batch_size: int = flag(32, "batch size of the encoder", at_least=1)
    device: str | None = flag(None, DEVICE_HELP)

    def __post_init__(self) -> None:
        check_one_of(self, "model_path", "model")
        check_one_of(self, "tasks", "datasets")
        if self.tasks and self.drop_own_ids:
            raise InputError("--drop_own_ids applies to --datasets; each mteb task has its own rule; leave it out")
        self.require_embeddings()


def run_mteb(options: MtebOptions) -> tuple[str, dict[str, Any]]:
    """Evaluate a model beside its untouched base in mteb, and return the table and where everything is."""
    import importlib.metadata

    from ragcun.environment import environment
    from ragcun.io import write_json, write_text
    from ragcun.retrieval.mteb import evaluate_task

    require_package("mteb", "mteb")
    logging.getLogger("mteb").setLevel(logging.WARNING)
    models = _models(options)
    scores: dict[str, dict[str, Any]] = {title: {} for title in models}
    for name, task in _tasks(options):
        for title, model in models.items():
            values = evaluate_task(model, task, options.output_dir, options.batch_size)
            scores[title][name] = {"task": task.metadata.name, **values}
    parts: list[dict[str, Any]] = []
    for title, model in models.items():
        known, distance = model.model_card_data.model_name, model.similarity_fn_name
        parts.append({"model": title, "name": known, "distance": distance, "tasks": scores[title]})
    manifest = environment(options.device or "auto") | {"mteb": importlib.metadata.version("mteb")}
    output, table = options.output_dir / f"{parts[-1]['name'].removeprefix('ragcun/')}.json", _table(scores)
    about = {"untouched_base": parts[0] if len(parts) > 1 else None, "manifest": manifest}
    figures = {"format": MTEB_FORMAT, **parts[-1], **about}
    write_json(output, figures)
    write_text(output.with_suffix(".md"), table)
    text = f"{table}\ntable: {output.with_suffix('.md')}, figures: {output}, mteb's own files: {options.output_dir}"
    return text, figures


def _models(options: MtebOptions) -> dict[str, SentenceTransformer]:
    """Return by title, named for mteb, the untouched base of a checkpoint and the checkpoint; or the one model."""
    from ragcun.embeddings.hub import model_folder
    from ragcun.models.checkpoint import has_text_model, is_checkpoint
    from ragcun.models.encoder import untouched_model
    from ragcun.retrieval.mteb import name_for_mteb
    from ragcun.retrieval.systems import EncodingOptions, open_system

    spec = model_folder(options.spec)
    if is_checkpoint(spec) and not has_text_model(spec):
        raise InputError(f"checkpoint {spec} has no text model, which mteb needs; use ragcun evaluate --vectors")
    system: Any = open_system(spec, EncodingOptions(batch_size=options.batch_size, device=options.device))
    base = (system.untouched_base or system.retriever).encoder.cache.base
    models = {spec: untouched_model(base)}
    if system.untouched_base is not None:
        encoder = system.retriever.encoder.encoder
        if encoder.base.keeps_documents:
            raise InputError(f"{spec} embeds documents by another model, mteb takes one alone; use ragcun evaluate")
        models = {f"{base.name} (untouched)": models[spec], spec: encoder.to_sentence_transformer()}
    for model, name in zip(models.values(), (base.name, spec), strict=False):
        name_for_mteb(model, name)
    return models


def _tasks(options: MtebOptions) -> Iterable[tuple[str, AbsTask]]:
    """Return the title of each task and the task; collections are read when their turn comes."""
    from ragcun.retrieval.mteb import collection_task, find_task

    if options.tasks:
        return [(name, find_task(name, options.split)) for name in dict.fromkeys(options.tasks)]
    return ((folder.name, collection_task(folder.load())) for folder in options.collections())


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
