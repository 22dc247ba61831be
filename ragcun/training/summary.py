"""What a run trains, in one line, and which of the user's settings have no effect on it, in a line for each reason."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

from ragcun.config import ObjectiveConfig, OptimizationConfig, TrainConfig
from ragcun.embeddings.joined import JoinedBase
from ragcun.losses.transforms import SCALED_BY_ROWS
from ragcun.models.encoder import RetrievalEncoder
from ragcun.options import flags_of

logger = logging.getLogger(__name__)

TERMS = {"reg": "variance", "predictive": "prediction", "residual": "residual"}


@dataclass(frozen=True)
class Plan:
    """What decides whether a setting has an effect: the settings, the encoder, and the epochs and steps of the run."""

    config: TrainConfig
    encoder: RetrievalEncoder
    epochs: int
    steps: int

    @property
    def parts(self) -> dict[str, Any]:
        """Settings of head and predictor as the encoder has them."""
        return self.encoder.to_config()

    @property
    def off(self) -> frozenset[str]:
        """Terms of the objective that are not computed."""
        return frozenset(("contrastive", "isotropy", *TERMS)) - self.config.weights.keys()

    @property
    def unit(self) -> bool:
        """Whether embeddings have length 1."""
        return bool(self.parts.get("normalize_output"))

    @property
    def hidden(self) -> bool:
        """Whether head or predictor has hidden layers."""
        shapes = [self.parts.get("head"), self.parts.get("predictor")]
        return any(shape is not None and shape.get("kind") != "linear" for shape in shapes)

    @property
    def predicts(self) -> bool:
        """Whether there is a predictor."""
        return "predicted" in self.encoder.shows

    def differs(self, name: str) -> bool:
        """Whether the encoder, loaded from a checkpoint, has another value of a setting than was asked for."""
        head = self.parts.get("head") or {}
        return getattr(self.config, name) != {**self.parts, **head}.get(name)

    def own_rates(self) -> bool:
        """Whether every trained part has a rate of its own, so that the common one is not used."""
        used = ["head", *(["predictor"] if self.predicts else []), *([] if self.encoder.base.frozen else ["base"])]
        rates = [replace(self.config, learning_rate=rate).rates for rate in (0.0, 1.0)]
        return all(rates[0][part] == rates[1][part] for part in used)


class Rule(NamedTuple):
    """Settings that have no effect where a condition holds, and why (or what they do instead of what they say)."""

    names: str
    holds: Callable[[Plan], bool]
    reason: str


LOSS = "contrastive margin temperature distance symmetric soft_targets nested_dims mined_negatives"
SHAPE = "isotropy isotropy_form isotropy_transform isotropy_rows num_slices knots"
TARGET = "ema_decay ema_schedule"
TRAINING = " ".join(each.name for kind in (ObjectiveConfig, OptimizationConfig) for each in fields(kind))
RULES = (
    Rule(
        TRAINING.replace(" device", "").replace(" encode_batch_size", ""),
        lambda p: p.steps == 0,
        "no effect, since nothing is trained; with --corpus, --trained_share .25 trains",
    ),
    Rule(LOSS, lambda p: "contrastive" in p.off, "no effect, since --lambda_contrastive is 0"),
    Rule(
        "margin", lambda p: p.config.contrastive == "infonce", "no effect: InfoNCE has none; --contrastive margin has"
    ),
    Rule(
        "temperature distance symmetric soft_targets",
        lambda p: p.config.contrastive in ("margin", "in_batch_margin"),
        "no effect on a margin loss; --contrastive infonce has it",
    ),
    Rule("mined_first mined_last", lambda p: p.config.mines == 0, "no effect, since no negatives are mined"),
    Rule("lambda_isotropy", lambda p: p.config.isotropy == "none", "no effect with --isotropy none"),
    Rule(SHAPE, lambda p: "isotropy" in p.off, "no effect, since --lambda_isotropy is 0"),
    Rule("isotropy_form", lambda p: p.config.isotropy in ("gor", *SCALED_BY_ROWS), "of --isotropy covariance alone"),
    Rule(
        "num_slices knots", lambda p: p.config.isotropy in ("covariance", "gor", "vicreg"), "of --isotropy sigreg alone"
    ),
    Rule(
        "isotropy_form",
        lambda p: p.unit and p.config.isotropy_form == "absolute" and p.config.isotropy_transform in (None, "none"),
        "of rows of length 1 the absolute form is hardly above 0; scale_free is not",
    ),
    Rule(
        "isotropy_transform",
        lambda p: p.unit and p.config.isotropy_transform == "none" and p.config.isotropy in SCALED_BY_ROWS,
        "rows of length 1 look like a collapse to this loss, which has hardly any effect; leave the transform out",
    ),
    Rule(
        "lambda_reg",
        lambda p: p.unit and "reg" not in p.off,
        "hardly any effect: rows of length 1 have a standard deviation of at most 1/√D in the mean; "
        "--no_normalize_output leaves their length free",
    ),
    Rule("head_init", lambda p: p.config.load_checkpoint is not None, "no effect: the checkpoint has its weights"),
    Rule(
        "dropout",
        lambda p: p.config.load_checkpoint is not None and p.differs("dropout"),
        "no effect: the checkpoint's own stays",
    ),
    Rule(
        "normalize_output",
        lambda p: p.config.load_checkpoint is not None and p.differs("normalize_output"),
        "no effect: the checkpoint's own stays",
    ),
    Rule(
        "head_depth head_expansion activation dropout",
        lambda p: not p.hidden,
        "no effect: a linear head has no hidden layer; --head mlp or residual has",
    ),
    Rule(
        "use_predictor predictor predictor_learning_rate stopgrad",
        lambda p: p.predicts and {"predictive", "residual"} <= p.off,
        "the predictor is not trained, since --lambda_predictive is 0",
    ),
    Rule("predictor predictor_learning_rate stopgrad", lambda p: not p.predicts, "no effect: there is no predictor"),
    Rule(
        TARGET,
        lambda p: not hasattr(p.encoder, "target_head") or "predictive" in p.off,
        "no effect: only --system jepa with --lambda_predictive above 0 has an EMA target",
    ),
    Rule("stopgrad", lambda p: hasattr(p.encoder, "target_head"), "no effect: an EMA target never has a gradient"),
    Rule(
        "lexical_weight lexical_terms lexical_language",
        lambda p: not isinstance(p.encoder.base, JoinedBase) or p.config.load_checkpoint is not None,
        "no effect: no lexical channel is fitted",
    ),
    Rule("base_learning_rate", lambda p: p.encoder.base.frozen, "no effect: the base is frozen"),
    Rule("gradient_checkpointing", lambda p: p.encoder.base.frozen, "no effect: the base is frozen and does not run"),
    Rule("gradient_checkpointing compile", lambda p: True, "changes memory or time, not what is trained"),
    Rule("freeze_early_layers", lambda p: bool(p.config.freeze_base), "no effect: the whole base is frozen"),
    Rule("cache_dir encode_batch_size", lambda p: not p.encoder.base.frozen, "no effect: the base is trained"),
    Rule("learning_rate", Plan.own_rates, "no effect: every trained part has a rate of its own"),
    Rule("queries", lambda p: p.config.start != "calibrated", "no effect: only --head_init calibrated uses them"),
    Rule("pair_method", lambda p: p.config.documents is None, "no effect without --documents"),
    Rule("dev_split", lambda p: p.config.dev_beir is None, "no effect without --dev_beir"),
    Rule("steps", lambda p: p.config.epochs is not None, "no effect, since --epochs is given"),
    Rule(
        "warmup_steps",
        lambda p: p.config.warmup(p.steps) > p.steps,
        "the warm-up is longer than the run: rates stay below what was asked for",
    ),
    Rule("save_interval", lambda p: p.config.save_interval > p.epochs, "no effect: the run has fewer epochs"),
    Rule("max_skipped", lambda p: p.config.on_nan == "stop", "no effect without --on_nan skip"),
    Rule("on_collapse", lambda p: p.config.collapse_checks == 0, "no effect, since --collapse_checks is 0"),
)


def without_effect(plan: Plan) -> dict[str, str]:
    """Return why each setting of the user (a flag, or a value that is not the default) does not do what it says."""
    config, reasons = plan.config, dict[str, str]()
    for rule in RULES:
        for name in rule.names.split():
            chosen = name in config.given or getattr(config, name) != flags_of(TrainConfig)[name].default
            if chosen and name not in reasons and rule.holds(plan):
                reasons[name] = rule.reason
    return reasons


def trained_parts(config: TrainConfig, encoder: RetrievalEncoder) -> dict[str, Any]:
    """Return what is trained: system, base, head, objective, length of the embeddings and number of parameters."""
    parts, dim = encoder.to_config(), encoder.dimension
    head, predictor = parts.get("head"), parts.get("predictor")
    base = encoder.base.name + (" with a lexical channel" if isinstance(encoder.base, JoinedBase) else "")
    kind = "" if head is None else f"{head['kind']} head {head['input_dim']} → {head['output_dim']}"
    names = {"contrastive": config.contrastive, "isotropy": f"{config.isotropy} isotropy", **TERMS}
    terms = [f"{weight:g}·{names[term]}" for term, weight in config.weights.items()]
    weights = [] if config.untrained else [each for each in encoder.parameters() if each.requires_grad]
    return {
        "system": encoder.system,
        "base": f"{base} ({'frozen' if encoder.base.frozen else 'trained'})",
        "head": kind + ("" if predictor is None else f", {predictor['kind']} predictor"),
        "objective": "nothing trained" if config.untrained else " + ".join(terms),
        "embeddings": f"{dim} dimensions, {'length 1' if parts.get('normalize_output') else 'length free'}",
        "parameters": sum(each.numel() for each in weights),
    }


def in_words(trained: Mapping[str, Any]) -> str:
    """Write `trained_parts` as one line."""
    system, base, *rest, parameters = trained.values()
    return f"{system} on {base}: {'; '.join(filter(None, rest))}; {parameters:,} trained parameters"


def announce(plan: Plan) -> None:
    """Log what is trained, and for each reason the settings that have no effect."""
    logger.info("training %s", in_words(trained_parts(plan.config, plan.encoder)))
    reasons = without_effect(plan)
    for reason in dict.fromkeys(reasons.values()):
        logger.warning("%s: %s", ", ".join(f"--{name}" for name in reasons if reasons[name] == reason), reason)
