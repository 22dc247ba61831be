"""Two processes on a CPU: their run is that of one process, only the main one writes, and none is left waiting."""

import json
import os
import signal
import sys
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from ragcun import InputError, TextBase, TrainConfig, fit
from ragcun.data.pairs import PairDataset, write_pairs
from ragcun.training.batches import PairSource, epoch_steps
from ragcun.training.processes import FAILED, TrainingStopped
from ragcun.training.run_dir import RunFolder
from ragcun.training.selection import Selection
from tests.processes import run_ranks, run_script, start_ranks
from tests.training.runs import assert_same, before_step, newest, rows_of, tensors_of

SIGREG: dict[str, Any] = {"lambda_isotropy": 1.0, "isotropy": "sigreg", "num_slices": 16}
TRAINED: dict[str, Any] = {"freeze_base": False, "base_learning_rate": 1e-3, **SIGREG}
PLAIN: dict[str, Any] = {"head_init": "identity", "normalize_output": False}
SEVERAL = {"train_data": "several.jsonl", "positives_per_query": 0, "nested_dims": (4, 8), "use_predictor": True}
RESPRED = {"system": "respred", "lambda_predictive": 1.0, "lambda_residual": 0.1}
SAME: dict[str, dict[str, Any]] = {
    "defaults": SIGREG,
    "several": SEVERAL | SIGREG,
    "validation": RESPRED | {"dev_beir": None, "val_data": "several.jsonl", **SIGREG},
    "trained": TRAINED | {"gradient_accumulation_steps": 2, "mined_negatives": 2, "mine_every": 1},
    "lora, gradient cache": SIGREG | {"lora_rank": 2, "trained_share": 0.5, "grad_cache_size": 3},
    "jepa, gradient cache": TRAINED | {"system": "jepa", "lambda_predictive": 1.0, "grad_cache_size": 3},
}
"""Runs that are to end alike in one process and in two; `tests/losses` has every term in two processes."""
COLLAPSE = PLAIN | {"lambda_contrastive": 0.0, "lambda_isotropy": 1.0, "isotropy_form": "absolute", "epochs": 30}
COLLAPSE |= {"projection_learning_rate": 0.05, "on_collapse": "stop", "mined_negatives": 0}
AGAIN = SIGREG | {"mine_every": 1}
OFTEN = AGAIN | {"state_interval": 1}
JOBS: dict[str, tuple[str, str | None, dict[str, Any]]] = {
    **{name: (name, None, changes) for name, changes in SAME.items()},
    "through": ("through", None, OFTEN),
    "stopped": ("resumed", "stop", OFTEN),
    "resumed": ("resumed", None, OFTEN | {"resume": True}),
    "in a folder that is used": ("through", None, SIGREG),
    "main": ("main", "main", SIGREG),
    "collapsed": ("collapsed", None, COLLAPSE),
    "after": ("after", None, SIGREG),
    "signalled": ("signalled", "signal", AGAIN),
    "continued": ("signalled", None, AGAIN | {"resume": True}),
    "skipped": ("skipped", "nan once", SIGREG | {"on_nan": "skip"}),
}
"""What two processes run in turn: the folder, what goes wrong, and the settings."""
FAILING: dict[str, Any] = {"collapse_checks": 0, "log_interval": 2, "dev_beir": None, "head_init": "identity"}
FAILING |= SIGREG | {"mined_negatives": 0}
TOLERANCE = 1e-5


