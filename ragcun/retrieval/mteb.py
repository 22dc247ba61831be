"""Models in mteb, under names that no two share, on mteb's own retrieval tasks or on BEIR collections."""

from __future__ import annotations

import hashlib
import json
import re
import warnings
from operator import itemgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragcun.data.beir import Collection
from ragcun.errors import InputError, as_input_error
from ragcun.retrieval.metrics import whole_grades
from ragcun.tensors import model_digest

if TYPE_CHECKING:
    from mteb.abstasks import AbsTask
    from sentence_transformers import SentenceTransformer

METRICS = {"NDCG@10": "ndcg_at_10", "MAP@100": "map_at_100", "Recall@100": "recall_at_100", "MRR@10": "mrr_at_10"}
"""Metrics recorded of mteb's, by our names."""
DIGITS = 12


def name_for_mteb(model: SentenceTransformer, spec: str) -> str:
    """Name a model ``ragcun/<run>-<digest>``, set the name where mteb looks for it, and return it.

    mteb stores scores by name, and all models without one share a name. The digest is of all that determines a score:
    weights, modules, tokenizer, length limit, prompts and distance. The run is the last two parts of the path `spec`.
    """
    place = Path(spec).resolve() if Path(spec).exists() else Path(spec)
    run = re.sub(r"[^\w.-]+", "-", "-".join(place.parts[-2:])).strip("-")
    settings = json.dumps([model.prompts, model.default_prompt_name, model.similarity_fn_name], sort_keys=True)
    digest = hashlib.sha256((model_digest(model) + settings).encode()).hexdigest()
    model.model_card_data.model_name = f"ragcun/{run}-{digest[:DIGITS]}"
    return model.model_card_data.model_name


def find_task(name: str, split: str | None = None) -> AbsTask:
    """Return one of mteb's text retrieval tasks, on a split of it or those it is evaluated on (InputError: no such)."""
    import mteb

    try:
        task = mteb.get_task(name)
    except KeyError as error:
        known = error.args[0].removeprefix("KeyError: ")
        raise InputError(f"no such mteb task: {known} For a local collection use --datasets") from error
    if task.metadata.type != "Retrieval" or task.metadata.modalities != ["text"]:
        raise InputError(f"{name} is a task of {task.metadata.type}; name text retrieval tasks, such as SciFact")
    if split is None:
        return task
    if split not in task.metadata.eval_splits:
        splits = ", ".join(task.metadata.eval_splits)
        raise InputError(f"mteb evaluates {name} on {splits}, not on {split!r}; leave out --split or name that one")
    return task.filter_eval_splits([split])


def collection_task(collection: Collection) -> AbsTask:
    """Turn a collection into a task of mteb, which ranks what `Collection.own_ids` leaves.

    mteb leaves out all documents of the query's id, so that a query gets another id where its document is to be ranked.
    The name ends in a digest of documents, queries, judgments and such ids, so that scores cached for another
    collection of the name are not used. mteb requires a language and is told English.
    """
    from datasets import Dataset
    from mteb.abstasks import AbsTaskRetrieval
    from mteb.abstasks.task_metadata import TaskMetadata

    digest, split, documents = collection.sha256(), str(collection.split), collection.documents
    names = {key: key for key in collection.queries} | {key: f"query {key}" for key in collection.shared_ids}

    class CollectionTask(AbsTaskRetrieval):
        """The collection."""

        ignore_identical_ids = True
        metadata = TaskMetadata(
            name=f"{collection.name.replace('/', '-')}-{split}-{digest[:DIGITS]}",
            description=f"The collection {collection.name}, judged by its split {split}.",
            dataset={"path": collection.name, "revision": digest},
            type="Retrieval",
            category="t2t",
            modalities=["text"],
            eval_splits=[split],
            eval_langs=["eng-Latn"],
            main_score="ndcg_at_10",
        )

    corpus = ({"id": key, "title": document.title, "text": document.text} for key, document in documents.items())
    data = {
        "corpus": Dataset.from_list(list(corpus)),
        "queries": Dataset.from_list([{"id": names[key], "text": text} for key, text in collection.queries.items()]),
        "relevant_docs": {names[key]: judged for key, judged in whole_grades(collection.qrels).items()},
        "top_ranked": None,
    }
    task: Any = CollectionTask()
    task.dataset, task.data_loaded = {"default": {split: data}}, True
    return task


def evaluate_task(
    model: SentenceTransformer, task: AbsTask, cache_dir: str | Path, batch_size: int = 32
) -> dict[str, Any]:
    """Run a model that `name_for_mteb` named, or take its scores from mteb's cache, as ``{metric, main_score, …}``.

    A score is the mean over the task's splits and languages; of a task made of others, mteb gives the main one alone.

    Raises:
        InputError: the task's data is not available.
        ValueError: the model was not named.
    """
    import mteb

    if not (model.model_card_data.model_name or "").startswith("ragcun/"):
        raise ValueError("the model has no name of its own in mteb; call name_for_mteb first")
    options: Any = {"encode_kwargs": {"batch_size": batch_size}, "co2_tracker": False}
    problem, remedy = f"mteb cannot run {task.metadata.name}", "; for local data use --datasets"
    with as_input_error(problem, remedy, (OSError,)), warnings.catch_warnings():
        # of names that mteb has since renamed, and of prompts that it does use
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        warnings.filterwarnings("ignore", "Task name .* is not valid|Some prompts are not", UserWarning)
        (result,) = mteb.evaluate(model, task, cache=mteb.ResultCache(Path(cache_dir)), **options).task_results
    parts = [part for split in result.scores.values() for part in split]
    known = {name: theirs for name, theirs in METRICS.items() if all(theirs in part for part in parts)}
    scores = {name: float(result.get_score(getter=itemgetter(theirs))) for name, theirs in known.items()}
    return {"metric": task.metadata.main_score, "main_score": float(result.get_score()), **scores}
