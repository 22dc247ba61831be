"""Which share of BM25 and which feedback help a trained head, by cross-validation on the training queries alone.

Heads are trained on four fifths of the training queries with the default recipe; the others measure them. Printed are
NDCG@10 of the untouched base and of the head alone, and the gains of the others over the head;
`ragcun.retrieval.hybrid` has the values that were chosen by them.
"""

import argparse
import itertools
from pathlib import Path

import numpy as np

import ragcun
from ragcun.cli.parser import run_script
from ragcun.data.beir import pairs_from_collection, query_folds
from ragcun.data.overlap import seen_queries
from ragcun.embeddings.cache import vector_source
from ragcun.models.cached_encoder import CachedEncoder
from ragcun.retrieval.hybrid import Feedback, HybridRetriever
from ragcun.retrieval.memory import AppendedQueries, Labels
from ragcun.retrieval.metrics import evaluate_run
from ragcun.retrieval.runs import Run
from ragcun.retrieval.systems import BM25Retriever, DenseRetriever
from ragcun.training.loop import fit_encoder
from ragcun.training.run_dir import RunFolder
from ragcun.training.setup import TrainingData

FOLDS = 5
SHARES = (0.05, 0.1, 0.15, 0.2, 0.3, 0.4, 0.5)
BASE, HEAD = "untouched base", "head alone"
FEEDBACK = ((0, 0.0), (1, 0.2), (1, 0.3), (2, 0.2), (2, 0.3))


def measure(folder: Path, train: ragcun.Collection, held: ragcun.Collection, config: ragcun.TrainConfig):
    """Return which held-out queries are seen, and NDCG@10 of each by setting."""
    data = TrainingData(pairs_from_collection(train, whole_corpus=True))
    encoder = fit_encoder(config, data, RunFolder(None))[0].eval()
    source = vector_source(encoder.base)
    head = DenseRetriever("head", CachedEncoder(source, encoder))
    base = DenseRetriever("base", CachedEncoder(source.untouched), encoder.base.distance)
    labels = Labels({held.name: folder})

    def scores(run: Run) -> np.ndarray:
        return np.array([*evaluate_run(run, held.qrels, (10,))["NDCG@10"].values()])

    found = {BASE: scores(base.retrieve(held, 100)), HEAD: scores(head.retrieve(held, 100))}
    remembering = AppendedQueries(labels=labels, chosen={held.name: {"memory": {"chosen": 1.0}}})
    for words in (BM25Retriever(), remembering):
        fused = HybridRetriever((head, words))
        for share, feedback in itertools.product(SHARES, FEEDBACK):
            run = fused.fused(held, 100, share, Feedback(*feedback, share))
            found[f"{words.name}, share {share}, feedback {feedback}"] = scores(run)
    seen = seen_queries(held, labels.seen(held))
    return np.array([query in seen for query in held.qrels]), found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data_dir", type=Path, default=Path("data"))
    parser.add_argument("--datasets", nargs="+", default=("scifact", "nfcorpus", "nq-qed"))
    parser.add_argument("--base_dtype", default="float32")
    parser.add_argument("--mine_every", type=int)
    flags = parser.parse_args()
    for name in flags.datasets:
        folder, parts = flags.data_dir / name, []
        for fold, (train, held) in enumerate(query_folds(ragcun.load_collection(folder, "train"), FOLDS, 0)):
            how = {"base_dtype": flags.base_dtype, "mine_every": flags.mine_every, "seed": fold + 1}
            config = ragcun.TrainConfig(train_data=str(folder), **how)
            parts.append(measure(folder, train, held, config))
        seen = np.concatenate([part[0] for part in parts])
        for setting in parts[0][1]:
            values = [part[1][setting] - (part[1][HEAD] if setting not in (BASE, HEAD) else 0) for part in parts]
            shown = np.concatenate(values)
            means = shown.mean(), shown[seen].mean(), shown[~seen].mean()
            print(f"{name}, {setting}: {means[0]:+.4f}, seen {means[1]:+.4f}, unseen {means[2]:+.4f}", flush=True)


if __name__ == "__main__":
    run_script(main)
