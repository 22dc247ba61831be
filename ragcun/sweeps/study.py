"""Running a sweep: propose a configuration, train it once for each seed, write down its scores, and so on."""

from __future__ import annotations

import contextlib
import json
import logging
import shutil
import statistics
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import optuna
from filelock import FileLock, Timeout
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, TrialState
from tqdm.auto import tqdm

from ragcun.errors import InputError
from ragcun.sweeps.folder import SweepFolder
from ragcun.sweeps.propose import distributions, propose
from ragcun.sweeps.space import Space
from ragcun.training.loop import fit
from ragcun.training.result import FitResult

logger = logging.getLogger(__name__)
SWEEP = "sweep"
"""The study's attribute that holds the sweep's settings and the hashes of its data."""


def run_sweep(
    space: Space, folder: SweepFolder, data: dict[str, dict[str, str]], keep_runs: bool = False
) -> list[FrozenTrial]:
    """Try configurations until the sweep's number of trials is reached or none is left; return all finished trials.

    The journal holds finished trials alone, so that one which was interrupted is run again from its start. A trial
    whose settings or loss are not possible (`InputError`) is finished too: it failed, and its message is kept.

    Args:
        space: what is tried.
        folder: where the journal and the runs lie.
        data: hashes of the data (`check_inputs`); a sweep goes on only with the data it began with.
        keep_runs: whether run folders stay.

    Raises:
        InputError: another process runs this sweep, or the journal is of other settings or other data.
    """
    with _alone(folder):
        study = _open_study(space, folder, data)
        finished = study.get_trials(deepcopy=False)
        with tqdm(total=space.limit, initial=len(finished), desc=space.settings.study, unit="trial") as bar:
            while len(finished) < space.limit:
                if (chosen := propose(space, finished)) is None:
                    logger.info("no configuration is left that was not tried: %d trials", len(finished))
                    break
                study.add_trial(_measure(space, chosen, folder.trial(len(finished)), keep_runs))
                finished = study.get_trials(deepcopy=False)
                bar.set_postfix(best=max((trial.value for trial in finished if trial.value is not None), default=None))
                bar.update()
        return finished


@contextlib.contextmanager
def _alone(folder: SweepFolder) -> Iterator[None]:
    lock = FileLock(folder.lock, timeout=0)
    try:
        lock.acquire()
    except Timeout as error:
        raise InputError(f"another process runs the sweep in {folder.path}; wait for it or stop it") from error
    try:
        yield
    finally:
        lock.release()


def _open_study(space: Space, folder: SweepFolder, data: dict[str, dict[str, str]]) -> optuna.Study:
    """Open the journal, or start it; a journal of other settings or other data is refused."""
    wanted = json.loads(json.dumps(space.to_dict() | {"data": data}))
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    _drop_torn_line(folder.log)
    storage = JournalStorage(JournalFileBackend(str(folder.log)))
    study = optuna.create_study(storage=storage, study_name=SWEEP, direction="maximize", load_if_exists=True)
    known = study.user_attrs.get(SWEEP, wanted)
    if known != wanted:
        changed = sorted(name for name in wanted.keys() | known.keys() if known.get(name) != wanted.get(name))
        raise InputError(
            f"{folder.path} holds a sweep with another {changed[0]} than {space.source}; "
            "give another --output_dir, or --overwrite"
        )
    if SWEEP not in study.user_attrs:
        study.set_user_attr(SWEEP, wanted)
    return study


def _drop_torn_line(log: Path) -> None:
    """Cut off a last line that a killed process left without its end."""
    if not log.exists():
        return
    whole = log.read_bytes()
    end = whole.rfind(b"\n") + 1
    if end < len(whole):
        with log.open("r+b") as file:
            file.truncate(end)


def _measure(space: Space, chosen: dict[str, Any], folder: Path, keep_runs: bool) -> FrozenTrial:
    """Train a configuration once for each seed, and return it as a finished trial."""
    started = time.perf_counter()
    try:
        results = [
            fit(space.config(chosen, seed=seed, output_dir=str(folder / f"seed-{seed}"), overwrite=True))
            for seed in space.seeds
        ]
        outcome: dict[str, Any] = {"value": _mean(results), "user_attrs": _figures(results)}
    except InputError as error:
        logger.warning("trial failed: %s", error)
        outcome = {"state": TrialState.FAIL, "user_attrs": {"message": str(error)}}
    if not keep_runs:
        shutil.rmtree(folder, ignore_errors=True)
        if folder.parent.is_dir() and not any(folder.parent.iterdir()):
            folder.parent.rmdir()
    outcome["user_attrs"]["seconds"] = time.perf_counter() - started
    return optuna.create_trial(params=chosen, distributions=distributions(space), **outcome)


def _mean(results: list[FitResult]) -> float:
    return statistics.fmean(_known(result.score) for result in results)


def _known(score: float | None) -> float:
    if score is None:
        raise ValueError("a run without a score cannot be compared")
    return score


def _figures(results: list[FitResult]) -> dict[str, Any]:
    return {
        "criterion": results[0].criterion,
        "scores": [result.score for result in results],
        "base_scores": [result.base_score for result in results],
        "best_epochs": [result.best_epoch for result in results],
        "steps": sum(result.steps for result in results),
    }
