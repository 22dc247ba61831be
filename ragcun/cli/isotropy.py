"""``ragcun isotropy``: isotropy of a model beside its untouched base, or of a file of vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ragcun.cli.flags import CollectionFlags, EncodingFlags, ModelFlags
from ragcun.errors import InputError
from ragcun.options import check_bounds, check_one_of, flag

if TYPE_CHECKING:
    from ragcun.isotropy import MeasureSettings
    from ragcun.isotropy.report import SystemReport
    from ragcun.retrieval.systems import System


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


@dataclass(kw_only=True)
class Options(EncodingFlags, CollectionFlags, ModelFlags):
    """Flags of ``ragcun isotropy``."""

    title: ClassVar[str] = "measuring"
    embeddings: str | None = flag(
        None, "instead of a model: .npy of embeddings of documents (n, dim), from any source", metavar="FILE"
    )
    query_embeddings: str | None = flag(None, ".npy of embeddings of queries, with --embeddings", metavar="FILE")
    datasets: tuple[str, ...] = flag((), "folders in --data_dir, sets of BEIR, quick, or all")
    texts: str | None = flag(
        None, "instead of --datasets: documents, .txt (one a line), .json, .jsonl, .csv", metavar="FILE"
    )
    output_dir: Path = flag(
        Path("results/isotropy"),
        "folder to write: isotropy.json, isotropy.md and plots, in DIR/NAME with several datasets",
    )
    sample: int = flag(20_000, "rows at most for what compares all pairs of rows", at_least=100)
    k: int = flag(10, "neighbours for hubness", at_least=1)
    seed: int = flag(0, "seed of everything random", at_least=0)

    def __post_init__(self) -> None:
        check_bounds(self)
        check_one_of(self, "model_path", "model", "embeddings")
        if self.embeddings and (self.datasets or self.texts):
            raise InputError("--embeddings are measured as they are; leave out --datasets and --texts")
        if self.query_embeddings and not self.embeddings:
            raise InputError("--query_embeddings go with --embeddings, which is missing; name the documents' file")
        if not self.embeddings:
            check_one_of(self, "datasets", "texts")
            self.require_embeddings()
        if self.output_dir.is_file():
            raise InputError(f"--output_dir {self.output_dir} is a file; name a folder")


def run(options: Options) -> str:
    """Measure a model beside its untouched base, write report and pictures, and return the tables and where they are.

    Raises:
        InputError: a setting, a model, a collection or a file is missing or wrong.
    """
    from ragcun.isotropy import MeasureSettings

    settings = MeasureSettings(seed=options.seed, k=options.k, sample=options.sample)
    if options.embeddings:
        documents, queries = _read_matrix(options.embeddings), None
        if options.query_embeddings:
            queries = _read_matrix(options.query_embeddings)
        systems = [_measured(options.embeddings, documents, queries, None, False, "euclidean", settings)]
        sizes = (len(documents), 0 if queries is None else len(queries))
        return _write(options.output_dir, Path(options.embeddings).name, sizes, systems, settings)
    model = _open(options)
    shown = []
    for texts in _read_texts(options):
        systems = [_embedded(each, texts, settings) for each in _with_base(model)]
        several = options.datasets and (len(options.datasets) > 1 or options.datasets == ("all",))
        folder = options.output_dir / texts.name if several else options.output_dir
        shown.append(_write(folder, texts.name, (len(texts.documents), len(texts.queries)), systems, settings))
    return "\n\n".join(shown)


def _open(options: Options) -> System:
    from ragcun.retrieval.systems import EncodingOptions, open_system

    encoding = EncodingOptions(options.cache_dir, options.batch_size, options.device, base_dtype=options.base_dtype)
    return open_system(options.spec, encoding)


def _with_base(model: System) -> Iterator[tuple[Any, bool]]:
    """Yield retrievers, the untouched base first, and whether each is a model as published."""
    if model.untouched_base is not None:
        yield model.untouched_base, True
    yield model.retriever, not model.trained


def _read_texts(options: Options) -> Iterator[Texts]:
    from ragcun.data.beir import load_collection
    from ragcun.data.records import read_documents

    if options.texts:
        documents = [document.content for document in read_documents(options.texts) if document.content]
        yield Texts(Path(options.texts).name, documents, [], [])
        return
    for folder in options.collections():
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
