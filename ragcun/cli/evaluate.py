"""``ragcun evaluate``: a model beside its baselines on BEIR collections, results and report."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Literal

from ragcun.cli.flags import DISTANCES, CollectionFlags, Distance, EncodingFlags, ModelFlags
from ragcun.errors import InputError
from ragcun.options import check_bounds, check_one_of, flag

if TYPE_CHECKING:
    from collections.abc import Sequence

    from ragcun.data.beir_sets import CollectionFolder
    from ragcun.results import Results
    from ragcun.retrieval.systems import System


@dataclass(kw_only=True)
class Options(EncodingFlags, CollectionFlags, ModelFlags):
    """Flags of ``ragcun evaluate``."""

    title: ClassVar[str] = "evaluation"
    output_file: str = flag("results/beir.json", "results, as JSON; a report and run files beside it", short="output")
    resume: bool = flag(False, "keep what --output_file has of the same evaluation, and add the sets that it lacks")
    baseline: tuple[str, ...] = flag((), "systems to test against: bm25, models, results files")
    distance: Distance | None = flag(None, "distance of the model (default: its own)", choices=DISTANCES)
    use_predictor: bool = flag(
        False, "fail unless the checkpoint has a predictor; the query mode is read from the checkpoint"
    )
    vectors: str | None = flag(
        None,
        "vectors of the collections, for a checkpoint without a text model (or DIR/NAME for each)",
        metavar="DIR",
    )
    precision: Literal["float32", "int8", "binary"] = flag(
        "float32",
        "precision of the model's document vectors; queries stay float32",
        choices=("float32", "int8", "binary"),
    )
    truncate_dim: int | None = flag(None, "keep the first N dimensions of the model's vectors (default: all)")
    seed: int = flag(0, "seed of the randomisation test", at_least=0)
    update_card: bool = flag(False, "write the table into the checkpoint's model card")

    def __post_init__(self) -> None:
        check_bounds(self)
        check_one_of(self, "model_path", "model")


def run(options: Options) -> str:
    """Evaluate a model beside its baselines, write results and report, and return the table and where they are.

    Raises:
        InputError: a model, a collection or an earlier result is missing or wrong.
    """
    from ragcun.io import write_text
    from ragcun.reporting.tables import results_table
    from ragcun.retrieval.benchmark import run_benchmark
    from ragcun.retrieval.runs import runs_folder
    from ragcun.training.run_dir import environment, write_scores

    folders = options.collections()
    model, baselines = _open(options, folders)
    output = Path(options.output_file)
    used = {"data_dir": options.data_dir, "base_dtype": options.base_dtype}
    manifest = environment(options.device or "auto") | used

    def report(results: Results) -> None:
        write_text(output.with_suffix(".md"), results_table(results))

    seed, resume = options.seed, options.resume
    results = run_benchmark(model, baselines, folders, output, manifest, seed=seed, resume=resume, report=report)
    table = results_table(results)
    if options.update_card:
        write_scores(options.spec, table)
    places = f"report: {output.with_suffix('.md')}, figures: {output}, run files: {runs_folder(output)}"
    return f"{table}\n{places}"


def _open(options: Options, folders: Sequence[CollectionFolder]) -> tuple[System, list[System]]:
    """Return the model and what it is tested against."""
    from ragcun.embeddings.precomputed import read_vectors
    from ragcun.retrieval.systems import EncodingOptions, open_system

    encoding = EncodingOptions(options.cache_dir, options.batch_size, options.device, base_dtype=options.base_dtype)
    if options.vectors:
        _require_vector_head(options.model_path)
        encoding = replace(encoding, vectors=read_vectors(options.vectors, [folder.load() for folder in folders]))
    small = replace(encoding, precision=options.precision, truncate_dim=options.truncate_dim)
    model = open_system(options.spec, small, options.distance)
    if options.use_predictor:
        _require_predictor(options.spec)
    return model, [*model.companions, *(open_system(spec, encoding) for spec in options.baseline)]


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
