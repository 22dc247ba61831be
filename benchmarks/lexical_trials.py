"""NDCG@10 of one vector [dense ; √a · lexical], no labels: python benchmarks/lexical_trials.py DATA_DIR SET/SPLIT ...

Choose settings on dev queries alone: SciFact's and nq-qed's are the first 1000 of their training split. ``--variants``
compares other terms, weights and fields instead, at the default's weight and the first of ``--dims``. ``--train_terms
RATE ...`` trains the vectors of the terms by InfoNCE on training queries: on four fifths of SET/train to measure the
rest, or on all of them to measure another split.
"""

from __future__ import annotations

import argparse
import dataclasses
import itertools
from collections.abc import Iterator

import numpy as np
import scipy.sparse as sp
import torch
from sklearn.preprocessing import minmax_scale, normalize
from sklearn.utils.extmath import randomized_svd

from ragcun import EmbeddingCache, TextBase
from ragcun.data.beir import Collection, hold_out_queries, load_collection
from ragcun.embeddings.analysis import K1, Analyser, B, TermCounter
from ragcun.embeddings.joined import lexical_weight
from ragcun.embeddings.lexical import LexicalChannel
from ragcun.retrieval.bm25 import BM25

QUERIES = 1000
VARIANTS = {
    "default: words, BM25's weights": {},
    "words and pairs of words": {"pairs": True},
    "log(1 + tf) · idf": {"frequency": "log"},
    "tf · idf": {"frequency": "raw"},
    "whether a term occurs · idf": {"frequency": "binary"},
    "BM25's frequency, no idf": {"idf_power": 0},
    "idf to the power .75": {"idf_power": 0.75},
    "idf to the power 1.5": {"idf_power": 1.5},
    "idf to the power 2": {"idf_power": 2},
    "k1 1.2": {"k1": 1.2},
    "b .75": {"b": 0.75},
    "documents' rows of weights not scaled": {"scaled": False},
}


