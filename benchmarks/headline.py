r"""The picture of the README: the untouched base, BM25, both fused and ragcun, on seen and unseen documents of SciFact.

With results files it takes the figures from these, and keeps them in ``docs/measurements/headline.json``; without, it
draws what is kept there.

    ragcun evaluate --model minilm --datasets scifact --data_dir DIR --baseline simple --hybrid bm25 --memory \
        --output_file results/base.json
    for seed in 1 2 3; do
        ragcun train --corpus DIR/scifact --seed $seed --output_dir checkpoints/corpus-$seed
        ragcun train --train_data DIR/scifact --seed $seed --output_dir checkpoints/labels-$seed
        for kind in corpus labels; do
            ragcun evaluate --model_path checkpoints/$kind-$seed --datasets scifact --data_dir DIR --baseline simple \
                --output_file results/$kind-$seed.json
        done
    done
    python benchmarks/headline.py --base results/base.json --corpus results/corpus-?.json --labels results/labels-?.json
"""

import argparse
from pathlib import Path
from statistics import mean
from typing import Any

from ragcun.cli.parser import run_script
from ragcun.io import read_json, write_json

PARTS = ("seen", "unseen")
RIVALS = ("bm25", "minilm-bm25", "minilm-memory-bm25-memory-feedback")
SYSTEMS = {
    "untouched all-MiniLM-L6-v2": "#9aa5b1",
    "BM25": "#c9b27c",
    "base + BM25 fused": "#7c9a6d",
    "base + BM25 with memory of training queries": "#b88a9e",
    "ragcun, no labels": "#6b93c4",
    "ragcun, trained on labels": "#1f4e8c",
}


def figures(base: Path, corpus: list[Path], labels: list[Path]) -> dict[str, Any]:
    """Return NDCG@10 on each part by system: means over the files, which are of one seed each."""
    untouched, adapted, trained = (list(map(read_json, paths)) for paths in ([base], corpus, labels))
    rivals = [[untouched[0]["baselines"][name]] for name in RIVALS]
    queries = {part: untouched[0]["datasets"]["scifact"][part]["n_queries"] for part in PARTS}
    scores = {
        name: {part: mean(each["datasets"]["scifact"][part]["NDCG@10"] for each in runs) for part in PARTS}
        for name, runs in zip(SYSTEMS, [untouched, *rivals, adapted, trained], strict=True)
    }
    return {"set": "scifact", "seeds": len(labels), "queries": queries, "NDCG@10": scores}


def draw(kept: dict[str, Any], output: Path) -> None:
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "ragcun", "font.size": 10})
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(figsize=(8, 3.6), layout="constrained")
    width = 0.8 / len(SYSTEMS)
    for place, (name, color) in enumerate(SYSTEMS.items()):
        heights = [kept["NDCG@10"][name][part] for part in PARTS]
        bars = axes.bar([group + place * width for group in range(len(PARTS))], heights, width * 0.92, color=color)
        axes.bar_label(bars, [f"{height:.3f}"[1:] for height in heights], fontsize=8)
        bars.set_label(name)
    titles = [f"{kept['queries'][part]} queries whose answer was {part} in training" for part in PARTS]
    axes.set_xticks([group + 0.4 - width / 2 for group in range(len(PARTS))], titles)
    axes.set_ylabel("NDCG@10, SciFact")
    axes.set_ylim(0, 1.05)
    axes.spines[["top", "right"]].set_visible(False)
    figure.legend(fontsize=8, frameon=False, loc="outside upper center", ncols=3)
    figure.savefig(output, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--base", type=Path, help="results of the untouched base and its rivals")
    parser.add_argument("--corpus", type=Path, nargs="+", help="results of checkpoints made without labels, one a seed")
    parser.add_argument("--labels", type=Path, nargs="+", help="results of heads trained on labels, one a seed")
    parser.add_argument("--kept", type=Path, default=Path("docs/measurements/headline.json"))
    parser.add_argument("--output", type=Path, default=Path("docs/figures/results.svg"))
    flags = parser.parse_args()
    if flags.base:
        write_json(flags.kept, figures(flags.base, flags.corpus, flags.labels))
    draw(read_json(flags.kept), flags.output)


if __name__ == "__main__":
    run_script(main)
