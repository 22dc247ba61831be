"""The queries that gained and lost most against the untouched base, with what either ranks first for them."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ragcun.data.beir import Collection, Document, load_collection
from ragcun.errors import InputError
from ragcun.io import read_json
from ragcun.reporting.html.texts import excerpt
from ragcun.reporting.results_files import ResultsFile
from ragcun.reporting.tables import METRIC
from ragcun.retrieval.runs import Run, read_run, runs_folder

logger = logging.getLogger(__name__)

QUERIES, DOCUMENTS = 5, 3
SYSTEMS = ("untouched_base", "model")


@dataclass(frozen=True)
class Ranked:
    """A document that a system ranks for a query.

    Attributes:
        document: its id.
        title: its title, empty where unknown.
        text: the start of its text, empty where unknown.
        grade: its judgment, 0 where there is none; None where judgments are not at hand.
    """

    document: str
    title: str
    text: str
    grade: int | None


@dataclass(frozen=True)
class Example:
    """A query under the untouched base and under the model.

    Attributes:
        query: its id.
        text: what it asks, None where texts are not at hand.
        base: NDCG@10 of the untouched base.
        model: NDCG@10 of the model.
        base_documents: what the base ranks first.
        model_documents: what the model ranks first.
    """

    query: str
    text: str | None
    base: float
    model: float
    base_documents: Sequence[Ranked]
    model_documents: Sequence[Ranked]

    @property
    def difference(self) -> float:
        """Model minus base."""
        return self.model - self.base


@dataclass(frozen=True)
class Examples:
    """The examples of one dataset.

    Attributes:
        dataset: name of the collection.
        gains: queries that gained most, the largest gain first.
        losses: queries that lost most, the largest loss first.
        counts: how many queries are better, worse, and the same.
        without_texts: why texts and judgments are not shown; None where they are.
    """

    dataset: str
    gains: Sequence[Example]
    losses: Sequence[Example]
    counts: tuple[int, int, int]
    without_texts: str | None


@dataclass(frozen=True)
class NoExamples:
    """A dataset without examples, and why."""

    dataset: str
    reason: str


def examples(file: ResultsFile, data_dir: Path | None = None) -> list[Examples | NoExamples]:
    """Choose the examples of each dataset of a results file, from the run files beside it.

    Args:
        file: the results file.
        data_dir: folder of the collections; None takes the one that the results name.

    Raises:
        InputError: a run file is wrong.
    """
    return [_of_dataset(file, part, data_dir) for name in file.datasets for part in file.parts_of(name)]


def extremes(
    base: Mapping[str, float], model: Mapping[str, float], count: int = QUERIES
) -> tuple[list[str], list[str], tuple[int, int, int]]:
    """Return the queries of the largest gains and the largest losses, and how many are better, worse and the same.

    Equal differences keep the order of `model`.

    >>> extremes({"a": 0.5, "b": 0.5, "c": 1.0}, {"a": 1.0, "b": 0.5, "c": 0.0})
    (['a'], ['c'], (1, 1, 1))

    Raises:
        ValueError: the two are not about the same queries.
    """
    if base.keys() != model.keys():
        raise ValueError(f"{len(base)} queries of the base and {len(model)} of the model are not the same")
    differences = {query: model[query] - base[query] for query in model}
    gained = sorted((query for query in model if differences[query] > 0), key=lambda query: -differences[query])
    lost = sorted((query for query in model if differences[query] < 0), key=lambda query: differences[query])
    return gained[:count], lost[:count], (len(gained), len(lost), len(model) - len(gained) - len(lost))


def _of_dataset(file: ResultsFile, name: str, data_dir: Path | None) -> Examples | NoExamples:
    if file.content["untouched_base"] is None:
        return NoExamples(name, "the results have no untouched base to compare with")
    folder = runs_folder(file.path) / name
    files = [folder / f"{system}{suffix}" for system in SYSTEMS for suffix in (".per_query.json", ".trec")]
    absent = [str(path) for path in files if not path.is_file()]
    if absent:
        return NoExamples(name, f"there is no {absent[0]}; evaluate again, or bring the folder of runs along")
    base, model = (_per_query(folder / f"{system}.per_query.json") for system in SYSTEMS)
    if base.keys() != model.keys():
        raise InputError(f"{folder}: model and untouched_base have other queries each; evaluate again")
    gains, losses, counts = extremes(base, model)
    runs = [read_run(folder / f"{system}.trec") for system in SYSTEMS]
    texts = _texts(file, name, data_dir)
    collection = texts if isinstance(texts, Collection) else None

    def example(query: str) -> Example:
        text = None if collection is None else excerpt(collection.queries[query])
        documents = (_first(run, query, collection) for run in runs)
        return Example(query, text, base[query], model[query], *documents)

    why = texts if isinstance(texts, str) else None
    return Examples(name, [example(query) for query in gains], [example(query) for query in losses], counts, why)


def _first(run: Run, query: str, collection: Collection | None) -> list[Ranked]:
    """Return the documents that a run ranks first for a query."""
    found = list(run.get(query, {}))[:DOCUMENTS]
    if collection is None:
        return [Ranked(document, "", "", None) for document in found]
    judged = collection.qrels[query]
    texts = [(document, collection.documents.get(document, Document("", ""))) for document in found]
    return [Ranked(name, excerpt(text.title), excerpt(text.text), judged.get(name, 0)) for name, text in texts]


def _per_query(path: Path) -> dict[str, float]:
    content = read_json(path)
    values = content.get(METRIC) if isinstance(content, dict) else None
    if not isinstance(values, dict) or not all(isinstance(value, (int, float)) for value in values.values()):
        raise InputError(f"{path} lacks {METRIC} of each query; evaluate again")
    return values


def _texts(file: ResultsFile, name: str, data_dir: Path | None) -> Collection | str:
    """Return the collection that was evaluated, or why it is not at hand."""
    about, place = file.collections[name], data_dir or file.content["manifest"].get("data_dir")
    if place is None:
        return "the results do not say where the collection is; name its folder with --data_dir"
    try:
        collection = load_collection(Path(place) / name, about.get("split", "test"))
    except InputError as error:
        logger.warning("%s: texts are not shown: %s", name, error)
        return f"{error}; name the folder of collections with --data_dir"
    if collection.sha256() != about.get("sha256"):
        logger.warning("%s: texts are not shown: %s has changed since the evaluation", name, Path(place) / name)
        return f"the collection in {Path(place) / name} is not the one that was evaluated"
    return collection
