"""Running a sweep with Optuna, and its report: each configuration is trained once for each seed."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import shlex
import shutil
import sys
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import numpy as np
import optuna
from filelock import FileLock, Timeout
from jinja2 import Template
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from tqdm.auto import tqdm

from ragcun.errors import InputError
from ragcun.io import as_json, read_text
from ragcun.reporting.tables import ABSENT, markdown_table
from ragcun.sweeps.space import SAMPLERS, Space
from ragcun.training.loop import fit
from ragcun.training.selection import DEV

logger = logging.getLogger(__name__)
SWEEP = "sweep"
REPORT = Template(read_text(Path(__file__).with_name("report.md.j2")), trim_blocks=True, keep_trailing_newline=True)
DRAWS = 100  # of configurations that were tried already, before the space counts as exhausted


def run_sweep(
    space: Space, folder: Path, data: dict[str, dict[str, str]], keep_runs: bool = False
) -> list[FrozenTrial]:
    """Try configurations until the sweep's number of trials is reached or none is left; return all finished trials.

    The journal in `folder` holds finished trials only, so an interrupted one runs again from its start; one that raises
    `InputError` is finished too: it failed, and its message is kept. `data` are the hashes of `check_inputs`.

    Raises:
        InputError: another process runs this sweep, or the journal is of other settings or other data.
    """
    try:
        with FileLock(folder / ".sweep.lock", timeout=0):
            study, settings = _open_study(space, folder, data), space.settings
            done = len(study.trials)
            rest = range(done, sys.maxsize if settings.trials is None else settings.trials)
            for number in tqdm(rest, settings.study, settings.trials, initial=done, unit="trial"):
                if (chosen := propose(space, study.trials)) is None:
                    break
                run = folder / "runs" / f"trial-{number:04d}"
                study.add_trial(_measure(space, chosen, run))
                if not keep_runs:
                    shutil.rmtree(run, ignore_errors=True)
            with contextlib.suppress(OSError):
                (folder / "runs").rmdir()  # stays while it holds runs
            return study.trials
    except Timeout as error:
        raise InputError(f"another process runs the sweep in {folder}; wait for it or stop it") from error


def _open_study(space: Space, folder: Path, data: dict[str, dict[str, str]]) -> optuna.Study:
    wanted = dataclasses.asdict(space.settings) | {"base": space.base, "seeds": space.seeds, "data": data}
    wanted["parameters"] = {name: repr(each) for name, each in space.parameters.items()}
    wanted = as_json({name: value for name, value in wanted.items() if name != "trials"})
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    log = folder / "study.log"
    if log.exists() and not (written := log.read_bytes()).endswith(b"\n"):  # a killed process left half a line
        with log.open("r+b") as file:
            file.truncate(written.rfind(b"\n") + 1)
    storage = optuna.storages.JournalStorage(JournalFileBackend(str(log)))
    study = optuna.create_study(storage=storage, study_name=SWEEP, direction="maximize", load_if_exists=True)
    known = study.user_attrs.get(SWEEP, wanted)
    for name in sorted(wanted.keys() | known.keys()):
        if known.get(name) != wanted.get(name):
            raise InputError(f"{folder} holds a sweep with another {name}; give another --output_dir, or --overwrite")
    study.set_user_attr(SWEEP, wanted)
    return study


def propose(space: Space, finished: Sequence[FrozenTrial]) -> dict[str, Any] | None:
    """Return the configuration to try after the `finished` trials, None where none is left."""
    tried = [trial.params for trial in finished]
    for draw in range(DRAWS):
        # seeded by what is finished, so that an interrupted sweep resumes with the proposals that it would have made
        entropy = [space.settings.sampler_seed, len(finished), draw]
        seed = int(np.random.SeedSequence(entropy).generate_state(1)[0])
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)  # BruteForceSampler
            study = optuna.create_study(direction="maximize", sampler=SAMPLERS[space.settings.sampler](seed=seed))
        study.add_trials(finished)
        chosen = study.ask(space.parameters).params
        if chosen not in tried:
            return chosen
    return None


def _measure(space: Space, chosen: dict[str, Any], folder: Path) -> FrozenTrial:
    started = time.perf_counter()
    try:
        results = [
            fit(space.config(chosen, seed=seed, output_dir=str(folder / f"seed-{seed}"), overwrite=True))
            for seed in space.seeds
        ]
        names = ("score", "base_score", "best_epoch")
        figures: dict[str, Any] = {f"{name}s": [getattr(result, name) for result in results] for name in names}
        figures["steps"] = sum(result.steps for result in results)
        outcome: dict[str, Any] = {"value": fmean(figures["scores"]), "user_attrs": figures}
    except InputError as error:
        logger.warning("trial failed: %s", error)
        outcome = {"state": TrialState.FAIL, "user_attrs": {"message": str(error)}}
    outcome["user_attrs"]["seconds"] = time.perf_counter() - started
    return optuna.create_trial(params=chosen, distributions=space.parameters, **outcome)


def summarise(space: Space, trials: Sequence[FrozenTrial], folder: Path) -> dict[str, Any]:
    """Return a sweep's settings, its trials from best to worst, the best (None: all failed), and importances.

    A score is the mean over seeds of a run's best epoch; ``sd`` is the sample standard deviation over seeds.
    """
    rows = sorted(map(_row, trials), key=lambda row: (row["score"] is None, -(row["score"] or 0.0), row["trial"]))
    best = None
    if rows[0]["score"] is not None:
        settings = {**space.base, **rows[0]["parameters"], "seed": space.seeds[0], "output_dir": str(folder / "best")}
        flags = [part for name, value in settings.items() for part in (f"--{name}", str(value))]
        best = rows[0] | {"settings": settings, "command": shlex.join(["ragcun", "train", *flags])}
    judged_by_ndcg = space.base.get("dev_beir") or space.base.get("dev_fraction")
    return {
        "study": space.settings.study,
        "source": space.source,
        "sampler": space.settings.sampler,
        "criterion": DEV if judged_by_ndcg else "minus validation objective",
        "direction": space.settings.direction,
        "seeds": list(space.seeds),
        "trials": len(rows),
        "failed": sum(row["score"] is None for row in rows),
        "seconds": sum(row["seconds"] for row in rows),
        "best": best,
        "importance": importance(trials),
        "rows": rows,
    }


def _row(trial: FrozenTrial) -> dict[str, Any]:
    figures = {"scores": [], "base_scores": [], "best_epochs": [], "steps": None, "message": None, **trial.user_attrs}
    scores, bases = figures["scores"], [base for base in figures["base_scores"] if base is not None]
    # seed by seed, on the same dev queries
    differences = [score - base for score, base in zip(scores, bases, strict=True)] if bases else []
    for name, values in (("score", scores), ("base_score", bases), ("difference", differences)):
        figures[name] = fmean(values) if values else None
    for name, values in (("sd", scores), ("difference_sd", differences)):
        figures[name] = stdev(values) if len(values) > 1 else None
    return {"trial": trial.number, "parameters": dict(trial.params), **figures}


def importance(trials: Sequence[FrozenTrial]) -> dict[str, float] | None:
    """Return each parameter's share of the variance of scores (fANOVA, Hutter et al. 2014); None where that is 0."""
    done = [trial for trial in trials if trial.state == TrialState.COMPLETE]
    if len({trial.value for trial in done}) < 2:
        return None
    study = optuna.create_study(direction="maximize")
    study.add_trials(done)
    fanova = optuna.importance.FanovaImportanceEvaluator(seed=0)
    return dict(optuna.importance.get_param_importances(study, evaluator=fanova))


def markdown(figures: dict[str, Any]) -> str:
    """Render `summarise` as Markdown."""
    header = ["trial", *figures["rows"][0]["parameters"], figures["criterion"], "base", "difference", "best epoch"]
    table = markdown_table(header, map(_cells, figures["rows"]))
    shares = [[name, f"{share:.3f}"] for name, share in (figures["importance"] or {}).items()]
    importances = markdown_table(["parameter", "share of variance"], shares) if shares else ""
    return REPORT.render(figures, table=table, importances=importances)


def _cells(row: dict[str, Any]) -> list[str]:
    return [
        str(row["trial"]),
        *(f"{value:.4g}" if isinstance(value, float) else str(value) for value in row["parameters"].values()),
        "failed" if row["message"] else _spread(row["score"], row["sd"]),
        _spread(row["base_score"], None),
        _spread(row["difference"], row["difference_sd"], "+"),
        ", ".join(map(str, row["best_epochs"])) or ABSENT,
    ]


def _spread(mean: float | None, sd: float | None, sign: str = "") -> str:
    return ABSENT if mean is None else f"{mean:{sign}.4f}" + ("" if sd is None else f" ± {sd:.4f}")
