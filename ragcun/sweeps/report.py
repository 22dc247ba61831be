"""What a sweep found: the figures as one dictionary, from which the Markdown report is laid out."""

from __future__ import annotations

import shlex
import statistics
from collections.abc import Sequence
from typing import Any

import optuna
from optuna.importance import FanovaImportanceEvaluator, get_param_importances
from optuna.trial import FrozenTrial, TrialState

from ragcun.reporting.tables import ABSENT, markdown_table
from ragcun.sweeps.folder import SweepFolder
from ragcun.sweeps.space import Space

NDCG, OBJECTIVE = "dev NDCG@10", "minus validation objective"


def best_settings(space: Space, trials: Sequence[FrozenTrial], folder: SweepFolder) -> dict[str, Any] | None:
    """Return the settings of ``train.py`` that repeat the best trial's first run, None where no trial succeeded."""
    rows = [row for row in _rows(trials) if row["score"] is not None]
    if not rows:
        return None
    return {**space.base, **rows[0]["parameters"], "seed": space.seeds[0], "output_dir": str(folder.best_run)}


def summarise(space: Space, trials: Sequence[FrozenTrial], folder: SweepFolder) -> dict[str, Any]:
    """Return all figures of a sweep: its settings, its trials from best to worst, the best, and importances.

    A score is the mean over seeds of a run's best epoch; ``sd`` is the sample standard deviation over seeds.
    """
    rows, best = _rows(trials), best_settings(space, trials, folder)
    figures = {"study": space.settings.study, "source": space.source, "sampler": space.settings.sampler}
    figures |= {"criterion": NDCG if _has_ndcg(space) else OBJECTIVE, "direction": "maximise"}
    counts = {"trials": len(rows), "failed": sum(row["score"] is None for row in rows)}
    known = {} if best is None else {"settings": best, "command": command(best)}
    return {
        **figures,
        "seeds": list(space.seeds),
        **counts,
        "seconds": sum(row["seconds"] for row in rows),
        "best": None if best is None else rows[0] | known,
        "importance": importance(trials),
        "rows": rows,
    }


def _has_ndcg(space: Space) -> bool:
    return bool(space.base.get("dev_beir") or space.base.get("dev_fraction"))


def _rows(trials: Sequence[FrozenTrial]) -> list[dict[str, Any]]:
    """Return the trials as dictionaries, best first, equals in the order they ran, failed ones last."""
    rows = [_row(trial) for trial in trials]
    return sorted(rows, key=lambda row: (row["score"] is None, -(row["score"] or 0.0), row["trial"]))


def _row(trial: FrozenTrial) -> dict[str, Any]:
    """Return a trial's figures; its differences from the base are taken seed by seed, on the same dev queries."""
    figures = {"scores": [], "base_scores": [], "best_epochs": [], "steps": None, "message": None, **trial.user_attrs}
    scores, bases = figures["scores"], [base for base in figures["base_scores"] if base is not None]
    differences = [score - base for score, base in zip(scores, bases, strict=True)] if bases else []
    score, sd = _mean_and_sd(scores)
    difference, difference_sd = _mean_and_sd(differences)
    return {
        "trial": trial.number,
        "parameters": dict(trial.params),
        "score": score,
        "sd": sd,
        "base_score": _mean_and_sd(bases)[0],
        "difference": difference,
        "difference_sd": difference_sd,
        **{name: figures[name] for name in ("scores", "base_scores", "best_epochs", "steps", "message", "seconds")},
    }


def _mean_and_sd(values: Sequence[float]) -> tuple[float | None, float | None]:
    """Return mean and sample standard deviation, None where there are too few values."""
    return (statistics.fmean(values) if values else None, statistics.stdev(values) if len(values) > 1 else None)


def importance(trials: Sequence[FrozenTrial]) -> dict[str, float] | None:
    """Return each parameter's share of the variance of scores (fANOVA on a random forest), largest first.

    None where fewer than two trials succeeded, or all have the same score. Source: Hutter, Hoos and Leyton-Brown,
    An Efficient Approach for Assessing Hyperparameter Importance, ICML 2014.
    """
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len({trial.value for trial in done}) < 2:
        return None
    study = optuna.create_study(direction="maximize")
    study.add_trials(done)
    shares = get_param_importances(study, evaluator=FanovaImportanceEvaluator(seed=0))
    return {name: float(share) for name, share in shares.items()}


def command(settings: dict[str, Any]) -> str:
    """Return the command line of ``train.py`` that has these settings."""
    flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
    return shlex.join(["python", "scripts/train.py", *flags])


def markdown(figures: dict[str, Any]) -> str:
    """Lay out a sweep's figures."""
    seeds = ", ".join(map(str, figures["seeds"]))
    lead = (
        f"{figures['trials']} configurations ({figures['failed']} failed), sampler {figures['sampler']}, "
        f"seeds {seeds}, {figures['seconds']:.0f} s. Figures are means over seeds ± standard deviation; a difference "
        "is taken seed by seed from the untouched base."
    )
    parts = [f"# Sweep {figures['study']}", lead, _best(figures), "## Trials", _table(figures)]
    parts += ["## Importance of the parameters", _importance(figures["importance"])]
    if failed := [row for row in figures["rows"] if row["message"]]:
        parts += ["## Failed trials", "\n".join(f"- {row['trial']}: {row['message']}" for row in failed)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _best(figures: dict[str, Any]) -> str:
    best = figures["best"]
    if best is None:
        return "No configuration succeeded."
    values = ", ".join(f"{name} {_value(value)}" for name, value in best["parameters"].items())
    base = "" if best["base_score"] is None else f"; untouched base {_number(best['base_score'])}"
    gain = (
        "" if best["difference"] is None else f", difference {_spread(best['difference'], best['difference_sd'], '+')}"
    )
    return (
        f"Best: trial {best['trial']}: {values}. Score {_spread(best['score'], best['sd'])}{base}{gain}.\n\n"
        f"It is the best of {figures['trials'] - figures['failed']} on the data it was chosen by, so its score there "
        f"is too high; measure it once on test queries.\n\n```\n{best['command']}\n```"
    )


def _table(figures: dict[str, Any]) -> str:
    rows = figures["rows"]
    names = list(rows[0]["parameters"]) if rows else []
    header = ["trial", *names, figures["criterion"], "base", "difference", "best epoch"]
    cells = [
        [
            str(row["trial"]),
            *(_value(row["parameters"][name]) for name in names),
            "failed" if row["score"] is None else _spread(row["score"], row["sd"]),
            _number(row["base_score"]),
            _spread(row["difference"], row["difference_sd"], "+"),
            ", ".join(map(str, row["best_epochs"])) or ABSENT,
        ]
        for row in rows
    ]
    return markdown_table(header, cells) + "\nBest epoch, by seed: 0 is the start, before training."


def _importance(shares: dict[str, float] | None) -> str:
    if shares is None:
        return "Not known: it takes two trials with different scores."
    note = "Share of the variance of scores over the trials that succeeded (fANOVA); with few trials a rough guide."
    rows = [[name, f"{share:.3f}"] for name, share in shares.items()]
    return f"{markdown_table(['parameter', 'share'], rows)}\n{note}"


def _spread(mean: float | None, sd: float | None, sign: str = "") -> str:
    return ABSENT if mean is None else f"{mean:{sign}.4f}" + ("" if sd is None else f" ± {sd:.4f}")


def _number(value: float | None) -> str:
    return _spread(value, None)


def _value(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
