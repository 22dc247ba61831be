"""NDCG@10 of joined vectors by dimension and whitening, no labels: lexical_whitening.py DIR scifact/train pairs/wikiqa.

A set is SET/SPLIT of a BEIR folder (the first 1,000 queries of train), or pairs/NAME, a file of pairs whose answers are
the documents (a sample of 1,500). Printed: NDCG@10 of base and joined vectors and the difference that whitening makes
(``--exponents`` without numbers: none), on all documents and on a random third of them.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np
from joined_study import cache_of, ndcg
from sklearn.preprocessing import normalize

import ragcun
from ragcun.config import LEXICAL_DIM
from ragcun.embeddings.joined import lexical_weight
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.models.whitening import calibrate

QUERIES, PAIRS = 1000, 1500


def read(folder: Path, spec: str) -> tuple[list[str], list[str], np.ndarray]:
    """Return documents, queries and gains ``(queries, documents)``."""
    name, split = spec.split("/")
    if name == "pairs":
        rows = [json.loads(line) for line in (folder / f"{spec}.jsonl").read_text().splitlines()]
        rows = [rows[row] for row in np.random.default_rng(0).permutation(len(rows))[:PAIRS]]
        relevant = {(row["query"], row["positive"]): 1 for row in rows}
        queries, documents = (list(dict.fromkeys(texts)) for texts in zip(*relevant, strict=True))
    else:
        collection = ragcun.load_collection(folder / name, split)
        chosen = list(collection.queries)[: QUERIES if split == "train" else None]
        texts = {key: document.content for key, document in collection.documents.items() if document.content}
        documents, queries = list(dict.fromkeys(texts.values())), [collection.queries[key] for key in chosen]
        judged = ((key, one, score) for key in chosen for one, score in collection.qrels[key].items() if one in texts)
        relevant = {(collection.queries[key], texts[one]): max(score, 0) for key, one, score in judged}
    rows, columns = ({text: place for place, text in enumerate(texts)} for texts in (queries, documents))
    gains = np.zeros((len(queries), len(documents)), dtype=np.float32)
    for (query, document), score in relevant.items():
        gains[rows[query], columns[document]] = score
    return documents, queries, gains


def figures(
    documents: list[str],
    queries: list[str],
    dense: list[np.ndarray],
    gains: np.ndarray,
    dim: int,
    exponents: list[float],
) -> str:
    """Return the figures of one set as a line; `dense` are vectors of documents and of queries."""
    channel, weight = LexicalChannel.fit(documents, dim), lexical_weight(dense[0])
    texts = zip(dense, (documents, queries), ("document", "query"), strict=True)
    joined = [np.hstack([normalize(v), np.sqrt(weight) * channel.encode(t, role)]) for v, t, role in texts]
    base, plain = (np.nanmean(ndcg(normalize(q), normalize(d), gains)) for d, q in (dense, joined))
    line = f"{len(documents)} documents, a {weight:.2f}, {dim}: base {base:.4f}, joined {plain:.4f} {plain - base:+.4f}"
    for exponent in exponents:
        fit = calibrate(joined[0], exponent=exponent)
        value = np.nanmean(ndcg(fit.embed_queries(joined[1]), fit.embed_documents(joined[0]), gains))
        line += f", exponent {exponent} {value - plain:+.4f}"
    return line


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data_dir", type=Path)
    parser.add_argument("sets", nargs="+", metavar="SET")
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--base_dtype", default="float32")
    parser.add_argument("--dims", type=int, nargs="+", default=[LEXICAL_DIM])
    parser.add_argument("--exponents", type=float, nargs="*", default=[0.05, 0.1, 0.15])
    flags = parser.parse_args()
    cache = cache_of(flags.model, flags.base_dtype)
    for spec in flags.sets:
        documents, queries, gains = read(flags.data_dir, spec)
        dense = [cache.encode(documents, "document"), cache.encode(queries, "query")]
        third = np.sort(np.random.default_rng(1).permutation(len(documents))[: len(documents) // 3])
        for part in (np.arange(len(documents)), third):
            asked = np.flatnonzero(gains[:, part].any(axis=1))
            some = [documents[row] for row in part], [queries[row] for row in asked]
            vectors, judged = [dense[0][part], dense[1][asked]], gains[np.ix_(asked, part)]
            for dim in flags.dims:
                print(f"{spec}, {figures(*some, vectors, judged, dim, flags.exponents)}", flush=True)


if __name__ == "__main__":
    main()
