"""Collapse monitor: names a collapse of the embeddings during training, by statistics of a fixed probe batch."""

from __future__ import annotations

import logging
import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from ragcun.batch import PairBatch, Views
from ragcun.embeddings.encode import evaluating
from ragcun.errors import InputError, as_input_error
from ragcun.isotropy.spectrum import entropy_rank
from ragcun.losses.contrastive import similarity_logits
from ragcun.losses.covariance import unit_rows
from ragcun.models.encoder import RetrievalEncoder

logger = logging.getLogger(__name__)

Statistics = dict[str, float]
SIDES = ("query", "document")

# total: no base's own geometry (a strong common direction leaves a spread of .05 to .5), and no regularisation, which
# changes the variance of raw vectors of length 10 or 20 by a factor of 400 at most; at a single check: no fluctuation
TOTAL_SPREAD, TOTAL_VARIANCE = 1e-3, 1e-4
EXTREME_SPREAD, EXTREME_VARIANCE = 1e-5, 1e-8
# dimensional: runs that fell below a quarter of their effective rank also found fewer held-out documents. Less than 2
# is at most a plane, unless there are fewer than 8 dimensions to show.
RANK_LEFT, FLAT_RANK, LEAST_BOUND = 0.25, 2.0, 8
# drift: training raises the accuracy on its own pairs; half of the start's is a loss of meaning, a fifth less is one
# where the means of the two sides are more than twice the spread apart. Random heads start below LEAST_TOP1, which
# cannot be halved; there, accuracy near chance (.5) is named, after PATIENCE checks as it needs time to rise.
TOP1_LEFT, TOP1_LEFT_APART, LEAST_TOP1, APART, CHANCE, PATIENCE = 0.5, 0.8, 0.1, 4.0, 0.6, 5
# identity: working predictors do several times as much as 5 % of the way, explaining 2 % of it. Judged where the way,
# squared, is at least 1 % of the queries' variance, as else there is nothing to predict.
CORRECTION_LEFT, SKILL_LEFT, WORTH_PREDICTING = 0.05, 0.02, 0.01
CHECKS = 2  # in a row at which a condition must hold before it is named


def _of_side(z: Float[Tensor, "n dim"], side: str) -> Statistics:
    n, centred = len(z), z - z.mean(0)
    gram = centred.T @ centred if n > centred.shape[1] else centred @ centred.T
    rank = entropy_rank(torch.linalg.eigvalsh(gram).clamp_min(0).double().cpu().numpy())
    variance, length = float(centred.square().sum()) / (n - 1), float(z.square().sum()) / n
    unit = unit_rows(z)
    cosines = float(unit.sum(0).square().sum() - unit.square().sum()) / (n * (n - 1))
    spread = variance / length if length else 0.0
    values = {"variance": variance, "spread": spread, "rank": rank, "mean_cosine": cosines}
    return {f"{name}_{side}": value for name, value in values.items()}


def _of_pairs(query: Tensor, positive: Tensor, relevant: Tensor | None) -> Statistics:
    between = float((query.mean(0) - positive.mean(0)).square().sum())
    within = float(query.var(0).sum() + positive.var(0).sum())
    similarity = similarity_logits(query, positive, "euclidean")
    others = ~torch.eye(len(query), dtype=torch.bool, device=query.device)
    if relevant is not None:
        others &= ~relevant
    nearer = ((similarity >= similarity.diagonal()[:, None]) & others).sum(1)
    accuracy = (2 * nearer < others.sum(1).clamp_min(1)).float().mean()
    gap = between / within if within else 0.0
    return {"gap": gap, "accuracy": float(accuracy), "top1": float((nearer == 0).float().mean())}


def _of_residual(query: Tensor, predicted: Tensor, target: Tensor) -> Statistics:
    length, way = float(query.square().sum()) or math.inf, float((target - query).square().sum())
    correction, error = float((predicted - query).square().sum()), float((target - predicted).square().sum())
    skill = 1 - error / way if way else 0.0
    return {"correction": (correction / length) ** 0.5, "needed": (way / length) ** 0.5, "skill": skill}


