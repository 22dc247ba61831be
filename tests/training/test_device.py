"""Precision, copies to the device, and what stays exact under them; a GPU's own part runs where there is one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from ragcun.config import TrainConfig
from ragcun.data.pairs import PairDataset
from ragcun.embeddings.base import Base
from ragcun.embeddings.text_base import TextBase
from ragcun.errors import InputError
from ragcun.losses.objective import Objective
from ragcun.models.encoder import RetrievalEncoder
from ragcun.models.systems import IsotropicGaussianEncoder
from ragcun.training.batches import PairSource
from ragcun.training.loop import fit
from ragcun.training.processes import choose_precision, make_accelerator, to_device
from ragcun.training.step import NOT_FINITE, OVERFLOW, Step, Stepper

CPU = torch.device("cpu")
ROWS = np.arange(8)


def test_precision_follows_the_hardware(caplog):
    """A T4 is a GPU without native bfloat16."""
    hardware = (False, False), (True, True), (True, False)
    assert [choose_precision("auto", *gpu) for gpu in hardware] == ["no", "bf16", "fp16"]
    assert [choose_precision(asked, True, True) for asked in ("no", "bf16", "fp16")] == ["no", "bf16", "fp16"]
    assert choose_precision("bf16", False, False) == "bf16"
    with pytest.raises(InputError, match="needs a GPU"):
        choose_precision("fp16", False, False)
    assert not caplog.records
    assert choose_precision("bf16", True, False) == "bf16"
    assert "only emulates" in caplog.text


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_copies_arrive_whole():
    numbers = torch.arange(2**22, dtype=torch.float32)
    sent = [to_device(numbers + i, torch.device("cuda")) for i in range(8)]
    for i, each in enumerate(sent):
        assert torch.equal(each.cpu(), numbers + i)


def problem(tiny_bert: str, texts: list[str], checkpointing: bool = False) -> tuple[RetrievalEncoder, PairSource]:
    """Return an encoder with a trained base, and pairs."""
    torch.manual_seed(0)
    base: Base = TextBase.load(tiny_bert, device="cpu")
    base.freeze(False)
    encoder = IsotropicGaussianEncoder(base, head="residual", use_predictor=True)
    if checkpointing:
        base.checkpoint_activations()
    data = PairDataset.from_rows([(texts[i], texts[50 + i], None) for i in range(8)], "made")
    return encoder.train(), PairSource(data, base, CPU)


def test_gradient_checkpointing_gives_the_same_gradients(tiny_bert, texts):
    found: list[dict[str, Tensor]] = []
    kept = [0, 0]

    def note(tensor: Tensor) -> Tensor:
        kept[len(found)] += tensor.numel()
        return tensor

    for checkpointing in (False, True):
        encoder, source = problem(tiny_bert, texts, checkpointing)
        with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
            output = Objective(lambda_isotropy=1.0)(encoder(source.batch(ROWS)))
        output.total.backward()
        found.append({name: each.grad.clone() for name, each in encoder.named_parameters() if each.grad is not None})
    assert any("layer.0" in name for name in found[0])
    torch.testing.assert_close(*found, atol=1e-7, rtol=1e-5)
    assert kept[1] < 0.7 * kept[0]


# fp16: a scaler on the CPU, where gradients stay float32 and overflow at scales above 1e38


def scaled(tiny_bert: str, texts: list[str], scale: float) -> tuple[RetrievalEncoder, Stepper]:
    """Return an encoder and what takes its steps with a loss scale."""
    encoder, source = problem(tiny_bert, texts)
    accelerator = make_accelerator("cpu")
    if scale:
        accelerator.scaler = torch.amp.GradScaler("cpu", init_scale=scale)
    groups = encoder.parameter_groups({"base": 1e-3, "head": 1e-3, "predictor": 1e-3})
    model, optimizer = accelerator.prepare(encoder, torch.optim.AdamW(groups, fused=True))
    objective = Objective(lambda_isotropy=1.0, lambda_predictive=1.0)
    return encoder, Stepper(accelerator, model, optimizer, objective, source, 1.0)


def weights(encoder: torch.nn.Module) -> list[Tensor]:
    return [value.detach().clone() for value in encoder.parameters()]


def unchanged(encoder: torch.nn.Module, before: list[Tensor]) -> bool:
    pairs = zip(before, weights(encoder), strict=True)
    return all(torch.equal(one.nan_to_num(7.0), other.nan_to_num(7.0)) for one, other in pairs)


def test_an_overflow_of_the_scale_leaves_the_step_out_and_halves_the_scale(tiny_bert, texts):
    """A fused optimiser, whose own skipping accelerate does not see."""
    encoder, stepper = scaled(tiny_bert, texts, 2.0**127)
    before, skipped = weights(encoder), 0
    while (step := stepper([ROWS], skipped + 1)).left_out is not None:
        skipped += 1
        assert step.left_out == OVERFLOW
        assert unchanged(encoder, before)
        assert all(bool(output.total.isfinite()) for output in step.outputs)
    assert 0 < skipped < 20
    assert stepper.accelerator.scaler.get_scale() == 2.0 ** (127 - skipped)
    assert not unchanged(encoder, before)


def test_a_scale_changes_no_step(tiny_bert, texts):
    """A power of two cancels exactly, but for what is rounded to zero."""
    after = []
    for scale in (0.0, 2.0**16):
        encoder, stepper = scaled(tiny_bert, texts, scale)
        steps = [stepper([ROWS], number) for number in range(1, 4)]
        assert [step.left_out for step in steps] == [None] * 3
        after.append([*weights(encoder), *(step.norm for step in steps)])
    torch.testing.assert_close(*after, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("loss_is_finite", [True, False])
@pytest.mark.parametrize("scale", [0.0, 1.0, 2.0**16])
def test_what_is_not_finite_at_any_scale_is_no_overflow(tiny_bert, texts, scale, loss_is_finite):
    """A loss of NaN; or gradients near 1e30, which are finite, though the squares in their norm are not."""
    encoder, stepper = scaled(tiny_bert, texts, scale)
    if loss_is_finite:
        stepper.objective = Objective(replace(stepper.objective.config, lambda_predictive=1e30))
    else:
        torch.nn.init.constant_(next(encoder.head.parameters()), torch.nan)
    before = weights(encoder)
    step: Step = stepper([ROWS], 1)
    assert step.left_out == NOT_FINITE
    assert bool(step.outputs[0].total.isfinite()) == loss_is_finite
    assert unchanged(encoder, before)


def test_a_gradient_that_is_infinite_at_every_scale_is_an_overflow_down_to_scale_1(tiny_bert, texts):
    encoder, stepper = scaled(tiny_bert, texts, 2.0**3)
    next(encoder.head.parameters()).register_hook(lambda gradient: gradient + torch.inf)
    assert [stepper([ROWS], number).left_out for number in range(1, 5)] == [OVERFLOW] * 3 + [NOT_FINITE]


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("precision", ["fp16", "bf16"])
def test_half_precision_on_a_gpu(tiny_bert, collection_folder, tmp_path, precision):
    common = {"train_data": str(collection_folder), "base_model": tiny_bert, "epochs": 3, "batch_size": 8}
    common |= {"mixed_precision": precision, "freeze_base": False, "lambda_isotropy": 1.0}
    result = fit(TrainConfig(**common, output_dir=str(tmp_path / "run")))
    assert result.skipped == 0
    assert result.steps > result.overflows
