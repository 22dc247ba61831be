"""The objective inside SentenceTransformerTrainer: terms of the own loop, and nothing lost, adrift or unclipped."""

import copy
import json
import os
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from sentence_transformers import SentenceTransformer, SentenceTransformerTrainer, SentenceTransformerTrainingArguments
from torch import Tensor
from transformers import TrainerCallback

from ragcun import HeadShape, InputError, Objective, TextBase
from ragcun.batch import PairBatch
from ragcun.models.encoder import SYSTEMS
from ragcun.tensors import contiguous
from ragcun.training.st_trainer import STATE_NAME, ObjectiveLoss
from ragcun.training.step import ema_decay
from tests.processes import run_ranks, run_script
from tests.training.runs import assert_equal, cut

DIM = 16
PREDICTOR = HeadShape("mlp", DIM, DIM, dropout=0.1)
STILL = HeadShape("mlp", DIM, DIM)
PAIRWISE = Objective(lambda_contrastive=0.0, lambda_predictive=1.0)
FULL = Objective(lambda_isotropy=0.5, isotropy="sigreg", num_slices=8, lambda_predictive=2.0, lambda_reg=0.1)


class Recorder(TrainerCallback):
    """Copies what it is asked to look at: weights after each step, gradients before."""

    def __init__(self, loss: ObjectiveLoss) -> None:
        self.loss = loss
        self.online, self.gradients = list[dict[str, Tensor]](), list[Tensor]()
        self.max_grad_norms, self.steps = list[float](), list[int | None]()

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.steps.append(self.loss.step)
        trained = [weight for weight in self.loss.parameters() if weight.requires_grad]
        self.gradients.append(torch.cat([weight.grad.flatten() for weight in trained if weight.grad is not None]))

    def on_step_end(self, args: Any, state: Any, control: Any, **others: Any) -> None:
        self.max_grad_norms.append(args.max_grad_norm)
        self.online.append({name: weight.detach().clone() for name, weight in self.loss.online.named_parameters()})


COMMON: dict[str, Any] = {"per_device_train_batch_size": 4, "learning_rate": 1e-2, "max_steps": 4, "use_cpu": True}
COMMON |= {"save_strategy": "no", "disable_tqdm": True, "report_to": "none", "logging_strategy": "no"}


def make_trainer(
    loss: ObjectiveLoss, texts: list[str], folder: Path, with_callback: bool = True, **settings: Any
) -> tuple[SentenceTransformerTrainer, Recorder]:
    rows = Dataset.from_dict({"query": [" ".join(text.split()[:2]) for text in texts[:32]], "positive": texts[:32]})
    recorder = Recorder(loss)
    arguments = SentenceTransformerTrainingArguments(str(folder), **COMMON | settings)
    callbacks = [loss.callback(), recorder] if with_callback else [recorder]
    return SentenceTransformerTrainer(loss.online, arguments, rows, rows, loss, callbacks=callbacks), recorder


def a_loss(tiny_bert: str, seed: int = 0, objective: Objective = FULL, **settings: Any) -> ObjectiveLoss:
    """Make a loss and a model that both depend on the seed, as those of a rank do."""
    torch.manual_seed(seed)
    model = SentenceTransformer(tiny_bert, device="cpu")
    with torch.no_grad():
        for weight in model.parameters():
            weight.add_(0.02 * torch.randn_like(weight))
    return ObjectiveLoss(model, objective, **{"predictor": PREDICTOR, "ema_decay": 0.9} | settings)


def everything(loss: ObjectiveLoss) -> dict[str, Tensor]:
    return dict(loss.online.state_dict()) | loss.owned_state()


