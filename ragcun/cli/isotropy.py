"""``ragcun isotropy``: isotropy of a model beside its untouched base, or of a file of vectors."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ragcun.cli.flags import CollectionFlags, EncodingFlags, ModelFlags, require_folder
from ragcun.errors import InputError
from ragcun.options import check_bounds, check_one_of, flag

if TYPE_CHECKING:
    from ragcun.isotropy import MeasureSettings
    from ragcun.isotropy.report import SystemReport
    from ragcun.retrieval.systems import System


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
        require_folder(self.output_dir)


def run(options: Options) -> str:
    """Measure a model beside its untouched base, and return the tables and where report and pictures are."""
    from ragcun.isotropy import MeasureSettings
    from ragcun.retrieval.systems import open_system

    settings = MeasureSettings(seed=options.seed, k=options.k, sample=options.sample)
    several = len(options.datasets) > 1 or options.datasets == ("all",)
    model = None if options.embeddings else open_system(options.spec, options.encoding())
    shown = []
    for name, systems in _files(options) if model is None else _collections(options, model):
        measured = [_measured(system, settings) for system in systems]
        shown.append(_write(options.output_dir / name if several else options.output_dir, name, measured, settings))
    return "\n\n".join(shown)


def _files(options: Options) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """Yield the name of the embeddings and the arguments of `measure_system`."""
    from ragcun.embeddings.precomputed import open_matrix

    matrices = [open_matrix(path) if path else None for path in (options.embeddings, options.query_embeddings)]
    for path, matrix in zip((options.embeddings, options.query_embeddings), matrices, strict=True):
        if matrix is not None and matrix.ndim != 2:
            raise InputError(f"{path} must hold one matrix (n, dim); write it with numpy.save")
    named = {"model": options.embeddings, "documents": matrices[0], "queries": matrices[1]}
    yield Path(str(options.embeddings)).name, [named]


def _collections(options: Options, model: System) -> Iterator[tuple[str, Iterator[dict[str, Any]]]]:
    """Yield the name of each set of texts and the arguments of `measure_system` for each system."""
    from ragcun.data.records import read_documents

    if options.texts:
        documents = [document.content for document in read_documents(options.texts) if document.content]
        yield Path(options.texts).name, _systems(model, documents, [], [])
        return
    for folder in options.collections():
        collection = folder.load()
        rows = {name: row for row, name in enumerate(collection.documents)}
        pairs = [
            (place, rows[document])
            for place, query in enumerate(collection.queries)
            for document, score in collection.qrels.get(query, {}).items()
            if score > 0 and document in rows
        ]
        contents = [document.content for document in collection.documents.values()]
        yield folder.name, _systems(model, contents, list(collection.queries.values()), pairs)


def _systems(
    model: System, documents: list[str], queries: list[str], pairs: list[tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    """Encode the texts by the untouched base, where there is one, and by the model."""
    judged = len(queries) > 1
    retrievers: list[Any] = [model.untouched_base, model.retriever]
    for retriever in filter(None, retrievers):
        yield {
            "model": retriever.name,
            "documents": retriever.encoder.encode_document(documents),
            "queries": retriever.encoder.encode_query(queries) if judged else None,
            "pairs": pairs if judged and pairs else None,
            "untouched": retriever is not model.retriever or not model.trained,
            "distance": retriever.distance,
        }


def _measured(system: dict[str, Any], settings: MeasureSettings) -> SystemReport:
    from ragcun.isotropy.report import measure_system

    try:
        return measure_system(**system, settings=settings)
    except ValueError as error:
        raise InputError(f"the embeddings of {system['model']} cannot be measured: {error}") from error


def _write(folder: Path, name: str, systems: list[SystemReport], settings: MeasureSettings) -> str:
    from ragcun.io import write_json, write_text
    from ragcun.isotropy.report import IsotropyReport
    from ragcun.reporting.isotropy import isotropy_table, plot_isotropy
    from ragcun.training.run_dir import environment

    spaces = systems[0].spaces
    n_queries = spaces["queries"].n if "queries" in spaces else 0
    report = IsotropyReport(name, spaces["documents"].n, n_queries, systems, settings, environment("cpu"))
    figures, table = folder / "isotropy.json", isotropy_table(report)
    write_json(figures, report.to_dict())
    write_text(folder / "isotropy.md", table)
    names = ", ".join(path.name for path in plot_isotropy(figures, folder))
    return f"{table}\nfigures: {figures}, table: {folder / 'isotropy.md'}, pictures beside: {names}"
