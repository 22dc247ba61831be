"""What lifts retrieval further than a label-free head? Distilled BM25, crops, mixing, averaging; on cached vectors.

The best setting of each idea on dev queries (``--stage dev``) is measured on test queries with three seeds (``--stage
test``). What ``--output``, or a file beside it of the same beginning, holds already is left out; tables are printed.
"""

import argparse
import functools
import itertools
import json
from pathlib import Path

import numpy as np
import torch
from accelerate.utils import set_seed

import ragcun
from ragcun.cli.parser import run_script
from ragcun.data.beir import hold_out_queries, pairs_from_collection
from ragcun.data.overlap import HoldOut
from ragcun.data.synthetic_queries import adaptation_data, sample_documents, sentences_as_queries
from ragcun.embeddings.precomputed import VectorStore
from ragcun.losses.contrastive import info_nce, similarity_logits
from ragcun.models.cached_encoder import CachedEncoder
from ragcun.models.projection import interpolate_with_base
from ragcun.retrieval.metrics import evaluate_run, mean
from ragcun.retrieval.systems import BM25Retriever, DenseRetriever
from ragcun.training.batches import PairSource, mine_pools
from ragcun.training.processes import Processes, make_accelerator
from ragcun.training.run_dir import RunFolder, RunRecord
from ragcun.training.selection import Selection, with_weights
from ragcun.training.setup import build_encoder, build_objective
from ragcun.training.trainer import Trainer
from ragcun.training.weights import initialize_weights

SETS, REGIMES, SEEDS = ("scifact", "nfcorpus", "cranfield", "nq-qed"), ("corpus", "hidden"), (1, 2, 3)
NDCG, FOUND, TAUGHT, MOST, BATCH, TEMPERATURE, HELD = "NDCG@10", 100, 10, 4000, 64, 0.1, {"scifact": 0.5, "nq-qed": 0.2}
FREE, LABELS, SHARES, FUSIONS = {"head": "label-free"}, {"head": "in-domain"}, (0.25, 0.5, 0.75), ("rrf", 0.5)


def plan() -> dict[str, list[dict]]:
    """Return the settings of each idea; ``share`` is that of the trained weights, the rest being the calibration's."""
    terms = [{"fusion": 0.5, "sharpness": sharpness, "weight": 0.5} for sharpness in (0.05, 0.2)]
    terms += [terms[1] | {"fusion": "rrf"}, terms[1] | {"weight": 1.0}]
    default = FREE | {"share": 0.25}
    return {
        "untouched base": [{}],
        "BM25": [{"bm25": True}],
        "BM25 + base": [{"fuse": kind} for kind in FUSIONS],
        "BM25 .3 + base": [{"fuse": 0.3}],
        "calibration": [FREE | {"share": 0.0}],
        "label-free": [default],
        "label-free, larger share": [FREE | {"share": share} for share in SHARES[1:]],
        "1 distilled fusion": [FREE | term | {"share": share} for term, share in itertools.product(terms, SHARES)],
        "2 crops": [FREE | {"crops": 0.5, "share": share} for share in SHARES],
        "4 label-free, mixed with base": [default | {"mix": share} for share in (0.2, 0.4)],
        "4 BM25 + label-free": [default | {"fuse": kind} for kind in FUSIONS],
        "4 BM25 .3 + label-free": [default | {"fuse": 0.3}],
        "in-domain": [LABELS],
        "4 in-domain, mixed with base": [LABELS | {"mix": share} for share in (0.2, 0.4)],
        "4 average of in-domain and label-free": [LABELS | {"average": share} for share in SHARES],
    }


