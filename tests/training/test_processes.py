"""Two processes on a CPU: their run is that of one process, only the main one writes, and none is left waiting."""

from __future__ import annotations

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
from accelerate import Accelerator
from torch import Tensor

from ragcun.config import TrainConfig
from ragcun.data.pairs import PairDataset, write_pairs
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.training.batches import BatchSampler, CachedPairs
from ragcun.training.guards import TrainingStopped
from ragcun.training.loop import fit
from ragcun.training.processes import FAILED, Processes
from ragcun.training.run_dir import RunFolder
from ragcun.training.selection import Selection
from ragcun.training.trainer import Trainer
from tests.training.runs import assert_same, before_step, newest, rows_of, run_script, start_ranks, tensors_of

SIGREG: dict[str, Any] = {"lambda_isotropy": 1.0, "isotropy": "sigreg", "num_slices": 16}
TRAINED: dict[str, Any] = {"freeze_base": False, "base_learning_rate": 1e-3, **SIGREG}
PLAIN: dict[str, Any] = {"head_init": "identity", "normalize_output": False}
SEVERAL = {"train_data": "several.jsonl", "positives_per_query": 0, "nested_dims": (4, 8), "use_predictor": True}
RESPRED = {"system": "respred", "lambda_predictive": 1.0, "lambda_residual": 0.1}
SAME: dict[str, dict[str, Any]] = {
    "defaults": SIGREG,
    "in_batch_margin": PLAIN | {"contrastive": "in_batch_margin", "gradient_accumulation_steps": 2},
    "several": SEVERAL | SIGREG,
    "validation": RESPRED | {"dev_beir": None, "val_data": "several.jsonl", **SIGREG},
    "trained": TRAINED | {"gradient_accumulation_steps": 2, "mined_negatives": 2},
    "jepa, gradient cache": TRAINED | {"system": "jepa", "lambda_predictive": 1.0, "grad_cache_size": 3},
}
"""Runs that are to end alike in one process and in two; `tests/losses` has every term in two processes."""
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
    nested = {"nested_dims": tuple(values.get("nested_dims", ()))}
    return TrainConfig(**values | files | nested | {"output_dir": str(folder / out)})


# What each of the two processes does


class StoppedError(Exception):
    """An end that nothing in the library expects."""


def faulty(fault: str | None, rank: int, patch: pytest.MonkeyPatch) -> None:
    """Make something go wrong in one process or both."""
    real_step, real_inputs = Trainer.step, CachedPairs._inputs

    def not_a_number(self: CachedPairs, texts: Any, role: Any) -> Tensor:
        return real_inputs(self, texts, role) * torch.nan

    def stop(trainer: Trainer) -> None:
        if fault == "stop" and trainer.progress.step == 6:
            raise StoppedError
        if fault == "signal" and rank == 1 and trainer.progress.step == 3:
            os.kill(os.getpid(), signal.SIGTERM)

    def wrong_once(self: Trainer, batches: Any) -> Any:
        with pytest.MonkeyPatch.context() as for_this_step:
            if self.progress.step == 3:
                for_this_step.setattr(CachedPairs, "_inputs", not_a_number)
            return real_step(self, batches)

    def unexpected(self: Selection, *arguments: Any) -> Any:
        raise StoppedError

    if fault == "nan" and rank == 1:
        patch.setattr(CachedPairs, "_inputs", not_a_number)
    elif fault == "nan once" and rank == 1:
        patch.setattr(Trainer, "step", wrong_once)
    elif fault == "main":
        patch.setattr(Selection, "evaluate", unexpected)
    else:
        before_step(patch, stop)


def outcome(job: dict[str, Any], settings: dict[str, Any], rank: int) -> dict[str, Any]:
    """Run one job in this process, and say what came of it and what it encoded and wrote."""
    encoded: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        real = TextBase.encode
        patch.setattr(
            TextBase, "encode", lambda self, texts, *a, **b: encoded.append(len(texts)) or real(self, texts, *a, **b)
        )
        if rank > 0:
            for name in ("log", "keep_rows"):
                patch.delattr(RunFolder, name)
        faulty(job.get("fault"), rank, patch)
        try:
            result = fit(config_of(settings, job["name"], **job["changes"]))
        except (InputError, StoppedError, TrainingStopped) as error:
            return {"error": str(error), "kind": type(error).__name__, "encoded": sum(encoded)}
    return asdict(result) | {"checkpoint": str(result.checkpoint), "encoded": sum(encoded)}


