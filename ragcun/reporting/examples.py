"""The queries that gained and lost most against the untouched base, with what either ranks first for them."""

from __future__ import annotations

import logging
import unicodedata
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from ragcun.data.beir import Collection, Document, load_collection
from ragcun.errors import InputError
from ragcun.reporting.files import ResultsFile
from ragcun.retrieval.runs import Run, read_run, runs_folder

logger = logging.getLogger(__name__)

QUERIES, DOCUMENTS, LETTERS = 5, 3, 300
BLANKS = 64
"""Of a text, this many times the limit is looked at: enough where it has no more white space than that."""
KEPT = frozenset("\n\t\u200c\u200d\u00ad")
"""Line feed, tab, the joiners that scripts and emoji need, and the soft hyphen."""
HIDDEN = frozenset(("Cc", "Cf", "Cs", "Zl", "Zp"))
"""Categories of Unicode: controls, formats (bidirectional ones among them), lone surrogates, separators."""
SYSTEMS = ("untouched_base", "model")


@dataclass(frozen=True)
class Ranked:
    """A document in a ranking: id, title and start of its text, and its judgment; None where texts are not at hand."""

    document: str
    title: str = ""
    text: str = ""
    grade: int | None = None


@dataclass(frozen=True)
class Example:
    """A query, its text where that is at hand, NDCG@10 under the untouched base and the model, and what both find."""

    query: str
    text: str | None
    values: tuple[float, float]
    documents: tuple[Sequence[Ranked], Sequence[Ranked]]


@dataclass(frozen=True)
class Examples:
    """The examples of one dataset.

    Attributes:
        dataset: name of the collection.
        missing: why there are none; None where there are.
        without_texts: why texts and judgments are not shown; None where they are.
        counts: how many queries are better, worse, and the same.
        chosen: queries by what they are: largest gains, largest losses.
    """

    dataset: str
    missing: str | None = None
    without_texts: str | None = None
    counts: tuple[int, int, int] = (0, 0, 0)
    chosen: Mapping[str, Sequence[Example]] | None = None


def visible(text: str) -> str:
    r"""Return `text` with every character that has no shape, or that turns the order of others, as its code point.

    Unpaired surrogates are among them, so that the result can always be written as UTF-8.

    >>> visible("a\x00b\u202ec")
    'a⟨U+0000⟩b⟨U+202E⟩c'
    """
    return "".join(
        f"⟨U+{ord(letter):04X}⟩" if letter not in KEPT and unicodedata.category(letter) in HIDDEN else letter
        for letter in text
    )


def excerpt(text: str, limit: int = LETTERS) -> str:
    r"""Return the start of `text` in one line: white space collapsed, cut after `limit` characters with an ellipsis.

    >>> excerpt("one\n two   three", 8)
    'one two…'
    """
    start = text[: BLANKS * limit]
    whole = " ".join(start.split())
    cut = len(whole) > limit or len(start) < len(text)
    return visible(whole[:limit].rstrip() + ("…" if cut else ""))


def examples(file: ResultsFile, data_dir: Path | None = None) -> list[Examples]:
    """Choose the examples of each dataset of a results file, from the run files beside it.

    Args:
        file: the results file.
        data_dir: folder of the collections; None takes the one that the results name.

    Raises:
        InputError: a run file is wrong.
    """
    return [_of(file, part, data_dir) for name in file.results.datasets for part in file.results.parts_of(name)]


def extremes(
    base: Mapping[str, float], model: Mapping[str, float], count: int = QUERIES
) -> tuple[list[str], list[str], tuple[int, int, int]]:
    """Return the queries of the largest gains and the largest losses, and how many are better, worse and the same.

    Equal differences keep the order of `model`.

    >>> extremes({"a": 0.5, "b": 0.5, "c": 1.0}, {"a": 1.0, "b": 0.5, "c": 0.0})
    (['a'], ['c'], (1, 1, 1))
    """
    differences = {query: model[query] - base[query] for query in model}
    ordered = sorted(differences, key=lambda query: -differences[query])
    gained = [query for query in ordered if differences[query] > 0]
    lost = sorted((query for query in model if differences[query] < 0), key=lambda query: differences[query])
    return gained[:count], lost[:count], (len(gained), len(lost), len(model) - len(gained) - len(lost))


def _of(file: ResultsFile, name: str, data_dir: Path | None) -> Examples:
    if file.results.untouched_base is None:
        return Examples(name, "the results have no untouched base to compare with")
    folder = runs_folder(file.path) / name
    files = [folder / f"{system}{suffix}" for system in SYSTEMS for suffix in (".per_query.json", ".trec")]
    if absent := [path for path in files if not path.is_file()]:
        return Examples(name, f"there is no {absent[0]}; evaluate again, or bring the folder of runs along")
    base, model = (file.per_query(name, system) for system in SYSTEMS)
    if base.keys() != model.keys():
        raise InputError(f"{folder}: model and untouched_base have other queries each; evaluate again")
    gains, losses, counts = extremes(base, model)
    runs = [read_run(folder / f"{system}.trec") for system in SYSTEMS]
    texts = _texts(file, name, data_dir)
    collection = texts if isinstance(texts, Collection) else None

    def example(query: str) -> Example:
        text = None if collection is None else excerpt(collection.queries.get(query, ""))
        first, second = (_first(run, query, collection) for run in runs)
        return Example(query, text, (base[query], model[query]), (first, second))

    chosen = {"Largest gains": list(map(example, gains)), "Largest losses": list(map(example, losses))}
    return Examples(name, None, texts if isinstance(texts, str) else None, counts, chosen)


def _first(run: Run, query: str, collection: Collection | None) -> list[Ranked]:
    """Return the documents that a run ranks first for a query."""
    found = list(run.get(query, {}))[:DOCUMENTS]
    if collection is None:
        return [Ranked(document) for document in found]
    judged = collection.qrels.get(query, {})
    texts = [(document, collection.documents.get(document, Document("", ""))) for document in found]
    return [Ranked(name, excerpt(text.title), excerpt(text.text), judged.get(name, 0)) for name, text in texts]


def _texts(file: ResultsFile, name: str, data_dir: Path | None) -> Collection | str:
    """Return the collection that was evaluated, or why it is not at hand."""
    about, place = file.results.collections[name], data_dir or file.results.manifest.get("data_dir")
    if place is None:
        return "the results do not say where the collection is; name its folder with --data_dir"
    try:
        collection = load_collection(Path(place) / name, about.split)
    except InputError as error:
        logger.warning("%s: texts are not shown: %s", name, error)
        return f"{error}; name the folder of collections with --data_dir"
    if collection.sha256() != about.sha256:
        logger.warning("%s: texts are not shown: %s has changed since the evaluation", name, Path(place) / name)
        return f"the collection in {Path(place) / name} is not the one that was evaluated"
    return collection
