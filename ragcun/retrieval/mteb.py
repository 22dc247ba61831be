"""Models in mteb: named so that no two share cached scores, on mteb's own retrieval tasks or on BEIR collections."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import re
import warnings
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragcun.data.beir import Collection
from ragcun.embeddings.base import Base
from ragcun.embeddings.text_base import model_digest
from ragcun.errors import InputError
from ragcun.models.st_export import normalize_modules

if TYPE_CHECKING:
    from mteb import TaskResult
    from mteb.abstasks import AbsTask
    from sentence_transformers import SentenceTransformer

METRICS = {"NDCG@10": "ndcg_at_10", "MAP@100": "map_at_100", "Recall@100": "recall_at_100", "MRR@10": "mrr_at_10"}
"""Metrics that are kept of mteb's, by our names."""
DIGITS = 12


def require_mteb() -> None:
    """Check that mteb is there.

    Raises:
        InputError: it is not installed.
    """
    if importlib.util.find_spec("mteb") is None:
        raise InputError("mteb is not installed; install it with: pip install 'ragcun[mteb]'")


def published_model(base: Base) -> SentenceTransformer:
    """Return a base as published: its own normalisation, prompts and distance.

    Raises:
        InputError: the base has no text model.
    """
    from sentence_transformers import SentenceTransformer

    base.require_texts()
    model = base.text_model
    return SentenceTransformer(
        modules=[*model, *normalize_modules(base.ends_normalized)],
        similarity_fn_name=base.distance,
        prompts={name: prompt or "" for name, prompt in model.prompts.items()},
        default_prompt_name=model.default_prompt_name,
        device=str(model.device),
    )


def name_for_mteb(model: SentenceTransformer, spec: str) -> str:
    """Name a model ``ragcun/<run>-<digest>``, set the name where mteb looks for it, and return it.

    mteb keeps scores by a model's name alone, and has one name for all models without: a second one is given the first
    one's scores. The digest is of all that decides a score: weights, modules, tokenizer, length limit, prompts and
    distance. So another training under an old path has a name of its own, and the same checkpoint its old one.

    Args:
        model: the model.
        spec: what the user called it; the last two parts of a path stand for the run.
    """
    place = Path(spec).resolve() if Path(spec).exists() else Path(spec)
    run = re.sub(r"[^\w.-]+", "-", "-".join(place.parts[-2:])).strip("-")
    settings = [model.prompts, model.default_prompt_name, model.similarity_fn_name]
    digest = hashlib.sha256((model_digest(model) + json.dumps(settings, sort_keys=True)).encode()).hexdigest()
    name = f"ragcun/{run}-{digest[:DIGITS]}"
    model.model_card_data.model_name = name
    return name


def find_task(name: str, split: str | None = None) -> AbsTask:
    """Return one of mteb's own retrieval tasks; mteb fetches its data when it runs.

    Args:
        name: as in mteb's registry.
        split: the split to evaluate; None takes the task's own.

    Raises:
        InputError: mteb has no such task, it is none of retrieval, or it has no such split.
    """
    import mteb

    try:
        task = mteb.get_task(name)
    except KeyError as error:
        known = re.search(r"Did you mean: '(.+)'", str(error))
        guess = f"did you mean {known[1]!r}? " if known else ""
        raise InputError(f"mteb has no task {name!r}; {guess}for a local collection use --datasets") from error
    if task.metadata.type != "Retrieval" or task.metadata.modalities != ["text"]:
        raise InputError(f"{name} is a task of {task.metadata.type}; name retrieval tasks of text, such as SciFact")
    if split is not None:
        if split not in task.metadata.eval_splits:
            there = ", ".join(task.metadata.eval_splits)
            raise InputError(f"mteb evaluates {name} on {there}, not on {split!r}; leave out --split or name that one")
        task.filter_eval_splits([split])
    return task


def collection_task(collection: Collection) -> AbsTask:
    """Turn a collection into a task of mteb.

    mteb reads title, a blank and text, as `Document.content` is. Documents of a query's own id are left out, as
    BEIR and `evaluate_retriever` do. The task's name ends in a digest of documents, queries and judgments, so that
    scores cached for another collection of the name are not used. mteb asks for a language and is told English.
    """
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    digest = collection.sha256()

    class CollectionTask(AbsTaskRetrieval):
        """The collection."""

        ignore_identical_ids = True
        metadata = TaskMetadata(
            name=f"{collection.name.replace('/', '-')}-{collection.split}-{digest[:DIGITS]}",
            description=f"The collection {collection.name}, judged by its split {collection.split}.",
            dataset={"path": collection.name, "revision": digest},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=[collection.split],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

    task: Any = CollectionTask()
    task.dataset = {"default": {collection.split: _task_data(collection)}}
    task.data_loaded = True
    return task


def _task_data(collection: Collection) -> dict[str, Any]:
    from datasets import Dataset

    documents = collection.documents
    columns = {
        "id": list(documents),
        "title": [document.title for document in documents.values()],
        "text": [document.text for document in documents.values()],
    }
    queries = {"id": list(collection.queries), "text": list(collection.queries.values())}
    return {
        "corpus": Dataset.from_dict(columns),
        "queries": Dataset.from_dict(queries),
        "relevant_docs": {query: dict(judged) for query, judged in collection.qrels.items()},
        "top_ranked": None,
    }


def evaluate_task(
    model: SentenceTransformer, task: AbsTask, cache_dir: str | Path, batch_size: int = 32
) -> dict[str, Any]:
    """Run a model in mteb, or take its scores from mteb's cache, and return ``{metric, main_score, NDCG@10, …}``.

    A score is the mean over the task's splits and languages; of a task made of others, mteb gives the main one alone.

    Args:
        model: a model that `name_for_mteb` named.
        task: what `find_task` or `collection_task` returned.
        cache_dir: where mteb keeps its results.
        batch_size: texts encoded at a time.

    Raises:
        InputError: the task's data cannot be had.
        ValueError: the model was not named.
    """
    import mteb

    if not (model.model_card_data.model_name or "").startswith("ragcun/"):
        raise ValueError("the model has no name of its own in mteb; call name_for_mteb first")
    options: Any = {"encode_kwargs": {"batch_size": batch_size}, "co2_tracker": False}
    try:
        with warnings.catch_warnings():
            # mteb calls names that it and sentence-transformers have since renamed
            warnings.simplefilter("ignore", DeprecationWarning)
            warnings.simplefilter("ignore", FutureWarning)
            # of prompts named as sentence-transformers names them ("passage"), which it does put before documents
            warnings.filterwarnings("ignore", "Task name .* is not valid|Some prompts are not", UserWarning)
            found = mteb.evaluate(model, task, cache=mteb.ResultCache(Path(cache_dir)), **options)
    except OSError as error:
        reason = " ".join(str(error).split())[:300]
        raise InputError(f"mteb cannot run {task.metadata.name}: {reason}; for local data use --datasets") from error
    (result,) = found.task_results
    return {"metric": task.metadata.main_score, "main_score": float(result.get_score()), **_figures(result)}


def _figures(result: TaskResult) -> dict[str, float]:
    parts = [part for split in result.scores.values() for part in split]
    kept = {name: theirs for name, theirs in METRICS.items() if all(theirs in part for part in parts)}
    return {name: float(result.get_score(getter=itemgetter(theirs))) for name, theirs in kept.items()}
