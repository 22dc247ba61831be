"""Commands that make checkpoints, by training or without, and ``ragcun export``, which writes one side of them."""

from __future__ import annotations

import importlib.util
import logging
import shlex
from dataclasses import MISSING, asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from ragcun.cli.flags import EncodingFlags
from ragcun.config import SEED_HELP, LexicalConfig, TrainConfig
from ragcun.errors import InputError, as_input_error, require_package
from ragcun.options import flag, settings_of

if TYPE_CHECKING:
    from ragcun.models.encoder import RetrievalEncoder

RECIPE = (
    "recipe: ragcun's own, the best we measured (closed-form whitening, linear heads, InfoNCE, mined negatives); "
    "the founding notes' recipe is --config notes"
)
CLOSED_FORM = ("exponent", "eps", "shrinkage", "output_dim")
"""Flags that are settings of `ragcun.calibrate`."""
SIDE_CARD = """# {output}

The {side} side of the ragcun checkpoint `{checkpoint}`: `encode` takes every text for a {side}, with the prompt
{prompt!r}. Embeddings are compared by Euclidean distance.{elsewhere}
"""
Side = Literal["query", "document"]
logger = logging.getLogger(__name__)


def run(options: TrainConfig) -> tuple[str, dict[str, Any]]:
    """Train, draw the loss curve into the run folder, and return a summary; of several processes the main one does."""
    from accelerate import PartialState

    from ragcun.training.loop import fit
    from ragcun.training.processes import TrainingStopped
    from ragcun.training.run_dir import RunFolder

    if "config" not in options.given:
        logger.info(RECIPE)
    try:
        result = fit(options)
    except TrainingStopped as stopped:
        logger.warning("%s", stopped)
        raise SystemExit(stopped.code) from None
    if not PartialState().is_main_process:
        return "", {}
    folder = RunFolder(options.output_dir)
    if not importlib.util.find_spec("matplotlib"):
        logger.info("no loss curve is drawn without matplotlib: pip install 'ragcun[report]'")
    elif result.steps:
        from ragcun.reporting.plots import loss_figure, write_png

        write_png(loss_figure(folder.metrics), folder.loss_curve)
    score = "" if result.score is None else f" {abs(result.score):.4f}"
    base = "" if result.base_score is None else f" (untouched base {result.base_score:.4f})"
    compared = f"{result.comparison}\n" if result.comparison else ""
    skipped = f"{result.skipped} steps left out: loss or gradient not finite\n" if result.skipped else ""
    text = (
        f"epoch {result.best_epoch} kept, chosen by {result.criterion}{score}{base}\n{compared}{skipped}"
        f"{result.steps} steps in {result.seconds:.1f} s; checkpoint: {result.checkpoint}"
    )
    following = _next(result.checkpoint, options.train_data or options.corpus, options.vectors)
    return f"{text}\n{following}", asdict(result)


def _next(checkpoint: Path, data: str | Path | None, vectors: str | None = None) -> str:
    """Return the command that evaluates a checkpoint: on the collection that it is of, or one to be named."""
    data = Path(data or "DIR/NAME")
    place = data if (data / "qrels").is_dir() else Path("DIR/NAME")
    words = ["--model_path", checkpoint, "--data_dir", place.parent, "--datasets", place.name, "--baseline", "bm25"]
    words += ["--vectors", vectors] if vectors else []
    return f"next: {shlex.join(['ragcun', 'evaluate', *map(str, words)])}"


