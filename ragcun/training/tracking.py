"""Trackers: what goes into a run's metrics also goes to TensorBoard or Weights & Biases, through accelerate."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Mapping
from typing import Any

from accelerate.tracking import GeneralTracker, TensorBoardTracker, WandBTracker

from ragcun.errors import InputError
from ragcun.training.run_dir import RunFolder

PLACES = ("kind", "step", "epoch")
"""Keys of a row that say where it belongs; they are in the name of a value or its step."""


def require_tracker(name: str) -> None:
    """Fail before anything is computed where a tracker cannot run.

    Raises:
        InputError: the tracker's package is not installed.
    """
    if name != "none" and importlib.util.find_spec(name) is None:
        raise InputError(f"--tracker {name} needs a package that is not installed: pip install {name}, or leave it out")


def track(name: str, run: RunFolder, settings: Mapping[str, Any], step: int) -> Callable[[], None]:
    """Let a tracker follow the rows of a run, and return what ends it.

    Each number of a row is logged under the row's kind and its keys, joined by ``/``: ``step/terms/contrastive``,
    ``epoch/dev/NDCG@10``, ``probe/figures/rank_query``. A run that leaves nothing on disk is not tracked.

    Args:
        name: ``tensorboard`` (events in ``tensorboard/`` of the run folder), ``wandb`` or ``none``.
        run: the run, whose `RunFolder.follower` is set.
        settings: the run's configuration, for trackers that keep it.
        step: the optimiser step from which a resumed run goes on, else 0; what TensorBoard had after it is dropped.
    """
    if name == "none" or not run.recorded:
        return _nothing
    tracker = _TRACKERS[name](run, settings, step)
    tracker.start()
    run.follower = lambda row: tracker.log(named(row), step=int(row.get("step", 0)))
    return tracker.finish


def named(row: Mapping[str, Any]) -> dict[str, float | str]:
    """Return the numbers and texts of a row of the metrics by their full names.

    >>> named({"kind": "step", "epoch": 1, "step": 10, "total": 2.5, "terms": {"contrastive": 2.0}, "grad_norm": None})
    {'step/total': 2.5, 'step/terms/contrastive': 2.0}
    """
    return _flat({key: value for key, value in row.items() if key not in PLACES}, str(row["kind"]))


def _flat(values: Mapping[str, Any], name: str) -> dict[str, float | str]:
    flat: dict[str, float | str] = {}
    for key, value in values.items():
        if isinstance(value, Mapping):
            flat |= _flat(value, f"{name}/{key}")
        elif isinstance(value, (int, float, str)):
            flat[f"{name}/{key}"] = value
    return flat


def _nothing() -> None:
    """End nothing."""


def _tensorboard(run: RunFolder, settings: Mapping[str, Any], step: int) -> GeneralTracker:
    folder = run.tracking
    return TensorBoardTracker(folder.name, folder.parent, purge_step=step + 1 if step else None)


def _wandb(run: RunFolder, settings: Mapping[str, Any], step: int) -> GeneralTracker:
    return WandBTracker("ragcun", name=run.path.name, dir=str(run.path), config=dict(settings))


_TRACKERS: dict[str, Callable[[RunFolder, Mapping[str, Any], int], GeneralTracker]] = {
    "tensorboard": _tensorboard,
    "wandb": _wandb,
}
