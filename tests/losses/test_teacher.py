"""Losses that learn a teacher's scores: float64 references, exact matches, temperatures, missing scores."""

import math
from typing import Any

import pytest
import torch
from torch import Tensor

from ragcun import Objective, Views
from ragcun.config import DISTANCES, TAUGHT
from ragcun.losses.contrastive import kl_divergence, margin_mse, similarity_logits

BATCH, POOL, DIM = 5, 4, 3
LOSSES = pytest.mark.parametrize("name", TAUGHT)


def views(seed: int = 0, missing: float = 0.3) -> Views:
    """Rows, and a teacher's scores of which a share is missing."""
    generator = torch.Generator().manual_seed(seed)
    sizes = {"query": BATCH, "positive": BATCH, "negative": BATCH, "pool": POOL}
    rows = {each: torch.randn(n, DIM, generator=generator, dtype=torch.float64) for each, n in sizes.items()}
    teacher = torch.randn(BATCH, 2 * BATCH + POOL, generator=generator, dtype=torch.float64)
    gone = torch.rand(teacher.shape, generator=generator) < missing
    return Views(**rows, teacher=teacher.masked_fill(gone, torch.nan))


def student(shown: Views, distance: Any = "euclidean") -> Tensor:
    return similarity_logits(shown.query, torch.cat([shown.positive, shown.negative, shown.pool]), distance)


def by_loop(name: str, ours: list[list[float]], theirs: list[list[float]]) -> float:
    """Compute a loss of logits in Python's floats, query by query."""
    found = []
    for i, (s, t) in enumerate(zip(ours, theirs, strict=True)):
        scored = [c for c, score in enumerate(t) if not math.isnan(score)]
        if name == "margin_mse" and i in scored:
            found += [((s[i] - s[c]) - (t[i] - t[c])) ** 2 for c in scored if c != i]
        if name == "kl" and len(scored) > 1:
            logs = [[x[c] - math.log(sum(math.exp(x[each]) for each in scored)) for c in scored] for x in (s, t)]
            found.append(sum(math.exp(p) * (p - q) for q, p in zip(*logs, strict=True)))
    return sum(found) / max(1, len(found))


@LOSSES
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("missing", [0.0, 0.3, 0.8])
def test_losses_match_a_loop(name: str, distance: Any, missing: float) -> None:
    objective = Objective(contrastive=name, distance=distance, temperature=0.5, teacher_temperature=2.0)
    for seed in range(20):
        shown = views(seed, missing)
        expected = by_loop(name, (student(shown, distance) / 0.5).tolist(), (shown.teacher / 2.0).tolist())
        assert objective(shown).total.item() == pytest.approx(expected, rel=1e-10)


@LOSSES
@pytest.mark.parametrize("distance", DISTANCES)
def test_a_student_that_scores_as_its_teacher_is_at_the_minimum(name: str, distance: Any) -> None:
    """Up to a constant of each query, and to the ratio of the temperatures; any other student has a higher loss."""
    shown = views(missing=0.0)
    shown.query.requires_grad_(True)
    shown.positive.requires_grad_(True)
    objective = Objective(contrastive=name, distance=distance, temperature=0.2, teacher_temperature=0.6)
    taught = 3 * student(shown, distance).detach() + torch.arange(BATCH)[:, None]
    object.__setattr__(shown, "teacher", taught)
    total = objective(shown).total
    total.backward()
    assert abs(total.item()) < 1e-12
    for rows in (shown.query, shown.positive):
        assert rows.grad.abs().max() < 1e-10
    object.__setattr__(shown, "teacher", taught + torch.randn(taught.shape, dtype=torch.float64))
    assert objective(shown).total.item() > 1e-3


def test_kl_is_that_of_torch_a_cold_teacher_is_a_label_and_a_hot_one_knows_nothing() -> None:
    shown = views(missing=0.0)
    logits, best = student(shown), shown.teacher.argmax(1)
    cold, hot = (Objective(contrastive="kl", temperature=1.0, teacher_temperature=t) for t in (1e-4, 1e9))
    torch.testing.assert_close(cold(shown).total, torch.nn.functional.cross_entropy(logits, best))
    uniform = torch.zeros_like(logits)
    torch.testing.assert_close(hot(shown).total, kl_divergence(logits, uniform))
    ours, theirs = views(1, 0.0).teacher, views(2, 0.0).teacher
    distributions = [torch.distributions.Categorical(logits=each) for each in (theirs, ours)]
    torch.testing.assert_close(kl_divergence(ours, theirs), torch.distributions.kl_divergence(*distributions).mean())


@LOSSES
def test_what_has_no_score_has_no_part_in_value_and_gradient(name: str) -> None:
    """A query without a score, or with one alone, gives nothing, and the values beneath missing scores do not count."""
    loss = {"kl": kl_divergence, "margin_mse": margin_mse}[name]
    theirs, ours = torch.full((BATCH, 9), torch.nan), torch.randn(BATCH, 9)
    theirs[0, 0] = theirs[1, 1] = theirs[1, 7] = 1.0
    ours.requires_grad_(True)
    loss(ours, theirs).backward()
    counted = torch.zeros(BATCH, 9, dtype=torch.bool)
    counted[1, 1] = counted[1, 7] = True
    assert torch.equal(ours.grad != 0, counted)
    assert loss(ours, torch.full_like(theirs, torch.nan)).item() == 0


@LOSSES
@pytest.mark.parametrize("teacher", [None, torch.zeros(BATCH, BATCH)])
def test_scores_of_other_candidates_are_refused(name: str, teacher: Tensor | None) -> None:
    shown = views()
    object.__setattr__(shown, "teacher", teacher)
    with pytest.raises(ValueError, match=f"{name} needs a teacher"):
        Objective(contrastive=name)(shown)