def sweep(
    config: str = flag(MISSING, "YAML file of the sweep, or a packaged one, such as sweeps/lambda", metavar="FILE"),
    output_dir: Path = flag(MISSING, "folder of the sweep: its log, report.md and best_config.yaml"),
    trials: int | None = flag(None, "number of configurations, instead of the file's", at_least=1),
    keep_runs: bool = flag(False, "keep the run folders of all trials, under runs/"),
    resume: bool = flag(False, "resume the sweep in --output_dir, or start where there is none"),
    overwrite: bool = flag(False, "replace an earlier sweep in --output_dir"),
) -> str:
    """Run a sweep, or what is left of it, write its report and best settings, and return a summary."""
    if resume and overwrite:
        raise InputError("--resume and --overwrite contradict each other; give one of them")
    require_package("optuna", "sweeps")
    import yaml

    from ragcun.io import claim_folder, write_json, write_text
    from ragcun.sweeps.space import check_inputs, read_space
    from ragcun.sweeps.study import markdown, run_sweep, summarise

    space = read_space(config, trials)
    data = check_inputs(space)
    log, report, settings = (output_dir / name for name in ("study.log", "report.md", "best_config.yaml"))
    old = (output_dir / "runs", log, report.with_suffix(".json"), report, settings)
    claim_folder(output_dir, "sweep", log, old, resume, overwrite)
    figures = summarise(space, run_sweep(space, output_dir, data, keep_runs), output_dir)
    write_json(report.with_suffix(".json"), figures)
    write_text(report, markdown(figures))
    best = figures["best"]
    if best is None:
        why = figures["rows"][0]["message"]
        raise InputError(f"all {figures['trials']} trials failed, the first one because: {why}")
    write_text(settings, yaml.safe_dump(best["settings"], sort_keys=False, allow_unicode=True))
    return f"{markdown(figures)}\nreport: {report}, settings: {settings}"


@dataclass(kw_only=True)
class CalibrateOptions(LexicalConfig, EncodingFlags):
    """Flags of ``ragcun calibrate``."""

    title: ClassVar[str] = "whitening"
    base_model: str = flag("minilm", "hub name, folder or minilm")
    corpus: str = flag(MISSING, "documents: BEIR folder, .txt (one a line), .json, .jsonl or .csv", metavar="PATH")
    queries: str | None = flag(None, "unlabelled queries, likewise (default: sentences of --corpus)", metavar="PATH")
    query_split: str | None = flag(None, "only queries that this split of the BEIR folder in --queries judges")
    output_dir: Path = flag(MISSING, "checkpoint folder to write")
    max_queries: int | None = flag(
        None, "draw a sample of this many queries (default: all; 2,000 sentences)", at_least=1
    )
    exponent: float = flag(0.15, "exponent of the whitening: 0 only shifts queries, 0.5 whitens fully")
    eps: float = flag(1e-3, "added to each variance")
    shrinkage: float = flag(5.0, "pseudo-queries without a gap to the documents; they shrink the shift")
    output_dim: int | None = flag(None, "length of the embeddings (default: the base's)", at_least=1)
    max_documents: int = flag(100_000, "draw a sample of this many documents from a larger corpus", at_least=2)
    seed: int = flag(0, SEED_HELP, at_least=0)

    def __post_init__(self) -> None:
        if self.query_split and not self.queries:
            raise InputError("--query_split is of a BEIR folder in --queries, which is missing; name one")


