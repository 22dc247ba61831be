"""What lifts retrieval further than a label-free head? Distilled BM25, crops, mixing, averaging; on cached vectors.

Each idea has some settings. One is chosen on development queries (``--stage dev``), by the mean NDCG@10 over SciFact,
NFCorpus and nq-qed, with the whole corpus in training and with half of its documents hidden. It is then trained with
three seeds and measured on test queries (``--stage test``). Without ``--stage``: both, and then the tables.
Writes one JSON line per measurement into ``--output`` and leaves out what is there already; files beside it of the same
beginning are read too, so that ``--datasets`` can spread over processes. Texts are encoded once.
"""

import argparse
import functools
import itertools
import json
import statistics
from pathlib import Path

from ragcun.cli import run_script

SETS, REGIMES, SEEDS = ("scifact", "nfcorpus", "cranfield", "nq-qed"), ("corpus", "hidden"), (1, 2, 3)
DEV_SHARE = {"scifact": 0.5, "nq-qed": 0.2}
NDCG, FOUND, TAUGHT, TAUGHT_QUERIES, CROPS, BATCH, TEMPERATURE = "NDCG@10", 100, 20, 4000, 4000, 128, 0.1
FREE, SHARES, FUSIONS = {"head": "label-free"}, (0.25, 0.5, 0.75), ("rrf", "sum")


def plan() -> dict[str, list[dict]]:
    """Return the settings of each idea; ``share`` is that of the trained weights, the rest being the calibration's."""
    terms = [{"fusion": f, "sharpness": t, "weight": 0.5} for f, t in itertools.product(FUSIONS, (0.05, 0.2))]
    terms += [term | {"weight": 1.0} for term in terms if term["fusion"] == "sum"]
    crops = [{"crops": True, "weight": weight} for weight in (0.2, 0.5)]
    default = FREE | {"share": 0.25}
    return {
        "untouched base": [{}],
        "BM25": [{"bm25": True}],
        "BM25 + base": [{"fuse": kind} for kind in FUSIONS],
        "calibration": [FREE | {"share": 0.0}],
        "label-free": [default],
        "label-free, larger share": [FREE | {"share": share} for share in SHARES[1:]],
        "1 distilled fusion": [FREE | term | {"share": share} for term, share in itertools.product(terms, SHARES)],
        "2 crops": [FREE | term | {"share": share} for term, share in itertools.product(crops, SHARES)],
        "4 label-free, mixed with base": [default | {"mix": share} for share in (0.2, 0.4)],
        "4 BM25 + label-free": [default | {"fuse": kind} for kind in FUSIONS],
        "in-domain": [{"head": "in-domain"}],
        "4 in-domain, mixed with base": [{"head": "in-domain", "mix": share} for share in (0.2, 0.4)],
        "4 average of in-domain and label-free": [{"head": "in-domain", "average": share} for share in SHARES],
    }


