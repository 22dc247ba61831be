"""One optimiser step: clipped mean gradients, the same chunk by chunk; and schedules, by closed forms and bounds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from ragcun import InputError, Objective, PairDataset, RetrievalEncoder, TrainConfig, Views
from ragcun.training.batches import NOTHING, PairSource, Pools
from ragcun.training.processes import make_accelerator
from ragcun.training.setup import build_encoder
from ragcun.training.step import Stepper, cached_views, chunk_count, ema_decay, warmup_cosine

ROWS = np.arange(13)
PREDICTIVE: dict[str, Any] = {"lambda_predictive": 0.5, "lambda_isotropy": 0.5}
CASES: dict[str, tuple[dict[str, Any], Objective]] = {
    "asymmetric": ({"system": "asymmetric"}, Objective(lambda_isotropy=1.0, lambda_reg=0.3, symmetric=True)),
    "sigreg": ({"system": "isotropic_gaussian"}, Objective(lambda_isotropy=1.0, isotropy="sigreg", soft_targets=True)),
    "gor": ({"system": "isotropic_gaussian"}, Objective(lambda_isotropy=1.0, isotropy="gor", contrastive="margin")),
    "respred": ({"system": "respred"}, Objective(lambda_residual=0.1, **PREDICTIVE)),
    "moving target": ({"system": "respred"}, Objective(stopgrad=False, **PREDICTIVE)),
    "unused prediction": ({"system": "respred"}, Objective()),
    "jepa": ({"system": "jepa", "head": "mlp"}, Objective(**PREDICTIVE)),
    "kl": ({"system": "asymmetric"}, Objective(contrastive="kl", lambda_isotropy=1.0)),
    "margin_mse": ({"system": "isotropic_gaussian"}, Objective(contrastive="margin_mse", temperature=1.0)),
    "lora": ({"freeze_base": None, "lora_rank": 2}, Objective(lambda_isotropy=1.0)),
    "frozen layers": ({"freeze_base": None, "freeze_early_layers": 2}, Objective(lambda_isotropy=1.0)),
}


@pytest.fixture(scope="module")
def dataset(texts: list[str]) -> PairDataset:
    """13 pairs: two of one query, some without a hard negative; and documents of no pair."""
    rows = [(texts[i], texts[100 + i], None if i % 3 == 0 else texts[200 + i]) for i in range(12)]
    return PairDataset.from_rows([*rows, (texts[4], texts[190], None)], "made", texts[150:160])


def make(tiny_bert: str, dataset: PairDataset, **changes: Any) -> tuple[RetrievalEncoder, PairSource]:
    """Return an encoder whose base is trained, and its pairs, with a pool of mined negatives."""
    settings = {"train_data": "x", "base_model": tiny_bert, "device": "cpu", "freeze_base": False, "dropout": 0.0}
    torch.manual_seed(0)
    encoder = build_encoder(TrainConfig(**settings | changes)).train()
    source = PairSource(dataset, encoder.base, torch.device("cpu"))
    mined = np.random.default_rng(0).integers(len(dataset.documents) - 10, len(dataset.documents), (12, 3))
    mined[0] = NOTHING
    source.pools = Pools(mined, 2, 0)
    scores = torch.randn(12, len(dataset.documents) + 1)
    scores[:, -1] = scores[:, 5] = torch.nan
    source.teacher = lambda queries, documents: scores[queries][:, documents]
    return encoder.double(), source


def gradients(encoder: nn.Module) -> dict[str, Tensor | None]:
    """Return copies of all gradients, and forget them."""
    found = {name: None if p.grad is None else p.grad.clone() for name, p in encoder.named_parameters()}
    encoder.zero_grad()
    return found


def assert_close(ours: dict[str, Tensor | None], theirs: dict[str, Tensor | None], tolerance: float) -> None:
    """Compare each weight's gradient with the size of the largest there is of it, and which weights have none."""
    assert {n for n, g in ours.items() if g is None} == {n for n, g in theirs.items() if g is None}
    assert any(gradient is not None and gradient.abs().max() > 1e-4 for gradient in theirs.values())
    largest = max(float(gradient.abs().max()) for gradient in theirs.values() if gradient is not None)
    for name, gradient in theirs.items():
        if gradient is not None:
            torch.testing.assert_close(ours[name], gradient, rtol=tolerance, atol=tolerance * largest, msg=name)


@pytest.mark.parametrize("name", CASES)
def test_gradients_are_those_of_the_plain_step(tiny_bert, dataset, name):
    """In float64, to 1e-10 of the largest; the chunks' sums are added in another order."""
    changes, objective = CASES[name]
    encoder, source = make(tiny_bert, dataset, **changes)
    plain = objective(encoder(source.batch(ROWS)), 5)
    plain.total.backward()
    expected = gradients(encoder)
    for chunks in (5, 13):
        parts = source.parts(ROWS, range(chunks), chunks)
        output = objective(cached_views(encoder, parts), 5)
        output.total.backward()
        torch.testing.assert_close(output.total, plain.total, rtol=1e-10, atol=0)
        assert output.terms.keys() == plain.terms.keys()
        assert_close(gradients(encoder), expected, 1e-10)


