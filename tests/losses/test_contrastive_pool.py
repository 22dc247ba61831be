"""InfoNCE with a pool and with soft targets against a double loop, and what known positives in the pool do."""

from __future__ import annotations

import math
from itertools import product

import pytest
import torch

from ragcun.config import ObjectiveConfig
from ragcun.distance import DISTANCES
from ragcun.losses.contrastive import info_nce

BATCH, POOL, DIM, TEMPERATURE = 5, 4, 3, 0.4
Matrix = list[list[float]]


def random_rows(seed: int) -> list[torch.Tensor]:
    """Queries, positives, negatives and a pool."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (BATCH, BATCH, BATCH, POOL)
    return [torch.randn(size, DIM, generator=generator, dtype=torch.float64) for size in sizes]


MASKS = {"all": None, "some": torch.tensor([True, False, True, False, True]), "none": torch.zeros(BATCH) > 0}
RELEVANT = torch.eye(BATCH) > 0
RELEVANT[0, 2] = RELEVANT[0, 3] = RELEVANT[4, 1] = True
POOL_RELEVANT = torch.zeros(BATCH, POOL) > 0
POOL_RELEVANT[0, 1] = POOL_RELEVANT[3, 0] = POOL_RELEVANT[3, 3] = True
SEVERAL = {"relevant": RELEVANT, "pool_relevant": POOL_RELEVANT}


def similarity(x: list[float], y: list[float], distance: str) -> float:
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    if distance == "euclidean":
        return -sum((a - b) ** 2 for a, b in zip(x, y, strict=True)) / 2
    return dot if distance == "dot" else dot / (math.hypot(*x) * math.hypot(*y))


def nll(scores: list[float], target: int) -> float:
    """−log of the softmax probability of one candidate."""
    return math.log(sum(math.exp(score) for score in scores)) - scores[target]


def one_row(scores: list[float], known: list[bool], own: int, soft: bool) -> float:
    if soft:
        targets = [place for place, is_known in enumerate(known) if is_known]
        return sum(nll(scores, place) for place in targets) / len(targets)
    left = [place for place, is_known in enumerate(known) if place == own or not is_known]
    return nll([scores[place] for place in left], left.index(own))


def by_loop(query, positive, negative, mask, relevant, distance, symmetric, pool, pool_relevant, soft) -> float:
    q, p = query.tolist(), positive.tolist()

    def answers(i: int, j: int) -> bool:
        return i == j or (relevant is not None and bool(relevant[i, j]))

    total = 0.0
    for i in range(len(q)):
        candidates = [(p[j], answers(i, j)) for j in range(len(p))]
        if negative is not None:
            candidates += [(row, False) for j, row in enumerate(negative.tolist()) if mask is None or mask[j]]
        if pool is not None:
            marked = [False] * len(pool) if pool_relevant is None else pool_relevant[i].tolist()
            candidates += list(zip(pool.tolist(), marked, strict=True))
        scores = [similarity(q[i], row, distance) / TEMPERATURE for row, _ in candidates]
        loss = one_row(scores, [known for _, known in candidates], i, soft)
        if symmetric:
            back = [similarity(q[j], p[i], distance) / TEMPERATURE for j in range(len(q))]
            loss = (loss + one_row(back, [answers(j, i) for j in range(len(q))], i, soft)) / 2
        total += loss
    return total / len(q)


NEGATIVES = [None, *MASKS]
POOLS = [None, "unmarked", "marked"]


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_matches_a_double_loop(distance: str, soft: bool, symmetric: bool) -> None:
    for seed, (masked, relevant, pooled) in enumerate(product(NEGATIVES, (None, RELEVANT), POOLS)):
        query, positive, negative, pool = random_rows(seed)
        given = (None, None) if masked is None else (negative, MASKS[masked])
        rest = (None if pooled is None else pool, POOL_RELEVANT if pooled == "marked" else None, soft)
        expected = by_loop(query, positive, *given, relevant, distance, symmetric, *rest)
        found = info_nce(query, positive, *given, relevant, TEMPERATURE, distance, symmetric, *rest)
        assert found.item() == pytest.approx(expected, rel=1e-10), (masked, relevant is None, pooled)


def test_soft_targets_are_the_mean_of_hard_losses_in_which_other_positives_compete() -> None:
    query, positive, negative, pool = random_rows(1)
    documents = torch.cat([positive, pool])
    known = torch.cat([RELEVANT, POOL_RELEVANT], 1)
    losses = []
    for i in range(BATCH):
        hard = []
        for answer in known[i].nonzero().flatten():
            others = torch.cat([documents[:answer], documents[answer + 1 :], negative])
            hard.append(info_nce(query[i : i + 1], documents[answer][None], pool=others))
        losses.append(torch.stack(hard).mean())
    found = info_nce(query, positive, negative, pool=pool, soft=True, **SEVERAL)
    torch.testing.assert_close(found, torch.stack(losses).mean())


def test_soft_and_hard_agree_where_each_query_has_one_positive() -> None:
    query, positive, negative, pool = random_rows(2)
    hard = info_nce(query, positive, negative, pool=pool)
    torch.testing.assert_close(info_nce(query, positive, negative, pool=pool, soft=True), hard)
    assert not torch.isclose(info_nce(query, positive, negative, pool=pool, soft=True, **SEVERAL), hard)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("soft", [True, False])
def test_gradients(distance: str, soft: bool) -> None:
    rows = [part.requires_grad_() for part in random_rows(3)]
    for symmetric in (True, False):
        assert torch.autograd.gradcheck(
            lambda q, p, n, d, s=symmetric: info_nce(
                *(q, p, n, MASKS["some"], RELEVANT, TEMPERATURE, distance, s, d, POOL_RELEVANT, soft)
            ),
            rows,
        )


@pytest.mark.parametrize("soft", [True, False])
def test_order_of_the_pool_does_not_matter(soft: bool) -> None:
    query, positive, _, pool = random_rows(4)
    order = torch.tensor([2, 0, 3, 1])
    shuffled = info_nce(query, positive, pool=pool[order], pool_relevant=POOL_RELEVANT[:, order], soft=soft)
    torch.testing.assert_close(
        shuffled, info_nce(query, positive, pool=pool, pool_relevant=POOL_RELEVANT, soft=soft), rtol=1e-12, atol=0
    )


def test_a_known_positive_of_the_pool_is_no_candidate_of_its_query_alone() -> None:
    """Hard targets: the marked row gets no gradient from its query, and one from the others."""
    query, positive, _, pool = random_rows(5)
    query.requires_grad_()
    marked = torch.zeros(BATCH, 1) > 0
    marked[2] = True
    with_row = info_nce(query, positive, pool=pool[:1], pool_relevant=marked, temperature=2.0, soft=False)
    without = info_nce(query, positive, temperature=2.0)
    (gradient,) = torch.autograd.grad(with_row - without, query)
    assert gradient[2].abs().max() < 1e-12
    assert (gradient[[0, 1, 3, 4]].norm(dim=1) > 1e-3).all()


def test_a_known_positive_of_the_pool_is_a_target_of_its_query_if_soft() -> None:
    """Further away than the own positive: a step brings the row nearer to the query where marked, else further off."""
    query, positive = (rows[:1] for rows in random_rows(6)[:2])
    row = query - 1.5 * (positive - query)
    for is_known, sign in ((True, 1), (False, -1)):
        moved = row.clone().requires_grad_()
        loss = info_nce(query, positive, pool=moved, pool_relevant=torch.tensor([[is_known]]), soft=True, temperature=9)
        (gradient,) = torch.autograd.grad(loss, moved)
        assert sign * ((query - row) * -gradient).sum() > 0


def test_all_of_the_pool_known_equals_no_pool() -> None:
    query, positive, negative, pool = random_rows(7)
    everything = torch.ones(BATCH, POOL) > 0
    found = info_nce(query, positive, negative, pool=pool, pool_relevant=everything, soft=False)
    torch.testing.assert_close(found, info_nce(query, positive, negative))


def test_a_pool_makes_a_batch_of_one_row_possible() -> None:
    query, positive, _, pool = (rows[:1] for rows in random_rows(8))
    expected = nll(
        [
            similarity(query[0].tolist(), row[0].tolist(), "dot") / ObjectiveConfig.temperature
            for row in (positive, pool)
        ],
        0,
    )
    assert info_nce(query, positive, pool=pool, distance="dot").item() == pytest.approx(expected)
    for empty in (None, pool[:0]):
        with pytest.raises(ValueError, match="at least 2 rows, got 1"):
            info_nce(query, positive, pool=empty)


def test_a_pool_of_another_length_is_refused() -> None:
    query, positive, _, pool = random_rows(9)
    with pytest.raises(ValueError, match=r"pool must have 3 columns, got shape \(4, 2\)"):
        info_nce(query, positive, pool=pool[:, :2])