class Data:
    """A collection's vectors, pairs and judged queries; in the regime ``hidden``, half of its documents unseen."""

    def __init__(self, folder: Path, cache: ragcun.EmbeddingCache, regime: str) -> None:
        splits, self.labels, texts = {"test": ragcun.load_collection(folder)}, {}, []
        documents = list(splits["test"].documents.values())
        hold_out = HoldOut(0.5, 0) if regime == "hidden" else None
        self.visible = documents if hold_out is None else hold_out.visible_documents(documents)
        self.made = adaptation_data(self.visible, folder.name, 0)
        some = sample_documents([document for document in self.visible if document.text.strip()], MOST, 0)
        crops = [[sentences_as_queries([document], 1, seed)[0] for seed in (0, 1)] for document in some]
        crops = list(zip(*(pair for pair in crops if pair[0] != pair[1]), strict=True))
        if (folder / "qrels" / "train.tsv").exists():
            train, name = ragcun.load_collection(folder, "train"), folder.name
            held = hold_out_queries(train, HELD[name], 0) if name in HELD else None
            kept, splits["dev"] = held or (train, ragcun.load_collection(folder, "dev"))
            pairs = {k: pairs_from_collection(v, whole_corpus=True) for k, v in (("test", train), ("dev", kept))}
            self.labels = pairs if hold_out is None else {k: hold_out.without_hidden(v) for k, v in pairs.items()}
            texts += train.queries.values()
        self.judged = splits if hold_out is None else {k: hold_out.hidden_only(v) for k, v in splits.items()}
        made = self.made.pairs.queries, self.made.stand_ins
        texts += itertools.chain(*(split.queries.values() for split in splits.values()), *crops, *made)
        contents = [document.content for document in documents]
        vectors = cache.encode(contents, "document"), cache.encode(texts, "query")
        unit = [rows / np.linalg.norm(rows, axis=1, keepdims=True) for rows in vectors]
        self.store = VectorStore([(contents, unit[0])], [(texts, unit[1])])
        self.crops = [torch.from_numpy(self.store.encode(side, "query")) for side in crops]
        self.teacher, self.trained = functools.cache(self._teacher), functools.cache(self._trained)
        self.lexical = functools.cache(lambda split: BM25Retriever().retrieve(self.judged[split], FOUND))

    def dense(self, encoder, collection: ragcun.Collection) -> dict:
        """Rank by an encoder's embeddings; None stands for the base."""
        return DenseRetriever("dense", CachedEncoder(self.store, encoder)).retrieve(collection, FOUND)

    def _teacher(self, fusion: str, sharpness: float) -> tuple:
        """Return vectors of pseudo-queries and documents, and each query's best documents in a fusion and targets."""
        texts = sorted(self.made.pairs.queries)
        queries = {f"q{i}": texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:MOST]}
        documents = {document.content: document for document in self.visible if document.content}
        pseudo = ragcun.Collection("pseudo", documents, queries, {}, "pseudo")
        fused = fuse(BM25Retriever().retrieve(pseudo, FOUND), self.dense(None, pseudo), fusion)
        place = {content: row for row, content in enumerate(documents)}
        best = np.array([[place[content] for content in list(row)[:TAUGHT]] for row in fused.values()])
        scores = np.array([list(row.values())[:TAUGHT] for row in fused.values()], dtype=np.float32)
        vectors = self.store.encode(list(queries.values()), "query"), self.store.encode(list(documents), "document")
        return *map(torch.from_numpy, vectors), best, (torch.from_numpy(scores) / sharpness).softmax(1)

    def _trained(self, split: str | None, seed: int, term: tuple = ()) -> ragcun.RetrievalEncoder:
        """Train a head as train.py does, on labels or, without a split, on the corpus alone; perhaps with a term."""
        free = split is None
        made = {"corpus": "corpus", "never_worse": False, "trained_share": 1.0} if free else {"train_data": "labels"}
        config = ragcun.TrainConfig(**made, seed=seed, collapse_checks=0)
        data = self.made.pairs if free else self.labels[split]
        set_seed(seed)
        encoder, objective = build_encoder(config, self.store.base), build_objective(config)
        if term:
            weight, *asked = term
            more, taught = (distilled, self.teacher(*asked)) if asked else (between_crops, self.crops)
            objective = functools.partial(with_term, objective, weight, encoder, seed, more, taught)
        processes = Processes(make_accelerator(config.device))
        source = PairSource(data, encoder.to(processes.device).base, processes.device, self.store)
        queries = self.store.encode(self.made.stand_ins, "query") if free else None
        closed = initialize_weights(config, encoder, source, queries)
        source.pools = mine_pools(config, encoder, source)
        if free and not term:
            self.start = {name: value.clone() for name, value in encoder.own_state().items()}
        record = RunRecord(RunFolder(None), config.to_dict(), {"data_sha256": {}}, None, None)
        trained = Trainer(config, record, processes, encoder, objective, source, Selection()).train()
        if free:
            trained.shift_queries(torch.from_numpy(closed.query_shift))
        return trained.eval()

    def encoder(self, asked: dict, split: str, seed: int) -> ragcun.RetrievalEncoder:
        """Return the encoder of a setting: trained, drawn to its start, averaged and mixed."""
        term = tuple(asked[name] for name in ("crops", "weight", "fusion", "sharpness") if name in asked)
        free = self.trained(None, seed)
        own = (self.trained(None, seed, term) if term else free).own_state()
        own = {name: self.start[name].lerp(value, asked.get("share", SHARES[0])) for name, value in own.items()}
        if asked["head"] == "in-domain":
            labelled, average = self.trained(split, seed).own_state(), asked.get("average", 0.0)
            own = {name: value.lerp(own[name], average) for name, value in labelled.items()}
        query, document = self.made.pairs.queries, self.made.pairs.documents
        vectors = {"query": self.store.encode(query, "query"), "document": self.store.encode(document, "document")}
        return interpolate_with_base(with_weights(free, own), asked.get("mix", 0.0), vectors)