class Data:
    """A collection's vectors, pairs and judged queries; in the regime ``hidden``, half of its documents unseen."""

    def __init__(self, folder: Path, cache, regime: str) -> None:
        import ragcun
        from ragcun.data.adaptation import adaptation_data
        from ragcun.data.beir import hold_out_queries, pairs_from_collection
        from ragcun.data.holdout import HoldOut
        from ragcun.data.queries import sample_documents, sentences_as_queries
        from ragcun.models.vectors import VectorStore

        splits, self.labels = {"test": ragcun.load_collection(folder)}, {}
        documents = list(splits["test"].documents.values())
        hold_out = HoldOut(0.5, 0) if regime == "hidden" else None
        self.visible = documents if hold_out is None else hold_out.visible_documents(documents)
        self.made = adaptation_data(self.visible, folder.name, 0)
        some = sample_documents([document for document in self.visible if document.text.strip()], CROPS, 0)
        crops = [[sentences_as_queries([document], 1, seed)[0] for seed in (0, 1)] for document in some]
        self.crops = [pair for pair in crops if pair[0] != pair[1]]
        if (folder / "qrels" / "train.tsv").exists():
            train = kept = ragcun.load_collection(folder, "train")
            if folder.name in DEV_SHARE:
                kept, splits["dev"] = hold_out_queries(train, DEV_SHARE[folder.name], 0)
            else:
                splits["dev"] = ragcun.load_collection(folder, "dev")
            for split, collection in (("test", train), ("dev", kept)):
                pairs = pairs_from_collection(collection, whole_corpus=True)
                self.labels[split] = pairs if hold_out is None else hold_out.without_hidden(pairs)
        self.judged = splits if hold_out is None else {k: hold_out.hidden_only(v) for k, v in splits.items()}
        judged = [text for split in splits.values() for text in split.queries.values()]
        if self.labels:
            judged += train.queries.values()
        texts = [*judged, *self.made.pairs.queries, *self.made.stand_ins, *itertools.chain(*self.crops)]
        contents = [document.content for document in documents]
        vectors = cache.encode(contents, "document"), cache.encode(texts, "query")
        unit = [rows / (rows**2).sum(1, keepdims=True) ** 0.5 for rows in vectors]
        self.store = VectorStore([(contents, unit[0])], [(texts, unit[1])])
        self.teacher, self.trained = functools.cache(self._teacher), functools.cache(self._trained)
        self.lexical = functools.cache(lambda split: lexical(self.judged[split]))

    def _teacher(self, fusion: str):
        """Return pseudo-queries' vectors, documents' vectors, and each query's best ones in a fusion with scores."""
        import numpy as np

        from ragcun.data.beir import Collection

        texts = sorted(self.made.pairs.queries)
        queries = {f"q{i}": texts[i] for i in np.random.default_rng(0).permutation(len(texts))[:TAUGHT_QUERIES]}
        documents = {document.content: document for document in self.visible if document.content}
        pseudo = Collection("pseudo", documents, queries, {}, "pseudo")
        found = [
            list(row.items())[:TAUGHT] for row in fuse(lexical(pseudo), dense(self, None, pseudo), fusion).values()
        ]
        place = {content: row for row, content in enumerate(documents)}
        best = np.array([[place[content] for content, _ in row] for row in found])
        scores = np.array([[score for _, score in row] for row in found], dtype=np.float32)
        sides = (list(queries.values()), "query"), (list(documents), "document")
        return *(self.store.encode(*side) for side in sides), best, scores

    def _trained(self, split: str | None, seed: int, term: tuple = ()):
        """Train a head as train.py does, on labels or, without a split, on the corpus alone; perhaps with a term."""
        from accelerate.utils import set_seed

        from ragcun import TrainConfig
        from ragcun.training.build import TrainingData, build_encoder, build_objective
        from ragcun.training.device import make_accelerator
        from ragcun.training.loop import Trainer
        from ragcun.training.runfolder import Unrecorded

        if split is not None:
            config, data = TrainConfig("labels", seed=seed, collapse_checks=0), TrainingData(self.labels[split])
        else:
            config = TrainConfig(corpus="corpus", never_worse=False, trained_share=1.0, seed=seed, collapse_checks=0)
            data = TrainingData(self.made.pairs, queries=self.made.stand_ins)
        set_seed(seed)
        encoder, objective = build_encoder(config, self.store.base), build_objective(config)
        if term:
            asked = dict(term)
            more = Crops(self) if "crops" in asked else Distillation(self, asked["fusion"], asked["sharpness"])
            objective = WithTerm(objective, more, asked["weight"], encoder, seed)
        trainer = Trainer(config, Unrecorded(), make_accelerator(config), encoder, objective, data, self.store)
        if split is None and not term:
            self.start = {name: value.clone() for name, value in encoder.own_state().items()}
        trainer.train()
        return trainer.encoder.eval()

    def encoder(self, asked: dict, split: str, seed: int):
        """Return the encoder of a setting: None for the base; else trained, drawn to its start, averaged or mixed."""
        from ragcun.models.mixing import mix_with_base
        from ragcun.training.fallback import with_weights

        if "head" not in asked:
            return None
        term = tuple((name, asked[name]) for name in ("fusion", "sharpness", "crops", "weight") if name in asked)
        free = self.trained(None, seed)
        own = (self.trained(None, seed, term) if term else free).own_state()
        own = {name: self.start[name].lerp(value, asked.get("share", SHARES[0])) for name, value in own.items()}
        if asked["head"] == "in-domain":
            labelled, average = self.trained(split, seed).own_state(), asked.get("average", 0.0)
            own = {name: value.lerp(own[name], average) for name, value in labelled.items()}
        vectors = {role: self.store.vectors.parts[part] for part, role in enumerate(("document", "query"))}
        return mix_with_base(with_weights(free, own), asked.get("mix", 0.0), vectors)


