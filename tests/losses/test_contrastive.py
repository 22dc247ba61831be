"""Contrastive losses against loops, and what masks, known positives and batches of one row do to them."""

from __future__ import annotations

import functools
import math
from itertools import product

import pytest
import torch
from torch.nn import functional as F  # noqa: N812

from ragcun.config import ObjectiveConfig
from ragcun.distance import DISTANCES
from ragcun.losses import contrastive
from ragcun.losses.contrastive import in_batch_margin_loss, margin_loss, similarity_logits

info_nce = functools.partial(contrastive.info_nce, soft=False)
BATCH, DIM = 6, 4


def embeddings(seed: int = 0, batch: int = BATCH) -> list[torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return list(torch.randn(3, batch, DIM, generator=generator, dtype=torch.float64))


MASK = torch.tensor([True, False, True, True, False, False])
RELEVANT = torch.eye(BATCH, dtype=torch.bool)
RELEVANT[0, 3] = RELEVANT[4, 1] = RELEVANT[4, 2] = RELEVANT[2, 5] = True
EVERYTHING = torch.ones(BATCH, BATCH, dtype=torch.bool)
MASKS = {"no mask": None, "mask": MASK, "none present": torch.zeros(BATCH, dtype=torch.bool)}
RELEVANTS = {
    "diagonal": None,
    "relevant": RELEVANT,
    "one row all relevant": RELEVANT.clone().index_fill(0, torch.tensor([1]), True),
}
CASES = [pytest.param(m, r, id=f"{m}, {r}") for m, r in product(MASKS, RELEVANTS)]


def is_known(relevant: torch.Tensor | None, i: int, j: int) -> bool:
    return i == j or (relevant is not None and bool(relevant[i, j]))


def margin_by_loop(query, positive, negative, mask, relevant, margin) -> float:
    q, p, losses = query.tolist(), positive.tolist(), []
    for i in range(len(q)):
        if negative is not None and (mask is None or mask[i]):
            distances = [math.dist(q[i], negative[i].tolist())]
        else:
            distances = [math.dist(q[i], p[j]) for j in range(len(q)) if not is_known(relevant, i, j)]
        if distances:
            losses.append(max(0.0, math.dist(q[i], p[i]) - min(distances) + margin))
    return sum(losses) / len(losses)


def similarity_by_loop(x: list[float], y: list[float], distance: str) -> float:
    dot = sum(a * b for a, b in zip(x, y, strict=True))
    return {
        "euclidean": -(math.dist(x, y) ** 2) / 2,
        "cosine": dot / math.hypot(*x) / math.hypot(*y),
        "dot": dot,
    }[distance]


def info_nce_by_loop(query, positive, negative, mask, relevant, temperature, distance, symmetric) -> float:
    q, p = query.tolist(), positive.tolist()
    n = [] if negative is None else [row for j, row in enumerate(negative.tolist()) if mask is None or mask[j]]

    def nll(own: float, others: list[float]) -> float:
        return math.log(sum(math.exp((s - own) / temperature) for s in [own, *others]))

    total = 0.0
    for i in range(len(q)):
        own = similarity_by_loop(q[i], p[i], distance)
        documents = [p[j] for j in range(len(q)) if not is_known(relevant, i, j)] + n
        forward = nll(own, [similarity_by_loop(q[i], d, distance) for d in documents])
        queries = [q[j] for j in range(len(q)) if not is_known(relevant, j, i)]
        backward = nll(own, [similarity_by_loop(x, p[i], distance) for x in queries])
        total += (forward + backward) / 2 if symmetric else forward
    return total / len(q)


@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(("mask", "relevant"), CASES)
def test_margin_matches_a_loop(mask, relevant, explicit):
    query, positive, negative = embeddings()
    arguments = (negative, MASKS[mask]) if explicit else (None, None)
    expected = margin_by_loop(query, positive, *arguments, RELEVANTS[relevant], 0.7)
    assert margin_loss(query, positive, *arguments, RELEVANTS[relevant], 0.7).item() == pytest.approx(expected)


@pytest.mark.parametrize("relevant", RELEVANTS)
def test_in_batch_margin_matches_a_loop(relevant):
    query, positive, _ = embeddings()
    expected = margin_by_loop(query, positive, None, None, RELEVANTS[relevant], 1.0)
    assert in_batch_margin_loss(query, positive, RELEVANTS[relevant]).item() == pytest.approx(expected)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize("explicit", [True, False])
@pytest.mark.parametrize(("mask", "relevant"), CASES)
def test_info_nce_matches_a_loop(mask, relevant, explicit, symmetric, distance):
    query, positive, negative = embeddings()
    arguments = (negative, MASKS[mask]) if explicit else (None, None)
    options = (RELEVANTS[relevant], 0.3, distance, symmetric)
    expected = info_nce_by_loop(query, positive, *arguments, *options)
    assert info_nce(query, positive, *arguments, *options).item() == pytest.approx(expected)


@pytest.mark.parametrize("distance", DISTANCES)
def test_logits_match_a_loop(distance):
    query, positive, _ = embeddings()
    expected = [[similarity_by_loop(x, y, distance) for y in positive.tolist()] for x in query.tolist()]
    torch.testing.assert_close(
        similarity_logits(query, positive, distance), torch.tensor(expected, dtype=torch.float64)
    )


@pytest.mark.parametrize("distance", DISTANCES)
def test_on_unit_vectors_every_distance_is_cross_entropy_on_cosines(distance):
    query, positive, negative = (F.normalize(rows, dim=1) for rows in embeddings())
    cosines = query @ torch.cat([positive, negative]).T
    expected = F.cross_entropy(cosines / ObjectiveConfig.temperature, torch.arange(BATCH))
    torch.testing.assert_close(info_nce(query, positive, negative, distance=distance), expected)


def test_gradients():
    query, positive, negative = (rows.requires_grad_() for rows in embeddings())
    rest = (MASK, RELEVANT)
    assert torch.autograd.gradcheck(lambda q, p, n: margin_loss(q, p, n, *rest), (query, positive, negative))
    assert torch.autograd.gradcheck(lambda q, p: in_batch_margin_loss(q, p, RELEVANT), (query, positive))
    for distance, symmetric in product(DISTANCES, (True, False)):
        assert torch.autograd.gradcheck(
            lambda q, p, n, d=distance, s=symmetric: info_nce(q, p, n, *rest, 0.5, d, s), (query, positive, negative)
        )


@pytest.mark.parametrize("loss", [margin_loss, info_nce])
def test_order_of_rows_does_not_matter(loss):
    query, positive, negative = embeddings()
    order = torch.randperm(BATCH, generator=torch.Generator().manual_seed(1))
    shuffled = loss(query[order], positive[order], negative[order], MASK[order], RELEVANT[order][:, order])
    torch.testing.assert_close(shuffled, loss(query, positive, negative, MASK, RELEVANT))


@pytest.mark.parametrize("loss", [margin_loss, info_nce])
def test_euclidean_losses_ignore_rotation_and_translation(loss):
    rows = embeddings()
    rotation = torch.linalg.qr(embeddings(seed=3)[0][:DIM])[0]
    moved = [row @ rotation + 2.0 for row in rows]
    torch.testing.assert_close(loss(*moved, MASK, RELEVANT), loss(*rows, MASK, RELEVANT))


@pytest.mark.parametrize("filler", [1e30, math.inf, math.nan])
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("loss", [margin_loss, info_nce])
def test_masked_rows_contribute_nothing(loss, distance, filler):
    options = {"distance": distance} if loss is info_nce else {}

    def run(negative: torch.Tensor) -> list[torch.Tensor]:
        views = [rows.float().requires_grad_() for rows in (*embeddings()[:2], negative)]
        value = loss(*views, MASK, RELEVANT, **options)
        value.backward()
        return [value.detach(), *(view.grad for view in views)]

    negative = embeddings()[2]
    plain = run(negative)
    filled = run(torch.where(MASK[:, None], negative, filler))
    for expected, got in zip(plain, filled, strict=True):
        assert got.isfinite().all()
        assert torch.equal(got, expected)
    assert plain[3][~MASK].eq(0).all()
    assert plain[3][MASK].abs().sum() > 0


@pytest.mark.parametrize("loss", [in_batch_margin_loss, info_nce])
def test_known_positives_of_a_query_are_not_pushed_away(loss):
    query = torch.zeros(BATCH, DIM, dtype=torch.float64)
    positive = embeddings()[1]
    positive[3] *= 0.1
    relevant = torch.eye(BATCH, dtype=torch.bool)
    for known, pushed in ((False, True), (True, False)):
        relevant[:, 3] = known
        documents = positive.clone().requires_grad_()
        queries = query.clone()
        queries[3] = documents.detach()[3]
        loss(queries, documents, relevant=relevant).backward()
        assert (documents.grad[3].norm() > 0.1) == pushed


def test_the_hardest_negative_is_the_closest():
    query = torch.tensor([[0.0], [100.0], [50.0]], dtype=torch.float64)
    positive = torch.tensor([[0.0], [100.5], [0.25]], dtype=torch.float64)
    hinges = [0 - 0.25 + 1, 0, 49.75 - 50 + 1]
    assert in_batch_margin_loss(query, positive, margin=1.0).item() == pytest.approx(sum(hinges) / 3, abs=1e-6)


@pytest.mark.parametrize("loss", [margin_loss, in_batch_margin_loss, info_nce])
def test_a_batch_of_one_row_has_nothing_to_contrast(loss):
    query, positive, _ = embeddings(batch=1)
    with pytest.raises(ValueError, match="in-batch negatives need at least 2 rows, got 1"):
        loss(query, positive)


@pytest.mark.parametrize("loss", [margin_loss, info_nce])
def test_a_batch_of_one_row_needs_its_negative(loss):
    rows = embeddings(batch=1)
    assert loss(*rows).isfinite()
    assert torch.equal(loss(*rows, torch.tensor([True])), loss(*rows))
    with pytest.raises(ValueError, match="in-batch negatives need at least 2 rows, got 1"):
        loss(*rows, torch.tensor([False]))


@pytest.mark.parametrize("loss", [margin_loss, in_batch_margin_loss, info_nce])
def test_a_batch_in_which_everything_is_relevant_gives_zero_with_a_gradient(loss):
    query, positive = (rows.requires_grad_() for rows in embeddings()[:2])
    value = loss(query, positive, relevant=EVERYTHING)
    value.backward()
    assert value.item() == 0
    assert query.grad.eq(0).all()
    assert positive.grad.eq(0).all()


@pytest.mark.parametrize("loss", [margin_loss, in_batch_margin_loss, info_nce])
def test_a_relevant_matrix_without_its_diagonal_means_the_same(loss):
    query, positive, _ = embeddings()
    without = RELEVANT & ~torch.eye(BATCH, dtype=torch.bool)
    assert torch.equal(loss(query, positive, relevant=without), loss(query, positive, relevant=RELEVANT))


@pytest.mark.parametrize("loss", [margin_loss, info_nce])
def test_gradient_is_finite_where_query_positive_and_negative_coincide(loss):
    views = [torch.ones(4, 3, requires_grad=True) for _ in range(3)]
    loss(*views).backward()
    assert all(view.grad.isfinite().all() for view in views)


@pytest.mark.parametrize("loss", [margin_loss, info_nce])
def test_wrong_calls_are_refused(loss):
    query, positive, negative = embeddings()
    with pytest.raises(ValueError, match=r"positive must have the shape of query, \(6, 4\), got \(5, 4\)"):
        loss(query, positive[:5])
    with pytest.raises(ValueError, match=r"negative must have the shape of query, \(6, 4\), got \(2, 4\)"):
        loss(query, positive, negative[:2])
    with pytest.raises(ValueError, match="negative_mask marks 6 rows, but negative is None"):
        loss(query, positive, None, MASK)


def test_unknown_distance_is_refused():
    query, positive, _ = embeddings()
    with pytest.raises(ValueError, match="euclidean, cosine, dot, got 'manhattan'"):
        info_nce(query, positive, distance="manhattan")


@pytest.mark.parametrize("loss", [margin_loss, info_nce])
def test_autocast_leaves_the_loss_unchanged(loss):
    rows = [row.float() for row in embeddings()]
    with torch.autocast("cpu", dtype=torch.bfloat16):
        inside = loss(*rows, MASK, RELEVANT)
    assert inside.dtype == torch.float32
    assert torch.equal(inside, loss(*rows, MASK, RELEVANT))
