"""Contrastive losses against NumPy, and what masks, known positives, pools and batches of one row do to them."""

import functools
import math
from itertools import product

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import log_softmax

from ragcun.config import DISTANCES
from ragcun.losses import contrastive
from ragcun.losses.contrastive import euclidean_pairwise, margin_loss, squared_euclidean

info_nce = functools.partial(contrastive.info_nce, soft=False)
soft_nce = functools.partial(contrastive.info_nce, soft=True)
BOTH = pytest.mark.parametrize("loss", [margin_loss, info_nce])
ALL = pytest.mark.parametrize("loss", [margin_loss, info_nce, soft_nce])
BATCH, POOL, DIM, TEMPERATURE = 5, 4, 3, 0.4


def embeddings(seed: int = 0) -> list[torch.Tensor]:
    """Queries, positives, negatives and a pool."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (BATCH, BATCH, BATCH, POOL)
    return [torch.randn(size, DIM, generator=generator, dtype=torch.float64) for size in sizes]


MASK = torch.tensor([True, False, True, False, False])
MASKS = {"all": None, "some": MASK, "none": torch.zeros(BATCH) > 0}
RELEVANT = torch.eye(BATCH) > 0
RELEVANT[0, 2] = RELEVANT[0, 3] = RELEVANT[4, 1] = True
RELEVANTS = {
    "diagonal": None,
    "some": RELEVANT,
    "without its diagonal": RELEVANT & ~torch.eye(BATCH, dtype=torch.bool),
    "a whole row": RELEVANT.index_fill(0, torch.tensor([1]), True),
}
POOL_RELEVANT = torch.zeros(BATCH, POOL) > 0
POOL_RELEVANT[0, 1] = POOL_RELEVANT[3, 0] = POOL_RELEVANT[3, 3] = True


def answers(relevant: torch.Tensor | None) -> np.ndarray:
    return np.eye(BATCH, dtype=bool) | (False if relevant is None else relevant.numpy())


def margin_by_numpy(query, positive, negative, mask, relevant, margin) -> float:
    distances = cdist(query, positive)
    nearest = np.where(answers(relevant), np.inf, distances).min(axis=1)
    if negative is not None:
        nearest = np.where(True if mask is None else mask, cdist(query, negative).diagonal(), nearest)
    return np.maximum(0, distances.diagonal() - nearest + margin)[np.isfinite(nearest)].mean()


def similarity(x: np.ndarray, y: np.ndarray, distance: str) -> np.ndarray:
    return {"euclidean": -cdist(x, y, "sqeuclidean") / 2, "cosine": 1 - cdist(x, y, "cosine"), "dot": x @ y.T}[distance]


def one_way(similarities: np.ndarray, known: np.ndarray, soft: bool) -> np.ndarray:
    """−log of the softmax probability of each row's own candidate among those not known, or the mean of all known."""
    scores, own = similarities / TEMPERATURE, np.eye(*known.shape, dtype=bool)
    if soft:
        return -log_softmax(scores, axis=1).mean(axis=1, where=known)
    return -log_softmax(np.where(known & ~own, -np.inf, scores), axis=1)[own]


def info_nce_by_numpy(query, positive, negative, mask, relevant, distance, symmetric, pool, marked, soft) -> float:
    q, p, known = query.numpy(), positive.numpy(), answers(relevant)
    shown = [(p, known)]
    if negative is not None:
        rows = negative.numpy() if mask is None else negative.numpy()[mask]
        shown.append((rows, np.zeros((BATCH, len(rows)), dtype=bool)))
    if pool is not None:
        shown.append((pool.numpy(), np.zeros((BATCH, POOL), dtype=bool) if marked is None else marked.numpy()))
    candidates, marks = (np.concatenate(parts, axis) for axis, parts in enumerate(zip(*shown, strict=True)))
    losses = one_way(similarity(q, candidates, distance), marks, soft)
    if symmetric:
        losses = (losses + one_way(similarity(p, q, distance), known.T, soft)) / 2
    return losses.mean()


@pytest.mark.parametrize("relevant", RELEVANTS)
@pytest.mark.parametrize("mask", [None, *MASKS])
def test_margin_matches_numpy(mask, relevant):
    query, positive, negative, _ = embeddings()
    given = (None, None) if mask is None else (negative, MASKS[mask])
    expected = margin_by_numpy(query, positive, *given, RELEVANTS[relevant], 0.7)
    assert margin_loss(query, positive, *given, RELEVANTS[relevant], 0.7).item() == pytest.approx(expected)


@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("soft", [True, False])
@pytest.mark.parametrize("symmetric", [True, False])
def test_info_nce_matches_numpy(distance, soft, symmetric):
    cases = product([None, *MASKS], RELEVANTS, (None, "unmarked", "marked"))
    for seed, (mask, relevant, pooled) in enumerate(cases):
        query, positive, negative, pool = embeddings(seed)
        given = (None, None) if mask is None else (negative, MASKS[mask])
        rest = (None if pooled is None else pool, POOL_RELEVANT if pooled == "marked" else None, soft)
        known = RELEVANTS[relevant]
        expected = info_nce_by_numpy(query, positive, *given, known, distance, symmetric, *rest)
        value = contrastive.info_nce(query, positive, *given, known, TEMPERATURE, distance, symmetric, *rest)
        assert value.item() == pytest.approx(expected, rel=1e-10), (mask, relevant, pooled)