class WithTerm:
    """An objective and one more term of the encoder, in shares that sum to 1."""

    def __init__(self, objective, term, weight: float, encoder, seed: int) -> None:
        self.objective, self.term, self.weight, self.encoder, self.seed = objective, term, weight, encoder, seed

    def __call__(self, views, step: int = 0):  # noqa: D102
        import numpy as np

        own, more = self.objective(views, step), self.term(self.encoder, np.random.default_rng([self.seed, step]))
        return type(own)((1 - self.weight) * own.total + self.weight * more, own.terms)


class Distillation:
    """KL divergence, but for a constant, from the teacher's softmax, over the taught documents of a batch's queries."""

    def __init__(self, data: Data, fusion: str, sharpness: float) -> None:
        import torch

        queries, documents, self.best, scores = data.teacher(fusion)
        self.queries, self.documents = torch.from_numpy(queries), torch.from_numpy(documents)
        self.targets = (torch.from_numpy(scores) / sharpness).softmax(1)

    def __call__(self, encoder, random):  # noqa: D102
        import numpy as np
        import torch

        from ragcun.losses.contrastive import similarity_logits

        rows = random.permutation(len(self.queries))[:BATCH]
        shown, places = np.unique(self.best[rows], return_inverse=True)
        views = encoder.embed_query(self.queries[rows]), encoder.embed_document(self.documents[shown])
        log_probabilities = (similarity_logits(*views) / TEMPERATURE).log_softmax(1)
        return (
            -(self.targets[rows] * log_probabilities.gather(1, torch.from_numpy(places.reshape(len(rows), -1))))
            .sum(1)
            .mean()
        )


class Crops:
    """InfoNCE, both ways, between two sentences of one document: one takes queries' way, the other documents'."""

    def __init__(self, data: Data) -> None:
        import torch

        self.sides = [torch.from_numpy(data.store.encode(texts, "query")) for texts in zip(*data.crops, strict=True)]

    def __call__(self, encoder, random):  # noqa: D102
        from ragcun.losses.contrastive import info_nce

        rows = random.permutation(len(self.sides[0]))[:BATCH]
        views = encoder.embed_query(self.sides[0][rows]), encoder.embed_document(self.sides[1][rows])
        return info_nce(*views, temperature=TEMPERATURE, symmetric=True)


def fuse(first: dict, second: dict, kind: str) -> dict:
    """Return the fusion of two runs, of scores at most 1: reciprocal ranks (k = 60), or scores scaled to 0 to 1."""
    fused = {}
    for query in first:
        total: dict[str, float] = {}
        for run in (first[query], second[query]):
            low, high = (min(run.values()), max(run.values())) if run else (0, 1)
            for rank, (document, score) in enumerate(run.items(), start=1):
                scaled = (score - low) / ((high - low) or 1) if kind == "sum" else 61 / (60 + rank)
                total[document] = total.get(document, 0) + scaled / 2
        fused[query] = dict(sorted(total.items(), key=lambda item: -item[1]))
    return fused


def dense(data: Data, encoder, collection, k: int = FOUND) -> dict:
    from ragcun.models.cache import CachedEncoder
    from ragcun.retrieval.evaluate import DenseRetriever

    return DenseRetriever("dense", CachedEncoder(data.store, encoder)).retrieve(collection, k)


def lexical(collection) -> dict:
    from ragcun.retrieval.evaluate import BM25Retriever

    return BM25Retriever().retrieve(collection, FOUND)


def measure(row: dict, data: Data) -> dict:
    """Return a row with NDCG@10 of its queries."""
    from ragcun.retrieval.evaluate import mean
    from ragcun.retrieval.metrics import evaluate_run

    asked, split = row["setting"], row["split"]
    collection = data.judged[split]
    if "bm25" in asked:
        run = data.lexical(split)
    else:
        run = dense(data, data.encoder(asked, split, row["seed"]), collection, FOUND if "fuse" in asked else 10)
    run = fuse(data.lexical(split), run, asked["fuse"]) if "fuse" in asked else run
    values = evaluate_run(run, collection.qrels, (10,))
    return row | {"queries": len(values[NDCG]), NDCG: mean(values)[NDCG]}