def with_term(objective, weight: float, encoder, seed: int, term, taught, views, step: int = 0):
    """Compute an objective and one more term, in shares that sum to 1."""
    own, more = objective(views, step), term(encoder, np.random.default_rng([seed, step]), *taught)
    return type(own)((1 - weight) * own.total + weight * more, own.terms)


def distilled(encoder, random: np.random.Generator, queries, documents, best, targets) -> torch.Tensor:
    """KL divergence, but for a constant, from the teacher's softmax, over the taught documents of a batch's queries."""
    rows = random.permutation(len(queries))[:BATCH]
    shown, places = np.unique(best[rows], return_inverse=True)
    views = encoder.embed_query(queries[rows]), encoder.embed_document(documents[shown])
    found = (similarity_logits(*views) / TEMPERATURE).log_softmax(1)
    return -(targets[rows] * found.gather(1, torch.from_numpy(places.reshape(len(rows), -1)))).sum(1).mean()


def between_crops(encoder, random: np.random.Generator, one, other) -> torch.Tensor:
    """InfoNCE, both ways, between two sentences of one document: one takes queries' way, the other documents'."""
    rows = random.permutation(len(one))[:BATCH]
    views = encoder.embed_query(one[rows]), encoder.embed_document(other[rows])
    return info_nce(*views, temperature=TEMPERATURE, symmetric=True)


def fuse(first: dict, second: dict, kind: str | float) -> dict:
    """Fuse two runs by reciprocal ranks (``rrf``, k = 60), or by scores scaled to 0 to 1 with a share of the first."""
    fused: dict[str, dict[str, float]] = {query: {} for query in first}
    shares = ((first, 0.5), (second, 0.5)) if kind == "rrf" else ((first, kind), (second, 1 - kind))
    for (run, share), (query, total) in itertools.product(shares, fused.items()):
        low, high = min(run[query].values(), default=0), max(run[query].values(), default=0)
        for rank, (document, score) in enumerate(run[query].items(), start=1):
            scaled = 61 / (60 + rank) if kind == "rrf" else (score - low) / ((high - low) or 1)
            total[document] = total.get(document, 0) + share * scaled
    return {query: dict(sorted(total.items(), key=lambda item: -item[1])) for query, total in fused.items()}


