"""``ragcun isotropy``: isotropy of a model beside its untouched base, or of a file of vectors."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from ragcun.cli.flags import CollectionFlags, EncodingFlags, ModelFlags
from ragcun.config import SEED_HELP
from ragcun.errors import InputError, as_input_error, require_package
from ragcun.options import check_one_of, flag

if TYPE_CHECKING:
    from ragcun.retrieval.systems import System


@dataclass(kw_only=True)
class Options(EncodingFlags, CollectionFlags, ModelFlags):
    """Flags of ``ragcun isotropy``."""

    title: ClassVar[str] = "measuring"
    embeddings: str | None = flag(None, "instead of a model: .npy of documents' embeddings (n, dim)", metavar="FILE")
    query_embeddings: str | None = flag(None, ".npy of embeddings of queries, with --embeddings", metavar="FILE")
    datasets: tuple[str, ...] = flag((), "folders in --data_dir, sets of BEIR, quick, or all")
    texts: str | None = flag(None, "or documents: .txt (one a line), .jsonl, .csv …", metavar="FILE")
    output_dir: Path = flag(
        Path("results/isotropy"), "folder for isotropy.json, isotropy.md and plots (several datasets: DIR/NAME each)"
    )
    sample: int = flag(20_000, "maximum number of rows for measures over all pairs of rows", at_least=100)
    k: int = flag(10, "neighbours for hubness", at_least=1)
    seed: int = flag(0, SEED_HELP, at_least=0)

    def __post_init__(self) -> None:
        check_one_of(self, "model_path", "model", "embeddings")
        if self.embeddings and (self.datasets or self.texts):
            raise InputError("--embeddings measures a file of vectors; leave out --datasets and --texts")
        if self.query_embeddings and not self.embeddings:
            raise InputError("--query_embeddings needs --embeddings; add the documents' file")
        if not self.embeddings:
            check_one_of(self, "datasets", "texts")
            self.require_embeddings()


def run(options: Options) -> tuple[str, dict[str, Any]]:
    """Measure a model beside its untouched base, and return the tables and where report and pictures are."""
    require_package("matplotlib", "report")
    from ragcun.embeddings.precomputed import open_matrix
    from ragcun.retrieval.systems import open_system

    if options.embeddings:
        files = {"documents": options.embeddings, "queries": options.query_embeddings}
        system: dict[str, Any] = {name: open_matrix(file) for name, file in files.items() if file}
        measured: Iterable[Any] = [(Path(options.embeddings).name, [system | {"model": options.embeddings}])]
    else:
        model = open_system(options.spec, options.encoding())
        measured = ((name, _systems(model, *texts)) for name, texts in _texts(options))
    several, tables, reports = len(options.datasets) > 1 or options.datasets == ("all",), [], {}
    for name, systems in measured:
        folder = options.output_dir / name if several else options.output_dir
        table, reports[name] = _report(options, folder, name, systems)
        tables.append(table)
    return "\n\n".join(tables), {"datasets": reports}


def _texts(options: Options) -> Iterator[tuple[str, tuple[list[str], list[str], list[tuple[int, int]]]]]:
    """Yield the name of each set of texts, its documents, its queries, and the rows of judged pairs of these."""
    from ragcun.data.records import read_documents

    if options.texts:
        documents = [document.content for document in read_documents(options.texts) if document.content]
        yield Path(options.texts).name, (documents, [], [])
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
        yield folder.name, (contents, list(collection.queries.values()), pairs)


def _systems(
    model: System, documents: list[str], queries: list[str], pairs: list[tuple[int, int]]
) -> Iterator[dict[str, Any]]:
    """Encode the texts by the untouched base, where there is one, and by the model, for `measure_system`."""
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


def _report(options: Options, folder: Path, name: str, systems: Iterable[Any]) -> tuple[str, dict[str, Any]]:
    """Measure systems, write report and pictures into a folder, and return the table and where they are."""
    from ragcun.environment import environment
    from ragcun.io import write_json, write_text
    from ragcun.isotropy import MeasureSettings
    from ragcun.isotropy.report import IsotropyReport, measure_system
    from ragcun.reporting.isotropy import isotropy_table, plot_isotropy

    settings, measured = MeasureSettings(seed=options.seed, k=options.k, sample=options.sample), []
    for system in systems:
        with as_input_error(f"the embeddings of {system['model']} cannot be measured"):
            measured.append(measure_system(**system, settings=settings))
    spaces = measured[0].spaces
    n_queries = spaces["queries"].n if "queries" in spaces else 0
    report = IsotropyReport(name, spaces["documents"].n, n_queries, measured, settings, environment("cpu"))
    figures, table = folder / "isotropy.json", isotropy_table(report)
    content = report.to_dict()
    write_json(figures, content)
    write_text(folder / "isotropy.md", table)
    names = ", ".join(path.name for path in plot_isotropy(figures, folder))
    text = f"{table}\nfigures: {figures}, table: {folder / 'isotropy.md'}, pictures beside: {names}"
    return text, content