def test_gradients():
    rows = [part.requires_grad_() for part in embeddings()]
    assert torch.autograd.gradcheck(lambda q, p, n: margin_loss(q, p, n, MASK, RELEVANT), rows[:3])
    assert torch.autograd.gradcheck(lambda q, p: margin_loss(q, p, relevant=RELEVANT), rows[:2])
    for distance, symmetric, soft in product(DISTANCES, (True, False), (True, False)):
        options = (TEMPERATURE, distance, symmetric)

        def loss(q, p, n, d, options=options, soft=soft):
            return contrastive.info_nce(q, p, n, MASK, RELEVANT, *options, d, POOL_RELEVANT, soft)

        assert torch.autograd.gradcheck(loss, rows)


@pytest.mark.parametrize("filler", [1e30, math.inf, math.nan])
@pytest.mark.parametrize("distance", DISTANCES)
@BOTH
def test_masked_rows_contribute_nothing(loss, distance, filler):
    options = {"distance": distance} if loss is info_nce else {}

    def run(negative: torch.Tensor) -> list[torch.Tensor]:
        views = [rows.float().requires_grad_() for rows in (*embeddings()[:2], negative)]
        value = loss(*views, MASK, RELEVANT, **options)
        value.backward()
        return [value.detach(), *(view.grad for view in views)]

    negative = embeddings()[2]
    plain = run(negative)
    for expected, got in zip(plain, run(torch.where(MASK[:, None], negative, filler)), strict=True):
        assert got.isfinite().all()
        assert torch.equal(got, expected)
    assert plain[3][~MASK].eq(0).all()
    assert plain[3][MASK].abs().sum() > 0


@ALL
def test_a_batch_in_which_everything_is_relevant_has_no_gradient_if_targets_are_hard(loss):
    query, positive = (rows.requires_grad_() for rows in embeddings()[:2])
    value = loss(query, positive, relevant=torch.ones(BATCH, BATCH, dtype=torch.bool))
    value.backward()
    assert (value.item() == 0) == (loss is not soft_nce)
    assert query.grad.eq(0).all() == positive.grad.eq(0).all() == (loss is not soft_nce)


@BOTH
def test_gradient_is_finite_where_query_positive_and_negative_coincide(loss):
    views = [torch.ones(4, 3, requires_grad=True) for _ in range(3)]
    loss(*views).backward()
    assert all(view.grad.isfinite().all() for view in views)


@BOTH
def test_wrong_shapes_are_refused_and_a_batch_of_one_row_needs_a_negative_or_a_pool(loss):
    query, positive, negative, pool = embeddings()
    with pytest.raises(ValueError, match=r"positive .*\(5, 3\), got \(4, 3\)"):
        loss(query, positive[:4])
    with pytest.raises(ValueError, match=r"negative .*\(5, 3\), got \(2, 3\)"):
        loss(query, positive, negative[:2])
    with pytest.raises(ValueError, match="negative_mask marks 5 rows, but negative is None"):
        loss(query, positive, None, MASK)
    with pytest.raises(ValueError, match=r"pool must have 3 columns, got shape \(4, 2\)"):
        info_nce(query, positive, pool=pool[:, :2])
    query, positive, negative, pool = (rows[:1] for rows in embeddings())
    assert torch.equal(loss(query, positive, negative, torch.tensor([True])), loss(query, positive, negative))
    assert info_nce(query, positive, pool=pool).isfinite()
    alone = [(query, positive), (query, positive, negative, torch.tensor([False]))]
    calls = [lambda rows=rows: loss(*rows) for rows in alone] + [lambda: info_nce(query, positive, pool=pool[:0])]
    for call in calls:
        with pytest.raises(ValueError, match="at least 2 rows, got 1"):
            call()


def test_distances_match_cdist_and_have_gradients():
    x, y = embeddings()[0].requires_grad_(), embeddings(1)[3].requires_grad_()
    reference = torch.cdist(x, y, compute_mode="donot_use_mm_for_euclid_dist")
    torch.testing.assert_close(squared_euclidean(x, y), reference.square())
    torch.testing.assert_close(euclidean_pairwise(x[:POOL], y), reference.diagonal())
    assert torch.autograd.gradcheck(squared_euclidean, (x, y))
    assert torch.autograd.gradcheck(euclidean_pairwise, (x[:POOL], y))
    x = 1e3 + 1e-3 * torch.randn(50, 64, generator=torch.Generator().manual_seed(0))
    assert (squared_euclidean(x, x) >= 0).all(), "rounding makes no distance negative"
