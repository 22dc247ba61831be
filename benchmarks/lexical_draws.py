"""NDCG@10 on test queries of the base joined with the channel, no labels, by the draw of the decomposition.

With ``--share .1`` each draw also fits the channel on a tenth of the documents, and folds the others in.
"""

import argparse
import statistics
from functools import partial
from pathlib import Path
from unittest.mock import patch

import numpy as np
from sklearn.utils import extmath
from sklearn.utils.extmath import randomized_svd

import ragcun
from ragcun.cli.parser import run_script
from ragcun.embeddings.cache import JoinedSource
from ragcun.embeddings.joined import JoinedBase, lexical_weight
from ragcun.embeddings.lexical import LexicalChannel, lexical_dim
from ragcun.models.cached_encoder import CachedEncoder
from ragcun.retrieval.systems import DenseRetriever, evaluate_retriever


def decompose(draw: int, *given, random_state: int, **settings):
    """Call scikit-learn's decomposition with another random state than the library gives."""
    return randomized_svd(*given, random_state=draw, **settings)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--datasets", nargs="+", default=("scifact", "nfcorpus"))
    parser.add_argument("--model", default="minilm")
    parser.add_argument("--base_dtype", default="float32")
    parser.add_argument("--draws", type=int, default=10, help="draw 0 is the library's")
    parser.add_argument("--share", type=float, default=1.0, help="share of the documents that the channel is fitted on")
    flags = parser.parse_args()
    base = ragcun.TextBase.load(flags.model)
    base.compute_in(flags.base_dtype)
    cache = ragcun.EmbeddingCache(base)
    for name in flags.datasets:
        collection = ragcun.load_collection(flags.data_dir / name)
        texts = [*dict.fromkeys(filter(None, (document.content for document in collection.documents.values())))]
        weight, found = lexical_weight(cache.encode(texts, "document")), []
        for draw in range(flags.draws):
            with patch.object(extmath, "randomized_svd", partial(decompose, draw)):
                rows = np.random.default_rng(draw).choice(len(texts), round(flags.share * len(texts)), replace=False)
                fitted = LexicalChannel.fit([texts[row] for row in np.sort(rows)], lexical_dim(len(texts)))
                joined = JoinedBase(base, fitted, weight)
            encoder = CachedEncoder(JoinedSource(cache, joined))
            found.append(evaluate_retriever(DenseRetriever("joined", encoder, "cosine"), collection).mean["NDCG@10"])
        shown = " ".join(f"{each:.4f}" for each in found)
        print(f"{name}: mean {statistics.mean(found):.4f}, sd {statistics.stdev(found):.4f}; draws {shown}", flush=True)


if __name__ == "__main__":
    run_script(main)