@pytest.fixture(scope="module")
def settings(
    collection_folder: Path, tiny_bert: str, texts: list[str], tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Any]:
    """30 pairs in 4 batches of 8 or 7 an epoch: in two processes, one of which has 4 + 3."""
    folder = tmp_path_factory.mktemp("processes")
    pairs = [(texts[i // 3], texts[40 + i], None if i % 2 else texts[200 + i]) for i in range(30)]
    write_pairs(folder / "several.jsonl", pairs)
    common = {"train_data": str(collection_folder), "dev_beir": str(collection_folder), "base_model": tiny_bert}
    common |= {"device": "cpu", "epochs": 2, "batch_size": 4, "log_interval": 1, "cache_dir": str(folder / "cache")}
    return common | {"folder": str(folder)}


def config_of(settings: dict[str, Any], out: str, **changes: Any) -> TrainConfig:
    """Return a run's settings; files and the output folder lie in the common folder."""
    values = settings | changes
    folder = Path(values.pop("folder"))
    files = {name: str(folder / value) for name, value in values.items() if value == "several.jsonl"}
    return TrainConfig(**values | files | {"output_dir": str(folder / out)})


# What each of the two processes does


class StoppedError(Exception):
    """An end that nothing in the library expects."""


def faulty(fault: str | None, rank: int, patch: pytest.MonkeyPatch) -> None:
    """Make something go wrong in one process or both."""
    real, wrong = PairSource._inputs, {"nan": range(100), "nan once": [3]}.get(fault or "", [])
    factor = [1.0]

    def before(step: int) -> None:
        factor[0] = torch.nan if rank == 1 and step in wrong else 1.0
        if fault == "stop" and step == 6:
            raise StoppedError
        if fault == "signal" and rank == 1 and step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def unexpected(self: Selection, *arguments: Any) -> Any:
        raise StoppedError

    before_step(patch, before)
    if wrong:
        patch.setattr(PairSource, "_inputs", lambda self, texts, role: real(self, texts, role) * factor[0])
    if fault == "main":
        patch.setattr(Selection, "evaluate", unexpected)
    for name in ("log", "keep_rows") if rank > 0 else ():
        patch.delattr(RunFolder, name)


def outcome(settings: dict[str, Any], rank: int, out: str, fault: str | None, changes: dict[str, Any]) -> Any:
    """Run one job in this process, and say what came of it and how much it encoded."""
    encoded, real = [0], TextBase.encode

    def encode(self: TextBase, texts: Any, *arguments: Any, **options: Any) -> Any:
        encoded[0] += len(texts)
        return real(self, texts, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(TextBase, "encode", encode)
        faulty(fault, rank, patch)
        try:
            result = fit(config_of(settings, out, **changes))
        except (InputError, StoppedError, TrainingStopped) as error:
            return {"error": str(error), "kind": type(error).__name__}
    return asdict(result) | {"checkpoint": str(result.checkpoint), "encoded": encoded[0]}


def one_process(rank: int, folder: str, failing: bool) -> None:
    """Run all jobs, or let the one that fails end this process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    settings = json.loads((Path(folder) / "settings.json").read_text())
    jobs = {"nan": ("nan", "nan", FAILING)} if failing else JOBS
    found = {name: outcome(settings, rank, *job) for name, job in jobs.items()}
    (Path(folder) / f"{'failing' if failing else 'jobs'}{rank}.json").write_text(json.dumps(found))
    if failing:
        sys.exit(3 if "error" in found["nan"] else 0)


@pytest.fixture(scope="module")
def ended(settings: dict[str, Any]) -> Path:
    """A folder with what came of all jobs in each of two processes."""
    folder = Path(settings["folder"])
    (folder / "settings.json").write_text(json.dumps(settings))
    run_script(__file__, folder)
    return folder


@pytest.fixture(scope="module")
def together(ended: Path) -> list[dict[str, dict[str, Any]]]:
    """What came of each job, by its name, in each process."""
    return [json.loads((ended / f"jobs{rank}.json").read_text()) for rank in (0, 1)]


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Return the weights after the last step, their average and the best ones, and those of the checkpoint."""
    point = tensors_of(newest(folder))
    kept = {name: value for name, value in point.items() if name.startswith(("model", "average"))}
    return kept | tensors_of(folder / "best_model")


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_two_processes_end_as_one(together, settings, name):
    """The same weights after 8 steps, the same rows in the metrics, and the same result in both processes.

    The first run fills the cache: the main process encodes, the other finds all there.
    """
    folder, first = Path(settings["folder"]), together[0][name]
    assert "error" not in first, first
    assert first | {"encoded": 0} == together[1][name] | {"encoded": 0}
    assert name != "defaults" or first["encoded"] > together[1][name]["encoded"] == 0
    alone = fit(config_of(settings, f"{name} alone", **SAME[name] | {"batch_size": 8}))
    assert (alone.best_epoch, alone.criterion, alone.steps) == (first["best_epoch"], first["criterion"], first["steps"])
    theirs = weights_of(folder / f"{name} alone")
    for weight, value in weights_of(folder / name).items():
        torch.testing.assert_close(value, theirs[weight], rtol=0, atol=TOLERANCE, msg=weight)
    best = {name: f"average.safetensors:best.{name.partition(':')[2]}" for name in theirs if name.startswith("model")}
    moved = [float((theirs[name] - theirs[other]).abs().max()) for name, other in best.items() if other in theirs]
    assert max(moved) > 10 * TOLERANCE  # the best weights are the start's, or averages
    pairs = list(zip(rows_of(folder / name), rows_of(folder / f"{name} alone"), strict=True))
    assert len(pairs) >= 8 / SAME[name].get("gradient_accumulation_steps", 1)
    for ours, other in pairs:
        assert (ours["kind"], ours.get("step")) == (other["kind"], other.get("step"))
        if ours["kind"] == "step":
            assert ours["total"] == pytest.approx(other["total"], rel=1e-4, abs=1e-5)
            assert ours["grad_norm"] == pytest.approx(other["grad_norm"], rel=1e-3, abs=1e-5)


@pytest.mark.slow
def test_what_ends_one_process_ends_both_and_runs_after_it_go_on(together, ended):
    """An earlier run in the folder, an exception that nothing expects, a collapse, a signal, a skipped step."""
    for each in together:
        assert "holds an earlier run" in each["in a folder that is used"]["error"]
        assert "on_collapse warn" in each["collapsed"]["error"]
        assert each["stopped"]["kind"] == "StoppedError"
        assert each["signalled"]["kind"] == "TrainingStopped"
        assert "stopped by SIGTERM after step 3" in each["signalled"]["error"]
        assert [each[name]["steps"] for name in ("through", "resumed", "after", "continued", "skipped")] == [8] * 5
        assert each["skipped"]["skipped"] == 1
    assert together[0]["main"]["kind"] == "StoppedError"
    assert together[1]["main"]["error"] == FAILED
    assert rows_of(ended / "collapsed", "collapse")
    assert [row["step"] for row in rows_of(ended / "skipped", "skipped")] == [3]


@pytest.mark.slow
def test_resumed_runs_of_two_processes_equal_an_uninterrupted_one(together, settings, ended):
    """And one process does not resume where two stopped."""
    assert_same(newest(ended / "resumed"), newest(ended / "through"))
    assert rows_of(ended / "resumed") == rows_of(ended / "through")
    for name in ("model.safetensors", "average.safetensors"):
        states = [(newest(ended / run) / name).read_bytes() for run in ("signalled", "through")]
        assert states[0] == states[1]
    with pytest.raises(InputError, match="made with processes = 2, this run has None"):
        fit(config_of(settings, "resumed", **OFTEN, resume=True))


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_ends_both(ended):
    """With an exit code other than 0, within a minute, though only the second has non-finite embeddings."""
    assert json.loads((ended / "codes.json").read_text()) == [3, 3]
    for rank in (0, 1):
        found = json.loads((ended / f"failing{rank}.json").read_text())["nan"]
        assert found["error"].startswith("the loss is nan by contrastive nan, isotropy nan at step 1")


# One process


def test_too_few_pairs_for_the_processes(texts):
    data = PairDataset.from_rows([(texts[i], texts[100 + i], None) for i in range(3)], "made")
    config = TrainConfig("t", batch_size=4)
    assert [len(batch) for step in epoch_steps(config, data, 3, 1) for batch in step] == [3]
    with pytest.raises(InputError, match="3 training pairs are too few for 4 processes"):
        epoch_steps(config, data, 4, 1)


def main() -> None:
    """Run the jobs; then the failing one, whose processes have a minute to end."""
    settings = json.loads((Path(sys.argv[1]) / "settings.json").read_text())
    TextBase.load(settings["base_model"], device="cpu")  # imports, once for all processes
    run_ranks(one_process, sys.argv[1], False)
    processes = start_ranks(one_process, sys.argv[1], True).processes
    until = time.monotonic() + 60
    for process in processes:
        process.join(max(0, until - time.monotonic()))
    (Path(sys.argv[1]) / "codes.json").write_text(json.dumps([process.exitcode for process in processes]))
    for process in processes:
        process.kill()


if __name__ == "__main__":
    main()
