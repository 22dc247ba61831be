"""What ``scripts/evaluate_beir.py`` does: its flags, the evaluation, and what is shown."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path

from ragcun.cli import ArgumentParser
from ragcun.errors import InputError


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
    vectors = "vectors of the collections, for a checkpoint without a text model (or DIR/NAME for each)"
    parser.add_argument("--vectors", metavar="DIR", help=vectors)
    parser.add_argument("--batch_size", type=int, default=32, help="texts encoded at a time (default: 32)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    parser.add_argument("--seed", type=int, default=0, help="seed of the randomisation test (default: 0)")
    parser.add_argument("--update_card", action="store_true", help="write the table into the checkpoint's model card")
    _add_small_vectors(parser)
    return parser.parse_args()


def _add_small_vectors(parser: argparse.ArgumentParser) -> None:
    bits = "of the model's document vectors (default: %(default)s); queries stay float32"
    parser.add_argument("--precision", choices=("float32", "int8", "binary"), default="float32", help=bits)
    cut = "keep the first N dimensions of the model's vectors (default: all)"
    parser.add_argument("--truncate_dim", type=int, metavar="N", help=cut)


def evaluate(flags: argparse.Namespace) -> str:
    """Evaluate a model beside its baselines, write results and report, and return the table and where they are.

    Raises:
        InputError: a model, a collection or an earlier result is missing or wrong.
    """
    from ragcun.data.beir import find_collections, load_collection
    from ragcun.files import write_text
    from ragcun.models.vector_folder import read_vectors
    from ragcun.reporting.heldout_table import held_out_table
    from ragcun.reporting.tables import results_table
    from ragcun.retrieval.benchmark import run_benchmark
    from ragcun.retrieval.systems import EncodingOptions, open_system
    from ragcun.training.card import write_scores
    from ragcun.training.runfolder import environment

    collections = [load_collection(folder, flags.split) for folder in find_collections(flags.data_dir, flags.datasets)]
    options = EncodingOptions(flags.cache_dir, flags.batch_size, flags.device)
    if flags.vectors:
        _require_vector_head(flags.model_path)
        options = replace(options, vectors=read_vectors(flags.vectors, collections))
    small = replace(options, precision=flags.precision, truncate_dim=flags.truncate_dim)
    model = open_system(flags.model_path or flags.model, small, flags.distance)
    if flags.use_predictor:
        _require_predictor(flags.model_path or flags.model)
    baselines = [*model.companions, *(open_system(spec, options) for spec in flags.baseline)]
    output = Path(flags.output_file)
    manifest = environment(flags.device or "auto") | {"data_dir": str(flags.data_dir)}
    results = run_benchmark(model, baselines, collections, output, manifest, seed=flags.seed)
    table = "\n\n".join(filter(None, (results_table(results), held_out_table(results))))
    write_text(output.with_suffix(".md"), table + "\n")
    if flags.update_card:
        write_scores(flags.model_path or flags.model, table)
    places = f"report: {output.with_suffix('.md')}, figures: {output}, run files: {output.with_suffix('.runs')}"
    return f"{table}\n\n{places}"


def _require_vector_head(spec: str | None) -> None:
    from ragcun.models.folder import has_text_model, is_checkpoint

    if spec is None:
        raise InputError("--vectors goes with a checkpoint in --model_path; leave it out")
    if is_checkpoint(spec) and has_text_model(spec):
        raise InputError(f"--vectors: checkpoint {spec} has a text model; leave the flag out")


def _require_predictor(spec: str) -> None:
    from ragcun.files import read_json
    from ragcun.models.folder import CONFIG, is_checkpoint

    if not is_checkpoint(spec):
        raise InputError(f"--use_predictor: {spec} is not a checkpoint that train.py wrote; leave the flag out")
    if not read_json(Path(spec) / CONFIG)["config"].get("predictor"):
        raise InputError(f"--use_predictor: checkpoint {spec} has no predictor; leave the flag out")