def one_process(rank: int, folder: str, name: str) -> None:
    """Run all jobs of a file, or let the one that fails end this process."""
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    torch.set_num_threads(1)
    given = json.loads((Path(folder) / f"{name}.json").read_text())
    found = [outcome(job, given["settings"], rank) for job in given["jobs"]]
    (Path(folder) / f"{name}{rank}.json").write_text(json.dumps(found))
    if name == "failing":
        sys.exit(3 if "error" in found[0] else 0)


@pytest.fixture(scope="module")
def ended(settings: dict[str, Any]) -> Path:
    """A folder with what came of all jobs in each of two processes."""
    jobs: list[dict[str, Any]] = [{"name": name, "changes": changes} for name, changes in SAME.items()]
    jobs += AFTERWARDS
    folder = Path(settings["folder"]) / "jobs"
    folder.mkdir()
    for name, some in (("jobs", jobs), ("failing", [FAILING])):
        (folder / f"{name}.json").write_text(json.dumps({"settings": settings, "jobs": some}))
    run_script(__file__, folder)
    return folder


@pytest.fixture(scope="module")
def together(ended: Path) -> list[dict[str, dict[str, Any]]]:
    """What came of each job, by its name and, after those of `SAME`, its number, in each process."""
    names = [*SAME, *(f"{i} {job['name']}" for i, job in enumerate(AFTERWARDS))]
    both = [json.loads((ended / f"jobs{rank}.json").read_text()) for rank in (0, 1)]
    return [dict(zip(names, each, strict=True)) for each in both]


COLLAPSE = PLAIN | {"lambda_contrastive": 0.0, "lambda_isotropy": 1.0, "isotropy_form": "absolute", "epochs": 30}
COLLAPSE |= {"projection_learning_rate": 0.05, "on_collapse": "stop", "mined_negatives": 0}
AFTERWARDS: list[dict[str, Any]] = [
    {"name": "through", "changes": SIGREG | {"state_interval": 1}},
    {"name": "resumed", "changes": SIGREG | {"state_interval": 1}, "fault": "stop"},
    {"name": "resumed", "changes": SIGREG | {"state_interval": 1, "resume": True}},
    {"name": "through", "changes": SIGREG},
    {"name": "main", "changes": SIGREG, "fault": "main"},
    {"name": "collapsed", "changes": COLLAPSE},
    {"name": "after", "changes": SIGREG},
    {"name": "signalled", "changes": SIGREG, "fault": "signal"},
    {"name": "signalled", "changes": SIGREG | {"resume": True}},
    {"name": "skipped", "changes": SIGREG | {"on_nan": "skip"}, "fault": "nan once"},
]
FAILING: dict[str, Any] = {"name": "nan", "changes": SIGREG | {"collapse_checks": 0, "log_interval": 2}, "fault": "nan"}
FAILING["changes"] |= {"dev_beir": None, "head_init": "identity", "mined_negatives": 0}


def weights_of(folder: Path) -> dict[str, Tensor]:
    """Return the weights after the last step, their average and the best ones, and those of the checkpoint."""
    point = tensors_of(newest(folder))
    kept = {name: value for name, value in point.items() if name.startswith(("model", "average"))}
    return kept | tensors_of(folder / "best_model")


@pytest.mark.slow
@pytest.mark.parametrize("name", SAME)
def test_two_processes_end_as_one(
    together: list[dict[str, dict[str, Any]]], settings: dict[str, Any], name: str
) -> None:
    """The same weights after 8 steps, the same rows in the metrics, and the same result in both processes."""
    folder, first = Path(settings["folder"]), together[0][name]
    assert "error" not in first, first
    assert first | {"encoded": 0} == together[1][name] | {"encoded": 0}
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
def test_texts_are_encoded_once(together: list[dict[str, dict[str, Any]]]) -> None:
    """The first run fills the cache: the main process encodes, the other finds all there."""
    assert together[0]["defaults"]["encoded"] > 0
    assert together[1]["defaults"]["encoded"] == 0


