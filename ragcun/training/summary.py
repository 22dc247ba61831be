"""What a run says: what it trains, which settings have no effect on it, its result, and the card of its checkpoint."""

from __future__ import annotations

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml
from jinja2 import Template

from ragcun.config import TAUGHT, ObjectiveConfig, OptimizationConfig, TrainConfig
from ragcun.embeddings.joined import JoinedBase
from ragcun.embeddings.target import TargetBase
from ragcun.errors import InputError
from ragcun.io import read_text, write_text
from ragcun.losses.objective import SCALED_BY_ROWS
from ragcun.models.encoder import RetrievalEncoder

logger = logging.getLogger(__name__)

TERMS = {"reg": "variance", "predictive": "prediction", "residual": "residual"}
LOSS = "contrastive margin temperature teacher_temperature distance symmetric soft_targets nested_dims"
MINED = "mined_negatives mine_every"
PREDICTOR = "predictor predictor_learning_rate stopgrad"
SHAPE = "isotropy isotropy_form isotropy_transform isotropy_rows num_slices knots"
TRAINING = " ".join(each.name for kind in (ObjectiveConfig, OptimizationConfig) for each in fields(kind))
KEPT = ("dropout", "normalize_output")
"""Settings of a checkpoint that stay, whatever is asked for; a line says so."""
BEGIN, END = "<!-- scores: begin -->", "<!-- scores: end -->"
TEMPLATE = Template(read_text(Path(__file__).with_name("card.md.j2")), trim_blocks=True, keep_trailing_newline=True)
Rules = list[tuple[str, bool, str]]
"""Settings, whether they have no effect, and why not (or what they do instead of what they say)."""


def rules_of(config: TrainConfig, encoder: RetrievalEncoder, epochs: int, steps: int) -> Rules:
    """Return what decides whether settings have an effect on a run of so many epochs and steps."""
    untrained = "no effect, since nothing is trained; with --corpus, --trained_share .25 trains"
    continued = config.load_checkpoint is not None or not encoder.base.frozen
    head = "--head_init calibrated of a new head on a frozen base"
    return [
        (TRAINING.replace(" device", "").replace(" encode_batch_size", ""), steps == 0, untrained),
        *_of_objective(config, bool(encoder.to_config().get("normalize_output"))),
        *_of_model(config, encoder),
        ("queries", config.start != "calibrated" or continued, f"no effect: only {head} uses them"),
        ("pair_method", config.documents is None, "no effect without --documents"),
        ("dev_split", config.dev_beir is None, "no effect without --dev_beir"),
        ("steps", config.epochs is not None, "no effect, since --epochs is given"),
        ("warmup_steps", config.warmup(steps) > steps, "longer than the run: learning rates stay below those given"),
        ("grad_cache_size", config.grad_cache_size >= config.batch_size, "no effect: it is not below --batch_size"),
        ("save_interval", config.save_interval > epochs, "no effect: the run has fewer epochs"),
        ("mine_every", (config.mine_every or 0) >= epochs, "no effect: the run has no more epochs"),
        ("max_skipped", config.on_nan == "stop", "no effect without --on_nan skip"),
        ("on_collapse", config.collapse_checks == 0, "no effect, since --collapse_checks is 0"),
    ]


def _of_objective(config: TrainConfig, unit: bool) -> Rules:
    kind, transform, weights = config.isotropy, config.isotropy_transform, config.weights
    taught = config.contrastive in TAUGHT
    margin, absolute = config.contrastive in ("margin", "in_batch_margin"), config.isotropy_form == "absolute"
    near_0 = "the absolute form is hardly above 0 for rows of length 1; scale_free is not"
    collapsed = "hardly any effect: rows of length 1 look like a collapse to this loss; leave the transform out"
    narrow = "hardly any effect: rows of length 1 deviate by 1/√D at most in the mean; add --no_normalize_output"
    return [
        (f"{LOSS} {MINED}", "contrastive" not in weights, "no effect, since --lambda_contrastive is 0"),
        ("margin", not margin, "no effect: only --contrastive margin and in_batch_margin have one"),
        ("temperature distance symmetric soft_targets", margin, "no effect on a margin loss, only on infonce"),
        ("symmetric soft_targets", taught, "no effect: the teacher's scores are the targets"),
        ("teacher_temperature", not taught, f"no effect: only --contrastive {' and '.join(TAUGHT)} have one"),
        ("mined_first mined_last", config.mines == 0, "no effect, since no negatives are mined"),
        ("lambda_isotropy", kind == "none", "no effect with --isotropy none"),
        (SHAPE, "isotropy" not in weights, "no effect, since --lambda_isotropy is 0"),
        ("isotropy_form", kind in ("gor", *SCALED_BY_ROWS), "no effect without --isotropy covariance"),
        ("num_slices knots", kind in ("covariance", "gor", "vicreg"), "no effect without --isotropy sigreg"),
        ("isotropy_form", unit and absolute and transform in (None, "none"), near_0),
        ("isotropy_transform", unit and transform == "none" and kind in SCALED_BY_ROWS, collapsed),
        ("lambda_reg", unit and "reg" in weights, narrow),
    ]


