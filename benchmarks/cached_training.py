"""Training on cached vectors against the same loop encoding every batch, in one process.

First the whole job, lexical channel, mining, logging, progress bar and checkpoint included: 3 epochs over 10,000 pairs
at batch 32 on a 384-d base; beside it a bare loop of as many steps on vectors and negatives that are there. Then both
ways of getting vectors in turn, a few steps each: the ratio of their times per step, and its spread over the rounds.
"""

import argparse
import itertools
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

from ragcun.cli.parser import run_script

CACHED_STEPS, LIVE_STEPS = 20, 2


def make_pairs(count: int, words: tuple[int, int], seed: int) -> list[tuple[str, str, None]]:
    """Make distinct pairs of texts of `words` words (query, document) from this environment's docstrings."""
    from ragcun.data.python_docs import extract, python_doc_roots

    entries = extract(python_doc_roots(), ["argparse", "asyncio", "logging", "numpy", "email", "http"])
    vocabulary = sorted({word for entry in entries for word in entry.rest.split() if word.isalpha()})
    random = np.random.default_rng(seed)
    draw = [random.choice(vocabulary, size=(count, size)) for size in words]
    return [(" ".join(query), " ".join(document), None) for query, document in zip(*draw, strict=True)]


def judged_pairs(folder: Path) -> list[tuple[str, str, None]]:
    """Return the training queries of a BEIR folder with each of their relevant documents."""
    from ragcun import load_collection

    data = load_collection(folder, "train")
    judged = [(query, key) for query, found in data.qrels.items() for key, score in found.items() if score > 0]
    return [(data.queries[query], data.documents[key].content, None) for query, key in judged]


def timed(function) -> float:
    """Return the seconds of a call."""
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def bare_loop(pairs: int, config, dim: int) -> None:
    """Train heads of the same shapes on random vectors in memory, with as many negatives for each query.

    No text, mask, isotropy, clipping, averaging, log or checkpoint; nothing is mined, the negatives are any documents.
    """
    import torch
    from torch.nn import functional

    from ragcun.models.heads import Head, HeadShape

    heads = torch.nn.ModuleList(Head(HeadShape(config.head, dim, dim, dropout=config.dropout)) for _ in range(2))
    optimizer = torch.optim.AdamW(heads.parameters())
    queries, documents = (functional.normalize(torch.randn(pairs, dim), dim=1) for _ in range(2))
    for _ in range(config.epochs):
        for rows in torch.randperm(pairs).split(config.batch_size):
            candidates = torch.cat([rows, torch.randint(pairs, (config.mines * len(rows),))])
            query, document = heads[0](queries[rows]), heads[1](documents[candidates])
            query, document = functional.normalize(query, dim=1), functional.normalize(document, dim=1)
            logits = -torch.cdist(query, document).square() / config.temperature
            loss = functional.cross_entropy(logits, torch.arange(len(rows)))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base_model", default="minilm", help="a 384-d base (default: minilm)")
    parser.add_argument("--pairs", type=int, default=10_000, help="training pairs (default: 10000)")
    parser.add_argument("--words", type=int, nargs=2, default=(8, 32), help="words of a query and a document")
    parser.add_argument("--data_dir", type=Path, help="BEIR folder; its training pairs in place of random words")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of steps, each way in turn (default: 7)")
    flags = parser.parse_args()

    import torch

    from ragcun.config import TrainConfig
    from ragcun.data.pairs import write_pairs
    from ragcun.embeddings.cache import EmbeddingCache
    from ragcun.models.encoder import RetrievalEncoder
    from ragcun.training.batches import PairSource, epoch_steps
    from ragcun.training.loop import fit
    from ragcun.training.processes import make_accelerator
    from ragcun.training.setup import build_data, build_encoder, build_objective
    from ragcun.training.step import Stepper

    class EncodingPairs(PairSource):
        """The same pairs, every batch encoded anew by the frozen base."""

        def _inputs(self, texts, role):
            return torch.from_numpy(self.base.encode([self.texts[role][i] for i in texts], role))

    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "pairs.jsonl"
        if flags.data_dir:
            pairs, kind = judged_pairs(flags.data_dir), f"of {flags.data_dir.name}"
        else:
            pairs = make_pairs(flags.pairs, tuple(flags.words), seed=0)
            kind = f"of {flags.words[0]} + {flags.words[1]} words"
        write_pairs(path, pairs)
        settings = {"train_data": str(path), "base_model": flags.base_model, "epochs": 3, "batch_size": 32}
        run_dir = str(Path(folder) / "run")
        config = TrainConfig(**settings, output_dir=run_dir, overwrite=True)
        filling = timed(lambda: fit(config))
        again = [TrainConfig(**settings, output_dir=f"{run_dir}-{i}") for i in range(3)]
        whole = [timed(lambda config=config: fit(config)) for config in again]
        dim = RetrievalEncoder.from_pretrained(f"{run_dir}/best_model").dimension
        print(f"{len(pairs)} pairs {kind}, 3 epochs at batch 32")
        print(f"first run, which encodes every text once: {filling:.1f} s")
        print(f"whole fit() after caching: median {statistics.median(whole):.2f} s ({min(whole):.2f}–{max(whole):.2f})")

        bare = [timed(lambda: bare_loop(len(pairs), config, dim)) for _ in range(3)]
        ratio = statistics.median(whole) / statistics.median(bare)
        print(
            f"bare loop of {dim} numbers: median {statistics.median(bare):.2f} s; fit() takes {ratio:.2f} times as long"
        )

        config = TrainConfig(**settings, mined_negatives=0)
        accelerator, encoder, data = make_accelerator(config.device), build_encoder(config), build_data(config).train
        device = accelerator.device
        cached = PairSource(data, encoder.to(device).base, device, EmbeddingCache(encoder.base))
        live = EncodingPairs(data, encoder.base, device)
        encoder.start_from(cached.sample(0))
        groups = encoder.parameter_groups(config.rates, config.weight_decay)
        model, optimizer = accelerator.prepare(encoder.train(), torch.optim.AdamW(groups, fused=True))
        stepper = Stepper(accelerator, model, optimizer, build_objective(config), cached, config.max_grad_norm)
        steps = itertools.cycle(epoch_steps(config, data, 1, 1))
        ratios, per_step = [], []
        for _ in range(flags.rounds):
            times = []
            for source, count in ((cached, CACHED_STEPS), (live, LIVE_STEPS)):
                stepper.source = source
                batches = [next(steps) for _ in range(count)]
                times.append(timed(lambda batches=batches: [stepper(step) for step in batches]) / count)
            ratios.append(times[1] / times[0])
            per_step.append(times)
    cached_ms, live_ms = (1000 * statistics.median(column) for column in zip(*per_step, strict=True))
    print("a step without mined negatives, which would multiply what is encoded:")
    print(f"a step on cached vectors: {cached_ms:.2f} ms; the same step encoding its batch: {live_ms:.0f} ms")
    epoch = len(pairs) / 32 / 1000
    print(f"an epoch: {cached_ms * epoch:.1f} s on cached vectors, {live_ms * epoch:.0f} s encoding every batch")
    spread = f"min {min(ratios):.0f}, max {max(ratios):.0f}, {flags.rounds} rounds"
    print(f"ratio: median {statistics.median(ratios):.0f} ({spread})")


if __name__ == "__main__":
    run_script(main)
