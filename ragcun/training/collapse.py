"""CollapseMonitor: names a collapse of the embeddings while it happens, by what becomes of a fixed probe batch."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, get_args

import torch

from ragcun.batch import Views
from ragcun.distance import Distance
from ragcun.errors import InputError
from ragcun.models.encoder import RetrievalEncoder
from ragcun.training.batches import PairSource
from ragcun.training.collapse_statistics import figures

CollapseKind = Literal["total", "dimensional", "drift", "identity"]
COLLAPSES: tuple[CollapseKind, ...] = get_args(CollapseKind)
SIDES = ("query", "document")

# total: a text base with a strong common direction has a spread of .05 to .5, so .001 is no base's own geometry; half
# of the start is asked for as well, in case one is. Pulling raw vectors of length 10 or 20 to unit variance changes the
# variance by a factor of 100 to 400 at most, so 10,000 (lengths / 100) is no regularisation.
TOTAL_SPREAD = 1e-3
TOTAL_VARIANCE = 1e-4
# total at a single look: five orders of magnitude are no fluctuation.
EXTREME_SPREAD = 1e-5
EXTREME_VARIANCE = 1e-8
# dimensional: sound training of a head that starts from the base costs a small part of the effective rank. Trial runs
# that fell below a quarter of it, among them random heads without an isotropy loss, also found fewer held-out
# documents. Less than 2 means at most a plane, wherever the run started, unless the probe or the output has fewer than
# 8 dimensions to show.
RANK_LEFT = 0.25
LEAST_BOUND = 8
FLAT_RANK = 2.0
# drift: training raises the accuracy on its own pairs; half of the start's is a loss of meaning. Where the means of the
# two sides are more than twice the spread apart, a loss of a fifth is enough. A start below LEAST_TOP1 (random heads)
# cannot be halved; there, accuracy near chance (.5) is named, after PATIENCE looks as it needs time to rise.
TOP1_LEFT = 0.5
TOP1_LEFT_APART = 0.8
LEAST_TOP1 = 0.1
APART = 4.0
CHANCE = 0.6
PATIENCE = 5
# identity: a correction of 5 % of the way, explaining 2 % of it, is nothing; sound predictors do several times as
# much. Judged where the way, squared, is at least 1 % of the queries' variance, as else there is nothing to predict.
CORRECTION_LEFT = 0.05
SKILL_LEFT = 0.02
WORTH_PREDICTING = 0.01
# A condition must hold at this many looks in a row before it is named.
LOOKS = 2


@dataclass(frozen=True)
class Collapse:
    """A collapse that was found: its kind, the step it was seen at, the figures there, and what to tell the user."""

    kind: CollapseKind
    step: int
    figures: dict[str, float]
    message: str


class _Finding(NamedTuple):
    what: str
    looks: int = LOOKS


def _total(now: dict[str, float], start: dict[str, float]) -> _Finding | None:
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
            return _Finding(what, 1 if extreme else LOOKS)
    return None


def _dimensional(now: dict[str, float], start: dict[str, float]) -> _Finding | None:
    for side in SIDES:
        rank, before = now[f"rank_{side}"], start[f"rank_{side}"]
        flat = rank < FLAT_RANK and now["rank_bound"] >= LEAST_BOUND
        if flat or rank < RANK_LEFT * before:
            return _Finding(f"{side} embeddings fill {rank:.1f} dimensions (effective rank; {before:.1f} at the start)")
    return None


def _drift(now: dict[str, float], start: dict[str, float]) -> _Finding | None:
    top1, before, gap = now["top1"], start["top1"], now["gap"]
    apart = gap > APART and gap > APART * start["gap"]
    known = before >= LEAST_TOP1
    if known and top1 < before * (TOP1_LEFT_APART if apart else TOP1_LEFT):
        return _Finding(
            f"queries no longer find their documents: {top1:.1%} are nearest to their own ({before:.1%} at the start), "
            f"gap between the two means {gap:.2g} ({start['gap']:.2g} at the start)"
        )
    if not known and now["accuracy"] < CHANCE:
        what = (
            f"queries do not find their documents: {now['accuracy']:.1%} are nearer to their own than to half of the "
            f"others, which is near chance, and gap between the two means {gap:.2g}"
        )
        return _Finding(what, PATIENCE)
    return None


def _identity(now: dict[str, float], start: dict[str, float]) -> _Finding | None:
    if "skill" not in now or now["needed"] ** 2 < WORTH_PREDICTING * now["spread_query"]:
        return None
    correction, needed, skill = now["correction"], now["needed"], now["skill"]
    if correction < CORRECTION_LEFT * needed and skill < SKILL_LEFT:
        return _Finding(
            f"the predictor returns the query: it moves it by {correction:.2g} of its length where {needed:.2g} is "
            f"needed, and explains {skill:.1%} of the way"
        )
    return None


_CONDITIONS: dict[CollapseKind, Callable[[dict[str, float], dict[str, float]], _Finding | None]] = {
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


class CollapseMonitor:
    """Watches the same probe batch from before training on, and names each kind of collapse once.

    Give `observe` the views of one fixed batch of pairs in evaluation mode, first before training and then every so
    many steps. 512 pairs are enough, 100 are few. A kind is named when its condition has held at two looks in a row;
    total collapse beyond doubt at the first; chance accuracy of heads that start apart after five.

    - ``total``: all embeddings of a side become one point, or shrink to it.
    - ``dimensional``: the effective rank of a side falls below a quarter of the start's, or below 2.
    - ``drift``: queries no longer find their documents.
    - ``identity``: a residual predictor returns its query although the target is elsewhere.

    Rotation, whitening, growth and the sharpening of contrastive training are none of these. The constants of this
    module are the thresholds, each with its reason. `distance` is the one retrieval uses.
    """

    def __init__(self, distance: Distance = "euclidean") -> None:
        self.distance = distance
        self.start: dict[str, float] | None = None
        self.latest: dict[str, float] = {}
        self.held: dict[CollapseKind, int] = dict.fromkeys(COLLAPSES, 0)
        self.named: list[CollapseKind] = []

    def observe(self, step: int, views: Views) -> list[Collapse]:
        """Look at the probe; the first look is the start that later ones are compared with.

        Raises:
            ValueError: as of `figures`.
        """
        now = self.latest = figures(views, self.distance)
        judged: tuple[CollapseKind, ...] = ("total",) if self.start is None else COLLAPSES
        self.start = start = self.start or now
        findings = {kind: _CONDITIONS[kind](now, start) for kind in judged}
        explained = {other for kind, others in _EXPLAINS.items() if findings.get(kind) for other in others}
        found = []
        for kind, finding in findings.items():
            holds = finding is not None and kind not in explained
            self.held[kind] = self.held[kind] + 1 if holds else 0
            if finding is not None and self.held[kind] >= finding.looks and kind not in self.named:
                self.named.append(kind)
                message = f"{kind} collapse at step {step}: {finding.what}; {_REMEDIES[kind]}"
                found.append(Collapse(kind, step, now, message))
        return found

    def state_dict(self) -> dict[str, Any]:
        """Return what a resumed run needs, as plain JSON values."""
        return {"start": self.start, "held": dict(self.held), "named": list(self.named)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from `state_dict`.

        Raises:
            KeyError: `state` is not one of `state_dict`.
        """
        self.start = None if state["start"] is None else dict(state["start"])
        self.held = {kind: int(state["held"][kind]) for kind in COLLAPSES}
        self.named = [kind for kind in COLLAPSES if kind in state["named"]]