def _of_model(config: TrainConfig, encoder: RetrievalEncoder) -> Rules:
    parts, weights, frozen = encoder.to_config(), config.weights, encoder.base.frozen
    shapes = [shape for shape in (parts.get("head"), parts.get("predictor")) if shape is not None]
    linear = all(shape.get("kind") == "linear" for shape in shapes)
    follows, predicts = hasattr(encoder, "target_head"), "predicted" in encoder.shows
    follows = follows and not encoder.base.keeps_documents
    idle = predicts and not {"predictive", "residual"} & weights.keys()
    loaded = {} if config.load_checkpoint is None else model_settings(encoder)
    other = " ".join(name for name in KEPT if loaded and getattr(config, name) != loaded[name])
    fitted = isinstance(encoder.base, JoinedBase) and not loaded
    cached = fitted or config.teacher or encoder.base.keeps_documents  # what is not trained has vectors too
    rates = [config.projection_learning_rate, *([] if frozen else [config.base_learning_rate])]
    rates += [config.predictor_learning_rate] if predicts else []
    no_target = "no effect: only --system jepa with --lambda_predictive above 0 has an EMA target"
    return [
        ("head_init", bool(loaded), "no effect: the checkpoint has its weights"),
        (other, True, "no effect: the checkpoint keeps its own"),
        ("head_depth head_expansion activation dropout", linear, "no effect without --head mlp or residual"),
        (f"use_predictor {PREDICTOR}", idle, "the predictor is not trained, since --lambda_predictive is 0"),
        (PREDICTOR, not predicts, "no effect: there is no predictor"),
        ("ema_decay ema_schedule", not follows or "predictive" not in weights, no_target),
        ("stopgrad", follows, "no effect: an EMA target never has a gradient"),
        ("lexical_weight lexical_terms lexical_language", not fitted, "no effect: no lexical channel is fitted"),
        ("base_learning_rate base_dropout gradient_checkpointing", frozen, "no effect: the base is frozen"),
        ("gradient_checkpointing compile", True, "changes memory or time, not what is trained"),
        ("freeze_early_layers", bool(config.freeze_base), "no effect: the whole base is frozen"),
        ("lora_alpha lora_layers", not config.lora_rank, "no effect without --lora_rank"),
        ("cache_dir encode_batch_size", not (frozen or cached), "no effect: the base is trained"),
        ("learning_rate", None not in rates, "no effect: every trained part has a rate of its own"),
    ]


def without_effect(config: TrainConfig, encoder: RetrievalEncoder, epochs: int, steps: int) -> dict[str, str]:
    """Return why each setting of the user (a flag, or a value that is not the default) does not do what it says."""
    chosen = {f.name for f in fields(config) if f.name in config.given or getattr(config, f.name) != f.default}
    reasons: dict[str, str] = {}
    for names, holds, reason in rules_of(config, encoder, epochs, steps):
        for name in names.split():
            if holds and name in chosen:
                reasons.setdefault(name, reason)
    return reasons


def model_settings(encoder: RetrievalEncoder) -> dict[str, Any]:
    """Return what an encoder itself decides of a run's settings, whatever they say, by their names."""
    config, base = encoder.to_config(), encoder.base
    head, kind = config["head"], (config["predictor"] or {}).get("kind")
    about: dict[str, Any] = {"system": encoder.system, "output_dim": encoder.dimension, "head": head["kind"]}
    about |= {"base_model": base.name} if base.reads_texts else {}
    about |= {"target_model": base.target.name if isinstance(base, TargetBase) else None}
    about |= {"normalize_embeddings": base.normalize, "normalize_output": config.get("normalize_output", False)}
    about |= {"head_depth": head["depth"], "head_expansion": head["expansion"], "activation": head["activation"]}
    about |= {"use_predictor": kind is not None, "predictor": kind, "query_embedding": config["query_embedding"]}
    return about | {"dropout": head["dropout"]}