@pytest.mark.parametrize("system", ["isotropic_gaussian", "jepa", "respred"])
def test_terms_and_gradients_are_those_of_the_own_loop(tiny_bert, texts, system):
    encoder = SYSTEMS[system](TextBase.load(tiny_bert, "cpu"), head=STILL, use_predictor=True, predictor=STILL)
    encoder.freeze_base(False)
    weights = {"lambda_residual": 0.3} if system == "respred" else {}
    objective = Objective(lambda_isotropy=0.5, isotropy="sigreg", lambda_reg=0.2, lambda_predictive=2.0, **weights)
    model = copy.deepcopy(encoder.to_sentence_transformer())
    loss = ObjectiveLoss(model, objective, encoder.predictor, 0.9 if system == "jepa" else None)
    with torch.no_grad():  # so that a target is no longer what the model is
        for weight in [*encoder.base.parameters(), *encoder.head.parameters(), *encoder.predictor.parameters()]:
            weight.add_(0.05 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(weight.numel())))
    loss.predictor = copy.deepcopy(encoder.predictor)
    model.load_state_dict(encoder.to_sentence_transformer().state_dict())
    columns = [dict(model.preprocess(texts[start : start + 6])) for start in (0, 6, 12)]
    loss.train()
    encoder.train()
    loss.step = 7
    mine = loss(columns)
    total = sum(mine.values())
    output = objective(encoder(PairBatch(*[dict(column) for column in columns])), 7)
    expected = {name: objective.weights[name] * term for name, term in output.terms.items()}
    torch.testing.assert_close([mine, total], [expected, output.total], rtol=1e-5, atol=1e-6)
    total.backward()
    output.total.backward()
    own = [*encoder.base.model[0].parameters(), *encoder.predictor.parameters()]
    ours = [weight.grad for weight in (*model[0].parameters(), *loss.predictor.parameters())]
    torch.testing.assert_close(ours, [weight.grad for weight in own], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize(("accumulation", "schedule"), [(1, "constant"), (2, "cosine")])
def test_the_target_follows_once_per_optimiser_step(tiny_bert, texts, tmp_path, accumulation, schedule):
    loss = a_loss(tiny_bert, ema_schedule=schedule)
    expected = {name: weight.detach().double() for name, weight in loss.online.named_parameters()}
    trainer, recorder = make_trainer(loss, texts, tmp_path, gradient_accumulation_steps=accumulation)
    trainer.train()
    for step, online in enumerate(recorder.online, start=1):
        decay = ema_decay(step, 4, 0.9, schedule)
        expected = {name: decay * value + (1 - decay) * online[name].double() for name, value in expected.items()}
    target = {name: weight.double() for name, weight in loss.target.named_parameters()}
    torch.testing.assert_close(target, expected, rtol=1e-5, atol=1e-6)
    assert recorder.steps == [1, 2, 3, 4]
    assert not any(module.training for module in loss.target.modules())


RUN: dict[str, Any] = {"max_steps": 6, "save_strategy": "steps", "save_steps": 4, "gradient_accumulation_steps": 2}


@pytest.fixture(scope="module")
def uninterrupted(tiny_bert, texts, tmp_path_factory) -> tuple[Path, dict[str, Tensor]]:
    """Folder of a run of 6 steps with a checkpoint after 4, and all weights at its end."""
    folder, loss = tmp_path_factory.mktemp("run"), a_loss(tiny_bert)
    make_trainer(loss, texts, folder, **RUN)[0].train()
    return folder, everything(loss)


def test_resume_equals_uninterrupted(tiny_bert, texts, tmp_path, uninterrupted):
    pytest.importorskip("torch", "2.6", reason="with an older one transformers reads no state of an optimiser")
    loss = a_loss(tiny_bert, seed=1)
    checkpoint = shutil.copytree(uninterrupted[0] / "checkpoint-4", tmp_path / "moved")  # from the default place
    trainer, recorder = make_trainer(loss, texts, tmp_path / "out", False, **RUN)
    trainer.add_callback(loss.callback(resume_from=checkpoint))
    trainer.train(resume_from_checkpoint=str(checkpoint))
    assert recorder.steps == [5, 6]
    assert_equal(everything(loss), uninterrupted[1])


def of_another_model(path: Path) -> None:
    save_file(load_file(path), path, {"step": "4", "model": "0"})


@pytest.mark.parametrize(
    ("damage", "settings", "message"),
    [
        (Path.unlink, {}, "is missing"),
        (cut, {}, "does not fit this loss"),
        (of_another_model, {}, "belongs to another step or model"),
        (Path.stat, {"predictor": HeadShape("mlp", DIM, DIM, expansion=1.0)}, "does not fit this loss"),
    ],
)
def test_resume_without_the_right_state_stops(tiny_bert, texts, tmp_path, uninterrupted, damage, settings, message):
    folder = shutil.copytree(uninterrupted[0] / "checkpoint-4", tmp_path / "checkpoint-4")
    damage(folder / STATE_NAME)
    (folder / "optimizer.pt").unlink()  # its shapes would be refused first
    trainer, _ = make_trainer(a_loss(tiny_bert, **settings), texts, tmp_path, save_only_model=True, **RUN)
    with pytest.raises(InputError, match=message):
        trainer.train(resume_from_checkpoint=str(folder))


def test_evaluation_is_without_dropout_and_needs_no_callback_unlike_training(tiny_bert, texts, tmp_path):
    trainer, _ = make_trainer(a_loss(tiny_bert), texts, tmp_path, eval_strategy="steps", eval_steps=4)
    before = trainer.evaluate()["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == before
    trainer.train()
    (during,) = [row["eval_loss"] for row in trainer.state.log_history if row["step"] == 4 and "eval_loss" in row]
    assert trainer.evaluate()["eval_loss"] == during != before
    without, _ = make_trainer(a_loss(tiny_bert), texts, tmp_path, with_callback=False)
    with pytest.raises(ValueError, match="no step has begun"):
        without.train()


def test_model_and_predictor_are_clipped_as_one(tiny_bert, texts, tmp_path):
    settings: dict[str, Any] = {"max_steps": 1, "gradient_accumulation_steps": 2, "seed": 5}
    seen = {}
    for limit in (0.0, 1e-3, 1e6):
        loss = a_loss(tiny_bert, objective=PAIRWISE, predictor=STILL)
        trainer, recorder = make_trainer(loss, texts, tmp_path, max_grad_norm=limit, **settings)
        trainer.train()
        seen[limit] = recorder.gradients[0]
        assert recorder.max_grad_norms == [limit]
    size = sum(weight.numel() for weight in loss.predictor.parameters())
    whole = seen[0.0]
    assert min(whole[-size:].norm(), whole[:-size].norm()) > 0.05 * whole.norm()  # neither part is negligible
    torch.testing.assert_close(seen[1e-3], whole * 1e-3 / whole.norm(), rtol=1e-3, atol=1e-9)
    torch.testing.assert_close(seen[1e6], whole)


def test_the_best_model_comes_back_with_what_belonged_to_it(tiny_bert, texts, tmp_path):
    loss = a_loss(tiny_bert)
    settings = {"eval_strategy": "steps", "eval_steps": 1, "save_strategy": "steps", "save_steps": 1, "max_steps": 3}
    settings |= {"load_best_model_at_end": True, "learning_rate": 30.0, "optim": "sgd", "max_grad_norm": 0}
    (trainer := make_trainer(loss, texts, tmp_path, **settings)[0]).train()
    best = Path(trainer.state.best_model_checkpoint)
    assert best.name != "checkpoint-3"
    assert_equal(loss.owned_state(), load_file(best / STATE_NAME))


def test_predictor_and_target_compute_in_the_type_of_the_run(tiny_bert, texts, tmp_path):
    loss = a_loss(tiny_bert)
    seen = set()
    for part in (loss.predictor.layers[0], loss.target.transformers_model.encoder.layer[0].output.dense):
        part.register_forward_hook(lambda module, inputs, output: seen.add((output.dtype, module.weight.dtype)))
    make_trainer(loss, texts, tmp_path, bf16=True, max_steps=2)[0].train()
    assert seen == {(torch.bfloat16, torch.float32)}
    assert all(bool(tensor.isfinite().all()) for tensor in everything(loss).values())


def test_frozen_weights_are_shared_and_not_saved(tiny_bert, texts, tmp_path):
    model = SentenceTransformer(tiny_bert, device="cpu")
    model[0].requires_grad_(False)
    model.transformers_model.encoder.layer[2].requires_grad_(True)
    loss = ObjectiveLoss(model, FULL, PREDICTOR, 0.5)
    assert {"layer.2." in name for name in loss.owned_state() if name.startswith("target.")} == {True}
    layer = "encoder.layer.0.attention.self.query.weight"
    own, copied = (dict(part.transformers_model.named_parameters())[layer] for part in (model, loss.target))
    assert own is copied
    make_trainer(loss, texts, tmp_path, max_steps=2)[0].train()
    model.requires_grad_(True)
    with pytest.raises(ValueError, match="was frozen when the loss was made"):
        make_trainer(loss, texts, tmp_path)[0].train()


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"predictor": None}, "lambda_predictive needs a predictor"),
        ({"objective": Objective()}, "a predictor needs lambda_predictive above 0"),
        ({"objective": Objective(lambda_predictive=1.0, lambda_residual=1.0)}, "needs a ResidualPredictor"),
        ({"predictor": HeadShape("mlp", DIM, 8)}, "must map 16 to 16, got 16 to 8"),
        ({"ema_decay": 1.5}, "ema_decay must be 0 to 1, got 1.5"),
        ({"ema_schedule": "slow"}, "ema_schedule must be one of"),
        ({"objective": Objective(), "predictor": None}, "ema_decay needs a predictor"),
    ],
)
def test_what_does_not_fit_is_refused(tiny_bert, settings, message):
    with pytest.raises(ValueError, match=message):
        a_loss(tiny_bert, **settings)


