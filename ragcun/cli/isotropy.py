"""What ``scripts/compute_isotropy.py`` does: its flags, the measuring, and the files that it leaves."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ragcun.cli.encoding_flags import add_encoding_flags
from ragcun.cli.parser import ArgumentParser
from ragcun.errors import InputError

if TYPE_CHECKING:
    from ragcun.isotropy import MeasureSettings
    from ragcun.isotropy.report import SystemReport
    from ragcun.retrieval.systems import System

COUNTS = {"sample": 100, "k": 1, "batch_size": 1}
"""Flags that count something, and the least that makes sense."""


@dataclass(frozen=True)
class Texts:
    """Texts whose embeddings are measured.

    Attributes:
        name: what the report calls them.
        documents: the documents.
        queries: the judged queries; may be empty.
        pairs: place of a query and of a document relevant to it.
    """

    name: str
    documents: list[str]
    queries: list[str]
    pairs: list[tuple[int, int]]


def parse_isotropy(description: str | None) -> argparse.Namespace:
    """Parse the flags of `compute_isotropy`."""
    parser = ArgumentParser(description=description)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model_path", metavar="DIR", help="checkpoint folder; its untouched base is measured too")
    model.add_argument("--model", metavar="NAME", help="hub name, folder, or minilm")
    model.add_argument("--embeddings", metavar="FILE", help=".npy of embeddings of documents (n, dim), from any source")
    parser.add_argument("--query_embeddings", metavar="FILE", help=".npy of embeddings of queries, with --embeddings")
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument("--datasets", nargs="+", metavar="NAME", help="BEIR folders in --data_dir, or all")
    texts.add_argument("--texts", metavar="FILE", help="documents: .txt (one a line), .json, .jsonl, .csv")
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="folder of BEIR collections (default: data)")
    parser.add_argument("--split", default="test", help="qrels whose queries are measured (default: test)")
    place = "folder to write: isotropy.json, isotropy.md and pictures, in DIR/NAME with several datasets"
    parser.add_argument("--output_dir", type=Path, default=Path("results/isotropy"), metavar="DIR", help=place)
    sample = "rows at most for what compares all pairs of rows (default: %(default)s)"
    parser.add_argument("--sample", type=int, default=20_000, metavar="N", help=sample)
    parser.add_argument("--k", type=int, default=10, help="neighbours for hubness (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (default: 0)")
    add_encoding_flags(parser)
    return parser.parse_args()


def compute_isotropy(flags: argparse.Namespace) -> str:
    """Measure a model beside its untouched base, write report and pictures, and return the tables and where they are.

    Raises:
        InputError: a setting, a model, a collection or a file is missing or wrong.
    """
    from ragcun.isotropy import MeasureSettings

    _check(flags)
    settings = MeasureSettings(seed=flags.seed, k=flags.k, sample=flags.sample)
    if flags.embeddings:
        documents, queries = _read_matrix(flags.embeddings), None
        if flags.query_embeddings:
            queries = _read_matrix(flags.query_embeddings)
        systems = [_measured(flags.embeddings, documents, queries, None, False, "euclidean", settings)]
        sizes = (len(documents), 0 if queries is None else len(queries))
        return _write(flags.output_dir, Path(flags.embeddings).name, sizes, systems, settings)
    model = _open(flags)
    shown = []
    for texts in _read_texts(flags):
        systems = [_embedded(each, texts, settings) for each in _with_base(model)]
        several = flags.datasets and (len(flags.datasets) > 1 or flags.datasets == ["all"])
        folder = flags.output_dir / texts.name if several else flags.output_dir
        shown.append(_write(folder, texts.name, (len(texts.documents), len(texts.queries)), systems, settings))
    return "\n\n".join(shown)


def _check(flags: argparse.Namespace) -> None:
    for name, least in COUNTS.items():
        if getattr(flags, name) < least:
            raise InputError(f"--{name} must be at least {least}, got {getattr(flags, name)}; give a larger number")
    if flags.embeddings and (flags.datasets or flags.texts):
        raise InputError("--embeddings are measured as they are; leave out --datasets and --texts")
    if not flags.embeddings and not (flags.datasets or flags.texts):
        raise InputError("nothing to embed: name BEIR folders in --datasets, or a file of documents in --texts")
    if flags.query_embeddings and not flags.embeddings:
        raise InputError("--query_embeddings go with --embeddings, which is missing; name the documents' file")
    if flags.output_dir.exists() and not flags.output_dir.is_dir():
        raise InputError(f"--output_dir {flags.output_dir} is a file; name a folder")


def _open(flags: argparse.Namespace) -> System:
    from ragcun.retrieval.systems import EncodingOptions, open_system

    spec = flags.model_path or flags.model
    if spec == "bm25" or spec.endswith(".json"):
        raise InputError(f"{spec} has no embeddings; name a checkpoint or an embedding model")
    options = EncodingOptions(flags.cache_dir, flags.batch_size, flags.device, base_dtype=flags.base_dtype)
    return open_system(spec, options)


def _with_base(model: System) -> Iterator[tuple[Any, bool]]:
    """Yield retrievers, the untouched base first, and whether each is a model as published."""
    if model.untouched_base is not None:
        yield model.untouched_base, True
    yield model.retriever, not model.trained


def _read_texts(flags: argparse.Namespace) -> Iterator[Texts]:
    from ragcun.data.beir import load_collection
    from ragcun.data.beir_sets import find_sets
    from ragcun.data.records import read_documents

    if flags.texts:
        documents = [document.content for document in read_documents(flags.texts) if document.content]
        yield Texts(Path(flags.texts).name, documents, [], [])
        return
    for folder in find_sets(flags.data_dir, flags.datasets, flags.split):
        collection = load_collection(folder.path, folder.split)
        rows = {name: row for row, name in enumerate(collection.documents)}
        pairs = [
            (place, rows[document])
            for place, query in enumerate(collection.queries)
            for document, score in collection.qrels.get(query, {}).items()
            if score > 0 and document in rows
        ]
        contents = [document.content for document in collection.documents.values()]
        yield Texts(folder.name, contents, list(collection.queries.values()), pairs)


def _read_matrix(path: str) -> Any:
    """Open a matrix of embeddings without reading it into memory."""
    from ragcun.embeddings.precomputed import open_matrix

    matrix = open_matrix(path)
    if matrix.ndim != 2:
        raise InputError(f"{path} must hold one matrix (n, dim); write it with numpy.save")
    return matrix


def _embedded(system: tuple[Any, bool], texts: Texts, settings: MeasureSettings) -> SystemReport:
    retriever, untouched = system
    documents = retriever.encoder.encode_document(texts.documents)
    queries = retriever.encoder.encode_query(texts.queries) if len(texts.queries) > 1 else None
    pairs = texts.pairs if queries is not None and texts.pairs else None
    return _measured(retriever.name, documents, queries, pairs, untouched, retriever.distance, settings)


def _measured(
    name: str, documents: Any, queries: Any, pairs: Any, untouched: bool, distance: Any, settings: MeasureSettings
) -> SystemReport:
    from ragcun.isotropy.report import measure_system

    try:
        return measure_system(
            name, documents, queries, pairs, untouched=untouched, distance=distance, settings=settings
        )
    except ValueError as error:
        raise InputError(f"the embeddings of {name} cannot be measured: {error}") from error


def _write(
    folder: Path, name: str, sizes: tuple[int, int], systems: list[SystemReport], settings: MeasureSettings
) -> str:
    from ragcun.io import write_json, write_text
    from ragcun.isotropy.report import IsotropyReport
    from ragcun.reporting.isotropy import isotropy_table
    from ragcun.reporting.isotropy_plots import plot_isotropy
    from ragcun.training.run_dir import environment

    report = IsotropyReport(name, *sizes, systems, settings, environment("cpu"))
    table = isotropy_table(report)
    write_json(folder / "isotropy.json", report.to_dict())
    write_text(folder / "isotropy.md", table)
    pictures = plot_isotropy(folder / "isotropy.json", folder)
    names = ", ".join(path.name for path in pictures)
    return f"{table}\nfigures: {folder / 'isotropy.json'}, table: {folder / 'isotropy.md'}, pictures beside: {names}"