def calibrate(options: CalibrateOptions) -> tuple[str, dict[str, Any]]:
    """Fit a head to a corpus in closed form, write it as a checkpoint, and return a summary."""
    from ragcun.data.beir import read_queries
    from ragcun.data.records import read_documents
    from ragcun.data.synthetic_queries import STAND_INS, sample_documents, sample_queries, sentences_as_queries
    from ragcun.models.checkpoint import is_checkpoint
    from ragcun.training.summary import card

    output = options.output_dir
    if not is_checkpoint(output):
        _require_empty(output)
    documents = [document for document in read_documents(options.corpus) if document.content]
    texts = [document.content for document in sample_documents(documents, options.max_documents, options.seed)]
    if options.queries:
        queries = sample_queries(read_queries(options.queries, options.query_split), options.max_queries, options.seed)
        source = f"queries of {options.queries}"
    else:
        queries = sentences_as_queries(documents, options.max_queries or STAND_INS, options.seed)
        source = "sentences of the corpus that stand in for queries"
    encoder = _fitted(options, texts, queries)
    fitted = f"{len(texts)} of {len(documents)} documents of {options.corpus}, {len(queries)} {source}"
    about = f"""A closed-form linear head on `{encoder.base.name}`, not trained: soft whitening, and a shift of queries
towards documents; {encoder.dimension} dimensions of length 1. Fitted to {fitted}."""
    shown = (*CLOSED_FORM, "base_dtype", "base_backend", *settings_of(LexicalConfig))
    settings = {name: getattr(options, name) for name in shown}
    page = card(output.name, encoder, settings, about=about)
    encoder.save_pretrained(output, page, seen=frozenset(), trained=0)
    text = f"fitted to {fitted}\n{encoder.dimension} dimensions of length 1; checkpoint: {output}"
    figures = {"checkpoint": output, "dimension": encoder.dimension, "documents": len(texts), "queries": len(queries)}
    return f"{text}\n{_next(output, options.corpus)}", figures


def _require_empty(folder: Path) -> None:
    if folder.is_dir() and any(folder.iterdir()):
        raise InputError(f"--output_dir {folder} holds files that would be lost; name a new or an empty folder")


def _fitted(options: CalibrateOptions, texts: list[str], queries: list[str]) -> RetrievalEncoder:
    from ragcun.embeddings.base import Base
    from ragcun.embeddings.cache import JoinedSource, vector_source
    from ragcun.embeddings.joined import JoinedBase, fit_channel
    from ragcun.embeddings.text_base import TextBase
    from ragcun.models.whitening import calibrate, check_settings

    base: Base = TextBase.load(options.base_model, device=options.device)
    base.compute_in(options.base_dtype, options.base_backend)
    cache = vector_source(base, options.cache_dir, options.batch_size)
    if options.lexical_dim != 0:
        base = JoinedBase(base, *fit_channel(cache, texts, options))
        cache = JoinedSource(cache, base)
    closed_form = {name: getattr(options, name) for name in CLOSED_FORM}
    with as_input_error(f"cannot calibrate by {options.corpus}"):
        check_settings(**closed_form, dim=base.dimension)  # before texts are encoded
        vectors = cache.encode(texts, "document"), cache.encode(queries, "query")
        encoder = calibrate(*vectors, **closed_form).encoder(base)
    return encoder


def export(
    model_path: str = flag(MISSING, "checkpoint folder"),
    side: Side = flag(MISSING, "side whose embeddings plain encode returns", choices=Side),
    output_dir: Path = flag(MISSING, "sentence-transformers folder to write"),
) -> str:
    """Write one side of a checkpoint as a plain sentence-transformers folder, and return where it is."""
    from ragcun.embeddings.joined import JoinedBase
    from ragcun.embeddings.target import TargetBase
    from ragcun.io import replacing_folder, write_text
    from ragcun.models.encoder import RetrievalEncoder

    _require_empty(output_dir)
    encoder = RetrievalEncoder.from_pretrained(model_path)
    base = encoder.base
    if isinstance(base, JoinedBase) and base.reads_texts and not base.channel.analyser.pieces:
        remedy = "load it with ragcun, or train with --lexical_terms pieces or --lexical_dim 0"
        raise InputError(f"{model_path} has a lexical channel of words, which no plain folder holds; {remedy}")
    model, prompt = encoder.to_sentence_transformer(side), base.prompt(side)
    with replacing_folder(output_dir) as temporary:
        model.save_pretrained(str(temporary), create_model_card=False)
        facts = {"side": side, "checkpoint": model_path, "prompt": prompt}
        facts["elsewhere"] = f" The {base.target}." if isinstance(base, TargetBase) else ""
        card = SIDE_CARD.format(output=output_dir.name, **facts)
        write_text(temporary / "README.md", card)
    return f"{side} side, prompt {prompt!r}: {output_dir}"