@pytest.mark.slow
def test_a_resumed_run_of_two_processes_equals_an_uninterrupted_one(
    together: list[dict[str, dict[str, Any]]], settings: dict[str, Any]
) -> None:
    """And one process does not resume where two stopped."""
    folder = Path(settings["folder"])
    for rank in together:
        assert rank["1 resumed"]["kind"] == "StoppedError"
        assert rank["2 resumed"]["steps"] == rank["0 through"]["steps"] == 8
    assert_same(newest(folder / "resumed"), newest(folder / "through"))
    assert rows_of(folder / "resumed") == rows_of(folder / "through")
    with pytest.raises(InputError, match="made with processes = 2, this run has None"):
        fit(config_of(settings, "resumed", **SIGREG, resume=True, state_interval=1))


@pytest.mark.slow
def test_what_stops_the_main_process_stops_the_other(
    together: list[dict[str, dict[str, Any]]], settings: dict[str, Any]
) -> None:
    """An earlier run in the folder, an exception that nothing expects, a collapse; and runs after them go on."""
    for each in together:
        assert "holds an earlier run" in each["3 through"]["error"]
        assert "on_collapse warn" in each["5 collapsed"]["error"], each["5 collapsed"]
        assert each["6 after"]["steps"] == 8
    assert together[0]["4 main"]["kind"] == "StoppedError"
    assert together[1]["4 main"]["error"] == FAILED
    assert rows_of(Path(settings["folder"]) / "collapsed", "collapse")


@pytest.mark.slow
def test_a_loss_that_is_not_finite_in_one_process_ends_both(ended: Path) -> None:
    """With an exit code other than 0, within a minute, though only the second has embeddings that are no numbers."""
    assert json.loads((ended / "codes.json").read_text()) == [3, 3]
    for rank in (0, 1):
        (found,) = json.loads((ended / f"failing{rank}.json").read_text())
        assert found["error"].startswith("the loss is nan by contrastive nan, isotropy nan at step 1")


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both_after_the_same_step(
    together: list[dict[str, dict[str, Any]]], settings: dict[str, Any]
) -> None:
    folder = Path(settings["folder"])
    for rank in together:
        assert rank["7 signalled"]["kind"] == "TrainingStopped"
        assert "stopped by SIGTERM after step 3" in rank["7 signalled"]["error"]
        assert rank["8 signalled"]["steps"] == 8
    for name in ("model.safetensors", "average.safetensors"):
        states = [(newest(folder / run) / name).read_bytes() for run in ("signalled", "through")]
        assert states[0] == states[1]


@pytest.mark.slow
def test_a_step_that_is_no_number_in_one_process_is_left_out_by_both(
    together: list[dict[str, dict[str, Any]]], settings: dict[str, Any]
) -> None:
    assert [rank["9 skipped"]["skipped"] for rank in together] == [1, 1]
    folder = Path(settings["folder"]) / "skipped"
    assert [row["step"] for row in rows_of(folder, "skipped")] == [3]
    assert [row["step"] for row in rows_of(folder, "step")] == [1, 2, 4, 5, 6, 7, 8]


# One process


def test_alone_each_method_just_calls() -> None:
    alone, value = Processes(Accelerator(cpu=True)), object()
    assert alone.on_main(lambda: value) is value
    assert alone.main_first(lambda: value) is value
    assert alone.main_only(lambda: value, None) is value
    assert alone.settings() == {}
    state = torch.get_rng_state()
    alone.seed(3)
    assert torch.equal(torch.get_rng_state(), state)
    with pytest.raises(InputError, match="--epochs"):
        alone.on_main(lambda: TrainConfig("wrong", epochs=0))


def test_too_few_pairs_for_the_processes(texts: list[str]) -> None:
    data = PairDataset.from_rows([(texts[i], texts[100 + i], None) for i in range(3)], "made")
    assert [len(batch) for step in BatchSampler(data, 12, 3, 1, 1, 0).steps(1) for batch in step] == [3]
    with pytest.raises(InputError, match="3 training pairs are too few for 4 processes"):
        BatchSampler(data, 16, 4, 1, 1, 0).steps(1)


def main() -> None:
    """Run the jobs; then the failing one, whose processes have a minute to end."""
    jobs = start_ranks(one_process, sys.argv[1], "jobs")
    while not jobs.join():
        pass
    processes = start_ranks(one_process, sys.argv[1], "failing").processes
    until = time.monotonic() + 60
    for process in processes:
        process.join(max(0, until - time.monotonic()))
    (Path(sys.argv[1]) / "codes.json").write_text(json.dumps([process.exitcode for process in processes]))
    for process in processes:
        process.kill()


if __name__ == "__main__":
    main()
