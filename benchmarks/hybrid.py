"""What hybrid search costs: CPU time of each step, once texts are encoded; and of fusing two long runs."""

import argparse
import time
from pathlib import Path

import numpy as np

import ragcun
from ragcun.cli.parser import run_script
from ragcun.embeddings.cache import vector_source
from ragcun.models.cached_encoder import CachedEncoder
from ragcun.models.encoder import RetrievalEncoder
from ragcun.retrieval.bm25 import BM25
from ragcun.retrieval.hybrid import fuse, move_queries
from ragcun.retrieval.systems import DenseRetriever


def timed(name: str, queries: int, function):
    """Run a function, print its CPU time, and return what it returns."""
    start = time.process_time()
    result = function()
    seconds = time.process_time() - start
    print(f"{name:<34} {1000 * seconds / queries:8.2f} ms a query {seconds:8.2f} s", flush=True)
    return result


def measure(collection: ragcun.Collection, encoder: CachedEncoder) -> None:
    """Time hybrid search of a collection, with feedback."""
    dense, count = DenseRetriever("model", encoder, "cosine"), len(collection.queries)
    index = BM25({key: document.content for key, document in collection.documents.items()})
    embedded = dense.embedded(collection)
    embedded = embedded._replace(documents=embedded.documents[:])
    scores = index._index.scores
    size = sum(array.nbytes for array in (scores["data"], scores["indices"], scores["indptr"]))
    print(
        f"{collection.name}: {len(collection.documents):,} documents, {count} queries; bytes a document: vectors",
        end=" ",
    )
    print(f"{embedded.documents.nbytes / len(embedded.documents):,.0f}, BM25 {size / len(embedded.documents):,.0f}")
    first = timed("dense search", count, lambda: dense.search(collection, embedded, 100))
    words = timed("bm25", count, lambda: index.run(collection.queries, own_ids=collection.own_ids))
    fused = timed("fusion", count, lambda: fuse([first, words], (0.7, 0.3)))
    moved = timed("feedback: move queries", count, lambda: move_queries(embedded, collection, fused, 2, 0.3))
    again = embedded._replace(queries=moved)
    second = timed("feedback: search again", count, lambda: dense.search(collection, again, 100))
    timed("feedback: fuse again", count, lambda: fuse([second, words], (0.7, 0.3)))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--datasets", nargs="+", default=("scifact", "nfcorpus"))
    parser.add_argument("--model_path", help="checkpoint (default: the untouched base)")
    flags = parser.parse_args()
    model = RetrievalEncoder.from_pretrained(flags.model_path) if flags.model_path else None
    cache = vector_source(model.base if model else ragcun.TextBase.load("minilm"))
    for name in flags.datasets:
        measure(ragcun.load_collection(flags.data_dir / name), CachedEncoder(cache, model))
    rng = np.random.default_rng(0)
    runs = [
        {f"q{q}": {f"d{d}": -float(r) for r, d in enumerate(rng.permutation(5000)[:1000])} for q in range(1000)}
        for _ in range(2)
    ]
    timed("fusion, 1,000 queries × top 1,000", 1000, lambda: fuse(runs, k=1000, depth=1000))


if __name__ == "__main__":
    run_script(main)