def measure(row: dict, data: Data) -> dict:
    asked, split = row["setting"], row["split"]
    encoder = data.encoder(asked, split, row["seed"]) if "head" in asked else None
    run = data.lexical(split) if "bm25" in asked else data.dense(encoder, data.judged[split])
    run = fuse(data.lexical(split), run, asked["fuse"]) if "fuse" in asked else run
    found = evaluate_run(run, data.judged[split].qrels, (10,))
    return row | {"queries": len(found[NDCG]), NDCG: mean(found)[NDCG]}


def rows_of(split: str, name: str, regime: str, chosen: dict[str, dict]) -> list[dict]:
    place, rows, dev = {"split": split, "set": name, "regime": regime}, [], split == "dev"
    for idea, settings in plan().items():
        for setting in settings if dev else [chosen[idea]]:
            fixed = dev or setting.get("share") == 0 or "head" not in setting
            if name != "cranfield" or not (dev or setting.get("head") == "in-domain"):
                rows += [
                    place | {"idea": idea, "setting": setting, "seed": seed} for seed in SEEDS[: 1 if fixed else None]
                ]
    return rows


def values(rows: list[dict], **place) -> list[float]:
    return [row[NDCG] for row in rows if row | place == row]


def choose(rows: list[dict]) -> dict[str, dict]:
    dev = functools.partial(values, rows, split="dev")
    return {k: max(v, key=lambda one: np.mean(dev(idea=k, setting=one))) for k, v in plan().items()}


def table(rows: list[dict], split: str, regime: str) -> str:
    rows = [row for row in rows if row["split"] == split and row["regime"] == regime]
    count = {name: row["queries"] for name in SETS for row in rows if row["set"] == name}
    lines = [f"### {split}, {regime}", "", f"| | {' | '.join(f'{k} ({n})' for k, n in count.items())} | mean |"]
    lines.append("|---|" + "--:|" * (len(count) + 1))
    for idea, setting in dict.fromkeys((row["idea"], json.dumps(row["setting"])) for row in rows):
        found = [values(rows, set=name, idea=idea, setting=json.loads(setting)) for name in count]
        cells = [f"{np.mean(one):.4f}" if one else "–" for one in found]
        cells = [a + f" ± {np.std(b, ddof=1):.4f}" if b[1:] else a for a, b in zip(cells, found, strict=True)]
        average = f"{np.mean([np.mean(one) for one in found]):.4f}" if all(found) else "–"
        shown = ", ".join(f"{name} {value}" for name, value in json.loads(setting).items() if name != "head")
        cells = [f"{idea} ({shown})" if shown else idea, *cells, average]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder that holds the four sets")
    parser.add_argument("--output", type=Path, default=Path("results/further.jsonl"))
    parser.add_argument("--datasets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--stage", choices=("dev", "test"), help="only this (default: both)")
    flags = parser.parse_args()
    flags.output.parent.mkdir(parents=True, exist_ok=True)

    parts = sorted(flags.output.parent.glob(f"{flags.output.stem.split('-')[0]}*.jsonl"))
    rows = [json.loads(line) for part in parts for line in part.read_text().splitlines()]
    cache = ragcun.EmbeddingCache(ragcun.TextBase.load("minilm"))
    for split in (flags.stage,) if flags.stage else ("dev", "test"):
        chosen = choose(rows) if split == "test" else {}
        known = [{key: row[key] for key in row if key not in (NDCG, "queries")} for row in rows]
        for name, regime in itertools.product(flags.datasets, REGIMES):
            todo = [row for row in rows_of(split, name, regime, chosen) if row not in known]
            data = Data(flags.data_dir / name, cache, regime) if todo else None
            for row in todo:
                rows.append(measure(row, data))
                with flags.output.open("a") as file:
                    file.write(json.dumps(rows[-1]) + "\n")
    print("\n\n".join(table(rows, *place) for place in itertools.product(("dev", "test"), REGIMES)))


if __name__ == "__main__":
    run_script(main)