def trained_parts(config: TrainConfig, encoder: RetrievalEncoder) -> dict[str, Any]:
    """Return what is trained: system, base, head, objective, length of the embeddings and number of parameters."""
    parts, dim = encoder.to_config(), encoder.dimension
    head, predictor = parts.get("head"), parts.get("predictor")
    base = encoder.base.name + (" with a lexical channel" if isinstance(encoder.base, JoinedBase) else "")
    base += f" for documents of {encoder.base.target.name}" if isinstance(encoder.base, TargetBase) else ""
    how = f"LoRA of rank {config.lora_rank}" if config.lora_rank else "frozen" if encoder.base.frozen else "trained"
    kind = "" if head is None else f"{head['kind']} head {head['input_dim']} → {head['output_dim']}"
    names = {"contrastive": config.contrastive, "isotropy": f"{config.isotropy} isotropy", **TERMS}
    terms = [f"{weight:g}·{names[term]}" for term, weight in config.weights.items()]
    weights = [] if config.untrained else [each for each in encoder.parameters() if each.requires_grad]
    return {
        "system": encoder.system,
        "base": f"{base} ({how})",
        "head": kind + ("" if predictor is None else f", {predictor['kind']} predictor"),
        "objective": "nothing trained" if config.untrained else " + ".join(terms),
        "embeddings": f"{dim} dimensions, {'length 1' if parts.get('normalize_output') else 'length free'}",
        "parameters": sum(each.numel() for each in weights),
    }


def in_words(trained: Mapping[str, Any]) -> str:
    """Write `trained_parts` as one line."""
    system, base, *rest, parameters = trained.values()
    return f"{system} on {base}: {'; '.join(filter(None, rest))}; {parameters:,} trained parameters"


def announce(config: TrainConfig, encoder: RetrievalEncoder, epochs: int, steps: int) -> None:
    """Log what is trained, and for each reason the settings that have no effect."""
    logger.info("training %s", in_words(trained_parts(config, encoder)))
    reasons = without_effect(config, encoder, epochs, steps)
    for reason in dict.fromkeys(reasons.values()):
        logger.warning("%s: %s", ", ".join(f"--{name}" for name in reasons if reasons[name] == reason), reason)


@dataclass(frozen=True)
class FitResult:
    """The result of a run.

    Attributes:
        best_epoch: 0 is the model before training.
        score: higher is better (minus the objective, for that criterion); None without a criterion.
        base_score: the untouched base's score on the same data.
        skipped: steps left out because a loss or the gradient was not finite.
        overflows: steps left out because fp16's loss scale was too large.
        comparison: which model `never_worse` kept and why, in a sentence; None where nothing was compared.
    """

    checkpoint: Path
    best_epoch: int
    criterion: str
    score: float | None
    base_score: float | None
    steps: int
    seconds: float
    comparison: str | None = None
    skipped: int = 0
    overflows: int = 0


def card(
    title: str,
    encoder: RetrievalEncoder,
    settings: dict[str, Any],
    result: FitResult | None = None,
    trained: str = "",
    about: str = "",
) -> str:
    """Return a checkpoint's card in Markdown; `write_scores` puts test scores where the choice of the epoch stands.

    `trained` says what was trained, in a line; `about` takes the place of system, base and size.
    """
    length = "length 1" if encoder.to_config().get("normalize_output") else "unnormalised"
    size = f"{encoder.dimension} dimensions, {length}"
    about = about or f"A `{encoder.system}` retrieval encoder on `{encoder.base.name}`: {size}."
    tags = ["sentence-transformers", "sentence-similarity", "feature-extraction", "ragcun"]
    usage = "texts" if encoder.base.reads_texts else "vectors"
    if isinstance(encoder.base, JoinedBase):
        usage = "channel" if usage == "texts" and not encoder.base.channel.analyser.pieces else usage
        about += f" Its base has a lexical channel: {encoder.base.channel}."
    if isinstance(encoder.base, TargetBase):
        usage, about = "target", f"{about} Its {encoder.base.target}."
    library, tags = (tags[0], tags) if usage == "texts" else ("ragcun", tags[1:])
    header = {"library_name": library, "pipeline_tag": "sentence-similarity", "tags": tags}
    if "/" in encoder.base.name and not Path(encoder.base.name).exists():
        header["base_model"] = encoder.base.name
    dumped = {"header": header, "settings": settings}
    shown = {name: yaml.safe_dump(each, sort_keys=False, allow_unicode=True) for name, each in dumped.items()}
    facts = {"title": title, "about": about, "usage": usage, "result": result, "trained": trained}
    return TEMPLATE.render(shown | facts, begin=BEGIN, end=END)


def write_scores(folder: str | Path, scores: str) -> None:
    """Put a Markdown text of test scores in place of the scores in a checkpoint's card.

    Raises:
        InputError: the folder has no card, or its card no place for scores.
    """
    path = Path(folder) / "README.md"
    shown = f"{BEGIN}\n{scores.strip()}\n{END}"
    card, found = re.subn(f"{BEGIN}.*?{END}", lambda _: shown, read_text(path), count=1, flags=re.DOTALL)
    if not found:
        raise InputError(f"{path} has no scores section; its card was not written by ragcun train")
    write_text(path, card)
