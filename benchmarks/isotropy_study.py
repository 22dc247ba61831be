"""Does isotropy help? Many small trainings on cached vectors: isotropy losses × weights × regimes × seeds.

Writes one JSON line per training into ``--output`` as it goes, and leaves out what is there already, so that it can be
interrupted and spread over processes (``--part 1/2``). ``--table`` prints Markdown tables of the file. Figures are
NDCG@10 of test queries; nothing is selected by them, every setting that was tried is in the tables. Needs SciFact and
NFCorpus in ``--data_dir``; their texts are encoded once.
"""

import argparse
import itertools
import json
import statistics
from pathlib import Path

from ragcun.cli.parser import run_script

KINDS = {"covariance": "none", "sigreg": "sqrt_dim", "gor": "none", "vicreg": "sqrt_dim"}
WEIGHTS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0)
REGIMES = ("in-domain", "document-disjoint", "label-free", "64 dimensions")
SETS = ("scifact", "nfcorpus")
STARTS = (("identity", None), ("calibrated", 1.0), ("random", 1.0))
"""Other starts than the default one, each with its ``trained_share``: 1 is not drawn back to the start."""
LABEL_FREE = {"trained_share": 0.25, "mined_first": 10}


def plan(seeds: int) -> list[dict]:
    """Return all settings in the order in which they are trained: seed by seed, so that a stop leaves whole tables."""
    rows = []
    for seed in range(seeds):
        for regime, name in itertools.product(REGIMES, SETS):
            place = {"regime": regime, "set": name, "seed": seed}
            rows.append({**place, "what": "nothing", "weight": 0.0})
            rows += [{**place, "what": kind, "weight": w} for kind, w in itertools.product(KINDS, WEIGHTS)]
            for start, share in STARTS:
                more = {"start": start, "share": share}
                rows.append({**place, "what": "nothing", "weight": 0.0, **more})
                rows += [{**place, "what": k, "weight": w, **more} for k, w in itertools.product(KINDS, WEIGHTS)]
        for regime, name in itertools.product(REGIMES[:2], SETS):
            place = {"regime": regime, "set": name, "seed": seed}
            rows += [{**place, "what": "prediction", "weight": w} for w in (0.0, 0.1, 1.0)]
            rows += [{**place, "what": "prediction, EMA target", "weight": w} for w in (0.1, 1.0)]
    return rows


def settings(row: dict) -> dict:
    """Return the training settings of a row."""
    chosen: dict = {"seed": row["seed"]}
    if row["what"] in KINDS:
        chosen |= {"isotropy": row["what"], "lambda_isotropy": row["weight"]}
        chosen |= {"isotropy_transform": KINDS[row["what"]]}
    if row["what"].startswith("prediction"):
        chosen |= {"lambda_predictive": row["weight"], "use_predictor": True, "predictor": "residual"}
        if "EMA" in row["what"]:
            chosen |= {"system": "jepa"}
    if row["regime"] == "64 dimensions":
        chosen |= {"output_dim": 64}
    if row["regime"] == "label-free":
        chosen |= LABEL_FREE
    if "start" in row:
        chosen |= {"head_init": row["start"]}
        chosen |= {} if row["share"] is None else {"trained_share": row["share"]}
    return chosen


class Set:
    """A collection's vectors, judgments and pairs, ready for `ragcun.fit_head`."""

    def __init__(self, folder: Path, cache_dir: str | None) -> None:
        import numpy as np

        import ragcun
        from ragcun.data.overlap import HoldOut
        from ragcun.data.synthetic_queries import adaptation_data

        cache = ragcun.EmbeddingCache(ragcun.TextBase.load("minilm"), cache_dir)
        train, test = (ragcun.load_collection(folder, split) for split in ("train", "test"))
        self.hidden_test = HoldOut(0.5, 0).hidden_only(test)
        places = {key: place for place, key in enumerate(test.documents)}
        contents = [document.content for document in test.documents.values()]
        self.test, self.places = test, places
        self.documents = cache.encode(contents, "document")
        self.hidden = np.array([key in self.hidden_test.documents for key in test.documents])
        self.queries = cache.encode(list(train.queries.values()), "query")
        self.test_queries = cache.encode(list(test.queries.values()), "query")
        self.pairs = [
            (row, places[key])
            for row, query in enumerate(train.queries)
            for key, score in train.qrels[query].items()
            if score > 0 and key in places and contents[places[key]]
        ]
        made = adaptation_data(list(test.documents.values()), folder.name, 0)
        self.own_queries = cache.encode(made.pairs.queries, "query")
        place_of = {content: place for place, content in enumerate(contents)}
        self.own_pairs = [
            (int(query), place_of[made.pairs.documents[document]])
            for query, document in zip(made.pairs.query_ids, made.pairs.positive_ids, strict=True)
        ]
        trained = {document for _, document in self.pairs}
        self.unseen = {
            query
            for query, judged in test.qrels.items()
            if not any(score > 0 and places.get(key) in trained for key, score in judged.items())
        }

    def score(self, queries, documents, hidden: bool = False, binary: bool = False) -> dict[str, float]:
        """Return NDCG@10 of test queries, over all and over those without a seen relevant document."""
        from ragcun.retrieval.metrics import evaluate_run, mean
        from ragcun.retrieval.quantization import restored
        from ragcun.retrieval.runs import make_run
        from ragcun.retrieval.search import top_k

        test = self.hidden_test if hidden else self.test
        kept = [row for row, query in enumerate(self.test.queries) if query in test.queries]
        found = documents[self.hidden] if hidden else documents
        if binary:
            found = restored(found, "binary")
        result = top_k(queries[kept], found, 11, "dot" if binary else "euclidean")
        run = make_run(list(test.queries), list(test.documents), result.scores, result.indices, 10, test.own_ids)
        values = evaluate_run(run, test.qrels, (10,))["NDCG@10"]
        unseen = [value for query, value in values.items() if query in self.unseen]
        return {"all": mean({"NDCG@10": values})["NDCG@10"], "unseen": statistics.fmean(unseen) if unseen else None}


