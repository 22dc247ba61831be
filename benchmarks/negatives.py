"""Do hard negatives help? None, random, mined by BM25 or by the base beforehand, and mined while training.

SciFact and nq-qed, frozen all-MiniLM-L6-v2, settings of train.py but for the negatives. A fifth of the training queries
is held out, and the epoch is chosen by NDCG@10 on them; test queries are measured once for each seed. Negatives mined
beforehand are 4 for each pair, of the top 100. Prints a Markdown table with the untouched base and BM25 in it. Needs
both collections in ``--data_dir``; their texts are encoded once.
"""

import argparse
import functools
import json
import logging
import statistics
from pathlib import Path

from ragcun.cli.parser import run_script

SETS = ("scifact", "nq-qed")
VARIANTS = {
    "none": {"mined_negatives": 0},
    "random, 4 a pair": {"method": "random", "mined_negatives": 0},
    "BM25, 4 a pair": {"method": "bm25", "mined_negatives": 0},
    "base, 4 a pair": {"method": "dense", "mined_negatives": 0},
    "mined while training (default)": {},
}
PER_QUERY = 4


def prepare(source: Path, folder: Path, method: str | None) -> Path:
    """Write the training part with its dev queries, and pairs with negatives; return the folder."""
    from ragcun import EmbeddingCache, TextBase
    from ragcun.data.prepare import prepare_held_out
    from ragcun.models.cached_encoder import CachedEncoder
    from ragcun.retrieval.negatives import MiningSettings, mine_negatives

    mine = None
    if method:
        encoder = CachedEncoder(EmbeddingCache(TextBase.load("minilm"))) if method == "dense" else None
        mine = functools.partial(mine_negatives, settings=MiningSettings(method, PER_QUERY), encoder=encoder)
    prepare_held_out(source, folder, "train", 0.2, 0, mine)
    return folder


def measure(source: Path, prepared: Path, run: Path, settings: dict, seed: int) -> dict:
    """Train, and return the results on the test queries."""
    import ragcun
    from ragcun.io import read_json
    from ragcun.retrieval.benchmark import run_benchmark
    from ragcun.retrieval.systems import EncodingOptions, open_system

    more = {name: value for name, value in settings.items() if name != "method"}
    result = ragcun.fit(
        ragcun.TrainConfig(
            train_data=str(prepared / "pairs" / "train.jsonl"),
            corpus=str(source),
            dev_beir=str(prepared),
            never_worse=False,
            output_dir=str(run),
            overwrite=True,
            seed=seed,
            **more,
        )
    )
    model = open_system(str(result.checkpoint), EncodingOptions())
    baselines = [open_system("bm25", EncodingOptions())] if not settings.get("method") and seed == 1 else []
    run_benchmark(model, baselines, [ragcun.load_collection(source, "test")], run / "results.json", {})
    return read_json(run / "results.json")


def table(rows: list[dict]) -> str:
    from ragcun.reporting.tables import markdown_table

    lines = []
    for name in dict.fromkeys(row["set"] for row in rows):
        here = [row for row in rows if row["set"] == name]
        lines.append([name, "untouched base", f"{here[0]['base']:.4f}", "", ""])
        lines.append([name, "BM25", f"{next(row['bm25'] for row in here if row['bm25'] is not None):.4f}", "", ""])
        for variant in VARIANTS:
            mine = [row for row in here if row["variant"] == variant]
            values, p_values = [row["NDCG@10"] for row in mine], [row["p"] for row in mine]
            spread = f"{statistics.fmean(values):.4f} ± {statistics.stdev(values):.4f}"
            unseen = [row["unseen"] for row in mine if row["unseen"] is not None]
            apart = f"{statistics.fmean(unseen):.4f}" if unseen else "–"
            lines.append([name, variant, spread, apart, f"{min(p_values):.4f} to {max(p_values):.4f}"])
    return markdown_table(["set", "negatives", "NDCG@10", "unseen documents", "p against the base"], lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, default=Path("data"), help="folder that holds scifact and nq-qed")
    parser.add_argument("--output_dir", type=Path, default=Path("results/negatives"))
    flags = parser.parse_args()
    logging.disable(logging.INFO)
    rows = []
    for name in SETS:
        source = flags.data_dir / name
        for variant, settings in VARIANTS.items():
            method = settings.get("method")
            prepared = prepare(source, flags.output_dir / f"{name}-{method}", method)
            for seed in (1, 2, 3):
                results = measure(source, prepared, flags.output_dir / "run", settings, seed)
                figures, base = results["datasets"][name], results["untouched_base"]["datasets"][name]
                bm25 = next((each["datasets"][name]["NDCG@10"] for each in results["baselines"].values()), None)
                row = {"set": name, "variant": variant, "seed": seed, "NDCG@10": figures["NDCG@10"], "bm25": bm25}
                row |= {"base": base["NDCG@10"], "p": base["p_randomisation"]}
                rows.append(row | {"unseen": figures.get("unseen", {}).get("NDCG@10")})
                (flags.output_dir / "rows.jsonl").open("a").write(json.dumps(rows[-1]) + "\n")
    print(table(rows))


if __name__ == "__main__":
    run_script(main)
