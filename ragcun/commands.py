"""What the commands do once their flags are parsed: train, evaluate. Each returns what is to be shown."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from ragcun.cli import ArgumentParser
from ragcun.errors import InputError

if TYPE_CHECKING:
    from ragcun.training.config import TrainConfig


def train(config: TrainConfig) -> str:
    """Train, draw the loss curve into the run folder, and return a summary of two lines.

    Raises:
        InputError: a setting or a file is wrong.
    """
    from ragcun.reporting.plots import plot_loss_curves
    from ragcun.training.loop import fit
    from ragcun.training.runfolder import RunFolder

    result = fit(config)
    run = RunFolder(config.output_dir, resume=True)
    plot_loss_curves(run.metrics, run.loss_curve)
    score = "" if result.score is None else f" {abs(result.score):.4f}"
    base = "" if result.base_score is None else f" (untouched base {result.base_score:.4f})"
    return (
        f"epoch {result.best_epoch} kept, chosen by {result.criterion}{score}{base}\n"
        f"{result.steps} steps in {result.seconds:.1f} s; checkpoint: {result.checkpoint}"
    )


def parse_evaluation(description: str | None) -> argparse.Namespace:
    """Parse the flags of `evaluate`."""
    parser = ArgumentParser(description=description)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model_path", metavar="DIR", help="checkpoint folder; its untouched base is evaluated too")
    model.add_argument("--model", metavar="NAME", help="hub name, folder, minilm, or bm25")
    names = "folders in --data_dir (default: all)"
    parser.add_argument("--datasets", nargs="+", default=["all"], metavar="NAME", help=names)
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="folder of BEIR collections (default: data)")
    parser.add_argument("--split", default="test", help="qrels to use (default: test)")
    results, place = "results/beir.json", "results, as JSON (default: %(default)s)"
    parser.add_argument("--output_file", "--output", metavar="FILE", default=results, help=place)
    more = "more rows to test against: bm25, models, result files"
    parser.add_argument("--baseline", nargs="+", default=[], metavar="SPEC", help=more)
    parser.add_argument("--distance", choices=("euclidean", "cosine", "dot"), help="of the model (default: its own)")
    predicts = "fail unless the checkpoint has a predictor; how queries are embedded it knows itself"
    parser.add_argument("--use_predictor", action="store_true", help=predicts)
    cache = "cached base vectors (default: $RAGCUN_CACHE or ~/.cache/ragcun)"
    parser.add_argument("--cache_dir", metavar="DIR", help=cache)
    parser.add_argument("--batch_size", type=int, default=32, help="texts encoded at a time (default: 32)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the randomisation test (default: 0)")
    parser.add_argument("--update_card", action="store_true", help="write the table into the checkpoint's model card")
    return parser.parse_args()


def evaluate(flags: argparse.Namespace) -> str:
    """Evaluate a model beside its baselines, write results and report, and return the table and where they are.

    Raises:
        InputError: a model, a collection or an earlier result is missing or wrong.
    """
    from ragcun.data.beir import find_collections, load_collection
    from ragcun.files import write_text
    from ragcun.reporting.tables import results_table
    from ragcun.retrieval.benchmark import run_benchmark
    from ragcun.retrieval.systems import EncodingOptions, open_system
    from ragcun.training.card import write_scores
    from ragcun.training.runfolder import environment

    collections = [load_collection(folder, flags.split) for folder in find_collections(flags.data_dir, flags.datasets)]
    options = EncodingOptions(flags.cache_dir, flags.batch_size, flags.device)
    model = open_system(flags.model_path or flags.model, options, flags.distance)
    if flags.use_predictor:
        _require_predictor(flags.model_path or flags.model)
    baselines = [open_system(spec, options) for spec in flags.baseline]
    output = Path(flags.output_file)
    manifest = environment(flags.device or "auto")
    table = results_table(run_benchmark(model, baselines, collections, output, manifest, seed=flags.seed))
    write_text(output.with_suffix(".md"), table + "\n")
    if flags.update_card:
        write_scores(flags.model_path or flags.model, table)
    places = f"report: {output.with_suffix('.md')}, figures: {output}, run files: {output.with_suffix('.runs')}"
    return f"{table}\n\n{places}"


def _require_predictor(spec: str) -> None:
    from ragcun.files import read_json
    from ragcun.models.folder import CONFIG, is_checkpoint

    if not is_checkpoint(spec):
        raise InputError(f"--use_predictor: {spec} is not a checkpoint that train.py wrote; leave the flag out")
    if not read_json(Path(spec) / CONFIG)["config"].get("predictor"):
        raise InputError(f"--use_predictor: checkpoint {spec} has no predictor; leave the flag out")
