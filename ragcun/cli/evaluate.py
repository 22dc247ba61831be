"""What ``scripts/evaluate_beir.py`` does: its flags, the evaluation, and what is shown."""

from __future__ import annotations

import argparse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ragcun.cli.encoding_flags import add_encoding_flags
from ragcun.cli.parser import ArgumentParser
from ragcun.errors import InputError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ragcun.data.beir_sets import CollectionFolder
    from ragcun.results import Results
    from ragcun.retrieval.systems import System


def parse_evaluation(description: str | None) -> argparse.Namespace:
    """Parse the flags of `evaluate`."""
    parser = ArgumentParser(description=description)
    model = parser.add_mutually_exclusive_group(required=True)
    model.add_argument("--model_path", metavar="DIR", help="checkpoint folder; its untouched base is evaluated too")
    model.add_argument("--model", metavar="NAME", help="hub name, folder, minilm, contriever, or bm25")
    _add_collections(parser)
    results, place = "results/beir.json", "results, as JSON (default: %(default)s)"
    parser.add_argument("--output_file", "--output", metavar="FILE", default=results, help=place)
    kept = "keep what --output_file has of the same evaluation, and add the sets that it lacks"
    parser.add_argument("--resume", action="store_true", help=kept)
    more = "more rows to test against: bm25, models, result files"
    parser.add_argument("--baseline", nargs="+", default=[], metavar="SPEC", help=more)
    parser.add_argument("--distance", choices=("euclidean", "cosine", "dot"), help="of the model (default: its own)")
    predicts = "fail unless the checkpoint has a predictor; how queries are embedded it knows itself"
    parser.add_argument("--use_predictor", action="store_true", help=predicts)
    vectors = "vectors of the collections, for a checkpoint without a text model (or DIR/NAME for each)"
    parser.add_argument("--vectors", metavar="DIR", help=vectors)
    add_encoding_flags(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the randomisation test (default: 0)")
    parser.add_argument("--update_card", action="store_true", help="write the table into the checkpoint's model card")
    _add_small_vectors(parser)
    return parser.parse_args()


def _add_collections(parser: argparse.ArgumentParser) -> None:
    names = "folders in --data_dir, sets of BEIR, quick (5 small sets), or all (default: all)"
    parser.add_argument("--datasets", nargs="+", default=["all"], metavar="NAME", help=names)
    parser.add_argument("--data_dir", default="data", metavar="DIR", help="folder of BEIR collections (default: data)")
    parser.add_argument("--split", help="qrels to use (default: test; dev of msmarco, as in BEIR)")
    fetched = "fetch sets of BEIR that are not in --data_dir; with all, every one that can be had"
    parser.add_argument("--download", action="store_true", help=fetched)
    place = "where NAME.zip lie, https:// or file:// (default: $RAGCUN_BEIR_MIRROR, or the hub); means --download"
    parser.add_argument("--mirror", metavar="URL", help=place)


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
    from ragcun.io import write_text
    from ragcun.reporting.tables import results_table
    from ragcun.retrieval.benchmark import run_benchmark
    from ragcun.retrieval.runs import runs_folder
    from ragcun.training.run_dir import environment
    from ragcun.training.saving import write_scores

    folders = _find(flags)
    model, baselines = _open(flags, folders)
    output = Path(flags.output_file)
    manifest = environment(flags.device or "auto") | {"data_dir": str(flags.data_dir), "base_dtype": flags.base_dtype}

    def report(results: Results) -> None:
        write_text(output.with_suffix(".md"), results_table(results))

    results = run_benchmark(
        model, baselines, folders, output, manifest, seed=flags.seed, resume=flags.resume, report=report
    )
    table = results_table(results)
    if flags.update_card:
        write_scores(flags.model_path or flags.model, table)
    places = f"report: {output.with_suffix('.md')}, figures: {output}, run files: {runs_folder(output)}"
    return f"{table}\n{places}"


def _open(flags: argparse.Namespace, folders: Sequence[CollectionFolder]) -> tuple[System, list[System]]:
    """Return the model and what it is tested against."""
    from ragcun.embeddings.precomputed import read_vectors
    from ragcun.retrieval.systems import EncodingOptions, open_system

    options = EncodingOptions(flags.cache_dir, flags.batch_size, flags.device, base_dtype=flags.base_dtype)
    if flags.vectors:
        _require_vector_head(flags.model_path)
        options = replace(options, vectors=read_vectors(flags.vectors, [folder.load() for folder in folders]))
    small = replace(options, precision=flags.precision, truncate_dim=flags.truncate_dim)
    model = open_system(flags.model_path or flags.model, small, flags.distance)
    if flags.use_predictor:
        _require_predictor(flags.model_path or flags.model)
    return model, [*model.companions, *(open_system(spec, options) for spec in flags.baseline)]


def _find(flags: argparse.Namespace) -> list[CollectionFolder]:
    """Return where the collections lie, after fetching those that are to be fetched."""
    from ragcun.data.beir_download import fetch_from
    from ragcun.data.beir_sets import find_sets

    fetch = fetch_from(flags.mirror, Path(flags.data_dir)) if flags.download or flags.mirror else None
    return find_sets(flags.data_dir, flags.datasets, flags.split, fetch)


def _require_vector_head(spec: str | None) -> None:
    from ragcun.models.checkpoint import has_text_model, is_checkpoint

    if spec is None:
        raise InputError("--vectors goes with a checkpoint in --model_path; leave it out")
    if is_checkpoint(spec) and has_text_model(spec):
        raise InputError(f"--vectors: checkpoint {spec} has a text model; leave the flag out")


def _require_predictor(spec: str) -> None:
    from ragcun.io import read_json
    from ragcun.models.checkpoint import CONFIG, is_checkpoint

    if not is_checkpoint(spec):
        raise InputError(f"--use_predictor: {spec} is not a checkpoint that train.py wrote; leave the flag out")
    if not read_json(Path(spec) / CONFIG)["config"].get("predictor"):
        raise InputError(f"--use_predictor: checkpoint {spec} has no predictor; leave the flag out")