@torch.no_grad()
def probe_statistics(views: Views) -> Statistics:
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
        ValueError: embeddings that are not finite.
    """
    names = ("query", "positive", "predicted", "target")
    shown = {name: value.float() for name in names if (value := getattr(views, name)) is not None}
    for name, value in shown.items():
        if not bool(value.isfinite().all()):
            raise ValueError(f"the probe's {name} embeddings are not finite")
    query, positive = shown["query"], shown["positive"]
    with torch.autocast(device_type=query.device.type, enabled=False):
        values = _of_side(query, "query") | _of_side(positive, "document")
        values |= _of_pairs(query, positive, views.relevant)
        values["rank_bound"] = float(min(len(query) - 1, query.shape[1]))
        if views.residual is not None and {"predicted", "target"} <= shown.keys():
            values |= _of_residual(query, shown["predicted"], shown["target"])
    return values


_Findings = dict[str, tuple[int, str]]  # by kind: at how many checks in a row it must hold, and what is wrong


def _of_geometry(now: Statistics, start: Statistics) -> _Findings:
    for side in SIDES:
        spread, variance = now[f"spread_{side}"], now[f"variance_{side}"]
        spread_before, variance_before = start[f"spread_{side}"], start[f"variance_{side}"]
        extreme = spread < EXTREME_SPREAD or variance < EXTREME_VARIANCE * variance_before
        equal = spread < TOTAL_SPREAD and spread < spread_before / 2
        if extreme or equal or variance < TOTAL_VARIANCE * variance_before:
            left = f"variance {variance:.2g}, {spread:.2g} of the mean squared length"
            before = f"at the start {variance_before:.2g} and {spread_before:.2g}"
            what = f"all {side} embeddings are nearly the same point ({left}; {before})"
            return {"total": (1 if extreme else CHECKS, what)}
    for side in SIDES:
        rank, full = now[f"rank_{side}"], start[f"rank_{side}"]
        if rank < RANK_LEFT * full or (rank < FLAT_RANK and now["rank_bound"] >= LEAST_BOUND):
            what = f"{side} embeddings fill {rank:.1f} dimensions (effective rank; {full:.1f} at the start)"
            return {"dimensional": (CHECKS, what)}
    return {}


def _drift(now: Statistics, start: Statistics) -> _Findings:
    top1, before, gap, accuracy = now["top1"], start["top1"], now["gap"], now["accuracy"]
    left = TOP1_LEFT_APART if gap > APART * max(1.0, start["gap"]) else TOP1_LEFT
    means = f"gap between the two means {gap:.2g} ({start['gap']:.2g} at the start)"
    if before >= LEAST_TOP1 and top1 < before * left:
        share = f"{top1:.1%} are nearest to their own ({before:.1%} at the start)"
        return {"drift": (CHECKS, f"queries no longer find their documents: {share}, {means}")}
    if before < LEAST_TOP1 and accuracy < CHANCE:
        share = f"{accuracy:.1%} are nearer to their own than to half of the others, which is near chance"
        return {"drift": (PATIENCE, f"queries do not find their documents: {share}, {means}")}
    return {}


def _identity(now: Statistics) -> _Findings:
    if "skill" not in now or now["needed"] ** 2 < WORTH_PREDICTING * now["spread_query"]:
        return {}
    correction, needed, skill = now["correction"], now["needed"], now["skill"]
    if correction >= CORRECTION_LEFT * needed or skill >= SKILL_LEFT:
        return {}
    moved = f"it moves it by {correction:.2g} of its length where {needed:.2g} is needed"
    what = f"the predictor returns the query: {moved}, and explains {skill:.1%} of the way"
    return {"identity": (CHECKS, what)}


_REMEDIES = {
    "total": "raise --lambda_contrastive or --lambda_reg, keep --stopgrad and --isotropy_form scale_free, or lower "
    "--learning_rate",
    "dimensional": "raise --lambda_isotropy, lower --learning_rate, or start from the base (--head_init identity)",
    "drift": "raise --lambda_contrastive, lower --learning_rate, or share one head (--system isotropic_gaussian)",
    "identity": "set --lambda_residual 0 (that penalty is least without correction) and raise --lambda_predictive",
}


@dataclass
class CollapseMonitor:
    """Compares the statistics of a probe batch with those before training, and names each kind of collapse once.

    A kind is named when its condition has held at two checks in a row; total collapse beyond doubt at the first; chance
    accuracy of heads that start apart after five. The fields are what a resumed run needs, as plain JSON values.
    """

    start: Statistics | None = None
    held: dict[str, int] = field(default_factory=lambda: dict.fromkeys(_REMEDIES, 0))
    named: list[str] = field(default_factory=list)

    def observe(self, step: int, now: Statistics) -> dict[str, str]:
        """Return a message for each kind of collapse to be named; later checks are compared with the first."""
        before, self.start = self.start, self.start or now
        # What a collapse of one kind explains is not judged while it lasts.
        found = _of_geometry(now, self.start) or _drift(now, self.start)
        if "total" not in found:
            found = {} if before is None else found | _identity(now)
        messages = {}
        for kind in _REMEDIES:
            self.held[kind] = self.held[kind] + 1 if kind in found else 0
            if kind in found and self.held[kind] >= found[kind][0] and kind not in self.named:
                self.named.append(kind)
                messages[kind] = f"{kind} collapse at step {step}: {found[kind][1]}; {_REMEDIES[kind]}"
        return messages

    @torch.no_grad()
    def check(
        self, encoder: RetrievalEncoder, batch: PairBatch, place: dict[str, int], stop: bool, log: Callable[..., None]
    ) -> None:
        """Log a probe batch's statistics in evaluation mode; warn of a collapse, or `stop` with an InputError."""
        with evaluating(encoder):
            views = encoder(batch)
        with as_input_error(f"step {place['step']}", "; lower --learning_rate"):
            now = probe_statistics(views)
        found = self.observe(place["step"], now)
        log({"kind": "probe", **place, "figures": now, "model": encoder.diagnostics(views)})
        for kind, message in found.items():
            log({"kind": "collapse", **place, "collapse": kind, "message": message, "figures": now})
            if not stop:
                logger.warning("%s", message)
        if stop and found:
            raise InputError(f"{next(iter(found.values()))}; or continue with --on_collapse warn")
