"""Hard negatives of a BEIR folder's train queries, by every method: seconds, peak memory, and how good they are.

Each method runs in a process of its own, whose largest resident set counts, libraries included. Dense negatives take
cached vectors of the base where there are some. `judged` is the share of mined negatives that the training judgments
call relevant, which must be 0. With ``--hide SHARE`` that share of the positives of every query with several is hidden
from the miner: `hidden` is then the share of mined negatives that are in truth answers.
"""

import argparse
import json
import math
import random
import resource
import subprocess
import sys
import time
from pathlib import Path

from ragcun.cli.parser import run_script
from ragcun.retrieval.negatives import MARGINS, MiningSettings


def split_answers(qrels: dict[str, dict[str, int]], hide: float) -> tuple[dict[str, set[str]], dict[str, set[str]]]:
    """Return shown and hidden answers by query; at least one is shown of each."""
    drawn = random.Random(0)
    relevant = {query: sorted(key for key, score in judged.items() if score > 0) for query, judged in qrels.items()}
    hidden = {query: set(drawn.sample(keys, round(hide * (len(keys) - 1)))) for query, keys in relevant.items() if keys}
    return {query: set(relevant[query]) - hidden[query] for query in hidden}, hidden


def measure(folder: Path, split: str, hide: float, base_model: str, settings: MiningSettings) -> dict[str, float]:
    from ragcun.data.beir import load_collection
    from ragcun.embeddings.cache import EmbeddingCache
    from ragcun.embeddings.text_base import TextBase
    from ragcun.models.cached_encoder import CachedEncoder
    from ragcun.retrieval.negatives import mine_negatives

    collection = load_collection(folder, split)
    texts = {key: document.content for key, document in collection.documents.items() if document.content}
    shown, hidden = split_answers(collection.qrels, hide)
    rows = [(collection.queries[q], texts[d], None) for q, keys in shown.items() for d in sorted(keys) if d in texts]
    encoder = CachedEncoder(EmbeddingCache(TextBase.load(base_model))) if settings.method == "dense" else None
    start = time.perf_counter()
    mined = mine_negatives(rows, collection.name, texts.values(), settings=settings, encoder=encoder)
    seconds = time.perf_counter() - start
    known: dict[str, set[str]] = {}
    unmarked: dict[str, set[str]] = {}
    for found, answers in ((known, shown), (unmarked, hidden)):
        for query, keys in answers.items():
            found.setdefault(collection.queries[query], set()).update(texts[key] for key in keys if key in texts)
    negatives = [(query, negative) for query, _, negative in mined.rows if negative]
    return {
        "queries": mined.report.queries,
        "pairs": mined.report.pairs,
        "documents": mined.report.pool,
        "seconds": seconds,
        "peak GB": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9,
        "negatives": len(negatives),
        "judged": sum(negative in known[query] for query, negative in negatives) / max(1, len(negatives)),
        "hidden": sum(negative in unmarked[query] for query, negative in negatives) / max(1, len(negatives)),
        "pairs with all": 1 - mined.report.pairs_with_fewer / mined.report.pairs,
        "queries with all": 1 - mined.report.queries_with_fewer / mined.report.queries,
    }


def margin(text: str) -> float:
    return -math.inf if text == "none" else float(text)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data_dir", type=Path, required=True, metavar="DIR", help="BEIR folder")
    parser.add_argument("--split", default="train")
    parser.add_argument("--hide", type=float, default=0, metavar="SHARE")
    parser.add_argument("--methods", nargs="+", choices=MARGINS, default=list(MARGINS))
    parser.add_argument("--base_model", default="minilm")
    parser.add_argument("--per_query", type=int, default=4)
    parser.add_argument("--margins", nargs="+", type=margin, help="none or numbers (default: each own)")
    parser.add_argument("--choices", nargs="+", choices=("drawn", "hardest"), default=["drawn"])
    parser.add_argument("--child", metavar="SETTINGS", help=argparse.SUPPRESS)
    flags = parser.parse_args()
    if flags.child:
        settings = MiningSettings(**json.loads(flags.child))
        print(json.dumps(measure(flags.data_dir, flags.split, flags.hide, flags.base_model, settings)))
        return
    for method in flags.methods:
        for given in flags.margins or [None]:
            for choice in flags.choices:
                settings = {"method": method, "margin": given, "choice": choice, "per_query": flags.per_query}
                child = [sys.executable, *sys.argv, "--child", json.dumps(settings)]
                figures = json.loads(subprocess.run(child, check=True, stdout=subprocess.PIPE, text=True).stdout)
                listed = ", ".join(f"{name} {figure:.4g}" for name, figure in figures.items())
                print(f"{method}, {choice}, margin {MARGINS[method] if given is None else given}: {listed}", flush=True)
                if figures["judged"]:
                    sys.exit(f"{method} mined judged answers")


if __name__ == "__main__":
    run_script(main)
