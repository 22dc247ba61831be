"""What tests read of a run's folder, and how they step in between its steps."""

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file
from torch import Tensor, equal

from ragcun import FitResult, TrainConfig
from ragcun.training.step import Stepper

Train = Callable[..., FitResult]
PLAIN: dict[str, Any] = {
    "system": "isotropic_gaussian",
    "head": "residual",
    "head_init": "identity",
    "normalize_output": False,
    "temperature": 0.05,
    "symmetric": True,
    "soft_targets": False,
    "lambda_isotropy": 3.0,
    "mined_negatives": 0,
    "positives_per_query": 0,
    "trained_share": 1.0,
    "average_decay": 0.0,
    "lexical_dim": 0,
}
"""No lexical channel, all pairs in every epoch, heads that start as the base, the last weights kept as they are."""
DEFAULTS: dict[str, Any] = {name: getattr(TrainConfig, name) for name in PLAIN} | {"use_predictor": None}


def rows_of(run: Path, kind: str | None = None) -> list[dict[str, Any]]:
    """Return the rows of the metrics, of one kind or all, without times."""
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    chosen = [row for row in rows if kind in (None, row["kind"])]
    return [{name: value for name, value in row.items() if name != "seconds"} for row in chosen]


def tensors_of(folder: Path) -> dict[str, Tensor]:
    """Return all tensors in a folder's safetensors files, by file and name."""
    files = sorted(folder.rglob("*.safetensors"))
    return {f"{file.relative_to(folder)}:{name}": each for file in files for name, each in load_file(file).items()}


def newest(run: Path) -> Path:
    """Return the newest resume point of a run."""
    return max((run / "state").glob("[0-9]*"))


def assert_equal(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> None:
    assert one.keys() == other.keys()
    assert [name for name in one if not equal(one[name], other[name])] == []


def assert_same(first: Path, second: Path) -> None:
    assert_equal(tensors_of(first), tensors_of(second))


def assert_same_run(first: Path, second: Path) -> None:
    """Compare, bit for bit, the newest resume points, the checkpoints and the metrics."""
    assert_same(newest(first), newest(second))
    assert_same(first / "best_model", second / "best_model")
    assert rows_of(first) == rows_of(second)


def before_step(patch: pytest.MonkeyPatch, work: Callable[[int], object]) -> None:
    """Do something, given its number, before each optimiser step is computed."""
    real = Stepper.__call__

    def step(self: Stepper, batches: Any, number: int) -> Any:
        work(number)
        return real(self, batches, number)

    patch.setattr(Stepper, "__call__", step)


@contextmanager
def interrupted(after: int) -> Iterator[None]:
    """Stop training within it, as by Ctrl-C, after this many steps."""

    def stop(step: int) -> None:
        if step == after + 1:
            raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        before_step(patch, stop)
        with pytest.raises(KeyboardInterrupt):
            yield


def cut(path: Path) -> None:
    """Take the end off a file."""
    path.write_bytes(path.read_bytes()[:-40])