logger = logging.getLogger(__name__)


class Watch:
    """Looks before the first step, `checks` times in a run, and after the last step; 0 checks look never.

    Args:
        source: where the probe's pairs come from.
        seed: chooses them.
        checks: looks in a run.
        total: optimiser steps in a run.
        stop: whether a collapse ends the run.
    """

    def __init__(self, source: PairSource, seed: int, checks: int, total: int, stop: bool) -> None:
        self.source = source
        self.rows = source.probe(seed)
        self.total = total
        self.every = max(1, total // checks) if checks else 0
        self.stop = stop
        self.monitor = CollapseMonitor()

    def is_due(self, step: int) -> bool:
        """Whether there is a look after this step."""
        return self.every > 0 and (step % self.every == 0 or step == self.total)

    @torch.no_grad()
    def look(self, encoder: RetrievalEncoder, epoch: int, step: int) -> list[dict[str, Any]]:
        """Look at the probe in evaluation mode; return rows for the metrics, and warn of what collapses.

        Raises:
            InputError: embeddings are not finite.
        """
        training = encoder.training
        views = encoder.eval()(self.source.batch(self.rows))
        encoder.train(training)
        place = {"epoch": epoch, "step": step}
        try:
            found = self.monitor.observe(step, views)
        except ValueError as error:
            raise InputError(f"{error} at step {step}; lower --learning_rate") from error
        rows = [{"kind": "probe", **place, "figures": self.monitor.latest, "model": encoder.diagnostics(views)}]
        for collapse in found:
            rows.append({"kind": "collapse", **place, "collapse": collapse.kind, "message": collapse.message})
            rows[-1]["figures"] = collapse.figures
            if not self.stop:
                logger.warning("%s", collapse.message)
        return rows

    def report(self, encoder: RetrievalEncoder, epoch: int, step: int, log: Callable[[dict[str, Any]], None]) -> None:
        """Look, log the rows, and end the run where they name a collapse and that is what was asked for.

        Raises:
            InputError: there is a collapse, or embeddings are not finite.
        """
        rows = self.look(encoder, epoch, step)
        for row in rows:
            log(row)
        for row in rows:
            if self.stop and row["kind"] == "collapse":
                raise InputError(f"{row['message']}; or go on with --on_collapse warn")
