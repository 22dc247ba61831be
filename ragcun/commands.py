"""What the commands do once their flags are parsed: train, evaluate, calibrate. Each returns what is to be shown."""

from __future__ import annotations

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from ragcun.cli import ArgumentParser
from ragcun.errors import InputError

if TYPE_CHECKING:
    from ragcun.models.asymmetric import AsymmetricProjectionModel
    from ragcun.models.base import TextBase
    from ragcun.training.config import TrainConfig

CLOSED_FORM = ("exponent", "eps", "shrinkage", "output_dim")
"""Flags that are settings of `ragcun.calibrate`."""


def train(config: TrainConfig) -> str:
    """Train, draw the loss curve into the run folder, and return a summary.

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
    compared = f"{result.comparison}\n" if result.comparison else ""
    return (
        f"epoch {result.best_epoch} kept, chosen by {result.criterion}{score}{base}\n{compared}"
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


def parse_calibration(description: str | None) -> argparse.Namespace:
    """Parse the flags of `calibrate`."""
    parser = ArgumentParser(description=description)
    base = "hub name, folder or minilm (default: %(default)s)"
    parser.add_argument("--base_model", default="minilm", metavar="NAME", help=base)
    corpus = "documents: a BEIR folder, .txt (one a line), or .json, .jsonl, .csv with the field text"
    parser.add_argument("--corpus", required=True, metavar="PATH", help=corpus)
    queries = "queries without labels, as --corpus takes documents (default: sentences of the corpus stand in)"
    parser.add_argument("--queries", metavar="PATH", help=queries)
    split = "take those that this split of the BEIR folder in --queries judges (default: all, test ones too)"
    parser.add_argument("--query_split", metavar="NAME", help=split)
    parser.add_argument("--output_dir", required=True, type=Path, metavar="DIR", help="checkpoint folder to write")
    fewer = "take a sample of this many queries (default: all; 2,000 sentences where they stand in)"
    parser.add_argument("--max_queries", type=int, metavar="N", help=fewer)
    exponent = "0 moves queries alone, 0.5 whitens (default: %(default)s)"
    parser.add_argument("--exponent", type=float, default=0.15, help=exponent)
    parser.add_argument("--eps", type=float, default=1e-3, help="added to each variance (default: %(default)s)")
    shrinkage = "how many queries without a gap to the corpus count too (default: %(default)s)"
    parser.add_argument("--shrinkage", type=float, default=5.0, help=shrinkage)
    parser.add_argument("--output_dim", type=int, help="length of the embeddings (default: the base's)")
    sample = "take a sample of this many documents from a larger corpus (default: %(default)s)"
    parser.add_argument("--max_documents", type=int, default=100_000, help=sample)
    parser.add_argument("--seed", type=int, default=0, help="seed of all that is drawn (default: 0)")
    cache = "cached base vectors (default: $RAGCUN_CACHE or ~/.cache/ragcun)"
    parser.add_argument("--cache_dir", metavar="DIR", help=cache)
    parser.add_argument("--batch_size", type=int, default=32, help="texts encoded at a time (default: 32)")
    parser.add_argument("--device", help="cpu or cuda (default: a GPU where there is one)")
    return parser.parse_args()


def calibrate(flags: argparse.Namespace) -> str:
    """Fit a head to a corpus in closed form, write it as a checkpoint, and return a summary of two lines.

    Raises:
        InputError: a setting or a file is wrong, or the output folder holds something else.
    """
    from ragcun.data.documents import read_documents
    from ragcun.data.queries import STAND_INS, read_queries, sample_documents, sample_queries, sentences_as_queries
    from ragcun.models.base import TextBase

    _check_calibration(flags)
    documents = [document for document in read_documents(flags.corpus) if document.content]
    texts = [document.content for document in sample_documents(documents, flags.max_documents, flags.seed)]
    if flags.queries:
        queries = sample_queries(read_queries(flags.queries, flags.query_split), flags.max_queries, flags.seed)
        source = f"queries of {flags.queries}"
    else:
        queries = sentences_as_queries(documents, flags.max_queries or STAND_INS, flags.seed)
        source = "sentences of the corpus that stand in for queries"
    base = TextBase.load(flags.base_model, device=flags.device)
    try:
        encoder = _calibrated(base, texts, queries, flags)
    except ValueError as error:
        raise InputError(f"cannot calibrate by {flags.corpus}: {error}") from error
    fitted = f"{len(texts)} of {len(documents)} documents of {flags.corpus}, {len(queries)} {source}"
    encoder.save_pretrained(flags.output_dir, _calibration_card(encoder, fitted, flags), seen=frozenset())
    return f"fitted to {fitted}\n{encoder.dimension} dimensions of length 1; checkpoint: {flags.output_dir}"


def _check_calibration(flags: argparse.Namespace) -> None:
    from ragcun.models.folder import is_checkpoint

    output = flags.output_dir
    if output.exists() and not output.is_dir():
        raise InputError(f"--output_dir {output} is a file; name a folder")
    if output.is_dir() and any(output.iterdir()) and not is_checkpoint(output):
        raise InputError(f"--output_dir {output} holds files that would be lost; name a new or an empty folder")
    if flags.query_split and not flags.queries:
        raise InputError("--query_split is of a BEIR folder in --queries, which is missing; name one")
    for name, least in (("max_documents", 2), ("max_queries", 1), ("batch_size", 1)):
        if (given := getattr(flags, name)) is not None and given < least:
            raise InputError(f"--{name} must be at least {least}, got {given}; give a larger number")


def _calibrated(
    base: TextBase, documents: list[str], queries: list[str], flags: argparse.Namespace
) -> AsymmetricProjectionModel:
    from ragcun.models.cache import EmbeddingCache
    from ragcun.models.calibration import calibrate as fit_closed_form
    from ragcun.models.calibration import check_settings

    settings = {name: getattr(flags, name) for name in CLOSED_FORM}
    check_settings(**settings, dim=base.dimension)
    cache = EmbeddingCache(base, flags.cache_dir, flags.batch_size)
    vectors = cache.encode(documents, "document")
    return fit_closed_form(vectors, cache.encode(queries, "query"), **settings).encoder(base)


def _calibration_card(encoder: AsymmetricProjectionModel, fitted: str, flags: argparse.Namespace) -> str:
    from ragcun.training.card import BEGIN, END

    settings = "\n".join(f"{name}: {json.dumps(getattr(flags, name))}" for name in CLOSED_FORM)
    return f"""---
library_name: sentence-transformers
pipeline_tag: sentence-similarity
tags: [sentence-transformers, sentence-similarity, feature-extraction, ragcun]
---

# {flags.output_dir.name}

A closed-form linear head on `{encoder.base.name}`, not trained: soft whitening, and a shift of queries towards the
documents. {encoder.dimension} dimensions, length 1, compared by Euclidean distance (cosine ranks alike). Use
`encode_query` and `encode_document`. Made by ragcun; it loads without it.

Fitted to {fitted}.

## Scores

{BEGIN}
Not evaluated yet.
{END}

## Configuration

```yaml
{settings}
```
"""