def measure(row: dict, data: Set) -> dict:
    """Train one setting and return its figures."""
    import ragcun

    hidden = row["regime"] == "document-disjoint"
    queries, pairs, documents = data.queries, data.pairs, data.documents
    if row["regime"] == "label-free":
        queries, pairs = data.own_queries, data.own_pairs
    if hidden:
        visible = {int(place): new for new, place in enumerate((~data.hidden).nonzero()[0])}
        pairs = [(query, visible[document]) for query, document in pairs if document in visible]
        documents = documents[~data.hidden]
    fitted = ragcun.fit_head(queries, documents, pairs, **settings(row))
    embedded = fitted.embed_queries(data.test_queries), fitted.embed_documents(data.documents)
    figures = {"NDCG@10": data.score(*embedded, hidden=hidden)}
    if row["regime"] == "in-domain":
        figures["1 bit"] = data.score(*embedded, binary=True)
    return row | figures


def base_rows(data: dict[str, Set]) -> list[dict]:
    """Return the figures of the untouched base in every regime."""
    rows = []
    for name, one in data.items():
        unit = [z / (z**2).sum(1, keepdims=True) ** 0.5 for z in (one.test_queries, one.documents)]
        for regime in REGIMES:
            figures = one.score(*unit, hidden=regime == "document-disjoint")
            rows.append({"regime": regime, "set": name, "what": "untouched base", "weight": 0.0, "NDCG@10": figures})
    return rows


def key(row: dict) -> str:
    names = ("regime", "set", "what", "weight", "seed", "start", "share")
    return json.dumps([row.get(name) for name in names])


def summary(values: list[float]) -> str:
    spread = f" ± {statistics.stdev(values):.4f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.4f}{spread}"


def tables(rows: list[dict]) -> str:
    """Lay out mean ± standard deviation over seeds: a table for each regime, set and start."""
    out = []
    places = dict.fromkeys(
        (r["regime"], r["set"], r.get("start", "calibrated"), r.get("share")) for r in rows if "seed" in r
    )
    for regime, name, start, share in places:
        here = [r for r in rows if (r["regime"], r["set"]) == (regime, name)]
        base = next(r for r in here if r["what"] == "untouched base")
        mine = [r for r in here if "seed" in r and (r.get("start", "calibrated"), r.get("share")) == (start, share)]
        columns = ["NDCG@10", "1 bit"] if regime == "in-domain" else ["NDCG@10"]
        title = f"{regime}, {name}, {start} start" + (f", trained share {share:g}" if share is not None else "")
        header = ["", "λ", *(f"{column}, {side}" for column in columns for side in ("all", "unseen"))]
        lines = [f"### {title}", "", "| " + " | ".join(header) + " |", "|---|--:|" + "--:|" * (len(header) - 2)]
        first = [base["NDCG@10"]["all"], base["NDCG@10"]["unseen"]]
        cells = [f"{value:.4f}" if value is not None else "–" for value in first] + ["–"] * (len(header) - 4)
        lines.append("| untouched base | – | " + " | ".join(cells) + " |")
        for what, weight in dict.fromkeys((r["what"], r["weight"]) for r in mine):
            same = [r for r in mine if (r["what"], r["weight"]) == (what, weight)]
            cells = []
            for column, side in itertools.product(columns, ("all", "unseen")):
                values = [r[column][side] for r in same if r[column][side] is not None]
                cells.append(summary(values) if values else "–")
            lines.append(f"| {what} | {weight:g} | " + " | ".join(cells) + f" | <!-- {len(same)} seeds -->")
        out.append("\n".join(lines).replace(" | <!--", " |<!--"))
    return "\n\n".join(out)