def rows_of(split: str, name: str, regime: str, chosen: dict[str, dict]) -> list[dict]:
    """Return what is to be measured on a set: on dev all settings with one seed, on test the chosen with three."""
    rows = []
    for idea, settings in plan().items():
        for setting in settings if split == "dev" else [chosen[idea]]:
            random = split == "test" and setting.get("share") != 0 and "head" in setting
            usable = name != "cranfield" or (split == "test" and setting.get("head") != "in-domain")
            place = {"split": split, "set": name, "regime": regime, "idea": idea, "setting": setting}
            rows += [place | {"seed": seed} for seed in (SEEDS if random else SEEDS[:1]) if usable]
    return rows


def values(rows: list[dict], **place) -> list[float]:
    return [row[NDCG] for row in rows if all(row[name] == wanted for name, wanted in place.items())]


def choose(rows: list[dict]) -> dict[str, dict]:
    """Return the setting of each idea with the best mean over sets and regimes of the development queries."""
    return {
        idea: max(settings, key=lambda setting: statistics.fmean(values(rows, split="dev", idea=idea, setting=setting)))
        for idea, settings in plan().items()
    }


def table(rows: list[dict], split: str, regime: str) -> str:
    """Lay out mean ± standard deviation over seeds; on dev every setting, with the mean over the sets."""
    rows = [row for row in rows if row["split"] == split and row["regime"] == regime]
    count = {name: row["queries"] for name in SETS for row in rows if row["set"] == name}
    lines = [f"### {split}, {regime}", "", f"| | {' | '.join(f'{k} ({n})' for k, n in count.items())} | mean |"]
    lines.append("|---|" + "--:|" * (len(count) + 1))
    for idea, setting in dict.fromkeys((row["idea"], json.dumps(row["setting"])) for row in rows):
        found = [values(rows, set=name, idea=idea, setting=json.loads(setting)) for name in count]
        means = [f"{statistics.fmean(one):.4f}" if one else "–" for one in found]
        spread = [f" ± {statistics.stdev(one):.4f}" if len(one) > 1 else "" for one in found]
        average = f"{statistics.fmean(map(statistics.fmean, found)):.4f}" if all(found) else "–"
        shown = ", ".join(f"{name} {value}" for name, value in json.loads(setting).items() if name != "head")
        cells = [f"{idea} ({shown})" if shown else idea, *map(str.__add__, means, spread), average]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder that holds the four sets")
    parser.add_argument("--output", type=Path, default=Path("results/further.jsonl"))
    parser.add_argument("--datasets", nargs="+", choices=SETS, default=SETS)
    parser.add_argument("--stage", choices=("dev", "test", "table"), help="only this (default: all)")
    parser.add_argument("--cache_dir")
    flags = parser.parse_args()

    import logging

    from tqdm.auto import tqdm

    import ragcun

    logging.disable(logging.WARNING)
    flags.output.parent.mkdir(parents=True, exist_ok=True)

    def done() -> list[dict]:
        parts = sorted(flags.output.parent.glob(f"{flags.output.stem.split('-')[0]}*.jsonl"))
        return [json.loads(line) for part in parts for line in part.read_text().splitlines()]

    for split in {"table": (), None: ("dev", "test")}.get(flags.stage, (flags.stage,)):
        cache = ragcun.EmbeddingCache(ragcun.TextBase.load("minilm"), flags.cache_dir)
        chosen = choose(done()) if split == "test" else {}
        for name, regime in itertools.product(flags.datasets, REGIMES):
            known = [{key: row[key] for key in row if key not in (NDCG, "queries")} for row in done()]
            todo = [row for row in rows_of(split, name, regime, chosen) if row not in known]
            data = Data(flags.data_dir / name, cache, regime) if todo else None
            with flags.output.open("a") as file:
                for row in tqdm(todo, f"{split}, {name}, {regime}"):
                    file.write(json.dumps(measure(row, data)) + "\n")
                    file.flush()
    print("\n\n".join(table(done(), *place) for place in itertools.product(("dev", "test"), REGIMES)))


if __name__ == "__main__":
    run_script(main)