class Scores:
    """Scores of all documents of a collection for its queries, and their NDCG@10."""

    def __init__(self, cache: EmbeddingCache, collection: Collection, queries: int | None) -> None:
        names = list(collection.queries)[:queries]
        self.documents = [document.content for document in collection.documents.values()]
        self.fields = [
            [d.title for d in collection.documents.values()],
            [d.text for d in collection.documents.values()],
        ]
        self.queries = [collection.queries[name] for name in names]
        columns = {key: column for column, key in enumerate(collection.documents)}
        self.gains = np.zeros((len(names), len(columns)), dtype=np.float32)
        for row, name in enumerate(names):
            for key, score in collection.qrels[name].items():
                if key in columns:
                    self.gains[row, columns[key]] = max(score, 0)
        documents = cache.encode(self.documents, "document")
        self.cache, self.dense_documents = cache, normalize(documents)
        self.dense = normalize(cache.encode(self.queries, "query")) @ self.dense_documents.T
        self.weight = lexical_weight(documents)

    def lexical(self, **settings: object) -> np.ndarray:
        """Similarities of the lexical channel."""
        channel = LexicalChannel.fit(self.documents, **settings)
        return channel.encode(self.queries, "query") @ channel.encode(self.documents, "document").T

    def with_trained_terms(
        self, queries: list[str], positives: list[int], rate: float, steps: int = 150, temperature: float = 0.1
    ) -> np.ndarray:
        """Similarities of the default channel after its terms' vectors are trained on queries and documents' rows."""
        torch.manual_seed(1)
        channel, rows = LexicalChannel.fit(self.documents), self.dense_documents[positives]
        texts = (queries, [self.documents[row] for row in positives])
        weights = [term_weights(channel, each) for each in texts]
        asked, found = map(torch.from_numpy, (normalize(self.cache.encode(queries, "query")), rows))
        terms = torch.nn.Parameter(torch.from_numpy(channel.projection.copy()))
        optimizer, own = torch.optim.Adam([terms], rate), torch.tensor(positives)
        for _ in range(steps):
            chosen = torch.randperm(len(queries))[:128]
            q, d = (torch.nn.functional.normalize(as_tensor(each[chosen.numpy()]) @ terms, dim=1) for each in weights)
            logits = (asked[chosen] @ found[chosen].T + self.weight * q @ d.T) / ((1 + self.weight) * temperature)
            same = (own[chosen][:, None] == own[chosen]) & ~torch.eye(len(chosen), dtype=torch.bool)
            loss = torch.nn.functional.cross_entropy(logits.masked_fill(same, -torch.inf), torch.arange(len(chosen)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        moved = dataclasses.replace(channel, projection=terms.detach().numpy())
        return moved.encode(self.queries, "query") @ moved.encode(self.documents, "document").T

    def by_field(self, dim: int) -> np.ndarray:
        """Similarities of two channels of `dim` dimensions together, one of titles and one of texts."""
        total = np.zeros_like(self.dense)
        for texts in self.fields:
            channel = LexicalChannel.fit(texts, dim // 2)
            total += channel.encode(self.queries, "query") @ channel.encode(texts, "document").T
        return total / 2

    def variant(self, dim: int = 384, power: float = -0.25, pairs: bool = False, **weights: object) -> np.ndarray:
        """Similarities of a channel of other terms or weights."""
        analyser, columns = Analyser.of(self.documents), dict[str, int]()
        counts = [terms_matrix(analyser(texts), columns, pairs) for texts in (self.documents, self.queries)]
        size = counts[0].shape[1]
        frequency = np.diff(counts[0].tocsc().indptr)
        kept = frequency > (1 if pairs else 0)  # pairs of one document alone connect nothing
        idf = np.log(1 + (len(self.documents) - frequency + 0.5) / (frequency + 0.5))
        mean = counts[0].sum() / counts[0].shape[0]
        rows = [weigh(each[:, :size][:, kept], idf[kept], mean, **weights) for each in counts]
        _, values, vectors = randomized_svd(rows[0], dim, n_iter=4, random_state=0)
        documents, queries = (normalize(each @ (vectors.T * values**power)) for each in rows)
        return (queries @ documents.T).astype(np.float32)

    def bm25(self) -> np.ndarray:
        """Scores of BM25."""
        index = BM25(dict(enumerate(self.documents)))
        return np.stack([index.scores(terms) for terms in index.tokenize(self.queries)])

    def fused(self, one: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
        """Scores of two fused, each scaled to 0 … 1."""
        return (1 - share) * best_hundred(one) + share * best_hundred(other)

    def ndcg(self, scores: np.ndarray) -> float:
        """Mean NDCG@10."""
        discount = 1 / np.log2(np.arange(2, 12))
        top = np.argsort(-scores, axis=1, kind="stable")[:, :10]
        ideal = -np.sort(-self.gains, axis=1)[:, :10] @ discount
        return float((np.take_along_axis(self.gains, top, axis=1) @ discount / ideal).mean())


def terms_matrix(analysed: list[list[str]], columns: dict[str, int], pairs: bool) -> sp.csr_matrix:
    """Return the counts of terms, and of neighbours, giving new ones columns."""
    indices, starts = [], [0]
    for terms in analysed:
        found = [*terms, *map(" ".join, itertools.pairwise(terms))] if pairs else terms
        indices += [columns.setdefault(term, len(columns)) for term in found]
        starts.append(len(indices))
    counts = sp.csr_matrix((np.ones(len(indices)), indices, starts), shape=(len(analysed), len(columns)))
    counts.sum_duplicates()
    return counts


def weigh(
    counts: sp.csr_matrix,
    idf: np.ndarray,
    mean: float,
    frequency: str = "bm25",
    scaled: bool = True,
    idf_power: float = 1,
    k1: float = K1,
    b: float = B,
) -> sp.csr_matrix:
    """Return rows of term weights."""
    out = counts.copy()
    if frequency == "bm25":
        lengths = np.repeat(np.asarray(counts.sum(1)).ravel(), np.diff(counts.indptr))
        out.data = out.data / (out.data + k1 * (1 - b + b * lengths / mean))
    elif frequency != "raw":
        out.data = np.log1p(out.data) if frequency == "log" else np.ones_like(out.data)
    out.data = out.data * idf[out.indices] ** idf_power
    return normalize(out) if scaled else out


def term_weights(channel: LexicalChannel, texts: list[str]) -> sp.csr_matrix:
    """Return rows of the channel's term weights, of length 1."""
    counts = TermCounter(channel.analyser, channel.vocabulary).count(texts).astype(np.float64)
    return weigh(counts, channel.idf, channel.mean_length)


def as_tensor(rows: sp.csr_matrix) -> torch.Tensor:
    """Return a sparse matrix as torch's."""
    rows = rows.tocoo()
    return torch.sparse_coo_tensor(
        np.stack([rows.row, rows.col]), rows.data, rows.shape, dtype=torch.float32
    ).coalesce()


def train_terms(collection: Collection, training: Collection, scores: Scores, rate: float) -> tuple[float, float]:
    """Return NDCG@10 of the queries of `collection` that `training` lacks, with the channel untrained and trained."""
    row_of = {key: row for row, key in enumerate(collection.documents)}
    pairs = [
        (training.queries[query], row_of[key])
        for query, judged in training.qrels.items()
        for key, score in judged.items()
        if score > 0 and key in row_of
    ]
    queries, positives = map(list, zip(*pairs, strict=True))
    trained = scores.with_trained_terms(queries, positives, rate)
    return scores.ndcg(scores.dense + scores.weight * scores.lexical()), scores.ndcg(
        scores.dense + scores.weight * trained
    )


def best_hundred(scores: np.ndarray) -> np.ndarray:
    """Scores of a query's best 100 documents scaled to 0 … 1, 0 elsewhere."""
    floor = -np.partition(-scores, 99, axis=1)[:, 99:100]
    kept = np.maximum(scores, floor)
    return minmax_scale(kept, axis=1)


def read_arguments(parser: argparse.ArgumentParser, base_dtype: str) -> argparse.Namespace:
    """Add the arguments that all trials of the channel share, and read all."""
    parser.add_argument("data_dir")
    parser.add_argument("sets", nargs="+", metavar="SET/SPLIT")
    parser.add_argument("--base_dtype", default=base_dtype)
    return parser.parse_args()


def opened(args: argparse.Namespace) -> Iterator[tuple[str, EmbeddingCache, Scores]]:
    """Yield each set's SET/SPLIT, the cache of the base's vectors, and the scores."""
    base = TextBase.load("minilm")
    base.compute_in(args.base_dtype)
    cache = EmbeddingCache(base)
    for spec in args.sets:
        name, split = spec.split("/")
        collection = load_collection(f"{args.data_dir}/{name}", split)
        yield spec, cache, Scores(cache, collection, QUERIES if split == "train" else None)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--dims", nargs="+", type=int, default=[384])
    parser.add_argument("--powers", nargs="+", type=float, default=[-0.25])
    parser.add_argument("--weights", nargs="+", type=float, default=[0.3, 0.5])
    parser.add_argument("--variants", action="store_true")
    parser.add_argument("--train_terms", nargs="+", type=float, metavar="RATE")
    args = read_arguments(parser, "auto")
    for spec, cache, scores in opened(args):
        for rate in args.train_terms or ():
            name, split = spec.split("/")
            training = load_collection(f"{args.data_dir}/{name}", "train")
            measured = training if split == "train" else load_collection(f"{args.data_dir}/{name}", split)
            if split == "train":
                training, measured = hold_out_queries(training, 0.2, 1)
            parts = Scores(cache, measured, None)
            before, after = train_terms(measured, training, parts, rate)
            base = parts.ndcg(parts.dense)
            print(
                f"{spec}, base {base:.4f}, joined {before - base:+.4f}, terms at {rate}: {after - base:+.4f}",
                flush=True,
            )
        if args.train_terms:
            continue
        if args.variants:
            named = {name: (scores.variant, {"dim": args.dims[0], **settings}) for name, settings in VARIANTS.items()}
            named |= {"a channel of titles and one of texts, 192 each": (scores.by_field, {"dim": 384})}
            named |= {"the same, 384 each": (scores.by_field, {"dim": 768})}
            for variant, (method, settings) in named.items():
                gain = scores.ndcg(scores.dense + scores.weight * method(**settings)) - scores.ndcg(scores.dense)
                print(f"{spec}, a {scores.weight:.2f}, {variant}: {gain:+.4f}", flush=True)
            continue
        bm25 = scores.bm25()
        fused = {share: scores.ndcg(scores.fused(scores.dense, bm25, share)) for share in (0.3, 0.5)}
        print(f"{spec}: base {scores.ndcg(scores.dense):.4f}, BM25 {scores.ndcg(bm25):.4f}", end="")
        print("".join(f", fused {share} {value:.4f}" for share, value in fused.items()), flush=True)
        for dim, power in itertools.product(args.dims, args.powers):
            lexical = scores.lexical(dim=dim, power=power)
            print(f"  dim {dim}, power {power}", end="")
            for weight in (*args.weights, scores.weight):
                joined = scores.dense + weight * lexical
                both = scores.ndcg(scores.fused(joined, bm25, 0.3))
                print(f"; a {weight:.3f}: {scores.ndcg(joined):.4f}, fused with BM25 .3 {both:.4f}", end="")
            print(" (the last a is the default's)", flush=True)


if __name__ == "__main__":
    main()