def differences(rows: list[dict], columns: list[tuple[str, float]]) -> str:
    """Lay out what each isotropy loss adds to "nothing" of the same seed: mean ± half of the 95 % interval over seeds.

    Bold where the interval (Student's t) leaves out 0.
    """
    from scipy.stats import t

    def place(row: dict) -> tuple:
        return row["regime"], row["set"], row.get("start"), row.get("share")

    found = {(place(r), r["what"], r["weight"], r["seed"]): r for r in rows if "seed" in r}
    base = {(r["regime"], r["set"]): r["NDCG@10"]["all"] for r in rows if r["what"] == "untouched base"}
    seeds = sorted({r["seed"] for r in rows if "seed" in r})

    def cell(where: tuple, what: str, weight: float, column: str) -> str:
        pairs = [(found.get((where, what, weight, s)), found.get((where, "nothing", 0.0, s))) for s in seeds]
        gains = [one[column]["all"] - other[column]["all"] for one, other in pairs if one and other]
        if len(gains) < 2:
            return "–"
        mean, half = statistics.fmean(gains), t.ppf(0.975, len(gains) - 1) * statistics.stdev(gains) / len(gains) ** 0.5
        shown = ("+" if mean >= 0 else "−") + f"{abs(mean):.4f}"[1:]
        return (f"**{shown}**" if abs(mean) > half else shown) + f" ± {half:.4f}".replace("0.", ".")

    header = ["", "untouched base", "no isotropy", *(f"{what} {weight:g}" for what, weight in columns)]
    lines = ["| " + " | ".join(header) + " |", "|---" + "|--:" * (len(header) - 1) + "|"]
    for start, share in ((None, None), *STARTS):
        named = "default start" if start is None else f"{start} start" + (", not drawn back" if share else "")
        for regime, column in (*((regime, "NDCG@10") for regime in REGIMES), ("in-domain", "1 bit")):
            for name in SETS:
                where = (regime, name, start, share)
                plain = [found[where, "nothing", 0.0, s][column]["all"] for s in seeds]
                means = [f"{value:.4f}"[1:] for value in (base[regime, name], statistics.fmean(plain))]
                title = f"{named}, {'1 bit, ' if column == '1 bit' else ''}{regime}, {name}"
                lines.append("| " + " | ".join([title, *means, *(cell(where, *c, column) for c in columns)]) + " |")
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder that holds scifact and nfcorpus")
    parser.add_argument("--output", type=Path, default=Path("results/isotropy_study.jsonl"))
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--part", default="1/1", help="which share of the trainings, as 1/2")
    parser.add_argument("--cache_dir")
    parser.add_argument("--table", action="store_true", help="print tables of the output file, train nothing")
    shown = "print what isotropy losses add, for these columns, as covariance:0.1 sigreg:1; train nothing"
    parser.add_argument("--differences", nargs="+", metavar="LOSS:WEIGHT", help=shown)
    flags = parser.parse_args()

    from tqdm.auto import tqdm

    parts = sorted(flags.output.parent.glob(f"{flags.output.stem}*.jsonl"))
    done = [json.loads(line) for file in parts for line in file.read_text().splitlines()]
    if flags.table:
        print(tables(done))
        return
    if flags.differences:
        columns = [(what, float(weight)) for what, _, weight in (each.partition(":") for each in flags.differences)]
        print(differences(done, columns))
        return
    import logging

    logging.disable(logging.WARNING)
    share, shares = (int(number) for number in flags.part.split("/"))
    output = flags.output.with_stem(f"{flags.output.stem}-{share}-of-{shares}") if shares > 1 else flags.output
    output.parent.mkdir(parents=True, exist_ok=True)
    known = {key(row) for row in done}
    data = {name: Set(flags.data_dir / name, flags.cache_dir) for name in SETS}
    with output.open("a") as file:
        if share == 1 and not any(row["what"] == "untouched base" for row in done):
            file.writelines(json.dumps(row) + "\n" for row in base_rows(data))
        todo = [row for place, row in enumerate(plan(flags.seeds)) if place % shares == share - 1]
        for row in tqdm([row for row in todo if key(row) not in known], unit="training"):
            file.write(json.dumps(measure(row, data[row["set"]])) + "\n")
            file.flush()


if __name__ == "__main__":
    run_script(main)