def test_wrong_columns_and_weights_in_half_precision_are_refused(tiny_bert, texts):
    loss = a_loss(tiny_bert).eval()
    column = dict(loss.model.preprocess(texts[:4]))
    with pytest.raises(ValueError, match=r"takes 2 or 3 columns .* got 1"):
        loss([column])
    with pytest.raises(ValueError, match="takes no labels"):
        loss([column, column], torch.ones(4))
    half = loss.model.bfloat16()
    with pytest.raises(ValueError, match=r"half-precision weights.*float32"):
        ObjectiveLoss(half, FULL, PREDICTOR, 0.9)
    views = ObjectiveLoss(half.requires_grad_(False), FULL, PREDICTOR, 0.9).eval().views([column, column])
    assert {views.query.dtype, views.positive.dtype, views.predicted.dtype} == {torch.float32}


def rank_run(tiny_bert: str, texts: list[str], folder: Path, seed: int, accumulation: int) -> dict[str, Tensor]:
    """Train on terms that see each pair alone, so that ranks and accumulated batches give the same sums."""
    loss = a_loss(tiny_bert, seed, PAIRWISE, predictor=STILL)
    settings = {"optim": "sgd", "learning_rate": 1.0, "max_grad_norm": 0.05, "max_steps": 3}
    make_trainer(loss, texts, folder, gradient_accumulation_steps=accumulation, **settings)[0].train()
    return contiguous(everything(loss))


@pytest.mark.slow
def test_two_ranks_stay_together_and_equal_one(tiny_bert, texts, tmp_path):
    (tmp_path / "texts.json").write_text(json.dumps(texts))
    run_script(__file__, tiny_bert, tmp_path)
    first, second = (load_file(tmp_path / f"rank{rank}.safetensors") for rank in (0, 1))
    assert_equal(first, second)
    alone = rank_run(tiny_bert, texts, tmp_path, seed=0, accumulation=4)
    start = everything(a_loss(tiny_bert, predictor=STILL))
    torch.testing.assert_close(first, alone, rtol=1e-4, atol=1e-6)
    assert any(not torch.allclose(first[name], start[name], atol=1e-4) for name in start if "predictor" in name)


def one_rank(rank: int, tiny_bert: str, folder: str) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank)}
    words = json.loads((Path(folder) / "texts.json").read_text())
    result = rank_run(tiny_bert, words, Path(folder), seed=rank, accumulation=2)
    assert torch.distributed.get_world_size() == 2
    save_file(result, Path(folder) / f"rank{rank}.safetensors")


if __name__ == "__main__":
    SentenceTransformer(sys.argv[1], device="cpu")  # imports, once for both ranks
    run_ranks(one_rank, *sys.argv[1:])
