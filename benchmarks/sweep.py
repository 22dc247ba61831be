"""How long a λ sweep takes on cached vectors: 32 configurations on 10,000 pairs, dev scores and report included.

Texts are random words of this environment's docstrings, encoded once before the clock starts. Each configuration is one
whole run of ``train.py`` with its defaults: mined negatives, an evaluation on 500 held-out queries after each epoch,
the kept weights, the checkpoint.
"""

import argparse
import logging
import tempfile
from pathlib import Path

from cached_training import make_pairs, timed

from ragcun.cli.parser import run_script

WEIGHTS = [0.0, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0]
DEV = 500
KINDS = ["covariance", "sigreg", "gor", "vicreg"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="minilm")
    parser.add_argument("--pairs", type=int, default=10_000)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--words", type=int, nargs=2, default=(8, 32), help="words of a query and a document")
    flags = parser.parse_args()

    from ragcun.cli.train import sweep
    from ragcun.data.beir import Document, write_collection
    from ragcun.embeddings.cache import EmbeddingCache
    from ragcun.embeddings.text_base import TextBase

    logging.disable(logging.WARNING)
    pairs = make_pairs(flags.pairs + DEV, tuple(flags.words), seed=0)
    cache = EmbeddingCache(TextBase.load(flags.base_model))
    queries, documents, _ = zip(*pairs, strict=True)
    cache.rows(queries, "query")
    cache.rows(documents, "document")
    with tempfile.TemporaryDirectory() as folder:
        collection = Path(folder) / "made"
        qrels = {f"q{row}": {f"d{row}": 1} for row in range(len(pairs))}
        write_collection(
            collection,
            {f"d{row}": Document("", text) for row, text in enumerate(documents)},
            {f"q{row}": text for row, text in enumerate(queries)},
            {"train": dict(list(qrels.items())[:-DEV]), "dev": dict(list(qrels.items())[-DEV:])},
        )
        config = Path(folder) / "sweep.yaml"
        config.write_text(
            "study: lambda\nsampler: grid\nseeds: [1]\nbase:\n"
            f"  train_data: {collection}\n  dev_beir: {collection}\n  base_model: {flags.base_model}\n"
            f"  epochs: {flags.epochs}\n"
            f"parameters:\n  lambda_isotropy: {{values: {WEIGHTS}}}\n  isotropy: {{values: {KINDS}}}\n"
        )
        seconds = timed(lambda: sweep(str(config), Path(folder) / "sweep", None, False, False, False))
    count = len(WEIGHTS) * len(KINDS)
    print(f"{count} configurations, {flags.pairs} pairs, {flags.epochs} epochs each; texts encoded before")
    print(f"the sweep: {seconds / 60:.1f} min, {seconds / count:.1f} s a configuration; goal: under 10 min")


if __name__ == "__main__":
    run_script(main)
