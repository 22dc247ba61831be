"""NDCG@10 of words against word pieces, their weights and their rows, and of heads on both.

python benchmarks/lexical_pieces.py DATA_DIR SET/SPLIT ... [--seeds 1 2 3]: with seeds, heads are trained on the
training queries of each set, word pieces as a checkpoint has them.
"""

from __future__ import annotations

import argparse
import itertools

import numpy as np
import scipy.sparse as sp
from lexical_trials import Scores, opened, read_arguments
from sklearn.preprocessing import normalize
from tokenizers import Tokenizer

from ragcun import EmbeddingCache, TextBase, fit_head
from ragcun.data.beir import load_collection
from ragcun.embeddings.analysis import Analyser, TermCounter
from ragcun.embeddings.cache import JoinedSource
from ragcun.embeddings.joined import JoinedBase, piece_analyser
from ragcun.embeddings.lexical import LexicalChannel, _right_singular_vectors, _weigh

WEIGHTS = (0.3, 0.5)
POWER = -0.5


def analysers(base: TextBase) -> dict[str, Analyser]:
    """Words, word pieces of whole texts, and those that the text model reads."""
    read = piece_analyser(base)
    tokenizer = Tokenizer.from_str(read.pieces)
    tokenizer.no_truncation()
    return {"words": Analyser("en"), "pieces": Analyser(pieces=tokenizer.to_str()), "pieces read": read}


def compare(scores: Scores, analyser: Analyser, name: str) -> None:
    """Print a row for each kind of weights and rows."""
    counter = TermCounter(analyser)
    documents = counter.count(scores.documents)
    queries = TermCounter(analyser, dict(counter.vocabulary)).count(scores.queries)
    count, frequency = documents.shape[0], np.bincount(documents.indices, minlength=documents.shape[1])
    idf = np.log(1 + (count - frequency + 0.5) / (frequency + 0.5)).astype(np.float32)
    length = float(documents.sum()) / count
    values, vectors = _right_singular_vectors(_weigh(documents.copy(), idf, length), 384)

    def weighed(counts: sp.csr_matrix, weights: str) -> sp.csr_matrix:
        if weights == "saturated":
            return _weigh(counts.copy(), idf, length)
        data = idf[counts.indices] * (counts.data if weights == "raw" else 1)
        return sp.csr_matrix((data, counts.indices, counts.indptr), counts.shape)

    for weights, rows, dim in itertools.product(("saturated", "presence", "raw"), ("unit", "√length"), (384, 128)):
        if rows != "unit" and weights != "raw":
            continue
        projection = vectors[:, :dim] * values[:dim] ** POWER
        parts = [weighed(counts, weights) @ projection for counts in (queries, documents)]
        if rows == "unit":
            query, document = map(normalize, parts)
        else:
            roots = [np.sqrt(np.maximum(counts.sum(axis=1), 1)).A1 for counts in (queries, documents)]
            query, document = (part / root[:, None] for part, root in zip(parts, roots, strict=True))
            mean = np.linalg.norm(document, axis=1).mean()
            query, document = query / mean, document / mean
        lengths = np.square(document).sum(axis=1)
        found = [scores.ndcg((scores.dense + a * query @ document.T) / np.sqrt(1 + a * lengths)) for a in WEIGHTS]
        print(f"  {name}, {weights}, {rows} rows, {dim}: " + " / ".join(f"{value:.4f}" for value in found), flush=True)


def train(cache: EmbeddingCache, data_dir: str, name: str, scores: Scores, seeds: list[int]) -> None:
    """Print NDCG@10 of heads on joined vectors, trained with the defaults of `fit_head`."""
    training = load_collection(f"{data_dir}/{name}", "train")
    rows = {key: row for row, key in enumerate(training.documents)}
    names = list(training.queries)
    pairs = [
        (number, rows[key])
        for number, query in enumerate(names)
        for key, score in training.qrels[query].items()
        if score > 0 and key in rows
    ]
    for terms, dim in (("words", 384), ("pieces", 384), ("pieces", 128)):
        analyser = piece_analyser(cache.base) if terms == "pieces" else Analyser("en")
        channel = LexicalChannel.fit(scores.documents, dim, analyser)
        source = JoinedSource(cache, JoinedBase(cache.base, channel, scores.weight))
        documents, queries = source.encode(scores.documents, "document"), source.encode(scores.queries, "query")
        given = source.encode([training.queries[query] for query in names], "query")
        print(f"  {terms} {dim}, no labels: {scores.ndcg(normalize(queries) @ normalize(documents).T):.4f}", flush=True)
        for seed in seeds:
            head = fit_head(given, documents, pairs, seed=seed)
            found = head.embed_documents(documents)
            ranks = 2 * head.embed_queries(queries) @ found.T - np.square(found).sum(axis=1)
            print(f"  {terms} {dim}, trained, seed {seed}: {scores.ndcg(ranks):.4f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", nargs="+", type=int, default=[])
    args = read_arguments(parser, "float32")
    for spec, cache, scores in opened(args):
        print(f"{spec}: base {scores.ndcg(scores.dense):.4f}, weight of the documents {scores.weight:.3f}", flush=True)
        if args.seeds:
            train(cache, args.data_dir, spec.split("/")[0], scores, args.seeds)
        else:
            for kind, analyser in analysers(cache.base).items():
                compare(scores, analyser, kind)


if __name__ == "__main__":
    main()
