"""Isotropy on against off in the founding notes' recipe and in every publication and strategy configuration.

Trains each configuration with its own lambda_isotropy and with 0, by default on the first 300 pairs of ``--pairs`` and
MiniLM, and prints the effective rank of the embeddings of these pairs (queries and documents) and of as many other
documents, and how far the weights of the two runs are apart. ``--epochs`` shortens the runs that train the base.
"""

import argparse
import json
from pathlib import Path

import numpy as np

import ragcun
from ragcun.cli.parser import parse_config, run_script
from ragcun.config import TrainConfig
from ragcun.isotropy.spectrum import effective_rank
from ragcun.options import read_config

STRATEGIES = ("quick_prototype_1_wikipedia", "quick_prototype_2_msmarco", "medium_scale_1_wikipedia")
STRATEGIES += ("medium_scale_2_msmarco", "smart_hybrid")
LETTERS = 250
"""Texts are cut here, so that a base is trained in minutes on two cores."""
NAMES = ("notes", "publication_isotropy", "publication_frozen", *(f"strategies/{name}" for name in STRATEGIES))


def ranks(checkpoint: Path, pairs: list[dict], others: list[dict]) -> list[float]:
    """Return effective ranks of a checkpoint's embeddings of the training pairs, and of other documents."""
    encoder = ragcun.RetrievalEncoder.from_pretrained(checkpoint)
    own = encoder.encode_query([row["query"] for row in pairs]), encoder.encode_document([r["positive"] for r in pairs])
    found = np.concatenate(own), encoder.encode_document([row["positive"] for row in others])
    return [effective_rank(np.linalg.eigvalsh(np.cov(z.T.astype(float))).clip(0)) for z in found]


def weights(checkpoint: Path) -> np.ndarray:
    """Return all weights of a checkpoint in one row."""
    encoder = ragcun.RetrievalEncoder.from_pretrained(checkpoint)
    return np.concatenate([weight.detach().numpy().ravel() for weight in encoder.parameters()])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--pairs", type=Path, required=True, help="pairs file (.jsonl) with twice as many rows as used")
    parser.add_argument("--count", type=int, default=300)
    parser.add_argument("--epochs", type=int, default=1, help="of the configurations that train the base")
    parser.add_argument("--output_dir", type=Path, required=True)
    options = parser.parse_args()
    rows = [json.loads(line) for line in options.pairs.read_text().splitlines()[: 2 * options.count]]
    rows = [{name: text[:LETTERS] for name, text in row.items()} for row in rows]
    pairs, others = rows[: options.count], rows[options.count :]
    options.output_dir.mkdir(parents=True, exist_ok=True)
    train = options.output_dir / "pairs.jsonl"
    train.write_text("".join(json.dumps(row) + "\n" for row in pairs))
    print("| configuration | λ | steps | rank, the pairs | rank, other documents | weights apart |")
    print("|---|--:|--:|--:|--:|--:|", flush=True)
    for name in NAMES:
        settings, finished = read_config(name), []
        for weight in (0.0, settings["lambda_isotropy"]):
            folder = options.output_dir / f"{name.replace('/', '_')}_{'on' if weight else 'off'}"
            flags = ["--train_data", train, "--val_data", "none", "--base_model", "minilm", "--mixed_precision", "no"]
            flags += [
                "--lambda_isotropy",
                weight,
                "--output_dir",
                folder,
                "--warmup_steps",
                "none",
                "--overwrite",
                "--collapse_checks",
                0,
            ]
            if not settings.get("freeze_base"):
                flags += ["--epochs", options.epochs]
            if before := settings.get("load_checkpoint"):
                first = f"strategies_{Path(before).parent.name}_{'on' if weight else 'off'}"
                flags += ["--load_checkpoint", options.output_dir / first / "best_model"]
            result = ragcun.fit(parse_config(TrainConfig, None, ["--config", name, *map(str, flags)]))
            shown = ranks(result.checkpoint, pairs, others)
            finished.append(weights(result.checkpoint))
            apart = f"{np.abs(finished[-1] - finished[0]).max():.1e}" if weight else ""
            print(f"| {name} | {weight:g} | {result.steps} | {shown[0]:.1f} | {shown[1]:.1f} | {apart} |", flush=True)


if __name__ == "__main__":
    run_script(main)