def test_both_passes_draw_the_same_random_numbers(tiny_bert, dataset):
    """With dropout the gradient is that of chunks which keep their graphs, and the generator ends where theirs does."""
    encoder, source = make(tiny_bert, dataset, dropout=0.4, head="residual", system="respred")
    parts, objective = source.parts(ROWS, range(4), 4), Objective(**PREDICTIVE)
    torch.manual_seed(3)
    objective(joined([encoder(part) for part in parts])).total.backward()
    expected, after = gradients(encoder), torch.get_rng_state()
    torch.manual_seed(3)
    objective(cached_views(encoder, parts)).total.backward()
    assert torch.equal(torch.get_rng_state(), after)
    assert_close(gradients(encoder), expected, 1e-10)
    torch.manual_seed(4)
    objective(cached_views(encoder, parts)).total.backward()
    with pytest.raises(AssertionError):
        assert_close(gradients(encoder), expected, 1e-3)


def joined(shown: Sequence[Views]) -> Views:
    """Return chunks of views as one, each with its graph."""
    names = [name for name in vars(shown[0]) if any(getattr(views, name) is not None for views in shown)]
    parts = {name: [value for views in shown if (value := getattr(views, name)) is not None] for name in names}
    return Views(**{name: torch.cat(values) for name, values in parts.items()})


def test_a_chunk_has_a_graph_and_the_batch_has_none(tiny_bert, dataset):
    encoder, source = make(tiny_bert, dataset)
    seen: list[int] = []
    encoder.register_forward_pre_hook(lambda _, given: seen.append(len(given[0].query["input_ids"])))
    saved: list[Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: saved.append(tensor) or tensor, lambda tensor: tensor):
        views = cached_views(encoder, source.parts(ROWS, range(4), 4))
    assert sum(tensor.numel() for tensor in saved) <= 4 * views.query.numel()
    Objective()(views).total.backward()
    assert sorted(seen) == sorted((4, 3, 3, 3) * 2)


@pytest.mark.parametrize(
    ("size", "chunks", "most"), [(0, 1, 0.0), (0, 1, 1e-3), (13, 1, 1e9), (12, 2, 0.0), (4, 4, 1e-3), (1, 13, 1e-3)]
)
def test_a_step_is_the_mean_gradient_of_its_batches_clipped(tiny_bert, dataset, size, chunks, most):
    """The same loss, gradient norm and, by gradient descent, weights, with and without caching."""
    encoder, source = make(tiny_bert, dataset)
    objective, accelerator = Objective(lambda_isotropy=1.0), make_accelerator("cpu")
    for rows in (ROWS[::-1], ROWS):
        last = objective(encoder(source.batch(rows)), 2).total
        (last / 2).backward()
    before = {name: value.detach().clone() for name, value in encoder.named_parameters()}
    gradient = {name: value for name, value in gradients(encoder).items() if value is not None}
    norm = torch.cat([value.flatten() for value in gradient.values()]).norm()
    model, optimizer = accelerator.prepare(encoder, torch.optim.SGD(encoder.parameters(), 0.1))
    step = Stepper(accelerator, model, optimizer, objective, source, most, size)([ROWS[::-1], ROWS], 2)
    assert chunk_count(len(ROWS), 1, size) == chunks
    torch.testing.assert_close([step.outputs[-1].total, step.norm], [last.detach(), norm], rtol=1e-9, atol=1e-12)
    rate = 0.1 * min(1.0, most / float(norm) if most else 1.0)
    for name, value in encoder.named_parameters():
        expected = before[name] - rate * gradient.get(name, torch.zeros(1))
        torch.testing.assert_close(value.detach(), expected, rtol=1e-6, atol=1e-9, msg=name)


def test_batch_normalisation_is_refused(tiny_bert, dataset):
    accelerator = make_accelerator("cpu")
    model, (_, source) = nn.ModuleDict({"inner": nn.BatchNorm1d(3)}), make(tiny_bert, dataset)
    optimizer = torch.optim.SGD(model.parameters())
    with pytest.raises(InputError, match="--grad_cache_size: inner normalises over the batch"):
        Stepper(accelerator, model, optimizer, Objective(), source, 1.0, 4)
    Stepper(accelerator, model, optimizer, Objective(), source, 1.0, 0)
    model.eval()
    Stepper(accelerator, model, optimizer, Objective(), source, 1.0, 4)


# Schedules


@given(total=st.integers(1, 500), warmup=st.integers(0, 600))
def test_the_factor_rises_and_falls(total, warmup):
    factors = [warmup_cosine(step, total, warmup) for step in range(total)]
    assert all(0 < factor <= 1 for factor in factors)
    rising, falling = factors[:warmup], factors[warmup:]
    assert rising == sorted(rising)
    assert falling == sorted(falling, reverse=True)
    assert not 0 < warmup <= total or rising[-1] == 1
    assert not falling or falling[0] == 1


@pytest.mark.parametrize(("schedule", "middle"), [("constant", 0.9), ("cosine", 0.95), ("linear", 0.95)])
def test_ema_decay_at_the_middle_and_the_end(schedule, middle):
    assert ema_decay(50, 100, 0.9, schedule) == pytest.approx(middle, abs=1e-12)
    assert ema_decay(100, 100, 0.9, schedule) == pytest.approx(0.9 if schedule == "constant" else 1.0, abs=1e-12)
