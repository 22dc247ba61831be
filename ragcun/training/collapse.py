"""Collapse monitor: names a collapse of the embeddings during training, by statistics of a fixed probe batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float
from torch import Tensor

from ragcun.batch import Views
from ragcun.distance import Distance
from ragcun.errors import InputError
from ragcun.isotropy.spectrum import entropy_rank
from ragcun.losses.contrastive import similarity_logits
from ragcun.losses.covariance import unit_rows
from ragcun.models.encoder import RetrievalEncoder
from ragcun.training.batches import PairSource, Rows

logger = logging.getLogger(__name__)

Statistics = dict[str, float]
CollapseKind = Literal["total", "dimensional", "drift", "identity"]
COLLAPSES: tuple[CollapseKind, ...] = get_args(CollapseKind)
SIDES = ("query", "document")

# total: a text base with a strong common direction has a spread of .05 to .5, so .001 is no base's own geometry; half
# of the start is asked for as well, in case one is. Pulling raw vectors of length 10 or 20 to unit variance changes the
# variance by a factor of 100 to 400 at most, so 10,000 (lengths / 100) is no regularisation.
TOTAL_SPREAD, TOTAL_VARIANCE = 1e-3, 1e-4
# total at a single check: five orders of magnitude are no fluctuation.
EXTREME_SPREAD, EXTREME_VARIANCE = 1e-5, 1e-8
# dimensional: healthy training costs a small part of the effective rank; runs that fell below a quarter of it also
# found fewer held-out documents. Less than 2 is at most a plane, unless there are fewer than 8 dimensions to show.
RANK_LEFT, FLAT_RANK, LEAST_BOUND = 0.25, 2.0, 8
# drift: training raises the accuracy on its own pairs; half of the start's is a loss of meaning. Where the means of the
# two sides are more than twice the spread apart, a loss of a fifth is enough. A start below LEAST_TOP1 (random heads)
# cannot be halved; there, accuracy near chance (.5) is named, after PATIENCE checks as it needs time to rise.
TOP1_LEFT, TOP1_LEFT_APART, LEAST_TOP1 = 0.5, 0.8, 0.1
APART = 4.0
CHANCE = 0.6
PATIENCE = 5
# identity: a correction of 5 % of the way, explaining 2 % of it, is nothing; working predictors do several times as
# much. Judged where the way, squared, is at least 1 % of the queries' variance, as else there is nothing to predict.
CORRECTION_LEFT, SKILL_LEFT, WORTH_PREDICTING = 0.05, 0.02, 0.01
# A condition must hold at this many checks in a row before it is named.
CHECKS = 2


def _effective_rank(centred: Float[Tensor, "n dim"]) -> float:
    gram = centred.T @ centred if len(centred) > centred.shape[1] else centred @ centred.T
    return entropy_rank(torch.linalg.eigvalsh(gram).clamp_min(0).double().cpu().numpy())


def _of_side(z: Float[Tensor, "n dim"], side: str) -> Statistics:
    n, centred = len(z), z - z.mean(0)
    variance, length = float(centred.square().sum()) / (n - 1), float(z.square().sum()) / n
    unit = unit_rows(z)
    cosines = float(unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1))
    values = {"variance": variance, "spread": variance / length if length else 0.0}
    values |= {"rank": _effective_rank(centred), "mean_cosine": cosines}
    return {f"{name}_{side}": value for name, value in values.items()}


def _of_pairs(views: Views, distance: Distance) -> Statistics:
    query, positive = views.query, views.positive
    between = float((query.mean(0) - positive.mean(0)).square().sum())
    within = float(query.var(0).sum() + positive.var(0).sum())
    similarity = similarity_logits(query, positive, distance)
    others = ~torch.eye(len(query), dtype=torch.bool, device=query.device)
    if views.relevant is not None:
        others &= ~views.relevant
    nearer = ((similarity >= similarity.diagonal()[:, None]) & others).sum(1)
    accuracy = (2 * nearer < others.sum(1).clamp_min(1)).float().mean()
    gap = between / within if within else 0.0
    return {"gap": gap, "accuracy": float(accuracy), "top1": float((nearer == 0).float().mean())}


def _of_residual(query: Tensor, predicted: Tensor, target: Tensor) -> Statistics:
    length, way = float(query.square().sum()), float((target - query).square().sum())
    correction, error = float((predicted - query).square().sum()), float((target - predicted).square().sum())
    values = {"correction": (correction / length) ** 0.5, "needed": (way / length) ** 0.5} if length else {}
    return {"correction": 0.0, "needed": 0.0, "skill": 1 - error / way if way else 0.0} | values


@torch.no_grad()
def probe_statistics(views: Views, distance: Distance = "euclidean") -> Statistics:
    """Return what the queries and positives of a batch of pairs show about collapse, in float32.

    For each side s (``query``, ``document``), with C the unbiased covariance of its rows z: ``variance_s`` = tr C;
    ``spread_s`` = tr C over the mean of ‖z‖²; ``rank_s`` = effective rank, exp of the entropy of C's eigenvalues over
    their sum, at most ``rank_bound`` = min(n − 1, D), 0 without any spread; ``mean_cosine_s`` of two different rows.

    For the pairs: ``gap`` = ‖mean query − mean document‖² over the sum of the two variances; ``accuracy`` and ``top1``
    = share of queries nearer to their positive than to at least half, or all, of the other documents (chance .5, 1/n).
    A tie is a miss, and known positives (`Views.relevant`) are not others.

    With a residual predictor, as roots of sums over the rows: ``correction`` = ‖predicted − query‖ / ‖query‖;
    ``needed`` = ‖target − query‖ / ‖query‖; ``skill`` = 1 − ‖target − predicted‖² / ‖target − query‖².

    Source: Roy & Vetterli 2007 (effective rank), here of the covariance's eigenvalues, not of singular values.

    Raises:
        ValueError: fewer than 2 pairs, or embeddings that are not finite.
    """
    names = ("query", "positive", "predicted", "target")
    shown = {name: value.float() for name in names if (value := getattr(views, name)) is not None}
    if len(views.query) < 2:
        raise ValueError(f"a probe needs at least 2 pairs, got {len(views.query)}")
    for name, value in shown.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"the probe's {name} embeddings are not finite")
    pairs = Views(shown["query"], shown["positive"], relevant=views.relevant)
    with torch.autocast(device_type=views.query.device.type, enabled=False):
        values = _of_side(pairs.query, "query") | _of_side(pairs.positive, "document") | _of_pairs(pairs, distance)
        values["rank_bound"] = float(min(len(pairs.query) - 1, pairs.query.shape[1]))
        if views.residual is not None and {"predicted", "target"} <= shown.keys():
            values |= _of_residual(pairs.query, shown["predicted"], shown["target"])
    return values


@dataclass(frozen=True)
class Collapse:
    """A collapse: its kind, the step it was seen at, the statistics there, and what to tell the user."""

    kind: CollapseKind
    step: int
    statistics: Statistics
    message: str


_Finding = tuple[str, int]  # what is wrong, and at how many checks in a row it must be


def _total(now: Statistics, start: Statistics) -> _Finding | None:
    for side in SIDES:
        spread, variance = now[f"spread_{side}"], now[f"variance_{side}"]
        spread_before, variance_before = start[f"spread_{side}"], start[f"variance_{side}"]
        extreme = spread < EXTREME_SPREAD or variance < EXTREME_VARIANCE * variance_before
        equal = spread < TOTAL_SPREAD and spread < spread_before / 2
        if extreme or equal or variance < TOTAL_VARIANCE * variance_before:
            what = (
                f"all {side} embeddings are nearly the same point (variance {variance:.2g}, {spread:.2g} of the mean "
                f"squared length; at the start {variance_before:.2g} and {spread_before:.2g})"
            )
            return what, 1 if extreme else CHECKS
    return None


def _dimensional(now: Statistics, start: Statistics) -> _Finding | None:
    for side in SIDES:
        rank, before = now[f"rank_{side}"], start[f"rank_{side}"]
        flat = rank < FLAT_RANK and now["rank_bound"] >= LEAST_BOUND
        if flat or rank < RANK_LEFT * before:
            what = f"{side} embeddings fill {rank:.1f} dimensions (effective rank; {before:.1f} at the start)"
            return what, CHECKS
    return None


def _drift(now: Statistics, start: Statistics) -> _Finding | None:
    top1, before, gap = now["top1"], start["top1"], now["gap"]
    apart = gap > APART and gap > APART * start["gap"]
    known = before >= LEAST_TOP1
    if known and top1 < before * (TOP1_LEFT_APART if apart else TOP1_LEFT):
        what = (
            f"queries no longer find their documents: {top1:.1%} are nearest to their own ({before:.1%} at the start), "
            f"gap between the two means {gap:.2g} ({start['gap']:.2g} at the start)"
        )
        return what, CHECKS
    if not known and now["accuracy"] < CHANCE:
        what = (
            f"queries do not find their documents: {now['accuracy']:.1%} are nearer to their own than to half of the "
            f"others, which is near chance, and gap between the two means {gap:.2g}"
        )
        return what, PATIENCE
    return None


def _identity(now: Statistics, start: Statistics) -> _Finding | None:
    if "skill" not in now or now["needed"] ** 2 < WORTH_PREDICTING * now["spread_query"]:
        return None
    correction, needed, skill = now["correction"], now["needed"], now["skill"]
    if correction < CORRECTION_LEFT * needed and skill < SKILL_LEFT:
        what = (
            f"the predictor returns the query: it moves it by {correction:.2g} of its length where {needed:.2g} is "
            f"needed, and explains {skill:.1%} of the way"
        )
        return what, CHECKS
    return None


_CONDITIONS: dict[CollapseKind, Callable[[Statistics, Statistics], _Finding | None]] = {
    "total": _total,
    "dimensional": _dimensional,
    "drift": _drift,
    "identity": _identity,
}
# What a collapse of one kind explains is not judged while it lasts.
_EXPLAINS: dict[CollapseKind, tuple[CollapseKind, ...]] = {
    "total": ("dimensional", "drift", "identity"),
    "dimensional": ("drift",),
}
_REMEDIES: dict[CollapseKind, str] = {
    "total": "raise --lambda_contrastive or --lambda_reg, keep --stopgrad and --isotropy_form scale_free, or lower "
    "--learning_rate",
    "dimensional": "raise --lambda_isotropy, lower --learning_rate, or start from the base (--head_init identity)",
    "drift": "raise --lambda_contrastive, lower --learning_rate, or share one head (--system isotropic_gaussian)",
    "identity": "set --lambda_residual 0, as that penalty is least where nothing is corrected, and raise "
    "--lambda_predictive",
}


@dataclass
class CollapseMonitor:
    """Compares a probe batch with itself before training, and names each kind of collapse once.

    Give `observe` the views of one fixed batch of pairs (512 are enough, 100 few) in evaluation mode, first before
    training. A kind is named when its condition has held at two checks in a row; total collapse beyond doubt at the
    first; chance accuracy of heads that start apart after five. Rotation, whitening, growth and the sharpening of
    contrastive training are no collapse.

    - ``total``: all embeddings of a side become one point, or shrink to it.
    - ``dimensional``: the effective rank of a side falls below a quarter of the start's, or below 2.
    - ``drift``: queries no longer find their documents.
    - ``identity``: a residual predictor returns its query although the target is elsewhere.
    """

    distance: Distance = "euclidean"
    start: Statistics | None = None
    latest: Statistics = field(default_factory=dict)
    held: dict[CollapseKind, int] = field(default_factory=lambda: dict.fromkeys(COLLAPSES, 0))
    named: list[CollapseKind] = field(default_factory=list)

    def observe(self, step: int, views: Views) -> list[Collapse]:
        """Check the probe; the first check is the start that later ones are compared with."""
        now = self.latest = probe_statistics(views, self.distance)
        judged: tuple[CollapseKind, ...] = ("total",) if self.start is None else COLLAPSES
        self.start = start = self.start or now
        findings = {kind: _CONDITIONS[kind](now, start) for kind in judged}
        explained = {other for kind, others in _EXPLAINS.items() if findings.get(kind) for other in others}
        found = []
        for kind, finding in findings.items():
            holds = finding is not None and kind not in explained
            self.held[kind] = self.held[kind] + 1 if holds else 0
            if finding is not None and self.held[kind] >= finding[1] and kind not in self.named:
                self.named.append(kind)
                message = f"{kind} collapse at step {step}: {finding[0]}; {_REMEDIES[kind]}"
                found.append(Collapse(kind, step, now, message))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain JSON values."""
        return {"start": self.start, "held": dict(self.held), "named": list(self.named)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Continue from what `state_dict` returned."""
        self.start = None if state["start"] is None else dict(state["start"])
        self.held = {kind: int(state["held"][kind]) for kind in COLLAPSES}
        self.named = [kind for kind in COLLAPSES if kind in state["named"]]


@dataclass(frozen=True)
class CollapseCheck:
    """Checks a probe batch before the first step, `checks` times in a run, and after the last step; 0 is never."""

    source: PairSource
    rows: Rows
    checks: int
    total: int
    stop: bool
    monitor: CollapseMonitor = field(default_factory=CollapseMonitor)

    def is_due(self, step: int) -> bool:
        """Whether there is a check after this step."""
        return self.checks > 0 and (step % max(1, self.total // self.checks) == 0 or step == self.total)

    @torch.no_grad()
    def run(self, encoder: RetrievalEncoder, epoch: int, step: int, log: Callable[[dict[str, Any]], None]) -> None:
        """Check the encoder in evaluation mode, and log, warn of or, by an InputError, stop at what there is to see."""
        training = encoder.training
        views = encoder.eval()(self.source.batch(self.rows))
        encoder.train(training)
        place = {"epoch": epoch, "step": step}
        try:
            found = self.monitor.observe(step, views)
        except ValueError as error:
            raise InputError(f"{error} at step {step}; lower --learning_rate") from error
        log({"kind": "probe", **place, "figures": self.monitor.latest, "model": encoder.diagnostics(views)})
        for collapse in found:
            named = {"collapse": collapse.kind, "message": collapse.message, "figures": collapse.statistics}
            log({"kind": "collapse", **place, **named})
            if not self.stop:
                logger.warning("%s", collapse.message)
        if self.stop and found:
            raise InputError(f"{found[0].message}; or continue with --on_collapse warn")
