"""Contrastive losses: a query belongs nearer to its positive than to other documents."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from jaxtyping import Bool, Float
from torch import Tensor
from torch.nn import functional as F  # noqa: N812

from ragcun.batch import Views
from ragcun.config import Distance, ObjectiveConfig
from ragcun.losses import register_loss
from ragcun.losses.covariance import in_full_precision

Logits = Float[Tensor, "batch candidates"]


def squared_euclidean(x: Float[Tensor, "n dim"], y: Float[Tensor, "m dim"]) -> Float[Tensor, "n m"]:
    """Squared Euclidean distance of every row of `x` to every row of `y`: ‖x‖² + ‖y‖² − 2x·y, never below 0.

    >>> squared_euclidean(torch.tensor([[0.0, 3.0]]), torch.tensor([[4.0, 0.0]])).item()
    25.0
    """
    norms = x.square().sum(1, keepdim=True) + y.square().sum(1)
    return torch.addmm(norms, x, y.T, alpha=-2).clamp_min(0)


def euclidean_pairwise(x: Float[Tensor, "n dim"], y: Float[Tensor, "n dim"]) -> Float[Tensor, " n"]:
    """√(‖x − y‖² + 1e-12) of row `i` of `x` and row `i` of `y`: its gradient is finite where they are equal."""
    return ((x - y).square().sum(1) + 1e-12).sqrt()


_SIMILARITY: dict[str, Callable[[Float[Tensor, "n dim"], Float[Tensor, "m dim"]], Float[Tensor, "n m"]]] = {
    "euclidean": lambda query, documents: squared_euclidean(query, documents) / -2,
    "cosine": lambda query, documents: F.normalize(query, dim=1) @ F.normalize(documents, dim=1).T,
    "dot": lambda query, documents: query @ documents.T,
}


@in_full_precision
def similarity_logits(
    query: Float[Tensor, "n dim"], documents: Float[Tensor, "m dim"], distance: Distance = "euclidean"
) -> Float[Tensor, "n m"]:
    """Similarity of every query to every document, as logits of temperature 1.

    euclidean: −‖q − d‖² / 2, for rows of unit norm cos − 1; cosine: cos(q, d); dot: q·d.

    >>> similarity_logits(torch.tensor([[1.0, 0.0]]), torch.tensor([[3.0, 0.0], [0.0, 1.0]]), "cosine").tolist()
    [[1.0, 0.0]]
    """
    return _SIMILARITY[distance](query, documents)


def _check_contrast(
    query: Tensor, positive: Tensor, negative: Tensor | None, negative_mask: Tensor | None, pool: Tensor | None = None
) -> None:
    for name, view in (("positive", positive), ("negative", negative)):
        if view is not None and view.shape != query.shape:
            raise ValueError(f"{name} must have the shape of query, {tuple(query.shape)}, got {tuple(view.shape)}")
    if negative is None and negative_mask is not None:
        raise ValueError(f"negative_mask marks {len(negative_mask)} rows, but negative is None")
    if pool is not None and pool.shape[1:] != query.shape[1:]:
        raise ValueError(f"pool must have {query.shape[1]} columns, got shape {tuple(pool.shape)}")
    rows, others = len(query), 0 if pool is None else len(pool)
    if rows < 2 and not others and (negative is None or (negative_mask is not None and not negative_mask.any())):
        raise ValueError(f"in-batch negatives need at least 2 rows, got {rows}; raise the batch size or give negatives")


def _known_positives(relevant: Bool[Tensor, "batch batch"] | None, like: Tensor) -> Bool[Tensor, "batch batch"]:
    own = torch.eye(len(like), dtype=torch.bool, device=like.device)
    return own if relevant is None else relevant | own


@in_full_precision
def margin_loss(
    query: Float[Tensor, "batch dim"],
    positive: Float[Tensor, "batch dim"],
    negative: Float[Tensor, "batch dim"] | None = None,
    negative_mask: Bool[Tensor, " batch"] | None = None,
    relevant: Bool[Tensor, "batch batch"] | None = None,
    margin: float = ObjectiveConfig.margin,
) -> Float[Tensor, ""]:
    """Triplet margin loss on Euclidean distances: mean of max(0, ‖q − p‖ − ‖q − n‖ + margin).

    A row without a negative of its own takes its hardest in-batch negative: the closest positive of another row that is
    not a known positive of its query (`relevant`). Rows without any are left out of the mean; without rows the loss is
    0. `margin` is in the units of the embeddings.

    Source: Schroff et al. 2015 (FaceNet, eq. 3; squared distances there, plain ones here); hardest in the batch:
    Hermans et al. 2017, arXiv:1703.07737, eq. 5.

    >>> q, p, n = torch.tensor([[0.0]]), torch.tensor([[2.0]]), torch.tensor([[2.5]])
    >>> margin_loss(q, p, n, margin=1.0).item()
    0.5
    """
    _check_contrast(query, positive, negative, negative_mask)
    if negative is not None and negative_mask is None:
        admissible = torch.ones(len(query), dtype=torch.bool, device=query.device)
        chosen = negative
    else:
        known = _known_positives(relevant, query)
        admissible = ~known.all(1)
        distances = squared_euclidean(query.detach(), positive.detach()).masked_fill(known, torch.inf)
        chosen = positive[distances.argmin(1)]
        if negative is not None and negative_mask is not None:
            admissible = admissible | negative_mask
            chosen = torch.where(negative_mask[:, None], negative, chosen)
    hinge = F.relu(euclidean_pairwise(query, positive) - euclidean_pairwise(query, chosen) + margin)
    return torch.where(admissible, hinge, 0).sum() / admissible.sum().clamp_min(1)


@in_full_precision
def info_nce(
    query: Float[Tensor, "batch dim"],
    positive: Float[Tensor, "batch dim"],
    negative: Float[Tensor, "batch dim"] | None = None,
    negative_mask: Bool[Tensor, " batch"] | None = None,
    relevant: Bool[Tensor, "batch batch"] | None = None,
    temperature: float = ObjectiveConfig.temperature,
    distance: Distance = "euclidean",
    symmetric: bool = False,
    pool: Float[Tensor, "pool dim"] | None = None,
    pool_relevant: Bool[Tensor, "batch pool"] | None = None,
    soft: bool = ObjectiveConfig.soft_targets,
) -> Float[Tensor, ""]:
    """InfoNCE: mean over queries i of −Σ_p y(i, p)·log( exp(s(qᵢ, p)/τ) / Σ_d exp(s(qᵢ, d)/τ) ), in nats.

    s is `similarity_logits`. The candidates d are all positives, the negatives that `negative_mask` does not call
    missing, and the `pool`. Known positives of query i are its own, pᵢ, and those that `relevant` and `pool_relevant`
    name (no negatives): if `soft`, y is uniform over them, else 1 for pᵢ, and the others are no candidates. With
    `symmetric`, the mean of this and of the same loss from each positive to the queries of the batch.

    Source: van den Oord et al. 2018 (CPC), arXiv:1807.03748, eq. 4; in-batch negatives: Karpukhin et al. 2020 (DPR),
    arXiv:2004.04906, eq. 2; uniform targets: Khosla et al. 2020, arXiv:2004.11362, eq. 2.
    """
    _check_contrast(query, positive, negative, negative_mask, pool)
    known = _known_positives(relevant, query)
    in_batch = similarity_logits(query, positive, distance) / temperature
    candidates, targets = [in_batch], [known]
    if negative is not None:
        # A missing row is zeroed before any arithmetic: masking the logits alone would let inf and NaN into gradients.
        present = None if negative_mask is None else negative_mask[:, None]
        explicit = negative if present is None else torch.where(present, negative, 0)
        logits = similarity_logits(query, explicit, distance) / temperature
        candidates.append(logits if present is None else logits.masked_fill(~present.T, -torch.inf))
        targets.append(torch.zeros_like(known))
    if pool is not None:
        candidates.append(similarity_logits(query, pool, distance) / temperature)
        targets.append(known.new_zeros(len(query), len(pool)) if pool_relevant is None else pool_relevant)
    loss = _cross_entropy(torch.cat(candidates, 1), torch.cat(targets, 1), soft)
    return (loss + _cross_entropy(in_batch.T, known.T, soft)) / 2 if symmetric else loss


def _cross_entropy(
    logits: Float[Tensor, "rows candidates"], known: Bool[Tensor, "rows candidates"], soft: bool
) -> Float[Tensor, ""]:
    """Cross entropy to the uniform law over known candidates, or to candidate i of row i without the other known."""
    own = torch.arange(len(logits), device=logits.device)
    if soft:
        log_probabilities = F.log_softmax(logits, 1)
        return -(torch.where(known, log_probabilities, 0).sum(1) / known.sum(1)).mean()
    others = known.clone()
    others[own, own] = False
    return F.cross_entropy(logits.masked_fill(others, -torch.inf), own)


@in_full_precision
def kl_divergence(student: Logits, teacher: Logits) -> Float[Tensor, ""]:
    """Mean over queries of Σ_c p(c)·log(p(c) / q(c)), p and q being the softmax of the teacher's and student's logits.

    Candidates without a teacher's score (NaN) are left out, and of the mean queries with fewer than two.

    Source: Hinton et al. 2015, arXiv:1503.02531, section 2 (without T²); Lin et al. 2020, arXiv:2010.11386, eq. 5.
    """
    scored, least = ~teacher.isnan(), torch.finfo(student.dtype).min
    theirs, ours = (F.log_softmax(each.masked_fill(~scored, least), 1) for each in (teacher, student))
    divergence = F.kl_div(ours, theirs, reduction="sum", log_target=True)
    return divergence / (scored.sum(1) > 1).sum().clamp_min(1)


@in_full_precision
def margin_mse(student: Logits, teacher: Logits) -> Float[Tensor, ""]:
    """Mean of ((s(i, i) − s(i, c)) − (t(i, i) − t(i, c)))² over queries i and candidates c ≠ i.

    s and t are the student's and the teacher's logits; candidate i is the positive of query i. Terms without a
    teacher's score (NaN) are left out.

    Source: Hofstätter et al. 2020, arXiv:2010.02666, eq. 3.
    """
    ours, theirs = (each.diagonal()[:, None] - each for each in (student, teacher))
    scored = ~theirs.isnan()
    scored.diagonal().fill_(False)
    return torch.where(scored, ours - theirs, 0).square().sum() / scored.sum().clamp_min(1)


def _taught(loss: Callable[[Tensor, Tensor], Tensor], views: Views, config: ObjectiveConfig) -> Float[Tensor, ""]:
    candidates = torch.cat([each for each in (views.positive, views.negative, views.pool) if each is not None])
    student = similarity_logits(views.query, candidates, config.distance) / config.temperature
    if views.teacher is None or views.teacher.shape != student.shape:
        raise ValueError(f"{config.contrastive} needs a teacher's scores of all queries and candidates; give a teacher")
    return loss(student, views.teacher.to(student) / (config.teacher_temperature or config.temperature))


def _infonce(views: Views, config: ObjectiveConfig) -> Float[Tensor, ""]:
    options = config.temperature, config.distance, config.symmetric
    return info_nce(*_rows(views), *options, views.pool, views.pool_relevant, config.soft_targets)


def _in_batch_margin(views: Views, config: ObjectiveConfig) -> Float[Tensor, ""]:
    return margin_loss(views.query, views.positive, relevant=views.relevant, margin=config.margin)


def _rows(views: Views) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None]:
    return views.query, views.positive, views.negative, views.negative_mask, views.relevant


register_loss("infonce", _infonce, "contrastive")
register_loss("margin", lambda views, config: margin_loss(*_rows(views), config.margin), "contrastive")
register_loss("in_batch_margin", _in_batch_margin, "contrastive")
register_loss("kl", partial(_taught, kl_divergence), "contrastive")
register_loss("margin_mse", partial(_taught, margin_mse), "contrastive")
