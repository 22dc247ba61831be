"""``ragcun memorize`` and ``ragcun overlap``: what training labels give an index, and what they make of a test."""

from __future__ import annotations

from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Any, ClassVar

from ragcun.cli.flags import CollectionFlags, EncodingFlags, ModelFlags
from ragcun.errors import InputError
from ragcun.options import check_one_of, flag


@dataclass(kw_only=True)
class MemorizeOptions(EncodingFlags, CollectionFlags, ModelFlags):
    """Flags of ``ragcun memorize``."""

    title: ClassVar[str] = "memory"
    output_dir: Path = flag(Path("memory"), "folder to write: NAME/documents.npy, documents.txt and memory.json")
    strength: float | None = flag(None, "how far documents move (default: chosen on held-out queries)", at_least=0)

    def __post_init__(self) -> None:
        check_one_of(self, "model_path", "model")
        self.require_embeddings()


def memorize(options: MemorizeOptions) -> str:
    """Write the embeddings of documents moved towards their training queries, and say how far and why."""
    import numpy as np

    from ragcun.data.overlap import read_seen
    from ragcun.io import replacing_file, write_json, write_text
    from ragcun.results import reason
    from ragcun.retrieval.memory import Labels, MovedDocuments
    from ragcun.retrieval.systems import DenseRetriever, open_system

    folders, lines = options.collections(), []
    system = open_system(options.spec, options.encoding())
    seen = read_seen(system.retriever.name) if system.trained else frozenset()
    for folder in folders:
        collection = folder.load()
        labels = Labels({folder.name: folder.path})
        if not labels.pairs(collection) or not isinstance(system.retriever, DenseRetriever):
            raise InputError(f"{folder.path}: no training queries in qrels/train.tsv to move documents by; add them")
        memory = MovedDocuments.of(system.retriever, labels, seen)
        if options.strength is not None:
            memory.chosen[folder.name] = {"memory": {"chosen": options.strength, "why": "as given"}}
        vectors, place = memory.documents(collection), options.output_dir / folder.name
        with replacing_file(place / "documents.npy") as temporary, temporary.open("wb") as file:
            np.save(file, vectors)
        write_text(place / "documents.txt", "".join(f"{name}\n" for name in collection.documents))
        record = memory.chosen[folder.name]["memory"]
        write_json(place / "memory.json", {"model": options.spec, "distance": system.distance, **record})
        lines.append(f"{folder.name}: strength {reason(record)}; vectors: {place}")
    return "\n".join([*lines, "Memory of training queries says nothing about documents without them."])


def overlap(
    train: Path = flag(MISSING, "judgments that a system was trained on: query, document and score, or TREC qrels"),
    qrels: Path = flag(MISSING, "judgments to measure by, in the same formats"),
    run: tuple[Path, ...] = flag(MISSING, "TREC runs; the others are tested against the first"),
    output_file: Path = flag(Path("results/overlap.json"), "results, as JSON, and a table beside it", short="output"),
    seed: int = flag(0, "seed of the randomisation test", at_least=0),
) -> tuple[str, dict[str, Any]]:
    """Measure runs on the queries with and without a relevant document that training has seen; by ids of documents."""
    from ragcun.data.beir import Collection, Document, read_qrels
    from ragcun.data.overlap import text_hashes
    from ragcun.io import write_text
    from ragcun.reporting.tables import results_table
    from ragcun.retrieval.benchmark import run_benchmark
    from ragcun.retrieval.runs import StoredRetriever, read_run
    from ragcun.retrieval.systems import System

    judged, trained = read_qrels(qrels), read_qrels(train)
    runs = [documents for path in run for documents in read_run(path).values()]
    names = set().union(*judged.values(), *runs)
    documents = {name: Document("", name) for name in sorted(names)}  # a document's text is its id
    collection = Collection(qrels.stem, documents, dict.fromkeys(judged, ""), judged, qrels.stem)
    seen = text_hashes(name for scores in trained.values() for name, score in scores.items() if score > 0)
    first, *others = (System(StoredRetriever(path.stem, path), "run") for path in run)
    made = {"command": "overlap", "train": str(train), "qrels": str(qrels)}
    results = run_benchmark(first, others, [collection], output_file, made, seed=seed, remembered=lambda _: seen)
    table, page = results_table(results), output_file.with_suffix(".md")
    write_text(page, table)
    return f"{table}\ntable: {page}, figures: {output_file}", results.to_dict()
